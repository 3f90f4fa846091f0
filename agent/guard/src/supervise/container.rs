//! One container as supervise keeps it in memory: its record, and what belongs to its live process.

use super::ends::Care;
use super::record::Record;
use rustix::process::{Signal, pidfd_send_signal};
use shoal_ipc::{Digest, DiskLimits, Limits};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// A container is one index of one ticket.
pub(crate) type Key = (Digest, u16);

/// Seconds that a container must run to count as healthy.
pub(crate) const HEALTHY_AFTER: u64 = 10;

/// A start that is not through yet.
#[derive(Debug)]
pub(crate) struct Starting {
    /// Who waits for the answer.
    pub(crate) peer: u64,
    /// The child says 1 once it is confined, or the step that failed; absent once it was heard.
    pub(crate) gate: Option<OwnedFd>,
}

/// A process that is gone, while its last lines are still on their way.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) status: Option<Result<i32, i32>>,
    pub(crate) refused: Option<(String, String)>,
    pub(crate) deadline: Instant,
}

/// A process that is there.
#[derive(Debug)]
pub(crate) struct Live {
    /// Absent until it is forked.
    pub(crate) pidfd: Option<OwnedFd>,
    /// The zygote that forked it, which tells of its end for as long as it is there.
    pub(crate) zygote: Option<u64>,
    pub(crate) area: Option<OwnedFd>,
    /// Read ends of its streams: kept here too, so that a restart of `log` breaks no pipe.
    pub(crate) pipes: Option<(OwnedFd, OwnedFd)>,
    pub(crate) starting: Option<Starting>,
    pub(crate) ending: Option<Ending>,
    /// Stopped on request; killed at this time.
    pub(crate) stop: Option<Stop>,
    pub(crate) since: Instant,
    pub(crate) care: Care,
}

impl Live {
    /// Sends a signal; one that is gone already is what was wanted, and one that is not there yet gets it later.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }
}

/// A stop on request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) kill_at: Option<Instant>,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: Record,
    pub(crate) live: Option<Live>,
}

impl Container {
    pub(crate) fn key(&self) -> Key {
        (self.record.state.ticket, self.record.state.index)
    }

    /// When this container wants to be looked at.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let live = self.live.as_ref()?;
        if let Some(ending) = &live.ending {
            return Some(ending.deadline);
        }
        if let Some(stop) = live.stop {
            return stop.kill_at;
        }
        if live.starting.is_some() {
            return None;
        }
        let health = (!self.record.state.healthy && live.care.is_well())
            .then(|| live.since + std::time::Duration::from_secs(HEALTHY_AFTER));
        let care = live.care.next().map(|t| live.since + t);
        [health, care].into_iter().flatten().min()
    }
}

/// A container's limits, none above its pod's: the kernel counts the pod as a whole, but a figure that could never be
/// reached would be a lie in every report, and v1 refuses a quota above the parent's.
pub(crate) fn within(own: &Limits, pod: &Limits) -> Limits {
    let lower = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, _) => a,
    };
    let mut all = own.clone();
    all.memory = lower(own.memory, pod.memory);
    all.pids = lower(own.pids, pod.pids);
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    all.cpu_seconds = least(own.cpu_seconds, pod.cpu_seconds);
    all.wall_seconds = least(own.wall_seconds, pod.wall_seconds);
    all.disk = DiskLimits {
        read_bps: lower(own.disk.read_bps, pod.disk.read_bps),
        write_bps: lower(own.disk.write_bps, pod.disk.write_bps),
        read_iops: lower(own.disk.read_iops, pod.disk.read_iops),
        write_iops: lower(own.disk.write_iops, pod.disk.write_iops),
    };
    if let (Some(quota), Some(pod_quota)) = (own.cpu_quota, pod.cpu_quota) {
        let period = own.cpu_period.unwrap_or(100_000);
        let pod_period = pod.cpu_period.unwrap_or(100_000).max(1);
        let most = u128::from(pod_quota) * u128::from(period) / u128::from(pod_period);
        all.cpu_quota = Some(quota.min(u64::try_from(most).unwrap_or(u64::MAX)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_limits_end_at_its_pods() {
        let pod = Limits {
            memory: Some(100),
            pids: Some(4),
            cpu_quota: Some(300_000),
            cpu_period: Some(100_000),
            ..Limits::default()
        };
        let own = Limits {
            memory: Some(200),
            cpu_quota: Some(40_000),
            cpu_period: Some(10_000),
            cpu_shares: Some(512),
            ..Limits::default()
        };
        let all = within(&own, &pod);
        assert_eq!((all.memory, all.pids, all.cpu_shares), (Some(100), None, Some(512)));
        assert_eq!(all.cpu_quota, Some(30_000), "three CPUs, in the container's own period");
        assert_eq!(within(&own, &Limits::default()), own);
    }
}
