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
mod software;
mod sources;
mod turn;
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
use shoal_agent_core::report::Coalescer;
use shoal_ipc::{Layout, Notify};
use shoal_protocol::ids::{DeviceId, FleetId};
use shoal_protocol::latest::PodStatus;
use shoal_runtime::{Guard, ImageService, ReleaseService, RuntimeService};
use sources::{GuardEvent, Half};
use std::path::PathBuf;
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
    /// A fetch of the device's own software ended.
    Brought(software::Brought),
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
    /// The programs that are to run are in this folder.
    Elsewhere(PathBuf),
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
    releases: ReleaseService,
    software: software::State,
    is_joined: bool,
    store: Store,
    world: World,
    admit_up: bool,
    supervise_up: bool,
    refresh: bool,
    relist: bool,
    storage_broken: bool,
    /// Admission had no room for a document that waits here.
    inbox_needs_space: bool,
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
    brought: mpsc::Sender<software::Brought>,
}

/// `shoal-agent run`. Must be called before any thread is started.
pub(crate) fn run(layout: &Layout) -> Result<()> {
    follow_guard(layout);
    privilege::become_agent(layout)?;
    // glibc from 2.43 on asks for 2 MiB pages for every arena on aarch64, for some kilobytes in each. A kernel without such pages
    // says no to this, and is right too.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let lock = lock::take(&layout.agent_dir())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(live(layout))?;
    drop(runtime);
    drop(lock);
    if let Ended::Elsewhere(folder) = ended {
        let error = software::become_agent_of(&folder);
        // The service manager starts the installed one again, which tries once more.
        anyhow::bail!("{} cannot be executed: {error}", folder.join("shoal-agent").display());
    }
    Ok(())
}

/// Guard and agent are of one release. Where the guard runs from a release, its agent takes over from the installed one.
fn follow_guard(layout: &Layout) {
    if let Some(folder) = software::elsewhere(layout) {
        tracing::info!(folder = %folder.display(), "going on as the agent of the release that runs");
        let error = software::become_agent_of(&folder);
        tracing::error!(%error, folder = %folder.display(), "the agent of the release cannot be executed");
    }
}

/// Serves without a certificate until there is one, then with it.
async fn live(layout: &Layout) -> Result<Ended> {
    let Some(key) = Files::new(layout).load_key()? else { return Err(not_enrolled(layout)) };
    // From here on it only waits: for an operator's word, a guard, a disk. What it waits for is in its log and in `doctor`.
    let manager = Notify::from_env();
    manager.ready();
    tokio::spawn(stay_alive(manager));
    tokio::spawn(stay_small());
    loop {
        let ended = serve(layout, &key).await?;
        if ended != Ended::Joined {
            return Ok(ended);
        }
    }
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
    let (brought, mut hear_brought) = mpsc::channel(1);
    let releases = ReleaseService::open(guard.clone())?;
    let facts_told = store.facts_in_outbox()?;
    let mut daemon = Daemon {
        name: files.load_name()?,
        runtime: RuntimeService::new(guard.clone()),
        images,
        releases,
        software: software::State::new(store.counter()),
        is_joined,
        world: World::new(store.records()?),
        admit_up: false,
        supervise_up: false,
        refresh: false,
        relist: false,
        storage_broken: false,
        inbox_needs_space: false,
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
        brought,
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
            Some(e) = hear_brought.recv() => Wake::Brought(e),
            all = &mut joining => Wake::Joined(all.map(|c| c.is_some())),
            () = tokio::time::sleep_until(at.into()) => if at >= resync { Wake::Resync } else { Wake::Time },
            _ = terminate.recv() => Wake::Stop("SIGTERM"),
            _ = interrupt.recv() => Wake::Stop("SIGINT"),
        };
        tracing::trace!(?wake, "woke");
        if matches!(wake, Wake::Resync) {
            resync = Instant::now() + spread(RESYNC);
        }
        if let Some(ended) = daemon.woke(wake).await? {
            return Ok(ended);
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

/// Lets go of the code of its start, and later of what other work needed.
async fn stay_small() {
    let mut wait = Duration::from_mins(1);
    loop {
        tokio::time::sleep(wait).await;
        shoal_confine::memory::let_go_of_code();
        wait = Duration::from_mins(15);
    }
}

fn spread(d: Duration) -> Duration {
    d + d / 10 * u32::try_from(entropy::draw() % 100).unwrap_or(0) / 100
}
