//! Configs, secrets and grants in the trust store: what of them counts now, what deployments get of them, and what goes.

use super::decide::{References, Revision};
use super::documents::{self, Documents, Missing, Resolved};
use super::model::{Model, now, open_for};
use super::store::StoreError;
use super::ticket;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::refusal::{Code, Refusal};
use shoal_protocol::sealing;
use shoal_protocol::v1::{self, EntryKind, Kind};
use shoal_protocol::verify::{Expect, Verdict, verify};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Model {
    /// Takes stock of configs, secrets and grants: what is stored, counts now, and is not called removed.
    pub(super) fn review_documents(&mut self) -> Result<(), StoreError> {
        let mut all = Documents::default();
        all.listed_by(self.trust.snapshot.as_ref().map(|s| &*s.document));
        for kind in [Kind::Config, Kind::Secret, Kind::Grant] {
            for d in self.store.documents(kind.as_str())? {
                // One that counts no more is nobody's to use, and goes with what is not used.
                match verify(&d.envelope, &self.trust, now(), Expect::Stored(kind)) {
                    Ok(Verdict::Config(v)) => {
                        let digest = v.identity();
                        all.held.insert(digest, documents::Held::Config(Arc::new(v.into_document())));
                    }
                    Ok(Verdict::Secret(v)) => {
                        let digest = v.identity();
                        all.held.insert(digest, documents::Held::Secret(Arc::new(v.into_document())));
                    }
                    Ok(Verdict::Grant(v)) => {
                        let grant = v.into_document();
                        all.grants.insert(grant.revision.digest, Arc::new(grant));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.documents = all;
        Ok(())
    }

    /// Whether the secret opens here already, so that another grant is of no use; a first one must open it (S25): what opens
    /// nothing takes no room, and not the place of one that does.
    pub(super) fn has_grant_as_good(&self, grant: &v1::Grant) -> Result<bool, Refusal> {
        let (name, revision) = (&grant.name, &grant.revision);
        let Some(documents::Held::Secret(secret)) = self.documents.held.get(&revision.digest) else {
            let what =
                format!("grant of {name}: sequence {} of that secret is not held here", revision.sequence);
            return Err(Refusal::new(Code::WrongTarget, what));
        };
        let opens = |grant: &v1::Grant| {
            let private = self.keys.as_ref().map_or([0; 32], |k| *k.private);
            let key = sealing::unwrap(grant, &private)?;
            let fits = key.commitment() == secret.commitment;
            let what = || format!("grant of {name}: it holds another key than the secret commits to");
            fits.then_some(()).ok_or_else(|| Refusal::new(Code::SecretContext, what()))
        };
        if self.documents.grants.get(&revision.digest).is_some_and(|held| opens(held).is_ok()) {
            return Ok(true);
        }
        opens(grant).map(|()| false)
    }

    pub(super) fn references(&self, d: &v1::Deployment) -> References {
        if d.template.documents().next().is_none() {
            return References::NONE;
        }
        // What they hold counts for the ticket's size, which is known only now.
        let fits = |r: Resolved| match ticket::of(d, &Digest([0; 32]), true, Some(&r)) {
            Ok(_) => Ok(()),
            Err(e) => Err(Missing { code: e.code, detail: e.detail }),
        };
        References { stamp: self.documents.stamp(d), missing: self.resolve(d).and_then(fits).err() }
    }

    /// What a deployment gets of configs and secrets; opened here, and gone with the ticket that it is for.
    pub(super) fn resolve(&self, d: &v1::Deployment) -> Result<Resolved, Missing> {
        self.documents.resolve(d, self.keys.as_ref().map(|k| &*k.private))
    }

    /// Configs, secrets and grants that nothing which may start uses.
    pub(super) fn forget_documents(&mut self) -> Result<(), StoreError> {
        let standings = self.standings();
        let open = |r: &&Revision| standings.get(&r.digest).is_some_and(|s| open_for(s).0);
        let mut used = BTreeSet::new();
        for r in self.held.values().flat_map(BTreeMap::values).filter(open) {
            used.extend(self.documents.used_by(&r.deployment));
        }
        let named = self.documents.named(&used);
        let mut old = Vec::new();
        for (kind, entry) in [
            (Kind::Config, EntryKind::Config),
            (Kind::Secret, EntryKind::Secret),
            (Kind::Grant, EntryKind::Secret),
        ] {
            let stored = self.store.documents(kind.as_str())?.into_iter();
            let unused = stored.filter(|d| !named.contains(&(entry, d.name.clone(), d.sequence)));
            old.extend(unused.map(|d| (kind, d.name, d.sequence)));
        }
        if old.is_empty() {
            return Ok(());
        }
        self.store
            .change(|c| old.iter().try_for_each(|(kind, name, s)| c.remove(kind.as_str(), name, *s)))?;
        let is_used = |kind, name: &Name, s: u64| named.contains(&(kind, name.to_string(), s));
        for ((kind, name), history) in &mut self.trust.documents {
            history.revisions.retain(|s, _| *kind == EntryKind::Release || is_used(*kind, name, *s));
        }
        self.trust.documents.retain(|_, h| !h.revisions.is_empty());
        self.trust.grants.retain(|(name, s), _| is_used(EntryKind::Secret, name, *s));
        self.documents.keep_only(&used);
        Ok(())
    }
}
