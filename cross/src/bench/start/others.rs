//! The others: OCI runtimes on a static program, containerd above one of them, and engines' own commands on a compiled module.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Figures, Guests, SOON, Times, ms, per_second};
use crate::process;

/// One start of a command that says a byte and ends. `ctr` now and then loses what a program said that ends at once: such a
/// start is made anew, and does not count.
fn command_once(command: &mut Command) -> Result<Times> {
    let once = started(command)?;
    if let Some(times) = once { Ok(times) } else { started(command)?.context("it said nothing twice") }
}

/// Nothing when it succeeded without a word.
fn started(command: &mut Command) -> Result<Option<Times>> {
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
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(said.is_ok().then(|| Times { first: ms(first), reaped: ms(began.elapsed()) }))
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

/// Measures one of them; nothing where it is not installed. `alone` says that it is the only one that was asked for.
type Measure = fn(&Guests, usize, bool) -> Result<Option<Value>>;

/// All of them, by the names of their commands (`exec`: the program with nothing around it).
pub(super) const ALL: [(&str, Measure); 6] = [
    ("exec", |guests, rounds, _| Ok(Some(commands(rounds, |_| Command::new(&guests.program))?.json()))),
    ("runc", |guests, rounds, _| runtime("runc", guests, rounds)),
    (
        "crun",
        |guests, rounds, alone| {
            if alone { runtime("crun", guests, rounds) } else { crun_elsewhere(rounds) }
        },
    ),
    ("containerd", |guests, rounds, _| containerd(guests, rounds)),
    ("wasmedge", |guests, rounds, _| engine("wasmedge", guests, rounds)),
    ("wasmtime", |guests, rounds, _| engine("wasmtime", guests, rounds)),
];

/// The static program as a root file system.
fn rootfs(guests: &Guests, parent: &Path) -> Result<PathBuf> {
    let rootfs = parent.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    fs::copy(&guests.program, rootfs.join("speaks")).context("copy the program")?;
    Ok(rootfs)
}

/// An OCI runtime by its own command, with its own default specification, without a terminal.
fn runtime(name: &str, guests: &Guests, rounds: usize) -> Result<Option<Value>> {
    if !process::is_installed("runc") || !process::is_installed(name) {
        return Ok(None);
    }
    let bundle = guests.dir.join("bundle");
    rootfs(guests, &bundle)?;
    let file = bundle.join("config.json");
    if !file.exists() {
        process::run(Command::new("runc").arg("spec").current_dir(&bundle))
            .context("write a specification")?;
    }
    let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/speaks"]);
    fs::write(&file, spec.to_string())?;
    let figures = commands(rounds, |id| {
        let mut command = Command::new(name);
        command.arg("run").arg("--bundle").arg(&bundle);
        command.arg(format!("shoal-bench-{}-{id}", std::process::id()));
        command
    })?;
    Ok(Some(figures.json()))
}

/// crun refuses a hybrid of both versions of control groups: the command that runs this benchmark again, for it alone, where the
/// unified tree is not mounted.
fn crun_elsewhere(rounds: usize) -> Result<Option<Value>> {
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
    Ok(all["start"].get("crun").cloned())
}

/// A containerd of its own, without CRI, and its `ctr`: what a node does for each container, with runc below.
fn containerd(guests: &Guests, rounds: usize) -> Result<Option<Value>> {
    if !["containerd", "ctr", "runc"].into_iter().all(process::is_installed) {
        return Ok(None);
    }
    let home = guests.dir.join("containerd");
    let rootfs = rootfs(guests, &home)?;
    let (config, socket) = (home.join("config.toml"), home.join("sock"));
    let plugins = ["grpc.v1.cri", "internal.v1.opt"].map(|p| format!("\"io.containerd.{p}\"")).join(", ");
    // A string of JSON is one of TOML.
    let quoted = |path: &Path| json!(path.to_string_lossy()).to_string();
    fs::write(
        &config,
        format!(
            "version = 2\nroot = {}\nstate = {}\ndisabled_plugins = [{plugins}]\n[grpc]\naddress = {}\n",
            quoted(&home.join("root")),
            quoted(&home.join("state")),
            quoted(&socket),
        ),
    )?;
    let mut daemon = Command::new("containerd");
    daemon.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = daemon.spawn().context("start containerd")?;
    let ctr = || {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(&socket);
        command
    };
    let end = Instant::now() + SOON;
    let answers = || process::capture(ctr().arg("version").stderr(Stdio::null())).is_ok();
    let mut up = answers();
    while !up && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        up = answers();
    }
    let figures = if up {
        commands(rounds, |id| {
            let mut command = ctr();
            command.args(["run", "--rm", "--rootfs"]).arg(&rootfs).arg(id).arg("/speaks");
            command
        })
    } else {
        Err(anyhow::anyhow!("containerd does not answer"))
    };
    // It may have ended by itself.
    let _ = daemon.kill();
    daemon.wait().context("wait for containerd")?;
    Ok(Some(figures?.json()))
}

/// An engine's own command on the module, compiled before.
fn engine(name: &str, guests: &Guests, rounds: usize) -> Result<Option<Value>> {
    if !process::is_installed(name) {
        return Ok(None);
    }
    let compiled = guests.dir.join(if name == "wasmedge" { "speaks.so" } else { "speaks.cwasm" });
    let mut compile = Command::new(name);
    compile.arg("compile");
    if name == "wasmedge" {
        compile.arg(&guests.module).arg(&compiled);
    } else {
        compile.arg("-o").arg(&compiled).arg(&guests.module);
    }
    process::run(compile.stdout(Stdio::null()))?;
    let figures = commands(rounds, |_| {
        let mut command = Command::new(name);
        if name == "wasmtime" {
            command.args(["run", "--allow-precompiled"]);
        }
        command.arg(&compiled);
        command
    })?;
    Ok(Some(figures.json()))
}
