//! Desired + observed + now → steps, and when to look again. Decides; never acts.
//!
//! Rules, in the order in which they are applied to the revisions of one name:
//! 1. A withdrawn revision that is to stop is stopped, and removed once nothing of it runs.
//! 2. A revision that was started and did not become healthy is condemned when there is a last-good to return to (F3).
//! 3. The newest revision that is started already, or could start now, is the chosen one. A revision that runs needs no
//!    ticket and no new permission to go on: an absence never stops anything (U2).
//! 4. What else runs of the name is stopped; only when it has ended is the chosen one started.
//! 5. What is wanted and not yet staged is staged, whatever runs meanwhile.
//!
//! Steps come in the order condemn, stop, remove, start, stage: what frees memory, CPU and disk goes before what takes them.

use crate::backoff;
use crate::record::{self, Record, RunState, cause_code, is_success};
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::v1::{Cause, Deployment, RestartPolicy, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// Ends before it became healthy after which a new revision gives way to last-good.
pub const MAX_EARLY_ENDS: u32 = 3;
/// Seconds beyond the grace after which a stop is asked for again.
const STOP_SLACK: u64 = 10;

/// Where admission has a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Accepted, not proven here.
    Candidate,
    /// The newest that became healthy here.
    LastGood,
    /// No longer wanted.
    Withdrawn {
        /// Why: `removed`, `deselected`, `superseded`, `returned` …
        code: String,
        /// Whether what runs of it is to stop.
        stop: bool,
    },
}

/// What something waits for that no step of ours can bring about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// A stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// When it ends or is looked at again, if that is known.
    pub until: Option<Timestamp>,
}

/// One revision that admission holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The document.
    pub deployment: Deployment,
    /// Its sequence and identity; the identity is also the ticket's id.
    pub revision: Revision,
    /// Where admission has it.
    pub standing: Standing,
    /// Whether it has a ticket at all, so that it may be fetched and compiled.
    pub stageable: bool,
    /// Whether its ticket allows a start.
    pub startable: bool,
    /// What admission says that it waits for.
    pub waiting: Option<Waiting>,
}

impl Desired {
    fn is_withdrawn(&self) -> bool {
        matches!(self.standing, Standing::Withdrawn { .. })
    }
}

/// What the agent is busy with for a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activity {
    /// Nothing.
    #[default]
    Idle,
    /// The image is on its way to the device or to supervise.
    Pulling,
    /// The module is being compiled.
    Compiling,
}

/// One revision as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPod {
    /// What the agent remembers.
    pub record: Record,
    /// Whether supervise has all files and compiled code.
    pub staged: bool,
    /// What is in progress.
    pub activity: Activity,
    /// When a stop was last asked for, while something still runs.
    pub stopping: Option<Timestamp>,
    /// Whether supervise's folders and groups of it are gone.
    pub removed: bool,
    /// How far its modules are while they are made ready; absent until supervise says.
    pub preparing: Option<Preparing>,
}

/// How far a module is on its way to being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparing {
    /// So many others are before it.
    Queued(u32),
    /// It is being compiled.
    Compiling,
    /// It is put together once, and its self-test runs.
    Testing,
}

/// All that is known of the device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// By deployment identity.
    pub pods: BTreeMap<Digest, ObservedPod>,
}

/// Why a pod is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Admission withdrew it.
    Withdrawn,
    /// Another revision of the name takes its place.
    Replaced,
    /// It was condemned, and last-good takes its place.
    RolledBack,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remember that this revision does not work here.
    Condemn {
        /// Which revision.
        pod: Digest,
        /// A stable code.
        code: String,
        /// In words.
        message: String,
    },
    /// Ask all of its containers to end.
    Stop {
        /// Which revision.
        pod: Digest,
        /// Why.
        reason: StopReason,
        /// Seconds until they are killed.
        grace: u64,
    },
    /// Take away its groups, folders and records; nothing of it runs.
    Remove {
        /// Which revision.
        pod: Digest,
    },
    /// Start one container.
    Start {
        /// Which revision.
        pod: Digest,
        /// Which container, by its place in the template.
        container: usize,
    },
    /// Fetch, hand over and compile what is missing.
    Stage {
        /// Which revision.
        pod: Digest,
    },
}

impl Step {
    fn rank(&self) -> u8 {
        match self {
            Self::Condemn { .. } => 0,
            Self::Stop { .. } => 1,
            Self::Remove { .. } => 2,
            Self::Start { .. } => 3,
            Self::Stage { .. } => 4,
        }
    }
}

/// What to do now, and when to look again if nothing happens before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In the order in which to do them.
    pub steps: Vec<Step>,
    /// When time alone will change the plan.
    pub next_wake: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp, now: Timestamp) {
        if at > now {
            self.next_wake = Some(self.next_wake.map_or(at, |t| t.min(at)));
        }
    }
}

/// What to do about everything. Pure: the same input gives the same plan.
pub fn plan(desired: &[Desired], observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut names: BTreeMap<&Name, Vec<&Desired>> = BTreeMap::new();
    for d in desired {
        names.entry(&d.deployment.name).or_default().push(d);
    }
    for revisions in names.values_mut() {
        revisions.sort_by_key(|d| std::cmp::Reverse(d.revision.sequence));
        plan_name(&mut plan, revisions, desired, observed, now);
    }
    // What nobody holds any more and what no longer runs is tidied up; what runs is left alone.
    let held: BTreeSet<Digest> = desired.iter().map(|d| d.revision.digest).collect();
    for (digest, pod) in &observed.pods {
        if !held.contains(digest) && !pod.record.any_running() && pod.activity == Activity::Idle {
            plan.steps.push(Step::Remove { pod: *digest });
        }
    }
    plan.steps.sort_by_key(Step::rank);
    plan
}

fn plan_name(plan: &mut Plan, revisions: &[&Desired], all: &[Desired], observed: &Observed, now: Timestamp) {
    for d in revisions.iter().filter(|d| d.is_withdrawn()) {
        plan_withdrawn(plan, d, observed, now);
    }
    let mut candidates: Vec<(&Desired, &ObservedPod)> = revisions
        .iter()
        .filter(|d| !d.is_withdrawn())
        .filter_map(|d| Some((*d, observed.pods.get(&d.revision.digest)?)))
        .filter(|(_, o)| o.record.verdict.is_none())
        .collect();
    if let Some(index) = chosen(&candidates, all, observed, now)
        && let Some((code, message)) = condemnation(candidates[index], &candidates, now)
    {
        plan.steps.push(Step::Condemn { pod: candidates[index].0.revision.digest, code, message });
        candidates.remove(index);
    }
    for (i, (d, o)) in candidates.iter().enumerate() {
        // Only the newest and what can be returned to are worth staging.
        if !o.staged && d.stageable && (i == 0 || d.standing == Standing::LastGood) {
            plan_stage(plan, d, o, now);
        }
        if let Some(until) = waiting(d, all, observed, now).and_then(|w| w.until) {
            plan.wake(until, now);
        }
    }
    let Some(index) = chosen(&candidates, all, observed, now) else { return };
    let (run, pod) = candidates[index];
    if stop_others(plan, run, observed, now) {
        return;
    }
    let first = pod.record.first_unfinished(&run.deployment);
    for (i, (container, policy)) in record::containers(&run.deployment).enumerate() {
        let Some(record) = pod.record.container(&container.name) else { continue };
        if record.is_running() {
            continue;
        }
        // One after the other comes before all that run together.
        if first.is_some_and(|first| first != i) {
            continue;
        }
        let Some(due) = record.due(policy, now) else { continue };
        let may_start = pod.staged
            && run.startable
            && (pod.record.any_running() || waiting(run, all, observed, now).is_none());
        if due > now {
            plan.wake(due, now);
        } else if may_start && pod.stopping.is_none() {
            plan.steps.push(Step::Start { pod: run.revision.digest, container: i });
        }
    }
    if !pod.record.was_healthy
        && let Some(at) = pod.record.activated_at
    {
        plan.wake(health_deadline(&run.deployment, at), now);
    }
}

fn plan_withdrawn(plan: &mut Plan, d: &Desired, observed: &Observed, now: Timestamp) {
    let Some(pod) = observed.pods.get(&d.revision.digest) else { return };
    let stop = matches!(d.standing, Standing::Withdrawn { stop: true, .. });
    if pod.record.any_running() {
        if stop {
            plan_stop(
                plan,
                d.revision.digest,
                pod,
                d.deployment.template.termination_grace,
                StopReason::Withdrawn,
                now,
            );
        }
    } else if !pod.removed && pod.activity == Activity::Idle {
        plan.steps.push(Step::Remove { pod: d.revision.digest });
    }
}

fn plan_stop(
    plan: &mut Plan,
    digest: Digest,
    pod: &ObservedPod,
    grace: u64,
    reason: StopReason,
    now: Timestamp,
) {
    let again =
        pod.stopping.map(|since| backoff::clamp(since.plus(grace + STOP_SLACK), now, grace + STOP_SLACK));
    match again {
        Some(at) if at > now => plan.wake(at, now),
        _ => plan.steps.push(Step::Stop { pod: digest, reason, grace }),
    }
}

fn plan_stage(plan: &mut Plan, d: &Desired, pod: &ObservedPod, now: Timestamp) {
    let deadline = pod.record.deadline(&d.deployment);
    plan.wake(deadline, now);
    if pod.activity != Activity::Idle {
        return;
    }
    match pod.record.fetch_due(now) {
        Some(at) if at > now => plan.wake(at, now),
        Some(_) => plan.steps.push(Step::Stage { pod: d.revision.digest }),
        None => {}
    }
}

/// Stops what runs of other revisions of the same name; true if there is any.
fn stop_others(plan: &mut Plan, run: &Desired, observed: &Observed, now: Timestamp) -> bool {
    let mut any = false;
    for (digest, pod) in &observed.pods {
        if *digest == run.revision.digest
            || pod.record.name != run.deployment.name
            || !pod.record.any_running()
        {
            continue;
        }
        any = true;
        let reason = if pod.record.verdict.is_some() { StopReason::RolledBack } else { StopReason::Replaced };
        let planned = plan.steps.iter().any(|s| matches!(s, Step::Stop { pod, .. } if pod == digest));
        if !planned {
            plan_stop(plan, *digest, pod, run.deployment.template.termination_grace, reason, now);
        }
    }
    any
}

fn chosen(
    candidates: &[(&Desired, &ObservedPod)],
    all: &[Desired],
    observed: &Observed,
    now: Timestamp,
) -> Option<usize> {
    candidates.iter().position(|(d, o)| {
        o.record.activated_at.is_some()
            || (o.staged && d.startable && waiting(d, all, observed, now).is_none())
    })
}

fn health_deadline(deployment: &Deployment, activated: Timestamp) -> Timestamp {
    activated.plus(deployment.rollout.deadline.unwrap_or(record::DEFAULT_DEADLINE))
}

/// Why the chosen revision gives way to last-good, if it does.
fn condemnation(
    (d, pod): (&Desired, &ObservedPod),
    candidates: &[(&Desired, &ObservedPod)],
    now: Timestamp,
) -> Option<(String, String)> {
    let record = &pod.record;
    let activated = record.activated_at?;
    if record.was_healthy || d.standing == Standing::LastGood || record.is_healthy(&d.deployment) {
        return None;
    }
    let back = candidates
        .iter()
        .find(|(o, _)| o.standing == Standing::LastGood && o.revision.sequence < d.revision.sequence)?;
    let back = back.0.revision.sequence;
    for (container, policy) in record::containers(&d.deployment) {
        let Some(c) = record.container(&container.name) else { continue };
        let RunState::Ended { cause, .. } = &c.state else { continue };
        let refused = matches!(cause, Cause::Refused { code } if !record::OUTAGES.contains(&code.as_str()));
        let over = refused || (policy == RestartPolicy::Never && !is_success(cause));
        if over || c.failures >= MAX_EARLY_ENDS {
            let code = cause_code(cause).to_owned();
            let times = c.failures;
            let name = &container.name;
            return Some((
                code.clone(),
                format!(
                    "container {name} ended {times} times before the revision was healthy (last: {code}); sequence {back} runs again"
                ),
            ));
        }
    }
    (now >= health_deadline(&d.deployment, activated)).then(|| {
        (
            "deadline_exceeded".to_owned(),
            format!("it did not become healthy in time; sequence {back} runs again"),
        )
    })
}

/// What keeps a revision from being started that no step of ours brings about: what admission says, its own `not_before`, and
/// what it requires on this device.
pub fn waiting(d: &Desired, all: &[Desired], observed: &Observed, now: Timestamp) -> Option<Waiting> {
    if let Some(w) = &d.waiting {
        return Some(w.clone());
    }
    if let Some(t) = d.deployment.not_before.filter(|t| now < *t) {
        return Some(Waiting {
            code: "outside_window".to_owned(),
            message: "it may not be activated yet".to_owned(),
            until: Some(t),
        });
    }
    let unmet = d.deployment.requires.iter().find(|r| {
        !all.iter().any(|o| {
            o.deployment.name == r.name
                && o.revision.sequence >= r.sequence
                && !o.is_withdrawn()
                && observed.pods.get(&o.revision.digest).is_some_and(|p| p.record.is_healthy(&o.deployment))
        })
    })?;
    Some(Waiting {
        code: "dependency_unmet".to_owned(),
        message: format!("{} at sequence {} or later must be healthy here first", unmet.name, unmet.sequence),
        until: observed.pods.get(&d.revision.digest).map(|p| p.record.deadline(&d.deployment)),
    })
}

#[cfg(test)]
mod tests;
