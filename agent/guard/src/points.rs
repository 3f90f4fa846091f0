//! Named points at which a test can kill this process; nothing without the feature `failpoints`.
//!
//! With the feature, `SHOAL_GUARD_KILL_AT=NAME@N` sends the process SIGKILL at the N-th pass (from 1), once: only if
//! the file that `SHOAL_GUARD_KILL_ONCE` names is there, which it removes first (F1). `shoal-guard points` lists them.

/// All of them.
#[cfg(feature = "failpoints")]
const ALL: [&str; 12] = [
    "admit::verified",
    "admit::before_commit",
    "admit::committed",
    "admit::told",
    "admit::fact",
    "admit::enroll",
    "supervise::recorded",
    "supervise::end",
    "supervise::release_placed",
    "supervise::release_switched",
    "supervise::release_proved",
    "supervise::release_taken_back",
];

/// Passes a point.
pub(crate) fn point(name: &'static str) {
    #[cfg(feature = "failpoints")]
    debug_assert!(ALL.contains(&name), "{name} is not listed");
    fail::fail_point!(name);
    // Without the feature the macro is empty.
    let _ = name;
}

/// All names, a line each.
#[cfg(feature = "failpoints")]
pub(crate) fn list() -> String {
    ALL.map(|name| format!("{name}\n")).concat()
}

/// Seconds that a test puts the clock back by `SHOAL_CLOCK_BEHIND`.
#[cfg(feature = "failpoints")]
pub(crate) fn clock_behind() -> u64 {
    static BEHIND: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BEHIND.get_or_init(|| std::env::var("SHOAL_CLOCK_BEHIND").ok().and_then(|s| s.parse().ok()).unwrap_or(0))
}

/// No test puts the clock back.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub(crate) fn clock_behind() -> u64 {
    0
}

/// Arms the point that the environment names.
#[cfg(feature = "failpoints")]
pub(crate) fn arm() -> anyhow::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    let (Ok(spec), Some(once)) =
        (std::env::var("SHOAL_GUARD_KILL_AT"), std::env::var_os("SHOAL_GUARD_KILL_ONCE"))
    else {
        return Ok(());
    };
    let (name, nth) = spec.split_once('@').unwrap_or((&spec, "1"));
    let nth: u64 = nth.parse()?;
    anyhow::ensure!(ALL.contains(&name), "{name:?} is no point; `shoal-guard points` lists them");
    let passes = AtomicU64::new(0);
    let callback = move || {
        if passes.fetch_add(1, Ordering::Relaxed) + 1 >= nth && std::fs::remove_file(&once).is_ok() {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    };
    fail::cfg_callback(name, callback).map_err(anyhow::Error::msg)
}

/// Nothing to arm.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::unnecessary_wraps, reason = "as the other form")]
pub(crate) fn arm() -> anyhow::Result<()> {
    Ok(())
}
