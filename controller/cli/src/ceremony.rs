//! A draft: documents on their way from signer to signer, with all that each one needs to check them without a network.
//!
//! Nothing in the file is believed: the root chain is walked from its beginning, the documents are decoded strictly, and
//! signatures are counted by `shoal_protocol::verify`. Never here: asking people, talking to a controller.

use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Home, write_secret};
use crate::keys::OwnKey;
use crate::publish::{Sealed, ends};
use crate::roots;
use crate::trust::{Trust, now, refusal};
use serde::{Deserialize, Serialize};
use shoal_controller_core::api::Base64;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, identity, sign};
use shoal_protocol::ids::{Digest, FleetId};
use shoal_protocol::latest::{Deployment, Document, Key, Kind, Role, RoleName, Root, Snapshot};
use shoal_protocol::verify::{Expect, TrustState, check_root, good_signers, verify};
use std::path::Path;

const VERSION: u64 = 1;
const MOST: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    shoal_draft: u64,
    /// Envelopes of all roots so far; none when a fleet is being founded.
    roots: Vec<Base64>,
    /// Envelope of the snapshot that is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<Base64>,
    documents: Vec<Piece>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    kind: String,
    payload: Base64,
    /// Once somebody has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope: Option<Base64>,
}

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

    fn read(piece: Piece) -> Result<Self> {
        let bad = |why: String| damaged(&format!("its {}: {why}", crate::output::clean(&piece.kind)));
        let kind =
            [Kind::Root, Kind::Snapshot, Kind::Deployment].into_iter().find(|k| k.as_str() == piece.kind);
        let kind = kind.ok_or_else(|| bad("drafts carry root, snapshot and deployment".to_owned()))?;
        let payload = piece.payload.0;
        let digest = identity(kind, &payload);
        if let Some(Base64(envelope)) = &piece.envelope {
            let parsed = Envelope::parse(envelope).map_err(|e| bad(e.to_string()))?;
            if parsed.payload() != payload || parsed.identity() != digest {
                return Err(bad("what was signed is not what is shown".to_owned()));
            }
        }
        let limits = Limits::of_size(kind.size_cap());
        let content = match kind {
            Kind::Root => codec::decode(&payload, limits).map(|d| Content::Root(Box::new(d))),
            Kind::Snapshot => codec::decode(&payload, limits).map(|d| Content::Snapshot(Box::new(d))),
            _ => codec::decode(&payload, limits).map(|d| Content::Deployment(Box::new(d))),
        };
        let content = content.map_err(|e| bad(e.to_string()))?;
        Ok(Self { content, digest, payload, envelope: piece.envelope.map(|e| e.0) })
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

    /// Reads a file and checks everything that can be checked without the missing signatures.
    pub(crate) fn read(home: &Home, path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).on_path("read the draft", path)?.len();
        if size > MOST {
            return Err(damaged(&format!("{} has {size} bytes, at most {MOST} are read", path.display())));
        }
        let text = std::fs::read_to_string(path).on_path("read the draft", path)?;
        let file: File = serde_json::from_str(&text)
            .map_err(|e| damaged(&format!("{} is no draft", path.display())).because(e))?;
        if file.shoal_draft != VERSION {
            return Err(damaged(&format!("it has version {}, this shoal knows {VERSION}", file.shoal_draft)));
        }
        let mut base = None;
        if let Some((first, rest)) = file.roots.split_first() {
            let mut trust = Trust::found(home, &first.0)?;
            trust.take_roots(rest.iter().map(|r| &r.0))?;
            base = Some(trust);
        }
        let snapshot = file.snapshot.map(|s| s.0);
        if let (Some(trust), Some(bytes)) = (&mut base, &snapshot) {
            trust.take_snapshot(bytes)?;
        }
        let items = file.documents.into_iter().map(Item::read).collect::<Result<Vec<_>>>()?;
        let draft = Self { base, snapshot, items };
        draft.check()?;
        draft.compare_with_own(home)?;
        Ok(draft)
    }

    /// Replaces the file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let roots = self.base.iter().flat_map(|t| &t.roots).map(|r| r.clone().into()).collect();
        let documents = self.items.iter().map(|i| Piece {
            kind: i.kind().as_str().to_owned(),
            payload: i.payload.clone().into(),
            envelope: i.envelope.clone().map(Base64::from),
        });
        let file = File {
            shoal_draft: VERSION,
            roots,
            snapshot: self.snapshot.clone().map(Base64::from),
            documents: documents.collect(),
        };
        let text = serde_json::to_string_pretty(&file)
            .map_err(|e| CliError::failure("cannot write the draft").because(e))?;
        write_secret(path, (text + "\n").as_bytes())
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
            let sealed = Sealed { envelope: envelope.clone(), digest: item.digest };
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
#[path = "ceremony_tests.rs"]
mod tests;
