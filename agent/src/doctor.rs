//! What `shoal-agent doctor` looks at, one check a line, each with what to do when it is not well.

use crate::identity::Files;
use crate::{enroll, http, lock, privilege, system, tls};
use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use serde::Serialize;
use shoal_ipc::{AdmitClient, FeatureSet, Layout, SuperviseClient, TrustSummary};
use shoal_protocol::ids::Timestamp;
use shoal_protocol::latest::Root;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

const NET: Duration = Duration::from_secs(5);
const LOW_DISK: u64 = 128 << 20;
/// 2024-01-01: a clock before this has never been set.
const NEVER_SET: u64 = 1_704_067_200;

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
    /// What was looked at.
    pub what: &'static str,
    /// How it went.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

fn ok(what: &'static str, found: impl Into<String>) -> Check {
    Check { what, state: State::Ok, found: found.into(), hint: None }
}

fn bad(what: &'static str, state: State, found: impl Into<String>, hint: &str) -> Check {
    Check { what, state, found: found.into(), hint: Some(hint.to_owned()) }
}

/// All checks. Later ones that need what an earlier one did not find are left out.
pub(crate) fn examine(layout: &Layout) -> Vec<Check> {
    let mut checks = vec![kernel()];
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
    checks.push(disk(layout));
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
            checks.push(clock(&trust));
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

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map_while(|p| p.parse::<u32>().ok());
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= (5, 13) {
        ok("kernel", release)
    } else {
        bad(
            "kernel",
            State::Warn,
            release,
            "Landlock needs Linux 5.13; containers that require it will be refused",
        )
    }
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

fn disk(layout: &Layout) -> Check {
    let free = system::disk_free(&layout.agent_dir());
    let found = format!("{} free in {}", crate::output::size(free), layout.agent_dir().display());
    if free >= LOW_DISK {
        ok("disk", found)
    } else {
        bad("disk", State::Warn, found, "images cannot be pulled when space is low; make room")
    }
}

fn supervise(f: &FeatureSet) -> Vec<Check> {
    let mut out = Vec::new();
    out.push(match f.cgroup.as_str() {
        "none" => bad(
            "cgroups",
            State::Warn,
            "none",
            "containers with limits are refused; run the guard as uid 0 on a kernel with cgroups",
        ),
        kind => ok("cgroups", kind),
    });
    out.push(if f.engine.is_empty() {
        bad("engine", State::Failed, "none", "install shoal-runner and its engine beside shoal-guard")
    } else if f.compiler {
        ok("engine", format!("WasmEdge {} for {}, with its compiler", f.engine, f.arch))
    } else {
        bad(
            "engine",
            State::Warn,
            format!("WasmEdge {} without its compiler", f.engine),
            "new modules cannot be compiled here: put the engine's folder `compile` beside its folder `run`",
        )
    });
    if f.engine_mismatch {
        out.push(bad(
            "engine proof",
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

fn clock(trust: &TrustSummary) -> Check {
    let here = tls::clock().0;
    let found = crate::output::time(here);
    if here < NEVER_SET || here < trust.time_floor {
        let floor = crate::output::time(trust.time_floor);
        return bad(
            "clock",
            State::Warn,
            format!("{found}, signed documents prove {floor}"),
            "set the clock; until then the later time counts",
        );
    }
    ok("clock", found)
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
    let mqtt = root.controller.mqtt.iter().map(|a| ("broker", a, a.replacen("mqtts://", "https://", 1)));
    let api = root.controller.api.iter().map(|a| ("api", a, a.clone()));
    for (what, shown, url) in mqtt.chain(api) {
        out.push(match reach(&url, config.clone()) {
            Ok(()) => ok(what, format!("{shown} answers and is the fleet's")),
            Err(e) => bad(
                what,
                State::Failed,
                format!("{shown}: {e:#}"),
                "everything that was accepted goes on running without it",
            ),
        });
    }
    out
}

/// A whole TLS handshake, naming the layer that failed.
fn reach(url: &str, config: Arc<rustls::ClientConfig>) -> Result<()> {
    let (host, port) = http::host_port(url).context("no usable address")?;
    let addresses: Vec<_> = (host.as_str(), port)
        .to_socket_addrs()
        .with_context(|| format!("DNS: cannot resolve {host}"))?
        .collect();
    let mut stream = Err(std::io::Error::other("no address"));
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, NET);
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream.context("TCP: cannot connect")?;
    stream.set_read_timeout(Some(NET))?;
    stream.set_write_timeout(Some(NET))?;
    let name = ServerName::try_from(host).context("TLS: no usable name")?;
    let mut connection = rustls::ClientConnection::new(config, name).context("TLS: cannot begin")?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).context("TLS: the handshake failed")?;
    }
    Ok(())
}
