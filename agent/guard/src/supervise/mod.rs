//! Supervise: the small privileged process. It starts what admission permits, under limits, and sees how it ends.
//!
//! Never here: parsing of documents, images or modules; the network; a decision about trust.
//!
//! [`run`] is the whole of it: services are kept running, then it waits, handles what happened ([`events`]) and does what
//! is due. Requests come in through [`peers`], are judged by [`table`] and done in [`handlers`].

mod cache;
mod cause;
mod cgroup;
mod container;
mod contents;
mod copy;
mod devices;
mod dirs;
mod ends;
mod entries;
mod events;
mod facts;
mod fits;
mod graves;
mod handlers;
mod hooks;
mod jail;
mod jobs;
mod lifecycle;
mod links;
mod local;
mod network;
mod peers;
mod policy;
mod prepare;
pub(crate) mod probes;
mod ready;
mod record;
mod runner;
mod services;
mod shutdown;
mod software;
mod spares;
mod start;
mod table;
mod uids;
mod volumes;
mod zygotes;

use crate::say;
use anyhow::Context as _;
use cache::{Cache, Engine};
use cgroup::Hierarchy;
use container::{Container, Key};
pub(crate) use dirs::write_durably;
use events::Next;
use facts::Facts;
use graves::Grave;
use jobs::{Job, Proof, Trouble, Wanted};
use network::Networks;
use peers::Peer;
pub(crate) use policy::summary as policy_summary;
use policy::{Policy, Uids};
use runner::Runner;
use services::Service;
pub(crate) use services::{PAIR_FD, SOCKETS_FD};
use shoal_confine::memory::Rest;
pub(crate) use shoal_confine::process;
use shoal_ipc::{Digest, Layout, Listener, Notify, Ticket};
pub(crate) use shutdown::stop_leftovers;
use software::Releases;
use spares::Spares;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use table::From;
use uids::UidBook;
use zygotes::Zygotes;

/// A typed no.
#[derive(Debug)]
struct Refused {
    code: String,
    detail: String,
}

fn refuse(code: &str, detail: impl Into<String>) -> Refused {
    Refused { code: code.to_owned(), detail: detail.into() }
}

/// A ticket as handed out by admission.
#[derive(Debug)]
struct Held {
    ticket: Ticket,
    withdrawn: bool,
    /// Unsigned, brought by uid 0.
    local: bool,
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct Supervise {
    layout: Layout,
    policy: Policy,
    /// Absent without root: then nothing is confined.
    uids: Option<Uids>,
    hierarchy: Hierarchy,
    /// What the kernel cannot do for confinement.
    lacks: Vec<shoal_confine::Feature>,
    runner: Runner,
    engine: Engine,
    /// The files that `engine` was asked of: others after an upgrade.
    engine_identity: String,
    cache: Cache,
    facts: Facts,
    uid_book: UidBook,
    admit: Service,
    log: Service,
    zygotes: Zygotes,
    networks: Networks,
    listeners: Vec<(From, Listener)>,
    peers: BTreeMap<u64, Peer>,
    tickets: BTreeMap<Digest, Held>,
    /// Containers whose output goes to whoever starts them.
    attached: BTreeSet<Key>,
    /// What their next start reads, where somebody brought it.
    inputs: BTreeMap<Key, OwnedFd>,
    /// Admission has sent all tickets that it has.
    complete: bool,
    /// Files of configs and secrets that tickets name.
    contents: contents::Contents,
    containers: BTreeMap<Key, Container>,
    spares: Spares,
    graves: Vec<Grave>,
    /// Groups of pods that were made and limited, as they stand.
    pods: BTreeSet<String>,
    jobs: Vec<Job>,
    /// Modules that wait to be made ready.
    queue: VecDeque<Wanted>,
    /// Whether the engine's compiled code may run on this CPU; absent until it is known.
    proof: Option<Proof>,
    /// Why the last attempt to find out came to nothing.
    proof_trouble: Option<Trouble>,
    serial: u64,
    denied: u64,
    /// The device's own software.
    releases: Releases,
    /// Who asked for the end of everything.
    shutdown: Option<u64>,
    /// The service manager, where there is one.
    manager: Notify,
    rest: Rest,
}

/// Runs supervise until it is asked to end.
pub(crate) fn run(layout: Layout) -> anyhow::Result<()> {
    let signals = process::signal_descriptor().context("cannot watch signals")?;
    // Containers of a zygote that dies come here.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become a subreaper")?;
    let mut supervise = Supervise::open(layout)?;
    supervise.manager = Notify::from_env();
    supervise.listen()?;
    supervise.adopt_all().context("cannot read the containers' records")?;
    supervise.adopt_networks().context("cannot read the records of pods' networks")?;
    supervise.load_local().context("cannot read unsigned tickets")?;
    supervise.find_log();
    // The engine proves itself before anybody waits for it.
    supervise.next_jobs();
    let confined = if supervise.uids.is_some() { "confined" } else { "unconfined" };
    say::line(format!("ready, {confined}, control groups {}", supervise.hierarchy.name()));
    supervise.manager.ready();
    loop {
        supervise.services()?;
        let ready = supervise.wait(&signals)?;
        supervise.rest.waited(!ready.is_empty());
        for token in ready {
            if supervise.handle(token, &signals) == Next::End {
                supervise.manager.stopping();
                return Ok(());
            }
        }
        supervise.timers();
        supervise.software_due();
        supervise.spares_due();
        supervise.manager.beat(std::time::Instant::now());
        if supervise.shutdown.is_some() && supervise.all_ended() {
            supervise.manager.stopping();
            return supervise.tear_down();
        }
    }
}

impl Supervise {
    fn open(layout: Layout) -> anyhow::Result<Self> {
        let policy = Policy::load(&layout)?;
        let is_root = rustix::process::geteuid().is_root();
        let uids = is_root.then(|| policy.uids());
        dirs::set_up(&layout, uids.as_ref())?;
        let hierarchy = if is_root { Hierarchy::detect() } else { Hierarchy::None };
        let args = |more: Vec<String>| {
            let mut all = vec!["--root".into(), layout.root().as_os_str().to_owned()];
            all.extend(more.into_iter().map(Into::into));
            all
        };
        let agent = uids.map_or(rustix::process::geteuid().as_raw(), |u| u.agent);
        let runner = Runner::find();
        let engine = if runner.is_there() { runner.ask_engine() } else { Engine::default() };
        let proof = Proof::load(&layout.proof(), &engine);
        let admit_args =
            args(vec!["--agent".into(), agent.to_string(), "--engine".into(), engine.version().to_owned()]);
        let facts = Facts::open(layout.facts()).context("cannot read kept facts")?;
        let uid_book = UidBook::open(layout.supervise_dir().join("uids"), policy.uids().pods);
        Ok(Self {
            lacks: shoal_confine::missing(),
            engine_identity: runner.identity(),
            runner,
            engine,
            cache: Cache::new(layout.clone()),
            facts,
            uid_book,
            admit: Service::new("admit", uids.map(|u| (u.admit, u.admit)), admit_args),
            log: Service::new("log", uids.map(|u| (u.log, u.agent)), args(Vec::new())),
            zygotes: Zygotes::new(),
            networks: Networks::default(),
            listeners: Vec::new(),
            peers: BTreeMap::new(),
            tickets: BTreeMap::new(),
            attached: BTreeSet::new(),
            inputs: BTreeMap::new(),
            complete: false,
            contents: contents::Contents::default(),
            containers: BTreeMap::new(),
            spares: Spares::default(),
            graves: Vec::new(),
            pods: BTreeSet::new(),
            jobs: Vec::new(),
            queue: VecDeque::new(),
            proof,
            proof_trouble: None,
            serial: u64::from(std::process::id()) << 20,
            denied: 0,
            releases: Releases::open(&layout),
            shutdown: None,
            manager: Notify::default(),
            rest: Rest::new(),
            layout,
            policy,
            uids,
            hierarchy,
        })
    }
}
