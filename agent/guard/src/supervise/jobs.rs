//! Work that other processes do for supervise: copying staged bytes, compiling, collecting what was compiled.

use super::cache::Code;
use super::copy::{self, Outcome, Want};
use super::jail::{self, Plan};
use super::process::{Child, exit_now, spawn};
use super::runner::Job as RunnerJob;
use super::{Refused, Supervise, cgroup::Group, dirs, refuse};
use crate::say;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Signal, pidfd_send_signal};
use rustix::thread::UnshareFlags;
use shoal_confine::Others;
use shoal_ipc::{
    Bind, CompileResult, CompiledInfo, Digest, Jail, Msg, TicketFile, answer_area, decode, read_area,
};
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Copies at a time.
const COPIES: usize = 16;
/// Compilations that wait.
const QUEUE: usize = 64;
/// The longest that copying one item may take.
const COPY_TIME: Duration = Duration::from_mins(2);
/// The largest compiled code.
const CODE_MAX: u64 = 256 << 20;

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    child: Child,
    deadline: Instant,
    expired: bool,
    area: Option<OwnedFd>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Stage { peer: u64, item: Digest, temp: PathBuf, target: PathBuf },
    Compile { module: Digest, size: u64, scratch: PathBuf, group: Option<Group> },
    Collect { module: Digest, scratch: PathBuf, temp: PathBuf, info: CompiledInfo },
}

impl Job {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.expired).then_some(self.deadline)
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        self.child.pid
    }

    /// Past its time: killed; its end comes as any other.
    pub(crate) fn expire(&mut self) {
        self.expired = true;
        // Gone already is as good.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if let Work::Compile { group: Some(group), .. } = &self.work {
            group.kill();
        }
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

impl Supervise {
    /// Begins to copy an item of a ticket; whether the answer has to wait.
    pub(super) fn stage(
        &mut self,
        peer: u64,
        ticket: &Digest,
        item: Digest,
        from: &OwnedFd,
    ) -> Result<bool, Refused> {
        let ticket =
            &self.tickets.get(ticket).ok_or_else(|| refuse("not_admitted", "no such ticket"))?.ticket;
        let wanted = ticket.items().into_iter().find(|f| f.digest == item).cloned();
        let Some(TicketFile { size, .. }) = wanted else {
            return Err(refuse("not_admitted", "the ticket names no such item"));
        };
        let module = ticket.is_module(&item);
        // A digest may be a module of one container and a file of another; then it is kept as both.
        let file = ticket.containers.iter().any(|c| c.files.iter().any(|f| f.digest == item));
        if (!module || self.cache.has(&item, true)) && (!file || self.cache.has(&item, false)) {
            return Ok(false);
        }
        let module = module && !self.cache.has(&item, true);
        if self.jobs.iter().filter(|j| matches!(j.work, Work::Stage { .. })).count() >= COPIES {
            return Err(refuse("stalled", "too many copies at once; try again"));
        }
        self.serial += 1;
        let target = self.cache.item(&item, module);
        let temp = target.with_extension(format!("{}.new", self.serial));
        let to = fs::File::create(&temp).map_err(failed("create the staged file"))?;
        let want = Want::Exact { size, digest: item };
        let ids = self.uids.map(|u| u.compile);
        let child = spawn(None, || copy::run(from, &to, want, ids, None)).map_err(failed("start a copy"))?;
        let work = Work::Stage { peer, item, temp, target };
        self.jobs.push(Job { child, deadline: Instant::now() + COPY_TIME, expired: false, area: None, work });
        Ok(true)
    }

    /// Queues a compilation, or says at once that the code is there.
    pub(super) fn compile(&mut self, ticket: &Digest, module: Digest) -> Result<(), Refused> {
        let held = self.tickets.get(ticket).ok_or_else(|| refuse("not_admitted", "no such ticket"))?;
        if !held.ticket.is_module(&module) {
            return Err(refuse("not_admitted", "the ticket names no such module"));
        }
        if !self.cache.has(&module, true) {
            return Err(refuse("cache_changed", "the module is not staged"));
        }
        self.ensure_engine();
        let key = self.engine.key(&module);
        let code = self.cache.code(&key);
        if let (Code::Good(_), Some(info)) = (&code, self.cache.info(&key)) {
            let info = CompiledInfo { cache_hit: true, ..info };
            self.broadcast(&Msg::Compiled { module, info });
            return Ok(());
        }
        if code == Code::Changed {
            say::line(format!("cache_changed: the code of {module} was changed and is compiled again"));
        }
        if !self.engine.compiler {
            return Err(refuse("compiler_absent", "install the engine's compile folder beside the guard"));
        }
        let compiling = self.jobs.iter().any(|j| match &j.work {
            Work::Compile { module: m, .. } | Work::Collect { module: m, .. } => *m == module,
            Work::Stage { .. } => false,
        });
        if !compiling && !self.compile_queue.contains(&module) {
            if self.compile_queue.len() >= QUEUE {
                return Err(refuse("stalled", "too many compilations wait; try again"));
            }
            self.compile_queue.push_back(module);
        }
        self.next_compilation();
        Ok(())
    }

    /// Starts the next compilation unless one is under way: it is the heaviest thing that a device does.
    pub(super) fn next_compilation(&mut self) {
        while !self.jobs.iter().any(|j| !matches!(j.work, Work::Stage { .. })) {
            let Some(module) = self.compile_queue.pop_front() else { return };
            if let Err(refused) = self.start_compilation(module) {
                self.compile_failed(module, &refused.code, &refused.detail);
            }
        }
    }

    fn compile_failed(&mut self, module: Digest, code: &str, detail: &str) {
        say::line(format!("compiling {module} failed: {code}: {detail}"));
        let cut = |t: &str, n| t.chars().take(n).collect::<String>().replace('\0', " ");
        self.broadcast(&Msg::CompileFailed { module, code: cut(code, 64), detail: cut(detail, 512) });
    }

    fn start_compilation(&mut self, module: Digest) -> Result<(), Refused> {
        let source = self.cache.item(&module, true);
        let file = fs::File::open(&source).map_err(failed("open the module"))?;
        let size = file.metadata().map_err(failed("look at the module"))?.len();
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
        let mut group = None;
        if self.uids.is_some() {
            let limits = self.policy.compile_limits().map_err(|e| refuse("policy_denied", e.to_string()))?;
            let name = format!("{}/compile", self.policy.cgroup_parent());
            let made = self.hierarchy.create(&name, &limits);
            group = Some(made.map_err(|e| refuse(e.code(), say::chain(&e)))?.0);
        }
        let birth = group.as_ref().and_then(Group::birth_folder).map(fs::File::open).transpose();
        let birth = birth.map_err(|e| refuse("limit_not_applied", format!("open the group: {e}")))?;
        let open = |path: String| fs::File::options().write(true).open(path);
        let groups: std::io::Result<Vec<_>> = group.iter().flat_map(Group::join_files).map(open).collect();
        let groups = groups.map_err(|e| refuse("limit_not_applied", format!("open the group: {e}")))?;
        let area = answer_area().map_err(|e| refuse("storage_unavailable", say::chain(&e)))?;
        let null = fs::File::open("/dev/null").map_err(failed("open /dev/null"))?;
        let stderr = std::io::stderr();
        let jail = owner.map(|_| {
            let mut binds = self.runner.binds(RunnerJob::Compile);
            binds.push(Bind::data(scratch.join("work"), "/scratch", false));
            Jail {
                mount_point: scratch.join("jail").to_string_lossy().into_owned(),
                binds,
                rootfs: None,
                hostname: "compile".into(),
            }
        });
        let work = scratch.join("work");
        let (argv, working_dir) = match &jail {
            Some(_) => (self.runner.command_in_jail(RunnerJob::Compile), PathBuf::from("/scratch")),
            None => (self.runner.command(RunnerJob::Compile), work.clone()),
        };
        let env: [(OsString, OsString); 2] =
            [("TMPDIR".into(), working_dir.clone().into()), ("HOME".into(), working_dir.clone().into())];
        let seconds = self.policy.compile.seconds;
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
            ids: owner,
            limits: &[
                (Resource::Core, 0),
                (Resource::Nofile, 256),
                (Resource::Fsize, CODE_MAX),
                (Resource::Cpu, seconds.saturating_mul(4)),
            ],
            fds: vec![null.as_fd(), stderr.as_fd(), stderr.as_fd(), file.as_fd(), area.as_fd()],
            others: Others::CloseOnExec,
            working_dir: &working_dir,
            walls: None,
        };
        let child = spawn(birth.as_ref().map(AsFd::as_fd), || {
            let failed = jail::execute(&mut plan, &argv, &env);
            // The exit code tells as well.
            let _ = writeln!(std::io::stderr(), "compile: cannot {}: {}", failed.0, failed.1);
            exit_now(71)
        })
        .map_err(|e| refuse("kernel_unsupported", format!("start a process: {e}")))?;
        let work = Work::Compile { module, size, scratch, group };
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.jobs.push(Job { child, deadline, expired: false, area: Some(area), work });
        Ok(())
    }

    /// A helper or compiler of ours is gone.
    pub(super) fn job_ended(&mut self, at: usize, status: Result<i32, i32>) {
        let Job { area, work, expired, .. } = self.jobs.swap_remove(at);
        match work {
            Work::Stage { peer, item, temp, target } => {
                let outcome = Outcome::of(status.unwrap_or(-1));
                let refusal = if expired {
                    Some(("stalled", "the bytes could not be read in time"))
                } else {
                    outcome.refusal()
                };
                let answer = match refusal {
                    Some((code, detail)) => Msg::refused(code, detail),
                    None => match fs::rename(&temp, &target).and_then(|()| dirs::sync_folder_of(&target)) {
                        Ok(()) => Msg::Staged { item },
                        Err(e) => Msg::refused("storage_unavailable", e.to_string()),
                    },
                };
                if !matches!(answer, Msg::Staged { .. }) {
                    let _ = fs::remove_file(&temp);
                }
                self.answer(peer, answer);
            }
            Work::Compile { module, size, scratch, group } => {
                let result = area.as_ref().and_then(|a| CompileResult::from_area(&read_area(a)));
                let oom = group.as_ref().is_some_and(|g| g.oom_kills() > 0);
                if let Some(g) = &group {
                    g.kill();
                    // Made anew for the next one, with counters at zero.
                    if let Err(e) = g.remove() {
                        say::error("a compilation's group stays", &e);
                    }
                }
                match (result, expired, oom) {
                    (Some(CompileResult::Done { engine, millis, .. }), false, _) => {
                        let info = CompiledInfo {
                            engine,
                            millis,
                            module_size: size,
                            code_size: 0,
                            cache_hit: false,
                        };
                        self.collect(module, &scratch, info);
                        return;
                    }
                    (Some(CompileResult::Failed { code, detail }), ..) => {
                        self.compile_failed(module, &code, &detail);
                    }
                    (_, true, _) => {
                        let s = self.policy.compile.seconds;
                        self.compile_failed(module, "time_limit", &format!("compiling took more than {s} s"));
                    }
                    (_, _, true) => {
                        let m = self.policy.compile.memory.clone();
                        self.compile_failed(
                            module,
                            "oom_killed",
                            &format!("compiling took more than {m} of memory"),
                        );
                    }
                    _ => {
                        let how = match status {
                            Ok(code) => format!("the compiler exited with {code} and no result"),
                            Err(signal) => format!("the compiler died by signal {signal}"),
                        };
                        self.compile_failed(module, "trap", &how);
                    }
                }
                remove_scratch(&scratch);
            }
            Work::Collect { module, scratch, temp, info } => {
                let hash = area.as_ref().and_then(|a| decode::<Digest>(read_area(a).get(..32)?).ok());
                let key = self.engine.key(&module);
                let kept = match (Outcome::of(status.unwrap_or(-1)).refusal(), hash, expired) {
                    (None, Some(hash), false) => {
                        let code_size = fs::metadata(&temp).map_or(0, |m| m.len());
                        let info = CompiledInfo { code_size, ..info };
                        self.cache
                            .keep(&key, &temp, hash, info.clone())
                            .map(|()| info)
                            .map_err(|e| e.to_string())
                    }
                    (Some((_, detail)), ..) => Err(detail.to_owned()),
                    _ => Err("the compiled code could not be copied in time".to_owned()),
                };
                match kept {
                    Ok(info) => self.broadcast(&Msg::Compiled { module, info }),
                    Err(e) => self.compile_failed(module, "storage_unavailable", &e),
                }
                let _ = fs::remove_file(&temp);
                remove_scratch(&scratch);
            }
        }
        self.next_compilation();
    }

    /// Copies what the compiler left, which may be anything, into the cache's folder.
    fn collect(&mut self, module: Digest, scratch: &PathBuf, info: CompiledInfo) {
        let begin = || -> std::io::Result<Job> {
            let path = scratch.join("work/out.so");
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from = rustix::fs::open(&path, flags, Mode::empty())?;
            let temp = self.cache.temp_code(&self.engine.key(&module));
            let to = fs::File::create(&temp)?;
            // Readable for the pods' uids, to which it is shown.
            fs::set_permissions(&temp, std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
            let area = answer_area().map_err(std::io::Error::other)?;
            let ids = self.uids.map(|u| u.compile);
            let child = spawn(None, || copy::run(&from, &to, Want::AtMost(CODE_MAX), ids, Some(&area)))?;
            let work = Work::Collect { module, scratch: scratch.clone(), temp, info };
            Ok(Job { child, deadline: Instant::now() + COPY_TIME, expired: false, area: Some(area), work })
        };
        match begin() {
            Ok(job) => self.jobs.push(job),
            Err(e) => {
                self.compile_failed(
                    module,
                    "storage_unavailable",
                    &format!("collect the compiled code: {e}"),
                );
                remove_scratch(scratch);
                self.next_compilation();
            }
        }
    }
}

fn remove_scratch(scratch: &PathBuf) {
    if let Err(e) = fs::remove_dir_all(scratch) {
        say::line(format!("the scratch folder {} stays: {e}", scratch.display()));
    }
}
