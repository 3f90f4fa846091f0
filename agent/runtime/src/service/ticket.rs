//! From CRI's configurations to an unsigned ticket. Pure; whether it is allowed is supervise's to say.

use crate::cri::config::{
    ContainerConfig, Device, LinuxContainerResources, PodSandboxConfig, PortMapping, SecurityContext,
};
use crate::error::{Error, Result};
use crate::named::PinnedImage;
use serde_json::Value;
use shoal_ipc::{
    Digest, DiskLimits, EnvVar, Limits, Network, Restart, TICKET_MAX, Ticket, TicketContainer, TicketDevice,
    TicketFile, TicketMount, TicketPort, TicketVolume, VERSION, VolumeSource,
};

/// Seconds between the request to stop and the kill, when nobody says how many.
const GRACE: u32 = 3_600;
/// CRI's mode for the device's own namespace.
const NODE: i32 = 2;
/// A pod's annotation that says which network it has: `none`, `pod` or `host`.
pub const NETWORK: &str = "shoal/network";
/// A container's annotation with the most pages of 64 KiB of its guest's memory.
pub const PAGES: &str = "shoal/wasm-pages";
/// The search path that other runtimes give every container.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn bad(text: impl Into<String>) -> Error {
    Error::Config { text: text.into() }
}

/// `text` in the letters that names of groups and folders may have.
fn plain(text: &str, max: usize) -> String {
    let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' };
    text.chars().take(max).map(good).collect()
}

fn positive(n: i64) -> Option<u64> {
    u64::try_from(n).ok().filter(|n| *n > 0)
}

fn filled(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|t| !t.is_empty())
}

/// CRI's limits; 0 is "not set".
fn limits(r: Option<&LinuxContainerResources>) -> Limits {
    let Some(r) = r else { return Limits::default() };
    Limits {
        memory: positive(r.memory_limit_in_bytes),
        cpu_quota: positive(r.cpu_quota),
        cpu_period: positive(r.cpu_period).filter(|_| r.cpu_quota > 0),
        cpu_shares: positive(r.cpu_shares),
        cpuset_cpus: filled(&r.cpuset_cpus),
        cpuset_mems: filled(&r.cpuset_mems),
        pids: None,
        oom_score_adj: Some(r.oom_score_adj).filter(|n| *n != 0),
        wasm_pages: None,
        cpu_seconds: None,
        wall_seconds: None,
        disk: DiskLimits::default(),
    }
}

/// The older form of a sandbox's limits: `cpu` and `memory`, each with `limits` and `requests`.
fn legacy(v: &Value) -> Limits {
    let number = |kind: &str, which: &str| v.get(kind).and_then(|k| k.get(which)).and_then(Value::as_f64);
    let cpus = number("cpu", "limits").filter(|n| *n > 0.0 && *n < 10_000.0);
    let memory = v.get("memory").and_then(|m| m.get("limits")).and_then(Value::as_u64).filter(|n| *n > 0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded above, positive")]
    let quota = cpus.map(|n| ((n * 100_000.0) as u64).max(1_000));
    Limits { memory, cpu_quota: quota, cpu_period: quota.map(|_| 100_000), ..Limits::default() }
}

fn asks_for_host(s: Option<&SecurityContext>) -> bool {
    s.and_then(|s| s.namespace_options.as_ref()).is_some_and(|n| n.network == NODE)
}

/// CRI has no word for a pod without a network, and its default is one of the pod's own; so this one is only for a pod that maps
/// ports, or whose annotation asks for it.
fn network(config: &PodSandboxConfig) -> Result<Network> {
    let host = asks_for_host(config.linux.as_ref().and_then(|l| l.security_context.as_ref()));
    match config.annotations.get(NETWORK).map(String::as_str) {
        Some("none") => Ok(Network::None),
        Some("pod") => Ok(Network::Pod),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(bad(format!("annotations: {NETWORK} is {other:?}, expected none, pod or host"))),
        None if host => Ok(Network::Host),
        None if !config.port_mappings.is_empty() => Ok(Network::Pod),
        None => Ok(Network::None),
    }
}

/// The network that a pod of this configuration has, in the policy's words.
pub fn network_name(config: &PodSandboxConfig) -> &'static str {
    match network(config) {
        Ok(Network::Pod) => "pod",
        Ok(Network::Host) => "host",
        // One that makes no sense is never made into a pod.
        Ok(Network::None) | Err(_) => "none",
    }
}

fn port(p: &PortMapping) -> Result<TicketPort> {
    let number = |n: i32, least: u16| u16::try_from(n).ok().filter(|n| *n >= least);
    let udp = match &p.protocol {
        Value::Null => Some(false),
        Value::Number(n) => [Some(0), Some(1)].iter().position(|k| *k == n.as_u64()).map(|at| at == 1),
        Value::String(s) => ["TCP", "UDP"].iter().position(|k| k == s).map(|at| at == 1),
        _ => None,
    };
    match (number(p.container_port, 1), number(p.host_port, 0), udp) {
        (Some(container_port), Some(host_port), Some(udp)) => {
            Ok(TicketPort { container_port, host_port, udp })
        }
        _ => Err(bad(format!(
            "port_mappings: {} to {} by {}: expected ports up to 65535 and TCP or UDP",
            p.host_port, p.container_port, p.protocol
        ))),
    }
}

/// The ticket of a new pod, without containers.
pub(super) fn pod(id: Digest, config: &PodSandboxConfig) -> Result<Ticket> {
    let name = &config.metadata.name;
    if name.is_empty() {
        return Err(bad("metadata.name: a pod needs a name"));
    }
    let linux = config.linux.as_ref();
    let network = network(config)?;
    if network != Network::Pod && !config.port_mappings.is_empty() {
        return Err(bad("port_mappings: only in a network of the pod's own are ports mapped"));
    }
    let ports = config.port_mappings.iter().map(port).collect::<Result<_>>()?;
    let cri = limits(linux.and_then(|l| l.resources.as_ref()));
    let old = config.resources.as_ref().map(legacy).unwrap_or_default();
    let with_cpu = if cri.cpu_quota.is_some() { &cri } else { &old };
    let short: String = id.hex().chars().take(8).collect();
    Ok(Ticket {
        version: VERSION,
        id,
        name: format!("local_{}_{short}", plain(name, 40)),
        sequence: 0,
        stageable: true,
        startable: true,
        hostname: filled(&config.hostname).unwrap_or_else(|| plain(name, 63)),
        grace: GRACE,
        limits: Limits {
            memory: cri.memory.or(old.memory),
            cpu_quota: with_cpu.cpu_quota,
            cpu_period: with_cpu.cpu_period,
            ..cri.clone()
        },
        volumes: Vec::new(),
        containers: Vec::new(),
        required_features: Vec::new(),
        network,
        ports,
    })
}

/// The name of a container in its ticket: one for each name and attempt.
pub(super) fn container_name(config: &ContainerConfig) -> String {
    let name = plain(&config.metadata.name, 100);
    match config.metadata.attempt {
        0 => name,
        n => format!("{name}_{n}"),
    }
}

/// Without permissions it is one to read and write; making nodes (`m`) is never granted.
fn device(d: &Device) -> TicketDevice {
    let path = filled(&d.container_path).unwrap_or_else(|| d.host_path.clone());
    let read_only = !d.permissions.is_empty() && !d.permissions.contains('w');
    TicketDevice { host_path: d.host_path.clone(), path, read_only }
}

/// Puts a container into its pod's ticket, at `index`.
pub(super) fn add(
    ticket: &mut Ticket,
    index: usize,
    config: &ContainerConfig,
    image: &PinnedImage,
) -> Result<()> {
    if config.metadata.name.is_empty() {
        return Err(bad("metadata.name: a container needs a name"));
    }
    let linux = config.linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    if asks_for_host(security) && ticket.network != Network::Host {
        return Err(bad(
            "namespace_options.network: a container's network is its pod's, which is not the device's (NODE)",
        ));
    }
    let mut env: Vec<EnvVar> =
        image.env.iter().map(|(name, value)| EnvVar { name: name.clone(), value: value.clone() }).collect();
    for (name, value) in [("PATH", PATH), ("HOSTNAME", &ticket.hostname)] {
        if env.iter().all(|e| e.name != name) {
            env.push(EnvVar { name: name.to_owned(), value: value.to_owned() });
        }
    }
    let mut mounts = Vec::new();
    for m in &config.mounts {
        if m.host_path.is_empty() || !m.image.is_null() {
            return Err(bad(format!("mounts: {} is no folder of this device", m.container_path)));
        }
        let source = VolumeSource::HostPath { path: m.host_path.clone() };
        let known = ticket.volumes.iter().position(|v| v.source == source);
        let at = known.unwrap_or(ticket.volumes.len());
        if known.is_none() {
            ticket.volumes.push(TicketVolume { name: format!("mount-{at}"), source });
        }
        let volume = u16::try_from(at).map_err(|_| bad("mounts: too many"))?;
        mounts.push(TicketMount { volume, path: m.container_path.clone(), read_only: m.readonly });
    }
    let pages = config.annotations.get(PAGES).map(|p| p.parse::<u32>());
    let wasm_pages =
        pages.transpose().map_err(|_| bad(format!("annotations: {PAGES} is no number of pages")))?;
    if let Some(facts) = &image.facts {
        let failed = |source| Error::Image { image: image.reference.clone(), source };
        facts.check(ticket.sockets(), wasm_pages.map(u64::from)).map_err(failed)?;
    }
    let file = |f: &shoal_image::FileEntry| TicketFile {
        path: f.path.clone(),
        size: f.size,
        mode: f.mode & 0o777,
        digest: Digest(f.digest.0),
    };
    let container = TicketContainer {
        name: container_name(config),
        argv: image.argv.clone(),
        env,
        working_dir: image.working_dir.clone(),
        module: file(&image.module),
        files: image.files.iter().map(file).collect(),
        limits: Limits { wasm_pages, ..limits(linux.and_then(|l| l.resources.as_ref())) },
        mounts,
        readonly_rootfs: security.is_some_and(|s| s.readonly_rootfs),
        restart: Restart::Never,
        interpreter: false,
        self_test: None,
        probes: Vec::new(),
        post_start: None,
        pre_stop: None,
        private_env: Vec::new(),
        stdin: config.stdin,
        init: false,
        devices: config.devices.iter().map(device).collect(),
    };
    match ticket.containers.get_mut(index) {
        Some(place) => *place = container,
        None => ticket.containers.push(container),
    }
    let size = ticket.encode().len();
    if size > TICKET_MAX {
        return Err(bad(format!(
            "the pod would need a ticket of {size} bytes, at most {TICKET_MAX} are possible"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> PinnedImage {
        let file = |path: &str, b: u8| shoal_image::FileEntry {
            path: path.into(),
            mode: 0o644,
            size: 7,
            digest: shoal_protocol::ids::Digest([b; 32]),
        };
        PinnedImage {
            reference: "hydai/wasm-wasi-example:latest".into(),
            manifest: shoal_protocol::ids::Digest([1; 32]),
            module: file("/wasi_example_main.wasm", 2),
            argv: vec!["/wasi_example_main.wasm".into(), "50000000".into()],
            env: vec![("A".into(), "b".into())],
            working_dir: "/".into(),
            files: vec![file("/etc/x", 3)],
            facts: None,
        }
    }

    fn tutorial() -> (PodSandboxConfig, ContainerConfig) {
        let pod = include_str!("../../../../deploy/examples/cri/sandbox_config.json");
        let container = include_str!("../../../../deploy/examples/cri/container_wasi.json");
        (serde_json::from_str(pod).unwrap(), serde_json::from_str(container).unwrap())
    }

    #[test]
    fn the_tutorials_files_become_a_ticket_with_their_limits() {
        let (pod_config, config) = tutorial();
        let mut t = pod(Digest([0xab; 32]), &pod_config).unwrap();
        assert_eq!((t.name.as_str(), t.hostname.as_str()), ("local_podsandbox12_abababab", "crictl_host"));
        assert_eq!((t.limits.memory, t.limits.cpu_quota), (Some(50_000_000), Some(300_000)));
        add(&mut t, 0, &config, &image()).unwrap();
        let c = &t.containers[0];
        assert_eq!(c.name, "podsandbox1-wasm-wasi");
        assert_eq!(
            (c.limits.memory, c.limits.cpu_quota, c.limits.cpu_period),
            (Some(209_715_200), Some(20_000), Some(10_000))
        );
        assert_eq!((c.limits.cpu_shares, c.limits.oom_score_adj), (Some(512), Some(30)));
        assert_eq!(
            (c.limits.cpuset_cpus.as_deref(), c.limits.cpuset_mems.as_deref()),
            (Some("0"), Some("0"))
        );
        let names: Vec<&str> = c.env.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["A", "PATH", "HOSTNAME"]);
        assert_eq!(Ticket::decode(&t.encode()).unwrap(), t);
    }

    #[test]
    fn what_would_widen_a_pod_is_refused() {
        let (mut pod_config, mut config) = tutorial();
        let mut t = pod(Digest([1; 32]), &pod_config).unwrap();
        let context = config.linux.as_mut().and_then(|l| l.security_context.as_mut());
        context.and_then(|s| s.namespace_options.as_mut()).unwrap().network = NODE;
        assert_eq!(add(&mut t, 0, &config, &image()).unwrap_err().code(), "unsupported_value");
        pod_config.port_mappings = vec![PortMapping { container_port: 80, ..PortMapping::default() }];
        pod_config.annotations.insert(NETWORK.into(), "none".into());
        assert_eq!(pod(Digest([1; 32]), &pod_config).unwrap_err().code(), "unsupported_value");
    }

    fn map(config: &mut PodSandboxConfig, protocol: Value, container_port: i32) {
        let host_port = 8080;
        config.port_mappings =
            vec![PortMapping { protocol, container_port, host_port, ..PortMapping::default() }];
    }

    #[test]
    fn a_pod_has_the_network_that_its_ports_its_mode_or_its_annotation_ask_for() {
        let (tutorial, _) = tutorial();
        let asked = |change: fn(&mut PodSandboxConfig)| {
            let mut config = tutorial.clone();
            change(&mut config);
            pod(Digest([1; 32]), &config).map(|t| (t.network, t.ports))
        };
        assert_eq!(asked(|_| {}).unwrap(), (Network::None, vec![]), "whoever asks for nothing gets nothing");
        let port = |udp| TicketPort { container_port: 80, host_port: 8080, udp };
        assert_eq!(asked(|c| map(c, Value::Null, 80)).unwrap(), (Network::Pod, vec![port(false)]));
        assert_eq!(asked(|c| map(c, 1.into(), 80)).unwrap().1, [port(true)]);
        assert_eq!(asked(|c| map(c, "UDP".into(), 80)).unwrap().1, [port(true)]);
        assert!(asked(|c| map(c, 2.into(), 80)).is_err() && asked(|c| map(c, 0.into(), 65_536)).is_err());
        let host = |c: &mut PodSandboxConfig| {
            let context = c.linux.as_mut().and_then(|l| l.security_context.as_mut());
            context.and_then(|s| s.namespace_options.as_mut()).unwrap().network = NODE;
        };
        assert_eq!(asked(host).unwrap().0, Network::Host);
        let annotated = |c: &mut PodSandboxConfig| drop(c.annotations.insert(NETWORK.into(), "pod".into()));
        assert_eq!(asked(annotated).unwrap().0, Network::Pod);
        assert!(asked(|c| drop(c.annotations.insert(NETWORK.into(), "all".into()))).is_err());
    }

    #[test]
    fn c3_an_import_without_its_grant_is_named_before_anything_is_handed_over() {
        let (mut pod_config, config) = tutorial();
        let text = r#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (func (export "_start")))"#;
        let facts = shoal_image::inspect(&wat::parse_str(text).unwrap()).unwrap();
        let image = PinnedImage { facts: Some(facts), ..image() };
        let mut t = pod(Digest([1; 32]), &pod_config).unwrap();
        assert_eq!(add(&mut t, 0, &config, &image).unwrap_err().code(), "import_denied");
        pod_config.annotations.insert(NETWORK.into(), "pod".into());
        let mut t = pod(Digest([1; 32]), &pod_config).unwrap();
        add(&mut t, 0, &config, &image).unwrap();
    }

    #[test]
    fn devices_are_asked_for_as_cri_says() {
        let (pod_config, mut config) = tutorial();
        let mut t = pod(Digest([1; 32]), &pod_config).unwrap();
        let device = |container: &str, permissions: &str| Device {
            host_path: "/dev/ttyS0".into(),
            container_path: container.into(),
            permissions: permissions.into(),
            ..Default::default()
        };
        config.devices = vec![device("", ""), device("/dev/a", "rw"), device("/dev/b", "r")];
        add(&mut t, 0, &config, &image()).unwrap();
        let found: Vec<(&str, bool)> =
            t.containers[0].devices.iter().map(|d| (d.path.as_str(), d.read_only)).collect();
        assert_eq!(found, [("/dev/ttyS0", false), ("/dev/a", false), ("/dev/b", true)]);
    }

    #[test]
    fn a_mount_becomes_a_volume_and_a_later_attempt_another_name() {
        let (pod_config, mut config) = tutorial();
        let mut t = pod(Digest([1; 32]), &pod_config).unwrap();
        config.metadata.attempt = 2;
        for target in ["/a", "/b"] {
            config.mounts.push(crate::cri::config::Mount {
                container_path: target.into(),
                host_path: "/srv/shoal".into(),
                readonly: true,
                ..Default::default()
            });
        }
        add(&mut t, 0, &config, &image()).unwrap();
        assert_eq!(t.volumes.len(), 1, "one folder, mounted twice");
        assert_eq!(t.containers[0].mounts.len(), 2);
        assert_eq!(t.containers[0].name, "podsandbox1-wasm-wasi_2");
    }
}
