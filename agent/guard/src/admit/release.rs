//! Releases in the trust store: which one this device may change to, and what of the others is kept.

use super::model::{Model, now, storage};
use super::store::{Document, StoreError};
use crate::say;
use shoal_ipc::{RELEASE_MAX, ReleaseTicket, TicketFile, VERSION};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::refusal::{Code, Refusal};
use shoal_protocol::v1::{Document as _, EntryKind, Kind, Liveness, Release, Revision, Snapshot};
use shoal_protocol::verify::target::{Selection, parse_version, selection};
use shoal_protocol::verify::{Expect, verify};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Revisions of one name that are kept: what came before the newest may still be what the snapshot calls stable.
const KEEP: usize = 2;
/// Seconds, where the release says nothing.
const DEADLINE: u64 = 600;

/// A release as it is held.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) release: Arc<Release>,
    pub(super) digest: Digest,
    /// Its signers count, it is for this device as that is now, and not below a floor or what proved healthy.
    pub(super) counts: bool,
}

/// All held releases: by name, then by sequence.
pub(super) type Releases = BTreeMap<Name, BTreeMap<u64, Held>>;

/// The release that this device may change to: of those that count and that the snapshot lists now, the newest version, where
/// that is above the one that runs. Pure.
pub(super) fn offered<'a>(
    held: &'a Releases,
    snapshot: Option<&Snapshot>,
    running: &str,
) -> Option<&'a Held> {
    let listed = |h: &Held| {
        let revision = Revision { sequence: h.release.sequence, digest: h.digest };
        snapshot.into_iter().flat_map(|s| &s.entries).any(|e| {
            let is = e.kind == EntryKind::Release && e.name == h.release.name;
            is && e.liveness == Liveness::Live && (e.newest == revision || e.stable == Some(revision))
        })
    };
    let all = held.values().flat_map(BTreeMap::values);
    let possible =
        all.filter(|h| h.counts && listed(h) && parse_version(&h.release.version) > parse_version(running));
    possible.max_by_key(|h| (parse_version(&h.release.version), h.release.sequence))
}

/// Supervise's permission to change to it.
pub(super) fn ticket(held: &Held, architecture: &str) -> Result<ReleaseTicket, Refusal> {
    let release = &held.release;
    let Some(build) = release.build(architecture) else {
        let what = format!("release {}: it has no build for {architecture}", release.name);
        return Err(Refusal::new(Code::WrongTarget, what));
    };
    let file = |f: &shoal_protocol::v1::ReleaseFile| TicketFile {
        path: f.path.clone(),
        size: f.size,
        mode: if f.executable { 0o755 } else { 0o644 },
        digest: shoal_ipc::Digest(f.digest.0),
    };
    let ticket = ReleaseTicket {
        version: VERSION,
        id: shoal_ipc::Digest(held.digest.0),
        name: release.name.to_string(),
        release: release.version.clone(),
        deadline: u32::try_from(release.deadline.unwrap_or(DEADLINE)).unwrap_or(u32::MAX),
        files: build.files.iter().map(file).collect(),
    };
    if shoal_ipc::encode(&ticket).len() > RELEASE_MAX {
        let what = format!("release {}: its files have names too long for one permission", release.name);
        return Err(Refusal::new(Code::TooLarge, what));
    }
    Ok(ticket)
}

fn read(envelope: &Envelope<'_>) -> Option<Release> {
    codec::decode(envelope.payload(), Limits::of_size(Release::KIND.size_cap())).ok()
}

impl Model {
    /// Which releases are held, and which of them count now.
    pub(super) fn review_releases(&mut self) -> Result<(), StoreError> {
        let mut all = Releases::new();
        for Document { envelope: bytes, .. } in self.store.documents(Kind::Release.as_str())? {
            let Ok(envelope) = Envelope::parse(&bytes) else { continue };
            let Some(release) = read(&envelope) else { continue };
            let verified = verify(&bytes, &self.trust, now(), Expect::Stored(Kind::Release)).is_ok();
            let record = self.trust.record.as_ref().map(|r| &r.document);
            let platform = self.trust.platform.as_ref();
            let selected =
                record.is_some_and(|r| selection(&release.target, r, platform) == Selection::Selected);
            let (name, sequence, digest) = (release.name.clone(), release.sequence, envelope.identity());
            let held = Held { release: Arc::new(release), digest, counts: verified && selected };
            all.entry(name).or_default().insert(sequence, held);
        }
        self.releases = all;
        Ok(())
    }

    /// A stored release that does not verify now: its sequence still counts.
    pub(super) fn remember_release(&mut self, bytes: &[u8]) {
        let Ok(envelope) = Envelope::parse(bytes) else { return };
        let Some(release) = read(&envelope) else { return };
        let history = self.trust.documents.entry((EntryKind::Release, release.name)).or_default();
        history.epoch = history.epoch.max(release.epoch);
        history.revisions.insert(release.sequence, envelope.identity());
    }

    /// What supervise may change to.
    pub(super) fn release_ticket(&self) -> Option<ReleaseTicket> {
        let platform = self.trust.platform.as_ref()?;
        let snapshot = self.trust.snapshot.as_ref().map(|s| &*s.document);
        let held = offered(&self.releases, snapshot, &platform.agent)?;
        match ticket(held, &platform.architecture) {
            Ok(ticket) => Some(ticket),
            Err(e) => {
                say::error("no permission for a release can be made", &e);
                None
            }
        }
    }

    /// Software of this version works here: nothing older comes in its place any more (S26).
    pub(super) fn proved(&mut self, version: &str) -> Result<(), Refusal> {
        if parse_version(version) <= parse_version(&self.trust.proved_agent) {
            return Ok(());
        }
        self.store.change(|c| c.set("proved_agent", version.as_bytes())).map_err(|e| storage(&e))?;
        version.clone_into(&mut self.trust.proved_agent);
        self.review_releases().map_err(|e| storage(&e))
    }

    /// The same for the agent.
    pub(super) fn release_summary(&self) -> impl Iterator<Item = shoal_ipc::HeldDocument> {
        self.releases.values().flat_map(BTreeMap::values).map(|h| shoal_ipc::HeldDocument {
            kind: Kind::Release.as_str().to_owned(),
            name: h.release.name.to_string(),
            sequence: h.release.sequence,
            digest: shoal_ipc::Digest(h.digest.0),
            open: true,
        })
    }

    /// Older revisions than the newest few of each name.
    pub(super) fn forget_releases(&mut self) -> Result<(), StoreError> {
        let old: Vec<(Name, u64)> = self
            .releases
            .iter()
            .flat_map(|(name, all)| all.keys().rev().skip(KEEP).map(|s| (name.clone(), *s)))
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let kind = Kind::Release.as_str();
        self.store.change(|c| old.iter().try_for_each(|(n, s)| c.remove(kind, n.as_str(), *s)))?;
        for (name, sequence) in old {
            if let Some(all) = self.releases.get_mut(&name) {
                all.remove(&sequence);
            }
            if let Some(history) = self.trust.documents.get_mut(&(EntryKind::Release, name)) {
                history.revisions.remove(&sequence);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::ids::Timestamp;
    use shoal_protocol::v1::{Build, Entry, Target};

    fn held(n: u8, name: &str, sequence: u64, version: &str) -> Held {
        let release = Release {
            fleet: shoal_protocol::ids::FleetId::of_root(&Digest([0; 32])),
            epoch: 1,
            name: name.parse().unwrap(),
            sequence,
            issued_at: Timestamp(0),
            not_after: Timestamp(1),
            target: Target::default(),
            version: version.into(),
            builds: vec![Build {
                architecture: "x86_64".into(),
                reference: String::new(),
                manifest: Digest([0; 32]),
                files: vec![shoal_protocol::v1::ReleaseFile {
                    path: "shoal-agent".into(),
                    size: 1,
                    digest: Digest([n; 32]),
                    executable: true,
                    packed: None,
                }],
            }],
            deadline: None,
        };
        Held { release: Arc::new(release), digest: Digest([n; 32]), counts: true }
    }

    fn of(all: &[Held]) -> Releases {
        let mut out = Releases::new();
        for h in all {
            out.entry(h.release.name.clone()).or_default().insert(h.release.sequence, h.clone());
        }
        out
    }

    fn listing(all: &[&Held], liveness: Liveness) -> Snapshot {
        let entries = all.iter().map(|h| Entry {
            kind: EntryKind::Release,
            name: h.release.name.clone(),
            liveness,
            floor: 0,
            newest: Revision { sequence: h.release.sequence, digest: h.digest },
            stable: None,
            removal: None,
        });
        Snapshot {
            fleet: shoal_protocol::ids::FleetId::of_root(&Digest([0; 32])),
            epoch: 1,
            version: 1,
            root_version: 1,
            issued_at: Timestamp(0),
            not_after: Timestamp(1),
            entries: entries.collect(),
            audit_head: None,
            previous: None,
        }
    }

    #[test]
    fn the_newest_listed_version_above_the_running_one_is_offered() {
        let (a, b, c) =
            (held(1, "agent", 1, "0.2.0"), held(2, "agent-beta", 9, "0.10.0"), held(3, "x", 1, "0.3.0"));
        let all = of(&[a.clone(), b.clone(), c.clone()]);
        let snapshot = listing(&[&a, &b], Liveness::Live);
        let digest = |running: &str, s: Option<&Snapshot>| offered(&all, s, running).map(|h| h.digest);
        assert_eq!(digest("0.1.0", Some(&snapshot)), Some(b.digest));
        assert_eq!(digest("0.10.0", Some(&snapshot)), None);
        assert_eq!(digest("0.1.0", None), None);
        assert_eq!(digest("0.1.0", Some(&listing(&[&a, &b], Liveness::Removed))), None);
        let mut fewer = all.clone();
        fewer.get_mut(&b.release.name).unwrap().get_mut(&9).unwrap().counts = false;
        assert_eq!(offered(&fewer, Some(&snapshot), "0.1.0").unwrap().digest, a.digest);
        // What the snapshot calls stable counts as listed, another revision of the name does not.
        let newer = held(4, "agent", 2, "0.4.0");
        let mut both = listing(&[&newer], Liveness::Live);
        both.entries[0].stable = Some(Revision { sequence: 1, digest: a.digest });
        assert_eq!(offered(&of(std::slice::from_ref(&a)), Some(&both), "0.1.0").unwrap().digest, a.digest);
        assert!(offered(&of(&[a]), Some(&listing(&[&newer], Liveness::Live)), "0.1.0").is_none());
    }

    #[test]
    fn a_permission_names_the_files_of_this_architecture_only() {
        let h = held(1, "agent", 1, "0.2.0");
        let t = ticket(&h, "x86_64").unwrap();
        assert_eq!((t.files[0].mode, t.deadline, t.release.as_str()), (0o755, 600, "0.2.0"));
        assert_eq!(ticket(&h, "aarch64").unwrap_err().code, Code::WrongTarget);
    }
}
