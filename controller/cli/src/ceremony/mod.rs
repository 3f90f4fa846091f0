//! A draft: documents on their way from signer to signer, with all that each one needs to check them without a network.
//!
//! Nothing in the file is believed: the root chain is walked from its beginning, the documents are decoded strictly, and
//! signatures are counted by `shoal_protocol::verify`. Never here: asking people, talking to a controller.

mod file;

use crate::error::{CliError, Result};
use crate::home::Home;
use crate::keys::OwnKey;
use crate::publish::{Sealed, ends};
use crate::roots;
use crate::trust::{Trust, now, refusal};
use serde::Serialize;
use shoal_protocol::codec;
use shoal_protocol::envelope::{Envelope, identity, sign};
use shoal_protocol::ids::{Digest, FleetId};
use shoal_protocol::latest::{Deployment, Document, Key, Kind, Role, RoleName, Root, Snapshot};
use shoal_protocol::verify::{Expect, TrustState, check_root, good_signers, verify};

/// What a document of a draft says.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Root(Box<Root>),
    Snapshot(Box<Snapshot>),
    Deployment(Box<Deployment>),
}

/// One document that is to be signed.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) content: Content,
    pub(crate) digest: Digest,
    payload: Vec<u8>,
    envelope: Option<Vec<u8>>,
}

/// A draft that was checked.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The chain and snapshot that it builds on; nothing when it founds a fleet.
    pub(crate) base: Option<Trust>,
    snapshot: Option<Vec<u8>>,
    pub(crate) items: Vec<Item>,
}

/// Signatures that a document needs: any one of the roles will do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Need {
    /// In whose name.
    pub(crate) role: String,
    pub(crate) threshold: u64,
    #[serde(skip)]
    pub(crate) keys: Vec<Key>,
    /// Those of them with a good signature.
    #[serde(skip)]
    pub(crate) signed: Vec<Key>,
}

impl Need {
    pub(crate) fn lacks(&self) -> u64 {
        self.threshold.saturating_sub(self.signed.len() as u64)
    }
}

impl Item {
    /// A document that nobody has signed yet.
    pub(crate) fn new<T: Document>(document: &T, content: Content) -> Self {
        let payload = codec::encode(document);
        Self { content, digest: identity(T::KIND, &payload), payload, envelope: None }
    }

    fn kind(&self) -> Kind {
        match self.content {
            Content::Root(_) => Kind::Root,
            Content::Snapshot(_) => Kind::Snapshot,
            Content::Deployment(_) => Kind::Deployment,
        }
    }

    fn signed_by(&self, keys: &[Key]) -> Vec<Key> {
        let parsed = self.envelope.as_deref().and_then(|e| Envelope::parse(e).ok());
        parsed.map_or_else(Vec::new, |e| good_signers(&e, keys))
    }

    fn need(&self, role: String, threshold: u64, keys: &[Key]) -> Need {
        Need { role, threshold, keys: keys.to_vec(), signed: self.signed_by(keys) }
    }

    /// Adds a signature.
    fn add(&mut self, key: &OwnKey) -> Result<()> {
        let signed = match &self.envelope {
            None => sign(self.kind(), &self.payload, &[key]),
            Some(bytes) => {
                let envelope = Envelope::parse(bytes).map_err(|e| damaged(&e.to_string()))?;
                envelope.cosign(key)
            }
        };
        let signed = signed.map_err(|e| {
            CliError::failure(format!("cannot sign the {} with {}", self.kind().as_str(), key.name))
                .because(e)
        })?;
        self.envelope = Some(signed);
        if self.signed_by(&[key.public()]).is_empty() {
            return Err(CliError::failure(format!(
                "the key {} made a signature that does not verify",
                key.name
            ))
            .hint("is its public half the right one? `shoal keys ls` shows it"));
        }
        Ok(())
    }
}

fn damaged(why: &str) -> CliError {
    CliError::usage(format!("the draft cannot be used: {why}")).hint("ask for it again; write none by hand")
}

impl Draft {
    /// The first documents of a fleet, or the next ones on top of `base`.
    pub(crate) fn new(base: Option<Trust>, items: Vec<Item>) -> Result<Self> {
        let snapshot = base.as_ref().and_then(|t| crate::trust::own_snapshot(t).ok());
        let draft = Self { base, snapshot, items };
        draft.check()?;
        Ok(draft)
    }

    /// The root that the draft brings, if it does.
    pub(crate) fn root(&self) -> Option<&Root> {
        self.items.iter().find_map(|i| match &i.content {
            Content::Root(r) => Some(&**r),
            _ => None,
        })
    }

    /// The fleet that it is for.
    pub(crate) fn fleet(&self) -> Result<FleetId> {
        if let Some(base) = &self.base {
            return Ok(base.anchor()?.fleet.clone());
        }
        let root = self.items.iter().find(|i| matches!(i.content, Content::Root(_)));
        root.map(|i| FleetId::of_root(&i.digest))
            .ok_or_else(|| damaged("it founds no fleet and builds on none"))
    }

    /// The root under which everything but a root itself is signed.
    fn ruling(&self) -> Result<&Root> {
        match (self.root(), &self.base) {
            (Some(root), _) => Ok(root),
            (None, Some(base)) => base.root(),
            (None, None) => Err(damaged("it founds no fleet and builds on none")),
        }
    }

    fn check(&self) -> Result<()> {
        let fleet = self.fleet()?;
        let roots = self.items.iter().filter(|i| matches!(i.content, Content::Root(_))).count();
        if self.items.is_empty() || roots > 1 {
            return Err(damaged("it holds no document, or several roots"));
        }
        for item in &self.items {
            let own = match &item.content {
                Content::Root(r) => {
                    check_root(r).map_err(|e| refusal("the draft's root", &e))?;
                    let wanted = match &self.base {
                        Some(base) => base.root()?.version + 1,
                        None => 1,
                    };
                    if r.version != wanted {
                        return Err(damaged(&format!(
                            "root {} does not follow root {}",
                            r.version,
                            wanted - 1
                        )));
                    }
                    r.fleet.as_ref().unwrap_or(&fleet)
                }
                Content::Snapshot(s) => &s.fleet,
                Content::Deployment(d) => &d.fleet,
            };
            if *own != fleet {
                return Err(CliError::refused(
                    "wrong_target",
                    format!("a document is for fleet {own}, the draft for {fleet}"),
                ));
            }
        }
        Ok(())
    }

    /// A chain that differs from the own one is another fleet's, or a forger's.
    fn compare_with_own(&self, home: &Home) -> Result<()> {
        let fleet = self.fleet()?;
        let Some(own) = Trust::load(home, fleet.as_str())? else { return Ok(()) };
        let theirs = self.base.as_ref().map_or(&[][..], |b| &b.roots);
        let differs = own.roots.iter().zip(theirs).any(|(a, b)| {
            let id = |bytes: &[u8]| Envelope::parse(bytes).ok().map(|e| e.identity());
            id(a) != id(b)
        });
        if differs || theirs.len() < own.roots.len() {
            return Err(CliError::refused(
                "base_untrusted",
                format!(
                    "the draft builds on root {}, not on root {} that this operator holds",
                    theirs.len(),
                    own.roots.len()
                ),
            )
            .hint("it is older than the own state, or somebody made up a chain: ask for a new draft"));
        }
        Ok(())
    }

    /// What still has to be signed, document by document.
    pub(crate) fn needs(&self, item: &Item) -> Result<Vec<Need>> {
        let of = |r: &Role| item.need(roots::role_word(r.name).to_owned(), r.threshold, &r.keys);
        let role = |root: &Root, name: RoleName| {
            let found = root.roles.iter().find(|r| r.name == name).cloned();
            found.ok_or_else(|| damaged(&format!("the root has no {} role", roots::role_word(name))))
        };
        match &item.content {
            Content::Root(new) => {
                let mut needs = Vec::new();
                if let Some(base) = &self.base {
                    let old = base.root()?;
                    let r = role(old, RoleName::Root)?;
                    needs.push(item.need(format!("root keys of root {}", old.version), r.threshold, &r.keys));
                }
                let r = role(new, RoleName::Root)?;
                needs.push(item.need(format!("root keys of root {}", new.version), r.threshold, &r.keys));
                Ok(needs)
            }
            Content::Snapshot(new) => {
                let root = self.ruling()?;
                let mut needs = vec![of(&role(root, RoleName::Snapshot)?)];
                let held = self.base.as_ref().and_then(Trust::snapshot);
                for entry in &new.entries {
                    let before = held.and_then(|h| {
                        h.document.entries.iter().find(|e| (e.kind, &e.name) == (entry.kind, &entry.name))
                    });
                    let ended = before.is_some_and(|b| ends(b, entry));
                    if ended {
                        let may = |r: &&Role| r.may_remove && entry.name.as_str().starts_with(&r.prefix);
                        needs.push(Self::nearest(
                            item,
                            root,
                            may,
                            &format!("who may remove {}", entry.name),
                        )?);
                    }
                }
                Ok(needs)
            }
            Content::Deployment(d) => {
                let fits = |r: &&Role| d.name.as_str().starts_with(&r.prefix);
                Ok(vec![Self::nearest(
                    item,
                    self.ruling()?,
                    fits,
                    &format!("deployment keys for {}", d.name),
                )?])
            }
        }
    }

    /// Of several roles that would do, the one that lacks least.
    fn nearest(item: &Item, root: &Root, fits: impl Fn(&&Role) -> bool, what: &str) -> Result<Need> {
        let roles = root.roles.iter().filter(|r| r.name == RoleName::Deployment).filter(fits);
        roles
            .map(|r| item.need(what.to_owned(), r.threshold, &r.keys))
            .min_by_key(Need::lacks)
            .ok_or_else(|| CliError::refused("role_scope", format!("no key has the role: {what}")))
    }

    /// Whether no signature is missing.
    pub(crate) fn is_complete(&self) -> Result<bool> {
        for item in &self.items {
            if self.needs(item)?.iter().any(|n| n.lacks() > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Signs what these keys may sign and is still lacking; the names of those that signed.
    pub(crate) fn sign(&mut self, keys: &[&OwnKey]) -> Result<Vec<String>> {
        let mut used = Vec::new();
        for at in 0..self.items.len() {
            for key in keys {
                let public = key.public();
                let needs = self.needs(&self.items[at])?;
                let wanted = needs
                    .iter()
                    .any(|n| n.lacks() > 0 && n.keys.contains(&public) && !n.signed.contains(&public));
                if !wanted {
                    continue;
                }
                key.unlock()?;
                self.items[at].add(key)?;
                if !used.contains(&key.name) {
                    used.push(key.name.clone());
                }
            }
        }
        Ok(used)
    }

    /// Every document as any other side would take it, in this order: root, then the rest.
    pub(crate) fn finish(&self, home: &Home) -> Result<Finished> {
        let mut trust = self.base.clone();
        let (mut root, mut snapshot, mut documents) = (None, None, Vec::new());
        for item in &self.items {
            let Some(envelope) = &item.envelope else {
                return Err(CliError::refused(
                    "threshold",
                    format!("nobody has signed the {} yet", item.kind().as_str()),
                ));
            };
            let sealed = Sealed { kind: item.kind(), envelope: envelope.clone(), digest: item.digest };
            match &item.content {
                Content::Root(_) => {
                    match &mut trust {
                        Some(t) => t.take_root(envelope)?,
                        None => trust = Some(Trust::found(home, envelope)?),
                    }
                    root = Some(sealed);
                }
                Content::Snapshot(_) => snapshot = Some(sealed),
                Content::Deployment(_) => documents.push(sealed),
            }
        }
        let trust = trust.ok_or_else(|| damaged("it founds no fleet and builds on none"))?;
        let mut after: TrustState = trust.state.clone();
        let rest = snapshot.iter().map(|s| (Kind::Snapshot, s));
        for (kind, sealed) in rest.chain(documents.iter().map(|d| (Kind::Deployment, d))) {
            let verdict = verify(&sealed.envelope, &after, now(), Expect::Only(kind))
                .map_err(|r| refusal(&format!("the draft's {}", kind.as_str()), &r))?;
            after.advance(&verdict);
        }
        Ok(Finished { root, snapshot, documents, trust, after })
    }
}

/// A draft with nothing missing.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) root: Option<Sealed>,
    pub(crate) snapshot: Option<Sealed>,
    pub(crate) documents: Vec<Sealed>,
    /// What is known with the root.
    pub(crate) trust: Trust,
    /// What is known with everything.
    pub(crate) after: TrustState,
}

#[cfg(test)]
mod tests;
