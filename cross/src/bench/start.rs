//! `cargo xtask bench start`: a cached container from the request to its first instruction and to its end, beside others that
//! do the same on this machine in the same run. `memory` stands beside it: what one more idle container costs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shoal_ipc::{
    Digest, Event, EventStream, Layout, Limits, Restart, SuperviseClient, Ticket, TicketContainer,
    TicketFile, VERSION, sealed_memfd,
};

use super::{float, percentile, pss_kib};
use crate::process;

/// Starts after 50 ms of idle, and as many back to back.
const ROUNDS: usize = 100;
/// The idle time before each.
const GAP: Duration = Duration::from_millis(50);
/// Streams of starts at once, for starts per second.
const STREAMS: u16 = 2;
const SOON: Duration = Duration::from_secs(30);

/// Says one byte and ends.
const SPEAKS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) "x")
  (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#;

/// Says one byte and waits for an hour.
const WAITS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) "x")
  (data (i32.const 272) "\01") (data (i32.const 280) "\00\a0\b8\30\46\03")
  (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
    (drop (call $p (i32.const 256) (i32.const 1024) (i32.const 1) (i32.const 1100)))))"#;

/// The same in C, for everybody else.
const SPEAKS_C: &str = "#include <unistd.h>\nint main(void) { return write(1, \"x\", 1) != 1; }\n";

/// Milliseconds from the request.
#[derive(Debug, Clone, Copy)]
struct Times {
    first: f64,
    reaped: f64,
}

/// One of them.
type Of = fn(&Times) -> f64;

/// All figures of one way to start something.
#[derive(Debug, Default)]
struct Figures {
    idle: Vec<Times>,
    packed: Vec<Times>,
    per_second: f64,
}

impl Figures {
    fn json(&self) -> Value {
        let p = |all: &[Times], of: Of, percent| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            if values.is_empty() { 0.0 } else { (percentile(&mut values, percent) * 1000.0).round() / 1000.0 }
        };
        let (first, reaped): (Of, Of) = (|t| t.first, |t| t.reaped);
        json!({
            "p50_ms": p(&self.idle, first, 50), "p99_ms": p(&self.idle, first, 99),
            "reaped_p50_ms": p(&self.idle, reaped, 50), "reaped_p99_ms": p(&self.idle, reaped, 99),
            "back_to_back_p50_ms": p(&self.packed, first, 50), "back_to_back_p99_ms": p(&self.packed, first, 99),
            "back_to_back_reaped_p50_ms": p(&self.packed, reaped, 50),
            "per_s": self.per_second.round(),
        })
    }

    /// One after the other: with a gap before each, then without, then timed as a whole in several streams.
    fn take(rounds: usize, mut one: impl FnMut() -> Result<Times>) -> Result<Self> {
        let mut all = Self::default();
        one().context("a first start, that does not count")?;
        for _ in 0..rounds {
            std::thread::sleep(GAP);
            all.idle.push(one()?);
        }
        for _ in 0..rounds {
            all.packed.push(one()?);
        }
        Ok(all)
    }
}

/// A guard of its own, with pods that uid 0 brings.
pub(crate) struct Device {
    dir: tempfile::TempDir,
    pub(crate) layout: Layout,
    guard: Child,
    group: String,
}

impl Device {
    fn start(bins: &Path) -> Result<Self> {
        Self::start_with(bins, "")
    }

    /// With these lines at the end of its policy.
    pub(crate) fn start_with(bins: &Path, more: &str) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let layout = Layout::new(dir.path());
        let group = format!("shoal-bench-{}", std::process::id());
        fs::create_dir_all(dir.path().join("etc/shoal"))?;
        fs::write(
            layout.policy(),
            format!(
                "uid_base = 61000\ncgroup_parent = \"{group}\"\nlocal_unsigned = true\n[limits]\nmemory = \"4Gi\"\n{more}"
            ),
        )?;
        let mut command = Command::new(bins.join("shoal-guard"));
        command.arg("supervise").arg("--root").arg(dir.path()).stderr(Stdio::null());
        let guard = command.spawn().context("start shoal-guard")?;
        let device = Self { dir, layout, guard, group };
        let end = Instant::now() + SOON;
        while SuperviseClient::connect_root(&device.layout).and_then(|mut s| s.status()).is_err() {
            if Instant::now() > end {
                bail!("the guard does not answer");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(device)
    }

    pub(crate) fn root(&self) -> Result<SuperviseClient> {
        SuperviseClient::connect_root(&self.layout).context("reach supervise")
    }

    /// A pod of `count` such containers, compiled.
    fn pod(&self, number: u8, count: u16, text: &str) -> Result<Digest> {
        let module = wat::parse_str(text).context("make the module")?;
        let digest = Digest(Sha256::digest(&module).into());
        let container = |n: u16| TicketContainer {
            name: format!("c{n}"),
            argv: vec!["/main.wasm".into()],
            env: Vec::new(),
            working_dir: "/".into(),
            module: TicketFile { path: "/main.wasm".into(), size: module.len() as u64, mode: 0o644, digest },
            files: Vec::new(),
            limits: Limits {
                memory: Some(64 << 20),
                pids: Some(16),
                cpu_quota: Some(100_000),
                cpu_period: Some(100_000),
                ..Limits::default()
            },
            mounts: Vec::new(),
            readonly_rootfs: false,
            // As a service has it: the next start is expected, and may be made ready.
            restart: Restart::Always,
            interpreter: false,
            self_test: None,
            probes: Vec::new(),
            post_start: None,
            pre_stop: None,
            stdin: false,
            init: false,
            devices: Vec::new(),
        };
        let id = Digest([number; 32]);
        let ticket = Ticket {
            version: VERSION,
            id,
            name: format!("local_bench_{number:02}"),
            sequence: 0,
            stageable: true,
            startable: true,
            hostname: "bench".into(),
            grace: 1,
            limits: Limits::default(),
            volumes: Vec::new(),
            containers: (0..count).map(container).collect(),
            required_features: Vec::new(),
            network: shoal_ipc::Network::None,
            ports: Vec::new(),
        };
        let mut events = EventStream::supervise_root(&self.layout)?;
        let mut s = self.root()?;
        s.local_ticket(&ticket).context("bring the pod")?;
        s.stage(id, digest, sealed_memfd(&module)?.as_fd()).context("stage the module")?;
        s.compile(id, digest).context("compile the module")?;
        loop {
            match events.next(SOON)? {
                Event::Compiled { .. } => return Ok(id),
                Event::CompileFailed { code, detail, .. } => bail!("{code}: {detail}"),
                _ => {}
            }
        }
    }

    pub(crate) fn stop(mut self, bins: &Path) -> Result<()> {
        let mut command = Command::new(bins.join("shoal-guard"));
        process::run(command.arg("stop-all").arg("--root").arg(self.dir.path()).stderr(Stdio::null()))?;
        self.guard.wait().context("wait for the guard")?;
        let left = Path::new("/sys/fs/cgroup/memory").join(&self.group);
        if left.exists() {
            bail!("{} is left", left.display());
        }
        Ok(())
    }
}

/// One start through supervise, with its end.
fn shoal_once(
    s: &mut SuperviseClient,
    events: &mut EventStream,
    pod: Digest,
    index: u16,
    attempt: u64,
) -> Result<Times> {
    let began = Instant::now();
    let (_, [out, _err]) = s.start_attached(pod, index, attempt).context("start a container")?;
    let mut byte = [0];
    fs::File::from(out).read_exact(&mut byte).context("hear the container")?;
    let first = began.elapsed();
    loop {
        if let Event::Ended(state) = events.next(SOON)?
            && state.ticket == pod
            && state.index == index
            && state.attempt == attempt
        {
            return Ok(Times { first: ms(first), reaped: ms(began.elapsed()) });
        }
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn shoal(device: &Device, rounds: usize) -> Result<Figures> {
    let pod = device.pod(1, STREAMS, SPEAKS)?;
    let (mut s, mut events) = (device.root()?, EventStream::supervise_root(&device.layout)?);
    let mut attempt = 0;
    let mut all = Figures::take(rounds, || {
        attempt += 1;
        shoal_once(&mut s, &mut events, pod, 0, attempt)
    })?;
    drop(events);
    all.per_second = per_second(rounds, |stream, n| {
        let mut s = device.root()?;
        let mut events = EventStream::supervise_root(&device.layout)?;
        for at in 0..n as u64 {
            shoal_once(&mut s, &mut events, pod, stream, attempt + 1 + at)?;
        }
        Ok(())
    })?;
    Ok(all)
}

/// Starts per second, to the end of everything, in several streams.
fn per_second(rounds: usize, stream: impl Fn(u16, usize) -> Result<()> + Sync) -> Result<f64> {
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let all: Vec<_> = (0..STREAMS)
            .map(|n| {
                scope.spawn({
                    let stream = &stream;
                    move || stream(n, rounds)
                })
            })
            .collect();
        for one in all {
            one.join().map_err(|_| anyhow::anyhow!("a stream of starts panicked"))??;
        }
        Ok(())
    })?;
    Ok(float(rounds as u64 * u64::from(STREAMS)) / began.elapsed().as_secs_f64())
}

/// One start of a command that says a byte and ends.
fn command_once(command: &mut Command) -> Result<Times> {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let mut byte = [0];
    let said = child.stdout.take().context("its output")?.read_exact(&mut byte);
    let first = began.elapsed();
    let status = child.wait().context("wait for it")?;
    said.with_context(|| format!("{command:?} said nothing and ended with {status}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(Times { first: ms(first), reaped: ms(began.elapsed()) })
}

fn commands(rounds: usize, make: impl Fn(&str) -> Command + Sync) -> Result<Figures> {
    let mut n = 0;
    let mut all = Figures::take(rounds, || {
        n += 1;
        command_once(&mut make(&format!("a{n}")))
    })?;
    all.per_second = per_second(rounds, |stream, count| {
        (0..count).try_for_each(|at| command_once(&mut make(&format!("s{stream}-{at}"))).map(drop))
    })?;
    Ok(all)
}

/// A bundle with the static program, after the runtime's own default specification, without a terminal.
fn bundle(dir: &Path, program: &Path) -> Result<PathBuf> {
    let bundle = dir.join("bundle");
    fs::create_dir_all(bundle.join("rootfs"))?;
    fs::copy(program, bundle.join("rootfs/speaks")).context("copy the program")?;
    process::run(Command::new("runc").arg("spec").current_dir(&bundle)).context("write a specification")?;
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/speaks"]);
    fs::write(&file, spec.to_string())?;
    Ok(bundle)
}

/// crun refuses a hybrid of both versions of control groups: the command that runs this benchmark again, for it alone, where the
/// unified tree is not mounted.
fn crun_elsewhere(rounds: usize) -> Result<Value> {
    let me = std::env::current_exe().context("find this program")?;
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(me)
        .args(["bench", "start", "--json", "--only", "crun"]);
    command.args(["--rounds", &rounds.to_string()]);
    let all: Value =
        serde_json::from_str(process::capture(&mut command)?.trim()).context("read its figures")?;
    Ok(all["start"]["crun"].clone())
}

/// Runs the benchmark; what is not on this machine is left out and named.
pub(super) fn run(bins: &Path, rounds: Option<usize>, only: Option<&str>) -> Result<Value> {
    let rounds = rounds.unwrap_or(ROUNDS);
    let dir = tempfile::tempdir().context("make a folder")?;
    let (source, program) = (dir.path().join("speaks.c"), dir.path().join("speaks"));
    fs::write(&source, SPEAKS_C)?;
    process::run(Command::new("cc").args(["-O2", "-static", "-s", "-o"]).arg(&program).arg(&source))?;
    let mut start: BTreeMap<&str, Value> = BTreeMap::new();
    let mut absent = Vec::new();
    let wanted = |name: &str| only.is_none_or(|o| o == name);
    if wanted("shoal") {
        let device = Device::start(bins)?;
        let figures = shoal(&device, rounds);
        device.stop(bins)?;
        start.insert("shoal", figures?.json());
    }
    if wanted("exec") {
        start.insert("exec", commands(rounds, |_| Command::new(&program))?.json());
    }
    let has_runc = process::is_installed("runc");
    if wanted("runc") && has_runc {
        let bundle = bundle(dir.path(), &program)?;
        start.insert("runc", oci("runc", &bundle, rounds)?.json());
    }
    if only == Some("crun") {
        let bundle = bundle(dir.path(), &program)?;
        start.insert("crun", oci("crun", &bundle, rounds)?.json());
    } else if wanted("crun") && has_runc && process::is_installed("crun") {
        start.insert("crun", crun_elsewhere(rounds)?);
    }
    for name in ["runc", "crun"] {
        if wanted(name) && !start.contains_key(name) {
            absent.push(name);
        }
    }
    let module = dir.path().join("speaks.wasm");
    fs::write(&module, wat::parse_str(SPEAKS).context("make the module")?)?;
    for (name, args) in [("wasmedge", ["compile"].as_slice()), ("wasmtime", ["compile", "-o"].as_slice())] {
        if !wanted(name) {
            continue;
        }
        if !process::is_installed(name) {
            absent.push(name);
            continue;
        }
        let compiled = dir.path().join(if name == "wasmedge" { "speaks.so" } else { "speaks.cwasm" });
        let mut compile = Command::new(name);
        compile.args(args);
        if name == "wasmedge" {
            compile.arg(&module).arg(&compiled);
        } else {
            compile.arg(&compiled).arg(&module);
        }
        process::run(compile.stdout(Stdio::null()))?;
        let make = |_: &str| {
            let mut command = Command::new(name);
            if name == "wasmtime" {
                command.args(["run", "--allow-precompiled"]);
            }
            command.arg(&compiled);
            command
        };
        start.insert(name, commands(rounds, make)?.json());
    }
    Ok(json!({ "machine": super::machine(), "rounds": rounds, "start": start, "absent": absent }))
}

fn oci(runtime: &str, bundle: &Path, rounds: usize) -> Result<Figures> {
    commands(rounds, |id| {
        let mut command = Command::new(runtime);
        command.arg("run").arg("--bundle").arg(bundle);
        command.arg(format!("shoal-bench-{}-{id}", std::process::id()));
        command
    })
}

/// Memory of idle containers and of the device's processes.
pub(super) fn memory(bins: &Path, count: Option<usize>) -> Result<Value> {
    let count = u16::try_from(count.unwrap_or(1000)).context("too many containers")?;
    let device = Device::start(bins)?;
    let measure = || -> Result<Value> {
        // The engine's own processes are counted before any container shares their pages.
        let root = device.dir.path().to_str().context("a path that is not UTF-8")?;
        let idle: BTreeMap<String, f64> = super::device_processes(root)?
            .into_iter()
            .map(|p| (p.name, float(pss_kib(p.pid)) / 1024.0))
            .collect();
        let mut s = device.root()?;
        let began = Instant::now();
        let mut pids = Vec::new();
        let mut held = Vec::new();
        for pod in 0..count.div_ceil(16) {
            let id = device.pod(u8::try_from(pod + 2).context("too many pods")?, 16, WAITS)?;
            for index in 0..16.min(count - pod * 16) {
                let (info, [out, err]) = s.start_attached(id, index, 1).context("start a container")?;
                let mut out = fs::File::from(out);
                out.read_exact(&mut [0]).context("hear a container")?;
                held.push((out, err));
                pids.push(info.pid);
            }
        }
        let took = began.elapsed().as_secs_f64();
        let mut private: Vec<f64> = pids.iter().map(|p| float(private_kib(*p))).collect();
        let mut pss: Vec<f64> = pids.iter().map(|p| float(pss_kib(*p))).collect();
        Ok(json!({
            "containers": pids.len(), "started_in_s": took,
            "private_kib_p50": percentile(&mut private, 50), "private_kib_p99": percentile(&mut private, 99),
            "pss_kib_p50": percentile(&mut pss, 50),
            "idle_pss_mib": idle, "idle_pss_mib_total": idle.values().sum::<f64>(),
        }))
    };
    let found = measure();
    device.stop(bins)?;
    Ok(json!({ "machine": super::machine(), "memory": found? }))
}

/// Pages that only this process has, dirty or not.
fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}
