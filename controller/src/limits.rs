//! What the operating system lets this process have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but devices' connections: the store, the broker's pipes, requests.
const OWN: u64 = 1024;
/// Of a connection that goes on to the broker: the device's, and the broker's.
const EACH: u64 = 2;

/// Raises the soft limit of descriptors to the hard one, since the soft one is for programs that count them in bits (`select`);
/// what it is then.
pub(crate) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let reached = match setrlimit(Resource::Nofile, all) {
        Ok(()) => limit.maximum,
        Err(e) => {
            tracing::warn!("the limit of {:?} descriptors stays: {e}", limit.current);
            limit.current
        }
    };
    // Without a limit: as many as there are numbers for.
    reached.unwrap_or(u64::from(u32::MAX))
}

/// How many devices may be connected with so many descriptors, so that operators always find one.
pub(crate) fn room_for_devices(descriptors: u64) -> usize {
    let room = descriptors.saturating_sub(OWN.min(descriptors / 2)) / EACH;
    usize::try_from(room).unwrap_or(usize::MAX).min(tokio::sync::Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_leave_descriptors_for_operators() {
        assert_eq!(room_for_devices(20_000), 9_488);
        assert_eq!(room_for_devices(1024), 256);
        assert_eq!(room_for_devices(0), 0);
    }
}
