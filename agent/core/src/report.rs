//! When the next report is due: changes are gathered for a moment, outcomes go soon, an idle device is quiet.

/// Milliseconds that an outcome waits for others to join it.
pub const OUTCOME_MS: u64 = 40;
/// Milliseconds that mere progress waits.
pub const PROGRESS_MS: u64 = 1_000;
/// Milliseconds between two reports at least.
pub const GAP_MS: u64 = 250;
/// Milliseconds after which measurements alone are worth a report.
pub const IDLE_MS: u64 = 3 * 3_600 * 1_000;

/// What changed since the last report, by weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Change {
    /// Nothing but measurements.
    #[default]
    None,
    /// A step on the way: pulling, compiling.
    Progress,
    /// Something that somebody waits for: running, healthy, failed, refused, removed.
    Outcome,
}

/// Gathers changes until they are worth a report. Times are milliseconds of one clock that never steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Coalescer {
    pending: Change,
    due: Option<u64>,
    last: Option<u64>,
}

impl Coalescer {
    /// Something changed at `now`.
    pub fn note(&mut self, change: Change, now: u64) {
        let wait = match change {
            Change::None => return,
            Change::Progress => PROGRESS_MS,
            Change::Outcome => OUTCOME_MS,
        };
        let earliest = self.last.map_or(now, |t| t.saturating_add(GAP_MS));
        let due = now.saturating_add(wait).max(earliest);
        self.pending = self.pending.max(change);
        self.due = Some(self.due.map_or(due, |d| d.min(due)));
    }

    /// When the next report is due. Before the first one that is at once.
    pub fn due(&self) -> u64 {
        match (self.due, self.last) {
            (Some(d), _) => d,
            (None, Some(last)) => last.saturating_add(IDLE_MS),
            (None, None) => 0,
        }
    }

    /// A report was made at `now`.
    pub fn sent(&mut self, now: u64) {
        *self = Self { pending: Change::None, due: None, last: Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_report_is_due_at_once_and_an_idle_device_reports_eight_times_a_day() {
        let mut c = Coalescer::default();
        assert_eq!(c.due(), 0);
        c.sent(5);
        assert_eq!(c.due(), 5 + IDLE_MS);
    }

    #[test]
    fn an_outcome_overtakes_progress_and_keeps_the_gap() {
        let mut c = Coalescer::default();
        c.sent(1_000);
        c.note(Change::Progress, 1_010);
        assert_eq!(c.due(), 2_010);
        c.note(Change::Outcome, 1_020);
        assert_eq!(c.due(), 1_250, "not sooner than the gap after the last");
        c.note(Change::Outcome, 1_240);
        assert_eq!(c.due(), 1_250, "later changes join, they don't postpone");
        c.note(Change::None, 9_000);
        assert_eq!(c.due(), 1_250);
    }
}
