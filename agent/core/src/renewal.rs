//! When a device's certificate is renewed, and when a failed try is repeated. Arithmetic only.

use crate::backoff;
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};

/// First wait after a failed renewal, seconds.
pub const RETRY_BASE: u64 = 60;
/// Longest wait after a failed renewal, seconds.
pub const RETRY_CAP: u64 = 6 * 60 * 60;
/// Shortest wait after a failed renewal, seconds, however little is left.
const RETRY_FLOOR: u64 = 5;

/// From when to when a certificate counts; both ends belong to it (RFC 5280 §4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Its first second.
    pub not_before: Timestamp,
    /// Its last second.
    pub not_after: Timestamp,
}

impl Life {
    /// How long it is, in seconds.
    pub fn length(&self) -> u64 {
        self.not_after.0.saturating_sub(self.not_before.0)
    }

    /// From when on it is renewed: at two thirds of its life, and up to a twelfth later, always the same for one device,
    /// so that a fleet that was set up in an hour does not renew in one.
    pub fn due(&self, device: &DeviceId) -> Timestamp {
        let [a, b, c, d, ..] = Digest::of(device.as_str().as_bytes()).0;
        let share = u64::from(u32::from_be_bytes([a, b, c, d]));
        let length = self.length();
        let spread = u64::try_from((u128::from(length / 12) * u128::from(share)) >> 32).unwrap_or(0);
        self.not_before.plus(length - length / 3 + spread)
    }

    /// Whether its last second has passed.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// Seconds of it that are left.
    pub fn left(&self, now: Timestamp) -> u64 {
        self.not_after.0.saturating_sub(now.0)
    }
}

/// What to do about a certificate now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing for so many seconds.
    Wait(u64),
    /// Ask for another.
    Renew,
}

/// What to do about a certificate with this life. `now` is never before what signed documents prove; `refused` says that
/// the controller called it expired, whose clock counts when the device's own is behind.
pub fn next(life: &Life, device: &DeviceId, now: Timestamp, refused: bool) -> Next {
    let due = life.due(device);
    if refused || now >= due { Next::Renew } else { Next::Wait(due.0 - now.0) }
}

/// Seconds until a renewal is tried again after its `failures`-th failure in a row (from 1), with `left` seconds of the
/// certificate: a minute doubling to six hours, and at least eight tries in what is left. Up to a tenth more from `entropy`.
pub fn retry_delay(failures: u32, left: u64, entropy: u64) -> u64 {
    let doubled = backoff::doubled(RETRY_BASE, RETRY_CAP, failures);
    // Once it has ended nothing is gained by hurry.
    let delay = if left == 0 { doubled } else { doubled.min((left / 8).max(RETRY_FLOOR)) };
    delay + entropy % (delay / 10 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    fn device(letter: &str) -> DeviceId {
        letter.repeat(32).parse().unwrap()
    }

    fn life() -> Life {
        Life { not_before: Timestamp(1_000 * DAY), not_after: Timestamp(1_090 * DAY) }
    }

    #[test]
    fn b6_it_is_renewed_between_two_thirds_and_three_quarters_and_always_then() {
        let due: Vec<u64> = ["a", "b", "c", "d"].iter().map(|d| life().due(&device(d)).0).collect();
        assert!(due.iter().all(|d| (1_060 * DAY..=1_068 * DAY).contains(d)), "{due:?}");
        assert_eq!(life().due(&device("a")).0, due[0]);
        assert!(due.iter().any(|d| *d != due[0]), "devices are spread");
    }

    #[test]
    fn b6_nothing_is_due_before_and_one_wait_covers_it() {
        let (life, device) = (life(), device("a"));
        let due = life.due(&device);
        let Next::Wait(wait) = next(&life, &device, life.not_before, false) else { panic!("too early") };
        assert_eq!(life.not_before.plus(wait), due);
        assert_eq!(next(&life, &device, Timestamp(due.0 - 1), false), Next::Wait(1));
        assert_eq!(next(&life, &device, due, false), Next::Renew);
        assert_eq!(next(&life, &device, Timestamp(u64::MAX), false), Next::Renew);
    }

    #[test]
    fn b6_a_clock_of_1970_waits_until_the_controller_says_that_it_expired() {
        let (life, device) = (life(), device("a"));
        assert!(matches!(next(&life, &device, Timestamp(0), false), Next::Wait(_)));
        assert!(!life.has_ended(Timestamp(0)));
        assert_eq!(next(&life, &device, Timestamp(0), true), Next::Renew);
    }

    #[test]
    fn the_last_second_still_counts() {
        assert!(!life().has_ended(life().not_after));
        assert!(life().has_ended(life().not_after.plus(1)));
    }

    #[test]
    fn retries_double_to_six_hours_and_come_closer_near_the_end() {
        let month: Vec<u64> = (1..=11).map(|n| retry_delay(n, 30 * DAY, 0)).collect();
        assert_eq!(month, [60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600]);
        assert_eq!(retry_delay(20, 8 * 3600, 0), 3600);
        assert_eq!(retry_delay(20, 1, 0), 5);
        assert_eq!(retry_delay(20, 0, 0), RETRY_CAP, "an ended certificate is no reason to hammer");
    }

    proptest! {
        #[test]
        fn due_is_inside_of_any_life(from in 0_u64..1 << 40, length in 0_u64..1 << 40, letter in "[a-z]") {
            let life = Life { not_before: Timestamp(from), not_after: Timestamp(from + length) };
            let due = life.due(&device(&letter));
            prop_assert!(due >= life.not_before && due <= life.not_after);
        }

        #[test]
        fn retry_adds_at_most_a_tenth_and_never_is_at_once(failures: u32, left: u64, entropy: u64) {
            let base = retry_delay(failures, left, 0);
            let d = retry_delay(failures, left, entropy);
            prop_assert!(base >= RETRY_FLOOR && d >= base && d <= base + base / 10);
        }
    }
}
