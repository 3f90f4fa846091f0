//! The end of everything, on request: containers, groups, mounts, services, sockets.

use super::graves::Grave;
use super::prepare::pod_group;
use super::{Supervise, jobs, policy, process, volumes};
use crate::say;
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::WaitOptions;
use shoal_ipc::{Digest, Layout, Msg};
use std::time::Duration;

/// Stops everything that an earlier supervise left, without one that runs.
pub(crate) fn stop_leftovers(layout: Layout) -> anyhow::Result<()> {
    let mut supervise = Supervise::open(layout)?;
    supervise.adopt_all().context("cannot read the containers' records")?;
    supervise.adopt_networks().context("cannot read the records of pods' networks")?;
    supervise.find_log();
    let tickets: Vec<Digest> = supervise.containers.keys().map(|k| k.0).collect();
    for ticket in tickets {
        supervise.stop(&ticket, None, Duration::from_secs(2));
    }
    let signals = process::signal_descriptor().context("cannot watch signals")?;
    supervise.drop_all_spares();
    while !supervise.all_ended() {
        for token in supervise.wait(&signals)? {
            supervise.handle(token, &signals);
        }
        supervise.timers();
    }
    supervise.tear_down()
}

impl Supervise {
    pub(super) fn all_ended(&self) -> bool {
        self.jobs.is_empty() && self.spares.is_empty() && self.containers.values().all(|c| c.live.is_none())
    }

    /// The end of everything: groups, mounts, services, sockets. Records and cache stay for the next start.
    pub(super) fn tear_down(&mut self) -> anyhow::Result<()> {
        let parent = self.policy.cgroup_parent().to_owned();
        let pods = self.containers.values().map(|c| (&c.record.state.deployment, &c.record.state.ticket));
        let pods = pods.chain(self.tickets.values().map(|h| (&h.ticket.name, &h.ticket.id)));
        let pods: Vec<Grave> = pods.map(|(name, id)| Grave::of(pod_group(&parent, name, id))).collect();
        self.graves.extend(pods);
        self.finish_graves();
        for slot in 0..policy::MAX_COMPILATIONS {
            self.hierarchy.group(&jobs::group_name(&parent, slot)).remove()?;
        }
        // The parent may have been made by the owner, or be shared with another device: then it stays.
        let _ = self.hierarchy.group(&parent).remove();
        self.end_zygotes();
        self.end_networks();
        volumes::drop_all_memory(&self.layout).context("cannot unmount volumes in memory")?;
        for service in [&mut self.admit, &mut self.log] {
            if let Some(c) = &service.connection {
                // Whoever is gone already needs not be told.
                let _ = c.send(&Msg::End {}, &[]);
            }
            match (service.child.take(), service.connection.take()) {
                (Some(child), _) => end_of(&child),
                // Another supervise's child, found again: its end shows as the end of the connection.
                (None, Some(connection)) => {
                    let wait = Timespec { tv_sec: 3, tv_nsec: 0 };
                    let _ = poll(&mut [PollFd::new(&connection, PollFlags::empty())], Some(&wait));
                }
                (None, None) => {}
            }
        }
        for path in [
            self.layout.supervise_socket(),
            self.layout.supervise_root_socket(),
            self.layout.admit_socket(),
            self.layout.admit_root_socket(),
            self.layout.run().join("log.sock"),
        ] {
            // Gone already is what is wanted.
            let _ = std::fs::remove_file(path);
        }
        say::line("everything is stopped");
        // Dropping the connections tells whoever asked that it is done.
        Ok(())
    }
}

/// Waits for a service to end, at most three seconds, then ends it.
pub(super) fn end_of(child: &process::Child) {
    let wait = Timespec { tv_sec: 3, tv_nsec: 0 };
    let done = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&wait)).unwrap_or(0) > 0;
    if !done {
        let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
    }
    let _ = rustix::process::waitpid(Some(child.pid), WaitOptions::empty());
}
