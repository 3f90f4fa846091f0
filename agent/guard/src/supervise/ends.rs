//! Ends that supervise brings about: a limit of time, a probe that fails. And when a container that runs wants a look.

use super::Supervise;
use super::container::Key;
use super::probes::Helper;
use super::probes::count::Probes;
use super::probes::fresh::Seen;
use rustix::process::Signal;
use shoal_ipc::{Limits, ProbeKind, TicketContainer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Why supervise killed a container that nobody asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It ran for as long as it may.
    TimeLimit,
    /// A probe or its first hook failed.
    Unhealthy,
}

/// What is kept of a running container beside its process. Empty for one that is found again, until its ticket comes.
#[derive(Debug, Default)]
pub(crate) struct Care {
    pub(crate) probes: Probes,
    /// What file probes saw.
    pub(crate) seen: BTreeMap<ProbeKind, Seen>,
    /// Helpers that ask.
    pub(crate) helpers: Vec<Helper>,
    /// How long it may run.
    pub(crate) wall: Option<Duration>,
    /// CPU microseconds that it may use.
    pub(crate) cpu: Option<u64>,
    /// Its hook after the start runs.
    pub(crate) post_start: bool,
    /// Its standard input is open until it is asked to end.
    pub(crate) stdin: bool,
    /// It has a hook before its end.
    pub(crate) pre_stop: bool,
    /// Killed by supervise's own decision.
    pub(crate) killed: Option<Why>,
    /// Filled from its ticket.
    pub(crate) known: bool,
}

impl Care {
    /// For a container that has run for `ran`; `started` says that its startup probe passed before.
    pub(crate) fn of(c: &TicketContainer, limits: &Limits, ran: Duration, started: bool) -> Self {
        Self {
            probes: Probes::new(&c.probes, ran, started),
            wall: limits.wall_seconds.map(Duration::from_secs),
            cpu: limits.cpu_seconds.map(|s| s.saturating_mul(1_000_000)),
            stdin: c.stdin,
            pre_stop: c.pre_stop.is_some(),
            known: true,
            ..Self::default()
        }
    }

    /// When, after its start, it wants a look.
    pub(crate) fn next(&self) -> Option<Duration> {
        let alive = self.killed.is_none();
        [self.wall, self.probes.next()].into_iter().flatten().min().filter(|_| alive)
    }

    /// Whether, but for its ten seconds, it counts as healthy.
    pub(crate) fn is_well(&self) -> bool {
        self.killed.is_none() && !self.post_start && self.probes.all_pass()
    }

    /// Whether a kill that nobody here ordered was for spent CPU time. The kernel spends that limit by its ticks and counts the
    /// group exactly; under a small quota a third may lie between the two, so half of it used is enough to tell.
    /// Without a group the limit itself is all that is known.
    pub(crate) fn is_spent(&self, used: Option<u64>) -> bool {
        self.cpu.is_some_and(|all| used.is_none_or(|used| used.saturating_mul(2) >= all))
    }
}

impl Supervise {
    /// Kills a container for this reason, which becomes the cause of its end.
    pub(super) fn kill_for(&mut self, key: Key, why: Why) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = c.live.as_mut().filter(|l| l.ending.is_none()) else { return };
        live.care.killed.get_or_insert(why);
        live.care.helpers.clear();
        // Gone already is what was wanted.
        live.signal(Signal::KILL);
        self.hierarchy.group(&c.record.group).kill();
        self.end_entries(key);
    }

    /// Limits of time and probes of a container whose time has come.
    pub(super) fn care_due(&mut self, key: Key, now: Instant) {
        let Some(live) = self.containers.get(&key).and_then(|c| c.live.as_ref()) else { return };
        if live.care.killed.is_some() {
            return;
        }
        if live.care.wall.is_some_and(|most| live.since + most <= now) {
            return self.kill_for(key, Why::TimeLimit);
        }
        self.probes_due(key, now);
    }

    /// A ticket is there: containers found running before it came are cared for from now on.
    pub(super) fn resume_care(&mut self, ticket: &shoal_ipc::Digest) {
        let Some(held) = self.tickets.get(ticket) else { return };
        let ticket = &held.ticket;
        for (key, c) in self.containers.iter_mut().filter(|(k, _)| k.0 == ticket.id) {
            let (Some(live), Some(of)) = (c.live.as_mut(), ticket.containers.get(usize::from(key.1))) else {
                continue;
            };
            if !live.care.known {
                let limits = super::container::within(&of.limits, &ticket.limits);
                let s = &c.record.state;
                let started = s.healthy || s.ready == Some(true);
                live.care =
                    Care { killed: live.care.killed, ..Care::of(of, &limits, live.since.elapsed(), started) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_looked_at_for_its_limit_or_a_probe_and_never_else() {
        let mut care = Care::default();
        assert_eq!(care.next(), None);
        care.wall = Some(Duration::from_secs(61));
        assert_eq!(care.next(), Some(Duration::from_secs(61)));
        care.killed = Some(Why::TimeLimit);
        assert_eq!(care.next(), None);
    }

    #[test]
    fn c6_spent_cpu_time_is_told_from_less() {
        let care = Care { cpu: Some(2_000_000), ..Care::default() };
        assert!(care.is_spent(Some(1_300_000)) && care.is_spent(Some(2_100_000)) && care.is_spent(None));
        assert!(!care.is_spent(Some(900_000)));
        assert!(!Care::default().is_spent(Some(u64::MAX / 2)) && !Care::default().is_spent(None));
    }
}
