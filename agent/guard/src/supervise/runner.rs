//! How the runner is started: with its own loader and libraries, seen from inside a jail or from the host.

use super::cache::Engine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_ipc::{Bind, EngineDirs, Layout};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where runner and engine are.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    binary: PathBuf,
    dirs: Option<EngineDirs>,
}

/// What it is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// A container.
    Run,
    /// A module to native code.
    Compile,
    /// A module for the interpreter.
    Strip,
    /// The comparison of compiled and interpreted code.
    Prove,
    /// A module put together, and its self-test.
    Trial,
}

impl Job {
    fn verb(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Compile => "compile",
            Self::Strip => "strip",
            Self::Prove => "prove",
            Self::Trial => "trial",
        }
    }
}

impl Runner {
    pub(crate) fn find() -> Self {
        Self { binary: Layout::runner_binary(), dirs: EngineDirs::find() }
    }

    pub(crate) fn is_there(&self) -> bool {
        self.binary.exists()
    }

    /// Which files a zygote is started from: others after an upgrade of runner or engine. Empty while there are none.
    pub(crate) fn identity(&self) -> String {
        let library = self.dir(Job::Run).map(|d| d.join("lib/libwasmedge.so.0"));
        let of = |path: &Path| {
            let m = std::fs::metadata(path).ok()?;
            Some(format!("{}.{}.{}.{}", m.dev(), m.ino(), m.size(), m.mtime()))
        };
        [Some(self.binary.clone()), library]
            .into_iter()
            .flatten()
            .filter_map(|p| of(&p))
            .collect::<Vec<_>>()
            .join("-")
    }

    /// The command of a zygote, on the host.
    pub(crate) fn zygote_command(&self) -> Vec<OsString> {
        let mut argv = EngineDirs::command(self.dir(Job::Run), &self.binary);
        argv.push("zygote".into());
        argv
    }

    /// Whether compilations are possible now: the compiler is a package of its own, which comes and goes while the guard runs.
    pub(crate) fn find_compiler(&mut self) -> bool {
        if let (Some(dirs), Some(found)) = (&mut self.dirs, EngineDirs::find()) {
            dirs.compile = found.compile;
        }
        self.has_compiler()
    }

    fn has_compiler(&self) -> bool {
        self.is_there() && self.dirs.as_ref().is_none_or(|d| d.compile.is_some())
    }

    fn dir(&self, job: Job) -> Option<&Path> {
        let dirs = self.dirs.as_ref()?;
        match job {
            Job::Run | Job::Strip | Job::Trial => Some(&dirs.run),
            Job::Compile | Job::Prove => dirs.compile.as_deref(),
        }
    }

    /// What a jail must show for the runner to start in it.
    pub(crate) fn binds(&self, job: Job) -> Vec<Bind> {
        let mut all = vec![
            Bind::code(&self.binary, "/runner"),
            Bind::device("/dev/null"),
            Bind::device("/dev/urandom"),
        ];
        if let Some(dir) = self.dir(job) {
            all.push(Bind::code(dir, "/engine"));
        } else {
            // With the system's own loader, the system's own libraries.
            let system = ["/lib", "/lib64", "/usr"].into_iter().filter(|p| Path::new(p).exists());
            all.extend(system.map(|p| Bind::code(p, p)));
        }
        all
    }

    /// The command inside a jail made of [`Self::binds`].
    pub(crate) fn command_in_jail(&self, job: Job) -> Vec<OsString> {
        let loader =
            self.dir(job).and_then(EngineDirs::loader).and_then(|l| l.file_name().map(OsString::from));
        let mut argv: Vec<OsString> = Vec::new();
        if let Some(name) = loader {
            let mut path = OsString::from("/engine/lib/");
            path.push(name);
            argv.extend([path, "--library-path".into(), "/engine/lib".into()]);
        }
        argv.extend(["/runner".into(), job.verb().into()]);
        argv
    }

    /// The command on the host, for guards without root.
    pub(crate) fn command(&self, job: Job) -> Vec<OsString> {
        let mut argv = EngineDirs::command(self.dir(job), &self.binary);
        argv.push(job.verb().into());
        argv
    }

    /// Asks the runner which engine it has. Waits at most ten seconds; at the start, or while there is none.
    pub(crate) fn ask_engine(&self) -> Engine {
        let cpu = super::cache::cpu_features();
        let line = self.engine_line().unwrap_or_default();
        Engine { compiler: !line.is_empty() && self.has_compiler(), line, cpu }
    }

    fn engine_line(&self) -> Option<String> {
        let argv = EngineDirs::command(self.dir(Job::Run), &self.binary);
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .arg("engine")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut out = child.stdout.take()?;
        let mut text = [0; 512];
        let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&out, PollFlags::IN)], Some(&wait)).unwrap_or(0) > 0;
        let n = if ready { out.read(&mut text).unwrap_or(0) } else { 0 };
        // Either it has said its line and ends by itself, or it is stuck.
        let _ = child.kill();
        let _ = child.wait();
        let line = std::str::from_utf8(&text[..n]).ok()?.lines().next()?.trim();
        let plain = !line.is_empty() && line.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        plain.then(|| line.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jail_shows_only_runner_engine_and_two_devices() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir_all(run.join("lib")).unwrap();
        std::fs::write(run.join("lib/ld-linux-x86-64.so.2"), b"").unwrap();
        let dirs = EngineDirs { run, compile: None };
        let r = Runner { binary: "/x/shoal-runner".into(), dirs: Some(dirs) };
        let targets: Vec<_> = r.binds(Job::Run).into_iter().map(|b| b.target).collect();
        assert_eq!(targets, ["/runner", "/dev/null", "/dev/urandom", "/engine"]);
        let argv = r.command_in_jail(Job::Run);
        assert_eq!(argv[0], "/engine/lib/ld-linux-x86-64.so.2");
        assert_eq!(argv[3..], ["/runner", "run"]);
        assert!(!r.has_compiler());
    }
}
