//! Time without trust in a clock: a floor that only rises stands in for a clock that is behind it.
//!
//! Pure; the clock is a parameter. The floor rises with accepted roots, snapshots and the token's minima only, so a
//! stolen deployment or controller key cannot move it.

use super::{TrustState, Viewpoint};
use crate::ids::Timestamp;
use crate::refusal::{Code, Refusal};

/// How far ahead of its time a device lets a document be signed: two years. It may have lain switched off that long
/// without a clock; what claims more is `time_jump`, so a stolen key cannot push the floor out of reach.
pub const DEVICE_AHEAD: u64 = 2 * YEAR;
/// The same for roots, so that a device off for longer can still walk the chain, which then raises the floor.
pub const ROOT_AHEAD: u64 = 20 * YEAR;
/// The same for controller and CLI, whose clocks are kept right.
pub const OBSERVER_AHEAD: u64 = DAY;
const YEAR: u64 = 366 * DAY;
const DAY: u64 = 24 * 3600;

/// The time that counts: the clock, or the floor when the clock is behind it.
/// Uptane §5.4.3.1 (the latest attested time); REQ.SEC.EXP. Here signed documents attest it.
pub fn effective(clock: Timestamp, floor: Timestamp) -> Timestamp {
    clock.max(floor)
}

/// Whether the clock can be right; a device with one that cannot reports `time_untrusted`.
pub fn is_trusted(clock: Timestamp, floor: Timestamp) -> bool {
    clock >= floor
}

pub(super) fn check_issued(
    state: &TrustState,
    time: Timestamp,
    issued_at: Timestamp,
    device_ahead: u64,
) -> Result<(), Refusal> {
    let ahead = match state.viewpoint {
        Viewpoint::Device => device_ahead,
        Viewpoint::Observer => OBSERVER_AHEAD,
    };
    if issued_at > time.plus(ahead) {
        return Err(Refusal::new(
            Code::TimeJump,
            format!("signed at {}, the time here is {}", issued_at.0, time.0),
        ));
    }
    Ok(())
}

pub(super) fn check_not_after(time: Timestamp, not_after: Timestamp, what: &str) -> Result<(), Refusal> {
    if time > not_after {
        return Err(Refusal::new(
            Code::Expired,
            format!("the {what} ended at {}, the time here is {}", not_after.0, time.0),
        ));
    }
    Ok(())
}
