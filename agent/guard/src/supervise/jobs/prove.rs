//! The engine proves itself once on this CPU (M11): native code runs only after compiled and interpreted results of the
//! corpus were the same. The verdict is kept, so that an offline start needs no compiler.

use super::super::cache::{Engine, Mode};
use super::super::{Refused, Supervise, dirs, refuse};
use super::confined::Task;
use super::{End, Job, NO_ROOM, RunnerJob, Work, no_compiler, why_without_answer};
use crate::say;
use shoal_ipc::{Digest, Error, Field, ProofRecord, Reader, Writer, answer_area, decode, encode, read_area};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is known of the engine on this CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    engine: Digest,
    record: ProofRecord,
}

impl Field for Proof {
    fn put(&self, w: &mut Writer) {
        self.engine.put(w);
        self.record.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { engine: Field::take(r)?, record: Field::take(r)? })
    }
}

impl Proof {
    /// The kept verdict, if it is of this engine and CPU.
    pub(in super::super) fn load(path: &Path, engine: &Engine) -> Option<Self> {
        let proof: Self = decode(&fs::read(path).ok()?).ok()?;
        (proof.engine == engine.id()).then_some(proof)
    }

    /// Why nothing native may run.
    pub(in super::super) fn mismatch(&self) -> Option<&str> {
        match &self.record {
            ProofRecord::Same { .. } => None,
            ProofRecord::Differs { detail } | ProofRecord::Unmade { detail } => Some(detail),
        }
    }
}

/// Seconds until the proof is tried again after it could not be made.
const AGAIN: Duration = Duration::from_secs(10);

/// Why there is no proof, and since when.
#[derive(Debug)]
pub(crate) struct Trouble {
    since: Instant,
    code: String,
    detail: String,
}

impl Supervise {
    /// Why the proof was not made a moment ago.
    pub(super) fn unprovable(&self) -> Option<Refused> {
        let trouble = self.proof_trouble.as_ref().filter(|t| t.since.elapsed() < AGAIN)?;
        Some(refuse(&trouble.code, trouble.detail.clone()))
    }

    /// Whether code of this mode may run on this device.
    pub(in super::super) fn may_run(&self, mode: Mode) -> Result<(), Refused> {
        let found = self.proof.as_ref().map(Proof::mismatch);
        match (mode, found) {
            (Mode::Interpreted, _) | (Mode::Native, Some(None)) => Ok(()),
            (Mode::Native, Some(Some(detail))) => Err(refuse(
                "engine_mismatch",
                format!(
                    "compiled code does not do what the interpreter does on this CPU: {detail}; nothing compiled runs"
                ),
            )),
            // Asked for again, it waits for the proof.
            (Mode::Native, None) if self.engine.compiler => {
                Err(refuse("cache_changed", "the engine has not proven itself on this CPU yet"))
            }
            (Mode::Native, None) => Err(no_compiler()),
        }
    }

    /// Whether the engine is there, unproven, and not being proven.
    pub(super) fn proof_is_due(&self) -> bool {
        self.proof.is_none()
            && self.engine.compiler
            && self.unprovable().is_none()
            && !self.jobs.iter().any(|j| matches!(j.work, Work::Prove))
    }

    pub(super) fn start_proof(&mut self) -> Result<(), Refused> {
        let null = fs::File::open("/dev/null").map_err(super::failed("open /dev/null"))?;
        let area = answer_area().map_err(|e| refuse("storage_unavailable", say::chain(&e)))?;
        let seconds = self.policy.compile.seconds;
        let job = RunnerJob::Prove;
        let task = Task { job, what: null.as_fd(), answer: &area, code: None, executes_own: true, seconds };
        let (child, confined) = self.start_confined(&task)?;
        self.jobs.push(Job {
            child,
            deadline: Instant::now() + Duration::from_secs(seconds),
            expired: false,
            area: Some(area),
            confined: Some(confined),
            work: Work::Prove,
        });
        Ok(())
    }

    /// Nothing is known of the engine then: whoever waits is told, and a later request tries again.
    pub(super) fn proof_not_started(&mut self, refused: &Refused) {
        let (code, detail) = (refused.code.clone(), refused.detail.clone());
        say::line(format!("the engine's proof came to nothing: {code}: {detail}"));
        self.fail_native(&code, &detail);
        self.proof_trouble = Some(Trouble { since: Instant::now(), code, detail });
    }

    fn fail_native(&mut self, code: &str, detail: &str) {
        let (native, rest) =
            std::mem::take(&mut self.queue).into_iter().partition(|w| w.mode == Mode::Native);
        self.queue = rest;
        let native: std::collections::VecDeque<super::Wanted> = native;
        for wanted in native {
            self.compile_failed(wanted.module, code, detail);
        }
    }

    /// A process that died of the corpus is as bad as a wrong result; one that was killed for time or memory, or had no room
    /// for its code, says nothing. The engine's linker, which is part of the process, ends it with an exit code when the disk
    /// gives back less than it wrote.
    pub(super) fn proof_ended(&mut self, end: &End) {
        let record = end.area.as_ref().and_then(|a| ProofRecord::from_area(&read_area(a)));
        let record = match record {
            Some(ProofRecord::Unmade { detail }) if !end.expired => {
                let why = format!("the engine's proof could not be made (is the disk full?): {detail}");
                return self.proof_not_started(&refuse("storage_unavailable", why));
            }
            Some(record) if !end.expired => record,
            _ if end.expired || end.oom || end.status == Err(NO_ROOM) => {
                let (code, why) = why_without_answer(end.status, end.oom, &self.policy.compile.memory);
                return self.proof_not_started(&refuse(code, format!("the engine's proof: {why}")));
            }
            _ if end.status.is_ok() => {
                let (_, why) = why_without_answer(end.status, false, "");
                let why = format!("the engine's proof could not be made (is the disk full?): {why}");
                return self.proof_not_started(&refuse("storage_unavailable", why));
            }
            _ => {
                let (_, why) = why_without_answer(end.status, false, "");
                ProofRecord::Differs { detail: format!("the comparison broke off: {why}") }
            }
        };
        let proof = Proof { engine: self.engine.id(), record };
        match proof.mismatch() {
            None => say::line("the engine's compiled and interpreted results are the same on this CPU"),
            Some(detail) => say::line(format!("engine_mismatch: {detail}; nothing compiled runs")),
        }
        // If it cannot be kept, the next start proves it again.
        if let Err(e) = dirs::write_durably(&self.layout.proof(), &encode(&proof)) {
            say::line(format!("the engine's proof is not kept: {e}"));
        }
        self.proof = Some(proof);
        if let Err(refused) = self.may_run(Mode::Native) {
            self.fail_native(&refused.code, &refused.detail);
        }
    }
}
