//! `shoal trust`: founds a fleet, shows what is verified, refreshes the snapshot, gives it back to a restored controller.

use super::Session;
use crate::args::{TrustCommand, TrustInit, TrustShow};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Context;
use crate::keys::{self, OwnKey};
use crate::output;
use crate::publish::{self, Keyring};
use crate::trust::{self, Trust, now};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::Signer;
use shoal_protocol::codec::Value;
use shoal_protocol::latest::{Liveness, Role, RoleName, Root, Snapshot};
use std::collections::BTreeMap;

pub(super) fn run(s: &Session, command: &TrustCommand) -> Result<()> {
    match command {
        TrustCommand::Init(a) => init(s, a),
        TrustCommand::Show(a) => show(s, a),
        TrustCommand::Refresh { signing } => {
            let mut trust = trust::open(&s.client, &s.home, &s.context, signing.adopt.as_ref())?;
            let ring = Keyring::open(&s.home, &signing.keys)?;
            let accepted = publish::publish(&s.client, &mut trust, &ring, &[], &[])?;
            output::line(&format!(
                "snapshot {} published ({})",
                accepted.snapshot.version, accepted.snapshot.digest
            ));
            Ok(())
        }
        TrustCommand::Push => push(s),
    }
}

/// A named key must be there; a default one is made when it is not.
fn key_or_new(s: &Session, named: Option<&String>, default: &str) -> Result<OwnKey> {
    if let Some(name) = named {
        return keys::load(&s.home, name);
    }
    if keys::names(&s.home).iter().any(|n| n == default) {
        return keys::load(&s.home, default);
    }
    let name = default.parse().map_err(|e| CliError::failure("the default key has no name").because(e))?;
    let key = keys::create(&s.home, &name)?;
    output::note(&format!(
        "made the key {default} ({})",
        s.home.keys().join(format!("{default}.key")).display()
    ));
    Ok(key)
}

fn init(s: &Session, args: &TrustInit) -> Result<()> {
    let served: api::Trust = s.client.get("/v1/trust", "the fleet's trust")?;
    if served.initialized {
        let fleet = served.fleet.map(|f| f.to_string()).unwrap_or_default();
        return Err(CliError::failure(format!("{} has fleet {fleet} already", s.client.server()))
            .code("already_initialized")
            .hint("nothing to do; if this is another operator's fleet, take its state over with `shoal trust show --adopt DIGEST`"));
    }
    let lifetime = super::duration("--expires", &args.expires)?;
    let root_key = key_or_new(s, args.root_key.as_ref(), "root")?;
    let own = |k: &Option<String>| k.as_ref().map(|k| keys::load(&s.home, k)).transpose();
    let (snapshot, deployment, enrollment) =
        (own(&args.snapshot_key)?, own(&args.deployment_key)?, own(&args.enrollment_key)?);
    let operator = match (&snapshot, &deployment, &enrollment) {
        (Some(_), Some(_), Some(_)) => None,
        _ => Some(key_or_new(s, args.key.as_ref(), "operator")?),
    };
    let of = |k: &Option<OwnKey>| {
        k.as_ref()
            .or(operator.as_ref())
            .map(OwnKey::public)
            .ok_or_else(|| CliError::failure("no operator key"))
    };
    let role = |name, key, may_remove| Role {
        name,
        threshold: 1,
        keys: vec![key],
        prefix: String::new(),
        may_remove,
        ceiling: None,
    };
    let time = now();
    let mut ext = BTreeMap::new();
    if let Some(name) = &args.name {
        ext.insert(Value::Text("name".to_owned()), Value::Text(name.clone()));
    }
    let controller = (&served.controller).try_into().map_err(|e: api::UnknownValue| {
        CliError::failure("the controller describes itself in unknown words").because(e)
    })?;
    let root = Root {
        version: 1,
        epoch: 1,
        issued_at: time,
        not_after: time.plus(lifetime),
        roles: vec![
            role(RoleName::Root, root_key.public(), false),
            role(RoleName::Snapshot, of(&snapshot)?, false),
            role(RoleName::Deployment, of(&deployment)?, true),
            role(RoleName::Enrollment, of(&enrollment)?, false),
        ],
        controller,
        fleet: None,
        revoked: Vec::new(),
        ext,
    };
    let (envelope, _) = publish::seal(&root, &[&root_key.signer as &dyn Signer])?;
    // From here on the root counts as anybody's: `verify` takes it or it goes nowhere.
    let mut trust = Trust::found(&s.home, &envelope)?;
    let first = first_snapshot(&trust)?;
    let snapshot_key =
        snapshot.as_ref().or(operator.as_ref()).ok_or_else(|| CliError::failure("no snapshot key"))?;
    let (snapshot_envelope, digest) = publish::seal(&first, &[&snapshot_key.signer as &dyn Signer])?;
    let accepted: api::RootAccepted =
        s.client.post("/v1/trust/roots", &api::PostRoot { root: envelope.into() }, "founding the fleet")?;
    let body = api::PostSnapshot {
        snapshot: snapshot_envelope.clone().into(),
        documents: Vec::new(),
        expected_previous: None,
    };
    // Kept before it is published: a fleet whose founder lost its state would be hard to win back.
    trust.save(&snapshot_envelope)?;
    s.home.save_context(&Context { fleet: Some(accepted.fleet.to_string()), ..s.context.clone() }, false)?;
    let _: api::SnapshotAccepted = s.client.post("/v1/snapshots", &body, "publishing the first snapshot")?;
    trust = Trust::load(&s.home, accepted.fleet.as_str())?
        .ok_or_else(|| CliError::failure("the own state was not kept"))?;
    output::line(&format!("fleet {} founded: root 1, snapshot 1 ({digest})", trust.anchor()?.fleet));
    output::note(&format!(
        "keys: {} signs roots (move it offline), {} the rest",
        root_key.name,
        operator.as_ref().map_or("your own keys", |k| &k.name)
    ));
    output::note(
        "next: `shoal token create --labels site=north -o join.shoal`, then on a device `shoal-agent enroll join.shoal`",
    );
    Ok(())
}

fn first_snapshot(trust: &Trust) -> Result<Snapshot> {
    publish::next_snapshot(trust, &[], now())
}

#[derive(Serialize)]
struct RoleRow {
    role: String,
    threshold: u64,
    prefix: String,
    may_remove: bool,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct Shown {
    fleet: String,
    root_version: u64,
    root_not_after: u64,
    epoch: u64,
    snapshot_version: u64,
    snapshot: String,
    snapshot_not_after: u64,
    roles: Vec<RoleRow>,
    deployments: Vec<String>,
}

fn show(s: &Session, args: &TrustShow) -> Result<()> {
    let trust = trust::open(&s.client, &s.home, &s.context, args.adopt.as_ref())?;
    let root = trust.root()?;
    let known = trust.snapshot().ok_or_else(|| CliError::failure("no snapshot is held"))?;
    let roles = root
        .roles
        .iter()
        .map(|r| RoleRow {
            role: format!("{:?}", r.name).to_lowercase(),
            threshold: r.threshold,
            prefix: r.prefix.clone(),
            may_remove: r.may_remove,
            keys: r.keys.iter().map(keys::fingerprint).collect(),
        })
        .collect();
    let live = known.document.entries.iter().filter(|e| e.liveness == Liveness::Live);
    let shown = Shown {
        fleet: trust.anchor()?.fleet.to_string(),
        root_version: root.version,
        root_not_after: root.not_after.0,
        epoch: root.epoch,
        snapshot_version: known.document.version,
        snapshot: known.digest.to_string(),
        snapshot_not_after: known.document.not_after.0,
        roles,
        deployments: live.map(|e| format!("{} {}", e.name, e.newest.sequence)).collect(),
    };
    if args.output.format.is_data() {
        return output::data(args.output.format, &shown);
    }
    output::line(&format!("Fleet:     {}", shown.fleet));
    output::line(&format!("Root:      {} (until {})", shown.root_version, super::show::time(root.not_after)));
    output::line(&format!("Snapshot:  {} {}", shown.snapshot_version, shown.snapshot));
    output::line(&format!(
        "           until {}; sign it again with `shoal trust refresh`",
        super::show::time(known.document.not_after)
    ));
    let rows: Vec<Vec<output::Cell>> = shown
        .roles
        .iter()
        .map(|r| {
            let prefix = if r.prefix.is_empty() { "all" } else { &r.prefix };
            vec![
                r.role.clone().into(),
                format!("{} of {}", r.threshold, r.keys.len()).into(),
                prefix.into(),
                r.keys.join(" ").into(),
            ]
        })
        .collect();
    output::table(&["ROLE", "THRESHOLD", "NAMES", "KEYS"], &rows);
    Ok(())
}

/// What a restored controller lacks: the snapshot that this operator holds and the documents that it lists.
fn push(s: &Session) -> Result<()> {
    let none = || {
        CliError::refused("state_lost", "this operator has no own state of the fleet to give")
            .hint("ask a colleague who has")
    };
    let fleet = s.context.fleet.clone().ok_or_else(none)?;
    let trust = Trust::load(&s.home, &fleet)?.ok_or_else(none)?;
    let served: api::Trust = s.client.get("/v1/trust", "the fleet's trust")?;
    for root in trust.roots.iter().skip(served.roots.len()) {
        let body = api::PostRoot { root: root.clone().into() };
        let _: api::RootAccepted = s.client.post("/v1/trust/roots", &body, "giving it a root")?;
    }
    let known = trust.snapshot().ok_or_else(none)?;
    let mut documents = Vec::new();
    for entry in known.document.entries.iter().filter(|e| e.liveness == Liveness::Live) {
        for revision in entry.stable.iter().chain([&entry.newest]) {
            let path = trust.document_path(&revision.digest);
            if path.exists() {
                documents.push(std::fs::read(&path).on_path("read", &path)?.into());
            }
        }
    }
    let expected_previous = match &served.snapshot {
        Some(bytes) => Some(
            shoal_protocol::envelope::Envelope::parse(&bytes.0)
                .map_err(|e| CliError::failure("the controller's snapshot cannot be read").because(e))?
                .identity()
                .into(),
        ),
        None => None,
    };
    let body =
        api::PostSnapshot { snapshot: trust::own_snapshot(&trust)?.into(), documents, expected_previous };
    let accepted: api::SnapshotAccepted = s.client.post("/v1/snapshots", &body, "giving it the snapshot")?;
    output::line(&format!("the controller has snapshot {} again", accepted.snapshot.version));
    Ok(())
}
