//! Carries out what the plan says, one step at a time; what takes long runs in a task of its own and reports back.
//!
//! Each step notes what it did in the record before or after it, so that a crash anywhere resumes: see `points.rs`.

use super::Daemon;
use super::world;
use crate::{entropy, points};
use shoal_agent_core::Step;
use shoal_agent_core::plan::{Activity, Desired, Standing};
use shoal_image::Reference;
use shoal_image::registry::{Access, Tls};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::Cause;
use shoal_protocol::refusal::Code;
use shoal_runtime::{ContainerId, Error, ImageService, PullSource, RuntimeService, Wanted};
use std::collections::BTreeSet;
use std::time::Duration;

/// How a fetch ended.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Which revision.
    pub pod: Digest,
    /// Whether supervise has all files now.
    pub result: Result<(), Error>,
}

impl Daemon {
    /// One step. Failures become part of what is observed; the next plan deals with them.
    pub(super) async fn execute(&mut self, step: Step) {
        tracing::debug!(?step, "step");
        match step {
            Step::Condemn { pod, code, message } => self.condemn(pod, &code, &message),
            Step::Stop { pod, grace, .. } => self.stop(pod, grace).await,
            Step::Remove { pod } => self.remove(pod).await,
            Step::Start { pod, container } => self.start(pod, container).await,
            Step::Stage { pod } => self.stage(pod).await,
        }
    }

    fn condemn(&mut self, pod: Digest, code: &str, message: &str) {
        points::hit(points::CONDEMN);
        let now = world::now(&self.world.trust);
        if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
            tracing::warn!(name = %observed.record.name, %code, %message, "a revision does not work here");
            observed.record.condemn(code, message, now);
            self.world.dirty.insert(pod);
        }
        self.persist();
    }

    pub(super) async fn stop(&mut self, pod: Digest, grace: u64) {
        let asked = self.runtime.stop_pod_sandbox(pod, Duration::from_secs(grace)).await;
        points::hit(points::STOP);
        let now = world::now(&self.world.trust);
        match asked {
            Ok(0) => self.relist = true,
            Ok(_) => {
                if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
                    observed.stopping = Some(now);
                }
            }
            Err(error) => {
                tracing::warn!(%pod, error = %error.chain(), "cannot stop it");
                // Asked again after its grace.
                if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
                    observed.stopping = Some(now);
                }
                self.relist = true;
            }
        }
    }

    async fn remove(&mut self, pod: Digest) {
        points::hit(points::REMOVE_BEFORE);
        match self.runtime.remove_pod_sandbox(pod).await {
            Ok(()) => {}
            // Nothing of it was ever there, or it is gone already.
            Err(e) if e.code() == Code::NotAdmitted.as_str() || e.code() == "not_found" => {}
            Err(error) => {
                tracing::warn!(%pod, error = %error.chain(), "cannot remove it");
                self.hold_back();
                return;
            }
        }
        points::hit(points::REMOVE_AFTER);
        self.world.containers.retain(|id, _| id.pod != pod);
        let held = self.world.find(&pod);
        let replaced = held
            .is_some_and(|d| matches!(&d.standing, Standing::Withdrawn { code, .. } if code == "superseded"));
        if held.is_none() || replaced {
            self.world.observed.pods.remove(&pod);
            self.world.desired.retain(|d| d.revision.digest != pod);
            self.world.dirty.remove(&pod);
            if let Err(error) = self.store.delete_record(&pod) {
                self.storage_failed(&error);
            }
        } else if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
            observed.removed = true;
        }
        self.collect_images();
    }

    /// Blobs that no held revision needs go when a pod goes.
    fn collect_images(&self) {
        if let Err(error) = self.images.collect(&self.kept_images()) {
            tracing::warn!(error = %error.chain(), "images cannot be collected");
        }
    }

    fn kept_images(&self) -> BTreeSet<Digest> {
        let held = self.world.desired.iter().filter(|d| !matches!(d.standing, Standing::Withdrawn { .. }));
        let images = held.flat_map(|d| d.deployment.template.all_containers()).map(|c| c.image.manifest);
        images.chain(self.software.needs()).collect()
    }

    async fn start(&mut self, pod: Digest, container: usize) {
        let now = world::now(&self.world.trust);
        let Some(observed) = self.world.observed.pods.get_mut(&pod) else { return };
        let Some(record) = observed.record.containers.get_mut(container) else { return };
        let name = record.name.clone();
        let attempt = record.begin_attempt();
        observed.record.activated_at.get_or_insert(now);
        observed.removed = false;
        self.world.dirty.insert(pod);
        self.persist();
        points::hit(points::START_BEFORE);
        let id = ContainerId { pod, index: u16::try_from(container).unwrap_or(u16::MAX) };
        let started = self.runtime.start_container(id, attempt).await;
        points::hit(points::START_AFTER);
        let now = world::now(&self.world.trust);
        let Some(observed) = self.world.observed.pods.get_mut(&pod) else { return };
        match started {
            Ok(info) => {
                tracing::info!(pod = %observed.record.name, container = %name, attempt, pid = info.pid, "started");
                observed.record.started(&name, attempt, shoal_protocol::ids::Timestamp(info.started_at));
                self.world.dirty.insert(pod);
                self.measure(id, &name, attempt, &info);
            }
            Err(error) => {
                let code = error.code();
                tracing::warn!(pod = %observed.record.name, container = %name, attempt, error = %error.chain(), "not started");
                // What supervise lost since it was asked last is staged again, and the start is not held against the pod.
                // The ticket is on its way, somebody else started it, or the answer was lost: supervise knows.
                let unsure = ["not_admitted", "conflict", "guard_unavailable"].contains(&code.as_str());
                let Some(record) = observed.record.container_mut(&name) else { return };
                if ["not_admitted", "conflict", Code::CacheChanged.as_str()].contains(&code.as_str()) {
                    record.not_begun(attempt);
                    self.world.dirty.insert(pod);
                }
                if code == Code::CacheChanged.as_str() {
                    observed.staged = false;
                } else if unsure {
                    record.postpone(now.plus(1));
                    self.relist = true;
                } else {
                    record.stderr_tail = Some(error.chain());
                    record.ended(attempt, Cause::Refused { code }, now, now, entropy::draw());
                    self.world.dirty.insert(pod);
                }
            }
        }
    }

    async fn stage(&mut self, pod: Digest) {
        let sandbox = match self.runtime.run_pod_sandbox(pod).await {
            Ok(s) => s,
            Err(error) => return self.stage_failed(pod, &error),
        };
        self.world.note_sandbox(&sandbox);
        let Some(desired) = self.world.find(&pod) else { return };
        if sandbox.missing_total > 0 {
            self.fetch(&desired.clone(), &sandbox.missing.iter().copied().collect());
            return;
        }
        let modules: Vec<Digest> =
            sandbox.modules.iter().filter(|m| m.compiled.is_none()).map(|m| Digest(m.digest.0)).collect();
        for module in modules {
            if let Err(error) = self.runtime.create_container(pod, module).await {
                return self.stage_failed(pod, &error);
            }
            points::hit(points::COMPILE);
            if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
                observed.activity = Activity::Compiling;
                observed.preparing = None;
            }
        }
    }

    /// A step towards *staged* failed.
    pub(super) fn stage_failed(&mut self, pod: Digest, error: &Error) {
        self.stage_refused(pod, &error.code(), &error.chain(), error.is_terminal());
    }

    fn stage_refused(&mut self, pod: Digest, code: &str, message: &str, terminal: bool) {
        let now = world::now(&self.world.trust);
        if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
            tracing::warn!(name = %observed.record.name, code, message, terminal, "not staged");
            observed.activity = Activity::Idle;
            observed.record.fetch_failed(code, message, terminal, now, entropy::draw());
            self.world.dirty.insert(pod);
        }
    }

    /// A module could not be compiled: the same for every revision that waits for it.
    pub(super) fn compile_failed(&mut self, module: Digest, code: &str, detail: &str) {
        for pod in self.compiling(module) {
            // An engine that is not there can come; a module that it refuses stays refused.
            let outage = [
                Code::CompilerAbsent.as_str(),
                Code::EngineMismatch.as_str(),
                "storage_unavailable",
                "compile_failed",
                "stalled",
            ]
            .contains(&code);
            self.stage_refused(pod, code, detail, !outage);
        }
    }

    /// The revisions that wait for this module.
    pub(super) fn compiling(&self, module: Digest) -> Vec<Digest> {
        let waits = |d: &&Desired| {
            let busy = self
                .world
                .observed
                .pods
                .get(&d.revision.digest)
                .is_some_and(|p| p.activity == Activity::Compiling);
            busy && d.deployment.template.all_containers().any(|c| c.modules().any(|m| m.digest == module))
        };
        self.world.desired.iter().filter(waits).map(|d| d.revision.digest).collect()
    }

    /// Fetches and hands over what is missing, in a task.
    fn fetch(&mut self, desired: &Desired, missing: &BTreeSet<Digest>) {
        let pod = desired.revision.digest;
        if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
            observed.activity = Activity::Pulling;
        }
        let mut wanted: Vec<Wanted> = Vec::new();
        for container in desired.deployment.template.all_containers() {
            let image = Wanted { image: container.image.clone() };
            if !image.has_none_of(missing) && !wanted.contains(&image) {
                wanted.push(image);
            }
        }
        let job = Fetch {
            images: self.images.clone(),
            runtime: self.runtime.clone(),
            pod,
            sources: wanted.iter().map(|w| self.sources(&w.image.reference)).collect(),
            wanted,
            keep: self.kept_images(),
        };
        let (tell, permits) = (self.fetched.clone(), self.fetches.clone());
        tokio::spawn(async move {
            // Closed never; held while the fetch runs, so that few run at a time.
            let _permit = permits.acquire_owned().await;
            let result = job.run().await;
            let _ = tell.send(Fetched { pod, result }).await;
        });
    }

    /// Where an image may be: the fleet's controller first, then the registry that its reference names.
    pub(super) fn sources(&self, reference: &str) -> Vec<PullSource> {
        let mut out = Vec::new();
        let own = self
            .api
            .iter()
            .filter_map(|a| crate::http::host_port(a))
            .map(|(host, port)| format!("{host}:{port}"));
        for host in own {
            let tls = Tls::Config(Box::new((*self.tls).clone()));
            out.push(PullSource { host, access: Access { tls, ..Access::default() } });
        }
        if let Ok(r) = reference.parse::<Reference>()
            && r.registry.is_some()
            && out.iter().all(|s| s.host != r.host())
        {
            out.push(PullSource { host: r.host().to_owned(), access: Access::default() });
        }
        out
    }

    /// Limits as read back at the start, until the first measurement.
    fn measure(
        &mut self,
        id: ContainerId,
        name: &shoal_protocol::ids::Name,
        attempt: u64,
        info: &shoal_ipc::StartedInfo,
    ) {
        let pod_name =
            self.world.observed.pods.get(&id.pod).map(|p| p.record.name.to_string()).unwrap_or_default();
        let stats = shoal_ipc::StatsInfo { applied: info.applied.clone(), ..Default::default() };
        let state = shoal_ipc::ContainerState {
            ticket: shoal_ipc::Digest(id.pod.0),
            deployment: pod_name,
            index: id.index,
            name: name.to_string(),
            attempt,
            running: true,
            pid: info.pid,
            started_at: info.started_at,
            finished_at: 0,
            healthy: false,
            cause: None,
            stats,
            stderr_tail: String::new(),
            dropped_lines: 0,
            local: false,
            ready: None,
            probe_message: String::new(),
        };
        self.world.containers.insert(id, state.into());
    }
}

struct Fetch {
    images: ImageService,
    runtime: RuntimeService,
    pod: Digest,
    wanted: Vec<Wanted>,
    sources: Vec<Vec<PullSource>>,
    keep: BTreeSet<Digest>,
}

impl Fetch {
    async fn run(&self) -> Result<(), Error> {
        for (wanted, sources) in self.wanted.iter().zip(&self.sources) {
            self.images.pull_image(wanted, sources, &self.keep).await?;
            points::hit(points::PULLED);
            // Supervise names what it misses in bounded parts; each round names others, so this ends.
            loop {
                let missing: BTreeSet<Digest> =
                    self.runtime.run_pod_sandbox(self.pod).await?.missing.into_iter().collect();
                if wanted.has_none_of(&missing) {
                    break;
                }
                self.images
                    .stage_image(self.pod, wanted, &missing, || points::hit(points::STAGED_ITEM))
                    .await?;
            }
        }
        Ok(())
    }
}
