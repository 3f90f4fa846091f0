//! Log: the only reader of what containers print. Writes CRI log files within their quota; knows nothing else.

mod cri;
mod file;
mod stream;

use crate::say;
use crate::supervise::process::inherited;
use crate::supervise::{PAIR_FD, SOCKETS_FD};
use anyhow::Context as _;
use file::LogFile;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_confine::memory::Rest;
use shoal_ipc::{Connection, Error, Layout, Listener, Msg, Received};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use stream::{Stream, Which};

/// How often drops are told while a container goes on.
const TELL: Duration = Duration::from_mins(1);
/// Containers at a time.
const STREAMS: usize = 1024;

/// The whole state.
#[derive(Debug)]
struct Log {
    folder: PathBuf,
    /// Supervise; absent while it is away.
    supervise: Option<Connection>,
    listener: Option<Listener>,
    /// Connected on the named socket, not served yet.
    knocking: Option<Connection>,
    streams: BTreeMap<u64, Stream>,
    rest: Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Supervise,
    Listener,
    Knocking,
    Stream(u64, Which),
}

/// Runs until supervise says so, or is gone and nothing is left to log.
pub(crate) fn run(layout: &Layout) -> anyhow::Result<()> {
    let pair = inherited(PAIR_FD).context("log is started by supervise only")?;
    let listener = inherited(SOCKETS_FD).ok().map(Listener::from_fd);
    // Files are for this uid and, to read, for the agent's group.
    rustix::process::umask(rustix::fs::Mode::RWXO | rustix::fs::Mode::WGRP);
    let mut log = Log {
        folder: layout.pod_logs(),
        supervise: Some(Connection::from_fd(pair)?),
        listener,
        knocking: None,
        streams: BTreeMap::new(),
        rest: Rest::new(),
    };
    while log.supervise.is_some() || !log.streams.is_empty() {
        let ready = log.wait()?;
        log.rest.waited(!ready.is_empty());
        for token in ready {
            if log.handle(token) {
                // The kernel closes the connection, after this process's memory: to whoever waits for its end,
                // this process is gone then.
                std::mem::forget(log);
                return Ok(());
            }
        }
        log.tell_drops();
    }
    Ok(())
}

impl Log {
    fn wait(&self) -> anyhow::Result<Vec<Token>> {
        let mut watched: Vec<(Token, BorrowedFd<'_>)> = Vec::new();
        let connections = [(Token::Supervise, &self.supervise), (Token::Knocking, &self.knocking)];
        watched.extend(connections.into_iter().filter_map(|(t, c)| Some((t, c.as_ref()?.as_fd()))));
        watched.extend(self.listener.as_ref().map(|l| (Token::Listener, l.as_fd())));
        for (id, stream) in &self.streams {
            for (which, fd) in stream.open() {
                watched.push((Token::Stream(*id, which), fd));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        let due = self.streams.values().filter_map(Stream::deadline).chain(self.rest.due()).min();
        let wait = due.map(|d| {
            let left = d.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("cannot wait for events"),
        }
        let ready = fds.iter().zip(&watched).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (token, _))| *token).collect())
    }

    /// Whether this was the end.
    fn handle(&mut self, token: Token) -> bool {
        match token {
            Token::Supervise => return self.hear_supervise(),
            Token::Listener => self.accept(),
            Token::Knocking => self.knock(),
            Token::Stream(id, which) => self.read(id, which),
        }
        false
    }

    fn hear_supervise(&mut self) -> bool {
        for _ in 0..64 {
            let Some(connection) = &mut self.supervise else { return false };
            match connection.try_recv() {
                Ok(None) => return false,
                Ok(Some(Received { msg: Msg::End {}, .. })) => {
                    self.drain_all();
                    return true;
                }
                Ok(Some(received)) => self.asked(received),
                Err(e) => {
                    if !matches!(e, Error::Closed) {
                        say::error("supervise spoke out of turn", &e);
                    }
                    // It comes back on the named socket; until then lines go on being written.
                    self.supervise = None;
                    return false;
                }
            }
        }
        false
    }

    fn asked(&mut self, received: Received) {
        let Received { msg, fds } = received;
        match msg {
            Msg::Attach { id, pod, container, attempt, max_size, max_files } => {
                let mut fds = fds.into_iter();
                let (Some(out), Some(err)) = (fds.next(), fds.next()) else { return };
                if let Err(e) = self.attach(id, &[&pod, &container], attempt, max_size, max_files, out, err) {
                    say::line(format!("the output of {pod}/{container} is not logged: {e}"));
                }
            }
            Msg::Reattach {} => {
                for (id, stream) in &self.streams {
                    let Some((out, err)) = stream.both() else { continue };
                    send(self.supervise.as_ref(), &Msg::Stream { id: *id }, &[out, err]);
                }
                send(self.supervise.as_ref(), &Msg::ListEnd {}, &[]);
            }
            Msg::DropContainer { pod, container } => {
                if is_plain(&pod)
                    && is_plain(&container)
                    && let Err(e) = std::fs::remove_dir_all(self.folder.join(&pod).join(&container))
                    && e.kind() != std::io::ErrorKind::NotFound
                {
                    say::line(format!("the logs of {pod}/{container} stay: {e}"));
                }
            }
            Msg::Reopen { id } => {
                if let Some(Err(e)) = self.streams.get_mut(&id).map(Stream::reopen) {
                    say::line(format!("a log goes on in its old file: {e}"));
                }
            }
            Msg::DropPod { pod } => {
                if is_plain(&pod)
                    && let Err(e) = std::fs::remove_dir_all(self.folder.join(&pod))
                    && e.kind() != std::io::ErrorKind::NotFound
                {
                    say::line(format!("the logs of {pod} stay: {e}"));
                }
            }
            other => say::line(format!("{} is nothing that log is asked", other.name())),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message")]
    fn attach(
        &mut self,
        id: u64,
        folders: &[&str; 2],
        attempt: u64,
        max_size: u64,
        max_files: u32,
        out: OwnedFd,
        err: OwnedFd,
    ) -> std::io::Result<()> {
        if !folders.iter().all(|f| is_plain(f)) {
            return Err(std::io::Error::other("its folder is not a plain name"));
        }
        if self.streams.len() >= STREAMS {
            return Err(std::io::Error::other("too many containers log at once"));
        }
        let folder = self.folder.join(folders[0]).join(folders[1]);
        let file = LogFile::open(folder.join(format!("{attempt}.log")), max_size, max_files)?;
        self.streams.insert(id, Stream::new(file, out, err)?);
        send(self.supervise.as_ref(), &Msg::Attached { id }, &[]);
        Ok(())
    }

    /// A supervise that was restarted knocks on the named socket; only its uid is let in.
    fn accept(&mut self) {
        let Some(Ok(Some(connection))) = self.listener.as_ref().map(Listener::accept) else { return };
        let me = rustix::process::geteuid().as_raw();
        let let_in = connection.peer().is_ok_and(|p| p.uid == 0 || p.uid == me);
        if let_in && self.supervise.is_none() {
            self.knocking = Some(connection);
        }
    }

    fn knock(&mut self) {
        let Some(mut connection) = self.knocking.take() else { return };
        match connection.try_recv() {
            Ok(None) => self.knocking = Some(connection),
            Ok(Some(received)) => {
                self.supervise = Some(connection);
                self.asked(received);
            }
            Err(e) => say::error("a connection on the named socket is dropped", &e),
        }
    }

    fn read(&mut self, id: u64, which: Which) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.read(which);
        if stream.is_ended() {
            self.end(id);
        }
    }

    fn end(&mut self, id: u64) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        let (lines, stderr_tail) = stream.finish();
        send(self.supervise.as_ref(), &Msg::Dropped { id, lines, end: true, stderr_tail }, &[]);
    }

    fn tell_drops(&mut self) {
        for (id, stream) in &mut self.streams {
            if let Some(lines) = stream.drops_to_tell() {
                let msg = Msg::Dropped { id: *id, lines, end: false, stderr_tail: String::new() };
                send(self.supervise.as_ref(), &msg, &[]);
            }
        }
    }

    /// Takes what is in the pipes now; containers are gone or about to be.
    fn drain_all(&mut self) {
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            for which in [Which::Out, Which::Err] {
                self.read(id, which);
            }
            self.end(id);
        }
    }
}

/// What cannot be sent now is asked for again by a supervise that attaches anew.
fn send(supervise: Option<&Connection>, msg: &Msg, fds: &[BorrowedFd<'_>]) {
    if let Some(c) = supervise
        && let Err(e) = c.send_wait(msg, fds, Duration::from_millis(200))
        && !e.is_disconnect()
    {
        say::error("supervise does not listen", &e);
    }
}

/// One plain name.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_plain_names() {
        assert!(is_plain("web_0011") && is_plain("a.b"));
        for bad in ["", "..", ".", "a/b", "/a", "a/"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
