//! Roots and snapshots come in here: verified, kept, then told to every connected device.

use crate::app::{App, now};
use crate::fleet::{Document, Input, listed};
use crate::problem::Problem;
use crate::store::{DocumentRow, SnapshotRow, Swap};
use shoal_controller_core::api;
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{Digest, FleetId, Name};
use shoal_protocol::latest::{
    Config, Deployment, EntryKind, Grant, Key, Kind, Liveness, Release, Root, Secret, Snapshot,
};
use shoal_protocol::verify::{Expect, Standing, TrustState, Verdict, Verified, verify, verify_as};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Documents = BTreeMap<Digest, Document>;
type Inputs = BTreeMap<Digest, Input>;

impl App {
    /// Takes root 1 of a new fleet, or the next root; with `handover` one that names another controller too.
    pub(crate) async fn accept_root(
        &self,
        envelope: Vec<u8>,
        handover: bool,
    ) -> Result<(FleetId, u64), Problem> {
        let _gate = self.trust_gate.lock().await;
        let trust = self.fleet().trust.clone();
        let expect = if trust.anchor.is_none() { Expect::FirstRoot } else { Expect::Only(Kind::Root) };
        let verdict = verify(&envelope, &trust, now(), expect)?;
        let Verdict::Root(root) = &verdict else { return Err(Problem::invalid("that is no root")) };
        let (version, standing) = (root.document().version, root.standing());
        if !(handover && trust.anchor.is_some()) {
            self.check_controller_block(root.document())?;
        }
        if standing == Standing::New {
            let event = Event::new(action::ROOT, "operator", format!("root {version}"))
                .number(version)
                .signed(root.identity(), root.signers());
            if !self.store.add_root(version, envelope.clone(), event, now()).await? {
                return Err(Problem::conflict(format!("root {version} is there already"), None));
            }
            let mut fleet = self.fleet();
            fleet.trust.advance(&verdict);
            fleet.roots.push(envelope.into());
        }
        let fleet = self.fleet().trust.anchor.as_ref().map(|a| a.fleet.clone());
        let fleet = fleet.ok_or_else(|| Problem::internal("there is no root after one was taken"))?;
        self.fleet_id.send_replace(Some(fleet.clone()));
        self.tell_everyone().await;
        Ok((fleet, version))
    }

    /// A root of this fleet names this controller's key and CA; else nobody could talk to it any more.
    fn check_controller_block(&self, root: &Root) -> Result<(), Problem> {
        let own = self.controller();
        let named = &root.controller;
        let same = named.online == own.online && own.ca.iter().all(|ca| named.ca.contains(ca));
        if same {
            return Ok(());
        }
        Err(Problem::refused(
            "controller_mismatch",
            "the root's controller block names another online key or CA",
        )
        .hint("take this controller's: `shoal trust rotate --controller`; or hand its devices over: `shoal trust push --handover`"))
    }

    /// Takes the next snapshot with its documents, if the one that it follows is still current (S20).
    pub(crate) async fn accept_snapshot(
        &self,
        post: api::PostSnapshot,
    ) -> Result<api::SnapshotAccepted, Problem> {
        let _gate = self.trust_gate.lock().await;
        let trust = self.fleet().trust.clone();
        if trust.anchor.is_none() {
            return Err(Problem::not_initialized());
        }
        let current = self.fleet().snapshot_ref();
        let expected = post.expected_previous.map(|d| d.0);
        let envelope = post.snapshot.0;
        let conflict = || {
            let message = "somebody published another snapshot since this one was made";
            Problem::conflict(message, current.map(api::SnapshotRef::from))
        };
        if expected != current.map(|c| c.digest) && !is_current(&envelope, current.map(|c| c.digest)) {
            return Err(conflict());
        }
        let verdict = verify(&envelope, &trust, now(), Expect::Only(Kind::Snapshot))?;
        let Verdict::Snapshot(snapshot) = &verdict else {
            return Err(Problem::invalid("that is no snapshot"));
        };
        let version = snapshot.document().version;
        if snapshot.standing() == Standing::New {
            // Of one that is further ahead (a restored store, or operators who signed without a controller) the predecessor is
            // one that never was here.
            let next = version <= current.map_or(0, |c| c.version) + 1;
            if next && snapshot.document().previous.is_some_and(|p| Some(p) != expected) {
                return Err(Problem::invalid(
                    "the snapshot names another predecessor than expected_previous",
                ));
            }
            let mut next = trust.clone();
            next.advance(&verdict);
            let mut events = Vec::new();
            let (documents, inputs) =
                self.check_documents(snapshot.document(), post.documents, &next, &mut events)?;
            events.push(
                Event::new(action::SNAPSHOT, "operator", format!("snapshot {version}"))
                    .number(version)
                    .signed(snapshot.identity(), snapshot.signers()),
            );
            let row = SnapshotRow {
                version,
                epoch: snapshot.document().epoch,
                digest: snapshot.identity(),
                envelope: envelope.clone(),
            };
            let rows = documents.iter().map(|(digest, d)| row_of(*digest, d));
            let rows = rows.chain(inputs.iter().map(|(digest, i)| row_of_input(*digest, i))).collect();
            if self.store.swap_snapshot(expected, row, rows, events, now()).await? == Swap::Conflict {
                return Err(conflict());
            }
            self.make_current(next, snapshot, envelope, (documents, inputs)).await?;
        }
        let notified = self.fleet().connected().len() as u64;
        self.wake.notify_one();
        self.tell_everyone().await;
        let snapshot = api::SnapshotRef { version, digest: snapshot.identity().into() };
        Ok(api::SnapshotAccepted { snapshot, notified })
    }

    /// Verifies the documents that came along, under the new snapshot, and that nothing listed is missing.
    fn check_documents(
        &self,
        snapshot: &Snapshot,
        envelopes: Vec<api::Base64>,
        next: &TrustState,
        events: &mut Vec<Event>,
    ) -> Result<(Documents, Inputs), Problem> {
        let mut documents = BTreeMap::new();
        let mut inputs = BTreeMap::new();
        for api::Base64(envelope) in envelopes {
            let kind = Envelope::parse(&envelope).map_err(shoal_protocol::Refusal::from)?.kind()?;
            if matches!(kind, Kind::Config | Kind::Secret | Kind::Release) {
                let (digest, input, event) = verify_input(&envelope, kind, next)?;
                events.push(event);
                inputs.insert(digest, input);
                continue;
            }
            let verified: Verified<Deployment> = verify_as(&envelope, next, now())?;
            let digest = verified.identity();
            let d = verified.document();
            let event = Event::new(action::DOCUMENT, "operator", format!("deployment {}", d.name));
            events.push(event.number(d.sequence).signed(digest, verified.signers()));
            let deployment = Arc::new(verified.into_document());
            documents.insert(digest, Document { deployment, envelope: envelope.into() });
        }
        let fleet = self.fleet();
        let absent = |name: &Name, sequence: u64, digest: Digest| {
            let message =
                format!("{name} sequence {sequence} ({digest}) is listed or referred to, but not here");
            Err(Problem::refused("document_missing", message)
                .hint("send every newly listed document together with the snapshot"))
        };
        for entry in &snapshot.entries {
            if entry.liveness == Liveness::Removed {
                continue;
            }
            for revision in std::iter::once(entry.newest).chain(entry.stable) {
                let digest = revision.digest;
                if entry.kind != EntryKind::Deployment {
                    let input = inputs.get(&digest).or_else(|| fleet.inputs.get(&digest));
                    let is = |i: &Input| {
                        (i.kind, &i.name, i.sequence) == (entry.kind, &entry.name, revision.sequence)
                    };
                    if !input.is_some_and(is) {
                        return absent(&entry.name, revision.sequence, digest);
                    }
                    continue;
                }
                let document = documents.get(&digest).or_else(|| fleet.documents.get(&digest));
                let fits = document.is_some_and(|d| {
                    d.deployment.name == entry.name && d.deployment.sequence == revision.sequence
                });
                if !fits {
                    return absent(&entry.name, revision.sequence, digest);
                }
            }
        }
        for (_, reference) in documents.values().flat_map(|d| d.deployment.template.documents()) {
            if let Some(pin) = reference.pin
                && !inputs.contains_key(&pin.digest)
                && !fleet.inputs.contains_key(&pin.digest)
            {
                return absent(&reference.name, pin.sequence, pin.digest);
            }
        }
        Ok((documents, inputs))
    }

    async fn make_current(
        &self,
        next: TrustState,
        snapshot: &Verified<Snapshot>,
        envelope: Vec<u8>,
        (documents, inputs): (Documents, Inputs),
    ) -> Result<(), Problem> {
        let listed = listed(snapshot.document());
        let gone = {
            let mut fleet = self.fleet();
            fleet.trust = next;
            fleet.snapshot = Some(envelope.into());
            fleet.documents.extend(documents);
            fleet.inputs.extend(inputs);
            let before: Vec<Digest> = fleet.inputs.keys().copied().collect();
            fleet.retain_revisions(&listed);
            let gone: Vec<Digest> = before.into_iter().filter(|d| !fleet.inputs.contains_key(d)).collect();
            let names = snapshot.document().entries.iter().map(|e| e.name.clone());
            fleet.dirty.extend(names);
            gone
        };
        if !gone.is_empty() {
            self.store.forget_inputs(gone).await?;
        }
        self.store.forget_revisions(listed.into_iter().collect()).await?;
        Ok(())
    }

    /// Takes grants of secrets that are here, for devices that are; each says for whom it is.
    pub(crate) async fn accept_grants(&self, envelopes: Vec<api::Base64>) -> Result<u64, Problem> {
        let trust = self.fleet().trust.clone();
        let mut rows = Vec::new();
        let mut events = Vec::new();
        for api::Base64(envelope) in envelopes {
            let verified = verify_as::<Grant>(&envelope, &trust, now())?;
            let (identity, signers) = (verified.identity(), verified.signers().to_vec());
            let grant = verified.into_document();
            let subject = format!("secret {} for device {}", grant.name, grant.device);
            let event = Event::new(action::GRANT, "operator", subject);
            events.push(event.number(grant.revision.sequence).signed(identity, &signers));
            let fleet = self.fleet();
            let secret = fleet.inputs.get(&grant.revision.digest);
            let fits = secret.is_some_and(|s| {
                (s.kind, &s.name, s.sequence) == (EntryKind::Secret, &grant.name, grant.revision.sequence)
            });
            if !fits {
                let what = format!("secret {} revision {}", grant.name, grant.revision.sequence);
                return Err(Problem::not_found(format_args!("{what}")));
            }
            if !fleet.devices.contains_key(&grant.device) {
                return Err(Problem::not_found(format_args!("device {}", grant.device)));
            }
            rows.push((grant.revision.digest, grant.device, envelope));
        }
        self.store.add_grants(rows.clone(), events, now()).await?;
        let mut devices = BTreeSet::new();
        {
            let mut fleet = self.fleet();
            for (secret, device, envelope) in rows {
                // Whatever it held of it before is not this one.
                for known in fleet.devices.get_mut(&device).into_iter().flat_map(|d| &mut d.holds) {
                    known.inputs.entry(secret).and_modify(|open| *open = false);
                }
                fleet.grants.entry(secret).or_default().insert(device.clone(), envelope.into());
                devices.insert(device);
            }
        }
        for device in &devices {
            self.bring_up_to_date(device, false).await;
        }
        Ok(devices.len() as u64)
    }

    /// Sends every connected device what it lacks.
    pub(crate) async fn tell_everyone(&self) {
        let connected = self.fleet().connected();
        for device in connected {
            self.bring_up_to_date(&device, false).await;
        }
    }
}

fn row_of(digest: Digest, document: &Document) -> DocumentRow {
    DocumentRow {
        digest,
        name: document.deployment.name.to_string(),
        sequence: document.deployment.sequence,
        envelope: document.envelope.to_vec(),
    }
}

fn row_of_input(digest: Digest, input: &Input) -> DocumentRow {
    let envelope = input.envelope.to_vec();
    DocumentRow { digest, name: input.name.to_string(), sequence: input.sequence, envelope }
}

fn verify_input(envelope: &[u8], kind: Kind, next: &TrustState) -> Result<(Digest, Input, Event), Problem> {
    let (digest, signers) = match kind {
        Kind::Secret => identity_of(&verify_as::<Secret>(envelope, next, now())?),
        Kind::Release => identity_of(&verify_as::<Release>(envelope, next, now())?),
        _ => identity_of(&verify_as::<Config>(envelope, next, now())?),
    };
    let input = crate::app::stored_input(envelope).map_err(|e| {
        Problem::refused("malformed", format!("a {} that verifies cannot be read: {e:#}", kind.as_str()))
    })?;
    let Input { name, sequence, .. } = &input;
    let event = Event::new(action::DOCUMENT, "operator", format!("{} {name}", kind.as_str()));
    let event = event.number(*sequence).signed(digest, &signers);
    Ok((digest, input, event))
}

fn identity_of<T>(v: &Verified<T>) -> (Digest, Vec<Key>) {
    (v.identity(), v.signers().to_vec())
}

/// Whether these are the bytes of the current snapshot: asking again after a lost answer is no conflict.
fn is_current(envelope: &[u8], current: Option<Digest>) -> bool {
    let identity = Envelope::parse(envelope).ok().map(|e| e.identity());
    identity.is_some() && identity == current
}
