//! Work that other processes do for supervise: copying staged bytes; and making modules ready, one step after another:
//! compile (or strip) → collect → trial. Before anything native counts, the engine proves itself once.

mod compile;
mod confined;
mod prove;
mod stage;
mod trial;

use super::cache::{CodeInfo, Mode};
use super::process::Child;
use super::runner::Job as RunnerJob;
use super::{Refused, Supervise, refuse};
use crate::say;
use confined::Confined;
pub(super) use confined::group_name;
pub(super) use prove::{Proof, Trouble};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use shoal_ipc::{CompiledInfo, Digest, Msg, Needs, PrepareStage, TicketContainer};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

/// Modules that wait.
const QUEUE: usize = 64;

/// A module as containers want it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wanted {
    pub(crate) module: Digest,
    pub(crate) mode: Mode,
    pub(crate) self_test: Option<String>,
}

impl Wanted {
    pub(crate) fn of(c: &TicketContainer) -> Self {
        let mode = if c.interpreter { Mode::Interpreted } else { Mode::Native };
        Self { module: c.module.digest, mode, self_test: c.self_test.clone() }
    }
}

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    child: Child,
    deadline: Instant,
    expired: bool,
    area: Option<OwnedFd>,
    /// Where it runs, of those that execute the runner.
    confined: Option<Confined>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Stage { peer: u64, item: Digest, temp: PathBuf, target: PathBuf },
    Prove,
    Compile { wanted: Wanted, size: u64 },
    Collect { wanted: Wanted, temp: PathBuf, info: CompiledInfo, needs: Needs },
    Trial { wanted: Wanted, fresh: Option<(PathBuf, CodeInfo)> },
}

impl Work {
    /// The module that it makes ready.
    fn wanted(&self) -> Option<&Wanted> {
        match self {
            Self::Stage { .. } | Self::Prove => None,
            Self::Compile { wanted, .. } | Self::Collect { wanted, .. } | Self::Trial { wanted, .. } => {
                Some(wanted)
            }
        }
    }
}

impl Job {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.expired).then_some(self.deadline)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Past its time: killed; its end comes as any other.
    pub(crate) fn expire(&mut self) {
        self.expired = true;
        // Gone already is as good.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
        if let Some(confined) = &self.confined {
            confined.kill();
        }
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

/// A job that had no room for what it wrote into a mapped file dies of this.
const NO_ROOM: i32 = libc::SIGBUS;

/// What a confined job failed of, where it gave no answer.
fn why_without_answer(status: Result<i32, i32>, oom: bool, memory: &str) -> (&'static str, String) {
    match status {
        _ if oom => ("oom_killed", format!("it took more than {memory} of memory")),
        Ok(code) => ("trap", format!("it exited with {code} and no result")),
        Err(NO_ROOM) => {
            ("storage_unavailable", "its code could not be written (is the disk full?)".to_owned())
        }
        Err(signal) => ("trap", format!("it died by signal {signal}")),
    }
}

impl Supervise {
    /// Has a module of a ticket made ready for all containers that start it, or says at once that it is.
    pub(super) fn compile(&mut self, ticket: &Digest, module: Digest) -> Result<(), Refused> {
        let held = self.tickets.get(ticket).ok_or_else(|| refuse("not_admitted", "no such ticket"))?;
        self.fits(&held.ticket)?;
        let sockets = held.ticket.sockets();
        let starts: Vec<TicketContainer> = super::entries::startable(&held.ticket)
            .into_iter()
            .filter(|c| c.module.digest == module)
            .collect();
        if starts.is_empty() {
            return Err(refuse("not_admitted", "the ticket names no such module"));
        }
        if !self.cache.has(&module, true) {
            return Err(refuse("cache_changed", "the module is not staged"));
        }
        let mut ready = None;
        let mut waits = false;
        for container in &starts {
            match self.make_ready(container, sockets)? {
                Some(info) => ready = Some(info),
                None => waits = true,
            }
        }
        if let (false, Some(info)) = (waits, ready) {
            self.broadcast(&Msg::Compiled { module, info: CompiledInfo { cache_hit: true, ..info } });
        }
        self.next_jobs();
        Ok(())
    }

    /// What there is for this container; queued when there is nothing yet.
    fn make_ready(
        &mut self,
        container: &TicketContainer,
        sockets: bool,
    ) -> Result<Option<CompiledInfo>, Refused> {
        let wanted = Wanted::of(container);
        self.ensure_compiler();
        match self.code_of(container, sockets) {
            Ok((_, code)) if code.passed(wanted.self_test.as_ref()) => return Ok(Some(code.info)),
            // Its code is there; only its self-test is wanting.
            Ok(_) => {}
            Err(refused) if refused.code == "cache_changed" => {
                if wanted.mode == Mode::Native && !self.engine.compiler {
                    return Err(no_compiler());
                }
                if let (Mode::Native, None, Some(refused)) = (wanted.mode, &self.proof, self.unprovable()) {
                    return Err(refused);
                }
            }
            Err(other) => return Err(other),
        }
        let busy = self.jobs.iter().any(|j| j.work.wanted() == Some(&wanted));
        if !busy && !self.queue.contains(&wanted) {
            if self.queue.len() >= QUEUE {
                return Err(refuse("stalled", "too many compilations wait; try again"));
            }
            self.tell_stage(wanted.module, PrepareStage::Queued { ahead: self.ahead() });
            self.queue.push_back(wanted);
        }
        Ok(None)
    }

    fn ahead(&self) -> u32 {
        let all = self.queue.len() + self.jobs.iter().filter(|j| j.is_heavy()).count();
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// Starts what may run now: the proof first, then as many of the queue as the policy allows at a time.
    pub(super) fn next_jobs(&mut self) {
        while self.jobs.iter().filter(|j| j.is_heavy()).count() < self.policy.compile.jobs {
            if self.proof_is_due() {
                if let Err(refused) = self.start_proof() {
                    self.proof_not_started(&refused);
                }
                continue;
            }
            // Until the proof is there, what needs it waits.
            let proven = self.proof.is_some();
            let Some(at) = self.queue.iter().position(|w| proven || w.mode == Mode::Interpreted) else {
                return;
            };
            let Some(wanted) = self.queue.remove(at) else { return };
            let module = wanted.module;
            if let Err(refused) = self.start_next(wanted) {
                self.compile_failed(module, &refused.code, &refused.detail);
            }
        }
    }

    /// The first step that is wanting.
    fn start_next(&mut self, wanted: Wanted) -> Result<(), Refused> {
        self.may_run(wanted.mode)?;
        let key = self.engine.key(&wanted.module, wanted.mode);
        match (self.cache.code(&key), self.cache.info(&key)) {
            // Somebody else's request made it meanwhile.
            (super::cache::Code::Good(_), Some(code)) if code.passed(wanted.self_test.as_ref()) => {
                self.broadcast(&Msg::Compiled { module: wanted.module, info: code.info });
                Ok(())
            }
            (super::cache::Code::Good(path), Some(_)) => self.start_trial(wanted, None, &path),
            _ => self.start_compilation(wanted),
        }
    }

    pub(super) fn compile_failed(&mut self, module: Digest, code: &str, detail: &str) {
        say::line(format!("making {module} ready failed: {code}: {detail}"));
        let cut = |t: &str, n| t.chars().take(n).collect::<String>().replace('\0', " ");
        self.broadcast(&Msg::CompileFailed { module, code: cut(code, 64), detail: cut(detail, 512) });
    }

    fn tell_stage(&mut self, module: Digest, stage: PrepareStage) {
        self.broadcast(&Msg::Preparing { module, stage });
    }

    /// A helper, compiler or trial of ours is gone.
    pub(super) fn job_ended(&mut self, at: usize, status: Result<i32, i32>) {
        let Job { area, confined, work, expired, .. } = self.jobs.swap_remove(at);
        let oom = confined.as_ref().is_some_and(Confined::was_oom_killed);
        if let Some(confined) = &confined {
            // Whatever it started itself; the group is made anew for the next one, with counters at zero.
            confined.end();
        }
        let end = End { status, area, expired, oom };
        let next = match work {
            Work::Stage { peer, item, temp, target } => {
                self.staged(peer, item, &temp, &target, &end);
                Ok(())
            }
            Work::Prove => {
                self.proof_ended(&end);
                Ok(())
            }
            Work::Compile { wanted, size } => {
                let module = wanted.module;
                self.compiled(wanted, size, confined.as_ref(), &end).map_err(|r| (module, r))
            }
            Work::Collect { wanted, temp, info, needs } => {
                let module = wanted.module;
                self.collected(wanted, &temp, info, needs, &end).map_err(|r| (module, r))
            }
            Work::Trial { wanted, fresh } => {
                let module = wanted.module;
                self.tried(wanted, fresh, &end).map_err(|r| (module, r))
            }
        };
        if let Err((module, refused)) = next {
            self.compile_failed(module, &refused.code, &refused.detail);
        }
        if let Some(confined) = confined {
            confined.remove_scratch();
        }
        self.spares.look.extend(self.tickets.keys());
        self.next_jobs();
    }
}

impl Job {
    /// Whether it counts against the policy's number of compilations.
    fn is_heavy(&self) -> bool {
        !matches!(self.work, Work::Stage { .. })
    }
}

/// How a job's process ended.
struct End {
    status: Result<i32, i32>,
    area: Option<OwnedFd>,
    expired: bool,
    oom: bool,
}

pub(super) fn no_compiler() -> Refused {
    refuse(
        "compiler_absent",
        "this device has the engine without its compiler: put the folder `compile` of the engine beside its folder `run` \
         (`cargo xtask engine` makes both), or deploy with `engine: interpreter`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_without_an_answer_failed_of_memory_of_room_or_of_itself() {
        let code = |status, oom| why_without_answer(status, oom, "1Mi").0;
        assert_eq!(code(Err(libc::SIGKILL), true), "oom_killed");
        assert_eq!(code(Err(libc::SIGBUS), false), "storage_unavailable");
        assert_eq!((code(Err(libc::SIGSEGV), false), code(Ok(1), false)), ("trap", "trap"));
    }
}
