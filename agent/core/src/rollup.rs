//! From what is known of one revision to the status that is reported. Never decides anything.

use crate::plan::{Activity, Desired, Observed, ObservedPod, Preparing, Standing, waiting};
use crate::record::{self, ContainerRecord, RunState, cause_code, is_success};
use shoal_protocol::ids::Timestamp;
use shoal_protocol::v1::{Cause, ContainerStatus, Phase, PodStatus};

/// Ends in a row from which waiting for the next start is called a crash loop.
const CRASH_LOOP: u32 = 2;

struct Where {
    phase: Phase,
    reason: Option<String>,
    message: Option<String>,
    deadline: Option<Timestamp>,
}

impl Where {
    fn at(phase: Phase) -> Self {
        Self { phase, reason: None, message: None, deadline: None }
    }
    fn because(phase: Phase, reason: &str, message: impl Into<String>, deadline: Option<Timestamp>) -> Self {
        Self { phase, reason: Some(reason.to_owned()), message: Some(message.into()), deadline }
    }
}

/// The status of one revision. Every phase that is neither running nor healthy has its reason, and every waiting one its
/// deadline (U4). Measurements of containers are the caller's to fill in.
pub fn status(d: &Desired, all: &[Desired], observed: &Observed, now: Timestamp) -> PodStatus {
    let pod = observed.pods.get(&d.revision.digest);
    let place = match (pod, &d.standing) {
        (Some(pod), _) => locate(d, pod, all, observed, now),
        (None, Standing::Withdrawn { code, .. }) => {
            Where::because(Phase::Stopped, code, "withdrawn; nothing of it runs", None)
        }
        (None, _) => Where::because(Phase::Pending, "accepted", "accepted a moment ago", Some(now)),
    };
    let since = pod.filter(|p| p.record.phase == place.phase).map_or(now, |p| p.record.since);
    PodStatus {
        name: d.deployment.name.clone(),
        revision: d.revision,
        phase: place.phase,
        since,
        reason: place.reason,
        message: place.message,
        deadline: place.deadline,
        containers: pod
            .map(|p| {
                let init = |number| d.deployment.template.is_init(number);
                p.record.containers.iter().enumerate().map(|(n, c)| container_status(c, init(n))).collect()
            })
            .unwrap_or_default(),
    }
}

fn locate(d: &Desired, pod: &ObservedPod, all: &[Desired], observed: &Observed, now: Timestamp) -> Where {
    let record = &pod.record;
    let running = record.any_running();
    if let Standing::Withdrawn { code, stop } = &d.standing {
        return if running && *stop {
            let grace = d.deployment.template.termination_grace;
            Where::because(
                Phase::Stopping,
                code,
                "withdrawn; its containers are ending",
                Some(now.plus(grace)),
            )
        } else if running {
            Where::because(Phase::Running, code, "withdrawn, and left running as its root says", None)
        } else {
            Where::because(Phase::Stopped, code, "withdrawn; nothing of it runs", None)
        };
    }
    if let Some(v) = &record.verdict {
        let phase = if running { Phase::Stopping } else { Phase::Failed };
        return Where::because(phase, "rolled_back", format!("{}: {}", v.code, v.message), None);
    }
    let successor = all.iter().find(|o| {
        o.deployment.name == d.deployment.name
            && o.revision.sequence > d.revision.sequence
            && !matches!(o.standing, Standing::Withdrawn { .. })
            && observed
                .pods
                .get(&o.revision.digest)
                .is_some_and(|p| p.record.verdict.is_none() && p.record.activated_at.is_some())
    });
    if let (false, Some(next)) = (running, successor) {
        let message = format!("sequence {} took its place; kept to return to", next.revision.sequence);
        return Where::because(Phase::Stopped, "standby", message, None);
    }
    // A start that was asked for and not answered yet is none.
    let untouched = record.containers.iter().all(|c| matches!(c.state, RunState::Created));
    if running || (record.activated_at.is_some() && !untouched) {
        return locate_started(d, pod, now);
    }
    if !pod.staged {
        return locate_unstaged(d, pod, now);
    }
    let deadline = record.deadline(&d.deployment);
    if let Some(w) = waiting(d, all, observed, now) {
        return Where::because(Phase::Staged, &w.code, w.message, w.until.or(Some(deadline)));
    }
    if !d.startable {
        return Where::because(
            Phase::Staged,
            "waiting_ticket",
            "admission has not opened its start yet",
            Some(deadline),
        );
    }
    Where::because(
        Phase::Staged,
        "starting",
        "the revision before it is ending, or its start is next",
        Some(deadline),
    )
}

fn locate_unstaged(d: &Desired, pod: &ObservedPod, now: Timestamp) -> Where {
    let record = &pod.record;
    let deadline = record.deadline(&d.deployment);
    let failed = record.failure.as_ref();
    if let Some(f) = failed.filter(|f| f.terminal) {
        return Where::because(Phase::Failed, &f.code, &f.message, None);
    }
    if now >= deadline {
        let why = failed
            .map_or_else(|| "it is not staged yet".to_owned(), |f| format!("{}: {}", f.code, f.message));
        return Where::because(Phase::Failed, "deadline_exceeded", why, record.fetch_due(now));
    }
    match (pod.activity, failed) {
        // Somebody's no, not an outage: only other bytes or a newer revision help, though it is tried again.
        (Activity::Idle, Some(f)) if !record::OUTAGES.contains(&f.code.as_str()) => {
            Where::because(Phase::Failed, &f.code, &f.message, record.fetch_due(now))
        }
        (Activity::Compiling, _) => {
            let (reason, message) = match pod.preparing {
                Some(Preparing::Queued(ahead)) => {
                    ("compile_queued", format!("{ahead} others are compiled before it"))
                }
                Some(Preparing::Testing) => ("testing", "put together once, and its self-test".to_owned()),
                Some(Preparing::Compiling) | None => ("compiling", "for this device's CPU".to_owned()),
            };
            Where::because(Phase::Compiling, reason, message, Some(deadline))
        }
        (_, Some(f)) => Where::because(
            Phase::Pulling,
            &f.code,
            &f.message,
            record.fetch_due(now).map(|t| t.min(deadline)),
        ),
        (Activity::Pulling, None) => {
            Where::because(Phase::Pulling, "pulling", "the image is on its way", Some(deadline))
        }
        (Activity::Idle, None) => {
            Where::because(Phase::Pending, "accepted", "fetching it is next", Some(deadline))
        }
    }
}

fn locate_started(d: &Desired, pod: &ObservedPod, now: Timestamp) -> Where {
    let record = &pod.record;
    let ended = |c: &ContainerRecord| match &c.state {
        RunState::Ended { cause, .. } => Some(cause.clone()),
        _ => None,
    };
    let mut last_failure = None;
    let mut waits: Option<(&ContainerRecord, Timestamp)> = None;
    for (spec, policy) in record::containers(&d.deployment) {
        let Some(c) = record.container(&spec.name) else { continue };
        if let Some(cause) = ended(c) {
            if let Some(due) = c.due(policy, now) {
                if waits.is_none_or(|(_, t)| due < t) {
                    waits = Some((c, due));
                }
            } else if !is_success(&cause) {
                last_failure = Some((c, cause));
            }
        }
    }
    if let Some((c, due)) = waits {
        let cause = ended(c);
        let code = cause.as_ref().map_or("unknown", cause_code);
        let message = format!("container {} ended ({code}), attempt {}; it starts again", c.name, c.attempt);
        return if !pod.staged {
            let why = record
                .failure
                .as_ref()
                .map_or("its files are being fetched again".to_owned(), |f| f.message.clone());
            Where::because(Phase::Pending, "not_staged", why, record.fetch_due(now))
        } else if let Some(Cause::Refused { code }) = &cause {
            let why =
                c.stderr_tail.clone().unwrap_or_else(|| format!("container {} was not started", c.name));
            Where::because(Phase::Failed, code, why, Some(due))
        } else if c.failures >= CRASH_LOOP {
            Where::because(Phase::CrashLoop, "crash_loop", message, Some(due))
        } else {
            Where::because(Phase::Pending, "restart_backoff", message, Some(due))
        };
    }
    if let Some((c, cause)) = last_failure {
        let why = c.stderr_tail.as_ref().filter(|_| matches!(cause, Cause::Refused { .. }));
        let message = why.map_or_else(
            || format!("container {} ended and does not start again by its restart policy", c.name),
            |why| format!("container {} was not started: {why}", c.name),
        );
        return Where::because(Phase::Failed, cause_code(&cause), message, None);
    }
    if record.is_healthy(&d.deployment) {
        let done = record.containers.iter().all(|c| !c.is_running());
        return if done {
            Where::because(Phase::Succeeded, "completed", "all containers ended with success", None)
        } else {
            Where::at(Phase::Healthy)
        };
    }
    if !record.any_running() {
        let deadline = Some(record.deadline(&d.deployment));
        return Where::because(Phase::Staged, "starting", "its next container's start is next", deadline);
    }
    if let Some(first) = record.first_unfinished(&d.deployment).and_then(|n| record.containers.get(n)) {
        return Where::because(
            Phase::Running,
            "initializing",
            format!("container {} runs before the others", first.name),
            Some(record.deadline(&d.deployment)),
        );
    }
    if let Some(c) = record.containers.iter().find(|c| c.is_running() && c.ready == Some(false)) {
        let message = format!("container {} does not pass its readiness probe", c.name);
        return Where::because(Phase::Running, "not_ready", message, None);
    }
    Where::at(Phase::Running)
}

fn container_status(c: &ContainerRecord, init: bool) -> ContainerStatus {
    let (finished_at, last_end) = match &c.state {
        RunState::Ended { at, cause } => (Some(*at), Some(cause.clone())),
        _ => (None, None),
    };
    ContainerStatus {
        name: c.name.clone(),
        attempt: c.attempt,
        running: c.is_running(),
        started_at: c.started_at,
        finished_at,
        last_end,
        memory: None,
        memory_peak: None,
        memory_limit: None,
        cpu_usage: None,
        cpu_throttled: None,
        cpu_quota: None,
        cpu_period: None,
        stderr_tail: c.stderr_tail.clone(),
        dropped_lines: None,
        compiled: c.compiled.clone(),
        cpu_throttled_periods: None,
        ready: c.ready.filter(|_| c.is_running()),
        probe_message: None,
        init,
    }
}

/// Whether a phase is only a step on the way, not worth a write to flash of its own.
pub fn is_progress(phase: Phase) -> bool {
    matches!(phase, Phase::Pending | Phase::Pulling | Phase::Compiling | Phase::Staged | Phase::Stopping)
}

#[cfg(test)]
mod tests;
