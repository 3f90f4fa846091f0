//! Pure decisions of the controller: selection, waves, health gates, what a device is sent; and the JSON of its API.
//!
//! Never here: I/O, a clock, randomness, async. Time is a parameter, and health is counted from signed facts only.
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod cri;
pub mod fit;
pub mod receipt;
pub mod rollout;
pub mod selector;
pub mod sync;
pub mod view;

use shoal_protocol::ids::Timestamp;

/// Seconds of silence after which nothing is known of a device any more: three missed keep-alives.
pub const HEARTBEAT_LIMIT: u64 = 180;

/// Whether a device is there (U8): silence beyond [`HEARTBEAT_LIMIT`] is `unknown`, whatever it said last.
pub fn device_state(revoked: bool, last_seen: Option<Timestamp>, now: Timestamp) -> api::DeviceState {
    match last_seen {
        _ if revoked => api::DeviceState::Revoked,
        None => api::DeviceState::Enrolled,
        Some(seen) if now.0.saturating_sub(seen.0) > HEARTBEAT_LIMIT => api::DeviceState::Unknown,
        Some(_) => api::DeviceState::Online,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::DeviceState::{Enrolled, Online, Revoked, Unknown};

    #[test]
    fn u8_silence_beyond_the_heartbeat_limit_is_unknown() {
        let seen = Some(Timestamp(1000));
        assert_eq!(device_state(false, seen, Timestamp(1000 + HEARTBEAT_LIMIT)), Online);
        assert_eq!(device_state(false, seen, Timestamp(1001 + HEARTBEAT_LIMIT)), Unknown);
        assert_eq!(device_state(false, None, Timestamp(9)), Enrolled);
        assert_eq!(device_state(true, seen, Timestamp(1000)), Revoked);
        // A clock that was set back makes nobody unknown.
        assert_eq!(device_state(false, seen, Timestamp(5)), Online);
    }
}
