//! How long to wait before trying again: containers, downloads and connections. Arithmetic only.

use shoal_protocol::ids::Timestamp;

/// First wait before a container starts again, seconds.
pub const RESTART_BASE: u64 = 10;
/// Longest wait before a container starts again, seconds.
pub const RESTART_CAP: u64 = 300;
/// A container that ran this long, in seconds, is no longer held to its earlier ends.
pub const RESTART_RESET: u64 = 600;
/// First wait before a failed fetch is tried again, seconds.
pub const FETCH_BASE: u64 = 5;
/// Longest wait before a failed fetch is tried again, seconds.
pub const FETCH_CAP: u64 = 300;
/// The widest first wait before connecting again, milliseconds.
pub const CONNECT_BASE_MS: u64 = 4_000;
/// The widest wait before connecting again, milliseconds.
pub const CONNECT_CAP_MS: u64 = 300_000;
/// The first wait before an operator's approval is asked for again, milliseconds.
const APPROVAL_BASE_MS: u64 = 2_000;
/// The longest.
const APPROVAL_CAP_MS: u64 = 30_000;
/// The shortest wait before connecting again, milliseconds.
pub const CONNECT_FLOOR_MS: u64 = 100;

pub(crate) fn doubled(base: u64, cap: u64, failures: u32) -> u64 {
    base.checked_shl(failures.saturating_sub(1).min(32)).unwrap_or(cap).min(cap)
}

/// Seconds until a container starts again after its `failures`-th end in a row (from 1): 10 s doubling to 5 min, and up to a
/// tenth more, drawn from `entropy`.
pub fn restart_delay(failures: u32, entropy: u64) -> u64 {
    let delay = doubled(RESTART_BASE, RESTART_CAP, failures);
    delay + entropy % (delay / 10 + 1)
}

/// Seconds until a fetch is tried again after its `failures`-th failure in a row (from 1), with the same spread.
pub fn fetch_delay(failures: u32, entropy: u64) -> u64 {
    let delay = doubled(FETCH_BASE, FETCH_CAP, failures);
    delay + entropy % (delay / 10 + 1)
}

/// Milliseconds until connecting again after `failures` attempts in a row failed (from 1). Full jitter: anywhere between the
/// floor and a bound that doubles to five minutes, so that a fleet which lost its broker comes back spread out (B4).
pub fn connect_delay_ms(failures: u32, entropy: u64) -> u64 {
    let bound = doubled(CONNECT_BASE_MS, CONNECT_CAP_MS, failures);
    CONNECT_FLOOR_MS + entropy % (bound - CONNECT_FLOOR_MS)
}

/// When a wait that was to end at `until` really ends: never later than `cap` seconds from `now`, so that a clock which
/// stepped back cannot stretch a wait.
pub fn clamp(until: Timestamp, now: Timestamp, cap: u64) -> Timestamp {
    until.min(now.plus(cap))
}

/// Milliseconds until a device that waits for its operator asks for the `asked`-th time again (from 1): soon at first,
/// since the operator may sit beside it. Up to a quarter more from `entropy`.
pub fn approval_delay_ms(asked: u32, entropy: u64) -> u64 {
    let delay = doubled(APPROVAL_BASE_MS, APPROVAL_CAP_MS, asked);
    delay + entropy % (delay / 4 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn f4_restart_delay_doubles_from_ten_seconds_to_five_minutes() {
        let delays: Vec<u64> = (1..=8).map(|n| restart_delay(n, 0)).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(restart_delay(u32::MAX, 0), 300);
    }

    #[test]
    fn clamp_forgets_a_wait_that_a_clock_step_stretched() {
        assert_eq!(clamp(Timestamp(2_000_000_000), Timestamp(100), 300), Timestamp(400));
        assert_eq!(clamp(Timestamp(150), Timestamp(100), 300), Timestamp(150));
    }

    proptest! {
        #[test]
        fn b4_reconnects_are_spread_over_the_whole_bound(failures in 1_u32..40, entropy: u64) {
            let d = connect_delay_ms(failures, entropy);
            prop_assert!((CONNECT_FLOOR_MS..CONNECT_CAP_MS).contains(&d));
            let later = connect_delay_ms(failures, entropy.wrapping_add(1));
            prop_assert!(later == d + 1 || later == CONNECT_FLOOR_MS, "neighbouring entropy lands elsewhere");
        }

        #[test]
        fn f4_jitter_adds_at_most_a_tenth(failures: u32, entropy: u64) {
            let base = restart_delay(failures, 0);
            let d = restart_delay(failures, entropy);
            prop_assert!(d >= base && d <= base + base / 10);
        }
    }

    #[test]
    fn an_approval_is_asked_for_soon_and_never_seldom() {
        assert_eq!(
            [1, 2, 3, 9, u32::MAX].map(|n| approval_delay_ms(n, 0)),
            [2_000, 4_000, 8_000, 30_000, 30_000]
        );
        assert!((30_000..=37_500).contains(&approval_delay_ms(9, u64::MAX)));
    }
}
