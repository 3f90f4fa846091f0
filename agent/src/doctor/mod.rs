//! What `shoal-agent doctor` looks at, one check a line, each with what to do when it is not well.
//!
//! Ids and states are stable: docs/install.md has them all in one table.

mod machine;
mod reach;
mod services;

use crate::identity::Files;
use crate::{enroll, lock, privilege, tls};
use serde::Serialize;
use shoal_ipc::{AdmitClient, FeatureSet, Layout, SuperviseClient, TrustSummary};
use shoal_protocol::ids::Timestamp;
use shoal_protocol::latest::Root;
use std::sync::Arc;

/// What is looked at beside the machine itself.
#[cfg(test)]
const IDS: [&str; 18] = [
    "services",
    "policy",
    "guard",
    "device",
    "supervise",
    "groups",
    "engine",
    "compiler",
    "engine-proof",
    "walls",
    "admit",
    "time",
    "trust",
    "agent",
    "enrolment",
    "identity",
    "broker",
    "api",
];

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// It works, and should be looked at.
    Warn,
    /// It does not work.
    Failed,
}

impl State {
    /// In a column.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Failed => "FAILED",
        }
    }
}

/// One check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// What was looked at; stable.
    pub id: &'static str,
    /// How it went.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

fn ok(id: &'static str, found: impl Into<String>) -> Check {
    Check { id, state: State::Ok, found: found.into(), hint: None }
}

fn bad(id: &'static str, state: State, found: impl Into<String>, hint: &str) -> Check {
    Check { id, state, found: found.into(), hint: Some(hint.to_owned()) }
}

/// All checks. Later ones that need what an earlier one did not find are left out.
pub(crate) fn examine(layout: &Layout) -> Vec<Check> {
    let mut checks = machine::examine(layout);
    checks.extend(services::services(layout));
    checks.push(services::policy(layout));
    if privilege::is_root() && layout.supervise_root_socket().exists() {
        checks.push(guard(layout));
    }
    if let Err(error) = privilege::become_agent(layout) {
        checks.push(bad(
            "device",
            State::Failed,
            format!("{error:#}"),
            "start the guard: shoal-guard supervise",
        ));
        return checks;
    }
    match SuperviseClient::connect(layout).and_then(|mut s| s.features()) {
        Ok(features) => checks.extend(supervise(&features)),
        Err(e) => {
            checks.push(bad("supervise", State::Failed, e.to_string(), "is shoal-guard supervise running?"));
        }
    }
    let admit = AdmitClient::connect(layout).and_then(|mut a| Ok((a.trust()?, a)));
    match admit {
        Err(e) => checks.push(bad(
            "admit",
            State::Failed,
            e.to_string(),
            "admission is a child of supervise; see its log",
        )),
        Ok((trust, mut admit)) => {
            checks.push(time(&trust));
            checks.push(trust_state(&trust));
            checks.push(match lock::holder(&layout.agent_dir()) {
                Some(pid) => ok("agent", format!("runs as process {pid}")),
                None => bad("agent", State::Warn, "does not run", "shoal-agent run"),
            });
            match enroll::held_root(&mut admit) {
                Ok(root) => checks.extend(controller(layout, &root, Timestamp(trust.time_floor))),
                Err(_) => checks.push(bad(
                    "enrolment",
                    State::Failed,
                    "not enrolled",
                    "shoal-agent enroll JOINFILE",
                )),
            }
        }
    }
    checks
}

fn guard(layout: &Layout) -> Check {
    match SuperviseClient::connect_root(layout).and_then(|mut s| s.status()) {
        Ok(s) if s.admit_running && s.log_running => ok(
            "guard",
            format!(
                "{} tickets, {} containers, {} unpermitted requests",
                s.tickets, s.containers, s.not_admitted
            ),
        ),
        Ok(s) => {
            let found = format!("admit {}, log {}", up(s.admit_running), up(s.log_running));
            bad("guard", State::Failed, found, "supervise restarts them by itself; its log says why they end")
        }
        Err(e) => bad("guard", State::Failed, e.to_string(), "is shoal-guard supervise running?"),
    }
}

fn up(yes: bool) -> &'static str {
    if yes { "up" } else { "down" }
}

fn supervise(f: &FeatureSet) -> Vec<Check> {
    let mut out = Vec::new();
    out.push(match f.cgroup.as_str() {
        "none" => bad(
            "groups",
            State::Warn,
            "the guard uses none",
            "containers with limits are refused; run the guard as uid 0 on a kernel with cgroups",
        ),
        kind => ok("groups", format!("the guard uses {kind}")),
    });
    if f.engine.is_empty() {
        let hint = "install shoal-runner and its engine beside shoal-guard";
        out.push(bad("engine", State::Failed, "none", hint));
    } else {
        out.push(ok("engine", format!("WasmEdge {} for {}", f.engine, f.arch)));
        out.push(if f.compiler {
            ok("compiler", "modules are compiled here")
        } else {
            let hint = "new modules cannot be compiled here: install the package shoal-compiler";
            bad("compiler", State::Warn, "none", hint)
        });
    }
    if f.engine_mismatch {
        out.push(bad(
            "engine-proof",
            State::Failed,
            "compiled and interpreted results differ on this CPU",
            "nothing compiled runs: report the engine and CPU, and deploy with `engine: interpreter` meanwhile",
        ));
    }
    if f.unconfined {
        out.push(bad(
            "walls",
            State::Warn,
            "unconfined",
            "the guard is not uid 0: containers run without walls, and every report says so",
        ));
    }
    out.extend(
        f.missing
            .iter()
            .map(|m| bad("walls", State::Warn, m.clone(), "a container that needs it is refused")),
    );
    out
}

/// The clock beside what signed documents prove.
fn time(trust: &TrustSummary) -> Check {
    let here = tls::clock().0;
    let floor = crate::output::time(trust.time_floor);
    if here < trust.time_floor {
        let found = format!("{}, signed documents prove {floor}", crate::output::time(here));
        return bad("time", State::Warn, found, "set the clock; until then the later time counts");
    }
    ok("time", format!("signed documents prove {floor}"))
}

fn trust_state(trust: &TrustSummary) -> Check {
    let snapshot =
        trust.snapshot.as_ref().map_or("no snapshot yet".to_owned(), |s| format!("snapshot {}", s.version));
    let found = format!("root {}, {snapshot}, {} revisions", trust.root_version, trust.held.len());
    if trust.conditions.is_empty() {
        ok("trust", found)
    } else {
        let hint = trust.conditions.join(", ");
        bad("trust", State::Warn, found, &hint)
    }
}

fn controller(layout: &Layout, root: &Root, floor: Timestamp) -> Vec<Check> {
    let files = Files::new(layout);
    let identity = files.load_key().and_then(|k| Ok((k, files.load_certificates()?)));
    let (key, certificates) = match identity {
        Ok((Some(key), certificates)) if !certificates.is_empty() => (key, certificates),
        Ok(_) => {
            return vec![bad("enrolment", State::Failed, "no certificate", "shoal-agent enroll JOINFILE")];
        }
        Err(e) => {
            return vec![bad(
                "enrolment",
                State::Failed,
                format!("{e:#}"),
                "the identity is damaged; enrol anew",
            )];
        }
    };
    let config = match tls::client(&root.controller.ca, floor, Some((&key, certificates))) {
        Ok(c) => Arc::new(c),
        Err(e) => return vec![bad("identity", State::Failed, format!("{e:#}"), "enrol anew")],
    };
    let mut out = vec![ok("identity", format!("device {}", key.device()))];
    let mqtt = root.controller.mqtt.iter().map(|a| (a, a.replacen("mqtts://", "https://", 1)));
    out.extend(reach::any("broker", mqtt, &config));
    out.extend(reach::any("api", root.controller.api.iter().map(|a| (a, a.clone())), &config));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_in_the_list() {
        let code = [include_str!("mod.rs"), include_str!("services.rs")];
        let code = code.map(|text| text.split("#[cfg(test)]\nmod tests").next().unwrap_or(""));
        let mut found = std::collections::BTreeSet::from(["broker", "api"]);
        for call in ["ok(", "bad("] {
            for rest in code.iter().flat_map(|text| text.split(call).skip(1)) {
                if let Some((id, _)) = rest.trim_start().strip_prefix('"').and_then(|r| r.split_once('"')) {
                    found.insert(id);
                }
            }
        }
        assert_eq!(found, IDS.into_iter().collect());
    }
}
