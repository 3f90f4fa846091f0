//! Pods' networks. A pod with `network: pod` has one namespace, made before its first container starts and taken back when the
//! whole pod was asked to end, is removed, or somebody else needs its port; it outlives supervise.
//!
//! Supervise itself decides and holds the descriptor. The work is done by a helper process (`crate::network`), because plugins
//! take their time and speak JSON. A start that needs a network waits here and is begun anew when there is one.

mod helper;
pub(super) mod ports;
mod upkeep;

use super::container::Key;
use super::entries::is_entry;
use super::record::boot_id;
use super::{Refused, Supervise, refuse};
use crate::network::{Place, Request, conf::Verb};
use crate::say;
use helper::Helper;
use rustix::process::Pid;
use shoal_ipc::{Digest, Msg, Network, NetworkPlace, Ticket, encode};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

#[derive(Debug)]
enum Phase {
    Adding(Helper),
    Ready { namespace: OwnedFd, check: Option<Helper> },
    Removing(Helper),
}

/// The network of one pod.
#[derive(Debug)]
struct PodNetwork {
    request: Request,
    phase: Phase,
    /// Taken back as soon as nothing of the pod runs any more.
    ending: bool,
}

/// A start that waits.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    peer: u64,
    key: Key,
    attempt: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Networks {
    pods: BTreeMap<Digest, PodNetwork>,
    waiting: Vec<Waiter>,
}

impl Networks {
    fn helpers(&mut self) -> impl Iterator<Item = &mut Helper> {
        self.pods.values_mut().filter_map(|n| match &mut n.phase {
            Phase::Adding(h) | Phase::Removing(h) => Some(h),
            Phase::Ready { check, .. } => check.as_mut(),
        })
    }

    /// When a helper is past its time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let of = |n: &PodNetwork| match &n.phase {
            Phase::Adding(h) | Phase::Removing(h) | Phase::Ready { check: Some(h), .. } => {
                (!h.expired).then_some(h.deadline)
            }
            Phase::Ready { check: None, .. } => None,
        };
        self.pods.values().filter_map(of).min()
    }

    /// Ends helpers that are past their time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.helpers().filter(|h| !h.expired && h.deadline <= now).for_each(Helper::expire);
    }

    /// The namespace of a pod that has one.
    pub(super) fn namespace(&self, ticket: &Digest) -> Option<BorrowedFd<'_>> {
        match &self.pods.get(ticket)?.phase {
            Phase::Ready { namespace, .. } => Some(namespace.as_fd()),
            _ => None,
        }
    }
}

/// A name for CNI that no other network has or had.
fn new_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(format!("shoal-{}", Digest(bytes).short()))
}

fn storage(what: &str) -> impl Fn(io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

impl Supervise {
    /// What a pod that the owner allows a network of its own would miss, in words.
    pub(super) fn network_lacks(&self) -> Option<String> {
        let tools = &self.policy.network;
        let allowed = self.policy.allow.network.iter().any(|n| n == "pod");
        // Without it there is no network, whatever the owner's list says.
        let there = tools.plugins.iter().any(|f| Path::new(f).join("loopback").is_file());
        (allowed && !there).then(|| {
            let folders = tools.plugins.join(", ");
            format!("networks of pods' own: no CNI plugins in {folders}; install containernetworking-plugins")
        })
    }

    /// Where a container's sockets are, and the descriptor that goes along: the namespace, or nothing much.
    pub(super) fn network_of(&self, ticket: &Ticket) -> Result<(NetworkPlace, OwnedFd), Refused> {
        let nothing = || File::open("/dev/null").map(OwnedFd::from);
        let (place, fd) = match ticket.network {
            Network::None => (NetworkPlace::Nowhere, nothing()),
            Network::Host => (NetworkPlace::Host, nothing()),
            Network::Pod => {
                let namespace = self.networks.namespace(&ticket.id);
                let none = || refuse("kernel_unsupported", "the pod's network is not there");
                (NetworkPlace::Given, namespace.ok_or_else(none)?.try_clone_to_owned())
            }
        };
        Ok((place, fd.map_err(storage("hold the pod's network"))?))
    }

    /// Sees to it that a pod which is to have a network has one. When it has not yet, the start waits for it, and its answer comes
    /// later.
    pub(super) fn waits_for_network(
        &mut self,
        peer: u64,
        key: Key,
        attempt: u64,
        ticket: &Ticket,
    ) -> Result<bool, Refused> {
        if ticket.network != Network::Pod {
            return Ok(false);
        }
        if self.uids.is_none() {
            return Err(refuse(
                "kernel_unsupported",
                "a network of the pod's own needs the guard to run as root",
            ));
        }
        let known = match self.networks.pods.get_mut(&ticket.id) {
            Some(PodNetwork { phase: Phase::Ready { .. }, ending, .. }) => {
                *ending = false;
                return Ok(false);
            }
            Some(network) => {
                // One that is on its way out is waited for, and then made anew.
                network.ending &= matches!(network.phase, Phase::Removing(_));
                true
            }
            None => false,
        };
        if !known && self.ports_are_free(ticket)? {
            self.add_network(ticket)?;
        }
        self.networks.waiting.push(Waiter { peer, key, attempt });
        Ok(true)
    }

    /// Whether no other pod's network has the ports; one of which nothing runs makes room.
    fn ports_are_free(&mut self, ticket: &Ticket) -> Result<bool, Refused> {
        let clash = self.networks.pods.iter().find_map(|(id, n)| {
            let port = ports::shared(&n.request.ports, &ticket.ports)?;
            Some((*id, port, n.request.name.clone(), matches!(n.phase, Phase::Removing(_))))
        });
        let Some((other, port, name, leaving)) = clash else { return Ok(true) };
        if leaving {
            return Ok(false);
        }
        if self.pod_runs(&other) || self.networks.waiting.iter().any(|w| w.key.0 == other) {
            return Err(refuse("conflict", format!("port {port} of the device is {name}'s")));
        }
        self.remove_network(&other);
        Ok(false)
    }

    fn pod_runs(&self, ticket: &Digest) -> bool {
        self.containers.iter().any(|(k, c)| k.0 == *ticket && !is_entry(*k) && c.live.is_some())
    }

    fn add_network(&mut self, ticket: &Ticket) -> Result<(), Refused> {
        let request = Request {
            id: new_id().map_err(storage("name a network"))?,
            name: ticket.name.clone(),
            boot: boot_id(),
            ports: ticket.ports.clone(),
        };
        let place = Place::of(&self.layout, &ticket.id.hex());
        // What an earlier one left that could not be taken back: its own folder is no help to anybody now.
        let fresh = || -> io::Result<()> {
            if place.folder.exists() {
                fs::remove_dir_all(&place.folder)?;
            }
            super::dirs::ensure(&place.folder, 0o700, None)?;
            // Written down before anything is made, so that whoever comes after takes it back.
            fs::write(place.request(), encode(&request))
        };
        fresh().map_err(storage("write down a request for a network"))?;
        let helper = self.network_helper(Verb::Add, &ticket.id)?;
        let phase = Phase::Adding(helper);
        self.networks.pods.insert(ticket.id, PodNetwork { request, phase, ending: false });
        Ok(())
    }

    /// Begins to take a network back, or sees to it that this begins once it is made.
    fn remove_network(&mut self, ticket: &Digest) {
        let Some(network) = self.networks.pods.get(ticket) else { return };
        match &network.phase {
            Phase::Removing(_) => return,
            Phase::Adding(_) => {
                if let Some(n) = self.networks.pods.get_mut(ticket) {
                    n.ending = true;
                }
                return;
            }
            Phase::Ready { .. } => {}
        }
        match self.network_helper(Verb::Del, ticket) {
            Ok(helper) => {
                if let Some(n) = self.networks.pods.get_mut(ticket) {
                    // A check that was under way is nobody's any more; it is reaped as a stranger.
                    n.phase = Phase::Removing(helper);
                }
            }
            Err(e) => say::line(format!("a network stays until the next start: {}", e.detail)),
        }
    }

    /// A pod is forgotten: its network goes, and nobody waits for it any more.
    pub(super) fn drop_network(&mut self, ticket: &Digest) {
        self.dismiss(ticket, None, "its pod was removed before it started");
        self.remove_network(ticket);
    }

    /// A pod, or one container of it, was asked to end.
    pub(super) fn network_stop(&mut self, ticket: &Digest, index: Option<u16>) {
        self.dismiss(ticket, index, "it was stopped before it started");
        if index.is_none()
            && let Some(n) = self.networks.pods.get_mut(ticket)
        {
            n.ending = true;
            self.network_idle(ticket);
        }
    }

    /// Takes back the network of a pod that was asked to end, once nothing of it runs.
    pub(super) fn network_idle(&mut self, ticket: &Digest) {
        let ending = self.networks.pods.get(ticket).is_some_and(|n| n.ending);
        if ending && !self.pod_runs(ticket) {
            self.remove_network(ticket);
        }
    }

    fn dismiss(&mut self, ticket: &Digest, index: Option<u16>, why: &str) {
        let (gone, stay) = std::mem::take(&mut self.networks.waiting)
            .into_iter()
            .partition(|w| w.key.0 == *ticket && index.is_none_or(|i| i == w.key.1));
        self.networks.waiting = stay;
        for waiter in gone {
            self.refuse_waiter(waiter, refuse("conflict", why));
        }
    }

    fn refuse_waiter(&mut self, waiter: Waiter, why: Refused) {
        self.detach(waiter.key);
        self.answer(waiter.peer, Msg::refused(why.code, why.detail));
    }

    /// Whether a child that is gone was a helper of ours; then this deals with it.
    pub(super) fn network_helper_ended(&mut self, pid: Pid, status: Result<i32, i32>) -> bool {
        let found = self.networks.pods.iter().find_map(|(id, n)| match &n.phase {
            Phase::Adding(h) | Phase::Removing(h) | Phase::Ready { check: Some(h), .. }
                if h.child.pid == pid =>
            {
                Some((*id, h.verdict(status)))
            }
            _ => None,
        });
        let Some((ticket, verdict)) = found else { return false };
        let Some(network) = self.networks.pods.get_mut(&ticket) else { return true };
        if let Phase::Ready { check, .. } = &mut network.phase {
            *check = None;
            if let Err(e) = verdict {
                say::line(format!(
                    "{}: its network is not as it was made: {}",
                    network.request.name, e.detail
                ));
            }
            return true;
        }
        let adding = matches!(network.phase, Phase::Adding(_));
        let made = verdict.and_then(|()| {
            adding
                .then(|| File::open(Place::of(&self.layout, &ticket.hex()).netns))
                .transpose()
                .map_err(storage("open the pod's network"))
        });
        match made {
            Ok(Some(namespace)) => {
                network.phase = Phase::Ready { namespace: namespace.into(), check: None };
                if network.ending {
                    self.network_idle(&ticket);
                }
            }
            Ok(None) => {
                self.networks.pods.remove(&ticket);
            }
            Err(e) => {
                say::line(format!("{}: {}", network.request.name, e.detail));
                self.networks.pods.remove(&ticket);
                if adding {
                    // The helper has taken back what it had made.
                    let _ = fs::remove_dir_all(Place::of(&self.layout, &ticket.hex()).folder);
                    let (failed, stay) = std::mem::take(&mut self.networks.waiting)
                        .into_iter()
                        .partition(|w| w.key.0 == ticket);
                    self.networks.waiting = stay;
                    for waiter in failed {
                        self.refuse_waiter(waiter, refuse(&e.code, e.detail.clone()));
                    }
                }
            }
        }
        self.resume_waiting();
        true
    }

    /// Begins anew what waited; what has to wait on comes back into the list by itself.
    fn resume_waiting(&mut self) {
        for waiter in std::mem::take(&mut self.networks.waiting) {
            if let Err(e) = self.start(waiter.peer, waiter.key, waiter.attempt) {
                self.refuse_waiter(waiter, e);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_networks_have_one_name() {
        assert_ne!(new_id().unwrap(), new_id().unwrap());
    }
}
