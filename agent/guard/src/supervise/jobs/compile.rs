//! A bounded job makes native code (or strips the module for the interpreter); supervise takes what it left, and nothing
//! else, into the cache's own folder.

use super::super::cache::{CodeInfo, Mode};
use super::super::copy::{self, Outcome, Want};
use super::super::process::spawn;
use super::super::{Refused, Supervise, refuse};
use super::confined::{CODE_MAX, Confined, Task};
use super::stage::COPY_TIME;
use super::{End, Job, RunnerJob, Wanted, Work, failed, why_without_answer};
use rustix::fs::{Mode as Permissions, OFlags};
use shoal_ipc::{CompileResult, CompiledInfo, Digest, Needs, PrepareStage, answer_area, decode, read_area};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

impl Supervise {
    pub(super) fn start_compilation(&mut self, wanted: Wanted) -> Result<(), Refused> {
        let source = self.cache.item(&wanted.module, true);
        let file = fs::File::open(&source).map_err(failed("open the module"))?;
        let size = file.metadata().map_err(failed("look at the module"))?.len();
        let area = answer_area().map_err(|e| refuse("storage_unavailable", crate::say::chain(&e)))?;
        let job = match wanted.mode {
            Mode::Native => RunnerJob::Compile,
            Mode::Interpreted => RunnerJob::Strip,
        };
        let seconds = self.policy.compile.seconds;
        let task = Task { job, what: file.as_fd(), answer: &area, code: None, executes_own: false, seconds };
        let (child, confined) = self.start_confined(&task)?;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.tell_stage(wanted.module, PrepareStage::Compiling);
        let work = Work::Compile { wanted, size };
        self.jobs.push(Job {
            child,
            deadline,
            expired: false,
            area: Some(area),
            confined: Some(confined),
            work,
        });
        Ok(())
    }

    /// The compiler is gone: with its answer, what it left is collected.
    pub(super) fn compiled(
        &mut self,
        wanted: Wanted,
        size: u64,
        confined: Option<&Confined>,
        end: &End,
    ) -> Result<(), Refused> {
        let result = end.area.as_ref().and_then(|a| CompileResult::from_area(&read_area(a)));
        match (result, confined) {
            (Some(CompileResult::Done { engine, millis, needs, .. }), Some(confined)) if !end.expired => {
                let engine = match wanted.mode {
                    Mode::Native => engine,
                    Mode::Interpreted => format!("{engine} interpreter"),
                };
                let info = CompiledInfo { engine, millis, module_size: size, code_size: 0, cache_hit: false };
                self.collect(wanted, confined, info, needs)
            }
            (Some(CompileResult::Failed { code, detail }), _) => Err(refuse(&code, detail)),
            _ if end.expired => {
                let s = self.policy.compile.seconds;
                Err(refuse("time_limit", format!("compiling took more than {s} s")))
            }
            // The linker, which is part of the process, gave up: on a full disk it reads back less than was written.
            _ if end.status.is_ok() && !end.oom => {
                let (_, why) = why_without_answer(end.status, false, "");
                Err(refuse("compile_failed", format!("compiling failed (is the disk full?): {why}")))
            }
            _ => {
                let (code, why) = why_without_answer(end.status, end.oom, &self.policy.compile.memory);
                Err(refuse(code, format!("compiling failed: {why}")))
            }
        }
    }

    /// Copies what the compiler left, which may be anything.
    fn collect(
        &mut self,
        wanted: Wanted,
        confined: &Confined,
        info: CompiledInfo,
        needs: Needs,
    ) -> Result<(), Refused> {
        let name = match wanted.mode {
            Mode::Native => "out.so",
            Mode::Interpreted => "out.wasm",
        };
        let temp = self.cache.temp_code(&self.engine.key(&wanted.module, wanted.mode));
        let begin = || -> std::io::Result<_> {
            // Opened here: the scratch folder is gone before the copy is done, the descriptor is not.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from = rustix::fs::open(confined.work().join(name), flags, Permissions::empty())?;
            let to = fs::File::create(&temp)?;
            // Readable for the pods' uids, to which it is shown.
            fs::set_permissions(&temp, std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
            let area = answer_area().map_err(std::io::Error::other)?;
            let ids = self.uids.map(|u| u.compile);
            let child = spawn(None, || copy::run(&from, &to, Want::AtMost(CODE_MAX), ids, Some(&area)))?;
            Ok((child, area))
        };
        let (child, area) = begin().map_err(failed("collect the compiled code"))?;
        let work = Work::Collect { wanted, temp, info, needs };
        let deadline = Instant::now() + COPY_TIME;
        self.jobs.push(Job { child, deadline, expired: false, area: Some(area), confined: None, work });
        Ok(())
    }

    /// The copy is there, with its digest: next it is tried.
    pub(super) fn collected(
        &mut self,
        wanted: Wanted,
        temp: &Path,
        info: CompiledInfo,
        needs: Needs,
        end: &End,
    ) -> Result<(), Refused> {
        let hash = end.area.as_ref().and_then(|a| decode::<Digest>(read_area(a).get(..32)?).ok());
        let refused = match (Outcome::of(end.status.unwrap_or(-1)).refusal(), hash, end.expired) {
            (None, Some(hash), false) => {
                let code_size = fs::metadata(temp).map_or(0, |m| m.len());
                let info = CompiledInfo { code_size, ..info };
                let code = CodeInfo { hash, info, needs, tested: Vec::new() };
                match self.start_trial(wanted, Some((temp.to_owned(), code)), temp) {
                    Ok(()) => return Ok(()),
                    Err(refused) => refused,
                }
            }
            (Some((code, detail)), ..) => refuse(code, detail),
            _ => refuse("storage_unavailable", "the compiled code could not be copied in time"),
        };
        let _ = fs::remove_file(temp);
        Err(refused)
    }
}
