//! What a deployment must be by itself: well-formed, within a role's ceiling, and without values that are only reserved.

use super::target::parse_version;
use super::{documents, exec, refuse};
use crate::refusal::{Code, Refusal};
use crate::v1::{
    Ceiling, Container, Deployment, Image, Network, Operator, PodTemplate, Resources, RuntimeClass, Target,
    VolumeSource,
};
use std::collections::BTreeSet;

const MAX_CONTAINERS: usize = 16;
const MAX_FILES: usize = 256;
const MAX_VOLUMES: usize = 64;
const MAX_PORTS: usize = 64;
const MAX_DEVICES: usize = 16;
const MAX_REQUIRES: usize = 16;
const MAX_GRACE: u64 = 24 * 3600;
const MAX_DEADLINE: u64 = 30 * 24 * 3600;
const MAX_PATH: usize = 1024;
const MAX_EXPORT: usize = 128;
const MAX_FEATURES: usize = 16;
const MAX_FEATURE: usize = 32;
const MAX_SECONDS: u64 = 10 * 366 * 24 * 3600;
const MAX_MODULE: u64 = 256 << 20;
const MAX_MANIFEST: u64 = 4 << 20;

/// The features of a kernel that guards of this version know: for an operator's tool to warn of a slip of the pen. A device
/// judges by its own.
pub const FEATURES: [&str; 11] = [
    "landlock",
    "landlock-truncate",
    "landlock-network",
    "landlock-scopes",
    "seccomp",
    "namespaces",
    "memory-limit",
    "swap-limit",
    "cpu-limit",
    "pids-limit",
    "cgroup-v2",
];

type Reserved = (&'static str, fn(&Deployment) -> bool);

fn any(d: &Deployment, has: fn(&Container) -> bool) -> bool {
    d.template.all_containers().any(has)
}

/// Every value that the wire has a place for and this version does not do yet: the one table.
const RESERVED: &[Reserved] = &[
    ("runtimeClass oci", |d| d.template.runtime_class == RuntimeClass::Oci),
    ("a persistent volume with a size limit", |d| {
        d.template
            .volumes
            .iter()
            .any(|v| matches!(v.source, VolumeSource::Persistent { size_limit: Some(_) }))
    }),
    ("capabilities", |d| any(d, |c| !c.capabilities.is_empty())),
    ("a ramp", |d| d.rollout.ramp.is_some()),
    ("download windows", |d| !d.rollout.download_windows.is_empty()),
    ("update windows", |d| !d.rollout.update_windows.is_empty()),
];

/// The reserved values that a deployment asks for, in words.
pub fn unsupported(deployment: &Deployment) -> Vec<&'static str> {
    RESERVED.iter().filter(|(_, asks)| asks(deployment)).map(|(what, _)| *what).collect()
}

pub(super) fn check_supported(deployment: &Deployment) -> Result<(), Refusal> {
    match unsupported(deployment).as_slice() {
        [] => Ok(()),
        all => refuse(Code::UnsupportedValue, format!("{}: {}", deployment.name, all.join(", "))),
    }
}

/// What of a template exceeds a ceiling.
pub fn beyond(ceiling: &Ceiling, template: &PodTemplate) -> Option<String> {
    if template.network > ceiling.network {
        return Some(format!("network {:?}, at most {:?}", template.network, ceiling.network));
    }
    for volume in &template.volumes {
        if let VolumeSource::HostPath { path } = &volume.source
            && !ceiling.host_paths.iter().any(|allowed| is_below(path, allowed))
        {
            return Some(format!("host path {path}"));
        }
    }
    for grant in template.all_containers().flat_map(|c| &c.devices) {
        if !ceiling.devices.contains(&grant.host_path) {
            return Some(format!("device {}", grant.host_path));
        }
    }
    let most = ceiling.memory?;
    match pod_memory(template) {
        Some(memory) if memory <= most => None,
        Some(memory) => Some(format!("{memory} bytes of memory, at most {most}")),
        None => Some(format!("memory without a limit, at most {most}")),
    }
}

/// The most memory that a pod can use: its own limit, or what its containers can use at one time, whichever is less.
fn pod_memory(template: &PodTemplate) -> Option<u64> {
    let together = template
        .containers
        .iter()
        .try_fold(0_u64, |sum, c| c.resources.memory_limit.map(|m| sum.saturating_add(m)));
    let before =
        template.init_containers.iter().try_fold(0, |most, c| c.resources.memory_limit.map(|m| m.max(most)));
    let most = together.zip(before).map(|(a, b)| a.max(b));
    match (template.resources.memory_limit, most) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether `path` is `folder` or lies below it; both normalised.
pub(super) fn is_below(path: &str, folder: &str) -> bool {
    folder == "/" || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Absolute, without empty, `.` or `..` parts, without NUL, and no longer than 1,024 bytes.
pub(super) fn is_path(path: &str) -> bool {
    let parts = || path[1..].split('/');
    path.len() <= MAX_PATH
        && path.starts_with('/')
        && !path.contains('\0')
        && (path == "/" || parts().all(|p| !p.is_empty() && p != "." && p != ".."))
}

pub(super) fn all_distinct<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.into_iter().all(|i| seen.insert(i))
}

/// Checks in words: what must hold, on what.
pub(super) struct Form<'a>(pub(super) &'a Deployment);

impl Form<'_> {
    pub(super) fn need(&self, holds: bool, rule: impl FnOnce() -> String) -> Result<(), Refusal> {
        if holds { Ok(()) } else { refuse(Code::Malformed, format!("{}: {}", self.0.name, rule())) }
    }
}

pub(super) fn check_form(deployment: &Deployment) -> Result<(), Refusal> {
    let form = Form(deployment);
    let pod = &deployment.template;
    form.need(deployment.sequence >= 1, || "sequences begin at 1".into())?;
    let count = pod.all_containers().count();
    form.need(!pod.containers.is_empty() && count <= MAX_CONTAINERS, || {
        "a pod has 1 to 16 containers".into()
    })?;
    form.need(all_distinct(pod.all_containers().map(|c| &c.name)), || "two containers share a name".into())?;
    form.need(pod.volumes.len() <= MAX_VOLUMES, || "a pod has at most 64 volumes".into())?;
    form.need(all_distinct(pod.volumes.iter().map(|v| &v.name)), || "two volumes share a name".into())?;
    form.need(pod.termination_grace <= MAX_GRACE, || "the grace to end is at most a day".into())?;
    form.need(pod.hostname.as_deref().is_none_or(is_hostname), || {
        "the host name is not of letters, digits, -, _ and dots".into()
    })?;
    let features = &pod.required_features;
    form.need(
        features.len() <= MAX_FEATURES
            && all_distinct(features)
            && features.iter().all(|name| is_feature(name)),
        || {
            "a required feature is no name such as landlock-network, stands twice, or there are more than 16"
                .into()
        },
    )?;
    for volume in &pod.volumes {
        let sound = match &volume.source {
            VolumeSource::HostPath { path } => is_path(path),
            VolumeSource::EmptyDir { size_limit } | VolumeSource::Persistent { size_limit } => {
                *size_limit != Some(0)
            }
            // See `documents`.
            VolumeSource::Config { .. } | VolumeSource::Secret { .. } => true,
        };
        form.need(sound, || {
            format!("volume {}: no normalised absolute path, or an empty size", volume.name)
        })?;
    }
    check_ports(&form, pod)?;
    documents::check(&form, pod)?;
    check_resources(&form, "the pod", &pod.resources)?;
    for container in pod.all_containers() {
        check_container(&form, container)?;
        exec::check(&form, container)?;
    }
    for container in &pod.init_containers {
        exec::check_init(&form, container)?;
    }
    check_target(&form, &deployment.target)?;
    let rollout = &deployment.rollout;
    form.need(rollout.deadline.is_none_or(|d| (1..=MAX_DEADLINE).contains(&d)), || {
        "the rollout's deadline is 1 second to 30 days".into()
    })?;
    form.need(rollout.max_unavailable != Some(0), || "at least one device may be unavailable".into())?;
    let requires = &deployment.requires;
    form.need(
        requires.len() <= MAX_REQUIRES
            && all_distinct(requires.iter().map(|r| &r.name))
            && requires.iter().all(|r| r.name != deployment.name),
        || "it requires itself, one name twice, or more than 16".into(),
    )
}

/// Ports stand for what the pod may be reached at, so they need a network that is its own, and no two the same place.
fn check_ports(form: &Form<'_>, pod: &PodTemplate) -> Result<(), Refusal> {
    form.need(pod.ports.is_empty() || pod.network == Network::Pod, || {
        "ports need a network of the pod's own".into()
    })?;
    form.need(pod.ports.len() <= MAX_PORTS, || format!("a pod has at most {MAX_PORTS} ports"))?;
    form.need(
        pod.ports.iter().all(|p| (1..=65_535).contains(&p.container_port) && p.host_port <= 65_535),
        || "a port is 1 to 65,535 (on the device also 0: not mapped)".into(),
    )?;
    let mapped = pod.ports.iter().filter(|p| p.host_port != 0).map(|p| (p.host_port, p.udp));
    let open = pod.ports.iter().filter(|p| p.host_port == 0).map(|p| (p.container_port, p.udp));
    form.need(all_distinct(mapped) && all_distinct(open), || "two ports share a place".into())
}

fn check_container(form: &Form<'_>, c: &Container) -> Result<(), Refusal> {
    let name = &c.name;
    check_image(form, c, &c.image)?;
    check_devices(form, c)?;
    let no_nul = |s: &String| !s.contains('\0');
    form.need(!c.argv.is_empty() && c.argv.iter().all(no_nul), || {
        format!("container {name}: the argument vector is empty or holds a NUL")
    })?;
    form.need(is_path(&c.working_dir), || {
        format!("container {name}: the working folder is no absolute path")
    })?;
    form.need(
        c.env.iter().all(|e| !e.name.is_empty() && !e.name.contains(['=', '\0']) && no_nul(&e.value)),
        || {
            format!(
                "container {name}: an environment variable's name is empty or holds '=', or a NUL is in it"
            )
        },
    )?;
    form.need(all_distinct(c.env.iter().map(|e| &e.name)), || {
        format!("container {name}: an environment variable stands twice")
    })?;
    let volumes = &form.0.template.volumes;
    form.need(c.mounts.iter().all(|m| volumes.iter().any(|v| v.name == m.volume)), || {
        format!("container {name}: a mount names no volume of the pod")
    })?;
    form.need(c.mounts.iter().all(|m| m.path != "/" && is_path(&m.path)), || {
        format!("container {name}: a mount's path is not absolute and normalised, or is /")
    })?;
    form.need(all_distinct(c.mounts.iter().map(|m| &m.path)), || {
        format!("container {name}: two mounts share a path")
    })?;
    form.need(c.self_test.as_ref().is_none_or(|e| (1..=MAX_EXPORT).contains(&e.len()) && no_nul(e)), || {
        format!("container {name}: a self-test's name has 1 to {MAX_EXPORT} bytes and no NUL")
    })?;
    check_resources(form, name.as_str(), &c.resources)
}

/// Character devices only; which of them are there is each device's to say.
fn check_devices(form: &Form<'_>, c: &Container) -> Result<(), Refusal> {
    let name = &c.name;
    form.need(c.devices.len() <= MAX_DEVICES, || {
        format!("container {name}: more than {MAX_DEVICES} device nodes")
    })?;
    for d in &c.devices {
        form.need(is_path(&d.host_path) && d.host_path.starts_with("/dev/"), || {
            format!("container {name}: {:?} is no normalised path below /dev", d.host_path)
        })?;
        let meets = |other: &String| is_below(other, &d.path) || is_below(&d.path, other);
        let files = c.image.files.iter().chain([&c.image.module]).map(|f| &f.path);
        let taken = c.mounts.iter().map(|m| &m.path).chain(files).any(meets);
        // Itself is one of them.
        let twice = c.devices.iter().filter(|o| meets(&o.path)).count() > 1;
        let in_folder = is_path(&d.path) && d.path.matches('/').count() > 1;
        form.need(in_folder && !taken && !twice, || {
            format!(
                "container {name}: the device's place {:?} is no path in a folder, or something else is there",
                d.path
            )
        })?;
    }
    Ok(())
}

fn check_image(form: &Form<'_>, c: &Container, image: &Image) -> Result<(), Refusal> {
    let name = &c.name;
    form.need((1..=512).contains(&image.reference.len()), || {
        format!("container {name}: an image reference has 1 to 512 bytes")
    })?;
    form.need(image.files.len() <= MAX_FILES, || format!("container {name}: more than 256 files"))?;
    form.need((1..=MAX_MODULE).contains(&image.module.size), || {
        format!("container {name}: a module has 1 byte to 256 MiB")
    })?;
    form.need((1..=MAX_MANIFEST).contains(&image.manifest_size), || {
        format!("container {name}: a manifest has 1 byte to 4 MiB")
    })?;
    let mut paths: Vec<&str> = Vec::with_capacity(image.files.len() + 1);
    for file in image.files.iter().chain(std::iter::once(&image.module)) {
        form.need(file.path != "/" && is_path(&file.path) && file.mode <= 0o777, || {
            format!(
                "container {name}: file {:?}: no normalised absolute path, or a mode beyond 0777",
                file.path
            )
        })?;
        paths.push(&file.path);
    }
    let distinct: BTreeSet<&str> = paths.iter().copied().collect();
    let is_folder_too = |p: &str| p.match_indices('/').skip(1).any(|(at, _)| distinct.contains(&p[..at]));
    form.need(distinct.len() == paths.len() && !paths.iter().any(|p| is_folder_too(p)), || {
        format!("container {name}: a file's path stands twice, or is a folder of another")
    })
}

fn check_resources(form: &Form<'_>, whose: &str, r: &Resources) -> Result<(), Refusal> {
    let within = |v: Option<u64>, least: u64, most: u64| v.is_none_or(|v| (least..=most).contains(&v));
    let disk = r.disk.map(|d| [(d.read_bps, 4096), (d.write_bps, 4096), (d.read_iops, 1), (d.write_iops, 1)]);
    let limits: [(&str, bool); 12] = [
        ("memory limit (64 KiB to 1 TiB)", within(r.memory_limit, 64 << 10, 1 << 40)),
        (
            "memory request (at most the limit)",
            within(r.memory_request, 0, r.memory_limit.unwrap_or(1 << 40)),
        ),
        ("CPU quota (1,000 µs to 1,000 s)", within(r.cpu_quota, 1000, 1_000_000_000)),
        ("CPU period (1,000 to 1,000,000 µs)", within(r.cpu_period, 1000, 1_000_000)),
        ("CPU shares (2 to 262,144)", within(r.cpu_shares, 2, 262_144)),
        ("number of processes (1 to 1,000,000)", within(r.pids_limit, 1, 1_000_000)),
        ("wasm pages (1 to 65,536)", within(r.wasm_pages, 1, 65_536)),
        ("total of CPU seconds (1 to 10 years)", within(r.cpu_seconds, 1, MAX_SECONDS)),
        ("total of wall seconds (1 to 10 years)", within(r.wall_seconds, 1, MAX_SECONDS)),
        ("OOM score (−1000 to 1000)", r.oom_score_adj.is_none_or(|v| (-1000..=1000).contains(&v))),
        (
            "list of CPUs or memory nodes (0-3,7)",
            [&r.cpuset_cpus, &r.cpuset_mems].into_iter().flatten().all(|l| is_list(l)),
        ),
        (
            "disk limit (one at least; 4,096 bytes or 1 operation to 1 TiB a second)",
            disk.is_none_or(|all| {
                all.iter().any(|(v, _)| v.is_some())
                    && all.iter().all(|(v, least)| within(*v, *least, 1 << 40))
            }),
        ),
    ];
    for (what, holds) in limits {
        form.need(holds, || format!("{whose}: {what} is out of range"))?;
    }
    Ok(())
}

/// The kernel's list format: ascending numbers and ranges below 4,096.
fn is_list(list: &str) -> bool {
    list.len() <= 256
        && list.split(',').all(|part| {
            let number = |s: &str| {
                let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
                digits.then(|| s.parse::<u32>().ok()).flatten().filter(|n| *n < 4096)
            };
            match part.split_once('-') {
                Some((a, b)) => number(a).zip(number(b)).is_some_and(|(a, b)| a <= b),
                None => number(part).is_some(),
            }
        })
}

/// The form only: which features there are is for each device to say, and a later one knows more of them.
fn is_feature(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= MAX_FEATURE
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_hostname(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    name.len() <= 63
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn check_target(form: &Form<'_>, target: &Target) -> Result<(), Refusal> {
    let versions = [&target.min_agent, &target.min_engine];
    form.need(versions.into_iter().flatten().all(|v| parse_version(v).is_some()), || {
        "a least version is not major.minor.patch".into()
    })?;
    let expressions = target.selector.iter().flat_map(|s| &s.match_expressions);
    form.need(
        expressions.into_iter().all(|r| match r.operator {
            Operator::In | Operator::NotIn => !r.values.is_empty(),
            Operator::Exists | Operator::DoesNotExist => r.values.is_empty(),
        }),
        || "a selector's In or NotIn has no values, or Exists or DoesNotExist has some".into(),
    )
}
