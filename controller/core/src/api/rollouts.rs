//! Deployments and how far they are. No logic beyond conversion.

use super::pods::{Pod, Revision};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::{DeviceId, Name, Timestamp};
use std::fmt;

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Devices are moving to the newest revision.
    Progressing,
    /// All devices that fit are healthy on the newest revision.
    Complete,
    /// Too many devices failed; nothing moves until a newer revision comes.
    Halted,
    /// Only devices are left that do not fit or do not answer.
    Waiting,
    /// It selects no device.
    NoDevices,
    /// The deployment was removed.
    Removed,
}

impl RolloutState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Complete => "complete",
            Self::Halted => "halted",
            Self::Waiting => "waiting",
            Self::NoDevices => "no_devices",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where one device is in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceRollout {
    /// Its wave is not open; it stays on the stable revision.
    Held,
    /// It may take the newest revision and is on its way.
    Updating,
    /// It is healthy on the newest revision, by its signed facts.
    Healthy,
    /// It failed, or did not become healthy within the deadline.
    Failed,
    /// It cannot run it; `reason` says why.
    Unfit,
    /// It does not answer.
    Unknown,
}

impl DeviceRollout {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Updating => "updating",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::Unfit => "unfit",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for DeviceRollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many selected devices are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RolloutCounts {
    /// All that are selected.
    pub selected: u64,
    /// See [`DeviceRollout::Held`].
    pub held: u64,
    /// See [`DeviceRollout::Updating`].
    pub updating: u64,
    /// See [`DeviceRollout::Healthy`].
    pub healthy: u64,
    /// See [`DeviceRollout::Failed`].
    pub failed: u64,
    /// See [`DeviceRollout::Unfit`].
    pub unfit: u64,
    /// See [`DeviceRollout::Unknown`].
    pub unknown: u64,
}

/// One selected device of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentDevice {
    /// The device.
    pub device: DeviceId,
    /// Its host name, once it was heard.
    pub hostname: Option<String>,
    /// Where it is in the rollout.
    pub rollout: DeviceRollout,
    /// A stable code when it is not healthy.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// Until when it has to become healthy, or when it is looked at again.
    pub deadline: Option<Timestamp>,
    /// What it reports of this deployment.
    pub pod: Option<Pod>,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name.
    pub name: Name,
    /// The newest revision.
    pub newest: Revision,
    /// What devices run until their wave opens, when that is another one.
    pub stable: Option<Revision>,
    /// When the newest was signed.
    pub issued_at: Timestamp,
    /// Until when devices may accept it for the first time.
    pub not_after: Timestamp,
    /// Whom it is for, in words.
    pub target: String,
    /// Images by container, as the operator wrote them.
    pub images: Vec<String>,
    /// Where the rollout is.
    pub state: RolloutState,
    /// Why it is not complete, as a stable code.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// The next moment at which something is decided.
    pub deadline: Option<Timestamp>,
    /// How many devices are where.
    pub counts: RolloutCounts,
    /// The selected devices; only in the answer about one deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeploymentDevice>,
}

/// `GET /v1/deployments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentList {
    /// By name.
    pub deployments: Vec<Deployment>,
}
