//! What a device is sent, given what it holds: roots in order, its record, the snapshot, and the documents that differ.
//!
//! Sending again is harmless (the device drops what it has), so when in doubt, it is sent.

use shoal_protocol::ids::{DeviceId, Digest, Name};
use shoal_protocol::latest::{Deployment, Entry, Hello, Liveness, Revision, SnapshotRef};
use shoal_protocol::text_map::TextMap;
use std::collections::{BTreeMap, BTreeSet};

/// What a device holds, as it said or as was sent to it since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// The newest root.
    pub root_version: u64,
    /// The snapshot.
    pub snapshot: Option<SnapshotRef>,
    /// Revisions by identity: of which name, and which.
    pub documents: BTreeMap<Digest, (Name, u64)>,
    /// Configs and secrets by identity, and whether it can read them.
    pub inputs: BTreeMap<Digest, bool>,
    /// Sequence of its own record; 0 when not known.
    pub record: u64,
}

impl From<&Hello> for Holds {
    fn from(hello: &Hello) -> Self {
        Self {
            root_version: hello.root_version,
            snapshot: hello.snapshot,
            documents: hello
                .held
                .iter()
                .map(|h| (h.revision.digest, (h.name.clone(), h.revision.sequence)))
                .collect(),
            inputs: hello.documents.iter().map(|d| (d.revision.digest, d.open)).collect(),
            record: 0,
        }
    }
}

/// A config or secret that a device shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Its identity.
    pub digest: Digest,
    /// Whether a grant for this device is here.
    pub granted: bool,
}

/// What the fleet has for one device.
#[derive(Debug, Clone)]
pub struct Wants<'a> {
    /// The newest root's version.
    pub root_version: u64,
    /// The sequence of the device's record.
    pub record: u64,
    /// The current snapshot.
    pub snapshot: Option<SnapshotRef>,
    /// For each live deployment that concerns it, what it shall have.
    pub documents: Vec<(&'a Name, Revision)>,
    /// What those refer to.
    pub inputs: Vec<Input>,
}

/// One message to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// The root of this version.
    Root(u64),
    /// The device's record.
    Record,
    /// The current snapshot.
    Snapshot,
    /// The document of this identity.
    Document(Digest),
    /// The config or secret of this identity.
    Input(Digest),
    /// The device's grant of the secret of this identity.
    Grant(Digest),
}

/// Which revision of one deployment a device shall have: the newest once its wave is open, else the stable one. A
/// device that holds the name and is no longer selected gets the newest all the same, so that it can see that (S21).
pub fn wanted(
    entry: &Entry,
    document: impl Fn(&Digest) -> Option<std::sync::Arc<Deployment>>,
    device: &DeviceId,
    labels: &TextMap,
    opened: bool,
    holds_name: bool,
) -> Option<Revision> {
    if entry.liveness == Liveness::Removed {
        return None;
    }
    let newest = document(&entry.newest.digest)?;
    if !newest.target.selects(device, labels) {
        return holds_name.then_some(entry.newest);
    }
    match entry.stable {
        _ if opened => Some(entry.newest),
        Some(stable) => document(&stable.digest).filter(|d| d.target.selects(device, labels)).map(|_| stable),
        None => None,
    }
}

/// The messages that take a device from what it holds to what the fleet has for it, in the order in which it needs
/// them; `holds` becomes what it will hold once it has them.
pub fn bring_up_to_date(holds: &mut Holds, wants: &Wants<'_>) -> Vec<Send> {
    // What a device says of itself may be any number.
    let next = holds.root_version.saturating_add(1);
    let mut out: Vec<Send> = (next..=wants.root_version).map(Send::Root).collect();
    holds.root_version = holds.root_version.max(wants.root_version);
    if wants.record > holds.record {
        holds.record = wants.record;
        out.push(Send::Record);
    }
    if wants.snapshot.is_some() && holds.snapshot != wants.snapshot {
        holds.snapshot = wants.snapshot;
        out.push(Send::Snapshot);
    }
    let mut seen = BTreeSet::new();
    let mut highest: BTreeMap<Name, u64> = BTreeMap::new();
    for (name, sequence) in holds.documents.values() {
        let of_name = highest.entry(name.clone()).or_default();
        *of_name = (*of_name).max(*sequence);
    }
    for (name, revision) in &wants.documents {
        // The stable revision is what it would refuse when it is beyond that already.
        let is_past = highest.get(*name).is_some_and(|h| *h > revision.sequence);
        if seen.insert(revision.digest) && !is_past && !holds.documents.contains_key(&revision.digest) {
            holds.documents.insert(revision.digest, ((*name).clone(), revision.sequence));
            out.push(Send::Document(revision.digest));
        }
    }
    // After what refers to them, or a device would have no use for them.
    for input in &wants.inputs {
        let open = holds.inputs.get(&input.digest).copied();
        if open.is_none() {
            out.push(Send::Input(input.digest));
        }
        if input.granted && open != Some(true) {
            out.push(Send::Grant(input.digest));
        }
        holds.inputs.insert(input.digest, input.granted || open == Some(true));
    }
    // A device forgets what it has no use for any more.
    let wanted: BTreeSet<Digest> = wants.inputs.iter().map(|i| i.digest).collect();
    holds.inputs.retain(|digest, _| wanted.contains(digest));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::tests::deployment;
    use shoal_protocol::latest::{EntryKind, Target};
    use std::sync::Arc;

    fn revision(n: u64) -> Revision {
        Revision { sequence: n, digest: Digest::of(&n.to_be_bytes()) }
    }

    fn entry() -> Entry {
        Entry {
            kind: EntryKind::Deployment,
            name: "app".parse().unwrap(),
            liveness: Liveness::Live,
            floor: 0,
            newest: revision(2),
            stable: Some(revision(1)),
            removal: None,
        }
    }

    fn device() -> DeviceId {
        DeviceId::of_spki(b"d")
    }

    #[test]
    fn a_held_device_gets_stable_and_an_opened_one_newest() {
        let all = |_: &Digest| Some(Arc::new(deployment()));
        let want = |opened| wanted(&entry(), all, &device(), &TextMap::default(), opened, false);
        assert_eq!(want(false), Some(revision(1)));
        assert_eq!(want(true), Some(revision(2)));
        let first = Entry { stable: None, ..entry() };
        assert_eq!(wanted(&first, all, &device(), &TextMap::default(), false, false), None);
        let removed = Entry { liveness: Liveness::Removed, ..entry() };
        assert_eq!(wanted(&removed, all, &device(), &TextMap::default(), true, true), None);
    }

    #[test]
    fn s21_a_deselected_device_that_holds_the_name_is_told() {
        let nobody = |_: &Digest| {
            let mut d = deployment();
            d.target = Target::default();
            Some(Arc::new(d))
        };
        let want = |holds| wanted(&entry(), nobody, &device(), &TextMap::default(), false, holds);
        assert_eq!(want(true), Some(revision(2)));
        assert_eq!(want(false), None);
    }

    #[test]
    fn roots_come_first_and_in_order_and_nothing_is_sent_twice() {
        let name = "app".parse().unwrap();
        let snapshot = Some(SnapshotRef { version: 7, digest: Digest::of(b"s") });
        let wants = Wants {
            root_version: 3,
            record: 1,
            snapshot,
            documents: vec![(&name, revision(2))],
            inputs: Vec::new(),
        };
        let mut holds = Holds { root_version: 1, ..Holds::default() };
        let sent = bring_up_to_date(&mut holds, &wants);
        assert_eq!(
            sent,
            [Send::Root(2), Send::Root(3), Send::Record, Send::Snapshot, Send::Document(revision(2).digest)]
        );
        assert_eq!(bring_up_to_date(&mut holds, &wants), []);
    }

    #[test]
    fn a_config_follows_what_refers_to_it_and_a_grant_its_secret_whenever_it_comes() {
        let name = "app".parse().unwrap();
        let input = |n, granted| Input { digest: revision(n).digest, granted };
        let wants = |granted| Wants {
            root_version: 1,
            record: 0,
            snapshot: None,
            documents: vec![(&name, revision(2))],
            inputs: vec![input(7, false), input(8, granted), input(8, granted)],
        };
        let digest = |n| revision(n).digest;
        let mut holds = Holds { root_version: 1, ..Holds::default() };
        let sent = bring_up_to_date(&mut holds, &wants(false));
        assert_eq!(sent, [Send::Document(digest(2)), Send::Input(digest(7)), Send::Input(digest(8))]);
        assert_eq!(bring_up_to_date(&mut holds, &wants(false)), []);
        assert_eq!(bring_up_to_date(&mut holds, &wants(true)), [Send::Grant(digest(8))]);
        assert_eq!(bring_up_to_date(&mut holds, &wants(true)), []);
    }

    fn nothing() -> Wants<'static> {
        Wants { root_version: 1, record: 0, snapshot: None, documents: Vec::new(), inputs: Vec::new() }
    }

    #[test]
    fn s26_a_device_that_is_ahead_is_not_sent_the_past() {
        let wants = nothing();
        let mut holds = Holds { root_version: 4, ..Holds::default() };
        assert_eq!(bring_up_to_date(&mut holds, &wants), []);
        assert_eq!(holds.root_version, 4);
    }

    #[test]
    fn a_device_that_is_beyond_the_stable_revision_is_not_sent_that() {
        let name: Name = "app".parse().unwrap();
        let wants = Wants { documents: vec![(&name, revision(2))], ..nothing() };
        let of = |name: &Name, n| Holds {
            root_version: 1,
            documents: [(revision(n).digest, (name.clone(), n))].into(),
            ..Holds::default()
        };
        assert_eq!(bring_up_to_date(&mut of(&name, 3), &wants), []);
        assert_eq!(bring_up_to_date(&mut of(&name, 2), &wants), []);
        let sent = [Send::Document(revision(2).digest)];
        assert_eq!(bring_up_to_date(&mut of(&name, 1), &wants), sent);
        assert_eq!(bring_up_to_date(&mut of(&"other".parse().unwrap(), 3), &wants), sent);
    }
}
