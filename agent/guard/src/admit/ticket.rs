//! From an accepted deployment to its ticket. Pure; nothing is decided here but the form.

use super::documents::Resolved;
use shoal_ipc::{
    Digest, DiskLimits, EnvVar, Limits, Network, ProbeAction, ProbeKind, Restart, TICKET_MAX, Ticket,
    TicketContainer, TicketDevice, TicketEntry, TicketFile, TicketMount, TicketPort, TicketProbe,
    TicketVolume, VERSION, VolumeSource,
};
use shoal_protocol::ids::Digest as Identity;
use shoal_protocol::refusal::{Code, Refusal};
use shoal_protocol::v1::{self, Deployment, Resources, RestartPolicy};

/// Bytes of a volume in memory that names no size.
const EMPTY_DIR: u64 = 16 << 20;

/// The same digest in supervise's words.
pub(super) fn digest(d: &Identity) -> Digest {
    Digest(d.0)
}

fn limits(r: &Resources) -> Limits {
    Limits {
        memory: r.memory_limit,
        cpu_quota: r.cpu_quota,
        cpu_period: r.cpu_period,
        cpu_shares: r.cpu_shares,
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        pids: r.pids_limit,
        oom_score_adj: r.oom_score_adj,
        wasm_pages: r.wasm_pages.map(|p| u32::try_from(p).unwrap_or(u32::MAX)),
        cpu_seconds: r.cpu_seconds,
        wall_seconds: r.wall_seconds,
        disk: r.disk.map_or_else(DiskLimits::default, |d| DiskLimits {
            read_bps: d.read_bps,
            write_bps: d.write_bps,
            read_iops: d.read_iops,
            write_iops: d.write_iops,
        }),
    }
}

fn file(f: &v1::File) -> TicketFile {
    let mode = u32::try_from(f.mode & 0o777).unwrap_or(0);
    TicketFile { path: f.path.clone(), size: f.size, mode, digest: digest(&f.digest) }
}

fn restart(policy: RestartPolicy) -> Restart {
    match policy {
        RestartPolicy::Always => Restart::Always,
        RestartPolicy::OnFailure => Restart::OnFailure,
        RestartPolicy::Never => Restart::Never,
    }
}

/// The ticket of a deployment, in this phase, with what it gets of configs and secrets. Without those it starts nothing.
///
/// # Errors
/// `too_large` when it does not fit a ticket, `malformed` for a mount of a volume that is not there.
pub(super) fn of(
    d: &Deployment,
    identity: &Identity,
    startable: bool,
    documents: Option<&Resolved>,
) -> Result<Ticket, Refusal> {
    let t = &d.template;
    let volumes = t
        .volumes
        .iter()
        .map(|v| TicketVolume {
            name: v.name.to_string(),
            source: match &v.source {
                v1::VolumeSource::EmptyDir { size_limit } => {
                    VolumeSource::EmptyDir { size_limit: size_limit.unwrap_or(EMPTY_DIR) }
                }
                v1::VolumeSource::HostPath { path } => VolumeSource::HostPath { path: path.clone() },
                v1::VolumeSource::Persistent { .. } => VolumeSource::Persistent,
                v1::VolumeSource::Config { .. } | v1::VolumeSource::Secret { .. } => {
                    let files = documents.and_then(|r| r.volumes.get(&v.name));
                    files.cloned().unwrap_or(VolumeSource::Files { private: true, files: Vec::new() })
                }
            },
        })
        .collect();
    let containers = t
        .all_containers()
        .enumerate()
        .map(|(number, c)| container(d, c, t.is_init(number), documents))
        .collect::<Result<_, _>>()?;
    let ticket = Ticket {
        version: VERSION,
        id: digest(identity),
        name: d.name.to_string(),
        sequence: d.sequence,
        stageable: true,
        startable: startable && (documents.is_some() || d.template.documents().next().is_none()),
        hostname: t.hostname.clone().unwrap_or_else(|| d.name.to_string()),
        grace: u32::try_from(t.termination_grace).unwrap_or(u32::MAX),
        limits: limits(&t.resources),
        volumes,
        containers,
        required_features: t.required_features.clone(),
        network: match t.network {
            v1::Network::None => Network::None,
            v1::Network::Pod => Network::Pod,
            v1::Network::Host => Network::Host,
        },
        ports: t.ports.iter().map(port).collect(),
    };
    let size = ticket.encode().len();
    if size > TICKET_MAX {
        let detail =
            format!("{}: its ticket would be {size} bytes, at most {TICKET_MAX} are possible", d.name);
        return Err(Refusal::new(Code::TooLarge, detail));
    }
    Ok(ticket)
}

fn entry(module: &v1::File, argv: &[String]) -> TicketEntry {
    TicketEntry { module: file(module), argv: argv.to_vec() }
}

fn hook(h: &v1::Hook) -> TicketEntry {
    entry(&h.module, &h.argv)
}

fn device(d: &v1::DeviceGrant) -> TicketDevice {
    TicketDevice { host_path: d.host_path.clone(), path: d.path.clone(), read_only: d.read_only }
}

fn port(p: &v1::PortMapping) -> TicketPort {
    TicketPort { container_port: number(p.container_port, 0), host_port: number(p.host_port, 0), udp: p.udp }
}

fn number<T: TryFrom<u64>>(n: u64, most: T) -> T {
    T::try_from(n).unwrap_or(most)
}

fn probe(
    d: &Deployment,
    c: &v1::Container,
    kind: v1::ProbeKind,
    p: &v1::Probe,
) -> Result<TicketProbe, Refusal> {
    let action = match &p.action {
        v1::ProbeAction::Exec { module, argv } => ProbeAction::Exec { entry: entry(module, argv) },
        v1::ProbeAction::Tcp { port } => ProbeAction::Tcp { port: number(*port, 0) },
        v1::ProbeAction::Http { port, path } => {
            ProbeAction::Http { port: number(*port, 0), path: path.clone() }
        }
        v1::ProbeAction::FileFresh { path, max_age } => {
            // In the innermost mount that holds it, as the container sees it.
            let rest =
                |m: &v1::Mount| path.strip_prefix(m.path.as_str())?.strip_prefix('/').map(str::to_owned);
            let mount = c.mounts.iter().filter(|m| rest(m).is_some()).max_by_key(|m| m.path.len());
            let place = mount
                .and_then(|m| Some((d.template.volumes.iter().position(|v| v.name == m.volume)?, rest(m)?)));
            let (volume, path) = place.ok_or_else(|| {
                Refusal::new(Code::Malformed, format!("{}: {path} is in no volume of {}", d.name, c.name))
            })?;
            ProbeAction::FileFresh {
                volume: u16::try_from(volume).unwrap_or(u16::MAX),
                path,
                max_age: number(*max_age, u32::MAX),
            }
        }
    };
    let kind = match kind {
        v1::ProbeKind::Liveness => ProbeKind::Liveness,
        v1::ProbeKind::Readiness => ProbeKind::Readiness,
        v1::ProbeKind::Startup => ProbeKind::Startup,
    };
    Ok(TicketProbe {
        kind,
        action,
        initial_delay: number(p.initial_delay, u32::MAX),
        period: number(p.period, u32::MAX),
        timeout: number(p.timeout, u32::MAX),
        failures: number(p.failure_threshold, u32::MAX),
        successes: number(p.success_threshold.unwrap_or(1), u32::MAX),
    })
}

/// What comes before the others is there to end, so it starts again only when it failed.
fn init_policy(pod: RestartPolicy) -> RestartPolicy {
    if pod == RestartPolicy::Never { pod } else { RestartPolicy::OnFailure }
}

fn container(
    d: &Deployment,
    c: &v1::Container,
    init: bool,
    documents: Option<&Resolved>,
) -> Result<TicketContainer, Refusal> {
    let t = &d.template;
    let mounts = c
        .mounts
        .iter()
        .map(|m| {
            let at = t.volumes.iter().position(|v| v.name == m.volume).and_then(|i| u16::try_from(i).ok());
            let volume = at.ok_or_else(|| {
                Refusal::new(Code::Malformed, format!("{}: no volume {} is there to mount", d.name, m.volume))
            })?;
            Ok(TicketMount { volume, path: m.path.clone(), read_only: m.read_only })
        })
        .collect::<Result<_, Refusal>>()?;
    Ok(TicketContainer {
        name: c.name.to_string(),
        argv: c.argv.clone(),
        env: c
            .env
            .iter()
            .filter(|e| e.from.is_none())
            .map(|e| EnvVar { name: e.name.clone(), value: e.value.clone() })
            .collect(),
        working_dir: c.working_dir.clone(),
        module: file(&c.image.module),
        files: c.image.files.iter().map(file).collect(),
        limits: limits(&c.resources),
        mounts,
        readonly_rootfs: c.readonly_rootfs,
        interpreter: c.engine == v1::Engine::Interpreter,
        self_test: c.self_test.clone(),
        restart: restart(if init {
            init_policy(t.restart_policy)
        } else {
            c.restart_policy.unwrap_or(t.restart_policy)
        }),
        probes: c.probes().map(|(kind, p)| probe(d, c, kind, p)).collect::<Result<_, _>>()?,
        post_start: c.post_start.as_ref().map(hook),
        pre_stop: c.pre_stop.as_ref().map(hook),
        stdin: c.stdin,
        init,
        devices: c.devices.iter().map(device).collect(),
        private_env: documents.and_then(|r| r.variables.get(&c.name)).cloned().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
