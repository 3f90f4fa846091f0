//! The release document: agent, guard, runner and engine for devices, each file by its content.

use super::Target;
use crate::ids::{Digest, FleetId, Name, Timestamp};
use serde::{Deserialize, Serialize};

/// Bytes as a registry keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// SHA-256 of them.
    pub digest: Digest,
    /// How many.
    pub size: u64,
}

/// One file of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseFile {
    /// Relative to the folder of the programs.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Content.
    pub digest: Digest,
    /// Whether it is a program (mode 0755, else 0644).
    pub executable: bool,
    /// The same bytes compressed with gzip or zstd, as they travel; absent when they travel as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Blob>,
}

impl ReleaseFile {
    /// What travels.
    pub fn blob(&self) -> Blob {
        self.packed.unwrap_or(Blob { digest: self.digest, size: self.size })
    }
}

/// The files for one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `x86_64`, `aarch64` …
    pub architecture: String,
    /// Where a device may look for the blobs first, as the operator wrote it.
    pub reference: String,
    /// The OCI manifest that names all blobs; devices need only those.
    pub manifest: Digest,
    /// Ascending by path; at most 256.
    pub files: Vec<ReleaseFile>,
}

/// Software of the device itself, to be swapped in as a whole and taken back by the device when it does not prove healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// The name.
    pub name: Name,
    /// Only rises.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Until when it may be accepted for the first time.
    pub not_after: Timestamp,
    /// Whom it is for.
    pub target: Target,
    /// `major.minor.patch`; never below what proved healthy on a device.
    pub version: String,
    /// One an architecture, ascending by it.
    pub builds: Vec<Build>,
    /// Seconds that a device may take from the swap until it has reported; absent is 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
}

impl Release {
    /// The build for an architecture.
    pub fn build(&self, architecture: &str) -> Option<&Build> {
        self.builds.iter().find(|b| b.architecture == architecture)
    }
}
