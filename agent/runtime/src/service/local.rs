//! CRI v1's `RuntimeService` by its own ids and configurations: uid 0's own pods, which it makes, starts and removes; and, to
//! look at, those that admission answers for. The local commands call it; a CRI socket can.
//!
//! Never here: whether an unsigned pod is allowed. Supervise says so, each time.

use super::records::{ContainerRecord, PodRecord, Records, by_prefix, new_id};
use super::view::{AdmittedPod, Seen};
use super::{RuntimeService, ticket};
use crate::cri::config::{ContainerConfig, PodSandboxConfig};
use crate::cri::message;
use crate::cri::{ContainerId, ContainerState, Verb};
use crate::error::{Error, Result};
use crate::guard::{Events, Guard};
use crate::named::PinnedImage;
use shoal_image::FileEntry;
use shoal_ipc::{Event, StartedInfo};
use shoal_protocol::ids::Digest;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Containers of one pod.
const CONTAINERS: usize = 16;
/// The longest that a compilation is waited for; supervise's own limit is the policy's.
const COMPILE: Duration = Duration::from_mins(15);
/// Beyond a stop's own time.
const SLACK: Duration = Duration::from_secs(10);
/// Of the only start of a local container: whoever wants it again creates another one.
const ATTEMPT: u64 = 1;

/// Gives the bytes of one of an image's files.
pub type OpenFile<'a> = &'a (dyn Fn(&FileEntry) -> std::io::Result<OwnedFd> + Sync);

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The service.
#[derive(Debug, Clone)]
pub struct CriService {
    runtime: RuntimeService,
    records: Option<Records>,
    /// Records that were read before, by somebody who may.
    snapshot: Vec<PodRecord>,
    admitted: Vec<AdmittedPod>,
}

impl CriService {
    /// To look only: what supervise has, and what the caller knows of signed pods.
    pub fn viewer(guard: Guard, admitted: Vec<AdmittedPod>) -> Self {
        Self { runtime: RuntimeService::new(guard), records: None, snapshot: Vec::new(), admitted }
    }

    /// With uid 0's own pods too.
    #[must_use]
    pub fn with_records(mut self, records: Records) -> Self {
        self.records = Some(records);
        self
    }

    /// With uid 0's own pods as they were read, to look at.
    #[must_use]
    pub fn with_snapshot(mut self, pods: Vec<PodRecord>) -> Self {
        self.snapshot = pods;
        self
    }

    /// Over uid 0's own socket, with the records of its pods.
    pub fn local(layout: &shoal_ipc::Layout) -> Result<Self> {
        let records = Records::open(layout.local_dir())?;
        let service = Self::viewer(Guard::of_root(layout.clone()), Vec::new());
        Ok(service.with_records(records))
    }

    /// The verbs by ticket, beneath.
    pub fn runtime(&self) -> &RuntimeService {
        &self.runtime
    }

    fn records(&self) -> Result<&Records> {
        self.records.as_ref().ok_or_else(|| Error::Config { text: "local pods are uid 0's".to_owned() })
    }

    fn pods(&self) -> Result<Vec<PodRecord>> {
        self.records.as_ref().map_or_else(|| Ok(self.snapshot.clone()), Records::all)
    }

    /// CRI `RunPodSandbox`: `not_admitted` unless the device's policy says `local_unsigned`.
    pub async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String> {
        let records = self.records()?;
        let _lock = records.lock()?;
        let m = &config.metadata;
        let same = |p: &PodRecord| {
            let o = &p.config.metadata;
            (&o.name, &o.namespace, &o.uid, o.attempt) == (&m.name, &m.namespace, &m.uid, m.attempt)
        };
        if let Some(p) = records.all()?.into_iter().find(same) {
            return Err(Error::Exists {
                what: format!("the pod {} (attempt {})", m.name, m.attempt),
                id: p.id,
            });
        }
        let mut pod = PodRecord {
            id: new_id()?,
            config: config.clone(),
            ticket_name: String::new(),
            created_at: now(),
            stopped: false,
            containers: Vec::new(),
        };
        let ticket = ticket::pod(pod.ticket_id(), config)?;
        pod.ticket_name.clone_from(&ticket.name);
        records.save(&pod, &ticket)?;
        if let Err(e) = self.runtime.local_ticket(ticket).await {
            records.remove(&pod.id)?;
            return Err(e);
        }
        Ok(pod.id)
    }

    fn pod(&self, id: &str) -> Result<PodRecord> {
        by_prefix("pod", id, self.pods()?, |p| &p.id)
    }

    /// CRI `StopPodSandbox`: ends its containers; nothing more is started in it.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<String> {
        let records = self.records()?;
        let _lock = records.lock()?;
        let mut pod = self.pod(id)?;
        pod.stopped = true;
        records.save_pod(&pod)?;
        self.end_all(&pod, Duration::from_secs(10)).await?;
        Ok(pod.id)
    }

    async fn end_all(&self, pod: &PodRecord, grace: Duration) -> Result<()> {
        let ticket = Digest(pod.ticket_id().0);
        let mut events = self.events()?;
        match self.runtime.stop_pod_sandbox(ticket, grace).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Supervise knows nothing of it, so nothing of it runs.
            Err(e) if e.code() == "not_admitted" => return Ok(()),
            Err(e) => return Err(e),
        }
        self.until_ended(&mut events, ticket, None, grace + SLACK).await
    }

    /// CRI `RemovePodSandbox`: with all its containers, which are ended first.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<String> {
        let records = self.records()?;
        let _lock = records.lock()?;
        let pod = self.pod(id)?;
        self.end_all(&pod, Duration::ZERO).await?;
        match self.runtime.remove_pod_sandbox(Digest(pod.ticket_id().0)).await {
            Err(e) if e.code() != "not_admitted" => return Err(e),
            _ => records.remove(&pod.id)?,
        }
        Ok(pod.id)
    }

    /// CRI `ListPodSandbox`.
    pub fn list_pod_sandbox(&self) -> Result<Vec<message::PodSandbox>> {
        Ok(super::view::pods(&self.pods()?, &self.admitted))
    }

    /// CRI `PodSandboxStatus`: by id or its beginning.
    pub fn pod_sandbox_status(&self, id: &str) -> Result<(message::PodSandbox, Option<PodRecord>)> {
        let pod = by_prefix("pod", id, self.list_pod_sandbox()?, |p| &p.id)?;
        let record = self.pods()?.into_iter().find(|p| p.id == pod.id);
        Ok((pod, record))
    }

    /// CRI `CreateContainer`: hands over the image's files, has the module compiled, and waits for it.
    pub async fn create_container(
        &self,
        pod: &str,
        config: &ContainerConfig,
        image: &PinnedImage,
        open: OpenFile<'_>,
    ) -> Result<String> {
        let records = self.records()?;
        let _lock = records.lock()?;
        let mut pod = self.pod(pod)?;
        if pod.stopped {
            return Err(Error::NotReady { verb: "create a container", id: pod.id });
        }
        let m = &config.metadata;
        let same = |c: &ContainerRecord| {
            (&c.config.metadata.name, c.config.metadata.attempt) == (&m.name, m.attempt)
        };
        if let Some((_, c)) = pod.live().find(|(_, c)| same(c)) {
            let what = format!("the container {} (attempt {})", m.name, m.attempt);
            return Err(Error::Exists { what, id: c.id.clone() });
        }
        let free = pod.containers.iter().position(Option::is_none);
        let index = free.unwrap_or(pod.containers.len());
        if index >= CONTAINERS {
            return Err(Error::Config {
                text: format!("a pod has at most {CONTAINERS} containers; remove some"),
            });
        }
        let mut ticket = records.ticket(&pod)?;
        ticket::add(&mut ticket, index, config, image)?;
        self.runtime.local_ticket(ticket.clone()).await?;
        let id = Digest(pod.ticket_id().0);
        self.stage(id, image, open).await?;
        self.compile(id, image.module.digest).await?;
        let record = ContainerRecord {
            id: new_id()?,
            config: config.clone(),
            image_ref: image.manifest.to_string(),
            created_at: now(),
        };
        let made = record.id.clone();
        match pod.containers.get_mut(index) {
            Some(place) => *place = Some(record),
            None => pod.containers.push(Some(record)),
        }
        records.save(&pod, &ticket)?;
        Ok(made)
    }

    async fn stage(&self, pod: Digest, image: &PinnedImage, open: OpenFile<'_>) -> Result<()> {
        // Supervise names what it misses in bounded parts; each round names others, so this ends.
        loop {
            let missing = self.runtime.run_pod_sandbox(pod).await?.missing;
            let ours: Vec<&FileEntry> = std::iter::once(&image.module)
                .chain(&image.files)
                .filter(|f| missing.contains(&f.digest))
                .collect();
            if ours.is_empty() {
                return Ok(());
            }
            for file in ours {
                let what = format!("cannot open {} of {}", file.path, image.reference);
                let fd = open(file).map_err(|source| Error::Io { what, source })?;
                self.runtime.stage(pod, file.digest, fd).await?;
            }
        }
    }

    fn events(&self) -> Result<Events> {
        let failed = |source| Error::Guard { verb: "tell of events", source };
        self.runtime.guard().events().map_err(failed)
    }

    async fn compile(&self, pod: Digest, module: Digest) -> Result<()> {
        let mut events = self.events()?;
        self.runtime.create_container(pod, module).await?;
        let wait = async {
            loop {
                let failed = |source| Error::Guard { verb: "tell how the compilation ended", source };
                match events.next().await.map_err(failed)? {
                    Event::Compiled { module: m, .. } if m.0 == module.0 => return Ok(()),
                    Event::CompileFailed { module: m, code, detail } if m.0 == module.0 => {
                        return Err(Error::Compile { code, detail });
                    }
                    _ => {}
                }
            }
        };
        let late = |_| Error::TimedOut { what: "the compilation".to_owned() };
        tokio::time::timeout(COMPILE, wait).await.map_err(late)?
    }

    /// All containers, local and signed, running and not.
    pub async fn seen(&self) -> Result<Vec<Seen>> {
        let observed = self.runtime.list_containers().await?;
        let layout = self.runtime.guard().layout();
        Ok(super::view::containers(layout, &self.pods()?, observed, &self.admitted))
    }

    /// One container by id or its beginning.
    pub async fn find(&self, id: &str) -> Result<Seen> {
        by_prefix("container", id, self.seen().await?, |c| &c.id)
    }

    /// The same, if it is uid 0's own.
    async fn own(&self, id: &str) -> Result<Seen> {
        let seen = self.find(id).await?;
        if seen.recorded {
            return Ok(seen);
        }
        let why = "is a signed deployment's: its operator decides on it (`shoal` on their machine)";
        Err(Error::Config { text: format!("the container {} {why}", seen.metadata.name) })
    }

    /// CRI `StartContainer`.
    pub async fn start_container(&self, id: &str) -> Result<(Seen, StartedInfo)> {
        let _lock = self.records()?.lock()?;
        let seen = self.startable(id).await?;
        let key = seen.key;
        let mut started = self.runtime.start_container(key, ATTEMPT).await;
        if started.as_ref().is_err_and(|e| e.code() == "cache_changed") {
            // The engine is another one since, or the code was cleared away.
            self.compile(key.pod, seen.module).await?;
            started = self.runtime.start_container(key, ATTEMPT).await;
        }
        Ok((seen, started?))
    }

    /// The same; standard output and error are the caller's to read, and it reads `input` if there is one.
    pub async fn start_attached(
        &self,
        id: &str,
        input: Option<OwnedFd>,
    ) -> Result<(StartedInfo, [OwnedFd; 2])> {
        let _lock = self.records()?.lock()?;
        let seen = self.startable(id).await?;
        if let Some(input) = input {
            self.runtime.feed(seen.key, input).await?;
        }
        self.runtime.start_attached(seen.key, ATTEMPT).await
    }

    async fn startable(&self, id: &str) -> Result<Seen> {
        let mut seen = self.own(id).await?;
        let pod = self.pod(&seen.pod)?;
        if pod.stopped {
            return Err(Error::NotReady { verb: "start a container", id: pod.id });
        }
        seen.state.check(Verb::Start, &seen.metadata.name)?;
        let ticket = self.records()?.ticket(&pod)?;
        let module = ticket.containers.get(usize::from(seen.key.index)).map(|c| c.module.digest.0);
        seen.module = Digest(module.unwrap_or_default());
        Ok(seen)
    }

    /// CRI `StopContainer`: asked to end, killed after `timeout`; gone when this returns.
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<String> {
        let seen = self.own(id).await?;
        seen.state.check(Verb::Stop, &seen.metadata.name)?;
        self.end(&seen, timeout).await?;
        Ok(seen.id)
    }

    async fn end(&self, seen: &Seen, timeout: Duration) -> Result<()> {
        if seen.state != ContainerState::Running {
            return Ok(());
        }
        let mut events = self.events()?;
        self.runtime.stop(seen.key, timeout).await?;
        self.until_ended(&mut events, seen.key.pod, Some(seen.key.index), timeout + SLACK).await
    }

    /// Waits until nothing that is meant runs any more.
    async fn until_ended(
        &self,
        events: &mut Events,
        pod: Digest,
        index: Option<u16>,
        within: Duration,
    ) -> Result<()> {
        let end = Instant::now() + within;
        loop {
            let all = self.runtime.list_containers().await?;
            let runs = all.iter().any(|c| {
                c.id.pod == pod && index.is_none_or(|i| i == c.id.index) && c.state == ContainerState::Running
            });
            if !runs {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, events.next()).await {
                Ok(Ok(_)) => {}
                Ok(Err(source)) => return Err(Error::Guard { verb: "tell of the end", source }),
                Err(_) => return Err(Error::TimedOut { what: "containers to end".to_owned() }),
            }
        }
    }

    /// CRI `RemoveContainer`: what runs is ended first.
    pub async fn remove_container(&self, id: &str) -> Result<String> {
        let records = self.records()?;
        let _lock = records.lock()?;
        let seen = self.own(id).await?;
        self.end(&seen, Duration::ZERO).await?;
        if seen.state != ContainerState::Created {
            self.runtime.remove_container(seen.key).await?;
        }
        let mut pod = self.pod(&seen.pod)?;
        if let Some(place) = pod.containers.get_mut(usize::from(seen.key.index)) {
            *place = None;
        }
        records.save_pod(&pod)?;
        Ok(seen.id)
    }

    /// CRI `ReopenContainerLog`.
    pub async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let seen = self.find(id).await?;
        seen.state.check(Verb::ReopenLog, &seen.metadata.name)?;
        self.runtime.reopen_container_log(seen.key).await
    }

    /// Waits for the end of a container and gives its last state.
    pub async fn wait_container(&self, id: ContainerId, within: Duration) -> Result<Option<Seen>> {
        let mut events = self.events()?;
        match self.until_ended(&mut events, id.pod, Some(id.index), within).await {
            Err(Error::TimedOut { .. }) => return Ok(None),
            other => other?,
        }
        Ok(self.seen().await?.into_iter().find(|s| s.key == id))
    }
}
