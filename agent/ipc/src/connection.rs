//! SEQPACKET connections: one message a packet, descriptors beside it, the peer's identity from the kernel.
//!
//! Paths may be longer than a socket address holds, so sockets are bound and reached through `/proc/self/fd`.

use crate::{Error, MESSAGE_MAX, Msg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with, socketpair,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// The most descriptors that any message carries.
const FDS_MAX: usize = 10;

/// Who is on the other side, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A message with its descriptors.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub msg: Msg,
    /// Exactly as many as the table says.
    pub fds: Vec<OwnedFd>,
}

/// One connection. Never blocks by itself: the waiting methods take a time-out.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    greeted: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Opens the folder of `path` and gives an address that reaches `path` whatever its length.
fn address(path: &Path) -> Result<(OwnedFd, SocketAddrUnix), Error> {
    let what = || format!("reach the socket {}", path.display());
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::io(what(), std::io::Error::from(std::io::ErrorKind::InvalidInput)));
    };
    let dir = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(what(), e))?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let addr = SocketAddrUnix::new(short).map_err(|e| Error::io(what(), e))?;
    Ok((dir, addr))
}

/// A named socket that takes connections.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Binds `path` with these permission bits; what stood there (a stale socket) is replaced.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, Error> {
        let what = || format!("listen on {}", path.display());
        let (_dir, addr) = address(path)?;
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(what(), e)),
        }
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)
            .map_err(|e| Error::io(what(), e))?;
        bind(&socket, &addr).map_err(|e| Error::io(what(), e))?;
        rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(|e| Error::io(what(), e))?;
        listen(&socket, 64).map_err(|e| Error::io(what(), e))?;
        Ok(Self(socket))
    }

    /// Takes over a listening socket.
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// The socket itself, to hand to a child.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The next waiting connection, if there is one.
    pub fn accept(&self) -> Result<Option<Connection>, Error> {
        match accept_with(&self.0, FLAGS) {
            Ok(socket) => Ok(Some(Connection { socket, greeted: false })),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(Error::io("accept a connection", e)),
        }
    }
}

impl Connection {
    /// Connects to `path` and exchanges versions.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let what = || format!("connect to {}", path.display());
        let (_dir, addr) = address(path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)
            .map_err(|e| Error::io(what(), e))?;
        let end = Instant::now() + timeout;
        // A full backlog answers EAGAIN on a socket that does not block; nothing wakes it, so look again soon.
        loop {
            match connect(&socket, &addr) {
                Ok(()) => break,
                Err(Errno::AGAIN) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(Error::io(what(), e)),
            }
        }
        let mut connection = Self { socket, greeted: true };
        connection.send(&Msg::Hello {}, &[])?;
        match connection.recv("the version handshake", timeout)?.msg {
            Msg::Hello {} => Ok(connection),
            Msg::Refused { code, detail } => Err(Error::Refused { code, detail }),
            other => Err(Error::Unexpected { message: other.name() }),
        }
    }

    /// Two connected ends that trust each other's version: both are handed out by one parent.
    pub fn pair() -> Result<(Self, Self), Error> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)
            .map_err(|e| Error::io("make a pair of sockets", e))?;
        Ok((Self { socket: a, greeted: true }, Self { socket: b, greeted: true }))
    }

    /// Takes over a socket that a parent handed down (one end of [`Self::pair`]).
    pub fn from_fd(socket: OwnedFd) -> Result<Self, Error> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(|e| Error::io("set a socket to not block", e))?;
        Ok(Self { socket, greeted: true })
    }

    /// Who is on the other side.
    pub fn peer(&self) -> Result<Peer, Error> {
        let c = socket_peercred(&self.socket).map_err(|e| Error::io("ask who is on a socket", e))?;
        Ok(Peer { pid: c.pid.as_raw_nonzero().get(), uid: c.uid.as_raw(), gid: c.gid.as_raw() })
    }

    /// Sends at once or fails; a full socket is [`Error::TimedOut`].
    pub fn send(&self, msg: &Msg, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if fds.len() != msg.descriptors() {
            return Err(Error::Descriptors { expected: msg.descriptors(), found: fds.len() });
        }
        let bytes = msg.encode()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::TooLarge { what: "the number of descriptors", max: FDS_MAX });
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(Error::TimedOut { what: msg.name() }),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Closed),
                Err(e) => return Err(Error::io(format!("send {}", msg.name()), e)),
            }
        }
    }

    /// The next message if one waits. On the accepting side it answers the handshake itself.
    pub fn try_recv(&mut self) -> Result<Option<Received>, Error> {
        loop {
            let Some(received) = self.receive()? else { return Ok(None) };
            match received {
                Err(Error::Version { theirs }) if !self.greeted => {
                    // The sender learns our version from the greeting's header; that it cannot be served follows.
                    let _ = self.send(&Msg::Hello {}, &[]);
                    return Err(Error::Version { theirs });
                }
                Err(e) => return Err(e),
                Ok(Received { msg: Msg::Hello {}, .. }) if !self.greeted => {
                    self.greeted = true;
                    self.send(&Msg::Hello {}, &[])?;
                }
                Ok(r) if !self.greeted => return Err(Error::Unexpected { message: r.msg.name() }),
                Ok(r) => return Ok(Some(r)),
            }
        }
    }

    /// One packet: `None` when none waits, an inner error when it is no message.
    fn receive(&self) -> Result<Option<Result<Received, Error>>, Error> {
        let mut bytes = [0_u8; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(Error::Closed),
                Err(e) => return Err(Error::io("receive a message", e)),
            }
        };
        // Collected before any check, so that descriptors of a bad message are closed.
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                fds.extend(list);
            }
        }
        if got.bytes == 0 {
            return Err(Error::Closed);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Ok(Some(Err(Error::TooLarge { what: "the message", max: MESSAGE_MAX })));
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Ok(Some(Err(Error::TooLarge { what: "the number of descriptors", max: FDS_MAX })));
        }
        Ok(Some(Msg::decode(&bytes[..got.bytes]).and_then(|msg| {
            let (expected, found) = (msg.descriptors(), fds.len());
            if expected == found {
                Ok(Received { msg, fds })
            } else {
                Err(Error::Descriptors { expected, found })
            }
        })))
    }

    /// Waits for the next message.
    pub fn recv(&mut self, what: &'static str, timeout: Duration) -> Result<Received, Error> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(received);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(PollFlags::IN, left)? {
                return Err(Error::TimedOut { what });
            }
        }
    }

    /// Sends, waiting for room in the socket.
    pub fn send_wait(&self, msg: &Msg, fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<(), Error> {
        let end = Instant::now() + timeout;
        loop {
            match self.send(msg, fds) {
                Err(Error::TimedOut { what }) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.wait(PollFlags::OUT, left)? {
                        return Err(Error::TimedOut { what });
                    }
                }
                other => return other,
            }
        }
    }

    /// Sends a request and waits for its answer; a refusal becomes [`Error::Refused`].
    pub fn call(&mut self, msg: &Msg, fds: &[BorrowedFd<'_>], timeout: Duration) -> Result<Received, Error> {
        self.send_wait(msg, fds, timeout)?;
        let received = self.recv(msg.name(), timeout)?;
        match received.msg {
            Msg::Refused { code, detail } => Err(Error::Refused { code, detail }),
            msg => Ok(Received { msg, fds: received.fds }),
        }
    }

    fn wait(&self, flags: PollFlags, left: Duration) -> Result<bool, Error> {
        let mut fds = [PollFd::new(&self.socket, flags)];
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        match poll(&mut fds, Some(&left)) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(true),
            Err(e) => Err(Error::io("wait on a socket", e)),
        }
    }

    /// The socket itself, to hand to a child.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }
}
