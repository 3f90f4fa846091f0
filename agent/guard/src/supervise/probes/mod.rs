//! Asking probes: by a second entry of the image, by a connection that a helper without privileges reads, or by a look at
//! a file. When and what it comes to is `count`'s decision; an end for it is `ends`'.

pub(crate) mod count;
pub(crate) mod fresh;

use super::container::Key;
use super::ends::Why;
use super::entries::Role;
use super::jail::drop_privileges;
use super::process::{Child, enter_network, exit_now, place_descriptors, spawn, unshare};
use super::{Refused, Supervise, refuse, volumes};
use crate::{probe, say};
use rustix::net::{
    AddressFamily, Ipv4Addr, SocketAddrV4, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, Signal, pidfd_send_signal, setrlimit};
use rustix::thread::{UnshareFlags, set_no_new_privs};
use shoal_ipc::{FactEvent, Msg, ProbeAction, ProbeKind};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// The longest words about a probe that go into a report.
const WORDS: usize = 256;

/// A helper at work.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) kind: ProbeKind,
    child: Child,
    pub(crate) answer: OwnedFd,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It has answered, or nobody waits for it any more.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }
}

/// The word for a kind in messages.
pub(crate) fn name(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Startup => "startup",
    }
}

/// A socket on its way to this port of the machine itself; whoever reads it sees how that went.
pub(crate) fn connect(port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect_to(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        // A refusal is kept on the socket only if it came later, so it is given back as one.
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(e) => Err(e.into()),
    }
}

/// How a helper comes to its socket.
enum Way<'a> {
    /// It is connected, or on its way, in the network that supervise is in.
    There(OwnedFd),
    /// The helper makes it in the pod's network, before it gives everything up; supervise never leaves its own.
    Through(BorrowedFd<'a>, u16),
}

impl Way<'_> {
    /// In the helper's process.
    fn socket(&self) -> io::Result<OwnedFd> {
        match self {
            Self::There(socket) => socket.try_clone(),
            Self::Through(namespace, port) => {
                enter_network(*namespace)?;
                connect(*port)
            }
        }
    }
}

impl Supervise {
    /// Everything of a container's probes whose time has come.
    pub(super) fn probes_due(&mut self, key: Key, now: Instant) {
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        let ran = now.saturating_duration_since(live.since);
        for (kind, seconds) in live.care.probes.overdue(ran) {
            self.end_entry(key, Role::Probe(kind));
            self.probe_answered(key, kind, &Err(format!("no answer in {seconds} s")));
        }
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        for (kind, action) in live.care.probes.due(ran) {
            match self.ask(key, kind, action, ran) {
                Ok(None) => {}
                Ok(Some(answer)) => self.probe_answered(key, kind, &answer),
                Err(why) => self.probe_answered(key, kind, &Err(why.detail)),
            }
        }
    }

    /// Asks; the answer comes at once, or later.
    fn ask(
        &mut self,
        key: Key,
        kind: ProbeKind,
        action: ProbeAction,
        ran: Duration,
    ) -> Result<Option<Result<(), String>>, Refused> {
        let (port, path) = match action {
            ProbeAction::Exec { .. } => return self.start_entry(key, Role::Probe(kind)).map(|()| None),
            ProbeAction::FileFresh { volume, path, max_age } => {
                return Ok(Some(self.look_at_file(key, kind, volume, &path, max_age, ran)));
            }
            ProbeAction::Tcp { port } => (port, None),
            ProbeAction::Http { port, path } => (port, Some(path)),
        };
        let helper = match self.networks.namespace(&key.0) {
            Some(namespace) => self.helper(kind, &Way::Through(namespace, port), path)?,
            None => match connect(port) {
                Ok(s) => self.helper(kind, &Way::There(s), path)?,
                Err(e) => return Ok(Some(Err(format!("port {port}: {e}")))),
            },
        };
        if let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) {
            live.care.helpers.push(helper);
        }
        Ok(None)
    }

    fn look_at_file(
        &mut self,
        key: Key,
        kind: ProbeKind,
        volume: u16,
        path: &str,
        max_age: u32,
        ran: Duration,
    ) -> Result<(), String> {
        let folder = self.tickets.get(&key.0).and_then(|h| volumes::folder(&self.layout, &h.ticket, volume));
        let stamp = folder.ok_or(io::ErrorKind::NotFound.into()).and_then(|f| fresh::look(&f, path));
        let stamp = stamp.map_err(|e| format!("{path}: {e}"))?;
        let live = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()).ok_or("it is gone")?;
        let most = Duration::from_secs(max_age.into());
        let seen = live.care.seen.entry(kind).or_default();
        seen.judge(stamp, ran, most).map_err(|age| {
            format!("{path} did not change for {} s, at most {max_age} are fresh", age.as_secs())
        })
    }

    /// Starts the helper that reads a connection: no network of its own, no privileges, one answer.
    fn helper(&self, kind: ProbeKind, way: &Way<'_>, path: Option<String>) -> Result<Helper, Refused> {
        let failed = |e: io::Error| refuse("kernel_unsupported", format!("start a probe: {e}"));
        let (answer, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let null = File::open("/dev/null").map_err(failed)?;
        let ids = self.uids.map(|u| u.probe);
        // Never longer than any time-out that a ticket may hold; supervise's own clock is the one that counts.
        let mut args: Vec<OsString> = vec!["probe".into(), "--seconds".into(), "3600".into()];
        if let Some(path) = path {
            args.extend(["--path".into(), path.into()]);
        }
        let child = spawn(None, || {
            let socket = way.socket();
            if socket.is_err() {
                // Nobody listens: that is an answer.
                let _ = rustix::io::write(&theirs, &[probe::REFUSED]);
                exit_now(0);
            }
            let done = socket.and_then(|s| execute(&args, ids, &[s.as_fd(), theirs.as_fd(), null.as_fd()]));
            match done {
                Ok(never) => match never {},
                Err(_) => exit_now(71),
            }
        })
        .map_err(failed)?;
        Ok(Helper { kind, child, answer })
    }

    /// A helper's byte is there, or it ended without one.
    pub(super) fn helper_answered(&mut self, key: Key, kind: ProbeKind) {
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        let Some(at) = live.care.helpers.iter().position(|h| h.kind == kind) else { return };
        let helper = live.care.helpers.swap_remove(at);
        let mut byte = [0_u8];
        let read = rustix::io::read(&helper.answer, &mut byte).ok().filter(|n| *n == 1).map(|_| byte[0]);
        drop(helper);
        let answer = if read == Some(probe::PASSED) { Ok(()) } else { Err(probe::meaning(read)) };
        self.probe_answered(key, kind, &answer);
    }

    /// One answer: counted, and told when it changes something.
    pub(super) fn probe_answered(&mut self, key: Key, kind: ProbeKind, answer: &Result<(), String>) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = c.live.as_mut().filter(|l| l.ending.is_none() && l.stop.is_none()) else { return };
        live.care.helpers.retain(|h| h.kind != kind);
        let change = live.care.probes.answer(kind, answer.is_ok(), live.since.elapsed());
        let state = &mut c.record.state;
        if let Err(why) = answer {
            let text = format!("{}: {why}", name(kind));
            state.probe_message = text[..text.floor_char_boundary(WORDS)].replace('\0', " ");
        }
        if let Some(change) = change {
            state.ready = live.care.probes.ready();
            let told = state.clone();
            if let Err(e) = c.record.save(&self.layout.containers()) {
                say::error("a container's record is not written", &e);
            }
            self.fact(key, FactEvent::Probed { probe: kind, passed: change.passed });
            self.broadcast(&Msg::Probed { state: told });
            if !change.passed && kind != ProbeKind::Readiness {
                return self.kill_for(key, Why::Unhealthy);
            }
        }
        self.settle_health(key, Instant::now());
    }
}

/// The helper's side.
fn execute(args: &[OsString], uid: Option<u32>, fds: &[BorrowedFd<'_>]) -> io::Result<Infallible> {
    if let Some(uid) = uid {
        unshare(UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWNS)?;
        place_descriptors(fds, false)?;
        drop_privileges(uid, uid).map_err(|e| e.1)?;
    } else {
        place_descriptors(fds, false)?;
    }
    for (resource, most) in
        [(Resource::Cpu, 2), (Resource::Core, 0), (Resource::Nofile, 16), (Resource::Fsize, 0)]
    {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    set_no_new_privs(true)?;
    Err(Command::new("/proc/self/exe").args(args).env_clear().exec())
}
