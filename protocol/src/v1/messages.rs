//! What crosses the wire unsigned: worth timing, never trust. And the join file, which never crosses it.

use super::{EntryKind, Minima, Revision, SnapshotRef, System};
use crate::ids::{Bytes, DeviceId, FleetId, Name};
use serde::{Deserialize, Serialize};

/// A deployment revision that a device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Deployment.
    pub name: Name,
    /// Which revision.
    pub revision: Revision,
}

/// A config or secret that a device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldDocument {
    /// Config or secret.
    pub kind: EntryKind,
    /// Its name.
    pub name: Name,
    /// Which revision.
    pub revision: Revision,
    /// Whether it can be read here: a secret's grant is there.
    pub open: bool,
}

/// `up/hello`: what a device holds; the controller answers with what differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest root that it holds.
    pub root_version: u64,
    /// What it is.
    pub system: System,
    /// All revisions that admission accepted and keeps.
    pub held: Vec<Held>,
    /// The highest order counter accepted.
    pub order_counter: u64,
    /// The next report will have a counter above this.
    pub report_counter: u64,
    /// The snapshot that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRef>,
    /// Configs and secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<HeldDocument>,
}

/// `up/heartbeat`: still here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Seconds since the agent started.
    pub uptime: u64,
}

/// `down/ack`: every report up to this counter is in the controller's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The highest stored counter below which none is missing that was sent.
    pub counter: u64,
}

/// `up/log`: lines that an order asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// From the order.
    pub stream: u64,
    /// Container.
    pub container: Name,
    /// Whole lines in CRI log format, at most 32 KiB.
    pub lines: Bytes,
    /// Whether this is the last chunk.
    pub end: bool,
    /// Why there is nothing (more), as a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What an operator carries to a device: everything that it needs to enrol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinFile {
    /// 1.
    pub version: u64,
    /// The fleet.
    pub fleet: FleetId,
    /// Envelopes of the root chain, from root 1.
    pub roots: Vec<Bytes>,
    /// Envelope of the token.
    pub token: Bytes,
    /// The token's private half (an Ed25519 seed, 32 bytes).
    pub secret: Bytes,
    /// Where the controller's API is: `https://host:port`, tried in order.
    pub api: Vec<String>,
    /// Where the device begins.
    pub minima: Minima,
}

/// `POST /v1/enroll`, body in the strict codec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// Envelope of the token.
    pub token: Bytes,
    /// Envelope of the device record, signed by the token's key.
    pub record: Bytes,
    /// DER certificate request for the identity key; its common name is the device id.
    pub csr: Bytes,
    /// What the device calls itself; for the eyes of whoever approves it, worth nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The answer to an [`EnrollRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollResponse {
    /// The device.
    pub device: DeviceId,
    /// DER certificates, the device's own first; none while it waits for an operator's approval.
    pub certificates: Vec<Bytes>,
    /// Envelopes of roots newer than the join file's.
    pub roots: Vec<Bytes>,
    /// Envelope of the device record that an operator signed at approval, in place of the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Bytes>,
}
