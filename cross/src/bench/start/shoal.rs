//! Shoal's own starts: a private guard, and pods that uid 0 brings.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use shoal_ipc::{
    Digest, Event, EventStream, Layout, Limits, Restart, SuperviseClient, Ticket, TicketContainer,
    TicketFile, VERSION, sealed_memfd,
};

use super::{Figures, SOON, SPEAKS, STREAMS, Times, ms, per_second};
use crate::process;

/// A guard of its own, with pods that uid 0 brings.
pub(crate) struct Device {
    pub(in crate::bench) dir: tempfile::TempDir,
    pub(crate) layout: Layout,
    guard: Child,
    group: String,
}

impl Device {
    pub(in crate::bench) fn start(bins: &Path) -> Result<Self> {
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
                "uid_base = 76000\ncgroup_parent = \"{group}\"\nlocal_unsigned = true\n[limits]\nmemory = \"4Gi\"\n{more}"
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
    pub(in crate::bench) fn pod(&self, number: u8, count: u16, text: &str) -> Result<Digest> {
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
            private_env: Vec::new(),
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

/// The figures of Shoal.
pub(super) fn measure(device: &Device, rounds: usize) -> Result<Figures> {
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
