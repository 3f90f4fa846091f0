//! Unsigned pods of the device's own owner: tickets that uid 0 brings on its own socket, where the policy file says
//! `local_unsigned = true`. From there on they are tickets as any other: the same copies, compilation, limits and walls.
//!
//! Never here: a word from the agent's uid (see `table.rs`), or anything that the policy forbids a signed pod.

use super::container::Key;
use super::devices::is_device_path;
use super::dirs::{sync_folder_of, write_durably};
use super::graves::Grave;
use super::policy::{Policy, is_plain_absolute};
use super::prepare::pod_group;
use super::{Held, Refused, Supervise, refuse, volumes};
use crate::say;
use shoal_ipc::{Digest, Layout, Msg, Network, TICKET_MAX, Ticket, VERSION, read_sealed};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Unsigned pods at a time.
const PODS: usize = 128;
/// Containers of one pod, the places of removed ones included.
const CONTAINERS: usize = 16;
/// Ports of one pod.
const PORTS: usize = 64;
/// What every unsigned pod's name begins with; no deployment's name may have the underscore.
const PREFIX: &str = "local_";

fn storage(what: &str) -> impl Fn(io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

/// One plain name, as names of groups and folders are made of it.
fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Everything that admission vouches for in its own tickets and nobody vouches for here.
fn check(ticket: &Ticket) -> Result<(), String> {
    let say = |what: &str, found: &str| Err(format!("{what} {found:?} cannot be used"));
    if ticket.version != VERSION {
        return Err(format!("the ticket has version {}, expected {VERSION}", ticket.version));
    }
    if !ticket.name.starts_with(PREFIX) || !is_name(&ticket.name) {
        return say("the pod's name", &ticket.name);
    }
    if ticket.hostname.len() > 64 || ticket.hostname.contains(['\0', '/', '\n']) {
        return say("the host name", &ticket.hostname);
    }
    if ticket.containers.len() > CONTAINERS {
        return Err(format!("{} containers, at most {CONTAINERS} are possible", ticket.containers.len()));
    }
    if let Some(v) = ticket.volumes.iter().find(|v| !is_name(&v.name)) {
        return say("the volume's name", &v.name);
    }
    if (ticket.network != Network::Pod && !ticket.ports.is_empty()) || ticket.ports.len() > PORTS {
        return Err(format!(
            "{} ports, which need a network of the pod's own, and at most {PORTS}",
            ticket.ports.len()
        ));
    }
    if ticket.ports.iter().any(|p| p.container_port == 0) {
        return Err("a port 0 in the pod".to_owned());
    }
    for (i, c) in ticket.containers.iter().enumerate() {
        if !is_name(&c.name) || ticket.containers[..i].iter().any(|o| o.name == c.name) {
            return say("the container's name", &c.name);
        }
        let files = c.files.iter().map(|f| &f.path);
        let paths = files.chain(c.mounts.iter().map(|m| &m.path)).chain([&c.working_dir, &c.module.path]);
        if let Some(path) = paths.into_iter().find(|p| !is_plain_absolute(p)) {
            return say("the path", path);
        }
        if let Some(m) = c.mounts.iter().find(|m| usize::from(m.volume) >= ticket.volumes.len()) {
            return say("the mount", &m.path);
        }
        if let Some(d) = c.devices.iter().find(|d| {
            let in_folder = is_plain_absolute(&d.path) && d.path.matches('/').count() > 1;
            !is_device_path(&d.host_path) || !in_folder
        }) {
            return say("the device", &d.host_path);
        }
        if c.env.iter().any(|e| e.name.is_empty() || e.name.contains('=')) {
            return Err("an environment variable without a proper name".to_owned());
        }
    }
    Ok(())
}

/// Whether this unsigned ticket may be taken, now and after every restart.
fn admissible(ticket: &Ticket, policy: &Policy) -> Result<(), Refused> {
    if !policy.local_unsigned {
        let why = "the device's policy file does not say local_unsigned = true";
        return Err(refuse("not_admitted", why));
    }
    check(ticket).map_err(|why| refuse("malformed", why))?;
    // A pod without containers asks for nothing yet; limits are judged with what is to run.
    match policy.forbids(ticket).filter(|_| !ticket.containers.is_empty()) {
        Some(why) => Err(refuse("policy_denied", why)),
        None => Ok(()),
    }
}

impl Supervise {
    /// Whether this is uid 0's own pod.
    pub(super) fn is_local(&self, ticket: &Digest) -> bool {
        match self.tickets.get(ticket) {
            Some(held) => held.local,
            None => self.containers.iter().any(|(k, c)| k.0 == *ticket && c.record.state.local),
        }
    }

    fn local_file(&self, id: &Digest) -> PathBuf {
        self.layout.local_tickets().join(id.hex())
    }

    /// A ticket from uid 0: a new pod, or one with other containers than before. It lasts when this returns.
    pub(super) fn local_ticket(&mut self, fd: &OwnedFd) -> Result<(), Refused> {
        let malformed = |e: shoal_ipc::Error| refuse("malformed", say::chain(&e));
        let bytes = read_sealed(fd, TICKET_MAX).map_err(malformed)?;
        let ticket = Ticket::decode(&bytes).map_err(malformed)?;
        admissible(&ticket, &self.policy)?;
        let signed = self.containers.iter().any(|(k, c)| k.0 == ticket.id && !c.record.state.local);
        let before = self.tickets.get(&ticket.id);
        if signed || before.is_some_and(|h| !h.local) {
            return Err(refuse("not_admitted", "a signed deployment has this identity"));
        }
        if before.is_none() && self.tickets.values().filter(|h| h.local).count() >= PODS {
            return Err(refuse("conflict", format!("{PODS} unsigned pods are here already; remove some")));
        }
        let renamed = before.is_some_and(|h| h.ticket.name != ticket.name);
        let known: Vec<Key> = self.containers.keys().filter(|k| k.0 == ticket.id).copied().collect();
        let changed = |k: &Key| {
            let at = usize::from(k.1);
            ticket.containers.get(at) != before.and_then(|h| h.ticket.containers.get(at))
        };
        if renamed || (before.is_some() && known.iter().any(changed)) {
            return Err(refuse(
                "conflict",
                "a container of it was started as something else; remove it first",
            ));
        }
        write_durably(&self.local_file(&ticket.id), &bytes).map_err(storage("keep the ticket"))?;
        self.drop_spares(&ticket.id, None);
        self.spares.look.insert(ticket.id);
        // Its limits may be others now.
        self.pods.remove(&pod_group(self.policy.cgroup_parent(), &ticket.name, &ticket.id));
        self.tickets.insert(ticket.id, Held { ticket, withdrawn: false, local: true });
        Ok(())
    }

    /// The tickets of an earlier supervise, as far as the policy still allows them.
    pub(super) fn load_local(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(self.layout.local_tickets())? {
            let path = entry?.path();
            let held = fs::read(&path).ok().and_then(|b| Ticket::decode(&b).ok());
            match held.map(|t| admissible(&t, &self.policy).map(|()| t)) {
                Some(Ok(ticket)) => {
                    let id = ticket.id;
                    self.tickets.insert(id, Held { ticket, withdrawn: false, local: true });
                    self.resume_care(&id);
                }
                Some(Err(e)) => say::line(format!("an unsigned pod is not taken again: {}", e.detail)),
                // Cut short by a power failure: whoever asked was never told that it is there.
                None => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    /// Keeps what the next attached start of a container reads.
    pub(super) fn feed(&mut self, key: Key, input: OwnedFd) -> Result<(), Refused> {
        if self.containers.get(&key).is_some_and(|c| c.live.is_some()) {
            return Err(refuse("conflict", "it runs already"));
        }
        if self.inputs.len() >= PODS * CONTAINERS && !self.inputs.contains_key(&key) {
            return Err(refuse("conflict", "too many containers wait for their start"));
        }
        self.inputs.insert(key, input);
        Ok(())
    }

    /// Nobody is attached to this container any more.
    pub(super) fn detach(&mut self, key: Key) {
        self.attached.remove(&key);
        self.inputs.remove(&key);
    }

    /// Starts a container whose output goes to who asks.
    pub(super) fn start_attached(&mut self, peer: u64, key: Key, attempt: u64) -> Result<(), Refused> {
        let runs = self.containers.get(&key).is_some_and(|c| c.live.is_some());
        if !runs {
            self.attached.insert(key);
        }
        let started = self.start(peer, key, attempt);
        if started.is_err() && !runs {
            self.detach(key);
        }
        started
    }

    /// The output of a container that was started attached: handed out once, and held by nobody else.
    pub(super) fn take_output(&mut self, key: Key) -> Option<(OwnedFd, OwnedFd)> {
        if !self.attached.contains(&key) {
            return None;
        }
        // Its own process holds it now, and shall be the only one to.
        self.inputs.remove(&key);
        self.containers.get_mut(&key)?.live.as_mut()?.pipes.take()
    }

    /// Forgets one container of an unsigned pod.
    pub(super) fn remove_container(&mut self, key: Key) -> Result<(), Refused> {
        let Some(c) = self.containers.get(&key) else { return Ok(()) };
        if c.live.is_some() {
            return Err(refuse("conflict", "it runs; stop it first"));
        }
        let state = &c.record.state;
        let (pod, container) = (Layout::pod_folder(&state.deployment, &state.ticket), state.name.clone());
        let folder = c.record.folder(&self.layout.containers());
        fs::remove_dir_all(&folder).map_err(storage("remove the container's folder"))?;
        self.containers.remove(&key);
        self.drop_spares(&key.0, Some(key.1));
        self.tell_log(&Msg::DropContainer { pod, container }, &[]);
        Ok(())
    }

    /// Has the log of a running container opened anew.
    pub(super) fn reopen_log(&mut self, key: Key) -> Result<(), Refused> {
        let stream = self.containers.get(&key).filter(|c| c.live.is_some()).map(|c| c.record.stream);
        let id = stream.ok_or_else(|| refuse("conflict", "it does not run, so nothing writes its log"))?;
        self.tell_log(&Msg::Reopen { id }, &[]);
        Ok(())
    }

    /// Nothing of an unsigned pod is left: its ticket, kept volumes and uid go too.
    pub(super) fn drop_local(&mut self, id: &Digest, name: &str) -> Result<(), Refused> {
        let file = self.local_file(id);
        match fs::remove_file(&file).and_then(|()| sync_folder_of(&file)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(storage("remove the ticket")(e)),
            _ => {}
        }
        self.tickets.remove(id);
        // A group that was made for a start that never came about.
        self.bury(Grave::of(pod_group(self.policy.cgroup_parent(), name, id)));
        volumes::drop_persistent(&self.layout, name).map_err(storage("remove its kept volumes"))?;
        self.uid_book.release(name).map_err(storage("release its uid"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{
        Limits, Restart, TicketContainer, TicketDevice, TicketFile, TicketMount, TicketVolume, VolumeSource,
    };

    fn ticket() -> Ticket {
        let module = TicketFile { path: "/a.wasm".into(), size: 1, mode: 0o644, digest: Digest([1; 32]) };
        Ticket {
            version: VERSION,
            id: Digest([2; 32]),
            name: "local_web_02".into(),
            sequence: 0,
            stageable: true,
            startable: true,
            hostname: "h".into(),
            grace: 10,
            limits: Limits::default(),
            volumes: vec![TicketVolume {
                name: "v0".into(),
                source: VolumeSource::HostPath { path: "/etc".into() },
            }],
            containers: vec![TicketContainer {
                name: "main".into(),
                argv: vec!["/a.wasm".into()],
                env: vec![],
                working_dir: "/".into(),
                module,
                files: vec![],
                limits: Limits::default(),
                mounts: vec![],
                readonly_rootfs: false,
                restart: Restart::Never,
                interpreter: false,
                self_test: None,
                probes: vec![],
                post_start: None,
                pre_stop: None,
                stdin: false,
                init: false,
                devices: Vec::new(),
                private_env: Vec::new(),
            }],
            required_features: vec![],
            network: Network::None,
            ports: vec![],
        }
    }

    fn code(ticket: &Ticket, policy: &str) -> String {
        match admissible(ticket, &Policy::parse(policy).unwrap()) {
            Ok(()) => "ok".into(),
            Err(e) => e.code,
        }
    }

    const ON: &str = "local_unsigned = true\n[allow]\nhost_paths = [\"/etc\"]";

    #[test]
    fn c5_without_the_owners_word_no_unsigned_ticket_is_taken() {
        assert_eq!(code(&ticket(), ""), "not_admitted");
        assert_eq!(code(&ticket(), "local_unsigned = false"), "not_admitted");
        assert_eq!(code(&ticket(), ON), "ok");
    }

    #[test]
    fn c3_the_policy_binds_unsigned_pods_too() {
        assert_eq!(code(&ticket(), "local_unsigned = true"), "policy_denied", "/etc is not allowed");
        let bound = format!(
            "local_unsigned = true\n[limits]\nmemory = \"1Mi\"\n{}",
            &ON["local_unsigned = true\n".len()..]
        );
        assert_eq!(code(&ticket(), &bound), "policy_denied");
        let none = Ticket { containers: vec![], ..ticket() };
        assert_eq!(code(&none, &bound), "ok", "an empty pod asks for nothing");
    }

    #[test]
    fn c3_a_network_needs_the_owners_word_and_ports_a_network() {
        let asks = |network, ports: &[u16]| {
            let port = |p: &u16| shoal_ipc::TicketPort { container_port: *p, host_port: 0, udp: false };
            Ticket { network, ports: ports.iter().map(port).collect(), ..ticket() }
        };
        let with = |words: &str| {
            format!("local_unsigned = true\n[allow]\nhost_paths = [\"/etc\"]\nnetwork = [{words}]")
        };
        assert_eq!(code(&asks(Network::Pod, &[80]), ON), "policy_denied");
        assert_eq!(code(&asks(Network::Host, &[]), &with("\"none\", \"pod\"")), "policy_denied");
        assert_eq!(code(&asks(Network::Pod, &[80]), &with("\"pod\"")), "ok");
        assert_eq!(code(&ticket(), &with("\"host\"")), "ok", "none asks for nothing");
        assert_eq!(code(&asks(Network::Host, &[80]), &with("\"host\"")), "malformed");
        assert_eq!(code(&asks(Network::Pod, &[0]), &with("\"pod\"")), "malformed");
    }

    #[test]
    fn c3_devices_need_the_owners_word() {
        let device =
            |path: &str| TicketDevice { host_path: path.into(), path: "/dev/x".into(), read_only: false };
        let with = |path: &str| {
            let mut t = ticket();
            t.containers[0].devices = vec![device(path)];
            t
        };
        let on = format!("{ON}\ndevices = [\"/dev/ttyS0\"]");
        assert_eq!(code(&with("/dev/ttyS0"), ON), "policy_denied");
        assert_eq!(code(&with("/dev/ttyS0"), &on), "ok");
        assert_eq!(code(&with("/dev/ttyS1"), &on), "policy_denied");
        assert_eq!(code(&with("/dev/../etc/shadow"), &on), "malformed");
    }

    #[test]
    fn names_and_paths_that_lead_elsewhere_are_refused() {
        let with = |f: fn(&mut Ticket)| {
            let mut t = ticket();
            f(&mut t);
            code(&t, ON)
        };
        let bad: [fn(&mut Ticket); 10] = [
            |t| t.name = "web".into(),
            |t| t.name = "local_../../x".into(),
            |t| t.containers[0].name = "..".into(),
            |t| t.containers[0].name = "a/b".into(),
            |t| t.containers.push(t.containers[0].clone()),
            |t| t.containers[0].working_dir = "x".into(),
            |t| t.containers[0].module.path = "/../x".into(),
            |t| t.containers[0].mounts.push(TicketMount { volume: 0, path: "/../x".into(), read_only: true }),
            |t| t.containers[0].mounts.push(TicketMount { volume: 1, path: "/x".into(), read_only: true }),
            |t| t.volumes[0].name = "../v".into(),
        ];
        for (i, f) in bad.into_iter().enumerate() {
            assert_eq!(with(f), "malformed", "case {i}");
        }
    }
}
