//! What the operators sign about the fleet as a whole: root, snapshot, enrolment token.

use crate::ids::{Bytes, Digest, FleetId, Name, Timestamp};
use crate::text_map::TextMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A signature algorithm, bound to a key in the root or the device record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Alg {
    /// Ed25519 (COSE −8): 32-byte public key.
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (COSE −7): 65-byte uncompressed point, 64-byte r‖s.
    Es256,
}

/// A public key with the one algorithm that it may be used with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The algorithm that counts, whatever the envelope says.
    pub alg: Alg,
    /// The raw public key.
    pub public: Bytes,
}

/// What a role's keys may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RoleName {
    /// The next root.
    Root,
    /// Snapshots: may list, never create.
    Snapshot,
    /// Deployments, configs, secrets and, with `may_remove`, removals.
    Deployment,
    /// Device records and enrolment tokens.
    Enrollment,
    /// Agent and engine releases.
    Release,
}

/// The most that a deployment signed by a role may ask for; an absent bound is no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// The widest network mode.
    pub network: super::Network,
    /// Host folders (and what lies below them) that may be mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_paths: Vec<String>,
    /// Device nodes that may be granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// The most memory of one pod, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

/// One role: a set of keys, how many of them must sign, and for what names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Which role.
    pub name: RoleName,
    /// How many distinct keys must sign; at least 1.
    pub threshold: u64,
    /// The keys.
    pub keys: Vec<Key>,
    /// Names must begin with this; empty is all names.
    pub prefix: String,
    /// Whether removals and raised floors may be signed.
    pub may_remove: bool,
    /// The permission ceiling; absent is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
}

/// The controller of this fleet, as the root names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Signs orders and acknowledgements; can sign nothing that runs.
    pub online: Key,
    /// DER certificates of the CAs that issue the broker's, the API's and the devices' certificates.
    pub ca: Vec<Bytes>,
    /// `https://host:port`, tried in order.
    pub api: Vec<String>,
    /// `mqtts://host:port`, tried in order.
    pub mqtt: Vec<String>,
}

/// What becomes of what a revoked key signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disposition {
    /// It goes on running; nothing new is accepted.
    Keep,
    /// It is stopped.
    Stop,
}

/// A key that no longer counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The key.
    pub key: Key,
    /// What becomes of its work.
    pub disposition: Disposition,
}

/// The trust anchor: version N+1 is signed by the thresholds of N and of N+1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// From 1, by one.
    pub version: u64,
    /// Raised to recover from a sequence that jumped.
    pub epoch: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Until when it may be the newest; an expired one still links the chain.
    pub not_after: Timestamp,
    /// All roles; several entries of one name differ in prefix.
    pub roles: Vec<Role>,
    /// The controller.
    pub controller: Controller,
    /// Absent in root 1 and present in every later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetId>,
    /// Revoked keys, for as long as something they signed may be about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revocation>,
    /// The one place where unknown fields are carried along.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ext: BTreeMap<crate::codec::Value, crate::codec::Value>,
}

/// Which kind of document a snapshot entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// A deployment.
    Deployment,
    /// A config.
    Config,
    /// A secret.
    Secret,
    /// A release.
    Release,
}

/// One exact document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// The document's own sequence.
    pub sequence: u64,
    /// The document's identity.
    pub digest: Digest,
}

/// Whether a name is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Liveness {
    /// It is.
    Live,
    /// It was ended by a removal; devices stop what they run of it.
    Removed,
}

/// What the fleet's document of one name is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The kind.
    pub kind: EntryKind,
    /// The name, unique in its kind.
    pub name: Name,
    /// Live or removed.
    pub liveness: Liveness,
    /// No sequence below this is accepted or returned to.
    pub floor: u64,
    /// What devices move to when their wave opens.
    pub newest: Revision,
    /// What devices run until then; absent when equal to `newest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Revision>,
    /// Identity of the removal document that set `liveness` or `floor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Digest>,
}

/// The signed list of what is current; only what it lists is accepted anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// Only rises.
    pub version: u64,
    /// The root version that a device must hold first.
    pub root_version: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Past this nothing new is accepted under it; what runs goes on.
    pub not_after: Timestamp,
    /// Ascending by (kind, name); at most 4,096.
    pub entries: Vec<Entry>,
    /// Head of the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_head: Option<Digest>,
    /// The identity of the snapshot that this one follows; the controller swaps against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}

/// The least that a new device may accept, so that it cannot be fed the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minima {
    /// Root version.
    pub root_version: u64,
    /// Snapshot version.
    pub snapshot_version: u64,
    /// The time floor that the device begins with.
    pub time: Timestamp,
}

/// Permission to enrol; the device proves the private half of `key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// The token's public key; its private half is in the join file only.
    pub key: Key,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Until when it may be used.
    pub not_after: Timestamp,
    /// How many devices may use it; at least 1.
    pub uses: u64,
    /// Whether an operator must approve each device.
    pub approval: bool,
    /// Where the device begins.
    pub minima: Minima,
    /// The labels that a device record signed by `key` must carry, exactly.
    #[serde(default, skip_serializing_if = "TextMap::is_empty")]
    pub labels: TextMap,
}
