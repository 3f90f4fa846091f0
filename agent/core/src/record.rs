//! What the agent remembers of one revision, and the only methods that change it. Never decides what to do next.

use crate::backoff::{self, FETCH_CAP, RESTART_CAP, RESTART_RESET};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::{Name, Timestamp};
use shoal_protocol::v1::{Cause, Compiled, Container, Deployment, Phase, RestartPolicy};

/// Seconds from acceptance to healthy when the deployment names no deadline.
pub const DEFAULT_DEADLINE: u64 = 600;

/// Codes of failures that pass by themselves and say nothing about the revision.
pub const OUTAGES: [&str; 5] =
    ["image_unavailable", "storage_unavailable", "guard_unavailable", "stalled", "not_admitted"];

/// The restart policy that holds for a container: its own, or the pod's.
pub fn policy(deployment: &Deployment, container: &Container) -> RestartPolicy {
    container.restart_policy.unwrap_or(deployment.template.restart_policy)
}

/// The restart policy of a container that comes before the others: it is there to end, so only a failure starts it again.
fn init_policy(deployment: &Deployment) -> RestartPolicy {
    match deployment.template.restart_policy {
        RestartPolicy::Never => RestartPolicy::Never,
        RestartPolicy::Always | RestartPolicy::OnFailure => RestartPolicy::OnFailure,
    }
}

/// All containers of a deployment by number, each with the policy that holds for it.
pub fn containers(deployment: &Deployment) -> impl Iterator<Item = (&Container, RestartPolicy)> {
    let t = &deployment.template;
    t.all_containers().enumerate().map(move |(number, c)| {
        (c, if t.is_init(number) { init_policy(deployment) } else { policy(deployment, c) })
    })
}

/// Whether an end is a success.
pub fn is_success(cause: &Cause) -> bool {
    matches!(cause, Cause::Exited { code: 0 })
}

/// The stable code of an end.
pub fn cause_code(cause: &Cause) -> &str {
    match cause {
        Cause::Exited { code: 0 } => "completed",
        Cause::Exited { .. } => "exit_code",
        Cause::Trap { .. } => "trap",
        Cause::GuestMemory => "guest_memory",
        Cause::OomKilled => "oom_killed",
        Cause::CpuLimit => "cpu_limit",
        Cause::TimeLimit => "time_limit",
        Cause::Unhealthy => "unhealthy",
        Cause::Stopped => "stopped",
        Cause::Signal { .. } => "signal",
        Cause::Refused { code } => code,
        Cause::Unknown => "unknown",
    }
}

/// Where one container is, as the agent last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Never started.
    Created,
    /// Its process is there.
    Running {
        /// Since when.
        since: Timestamp,
        /// Whether supervise found it healthy. Its word alone counts: admission makes last-good of the same fact.
        #[serde(default)]
        healthy: bool,
    },
    /// It ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        cause: Cause,
    },
}

/// One container of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Name in the pod.
    pub name: Name,
    /// The last attempt that was given out; 0 is none.
    pub attempt: u64,
    /// Where it is.
    pub state: RunState,
    /// Ends in a row that count for the backoff.
    pub failures: u32,
    /// When the last start was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Not before this is it started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start: Option<Timestamp>,
    /// Last lines of standard error of the last failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
    /// What its compiled code cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<Compiled>,
    /// Whether its readiness probe passes; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
}

impl ContainerRecord {
    fn new(name: Name) -> Self {
        Self {
            name,
            attempt: 0,
            state: RunState::Created,
            failures: 0,
            started_at: None,
            next_start: None,
            stderr_tail: None,
            compiled: None,
            ready: None,
        }
    }

    /// Whether its process is there.
    pub fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
    }

    /// Whether it counts as healthy: found so by supervise and not unready now, or ended with success where that is an end.
    pub fn is_healthy(&self, policy: RestartPolicy) -> bool {
        match &self.state {
            RunState::Running { healthy, .. } => *healthy && self.ready != Some(false),
            RunState::Ended { cause, .. } => is_success(cause) && policy != RestartPolicy::Always,
            RunState::Created => false,
        }
    }

    /// What supervise says of its readiness while it runs; true if that is news.
    pub fn judged(&mut self, ready: Option<bool>) -> bool {
        std::mem::replace(&mut self.ready, ready) != ready
    }

    /// It has to come before the others once more: what it did is gone.
    pub fn undone(&mut self) {
        self.state = RunState::Created;
    }

    /// Whether an ended container is to start again under `policy`. A stop on request or a lost end starts again
    /// (the pod is wanted, or the step would not be asked for), but a job that runs at most once does not (CRI: `Never`).
    pub fn restarts(&self, policy: RestartPolicy) -> bool {
        match &self.state {
            RunState::Created | RunState::Ended { cause: Cause::Stopped, .. } => true,
            RunState::Running { .. } => false,
            RunState::Ended { cause, .. } => match policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => !is_success(cause),
                RestartPolicy::Never => false,
            },
        }
    }

    /// When it may start, if it is to start at all.
    pub fn due(&self, policy: RestartPolicy, now: Timestamp) -> Option<Timestamp> {
        self.restarts(policy)
            .then(|| self.next_start.map_or(now, |t| backoff::clamp(t, now, RESTART_CAP + RESTART_CAP / 10)))
    }

    /// The next attempt is being started; durable before supervise is asked, so that no attempt number is used twice.
    pub fn begin_attempt(&mut self) -> u64 {
        self.attempt += 1;
        self.attempt
    }

    /// Supervise answered that it did not begin this attempt: its number goes to the next one.
    pub fn not_begun(&mut self, attempt: u64) {
        if self.attempt == attempt {
            self.attempt = attempt.saturating_sub(1);
        }
    }

    /// Supervise started it, or is found running it.
    pub fn started(&mut self, attempt: u64, at: Timestamp) {
        self.attempt = self.attempt.max(attempt);
        self.started_at = Some(at);
        self.next_start = None;
        self.ready = None;
        self.state = RunState::Running { since: at, healthy: false };
    }

    /// Supervise found this attempt healthy; true if that is news.
    pub fn found_healthy(&mut self, attempt: u64) -> bool {
        match &mut self.state {
            RunState::Running { healthy, .. } if attempt == self.attempt => !std::mem::replace(healthy, true),
            _ => false,
        }
    }

    /// It could not be asked for now, for a reason that says nothing about it; not before `until` it is asked for again.
    pub fn postpone(&mut self, until: Timestamp) {
        self.next_start = Some(until);
    }

    /// It is found running as this attempt, whatever was remembered.
    pub fn adopted(&mut self, attempt: u64, at: Timestamp) {
        self.attempt = attempt;
        self.started(attempt, at);
    }

    /// It ended. `entropy` spreads the restart.
    pub fn ended(&mut self, attempt: u64, cause: Cause, at: Timestamp, now: Timestamp, entropy: u64) {
        self.attempt = self.attempt.max(attempt);
        let ran = match self.state {
            RunState::Running { since, .. } => at.0.saturating_sub(since.0),
            _ => 0,
        };
        if ran >= RESTART_RESET {
            self.failures = 0;
        }
        // A stop that we asked for and a power cut say nothing about the workload.
        if matches!(cause, Cause::Stopped | Cause::Unknown) {
            self.next_start = None;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.next_start = Some(now.plus(backoff::restart_delay(self.failures, entropy)));
        }
        self.state = RunState::Ended { at, cause };
    }
}

/// Why a step towards *staged* failed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable code.
    pub code: String,
    /// What happened, in words.
    pub message: String,
    /// Whether trying again cannot help.
    pub terminal: bool,
    /// When.
    pub at: Timestamp,
}

/// The agent's own judgement that a revision does not work here; kept, so that it is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// A stable code.
    pub code: String,
    /// What happened, in words.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// All that the agent remembers of one revision over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The deployment's name.
    pub name: Name,
    /// Its sequence.
    pub sequence: u64,
    /// When the agent first saw it accepted; deadlines count from here.
    pub first_seen: Timestamp,
    /// Its containers, in the order of the template.
    pub containers: Vec<ContainerRecord>,
    /// Failures to stage it in a row.
    pub fetch_failures: u32,
    /// Where it is, as last reported.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// Whether it was healthy here once.
    pub was_healthy: bool,
    /// The last failure to stage it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Not before this is staging tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_at: Option<Timestamp>,
    /// When its first container was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated_at: Option<Timestamp>,
    /// That it does not work here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

impl Record {
    /// A record of a deployment that is seen for the first time.
    pub fn new(deployment: &Deployment, now: Timestamp) -> Self {
        Self {
            name: deployment.name.clone(),
            sequence: deployment.sequence,
            first_seen: now,
            containers: containers(deployment).map(|(c, _)| ContainerRecord::new(c.name.clone())).collect(),
            fetch_failures: 0,
            phase: Phase::Pending,
            since: now,
            was_healthy: false,
            failure: None,
            fetch_at: None,
            activated_at: None,
            verdict: None,
        }
    }

    /// A record of what supervise has and nobody else remembers.
    pub fn unknown(name: Name, containers: impl Iterator<Item = Name>, now: Timestamp) -> Self {
        Self {
            name,
            sequence: 0,
            first_seen: now,
            containers: containers.map(ContainerRecord::new).collect(),
            fetch_failures: 0,
            phase: Phase::Pending,
            since: now,
            was_healthy: false,
            failure: None,
            fetch_at: None,
            activated_at: None,
            verdict: None,
        }
    }

    /// The container called `name`.
    pub fn container(&self, name: &Name) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| &c.name == name)
    }

    /// The container called `name`.
    pub fn container_mut(&mut self, name: &Name) -> Option<&mut ContainerRecord> {
        self.containers.iter_mut().find(|c| &c.name == name)
    }

    /// Whether any of its processes is there.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(ContainerRecord::is_running)
    }

    /// Whether all of it is healthy.
    pub fn is_healthy(&self, deployment: &Deployment) -> bool {
        containers(deployment)
            .all(|(c, policy)| self.container(&c.name).is_some_and(|r| r.is_healthy(policy)))
    }

    /// The first container that others have to wait for: it comes before them and has not ended with success.
    pub fn first_unfinished(&self, deployment: &Deployment) -> Option<usize> {
        let t = &deployment.template;
        let done = |c: &Container| {
            let state = self.container(&c.name).map(|r| &r.state);
            matches!(state, Some(RunState::Ended { cause, .. }) if is_success(cause))
        };
        Some(t.containers.len() + t.init_containers.iter().position(|c| !done(c))?)
    }

    /// Until when it must be healthy.
    pub fn deadline(&self, deployment: &Deployment) -> Timestamp {
        self.first_seen.plus(deployment.rollout.deadline.unwrap_or(DEFAULT_DEADLINE))
    }

    /// When staging may be tried again; `None` if trying again cannot help.
    pub fn fetch_due(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.failure {
            Some(f) if f.terminal => None,
            _ => Some(self.fetch_at.map_or(now, |t| backoff::clamp(t, now, FETCH_CAP + FETCH_CAP / 10))),
        }
    }

    /// A step towards *staged* failed.
    pub fn fetch_failed(&mut self, code: &str, message: &str, terminal: bool, now: Timestamp, entropy: u64) {
        self.fetch_failures = self.fetch_failures.saturating_add(1);
        self.fetch_at = Some(now.plus(backoff::fetch_delay(self.fetch_failures, entropy)));
        self.failure =
            Some(Failure { code: code.to_owned(), message: message.to_owned(), terminal, at: now });
    }

    /// All of it is staged and compiled.
    pub fn fetched(&mut self) {
        self.fetch_failures = 0;
        self.fetch_at = None;
        self.failure = None;
    }

    /// The container was started (or is found running).
    pub fn started(&mut self, container: &Name, attempt: u64, at: Timestamp) {
        self.activated_at.get_or_insert(at);
        if let Some(c) = self.container_mut(container) {
            c.started(attempt, at);
        }
    }

    /// It does not work here.
    pub fn condemn(&mut self, code: &str, message: &str, now: Timestamp) {
        self.verdict = Some(Verdict { code: code.to_owned(), message: message.to_owned(), at: now });
    }

    /// An operator asked for a restart: what waits for its backoff need not.
    pub fn forget_backoff(&mut self) {
        for c in &mut self.containers {
            c.failures = 0;
            c.next_start = None;
        }
        self.fetch_at = None;
    }

    /// Notes the phase that is being reported; true if it is another than before.
    pub fn note_phase(&mut self, phase: Phase, now: Timestamp) -> bool {
        self.was_healthy |= matches!(phase, Phase::Healthy | Phase::Succeeded);
        if self.phase == phase {
            return false;
        }
        self.phase = phase;
        self.since = now;
        true
    }
}
