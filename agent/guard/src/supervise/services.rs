//! Admit and log as children of supervise: started with their own uid, restarted with a growing pause when they end.

use super::jail::drop_privileges;
use super::process::{Child, exit_now, place_descriptors, spawn, unshare};
use crate::say;
use rustix::thread::{UnshareFlags, set_no_new_privs};
use shoal_ipc::{Connection, Error};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// One service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) verb: &'static str,
    /// Uid and gid; absent without root.
    ids: Option<(u32, u32)>,
    args: Vec<OsString>,
    /// Its listening sockets, which outlive it.
    sockets: Vec<OwnedFd>,
    pub(crate) child: Option<Child>,
    pub(crate) connection: Option<Connection>,
    failures: u32,
    started: Option<Instant>,
    /// When it is started next; absent while it runs.
    pub(crate) restart_at: Option<Instant>,
}

/// The first descriptor that a service finds above the standard ones: its end of the pair with supervise.
pub(crate) const PAIR_FD: i32 = 3;
/// Its listening sockets follow.
pub(crate) const SOCKETS_FD: i32 = 4;

impl Service {
    pub(crate) fn new(verb: &'static str, ids: Option<(u32, u32)>, args: Vec<OsString>) -> Self {
        let restart_at = Some(Instant::now());
        Self {
            verb,
            ids,
            args,
            sockets: Vec::new(),
            child: None,
            connection: None,
            failures: 0,
            started: None,
            restart_at,
        }
    }

    /// Its listening sockets, before its first start.
    pub(crate) fn set_sockets(&mut self, sockets: Vec<OwnedFd>) {
        self.sockets = sockets;
    }

    pub(crate) fn has_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// One that runs already and was found on its named socket.
    pub(crate) fn adopt(&mut self, connection: Connection) {
        self.connection = Some(connection);
        self.started = Some(Instant::now());
        self.restart_at = None;
    }

    /// Starts it, if it is time.
    pub(crate) fn start_if_due(&mut self) -> Result<bool, Error> {
        if self.restart_at.is_none_or(|t| t > Instant::now()) {
            return Ok(false);
        }
        let (ours, theirs) = Connection::pair()?;
        let null = File::open("/dev/null").map_err(|e| Error::io("open /dev/null", e))?;
        let stderr = std::io::stderr();
        let child = spawn(None, || {
            let mut fds: Vec<BorrowedFd<'_>> =
                vec![null.as_fd(), stderr.as_fd(), stderr.as_fd(), theirs.as_fd()];
            fds.extend(self.sockets.iter().map(AsFd::as_fd));
            execute(self.verb, &self.args, self.ids, &fds)
        })
        .map_err(|e| Error::io(format!("start {}", self.verb), e))?;
        self.child = Some(child);
        self.connection = Some(ours);
        self.started = Some(Instant::now());
        self.restart_at = None;
        Ok(true)
    }

    /// It ended, or its connection did: what is left of it is killed, and it starts again after a pause.
    pub(crate) fn ended(&mut self) {
        if let Some(child) = self.child.take() {
            // It may be gone already.
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
        }
        self.connection = None;
        if self.started.take().is_some_and(|t| t.elapsed() > Duration::from_mins(1)) {
            self.failures = 0;
        }
        let pause = Duration::from_millis(100 << self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.restart_at = Some(Instant::now() + pause);
        say::line(format!("{} ended; it starts again in {pause:?}", self.verb));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, |c| c.pid.as_raw_nonzero().get().cast_unsigned())
    }
}

/// The child's side: no network, no privileges, this same binary with another verb.
fn execute(verb: &str, args: &[OsString], ids: Option<(u32, u32)>, fds: &[BorrowedFd<'_>]) -> Infallible {
    let confine = || -> Result<(), String> {
        if let Some((uid, gid)) = ids {
            unshare(UnshareFlags::NEWNET | UnshareFlags::NEWIPC)
                .map_err(|e| format!("make namespaces: {e}"))?;
            place_descriptors(fds, false).map_err(|e| format!("place descriptors: {e}"))?;
            drop_privileges(uid, gid).map_err(|e| format!("{}: {}", e.0, e.1))?;
        } else {
            place_descriptors(fds, false).map_err(|e| format!("place descriptors: {e}"))?;
        }
        set_no_new_privs(true).map_err(|e| format!("set no_new_privs: {e}"))
    };
    if let Err(what) = confine() {
        say::line(format!("{verb} could not be confined: {what}"));
        exit_now(71);
    }
    // By its descriptor in /proc, so that the folders above the binary need not be open to this uid.
    let e = Command::new("/proc/self/exe").arg(verb).args(args).exec();
    say::line(format!("{verb} could not be executed: {e}"));
    exit_now(71)
}
