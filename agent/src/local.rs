//! The commands that look: status, ps, logs, doctor. They ask guard and read files; they never change anything.

use crate::daemon::world::{World, now};
use crate::failure::{Explained, Kind};
use crate::identity::Files;
use crate::store::Store;
use crate::{doctor, lock, output, privilege};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use shoal_agent_core::record::cause_code;
use shoal_ipc::{GuardStatus, Layout, SuperviseClient};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{Cause, ContainerStatus, Phase, PodStatus};
use shoal_runtime::logs::{Follower, LogLine, tail};
use shoal_runtime::{Guard, RuntimeService};
use std::path::PathBuf;

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Everything that guard says, and what the agent remembers. As uid 0 the guard's own state too.
fn gather(layout: &Layout) -> Result<(World, Option<GuardStatus>)> {
    let mut own = None;
    if privilege::is_root() && layout.supervise_root_socket().exists() {
        let mut root = SuperviseClient::connect_root(layout).context("cannot reach the guard")?;
        own = Some(root.status().context("cannot ask the guard how it is")?);
    }
    privilege::become_agent(layout)?;
    let mut world = World::new(Store::read_records(&layout.agent_db())?);
    let guard = Guard::new(layout.clone());
    runtime()?.block_on(async {
        world.refresh_desired(&guard).await.context("cannot ask admission what it holds")?;
        world
            .refresh_observed(&RuntimeService::new(guard))
            .await
            .context("cannot ask supervise what runs")?;
        anyhow::Ok(())
    })?;
    Ok((world, own))
}

fn phase(phase: Phase) -> String {
    format!("{phase:?}")
}

/// What to do about a pod that does not run.
fn next_command(pod: &PodStatus) -> Option<String> {
    let waits = matches!(
        pod.phase,
        Phase::Pending | Phase::Pulling | Phase::Compiling | Phase::Staged | Phase::Stopping
    );
    match pod.phase {
        Phase::Running | Phase::Healthy | Phase::Succeeded | Phase::Stopped => None,
        Phase::Failed if pod.containers.iter().all(|c| c.attempt == 0) => {
            Some("shoal-agent doctor".to_owned())
        }
        _ if waits && pod.containers.iter().all(|c| c.attempt == 0) => Some("shoal-agent status".to_owned()),
        _ => Some(format!("shoal-agent logs {}", pod.name)),
    }
}

/// A phase in the words of every `--output json`.
fn phase_code(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Pulling => "pulling",
        Phase::Compiling => "compiling",
        Phase::Staged => "staged",
        Phase::Running => "running",
        Phase::Healthy => "healthy",
        Phase::Succeeded => "succeeded",
        Phase::Failed => "failed",
        Phase::CrashLoop => "crash_loop",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
    }
}

fn pod_json(pod: &PodStatus) -> Value {
    json!({
        "deployment": pod.name.as_str(),
        "revision": { "sequence": pod.revision.sequence, "digest": pod.revision.digest.to_string() },
        "phase": phase_code(pod.phase),
        "since": pod.since.0,
        "reason": pod.reason,
        "message": pod.message,
        "deadline": pod.deadline.map(|t| t.0),
        "next": next_command(pod),
        "containers": pod.containers.iter().map(container_json).collect::<Vec<_>>(),
    })
}

fn cause_json(cause: &Cause) -> Value {
    let named = match cause {
        Cause::Exited { .. } => "exited",
        Cause::Refused { .. } => "refused",
        other => cause_code(other),
    };
    let mut value = json!({ "cause": named });
    match cause {
        Cause::Exited { code } => value["code"] = json!(code),
        Cause::Trap { message } => value["message"] = json!(message),
        Cause::Signal { number } => value["number"] = json!(number),
        Cause::Refused { code } => value["code"] = json!(code),
        _ => {}
    }
    value
}

fn container_json(c: &ContainerStatus) -> Value {
    json!({
        "name": c.name.as_str(),
        "attempt": c.attempt,
        "running": c.running,
        "started_at": c.started_at.map(|t| t.0),
        "finished_at": c.finished_at.map(|t| t.0),
        "last_end": c.last_end.as_ref().map(cause_json),
        "memory": c.memory,
        "memory_peak": c.memory_peak,
        "memory_limit": c.memory_limit,
        "cpu_usage": c.cpu_usage,
        "cpu_throttled": c.cpu_throttled,
        "cpu_quota": c.cpu_quota,
        "cpu_period": c.cpu_period,
        "stderr_tail": c.stderr_tail,
        "dropped_lines": c.dropped_lines,
        "compiled": c.compiled.as_ref().map(|k| json!({
            "engine": k.engine, "millis": k.millis, "module_size": k.module_size, "code_size": k.code_size, "cache_hit": k.cache_hit,
        })),
    })
}

/// `shoal-agent status`.
pub(crate) fn status(layout: &Layout, as_json: bool) -> Result<()> {
    let agent = lock::holder(&layout.agent_dir());
    let (world, own) = gather(layout)?;
    let files = Files::new(layout);
    let device = files.load_key()?.map(|k| k.device().to_string());
    let enrolled = !files.load_certificates()?.is_empty() && world.trust.device.is_some();
    let name = files.load_name()?;
    let outbox = Store::read_outbox_len(&layout.agent_db())?;
    let pods = world.statuses();
    let trust = &world.trust;
    if as_json {
        output::json(&json!({
            "device": device, "name": name, "fleet": trust.fleet, "enrolled": enrolled, "agent_pid": agent,
            "outbox": outbox, "root_version": trust.root_version,
            "snapshot": trust.snapshot.as_ref().map(|s| json!({
                "version": s.version, "digest": s.digest.to_string(), "not_after": s.not_after,
            })),
            "labels": trust.device.as_ref().map(|d| d.labels.chunks(2).map(|l| l.join("=")).collect::<Vec<_>>()),
            "conditions": trust.conditions,
            "unconfined": world.features.unconfined,
            "engine": world.features.engine,
            "cgroups": world.features.cgroup,
            "missing": world.features.missing,
            "guard": own.as_ref().map(|g| json!({
                "admit_pid": g.admit_pid, "log_pid": g.log_pid, "tickets": g.tickets, "containers": g.containers,
                "not_admitted": g.not_admitted,
            })),
            "refusals": trust.refusals.iter().map(|r| json!({
                "code": r.code, "count": r.count, "last": r.last, "last_at": r.last_at,
            })).collect::<Vec<_>>(),
            "deployments": pods.iter().map(pod_json).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    let show = |key: &str, value: &str| output::line(&format!("{key:<12} {value}"));
    show("device", &format!("{} {}", device.as_deref().unwrap_or("-"), name.as_deref().unwrap_or_default()));
    show("fleet", if trust.fleet.is_empty() { "none: shoal-agent enroll JOINFILE" } else { &trust.fleet });
    show("enrolled", if enrolled { "yes" } else { "no: shoal-agent enroll JOINFILE" });
    show(
        "agent",
        &agent.map_or("not running: shoal-agent run".to_owned(), |pid| format!("running, process {pid}")),
    );
    let snapshot = trust.snapshot.as_ref().map_or("none".to_owned(), |s| s.version.to_string());
    show("outbox", &format!("{outbox} reports wait for the controller"));
    show("trust", &format!("root {}, snapshot {snapshot}", trust.root_version));
    let f = &world.features;
    let walls = if f.unconfined { "UNCONFINED" } else { "confined" };
    show(
        "engine",
        &format!(
            "{} ({}, cgroups {}, {walls})",
            if f.engine.is_empty() { "none" } else { &f.engine },
            f.arch,
            f.cgroup
        ),
    );
    for missing in &f.missing {
        show("missing", missing);
    }
    for condition in &trust.conditions {
        show("condition", condition);
    }
    for r in &trust.refusals {
        show("refused", &format!("{} ×{}, last {}: {}", r.code, r.count, output::time(r.last_at), r.last));
    }
    output::line("");
    let mut rows = vec![
        ["DEPLOYMENT", "SEQ", "PHASE", "FOR", "REASON", "DEADLINE", "NEXT"].map(ToOwned::to_owned).to_vec(),
    ];
    let time = now(trust).0;
    for p in &pods {
        rows.push(vec![
            p.name.to_string(),
            p.revision.sequence.to_string(),
            phase(p.phase),
            output::span(time.saturating_sub(p.since.0)),
            p.reason.clone().unwrap_or_default(),
            p.deadline.map(|t| output::time(t.0)).unwrap_or_default(),
            next_command(p).unwrap_or_default(),
        ]);
    }
    output::table(&rows);
    for p in pods.iter().filter(|p| !matches!(p.phase, Phase::Running | Phase::Healthy)) {
        if let Some(message) = &p.message {
            output::line(&format!("{} {}: {message}", p.name, p.revision.sequence));
        }
    }
    Ok(())
}

/// `shoal-agent ps`.
pub(crate) fn ps(layout: &Layout, all: bool, as_json: bool) -> Result<()> {
    let (world, _) = gather(layout)?;
    let pods = world.statuses();
    let rows = pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)));
    let rows: Vec<_> = rows.filter(|(_, c)| c.running || (all && c.attempt > 0)).collect();
    if as_json {
        let list = rows.iter().map(|(p, c)| {
            let mut value = container_json(c);
            value["deployment"] = json!(p.name.as_str());
            value["revision"] =
                json!({ "sequence": p.revision.sequence, "digest": p.revision.digest.to_string() });
            value["pid"] = json!(pid(&world, &p.revision.digest, c));
            value
        });
        output::json(&Value::Array(list.collect()));
        return Ok(());
    }
    let heads =
        ["DEPLOYMENT", "CONTAINER", "SEQ", "ATTEMPT", "STATE", "PID", "MEMORY", "LIMIT", "CPU", "QUOTA"];
    let mut table = vec![heads.map(ToOwned::to_owned).to_vec()];
    for (p, c) in rows {
        let state = if c.running { "running" } else { c.last_end.as_ref().map_or("created", cause_code) };
        let quota = c.cpu_quota.map(|q| format!("{}%", q * 100 / c.cpu_period.unwrap_or(100_000).max(1)));
        table.push(vec![
            p.name.to_string(),
            c.name.to_string(),
            p.revision.sequence.to_string(),
            c.attempt.to_string(),
            state.to_owned(),
            pid(&world, &p.revision.digest, c).map(|n| n.to_string()).unwrap_or_default(),
            c.memory.or(c.memory_peak).map(output::size).unwrap_or_default(),
            c.memory_limit.map_or("none".to_owned(), output::size),
            c.cpu_usage.map(|us| format!("{}.{:02}s", us / 1_000_000, us / 10_000 % 100)).unwrap_or_default(),
            quota.unwrap_or_else(|| "none".to_owned()),
        ]);
    }
    output::table(&table);
    Ok(())
}

fn pid(world: &World, pod: &Digest, c: &ContainerStatus) -> Option<u32> {
    let found = world.containers.values().find(|s| s.id.pod == *pod && s.metadata.name == c.name.as_str())?;
    Some(found.pid).filter(|pid| *pid > 0)
}

/// What of which log.
#[derive(Debug)]
pub(crate) struct LogsWanted<'a> {
    /// The deployment.
    pub deployment: &'a str,
    /// One container of it; all otherwise.
    pub container: Option<&'a str>,
    /// Whether to go on.
    pub follow: bool,
    /// How many of the last lines.
    pub tail: usize,
    /// Whether to print time and stream.
    pub timestamps: bool,
    /// Whether to print JSON, an object a line.
    pub json: bool,
}

/// The folders of a deployment's containers: of the revision that was written to last.
fn log_folders(layout: &Layout, wanted: &LogsWanted<'_>) -> Result<Vec<(String, PathBuf)>> {
    let what = || format!("cannot read {}", layout.pod_logs().display());
    let missing = || {
        Explained::new(
            Kind::Failure,
            format!("there is no log of deployment {:?} on this device", wanted.deployment),
        )
        .hint("shoal-agent ps -a lists what ran here")
    };
    let entries = match std::fs::read_dir(layout.pod_logs()) {
        Ok(e) => e,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing().into()),
        Err(e) => return Err(e).with_context(what),
    };
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for entry in entries {
        let path = entry.with_context(what)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.rsplit_once('_').is_none_or(|(name, _)| name != wanted.deployment) {
            continue;
        }
        let written = last_written(&path).with_context(what)?;
        if newest.as_ref().is_none_or(|(t, _)| written > *t) {
            newest = Some((written, path));
        }
    }
    let (_, pod) = newest.ok_or_else(missing)?;
    let mut out = Vec::new();
    for entry in std::fs::read_dir(&pod).with_context(what)? {
        let path = entry.with_context(what)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && wanted.container.is_none_or(|c| c == name) {
            out.push((name, path));
        }
    }
    out.sort();
    if out.is_empty() {
        return Err(missing().into());
    }
    Ok(out)
}

fn last_written(pod: &std::path::Path) -> std::io::Result<std::time::SystemTime> {
    let mut newest = std::time::SystemTime::UNIX_EPOCH;
    for container in std::fs::read_dir(pod)? {
        let container = container?.path();
        if container.is_dir() {
            for file in std::fs::read_dir(container)? {
                newest = newest.max(file?.metadata()?.modified()?);
            }
        }
    }
    Ok(newest)
}

fn print_lines(wanted: &LogsWanted<'_>, container: &str, many: bool, lines: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(lines.len());
    for raw in lines.split_inclusive(|b| *b == b'\n') {
        let Some(line) = LogLine::parse(raw) else {
            out.extend_from_slice(raw);
            continue;
        };
        if wanted.json {
            let value = json!({
                "container": container, "time": line.timestamp, "stream": line.stream,
                "partial": line.partial, "text": String::from_utf8_lossy(line.text),
            });
            out.extend_from_slice(value.to_string().as_bytes());
            out.push(b'\n');
            continue;
        }
        if many {
            out.extend_from_slice(format!("{container}: ").as_bytes());
        }
        if wanted.timestamps {
            out.extend_from_slice(format!("{} {} ", line.timestamp, line.stream).as_bytes());
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
    }
    output::bytes(&out)
}

/// `shoal-agent logs`.
pub(crate) fn logs(layout: &Layout, wanted: &LogsWanted<'_>) -> Result<()> {
    let folders = log_folders(layout, wanted)?;
    let many = folders.len() > 1;
    let mut positions = Vec::new();
    for (name, dir) in &folders {
        let (lines, position) =
            tail(dir, wanted.tail).with_context(|| format!("cannot read {}", dir.display()))?;
        if let Err(e) = print_lines(wanted, name, many, &lines.concat()) {
            return closed(e);
        }
        positions.push((name.clone(), dir.clone(), position));
    }
    if !wanted.follow {
        return Ok(());
    }
    runtime()?.block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::channel::<(String, std::io::Result<Vec<u8>>)>(16);
        for (name, dir, position) in positions {
            let mut follower =
                Follower::new(&dir, position).with_context(|| format!("cannot follow {}", dir.display()))?;
            let tell = tell.clone();
            tokio::spawn(async move {
                loop {
                    let lines = follower.next().await;
                    let last = lines.is_err();
                    if tell.send((name.clone(), lines)).await.is_err() || last {
                        return;
                    }
                }
            });
        }
        drop(tell);
        while let Some((name, lines)) = told.recv().await {
            if let Err(e) = print_lines(wanted, &name, many, &lines.context("the log ended")?) {
                return closed(e);
            }
        }
        Ok(())
    })
}

/// A reader that went away ends us, and that is no failure.
fn closed(e: std::io::Error) -> Result<()> {
    if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e).context("cannot print") }
}

/// `shoal-agent doctor`.
pub(crate) fn doctor(layout: &Layout, as_json: bool) -> Result<()> {
    let checks = doctor::examine(layout);
    let failed = checks.iter().filter(|c| c.state == doctor::State::Failed).count();
    if as_json {
        output::json(&serde_json::to_value(&checks).context("cannot print")?);
    } else {
        for c in &checks {
            output::line(&format!("{:<6} {:<12} {}", c.state.as_str(), c.what, c.found));
            if let Some(hint) = &c.hint {
                output::line(&format!("{:<19} {hint}", ""));
            }
        }
    }
    if failed > 0 {
        return Err(
            Explained::new(Kind::Failure, format!("{failed} of {} checks failed", checks.len())).into()
        );
    }
    Ok(())
}
