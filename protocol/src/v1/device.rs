//! What concerns one device: its record, orders to it, its reports, and the facts that its admission signs.

use super::{Key, ProbeKind, Revision};
use crate::ids::{Bytes, DeviceId, Digest, FleetId, Name, Timestamp};
use crate::text_map::TextMap;
use serde::{Deserialize, Serialize};

/// A device's identity and labels, signed at approval or by its token's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's epoch.
    pub epoch: u64,
    /// Derived from `identity`.
    pub device: DeviceId,
    /// Only rises; exactly 1 when signed by a token's key.
    pub sequence: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// TLS and reports; held by the agent.
    pub identity: Key,
    /// X25519 public key, 32 bytes; its private half is admit's.
    pub sealing: Bytes,
    /// Signs facts; its private half is admit's.
    pub attest: Key,
    /// The only labels that select.
    #[serde(default, skip_serializing_if = "TextMap::is_empty")]
    pub labels: TextMap,
    /// It left the fleet: nothing selects it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decommissioned: bool,
}

impl DeviceRecord {
    /// What an operator compares with the device's own console before approving it: SHA-256 of all three public keys, so
    /// that none of them can be exchanged on the way. Its id is the hash of the identity key alone.
    pub fn fingerprint(&self) -> Digest {
        let parts = [
            b"shoal device keys v1\0".as_slice(),
            &self.identity.spki(),
            &self.sealing.0,
            &self.attest.spki(),
        ];
        Digest::of(&parts.concat())
    }
}

/// What a controller may ask for; closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Fetch and compile this revision now.
    Stage {
        /// Deployment.
        name: Name,
        /// Which revision.
        revision: Revision,
    },
    /// Swap to this staged revision.
    Activate {
        /// Deployment.
        name: Name,
        /// Which revision.
        revision: Revision,
    },
    /// Go back to last-good.
    Return {
        /// Deployment.
        name: Name,
        /// The revision to leave.
        revision: Revision,
    },
    /// Stop and start again.
    Restart {
        /// Deployment.
        name: Name,
    },
    /// Send log lines, within the signed consent.
    Logs {
        /// Deployment.
        name: Name,
        /// Container; absent is all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        container: Option<Name>,
        /// How many of the last lines.
        tail: u64,
        /// Seconds to go on sending new ones; 0 is none, at most 3,600.
        follow: u64,
        /// Chosen by the controller; comes back in each chunk.
        stream: u64,
    },
}

/// A controller's short-lived instruction about something already signed by an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The fleet.
    pub fleet: FleetId,
    /// For whom.
    pub device: DeviceId,
    /// Only rises, per device.
    pub counter: u64,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// At most an hour after `issued_at`.
    pub not_after: Timestamp,
    /// What.
    pub verb: Verb,
}

/// Where a pod is between acceptance and running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, nothing done yet, or waiting; `reason` says for what.
    Pending,
    /// The image is on its way.
    Pulling,
    /// The module is being compiled.
    Compiling,
    /// Ready to be activated.
    Staged,
    /// At least one container runs.
    Running,
    /// Running and healthy, or ended as it should.
    Healthy,
    /// All containers ended with success and none starts again.
    Succeeded,
    /// It ended in failure or cannot go on; `reason` says why.
    Failed,
    /// Waiting before the next start after repeated ends.
    CrashLoop,
    /// Being stopped.
    Stopping,
    /// Stopped by removal, deselection or an operator.
    Stopped,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// `proc_exit`, or a return from `_start`.
    Exited {
        /// The guest's code.
        code: u64,
    },
    /// A wasm trap.
    Trap {
        /// The engine's words.
        message: String,
    },
    /// `memory.grow` was refused at the guest's own limit.
    GuestMemory,
    /// The kernel's OOM killer, in its cgroup.
    OomKilled,
    /// Total CPU time spent.
    CpuLimit,
    /// Wall time spent.
    TimeLimit,
    /// Killed for failing its probe.
    Unhealthy,
    /// Stopped on request.
    Stopped,
    /// A signal that nobody of ours sent.
    Signal {
        /// Number.
        number: u64,
    },
    /// It never ran; a refusal code says why.
    Refused {
        /// A stable code.
        code: String,
    },
    /// It ended while nobody watched.
    Unknown,
}

/// How one container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Name in the pod.
    pub name: Name,
    /// How often it was started, the present one included.
    pub attempt: u64,
    /// Whether it runs now.
    pub running: bool,
    /// When the last start was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the last end was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<Cause>,
    /// Memory in use, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Highest memory use, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// The limit as read back, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// CPU time since start, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage: Option<u64>,
    /// Time throttled, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttled: Option<u64>,
    /// Quota as read back, microseconds in each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u64>,
    /// Period as read back, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Last lines of standard error of the last failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
    /// Log lines dropped for the quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_lines: Option<u64>,
    /// What is known of its compiled code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<Compiled>,
    /// Periods in which it was throttled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttled_periods: Option<u64>,
    /// Whether its readiness probe passes; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Why a probe of it failed last, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_message: Option<String>,
    /// Whether it is one that comes before the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
}

/// What one compilation cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// Engine version.
    pub engine: String,
    /// Milliseconds; 0 for a cache hit.
    pub millis: u64,
    /// Bytes of the module as signed.
    pub module_size: u64,
    /// Bytes of the compiled code.
    pub code_size: u64,
    /// Whether it was there already.
    pub cache_hit: bool,
}

/// How one deployment is on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Deployment.
    pub name: Name,
    /// Which revision.
    pub revision: Revision,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// A stable code for every phase that is not running or healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What happened, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When a waiting state ends or is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerStatus>,
}

/// How often a refusal code was given since the device began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalCount {
    /// The stable code.
    pub code: String,
    /// How often.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
    /// What the last one was about, in words.
    pub message: String,
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

/// A snapshot that a device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its version.
    pub version: u64,
    /// Its identity.
    pub digest: Digest,
}

/// A device's status, signed by its identity key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The fleet.
    pub fleet: FleetId,
    /// From whom.
    pub device: DeviceId,
    /// Only rises; gaps are allowed.
    pub counter: u64,
    /// When it was signed, by the device's clock.
    pub issued_at: Timestamp,
    /// The root that it holds.
    pub root_version: u64,
    /// What it is.
    pub system: System,
    /// All deployments that it knows.
    pub pods: Vec<PodStatus>,
    /// The snapshot that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRef>,
    /// What it refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusalCount>,
    /// Envelopes of facts since the last report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Bytes>,
    /// States of the device as a whole (`time_untrusted`, `snapshot_expired`, `storage_unavailable` …).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Its process is there and confined.
    Started,
    /// It ended.
    Ended {
        /// How.
        cause: Cause,
    },
    /// It counts as healthy.
    Healthy,
    /// A probe of it changed its mind.
    Probed {
        /// Which one.
        probe: ProbeKind,
        /// Whether it passes now.
        passed: bool,
    },
}

/// What supervise saw, signed by admit's attest key: a broken-into agent can withhold, not invent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The fleet.
    pub fleet: FleetId,
    /// From whom.
    pub device: DeviceId,
    /// Admit's own counter; only rises.
    pub counter: u64,
    /// When it was signed, by the device's clock.
    pub at: Timestamp,
    /// The deployment's identity.
    pub deployment: Digest,
    /// Its name, which is also the pod's.
    pub name: Name,
    /// The container.
    pub container: Name,
    /// Which start of it.
    pub attempt: u64,
    /// What happened.
    pub event: Event,
}
