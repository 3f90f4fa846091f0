//! What a deployment may do, as flat facts, and how two revisions differ: what an operator reads before signing. Pure.

use crate::manifest::limits::quota_millis;
use crate::manifest::quantity::show_bytes;
use crate::output::clean;
use serde::Serialize;
use shoal_image::{Capability, ModuleFacts};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{
    Activation, Container, Deployment, DocumentRef, Engine, EntryKind, KeyFile, LogConsent, Network,
    Operator, ProbeAction, Resources, RestartPolicy, Selector, VolumeSource,
};
use std::collections::BTreeMap;

/// Facts by dotted name, sorted; the same text for the same meaning.
pub(crate) type Facts = BTreeMap<String, String>;

/// How one fact changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// Dotted name.
    pub(crate) field: String,
    /// What it was; absent is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    /// What it is; absent is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
}

/// Describes a deployment; what is not known of a module (its image is not here) says so.
pub(crate) fn facts(d: &Deployment, modules: &BTreeMap<Digest, ModuleFacts>) -> Facts {
    let mut f = Facts::new();
    let mut put = |k: String, v: String| {
        f.insert(k, clean(&v));
    };
    if let Some(s) = &d.target.selector {
        put("target.selector".into(), selector(s));
    }
    if !d.target.devices.is_empty() {
        let ids: Vec<&str> = d.target.devices.iter().map(shoal_protocol::ids::DeviceId::as_str).collect();
        put("target.devices".into(), ids.join(" "));
    }
    if !d.target.architectures.is_empty() {
        put("target.architectures".into(), d.target.architectures.join(" "));
    }
    for (key, value) in [("target.agent", &d.target.min_agent), ("target.engine", &d.target.min_engine)] {
        if let Some(v) = value {
            put(key.into(), format!("at least {v}"));
        }
    }
    let activation = match d.rollout.activation {
        Activation::Automatic => "automatic",
        Activation::Ordered => "ordered",
    };
    put("rollout.activation".into(), activation.into());
    for (key, value) in [("maxUnavailable", d.rollout.max_unavailable), ("maxFailed", d.rollout.max_failed)] {
        if let Some(v) = value {
            put(format!("rollout.{key}"), v.to_string());
        }
    }
    if let Some(v) = d.rollout.deadline {
        put("rollout.deadline".into(), format!("{v} s"));
    }
    let logs = match d.logs {
        LogConsent::None => "nothing leaves the device",
        LogConsent::Tail => "the last 200 lines and new ones",
        LogConsent::Full => "all that is kept",
    };
    put("logs".into(), logs.into());
    for r in &d.requires {
        put(format!("requires.{}", r.name), format!("sequence {} or newer, healthy", r.sequence));
    }
    let t = &d.template;
    put("pod.network".into(), network(t.network).into());
    put("pod.restart".into(), restart(t.restart_policy).into());
    put("pod.grace".into(), format!("{} s", t.termination_grace));
    if let Some(h) = &t.hostname {
        put("pod.hostname".into(), h.clone());
    }
    for (k, v) in resources(&t.resources) {
        put(format!("pod.limits.{k}"), v);
    }
    if !t.required_features.is_empty() {
        put("pod.requiredFeatures".into(), t.required_features.join(" "));
    }
    for (kind, map) in [("label", &t.labels), ("annotation", &t.annotations)] {
        for (k, v) in map.iter() {
            put(format!("pod.{kind}.{k}"), v.to_owned());
        }
    }
    for v in &t.volumes {
        let source = match &v.source {
            VolumeSource::EmptyDir { size_limit } => {
                format!("memory, {}", size_limit.map_or_else(|| "16 MiB".to_owned(), show_bytes))
            }
            VolumeSource::HostPath { path } => format!("the device's folder {path}"),
            VolumeSource::Persistent { .. } => "kept on the device".to_owned(),
            VolumeSource::Config { document, mode, items } => {
                format!("files of config {}", files(document, *mode, items))
            }
            VolumeSource::Secret { document, mode, items } => {
                format!("files of secret {}", files(document, *mode, items))
            }
        };
        put(format!("pod.volume.{}", v.name), source);
    }
    for p in &t.ports {
        let protocol = if p.udp { "udp" } else { "tcp" };
        let (key, value) = match p.host_port {
            0 => (format!("inner-{}", p.container_port), "listened at in the pod, not mapped".to_owned()),
            host => (host.to_string(), format!("of the device leads to {} in the pod", p.container_port)),
        };
        put(format!("pod.port.{key}/{protocol}"), value);
    }
    if t.network == Network::Pod && t.ports.is_empty() {
        put("pod.port".into(), "none: it connects, and nothing can listen".into());
    }
    for (number, c) in t.all_containers().enumerate() {
        if let Some(place) = number.checked_sub(t.containers.len()) {
            put(format!("{}.runs", c.name), format!("to its end before the others, as number {}", place + 1));
        }
        for (k, v) in container(c, modules) {
            put(format!("{}.{k}", c.name), v);
        }
    }
    f
}

fn container(c: &Container, modules: &BTreeMap<Digest, ModuleFacts>) -> Vec<(String, String)> {
    let mut out = vec![
        ("image".to_owned(), format!("{} ({})", c.image.reference, short(&c.image.manifest))),
        (
            "module".to_owned(),
            format!(
                "{} ({}, {})",
                c.image.module.path,
                short(&c.image.module.digest),
                show_bytes(c.image.module.size)
            ),
        ),
        ("argv".to_owned(), c.argv.join(" ")),
        ("workingDir".to_owned(), c.working_dir.clone()),
        ("rootfs".to_owned(), if c.readonly_rootfs { "read only" } else { "writable memory" }.to_owned()),
    ];
    match modules.get(&c.image.module.digest) {
        Some(m) => {
            let may: Vec<String> = m.capabilities.iter().map(|c| may(*c).to_owned()).collect();
            out.push((
                "may".to_owned(),
                if may.is_empty() { "compute only".to_owned() } else { may.join(", ") },
            ));
            if let Some(memory) = m.memory {
                let max = memory
                    .max_pages
                    .map_or_else(|| "no limit of its own".to_owned(), |p| show_bytes(p * 65_536));
                out.push((
                    "memory".to_owned(),
                    format!("begins with {}, {max}", show_bytes(memory.min_pages * 65_536)),
                ));
            }
        }
        None => out.push(("may".to_owned(), "unknown: its image is not in the own layout".to_owned())),
    }
    if !c.image.files.is_empty() {
        let names: Vec<String> =
            c.image.files.iter().map(|f| format!("{} ({})", f.path, short(&f.digest))).collect();
        out.push(("files".to_owned(), names.join(", ")));
    }
    out.extend(resources(&c.resources).into_iter().map(|(k, v)| (format!("limits.{k}"), v)));
    out.extend(c.env.iter().map(|e| {
        let value = e.from.as_ref().map_or_else(
            || e.value.clone(),
            |from| {
                let (kind, document, key) = from.parts();
                format!("{key} of {}", referred(kind, document))
            },
        );
        (format!("env.{}", e.name), value)
    }));
    out.extend(c.env_from.iter().map(|from| {
        let (kind, document, prefix) = from.parts();
        (format!("env.{prefix}*"), format!("all of {}", referred(kind, document)))
    }));
    out.extend(c.mounts.iter().map(|m| {
        let mode = if m.read_only { "read only" } else { "read and write" };
        (format!("mount.{}", m.path), format!("volume {}, {mode}", m.volume))
    }));
    if c.engine == Engine::Interpreter {
        out.push(("engine".to_owned(), "interpreted: no native code, many times slower".to_owned()));
    }
    if let Some(name) = &c.self_test {
        out.push(("selfTest".to_owned(), format!("{name} must pass before it is staged")));
    }
    if let Some(r) = c.restart_policy {
        out.push(("restart".to_owned(), restart(r).to_owned()));
    }
    for (key, probe) in
        [("liveness", &c.liveness_probe), ("readiness", &c.readiness_probe), ("startup", &c.startup_probe)]
    {
        if let Some(p) = probe {
            let action = match &p.action {
                ProbeAction::Exec { argv, .. } => format!("runs {}", argv.join(" ")),
                ProbeAction::Tcp { port } => format!("connects to port {port}"),
                ProbeAction::Http { port, path } => format!("GET {path} on port {port}"),
                ProbeAction::FileFresh { path, max_age } => {
                    format!("sees {path} change within {max_age} s, looking")
                }
            };
            let (delay, timeout, failures) = (p.initial_delay, p.timeout, p.failure_threshold);
            let successes = p.success_threshold.map(|n| format!(", {n} successes")).unwrap_or_default();
            let times =
                format!("every {} s after {delay} s, {timeout} s each, {failures} failures", p.period);
            out.push((format!("probe.{key}"), format!("{action} {times}{successes}")));
        }
    }
    for (key, hook) in [("postStart", &c.post_start), ("preStop", &c.pre_stop)] {
        out.extend(hook.as_ref().map(|h| {
            let module = format!("{} ({})", h.module.path, short(&h.module.digest));
            (format!("hook.{key}"), format!("runs {} of {module}", h.argv.join(" ")))
        }));
    }
    if c.stdin {
        out.push(("stdin".to_owned(), "open until it is asked to end".to_owned()));
    }
    out.extend(c.devices.iter().map(|d| {
        let mode = if d.read_only { "read only" } else { "read and write" };
        (format!("device.{}", d.path), format!("{} of the device, {mode}", d.host_path))
    }));
    out.extend(c.capabilities.iter().map(|k| (format!("capability.{k}"), "asked for".to_owned())));
    out
}

/// A config or secret, and which revision of it.
fn referred(kind: EntryKind, d: &DocumentRef) -> String {
    format!("{} {}", if kind == EntryKind::Secret { "secret" } else { "config" }, which(d))
}

fn which(d: &DocumentRef) -> String {
    let revision = match d.pin {
        Some(r) => format!("revision {} ({})", r.sequence, short(&r.digest)),
        None => "the newest at each start".to_owned(),
    };
    format!("{}, {revision}{}", d.name, if d.optional { ", if there is one" } else { "" })
}

fn files(d: &DocumentRef, mode: u64, items: &[KeyFile]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|i| match i.mode {
            Some(m) => format!("{} as {} ({m:o})", i.key, i.path),
            None => format!("{} as {}", i.key, i.path),
        })
        .collect();
    let items = if items.is_empty() { String::new() } else { format!(": {}", items.join(", ")) };
    format!("{}, mode {mode:o}{items}", which(d))
}

fn may(c: Capability) -> &'static str {
    match c {
        Capability::Arguments => "read its arguments",
        Capability::Environment => "read its environment",
        Capability::Clocks => "read clocks and sleep",
        Capability::Random => "read random bytes",
        Capability::Streams => "write its log",
        Capability::Files => "use files in its folders",
        Capability::Process => "exit",
        Capability::Sockets => "open network connections",
    }
}

fn resources(r: &Resources) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    let mut put = |k, v: Option<String>| out.extend(v.map(|v| (k, v)));
    put("memory", r.memory_limit.map(show_bytes));
    put("memoryRequest", r.memory_request.map(show_bytes));
    put("cpu", quota_millis(r).map(|m| format!("{m}m")));
    put("cpuShares", r.cpu_shares.map(|v| v.to_string()));
    put("cpuset", r.cpuset_cpus.clone());
    put("cpusetMems", r.cpuset_mems.clone());
    put("pids", r.pids_limit.map(|v| v.to_string()));
    put("oomScoreAdj", r.oom_score_adj.map(|v| v.to_string()));
    put("wasmMemory", r.wasm_pages.map(|p| show_bytes(p.saturating_mul(65_536))));
    put("cpuSeconds", r.cpu_seconds.map(|v| v.to_string()));
    put("wallSeconds", r.wall_seconds.map(|v| v.to_string()));
    let disk = r.disk.unwrap_or_default();
    put("diskReadBps", disk.read_bps.map(show_bytes));
    put("diskWriteBps", disk.write_bps.map(show_bytes));
    put("diskReadIops", disk.read_iops.map(|v| v.to_string()));
    put("diskWriteIops", disk.write_iops.map(|v| v.to_string()));
    out
}

/// `sha256:` and twelve digits.
pub(crate) fn short(d: &Digest) -> String {
    format!("sha256:{}", &d.hex()[..12])
}

fn network(n: Network) -> &'static str {
    match n {
        Network::None => "none",
        Network::Pod => "a network of its own",
        Network::Host => "the device's",
    }
}

fn restart(r: RestartPolicy) -> &'static str {
    match r {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on failure",
        RestartPolicy::Never => "never",
    }
}

/// A selector in the form of command lines.
pub(crate) fn selector(s: &Selector) -> String {
    let mut parts: Vec<String> = s.match_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    parts.extend(s.match_expressions.iter().map(|r| match r.operator {
        Operator::In => format!("{} in ({})", r.key, r.values.join(",")),
        Operator::NotIn => format!("{} not in ({})", r.key, r.values.join(",")),
        Operator::Exists => r.key.clone(),
        Operator::DoesNotExist => format!("!{}", r.key),
    }));
    if parts.is_empty() { "every device".to_owned() } else { parts.join(", ") }
}

/// The facts in the order in which one asks: for whom, what runs, in what pod, how it spreads.
pub(crate) fn in_order(facts: &Facts) -> Vec<(&String, &String)> {
    let rank = |key: &str| match key.split('.').next() {
        Some("target") => 0,
        Some("pod") => 2,
        Some("requires") => 3,
        Some("rollout") => 4,
        Some("logs") => 5,
        _ => 1,
    };
    let mut all: Vec<_> = facts.iter().collect();
    all.sort_by_key(|(k, _)| rank(k));
    all
}

/// The differences, by field.
pub(crate) fn diff(before: &Facts, after: &Facts) -> Vec<Change> {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter(|k| before.get(*k) != after.get(*k))
        .map(|k| Change { field: k.clone(), before: before.get(k).cloned(), after: after.get(k).cloned() })
        .collect()
}

/// Lines for people: `+ new`, `- gone`, `~ changed: before → after`.
pub(crate) fn lines(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|c| match (&c.before, &c.after) {
            (None, Some(after)) => format!("+ {}: {after}", c.field),
            (Some(before), None) => format!("- {}: {before}", c.field),
            (Some(before), Some(after)) => format!("~ {}: {before} → {after}", c.field),
            (None, None) => String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_a_new_and_a_gone_fact_are_told_apart() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Facts>()
        };
        let before = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let after = map(&[("a", "1"), ("b", "9"), ("d", "4")]);
        assert_eq!(lines(&diff(&before, &after)), ["~ b: 2 → 9", "- c: 3", "+ d: 4"]);
        assert!(diff(&before, &before).is_empty());
    }
}
