//! Shoal's own runner with its own engine, started as supervise starts it: descriptor 3 is the task, 4 the answer.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use shoal_ipc::{CompileResult, EngineDirs, Entry, Spec, answer_area, read_area, sealed_memfd};

use crate::arch::Arch;
use crate::engine::{self, Engine, Folder, Profile};

/// The runner as it is shipped.
pub(super) struct Runner {
    engine: Engine,
    binary: PathBuf,
}

/// What a compilation cost.
pub(super) struct Cost {
    pub(super) seconds: f64,
    /// The most memory that the process had resident, MiB.
    pub(super) peak: f64,
}

impl Runner {
    /// Builds it with optimisation.
    pub(super) fn build() -> Result<Self> {
        let engine = engine::ensure(Arch::host()?)?;
        let binary = engine::build_runner(&engine, Profile::Release.on_device())?;
        Ok(Self { engine, binary })
    }

    fn command(&self, folder: Folder, verb: &str, task: &Path, area: &OwnedFd) -> Command {
        let inner = EngineDirs::command(Some(&self.engine.folder(folder)), &self.binary);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"exec "$@" 3<"$TASK" 4<>"$ANSWER""#, "sh"]);
        command.args(inner).arg(verb);
        command.env("TASK", task).env("ANSWER", path_of(area)).stdin(Stdio::null());
        command
    }

    /// Compiles a module to `out.so` in `folder`.
    pub(super) fn compile(&self, module: &Path, folder: &Path) -> Result<Cost> {
        let area = answer_area()?;
        let began = Instant::now();
        let child = self.command(Folder::Compile, "compile", module, &area).current_dir(folder).spawn();
        let peak = watch(child.context("start the compiler")?)?;
        let seconds = began.elapsed().as_secs_f64();
        match CompileResult::from_area(&read_area(&area)) {
            Some(CompileResult::Done { .. }) => Ok(Cost { seconds, peak }),
            other => bail!("compiling {} came to {other:?}", module.display()),
        }
    }

    /// Runs compiled code with one argument; what it printed.
    pub(super) fn run(&self, code: &Path, argument: &str) -> Result<String> {
        let spec = Spec {
            version: shoal_ipc::VERSION,
            code: code.to_str().context("a path that is not UTF-8")?.to_owned(),
            argv: vec!["bench".into(), argument.into()],
            env: Vec::new(),
            preopens: Vec::new(),
            working_dir: "/".into(),
            wasm_pages: None,
            interpreter: false,
            entry: Entry::Start,
            start_function: false,
        };
        let (task, area) = (sealed_memfd(&spec.encode())?, answer_area()?);
        let output = self.command(Folder::Run, "run", &path_of(&task), &area).output()?;
        if !output.status.success() {
            bail!("{} ended with {}", code.display(), output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

/// Waits for a process; its peak of resident memory, MiB, as last read before its end.
pub(super) fn watch(mut child: Child) -> Result<f64> {
    let file = format!("/proc/{}/status", child.id());
    let mut peak = 0_u64;
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0);
        peak = peak.max(kib);
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("a compiler ended with {status}");
            }
            return Ok(super::float(peak) / 1024.0);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
