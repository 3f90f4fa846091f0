//! Making a container ready: everything of a start up to the guest's first instruction, for which it waits at its gate.
//!
//! What waits ends by itself with this process, since its gate closes: so no record names it, and nothing of it outlives a
//! restart but its group, which the next supervise sweeps.

use super::cgroup::GroupError;
use super::container::Key;
use super::entries::{is_entry, place_of};
use super::graves::Grave;
use super::hooks::open_stdin;
use super::network::ports::listened;
use super::ready::Runnable;
use super::record::{folder_of, note_pod};
use super::{Refused, Supervise, contents, devices, dirs, refuse, volumes};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::rand::{GetRandomFlags, getrandom};
use shoal_confine::{ROOTFS, plain_files, plain_root};
use shoal_ipc::{
    Applied, Bind, Content, Digest, Entry, ImageFile, Jail, Launch, Limits, Preopen, Rootfs, Spec, Ticket,
    TicketContainer, VERSION, answer_area, sealed_memfd,
};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What a guest may write into its `/` beyond the image's own files, bytes.
const ROOTFS_SPACE: u64 = 64 << 20;

pub(super) fn io_refusal(what: &str) -> impl Fn(std::io::Error) -> Refused {
    move |e| refuse("storage_unavailable", format!("{what}: {e}"))
}

/// The name of a pod's group.
pub(super) fn pod_group(parent: &str, name: &str, ticket: &Digest) -> String {
    format!("{parent}/{name}_{}", ticket.short())
}

/// Whether this can be the name of a pod's group.
pub(super) fn is_pod_group(parent: &str, name: &str) -> bool {
    let own = name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
    own.is_some_and(|own| own.contains('_') && !own.contains(['/', '\0']) && !own.starts_with('.'))
}

/// A container that waits for its first instruction, or is on its way there.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) key: Key,
    /// Its streams' number in `log`, and its own at the zygote.
    pub(super) stream: u64,
    pub(super) group: String,
    pub(super) code: PathBuf,
    pub(super) zygote: u64,
    /// Absent until the zygote has forked it.
    pub(super) process: Option<Process>,
    pub(super) area: OwnedFd,
    /// Says `1` when it is confined, or the step that failed; takes the word that lets it go.
    pub(super) gate: OwnedFd,
    /// Read ends of its streams, for log.
    pub(super) pipes: Option<(OwnedFd, OwnedFd)>,
    pub(super) applied: Applied,
}

/// Its process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub(super) start_ticks: u64,
    pub(super) pidfd: OwnedFd,
}

impl Prepared {
    /// Lets it go. One that is gone already shows by its end.
    pub(super) fn let_go(&self) {
        let _ = send(&self.gate, &[1], SendFlags::NOSIGNAL);
    }

    /// Ends it.
    pub(super) fn end(&self) {
        if let Some(process) = &self.process {
            // Gone already is what is wanted.
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
        }
    }
}

/// A number that comes once.
fn once() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

impl Supervise {
    /// Has a container made ready.
    pub(super) fn prepare(
        &mut self,
        key: Key,
        ticket: &Ticket,
        container: &TicketContainer,
        limits: &Limits,
        code: &Runnable,
    ) -> Result<Prepared, Refused> {
        let stream = once().map_err(io_refusal("draw a number"))?;
        let pod = pod_group(self.policy.cgroup_parent(), &ticket.name, &ticket.id);
        let group = format!("{pod}/{}-{stream:016x}", container.name);
        let made = self.prepare_in(key, stream, &group, ticket, container, limits, code);
        if made.is_err() {
            self.bury(Grave::of(group));
            if self.containers.keys().all(|k| k.0 != ticket.id) && self.spares.of(&ticket.id) == 0 {
                self.bury(Grave::of(pod));
            }
        }
        made
    }

    /// Sees to it that the pod's group is there, limited.
    fn pod_group(&mut self, pod: &str, limits: &Limits) -> Result<(), GroupError> {
        if !self.pods.contains(pod) || !self.hierarchy.group(pod).exists() {
            self.keep_group(pod);
            self.hierarchy.create(pod, &Limits { oom_score_adj: None, ..limits.clone() })?;
            self.pods.insert(pod.to_owned());
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one call, of which each part is checked already")]
    fn prepare_in(
        &mut self,
        key: Key,
        stream: u64,
        name: &str,
        ticket: &Ticket,
        container: &TicketContainer,
        limits: &Limits,
        code: &Runnable,
    ) -> Result<Prepared, Refused> {
        // 1. Groups, limited and read back, before anything of the container exists.
        let pod = pod_group(self.policy.cgroup_parent(), &ticket.name, &ticket.id);
        let made = self.pod_group(&pod, &ticket.limits).and_then(|()| self.hierarchy.create(name, limits));
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
        let content = self.contents.of(ticket, container)?;
        if uid.is_none() {
            contents::fits_unconfined(ticket)?;
        }
        let folder = folder_of(&place_of(&self.layout, key), key);
        let made = dirs::ensure(&folder, 0o700, None)
            .and_then(|()| note_pod(&folder, &pod))
            .and_then(|()| self.world(&folder, ticket, container, code, mounts, content.as_ref(), uid));
        let World { jail, spec } = made.map_err(io_refusal("prepare the container's folder"))?;
        // 3. Its channels.
        let Streams { stdin, out, err, pipes } = self.streams(key, container.stdin)?;
        let gate = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let gate = gate.map_err(|e| io_refusal("make its gate")(e.into()))?;
        let ipc = |e: shoal_ipc::Error| refuse("storage_unavailable", crate::say::chain(&e));
        let area = answer_area().map_err(ipc)?;
        let place = fs::File::open(&folder).map_err(io_refusal("open the container's folder"))?;
        let (network, namespace) = self.network_of(ticket)?;
        let launch = Launch {
            version: VERSION,
            spec,
            jail,
            uid,
            groups: group.join_files(),
            birth: group.birth_folder(),
            oom_score_adj: limits.oom_score_adj,
            cpu_seconds: limits.cpu_seconds,
            network,
            bind: listened(ticket),
            content: content.is_some(),
        };
        let plan = sealed_memfd(&launch.encode()).map_err(ipc)?;
        // On a disk already without walls; what is in the environment is not.
        let content = content.map(|c| if uid.is_none() { Content { folders: Vec::new(), ..c } } else { c });
        let content = content.map(|c| sealed_memfd(&c.encode())).transpose().map_err(ipc)?;
        // 4. Off to the zygote.
        let fds = [
            plan.as_fd(),
            stdin.as_fd(),
            out.as_fd(),
            err.as_fd(),
            area.as_fd(),
            gate.1.as_fd(),
            place.as_fd(),
            namespace.as_fd(),
            content.as_ref().map_or(plan.as_fd(), |c| c.as_fd()),
        ];
        let zygote = self.send_launch(stream, &fds)?;
        let code = code.path.clone();
        Ok(Prepared {
            key,
            stream,
            group: name.to_owned(),
            code,
            zygote,
            process: None,
            area,
            gate: gate.0,
            pipes,
            applied,
        })
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
            return Ok(Streams { stdin, out, err, pipes: None });
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| io_refusal("make pipes")(e.into()));
        let (out, err) = (pipe()?, pipe()?);
        Ok(Streams { stdin, out: out.1, err: err.1, pipes: Some((out.0, err.0)) })
    }

    /// What the container's process sees, and what it is told.
    #[allow(clippy::too_many_arguments, reason = "one call, of which each part is checked already")]
    fn world(
        &self,
        folder: &Path,
        ticket: &Ticket,
        container: &TicketContainer,
        code: &Runnable,
        mounts: Vec<Bind>,
        content: Option<&Content>,
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
        for (number, f) in content.into_iter().flat_map(|c| &c.folders).enumerate() {
            let plain = folder.join("documents").join(number.to_string());
            if !confined {
                plain_files(&plain, f)?;
            }
            let inner = root.join(f.target.trim_start_matches('/'));
            let host = if confined { show(&inner) } else { show(&plain) };
            preopens.push(Preopen { guest: f.target.clone(), host, read_only: true });
        }
        if container.readonly_rootfs {
            preopens.extend(devices::writable_folders(container).into_iter().map(|guest| {
                let host = show(&root.join(guest.trim_start_matches('/')));
                Preopen { guest, host, read_only: false }
            }));
        }
        let spec = Spec {
            version: VERSION,
            code: if confined { "/code.so".into() } else { show(&code.path) },
            argv: container.argv.clone(),
            env,
            preopens,
            working_dir: container.working_dir.clone(),
            wasm_pages: container.limits.wasm_pages,
            interpreter: container.interpreter,
            entry: Entry::Start,
            start_function: code.start_function,
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
            binds: vec![Bind::code(&code.path, "/code.so")],
            rootfs: Some(rootfs),
            hostname: ticket.hostname.clone(),
        };
        Ok(World { jail: Some(jail), spec })
    }
}

/// What a container finds at 0, 1 and 2, and the other ends.
struct Streams {
    stdin: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
    /// Read ends, for log.
    pipes: Option<(OwnedFd, OwnedFd)>,
}

struct World {
    jail: Option<Jail>,
    spec: Spec,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_as_a_pods_group_is_taken_for_one() {
        let made = pod_group("shoal", "web", &Digest([0xab; 32]));
        assert!(is_pod_group("shoal", &made), "{made}");
        for name in [
            "",
            "shoal",
            "shoal/",
            "shoal/compile-0",
            "other/web_ab",
            "shoal/../x_y",
            "shoal/web_\0\0",
            "/a_b",
        ] {
            assert!(!is_pod_group("shoal", name), "{name:?}");
        }
    }
}
