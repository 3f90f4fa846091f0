//! Whoever connected to a named socket: taken by uid, heard in turn, answered through a bounded queue.

use super::Supervise;
use super::table::From;
use crate::say;
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_ipc::{Connection, Error, Listener, Msg};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Connections from each side.
const PEERS: usize = 64;
/// Messages that wait for a slow reader before it is cut off.
const OUTBOX: usize = 4096;

/// Somebody connected to a named socket.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) from: From,
    /// Gets events, asks nothing.
    pub(super) subscribed: bool,
    /// Waits for an answer that takes time; nothing more is read from it meanwhile.
    pub(super) waiting: bool,
    pub(super) outbox: VecDeque<(Msg, Vec<OwnedFd>)>,
}

impl Peer {
    /// Whether its next request is read: not before it has its answers, or one that asks and never reads would have this
    /// process keep them all.
    pub(super) fn is_heard(&self) -> bool {
        !self.waiting && self.outbox.is_empty()
    }
}

impl Supervise {
    /// Binds all named sockets; those of services are handed to them, and outlive them.
    pub(super) fn listen(&mut self) -> anyhow::Result<()> {
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

    pub(super) fn accept(&mut self, at: usize) {
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

    pub(super) fn hear_peer(&mut self, id: u64) {
        for _ in 0..16 {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            if flush(peer).is_err() {
                self.peers.remove(&id);
                return;
            }
            if !peer.is_heard() {
                // It was woken up for its outbox, or because it is gone.
                if gone(&peer.connection) {
                    self.peers.remove(&id);
                }
                return;
            }
            match peer.connection.try_recv() {
                Ok(None) => return,
                Ok(Some(received)) => {
                    // Admission tells this process first and the agent then: what it said comes before what is asked
                    // for because of it, although both arrived since the last poll.
                    self.hear_service(From::Admit);
                    self.peer_asks(id, received);
                }
                Err(_) => {
                    // Closed, or not a message: either way there is nothing more to say on it.
                    self.peers.remove(&id);
                    return;
                }
            }
        }
    }

    /// Queues an answer; whoever does not read is cut off.
    pub(super) fn answer(&mut self, id: u64, msg: Msg) {
        self.answer_with(id, msg, Vec::new());
    }

    /// The same, with descriptors.
    pub(super) fn answer_with(&mut self, id: u64, msg: Msg, fds: Vec<OwnedFd>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.waiting = false;
            peer.outbox.push_back((msg, fds));
            if peer.outbox.len() > OUTBOX || flush(peer).is_err() {
                self.peers.remove(&id);
            }
        }
    }

    pub(super) fn broadcast(&mut self, msg: &Msg) {
        let all: Vec<u64> = self.peers.iter().filter(|(_, p)| p.subscribed).map(|(id, _)| *id).collect();
        for id in all {
            self.answer(id, msg.clone());
        }
    }
}

/// Sends what waits, as far as it goes.
fn flush(peer: &mut Peer) -> Result<(), Error> {
    while let Some((msg, fds)) = peer.outbox.front() {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match peer.connection.send(msg, &fds) {
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
