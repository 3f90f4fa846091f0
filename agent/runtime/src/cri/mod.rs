//! The nouns of CRI v1 as this device has them: ids, states, statuses, and which verb a state allows. No I/O.

pub mod config;
pub mod message;

use crate::error::{Error, Result};
use serde::Serialize;
use shoal_ipc::{Cause, StatsInfo};
use shoal_protocol::ids::Digest;

/// A container: its pod sandbox, which is named by the deployment's identity, and its place in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// The pod sandbox.
    pub pod: Digest,
    /// Place in the template.
    pub index: u16,
}

/// CRI v1 `ContainerMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerMetadata {
    /// Name in the pod.
    pub name: String,
    /// Which start of it.
    pub attempt: u64,
}

/// CRI v1 `ContainerState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ContainerState {
    /// Staged and compiled; never started.
    Created,
    /// Its process is there.
    Running,
    /// It ended.
    Exited,
    /// It ended while nobody watched.
    Unknown,
}

impl ContainerState {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }

    /// As CRI's JSON names it.
    pub fn cri(self) -> &'static str {
        match self {
            Self::Created => "CONTAINER_CREATED",
            Self::Running => "CONTAINER_RUNNING",
            Self::Exited => "CONTAINER_EXITED",
            Self::Unknown => "CONTAINER_UNKNOWN",
        }
    }

    /// Whether CRI allows `verb` in this state. A container starts once; a stop of what ended is done already; removing what
    /// runs is for callers that stop it first.
    pub fn allows(self, verb: Verb) -> bool {
        match verb {
            Verb::Start => self == Self::Created,
            Verb::Stop => true,
            Verb::Remove => self != Self::Running,
            Verb::ReopenLog => self == Self::Running,
        }
    }

    /// The same as a result.
    pub fn check(self, verb: Verb, name: &str) -> Result<()> {
        if self.allows(verb) {
            return Ok(());
        }
        Err(Error::State { verb: verb.as_str(), name: name.to_owned(), state: self.as_str() })
    }
}

/// CRI v1 `PodSandboxState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PodSandboxState {
    /// Its ticket allows a start.
    Ready,
    /// Its ticket allows only staging, or is withdrawn; or it was stopped.
    Notready,
}

impl PodSandboxState {
    /// As CRI's JSON names it.
    pub fn cri(self) -> &'static str {
        match self {
            Self::Ready => "SANDBOX_READY",
            Self::Notready => "SANDBOX_NOTREADY",
        }
    }
}

/// What may be asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `StartContainer`.
    Start,
    /// `StopContainer`.
    Stop,
    /// `RemoveContainer`.
    Remove,
    /// `ReopenContainerLog`.
    ReopenLog,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::ReopenLog => "reopen the log of",
        }
    }
}

/// CRI v1 `ContainerStatus`; times are seconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    /// Which container.
    pub id: ContainerId,
    /// Name and attempt.
    pub metadata: ContainerMetadata,
    /// The deployment's name.
    pub pod_name: String,
    /// Where it is.
    pub state: ContainerState,
    /// When it was started.
    pub started_at: u64,
    /// When it ended; 0 while it runs.
    pub finished_at: u64,
    /// How it ended.
    pub cause: Option<Cause>,
    /// The last readings.
    pub stats: StatsInfo,
    /// The process; 0 once it ended.
    pub pid: u32,
    /// Whether it counted as healthy.
    pub healthy: bool,
    /// Last lines of its standard error, of a failed end.
    pub stderr_tail: String,
    /// Log lines dropped for rate or quota.
    pub dropped_lines: u64,
    /// Whether it is uid 0's own, unsigned.
    pub local: bool,
    /// Whether its readiness probe passes; absent without one.
    pub ready: Option<bool>,
    /// Why a probe of it failed last; empty when none did.
    pub probe_message: String,
}

impl ContainerStatus {
    /// Whether `verb` may be asked of it now.
    pub fn check(&self, verb: Verb) -> Result<()> {
        self.state.check(verb, &self.metadata.name)
    }

    /// CRI v1 `reason`: one word on the end.
    pub fn reason(&self) -> &'static str {
        match &self.cause {
            None => "",
            Some(Cause::Exited { code: 0 }) => "Completed",
            Some(Cause::OomKilled) => "OOMKilled",
            Some(Cause::Stopped) => "Stopped",
            Some(Cause::Unknown) => "Unknown",
            Some(Cause::Refused { .. }) => "StartError",
            Some(_) => "Error",
        }
    }

    /// CRI v1 `message`: the end in words; empty for one that needs none.
    pub fn message(&self) -> String {
        match &self.cause {
            None | Some(Cause::Exited { .. } | Cause::Stopped) => String::new(),
            Some(Cause::Trap { message }) => format!("trap: {message}"),
            Some(Cause::GuestMemory) => "guest_memory: the guest needs more memory than its own limit".into(),
            Some(Cause::OomKilled) => "oom_killed: the container's memory limit was reached".into(),
            Some(Cause::CpuLimit) => "cpu_limit: its CPU time is spent".into(),
            Some(Cause::TimeLimit) => "time_limit: its time is over".into(),
            Some(Cause::Unhealthy) => "unhealthy: its probe failed".into(),
            Some(Cause::Signal { number }) => format!("signal {number}"),
            Some(Cause::Refused { code, detail }) => format!("{code}: {detail}"),
            Some(Cause::Unknown) => "it ended while nobody watched".into(),
        }
    }

    /// CRI v1 `exit_code`: the guest's own, or 128 and the signal as a shell would have it; 1 for any other failure.
    pub fn exit_code(&self) -> i32 {
        match &self.cause {
            None => 0,
            Some(Cause::Exited { code }) => i32::try_from(*code).unwrap_or(i32::MAX),
            Some(Cause::OomKilled | Cause::CpuLimit | Cause::TimeLimit) => 137,
            Some(Cause::Stopped) => 143,
            Some(Cause::Signal { number }) => 128_i32.saturating_add(i32::try_from(*number).unwrap_or(0)),
            Some(_) => 1,
        }
    }
}

impl From<shoal_ipc::ContainerState> for ContainerStatus {
    fn from(s: shoal_ipc::ContainerState) -> Self {
        let state = match (s.running, &s.cause) {
            (true, _) => ContainerState::Running,
            (false, None | Some(Cause::Unknown)) => ContainerState::Unknown,
            (false, Some(_)) => ContainerState::Exited,
        };
        Self {
            id: ContainerId { pod: Digest(s.ticket.0), index: s.index },
            metadata: ContainerMetadata { name: s.name, attempt: s.attempt },
            pod_name: s.deployment,
            state,
            started_at: s.started_at,
            finished_at: s.finished_at,
            cause: s.cause,
            stats: s.stats,
            pid: s.pid,
            healthy: s.healthy,
            stderr_tail: s.stderr_tail,
            dropped_lines: s.dropped_lines,
            local: s.local,
            ready: s.ready,
            probe_message: s.probe_message,
        }
    }
}

/// CRI v1 `PodSandboxStatus`, with how far its images are.
#[derive(Debug, Clone, PartialEq)]
pub struct PodSandboxStatus {
    /// Which: the deployment's identity.
    pub id: Digest,
    /// Whether containers may be started in it.
    pub state: PodSandboxState,
    /// Its modules, as supervise has them.
    pub modules: Vec<shoal_ipc::ModuleState>,
    /// Modules and files that supervise does not have; the first of them.
    pub missing: Vec<Digest>,
    /// How many those are.
    pub missing_total: u32,
}

impl PodSandboxStatus {
    /// Whether every file is there and every module compiled.
    pub fn is_staged(&self) -> bool {
        self.missing_total == 0 && self.modules.iter().all(|m| m.compiled.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(running: bool, cause: Option<Cause>) -> ContainerStatus {
        shoal_ipc::ContainerState {
            ticket: shoal_ipc::Digest([1; 32]),
            deployment: "web".into(),
            index: 0,
            name: "main".into(),
            attempt: 1,
            running,
            pid: 0,
            started_at: 1,
            finished_at: 2,
            healthy: false,
            cause,
            stats: StatsInfo::default(),
            stderr_tail: String::new(),
            dropped_lines: 0,
            local: false,
            ready: None,
            probe_message: String::new(),
        }
        .into()
    }

    #[test]
    fn the_state_guards_the_verb() {
        use ContainerState::{Created, Exited, Running, Unknown};
        let table = [
            (Created, [true, true, true, false]),
            (Running, [false, true, false, true]),
            (Exited, [false, true, true, false]),
            (Unknown, [false, true, true, false]),
        ];
        for (state, expected) in table {
            let verbs = [Verb::Start, Verb::Stop, Verb::Remove, Verb::ReopenLog];
            assert_eq!(verbs.map(|v| state.allows(v)), expected, "{state:?}");
        }
        assert_eq!(
            status(true, None).check(Verb::Start).unwrap_err().to_string(),
            "cannot start container main: it is running"
        );
        assert!(status(false, Some(Cause::Exited { code: 3 })).check(Verb::Remove).is_ok());
    }

    #[test]
    fn exit_codes_are_those_a_shell_would_show() {
        assert_eq!(status(false, Some(Cause::Exited { code: 3 })).exit_code(), 3);
        assert_eq!(status(false, Some(Cause::OomKilled)).exit_code(), 137);
        assert_eq!(status(false, Some(Cause::Signal { number: 11 })).exit_code(), 139);
        assert_eq!(status(false, Some(Cause::Trap { message: String::new() })).exit_code(), 1);
    }
}
