//! What a verifier knows: plain data, filled by device admission, controller and CLI alike.
//!
//! Changes only by [`TrustState::advance`], with something that `verify` has passed. Never here: a check.

use super::{Standing, Verdict, Verified};
use crate::ids::{Bytes, Digest, FleetId, Name, Timestamp};
use crate::v1::{
    Deployment, DeviceRecord, EntryKind, Key, LogConsent, Minima, Revision, Root, Snapshot, Token,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A document that was accepted, with its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// The document; shared, so that a state is cheap to copy.
    pub document: Arc<T>,
    /// Its identity.
    pub digest: Digest,
}

impl<T> Known<T> {
    /// A document with this identity.
    pub fn new(document: T, digest: Digest) -> Self {
        Self { document: Arc::new(document), digest }
    }
}

impl<T: Clone> From<&Verified<T>> for Known<T> {
    fn from(v: &Verified<T>) -> Self {
        Self::new(v.document().clone(), v.identity())
    }
}

/// The fleet's trust anchor as far as the chain was walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The fleet: from root 1's identity.
    pub fleet: FleetId,
    /// The newest root.
    pub root: Known<Root>,
    /// Keys that earlier roots named and the newest does not: they are `revoked_key`, not `unknown_key`.
    pub former: Vec<Key>,
}

/// Who verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Viewpoint {
    /// A device: what is not for it is refused, and only what its snapshot lists is taken.
    #[default]
    Device,
    /// Controller or CLI, with a clock that is kept right: targets are other machines' matter.
    Observer,
}

/// The keys that a device's own record must name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKeys {
    /// X25519 public key.
    pub sealing: Bytes,
    /// Public half of the attest key.
    pub attest: Key,
}

/// What a device is, for targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Platform {
    /// `x86_64`, `aarch64` …
    pub architecture: String,
    /// Agent version, `major.minor.patch`.
    pub agent: String,
    /// Engine version, `major.minor.patch`; empty without an engine.
    pub engine: String,
}

/// One accepted revision of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The document's identity.
    pub digest: Digest,
    /// What of its log may leave.
    pub logs: LogConsent,
    /// Not activated before this.
    pub not_before: Option<Timestamp>,
    /// The configs and secrets that it refers to, each with the revision that it insists on.
    pub documents: Vec<(EntryKind, Name, Option<Revision>)>,
}

impl Accepted {
    /// What is remembered of a deployment.
    pub fn new(d: &Deployment, digest: Digest) -> Self {
        let documents = d.template.documents().map(|(kind, r)| (kind, r.name.clone(), r.pin));
        let mut documents: Vec<_> = documents.collect();
        documents.sort();
        documents.dedup();
        Self { digest, logs: d.logs, not_before: d.not_before, documents }
    }
}

/// All revisions of one config, secret or release that are held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DocumentHistory {
    /// The epoch of the highest one; a higher epoch begins anew.
    pub epoch: u64,
    /// By sequence.
    pub revisions: BTreeMap<u64, Digest>,
}

impl DocumentHistory {
    fn take(&mut self, epoch: u64, sequence: u64, digest: Digest) {
        if epoch > self.epoch {
            *self = Self { epoch, revisions: BTreeMap::new() };
        }
        self.revisions.insert(sequence, digest);
    }

    /// Whether exactly this revision is held.
    pub fn holds(&self, revision: &Revision) -> bool {
        self.revisions.get(&revision.sequence) == Some(&revision.digest)
    }
}

/// All accepted revisions of one name that are still remembered; the highest one is never forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The epoch of the highest one; a higher epoch begins anew.
    pub epoch: u64,
    /// By sequence.
    pub revisions: BTreeMap<u64, Accepted>,
}

impl History {
    /// The highest accepted revision.
    pub fn highest(&self) -> Option<Revision> {
        self.revisions.last_key_value().map(|(&sequence, a)| Revision { sequence, digest: a.digest })
    }

    /// Whether exactly this revision was accepted.
    pub fn holds(&self, revision: &Revision) -> bool {
        self.revisions.get(&revision.sequence).is_some_and(|a| a.digest == revision.digest)
    }
}

/// The last counter of a device's reports or facts, with what came under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The counter.
    pub counter: u64,
    /// The document's identity.
    pub digest: Digest,
}

/// What a verifier knows. The empty state knows no fleet and takes nothing but a first root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustState {
    /// Who verifies.
    pub viewpoint: Viewpoint,
    /// The newest root; absent before the first.
    pub anchor: Option<Anchor>,
    /// The fleet that a first root must found (from the join file); absent takes any.
    pub fleet: Option<FleetId>,
    /// The newest snapshot.
    pub snapshot: Option<Known<Snapshot>>,
    /// The record of this device; on the controller, of the device that the bytes are said to be from.
    pub record: Option<Known<DeviceRecord>>,
    /// On a device: what its record must name.
    pub own: Option<OwnKeys>,
    /// On a device: what it is.
    pub platform: Option<Platform>,
    /// Verified tokens whose keys may sign device records.
    pub tokens: Vec<Token>,
    /// Accepted deployments by name.
    pub deployments: BTreeMap<Name, History>,
    /// Held configs, secrets and releases by kind and name.
    pub documents: BTreeMap<(EntryKind, Name), DocumentHistory>,
    /// Identities of held grants, by the secret and its sequence.
    pub grants: BTreeMap<(Name, u64), Digest>,
    /// The highest accepted order counter.
    pub order_counter: u64,
    /// The last report stored of the device.
    pub report: Option<Mark>,
    /// The last fact stored of the device.
    pub fact: Option<Mark>,
    /// The last receipt stored of the device.
    pub receipt: Option<Mark>,
    /// Where a new device begins.
    pub minima: Option<Minima>,
    /// On a device: the newest agent version that proved healthy on it; empty before the first.
    pub proved_agent: String,
    /// No document is older than this; stands in for the clock when that is behind.
    pub time_floor: Timestamp,
}

impl TrustState {
    /// Whether a remembered revision of a deployment refers to this config or secret.
    pub fn refers_to(&self, kind: EntryKind, name: &Name) -> bool {
        self.references().any(|(k, n, _)| *k == kind && n == name)
    }

    /// Whether a remembered revision of a deployment insists on exactly this revision.
    pub fn pins(&self, kind: EntryKind, name: &Name, revision: &Revision) -> bool {
        self.references().any(|(k, n, pin)| *k == kind && n == name && pin.as_ref() == Some(revision))
    }

    fn references(&self) -> impl Iterator<Item = &(EntryKind, Name, Option<Revision>)> {
        self.deployments.values().flat_map(|h| h.revisions.values()).flat_map(|a| &a.documents)
    }

    /// Takes over what was verified: persist the bytes first. Returns nothing that can fail, since `verify` has decided.
    pub fn advance(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Root(v) => self.advance_root(v),
            Verdict::Snapshot(v) => {
                self.time_floor = self.time_floor.max(v.document().issued_at);
                self.snapshot = Some(v.into());
            }
            Verdict::Deployment(v) => {
                let d = v.document();
                let history = self.deployments.entry(d.name.clone()).or_default();
                if d.epoch > history.epoch {
                    *history = History { epoch: d.epoch, revisions: BTreeMap::new() };
                }
                history.revisions.insert(d.sequence, Accepted::new(d, v.identity()));
            }
            Verdict::Config(v) => {
                let d = v.document();
                let key = (EntryKind::Config, d.name.clone());
                self.documents.entry(key).or_default().take(d.epoch, d.sequence, v.identity());
            }
            Verdict::Secret(v) => {
                let d = v.document();
                let key = (EntryKind::Secret, d.name.clone());
                self.documents.entry(key).or_default().take(d.epoch, d.sequence, v.identity());
            }
            Verdict::Release(v) => {
                let d = v.document();
                let key = (EntryKind::Release, d.name.clone());
                self.documents.entry(key).or_default().take(d.epoch, d.sequence, v.identity());
            }
            Verdict::Grant(v) => {
                let d = v.document();
                self.grants.insert((d.name.clone(), d.revision.sequence), v.identity());
            }
            Verdict::Device(v) => self.record = Some(v.into()),
            Verdict::Token(v) => {
                if self.viewpoint == Viewpoint::Device {
                    let minima = v.document().minima;
                    self.time_floor = self.time_floor.max(minima.time);
                    self.minima = Some(minima);
                }
                if !self.tokens.contains(v.document()) {
                    self.tokens.push(v.document().clone());
                }
            }
            Verdict::Order(v) => self.order_counter = v.document().counter,
            Verdict::Report(v) => {
                self.report = Some(Mark { counter: v.document().counter, digest: v.identity() });
            }
            Verdict::Fact(v) => {
                self.fact = Some(Mark { counter: v.document().counter, digest: v.identity() });
            }
            Verdict::Receipt(v) => {
                self.receipt = Some(Mark { counter: v.document().counter, digest: v.identity() });
            }
            // Answered, and forgotten.
            Verdict::ReceiptRequest(_) => {}
        }
    }

    fn advance_root(&mut self, v: &Verified<Root>) {
        if v.standing() == Standing::Held {
            return;
        }
        let root = v.document();
        self.time_floor = self.time_floor.max(root.issued_at);
        let mut anchor = Anchor {
            fleet: root.fleet.clone().unwrap_or_else(|| FleetId::of_root(&v.identity())),
            root: v.into(),
            former: Vec::new(),
        };
        if let Some(old) = self.anchor.take() {
            if root.epoch > old.root.document.epoch
                && let Some(minima) = &mut self.minima
            {
                // Sequences begin anew with the epoch; what the join file knew of the old one says nothing now.
                minima.snapshot_version = 0;
            }
            anchor.former = old.former;
            anchor.former.extend(named_keys(&old.root.document).cloned());
            anchor.former.sort();
            anchor.former.dedup();
            anchor.former.retain(|key| !named_keys(root).any(|k| k == key));
        }
        self.fleet = Some(anchor.fleet.clone());
        self.anchor = Some(anchor);
    }
}

/// All keys that a root names, revoked ones left out.
pub(super) fn named_keys(root: &Root) -> impl Iterator<Item = &Key> {
    root.roles.iter().flat_map(|r| &r.keys).chain(std::iter::once(&root.controller.online))
}
