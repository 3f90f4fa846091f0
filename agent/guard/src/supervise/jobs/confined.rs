//! One run of the runner that is no container: in a group, a jail and a scratch folder of its own, for a limited time.

use super::super::cgroup::Group;
use super::super::jail::{self, Plan};
use super::super::policy::MAX_COMPILATIONS;
use super::super::process::{Child, exit_now, spawn_in};
use super::super::runner::Job as RunnerJob;
use super::super::{Refused, Supervise, dirs, refuse};
use super::failed;
use crate::say;
use rustix::process::Resource;
use rustix::thread::UnshareFlags;
use shoal_confine::Others;
use shoal_ipc::{Bind, Jail};
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The largest file that a job may leave: compiled code.
pub(super) const CODE_MAX: u64 = 256 << 20;

/// Where a job runs.
#[derive(Debug)]
pub(super) struct Confined {
    /// Its scratch folder; `work` in it is the job's own.
    pub(super) scratch: PathBuf,
    group: Option<Group>,
    slot: usize,
}

impl Confined {
    pub(super) fn work(&self) -> PathBuf {
        self.scratch.join("work")
    }

    pub(super) fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
    }

    pub(super) fn was_oom_killed(&self) -> bool {
        self.group.as_ref().is_some_and(|g| g.oom_kills() > 0)
    }

    /// Nothing of it runs after this.
    pub(super) fn end(&self) {
        self.kill();
        if let Some(group) = &self.group
            && let Err(e) = group.remove()
        {
            say::error("a compilation's group stays", &e);
        }
    }

    pub(super) fn remove_scratch(self) {
        if let Err(e) = fs::remove_dir_all(&self.scratch) {
            say::line(format!("the scratch folder {} stays: {e}", self.scratch.display()));
        }
    }
}

/// What to run.
pub(super) struct Task<'a> {
    pub(super) job: RunnerJob,
    /// Descriptor 3.
    pub(super) what: BorrowedFd<'a>,
    /// Descriptor 4.
    pub(super) answer: &'a OwnedFd,
    /// What to show at `/code.so`.
    pub(super) code: Option<&'a Path>,
    /// Whether the job may execute what it leaves in its own folder.
    pub(super) executes_own: bool,
    /// CPU seconds, a backstop behind the deadline.
    pub(super) seconds: u64,
}

/// The group of jobs in this slot.
pub(in super::super) fn group_name(parent: &str, slot: usize) -> String {
    format!("{parent}/compile-{slot}")
}

impl Supervise {
    /// Starts the runner, confined as any container is but for a user of its own, and with nothing granted. A trial raises
    /// Landlock and the filter of system calls by itself, between its engine and the module; what compiles has neither.
    pub(super) fn start_confined(&mut self, task: &Task<'_>) -> Result<(Child, Confined), Refused> {
        self.serial += 1;
        let scratch = self.layout.scratch().join(self.serial.to_string());
        let owner = self.uids.map(|u| (u.compile, u.compile));
        let folder = || -> std::io::Result<()> {
            if scratch.exists() {
                fs::remove_dir_all(&scratch)?;
            }
            dirs::ensure(&scratch, 0o700, None)?;
            dirs::ensure(&scratch.join("work"), 0o700, owner)?;
            dirs::ensure(&scratch.join("jail"), 0o700, None)
        };
        folder().map_err(failed("make a scratch folder"))?;
        let taken =
            |slot: &usize| self.jobs.iter().any(|j| j.confined.as_ref().is_some_and(|c| c.slot == *slot));
        let slot = (0..MAX_COMPILATIONS).find(|s| !taken(s)).unwrap_or(0);
        let group = self.limited_group(slot)?;
        let confined = Confined { scratch, group, slot };
        match self.spawn_confined(task, &confined, owner) {
            Ok(child) => Ok((child, confined)),
            Err(refused) => {
                confined.end();
                confined.remove_scratch();
                Err(refused)
            }
        }
    }

    fn limited_group(&self, slot: usize) -> Result<Option<Group>, Refused> {
        if self.uids.is_none() {
            return Ok(None);
        }
        let limits = self.policy.compile_limits().map_err(|e| refuse("policy_denied", e.to_string()))?;
        let name = group_name(self.policy.cgroup_parent(), slot);
        // A job that an earlier supervise left has nobody to answer to.
        self.hierarchy.group(&name).kill();
        let (group, _) =
            self.hierarchy.create(&name, &limits).map_err(|e| refuse(e.code(), say::chain(&e)))?;
        Ok(Some(group))
    }

    fn spawn_confined(
        &self,
        task: &Task<'_>,
        confined: &Confined,
        owner: Option<(u32, u32)>,
    ) -> Result<Child, Refused> {
        let no_group = |e| refuse("limit_not_applied", format!("open the group: {e}"));
        let birth = confined.group.as_ref().and_then(Group::birth_folder).map(fs::File::open).transpose();
        let birth = birth.map_err(no_group)?;
        let open = |path: String| fs::File::options().write(true).open(path);
        let groups: std::io::Result<Vec<_>> =
            confined.group.iter().flat_map(Group::join_files).map(open).collect();
        let groups = groups.map_err(no_group)?;
        let null = fs::File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(failed("open /dev/null"))?;
        // A trial runs what a guest is made of, and that has nothing to say in the guard's own log.
        let stderr = std::io::stderr();
        let out = if task.job == RunnerJob::Trial { null.as_fd() } else { stderr.as_fd() };
        let jail = owner.map(|_| {
            let mut binds = self.runner.binds(task.job);
            let own = Bind::data(confined.work(), "/scratch", false);
            binds.push(Bind { executable: task.executes_own, ..own });
            binds.extend(task.code.map(|c| Bind::code(c, "/code.so")));
            let mount_point = confined.scratch.join("jail").to_string_lossy().into_owned();
            Jail { mount_point, binds, rootfs: None, hostname: "compile".into() }
        });
        let (argv, working_dir) = match &jail {
            Some(_) => (self.runner.command_in_jail(task.job), PathBuf::from("/scratch")),
            None => (self.runner.command(task.job), confined.work()),
        };
        let env: [(OsString, OsString); 2] =
            [("TMPDIR".into(), working_dir.clone().into()), ("HOME".into(), working_dir.clone().into())];
        let mut plan = Plan {
            groups,
            oom_score_adj: None,
            namespaces: UnshareFlags::NEWNS
                | UnshareFlags::NEWIPC
                | UnshareFlags::NEWUTS
                | UnshareFlags::NEWNET,
            first: false,
            network: None,
            jail: jail.as_ref(),
            content: &[],
            ids: owner,
            limits: vec![
                (Resource::Core, 0),
                (Resource::Nofile, 256),
                (Resource::Fsize, CODE_MAX),
                (Resource::Cpu, task.seconds.saturating_mul(4)),
            ],
            fds: vec![null.as_fd(), out, out, task.what, task.answer.as_fd()],
            others: Others::CloseOnExec,
            working_dir: &working_dir,
            walls: None,
        };
        // Jobs at one time have one user: each sees only itself.
        let born = if jail.is_some() { UnshareFlags::NEWPID } else { UnshareFlags::empty() };
        let child = spawn_in(birth.as_ref().map(AsFd::as_fd), born, || {
            let failed = jail::execute(&mut plan, &argv, &env);
            // The exit code tells as well.
            let _ = writeln!(std::io::stderr(), "compile: cannot {}: {}", failed.0, failed.1);
            exit_now(71)
        });
        child.map_err(|e| refuse("kernel_unsupported", format!("start a process: {e}")))
    }
}
