//! Spares: containers that are ready before anybody asks for them, so that a start is one word at a gate.
//!
//! A spare is a container of a startable ticket, confined for good and nobody else's: it has its own groups, limits, uid and
//! mounts, and its code is loaded; no instruction of its guest has run. It stands for a container that does not run and is to:
//! one that ended and will be started again, or a new revision's that takes over. At most [`PER_TICKET`] a ticket and the
//! policy's `spares` in all; a container that runs has none.

use super::container::Key;
use super::graves::Grave;
use super::prepare::{Prepared, Process};
use super::ready::Runnable;
use super::record::{folder_of, start_ticks};
use super::{Supervise, entries};
use crate::say;
use shoal_ipc::{Cause, Digest, Network, Restart};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

/// Spares of one ticket.
const PER_TICKET: usize = 2;

#[derive(Debug)]
struct Spare {
    prepared: Prepared,
    /// Nobody is to have it any more; its end is awaited.
    discarded: bool,
}

/// All of them, by their number at the zygote.
#[derive(Debug, Default)]
pub(super) struct Spares {
    all: BTreeMap<u64, Spare>,
    /// Tickets for which something changed.
    pub(super) look: BTreeSet<Digest>,
}

impl Spares {
    fn ready(&self) -> impl Iterator<Item = &Prepared> {
        self.all.values().filter(|s| !s.discarded).map(|s| &s.prepared)
    }

    /// How many a ticket has, discarded ones among them.
    pub(super) fn of(&self, ticket: &Digest) -> usize {
        self.all.values().filter(|s| s.prepared.key.0 == *ticket).count()
    }

    /// Whether none is left, not even one that is ending.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// Whether a container that ended so is started again by whoever follows its policy.
pub(super) fn comes_again(restart: Restart, cause: Option<&Cause>) -> bool {
    match (restart, cause) {
        (Restart::Never, _) | (_, None | Some(Cause::Stopped)) => false,
        (Restart::OnFailure, Some(cause)) => *cause != Cause::Exited { code: 0 },
        (Restart::Always, Some(_)) => true,
    }
}

impl Supervise {
    /// The spare of this container, if there is one that fits.
    pub(super) fn take_spare(&mut self, key: Key, code: &Runnable) -> Option<Prepared> {
        let stream = self.spares.ready().find(|p| p.key == key)?.stream;
        let spare = self.spares.all.remove(&stream)?.prepared;
        let identity = self.runner.identity();
        // Its standard input is whoever's that attaches to it.
        let own_input = self.inputs.contains_key(&key);
        if !own_input && spare.code == code.path && self.zygotes.is_current(spare.zygote, &identity) {
            return Some(spare);
        }
        self.discard(spare);
        None
    }

    /// Makes what is wanted, now that nobody waits.
    pub(super) fn spares_due(&mut self) {
        for ticket in std::mem::take(&mut self.spares.look) {
            if self.uids.is_none() || self.shutdown.is_some() {
                continue;
            }
            for index in 0..self.tickets.get(&ticket).map_or(0, |h| h.ticket.containers.len()) {
                let full = self.spares.ready().count() >= self.policy.spares()
                    || self.spares.ready().filter(|p| p.key.0 == ticket).count() >= PER_TICKET;
                let Ok(index) = u16::try_from(index) else { break };
                if full {
                    break;
                }
                self.make_spare((ticket, index));
            }
        }
    }

    fn make_spare(&mut self, key: Key) {
        if !self.is_wanted(key) {
            return;
        }
        let Some(held) = self.tickets.get(&key.0) else { return };
        let ticket = held.ticket.clone();
        let container = &ticket.containers[usize::from(key.1)];
        // What keeps it from starting is told to whoever starts it.
        let Ok(limits) = self.may_start(key, &ticket, container) else { return };
        let Ok(code) = self.code_for(container, ticket.sockets()) else { return };
        if let Ok(prepared) = self.prepare(key, &ticket, container, &limits, &code) {
            self.spares.all.insert(prepared.stream, Spare { prepared, discarded: false });
        }
    }

    /// Whether this container does not run, has no spare, and is to run.
    fn is_wanted(&self, key: Key) -> bool {
        let Some(held) = self.tickets.get(&key.0) else { return false };
        // A network of the pod's own comes and goes with what runs in it.
        let networked = held.ticket.network == Network::Pod;
        if networked || held.withdrawn || !held.ticket.startable || self.spares.ready().any(|p| p.key == key)
        {
            return false;
        }
        if let Some(c) = self.containers.get(&key) {
            return c.live.is_none() && comes_again(c.record.restart, c.record.state.cause.as_ref());
        }
        // Of a deployment's revisions only the newest takes over.
        let name = &held.ticket.name;
        let newer = |h: &super::Held| h.ticket.name == *name && h.ticket.sequence > held.ticket.sequence;
        (held.local || self.complete) && !self.tickets.values().any(newer)
    }

    /// Ends the spares of a ticket, or of one container.
    pub(super) fn drop_spares(&mut self, ticket: &Digest, index: Option<u16>) {
        self.drop_spares_if(|p| p.key.0 == *ticket && index.is_none_or(|i| i == p.key.1));
    }

    /// Ends all spares of a zygote that takes no more.
    pub(super) fn drop_spares_of(&mut self, zygote: u64) {
        self.drop_spares_if(|p| p.zygote == zygote);
    }

    /// Ends all of them.
    pub(super) fn drop_all_spares(&mut self) {
        self.spares.look.clear();
        self.drop_spares_if(|_| true);
    }

    fn drop_spares_if(&mut self, which: impl Fn(&Prepared) -> bool) {
        for spare in self.spares.all.values_mut().filter(|s| which(&s.prepared)) {
            spare.prepared.end();
            spare.discarded = true;
        }
    }

    /// Nobody is to have this any more.
    pub(super) fn discard(&mut self, prepared: Prepared) {
        prepared.end();
        self.spares.all.insert(prepared.stream, Spare { prepared, discarded: true });
    }

    /// The zygote has forked one.
    pub(super) fn spare_forked(&mut self, stream: u64, pid: u32, pidfd: OwnedFd) {
        let Some(spare) = self.spares.all.get_mut(&stream) else { return };
        spare.prepared.process = Some(Process { pid, start_ticks: start_ticks(pid).unwrap_or(0), pidfd });
        if spare.discarded {
            spare.prepared.end();
        }
    }

    /// One is gone.
    pub(super) fn spare_gone(&mut self, stream: u64, why: Option<&str>) {
        let Some(Spare { prepared, discarded }) = self.spares.all.remove(&stream) else { return };
        let place = entries::place_of(&self.layout, prepared.key);
        // There is none of one that was never forked.
        let _ = std::fs::remove_file(folder_of(&place, prepared.key).join(format!("end-{stream}")));
        self.bury(Grave::of(prepared.group));
        if !discarded {
            say::line(format!(
                "a spare ended before it was wanted{}",
                why.map_or(String::new(), |w| format!(": {w}"))
            ));
        }
    }

    /// A zygote is gone, and with it those that it had not forked; the others see that their gate closes.
    pub(super) fn spares_lost(&mut self, zygote: u64) {
        self.drop_spares_of(zygote);
        let gone: Vec<u64> = self
            .spares
            .all
            .values()
            .map(|s| &s.prepared)
            .filter(|p| p.zygote == zygote)
            .map(|p| p.stream)
            .collect();
        for stream in gone {
            self.spare_gone(stream, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_started_again_by_itself_has_a_spare() {
        let (good, bad) = (Cause::Exited { code: 0 }, Cause::Exited { code: 1 });
        for (restart, cause, again) in [
            (Restart::Always, &good, true),
            (Restart::Always, &bad, true),
            (Restart::Always, &Cause::Stopped, false),
            (Restart::OnFailure, &good, false),
            (Restart::OnFailure, &bad, true),
            (Restart::OnFailure, &Cause::OomKilled, true),
            (Restart::Never, &bad, false),
        ] {
            assert_eq!(comes_again(restart, Some(cause)), again, "{restart:?} {cause:?}");
        }
        assert!(!comes_again(Restart::Always, None));
    }
}
