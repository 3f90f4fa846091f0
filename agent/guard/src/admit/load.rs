//! What was accepted once, read back at a start and verified again: what still counts, and what is held although its signers
//! do not.

use super::model::{Model, now};
use super::store::{Document, StoreError};
use crate::say;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::refusal::Code;
use shoal_protocol::v1::{Deployment, DeviceRecord, Document as Payload, Kind, Snapshot, Token};
use shoal_protocol::verify::{self, Expect, Known, Verdict, verify};

impl Model {
    /// Everything in the store, in the order in which one needs the other.
    pub(super) fn load_all(&mut self) -> Result<(), StoreError> {
        for kind in [
            Kind::Root,
            Kind::Token,
            Kind::Device,
            Kind::Snapshot,
            Kind::Deployment,
            Kind::Config,
            Kind::Secret,
            Kind::Grant,
            Kind::Release,
        ] {
            for document in self.store.documents(kind.as_str())? {
                self.load(kind, &document)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, kind: Kind, document: &Document) -> Result<(), StoreError> {
        let first = kind == Kind::Root && self.trust.anchor.is_none();
        let expect = if first { Expect::FirstRoot } else { Expect::Stored(kind) };
        match verify(&document.envelope, &self.trust, now(), expect) {
            Ok(verdict) => {
                self.trust.advance(&verdict);
                if let Verdict::Deployment(v) = &verdict {
                    self.hold(v.document(), v.identity())?;
                }
            }
            Err(e) => {
                let what = (&document.kind, &document.name, document.sequence);
                say::line(format!("{} {} {} does not verify any more: {e}", what.0, what.1, what.2));
                match kind {
                    // Kept as bytes: its sequence still counts, and a later root may let it count again.
                    Kind::Deployment => self.hold_refused(&document.envelope)?,
                    Kind::Release => self.remember_release(&document.envelope),
                    _ if is_about_signers(e.code) => self.keep_without_signers(kind, &document.envelope),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A stored deployment that does not verify now: known by its own bytes, open for nothing.
    fn hold_refused(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Ok(envelope) = Envelope::parse(bytes) else { return Ok(()) };
        let Some(d) = read::<Deployment>(&envelope) else { return Ok(()) };
        let history = self.trust.deployments.entry(d.name.clone()).or_default();
        let accepted = verify::Accepted::new(&d, envelope.identity());
        history.epoch = history.epoch.max(d.epoch);
        history.revisions.insert(d.sequence, accepted);
        self.hold(&d, envelope.identity())
    }

    /// What was accepted and whose signers have left the root since (S6). A process that takes such a root goes on with what
    /// it holds until something newer takes its place, and so does the next one: without its snapshot a device would bring
    /// back what that calls removed and take an older one, and without its record nothing would be for it any more.
    fn keep_without_signers(&mut self, kind: Kind, bytes: &[u8]) {
        let Ok(envelope) = Envelope::parse(bytes) else { return };
        match kind {
            Kind::Snapshot => {
                let known = read::<Snapshot>(&envelope).map(|s| Known::new(s, envelope.identity()));
                self.trust.snapshot = known;
            }
            Kind::Device => {
                let known = read::<DeviceRecord>(&envelope).map(|r| Known::new(r, envelope.identity()));
                self.trust.record = known;
            }
            // Its key signs no record any more; where this device began stays true.
            Kind::Token => self.trust.minima = read::<Token>(&envelope).map(|t| t.minima),
            _ => {}
        }
    }
}

fn is_about_signers(code: Code) -> bool {
    matches!(code, Code::RevokedKey | Code::UnknownKey | Code::RoleScope | Code::Threshold)
}

fn read<T: Payload>(envelope: &Envelope<'_>) -> Option<T> {
    codec::decode(envelope.payload(), Limits::of_size(T::KIND.size_cap())).ok()
}
