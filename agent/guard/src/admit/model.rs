//! All that admission knows, in memory and in its store, and the only ways in which it changes.
//!
//! Each change is verified, then durable, then known, in this order; whoever acts on it comes after that.

use super::decide::{Held, Permission, References, Revision, Standing, forgettable, standings};
use super::documents::Documents;
use super::release::Releases;
use super::store::{Change, Document, Marks, Store, StoreError};
use super::ticket;
use crate::{clock, say};
use curve25519_dalek::montgomery::MontgomeryPoint;
use shoal_ipc::EnrollMaterial;
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{Bytes, Digest, Name, Timestamp};
use shoal_protocol::refusal::{Code, Refusal};
use shoal_protocol::signer::{Ed25519Signer, Signer as _};
use shoal_protocol::v1::{self, Disposition, Kind, Order, Verb};
use shoal_protocol::verify::target::{Selection, selection};
use shoal_protocol::verify::{
    self, Expect, OwnKeys, Platform, Standing as Found, TrustState, Verdict, verify,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Admission's own keys; made once, at enrolment.
pub(super) struct Keys {
    pub(super) attest: Ed25519Signer,
    sealing: [u8; 32],
    /// Opens grants.
    pub(super) private: Zeroizing<[u8; 32]>,
}

impl Keys {
    pub(super) fn of(attest_seed: [u8; 32], sealing_secret: [u8; 32]) -> Self {
        let sealing = MontgomeryPoint::mul_base_clamped(sealing_secret).to_bytes();
        let private = Zeroizing::new(sealing_secret);
        Self { attest: Ed25519Signer::from_seed(attest_seed), sealing, private }
    }

    fn own(&self) -> OwnKeys {
        OwnKeys { sealing: Bytes(self.sealing.to_vec()), attest: self.attest.key() }
    }
}

/// What an accepted document was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) digest: Digest,
    pub(super) known: bool,
}

/// The state.
pub(super) struct Model {
    pub(super) store: Store,
    pub(super) trust: TrustState,
    pub(super) keys: Option<Keys>,
    pub(super) held: Held,
    pub(super) documents: Documents,
    pub(super) releases: Releases,
    pub(super) fact_counter: u64,
}

pub(super) fn storage(e: &StoreError) -> Refusal {
    Refusal::new(Code::StorageUnavailable, say::chain(e))
}

pub(super) fn now() -> Timestamp {
    Timestamp(clock::now())
}

fn array(bytes: Option<Vec<u8>>) -> Option<[u8; 32]> {
    bytes.and_then(|b| b.try_into().ok())
}

impl Model {
    /// Reads the store and verifies everything in it again.
    pub(super) fn open(store: Store, platform: Platform) -> Result<Self, StoreError> {
        let keys = match (array(store.meta("attest")?), array(store.meta("sealing")?)) {
            (Some(attest), Some(sealing)) => Some(Keys::of(attest, sealing)),
            _ => None,
        };
        let trust = TrustState {
            own: keys.as_ref().map(Keys::own),
            platform: Some(platform),
            time_floor: Timestamp(store.number("time_floor")?),
            proved_agent: store.text("proved_agent")?,
            ..TrustState::default()
        };
        let fact_counter = store.number("fact_counter")?;
        let (held, documents, releases) = (Held::new(), Documents::default(), Releases::new());
        let mut model = Self { store, trust, keys, held, documents, releases, fact_counter };
        model.load_all()?;
        model.trust.order_counter = model.store.number("order_counter")?;
        model.review()?;
        Ok(model)
    }

    pub(super) fn hold(&mut self, d: &v1::Deployment, digest: Digest) -> Result<(), StoreError> {
        let Marks { good, activated, returned } = self.store.marks(&digest.0)?;
        let deployment = Arc::new(d.clone());
        let revision = Revision {
            deployment,
            digest,
            good,
            activated,
            returned,
            refused: None,
            selected: true,
            documents: References::NONE,
        };
        self.held.entry(d.name.clone()).or_default().insert(d.sequence, revision);
        Ok(())
    }

    /// Looks at every held revision again: roots, floors, labels, versions or documents may have changed.
    fn review(&mut self) -> Result<(), StoreError> {
        self.review_documents()?;
        self.review_releases()?;
        let keys: Vec<(Name, u64)> =
            self.held.iter().flat_map(|(n, all)| all.keys().map(|s| (n.clone(), *s))).collect();
        for (name, sequence) in keys {
            let envelope = self.store.document("deployment", name.as_str(), sequence)?.unwrap_or_default();
            let refused = match verify(&envelope, &self.trust, now(), Expect::Stored(Kind::Deployment)) {
                Ok(_) => None,
                Err(e) => Some((e.code.as_str().to_owned(), self.is_stopped(e.code, &envelope))),
            };
            let of = self.held.get(&name).and_then(|all| all.get(&sequence));
            let documents = of.map_or(References::NONE, |r| self.references(&r.deployment));
            let record = self.trust.record.as_ref().map(|r| r.document.clone());
            let platform = self.trust.platform.as_ref();
            if let Some(r) = self.held.get_mut(&name).and_then(|all| all.get_mut(&sequence)) {
                r.refused = refused;
                r.documents = documents;
                r.selected = record
                    .is_some_and(|d| selection(&r.deployment.target, &d, platform) == Selection::Selected);
            }
        }
        Ok(())
    }

    /// Whether what runs of a document that counts no more is stopped.
    fn is_stopped(&self, code: Code, envelope: &[u8]) -> bool {
        if code == Code::BelowFloor {
            return true;
        }
        let (Some(anchor), Ok(envelope)) = (&self.trust.anchor, Envelope::parse(envelope)) else {
            return false;
        };
        // Revocations are by key; the signer is known by its hint, which is enough to stop, never to start.
        anchor.root.document.revoked.iter().any(|r| {
            r.disposition == Disposition::Stop && envelope.signatures().iter().any(|s| s.kid == r.key.kid())
        })
    }

    /// Verifies a document that came by network, USB or relay, and makes it last.
    pub(super) fn submit(&mut self, bytes: &[u8]) -> Result<Accepted, Refusal> {
        let verdict = verify(bytes, &self.trust, now(), Expect::Delivered)?;
        self.accept(bytes, &verdict)
    }

    /// What would be said to a document by who knows `state`, which then knows it too. Nothing is kept.
    pub(super) fn rehearse(bytes: &[u8], state: &mut TrustState) -> Result<Accepted, Refusal> {
        let verdict = verify(bytes, state, now(), Expect::Delivered)?;
        let accepted = described(&verdict);
        if let Verdict::Deployment(v) = &verdict
            && verdict.standing() == Found::New
        {
            ticket::of(v.document(), &accepted.digest, true, None)?;
        }
        state.advance(&verdict);
        Ok(accepted)
    }

    fn accept(&mut self, bytes: &[u8], verdict: &Verdict) -> Result<Accepted, Refusal> {
        let mut accepted = described(verdict);
        if let Verdict::Grant(v) = verdict
            && verdict.standing() == Found::New
        {
            accepted.known = self.has_grant_as_good(v.document())?;
        }
        let Accepted { kind, sequence, digest, known, .. } = accepted;
        let name = accepted.name.clone();
        if known {
            return Ok(accepted);
        }
        if let Verdict::Deployment(v) = verdict
            && verdict.standing() == Found::New
        {
            // One that could never become a ticket is refused while refusing is possible.
            ticket::of(v.document(), &digest, true, None)?;
        }
        let order = match verdict {
            Verdict::Order(v) => self.effect_of(v.document())?,
            _ => None,
        };
        let mut next = self.trust.clone();
        next.advance(verdict);
        let document = Document { kind: kind.as_str().into(), name, sequence, envelope: bytes.to_vec() };
        crate::points::point("admit::verified");
        let change = |c: &Change<'_>| {
            match kind {
                Kind::Root | Kind::Deployment | Kind::Config | Kind::Secret | Kind::Grant | Kind::Release => {
                    c.put(&document)?;
                }
                Kind::Order => c.set_number("order_counter", sequence)?,
                _ => c.put_only(&document)?,
            }
            if let Some((digest, marks)) = &order {
                c.mark(&digest.0, *marks)?;
            }
            c.set_number("time_floor", next.time_floor.0)
        };
        self.store.change(change).map_err(|e| storage(&e))?;
        self.trust = next;
        if let Verdict::Deployment(v) = verdict {
            self.hold(v.document(), digest).map_err(|e| storage(&e))?;
        }
        if let Some((digest, marks)) = order {
            self.set_marks(&digest, marks);
        }
        self.review().map_err(|e| storage(&e))?;
        self.forget_old().map_err(|e| storage(&e))?;
        Ok(accepted)
    }

    /// What an order changes of a revision, or why it may not. `verify` has seen to signature, counter and consent.
    fn effect_of(&self, order: &Order) -> Result<Option<(Digest, Marks)>, Refusal> {
        let find = |name: &Name, r: &v1::Revision| {
            let found = self.held.get(name).and_then(|all| all.get(&r.sequence));
            found.filter(|f| f.digest == r.digest).ok_or_else(|| {
                Refusal::new(
                    Code::OrderForbidden,
                    format!("{name}: sequence {} is not held here", r.sequence),
                )
            })
        };
        match &order.verb {
            Verb::Activate { name, revision } => {
                let r = find(name, revision)?;
                Ok(Some((r.digest, Marks { activated: true, ..marks_of(r) })))
            }
            Verb::Return { name, revision } => {
                let r = find(name, revision)?;
                if r.returned {
                    let what = format!("{name}: sequence {} was returned from before", revision.sequence);
                    return Err(Refusal::new(Code::ReturnSpent, what));
                }
                let below = |o: &&Revision| o.good && !o.returned && o.digest != r.digest;
                let mut all = self.held.get(name).into_iter().flat_map(BTreeMap::values);
                if let Some(target) = all.rfind(below)
                    && let Some((code, _)) = &target.refused
                {
                    let sequence = target.deployment.sequence;
                    return Err(Refusal::new(
                        Code::BelowFloor,
                        format!("{name}: last-good {sequence} is {code}"),
                    ));
                }
                Ok(Some((r.digest, Marks { returned: true, ..marks_of(r) })))
            }
            Verb::Stage { .. } | Verb::Restart { .. } | Verb::Logs { .. } => Ok(None),
        }
    }

    /// The word of uid 0 at the device, which opens what waits for an order. Whether it was not open before.
    pub(super) fn activate(&mut self, name: &str, sequence: u64, digest: &Digest) -> Result<bool, Refusal> {
        let found =
            self.held.iter().find(|(n, _)| n.as_str() == name).and_then(|(_, all)| all.get(&sequence));
        let Some(r) = found.filter(|r| r.digest == *digest) else {
            let what = format!("{name}: sequence {sequence} is not held here");
            return Err(Refusal::new(Code::OrderForbidden, what));
        };
        if r.activated {
            return Ok(false);
        }
        let marks = Marks { activated: true, ..marks_of(r) };
        self.store.change(|c| c.mark(&digest.0, marks)).map_err(|e| storage(&e))?;
        self.set_marks(digest, marks);
        Ok(true)
    }

    pub(super) fn set_marks(&mut self, digest: &Digest, m: Marks) {
        let all = self.held.values_mut().flat_map(BTreeMap::values_mut);
        if let Some(r) = all.into_iter().find(|r| r.digest == *digest) {
            (r.good, r.activated, r.returned) = (m.good, m.activated, m.returned);
        }
    }

    pub(super) fn forget_old(&mut self) -> Result<(), StoreError> {
        self.forget_revisions()?;
        self.forget_documents()?;
        self.forget_releases()
    }

    fn forget_revisions(&mut self) -> Result<(), StoreError> {
        let old = forgettable(&self.held, &self.standings());
        if old.is_empty() {
            return Ok(());
        }
        let digest = |name: &Name, s: u64| self.held.get(name).and_then(|all| all.get(&s)).map(|r| r.digest);
        let named: Vec<(Name, u64, Digest)> =
            old.into_iter().filter_map(|(n, s)| digest(&n, s).map(|d| (n, s, d))).collect();
        self.store.change(|c| named.iter().try_for_each(|(n, s, d)| c.forget(n.as_str(), *s, &d.0)))?;
        for (name, sequence, _) in named {
            if let Some(all) = self.held.get_mut(&name) {
                all.remove(&sequence);
            }
            if let Some(h) = self.trust.deployments.get_mut(&name) {
                h.revisions.remove(&sequence);
            }
        }
        Ok(())
    }

    /// Takes root chain and token from uid 0: the first ones, or newer ones of the same fleet.
    pub(super) fn enroll(&mut self, material: &EnrollMaterial) -> Result<(), Refusal> {
        let mut next = self.trust.clone();
        let mut documents = Vec::new();
        for (i, bytes) in material.roots.iter().enumerate() {
            let expect = if i == 0 { Expect::FirstRoot } else { Expect::Only(Kind::Root) };
            let verdict = match verify(bytes, &next, now(), expect) {
                // The chain begins before what is held already.
                Err(e) if i > 0 && e.code == Code::Rollback && self.trust.anchor.is_some() => continue,
                other => other?,
            };
            if let (Verdict::Root(v), Found::New) = (&verdict, verdict.standing()) {
                documents.push(document(Kind::Root, v.document().version, bytes));
            }
            next.advance(&verdict);
        }
        let verdict = verify(&material.token, &next, now(), Expect::Only(Kind::Token))?;
        next.advance(&verdict);
        let token = document(Kind::Token, 0, &material.token);
        let secrets = if self.keys.is_none() { Some((random()?, random()?)) } else { None };
        crate::points::point("admit::enroll");
        let change = |c: &Change<'_>| {
            documents.iter().try_for_each(|d| c.put(d))?;
            c.put_only(&token)?;
            if let Some((attest, sealing)) = &secrets {
                c.set("attest", attest)?;
                c.set("sealing", sealing)?;
            }
            c.set_number("time_floor", next.time_floor.0)
        };
        self.store.change(change).map_err(|e| storage(&e))?;
        if let Some((attest, sealing)) = secrets {
            self.keys = Some(Keys::of(attest, sealing));
        }
        next.own = self.keys.as_ref().map(Keys::own);
        self.trust = next;
        self.review().map_err(|e| storage(&e))
    }

    /// The public halves of attest and sealing key.
    pub(super) fn public_keys(&self) -> Option<([u8; 32], [u8; 32])> {
        let keys = self.keys.as_ref()?;
        Some((keys.attest.key().public.0.try_into().ok()?, keys.sealing))
    }

    /// The standing of every held revision, now.
    pub(super) fn standings(&self) -> BTreeMap<Digest, Standing> {
        let snapshot = self.trust.snapshot.as_ref().map(|s| &*s.document);
        let time = verify::time::effective(now(), self.trust.time_floor);
        standings(&self.held, snapshot, time)
    }

    /// States of the device as a whole.
    pub(super) fn conditions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let time = verify::time::effective(now(), self.trust.time_floor);
        if !verify::time::is_trusted(now(), self.trust.time_floor) {
            all.push(Code::TimeUntrusted.as_str().to_owned());
        }
        if self.trust.snapshot.as_ref().is_some_and(|s| time > s.document.not_after) {
            all.push(Code::SnapshotExpired.as_str().to_owned());
        }
        all
    }
}

/// What an answer says of a document.
fn described(verdict: &Verdict) -> Accepted {
    let (name, sequence) = match verdict {
        Verdict::Root(v) => (String::new(), v.document().version),
        Verdict::Snapshot(v) => (String::new(), v.document().version),
        Verdict::Deployment(v) => (v.document().name.to_string(), v.document().sequence),
        Verdict::Device(v) => (String::new(), v.document().sequence),
        Verdict::Order(v) => (String::new(), v.document().counter),
        Verdict::Config(v) => (v.document().name.to_string(), v.document().sequence),
        Verdict::Secret(v) => (v.document().name.to_string(), v.document().sequence),
        Verdict::Grant(v) => (v.document().name.to_string(), v.document().revision.sequence),
        Verdict::Release(v) => (v.document().name.to_string(), v.document().sequence),
        Verdict::ReceiptRequest(v) => (String::new(), v.document().snapshot.version),
        Verdict::Token(_) | Verdict::Report(_) | Verdict::Fact(_) | Verdict::Receipt(_) => (String::new(), 0),
    };
    let known = verdict.standing() == Found::Held;
    Accepted { kind: verdict.kind(), name, sequence, digest: verdict.identity(), known }
}

pub(super) fn marks_of(r: &Revision) -> Marks {
    Marks { good: r.good, activated: r.activated, returned: r.returned }
}

fn document(kind: Kind, sequence: u64, bytes: &[u8]) -> Document {
    Document { kind: kind.as_str().into(), name: String::new(), sequence, envelope: bytes.to_vec() }
}

fn random() -> Result<[u8; 32], Refusal> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|e| Refusal::new(Code::StorageUnavailable, format!("no randomness for new keys: {e}")))?;
    Ok(bytes)
}

/// Whether a standing lets a revision be fetched, and started.
pub(super) fn open_for(s: &Standing) -> (bool, bool) {
    match s.permission {
        Permission::Ticket { startable } => (true, startable),
        Permission::Withdrawn { .. } => (false, false),
    }
}
