//! What the own verified snapshot lists beside deployments: configs, secrets, releases.

use super::{Listing, data};
use crate::commands::{Session, show};
use crate::error::Result;
use crate::manifest::quantity::show_bytes;
use crate::output::{Cell, Tone, clean, toned};
use crate::review;
use crate::trust::{self, Trust};
use serde::Serialize;
use serde_json::json;
use shoal_controller_core::api;
use shoal_protocol::ids::{Name, Timestamp};
use shoal_protocol::latest::{Config, EntryKind, Liveness, Release, Revision, Secret};
use shoal_protocol::verify::target::parse_version;

#[derive(Serialize)]
struct ConfigRow {
    name: String,
    sequence: u64,
    digest: String,
    issued_at: Timestamp,
    keys: Vec<String>,
    size: u64,
}

pub(super) fn configs(s: &Session) -> Result<Listing> {
    let mut trust = trust::open(&s.client, &s.home, &s.context, None)?;
    let mut all = Vec::new();
    for (name, newest) in live(&trust, EntryKind::Config) {
        let c = trust.listed::<Config>(&s.client, &name, &newest.digest)?.into_document();
        all.push(ConfigRow {
            name: name.to_string(),
            sequence: newest.sequence,
            digest: newest.digest.to_string(),
            issued_at: c.issued_at,
            keys: c.data.keys().map(str::to_owned).collect(),
            size: c.data.iter().map(|(_, v)| v.len() as u64).sum(),
        });
    }
    let row = |c: &ConfigRow| -> Vec<Cell> {
        let age = show::age(Some(c.issued_at));
        vec![
            c.name.clone().into(),
            c.sequence.to_string().into(),
            c.keys.len().to_string().into(),
            show_bytes(c.size).into(),
            age.into(),
        ]
    };
    let headers = vec!["NAME", "REVISION", "KEYS", "SIZE", "AGE"];
    let empty = "no configs; publish one with `shoal apply -f FILE` (kind: ConfigMap)";
    Ok(Listing {
        headers,
        rows: all.iter().map(row).collect(),
        data: data(&json!({ "configs": all }))?,
        empty,
    })
}

#[derive(Serialize)]
struct SecretRow {
    name: String,
    sequence: u64,
    digest: String,
    issued_at: Timestamp,
    keys: Vec<String>,
    deployments: Vec<String>,
    granted: usize,
}

pub(super) fn secrets(s: &Session) -> Result<Listing> {
    let mut trust = trust::open(&s.client, &s.home, &s.context, None)?;
    let mut all = Vec::new();
    for (name, newest) in live(&trust, EntryKind::Secret) {
        let secret = trust.listed::<Secret>(&s.client, &name, &newest.digest)?.into_document();
        let granted: api::GrantList =
            s.client.get(&format!("/v1/grants/{}", newest.digest), "who has a grant")?;
        all.push(SecretRow {
            name: name.to_string(),
            sequence: newest.sequence,
            digest: newest.digest.to_string(),
            issued_at: secret.issued_at,
            keys: secret.keys,
            deployments: secret.deployments,
            granted: granted.devices.len(),
        });
    }
    let row = |r: &SecretRow| -> Vec<Cell> {
        vec![
            r.name.clone().into(),
            r.sequence.to_string().into(),
            clean(&r.keys.join(",")).into(),
            clean(&r.deployments.join(",")).into(),
            r.granted.to_string().into(),
            show::age(Some(r.issued_at)).into(),
        ]
    };
    let headers = vec!["NAME", "REVISION", "KEYS", "FOR", "GRANTED", "AGE"];
    let empty = "no secrets; seal one with `shoal secret create NAME --for DEPLOYMENT --from-file KEY=FILE`";
    Ok(Listing {
        headers,
        rows: all.iter().map(row).collect(),
        data: data(&json!({ "secrets": all }))?,
        empty,
    })
}

fn live(trust: &Trust, kind: EntryKind) -> Vec<(Name, Revision)> {
    let entries = trust.entries(kind).filter(|e| e.liveness == Liveness::Live);
    entries.map(|e| (e.name.clone(), e.newest)).collect()
}

#[derive(Serialize)]
struct ReleaseRow {
    name: String,
    sequence: u64,
    digest: String,
    version: String,
    issued_at: Timestamp,
    target: String,
    /// Devices that it selects.
    selected: usize,
    /// Those of them that run its version, or a newer one.
    changed: usize,
    /// Those that took it back.
    failed: usize,
}

pub(super) fn releases(s: &Session) -> Result<Listing> {
    let mut trust = trust::open(&s.client, &s.home, &s.context, None)?;
    let listed = live(&trust, EntryKind::Release);
    let devices = if listed.is_empty() {
        Vec::new()
    } else {
        s.client.get::<api::DeviceList>("/v1/devices", "the devices")?.devices
    };
    let mut all = Vec::new();
    for (name, newest) in listed {
        let r = trust.listed::<Release>(&s.client, &name, &newest.digest)?.into_document();
        let selected: Vec<&api::Device> = devices
            .iter()
            .filter(|d| {
                let labels = d.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                r.target.selects(&d.id, &labels)
            })
            .collect();
        let runs = |d: &&&api::Device| {
            d.system.as_ref().is_some_and(|s| parse_version(&s.agent) >= parse_version(&r.version))
        };
        let has = |d: &api::Device, code: &str| d.conditions.iter().any(|c| c == code);
        let mut whom: Vec<String> = r.target.devices.iter().map(ToString::to_string).collect();
        whom.extend(r.target.selector.as_ref().map(review::selector));
        all.push(ReleaseRow {
            name: name.to_string(),
            sequence: newest.sequence,
            digest: newest.digest.to_string(),
            changed: selected.iter().filter(runs).count(),
            failed: selected.iter().filter(|d| has(d, "update_failed")).count(),
            selected: selected.len(),
            version: r.version,
            issued_at: r.issued_at,
            target: whom.join(", "),
        });
    }
    let row = |r: &ReleaseRow| -> Vec<Cell> {
        let tone = if r.changed == r.selected { Tone::Good } else { Tone::Waiting };
        vec![
            r.name.clone().into(),
            r.sequence.to_string().into(),
            clean(&r.version).into(),
            clean(&r.target).into(),
            toned(format!("{}/{}", r.changed, r.selected), tone),
            toned(r.failed.to_string(), if r.failed == 0 { Tone::Plain } else { Tone::Bad }),
            show::age(Some(r.issued_at)).into(),
        ]
    };
    let headers = vec!["NAME", "REVISION", "VERSION", "FOR", "CHANGED", "FAILED", "AGE"];
    let empty = "no releases; publish one with `shoal release publish NAME --build FILE --selector LABELS`";
    Ok(Listing {
        headers,
        rows: all.iter().map(row).collect(),
        data: data(&json!({ "releases": all }))?,
        empty,
    })
}
