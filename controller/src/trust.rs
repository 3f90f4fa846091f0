//! Roots and snapshots come in here: verified, kept, then told to every connected device.

use crate::app::{App, now};
use crate::fleet::{Document, listed};
use crate::problem::Problem;
use crate::store::{DocumentRow, SnapshotRow, Swap};
use shoal_controller_core::api;
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::ids::{Digest, FleetId};
use shoal_protocol::latest::{Deployment, EntryKind, Kind, Liveness, Root, Snapshot};
use shoal_protocol::verify::{Expect, Standing, TrustState, Verdict, Verified, verify, verify_as};
use std::collections::BTreeMap;
use std::sync::Arc;

impl App {
    /// Takes root 1 of a new fleet, or the next root.
    pub(crate) async fn accept_root(&self, envelope: Vec<u8>) -> Result<(FleetId, u64), Problem> {
        let _gate = self.trust_gate.lock().await;
        let trust = self.fleet().trust.clone();
        let expect = if trust.anchor.is_none() { Expect::FirstRoot } else { Expect::Only(Kind::Root) };
        let verdict = verify(&envelope, &trust, now(), expect)?;
        let Verdict::Root(root) = &verdict else { return Err(Problem::invalid("that is no root")) };
        let (version, standing) = (root.document().version, root.standing());
        self.check_controller_block(root.document())?;
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
        .hint("take the controller block from GET /v1/trust of this controller and sign the root again"))
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
            if snapshot.document().previous.is_some_and(|p| Some(p) != expected) {
                return Err(Problem::invalid(
                    "the snapshot names another predecessor than expected_previous",
                ));
            }
            let mut next = trust.clone();
            next.advance(&verdict);
            let (documents, mut events) = self.check_documents(snapshot.document(), post.documents, &next)?;
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
            let rows = documents.iter().map(|(digest, d)| row_of(*digest, d)).collect();
            if self.store.swap_snapshot(expected, row, rows, events, now()).await? == Swap::Conflict {
                return Err(conflict());
            }
            self.make_current(next, snapshot, envelope, documents).await?;
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
    ) -> Result<(BTreeMap<Digest, Document>, Vec<Event>), Problem> {
        let mut documents = BTreeMap::new();
        let mut events = Vec::new();
        for api::Base64(envelope) in envelopes {
            let verified: Verified<Deployment> = verify_as(&envelope, next, now())?;
            let digest = verified.identity();
            let d = verified.document();
            let event = Event::new(action::DOCUMENT, "operator", format!("deployment {}", d.name));
            events.push(event.number(d.sequence).signed(digest, verified.signers()));
            let deployment = Arc::new(verified.into_document());
            documents.insert(digest, Document { deployment, envelope: envelope.into() });
        }
        let fleet = self.fleet();
        for entry in &snapshot.entries {
            if entry.kind != EntryKind::Deployment {
                let message = format!("{}: only deployments can be listed yet", entry.name);
                return Err(Problem::refused("unsupported_value", message));
            }
            if entry.liveness == Liveness::Removed {
                continue;
            }
            for revision in std::iter::once(entry.newest).chain(entry.stable) {
                let digest = revision.digest;
                let document = documents.get(&digest).or_else(|| fleet.documents.get(&digest));
                let fits = document.is_some_and(|d| {
                    d.deployment.name == entry.name && d.deployment.sequence == revision.sequence
                });
                if !fits {
                    let message = format!(
                        "{} sequence {} ({digest}) is listed, but not here",
                        entry.name, revision.sequence
                    );
                    return Err(Problem::refused("document_missing", message)
                        .hint("send every newly listed deployment together with the snapshot"));
                }
            }
        }
        Ok((documents, events))
    }

    async fn make_current(
        &self,
        next: TrustState,
        snapshot: &Verified<Snapshot>,
        envelope: Vec<u8>,
        documents: BTreeMap<Digest, Document>,
    ) -> Result<(), Problem> {
        let listed = listed(snapshot.document());
        {
            let mut fleet = self.fleet();
            fleet.trust = next;
            fleet.snapshot = Some(envelope.into());
            fleet.documents.extend(documents);
            fleet.retain_revisions(&listed);
            let names = snapshot.document().entries.iter().map(|e| e.name.clone());
            fleet.dirty.extend(names);
        }
        self.store.forget_revisions(listed.into_iter().collect()).await?;
        Ok(())
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

/// Whether these are the bytes of the current snapshot: asking again after a lost answer is no conflict.
fn is_current(envelope: &[u8], current: Option<Digest>) -> bool {
    let identity = shoal_protocol::envelope::Envelope::parse(envelope).ok().map(|e| e.identity());
    identity.is_some() && identity == current
}
