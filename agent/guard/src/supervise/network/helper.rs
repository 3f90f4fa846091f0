//! The helper process that runs CNI's plugins (`crate::network`): started, timed, and what it said.

use super::super::process::{Child, exit_now, place_descriptors, spawn, take_back_signals};
use super::super::{Refused, Supervise, refuse};
use crate::network::conf::Verb;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use shoal_ipc::Digest;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// The most that a helper says.
const WORDS: usize = 1024;
/// What plugins are found by when supervise's own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A helper at work.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) child: Child,
    said: OwnedFd,
    pub(super) deadline: Instant,
    pub(super) expired: bool,
}

impl Helper {
    /// Past its time, which is more than it gives to plugins.
    pub(super) fn expire(&mut self) {
        self.expired = true;
        // Gone already is as good.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    /// Code and words of a helper that is gone.
    pub(super) fn verdict(&self, status: Result<i32, i32>) -> Result<(), Refused> {
        if status == Ok(0) {
            return Ok(());
        }
        let mut said = vec![0; WORDS];
        let n = rustix::io::read(&self.said, &mut said).unwrap_or(0);
        let text = String::from_utf8_lossy(&said[..n]).into_owned();
        let (code, detail) =
            text.split_once('\n').unwrap_or(("kernel_unsupported", "it ended without a word"));
        let detail = if self.expired { "it took too long" } else { detail };
        Err(refuse(code, format!("the pod's network: {detail}")))
    }
}

impl Supervise {
    /// Starts one.
    pub(super) fn network_helper(&self, verb: Verb, ticket: &Digest) -> Result<Helper, Refused> {
        let failed =
            |e: io::Error| refuse("kernel_unsupported", format!("start a helper for a network: {e}"));
        let (said, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let null = File::open("/dev/null").map_err(failed)?;
        let stderr = io::stderr();
        let seconds = self.policy.network.seconds;
        let mut args: Vec<OsString> = vec!["network".into(), "--root".into(), self.layout.root().into()];
        args.extend([
            "--action".into(),
            verb.word().to_lowercase().into(),
            "--pod".into(),
            ticket.hex().into(),
        ]);
        args.extend(["--seconds".into(), seconds.to_string().into()]);
        for folder in &self.policy.network.plugins {
            args.extend(["--plugins".into(), folder.into()]);
        }
        let child = spawn(None, || match execute(&args, &[null.as_fd(), theirs.as_fd(), stderr.as_fd()]) {
            Ok(never) => match never {},
            Err(_) => exit_now(71),
        })
        .map_err(failed)?;
        // An ADD that fails late still has its DEL before it.
        let deadline = Instant::now() + Duration::from_secs(2 * seconds + 10);
        Ok(Helper { child, said, deadline, expired: false })
    }
}

/// The helper's side.
fn execute(args: &[OsString], fds: &[BorrowedFd<'_>]) -> io::Result<Infallible> {
    place_descriptors(fds, false)?;
    take_back_signals(false)?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    Err(Command::new("/proc/self/exe").args(args).env_clear().env("PATH", path).exec())
}
