//! The device's own software: the installed guard hands over to the release that is to run, and a release to what was before it.
//!
//! Never here: whether a release may come (admit), or its files (supervise).

pub(crate) mod decide;

use crate::say;
use decide::Launch;
use shoal_ipc::{Layout, Place, Software, SoftwareState, encode, version_in};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// This program's version where no release says another.
pub(crate) const BUILT: &str = env!("CARGO_PKG_VERSION");

/// The first thing that the installed `supervise` does. Returns where it is to go on itself.
pub(crate) fn launch(layout: &Layout) {
    let software = Software::new(layout);
    if software.runs_from_release() {
        return;
    }
    let state = software.state();
    let own = Layout::libexec();
    let there = |place| {
        let folder = software.folder(place, &state)?;
        folder.join("shoal-guard").is_file().then(|| version_in(&folder, ""))
    };
    let (mut next, how) = decide::launch(&state, BUILT, there);
    if next != SoftwareState::default() {
        next.installed = own.to_string_lossy().into_owned();
    }
    if next != state
        && let Err(e) = write(&software, &next)
    {
        say::line(format!("{} cannot be written: {e}", software.state_file().display()));
        // A start that cannot be counted is no trial: what was there before runs, and the state stays as it was.
        if state.trial.is_some() {
            return hand_over(&software, &state, state.before);
        }
    }
    if let Launch::Hand(place) = how {
        hand_over(&software, &next, place);
        // It is no program for this machine. The installed one goes on, and nothing newer is lost by it.
        let next = decide::back(&next, "its guard cannot be executed");
        if let Err(e) = write(&software, &next) {
            say::line(format!("{} cannot be written: {e}", software.state_file().display()));
        }
    }
}

/// Makes what the state says last.
pub(crate) fn write(software: &Software, state: &SoftwareState) -> io::Result<()> {
    let file = software.state_file();
    crate::supervise::write_durably(&file, &encode(state))?;
    // The agent reads it too.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))
}

/// Becomes the guard at `place`; children and the process stay. Returns only when that is not possible, or when there is
/// nothing to become.
pub(crate) fn hand_over(software: &Software, state: &SoftwareState, place: Place) {
    let Some(folder) = software.folder(place, state) else { return };
    if folder == Layout::libexec() && place == Place::Installed {
        return;
    }
    say::line(format!("goes on as version {} of {}", version_in(&folder, BUILT), folder.display()));
    let e = become_guard(&folder);
    say::line(format!("{} cannot be executed: {e}", folder.join("shoal-guard").display()));
}

fn become_guard(folder: &Path) -> io::Error {
    let args = std::env::args_os().skip(1);
    Command::new(folder.join("shoal-guard")).args(args).env("SHOAL_LIBEXEC", folder).exec()
}
