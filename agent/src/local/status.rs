//! `shoal-agent status`: membership, trust, deployments and what each waits for.

use super::gather;
use crate::daemon::renew;
use crate::daemon::world::now;
use crate::enroll::Pending;
use crate::identity::Files;
use crate::renewal::{self, Trouble};
use crate::store::Store;
use crate::{lock, output};
use anyhow::Result;
use serde_json::{Value, json};
use shoal_agent_core::record::cause_code;
use shoal_ipc::Layout;
use shoal_protocol::ids::Timestamp;
use shoal_protocol::latest::{Cause, ContainerStatus, Phase, PodStatus};

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

/// The device's certificate, and how its renewal goes.
struct Standing {
    certificate: Option<renewal::Certificate>,
    due: Option<u64>,
    expired: bool,
    trouble: Option<Trouble>,
}

impl Standing {
    fn look(layout: &Layout, now: Timestamp) -> Result<Self> {
        let files = Files::new(layout);
        let certificate = files.load_certificates()?.first().and_then(|c| renewal::read(c).ok());
        let due = match (&certificate, files.load_key()?) {
            (Some(c), Some(key)) => Some(c.life.due(&key.device()).0),
            _ => None,
        };
        let expired = certificate.as_ref().is_some_and(|c| c.life.has_ended(now));
        Ok(Self { certificate, due, expired, trouble: Trouble::load(layout) })
    }

    fn conditions(&self, now: Timestamp) -> Vec<&'static str> {
        let Some(c) = &self.certificate else { return Vec::new() };
        let all = renew::conditions(&c.life, now, false, self.trouble.is_some());
        all.into_iter().filter_map(|(yes, code)| yes.then_some(code)).collect()
    }

    fn json(&self) -> Value {
        json!({
            "serial": self.certificate.as_ref().map(|c| &c.serial),
            "not_before": self.certificate.as_ref().map(|c| c.life.not_before.0),
            "not_after": self.certificate.as_ref().map(|c| c.life.not_after.0),
            "renew_at": self.due,
            "expired": self.expired,
            "failing": self.trouble,
        })
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Some(c) = &self.certificate else { return Vec::new() };
        let end = output::time(c.life.not_after.0);
        let mut out = vec![(
            "certificate",
            if self.expired {
                format!(
                    "EXPIRED at {end}: a running agent renews it with its identity key as soon as the controller answers"
                )
            } else {
                format!("until {end}, renewed from {}", output::time(self.due.unwrap_or_default()))
            },
        )];
        if let Some(t) = &self.trouble {
            out.push((
                "renewal",
                format!(
                    "failed ×{} since {}, again at {}: {}",
                    t.failures,
                    output::time(t.since),
                    output::time(t.next),
                    t.error
                ),
            ));
            out.push(("", t.hint.clone()));
        }
        out
    }
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
    let standing = Standing::look(layout, now(trust))?;
    let pending = if enrolled { None } else { Pending::load(layout)? };
    let mut conditions: Vec<&str> = trust.conditions.iter().map(String::as_str).collect();
    conditions.extend(standing.conditions(now(trust)));
    conditions.extend(pending.as_ref().map(|p| p.state.code()));
    if as_json {
        output::json(&json!({
            "device": device, "name": name, "fleet": trust.fleet, "enrolled": enrolled, "agent_pid": agent,
            "outbox": outbox, "root_version": trust.root_version, "time_floor": trust.time_floor,
            "snapshot": trust.snapshot.as_ref().map(|s| json!({
                "version": s.version, "digest": s.digest.to_string(), "not_after": s.not_after,
            })),
            "labels": trust.device.as_ref().map(|d| d.labels.chunks(2).map(|l| l.join("=")).collect::<Vec<_>>()),
            "conditions": conditions,
            "enrollment": pending.as_ref().map(|p| json!({
                "state": p.state.code(), "since": p.since, "fingerprint": p.fingerprint, "error": p.error, "api": p.api,
            })),
            "certificate": standing.json(),
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
    for (key, value) in standing.lines() {
        show(key, &value);
    }
    if let Some(p) = &pending {
        show("enrollment", &format!("{} since {}", p.state.code(), output::time(p.since)));
        show("fingerprint", &p.fingerprint);
        if let Some(error) = &p.error {
            show("", error);
        }
    }
    for condition in &conditions {
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
