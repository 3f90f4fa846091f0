//! Everything that was ever signed in this fleet, sent to one device: what is older, for others, or ended must not come back.

use super::{Attempt, Comes, Thief, forged};
use crate::loot::Genuine;
use anyhow::{Context as _, Result};
use shoal_protocol::Code;
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::Name;
use shoal_protocol::latest::{
    Config, Deployment, DeviceRecord, Entry, EntryKind, Grant, Kind, Liveness, Order, Release, Root, Secret,
    Snapshot,
};

/// What the newest snapshot says of a name.
fn entry<'t>(thief: &'t Thief<'_>, kind: EntryKind, name: &Name) -> Option<&'t Entry> {
    thief.snapshot.entries.iter().find(|e| e.kind == kind && e.name == *name)
}

/// A config or secret that a deployment on this device refers to, by its newest revision.
fn document(thief: &Thief<'_>, kind: EntryKind, name: &Name, sequence: u64) -> Comes {
    let referred = thief.deployment.template.documents().any(|(k, d)| k == kind && d.name == *name);
    let newest = entry(thief, kind, name).map_or(0, |e| e.newest.sequence);
    match (referred, sequence == newest) {
        (false, _) => Comes::Refused(Code::WrongTarget),
        (true, true) => Comes::Nothing,
        (true, false) => Comes::Refused(Code::Rollback),
    }
}

/// What must come of a genuine document on a device that holds the newest of everything that is its own, and was enrolled
/// after what has ended did.
fn comes(thief: &Thief<'_>, genuine: &Genuine) -> Result<Comes> {
    let refused = |code| Ok(Comes::Refused(code));
    let is_newest = |kind| Ok::<_, anyhow::Error>(thief.loot.newest(kind)? == genuine);
    match genuine.kind {
        Kind::Root => {
            let newest: Root = thief.loot.newest(Kind::Root)?.read()?;
            let this: Root = genuine.read()?;
            if this.version == newest.version { Ok(Comes::Nothing) } else { refused(Code::Rollback) }
        }
        Kind::Snapshot => {
            let this: Snapshot = genuine.read()?;
            if is_newest(Kind::Snapshot)? {
                return Ok(Comes::Nothing);
            }
            anyhow::ensure!(this.version < thief.snapshot.version, "snapshots are not in order");
            refused(Code::Rollback)
        }
        Kind::Deployment => {
            let this: Deployment = genuine.read()?;
            let entry = entry(thief, EntryKind::Deployment, &this.name).context("a name vanished")?;
            if !this.target.selects(thief.device, &thief.record.labels) {
                refused(Code::WrongTarget)
            } else if entry.liveness == Liveness::Removed {
                refused(Code::NotInSnapshot)
            } else if this.sequence < entry.newest.sequence {
                refused(Code::Rollback)
            } else {
                Ok(Comes::Nothing)
            }
        }
        Kind::Config => {
            let this: Config = genuine.read()?;
            Ok(document(thief, EntryKind::Config, &this.name, this.sequence))
        }
        Kind::Secret => {
            let this: Secret = genuine.read()?;
            Ok(document(thief, EntryKind::Secret, &this.name, this.sequence))
        }
        Kind::Grant => {
            let this: Grant = genuine.read()?;
            let newest = entry(thief, EntryKind::Secret, &this.name).map(|e| e.newest);
            let own = this.device == *thief.device && newest == Some(this.revision);
            if own { Ok(Comes::Nothing) } else { refused(Code::WrongTarget) }
        }
        Kind::Device => {
            let this: DeviceRecord = genuine.read()?;
            let root: Root = thief.loot.newest(Kind::Root)?.read()?;
            let envelope = Envelope::parse(&genuine.envelope)?;
            let is_operators = |kid| root.roles.iter().flat_map(|r| &r.keys).any(|k| k.kid() == kid);
            if this.device == *thief.device {
                Ok(Comes::Nothing)
            } else if envelope.signatures().iter().any(|s| is_operators(s.kid)) {
                refused(Code::WrongTarget)
            } else {
                // By the key of a token that this device never had.
                refused(Code::UnknownKey)
            }
        }
        Kind::Order => {
            let this: Order = genuine.read()?;
            refused(if this.device == *thief.device { Code::OrderReplay } else { Code::WrongTarget })
        }
        Kind::Release => {
            let this: Release = genuine.read()?;
            if this.target.selects(thief.device, &thief.record.labels) {
                Ok(document(thief, EntryKind::Release, &this.name, this.sequence))
            } else {
                refused(Code::WrongTarget)
            }
        }
        Kind::Removal => refused(Code::UnsupportedVersion),
        // A question that may be put again while it counts; answered by hand only.
        Kind::ReceiptRequest => Ok(Comes::Nothing),
        Kind::Token | Kind::Report | Kind::Fact | Kind::Receipt => refused(Code::WrongType),
    }
}

pub(super) fn all(thief: &Thief<'_>) -> Result<Vec<Attempt>> {
    let mut out = Vec::new();
    // Reports and facts are many, and of no more use than one of each.
    let many = |kind| matches!(kind, Kind::Report | Kind::Fact);
    for kind in Kind::ALL {
        let limit = if many(kind) { 1 } else { usize::MAX };
        for genuine in thief.loot.of(kind).take(limit) {
            let what = format!("genuine {}", kind.as_str());
            out.push(Attempt::new(
                what,
                forged::topic(kind),
                genuine.envelope.clone(),
                comes(thief, genuine)?,
            ));
        }
    }
    Ok(out)
}
