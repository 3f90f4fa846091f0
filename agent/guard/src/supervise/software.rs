//! The device's own software, as far as supervise has to do with it: files of a release that admission permits, the change to
//! it, its trial, and the way back.

use super::copy::Want;
use super::{Refused, Supervise, dirs, refuse};
use crate::say;
use crate::software::{self, BUILT, decide};
use shoal_ipc::{
    Digest, EngineDirs, Layout, Msg, Offer, Place, RELEASE_MAX, ReleaseTicket, Software, SoftwareInfo,
    SoftwareState, TicketFile, VERSION, read_sealed,
};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program of a release may take to say its version.
const SAYING: Duration = Duration::from_secs(10);

/// What supervise keeps of it.
#[derive(Debug)]
pub(super) struct Releases {
    software: Software,
    state: SoftwareState,
    /// What admission permits.
    ticket: Option<ReleaseTicket>,
    /// When a trial ends that nobody confirmed.
    ends: Option<Instant>,
    /// The answer is given: now comes the change.
    due: Option<Place>,
}

fn storage(what: &str) -> impl Fn(io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

impl Releases {
    pub(super) fn open(layout: &Layout) -> Self {
        let software = Software::new(layout);
        let state = software.state();
        // Installed software that runs although the state says otherwise is on nobody's trial.
        let on_trial = state.trial.as_ref().filter(|_| software.runs_from_release());
        let ends = on_trial.map(|t| Instant::now() + Duration::from_secs(t.deadline.into()));
        Self { software, state, ticket: None, ends, due: None }
    }

    /// When something is to be done.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ends
    }

    /// Whether the permission for a release has this id.
    pub(super) fn is(&self, ticket: &Digest) -> bool {
        self.ticket.as_ref().is_some_and(|t| t.id == *ticket)
    }

    pub(super) fn take(&mut self, fd: &OwnedFd) {
        match read_sealed(fd, RELEASE_MAX).and_then(|b| shoal_ipc::decode::<ReleaseTicket>(&b)) {
            Ok(t) if t.version != VERSION || !t.files.iter().all(is_sound) || !same_modes(&t.files) => {
                say::line("a release of another version, or with a path out of form, is not taken");
            }
            Ok(t) => {
                if !self.is(&t.id) {
                    self.clear_staging(&t.files);
                }
                self.ticket = Some(t);
            }
            Err(e) => say::error("a release is not taken", &e),
        }
    }

    pub(super) fn withdraw(&mut self, ticket: &Digest) {
        if self.is(ticket) {
            self.ticket = None;
            self.clear_staging(&[]);
        }
    }

    /// What no permission names takes no room.
    fn clear_staging(&self, keep: &[TicketFile]) {
        let names: BTreeSet<String> = keep.iter().map(|f| f.digest.hex()).collect();
        for file in fs::read_dir(self.software.staging()).into_iter().flatten().flatten() {
            if !names.contains(&*file.file_name().to_string_lossy()) {
                // What stays is looked at again with the next permission.
                let _ = fs::remove_file(file.path());
            }
        }
    }

    fn staged(&self, digest: &Digest) -> PathBuf {
        self.software.staging().join(digest.hex())
    }

    fn missing<'a>(&self, ticket: &'a ReleaseTicket) -> BTreeSet<&'a Digest> {
        ticket.files.iter().map(|f| &f.digest).filter(|d| !self.staged(d).exists()).collect()
    }

    fn info(&self) -> SoftwareInfo {
        let offer = self.ticket.as_ref().map(|t| {
            let missing = self.missing(t);
            Offer {
                id: t.id,
                name: t.name.clone(),
                release: t.release.clone(),
                missing_total: u32::try_from(missing.len()).unwrap_or(u32::MAX),
                missing: missing.into_iter().take(48).copied().collect(),
            }
        });
        SoftwareInfo {
            release: shoal_ipc::running_version(BUILT),
            place: if self.software.runs_from_release() { self.state.place } else { Place::Installed },
            on_trial: self.ends.is_some(),
            offer,
            failed: self.state.failed.last().cloned(),
        }
    }

    fn keep(&mut self, next: SoftwareState) -> Result<(), Refused> {
        software::write(&self.software, &next).map_err(storage("keep the state of the software"))?;
        self.state = next;
        Ok(())
    }

    /// Puts a release together where nothing runs, and lets its programs speak.
    fn assemble(&self, ticket: &ReleaseTicket, place: Place) -> Result<(), Refused> {
        let folder =
            self.software.folder(place, &self.state).ok_or_else(|| refuse("conflict", "no folder"))?;
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(storage("clear the folder of the release")(e));
            }
            _ => {}
        }
        let mut folders = BTreeSet::from([folder.clone()]);
        dirs::ensure(&folder, 0o755, None).map_err(storage("make the folder of the release"))?;
        for f in &ticket.files {
            let path = folder.join(&f.path);
            let ancestors = path.ancestors().skip(1).take_while(|a| a.starts_with(&folder));
            folders.extend(ancestors.map(Path::to_path_buf));
            place_file(&self.staged(&f.digest), &path, f.mode).map_err(storage("place a file of it"))?;
        }
        crate::points::point("supervise::release_placed");
        let label = format!("{}\n{}\n", ticket.release, ticket.id);
        dirs::write_durably(&Software::label(&folder), label.as_bytes()).map_err(storage("label it"))?;
        for folder in &folders {
            let open_to_all = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
            let lasts = open_to_all.and_then(|()| fs::File::open(folder)).and_then(|f| f.sync_all());
            lasts.map_err(storage("make it last"))?;
        }
        try_programs(&folder).map_err(|what| refuse("update_failed", what))
    }
}

/// One content has one mode, since it is kept once.
fn same_modes(files: &[TicketFile]) -> bool {
    let mut modes = std::collections::BTreeMap::new();
    files.iter().all(|f| *modes.entry(f.digest).or_insert(f.mode) == f.mode)
}

/// A file of a release: relative, nowhere else than below its folder.
fn is_sound(f: &TicketFile) -> bool {
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    !f.path.starts_with('/') && f.path.split('/').all(part) && [0o755, 0o644].contains(&f.mode)
}

/// A second name for the staged bytes, which are on the disk already; the first one goes when the change is made.
fn place_file(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::hard_link(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}

/// Whether each program of a folder can be executed here at all.
fn try_programs(folder: &Path) -> Result<(), String> {
    for program in ["shoal-guard", "shoal-agent"] {
        say_version(Command::new(folder.join(program)).arg("--version"), program)?;
    }
    let run = folder.join("engine/run");
    let dir = run.is_dir().then_some(run.as_path());
    let argv = EngineDirs::command(dir, &folder.join("shoal-runner"));
    let mut command = Command::new(&argv[0]);
    say_version(command.args(&argv[1..]).arg("engine"), "shoal-runner")
}

fn say_version(command: &mut Command, program: &str) -> Result<(), String> {
    let quiet = command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().map_err(|e| format!("its {program} cannot be executed: {e}"))?;
    let until = Instant::now() + SAYING;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("its {program} does not work here: {status}")),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => {
                // Either it ended meanwhile, or it is stuck.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("its {program} says nothing within {} s", SAYING.as_secs()));
            }
        }
    }
}

impl Supervise {
    pub(super) fn software_is(&self) -> Msg {
        Msg::SoftwareIs { info: self.releases.info() }
    }

    /// Begins to copy a file of a release; whether the answer has to wait.
    pub(super) fn stage_release(&mut self, peer: u64, item: Digest, from: &OwnedFd) -> Result<bool, Refused> {
        let ticket =
            self.releases.ticket.as_ref().ok_or_else(|| refuse("not_admitted", "no such release"))?;
        let Some(file) = ticket.files.iter().find(|f| f.digest == item) else {
            return Err(refuse("not_admitted", "the release names no such file"));
        };
        let target = self.releases.staged(&item);
        if target.exists() {
            return Ok(false);
        }
        let want = Want::Exact { size: file.size, digest: item };
        self.copy_in(peer, item, want, target, from)?;
        Ok(true)
    }

    /// Changes to the release, once its answer is on its way.
    pub(super) fn switch(&mut self) -> Result<(), Refused> {
        let ticket =
            self.releases.ticket.clone().ok_or_else(|| refuse("not_admitted", "no release is permitted"))?;
        let running = shoal_ipc::running_version(BUILT);
        if let Some(why) = decide::forbidden(&self.releases.state, &ticket, &running) {
            return Err(refuse("update_failed", why));
        }
        if !self.releases.missing(&ticket).is_empty() {
            return Err(refuse("not_admitted", "not all of its files are here"));
        }
        let place = decide::free_place(&self.releases.state);
        if let Err(refused) = self.releases.assemble(&ticket, place) {
            say::line(format!("release {} does not work here: {}", ticket.release, refused.detail));
            if refused.code == "update_failed" {
                let state = &self.releases.state;
                let next = decide::failed(state, ticket.id, &ticket.release, &refused.detail);
                self.releases.keep(next)?;
            }
            return Err(refused);
        }
        let installed = Layout::libexec();
        let next = decide::switched(&self.releases.state, &ticket, place, &installed.to_string_lossy());
        self.releases.keep(next)?;
        crate::points::point("supervise::release_switched");
        self.releases.clear_staging(&[]);
        self.releases.due = Some(place);
        Ok(())
    }

    /// The software that runs works: its trial is over, and nothing older comes in its place (S26).
    pub(super) fn confirm(&mut self) -> Result<(), Refused> {
        if self.admit.connection.is_none() || !self.complete {
            return Err(refuse("not_admitted", "admission is not there yet"));
        }
        if self.releases.ends.is_some() {
            let next = decide::proved(&self.releases.state);
            self.releases.keep(next)?;
            self.releases.ends = None;
            say::line(format!("version {} proved itself", shoal_ipc::running_version(BUILT)));
        }
        crate::points::point("supervise::release_proved");
        let release = shoal_ipc::running_version(BUILT);
        self.tell_admit(&Msg::Proved { release });
        Ok(())
    }

    /// An agent that hangs would not follow its guard back; whoever looks after services starts the other one.
    fn end_agent_of_release(&self) {
        let state = &self.releases.state;
        let Some(program) = self.releases.software.folder(state.place, state) else { return };
        let program = program.join("shoal-agent");
        let agent = self.uids.map(|u| u.agent);
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let is_agents = fs::metadata(process.path()).is_ok_and(|m| agent.is_none_or(|a| m.uid() == a));
            let is_it =
                is_agents && fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == program);
            if let (true, Some(pid)) = (is_it, rustix::process::Pid::from_raw(pid)) {
                // It may be gone already.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// A change that is due, or a trial that is over without a word. Returns where nothing of that is so.
    pub(super) fn software_due(&mut self) {
        if self.releases.ends.is_some_and(|t| t <= Instant::now()) {
            self.releases.ends = None;
            let next = decide::back(&self.releases.state, "it did not reach whom it has to reach in time");
            say::line("the release did not prove itself in time; what was there before goes on");
            self.end_agent_of_release();
            match self.releases.keep(next) {
                Ok(()) => {
                    crate::points::point("supervise::release_taken_back");
                    self.releases.due = Some(self.releases.state.place);
                }
                // The next start counts, and comes to the same in the end.
                Err(e) => say::line(format!("{}: {}", e.code, e.detail)),
            }
        }
        if let Some(place) = self.releases.due.take() {
            let (software, state) = (self.releases.software.clone(), self.releases.state.clone());
            software::hand_over(&software, &state, place);
            // It could speak before and cannot be executed now.
            if state.trial.is_some() {
                let next = decide::back(&state, "its guard cannot be executed");
                if let Err(e) = self.releases.keep(next) {
                    say::line(format!("{}: {}", e.code, e.detail));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_a_file_of_a_release_is_nowhere_else_than_below_its_folder() {
        let file =
            |path: &str, mode| TicketFile { path: path.into(), size: 1, mode, digest: Digest([1; 32]) };
        assert!(is_sound(&file("engine/run/lib/x.so.0", 0o644)));
        for path in ["/etc/passwd", "../x", "a/../../x", "a//b", "", "a/", "./a"] {
            assert!(!is_sound(&file(path, 0o644)), "{path:?}");
        }
        assert!(!is_sound(&file("x", 0o4755)));
        assert!(same_modes(&[file("x", 0o644), file("y", 0o644)]));
        assert!(!same_modes(&[file("x", 0o644), file("y", 0o755)]));
    }

    #[test]
    fn a_program_that_fails_hangs_or_is_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        for name in ["shoal-guard", "shoal-agent", "shoal-runner"] {
            write(name, "#!/bin/sh\nexit 0\n");
        }
        try_programs(dir.path()).unwrap();
        write("shoal-runner", "#!/bin/sh\nexit 3\n");
        assert!(try_programs(dir.path()).unwrap_err().contains("shoal-runner"));
        write("shoal-agent", "no program");
        assert!(try_programs(dir.path()).unwrap_err().contains("shoal-agent cannot be executed"));
    }
}
