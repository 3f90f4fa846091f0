//! The deployment document: what to run, for whom, and how it may roll out.

use super::PodTemplate;
use crate::ids::{DeviceId, FleetId, Name, Timestamp};
use crate::text_map::TextMap;
use serde::{Deserialize, Serialize};

/// How one selector requirement compares (Kubernetes `LabelSelectorRequirement`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// The label's value is one of `values`.
    In,
    /// The label is absent or its value is none of `values`.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// For `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// A label selector (Kubernetes `LabelSelector`): all parts must match; an empty one matches every device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selector {
    /// Labels and the values that they must have.
    #[serde(default, skip_serializing_if = "TextMap::is_empty")]
    pub match_labels: TextMap,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

impl Selector {
    /// Whether a device with these signed labels is selected.
    pub fn matches(&self, labels: &TextMap) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|r| {
                let value = labels.get(&r.key);
                let listed = value.is_some_and(|v| r.values.iter().any(|w| w == v));
                match r.operator {
                    Operator::In => listed,
                    Operator::NotIn => !listed,
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Whom a deployment is for: named devices, or a selector, or both together (either suffices).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Target {
    /// Devices by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceId>,
    /// Devices by signed label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// `x86_64`, `aarch64` …; empty is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Oldest agent version, `major.minor.patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent: Option<String>,
    /// Oldest engine version, `major.minor.patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_engine: Option<String>,
}

impl Target {
    /// Whether it selects this device, leaving architecture and versions aside.
    pub fn selects(&self, device: &DeviceId, labels: &TextMap) -> bool {
        self.devices.contains(device) || self.selector.as_ref().is_some_and(|s| s.matches(labels))
    }
}

/// A recurring time span, UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Days as a bit set, Monday is bit 0; 127 is every day.
    pub days: u64,
    /// Seconds after midnight UTC.
    pub start: u64,
    /// Length in seconds, at most a week.
    pub length: u64,
}

/// When a staged revision becomes the active one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activation {
    /// As soon as it is staged and inside its window.
    #[default]
    Automatic,
    /// On an order.
    Ordered,
}

/// A bound that the device checks itself: the share of the fleet that may have moved at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ramp {
    /// When the first bucket opens.
    pub start: Timestamp,
    /// Seconds until the last of 1,000 buckets is open.
    pub duration: u64,
}

/// How a new revision spreads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rollout {
    /// Who says go.
    pub activation: Activation,
    /// The most devices in transition at a time; absent is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u64>,
    /// How many failed devices halt the rollout; absent is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_failed: Option<u64>,
    /// Seconds a device may take from acceptance to healthy; absent is 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// The device-checked bound (reserved).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// When it may be fetched and compiled (reserved); empty is always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub download_windows: Vec<Window>,
    /// When it may be activated (reserved); empty is always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub update_windows: Vec<Window>,
}

/// How much of a pod's log the controller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum LogConsent {
    /// Nothing leaves the device.
    None,
    /// The last 200 lines at a time, and new ones as they come.
    #[default]
    Tail,
    /// All that is kept.
    Full,
}

/// Another deployment that must be active and healthy here first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Require {
    /// Its name.
    pub name: Name,
    /// Its least sequence.
    pub sequence: u64,
}

/// A named thing that an operator rolls out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
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
    /// How it spreads.
    pub rollout: Rollout,
    /// What of its log may leave the device.
    pub logs: LogConsent,
    /// What runs.
    pub template: PodTemplate,
    /// Before this it may be staged, not activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// What must run here first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Require>,
}
