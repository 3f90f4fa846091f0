//! The daemon: one loop that looks, plans, acts, tells and waits.
//!
//! 1. look: what admission holds and what supervise runs, asked again only when something said that it changed;
//! 2. plan: `core::plan`, pure;
//! 3. act: `execute`, one step after the other; fetches run in tasks of their own;
//! 4. tell: records and reports, durable before they leave;
//! 5. wait: for one named [`Wake`]. Nothing polls; one full look every few hours would find a lost event.
//!
//! The loop never awaits inside a `select!` arm: every arm only names why it woke, and is cancel-safe (channel receives and
//! timers). A container is touched by steps of the plan alone, so a lost connection or a restarted controller touches none.

mod events;
mod execute;
mod inbox;
mod logs;
mod opening;
pub(crate) mod renew;
mod report;
mod sources;
pub(crate) mod world;

use crate::identity::{Files, IdentityKey};
use crate::link::{self, LinkConfig, LinkEvent};
use crate::store::Store;
use crate::{enroll, entropy, lock, privilege, tls};
use anyhow::{Context, Result};
use execute::Fetched;
use opening::{Held, not_enrolled};
use renew::Renewal;
use report::Uplink;
use shoal_agent_core::plan::plan;
use shoal_agent_core::report::Coalescer;
use shoal_ipc::{Layout, Notify};
use shoal_protocol::ids::{DeviceId, FleetId, Timestamp};
use shoal_protocol::latest::PodStatus;
use shoal_runtime::{Guard, ImageService, RuntimeService};
use sources::{GuardEvent, Half};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use world::World;

/// A full look at everything, spread by a tenth.
const RESYNC: Duration = Duration::from_hours(6);
/// How long nothing is planned after a step could not be carried out.
const HOLD_BACK: Duration = Duration::from_secs(5);
/// Until a failed write of a record or report is tried again.
const STORAGE_RETRY: Duration = Duration::from_secs(10);
/// Rounds of planning before the loop listens again.
const ROUNDS: usize = 8;
/// Fetches at a time.
const FETCHES: usize = 2;

/// Why the loop woke.
#[derive(Debug)]
enum Wake {
    /// Guard said something, came or went.
    Guard(GuardEvent),
    /// The connection to the controller came, went or brought something.
    Link(LinkEvent),
    /// A fetch ended.
    Fetched(Fetched),
    /// A request for another certificate was answered, or not.
    Renewed(Box<renew::Answer>),
    /// Time has come for what the plan, a report, the uplink or a retry waited for.
    Time,
    /// Everything is looked at again.
    Resync,
    /// The controller let this device in; or there is nothing left to ask with.
    Joined(Result<bool>),
    /// Somebody asked the process to end.
    Stop(&'static str),
}

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// There is a certificate now: it begins anew, with a connection.
    Joined,
    /// Somebody asked for it.
    Stopped,
}

/// What was told last, to see what changed.
#[derive(Debug, Default)]
struct Told {
    pods: Vec<PodStatus>,
    trust: (u64, Option<u64>, u64, u64),
    conditions: Vec<String>,
}

/// The daemon's state. It lives in one task.
struct Daemon {
    fleet: FleetId,
    device: DeviceId,
    key: IdentityKey,
    name: Option<String>,
    guard: Guard,
    runtime: RuntimeService,
    images: ImageService,
    store: Store,
    world: World,
    admit_up: bool,
    supervise_up: bool,
    refresh: bool,
    relist: bool,
    storage_broken: bool,
    storage_retry: Option<Instant>,
    held_back: Option<Instant>,
    look_again: Option<Instant>,
    next_plan: Option<Instant>,
    begun: Instant,
    coalescer: Coalescer,
    told: Told,
    facts_told: u64,
    uplink: Option<Uplink>,
    link: watch::Sender<LinkConfig>,
    root_version: u64,
    api: Vec<String>,
    tls: Arc<rustls::ClientConfig>,
    renewal: Renewal,
    inbox: Vec<(shoal_protocol::topics::Topic, Vec<u8>)>,
    streams: Vec<tokio::task::JoinHandle<()>>,
    fetches: Arc<Semaphore>,
    fetched: mpsc::Sender<Fetched>,
}

/// `shoal-agent run`. Must be called before any thread is started.
pub(crate) fn run(layout: &Layout) -> Result<()> {
    privilege::become_agent(layout)?;
    let _lock = lock::take(&layout.agent_dir())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(live(layout))
}

/// Serves without a certificate until there is one, then with it.
async fn live(layout: &Layout) -> Result<()> {
    let Some(key) = Files::new(layout).load_key()? else { return Err(not_enrolled(layout)) };
    // From here on it only waits: for an operator's word, a guard, a disk. What it waits for is in its log and in `doctor`.
    let manager = Notify::from_env();
    manager.ready();
    tokio::spawn(stay_alive(manager));
    while serve(layout, &key).await? == Ended::Joined {}
    Ok(())
}

async fn serve(layout: &Layout, key: &IdentityKey) -> Result<Ended> {
    let files = Files::new(layout);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let guard = Guard::new(layout.clone());
    let (tell_guard, mut hear_guard) = mpsc::channel(64);
    tokio::spawn(sources::watch(Half::Admit, layout.clone(), tell_guard.clone()));
    tokio::spawn(sources::watch(Half::Supervise, layout.clone(), tell_guard));
    let (store, images, held) = tokio::select! {
        opened = opening::open(layout, &guard) => opened?,
        _ = terminate.recv() => return Ok(Ended::Stopped),
        _ = interrupt.recv() => return Ok(Ended::Stopped),
    };
    let Some(Held { fleet, floor, root, is_member }) = held else { return Err(not_enrolled(layout)) };
    let mut certificates = files.load_certificates()?;
    if certificates.is_empty() && !is_member {
        certificates = tokio::select! {
            all = enroll::go_on(layout, key) => all?.ok_or_else(|| not_enrolled(layout))?,
            _ = terminate.recv() => return Ok(Ended::Stopped),
            _ = interrupt.recv() => return Ok(Ended::Stopped),
        };
    }
    // A member without a certificate lives by what is brought to it, and goes on asking for one.
    let is_joined = !certificates.is_empty();
    let joining =
        async { if is_joined { std::future::pending().await } else { enroll::go_on(layout, key).await } };
    tokio::pin!(joining);
    let device = key.device();
    let own = certificates.first().map_or_else(Vec::new, |c| c.to_vec());
    let identity = is_joined.then_some((key, certificates));
    let tls = Arc::new(tls::client(&root.controller.ca, floor, identity)?);
    let config = LinkConfig {
        fleet: fleet.clone(),
        device: device.clone(),
        addresses: root.controller.mqtt.clone(),
        tls: tls.clone(),
        changes: 0,
    };
    let (link, link_config) = watch::channel(config);
    let (tell_link, mut hear_link) = mpsc::channel(64);
    if is_joined {
        tokio::spawn(link::run(link_config, tell_link));
    }
    let (fetched, mut hear_fetched) = mpsc::channel(16);
    let (answers, mut hear_renewal) = mpsc::channel(1);
    let facts_told = store.facts_in_outbox()?;
    let mut daemon = Daemon {
        name: files.load_name()?,
        runtime: RuntimeService::new(guard.clone()),
        images,
        world: World::new(store.records()?),
        admit_up: false,
        supervise_up: false,
        refresh: false,
        relist: false,
        storage_broken: false,
        storage_retry: None,
        held_back: None,
        look_again: None,
        next_plan: None,
        begun: Instant::now(),
        coalescer: Coalescer::default(),
        told: Told::default(),
        uplink: None,
        root_version: root.version,
        renewal: Renewal::new(layout, &own, root.controller.ca, floor, answers),
        api: root.controller.api,
        inbox: Vec::new(),
        streams: Vec::new(),
        fetches: Arc::new(Semaphore::new(FETCHES)),
        fleet,
        device,
        key: key.clone(),
        guard,
        store,
        facts_told,
        link,
        tls,
        fetched,
    };
    tracing::info!(device = %daemon.device, fleet = %daemon.fleet, "running");
    let mut resync = Instant::now() + spread(RESYNC);
    loop {
        daemon.turn().await;
        let at = daemon.next_wake().min(resync);
        let wake = tokio::select! {
            Some(e) = hear_guard.recv() => Wake::Guard(e),
            Some(e) = hear_link.recv() => Wake::Link(e),
            Some(e) = hear_fetched.recv() => Wake::Fetched(e),
            Some(e) = renew::answered(&mut hear_renewal) => e,
            all = &mut joining => Wake::Joined(all.map(|c| c.is_some())),
            () = tokio::time::sleep_until(at.into()) => if at >= resync { Wake::Resync } else { Wake::Time },
            _ = terminate.recv() => Wake::Stop("SIGTERM"),
            _ = interrupt.recv() => Wake::Stop("SIGINT"),
        };
        tracing::trace!(?wake, "woke");
        match wake {
            Wake::Stop(signal) => {
                tracing::info!(signal, "stopping; containers go on running");
                daemon.persist();
                return Ok(Ended::Stopped);
            }
            Wake::Joined(joined) => {
                daemon.persist();
                return if joined? { Ok(Ended::Joined) } else { Err(not_enrolled(layout)) };
            }
            Wake::Resync => {
                resync = Instant::now() + spread(RESYNC);
                daemon.refresh = true;
                daemon.relist = true;
            }
            Wake::Time => {}
            Wake::Guard(event) => daemon.guard_said(event),
            Wake::Link(event) => daemon.link_said(event).await,
            Wake::Fetched(fetched) => daemon.fetch_ended(fetched),
            Wake::Renewed(answer) => daemon.renewal_ended(*answer),
        }
    }
}

/// Signs of life for the service manager: they stop when something holds the only thread up.
async fn stay_alive(mut manager: Notify) {
    while let Some(due) = manager.due() {
        tokio::time::sleep_until(due.into()).await;
        manager.beat(Instant::now());
    }
}

fn spread(d: Duration) -> Duration {
    d + d / 10 * u32::try_from(entropy::draw() % 100).unwrap_or(0) / 100
}

impl Daemon {
    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks, plans, acts and tells, until nothing is left to do now.
    async fn turn(&mut self) {
        let ahead = |t: &Instant| *t > Instant::now();
        self.held_back = self.held_back.filter(ahead);
        self.look_again = self.look_again.filter(ahead);
        self.submit_inbox().await;
        for _ in 0..ROUNDS {
            self.look().await;
            let now = world::now(&self.world.trust);
            let next = plan(&self.world.desired, &self.world.observed, now);
            let wait = |at: Timestamp| Instant::now() + Duration::from_secs(at.0.saturating_sub(now.0));
            self.next_plan = next.next_wake.map(wait);
            // Nothing is done on what was not looked at.
            let ready = self.supervise_up && !self.relist && self.held_back.is_none();
            if next.steps.is_empty() || !ready {
                break;
            }
            for step in next.steps {
                self.execute(step).await;
            }
        }
        self.tend_certificate();
        self.note_changes();
        self.persist();
        if self.may_report() && self.coalescer.due() <= self.millis() {
            self.report().await;
        }
        self.tend_uplink();
    }

    /// A report of what was never looked at would say that nothing is here.
    fn may_report(&self) -> bool {
        self.admit_up && self.supervise_up && !self.relist && !self.world.trust.fleet.is_empty()
    }

    /// Asks again what was said to have changed.
    async fn look(&mut self) {
        if self.look_again.is_some() {
            return;
        }
        if self.refresh && self.admit_up {
            match self.world.refresh_desired(&self.guard).await {
                Ok(()) => self.refresh = false,
                Err(error) => {
                    tracing::warn!(%error, "admission does not say what it holds");
                    self.look_again = Some(Instant::now() + HOLD_BACK);
                }
            }
            self.follow_root().await;
        }
        if self.relist && self.supervise_up {
            match self.world.refresh_observed(&self.runtime).await {
                Ok(()) => self.relist = false,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "supervise does not say what runs");
                    self.look_again = Some(Instant::now() + HOLD_BACK);
                }
            }
        }
    }

    /// Plans nothing for a moment: the last step did not work, and would be the next plan's again.
    fn hold_back(&mut self) {
        self.held_back = Some(Instant::now() + HOLD_BACK);
    }

    /// Writes the records that changed. What cannot be written now is tried again.
    fn persist(&mut self) {
        if self.storage_retry.is_some_and(|t| t > Instant::now()) {
            return;
        }
        for digest in std::mem::take(&mut self.world.dirty) {
            let Some(pod) = self.world.observed.pods.get(&digest) else { continue };
            if let Err(error) = self.store.save_record(&digest, &pod.record) {
                self.world.dirty.insert(digest);
                self.storage_failed(&error);
                return;
            }
        }
        if self.storage_retry.take().is_some() {
            self.storage_broken = false;
        }
    }

    fn storage_failed(&mut self, error: &anyhow::Error) {
        tracing::error!(error = %format!("{error:#}"), "storage_unavailable: it goes on in memory and is tried again");
        self.storage_broken = true;
        self.storage_retry = Some(Instant::now() + STORAGE_RETRY);
    }

    fn next_wake(&self) -> Instant {
        let report = self.begun + Duration::from_millis(self.coalescer.due());
        let report = self.may_report().then_some(report);
        let uplink = self.uplink.as_ref().map(Uplink::due);
        let all = [
            self.next_plan,
            self.held_back,
            self.look_again,
            self.storage_retry,
            uplink,
            report,
            self.renewal.due(),
        ];
        all.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + RESYNC)
    }
}
