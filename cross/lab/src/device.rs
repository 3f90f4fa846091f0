//! One device of a lab: guard and agent over one folder, with users and control groups of its own.

use crate::Binaries;
use crate::process::{Finished, Service, wait_until};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// First uid of the first device; each has this many.
const UIDS: (usize, usize) = (76_000, 1_200);

/// A device under one folder.
#[derive(Debug)]
pub struct Device {
    bins: Binaries,
    /// `--root`.
    pub root: PathBuf,
    /// Its own cgroup parent.
    pub cgroup_parent: String,
    /// Set in the environment of guard and agent at their next start.
    pub env: Vec<(String, String)>,
    /// What `enroll` is told beside the join file.
    pub enroll_args: Vec<String>,
    /// The user of every process, when it is not the caller's.
    uid: Option<u32>,
    guard: Option<Service>,
    agent: Option<Service>,
}

impl Device {
    /// Folders and policy; nothing runs yet.
    pub fn prepare(bins: &Binaries, root: &Path, tag: &str, index: usize) -> Result<Self> {
        let policy = root.join("etc/shoal/policy.toml");
        std::fs::create_dir_all(root.join("etc/shoal"))?;
        let cgroup_parent = format!("shoal-{tag}");
        let uid_base = UIDS.0 + index * UIDS.1;
        let text = format!("uid_base = {uid_base}\ncgroup_parent = \"{cgroup_parent}\"\n");
        std::fs::write(&policy, text).with_context(|| format!("write {}", policy.display()))?;
        Ok(Self {
            bins: bins.clone(),
            root: root.to_owned(),
            cgroup_parent,
            env: Vec::new(),
            enroll_args: Vec::new(),
            uid: None,
            guard: None,
            agent: None,
        })
    }

    /// Adds lines to the owner's policy, for the guard's next start.
    pub fn add_policy(&self, lines: &str) -> Result<()> {
        let policy = self.root.join("etc/shoal/policy.toml");
        let text = std::fs::read_to_string(&policy).with_context(|| format!("read {}", policy.display()))?;
        std::fs::write(&policy, text + lines).with_context(|| format!("write {}", policy.display()))
    }

    /// Hands the device's folder to another user and runs all its processes under them.
    pub fn give_to(&mut self, uid: u32) -> Result<()> {
        Finished::of(Command::new("chown").arg("-R").arg(format!("{uid}:{uid}")).arg(&self.root))?.ok()?;
        self.uid = Some(uid);
        Ok(())
    }

    fn command(&self, binary: &str) -> Command {
        let mut command = match self.uid {
            None => Command::new(self.bins.path(binary)),
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
                command
                    .args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
                    .arg(self.bins.path(binary));
                command
            }
        };
        command.env("SHOAL_LIBEXEC", self.bins.dir()).envs(self.env.iter().cloned());
        command
    }

    /// Starts guard and waits until it says that it is ready.
    pub fn start_guard(&mut self) -> Result<()> {
        let log = self.root.with_extension("guard.log");
        let mut command = self.command("shoal-guard");
        let ready = |text: &str| text.matches("supervise: ready").count();
        let before = ready(&self.guard_output());
        let mut service = Service::spawn(command.arg("supervise").arg("--root").arg(&self.root), &log)?;
        wait_until("guard to be ready", Duration::from_secs(20), || {
            if let Some(status) = service.ended()? {
                bail!("shoal-guard ended with {status}\n{}", service.output());
            }
            Ok((ready(&service.output()) > before).then_some(()))
        })?;
        self.guard = Some(service);
        Ok(())
    }

    /// Enrols with a join file.
    pub fn enroll(&self, join: &Path) -> Result<()> {
        let mut command = self.command("shoal-agent");
        command.arg("enroll").arg(join).arg("--root").arg(&self.root).args(&self.enroll_args);
        Finished::of(&mut command)?.ok()?;
        Ok(())
    }

    /// Starts the agent.
    pub fn start_agent(&mut self) -> Result<()> {
        let log = self.root.with_extension("agent.log");
        let mut command = self.command("shoal-agent");
        let service = Service::spawn(command.arg("run").arg("--root").arg(&self.root), &log)?;
        self.agent = Some(service);
        Ok(())
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Service> {
        self.agent.as_mut().context("the agent does not run")
    }

    /// The running guard.
    pub fn guard(&mut self) -> Result<&mut Service> {
        self.guard.as_mut().context("guard does not run")
    }

    /// What the agent printed so far.
    pub fn agent_output(&self) -> String {
        std::fs::read_to_string(self.root.with_extension("agent.log")).unwrap_or_default()
    }

    /// What guard printed so far.
    pub fn guard_output(&self) -> String {
        std::fs::read_to_string(self.root.with_extension("guard.log")).unwrap_or_default()
    }

    /// The agent's process id, while it runs.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Service::pid)
    }

    pub(crate) fn forget(&mut self) {
        self.agent = None;
        self.guard = None;
    }

    /// Ends the agent as a power cut would.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Runs `shoal-agent VERB… --root ROOT`.
    pub fn cli(&self, args: &[&str]) -> Result<Finished> {
        Finished::of(self.command("shoal-agent").args(args).arg("--root").arg(&self.root))
    }

    /// The named points at which a build for fault tests can be killed.
    pub fn points(&self, binary: &str) -> Result<Vec<String>> {
        let text = Finished::of(self.command(binary).arg("points"))?.ok()?;
        Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
    }

    /// Cuts the power: every process of the device dies at once, containers included, and /run is emptied.
    pub fn power_cut(&mut self) {
        for service in [self.agent.take(), self.guard.take()].iter_mut().flatten() {
            service.kill();
        }
        // What outlives its parent in a process table would not outlive the power: the zygote, everything in the device's
        // groups, and admit and log, which see the end of their sockets.
        kill_zygotes(&self.root);
        for group in crate::cgroups::named(&self.cgroup_parent) {
            kill_tree(&group);
        }
        std::thread::sleep(Duration::from_millis(200));
        let _ = std::fs::remove_dir_all(self.root.join("run"));
    }

    /// Ends agent, containers and guard in good order.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.terminate(Duration::from_secs(5));
        }
        let Some(mut guard) = self.guard.take() else { return Ok(()) };
        let ended = Finished::of(self.command("shoal-guard").arg("stop-all").arg("--root").arg(&self.root));
        guard.terminate(Duration::from_secs(10));
        ended?.ok()?;
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Kills the processes that fork this device's containers: they name its folder.
fn kill_zygotes(root: &Path) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0).skip_while(|w| *w != b"zygote").skip(1);
        if words.next() == Some(root.as_os_str().as_encoded_bytes())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // Its containers have the same command line; gone already is what is wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn kill_tree(group: &Path) {
    if let Ok(entries) = std::fs::read_dir(group) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            kill_tree(&entry.path());
        }
    }
    for pid in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
