//! Pods and containers as devices reported them. No logic beyond conversion.

use super::devices::DeviceState;
use super::text::DigestText;
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::{DeviceId, Name, Timestamp};
use shoal_protocol::latest as wire;
use std::fmt;

/// One exact document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its sequence.
    pub sequence: u64,
    /// Its identity.
    pub digest: DigestText,
}

impl From<wire::Revision> for Revision {
    fn from(r: wire::Revision) -> Self {
        Self { sequence: r.sequence, digest: r.digest.into() }
    }
}

impl From<Revision> for wire::Revision {
    fn from(r: Revision) -> Self {
        Self { sequence: r.sequence, digest: r.digest.0 }
    }
}

/// Where a pod is (the wire's `Phase`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted or waiting; `reason` says for what.
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
    /// It cannot go on; `reason` says why.
    Failed,
    /// Waiting before the next start after repeated ends.
    CrashLoop,
    /// Being stopped.
    Stopping,
    /// Stopped by removal, deselection or an operator.
    Stopped,
}

impl Phase {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Compiling => "compiling",
            Self::Staged => "staged",
            Self::Running => "running",
            Self::Healthy => "healthy",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::CrashLoop => "crash_loop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<wire::Phase> for Phase {
    fn from(p: wire::Phase) -> Self {
        match p {
            wire::Phase::Pending => Self::Pending,
            wire::Phase::Pulling => Self::Pulling,
            wire::Phase::Compiling => Self::Compiling,
            wire::Phase::Staged => Self::Staged,
            wire::Phase::Running => Self::Running,
            wire::Phase::Healthy => Self::Healthy,
            wire::Phase::Succeeded => Self::Succeeded,
            wire::Phase::Failed => Self::Failed,
            wire::Phase::CrashLoop => Self::CrashLoop,
            wire::Phase::Stopping => Self::Stopping,
            wire::Phase::Stopped => Self::Stopped,
        }
    }
}

/// How a container ended (the wire's `Cause`); JSON `{"cause": "exited", "code": 3}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
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
    /// The guest's own memory limit.
    GuestMemory,
    /// The kernel's OOM killer.
    OomKilled,
    /// Total CPU time spent.
    CpuLimit,
    /// Wall time spent.
    TimeLimit,
    /// Killed for failing its probe.
    Unhealthy,
    /// Stopped on request.
    Stopped,
    /// A signal that nobody of Shoal's sent.
    Signal {
        /// Number.
        number: u64,
    },
    /// It never ran.
    Refused {
        /// A stable code.
        code: String,
    },
    /// It ended while nobody watched.
    Unknown,
}

impl From<&wire::Cause> for Cause {
    fn from(c: &wire::Cause) -> Self {
        match c {
            wire::Cause::Exited { code } => Self::Exited { code: *code },
            wire::Cause::Trap { message } => Self::Trap { message: message.clone() },
            wire::Cause::GuestMemory => Self::GuestMemory,
            wire::Cause::OomKilled => Self::OomKilled,
            wire::Cause::CpuLimit => Self::CpuLimit,
            wire::Cause::TimeLimit => Self::TimeLimit,
            wire::Cause::Unhealthy => Self::Unhealthy,
            wire::Cause::Stopped => Self::Stopped,
            wire::Cause::Signal { number } => Self::Signal { number: *number },
            wire::Cause::Refused { code } => Self::Refused { code: code.clone() },
            wire::Cause::Unknown => Self::Unknown,
        }
    }
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

/// One container; units as on the wire (bytes, microseconds).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
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

impl From<&wire::ContainerStatus> for Container {
    fn from(c: &wire::ContainerStatus) -> Self {
        Self {
            name: c.name.clone(),
            attempt: c.attempt,
            running: c.running,
            started_at: c.started_at,
            finished_at: c.finished_at,
            last_end: c.last_end.as_ref().map(Cause::from),
            memory: c.memory,
            memory_peak: c.memory_peak,
            memory_limit: c.memory_limit,
            cpu_usage: c.cpu_usage,
            cpu_throttled: c.cpu_throttled,
            cpu_quota: c.cpu_quota,
            cpu_period: c.cpu_period,
            stderr_tail: c.stderr_tail.clone(),
            dropped_lines: c.dropped_lines,
            compiled: c.compiled.as_ref().map(|c| Compiled {
                engine: c.engine.clone(),
                millis: c.millis,
                module_size: c.module_size,
                code_size: c.code_size,
                cache_hit: c.cache_hit,
            }),
            cpu_throttled_periods: c.cpu_throttled_periods,
            ready: c.ready,
            probe_message: c.probe_message.clone(),
            init: c.init,
        }
    }
}

/// One deployment on one device, as the device last reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The device.
    pub device: DeviceId,
    /// Its host name.
    pub hostname: String,
    /// The deployment, which is also the pod's name.
    pub deployment: Name,
    /// Which revision.
    pub revision: Revision,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// A stable code for every phase that is not running or healthy.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// When a waiting state ends or is looked at again.
    pub deadline: Option<Timestamp>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Whether the device still answers; else all this may be old.
    pub device_state: DeviceState,
    /// When the device was last heard.
    pub last_seen: Option<Timestamp>,
}

/// `GET /v1/pods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodList {
    /// By deployment, then device.
    pub pods: Vec<Pod>,
}

/// How often a device refused something, by code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The device.
    pub device: DeviceId,
    /// The stable code.
    pub code: String,
    /// How often since the device began.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
    /// What the last one was about.
    pub message: String,
}

/// `GET /v1/refusals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalList {
    /// Newest first.
    pub refusals: Vec<Refusal>,
}
