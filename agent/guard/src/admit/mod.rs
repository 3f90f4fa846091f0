//! Admit: verifies what is signed, keeps it, and hands out tickets. The only process that holds trust on a device.
//!
//! Never here: the network, privileges, anything that is not a signed document or a fact of supervise's.

mod decide;
mod documents;
mod facts;
mod load;
mod model;
mod release;
mod stock;
mod store;
mod summary;
#[cfg(test)]
mod testing;
mod ticket;

use crate::supervise::process::inherited;
use crate::supervise::{PAIR_FD, SOCKETS_FD};
use crate::{clock, say};
use anyhow::Context as _;
use decide::Permission;
use model::Model;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_confine::memory::Rest;
use shoal_ipc::{
    Connection, EnrollMaterial, Error, Layout, Listener, MEMFD_MAX, Msg, Received, read_sealed, sealed_memfd,
};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::{Code, Refusal};
use shoal_protocol::v1::Kind;
use shoal_protocol::verify::{Platform, TrustState};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use store::Store;

/// Connections from each side.
const PEERS: usize = 32;
/// How long a reader of answers is waited for.
const SEND: Duration = Duration::from_millis(200);

/// What supervise says at the start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The agent's uid: the only one taken on its socket.
    pub(crate) agent: u32,
    /// Engine version; empty without one.
    pub(crate) engine: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Agent,
    Root,
}

#[derive(Debug)]
struct Peer {
    connection: Connection,
    from: From,
    subscribed: bool,
    /// What would be known if all was taken that this one rehearsed.
    rehearsed: Option<Box<TrustState>>,
}

struct Admit {
    model: Model,
    supervise: Connection,
    listeners: Vec<(From, Listener)>,
    agent: u32,
    peers: BTreeMap<u64, Peer>,
    serial: u64,
    /// What supervise was told last, by ticket, and with which configs and secrets.
    told: BTreeMap<Digest, (Permission, Digest)>,
    /// The release that it was told of.
    told_release: Option<shoal_ipc::Digest>,
    rest: Rest,
}

#[derive(Debug, Clone, Copy)]
enum Token {
    Supervise,
    Listener(usize),
    Peer(u64),
}

/// Runs until supervise closes the connection.
pub(crate) fn run(layout: &Layout, settings: Settings) -> anyhow::Result<()> {
    let pair = inherited(PAIR_FD).context("admit is started by supervise only")?;
    let agent = Listener::from_fd(inherited(SOCKETS_FD).context("the agent's socket was not handed down")?);
    let root = Listener::from_fd(inherited(SOCKETS_FD + 1).context("uid 0's socket was not handed down")?);
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let path = layout.admit_db();
    let store = Store::open(&path).with_context(|| format!("in {}", path.display()))?;
    let platform = Platform {
        architecture: std::env::consts::ARCH.to_owned(),
        agent: shoal_ipc::running_version(crate::software::BUILT),
        engine: settings.engine,
    };
    let mut admit = Admit {
        model: Model::open(store, platform)?,
        supervise: Connection::from_fd(pair)?,
        listeners: vec![(From::Agent, agent), (From::Root, root)],
        agent: settings.agent,
        peers: BTreeMap::new(),
        serial: 0,
        told: BTreeMap::new(),
        told_release: None,
        rest: Rest::new(),
    };
    admit.tell_supervise()?;
    admit.supervise.send_wait(&Msg::Done {}, &[], Duration::from_secs(5))?;
    loop {
        let ready = admit.wait()?;
        admit.rest.waited(!ready.is_empty());
        for token in ready {
            match token {
                Token::Supervise => {
                    if !admit.hear_supervise()? {
                        return Ok(());
                    }
                }
                Token::Listener(i) => admit.accept(i),
                Token::Peer(id) => admit.hear_peer(id)?,
            }
        }
        // Time alone may have opened something.
        if admit.tell_supervise()? {
            admit.changed();
        }
    }
}

impl Admit {
    fn wait(&self) -> anyhow::Result<Vec<Token>> {
        let mut watched: Vec<(Token, BorrowedFd<'_>)> = vec![(Token::Supervise, self.supervise.as_fd())];
        watched.extend(self.listeners.iter().enumerate().map(|(i, (_, l))| (Token::Listener(i), l.as_fd())));
        watched.extend(self.peers.iter().map(|(id, p)| (Token::Peer(*id), p.connection.as_fd())));
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let wake = self.model.standings().values().filter_map(|s| s.wake).min();
        let wake = wake.map(|t| Duration::from_secs(t.0.saturating_sub(clock::now()).clamp(1, 3600)));
        let wait = wake.into_iter().chain(self.rest.left()).min();
        let wait = wait.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for events"),
        }
        let ready = fds.iter().zip(&watched).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (token, _))| *token).collect())
    }

    /// Whether supervise is still there.
    fn hear_supervise(&mut self) -> anyhow::Result<bool> {
        loop {
            let received = match self.supervise.try_recv() {
                Ok(None) => return Ok(true),
                Ok(Some(r)) => r,
                Err(Error::Closed) => return Ok(false),
                Err(e) => return Err(e).context("supervise spoke out of turn"),
            };
            match received.msg {
                Msg::End {} => return Ok(false),
                Msg::Fact { id, ticket, container, attempt, event, at, .. } => {
                    match self.model.fact(ticket.0, &container, attempt, event, at) {
                        Ok(()) => {
                            crate::points::point("admit::fact");
                            self.supervise.send_wait(&Msg::FactAck { id }, &[], Duration::from_secs(5))?;
                            self.tell_supervise()?;
                            self.changed();
                        }
                        // Not acknowledged: supervise keeps it and sends it again at the next start.
                        Err(e) => say::error("a fact is not kept", &e),
                    }
                }
                Msg::Proved { release } => match self.model.proved(&release) {
                    Ok(()) => {
                        self.tell_supervise()?;
                        self.changed();
                    }
                    // Said again by the agent's next connection.
                    Err(e) => say::error("what proved itself is not kept", &e),
                },
                other => say::line(format!("{} is nothing that admit is told", other.name())),
            }
        }
    }

    /// Sends tickets and withdrawals that differ from what was said before; whether there were any.
    fn tell_supervise(&mut self) -> anyhow::Result<bool> {
        let mut changed = false;
        let standings = self.model.standings();
        for r in self.model.held.values().flat_map(BTreeMap::values) {
            let Some(standing) = standings.get(&r.digest) else { continue };
            let told = (standing.permission, r.documents.stamp);
            if self.told.get(&r.digest) == Some(&told) {
                continue;
            }
            let id = ticket::digest(&r.digest);
            match standing.permission {
                Permission::Ticket { startable } => {
                    let resolved = self.model.resolve(&r.deployment).ok();
                    match ticket::of(&r.deployment, &r.digest, startable, resolved.as_ref()) {
                        Ok(t) => {
                            for documents::Bytes(digest, bytes) in resolved.iter().flat_map(|r| &r.contents) {
                                let (fd, item) = (sealed_memfd(bytes)?, ticket::digest(digest));
                                let msg = Msg::Content { item };
                                self.supervise.send_wait(&msg, &[fd.as_fd()], Duration::from_secs(5))?;
                            }
                            let fd = sealed_memfd(&t.encode())?;
                            self.supervise.send_wait(
                                &Msg::Ticket {},
                                &[fd.as_fd()],
                                Duration::from_secs(5),
                            )?;
                        }
                        Err(e) => say::error("no ticket can be made", &e),
                    }
                }
                Permission::Withdrawn { stop } => {
                    let grace = u32::try_from(r.deployment.template.termination_grace).unwrap_or(u32::MAX);
                    let msg = Msg::Withdraw { ticket: id, stop, grace };
                    self.supervise.send_wait(&msg, &[], Duration::from_secs(5))?;
                }
            }
            self.told.insert(r.digest, told);
            crate::points::point("admit::told");
            changed = true;
        }
        self.told.retain(|d, _| standings.contains_key(d));
        Ok(self.tell_release()? || changed)
    }

    /// Sends the release that this device may change to, or takes it back; whether that was something new.
    fn tell_release(&mut self) -> anyhow::Result<bool> {
        let offered = self.model.release_ticket();
        let id = offered.as_ref().map(|t| t.id);
        if id == self.told_release {
            return Ok(false);
        }
        match (offered, self.told_release) {
            (Some(ticket), _) => {
                let fd = sealed_memfd(&shoal_ipc::encode(&ticket))?;
                self.supervise.send_wait(&Msg::Release {}, &[fd.as_fd()], Duration::from_secs(5))?;
            }
            (None, Some(ticket)) => {
                let msg = Msg::Withdraw { ticket, stop: false, grace: 0 };
                self.supervise.send_wait(&msg, &[], Duration::from_secs(5))?;
            }
            (None, None) => {}
        }
        self.told_release = id;
        Ok(true)
    }

    fn changed(&mut self) {
        // A subscriber that does not read is cut off; it asks for everything when it is back.
        self.peers.retain(|_, p| !p.subscribed || p.connection.send(&Msg::Changed {}, &[]).is_ok());
    }

    fn accept(&mut self, at: usize) {
        let Some((from, listener)) = self.listeners.get(at) else { return };
        let Ok(Some(connection)) = listener.accept() else { return };
        let me = rustix::process::geteuid().as_raw();
        let unconfined = me == self.agent;
        let expected = match from {
            From::Agent => self.agent,
            From::Root if unconfined => me,
            From::Root => 0,
        };
        let known = connection.peer().is_ok_and(|p| p.uid == expected);
        let full = self.peers.values().filter(|p| p.from == *from).count() >= PEERS;
        if known && !full {
            self.serial += 1;
            self.peers
                .insert(self.serial, Peer { connection, from: *from, subscribed: false, rehearsed: None });
        }
    }

    fn hear_peer(&mut self, id: u64) -> anyhow::Result<()> {
        for _ in 0..8 {
            let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
            let from = peer.from;
            let received = match peer.connection.try_recv() {
                Ok(None) => return Ok(()),
                Ok(Some(r)) => r,
                Err(_) => {
                    self.peers.remove(&id);
                    return Ok(());
                }
            };
            if peer.subscribed {
                self.peers.remove(&id);
                return Ok(());
            }
            let (msg, fd, changed) = match self.asked(id, from, &received) {
                Ok(answer) => answer,
                Err(refusal) => {
                    self.count(&refusal);
                    (Msg::refused(refusal.code.as_str(), refusal.detail), None, false)
                }
            };
            // Supervise first: whoever hears that a document was taken may ask for what it permits.
            if changed {
                self.tell_supervise()?;
            }
            let Some(peer) = self.peers.get(&id) else { return Ok(()) };
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            if peer.connection.send_wait(&msg, &fds, SEND).is_err() {
                self.peers.remove(&id);
            }
            if changed {
                self.changed();
            }
        }
        Ok(())
    }

    fn count(&mut self, refusal: &Refusal) {
        let detail: String = refusal.detail.chars().take(300).collect();
        let code = refusal.code.as_str();
        if let Err(e) = self.model.store.change(|c| c.count_refusal(code, &detail, clock::now())) {
            say::error("a refusal is not counted", &e);
        }
    }

    /// The answer, what comes along with it, and whether something changed.
    fn asked(
        &mut self,
        id: u64,
        from: From,
        received: &Received,
    ) -> Result<(Msg, Option<OwnedFd>, bool), Refusal> {
        let say = |msg| Ok((msg, None, false));
        match (&received.msg, from) {
            (Msg::Submit {}, From::Agent) => {
                let bytes = document(received)?;
                let a = self.model.submit(&bytes)?;
                let digest = ticket::digest(&a.digest);
                let (kind, name) = (a.kind.as_str().to_owned(), a.name);
                let msg = Msg::Accepted { kind, name, sequence: a.sequence, digest, known: a.known };
                Ok((msg, None, !a.known))
            }
            (Msg::Rehearse {}, From::Agent) => {
                let bytes = document(received)?;
                let before = self.peers.get_mut(&id).and_then(|p| p.rehearsed.take());
                let mut state = before.unwrap_or_else(|| Box::new(self.model.trust.clone()));
                let answer = Model::rehearse(&bytes, &mut state);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.rehearsed = Some(state);
                }
                let a = match answer {
                    // What is for other devices is not even offered afterwards.
                    Err(e) if e.code == Code::WrongTarget && is_for_some(&bytes) => {
                        return say(Msg::refused(e.code.as_str(), e.detail));
                    }
                    other => other?,
                };
                let (kind, name, digest) = (a.kind.as_str().to_owned(), a.name, ticket::digest(&a.digest));
                say(Msg::Accepted { kind, name, sequence: a.sequence, digest, known: a.known })
            }
            (Msg::Enroll {}, From::Root) => {
                let bytes = document(received)?;
                let material = EnrollMaterial::decode(&bytes)
                    .map_err(|e| Refusal::new(Code::Malformed, say::chain(&e)))?;
                self.model.enroll(&material)?;
                let keys = self.model.public_keys();
                let fleet = self.model.trust.anchor.as_ref().map(|a| a.fleet.to_string());
                match (keys, fleet) {
                    (Some((attest, sealing)), Some(fleet)) => {
                        let (attest, sealing) = (shoal_ipc::Digest(attest), shoal_ipc::Digest(sealing));
                        Ok((Msg::Enrolled { fleet, attest, sealing }, None, true))
                    }
                    _ => Err(Refusal::new(Code::Malformed, "the join file holds no root")),
                }
            }
            (Msg::Activate { name, sequence, digest }, From::Root) => {
                let changed = self.model.activate(name, *sequence, &Digest(digest.0))?;
                Ok((Msg::Done {}, None, changed))
            }
            (Msg::Subscribe {}, _) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.subscribed = true;
                }
                say(Msg::Done {})
            }
            (Msg::Trust {}, _) => attach(Msg::TrustSummary {}, &self.model.summary()?.encode()),
            (Msg::Document { kind, name, sequence }, _) => {
                let found = self.model.store.document(kind, name, *sequence).map_err(|e| storage(&e))?;
                let public = ["root", "snapshot", "deployment", "config", "secret", "release", "device"]
                    .contains(&kind.as_str());
                match found.filter(|_| public) {
                    Some(bytes) => attach(Msg::DocumentIs {}, &bytes),
                    None => {
                        say(Msg::refused("not_admitted", format!("no {kind} {name} {sequence} is held here")))
                    }
                }
            }
            (Msg::Facts { after }, _) => attach(Msg::FactsAre {}, &self.model.facts_after(*after)?.encode()),
            (Msg::FactsDone { up_to }, From::Agent) => {
                self.model.store.change(|c| c.facts_done(*up_to)).map_err(|e| storage(&e))?;
                say(Msg::Done {})
            }
            (other, from) => {
                let detail = format!("{} is not taken from {from:?}", other.name());
                Err(Refusal::new(Code::NotAdmitted, detail))
            }
        }
    }
}

/// Whether a document is of a kind that may be for some devices: roots and snapshots are for all of a fleet.
fn is_for_some(bytes: &[u8]) -> bool {
    let kind = Envelope::parse(bytes).ok().and_then(|e| e.kind().ok());
    kind.is_some_and(|k| !matches!(k, Kind::Root | Kind::Snapshot))
}

fn storage(e: &store::StoreError) -> Refusal {
    Refusal::new(Code::StorageUnavailable, say::chain(e))
}

/// The sealed memfd that came along.
fn document(received: &Received) -> Result<Vec<u8>, Refusal> {
    let bytes = received.fds.first().map(|fd| read_sealed(fd, MEMFD_MAX));
    match bytes {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(e @ Error::TooLarge { .. })) => Err(Refusal::new(Code::TooLarge, e.to_string())),
        Some(Err(e)) => Err(Refusal::new(Code::Malformed, e.to_string())),
        None => Err(Refusal::new(Code::Malformed, "no document came along")),
    }
}

fn attach(msg: Msg, bytes: &[u8]) -> Result<(Msg, Option<OwnedFd>, bool), Refusal> {
    let fd = sealed_memfd(bytes).map_err(|e| Refusal::new(Code::StorageUnavailable, say::chain(&e)))?;
    Ok((msg, Some(fd), false))
}
