//! The way back without a network: what an operator asks to be told, and what a device tells. Both are carried by hand.

use super::{Revision, SnapshotRef, Target};
use crate::ids::{Bytes, DeviceId, Digest, FleetId, Name, Timestamp};
use serde::{Deserialize, Serialize};

/// An operator's request for receipts. It counts only where the snapshot is held beside which it travels, so that an old
/// stick asks for nothing any more; it changes nothing on a device, and may be answered more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRequest {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// The snapshot beside which it travels.
    pub snapshot: SnapshotRef,
    /// Which devices are asked.
    pub target: Target,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// At most 31 days after `issued_at`.
    pub not_after: Timestamp,
    /// The last lines of each container's log, as far as the deployment's consent goes; 0 is none.
    pub logs: u64,
}

/// The last lines of one container's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLog {
    /// Deployment.
    pub name: Name,
    /// Which revision.
    pub revision: Revision,
    /// Container.
    pub container: Name,
    /// Whole lines in CRI log format.
    pub lines: Bytes,
}

/// A device's answer, signed by its identity key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The fleet.
    pub fleet: FleetId,
    /// From whom.
    pub device: DeviceId,
    /// Of receipts; only rises, gaps are allowed.
    pub counter: u64,
    /// When it was signed, by the device's clock.
    pub issued_at: Timestamp,
    /// The request that it answers, by identity.
    pub request: Digest,
    /// Envelope of the device's record.
    pub record: Bytes,
    /// Envelopes of reports that no controller has acknowledged, the oldest first; the newest always.
    pub reports: Vec<Bytes>,
    /// How many older ones had no room.
    pub left_out: u64,
    /// What the device would have sent to a controller to enrol ([`super::EnrollRequest`]), as long as none has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Bytes>,
    /// Logs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<ReceiptLog>,
}
