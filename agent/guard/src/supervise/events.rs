//! The loop's heart: what supervise waits for, and who deals with what happened.

use super::container::Container;
use super::container::Key;
use super::graves::Grave;
use super::jobs::Job;
use super::table::From;
use super::{Supervise, process};
use crate::say;
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, wait};
use shoal_ipc::ProbeKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What a poll result belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signals,
    Listener(usize),
    Admit,
    Log,
    Peer(u64),
    Gate(Key),
    Adopted(Key),
    Zygote(u64),
    Probe(Key, ProbeKind),
}

/// Whether the loop goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    End,
}

impl Supervise {
    /// Waits for the next thing to do; for ever, when nothing is due.
    pub(super) fn wait(&self, signals: &OwnedFd) -> anyhow::Result<Vec<Token>> {
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
            let mut flags = if peer.is_heard() { PollFlags::IN } else { PollFlags::empty() };
            if !peer.outbox.is_empty() {
                flags |= PollFlags::OUT;
            }
            watched.push((Token::Peer(*id), peer.connection.as_fd(), flags));
        }
        for (key, c) in &self.containers {
            let Some(live) = &c.live else { continue };
            if let Some(gate) = live.starting.as_ref().and_then(|s| s.gate.as_ref()) {
                watched.push((Token::Gate(*key), gate.as_fd(), PollFlags::IN));
            }
            for helper in &live.care.helpers {
                watched.push((Token::Probe(*key, helper.kind), helper.answer.as_fd(), PollFlags::IN));
            }
            // Its zygote tells of its end, with the status; without one, the end shows here.
            if let Some(pidfd) = &live.pidfd
                && live.ending.is_none()
                && !self.zygotes.serves(live.zygote)
            {
                watched.push((Token::Adopted(*key), pidfd.as_fd(), PollFlags::IN));
            }
        }
        watched.extend(self.zygotes.watched());
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
        let services =
            [self.admit.restart_at, self.log.restart_at, self.zygotes.restart_at].into_iter().flatten();
        let graves = self.graves.iter().map(Grave::due);
        let all = containers.chain(jobs).chain(services).chain(graves);
        let own = [self.networks.deadline(), self.manager.due(), self.releases.deadline(), self.rest.due()];
        all.chain(own.into_iter().flatten()).min()
    }

    pub(super) fn handle(&mut self, token: Token, signals: &OwnedFd) -> Next {
        match token {
            Token::Signals => {
                let numbers = process::read_signals(signals);
                self.reap();
                if numbers.iter().any(|n| [libc::SIGTERM, libc::SIGINT].contains(n)) {
                    say::line("ends; containers go on");
                    // Nobody would take what they make, and the first process of a jail heeds no SIGTERM: left alone, they
                    // hold up the end of the whole system until it kills them.
                    self.jobs.iter_mut().for_each(Job::expire);
                    return Next::End;
                }
            }
            Token::Listener(i) => self.accept(i),
            Token::Admit => self.hear_service(From::Admit),
            Token::Log => self.hear_service(From::Log),
            Token::Peer(id) => self.hear_peer(id),
            Token::Gate(key) => self.gate_ready(key),
            Token::Probe(key, kind) => self.helper_answered(key, kind),
            Token::Adopted(key) => self.orphan_ended(key),
            Token::Zygote(n) => self.hear_zygote(n),
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
                .find(|c| c.record.state.pid == number && c.live.is_some())
                .map(Container::key);
            if let Some(key) = owner {
                self.ended(key, Some(status), None);
            } else if let Some(at) = self.jobs.iter().position(|j| j.pid() == pid) {
                self.job_ended(at, status);
            } else if self.network_helper_ended(pid, status) {
                // Dealt with.
            } else if self.is_zygote(pid) {
                // Its connection tells.
            } else if self.admit.pid() == number {
                self.admit_lost();
            } else if self.log.pid() == number {
                self.log.ended();
            }
        }
    }
}
