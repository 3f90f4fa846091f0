//! Devices as the controller knows them. No logic beyond conversion.

use super::pods::{Pod, Refusal};
use super::trust::SnapshotRef;
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::{DeviceId, Timestamp};
use shoal_protocol::latest as wire;
use std::collections::BTreeMap;
use std::fmt;

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Heard within the heartbeat limit.
    Online,
    /// Enrolled, never heard.
    Enrolled,
    /// Silent beyond the heartbeat limit; what it last said may be old.
    Unknown,
    /// Its certificates were revoked.
    Revoked,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Online => "online",
            Self::Enrolled => "enrolled",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
        })
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct System {
    /// Agent version.
    pub agent: String,
    /// Engine version.
    pub engine: String,
    /// `x86_64`, `aarch64` …
    pub architecture: String,
    /// Kernel release.
    pub kernel: String,
    /// Host name.
    pub hostname: String,
    /// `v1`, `hybrid`, `v2` or `none`.
    pub cgroups: String,
    /// Memory, bytes.
    pub memory: u64,
    /// Free bytes where images are kept.
    pub disk_free: u64,
    /// CPUs.
    pub cpus: u64,
    /// Whether containers run without the sandbox's walls.
    pub unconfined: bool,
}

impl From<&wire::System> for System {
    fn from(s: &wire::System) -> Self {
        Self {
            agent: s.agent.clone(),
            engine: s.engine.clone(),
            architecture: s.architecture.clone(),
            kernel: s.kernel.clone(),
            hostname: s.hostname.clone(),
            cgroups: s.cgroups.clone(),
            memory: s.memory,
            disk_free: s.disk_free,
            cpus: s.cpus,
            unconfined: s.unconfined,
        }
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Whether it is there.
    pub state: DeviceState,
    /// Its signed labels.
    pub labels: BTreeMap<String, String>,
    /// Sequence of its device record.
    pub record_sequence: u64,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// End of its newest certificate.
    pub certificate_not_after: Option<Timestamp>,
    /// What it is, once it was heard.
    pub system: Option<System>,
    /// The root that it holds.
    pub root_version: Option<u64>,
    /// The snapshot that it holds.
    pub snapshot: Option<SnapshotRef>,
    /// Counter of its newest stored report.
    pub report_counter: u64,
    /// States of the device as a whole, and what the controller noticed about it (`report_replay`, `fleet_equivocation` …).
    pub conditions: Vec<String>,
    /// How many pods it reports.
    pub pods_total: u64,
    /// How many of them are healthy or ended as they should.
    pub pods_healthy: u64,
    /// Its pods; only in the answer about one device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<Pod>,
    /// What it refused; only in the answer about one device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// `GET /v1/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// By id.
    pub devices: Vec<Device>,
}
