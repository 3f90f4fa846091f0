//! The zygotes: the processes that fork containers. One takes new ones; older ones serve theirs to the end.
//!
//! A zygote outlives supervise and is found again on its named socket. Its death is healed here: another is started, and
//! what it was the parent of goes on, with this process (their subreaper) as its heir. It is renewed when runner or engine
//! on disk are not what it was started from, and now and then, so that not all containers share one address layout.

use super::container::{Container, Key};
use super::events::Token;
use super::process::{Child, exit_now, place_descriptors, spawn};
use super::{Refused, Supervise, refuse};
use crate::say;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{CapabilitySet, set_no_new_privs};
use shoal_confine::keep_in_bounding_set;
use shoal_ipc::{Connection, Error, Listener, Msg, Received};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A zygote is renewed after this long, or after as many containers as the policy says, at the next start; a timer would wake an idle device.
const RENEW_AFTER: Duration = Duration::from_hours(6);
/// How long a zygote that was found again may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What confining a container takes, and nothing else: namespaces and mounts, ids, capabilities to give up, files of the
/// image and volumes under whatever owner, a lower OOM score.
const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SYS_RESOURCE);

/// One of them.
#[derive(Debug)]
struct Zygote {
    pid: u32,
    connection: Connection,
    /// Absent for one that another supervise started.
    child: Option<Child>,
    socket: PathBuf,
    /// Runner and engine that it was started from.
    identity: String,
    since: Instant,
    forked: u32,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Zygotes {
    all: BTreeMap<u64, Zygote>,
    /// The one that takes new containers.
    current: Option<u64>,
    failures: u32,
    /// When a lost one is replaced.
    pub(super) restart_at: Option<Instant>,
}

/// A container that a zygote told of when it was found again.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) zygote: u64,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) area: OwnedFd,
    pub(super) pipes: (OwnedFd, OwnedFd),
}

impl Zygotes {
    /// None yet; one is due.
    pub(super) fn new() -> Self {
        Self { restart_at: Some(Instant::now()), ..Self::default() }
    }

    /// What poll has to watch.
    pub(super) fn watched(&self) -> impl Iterator<Item = (Token, BorrowedFd<'_>, PollFlags)> {
        self.all.iter().map(|(n, z)| (Token::Zygote(*n), z.connection.as_fd(), PollFlags::IN))
    }

    /// Whether this one is there and will tell of its containers' ends.
    pub(super) fn serves(&self, zygote: Option<u64>) -> bool {
        zygote.is_some_and(|n| self.all.contains_key(&n))
    }

    /// Whether this one takes new containers, with runner and engine as they are now.
    pub(super) fn is_current(&self, n: u64, identity: &str) -> bool {
        self.current == Some(n) && self.all.get(&n).is_some_and(|z| z.identity == identity)
    }

    /// Tells one; one that is gone already shows elsewhere.
    pub(super) fn tell(&self, n: u64, msg: &Msg, fds: &[BorrowedFd<'_>]) {
        if let Some(z) = self.all.get(&n) {
            let _ = z.connection.send_wait(msg, fds, PATIENCE);
        }
    }

    /// The process that takes new containers; 0 without one.
    pub(super) fn pid(&self) -> u32 {
        self.current.and_then(|n| self.all.get(&n)).map_or(0, |z| z.pid)
    }

    fn retire(&mut self, n: u64) {
        if let Some(zygote) = self.all.get(&n) {
            // One that is gone has retired.
            let _ = zygote.connection.send(&Msg::Retire {}, &[]);
        }
        if self.current == Some(n) {
            self.current = None;
        }
    }
}

impl Supervise {
    /// Sees to it that there is a zygote when one is wanted, and that it is not an old one.
    pub(super) fn zygote_due(&mut self) {
        if self.zygotes.restart_at.is_some_and(|t| t <= Instant::now()) && self.runner.is_there() {
            self.zygotes.restart_at = None;
            if self.zygotes.current.is_none()
                && let Err(e) = self.start_zygote()
            {
                say::error("no zygote could be started", &e);
                self.zygote_failed();
            }
        }
    }

    fn zygote_failed(&mut self) {
        let pause = Duration::from_millis(100 << self.zygotes.failures.min(8));
        self.zygotes.failures = self.zygotes.failures.saturating_add(1);
        self.zygotes.restart_at = Some(Instant::now() + pause);
    }

    /// The zygote for the next container.
    fn zygote(&mut self) -> Result<u64, Refused> {
        if let Some(n) = self.zygotes.current
            && let Some(z) = self.zygotes.all.get(&n)
            && (z.forked >= self.policy.zygote.containers
                || z.since.elapsed() >= RENEW_AFTER
                || z.identity != self.runner.identity())
        {
            say::line("the zygote is renewed");
            self.zygotes.retire(n);
            self.drop_spares_of(n);
        }
        match self.zygotes.current {
            Some(n) => Ok(n),
            None => self
                .start_zygote()
                .map_err(|e| refuse("kernel_unsupported", format!("no zygote: {}", say::chain(&e)))),
        }
    }

    /// Has a container forked.
    pub(super) fn send_launch(&mut self, id: u64, fds: &[BorrowedFd<'_>; 9]) -> Result<u64, Refused> {
        for _ in 0..2 {
            let n = self.zygote()?;
            let Some(zygote) = self.zygotes.all.get_mut(&n) else { continue };
            match zygote.connection.send_wait(&Msg::Launch { id }, fds, PATIENCE) {
                Ok(()) => {
                    zygote.forked += 1;
                    return Ok(n);
                }
                // It died since it was last looked at: once more, with another.
                Err(_) => self.zygote_lost(n),
            }
        }
        Err(refuse("kernel_unsupported", "no zygote takes the container"))
    }

    fn start_zygote(&mut self) -> Result<u64, Error> {
        self.serial += 1;
        let n = self.serial;
        let socket = self.layout.run().join(format!("zygote-{n}.sock"));
        let listener = Listener::bind(&socket, 0o600)?;
        let (ours, theirs) = Connection::pair()?;
        let null = fs::File::open("/dev/null").map_err(|e| Error::io("open /dev/null", e))?;
        let stderr = std::io::stderr();
        let identity = self.runner.identity();
        let mut command = Command::new("");
        if let Some((program, args)) = self.runner.zygote_command().split_first() {
            command = Command::new(program);
            command.args(args).arg(self.layout.root());
        }
        // Relocated whole at its start, rather than by each container for itself. And no pages of 2 MiB for the allocator's own
        // (glibc from 2.43 on, aarch64): every container would come to hold some. Guests' memories may have them.
        command.env_clear().env("LD_BIND_NOW", "1").env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0");
        command.env("SHOAL_IDENTITY", &identity);
        let confined = self.uids.is_some();
        let child = spawn(None, || {
            let fds = [null.as_fd(), stderr.as_fd(), stderr.as_fd(), theirs.as_fd(), listener.as_fd()];
            execute(&mut command, &fds, confined)
        })
        .map_err(|e| Error::io("start the zygote", e))?;
        let pid = child.pid.as_raw_nonzero().get().cast_unsigned();
        let zygote = Zygote {
            pid,
            connection: ours,
            child: Some(child),
            socket,
            identity,
            since: Instant::now(),
            forked: 0,
        };
        self.zygotes.all.insert(n, zygote);
        self.zygotes.current = Some(n);
        self.zygotes.restart_at = None;
        Ok(n)
    }

    /// Finds the zygotes that an earlier supervise started, with their containers by number of start.
    pub(super) fn find_zygotes(&mut self) -> std::io::Result<BTreeMap<u64, Found>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.layout.run())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let Some(n) = name.strip_prefix("zygote-").and_then(|r| r.strip_suffix(".sock")?.parse().ok())
            else {
                continue;
            };
            if let Err(e) = self.find_zygote(n, &path, &mut found) {
                if !e.is_disconnect() {
                    say::error("a zygote does not answer", &e);
                }
                // Its containers, if there are any, are found by their records.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(found)
    }

    fn find_zygote(&mut self, n: u64, path: &Path, found: &mut BTreeMap<u64, Found>) -> Result<(), Error> {
        let mut connection = Connection::connect(path, PATIENCE)?;
        let Msg::ZygoteIs { pid, identity, retired } = connection.call(&Msg::Adopt {}, &[], PATIENCE)?.msg
        else {
            return Err(Error::Unexpected { message: "not a zygote's name" });
        };
        loop {
            let Received { msg, fds } = connection.recv("Adopt", PATIENCE)?;
            let Msg::Child { id, pid } = msg else { break };
            let Ok([pidfd, area, out, err]) = <[OwnedFd; 4]>::try_from(fds) else { continue };
            found.insert(id, Found { zygote: n, pid, pidfd, area, pipes: (out, err) });
        }
        let fits = !retired && identity == self.runner.identity() && self.zygotes.current.is_none();
        let socket = path.to_owned();
        let since = Instant::now();
        self.zygotes
            .all
            .insert(n, Zygote { pid, connection, child: None, socket, identity, since, forked: 0 });
        if fits {
            self.zygotes.current = Some(n);
            self.zygotes.restart_at = None;
        } else {
            self.zygotes.retire(n);
        }
        Ok(())
    }

    /// A zygote says something, or is gone.
    pub(super) fn hear_zygote(&mut self, n: u64) {
        for _ in 0..64 {
            let Some(zygote) = self.zygotes.all.get_mut(&n) else { return };
            match zygote.connection.try_recv() {
                Ok(None) => return,
                Ok(Some(Received { msg, fds })) => self.zygote_says(msg, fds),
                Err(e) => {
                    if !matches!(e, Error::Closed) {
                        say::error("a zygote spoke out of turn", &e);
                    }
                    return self.zygote_lost(n);
                }
            }
        }
    }

    fn zygote_says(&mut self, msg: Msg, fds: Vec<OwnedFd>) {
        match msg {
            Msg::Forked { id, pid } => {
                let Some(pidfd) = fds.into_iter().next() else { return };
                match self.by_stream(id) {
                    Some(key) => self.forked(key, pid, pidfd),
                    None => self.spare_forked(id, pid, pidfd),
                }
            }
            Msg::NotForked { id, why } => match self.by_stream(id) {
                Some(key) => self.refuse_start(key, "kernel_unsupported", why),
                None => self.spare_gone(id, Some(&why)),
            },
            Msg::Gone { id, code, signal, .. } => match self.by_stream(id) {
                Some(key) => self.ended(key, code.map(Ok).or(signal.map(Err)), None),
                None => self.spare_gone(id, None),
            },
            _ => {}
        }
    }

    fn by_stream(&self, id: u64) -> Option<Key> {
        self.containers.values().find(|c| c.record.stream == id && c.live.is_some()).map(Container::key)
    }

    /// It is gone, retired or not; its containers are this process's now, if it was this process's child.
    fn zygote_lost(&mut self, n: u64) {
        let Some(zygote) = self.zygotes.all.remove(&n) else { return };
        let _ = fs::remove_file(&zygote.socket);
        if let Some(child) = &zygote.child {
            // It may be gone already; what does not listen any more must not fork either.
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        }
        if self.zygotes.current == Some(n) {
            self.zygotes.current = None;
            say::line("the zygote ended; another is started, its containers go on");
            if zygote.since.elapsed() > Duration::from_mins(1) {
                self.zygotes.failures = 0;
            }
            self.zygote_failed();
        }
        self.spares_lost(n);
        // Those that it had not forked yet never will be.
        let unborn: Vec<Key> = self
            .containers
            .values()
            .filter(|c| c.live.as_ref().is_some_and(|l| l.zygote == Some(n) && l.pidfd.is_none()))
            .map(Container::key)
            .collect();
        for key in unborn {
            self.refuse_start(key, "kernel_unsupported", "the zygote ended before it could fork".to_owned());
        }
    }

    /// A process that no zygote reports on any more has ended: by its status if it is a child, else by its exit fact.
    pub(super) fn orphan_ended(&mut self, key: Key) {
        let Some(c) = self.containers.get(&key) else { return };
        let Some(pidfd) = c.live.as_ref().and_then(|l| l.pidfd.as_ref()) else { return };
        let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let status = match status {
            Ok(Some(s)) => s.exit_status().map(Ok).or(s.terminating_signal().map(Err)),
            _ => c.record.exit_fact(&super::entries::place_of(&self.layout, key)).and_then(|f| f.status()),
        };
        self.ended(key, status, None);
    }

    /// Ends all zygotes: nothing runs any more.
    pub(super) fn end_zygotes(&mut self) {
        for (_, zygote) in std::mem::take(&mut self.zygotes.all) {
            // One that is gone already need not be told.
            let _ = zygote.connection.send(&Msg::End {}, &[]);
            if let Some(child) = zygote.child {
                super::shutdown::end_of(&child);
            } else {
                let wait = Timespec { tv_sec: 3, tv_nsec: 0 };
                let _ = poll(&mut [PollFd::new(&zygote.connection, PollFlags::empty())], Some(&wait));
            }
            let _ = fs::remove_file(&zygote.socket);
        }
        self.zygotes.current = None;
        self.zygotes.restart_at = None;
    }

    /// Whether a child that was reaped is a zygote; its end shows on its connection.
    pub(super) fn is_zygote(&self, pid: Pid) -> bool {
        self.zygotes.all.values().any(|z| z.child.as_ref().is_some_and(|c| c.pid == pid))
    }
}

/// The child's side: only the capabilities that it needs, then the runner through its own loader.
fn execute(command: &mut Command, fds: &[BorrowedFd<'_>], confined: bool) -> Infallible {
    let ready = place_descriptors(fds, false).and_then(|()| {
        rustix::process::setsid()?;
        super::process::take_back_signals(false)?;
        if confined {
            keep_in_bounding_set(CAPABILITIES);
        }
        Ok(set_no_new_privs(true)?)
    });
    if let Err(e) = ready {
        say::line(format!("the zygote could not be confined: {e}"));
        exit_now(71);
    }
    let e = command.exec();
    say::line(format!("the zygote could not be executed: {e}"));
    exit_now(71)
}
