//! One container's probes as counters: when which is asked, and what their answers come to. Pure; time is given.
//!
//! As in Kubernetes: while a startup probe has not passed, nothing else is asked; a liveness probe counts as passing until
//! it failed often enough, a readiness probe as failing until it passed often enough. Times count from the start.

use shoal_ipc::{ProbeAction, ProbeKind, TicketProbe};
use std::time::Duration;

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: ProbeKind,
    pub(crate) passed: bool,
}

#[derive(Debug)]
struct Probe {
    spec: TicketProbe,
    /// When it is asked next; nothing while its answer is waited for.
    next: Option<Duration>,
    /// When it was asked, while its answer is waited for.
    asked: Option<Duration>,
    failures: u32,
    successes: u32,
    /// What its answers come to so far.
    passed: Option<bool>,
}

/// All of one container.
#[derive(Debug, Default)]
pub(crate) struct Probes(Vec<Probe>);

fn seconds(n: u32) -> Duration {
    Duration::from_secs(n.into())
}

impl Probes {
    /// Of a container that starts now, or of one that is found running after `ran`; `started` says that its startup
    /// probe passed before.
    pub(crate) fn new(specs: &[TicketProbe], ran: Duration, started: bool) -> Self {
        let probe = |spec: &TicketProbe| Probe {
            spec: spec.clone(),
            next: Some(seconds(spec.initial_delay).max(ran)),
            asked: None,
            failures: 0,
            successes: 0,
            passed: (started && spec.kind == ProbeKind::Startup).then_some(true),
        };
        Self(specs.iter().map(probe).collect())
    }

    fn starting(&self) -> bool {
        self.0.iter().any(|p| p.spec.kind == ProbeKind::Startup && p.passed != Some(true))
    }

    fn is_open(&self, p: &Probe) -> bool {
        match p.spec.kind {
            ProbeKind::Startup => p.passed.is_none(),
            _ => !self.starting(),
        }
    }

    /// When to look again: an answer is due, or something is to be asked.
    pub(crate) fn next(&self) -> Option<Duration> {
        let one = |p: &Probe| match p.asked {
            Some(asked) => Some(asked + seconds(p.spec.timeout)),
            None => p.next.filter(|_| self.is_open(p)),
        };
        self.0.iter().filter_map(one).min()
    }

    /// What is to be asked now; each is waited for from here on.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<(ProbeKind, ProbeAction)> {
        let open: Vec<bool> = self.0.iter().map(|p| self.is_open(p)).collect();
        let mut all = Vec::new();
        for (p, open) in self.0.iter_mut().zip(open) {
            if open && p.next.is_some_and(|t| t <= now) {
                (p.next, p.asked) = (None, Some(now));
                all.push((p.spec.kind, p.spec.action.clone()));
            }
        }
        all
    }

    /// Those whose answer did not come in time, with the seconds that they had.
    pub(crate) fn overdue(&self, now: Duration) -> Vec<(ProbeKind, u32)> {
        let late = |p: &&Probe| p.asked.is_some_and(|asked| asked + seconds(p.spec.timeout) <= now);
        self.0.iter().filter(late).map(|p| (p.spec.kind, p.spec.timeout)).collect()
    }

    /// An answer. One that nobody waits for (it came too late) changes nothing.
    pub(crate) fn answer(&mut self, kind: ProbeKind, good: bool, now: Duration) -> Option<Change> {
        let p = self.0.iter_mut().find(|p| p.spec.kind == kind)?;
        let asked = p.asked.take()?;
        // From the last question, not from its answer: a slow answer does not stretch the period.
        p.next = Some((asked + seconds(p.spec.period)).max(now));
        let settled = if good {
            (p.failures, p.successes) = (0, p.successes.saturating_add(1));
            (p.successes >= p.spec.successes).then_some(true)
        } else {
            (p.successes, p.failures) = (0, p.failures.saturating_add(1));
            (p.failures >= p.spec.failures).then_some(false)
        };
        if settled.is_none() || settled == p.passed {
            return None;
        }
        p.passed = settled;
        let change = Change { kind, passed: settled? };
        if kind == ProbeKind::Startup {
            // The others' delays begin here.
            for other in self.0.iter_mut().filter(|o| o.spec.kind != ProbeKind::Startup) {
                other.next = Some(now + seconds(other.spec.initial_delay));
            }
        }
        Some(change)
    }

    /// Whether each of them passes: what a container needs, beside its ten seconds, to count as healthy.
    pub(crate) fn all_pass(&self) -> bool {
        self.0.iter().all(|p| p.passed == Some(true))
    }

    /// Whether the readiness probe passes; nothing without one.
    pub(crate) fn ready(&self) -> Option<bool> {
        let p = self.0.iter().find(|p| p.spec.kind == ProbeKind::Readiness)?;
        Some(p.passed == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: ProbeKind) -> TicketProbe {
        let action = ProbeAction::Tcp { port: 1 };
        TicketProbe { kind, action, initial_delay: 0, period: 10, timeout: 1, failures: 3, successes: 1 }
    }

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn fresh(specs: &[TicketProbe]) -> Probes {
        Probes::new(specs, s(0), false)
    }

    fn kinds(asked: Vec<(ProbeKind, ProbeAction)>) -> Vec<ProbeKind> {
        asked.into_iter().map(|(k, _)| k).collect()
    }

    #[test]
    fn a_period_counts_from_question_to_question_and_nothing_wakes_between() {
        let mut p = fresh(&[TicketProbe { initial_delay: 5, ..spec(ProbeKind::Liveness) }]);
        assert_eq!(p.next(), Some(s(5)));
        assert!(p.due(s(4)).is_empty());
        assert_eq!(kinds(p.due(s(5))), [ProbeKind::Liveness]);
        assert_eq!(p.next(), Some(s(6)), "the time-out");
        assert!(p.due(s(6)).is_empty(), "never two at a time");
        p.answer(ProbeKind::Liveness, true, Duration::from_millis(5_900));
        assert_eq!(p.next(), Some(s(15)));
    }

    #[test]
    fn a_question_without_an_answer_is_overdue_at_its_time_out_and_a_late_answer_counts_not() {
        let mut p = fresh(&[spec(ProbeKind::Liveness)]);
        p.due(s(0));
        assert!(p.overdue(Duration::from_millis(999)).is_empty());
        assert_eq!(p.overdue(s(1)), [(ProbeKind::Liveness, 1)]);
        assert_eq!(p.answer(ProbeKind::Liveness, false, s(1)), None);
        assert_eq!(p.answer(ProbeKind::Liveness, true, s(2)), None);
        assert!(!p.all_pass());
    }

    #[test]
    fn only_failures_in_a_row_make_a_failure() {
        let mut p = fresh(&[spec(ProbeKind::Liveness)]);
        let mut ask = |good, at| {
            p.due(s(at));
            p.answer(ProbeKind::Liveness, good, s(at))
        };
        assert_eq!(ask(true, 0), Some(Change { kind: ProbeKind::Liveness, passed: true }));
        assert_eq!((ask(false, 10), ask(false, 20), ask(true, 30)), (None, None, None));
        assert_eq!((ask(false, 40), ask(false, 50)), (None, None));
        assert_eq!(ask(false, 60), Some(Change { kind: ProbeKind::Liveness, passed: false }));
    }

    #[test]
    fn readiness_begins_as_not_ready_and_needs_its_successes_in_a_row() {
        let mut p = fresh(&[TicketProbe { successes: 2, failures: 1, ..spec(ProbeKind::Readiness) }]);
        assert_eq!(p.ready(), Some(false));
        let mut ask = |good, at| {
            p.due(s(at));
            p.answer(ProbeKind::Readiness, good, s(at)).map(|c| c.passed)
        };
        assert_eq!((ask(true, 0), ask(false, 10)), (None, Some(false)));
        assert_eq!((ask(true, 20), ask(true, 30), ask(true, 40)), (None, Some(true), None));
        assert_eq!(ask(false, 50), Some(false));
        assert_eq!(p.ready(), Some(false));
        assert_eq!(fresh(&[spec(ProbeKind::Liveness)]).ready(), None);
    }

    #[test]
    fn nothing_else_is_asked_before_the_startup_probe_passed_and_it_never_again() {
        let live = TicketProbe { initial_delay: 2, ..spec(ProbeKind::Liveness) };
        let mut p = fresh(&[live, spec(ProbeKind::Startup)]);
        assert_eq!(kinds(p.due(s(9))), [ProbeKind::Startup]);
        p.answer(ProbeKind::Startup, true, s(9));
        assert_eq!(p.next(), Some(s(11)), "the delay begins when it is up");
        assert_eq!(kinds(p.due(s(60))), [ProbeKind::Liveness]);
        assert!(!p.all_pass());
        p.answer(ProbeKind::Liveness, true, s(60));
        assert!(p.all_pass());
    }

    #[test]
    fn f6_found_again_it_is_asked_at_once_and_its_startup_counts() {
        let p = Probes::new(&[spec(ProbeKind::Startup), spec(ProbeKind::Liveness)], s(100), true);
        assert_eq!(p.next(), Some(s(100)));
        assert!(!p.starting());
    }
}
