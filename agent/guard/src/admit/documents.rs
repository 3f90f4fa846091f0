//! Configs, secrets and grants as they are held, and what a deployment's references to them come to: files and variables, or
//! what is missing. Pure; secrets are opened in memory, for as long as a ticket is made.

use shoal_ipc::{CONTENTS_COUNT, CONTENTS_MAX, HeldDocument, PrivateVar, TicketFile, VolumeSource};
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::refusal::Code;
use shoal_protocol::sealing;
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::v1::{
    Config, Container, Deployment, DocumentRef, EntryKind, Grant, KeyFile, Liveness, Revision, Secret,
    Snapshot,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A config or secret.
#[derive(Debug, Clone)]
pub(super) enum Held {
    Config(Arc<Config>),
    Secret(Arc<Secret>),
}

impl Held {
    pub(super) fn kind(&self) -> EntryKind {
        match self {
            Self::Config(_) => EntryKind::Config,
            Self::Secret(_) => EntryKind::Secret,
        }
    }
    pub(super) fn name(&self) -> &Name {
        match self {
            Self::Config(c) => &c.name,
            Self::Secret(s) => &s.name,
        }
    }
    fn order(&self) -> (u64, u64) {
        match self {
            Self::Config(c) => (c.epoch, c.sequence),
            Self::Secret(s) => (s.epoch, s.sequence),
        }
    }
}

/// All that is held, by identity. Few: what no deployment here refers to is not kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Documents {
    pub(super) held: BTreeMap<Digest, Held>,
    /// By the identity of the secret that they open.
    pub(super) grants: BTreeMap<Digest, Arc<Grant>>,
    /// Names that the snapshot calls removed.
    removed: BTreeSet<(EntryKind, Name)>,
    /// Below these the snapshot lets nothing count.
    floors: BTreeMap<(EntryKind, Name), u64>,
}

/// Why a pod cannot start for want of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) code: Code,
    pub(super) detail: String,
}

/// A file's bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) Digest, pub(super) Vec<u8>);

/// What a deployment gets of the documents that it refers to.
#[derive(Default)]
pub(super) struct Resolved {
    /// For each of its volumes that is made of files.
    pub(super) volumes: BTreeMap<Name, VolumeSource>,
    /// For each container, by name.
    pub(super) variables: BTreeMap<Name, Vec<PrivateVar>>,
    /// What the files hold.
    pub(super) contents: Vec<Bytes>,
}

fn word(kind: EntryKind) -> &'static str {
    if kind == EntryKind::Secret { "secret" } else { "config" }
}

fn missing(kind: EntryKind, detail: String) -> Missing {
    let code = if kind == EntryKind::Secret { Code::WaitingSecret } else { Code::WaitingConfig };
    Missing { code, detail }
}

impl Documents {
    /// What the snapshot says of names.
    pub(super) fn listed_by(&mut self, snapshot: Option<&Snapshot>) {
        let entries =
            || snapshot.into_iter().flat_map(|s| &s.entries).filter(|e| e.kind != EntryKind::Deployment);
        let key = |e: &shoal_protocol::v1::Entry| (e.kind, e.name.clone());
        self.removed = entries().filter(|e| e.liveness == Liveness::Removed).map(key).collect();
        self.floors = entries().map(|e| (key(e), e.floor)).collect();
    }

    /// The revisions that a reference may mean.
    fn meant<'d>(
        &'d self,
        kind: EntryKind,
        reference: &'d DocumentRef,
    ) -> impl Iterator<Item = (Digest, &'d Held)> + 'd {
        let key = (kind, reference.name.clone());
        let removed = self.removed.contains(&key);
        let floor = self.floors.get(&key).copied().unwrap_or(0);
        let all = self.held.iter().filter(move |_| !removed).map(|(digest, h)| (*digest, h));
        all.filter(move |(digest, h)| {
            let is = |pin: Revision| pin == Revision { sequence: h.order().1, digest: *digest };
            let named = h.kind() == kind && *h.name() == reference.name && h.order().1 >= floor;
            named && reference.pin.is_none_or(is)
        })
    }

    /// Whether it can be read here.
    fn is_open(&self, digest: &Digest, h: &Held) -> bool {
        h.kind() == EntryKind::Config || self.grants.contains_key(digest)
    }

    /// The revision that a reference means: the one that it insists on, or the newest that is here. A secret's new value
    /// takes the place of the one before only once it can be read, so that rotating it stops nothing.
    fn find<'d>(&'d self, kind: EntryKind, reference: &'d DocumentRef) -> Option<(Digest, &'d Held)> {
        self.meant(kind, reference).max_by_key(|(digest, h)| (self.is_open(digest, h), h.order()))
    }

    /// The revisions that a deployment uses now, or will once they can be read.
    pub(super) fn used_by<'d>(&'d self, d: &'d Deployment) -> impl Iterator<Item = Digest> + 'd {
        d.template.documents().flat_map(|(kind, r)| {
            let newest = self.meant(kind, r).max_by_key(|(_, h)| h.order());
            self.find(kind, r).into_iter().chain(newest).map(|(digest, _)| digest)
        })
    }

    /// Kind, name and sequence of these.
    pub(super) fn named(&self, digests: &BTreeSet<Digest>) -> BTreeSet<(EntryKind, String, u64)> {
        let of = |h: &Held| (h.kind(), h.name().to_string(), h.order().1);
        digests.iter().filter_map(|d| self.held.get(d)).map(of).collect()
    }

    /// Forgets all but these, and their grants.
    pub(super) fn keep_only(&mut self, digests: &BTreeSet<Digest>) {
        self.held.retain(|d, _| digests.contains(d));
        self.grants.retain(|d, _| digests.contains(d));
    }

    /// All of them in the agent's words.
    pub(super) fn summary(&self) -> Vec<HeldDocument> {
        let one = |(digest, h): (&Digest, &Held)| HeldDocument {
            kind: word(h.kind()).to_owned(),
            name: h.name().to_string(),
            sequence: h.order().1,
            digest: shoal_ipc::Digest(digest.0),
            open: self.is_open(digest, h),
        };
        self.held.iter().map(one).collect()
    }

    /// What a deployment's start would take from documents, as one value: when it changes, so does the ticket.
    pub(super) fn stamp(&self, d: &Deployment) -> Digest {
        let mut all = Vec::new();
        for digest in self.used_by(d) {
            all.extend(digest.0);
            all.push(u8::from(self.grants.contains_key(&digest)));
        }
        Digest::of(&all)
    }

    fn data(
        &self,
        d: &Deployment,
        kind: EntryKind,
        r: &DocumentRef,
        sealing: Option<&[u8; 32]>,
    ) -> Result<Option<ByteMap>, Missing> {
        let what = || format!("{} {}", word(kind), r.name);
        let Some((digest, held)) = self.find(kind, r) else {
            if r.optional {
                return Ok(None);
            }
            let which = r.pin.map(|p| format!(" revision {}", p.sequence)).unwrap_or_default();
            return Err(missing(kind, format!("{}{which} is not here", what())));
        };
        let secret = match held {
            Held::Config(c) => return Ok(Some(c.data.clone())),
            Held::Secret(s) => s,
        };
        if !secret.is_for(&d.name) {
            let detail = format!("{} is sealed for {}", what(), secret.deployments.join(", "));
            return Err(Missing { code: Code::SecretContext, detail });
        }
        let (Some(grant), Some(sealing)) = (self.grants.get(&digest), sealing) else {
            let detail = format!("this device has no grant of {} revision {}", what(), secret.sequence);
            return Err(missing(kind, detail));
        };
        let opened = sealing::unwrap(grant, sealing).and_then(|key| sealing::open(secret, &key));
        opened.map(Some).map_err(|e| Missing { code: e.code, detail: e.detail })
    }

    /// Everything that a deployment refers to, or the first thing that is missing.
    pub(super) fn resolve(&self, d: &Deployment, sealing: Option<&[u8; 32]>) -> Result<Resolved, Missing> {
        let mut out = Resolved::default();
        let mut open: BTreeMap<(EntryKind, &Name), Option<ByteMap>> = BTreeMap::new();
        for (kind, r) in d.template.documents() {
            // Once each; one that is needed in any place is needed.
            if !matches!(open.get(&(kind, &r.name)), Some(Some(_))) {
                open.insert((kind, &r.name), self.data(d, kind, r, sealing)?);
            }
        }
        let of: &Of<'_> = &|kind, name| {
            open.iter().find(|((k, n), _)| *k == kind && *n == name).and_then(|(_, data)| data.as_ref())
        };
        let mut size = 0;
        let mut count = 0;
        for v in &d.template.volumes {
            let Some((kind, r, mode, items)) = v.source.files() else { continue };
            let none = ByteMap::default();
            let picked = pick(kind, r, of(kind, &r.name).unwrap_or(&none), items)?;
            let mut files = Vec::new();
            for (path, own, bytes) in picked {
                let digest = Digest::of(bytes);
                let mode = u32::try_from(own.unwrap_or(mode) & 0o777).unwrap_or(0);
                files.push(TicketFile {
                    path: path.to_owned(),
                    size: bytes.len() as u64,
                    mode,
                    digest: shoal_ipc::Digest(digest.0),
                });
                size += bytes.len() as u64;
                if !out.contents.iter().any(|b| b.0 == digest) {
                    out.contents.push(Bytes(digest, bytes.to_vec()));
                }
            }
            count += files.len();
            let private = kind == EntryKind::Secret;
            out.volumes.insert(v.name.clone(), VolumeSource::Files { private, files });
        }
        if size > CONTENTS_MAX || count > CONTENTS_COUNT {
            let detail = format!(
                "its documents are {count} files of {size} bytes, at most {CONTENTS_COUNT} of {CONTENTS_MAX} are possible"
            );
            return Err(Missing { code: Code::TooLarge, detail });
        }
        for c in d.template.all_containers() {
            let variables = variables(c, of)?;
            if !variables.is_empty() {
                out.variables.insert(c.name.clone(), variables);
            }
        }
        Ok(out)
    }
}

/// The entries of a document, if it is there.
type Of<'a> = dyn Fn(EntryKind, &Name) -> Option<&'a ByteMap> + 'a;

/// Path, mode of its own, bytes.
type Picked<'a> = (&'a str, Option<u64>, &'a [u8]);

/// The entries that become files.
fn pick<'a>(
    kind: EntryKind,
    r: &DocumentRef,
    data: &'a ByteMap,
    items: &'a [KeyFile],
) -> Result<Vec<Picked<'a>>, Missing> {
    if items.is_empty() {
        return Ok(data.iter().map(|(k, v)| (k, None, v)).collect());
    }
    let mut out = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => out.push((item.path.as_str(), item.mode, bytes)),
            None if r.optional => {}
            None => return Err(missing(kind, format!("{} {} has no key {}", word(kind), r.name, item.key))),
        }
    }
    Ok(out)
}

/// What a container's environment gets beyond its own plain variables, which win over whole documents.
fn variables<'a>(c: &'a Container, of: &Of<'a>) -> Result<Vec<PrivateVar>, Missing> {
    let text = |kind, r: &DocumentRef, key: &str, bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok().filter(|t| !t.contains('\0'));
        text.map(str::to_owned).ok_or_else(|| {
            missing(kind, format!("{} {}: {key} is no text, as a variable has to be", word(kind), r.name))
        })
    };
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for from in &c.env_from {
        let (kind, r, prefix) = from.parts();
        for (key, bytes) in of(kind, &r.name).into_iter().flat_map(ByteMap::iter) {
            let name = format!("{prefix}{key}");
            if !c.env.iter().any(|e| e.name == name) {
                all.insert(name, text(kind, r, key, bytes)?);
            }
        }
    }
    for e in &c.env {
        let Some((kind, r, key)) = e.from.as_ref().map(shoal_protocol::v1::EnvSource::parts) else {
            continue;
        };
        match of(kind, &r.name).and_then(|data| data.get(key)) {
            Some(bytes) => {
                all.insert(e.name.clone(), text(kind, r, key, bytes)?);
            }
            None if r.optional => {}
            None => return Err(missing(kind, format!("{} {} has no key {key}", word(kind), r.name))),
        }
    }
    Ok(all.into_iter().map(|(name, value)| PrivateVar { name, value }).collect())
}

#[cfg(test)]
mod tests;
