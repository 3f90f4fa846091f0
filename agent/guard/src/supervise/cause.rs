//! How a container ended: one decision from all that is known.

use super::ends::Why;
use shoal_ipc::{Cause, EndRecord, Restart};

/// What is known of an end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// `Ok(code)` or `Err(signal)`; absent when somebody else reaped it.
    pub(crate) status: Option<Result<i32, i32>>,
    /// What the runner wrote.
    pub(crate) record: Option<EndRecord>,
    /// Whether the kernel's OOM killer took a process of its group.
    pub(crate) oom: bool,
    /// Whether it was being stopped on request.
    pub(crate) stopping: bool,
    /// Why supervise killed it of its own accord.
    pub(crate) killed: Option<Why>,
    /// Whether its group used all CPU time that it had.
    pub(crate) spent: bool,
    /// Why it never ran, when supervise knows.
    pub(crate) refused: Option<(String, String)>,
}

/// Requests to stop.
const STOP_SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// The cause. What the guest did by itself counts before what was asked of it meanwhile.
pub(crate) fn combine(e: Evidence) -> Cause {
    if let Some((code, detail)) = e.refused {
        return Cause::Refused { code, detail }.bounded();
    }
    match e.record {
        Some(EndRecord::Exit { code }) => return Cause::Exited { code },
        Some(EndRecord::Trap { message }) => return Cause::Trap { message }.bounded(),
        Some(EndRecord::GuestMemory) => return Cause::GuestMemory,
        Some(EndRecord::Refused { code, message }) => {
            return Cause::Refused { code, detail: message }.bounded();
        }
        None => {}
    }
    if e.oom {
        return Cause::OomKilled;
    }
    match e.killed {
        Some(Why::TimeLimit) => return Cause::TimeLimit,
        Some(Why::Unhealthy) => return Cause::Unhealthy,
        None => {}
    }
    // The kernel kills for spent time as for anything else; the count of the group tells.
    if e.spent && !e.stopping && matches!(e.status, None | Some(Err(libc::SIGKILL))) {
        return Cause::CpuLimit;
    }
    if e.stopping {
        return Cause::Stopped;
    }
    match e.status {
        // Compiled code faults by signal where an interpreter would trap (an exhausted stack, for one).
        Some(Err(n)) if [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL].contains(&n) => {
            Cause::Trap { message: format!("the guest's code died by signal {n}: is its stack exhausted?") }
        }
        Some(Err(n)) => Cause::Signal { number: n.cast_unsigned() },
        // The first process of a namespace ends by itself on such a signal, with the shell's number for it.
        Some(Ok(code)) if STOP_SIGNALS.contains(&(code - 128)) => {
            Cause::Signal { number: (code - 128).cast_unsigned() }
        }
        Some(Ok(code)) => {
            let detail = format!("the runner exited with {code} and said nothing; see the container's log");
            Cause::Refused { code: "unknown".into(), detail }
        }
        None => Cause::Unknown,
    }
}

/// Whether an end counts as healthy: exited 0 where it need not run on.
pub(crate) fn is_healthy_end(cause: &Cause, restart: Restart) -> bool {
    matches!(cause, Cause::Exited { code: 0 }) && restart != Restart::Always
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_every_end_has_its_cause() {
        let e = Evidence::default;
        let trap = EndRecord::Trap { message: "unreachable".into() };
        for (evidence, cause) in [
            (
                Evidence { status: Some(Ok(0)), record: Some(EndRecord::Exit { code: 3 }), ..e() },
                Cause::Exited { code: 3 },
            ),
            (
                Evidence { status: Some(Ok(0)), record: Some(trap), ..e() },
                Cause::Trap { message: "unreachable".into() },
            ),
            (Evidence { record: Some(EndRecord::GuestMemory), ..e() }, Cause::GuestMemory),
            (Evidence { status: Some(Err(9)), oom: true, ..e() }, Cause::OomKilled),
            (Evidence { status: Some(Err(9)), oom: true, stopping: true, ..e() }, Cause::OomKilled),
            (Evidence { status: Some(Err(15)), stopping: true, ..e() }, Cause::Stopped),
            (Evidence { status: Some(Err(9)), ..e() }, Cause::Signal { number: 9 }),
            (Evidence { status: Some(Err(9)), killed: Some(Why::TimeLimit), ..e() }, Cause::TimeLimit),
            (Evidence { status: Some(Err(9)), killed: Some(Why::Unhealthy), ..e() }, Cause::Unhealthy),
            (
                Evidence { status: Some(Err(9)), killed: Some(Why::TimeLimit), oom: true, ..e() },
                Cause::OomKilled,
            ),
            (Evidence { status: Some(Err(9)), spent: true, ..e() }, Cause::CpuLimit),
            (Evidence { status: None, spent: true, ..e() }, Cause::CpuLimit),
            (Evidence { status: Some(Err(9)), spent: true, stopping: true, ..e() }, Cause::Stopped),
            (Evidence { status: None, ..e() }, Cause::Unknown),
            (
                Evidence { status: None, record: Some(EndRecord::Exit { code: 0 }), ..e() },
                Cause::Exited { code: 0 },
            ),
        ] {
            assert_eq!(combine(evidence.clone()), cause, "{evidence:?}");
        }
        assert!(matches!(combine(Evidence { status: Some(Err(11)), ..e() }), Cause::Trap { .. }));
        assert!(matches!(combine(Evidence { status: Some(Ok(127)), ..e() }), Cause::Refused { .. }));
    }

    #[test]
    fn exit_0_is_healthy_only_where_it_need_not_run_on() {
        let zero = Cause::Exited { code: 0 };
        assert!(is_healthy_end(&zero, Restart::Never) && is_healthy_end(&zero, Restart::OnFailure));
        assert!(!is_healthy_end(&zero, Restart::Always));
        assert!(!is_healthy_end(&Cause::Exited { code: 1 }, Restart::Never));
    }
}
