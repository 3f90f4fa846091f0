//! Signing and publishing: the next snapshot over what changes, the keys of each role, and the compare-and-swap.
//!
//! The only place of this program that signs fleet documents. Every document is verified like a stranger's before it leaves.

use crate::api::Client;
use crate::audit::Copy;
use crate::error::{CliError, Kind as ErrorKind, Result};
use crate::home::Home;
use crate::keys::{self, OwnKey};
use crate::roots::role_word;
use crate::trust::{Trust, now, own_snapshot, refusal};
use shoal_controller_core::api;
use shoal_protocol::Signer;
use shoal_protocol::envelope::{Envelope, seal_document};
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::latest::{
    Document, Entry, EntryKind, Grant, Kind, Liveness, Revision, Role, RoleName, Root, Snapshot,
};
use shoal_protocol::verify::{Expect, TrustState, verify};

/// How long a snapshot counts, seconds.
pub(crate) const SNAPSHOT_LIFETIME: u64 = 90 * 86_400;

/// The keys that an operator has at hand for this command.
#[derive(Debug)]
pub(crate) struct Keyring {
    keys: Vec<OwnKey>,
}

impl Keyring {
    /// Those named by `--key`, or else all in the keys folder.
    pub(crate) fn open(home: &Home, named: &[String]) -> Result<Self> {
        let names = if named.is_empty() { keys::names(home) } else { named.to_vec() };
        if names.is_empty() {
            return Err(CliError::usage("there is no key to sign with")
                .hint("found a fleet with `shoal trust init`; in a fleet that is there, make a key with `shoal keys new NAME` and have it added to the root"));
        }
        let keys = names.iter().map(|n| keys::load(home, n)).collect::<Result<Vec<_>>>()?;
        Ok(Self { keys })
    }

    /// Exactly these.
    #[cfg(test)]
    pub(crate) fn of(keys: Vec<OwnKey>) -> Self {
        Self { keys }
    }

    /// All of them.
    pub(crate) fn keys(&self) -> Vec<&OwnKey> {
        self.keys.iter().collect()
    }

    /// As many keys as a role of this name needs; `name` is the document's, for prefixes.
    fn of_role(&self, root: &Root, role: RoleName, name: &str) -> Result<Vec<&OwnKey>> {
        self.of_one(root, role_word(role), |r| r.name == role && name.starts_with(&r.prefix))
    }

    /// As many keys as any one of the roles needs that would do.
    fn of_one(&self, root: &Root, what: &str, would_do: impl Fn(&Role) -> bool) -> Result<Vec<&OwnKey>> {
        let mut best: Option<(&Role, Vec<&OwnKey>)> = None;
        for r in root.roles.iter().filter(|r| would_do(r)) {
            let threshold = usize::try_from(r.threshold).unwrap_or(usize::MAX);
            let have: Vec<&OwnKey> =
                self.keys.iter().filter(|k| r.keys.contains(&k.public())).take(threshold).collect();
            if have.len() >= threshold {
                have.iter().try_for_each(|k| k.unlock())?;
                return Ok(have);
            }
            if best.as_ref().is_none_or(|b| b.1.len() < have.len()) {
                best = Some((r, have));
            }
        }
        let own: Vec<String> =
            self.keys.iter().map(|k| format!("{} ({})", k.name, keys::fingerprint(&k.public()))).collect();
        let wanted = match best {
            Some((r, have)) => {
                let named: Vec<String> = r.keys.iter().map(keys::fingerprint).collect();
                format!("{} of {} are needed, {} at hand", r.threshold, named.join(", "), have.len())
            }
            None => "no key may sign that name".to_owned(),
        };
        Err(CliError::refused("role_scope", format!("none of your keys may sign as {what}: {wanted}"))
            .details(vec![format!("your keys: {}", own.join(", "))])
            .hint("use another key with --key, or ask the holders of the root keys for a new root"))
    }

    /// Signs a grant of a secret: one key of a role that may sign the secret is enough, whatever the threshold.
    pub(crate) fn seal_grant(&self, root: &Root, grant: &Grant) -> Result<Vec<u8>> {
        let may = |r: &&Role| r.name == RoleName::Deployment && grant.name.as_str().starts_with(&r.prefix);
        let key = root
            .roles
            .iter()
            .filter(may)
            .find_map(|r| self.keys.iter().find(|k| r.keys.contains(&k.public())));
        match key {
            Some(key) => {
                key.unlock()?;
                seal(grant, &[key as &dyn Signer]).map(|(envelope, _)| envelope)
            }
            None => Err(CliError::refused(
                "role_scope",
                format!("none of your keys may grant the secret {}", grant.name),
            )),
        }
    }

    /// Signs a document in a role and checks it as any other side would.
    pub(crate) fn seal<T: Document>(
        &self,
        root: &Root,
        role: RoleName,
        name: &str,
        document: &T,
    ) -> Result<(Vec<u8>, Digest)> {
        let keys = self.of_role(root, role, name)?;
        seal(document, &keys.iter().map(|k| *k as &dyn Signer).collect::<Vec<_>>())
    }
}

impl Keyring {
    /// Signs a snapshot: in its own role, and for every name that it ends or whose floor it raises in a role that may.
    fn seal_snapshot(&self, trust: &Trust, snapshot: &Snapshot) -> Result<(Vec<u8>, Digest)> {
        let root = trust.root()?;
        let mut keys = self.of_role(root, RoleName::Snapshot, "")?;
        for entry in &snapshot.entries {
            let held = trust.snapshot().into_iter().flat_map(|k| &k.document.entries);
            let ended =
                held.filter(|b| (b.kind, &b.name) == (entry.kind, &entry.name)).any(|b| ends(b, entry));
            if !ended {
                continue;
            }
            let what = format!("somebody who may remove {}", entry.name);
            let more = self.of_one(root, &what, |r| {
                r.name == role_of(entry.kind) && r.may_remove && entry.name.as_str().starts_with(&r.prefix)
            })?;
            keys.extend(more);
        }
        let mut distinct: Vec<&OwnKey> = Vec::new();
        for key in keys {
            if !distinct.iter().any(|k| k.public() == key.public()) {
                distinct.push(key);
            }
        }
        seal(snapshot, &distinct.iter().map(|k| *k as &dyn Signer).collect::<Vec<_>>())
    }
}

/// The role that signs documents of a kind, and ends their names.
pub(crate) fn role_of(kind: EntryKind) -> RoleName {
    if kind == EntryKind::Release { RoleName::Release } else { RoleName::Deployment }
}

/// Whether an entry ends a name, or raises its floor.
pub(crate) fn ends(before: &Entry, after: &Entry) -> bool {
    let removed = after.liveness == Liveness::Removed && before.liveness == Liveness::Live;
    removed || after.floor > before.floor
}

/// Signs with exactly these keys.
pub(crate) fn seal<T: Document>(document: &T, signers: &[&dyn Signer]) -> Result<(Vec<u8>, Digest)> {
    seal_document(document, signers)
        .map_err(|e| CliError::failure(format!("cannot sign the {}", T::KIND.as_str())).because(e))
}

/// The next snapshot: the own one with these entries in place of their former selves.
pub(crate) fn next_snapshot(trust: &Trust, changed: &[Entry], issued_at: Timestamp) -> Result<Snapshot> {
    let anchor = trust.anchor()?;
    let root = &anchor.root.document;
    let known = trust.snapshot();
    let mut entries = known.map(|k| k.document.entries.clone()).unwrap_or_default();
    for e in changed {
        entries.retain(|o| (o.kind, &o.name) != (e.kind, &e.name));
        entries.push(e.clone());
    }
    entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(Snapshot {
        fleet: anchor.fleet.clone(),
        epoch: root.epoch,
        version: known.map_or(0, |k| k.document.version) + 1,
        root_version: root.version,
        issued_at,
        not_after: issued_at.plus(SNAPSHOT_LIFETIME),
        entries,
        audit_head: None,
        previous: known.map(|k| k.digest),
    })
}

/// How often a change is put on top of what others published meanwhile.
pub(crate) const ATTEMPTS: usize = 4;

/// A signed document on its way.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) kind: Kind,
    pub(crate) envelope: Vec<u8>,
    pub(crate) digest: Digest,
}

/// The next snapshot over what is verified of the audit log, and over nothing that went another way.
pub(crate) fn over_the_log(
    client: &Client,
    trust: &Trust,
    changed: &[Entry],
    issued_at: Timestamp,
) -> Result<Snapshot> {
    let mut snapshot = next_snapshot(trust, changed, issued_at)?;
    let seen = Copy::open(trust.dir())?.sync(client, trust)?;
    snapshot.audit_head = Some(seen.head).filter(|_| seen.sequence > 0);
    Ok(snapshot)
}

/// A snapshot that was signed and verified with its documents, and what is known once it counts.
struct Next {
    envelope: Vec<u8>,
    version: u64,
    after: TrustState,
}

/// Signs the next snapshot, and verifies it and every document as devices will.
fn seal_next(trust: &Trust, ring: &Keyring, snapshot: &Snapshot, documents: &[Sealed]) -> Result<Next> {
    let time = now();
    let (envelope, _) = ring.seal_snapshot(trust, snapshot)?;
    let mut after = trust.state.clone();
    let verdict = verify(&envelope, &after, time, Expect::Only(Kind::Snapshot))
        .map_err(|r| refusal("the next snapshot", &r))?;
    after.advance(&verdict);
    for d in documents {
        let verdict = verify(&d.envelope, &after, time, Expect::Only(d.kind))
            .map_err(|r| refusal(&format!("the {}", d.kind.as_str()), &r))?;
        after.advance(&verdict);
    }
    Ok(Next { envelope, version: snapshot.version, after })
}

/// Keeps what was published as own state.
fn take_over(trust: &mut Trust, next: Next, documents: &[Sealed]) -> Result<()> {
    for d in documents {
        trust.save_document(&d.digest, &d.envelope)?;
    }
    trust.save(&next.envelope)?;
    trust.state = next.after;
    Ok(())
}

/// Signs the next snapshot, uploads all, and keeps it as own state.
pub(crate) fn publish(
    client: &Client,
    trust: &mut Trust,
    ring: &Keyring,
    changed: &[Entry],
    documents: &[Sealed],
) -> Result<api::SnapshotAccepted> {
    let snapshot = over_the_log(client, trust, changed, now())?;
    let next = seal_next(trust, ring, &snapshot, documents)?;
    let body = api::PostSnapshot {
        snapshot: next.envelope.clone().into(),
        documents: documents.iter().map(|d| d.envelope.clone().into()).collect(),
        expected_previous: trust.snapshot().map(|k| k.digest.into()),
    };
    let accepted: api::SnapshotAccepted = client.post("/v1/snapshots", &body, "publishing the snapshot")?;
    take_over(trust, next, documents)?;
    Ok(accepted)
}

/// The same without a controller: what is swapped is the own state, if it is still the one that was built on. Its version.
/// The snapshot carries the newest head of the audit log that was verified before.
pub(crate) fn keep(
    trust: &mut Trust,
    ring: &Keyring,
    changed: &[Entry],
    documents: &[Sealed],
) -> Result<u64> {
    let _lock = trust.lock()?;
    let on_disk = Envelope::parse(&own_snapshot(trust)?).ok().map(|e| e.identity());
    if on_disk != trust.snapshot().map(|k| k.digest) {
        return Err(CliError::conflict("another command here signed meanwhile").hint("run it again"));
    }
    let mut snapshot = next_snapshot(trust, changed, now())?;
    let seen = Copy::open(trust.dir())?.point();
    snapshot.audit_head = Some(seen.head).filter(|_| seen.sequence > 0);
    let next = seal_next(trust, ring, &snapshot, documents)?;
    let version = next.version;
    take_over(trust, next, documents)?;
    Ok(version)
}

/// Signs a draft of a deployment, config, secret or release and checks it before anybody is asked, as if it were listed already.
pub(crate) fn precheck<T: Document>(
    trust: &Trust,
    ring: &Keyring,
    name: &Name,
    document: &T,
) -> Result<Sealed> {
    let role = if T::KIND == Kind::Release { RoleName::Release } else { RoleName::Deployment };
    let (envelope, digest) = ring.seal(trust.root()?, role, name.as_str(), document)?;
    let mut alone = trust.state.clone();
    alone.snapshot = None;
    match verify(&envelope, &alone, now(), Expect::Only(T::KIND)) {
        Ok(_) => Ok(Sealed { kind: T::KIND, envelope, digest }),
        Err(r) => Err(refusal(&format!("{} {name}", T::KIND.as_str()), &r)),
    }
}

/// The entry of a deployment's new revision over the one before; `stable` is what devices run whose wave is not open.
pub(crate) fn entry(
    before: Option<&Entry>,
    name: &Name,
    newest: Revision,
    stable: Option<Revision>,
) -> Entry {
    Entry {
        kind: EntryKind::Deployment,
        name: name.clone(),
        liveness: Liveness::Live,
        floor: before.map_or(0, |b| b.floor),
        newest,
        stable,
        removal: None,
    }
}

/// The entry of a config's or secret's new revision. No wave holds it back, so there is no stable one.
pub(crate) fn plain_entry(kind: EntryKind, before: Option<&Entry>, name: &Name, newest: Revision) -> Entry {
    Entry { kind, ..entry(before, name, newest, None) }
}

/// Whether an error is the controller's «somebody else was first».
pub(crate) fn is_conflict(e: &CliError) -> bool {
    e.kind == ErrorKind::Conflict
}

#[cfg(test)]
#[path = "publish_tests.rs"]
pub(crate) mod tests;
