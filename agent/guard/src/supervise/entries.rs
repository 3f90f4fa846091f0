//! Second entries of an image: the modules of exec probes and hooks. They start as containers do, in a group of their own
//! below the pod's, with the container's files, environment, volumes and limits and a `/` of their own; but they are
//! nobody's to ask for, leave no record, and their end is an answer.

use super::container::{Key, within};
use super::probes::name;
use super::{Refused, Supervise, refuse};
use rustix::process::Signal;
use shoal_ipc::{Cause, Layout, Limits, ProbeAction, ProbeKind, Restart, Ticket, TicketContainer};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

/// Numbers from here on are entries; no ticket has so many containers.
const FIRST: u16 = 0x8000;
/// Seconds that a hook after the start may take; the one before the end has the grace.
const POST_START: u64 = 120;

/// What an entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Probe(ProbeKind),
    PostStart,
    PreStop,
}

const ROLES: [Role; 5] = [
    Role::Probe(ProbeKind::Liveness),
    Role::Probe(ProbeKind::Readiness),
    Role::Probe(ProbeKind::Startup),
    Role::PostStart,
    Role::PreStop,
];

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Probe(kind) => name(kind),
            Self::PostStart => "post-start",
            Self::PreStop => "pre-stop",
        }
    }
}

/// The key of a container's entry.
fn key_of(owner: Key, role: Role) -> Key {
    let at = ROLES.iter().position(|r| *r == role).unwrap_or(0);
    (owner.0, FIRST | owner.1 << 3 | u16::try_from(at).unwrap_or(0))
}

/// Whether this is an entry rather than a container.
pub(crate) fn is_entry(key: Key) -> bool {
    key.1 >= FIRST
}

/// Whose entry this is.
fn owner_of(key: Key) -> Option<(Key, Role)> {
    let number = key.1.checked_sub(FIRST)?;
    Some(((key.0, number >> 3), *ROLES.get(usize::from(number & 7))?))
}

/// Below which folder its own one is. An entry's is forgotten with the boot, so that probes write nothing to flash.
pub(crate) fn place_of(layout: &Layout, key: Key) -> PathBuf {
    if is_entry(key) { layout.run().join("entries") } else { layout.containers() }
}

/// An entry's name, which no container can have.
fn called(container: &str, role: Role) -> String {
    format!("{container}+{}", role.name())
}

/// An entry in a container's shape.
fn shape(ticket: &Ticket, owner: u16, role: Role) -> Option<TicketContainer> {
    let c = ticket.containers.get(usize::from(owner))?;
    let entry = match role {
        Role::PostStart => c.post_start.clone()?,
        Role::PreStop => c.pre_stop.clone()?,
        Role::Probe(kind) => c.probes.iter().find_map(|p| match &p.action {
            ProbeAction::Exec { entry } if p.kind == kind => Some(entry.clone()),
            _ => None,
        })?,
    };
    let wall_seconds = (role == Role::PostStart).then_some(POST_START);
    Some(TicketContainer {
        name: called(&c.name, role),
        argv: entry.argv,
        module: entry.module,
        limits: Limits { cpu_seconds: None, wall_seconds, ..c.limits.clone() },
        restart: Restart::Never,
        probes: Vec::new(),
        post_start: None,
        pre_stop: None,
        stdin: false,
        init: false,
        self_test: None,
        ..c.clone()
    })
}

/// All that may start of a ticket, in a container's shape: its containers and their entries.
pub(crate) fn startable(ticket: &Ticket) -> Vec<TicketContainer> {
    let owners = 0..u16::try_from(ticket.containers.len()).unwrap_or(u16::MAX);
    let entries = owners.flat_map(|n| ROLES.iter().filter_map(move |role| shape(ticket, n, *role)));
    ticket.containers.iter().cloned().chain(entries).collect()
}

/// Whether every way in that a container has to wait for was gone to its end: the ticket's containers that come before.
pub(crate) fn first_unfinished(ticket: &Ticket, ended_well: impl Fn(u16) -> bool) -> Option<&str> {
    let before = ticket.containers.iter().enumerate().filter(|(_, c)| c.init);
    before.filter(|(n, _)| !u16::try_from(*n).is_ok_and(&ended_well)).map(|(_, c)| c.name.as_str()).next()
}

impl Supervise {
    /// Starts an entry of a live container.
    pub(super) fn start_entry(&mut self, owner: Key, role: Role) -> Result<(), Refused> {
        let key = key_of(owner, role);
        if self.containers.get(&key).is_some_and(|c| c.live.is_some()) {
            return Err(refuse("conflict", "the one before it has not ended yet"));
        }
        let held = self.tickets.get(&owner.0).ok_or_else(|| refuse("not_admitted", "no such ticket"))?;
        let ticket = held.ticket.clone();
        let entry = shape(&ticket, owner.1, role).ok_or_else(|| refuse("not_admitted", "no such entry"))?;
        let attempt = self.containers.get(&owner).map_or(1, |c| c.record.state.attempt);
        let limits = within(&entry.limits, &ticket.limits);
        let code = self.code_for(&entry, ticket.sockets())?;
        let prepared = self.prepare(key, &ticket, &entry, &limits, &code)?;
        self.release(0, attempt, &ticket, &entry, &limits, prepared)
    }

    /// Kills an entry, if it runs.
    pub(super) fn end_entry(&mut self, owner: Key, role: Role) {
        let Some(c) = self.containers.get_mut(&key_of(owner, role)) else { return };
        if let Some(live) = &c.live {
            live.signal(Signal::KILL);
            self.hierarchy.group(&c.record.group).kill();
        }
    }

    /// Kills all entries of a container.
    pub(super) fn end_entries(&mut self, owner: Key) {
        for role in ROLES {
            self.end_entry(owner, role);
        }
    }

    /// An entry's process is gone.
    pub(super) fn entry_ended(&mut self, key: Key, cause: &Cause) {
        self.containers.remove(&key);
        let Some((owner, role)) = owner_of(key) else { return };
        let answer = match cause {
            Cause::Exited { code: 0 } => Ok(()),
            Cause::Exited { code } => Err(format!("it exited with {code}")),
            Cause::Refused { code, detail } => Err(format!("it did not run ({code}): {detail}")),
            other => Err(format!("it ended by {other:?}")),
        };
        match role {
            Role::Probe(kind) => self.probe_answered(owner, kind, &answer),
            Role::PostStart => self.post_start_ended(owner, answer),
            Role::PreStop => self.ask_to_end(owner),
        }
    }

    /// Where an entry's words go: standard error beside the container's own into its log, standard output nowhere.
    pub(super) fn entry_output(&self, key: Key) -> io::Result<(OwnedFd, OwnedFd)> {
        let null = || OpenOptions::new().write(true).open("/dev/null").map(OwnedFd::from);
        let live = owner_of(key).and_then(|(owner, _)| self.containers.get(&owner)?.live.as_ref());
        let err = match live.and_then(|l| l.pipes.as_ref()) {
            // The read end's number leads to the pipe, whose other end this opens.
            Some((_, err)) => {
                let path = format!("/proc/self/fd/{}", err.as_raw_fd());
                File::options().write(true).open(path).map(OwnedFd::from).or_else(|_| null())?
            }
            None => null()?,
        };
        Ok((null()?, err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::Digest;

    #[test]
    fn an_entrys_number_leads_back_to_its_container_and_is_no_containers() {
        for owner in [0, 1, 15] {
            let owner = (Digest([1; 32]), owner);
            assert!(!is_entry(owner) && owner_of(owner).is_none());
            for role in ROLES {
                let key = key_of(owner, role);
                assert!(is_entry(key));
                assert_eq!(owner_of(key), Some((owner, role)));
            }
        }
        assert_eq!(owner_of((Digest([1; 32]), FIRST | 7)), None);
    }

    #[test]
    fn an_entrys_group_is_named_as_no_container_can_be() {
        assert!(called("main", Role::PreStop).parse::<shoal_protocol::ids::Name>().is_err());
    }
}
