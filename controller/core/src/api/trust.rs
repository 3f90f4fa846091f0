//! Roots, snapshots, plans, tokens, records and orders: what an operator signs or asks for. No logic beyond conversion.

use super::devices::DeviceState;
use super::text::{Base64, Controller, DigestText};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::{DeviceId, FleetId, Name, Timestamp};
use shoal_protocol::latest as wire;
use std::collections::BTreeMap;

/// `GET /v1/trust`: what the controller holds; a client verifies the chain itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Whether a root 1 was accepted.
    pub initialized: bool,
    /// The fleet, once it is initialised.
    pub fleet: Option<FleetId>,
    /// Envelopes of all roots, from root 1.
    pub roots: Vec<Base64>,
    /// Envelope of the current snapshot.
    pub snapshot: Option<Base64>,
    /// What the next root's controller block must say.
    pub controller: Controller,
}

/// `POST /v1/trust/roots`: root 1 of a new fleet, or the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRoot {
    /// The envelope.
    pub root: Base64,
    /// It names another controller, to which this one hands its devices over: it passes the root on, and they leave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handover: bool,
}

/// The root is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAccepted {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's version.
    pub version: u64,
}

/// `POST /v1/snapshots`: a compare-and-swap; all documents and the snapshot are stored together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostSnapshot {
    /// The envelope of the next snapshot.
    pub snapshot: Base64,
    /// Envelopes of the documents that it lists and the controller may not have yet.
    #[serde(default)]
    pub documents: Vec<Base64>,
    /// Identity of the snapshot that was current when this one was made; null before the first.
    pub expected_previous: Option<DigestText>,
}

/// `POST /v1/grants`: keys to secrets, each for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostGrants {
    /// Envelopes of grants.
    pub grants: Vec<Base64>,
}

/// `POST /v1/receipts`: what a device without a network gave back by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostReceipt {
    /// Its envelope.
    pub receipt: Base64,
}

/// The receipt is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptAccepted {
    /// Whose it is.
    pub device: DeviceId,
    /// Its number.
    pub counter: u64,
    /// How many of its reports are new here.
    pub reports: u64,
}

/// The grants are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsAccepted {
    /// For how many devices they are.
    pub devices: u64,
}

/// `GET /v1/grants/{secret}`: who has a grant of this revision of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantList {
    /// The devices.
    pub devices: Vec<DeviceId>,
}

/// `GET /v1/records`: device records as they were signed, for an operator to verify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordList {
    /// All devices that are not revoked.
    pub records: Vec<SignedRecord>,
}

/// One record with what it takes to verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRecord {
    /// Whose it is said to be.
    pub device: DeviceId,
    /// Its envelope.
    pub record: Base64,
    /// Envelope of the token that it enrolled by; its key may have signed the record.
    pub token: Option<Base64>,
}

/// A snapshot by version and identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its version.
    pub version: u64,
    /// Its identity.
    pub digest: DigestText,
}

impl From<wire::SnapshotRef> for SnapshotRef {
    fn from(s: wire::SnapshotRef) -> Self {
        Self { version: s.version, digest: s.digest.into() }
    }
}

/// The snapshot is current now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAccepted {
    /// It.
    pub snapshot: SnapshotRef,
    /// How many devices are connected and were told at once.
    pub notified: u64,
}

/// `POST /v1/plan`: which devices would take this deployment. It need not be signed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The deployment's payload in the strict codec.
    pub deployment: Base64,
}

/// Which devices fit, and which do not and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// All devices that are selected, by id.
    pub devices: Vec<PlannedDevice>,
}

/// One selected device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDevice {
    /// The device.
    pub device: DeviceId,
    /// Its host name, once it was heard.
    pub hostname: Option<String>,
    /// Whether it can run it, as far as is known.
    pub fits: bool,
    /// A stable code when it does not: `wrong_target`, `agent_too_old`, `engine_too_old`, `disk_low`, `memory_low`.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// Whether it answers now.
    pub state: DeviceState,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostToken {
    /// The token's envelope (without its private half, which never comes here).
    pub token: Base64,
}

/// The token may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAccepted {
    /// Identity of the token.
    pub digest: DigestText,
    /// How many devices may use it.
    pub uses: u64,
    /// Until when.
    pub not_after: Timestamp,
}

/// A token that the controller knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its identity.
    pub digest: DigestText,
    /// How many devices may use it.
    pub uses: u64,
    /// How many did.
    pub used: u64,
    /// Until when.
    pub not_after: Timestamp,
    /// The labels that it gives.
    pub labels: BTreeMap<String, String>,
    /// Whether an operator approves each device.
    #[serde(default)]
    pub approval: bool,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// All tokens, newest first.
    pub tokens: Vec<Token>,
}

/// Where a request to enrol is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrollmentState {
    /// It waits for an operator.
    Pending,
    /// An operator signed the device's record; the device gets its certificate when it asks again.
    Approved,
    /// An operator said no; may still be approved.
    Denied,
}

impl std::fmt::Display for EnrollmentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
        })
    }
}

/// A device that asked to be approved. A client believes none of it: it verifies `token` and `request` itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrollment {
    /// The device.
    pub device: DeviceId,
    /// What it calls itself.
    pub name: Option<String>,
    /// Where it is.
    pub state: EnrollmentState,
    /// Of all its keys; the device shows the same.
    pub fingerprint: DigestText,
    /// The labels that its token gives.
    pub labels: BTreeMap<String, String>,
    /// Identity of its token.
    pub token: DigestText,
    /// When it asked first.
    pub requested_at: Timestamp,
    /// When an operator decided.
    pub decided_at: Option<Timestamp>,
    /// Envelope of the record that the token's key signed; only in the answer about one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Base64>,
    /// Envelope of the token; only in the answer about one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_envelope: Option<Base64>,
}

/// `GET /v1/enrollments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentList {
    /// Those that wait first, newest first.
    pub enrollments: Vec<Enrollment>,
}

/// An operator decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollmentDecided {
    /// The device.
    pub device: DeviceId,
    /// Where it is now.
    pub state: EnrollmentState,
}

/// `POST /v1/devices/{id}/record`: a newer record (labels) signed by an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRecord {
    /// The envelope.
    pub record: Base64,
}

/// `GET /v1/devices/{id}/record`: what to verify a device's keys and labels by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Envelope of the record that counts.
    pub record: Base64,
    /// Envelope of the token that the device came with, whose key may have signed that.
    pub token: Option<Base64>,
}

/// The record counts now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAccepted {
    /// The device.
    pub device: DeviceId,
    /// The record's sequence.
    pub sequence: u64,
}

/// The device's certificates count no longer; its connection is ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The device.
    pub device: DeviceId,
    /// How many certificates it had.
    pub certificates: u64,
    /// Whether it was connected and sent the record that says so.
    #[serde(default)]
    pub told: bool,
}

/// What an operator may ask of a device without signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum PostOrder {
    /// Fetch and compile the newest revision now.
    Stage {
        /// The deployment.
        deployment: Name,
    },
    /// Swap to the staged newest revision.
    Activate {
        /// The deployment.
        deployment: Name,
    },
    /// Leave the newest revision for last-good.
    Return {
        /// The deployment.
        deployment: Name,
    },
    /// Stop and start again.
    Restart {
        /// The deployment.
        deployment: Name,
    },
}

/// The order is signed, kept, and sent if the device is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAccepted {
    /// The device.
    pub device: DeviceId,
    /// Its counter.
    pub counter: u64,
    /// Until when the device may take it.
    pub not_after: Timestamp,
}
