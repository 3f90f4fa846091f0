//! Randomness for spreading waits. Never for keys.

/// Eight bytes of it; on a system that gives none, what the clock has.
pub(crate) fn draw() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::from(d.subsec_nanos()))
    })
}
