//! Configs, secrets and grants: what a deployment refers to by name, with sequences of its own. Replaced, never merged.

use super::{EntryKind, Revision};
use crate::ids::{Bytes, DeviceId, Digest, FleetId, Name, Timestamp};
use crate::text_map::ByteMap;
use serde::{Deserialize, Serialize};

/// Configuration in clear (Kubernetes `ConfigMap`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// The name, unique among configs.
    pub name: Name,
    /// Only rises.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Until when it may be accepted for the first time.
    pub not_after: Timestamp,
    /// The entries: a key names a file or a variable.
    #[serde(default, skip_serializing_if = "ByteMap::is_empty")]
    pub data: ByteMap,
}

/// Values that only the devices can read which hold a [`Grant`] (Kubernetes `Secret`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// The name, unique among secrets.
    pub name: Name,
    /// Only rises; a new value is a new sequence.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Until when it may be accepted for the first time.
    pub not_after: Timestamp,
    /// The deployments that may refer to it: whole names, or beginnings that end with `*`.
    pub deployments: Vec<String>,
    /// The keys, in clear, ascending as in a [`ByteMap`].
    pub keys: Vec<String>,
    /// What a grant must hold: the only key that opens `sealed`.
    pub commitment: Digest,
    /// The entries, sealed once for all devices.
    pub sealed: Bytes,
}

impl Secret {
    /// Whether a deployment of this name may refer to it.
    pub fn is_for(&self, deployment: &Name) -> bool {
        self.deployments.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => deployment.as_str().starts_with(beginning),
            None => deployment.as_str() == pattern,
        })
    }
}

/// The key of one revision of a secret, for one device alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// For whom.
    pub device: DeviceId,
    /// The secret.
    pub name: Name,
    /// Exactly this revision of it.
    pub revision: Revision,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// The key, sealed to the device's sealing key.
    pub sealed: Bytes,
}

/// A config or secret that a pod refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRef {
    /// Its name.
    pub name: Name,
    /// Whether the pod starts without it, or without the key that is asked for.
    pub optional: bool,
    /// Exactly this revision; absent follows the newest that the snapshot lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Revision>,
}

/// An entry that becomes a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// The entry.
    pub key: String,
    /// Relative to the volume.
    pub path: String,
    /// Permission bits; absent is the volume's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u64>,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvSource {
    /// An entry of a config.
    Config {
        /// Which.
        document: DocumentRef,
        /// The entry.
        key: String,
    },
    /// An entry of a secret.
    Secret {
        /// Which.
        document: DocumentRef,
        /// The entry.
        key: String,
    },
}

/// All entries of a document as variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvFrom {
    /// Of a config.
    Config {
        /// Which.
        document: DocumentRef,
        /// Before each name.
        prefix: String,
    },
    /// Of a secret.
    Secret {
        /// Which.
        document: DocumentRef,
        /// Before each name.
        prefix: String,
    },
}

impl EnvSource {
    /// The kind of document, which one, and the entry.
    pub fn parts(&self) -> (EntryKind, &DocumentRef, &str) {
        match self {
            Self::Config { document, key } => (EntryKind::Config, document, key),
            Self::Secret { document, key } => (EntryKind::Secret, document, key),
        }
    }
}

impl EnvFrom {
    /// The kind of document, which one, and what stands before each name.
    pub fn parts(&self) -> (EntryKind, &DocumentRef, &str) {
        match self {
            Self::Config { document, prefix } => (EntryKind::Config, document, prefix),
            Self::Secret { document, prefix } => (EntryKind::Secret, document, prefix),
        }
    }
}
