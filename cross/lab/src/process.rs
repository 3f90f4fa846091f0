//! Child processes of a lab: services that go on, commands that end, and waiting with a limit.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A process that runs until it is told to stop; its output goes into a file.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command` with both outputs appended to `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// All that it printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; the wait that follows tells.
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to end and waits; kills it after `limit`.
    pub fn terminate(&mut self, limit: Duration) {
        self.signal(Signal::TERM);
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command, for messages.
    pub command: String,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Runs `command` to its end; after two minutes it is killed and that is an error.
    pub fn of(command: &mut Command) -> Result<Self> {
        const LIMIT: Duration = Duration::from_mins(2);
        let text = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("start {text}"))?;
        let pid = child.id();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let Ok(out) = ended.recv_timeout(LIMIT) else {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            bail!("{text} did not end in {LIMIT:?}");
        };
        let out = out.with_context(|| format!("wait for {text}"))?;
        Ok(Self {
            command: text,
            code: out.status.code(),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }

    /// Standard output, or an error that shows everything when the command failed.
    pub fn ok(self) -> Result<String> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        bail!("{} ended with {:?}\n{}{}", self.command, self.code, self.stdout, self.stderr)
    }

    /// Standard output as JSON.
    pub fn json(self) -> Result<serde_json::Value> {
        let command = self.command.clone();
        serde_json::from_str(&self.ok()?).with_context(|| format!("{command}: its output is not JSON"))
    }
}

/// Asks `probe` again and again until it gives something; fails with `what` after `limit`.
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let seen = probe();
        if let Ok(Some(value)) = seen {
            return Ok(value);
        }
        if start.elapsed() > limit {
            return match seen {
                Err(error) => Err(error.context(format!("waited {limit:?} for {what}"))),
                Ok(_) => bail!("waited {limit:?} for {what}"),
            };
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks a process of an earlier run to end, if its id still belongs to a program of that name; waits up to 10 s.
pub(crate) fn terminate_pid(pid: &serde_json::Value, program: &str) {
    let Some(pid) = pid.as_i64().and_then(|p| i32::try_from(p).ok()) else { return };
    let comm = PathBuf::from(format!("/proc/{pid}/comm"));
    let is_it = || std::fs::read_to_string(&comm).is_ok_and(|name| name.trim_end() == program);
    if let (true, Some(raw)) = (is_it(), Pid::from_raw(pid)) {
        let _ = kill_process(raw, Signal::TERM);
        let end = Instant::now() + Duration::from_secs(10);
        while is_it() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
