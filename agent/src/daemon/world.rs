//! Everything that is known of the device, put together for core: what admission holds, what supervise runs, what is remembered.
//!
//! Asks guard and the agent's own store; never decides. The daemon keeps one; `shoal-agent status` builds one to look at.

use crate::{entropy, points};
use shoal_agent_core::plan::{Activity, Desired, Observed, ObservedPod, Preparing, Standing, Waiting};
use shoal_agent_core::{Record, RunState, rollup};
use shoal_ipc::{FeatureSet, HeldRevision, HeldRole, TrustSummary};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::latest::{Cause, Compiled, Deployment, Kind, PodStatus, Revision};
use shoal_protocol::refusal::Code;
use shoal_runtime::{ContainerId, ContainerState, ContainerStatus, Guard, PodSandboxStatus, Result};
use std::collections::{BTreeMap, BTreeSet};

/// All that is known.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// What admission holds, as it says.
    pub trust: TrustSummary,
    /// What supervise can enforce.
    pub features: FeatureSet,
    /// What admission holds, as core wants it.
    pub desired: Vec<Desired>,
    /// Whether admission was heard at all: before, nothing is known to be held, which is not the same as nothing being held.
    pub is_asked: bool,
    /// What is.
    pub observed: Observed,
    /// Supervise's last words on each container.
    pub containers: BTreeMap<ContainerId, ContainerStatus>,
    /// Records that changed and are not durable yet.
    pub dirty: BTreeSet<Digest>,
    /// Unsigned containers of uid 0, by name of their pod: nothing is planned for them, but the report says that they are here.
    pub local: BTreeMap<ContainerId, ContainerStatus>,
}

/// Now: the clock, but never before what signed documents prove.
pub(crate) fn now(trust: &TrustSummary) -> Timestamp {
    crate::tls::clock().max(Timestamp(trust.time_floor))
}

fn standing(held: &HeldRevision) -> Standing {
    match held.role {
        HeldRole::Candidate => Standing::Candidate,
        HeldRole::LastGood => Standing::LastGood,
        HeldRole::Superseded => Standing::Withdrawn { code: "superseded".to_owned(), stop: true },
        // What a revoked key signed is stopped by supervise itself when its root says so; the agent does not.
        HeldRole::Withdrawn => {
            Standing::Withdrawn { code: held.reason.clone(), stop: held.reason != Code::RevokedKey.as_str() }
        }
    }
}

fn waiting(held: &HeldRevision) -> Option<Waiting> {
    if held.startable || held.reason.is_empty() {
        return None;
    }
    let message = if held.detail.is_empty() {
        held.reason.parse::<Code>().map_or_else(|_| held.reason.clone(), |c| c.hint().to_owned())
    } else {
        held.detail.clone()
    };
    Some(Waiting { code: held.reason.clone(), message, until: None })
}

/// How a container ended, in the wire's words.
pub(crate) fn cause(cause: &shoal_ipc::Cause) -> Cause {
    use shoal_ipc::Cause as Ipc;
    match cause {
        Ipc::Exited { code } => Cause::Exited { code: u64::from(*code) },
        Ipc::Trap { message } => Cause::Trap { message: message.clone() },
        Ipc::GuestMemory => Cause::GuestMemory,
        Ipc::OomKilled => Cause::OomKilled,
        Ipc::CpuLimit => Cause::CpuLimit,
        Ipc::TimeLimit => Cause::TimeLimit,
        Ipc::Unhealthy => Cause::Unhealthy,
        Ipc::Stopped => Cause::Stopped,
        Ipc::Signal { number } => Cause::Signal { number: u64::from(*number) },
        Ipc::Refused { code, .. } => Cause::Refused { code: code.clone() },
        Ipc::Unknown => Cause::Unknown,
    }
}

/// How far a module is, in the plan's words.
pub(crate) fn preparing(stage: shoal_ipc::PrepareStage) -> Preparing {
    match stage {
        shoal_ipc::PrepareStage::Queued { ahead } => Preparing::Queued(ahead),
        shoal_ipc::PrepareStage::Compiling => Preparing::Compiling,
        shoal_ipc::PrepareStage::Testing => Preparing::Testing,
    }
}

fn compiled(info: &shoal_ipc::CompiledInfo) -> Compiled {
    Compiled {
        engine: info.engine.clone(),
        millis: info.millis,
        module_size: info.module_size,
        code_size: info.code_size,
        cache_hit: info.cache_hit,
    }
}

fn decode_deployment(envelope: &[u8], held: &HeldRevision) -> Option<Deployment> {
    let envelope = Envelope::parse(envelope).ok()?;
    if envelope.identity().0 != held.digest.0 {
        return None;
    }
    codec::decode(envelope.payload(), Limits::of_size(Kind::Deployment.size_cap())).ok()
}

impl World {
    /// A world that remembers.
    pub(crate) fn new(records: Vec<(Digest, Record)>) -> Self {
        let pods = records.into_iter().map(|(digest, record)| (digest, observed(record))).collect();
        Self { observed: Observed { pods }, ..Self::default() }
    }

    /// The desired revision with this identity.
    pub(crate) fn find(&self, pod: &Digest) -> Option<&Desired> {
        self.desired.iter().find(|d| d.revision.digest == *pod)
    }

    /// Asks admission again.
    pub(crate) async fn refresh_desired(
        &mut self,
        guard: &Guard,
    ) -> std::result::Result<(), shoal_ipc::Error> {
        let trust = guard.admit(shoal_ipc::AdmitClient::trust).await?;
        // Until all of it was heard, what was heard before counts.
        let known: BTreeMap<Digest, &Deployment> =
            self.desired.iter().map(|d| (d.revision.digest, &d.deployment)).collect();
        let mut desired = Vec::with_capacity(trust.held.len());
        for held in &trust.held {
            let digest = Digest(held.digest.0);
            // What was replaced matters only while something of it is left here.
            if held.role == HeldRole::Superseded && !self.observed.pods.contains_key(&digest) {
                continue;
            }
            let deployment = if let Some(d) = known.get(&digest) {
                (*d).clone()
            } else {
                let (name, sequence) = (held.name.clone(), held.sequence);
                let envelope = guard.admit(move |a| a.deployment(&name, sequence)).await?;
                let Some(d) = decode_deployment(&envelope, held) else {
                    tracing::error!(name = %held.name, %digest, "admission's document cannot be read; install one release");
                    continue;
                };
                d
            };
            desired.push(Desired {
                deployment,
                revision: Revision { sequence: held.sequence, digest },
                standing: standing(held),
                stageable: held.stageable,
                startable: held.startable,
                waiting: waiting(held),
            });
        }
        self.trust = trust;
        let now = now(&self.trust);
        for d in &desired {
            let pods = &mut self.observed.pods;
            let withdrawn = matches!(d.standing, Standing::Withdrawn { .. });
            if !withdrawn && !pods.contains_key(&d.revision.digest) {
                pods.insert(d.revision.digest, observed(Record::new(&d.deployment, now)));
                self.dirty.insert(d.revision.digest);
            }
            // A ticket that was missing may be there now.
            if let Some(pod) = pods.get_mut(&d.revision.digest)
                && d.stageable
                && pod.record.failure.as_ref().is_some_and(|f| f.code == Code::NotAdmitted.as_str())
            {
                pod.record.fetched();
            }
        }
        self.desired = desired;
        self.is_asked = true;
        Ok(())
    }

    /// Asks supervise for everything again: features, containers, and how far each revision is.
    pub(crate) async fn refresh_observed(&mut self, runtime: &shoal_runtime::RuntimeService) -> Result<()> {
        self.features = runtime.status().await?;
        let list = runtime.list_containers().await?;
        self.adopt(list);
        let wanted: Vec<Digest> = self
            .desired
            .iter()
            .filter(|d| d.stageable && !matches!(d.standing, Standing::Withdrawn { .. }))
            .map(|d| d.revision.digest)
            .collect();
        for digest in wanted {
            match runtime.run_pod_sandbox(digest).await {
                Ok(sandbox) => self.note_sandbox(&sandbox),
                // Its ticket is on its way; the plan asks again.
                Err(e) if e.code() == Code::NotAdmitted.as_str() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes supervise's list as what is: adopts what runs, and ends what is remembered as running and is not.
    pub(crate) fn adopt(&mut self, list: Vec<ContainerStatus>) {
        let now = now(&self.trust);
        let (local, list): (Vec<_>, Vec<_>) = list.into_iter().partition(|c| c.local);
        self.local = local.into_iter().map(|c| (c.id, c)).collect();
        self.containers = list.into_iter().map(|c| (c.id, c)).collect();
        let listed: Vec<ContainerStatus> = self.containers.values().cloned().collect();
        for status in &listed {
            self.note_container(status, now);
        }
        for (digest, pod) in &mut self.observed.pods {
            for c in &mut pod.record.containers {
                let runs = listed.iter().any(|s| {
                    s.id.pod == *digest
                        && s.metadata.name == c.name.as_str()
                        && s.state == ContainerState::Running
                });
                if c.is_running() && !runs {
                    tracing::info!(pod = %pod.record.name, container = %c.name, "it ended while nobody watched");
                    c.ended(c.attempt, Cause::Unknown, now, now, entropy::draw());
                    self.dirty.insert(*digest);
                }
            }
            if !pod.record.any_running() {
                pod.stopping = None;
            }
            // What came before the others and supervise knows no more of did its work for a pod that is gone.
            let known = |name: &str| listed.iter().any(|s| s.id.pod == *digest && s.metadata.name == name);
            let wanted = self.desired.iter().find(|d| d.revision.digest == *digest);
            let first = wanted.map_or(usize::MAX, |d| d.deployment.template.containers.len());
            for c in pod.record.containers.iter_mut().skip(first) {
                if matches!(c.state, RunState::Ended { .. }) && !known(c.name.as_str()) {
                    c.undone();
                    self.dirty.insert(*digest);
                }
            }
        }
    }

    /// One container as supervise has it.
    pub(crate) fn note_container(&mut self, status: &ContainerStatus, now: Timestamp) {
        if status.local {
            self.local.insert(status.id, status.clone());
            return;
        }
        let Ok(name) = status.metadata.name.parse::<Name>() else { return };
        if !self.observed.pods.contains_key(&status.id.pod) {
            let Some(record) = self.unknown_record(status, now) else { return };
            self.observed.pods.insert(status.id.pod, observed(record));
        }
        let Some(pod) = self.observed.pods.get_mut(&status.id.pod) else { return };
        let attempt = status.metadata.attempt;
        let Some(record) = pod.record.container_mut(&name) else { return };
        let runs = status.state == ContainerState::Running;
        if attempt < record.attempt && !runs {
            return;
        }
        let changed = if runs {
            let fresh = record.attempt != attempt || !record.is_running();
            if fresh {
                record.adopted(attempt, Timestamp(status.started_at));
            }
            let news = fresh | (status.healthy && record.found_healthy(attempt));
            let record_judged = record.judged(status.ready);
            if fresh {
                pod.record.activated_at.get_or_insert(Timestamp(status.started_at));
            }
            news | record_judged
        } else {
            let fresh = record.attempt != attempt || !matches!(record.state, RunState::Ended { .. });
            if fresh {
                points::hit(points::ENDED);
                let how = status.cause.as_ref().map_or(Cause::Unknown, cause);
                if let Some(shoal_ipc::Cause::Refused { detail, .. }) = &status.cause {
                    record.stderr_tail = Some(detail.clone());
                } else if !status.stderr_tail.is_empty() {
                    record.stderr_tail = Some(status.stderr_tail.clone());
                }
                if record.attempt != attempt {
                    record.started(attempt, Timestamp(status.started_at));
                }
                record.ended(attempt, how, Timestamp(status.finished_at), now, entropy::draw());
            }
            fresh
        };
        if !pod.record.any_running() {
            pod.stopping = None;
        }
        pod.removed = false;
        self.containers.insert(status.id, status.clone());
        if changed {
            self.dirty.insert(status.id.pod);
        }
    }

    fn unknown_record(&self, status: &ContainerStatus, now: Timestamp) -> Option<Record> {
        if let Some(d) = self.find(&status.id.pod) {
            return Some(Record::new(&d.deployment, now));
        }
        let of_pod = self
            .containers
            .values()
            .filter(|c| c.id.pod == status.id.pod && c.id != status.id)
            .chain([status]);
        let names = of_pod.filter_map(|c| c.metadata.name.parse().ok());
        Some(Record::unknown(status.pod_name.parse().ok()?, names, now))
    }

    /// How far a revision is.
    pub(crate) fn note_sandbox(&mut self, sandbox: &PodSandboxStatus) {
        let Some(d) = self.desired.iter().find(|d| d.revision.digest == sandbox.id) else { return };
        let Some(pod) = self.observed.pods.get_mut(&sandbox.id) else { return };
        pod.staged = sandbox.is_staged();
        if pod.staged {
            pod.activity = Activity::Idle;
            if pod.record.failure.is_some() {
                pod.record.fetched();
                self.dirty.insert(sandbox.id);
            }
        }
        for spec in d.deployment.template.all_containers() {
            let info = sandbox.modules.iter().find(|m| m.digest.0 == spec.image.module.digest.0);
            let (Some(info), Some(record)) =
                (info.and_then(|m| m.compiled.as_ref()), pod.record.container_mut(&spec.name))
            else {
                continue;
            };
            // What was there before it was asked for is a hit in the cache.
            if record.compiled.is_none() {
                record.compiled = Some(Compiled { cache_hit: true, millis: 0, ..compiled(info) });
            }
        }
    }

    /// A module was compiled for this revision.
    pub(crate) fn note_compiled(&mut self, pod: Digest, module: Digest, info: &shoal_ipc::CompiledInfo) {
        let Some(d) = self.desired.iter().find(|d| d.revision.digest == pod) else { return };
        let Some(observed) = self.observed.pods.get_mut(&pod) else { return };
        // The next plan asks how far the revision is.
        observed.activity = Activity::Idle;
        for spec in d.deployment.template.all_containers().filter(|c| c.image.module.digest == module) {
            if let Some(record) = observed.record.container_mut(&spec.name) {
                record.compiled = Some(compiled(info));
            }
        }
        self.dirty.insert(pod);
    }

    /// Supervise found one container healthy.
    pub(crate) fn note_healthy(&mut self, id: &ContainerId, attempt: u64) {
        let Some(status) = self.containers.get_mut(id) else { return };
        status.healthy = true;
        let Ok(name) = status.metadata.name.parse::<Name>() else { return };
        let record = self.observed.pods.get_mut(&id.pod).and_then(|p| p.record.container_mut(&name));
        if record.is_some_and(|r| r.found_healthy(attempt)) {
            self.dirty.insert(id.pod);
        }
    }

    /// The status of everything that is worth telling, by name and newest first.
    pub(crate) fn statuses(&self) -> Vec<PodStatus> {
        let now = now(&self.trust);
        let mut pods: Vec<PodStatus> = self
            .desired
            .iter()
            .filter(|d| {
                // Of what is no longer wanted only that counts which was here; of what was replaced only what still runs.
                let Standing::Withdrawn { code, .. } = &d.standing else { return true };
                let here = self.observed.pods.get(&d.revision.digest);
                here.is_some_and(|p| code != "superseded" || p.record.any_running())
            })
            .map(|d| {
                let mut status = rollup::status(d, &self.desired, &self.observed, now);
                for (index, c) in status.containers.iter_mut().enumerate() {
                    let index = u16::try_from(index).unwrap_or(u16::MAX);
                    if let Some(seen) = self.containers.get(&ContainerId { pod: d.revision.digest, index }) {
                        measurements(c, seen);
                    }
                }
                status
            })
            .collect();
        pods.sort_by(|a, b| (&a.name, b.revision.sequence).cmp(&(&b.name, a.revision.sequence)));
        pods
    }
}

fn measurements(status: &mut shoal_protocol::latest::ContainerStatus, seen: &ContainerStatus) {
    if seen.metadata.attempt != status.attempt {
        return;
    }
    let s = &seen.stats;
    status.memory = status.running.then_some(s.memory);
    status.memory_peak = Some(s.memory_peak).filter(|n| *n > 0);
    status.memory_limit = s.applied.memory_limit;
    status.cpu_usage = Some(s.cpu_usage).filter(|n| *n > 0);
    status.cpu_throttled = Some(s.cpu_throttled).filter(|n| *n > 0);
    status.cpu_quota = s.applied.cpu_quota;
    status.cpu_period = s.applied.cpu_period;
    status.cpu_throttled_periods = Some(s.cpu_throttled_periods).filter(|n| *n > 0);
    status.probe_message = Some(seen.probe_message.clone()).filter(|m| !m.is_empty());
    status.dropped_lines = Some(seen.dropped_lines).filter(|n| *n > 0);
}

fn observed(record: Record) -> ObservedPod {
    ObservedPod {
        record,
        staged: false,
        activity: Activity::Idle,
        stopping: None,
        removed: false,
        preparing: None,
    }
}
