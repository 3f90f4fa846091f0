//! Pods' networks. A pod with `network: pod` has one namespace, made before its first container starts and taken back when the
//! whole pod was asked to end, is removed, or somebody else needs its port; it outlives supervise.
//!
//! Supervise itself decides and holds the descriptor. The work is done by a helper process (`crate::network`), because plugins
//! take their time and speak JSON. A start that needs a network waits here and is begun anew when there is one.

pub(super) mod ports;

use super::container::Key;
use super::entries::is_entry;
use super::process::{Child, exit_now, place_descriptors, spawn, take_back_signals};
use super::record::boot_id;
use super::{Refused, Supervise, refuse};
use crate::network::{Place, Request, conf::Verb, netns};
use crate::say;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, pidfd_send_signal, waitpid};
use shoal_ipc::{Digest, Msg, Network, NetworkPlace, Ticket, decode, encode};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The most that a helper says.
const WORDS: usize = 1024;
/// What plugins are found by when supervise's own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A helper at work.
#[derive(Debug)]
struct Helper {
    child: Child,
    said: OwnedFd,
    deadline: Instant,
    expired: bool,
}

impl Helper {
    /// Past its time, which is more than it gives to plugins.
    fn expire(&mut self) {
        self.expired = true;
        // Gone already is as good.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    /// Code and words of a helper that is gone.
    fn verdict(&self, status: Result<i32, i32>) -> Result<(), Refused> {
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

    /// Finds the networks that an earlier supervise made; those that nobody needs are taken back.
    pub(super) fn adopt_networks(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(self.layout.networks())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let place = Place::of(&self.layout, &name);
            let request = fs::read(place.request()).ok().and_then(|b| decode::<Request>(&b).ok());
            let (Some(request), Some(ticket)) = (request, digest(&name)) else {
                // Cut short before anything was made.
                fs::remove_dir_all(&place.folder)?;
                continue;
            };
            let namespace = File::open(&place.netns).ok().filter(|_| netns::is_there(&place.netns));
            let wanted = request.boot == boot_id() && self.containers.keys().any(|k| k.0 == ticket);
            let (verb, namespace) = match namespace {
                Some(namespace) if wanted => (Verb::Check, Some(namespace)),
                _ => (Verb::Del, None),
            };
            let helper = match self.network_helper(verb, &ticket) {
                Ok(helper) => helper,
                Err(e) => {
                    say::line(format!("a network is left as it is: {}", e.detail));
                    continue;
                }
            };
            let phase = match namespace {
                Some(namespace) => Phase::Ready { namespace: namespace.into(), check: Some(helper) },
                None => Phase::Removing(helper),
            };
            self.networks.pods.insert(ticket, PodNetwork { request, phase, ending: false });
        }
        Ok(())
    }

    /// Takes all networks back and waits for it: nothing runs any more.
    pub(super) fn end_networks(&mut self) {
        let pods: Vec<Digest> = self.networks.pods.keys().copied().collect();
        for ticket in &pods {
            let Some(network) = self.networks.pods.remove(ticket) else { continue };
            let busy = match network.phase {
                Phase::Adding(h) | Phase::Removing(h) => Some(h),
                Phase::Ready { check, .. } => check,
            };
            if let Some(helper) = busy {
                super::shutdown::end_of(&helper.child);
            }
            let place = Place::of(&self.layout, &ticket.hex());
            if !place.request().exists() {
                continue;
            }
            match self.network_helper(Verb::Del, ticket) {
                // It has a time of its own.
                Ok(helper) => match waitpid(Some(helper.child.pid), WaitOptions::empty()) {
                    Ok(Some((_, status))) if status.exit_status() == Some(0) => {}
                    _ => say::line(format!(
                        "{}: its network is taken back at the next start",
                        network.request.name
                    )),
                },
                Err(e) => say::line(e.detail),
            }
        }
    }

    fn network_helper(&self, verb: Verb, ticket: &Digest) -> Result<Helper, Refused> {
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

/// A ticket by its hexadecimal name.
fn digest(hex: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folders_name_is_a_tickets() {
        let ticket = Digest([0xa7; 32]);
        assert_eq!(digest(&ticket.hex()), Some(ticket));
        for bad in ["", "a7", &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(digest(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_two_networks_have_one_name() {
        assert_ne!(new_id().unwrap(), new_id().unwrap());
    }
}
