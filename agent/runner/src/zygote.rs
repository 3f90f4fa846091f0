//! `shoal-runner zygote`: the engine loaded once, and every container forked from it.
//!
//! It has one thread and sees no byte that a guest, an image or the network made: a launch is supervise's own, code is only
//! mapped in the child. It is the parent of all its containers: whoever of agent, log and supervise comes or goes, it
//! reaps them and leaves an exit fact in each one's folder. A new supervise finds it on its named socket. Retired, it
//! takes no more and ends with the last.

use crate::{child, engine, handover};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use shoal_confine::memory::Rest;
use shoal_confine::process::{read_signals, signal_descriptor, spawn_in, unshare};
use shoal_confine::{Filter, Namespaces};
use shoal_ipc::{Connection, Error, ExitFact, Launch, Listener, Msg, NetworkPlace, Received, read_area};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::thread::UnshareFlags;

/// How long a message to supervise may wait for room.
const PATIENCE: Duration = Duration::from_secs(2);

/// A container that this process is the parent of.
#[derive(Debug)]
struct Container {
    id: u64,
    pid: Pid,
    pidfd: OwnedFd,
    area: OwnedFd,
    /// Where its exit fact goes.
    folder: OwnedFd,
    /// Kept so that no pipe breaks while both log and supervise are away; nothing for one that nobody has started yet, and
    /// for one whose output is its starter's alone.
    pipes: Option<[OwnedFd; 2]>,
}

struct Zygote {
    supervise: Option<Connection>,
    listener: Listener,
    signals: OwnedFd,
    null: OwnedFd,
    containers: Vec<Container>,
    retired: bool,
    identity: String,
    filter: Filter,
    /// Absent without root: there are no namespaces then.
    host: Option<Namespaces>,
    host_network: Option<File>,
    /// Namespaces that this process sits in and that no container has had: the next one is born into them.
    fresh: UnshareFlags,
    rest: Rest,
}

/// What can be prepared for the next container while nobody waits: this process itself has no use for any of them.
const AHEAD: UnshareFlags = UnshareFlags::NEWNET.union(UnshareFlags::NEWIPC).union(UnshareFlags::NEWUTS);
/// What each is born into, or makes for itself in its own time.
const AT_BIRTH: UnshareFlags = UnshareFlags::NEWPID.union(UnshareFlags::NEWNS);

/// Runs until there is nobody left to serve.
pub(crate) fn run() -> Result<(), String> {
    let (pair, socket) = handover::zygote().map_err(|e| e.to_string())?;
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let signals = signal_descriptor().map_err(|e| said(&e))?;
    engine::watch_log();
    engine::warm().map_err(|e| said(&e))?;
    let root = rustix::process::geteuid().is_root();
    let mut zygote = Zygote {
        supervise: Some(Connection::from_fd(pair).map_err(|e| said(&e))?),
        listener: Listener::from_fd(socket),
        signals,
        null: File::open("/dev/null").map_err(|e| said(&e))?.into(),
        containers: Vec::new(),
        retired: false,
        identity: std::env::var("SHOAL_IDENTITY").unwrap_or_default(),
        filter: Filter::new().map_err(|e| format!("cannot make a filter of system calls: {e}"))?,
        host: root.then(Namespaces::own),
        host_network: if root { File::open("/proc/self/ns/net").ok() } else { None },
        fresh: UnshareFlags::empty(),
        rest: Rest::new(),
    };
    zygote.prepare();
    loop {
        let busy = zygote.wait().map_err(|e| format!("cannot wait: {e}"))?;
        zygote.rest.waited(busy);
        zygote.reap();
        zygote.accept();
        if zygote.hear() == Next::End || (zygote.retired && zygote.containers.is_empty()) {
            return Ok(());
        }
        zygote.prepare();
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Go,
    End,
}

impl Zygote {
    /// Whether anything happened.
    fn wait(&self) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        if let Some(supervise) = &self.supervise {
            fds.push(PollFd::from_borrowed_fd(supervise.as_fd(), PollFlags::IN));
        }
        let left = self.rest.left().and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, left.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    /// Steps into namespaces that are nobody's yet.
    fn prepare(&mut self) {
        if self.host.is_some() && !self.retired && self.fresh != AHEAD && unshare(AHEAD).is_ok() {
            self.fresh = AHEAD;
        }
    }

    /// A new supervise takes the place of the one before.
    fn accept(&mut self) {
        while let Ok(Some(connection)) = self.listener.accept() {
            let me = rustix::process::geteuid().as_raw();
            if connection.peer().is_ok_and(|p| p.uid == me) {
                self.supervise = Some(connection);
            }
        }
    }

    fn tell(&mut self, msg: &Msg, fds: &[BorrowedFd<'_>]) {
        // What cannot be told is found in the exit fact, or asked for by the next supervise.
        if let Some(c) = &self.supervise
            && c.send_wait(msg, fds, PATIENCE).is_err()
        {
            self.supervise = None;
        }
    }

    fn hear(&mut self) -> Next {
        for _ in 0..64 {
            let Some(supervise) = &mut self.supervise else { return Next::Go };
            match supervise.try_recv() {
                Ok(None) => return Next::Go,
                Ok(Some(received)) => {
                    if self.act(received) == Next::End {
                        return Next::End;
                    }
                }
                Err(e) => {
                    if !matches!(e, Error::Closed) {
                        let _ = writeln!(io::stderr(), "shoal-runner zygote: {e}");
                    }
                    self.supervise = None;
                }
            }
        }
        Next::Go
    }

    fn act(&mut self, received: Received) -> Next {
        match received.msg {
            Msg::Launch { id } => {
                if let Err(why) = self.launch(id, received.fds) {
                    self.tell(&Msg::NotForked { id, why }, &[]);
                }
            }
            Msg::Keep { id } => {
                let of = self.containers.iter_mut().find(|c| c.id == id);
                if let (Some(c), Ok(pipes)) = (of, received.fds.try_into()) {
                    c.pipes = Some(pipes);
                }
            }
            Msg::Adopt {} => self.introduce(),
            Msg::Retire {} => self.retired = true,
            Msg::End {} => return Next::End,
            _ => {}
        }
        Next::Go
    }

    fn introduce(&mut self) {
        let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
        let me = Msg::ZygoteIs { pid, identity: self.identity.clone(), retired: self.retired };
        self.tell(&me, &[]);
        for at in 0..self.containers.len() {
            let Some(supervise) = &self.supervise else { return };
            let c = &self.containers[at];
            let pid = c.pid.as_raw_nonzero().get().cast_unsigned();
            let [out, err] = c.pipes.as_ref().map_or([&self.null; 2], |p| [&p[0], &p[1]]);
            let fds = [c.pidfd.as_fd(), c.area.as_fd(), out.as_fd(), err.as_fd()];
            if supervise.send_wait(&Msg::Child { id: c.id, pid }, &fds, PATIENCE).is_err() {
                self.supervise = None;
                return;
            }
        }
        self.tell(&Msg::ListEnd {}, &[]);
    }

    fn launch(&mut self, id: u64, fds: Vec<OwnedFd>) -> Result<(), String> {
        let [plan, stdin, stdout, stderr, area, gate, folder, network, content]: [OwnedFd; 9] =
            fds.try_into().map_err(|_| "descriptors are missing".to_owned())?;
        let bytes = shoal_ipc::read_sealed(&plan, Launch::MAX).map_err(|e| e.to_string())?;
        let launch = Launch::decode(&bytes).map_err(|e| e.to_string())?;
        if launch.version != shoal_ipc::VERSION {
            return Err(format!("version {} of the layout, not {}", launch.version, shoal_ipc::VERSION));
        }
        let birth = match &launch.birth {
            Some(group) => {
                Some(File::open(group).map_err(|e| format!("cannot open the group {group}: {e}"))?)
            }
            None => None,
        };
        let jailed = launch.jail.is_some();
        // Whatever was prepared is this one's, and nobody's after it.
        let prepared = std::mem::replace(&mut self.fresh, UnshareFlags::empty());
        let missing = if jailed { AHEAD.difference(prepared) } else { UnshareFlags::empty() };
        let namespaces = if jailed { AT_BIRTH | missing } else { UnshareFlags::empty() };
        let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), area.as_fd(), gate.as_fd()];
        let network = match launch.network {
            NetworkPlace::Nowhere => None,
            NetworkPlace::Given => Some(network.as_fd()),
            NetworkPlace::Host => self.host_network.as_ref().map(std::os::fd::AsFd::as_fd),
        };
        let walls = child::Walls { filter: &self.filter, host: self.host.as_ref().filter(|_| jailed) };
        let forked = spawn_in(birth.as_ref().map(std::os::fd::AsFd::as_fd), namespaces, || {
            // Read there and not here: what one container was given is in no other's memory.
            child::run(&launch, content.as_fd(), &fds, network, &walls)
        })
        .map_err(|e| format!("cannot fork: {e}"))?;
        let pid = forked.pid.as_raw_nonzero().get().cast_unsigned();
        self.tell(&Msg::Forked { id, pid }, &[forked.pidfd.as_fd()]);
        self.containers.push(Container {
            id,
            pid: forked.pid,
            pidfd: forked.pidfd,
            area,
            folder,
            pipes: None,
        });
        Ok(())
    }

    /// Takes every end, writes it down, and only then tells of it.
    fn reap(&mut self) {
        let _ = read_signals(&self.signals);
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(at) = self.containers.iter().position(|c| c.pid == pid) else { continue };
            let c = self.containers.swap_remove(at);
            let fact = fact_of(&c, status);
            if let Err(e) = keep(&c, &fact) {
                let _ = writeln!(io::stderr(), "shoal-runner zygote: an exit fact is not kept: {e}");
            }
            let ExitFact { id, pid, code, signal, .. } = fact;
            self.tell(&Msg::Gone { id, pid, code, signal }, &[]);
        }
    }
}

fn fact_of(c: &Container, status: WaitStatus) -> ExitFact {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    ExitFact {
        id: c.id,
        pid: c.pid.as_raw_nonzero().get().cast_unsigned(),
        code: status.exit_status(),
        signal: status.terminating_signal(),
        at: now,
        area: read_area(&c.area),
    }
}

/// Writes the fact once: whoever else reaped first has the word.
fn keep(c: &Container, fact: &ExitFact) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(&c.folder, format!("end-{}", c.id), flags, Mode::RUSR | Mode::WUSR)?;
    File::from(file).write_all(&fact.encode())
}
