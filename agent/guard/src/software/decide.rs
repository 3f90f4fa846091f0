//! Which software is to run, after each start and after each change. Pure.

use shoal_ipc::{Digest, FailedRelease, Place, ReleaseTicket, SoftwareState, Trial};
use shoal_protocol::verify::target::parse_version;

/// Starts that new software gets before what was there before takes over again.
pub(crate) const STARTS: u32 = 3;
/// Releases that did not work here are remembered, so that none is tried twice.
const FAILED: usize = 8;
/// Of a reason, characters.
const WHY: usize = 300;

/// What the installed program does first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Launch {
    /// It goes on itself.
    Stay,
    /// It makes room for the software at this place.
    Hand(Place),
}

/// Whether `version` is newer than `other`; what is no version is older than everything.
pub(crate) fn is_newer(version: &str, other: &str) -> bool {
    parse_version(version) > parse_version(other)
}

/// What the installed program of version `installed` does at its start, and what is written down before; `there` says which
/// version is at a place, if any is.
pub(crate) fn launch(
    state: &SoftwareState,
    installed: &str,
    there: impl Fn(Place) -> Option<String>,
) -> (SoftwareState, Launch) {
    let mut next = state.clone();
    if let Some(trial) = &mut next.trial {
        if trial.starts < STARTS {
            trial.starts += 1;
        } else {
            let why = format!("it was started {STARTS} times and never proved itself");
            next = back(&next, &why);
        }
    }
    // A package that was installed meanwhile and is newer, or as new, takes its place back.
    let newer = there(next.place).filter(|v| next.place != Place::Installed && is_newer(v, installed));
    if newer.is_none() && next.place != Place::Installed {
        next = SoftwareState { place: Place::Installed, before: Place::Installed, trial: None, ..next };
    }
    let launch = match next.place {
        Place::Installed => Launch::Stay,
        place => Launch::Hand(place),
    };
    (next, launch)
}

/// The place that a release may be put together in: never where the software runs, and not where it ran before.
pub(crate) fn free_place(state: &SoftwareState) -> Place {
    if state.place == Place::A { Place::B } else { Place::A }
}

/// After the change to a release at `place`.
pub(crate) fn switched(
    state: &SoftwareState,
    ticket: &ReleaseTicket,
    place: Place,
    installed: &str,
) -> SoftwareState {
    let trial =
        Trial { id: ticket.id, release: ticket.release.clone(), starts: 1, deadline: ticket.deadline };
    SoftwareState {
        place,
        before: state.place,
        installed: if state.installed.is_empty() { installed.to_owned() } else { state.installed.clone() },
        trial: Some(trial),
        failed: state.failed.clone(),
    }
}

/// After the end of a trial that went well.
pub(crate) fn proved(state: &SoftwareState) -> SoftwareState {
    SoftwareState { trial: None, before: state.place, ..state.clone() }
}

/// After the end of a trial that did not: what was there before runs again.
pub(crate) fn back(state: &SoftwareState, why: &str) -> SoftwareState {
    let Some(trial) = &state.trial else { return state.clone() };
    let next = failed(state, trial.id, &trial.release, why);
    SoftwareState { place: state.before, trial: None, ..next }
}

/// Remembers a release that does not work here.
pub(crate) fn failed(state: &SoftwareState, id: Digest, release: &str, why: &str) -> SoftwareState {
    let mut next = state.clone();
    next.failed.retain(|f| f.id != id);
    let why = why.chars().take(WHY).collect::<String>().replace('\0', " ");
    next.failed.push(FailedRelease { id, release: release.to_owned(), why });
    let over = next.failed.len().saturating_sub(FAILED);
    next.failed.drain(..over);
    next
}

/// Why this release may not be changed to now.
pub(crate) fn forbidden(state: &SoftwareState, ticket: &ReleaseTicket, running: &str) -> Option<String> {
    if state.trial.is_some() {
        Some("the software that runs has not proved itself yet".to_owned())
    } else if let Some(f) = state.failed.iter().find(|f| f.id == ticket.id) {
        Some(format!("it was tried here and did not work: {}", f.why))
    } else if !is_newer(&ticket.release, running) {
        Some(format!("it is version {}, and {running} runs", ticket.release))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(n: u8, release: &str) -> ReleaseTicket {
        ReleaseTicket {
            version: shoal_ipc::VERSION,
            id: Digest([n; 32]),
            name: "agent".into(),
            release: release.into(),
            deadline: 60,
            files: vec![],
        }
    }

    fn there(place: Place) -> Option<String> {
        match place {
            Place::Installed => None,
            Place::A => Some("0.2.0".into()),
            Place::B => Some("0.10.0".into()),
        }
    }

    #[test]
    fn a_release_is_started_three_times_and_then_what_was_before_runs_again() {
        let mut state = switched(&SoftwareState::default(), &ticket(1, "0.2.0"), Place::A, "/usr/lib/shoal");
        assert_eq!(
            (state.place, state.before, state.installed.as_str()),
            (Place::A, Place::Installed, "/usr/lib/shoal")
        );
        for starts in 2..=STARTS {
            let (next, how) = launch(&state, "0.1.0", there);
            assert_eq!((next.trial.as_ref().unwrap().starts, how), (starts, Launch::Hand(Place::A)));
            state = next;
        }
        let (state, how) = launch(&state, "0.1.0", there);
        assert_eq!((state.place, how, &state.trial), (Place::Installed, Launch::Stay, &None));
        assert_eq!(state.failed.last().unwrap().id, Digest([1; 32]));
        assert!(forbidden(&state, &ticket(1, "0.2.0"), "0.1.0").unwrap().contains("did not work"));
        assert_eq!(forbidden(&state, &ticket(2, "0.2.0"), "0.1.0"), None);
    }

    #[test]
    fn what_proved_itself_is_handed_to_at_every_start_and_gone_back_to() {
        let state = proved(&switched(&SoftwareState::default(), &ticket(1, "0.2.0"), Place::A, "/i"));
        assert_eq!(launch(&state, "0.1.0", there), (state.clone(), Launch::Hand(Place::A)));
        assert_eq!(free_place(&state), Place::B);
        let next = switched(&state, &ticket(2, "0.10.0"), Place::B, "/wrong");
        assert_eq!((next.before, next.installed.as_str()), (Place::A, "/i"));
        let next = back(&next, "it did not report");
        assert_eq!((next.place, next.trial.clone()), (Place::A, None));
        assert_eq!(launch(&next, "0.1.0", there).1, Launch::Hand(Place::A));
        assert_eq!(free_place(&next), Place::B);
    }

    #[test]
    fn a_package_that_is_as_new_takes_its_place_back_and_ends_a_trial() {
        for (installed, stays) in [("0.1.9", false), ("0.2.0", true), ("0.3.0", true), ("1.0.0", true)] {
            let state = switched(&SoftwareState::default(), &ticket(1, "0.2.0"), Place::A, "/i");
            let (next, how) = launch(&state, installed, there);
            assert_eq!((how == Launch::Stay, next.trial.is_none()), (stays, stays), "{installed}");
        }
        // A folder that is gone is no software.
        let state = proved(&switched(&SoftwareState::default(), &ticket(1, "0.2.0"), Place::A, "/i"));
        assert_eq!(launch(&state, "0.1.0", |_| None).1, Launch::Stay);
        assert_eq!(launch(&SoftwareState::default(), "0.1.0", there).1, Launch::Stay);
    }

    #[test]
    fn during_a_trial_and_for_what_is_not_newer_nothing_changes() {
        let state = switched(&SoftwareState::default(), &ticket(1, "0.2.0"), Place::A, "/i");
        assert!(forbidden(&state, &ticket(2, "0.3.0"), "0.2.0").unwrap().contains("not proved itself"));
        let state = proved(&state);
        for (release, may) in [("0.2.0", false), ("0.1.9", false), ("0.10.0", true), ("x", false)] {
            assert_eq!(forbidden(&state, &ticket(2, release), "0.2.0").is_none(), may, "{release}");
        }
    }

    #[test]
    fn only_the_last_few_failures_are_remembered_and_each_once() {
        let mut state = SoftwareState::default();
        for n in 0..20 {
            state = failed(&state, Digest([n % 12; 32]), "0.2.0", &"x".repeat(1000));
        }
        assert_eq!(state.failed.len(), FAILED);
        assert_eq!(state.failed.last().unwrap().id, Digest([7; 32]));
        assert!(state.failed.iter().all(|f| f.why.len() == WHY));
    }
}
