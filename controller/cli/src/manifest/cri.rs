//! A CRI v1 pair, `PodSandboxConfig` and `ContainerConfig` as JSON (what `crictl runp` and `crictl create` take).
//!
//! Every field of both messages is known here: it is honoured, or a warning says why it is not. Unknown fields are
//! problems. Never here: which devices, which image bytes, keys.

mod container;

use super::reader::{Field, Findings, Object};
use super::tree::parse_json;
use super::{Draft, empty_pod, limits, not_readable, report};
use crate::error::Result;
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{
    LogConsent, Network, PodTemplate, PortMapping, Resources, RestartPolicy, Rollout, Target,
};

/// One of the two files.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// Its name, for messages.
    pub(crate) file: &'a str,
    /// Its text.
    pub(crate) text: &'a str,
}

/// What `--pod` and `--container` say, with the warnings of both files.
pub(crate) fn parse(
    sandbox: &Source<'_>,
    container: &Source<'_>,
    name: Option<&Name>,
) -> Result<(Draft, [Findings; 2])> {
    let pod_node = parse_json(sandbox.text).map_err(|e| not_readable(sandbox.file, "JSON", &e))?;
    let node = parse_json(container.text).map_err(|e| not_readable(container.file, "JSON", &e))?;
    let mut pf = Findings::new(sandbox.file);
    let mut cf = Findings::new(container.file);
    let root = |node| Field { path: String::new(), node };
    let draft = pod_sandbox(&root(&pod_node), &mut pf, name);
    let Some(mut draft) = draft.filter(|_| pf.problems.is_empty()) else { return Err(report(&pf)) };
    let Some(found) = container::read(&root(&node), &mut cf, &mut draft).filter(|_| cf.problems.is_empty())
    else {
        return Err(report(&cf));
    };
    draft.containers.push(found);
    Ok((draft, [pf, cf]))
}

/// The annotation that says which network a pod has.
const NETWORK: &str = "shoal/network";
/// CRI v1 `NamespaceMode`: the device's own.
const NODE: i64 = 2;
const NO_WINDOWS: &str = "ignored: devices run Linux";
const NO_PROCESSES: &str = "ignored: a wasm guest sees no processes, whatever namespace it is in";
const OWN_USER: &str = "ignored: every container runs as its own unprivileged user, which the device chooses";
const OWN_FILTER: &str =
    "ignored: every container runs under Shoal's own filters, which no deployment can loosen";
const NO_LABELS_OF_KERNEL: &str =
    "ignored: devices are not expected to run SELinux; the sandbox does not rely on it";

fn pod_sandbox(field: &Field<'_>, f: &mut Findings, name: Option<&Name>) -> Option<Draft> {
    let mut o = field.object(f);
    let mut template = empty_pod();
    // A CRI runtime starts a container once; whoever wants it again asks again.
    template.restart_policy = RestartPolicy::Never;
    let mut own_name = None;
    if let Some(metadata) = o.need("metadata", f) {
        let mut m = metadata.object(f);
        // With --name the sandbox's own name may be anything.
        own_name = match (name, m.need("name", f)) {
            (Some(n), Some(own)) => {
                if own.loose_text(f).as_deref() != Some(n.as_str()) {
                    own.warn(f, format!("the deployment is called {n}, as --name says"));
                }
                Some(n.clone())
            }
            (None, Some(own)) => own.parsed::<Name>(f),
            (_, None) => None,
        };
        for (key, annotation) in
            [("uid", "io.kubernetes.pod.uid"), ("namespace", "io.kubernetes.pod.namespace")]
        {
            if let Some(v) = m.get(key)
                && let Some(text) = v.loose_text(f)
                && !text.is_empty()
            {
                template.annotations.insert(annotation, text);
                v.warn(f, format!("kept as the annotation {annotation} only: a fleet's names have no namespaces, and devices make their own ids"));
            }
        }
        m.unsupported("attempt", f, "ignored: devices count a pod's starts themselves");
        m.finish(f);
    }
    template.hostname = o.get("hostname").and_then(|h| h.text(f)).filter(|h| !h.is_empty());
    o.unsupported(
        "log_directory",
        f,
        "ignored: devices keep logs in a folder of their own, with a quota; see `shoal logs`",
    );
    if let Some(dns) = o.get("dns_config") {
        let mut d = dns.object(f);
        for key in ["servers", "searches", "options"] {
            d.unsupported(key, f, "ignored: a guest resolves names by itself, if it does");
        }
        d.finish(f);
    }
    for p in o.get("port_mappings").map(|l| l.list(f)).unwrap_or_default() {
        template.ports.extend(port_mapping(&p, f));
    }
    template.labels = o.get("labels").map(|l| l.text_map(f)).unwrap_or_default();
    annotations(&mut o, f, &mut template.annotations);
    let mut mode = None;
    let mut resources = Vec::new();
    resources.extend(o.get("resources").map(|r| (r.clone(), limits::legacy_sandbox(&r, f))));
    if let Some(linux) = o.get("linux") {
        let mut l = linux.object(f);
        l.unsupported(
            "cgroup_parent",
            f,
            "ignored: the device's own policy names the parent of all pods' groups",
        );
        l.unsupported("sysctls", f, "ignored: no kernel settings are changed for a pod");
        l.unsupported(
            "overhead",
            f,
            "ignored: what a container costs beside its guest counts within its limit",
        );
        resources.extend(l.get("resources").map(|r| (r.clone(), limits::cri(&r, f))));
        if let Some(s) = l.get("security_context") {
            let mut s = s.object(f);
            mode = security(&mut s, f);
            s.unsupported(
                "readonly_rootfs",
                f,
                "ignored for the sandbox, which holds no files: set it in the container",
            );
            s.finish(f);
        }
        l.finish(f);
    }
    o.unsupported("windows", f, NO_WINDOWS);
    o.finish(f);
    network(field, f, mode, &mut template);
    let mut all = resources.into_iter();
    if let Some((_, first)) = all.next() {
        template.resources = first;
    }
    if let Some((place, second)) = all.next() {
        let before = template.resources.clone();
        template.resources = overlay(second, &before);
        for d in limits::lower_wins(&before, &mut template.resources) {
            place.warn(
                f,
                d.message.replace("the container's", "linux.resources'").replace("the pod's", "resources'"),
            );
        }
    }
    Some(Draft {
        name: own_name?,
        target: Target::default(),
        rollout: Rollout::default(),
        logs: LogConsent::default(),
        expires: None,
        not_before: None,
        requires: Vec::new(),
        pod: template,
        containers: Vec::new(),
        init_containers: Vec::new(),
    })
}

/// CRI has no word for a pod without a network, and its default is one of the pod's own; so this one is only for a pod that maps
/// ports, or whose annotation asks for it.
fn network(field: &Field<'_>, f: &mut Findings, mode: Option<i64>, pod: &mut PodTemplate) {
    let asked = pod.annotations.get(NETWORK).map(str::to_owned);
    pod.network = match (asked.as_deref(), mode) {
        (Some("none"), _) => Network::None,
        (Some("pod"), _) => Network::Pod,
        (Some("host"), _) | (None, Some(NODE)) => Network::Host,
        (Some(other), _) => {
            field.problem(f, format!("annotations: {NETWORK} is {other:?}, expected none, pod or host"));
            return;
        }
        (None, _) if !pod.ports.is_empty() => Network::Pod,
        (None, mode) => {
            if mode.is_some() {
                let path = "linux.security_context.namespace_options.network";
                f.warn(
                    field.place(),
                    path,
                    format!(
                        "the pod gets no network: it maps no ports, and no annotation {NETWORK} asks for one"
                    ),
                );
            }
            Network::None
        }
    };
    if pod.network != Network::Pod && !pod.ports.is_empty() {
        f.warn(
            field.place(),
            "port_mappings",
            "ignored: only in a network of the pod's own are ports mapped",
        );
        pod.ports.clear();
    }
}

/// `first`, and `second` where it says nothing.
fn overlay(first: Resources, second: &Resources) -> Resources {
    let with_cpu = if first.cpu_quota.is_some() { &first } else { second };
    Resources {
        cpu_quota: with_cpu.cpu_quota,
        cpu_period: with_cpu.cpu_period,
        memory_limit: first.memory_limit.or(second.memory_limit),
        memory_request: first.memory_request.or(second.memory_request),
        cpu_shares: first.cpu_shares.or(second.cpu_shares),
        ..first
    }
}

/// Copies annotations; says of those that other runtimes obey that nobody obeys them here.
fn annotations(o: &mut Object<'_>, f: &mut Findings, into: &mut shoal_protocol::text_map::TextMap) {
    let Some(field) = o.get("annotations") else { return };
    for (key, value) in field.text_map(f).iter() {
        into.insert(key, value);
        let obeyed_elsewhere =
            ["security.alpha.kubernetes.io/", "seccomp.", "container.apparmor.", "io.kubernetes.cri-o."];
        if obeyed_elsewhere.iter().any(|prefix| key.starts_with(prefix)) || key.contains("seccomp") {
            let path = format!("{}.{key}", field.path);
            f.warn(
                field.place(),
                &path,
                format!("kept as a note and not obeyed ({value}): Shoal's own filters stay on"),
            );
        }
    }
}

fn port_mapping(field: &Field<'_>, f: &mut Findings) -> Option<PortMapping> {
    let mut o = field.object(f);
    let container_port = o.need("container_port", f).and_then(|p| p.integer(f, 1, 65_535))?;
    let host_port = o.get("host_port").and_then(|p| p.integer(f, 0, 65_535)).unwrap_or(0);
    let protocol = o.get("protocol").and_then(|p| {
        let words = [("0", 0), ("1", 1), ("2", 2), ("TCP", 0), ("UDP", 1), ("SCTP", 2)];
        p.word(f, &words)
    });
    o.unsupported("host_ip", f, "ignored: the port is on all of the device's addresses");
    o.finish(f);
    if protocol == Some(2) {
        field.problem(f, "SCTP is not supported");
    }
    let (container_port, host_port) = (container_port.unsigned_abs(), host_port.unsigned_abs());
    Some(PortMapping { container_port, host_port, udp: protocol == Some(1) })
}

/// What the security contexts of sandbox and container share; gives the mode of the network.
fn security(s: &mut Object<'_>, f: &mut Findings) -> Option<i64> {
    let mut mode = None;
    if let Some(n) = s.get("namespace_options") {
        let mut n = n.object(f);
        mode = n.get("network").and_then(|v| v.integer(f, 0, 3));
        for key in ["pid", "target_id"] {
            if let Some(v) = n.get(key) {
                v.warn(f, NO_PROCESSES);
            }
        }
        if let Some(v) = n.get("ipc") {
            v.warn(f, "ignored: a wasm guest has no System V IPC and no shared memory");
        }
        n.unsupported("userns_options", f, OWN_USER);
        n.finish(f);
    }
    if let Some(v) = s.get("selinux_options") {
        let mut l = v.object(f);
        for key in ["user", "role", "type", "level"] {
            l.unsupported(key, f, NO_LABELS_OF_KERNEL);
        }
        l.finish(f);
    }
    for key in ["run_as_user", "run_as_group", "supplemental_groups", "supplemental_groups_policy"] {
        s.unsupported(key, f, OWN_USER);
    }
    for key in ["seccomp", "apparmor", "seccomp_profile_path"] {
        s.unsupported(key, f, OWN_FILTER);
    }
    s.unsupported(
        "privileged",
        f,
        "not granted: no container of Shoal is privileged; grant folders and devices one by one",
    );
    mode
}

#[cfg(test)]
#[path = "cri_tests.rs"]
mod tests;
