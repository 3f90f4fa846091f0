//! Starting one container: from its ticket to the message on which the zygote forks it.

use super::container::{Container, Key, Live, Starting, within};
use super::ends::Care;
use super::entries::{first_unfinished, is_entry, place_of};
use super::hooks::open_stdin;
use super::network::ports::listened;
use super::record::{Record, boot_id};
use super::{Refused, Supervise, cgroup, devices, dirs, refuse, volumes};
use crate::clock;
use rustix::pipe::{PipeFlags, pipe_with};
use shoal_confine::{ROOTFS, plain_root};
use shoal_ipc::{
    Bind, Cause, ContainerState, Digest, Entry, ImageFile, Jail, Launch, Limits, Preopen, ProbeKind, Rootfs,
    Spec, StatsInfo, Ticket, TicketContainer, VERSION, answer_area, sealed_memfd,
};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a guest may write into its `/` beyond the image's own files, bytes.
const ROOTFS_SPACE: u64 = 64 << 20;

fn io_refusal(what: &str) -> impl Fn(std::io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

/// The name of a pod's group.
pub(super) fn pod_group(parent: &str, name: &str, ticket: &Digest) -> String {
    format!("{parent}/{name}_{}", ticket.short())
}

impl Supervise {
    /// Begins a start; the answer goes out when the child has executed or failed.
    pub(super) fn start(&mut self, peer: u64, key: Key, attempt: u64) -> Result<(), Refused> {
        let (id, index) = key;
        let held = self.tickets.get(&id).ok_or_else(|| refuse("not_admitted", "no such ticket"))?;
        let ticket = held.ticket.clone();
        let Some(container) = ticket.containers.get(usize::from(index)).cloned() else {
            return Err(refuse("not_admitted", format!("the ticket has no container {index}")));
        };
        if let Some(old) = self.containers.get(&key) {
            if old.live.is_some() {
                return Err(refuse("conflict", "it runs already"));
            }
            if attempt <= old.record.state.attempt {
                let last = old.record.state.attempt;
                return Err(refuse(
                    "conflict",
                    format!("attempt {attempt} is not above the last one, {last}"),
                ));
            }
        }
        self.fits(&ticket)?;
        if !container.init
            && let Some(name) = first_unfinished(&ticket, |n| self.ended_well((id, n)))
        {
            return Err(refuse("conflict", format!("{name} comes first, and has not ended with success")));
        }
        let limits = within(&container.limits, &ticket.limits);
        if self.uids.is_none()
            && (cgroup::asks_for_any(&limits)
                || cgroup::asks_for_any(&ticket.limits)
                || limits.oom_score_adj.is_some())
        {
            let why = "limits need the guard to run as root; without it only containers without limits run, unconfined";
            return Err(refuse("kernel_unsupported", why));
        }
        let code = self.code_for(&container, ticket.sockets())?;
        if self.waits_for_network(peer, key, attempt, &ticket)? {
            return Ok(());
        }
        let launched = self.launch(peer, key, attempt, &ticket, &container, &limits, &code);
        if launched.is_err() {
            self.drop_groups(&ticket, &container.name);
        }
        launched
    }

    /// Removes the groups of a start that came to nothing; the pod's own stays while others are in it.
    pub(super) fn drop_groups(&self, ticket: &Ticket, container: &str) {
        let pod = pod_group(self.policy.cgroup_parent(), &ticket.name, &ticket.id);
        let own = self.hierarchy.group(&format!("{pod}/{container}")).remove();
        let alone = self.containers.keys().all(|k| k.0 != ticket.id);
        let pods = if alone { self.hierarchy.group(&pod).remove() } else { Ok(()) };
        if let Err(e) = own.and(pods) {
            crate::say::error("a group of a refused start stays", &e);
        }
    }

    fn ended_well(&self, key: Key) -> bool {
        let cause = self.containers.get(&key).and_then(|c| c.record.state.cause.as_ref());
        cause == Some(&Cause::Exited { code: 0 })
    }

    #[allow(clippy::too_many_arguments, reason = "one call, of which each part is checked already")]
    pub(super) fn launch(
        &mut self,
        peer: u64,
        key: Key,
        attempt: u64,
        ticket: &Ticket,
        container: &TicketContainer,
        limits: &Limits,
        code: &Path,
    ) -> Result<(), Refused> {
        // 1. Groups, limited and read back, before anything of the container exists.
        let pod = pod_group(self.policy.cgroup_parent(), &ticket.name, &ticket.id);
        let name = format!("{pod}/{}", container.name);
        let made = self
            .hierarchy
            .create(&pod, &Limits { oom_score_adj: None, ..ticket.limits.clone() })
            .and_then(|_| self.hierarchy.create(&name, limits));
        let (group, mut applied) = made.map_err(|e| refuse(e.code(), crate::say::chain(&e)))?;
        applied.oom_score_adj = limits.oom_score_adj;
        // 2. Who it is, and what it sees.
        let uid = match self.uids {
            Some(_) => {
                Some(self.uid_book.of(&ticket.name).map_err(io_refusal("keep the pod's uid"))?.ok_or_else(
                    || refuse("policy_denied", "all uids for pods are in use; widen uids.pods"),
                )?)
            }
            None => None,
        };
        let mut mounts = volumes::prepare(&self.layout, ticket, container, uid)
            .map_err(|e| refuse(e.code, e.to_string()))?;
        mounts.extend(devices::prepare(&self.layout, ticket, container, key.1, uid)?);
        let record = Record {
            state: ContainerState {
                ticket: ticket.id,
                deployment: ticket.name.clone(),
                index: key.1,
                name: container.name.clone(),
                attempt,
                running: true,
                pid: 0,
                started_at: clock::now(),
                finished_at: 0,
                healthy: false,
                cause: None,
                stats: StatsInfo { applied, ..StatsInfo::default() },
                stderr_tail: String::new(),
                dropped_lines: 0,
                local: self.is_local(&ticket.id),
                ready: container.probes.iter().any(|p| p.kind == ProbeKind::Readiness).then_some(false),
                probe_message: String::new(),
            },
            boot: boot_id(),
            start_ticks: 0,
            restart: container.restart,
            stream: self.next_stream(),
            group: name,
            init: container.init,
        };
        let folder = record.folder(&place_of(&self.layout, key));
        let made = dirs::ensure(&folder, 0o700, None)
            .and_then(|()| self.world(&folder, ticket, container, code, mounts, uid));
        let world = made.map_err(io_refusal("prepare the container's folder"))?;
        // 3. Its channels.
        let Streams { stdin, out, err, logged } = self.streams(key, container.stdin)?;
        let status = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io_refusal("make pipes")(e.into()))?;
        let ipc = |e: shoal_ipc::Error| refuse("storage_unavailable", crate::say::chain(&e));
        let area = answer_area().map_err(ipc)?;
        let null = fs::File::open("/dev/null").map_err(io_refusal("open /dev/null"))?;
        let place = fs::File::open(&folder).map_err(io_refusal("open the container's folder"))?;
        let World { jail, spec } = world;
        let (network, namespace) = self.network_of(ticket)?;
        let launch = Launch {
            version: VERSION,
            attempt,
            spec,
            jail,
            uid,
            groups: group.join_files(),
            birth: group.birth_folder(),
            oom_score_adj: limits.oom_score_adj,
            cpu_seconds: limits.cpu_seconds,
            network,
            bind: listened(ticket),
        };
        let plan = sealed_memfd(&launch.encode()).map_err(ipc)?;
        // 4. Written down, then forked: no process exists that no record names. Its number follows when it has one.
        // A probe's second of life is worth no write to flash; the next supervise ends what it finds of it.
        if !is_entry(key) {
            record.save(&self.layout.containers()).map_err(io_refusal("write the container's record"))?;
        }
        crate::points::point("supervise::recorded");
        let id = record.stream;
        // Whoever it is attached to holds its output alone.
        let kept = match &logged {
            Some((out, err)) if !self.attached.contains(&key) => [out.as_fd(), err.as_fd()],
            _ => [null.as_fd(); 2],
        };
        let fds = [
            plan.as_fd(),
            stdin.as_fd(),
            out.as_fd(),
            err.as_fd(),
            area.as_fd(),
            status.1.as_fd(),
            place.as_fd(),
            kept[0],
            kept[1],
            namespace.as_fd(),
        ];
        let sent = self.send_launch(id, &fds);
        let zygote = match sent {
            Ok(zygote) => Some(zygote),
            Err(refused) => {
                // It never was: the next supervise must not look for it.
                let undone = match self.containers.get(&key) {
                    Some(before) => before.record.save_durably(&self.layout.containers()),
                    None => fs::remove_dir_all(&folder),
                };
                undone.map_err(io_refusal("forget the start"))?;
                return Err(refused);
            }
        };
        let live = Live {
            pidfd: None,
            zygote,
            area: Some(area),
            pipes: logged,
            starting: Some(Starting { peer, status: Some(status.0) }),
            ending: None,
            stop: None,
            since: Instant::now(),
            care: Care::of(container, limits, Duration::ZERO, false),
        };
        self.containers.insert(key, Container { record, live: Some(live) });
        self.attach(key);
        Ok(())
    }

    /// The standard streams of a container or entry.
    fn streams(&self, key: Key, open: bool) -> Result<Streams, Refused> {
        let stdin = if let Some(input) = self.inputs.get(&key).filter(|_| self.attached.contains(&key)) {
            input.try_clone().map_err(io_refusal("hold its standard input"))?
        } else if open {
            open_stdin().map_err(io_refusal("make its standard input"))?
        } else {
            // Nothing will ever come, as with /dev/null; but a guest may wait on it, which the kernel refuses for that.
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| io_refusal("make pipes")(e.into()))?.0
        };
        if is_entry(key) {
            let (out, err) = self.entry_output(key).map_err(io_refusal("open its outputs"))?;
            return Ok(Streams { stdin, out, err, logged: None });
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| io_refusal("make pipes")(e.into()));
        let (out, err) = (pipe()?, pipe()?);
        Ok(Streams { stdin, out: out.1, err: err.1, logged: Some((out.0, err.0)) })
    }

    /// What the container's process sees, and what it is told.
    fn world(
        &self,
        folder: &Path,
        ticket: &Ticket,
        container: &TicketContainer,
        code: &Path,
        mounts: Vec<Bind>,
        uid: Option<u32>,
    ) -> std::io::Result<World> {
        let files: Vec<ImageFile> = container
            .files
            .iter()
            .map(|f| ImageFile {
                source: self.cache.item(&f.digest, false).to_string_lossy().into_owned(),
                path: f.path.clone(),
                mode: f.mode,
            })
            .collect();
        let env = container.env.iter().map(|e| format!("{}={}", e.name, e.value)).collect();
        let confined = uid.is_some();
        let root = if confined { PathBuf::from(ROOTFS) } else { folder.join("rootfs") };
        let show = |p: &Path| p.to_string_lossy().into_owned();
        let mut preopens =
            vec![Preopen { guest: "/".into(), host: show(&root), read_only: container.readonly_rootfs }];
        // Devices are found in `/`: only folders can be opened for a guest.
        for m in mounts.iter().filter(|m| !m.device) {
            let inner = root.join(m.target.trim_start_matches('/'));
            let host = if confined { show(&inner) } else { m.source.clone() };
            preopens.push(Preopen { guest: m.target.clone(), host, read_only: m.read_only });
        }
        if container.readonly_rootfs {
            preopens.extend(devices::writable_folders(container).into_iter().map(|guest| {
                let host = show(&root.join(guest.trim_start_matches('/')));
                Preopen { guest, host, read_only: false }
            }));
        }
        let spec = Spec {
            version: VERSION,
            code: if confined { "/code.so".into() } else { show(code) },
            argv: container.argv.clone(),
            env,
            preopens,
            working_dir: container.working_dir.clone(),
            wasm_pages: container.limits.wasm_pages,
            interpreter: container.interpreter,
            entry: Entry::Start,
        };
        if !confined {
            plain_root(&root, &files)?;
            return Ok(World { jail: None, spec });
        }
        let mount_point = folder.join("jail");
        dirs::ensure(&mount_point, 0o700, None)?;
        let space: u64 = container.files.iter().map(|f| f.size.next_multiple_of(4096)).sum();
        let extra = if container.readonly_rootfs { 1 << 20 } else { ROOTFS_SPACE };
        let rootfs =
            Rootfs { size: space + extra, files, read_only: container.readonly_rootfs, volumes: mounts };
        // Of the host it sees its own code and nothing else: the engine is in memory already.
        let jail = Jail {
            mount_point: show(&mount_point),
            binds: vec![Bind::code(code, "/code.so")],
            rootfs: Some(rootfs),
            hostname: ticket.hostname.clone(),
        };
        Ok(World { jail: Some(jail), spec })
    }

    /// Streams are told apart in `log` by numbers that come once.
    fn next_stream(&self) -> u64 {
        self.containers.values().map(|c| c.record.stream).max().unwrap_or(0) + 1
    }
}

/// What a container finds at 0, 1 and 2, and the other ends.
struct Streams {
    stdin: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
    /// Read ends, for log.
    logged: Option<(OwnedFd, OwnedFd)>,
}

struct World {
    jail: Option<Jail>,
    spec: Spec,
}
