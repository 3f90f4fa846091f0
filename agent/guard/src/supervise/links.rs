//! What supervise says to its services and hears from them; which of them runs is [`super::services`]' matter.

use super::Supervise;
use super::container::Key;
use super::table::From;
use crate::say;
use anyhow::Context as _;
use shoal_ipc::{Connection, Error, Listener, Msg};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

impl Supervise {
    /// A log that outlived an earlier supervise goes on; else its socket is made for a new one.
    pub(super) fn find_log(&mut self) {
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
    pub(super) fn services(&mut self) -> anyhow::Result<()> {
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
        self.zygote_due();
        Ok(())
    }

    /// Until admission is back, tickets stand; but they may be fewer than there are.
    pub(super) fn admit_lost(&mut self) {
        self.complete = false;
        self.admit.ended();
    }

    pub(super) fn hear_service(&mut self, from: From) {
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

    pub(super) fn tell_admit(&mut self, msg: &Msg) {
        if let Some(c) = &self.admit.connection
            && let Err(e) = c.send_wait(msg, &[], Duration::from_secs(2))
        {
            say::error("admit does not take a message; it starts again", &e);
            self.admit_lost();
        }
    }

    pub(super) fn tell_log(&mut self, msg: &Msg, fds: &[BorrowedFd<'_>]) {
        if let Some(c) = &self.log.connection
            && let Err(e) = c.send_wait(msg, fds, Duration::from_secs(2))
        {
            say::error("log does not take a message; it starts again", &e);
            self.log.ended();
        }
    }
}
