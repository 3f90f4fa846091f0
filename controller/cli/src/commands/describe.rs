//! `shoal describe`: everything about one thing, with reasons, deadlines and next commands.

use super::{Session, get, short_id, show};
use crate::args::{Describe, Thing};
use crate::error::{CliError, Result};
use crate::manifest::quantity::show_bytes;
use crate::output::{self, Cell, clean};
use crate::trust::{self, Trust};
use base64::Engine as _;
use shoal_controller_core::api;
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{Config, EntryKind, Liveness, Revision, Secret};
use std::collections::BTreeMap;

pub(super) fn run(s: &Session, args: &Describe) -> Result<()> {
    match args.thing {
        Thing::Device => device(s, args),
        Thing::Deployment => deployment(s, args),
        Thing::Pod => pod(s, args),
        Thing::Config => config(s, args),
        Thing::Secret => secret(s, args),
    }
}

/// What the own, verified snapshot lists under this name.
fn listed(trust: &Trust, kind: EntryKind, word: &str, text: &str) -> Result<(Name, Revision)> {
    let unknown = || {
        CliError::usage(format!("no {word} is called {text}"))
            .hint(format!("list them with `shoal get {word}s`"))
    };
    let name: Name = text.parse().map_err(|_| unknown())?;
    let entry = trust.entry_of(kind, &name).filter(|e| e.liveness == Liveness::Live).ok_or_else(unknown)?;
    Ok((name, entry.newest))
}

fn config(s: &Session, args: &Describe) -> Result<()> {
    let mut trust = trust::open(&s.client, &s.home, &s.context, None)?;
    let (name, newest) = listed(&trust, EntryKind::Config, "config", &args.name)?;
    let c = trust.listed::<Config>(&s.client, &name, &newest.digest)?.into_document();
    if args.output.format.is_data() {
        // As a ConfigMap has it: text where it is text, base64 where not.
        let (mut data, mut binary) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in c.data.iter() {
            match std::str::from_utf8(value) {
                Ok(text) => drop(data.insert(key, text.to_owned())),
                Err(_) => drop(binary.insert(key, base64::engine::general_purpose::STANDARD.encode(value))),
            }
        }
        let (sequence, digest) = (newest.sequence, newest.digest.to_string());
        let all = serde_json::json!({ "name": name.as_str(), "sequence": sequence, "digest": digest, "issued_at": c.issued_at, "data": data, "binaryData": binary });
        return output::data(args.output.format, &all);
    }
    field("Config", name.as_str());
    field("Revision", format!("{} ({}), signed {}", newest.sequence, newest.digest, show::time(c.issued_at)));
    for (key, value) in c.data.iter() {
        output::line(&format!("\n{}: {} bytes", clean(key), value.len()));
        if let Ok(text) = std::str::from_utf8(value) {
            text.lines().for_each(|l| output::line(&format!("  {}", clean(l))));
        }
    }
    Ok(())
}

fn secret(s: &Session, args: &Describe) -> Result<()> {
    let mut trust = trust::open(&s.client, &s.home, &s.context, None)?;
    let (name, newest) = listed(&trust, EntryKind::Secret, "secret", &args.name)?;
    let secret = trust.listed::<Secret>(&s.client, &name, &newest.digest)?.into_document();
    let granted: api::GrantList =
        s.client.get(&format!("/v1/grants/{}", newest.digest), "who has a grant")?;
    if args.output.format.is_data() {
        let (sequence, digest) = (newest.sequence, newest.digest.to_string());
        let all = serde_json::json!({ "name": name.as_str(), "sequence": sequence, "digest": digest, "issued_at": secret.issued_at, "keys": secret.keys, "deployments": secret.deployments, "granted": granted.devices });
        return output::data(args.output.format, &all);
    }
    field("Secret", name.as_str());
    field(
        "Revision",
        format!("{} ({}), sealed {}", newest.sequence, newest.digest, show::time(secret.issued_at)),
    );
    field("Keys", secret.keys.join(", "));
    field("For", secret.deployments.join(", "));
    field("Granted", format!("{} device(s)", granted.devices.len()));
    granted.devices.iter().for_each(|d| output::line(&format!("  {d}")));
    Ok(())
}

/// `Name:      value`.
fn field(name: &str, value: impl AsRef<str>) {
    output::line(&format!("{:<13} {}", format!("{name}:"), clean(value.as_ref())));
}

fn device(s: &Session, args: &Describe) -> Result<()> {
    let id = s.device(&args.name)?.id;
    let d: api::Device = s.client.get(&format!("/v1/devices/{id}"), &format!("device {id}"))?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &d);
    }
    field("Device", d.id.as_str());
    field("State", format!("{}, last seen {} ago", d.state, show::age(d.last_seen)));
    let labels: Vec<String> = d.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    field("Labels", format!("{} (record {})", labels.join(", "), d.record_sequence));
    field("Enrolled", show::time(d.enrolled_at));
    if let Some(t) = d.certificate_not_after {
        field("Certificate", format!("until {}", show::time(t)));
    }
    if let Some(y) = &d.system {
        field("Host", &y.hostname);
        field(
            "System",
            format!("{}, kernel {}, cgroups {}, {} CPUs", y.architecture, y.kernel, y.cgroups, y.cpus),
        );
        field("Memory", show_bytes(y.memory));
        field("Disk free", show_bytes(y.disk_free));
        field("Agent", &y.agent);
        field("Engine", if y.engine.is_empty() { "none" } else { &y.engine });
        if y.unconfined {
            field("Confinement", "unconfined: containers run without the sandbox's walls");
        }
    }
    let snapshot = d.snapshot.map_or_else(|| "none".to_owned(), |r| format!("{} ({})", r.version, r.digest));
    field("Holds", format!("root {}, snapshot {snapshot}", d.root_version.unwrap_or(0)));
    field("Reports", format!("up to {}", d.report_counter));
    for c in &d.conditions {
        let meaning = show::advice(c).map(|a| format!(": {a}")).unwrap_or_default();
        field("Condition", format!("{c}{meaning}"));
    }
    if !d.pods.is_empty() {
        output::line("\nPods:");
        for p in &d.pods {
            pod_lines(p, false);
        }
    }
    if !d.refusals.is_empty() {
        output::line("\nRefused:");
        let rows: Vec<Vec<Cell>> = d
            .refusals
            .iter()
            .map(|r| {
                vec![
                    clean(&r.code).into(),
                    r.count.to_string().into(),
                    show::age(Some(r.last)).into(),
                    clean(&r.message).into(),
                ]
            })
            .collect();
        output::table(&["CODE", "COUNT", "LAST", "MESSAGE"], &rows);
    }
    Ok(())
}

fn deployment(s: &Session, args: &Describe) -> Result<()> {
    let path = format!("/v1/deployments/{}", crate::api::query(&args.name));
    let d: Option<api::Deployment> = s.client.find(&path, &format!("deployment {}", args.name))?;
    let d = d.ok_or_else(|| {
        CliError::usage(format!("no deployment is called {}", args.name))
            .hint("list them with `shoal get deployments`")
    })?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &d);
    }
    heading(&d);
    field("Signed", show::time(d.issued_at));
    field("Accepted", format!("until {}", show::time(d.not_after)));
    field("Target", &d.target);
    field("Images", d.images.join(", "));
    rollout_lines(&d);
    let broken: Vec<&api::Pod> =
        d.devices.iter().filter_map(|x| x.pod.as_ref()).filter(|p| !show::is_well(p.phase)).collect();
    if !broken.is_empty() {
        output::line("\nNot running:");
        for p in broken.iter().take(20) {
            pod_lines(p, false);
        }
    }
    Ok(())
}

/// What it is, and what devices run of it.
pub(super) fn heading(d: &api::Deployment) {
    field("Deployment", d.name.as_str());
    field("Revision", format!("{} ({})", d.newest.sequence, d.newest.digest));
    if let Some(r) = d.stable {
        field("Stable", format!("{} until each wave opens", r.sequence));
    }
}

/// State, counts and the table of devices.
pub(super) fn rollout_lines(d: &api::Deployment) {
    let c = d.counts;
    field(
        "Rollout",
        format!(
            "{}: {} of {} healthy, {} updating, {} held, {} failed, {} unfit, {} silent",
            d.state, c.healthy, c.selected, c.updating, c.held, c.failed, c.unfit, c.unknown
        ),
    );
    let words = d.message.clone().or_else(|| d.reason.as_deref().and_then(show::advice).map(str::to_owned));
    if let Some(reason) = &d.reason {
        field("Reason", format!("{reason}{}", words.map(|w| format!(": {w}")).unwrap_or_default()));
    }
    if let Some(t) = d.deadline {
        field("Next look", format!("{} ({})", show::due(t), show::time(t)));
    }
    match d.state {
        api::RolloutState::Halted => field(
            "Next",
            format!(
                "`shoal logs {0}`, then apply a better revision, or go back: `shoal rollout undo {0}`",
                d.name
            ),
        ),
        api::RolloutState::NoDevices => field("Next", "compare the selector with `shoal get devices`"),
        api::RolloutState::Waiting => {
            field("Next", "`shoal get devices -o wide` shows which do not fit or do not answer");
        }
        _ => {}
    }
    if !d.devices.is_empty() {
        let rows: Vec<Vec<Cell>> = d
            .devices
            .iter()
            .map(|x| {
                vec![
                    short_id(&x.device).into(),
                    clean(x.hostname.as_deref().unwrap_or("-")).into(),
                    show::device_rollout(x.rollout),
                    x.pod.as_ref().map_or_else(|| "-".into(), |p| show::phase(p.phase)),
                    x.pod.as_ref().map_or_else(|| "-".to_owned(), |p| p.revision.sequence.to_string()).into(),
                    x.deadline.map_or_else(|| "-".to_owned(), show::due).into(),
                    clean(x.message.as_deref().or(x.reason.as_deref()).unwrap_or("")).into(),
                ]
            })
            .collect();
        output::line("");
        output::table(&["DEVICE", "HOST", "ROLLOUT", "STATE", "REVISION", "DEADLINE", "WHY"], &rows);
    }
}

fn pod(s: &Session, args: &Describe) -> Result<()> {
    let device = args.device.as_deref().map(|d| s.device(d)).transpose()?.map(|d| d.id.to_string());
    let list = get::fetch_pods(s, device.as_deref(), Some(&args.name))?;
    if list.pods.is_empty() {
        return Err(CliError::usage(format!("no device has a pod of {}", args.name)).hint(format!(
            "`shoal describe deployment {}` says why; `shoal get pods` lists all",
            args.name
        )));
    }
    if args.output.format.is_data() {
        return output::data(args.output.format, &list);
    }
    for (i, p) in list.pods.iter().enumerate() {
        if i > 0 {
            output::line("");
        }
        pod_lines(p, true);
    }
    Ok(())
}

/// A pod, and with `whole` its containers in full.
fn pod_lines(p: &api::Pod, whole: bool) {
    if !whole {
        output::line(&format!(
            "  {} revision {} on {}: {} for {}",
            p.deployment,
            p.revision.sequence,
            short_id(&p.device),
            p.phase,
            show::age(Some(p.since))
        ));
        for line in show::why(p) {
            output::line(&format!("    {line}"));
        }
        return;
    }
    field("Pod", p.deployment.as_str());
    field("Device", format!("{} ({}, {})", p.device, p.hostname, p.device_state));
    field("Revision", format!("{} ({})", p.revision.sequence, p.revision.digest));
    field("State", format!("{} since {}", p.phase, show::time(p.since)));
    for line in show::why(p) {
        field("", line);
    }
    for c in &p.containers {
        container_lines(c);
    }
}

fn container_lines(c: &api::Container) {
    let state = match (c.running, &c.last_end) {
        (true, _) => format!("running for {}", show::age(c.started_at)),
        (false, Some(end)) => format!("{} {} ago", show::cause(end), show::age(c.finished_at)),
        (false, None) => "not started yet".to_owned(),
    };
    let word = if c.init { "Init container" } else { "Container" };
    output::line(&format!("{word} {}: {state}", c.name));
    let row =
        |name: &str, value: String| output::line(&format!("  {:<11} {}", format!("{name}:"), clean(&value)));
    row("starts", c.attempt.to_string());
    if c.running
        && let Some(end) = &c.last_end
    {
        row("last end", format!("{} {} ago", show::cause(end), show::age(c.finished_at)));
    }
    row(
        "memory",
        format!(
            "{}, peak {}, limit {}",
            show::bytes(c.memory),
            show::bytes(c.memory_peak),
            show::bytes(c.memory_limit)
        ),
    );
    row(
        "CPU",
        format!(
            "{} used, limit {}, throttled for {}{}",
            show::micros(c.cpu_usage),
            show::cpu_limit(c),
            show::micros(c.cpu_throttled),
            c.cpu_throttled_periods.map(|n| format!(" in {n} periods")).unwrap_or_default()
        ),
    );
    if let Some(ready) = c.ready {
        row("ready", if ready { "yes" } else { "no" }.to_owned());
    }
    if let Some(why) = &c.probe_message {
        row("last probe", why.clone());
    }
    if let Some(k) = &c.compiled {
        let how = if k.cache_hit {
            "taken from the cache".to_owned()
        } else {
            format!("compiled in {} ms", k.millis)
        };
        row(
            "engine",
            format!(
                "{}, {how}, module {}, code {}",
                k.engine,
                show_bytes(k.module_size),
                show_bytes(k.code_size)
            ),
        );
    }
    if let Some(n) = c.dropped_lines.filter(|n| *n > 0) {
        row("log", format!("{n} lines dropped for the quota"));
    }
    if let Some(tail) = c.stderr_tail.as_deref().filter(|t| !t.trim().is_empty()) {
        output::line("  last words on standard error:");
        for line in tail.lines() {
            output::line(&format!("    {}", clean(line)));
        }
    }
}
