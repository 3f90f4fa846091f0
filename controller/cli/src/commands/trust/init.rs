//! `shoal trust init`: the keys of a new fleet, root 1 and the first snapshot; at once, or as a draft that travels.

use super::sign;
use crate::args::TrustInit;
use crate::ceremony::{Content, Draft, Item};
use crate::commands::{Session, duration};
use crate::error::{CliError, Result};
use crate::keys::{self, OwnKey, Protection};
use crate::output;
use crate::publish::SNAPSHOT_LIFETIME;
use crate::trust::now;
use shoal_controller_core::api;
use shoal_protocol::codec::Value;
use shoal_protocol::ids::FleetId;
use shoal_protocol::latest::{Key, Role, RoleName, Root, Snapshot};
use std::collections::BTreeMap;

/// A key by its name; made when it is not there.
fn own_or_new(s: &Session, name: &str, protection: Protection) -> Result<OwnKey> {
    if keys::names(&s.home).iter().any(|n| n == name) {
        return keys::load(&s.home, name);
    }
    let parsed = name.parse().map_err(|e| CliError::failure("the default key has no name").because(e))?;
    let key = keys::create(&s.home, &parsed, protection)?;
    output::note(&format!("made the key {name} ({})", s.home.keys().join(format!("{name}.key")).display()));
    Ok(key)
}

/// The root keys: named ones, of which some may be elsewhere, or own ones.
fn root_keys(s: &Session, args: &TrustInit, protection: Protection) -> Result<(Vec<Key>, Vec<OwnKey>)> {
    let mut own = Vec::new();
    let mut all = Vec::new();
    if args.root_key.is_empty() {
        let names = match args.root_keys {
            1 => vec!["root".to_owned()],
            n => (1..=n).map(|i| format!("root-{i}")).collect(),
        };
        for name in names {
            let key = own_or_new(s, &name, protection)?;
            all.push(key.public());
            own.push(key);
        }
    }
    for key in &args.root_key {
        all.push(keys::public(&s.home, key)?);
        own.extend(keys::load(&s.home, key).ok());
    }
    Ok((all, own))
}

/// Who signs what, besides roots.
struct Others {
    snapshot: OwnKey,
    deployment: Key,
    enrollment: Key,
}

fn others(s: &Session, args: &TrustInit, protection: Protection) -> Result<Others> {
    let operator = match (&args.snapshot_key, &args.deployment_key, &args.enrollment_key) {
        (Some(_), Some(_), Some(_)) => None,
        _ => Some(match &args.key {
            Some(named) => keys::load(&s.home, named)?,
            None => own_or_new(s, "operator", protection)?,
        }),
    };
    let public = |named: &Option<String>| match (named, &operator) {
        (Some(named), _) => keys::public(&s.home, named),
        (None, Some(operator)) => Ok(operator.public()),
        (None, None) => Err(CliError::failure("no operator key")),
    };
    let (deployment, enrollment) = (public(&args.deployment_key)?, public(&args.enrollment_key)?);
    let snapshot = match (&args.snapshot_key, operator) {
        (Some(named), _) => keys::load(&s.home, named)?,
        (None, Some(operator)) => operator,
        (None, None) => return Err(CliError::failure("no operator key")),
    };
    Ok(Others { snapshot, deployment, enrollment })
}

pub(super) fn run(s: &Session, args: &TrustInit) -> Result<()> {
    let served: api::Trust = s.client.get("/v1/trust", "the fleet's trust")?;
    if served.initialized {
        let fleet = served.fleet.map(|f| f.to_string()).unwrap_or_default();
        return Err(CliError::failure(format!("{} has fleet {fleet} already", s.client.server()))
            .code("already_initialized")
            .hint("nothing to do; if this is another operator's fleet, take its state over with `shoal trust show --adopt DIGEST`"));
    }
    let lifetime = duration("--expires", &args.expires)?;
    let count = if args.root_key.is_empty() { usize::from(args.root_keys) } else { args.root_key.len() };
    let threshold = args.threshold.map_or(count / 2 + 1, usize::from);
    if threshold > count {
        return Err(CliError::usage(format!("--threshold {threshold}: there are {count} root keys")));
    }
    let protection = if args.plain_keys { Protection::Plain } else { Protection::Passphrase };
    let (all, own) = root_keys(s, args, protection)?;
    let others = others(s, args, protection)?;
    let role = |name, keys, threshold, may_remove| Role {
        name,
        threshold,
        keys,
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
            role(RoleName::Root, all, threshold as u64, false),
            role(RoleName::Snapshot, vec![others.snapshot.public()], 1, false),
            role(RoleName::Deployment, vec![others.deployment], 1, true),
            role(RoleName::Enrollment, vec![others.enrollment], 1, false),
        ],
        controller,
        fleet: None,
        revoked: Vec::new(),
        ext,
    };
    let root_item = Item::new(&root, Content::Root(Box::new(root.clone())));
    let first = Snapshot {
        fleet: FleetId::of_root(&root_item.digest),
        epoch: 1,
        version: 1,
        root_version: 1,
        issued_at: time,
        not_after: time.plus(SNAPSHOT_LIFETIME),
        entries: Vec::new(),
        audit_head: None,
        previous: None,
    };
    let snapshot_item = Item::new(&first, Content::Snapshot(Box::new(first.clone())));
    let mut draft = Draft::new(None, vec![root_item, snapshot_item])?;
    let signers: Vec<&OwnKey> = own.iter().chain([&others.snapshot]).collect();
    draft.sign(&signers)?;
    if let Some(path) = &args.draft {
        return sign::hand_over(&s.home, &draft, path, output::Format::Table);
    }
    if !draft.is_complete()? {
        return Err(sign::incomplete(&s.home, &draft)?);
    }
    sign::found(s, &draft)?;
    if count > 1 {
        output::note(&format!(
            "{threshold} of {count} root keys sign a root: move their files to as many places, and keep none here"
        ));
    } else {
        output::note("move the root key offline; it signs roots only");
    }
    output::note(
        "next: `shoal token create --labels site=north -o join.shoal`, then on a device `shoal-agent enroll join.shoal`",
    );
    Ok(())
}
