//! Wall time in whole seconds, for records that outlive the process.

/// Seconds since 1970; 0 for a clock before that.
pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    now.saturating_sub(crate::points::clock_behind())
}
