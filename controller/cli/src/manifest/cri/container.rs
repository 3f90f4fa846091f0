//! CRI v1 `ContainerConfig`: see the parent module for the rule that every field obeys.

use super::super::reader::{Field, Findings, Object};
use super::super::tree::Value;
use super::super::{ContainerDraft, Draft, limits, pod};
use super::{NO_LABELS_OF_KERNEL, NO_WINDOWS, NODE, OWN_FILTER, OWN_USER, annotations, security};
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{DeviceGrant, EnvVar, Mount, Network, Volume, VolumeSource};
use shoal_protocol::text_map::TextMap;

pub(super) fn read(field: &Field<'_>, f: &mut Findings, draft: &mut Draft) -> Option<ContainerDraft> {
    let mut o = field.object(f);
    let mut name = None;
    if let Some(metadata) = o.need("metadata", f) {
        let mut m = metadata.object(f);
        name = m.need("name", f).and_then(|n| n.parsed::<Name>(f));
        m.unsupported("attempt", f, "ignored: devices count a container's starts themselves");
        m.finish(f);
    }
    let image = o.need("image", f).and_then(|i| image(&i, f));
    let mut c = ContainerDraft::new(name?, image?);
    c.command = o.get("command").map(|l| l.texts(f)).unwrap_or_default();
    c.args = o.get("args").map(|l| l.texts(f)).unwrap_or_default();
    let working_dir = o.get("working_dir").filter(|w| !w.is_neutral());
    c.working_dir = working_dir.and_then(|w| pod::absolute(&w, f));
    for e in o.get("envs").map(|l| l.list(f)).unwrap_or_default() {
        c.env.extend(env(&e, f));
    }
    for m in o.get("mounts").map(|l| l.list(f)).unwrap_or_default() {
        c.mounts.extend(mount(&m, f, draft));
    }
    for d in o.get("devices").map(|l| l.list(f)).unwrap_or_default() {
        c.devices.extend(device(&d, f));
    }
    merge_labels(&mut o, f, draft);
    let mut notes = TextMap::default();
    annotations(&mut o, f, &mut notes);
    for (k, v) in notes.iter().filter(|(k, _)| draft.pod.annotations.get(k).is_none()).collect::<Vec<_>>() {
        draft.pod.annotations.insert(k, v);
    }
    o.unsupported(
        "log_path",
        f,
        "ignored: devices keep logs in a folder of their own, with a quota; see `shoal logs`",
    );
    c.stdin = o.get("stdin").and_then(|s| s.bool(f)).unwrap_or(false);
    for key in ["stdin_once", "tty"] {
        o.unsupported(key, f, "ignored: a deployed container has no terminal, and nobody attaches to it");
    }
    if let Some(linux) = o.get("linux") {
        let mut l = linux.object(f);
        if let Some(r) = l.get("resources") {
            c.resources = limits::cri(&r, f);
            for d in limits::lower_wins(&draft.pod.resources, &mut c.resources) {
                r.warn(f, d.message);
            }
        }
        if let Some(s) = l.get("security_context") {
            container_security(&s, f, &mut c, draft.pod.network);
        }
        l.finish(f);
    }
    o.unsupported("windows", f, NO_WINDOWS);
    o.unsupported("CDI_devices", f, "ignored: name the device nodes in `devices`");
    o.unsupported("stop_signal", f, "ignored: a wasm guest gets no signals");
    o.finish(f);
    Some(c)
}

fn image(field: &Field<'_>, f: &mut Findings) -> Option<String> {
    let mut o = field.object(f);
    let reference = o.need("image", f).and_then(|i| i.text(f));
    if let Some(user) = o.get("user_specified_image")
        && user.loose_text(f) != reference
        && !user.is_neutral()
    {
        user.warn(f, "ignored: `image` says what runs");
    }
    o.unsupported("annotations", f, "ignored: an image is known by its digest alone");
    o.unsupported("runtime_handler", f, "ignored: what runs a container is the pod's runtime class");
    o.finish(f);
    reference
}

fn env(field: &Field<'_>, f: &mut Findings) -> Option<EnvVar> {
    let mut o = field.object(f);
    let key = o.need("key", f).and_then(|k| k.text(f));
    let value = o.get("value").map_or(Some(String::new()), |v| v.text(f));
    o.finish(f);
    pod::env_var(field, f, key?, value?)
}

/// A mount of a host folder becomes a volume of the pod.
fn mount(field: &Field<'_>, f: &mut Findings, draft: &mut Draft) -> Option<Mount> {
    let mut o = field.object(f);
    let path = o.need("container_path", f).and_then(|p| pod::absolute(&p, f));
    let host_path = o.need("host_path", f).and_then(|p| pod::absolute(&p, f));
    // A folder of the device is somebody else's: written to only where the file says so.
    let read_only = o.get("readonly").and_then(|r| r.bool(f)).unwrap_or_else(|| {
        field.warn(
            f,
            "mounted read only: write `readonly: false` for a folder that the container may write to",
        );
        true
    });
    o.unsupported("selinux_relabel", f, NO_LABELS_OF_KERNEL);
    for key in ["propagation", "recursive_read_only"] {
        if let Some(v) = o.get(key).filter(|v| !v.is_neutral())
            && v.loose_text(f).as_deref() != Some("0")
        {
            v.warn(f, "ignored: a folder is opened for the guest, nothing is mounted over it");
        }
    }
    for key in ["uidMappings", "gidMappings", "uid_mappings", "gid_mappings"] {
        o.unsupported(key, f, OWN_USER);
    }
    for key in ["image", "image_sub_path"] {
        o.unsupported(key, f, "ignored: only folders of the device can be mounted");
    }
    o.finish(f);
    let source = VolumeSource::HostPath { path: host_path? };
    let known = draft.pod.volumes.iter().find(|v| v.source == source).map(|v| v.name.clone());
    let volume = if let Some(name) = known {
        name
    } else {
        let name: Name = format!("mount-{}", draft.pod.volumes.len()).parse().ok()?;
        draft.pod.volumes.push(Volume { name: name.clone(), source });
        name
    };
    Some(Mount { volume, path: path?, read_only })
}

fn device(field: &Field<'_>, f: &mut Findings) -> Option<DeviceGrant> {
    let mut o = field.object(f);
    let host_path = o.need("host_path", f).and_then(|p| pod::absolute(&p, f));
    let path = o.get("container_path").and_then(|p| pod::absolute(&p, f)).or_else(|| host_path.clone());
    let permissions = o.get("permissions").and_then(|p| p.text(f)).unwrap_or_default();
    o.finish(f);
    if permissions.contains('m') {
        field.warn(f, "the permission m (mknod) is never granted");
    }
    let read_only = !permissions.is_empty() && !permissions.contains('w');
    Some(DeviceGrant { host_path: host_path?, path: path?, read_only })
}

/// A pod has one set of labels; the container's join the sandbox's, which win.
fn merge_labels(o: &mut Object<'_>, f: &mut Findings, draft: &mut Draft) {
    let Some(field) = o.get("labels") else { return };
    for (k, v) in field.text_map(f).iter() {
        match draft.pod.labels.get(k) {
            Some(pod) if pod != v => {
                field.warn(
                    f,
                    format!("the label {k} is {pod:?} in the sandbox and {v:?} here: the sandbox's counts"),
                );
            }
            _ => {
                draft.pod.labels.insert(k, v);
            }
        }
    }
}

fn container_security(field: &Field<'_>, f: &mut Findings, c: &mut ContainerDraft, network: Network) {
    let mut s = field.object(f);
    match security(&mut s, f) {
        Some(NODE) if network != Network::Host => field.problem(
            f,
            "namespace_options.network: a container's network is its pod's, which is not the device's (NODE)",
        ),
        Some(_) if network == Network::None => {
            field.warn(f, "namespace_options.network: the pod has no network");
        }
        _ => {}
    }
    c.readonly_rootfs = s.get("readonly_rootfs").and_then(|r| r.bool(f)).unwrap_or(false);
    if let Some(caps) = s.get("capabilities") {
        let mut k = caps.object(f);
        let why = "not granted: a wasm guest makes no system calls of its own, so no capability reaches it";
        k.unsupported("add_capabilities", f, why);
        k.unsupported("add_ambient_capabilities", f, why);
        k.unsupported("drop_capabilities", f, "nothing to drop: a container has no capabilities");
        k.finish(f);
    }
    if let Some(v) = s.get("no_new_privs")
        && v.bool(f) == Some(false)
        && let Value::Scalar { text, .. } = &v.node.value
        && text == "false"
    {
        v.warn(f, "ignored: every container runs with no_new_privs");
    }
    s.unsupported("run_as_username", f, OWN_USER);
    s.unsupported("apparmor_profile", f, OWN_FILTER);
    for key in ["masked_paths", "readonly_paths"] {
        s.unsupported(key, f, "ignored: a guest sees only the folders it was granted, and no /proc");
    }
    s.finish(f);
}
