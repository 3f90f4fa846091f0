//! The Kubernetes-like pod spec of a deployment file.
//!
//! Never here: images (the reference stays text), selection, rollout.

use super::reader::{Field, Findings, Object, nearest};
use super::{ContainerDraft, ProbeActionDraft, config, expand, limits, probe};
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{
    DeviceGrant, Engine, EnvVar, Mount, Network, PodTemplate, PortMapping, ProbeKind, RestartPolicy,
    RuntimeClass, Volume, VolumeSource,
};
use shoal_protocol::verify::template::FEATURES;

const RESTART: [(&str, RestartPolicy); 3] = [
    ("Always", RestartPolicy::Always),
    ("OnFailure", RestartPolicy::OnFailure),
    ("Never", RestartPolicy::Never),
];

/// Most containers of a pod.
pub(super) const MAX_CONTAINERS: usize = 16;

/// Reads `spec.template.spec` into `pod`; returns its containers.
pub(super) fn read(
    field: &Field<'_>,
    f: &mut Findings,
    pod: &mut PodTemplate,
) -> (Vec<ContainerDraft>, Vec<ContainerDraft>) {
    let mut o = field.object(f);
    if let Some(v) = o.get("restartPolicy").and_then(|x| x.word(f, &RESTART)) {
        pod.restart_policy = v;
    }
    if let Some(v) = o.get("terminationGracePeriodSeconds").and_then(|x| x.integer(f, 0, 3_600)) {
        pod.termination_grace = v.unsigned_abs();
    }
    pod.hostname = o.get("hostname").and_then(|x| x.text(f));
    if let Some(v) = o.get("runtimeClassName") {
        let words =
            [("wasm", RuntimeClass::Wasm), ("wasmedge", RuntimeClass::Wasm), ("oci", RuntimeClass::Oci)];
        pod.runtime_class = v.word(f, &words).unwrap_or_default();
    }
    if let Some(v) = o.get("network") {
        let words = [("none", Network::None), ("pod", Network::Pod), ("host", Network::Host)];
        pod.network = v.word(f, &words).unwrap_or_default();
    }
    if let Some(v) = o.get("hostNetwork")
        && v.bool(f) == Some(true)
    {
        pod.network = Network::Host;
    }
    if let Some(v) = o.get("resources") {
        pod.resources = limits::kubernetes(&v, f);
    }
    if let Some(v) = o.get("activeDeadlineSeconds").and_then(|x| x.integer(f, 1, 315_576_000)) {
        let own = pod.resources.wall_seconds.unwrap_or(u64::MAX);
        pod.resources.wall_seconds = Some(own.min(v.unsigned_abs()));
    }
    for v in o.get("volumes").map(|l| l.list(f)).unwrap_or_default() {
        if let Some(volume) = volume(&v, f) {
            if pod.volumes.iter().any(|w| w.name == volume.name) {
                v.problem(f, format!("the volume {} stands twice", volume.name));
            }
            pod.volumes.push(volume);
        }
    }
    if let Some(v) = o.get("requiredFeatures") {
        pod.required_features = required_features(&v, f);
    }
    let mut containers: Vec<ContainerDraft> = Vec::new();
    let mut count = 0;
    let lists = [o.need("containers", f), o.get("initContainers")];
    for (list, init) in lists.into_iter().zip([false, true]) {
        let Some(list) = list else { continue };
        let items = list.list(f);
        let room = MAX_CONTAINERS - containers.len();
        if (items.is_empty() && !init) || items.len() > room {
            list.problem(f, format!("expected 1 to {MAX_CONTAINERS} containers, found {}", items.len()));
        }
        for item in items.iter().take(room) {
            if let Some(c) = container(item, f, pod) {
                if containers.iter().any(|d| d.name == c.name) {
                    item.problem(f, format!("the container {} stands twice", c.name));
                }
                if init {
                    before_the_others(item, f, &c);
                }
                containers.push(c);
            }
        }
        if !init {
            count = containers.len();
        }
    }
    unsupported(&mut o, f);
    o.finish(f);
    let init = containers.split_off(count);
    (containers, init)
}

/// A name that this version does not know may be one of a later guard's; more likely it is a slip.
fn required_features(field: &Field<'_>, f: &mut Findings) -> Vec<String> {
    for name in field.list(f) {
        if let Some(text) = name.text(f)
            && !FEATURES.contains(&text.as_str())
        {
            let near = nearest(&text, &FEATURES).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            name.warn(f, format!("every device that does not know {text:?} will refuse it{near}"));
        }
    }
    field.texts(f)
}

/// An init container is there to end; what only means something for one that goes on is a mistake.
fn before_the_others(field: &Field<'_>, f: &mut Findings, c: &ContainerDraft) {
    let probed = c.liveness.is_some() || c.readiness.is_some() || c.startup.is_some();
    if probed || c.post_start.is_some() || c.pre_stop.is_some() || c.stdin || c.restart_policy.is_some() {
        field.problem(
            f,
            "an init container runs to its end before the others start: it has no probes, lifecycle, stdin or restartPolicy (no sidecars)",
        );
    }
}

/// What Kubernetes has and a wasm pod on a small device has not: known, and said why.
fn unsupported(o: &mut Object<'_>, f: &mut Findings) {
    o.unsupported("nodeSelector", f, "ignored: devices are selected by spec.selector, which is signed");
    o.unsupported("affinity", f, "ignored: devices are selected by spec.selector, which is signed");
    o.unsupported("tolerations", f, "ignored: devices have no taints");
    o.unsupported("serviceAccountName", f, "ignored: a pod has no account at a controller");
    o.unsupported("imagePullSecrets", f, "ignored: devices fetch with their own certificate");
    o.unsupported("dnsPolicy", f, "ignored: a guest resolves names by itself, if it does");
    o.unsupported("dnsConfig", f, "ignored: a guest resolves names by itself, if it does");
    o.unsupported("hostPID", f, "ignored: a wasm guest sees no processes");
    o.unsupported("hostIPC", f, "ignored: a wasm guest has no System V IPC");
    o.unsupported("securityContext", f, "ignored: every container runs as its own unprivileged user");
}

fn volume(field: &Field<'_>, f: &mut Findings) -> Option<Volume> {
    let mut o = field.object(f);
    let name = o.need("name", f).and_then(|n| n.parsed::<Name>(f));
    let mut sources = Vec::new();
    if let Some(empty) = o.get("emptyDir") {
        let mut e = empty.object(f);
        let size_limit = e.get("sizeLimit").and_then(|s| s.bytes(f));
        e.unsupported("medium", f, "it is always memory");
        e.finish(f);
        sources.push(VolumeSource::EmptyDir { size_limit });
    }
    if let Some(host) = o.get("hostPath") {
        let mut h = host.object(f);
        let path = h.need("path", f).and_then(|p| absolute(&p, f));
        h.unsupported("type", f, "nothing is made on the device: the folder must be there");
        h.finish(f);
        sources.extend(path.map(|path| VolumeSource::HostPath { path }));
    }
    if let Some(persistent) = o.get("persistent") {
        let mut p = persistent.object(f);
        let size_limit = p.get("sizeLimit").and_then(|s| s.bytes(f));
        p.finish(f);
        sources.push(VolumeSource::Persistent { size_limit });
    }
    for (word, is_secret) in [("configMap", false), ("secret", true)] {
        if let Some(v) = o.get(word) {
            sources.extend(config::volume(&v, f, is_secret));
        }
    }
    o.unsupported("projected", f, "mount each config and secret as a volume of its own");
    o.finish(f);
    if sources.len() != 1 {
        field.problem(f, "expected exactly one of configMap, secret, emptyDir, hostPath, persistent");
    }
    Some(Volume { name: name?, source: sources.pop()? })
}

/// An absolute, normalised path.
pub(super) fn absolute(field: &Field<'_>, f: &mut Findings) -> Option<String> {
    let text = field.text(f)?;
    let normal =
        text == "/" || (text.starts_with('/') && text[1..].split('/').all(|s| !matches!(s, "" | "." | "..")));
    if !normal || text.contains('\0') {
        field.problem(
            f,
            format!("expected an absolute path without `.`, `..` or doubled slashes, found {text:?}"),
        );
        return None;
    }
    Some(text)
}

fn container(field: &Field<'_>, f: &mut Findings, pod: &mut PodTemplate) -> Option<ContainerDraft> {
    let mut o = field.object(f);
    let name = o.need("name", f).and_then(|n| n.parsed::<Name>(f));
    let image = o.need("image", f).and_then(|i| i.text(f));
    // Problems of the other fields are reported even when these two are missing.
    let stand_in = || "x".parse::<Name>().ok();
    let complete = name.is_some() && image.is_some();
    let mut c = ContainerDraft::new(name.or_else(stand_in)?, image.unwrap_or_default());
    c.command = o.get("command").map(|l| l.texts(f)).unwrap_or_default();
    c.args = o.get("args").map(|l| l.texts(f)).unwrap_or_default();
    c.working_dir = o.get("workingDir").and_then(|w| absolute(&w, f));
    c.env = o.get("env").map(|l| l.list(f)).unwrap_or_default().iter().filter_map(|e| env(e, f)).collect();
    c.env_from = o
        .get("envFrom")
        .map(|l| l.list(f))
        .unwrap_or_default()
        .iter()
        .filter_map(|e| config::env_from(e, f))
        .collect();
    expand::variables(&mut c.env);
    expand::all(&mut c.command, &c.env);
    expand::all(&mut c.args, &c.env);
    if let Some(v) = o.get("resources") {
        c.resources = limits::kubernetes(&v, f);
        // A pod's limit above its containers' is what one expects; only one that cuts a container's short is worth a word.
        for difference in
            limits::lower_wins(&pod.resources, &mut c.resources).into_iter().filter(|d| d.pod_won)
        {
            v.warn(f, difference.message);
        }
    }
    for m in o.get("volumeMounts").map(|l| l.list(f)).unwrap_or_default() {
        c.mounts.extend(mount(&m, f, pod));
    }
    c.restart_policy = o.get("restartPolicy").and_then(|r| r.word(f, &RESTART));
    let mut probe = |name: &'static str, kind| {
        let mut draft = o.get(name).and_then(|p| probe::read(&p, f, kind, pod.network))?;
        if let ProbeActionDraft::Exec(command) = &mut draft.action {
            expand::all(command, &c.env);
        }
        Some(draft)
    };
    c.liveness = probe("livenessProbe", ProbeKind::Liveness);
    c.readiness = probe("readinessProbe", ProbeKind::Readiness);
    c.startup = probe("startupProbe", ProbeKind::Startup);
    if let Some(l) = o.get("lifecycle") {
        (c.post_start, c.pre_stop) = probe::lifecycle(&l, f);
    }
    c.stdin = o.get("stdin").and_then(|s| s.bool(f)).unwrap_or(false);
    if let Some(v) = o.get("engine") {
        c.engine =
            v.word(f, &[("aot", Engine::Aot), ("interpreter", Engine::Interpreter)]).unwrap_or_default();
    }
    c.self_test = o.get("selfTest").and_then(|x| x.text(f));
    for d in o.get("devices").map(|l| l.list(f)).unwrap_or_default() {
        c.devices.extend(device(&d, f));
    }
    for p in o.get("ports").map(|l| l.list(f)).unwrap_or_default() {
        ports(&p, f, pod);
    }
    if let Some(s) = o.get("securityContext") {
        security(&s, f, &mut c);
    }
    o.unsupported(
        "imagePullPolicy",
        f,
        "ignored: the image is pinned by digest, so there is nothing to pull again",
    );
    o.unsupported(
        "stdinOnce",
        f,
        "ignored: nobody attaches, so standard input ends only when the container is to",
    );
    o.unsupported("tty", f, "ignored: a deployment has no terminal");
    o.unsupported("terminationMessagePath", f, "ignored: the end's cause and last lines are reported anyway");
    o.finish(f);
    complete.then_some(c)
}

fn env(field: &Field<'_>, f: &mut Findings) -> Option<EnvVar> {
    let mut o = field.object(f);
    let name = o.need("name", f).and_then(|n| n.text(f));
    let value = o.get("value").map_or(Some(String::new()), |v| v.text(f));
    let from = o.get("valueFrom").map(|v| (config::value_from(&v, f), v));
    o.finish(f);
    let mut variable = env_var(field, f, name?, value?)?;
    if let Some((from, place)) = from {
        if !variable.value.is_empty() {
            place.problem(f, "a variable has a value or a valueFrom, not both");
        }
        variable.from = Some(from?);
    }
    Some(variable)
}

/// Checks a variable's name and bytes.
pub(super) fn env_var(field: &Field<'_>, f: &mut Findings, name: String, value: String) -> Option<EnvVar> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        field.problem(
            f,
            format!("{name:?} cannot be an environment variable: no name may be empty or hold `=`"),
        );
        return None;
    }
    Some(EnvVar::plain(name, value))
}

fn mount(field: &Field<'_>, f: &mut Findings, pod: &PodTemplate) -> Option<Mount> {
    let mut o = field.object(f);
    let volume = o.need("name", f);
    let path = o.need("mountPath", f).and_then(|p| absolute(&p, f));
    let read_only = o.get("readOnly").and_then(|r| r.bool(f));
    o.unsupported("subPath", f, "the whole volume is mounted");
    o.unsupported("mountPropagation", f, "mounts do not propagate");
    o.finish(f);
    let volume = volume?;
    let name = volume.parsed::<Name>(f)?;
    let source = pod.volumes.iter().find(|v| v.name == name).map(|v| &v.source);
    // A folder of the device is somebody else's: written to only where the file says so.
    let of_files = source.is_some_and(|s| s.files().is_some());
    if of_files && read_only == Some(false) {
        field.warn(f, "files of a config or secret are read-only whatever is written here");
    }
    let read_only = of_files || read_only.unwrap_or(matches!(source, Some(VolumeSource::HostPath { .. })));
    if source.is_none() {
        let names: Vec<&str> = pod.volumes.iter().map(|v| v.name.as_str()).collect();
        volume.problem(f, format!("no volume is called {name}; the pod's volumes: {}", names.join(", ")));
    }
    Some(Mount { volume: name, path: path?, read_only })
}

fn device(field: &Field<'_>, f: &mut Findings) -> Option<DeviceGrant> {
    let mut o = field.object(f);
    let host_path = o.need("hostPath", f).and_then(|p| absolute(&p, f));
    let path = o.get("path").and_then(|p| absolute(&p, f)).or_else(|| host_path.clone());
    let read_only = o.get("readOnly").and_then(|r| r.bool(f)).unwrap_or(false);
    o.finish(f);
    Some(DeviceGrant { host_path: host_path?, path: path?, read_only })
}

fn ports(field: &Field<'_>, f: &mut Findings, pod: &mut PodTemplate) {
    let mut o = field.object(f);
    let container_port =
        o.need("containerPort", f).and_then(|p| p.integer(f, 1, 65_535)).map(i64::unsigned_abs);
    let host_port = o.get("hostPort").and_then(|p| p.integer(f, 1, 65_535)).map(i64::unsigned_abs);
    let udp = o.get("protocol").and_then(|p| p.word(f, &[("TCP", false), ("UDP", true)])).unwrap_or(false);
    o.get("name");
    o.unsupported("hostIP", f, "the port is on all of the device's addresses");
    o.finish(f);
    let Some(container_port) = container_port else { return };
    match (pod.network, host_port) {
        // Without a place on the device it is still one that the pod may listen at.
        (Network::Pod, host_port) => {
            pod.ports.push(PortMapping { container_port, host_port: host_port.unwrap_or(0), udp });
        }
        (Network::None, Some(_)) => {
            field.problem(
                f,
                "a hostPort needs a network of the pod's own: write `network: pod` beside its containers",
            );
        }
        (Network::None, None) => {
            field.warn(f, "information only, and not signed: without `network: pod` nothing can listen");
        }
        (Network::Host, host_port) if host_port.is_some_and(|h| h != container_port) => {
            field.problem(f, "on the device's network a hostPort is the containerPort: nothing is mapped");
        }
        (Network::Host, _) => {
            field.warn(f, "information only, and not signed: on the device's network any port can be used");
        }
    }
}

fn security(field: &Field<'_>, f: &mut Findings, c: &mut ContainerDraft) {
    let mut o = field.object(f);
    c.readonly_rootfs = o.get("readOnlyRootFilesystem").and_then(|r| r.bool(f)).unwrap_or(false);
    if let Some(caps) = o.get("capabilities") {
        let mut k = caps.object(f);
        c.capabilities = k.get("add").map(|a| a.texts(f)).unwrap_or_default();
        // Dropping is what happens anyway.
        k.get("drop").map(|d| d.texts(f));
        k.finish(f);
    }
    if let Some(p) = o.get("privileged")
        && p.bool(f) == Some(true)
    {
        p.problem(f, "no container of Shoal can be privileged; grant folders and devices one by one");
    }
    for name in ["runAsUser", "runAsGroup", "seccompProfile", "seLinuxOptions"] {
        o.unsupported(
            name,
            f,
            "ignored: every container runs as its own unprivileged user under Shoal's own filters",
        );
    }
    // These two are what Shoal always does.
    o.get("allowPrivilegeEscalation");
    o.get("runAsNonRoot");
    o.finish(f);
}
