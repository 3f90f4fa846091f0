//! Supervise: the small privileged process. It starts what admission permits, under limits, and sees how it ends.
//!
//! Never here: parsing of documents, images or modules; the network; a decision about trust.

mod cache;
mod cause;
mod cgroup;
mod container;
mod copy;
mod dirs;
mod facts;
mod handlers;
mod jail;
mod jobs;
mod lifecycle;
mod policy;
pub(crate) mod process;
mod record;
mod runner;
mod services;
mod start;
mod table;
mod uids;
mod volumes;

use crate::say;
use anyhow::Context as _;
use cache::{Cache, Engine};
use cgroup::Hierarchy;
use container::{Container, Key};
use facts::Facts;
use jobs::Job;
use policy::{Policy, Uids};
use runner::Runner;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, wait};
use services::Service;
pub(crate) use services::{PAIR_FD, SOCKETS_FD};
use shoal_ipc::{Connection, Digest, Error, Layout, Listener, Msg, Ticket};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use table::From;
use uids::UidBook;

/// Connections from each side.
const PEERS: usize = 64;
/// Messages that wait for a slow reader before it is cut off.
const OUTBOX: usize = 4096;

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
}

/// Somebody connected to a named socket.
#[derive(Debug)]
struct Peer {
    connection: Connection,
    from: From,
    /// Gets events, asks nothing.
    subscribed: bool,
    /// Waits for an answer that takes time; nothing more is read from it meanwhile.
    waiting: bool,
    outbox: VecDeque<Msg>,
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct Supervise {
    layout: Layout,
    policy: Policy,
    /// Absent without root: then nothing is confined.
    uids: Option<Uids>,
    hierarchy: Hierarchy,
    runner: Runner,
    engine: Engine,
    cache: Cache,
    facts: Facts,
    uid_book: UidBook,
    admit: Service,
    log: Service,
    listeners: Vec<(From, Listener)>,
    peers: BTreeMap<u64, Peer>,
    tickets: BTreeMap<Digest, Held>,
    /// Admission has sent all tickets that it has.
    complete: bool,
    containers: BTreeMap<Key, Container>,
    jobs: Vec<Job>,
    compile_queue: VecDeque<Digest>,
    serial: u64,
    denied: u64,
    /// Who asked for the end of everything.
    shutdown: Option<u64>,
}

/// What a poll result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Signals,
    Listener(usize),
    Admit,
    Log,
    Peer(u64),
    Status(Key),
    Adopted(Key),
}

/// Whether the loop goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

/// Runs supervise until it is asked to end.
pub(crate) fn run(layout: Layout) -> anyhow::Result<()> {
    let signals = process::signal_descriptor().context("cannot watch signals")?;
    let mut supervise = Supervise::open(layout)?;
    supervise.listen()?;
    supervise.adopt_all().context("cannot read the containers' records")?;
    supervise.find_log();
    let confined = if supervise.uids.is_some() { "confined" } else { "unconfined" };
    say::line(format!("ready, {confined}, control groups {}", supervise.hierarchy.name()));
    loop {
        supervise.services()?;
        let ready = supervise.wait(&signals)?;
        for token in ready {
            if supervise.handle(token, &signals) == Next::End {
                return Ok(());
            }
        }
        supervise.timers();
        if supervise.shutdown.is_some() && supervise.all_ended() {
            return supervise.tear_down();
        }
    }
}

/// Stops everything that an earlier supervise left, without one that runs.
pub(crate) fn stop_leftovers(layout: Layout) -> anyhow::Result<()> {
    let mut supervise = Supervise::open(layout)?;
    supervise.adopt_all().context("cannot read the containers' records")?;
    supervise.find_log();
    let tickets: Vec<Digest> = supervise.containers.keys().map(|k| k.0).collect();
    for ticket in tickets {
        supervise.stop(&ticket, None, Duration::from_secs(2));
    }
    let signals = process::signal_descriptor().context("cannot watch signals")?;
    while !supervise.all_ended() {
        for token in supervise.wait(&signals)? {
            supervise.handle(token, &signals);
        }
        supervise.timers();
    }
    supervise.tear_down()
}

impl Supervise {
    fn open(layout: Layout) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(layout.policy()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("cannot read {}", layout.policy().display()))?,
        };
        let policy = Policy::parse(&text).with_context(|| format!("in {}", layout.policy().display()))?;
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
        let admit_args =
            args(vec!["--agent".into(), agent.to_string(), "--engine".into(), engine.version().to_owned()]);
        let facts = Facts::open(layout.facts()).context("cannot read kept facts")?;
        let uid_book = UidBook::open(layout.supervise_dir().join("uids"), policy.uids().pods);
        Ok(Self {
            runner,
            engine,
            cache: Cache::new(layout.clone()),
            facts,
            uid_book,
            admit: Service::new("admit", uids.map(|u| (u.admit, u.admit)), admit_args),
            log: Service::new("log", uids.map(|u| (u.log, u.agent)), args(Vec::new())),
            listeners: Vec::new(),
            peers: BTreeMap::new(),
            tickets: BTreeMap::new(),
            complete: false,
            containers: BTreeMap::new(),
            jobs: Vec::new(),
            compile_queue: VecDeque::new(),
            serial: u64::from(std::process::id()) << 20,
            denied: 0,
            shutdown: None,
            layout,
            policy,
            uids,
            hierarchy,
        })
    }

    /// Binds all named sockets; those of services are handed to them, and outlive them.
    fn listen(&mut self) -> anyhow::Result<()> {
        let agent = self.uids.map(|u| (u.agent, u.agent));
        let bind = |path: &std::path::Path, owner: Option<(u32, u32)>| -> anyhow::Result<Listener> {
            let listener = Listener::bind(path, 0o600)?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))
                    .with_context(|| format!("cannot give {} to the agent", path.display()))?;
            }
            Ok(listener)
        };
        // One guard a state folder: a live one answers.
        if Connection::connect(&self.layout.supervise_root_socket(), Duration::from_secs(2)).is_ok() {
            anyhow::bail!("a guard runs already below {}; stop it first", self.layout.root().display());
        }
        self.listeners.push((From::Agent, bind(&self.layout.supervise_socket(), agent)?));
        self.listeners.push((From::Root, bind(&self.layout.supervise_root_socket(), None)?));
        let admit: Vec<OwnedFd> =
            [(self.layout.admit_socket(), agent), (self.layout.admit_root_socket(), None)]
                .iter()
                .map(|(path, owner)| Ok(bind(path, *owner)?.into_fd()))
                .collect::<anyhow::Result<_>>()?;
        self.admit.set_sockets(admit);
        Ok(())
    }

    /// A log that outlived an earlier supervise goes on; else its socket is made for a new one.
    fn find_log(&mut self) {
        let path = self.layout.run().join("log.sock");
        if let Ok(mut connection) = Connection::connect(&path, Duration::from_secs(2))
            && connection.send(&Msg::Reattach {}, &[]).is_ok()
        {
            // Blocked for no longer than a local process needs to answer.
            while let Ok(r) = connection.recv("Reattach", Duration::from_secs(2)) {
                if matches!(r.msg, Msg::ListEnd {}) {
                    break;
                }
                self.stream_found(r);
            }
            self.log.adopt(connection);
            return;
        }
        match Listener::bind(&path, 0o600) {
            Ok(listener) => self.log.set_sockets(vec![listener.into_fd()]),
            Err(e) => say::error("log will not be found again after a restart", &e),
        }
    }

    /// Starts services whose time has come, and tells a new one what it has to know.
    fn services(&mut self) -> anyhow::Result<()> {
        if self.admit.start_if_due().context("cannot start admit")? {
            let waiting: Vec<Msg> = self.facts.waiting().cloned().collect();
            for msg in waiting {
                self.tell_admit(&msg);
            }
        }
        if self.log.restart_at.is_some_and(|t| t <= Instant::now()) {
            if !self.log.has_sockets() {
                // The adopted one is gone, and its socket with it.
                let path = self.layout.run().join("log.sock");
                self.log.set_sockets(vec![Listener::bind(&path, 0o600)?.into_fd()]);
            }
            if self.log.start_if_due().context("cannot start log")? {
                let keys: Vec<Key> = self.containers.keys().copied().collect();
                for key in keys {
                    self.attach(key);
                }
            }
        }
        Ok(())
    }

    fn ensure_engine(&mut self) {
        if self.engine.line.is_empty() && self.runner.is_there() {
            self.engine = self.runner.ask_engine();
        }
    }

    /// Waits for the next thing to do; for ever, when nothing is due.
    fn wait(&self, signals: &OwnedFd) -> anyhow::Result<Vec<Token>> {
        let mut watched: Vec<(Token, BorrowedFd<'_>, PollFlags)> =
            vec![(Token::Signals, signals.as_fd(), PollFlags::IN)];
        for (i, (_, listener)) in self.listeners.iter().enumerate() {
            watched.push((Token::Listener(i), listener.as_fd(), PollFlags::IN));
        }
        for (token, service) in [(Token::Admit, &self.admit), (Token::Log, &self.log)] {
            if let Some(c) = &service.connection {
                watched.push((token, c.as_fd(), PollFlags::IN));
            }
        }
        for (id, peer) in &self.peers {
            // A peer that waits for an answer is still watched for its end (which poll always tells).
            let mut flags = if peer.waiting { PollFlags::empty() } else { PollFlags::IN };
            if !peer.outbox.is_empty() {
                flags |= PollFlags::OUT;
            }
            watched.push((Token::Peer(*id), peer.connection.as_fd(), flags));
        }
        for (key, c) in &self.containers {
            let Some(live) = &c.live else { continue };
            if let Some(starting) = &live.starting {
                watched.push((Token::Status(*key), starting.status.as_fd(), PollFlags::IN));
            }
            if !live.ours && live.ending.is_none() {
                watched.push((Token::Adopted(*key), live.pidfd.as_fd(), PollFlags::IN));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let wait = self.next_deadline().map(|d| {
            // Rounded up, so that a wake-up finds its deadline passed.
            let left = d.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for events"),
        }
        let ready = fds.iter().zip(&watched).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (token, ..))| *token).collect())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(Container::deadline);
        let jobs = self.jobs.iter().filter_map(Job::deadline);
        let services = [self.admit.restart_at, self.log.restart_at].into_iter().flatten();
        containers.chain(jobs).chain(services).min()
    }

    fn handle(&mut self, token: Token, signals: &OwnedFd) -> Next {
        match token {
            Token::Signals => {
                let numbers = process::read_signals(signals);
                self.reap();
                if numbers.iter().any(|n| [libc::SIGTERM, libc::SIGINT].contains(n)) {
                    say::line("ends; containers go on");
                    return Next::End;
                }
            }
            Token::Listener(i) => self.accept(i),
            Token::Admit => self.hear_service(From::Admit),
            Token::Log => self.hear_service(From::Log),
            Token::Peer(id) => self.hear_peer(id),
            Token::Status(key) => self.status_ready(key),
            Token::Adopted(key) => self.ended(key, None, None),
        }
        Next::Go
    }

    /// Takes the exit status of every child that is gone, also of orphans that were given to this process.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ok(code),
                (None, Some(signal)) => Err(signal),
                (None, None) => continue,
            };
            let number = pid.as_raw_nonzero().get().cast_unsigned();
            let owner = self
                .containers
                .values()
                .find(|c| c.record.state.pid == number && c.live.as_ref().is_some_and(|l| l.ours))
                .map(Container::key);
            if let Some(key) = owner {
                self.ended(key, Some(status), None);
            } else if let Some(at) = self.jobs.iter().position(|j| j.pid() == pid) {
                self.job_ended(at, status);
            } else if self.admit.pid() == number {
                self.admit_lost();
            } else if self.log.pid() == number {
                self.log.ended();
            }
        }
    }

    /// Until admission is back, tickets stand; but they may be fewer than there are.
    fn admit_lost(&mut self) {
        self.complete = false;
        self.admit.ended();
    }

    fn accept(&mut self, at: usize) {
        let Some((from, listener)) = self.listeners.get(at) else { return };
        let from = *from;
        let connection = match listener.accept() {
            Ok(Some(c)) => c,
            Ok(None) => return,
            Err(e) => return say::error("a connection was not taken", &e),
        };
        let me = rustix::process::geteuid().as_raw();
        let expected = match (from, self.uids) {
            (From::Agent, Some(uids)) => uids.agent,
            _ => me,
        };
        let known = connection.peer().is_ok_and(|p| p.uid == expected);
        let full = self.peers.values().filter(|p| p.from == from).count() >= PEERS;
        if !known || full {
            self.denied += 1;
            return;
        }
        self.serial += 1;
        let peer = Peer { connection, from, subscribed: false, waiting: false, outbox: VecDeque::new() };
        self.peers.insert(self.serial, peer);
    }

    fn hear_service(&mut self, from: From) {
        // So many at a time, that nobody else is kept waiting.
        for _ in 0..64 {
            let service = if from == From::Admit { &mut self.admit } else { &mut self.log };
            let Some(connection) = &mut service.connection else { return };
            match connection.try_recv() {
                Ok(None) => return,
                Ok(Some(received)) => self.service_says(from, received),
                Err(e) => {
                    if !matches!(e, Error::Closed) {
                        say::error("a service spoke out of turn", &e);
                    }
                    return if from == From::Admit { self.admit_lost() } else { self.log.ended() };
                }
            }
        }
    }

    fn hear_peer(&mut self, id: u64) {
        for _ in 0..16 {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            if flush(peer).is_err() {
                self.peers.remove(&id);
                return;
            }
            if peer.waiting {
                // It was woken up for its outbox, or because it is gone.
                if gone(&peer.connection) {
                    self.peers.remove(&id);
                }
                return;
            }
            match peer.connection.try_recv() {
                Ok(None) => return,
                Ok(Some(received)) => self.peer_asks(id, received),
                Err(_) => {
                    // Closed, or not a message: either way there is nothing more to say on it.
                    self.peers.remove(&id);
                    return;
                }
            }
        }
    }

    /// Queues an answer; whoever does not read is cut off.
    fn answer(&mut self, id: u64, msg: Msg) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.waiting = false;
            peer.outbox.push_back(msg);
            if peer.outbox.len() > OUTBOX || flush(peer).is_err() {
                self.peers.remove(&id);
            }
        }
    }

    fn broadcast(&mut self, msg: &Msg) {
        let all: Vec<u64> = self.peers.iter().filter(|(_, p)| p.subscribed).map(|(id, _)| *id).collect();
        for id in all {
            self.answer(id, msg.clone());
        }
    }

    fn tell_admit(&mut self, msg: &Msg) {
        if let Some(c) = &self.admit.connection
            && let Err(e) = c.send_wait(msg, &[], Duration::from_secs(2))
        {
            say::error("admit does not take a message; it starts again", &e);
            self.admit_lost();
        }
    }

    fn tell_log(&mut self, msg: &Msg, fds: &[BorrowedFd<'_>]) {
        if let Some(c) = &self.log.connection
            && let Err(e) = c.send_wait(msg, fds, Duration::from_secs(2))
        {
            say::error("log does not take a message; it starts again", &e);
            self.log.ended();
        }
    }

    fn all_ended(&self) -> bool {
        self.jobs.is_empty() && self.containers.values().all(|c| c.live.is_none())
    }

    /// The end of everything: groups, mounts, services, sockets. Records and cache stay for the next start.
    fn tear_down(&mut self) -> anyhow::Result<()> {
        for c in self.containers.values() {
            self.hierarchy.group(&c.record.group).remove()?;
        }
        let parent = self.policy.cgroup_parent().to_owned();
        for c in self.containers.values() {
            let s = &c.record.state;
            self.hierarchy.group(&start::pod_group(&parent, &s.deployment, &s.ticket)).remove()?;
        }
        self.hierarchy.group(&format!("{parent}/compile")).remove()?;
        // The parent may have been made by the owner, or be shared with another device: then it stays.
        let _ = self.hierarchy.group(&parent).remove();
        volumes::drop_all_memory(&self.layout).context("cannot unmount volumes in memory")?;
        for service in [&mut self.admit, &mut self.log] {
            if let Some(c) = &service.connection {
                // Whoever is gone already needs not be told.
                let _ = c.send(&Msg::End {}, &[]);
            }
            match (service.child.take(), service.connection.take()) {
                (Some(child), _) => end_of(&child),
                // Another supervise's child, found again: its end shows as the end of the connection.
                (None, Some(connection)) => {
                    let wait = Timespec { tv_sec: 3, tv_nsec: 0 };
                    let _ = poll(&mut [PollFd::new(&connection, PollFlags::empty())], Some(&wait));
                }
                (None, None) => {}
            }
        }
        for path in [
            self.layout.supervise_socket(),
            self.layout.supervise_root_socket(),
            self.layout.admit_socket(),
            self.layout.admit_root_socket(),
            self.layout.run().join("log.sock"),
        ] {
            // Gone already is what is wanted.
            let _ = std::fs::remove_file(path);
        }
        say::line("everything is stopped");
        // Dropping the connections tells whoever asked that it is done.
        Ok(())
    }
}

/// Waits for a service to end, at most three seconds, then ends it.
fn end_of(child: &process::Child) {
    let wait = Timespec { tv_sec: 3, tv_nsec: 0 };
    let done = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&wait)).unwrap_or(0) > 0;
    if !done {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
    }
    let _ = rustix::process::waitpid(Some(child.pid), WaitOptions::empty());
}

/// Sends what waits, as far as it goes.
fn flush(peer: &mut Peer) -> Result<(), Error> {
    while let Some(msg) = peer.outbox.front() {
        match peer.connection.send(msg, &[]) {
            Ok(()) => {
                peer.outbox.pop_front();
            }
            Err(Error::TimedOut { .. }) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether the other side has hung up.
fn gone(connection: &Connection) -> bool {
    let mut fds = [PollFd::new(connection, PollFlags::empty())];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&none)).is_ok_and(|n| n > 0)
        && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
