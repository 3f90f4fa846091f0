//! `shoal trust show`: who may what, and how it came to be so, as the own verification says.

use crate::args::TrustShow;
use crate::commands::{Session, show as words};
use crate::error::{CliError, Result};
use crate::home::Home;
use crate::keys::{self, Known};
use crate::output;
use crate::roots;
use crate::trust::{self, Trust};
use serde::Serialize;
use shoal_protocol::latest::{Liveness, Root};

#[derive(Serialize)]
struct RoleRow {
    role: String,
    threshold: u64,
    prefix: String,
    may_remove: bool,
    may: String,
    keys: Vec<String>,
}

#[derive(Serialize)]
struct KeyRow {
    fingerprint: String,
    algorithm: &'static str,
    /// What the own keys folder calls it.
    name: Option<String>,
}

#[derive(Serialize)]
struct RevokedRow {
    fingerprint: String,
    disposition: &'static str,
}

#[derive(Serialize)]
struct Step {
    root: u64,
    issued_at: u64,
    epoch: u64,
    signed_by: Vec<String>,
    changes: Vec<String>,
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
    /// Whether the snapshot's signatures count under the newest root.
    snapshot_current: bool,
    roles: Vec<RoleRow>,
    keys: Vec<KeyRow>,
    revoked: Vec<RevokedRow>,
    history: Vec<Step>,
    deployments: Vec<String>,
}

fn open(home: &Home, context: Option<&str>, args: &TrustShow) -> Result<Trust> {
    if !args.offline {
        let s = Session::open(home.clone(), context)?;
        return trust::open(&s.client, &s.home, &s.context, args.adopt.as_ref());
    }
    let none = || {
        CliError::refused("state_lost", "this operator has no own state of the fleet")
            .hint("run it once without --offline")
    };
    let fleet = home.context(context)?.fleet.ok_or_else(none)?;
    Trust::load(home, &fleet)?.ok_or_else(none)
}

fn role_rows(root: &Root) -> Vec<RoleRow> {
    root.roles
        .iter()
        .map(|r| RoleRow {
            role: roots::role_word(r.name).to_owned(),
            threshold: r.threshold,
            prefix: r.prefix.clone(),
            may_remove: r.may_remove,
            may: roots::may(r),
            keys: r.keys.iter().map(keys::fingerprint).collect(),
        })
        .collect()
}

/// One step for each root, oldest first.
fn history(trust: &Trust, known: &Known) -> Vec<Step> {
    let mut before: Option<&Root> = None;
    let mut steps = Vec::new();
    for (root, signers) in trust.chain() {
        steps.push(Step {
            root: root.version,
            issued_at: root.issued_at.0,
            epoch: root.epoch,
            signed_by: signers.iter().map(|k| known.show(k)).collect(),
            changes: before.map_or_else(Vec::new, |b| roots::changes(b, root, known)),
        });
        before = Some(root);
    }
    steps
}

fn shown(trust: &Trust, known: &Known) -> Result<Shown> {
    let root = trust.root()?;
    let snapshot = trust.snapshot().ok_or_else(|| CliError::failure("no snapshot is held"))?;
    let mut all: Vec<&shoal_protocol::latest::Key> = root.roles.iter().flat_map(|r| &r.keys).collect();
    all.sort();
    all.dedup();
    let live = snapshot.document.entries.iter().filter(|e| e.liveness == Liveness::Live);
    Ok(Shown {
        fleet: trust.anchor()?.fleet.to_string(),
        root_version: root.version,
        root_not_after: root.not_after.0,
        epoch: root.epoch,
        snapshot_version: snapshot.document.version,
        snapshot: snapshot.digest.to_string(),
        snapshot_not_after: snapshot.document.not_after.0,
        snapshot_current: trust.is_snapshot_current(),
        roles: role_rows(root),
        keys: all
            .into_iter()
            .map(|k| KeyRow {
                fingerprint: keys::fingerprint(k),
                algorithm: keys::algorithm(k),
                name: known.name(k).map(str::to_owned),
            })
            .collect(),
        revoked: root
            .revoked
            .iter()
            .map(|r| RevokedRow {
                fingerprint: keys::fingerprint(&r.key),
                disposition: roots::disposition_word(r.disposition),
            })
            .collect(),
        history: history(trust, known),
        deployments: live.map(|e| format!("{} {}", e.name, e.newest.sequence)).collect(),
    })
}

pub(super) fn run(home: &Home, context: Option<&str>, args: &TrustShow) -> Result<()> {
    let trust = open(home, context, args)?;
    let known = Known::of(home);
    let shown = shown(&trust, &known)?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &shown);
    }
    let root = trust.root()?;
    let until = |t: u64| words::time(shoal_protocol::ids::Timestamp(t));
    output::line(&format!("Fleet:     {}", shown.fleet));
    output::line(&format!(
        "Root:      {}, epoch {} (until {})",
        shown.root_version,
        shown.epoch,
        until(shown.root_not_after)
    ));
    output::line(&format!("Snapshot:  {} {}", shown.snapshot_version, shown.snapshot));
    output::line(&format!(
        "           until {}; sign it again with `shoal trust refresh`",
        until(shown.snapshot_not_after)
    ));
    if !shown.snapshot_current {
        output::warn(
            "a newer root removed the snapshot's key: devices that start anew take nothing until `shoal trust refresh`",
        );
    }
    let rows: Vec<Vec<output::Cell>> = root
        .roles
        .iter()
        .map(|r| {
            let signers: Vec<String> = r.keys.iter().map(|k| known.show(k)).collect();
            vec![
                roots::role_word(r.name).into(),
                format!("{} of {}", r.threshold, r.keys.len()).into(),
                roots::names(r).into(),
                roots::may(r).into(),
                signers.join(" ").into(),
            ]
        })
        .collect();
    output::table(&["ROLE", "THRESHOLD", "NAMES", "MAY", "KEYS"], &rows);
    for r in &root.revoked {
        output::line(&format!(
            "revoked: {}, {} what it signed",
            known.show(&r.key),
            roots::disposition_word(r.disposition)
        ));
    }
    output::line("History:");
    for step in &shown.history {
        output::line(&format!(
            "  root {} ({}), epoch {}, signed by {}",
            step.root,
            until(step.issued_at),
            step.epoch,
            step.signed_by.join(", ")
        ));
        for line in &step.changes {
            output::line(&output::clean(&format!("    {line}")));
        }
    }
    Ok(())
}
