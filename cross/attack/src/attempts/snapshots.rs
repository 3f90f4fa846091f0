//! Snapshots that nobody agreed to: genuine documents in another constellation, names that vanish, floors that move.

use super::{Attempt, Thief};
use anyhow::Result;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::Timestamp;
use shoal_protocol::latest::{Deployment, Entry, EntryKind, Kind, Liveness, Revision, Snapshot};
use shoal_protocol::topics::Topic;
use shoal_protocol::{Code, Signer};

/// Every genuine deployment as an entry, whatever it was for and whenever it was.
fn mixed(thief: &Thief<'_>, newest: bool) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for genuine in thief.loot.of(Kind::Deployment) {
        let d: Deployment = genuine.read()?;
        let revision = Revision { sequence: d.sequence, digest: genuine.identity()? };
        let entry = Entry {
            kind: EntryKind::Deployment,
            name: d.name.clone(),
            liveness: Liveness::Live,
            floor: 0,
            newest: revision,
            stable: None,
            removal: None,
        };
        match entries.iter_mut().find(|e| e.name == d.name) {
            Some(known) if newest => *known = entry,
            Some(_) => {}
            None => entries.push(entry),
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

pub(super) fn all(thief: &Thief<'_>) -> Result<Vec<Attempt>> {
    let held = &thief.snapshot;
    let next = Snapshot { version: held.version + 1, previous: None, ..held.clone() };
    let each = |change: &dyn Fn(&mut Entry)| {
        let mut changed = next.clone();
        changed.entries.iter_mut().for_each(change);
        changed
    };
    let own = &thief.deployment.name;
    let snapshots = [
        ("nothing is listed", Snapshot { entries: Vec::new(), ..next.clone() }),
        (
            "one live name is left out",
            Snapshot {
                entries: held.entries.iter().filter(|e| e.name != *own).cloned().collect(),
                ..next.clone()
            },
        ),
        ("all names are removed", each(&|e| e.liveness = Liveness::Removed)),
        ("all removed names live again", each(&|e| e.liveness = Liveness::Live)),
        ("all floors are raised", each(&|e| e.floor = e.newest.sequence + 1)),
        ("the oldest of everything", Snapshot { entries: mixed(thief, false)?, ..next.clone() }),
        ("the newest of everything, for whomever", Snapshot { entries: mixed(thief, true)?, ..next.clone() }),
        ("a version at the end of the range", Snapshot { version: u64::MAX, ..next.clone() }),
        ("the held version again", Snapshot { version: held.version, ..next.clone() }),
        ("without an end", Snapshot { not_after: Timestamp(u64::MAX), ..next.clone() }),
        ("ended already", Snapshot { not_after: Timestamp(1), ..next.clone() }),
        ("from 2099", Snapshot { issued_at: Timestamp(4_070_908_800), ..next.clone() }),
        ("for a root to come", Snapshot { root_version: held.root_version + 1, ..next.clone() }),
        ("of a higher epoch", Snapshot { epoch: held.epoch + 1, ..next }),
    ];
    let mut out = Vec::new();
    for (what, snapshot) in snapshots {
        for (by, signer, code) in [
            ("online", &thief.online as &dyn Signer, Code::RoleScope),
            ("fresh", &thief.fresh as &dyn Signer, Code::UnknownKey),
        ] {
            let message = seal_document(&snapshot, &[signer])?.0;
            out.push(Attempt::refused(format!("snapshot: {what}, by {by}"), Topic::Snapshot, message, code));
        }
    }
    Ok(out)
}
