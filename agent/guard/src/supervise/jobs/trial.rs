//! Each module is put together once before it counts as ready, and calls the self-test that its manifest names: with the
//! engine that containers run with, confined, with nothing granted and for a limited time.

use super::super::cache::{CodeInfo, Mode};
use super::super::{Refused, Supervise, refuse};
use super::confined::Task;
use super::{End, Job, RunnerJob, Wanted, Work, why_without_answer};
use shoal_ipc::{EndRecord, Entry, Msg, PrepareStage, Spec, VERSION, answer_area, read_area, sealed_memfd};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

impl Supervise {
    /// Starts the trial of `code`; `fresh` is what is to be kept when it passes.
    pub(super) fn start_trial(
        &mut self,
        wanted: Wanted,
        fresh: Option<(PathBuf, CodeInfo)>,
        code: &Path,
    ) -> Result<(), Refused> {
        let storage = |e: shoal_ipc::Error| refuse("storage_unavailable", crate::say::chain(&e));
        let spec = Spec {
            version: VERSION,
            code: if self.uids.is_some() { "/code.so".into() } else { code.to_string_lossy().into_owned() },
            argv: vec!["trial".into()],
            env: Vec::new(),
            preopens: Vec::new(),
            working_dir: "/".into(),
            wasm_pages: None,
            interpreter: wanted.mode == Mode::Interpreted,
            entry: Entry::Trial { self_test: wanted.self_test.clone() },
            start_function: false,
        };
        let what = sealed_memfd(&spec.encode()).map_err(storage)?;
        let area = answer_area().map_err(storage)?;
        let seconds = self.policy.compile.test_seconds;
        let task = Task {
            job: RunnerJob::Trial,
            what: what.as_fd(),
            answer: &area,
            code: Some(code),
            executes_own: false,
            seconds,
        };
        let (child, confined) = self.start_confined(&task)?;
        self.tell_stage(wanted.module, PrepareStage::Testing);
        self.jobs.push(Job {
            child,
            deadline: Instant::now() + Duration::from_secs(seconds),
            expired: false,
            area: Some(area),
            confined: Some(confined),
            work: Work::Trial { wanted, fresh },
        });
        Ok(())
    }

    /// What passed is kept; what did not is not.
    pub(super) fn tried(
        &mut self,
        wanted: Wanted,
        fresh: Option<(PathBuf, CodeInfo)>,
        end: &End,
    ) -> Result<(), Refused> {
        if let Err(refused) = self.verdict(&wanted, end) {
            if let Some((temp, _)) = fresh {
                let _ = fs::remove_file(temp);
            }
            return Err(refused);
        }
        let key = self.engine.key(&wanted.module, wanted.mode);
        let storage = |e: std::io::Error| refuse("storage_unavailable", format!("keep compiled code: {e}"));
        if let Some((temp, mut code)) = fresh {
            code.tested.extend(wanted.self_test);
            if let Err(e) = self.cache.keep(&key, &temp, &code) {
                let _ = fs::remove_file(temp);
                self.sweep();
                return Err(storage(e));
            }
            self.sweep();
        } else if let Some(name) = wanted.self_test {
            self.cache.passed(&key, name).map_err(storage)?;
        }
        let info = self.cache.info(&key).ok_or_else(|| refuse("cache_changed", "compiled code went away"))?;
        self.broadcast(&Msg::Compiled { module: wanted.module, info: info.info });
        Ok(())
    }

    fn verdict(&self, wanted: &Wanted, end: &End) -> Result<(), Refused> {
        let what = match &wanted.self_test {
            Some(name) => format!("its self-test {name}"),
            None => "putting the module together".to_owned(),
        };
        if end.expired {
            let s = self.policy.compile.test_seconds;
            return Err(refuse("time_limit", format!("{what} took more than {s} s")));
        }
        match end.area.as_ref().and_then(|a| EndRecord::from_area(&read_area(a))) {
            Some(EndRecord::Exit { code: 0 }) => Ok(()),
            Some(EndRecord::Exit { code }) => {
                Err(refuse("unhealthy", format!("{what} failed: it gave {code}, not 0")))
            }
            Some(EndRecord::Trap { message }) => Err(refuse("trap", format!("{what} failed: {message}"))),
            Some(EndRecord::GuestMemory) => {
                Err(refuse("guest_memory", format!("{what} failed at the engine's limit of memory")))
            }
            Some(EndRecord::Refused { code, message }) => {
                Err(refuse(&code, format!("{what} failed: {message}")))
            }
            None => {
                let (code, why) = why_without_answer(end.status, end.oom, &self.policy.compile.memory);
                Err(refuse(code, format!("{what} failed: {why}")))
            }
        }
    }
}
