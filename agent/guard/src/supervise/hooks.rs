//! Hooks, and the way to an end: hook before it → word to the guest → grace → kill.
//!
//! A WASI guest sees no signal. What it can see is the end of its standard input, so a container with `stdin` gets that;
//! any other is ended by the signal at once, since waiting would be for nothing.

use super::Supervise;
use super::container::{Key, Stop};
use super::ends::Why;
use super::entries::Role;
use crate::say;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socket_with};
use rustix::process::{PidfdGetfdFlags, Signal, pidfd_getfd};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A standard input that never says anything, held by nobody but the container: a socket without a name or another end,
/// to which nothing can be sent. Whoever may borrow it from the process can shut it, and then it is at its end.
pub(crate) fn open_stdin() -> std::io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

impl Supervise {
    /// A container runs: its hook begins.
    pub(super) fn begin_post_start(&mut self, key: Key) {
        let index = usize::from(key.1);
        let wanted =
            self.tickets.get(&key.0).and_then(|h| h.ticket.containers.get(index)?.post_start.as_ref());
        if wanted.is_none() {
            return;
        }
        if let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) {
            live.care.post_start = true;
        }
        if let Err(e) = self.start_entry(key, Role::PostStart) {
            self.post_start_ended(key, Err(e.detail));
        }
    }

    /// Its hook is through.
    pub(super) fn post_start_ended(&mut self, key: Key, answer: Result<(), String>) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = c.live.as_mut().filter(|l| l.ending.is_none()) else { return };
        live.care.post_start = false;
        match answer {
            Ok(()) => self.settle_health(key, Instant::now()),
            Err(why) => {
                let text = format!("postStart: {why}");
                c.record.state.probe_message = text[..text.floor_char_boundary(256)].replace('\0', " ");
                self.kill_for(key, Why::Unhealthy);
            }
        }
    }

    /// Asks one container to end, at the latest after `grace`.
    pub(super) fn begin_stop(&mut self, key: Key, grace: Duration) {
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        let kill_at = Instant::now() + grace;
        if let Some(stop) = &mut live.stop {
            // A second request may shorten the wait, never lengthen it.
            stop.kill_at = stop.kill_at.map(|t| t.min(kill_at));
            return;
        }
        live.stop = Some(Stop { kill_at: Some(kill_at) });
        live.care.helpers.clear();
        let hook = live.care.pre_stop && !grace.is_zero();
        self.end_entries(key);
        if hook {
            match self.start_entry(key, Role::PreStop) {
                Ok(()) => return,
                Err(e) => say::line(format!("a hook before the end did not run: {}", e.detail)),
            }
        }
        self.ask_to_end(key);
    }

    /// The word to the guest.
    pub(super) fn ask_to_end(&mut self, key: Key) {
        let Some(live) = self.containers.get(&key).and_then(|c| c.live.as_ref()) else { return };
        if live.stop.is_none() || live.ending.is_some() {
            return;
        }
        let open = live.pidfd.as_ref().filter(|_| live.care.stdin);
        let held = open.map(|pidfd| pidfd_getfd(pidfd, 0, PidfdGetfdFlags::empty()));
        let told = match held {
            Some(Ok(fd)) => shutdown(&fd, Shutdown::Read).is_ok(),
            Some(Err(e)) => {
                say::error("a container's standard input could not be ended; it is killed", &e);
                false
            }
            None => false,
        };
        if !told {
            // Gone already is what was wanted.
            live.signal(Signal::TERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read as _;

    #[test]
    fn an_open_standard_input_is_silent_until_anyone_who_holds_it_shuts_it() {
        let stdin = open_stdin().unwrap();
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&stdin, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&none)).unwrap(), 0, "silent, and not at its end");
        shutdown(stdin.try_clone().unwrap(), Shutdown::Read).unwrap();
        assert_eq!(rustix::event::poll(&mut fds, Some(&none)).unwrap(), 1);
        let mut text = String::new();
        File::from(stdin).read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
    }
}
