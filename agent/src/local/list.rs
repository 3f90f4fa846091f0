//! The verbs that look: ps, pods, stats, inspect, inspectp, info, version.

use super::{runtime, show, view};
use crate::cli::CriOutput;
use crate::cli::cri::{CriFormat, Filter};
use crate::output;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use shoal_ipc::Layout;
use shoal_runtime::cri::message;
use shoal_runtime::{ContainerState, CriService, Guard, Seen};
use std::collections::BTreeMap;

impl CriFormat {
    fn or(self, otherwise: CriOutput) -> CriOutput {
        self.output.unwrap_or(otherwise)
    }
}

/// Whether something is meant by the filter; `state` is CRI's word.
fn meant(filter: &Filter, id: &str, name: &str, state: &str, labels: &BTreeMap<String, String>) -> bool {
    let word = state.rsplit('_').next().unwrap_or(state);
    filter.id.as_ref().is_none_or(|i| id.starts_with(i.as_str()))
        && filter.name.as_ref().is_none_or(|n| name.contains(n.as_str()))
        && filter.state.as_ref().is_none_or(|s| s.eq_ignore_ascii_case(word))
        && filter.label.iter().all(|l| {
            let (key, value) = l.split_once('=').unwrap_or((l, ""));
            labels.get(key).is_some_and(|v| v == value)
        })
}

/// Containers as lists give them.
fn seen(service: &CriService) -> Result<Vec<Seen>> {
    runtime()?.block_on(service.seen()).context("cannot list containers")
}

pub(super) fn ps(
    layout: &Layout,
    all: bool,
    pod: Option<&str>,
    filter: &Filter,
    format: CriFormat,
) -> Result<()> {
    let all = all || filter.state.is_some();
    let list: Vec<message::Container> = seen(&view::open(layout)?)?
        .iter()
        .filter(|s| all || s.state == ContainerState::Running)
        .filter(|s| pod.is_none_or(|p| s.pod.starts_with(p)))
        .filter(|s| meant(filter, &s.id, &s.metadata.name, s.state.cri(), &s.labels))
        .map(Seen::container)
        .collect();
    if filter.quiet {
        for c in &list {
            output::line(&c.id);
        }
        return Ok(());
    }
    if show::message(&json!({ "containers": list }), format.or(CriOutput::Table)) {
        return Ok(());
    }
    let now = show::now();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|c| {
            vec![
                show::short(&c.id, filter.no_trunc),
                if c.image.image.is_empty() { "-".to_owned() } else { c.image.image.clone() },
                show::ago(c.created_at, now),
                show::state(c.state),
                c.metadata.name.clone(),
                c.metadata.attempt.to_string(),
                show::short(&c.pod_sandbox_id, filter.no_trunc),
            ]
        })
        .collect();
    show::table(&["CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD ID"], &rows);
    Ok(())
}

pub(super) fn pods(layout: &Layout, filter: &Filter, format: CriFormat) -> Result<()> {
    let list: Vec<message::PodSandbox> = view::open(layout)?
        .list_pod_sandbox()?
        .into_iter()
        .filter(|p| meant(filter, &p.id, &p.metadata.name, p.state, &p.labels))
        .collect();
    if filter.quiet {
        for p in &list {
            output::line(&p.id);
        }
        return Ok(());
    }
    if show::message(&json!({ "items": list }), format.or(CriOutput::Table)) {
        return Ok(());
    }
    let now = show::now();
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|p| {
            vec![
                show::short(&p.id, filter.no_trunc),
                show::ago(p.created_at, now),
                show::state(p.state),
                p.metadata.name.clone(),
                p.metadata.namespace.clone(),
                p.metadata.attempt.to_string(),
                p.runtime_handler.clone(),
            ]
        })
        .collect();
    show::table(&["POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"], &rows);
    Ok(())
}

pub(super) fn stats(layout: &Layout, all: bool, container: Option<&str>, format: CriFormat) -> Result<()> {
    let service = view::open(layout)?;
    let list = match container {
        Some(id) => vec![runtime()?.block_on(service.find(id))?],
        None => seen(&service)?,
    };
    let all = all || container.is_some();
    let now = show::now();
    let list: Vec<message::ContainerStats> = list
        .iter()
        .filter(|s| all || s.state == ContainerState::Running)
        .filter_map(|s| s.container_stats(now))
        .collect();
    if show::message(&json!({ "stats": list }), format.or(CriOutput::Table)) {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|s| {
            let cpu = s.cpu.usage_core_nano_seconds.value / 1_000_000;
            vec![
                show::short(&s.attributes.id, false),
                s.attributes.metadata.name.clone(),
                format!("{}.{:03}s", cpu / 1_000, cpu % 1_000),
                output::size(s.memory.working_set_bytes.value),
                output::size(s.memory.peak_bytes.value),
            ]
        })
        .collect();
    show::table(&["CONTAINER", "NAME", "CPU TIME", "MEM", "PEAK"], &rows);
    Ok(())
}

/// Key and value, a line each: what a table of one thing is.
pub(super) fn facts(pairs: &[(&str, String)]) {
    for (key, value) in pairs {
        output::line(&format!("{key}: {value}"));
    }
}

/// Prints each, as JSON or YAML one value: crictl's form for one, a list for more.
pub(super) fn each(mut all: Vec<Value>, format: CriOutput) -> bool {
    let value = if all.len() == 1 { all.remove(0) } else { Value::Array(all) };
    show::message(&value, format)
}

pub(super) fn inspect(layout: &Layout, ids: &[String], format: CriFormat) -> Result<()> {
    let service = view::open(layout)?;
    let run = runtime()?;
    let format = format.or(CriOutput::Json);
    let mut values = Vec::new();
    for id in ids {
        let seen = run.block_on(service.find(id))?;
        let status = seen.container_status();
        if format == CriOutput::Table {
            facts(&[
                ("ID", status.id),
                ("Name", status.metadata.name),
                ("State", show::state(status.state)),
                ("Created", show::ago(status.created_at, show::now())),
                ("Exit Code", status.exit_code.to_string()),
                ("Reason", status.reason),
                ("Message", status.message),
                ("Log", status.log_path),
            ]);
            continue;
        }
        values.push(json!({ "status": status, "info": seen.container().shoal }));
    }
    each(values, format);
    Ok(())
}

pub(super) fn inspectp(layout: &Layout, ids: &[String], format: CriFormat) -> Result<()> {
    let service = view::open(layout)?;
    let format = format.or(CriOutput::Json);
    let mut values = Vec::new();
    for id in ids {
        let (pod, record) = service.pod_sandbox_status(id)?;
        let network = record.as_ref().map(|r| shoal_runtime::network_name(&r.config));
        if format == CriOutput::Table {
            facts(&[
                ("ID", pod.id),
                ("Name", pod.metadata.name),
                ("Namespace", pod.metadata.namespace),
                ("Attempt", pod.metadata.attempt.to_string()),
                ("Status", show::state(pod.state)),
                ("Created", show::ago(pod.created_at, show::now())),
                ("Network", network.unwrap_or("as its operator signed").to_owned()),
            ]);
            continue;
        }
        values.push(json!({
            "status": pod,
            "info": { "local": record.is_some(), "network": network, "config": record.map(|r| r.config) },
        }));
    }
    each(values, format);
    Ok(())
}

pub(super) fn info(layout: &Layout, format: CriFormat) -> Result<()> {
    let local_allowed = layout.local_dir().is_dir();
    crate::privilege::become_agent(layout)?;
    let service = CriService::viewer(Guard::new(layout.clone()), Vec::new());
    let f = runtime()?.block_on(service.runtime().status()).context("cannot ask the guard what it can")?;
    let ready = !f.engine.is_empty();
    let no_network = f.missing.iter().find(|m| m.starts_with("networks")).cloned().unwrap_or_default();
    let reason = if ready { "" } else { "no engine is installed beside the guard" };
    let value = json!({
        "status": { "conditions": [
            { "type": "RuntimeReady", "status": ready, "reason": if ready { "" } else { "NoEngine" }, "message": reason },
            { "type": "NetworkReady", "status": no_network.is_empty(),
              "reason": if no_network.is_empty() { "" } else { "NoPlugins" }, "message": no_network },
        ] },
        "info": {
            "engine": f.engine, "compiler": f.compiler, "arch": f.arch, "cgroups": f.cgroup,
            "unconfined": f.unconfined, "missing": f.missing, "localPods": local_allowed,
        },
    });
    if !show::message(&value, format.or(CriOutput::Json)) {
        facts(&[
            ("RuntimeReady", ready.to_string()),
            ("Engine", f.engine),
            ("Compiler", f.compiler.to_string()),
            ("Control groups", f.cgroup),
            ("Unconfined", f.unconfined.to_string()),
            ("Missing", f.missing.join("; ")),
        ]);
    }
    Ok(())
}

pub(super) fn version(format: CriFormat) {
    let v = message::version();
    if !show::message(&v, format.or(CriOutput::Table)) {
        let pairs = [
            ("Version", v.version),
            ("RuntimeName", v.runtime_name),
            ("RuntimeVersion", v.runtime_version),
            ("RuntimeApiVersion", v.runtime_api_version),
        ];
        for (key, value) in pairs {
            output::line(&format!("{key}:  {value}"));
        }
    }
}
