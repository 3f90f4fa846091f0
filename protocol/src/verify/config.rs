//! Configs, secrets and grants: signed within a prefix, rising in sequence, listed by the held snapshot or pinned by a held
//! deployment; a device takes only those that a deployment of its own refers to.
//!
//! What a secret holds is no matter of signatures: [`crate::sealing`] opens it, with a key that this never sees.

use super::deployment::{check_floor, check_listed};
use super::signatures::{of_role, role_keys, roles};
use super::{Case, MAX_JUMP, Standing, Verified, refuse};
use crate::ids::{FleetId, Name, Timestamp};
use crate::refusal::{Code, Refusal};
use crate::v1::{Config, Document, EntryKind, Grant, Revision, RoleName, Secret};

/// Entries of one document.
pub const MAX_KEYS: usize = 256;
/// Bytes of all keys and values of one document together.
pub const MAX_DATA: usize = 56 << 10;
const MAX_KEY: usize = 253;
const MAX_PATTERNS: usize = 64;
/// A wrapped key with what wraps it, generously.
const MAX_WRAPPED: usize = 256;

/// Whether an entry can be called so: a file's or a variable's name of letters, digits, `-`, `_` and `.`.
pub fn is_key(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len())
        && !key.starts_with("..")
        && key != "."
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// What configs and secrets have in common.
pub(super) trait Named: Document {
    const ENTRY: EntryKind;
    fn head(&self) -> Head<'_>;
    /// Why it is no sound document by itself.
    fn unsound(&self) -> Option<&'static str>;
}

pub(super) struct Head<'a> {
    fleet: &'a FleetId,
    epoch: u64,
    name: &'a Name,
    sequence: u64,
    issued_at: Timestamp,
    not_after: Timestamp,
}

macro_rules! head {
    ($d:ident) => {
        Head {
            fleet: &$d.fleet,
            epoch: $d.epoch,
            name: &$d.name,
            sequence: $d.sequence,
            issued_at: $d.issued_at,
            not_after: $d.not_after,
        }
    };
}

impl Named for Config {
    const ENTRY: EntryKind = EntryKind::Config;
    fn head(&self) -> Head<'_> {
        head!(self)
    }
    fn unsound(&self) -> Option<&'static str> {
        let size: usize = self.data.iter().map(|(k, v)| k.len() + v.len()).sum();
        if self.data.len() > MAX_KEYS || size > MAX_DATA {
            Some("it has more than 256 entries or 56 KiB")
        } else if !self.data.keys().all(is_key) {
            Some("a key is not of letters, digits, -, _ and .")
        } else {
            None
        }
    }
}

impl Named for Secret {
    const ENTRY: EntryKind = EntryKind::Secret;
    fn head(&self) -> Head<'_> {
        head!(self)
    }
    fn unsound(&self) -> Option<&'static str> {
        let ascending = |w: &[String]| (w[0].len(), &w[0]) < (w[1].len(), &w[1]);
        let is_pattern = |p: &String| {
            let beginning = p.strip_suffix('*').unwrap_or(p);
            !p.is_empty() && beginning.len() <= 63 && !beginning.contains('*')
        };
        if self.keys.len() > MAX_KEYS || !self.keys.windows(2).all(ascending) {
            Some("its keys are not ascending, or more than 256")
        } else if !self.keys.iter().all(|k| is_key(k)) {
            Some("a key is not of letters, digits, -, _ and .")
        } else if !(1..=MAX_PATTERNS).contains(&self.deployments.len())
            || !self.deployments.iter().all(is_pattern)
        {
            Some("it names no deployment that may refer to it, more than 64, or one out of form")
        } else {
            None
        }
    }
}

pub(super) fn verify<T: Named>(case: &Case<'_>) -> Result<Verified<T>, Refusal> {
    let (met, signers) = of_role(&case.signed, case.anchor()?, RoleName::Deployment)?;
    let document: T = case.decode()?;
    let kind = T::KIND.as_str();
    let head = document.head();
    let name = head.name;
    if head.sequence == 0 {
        return refuse(Code::Malformed, format!("{kind} {name}: sequences begin at 1"));
    }
    if let Some(why) = document.unsound() {
        return refuse(Code::Malformed, format!("{kind} {name}: {why}"));
    }
    case.check_fleet(head.fleet)?;
    if !met.iter().any(|r| name.as_str().starts_with(&r.prefix)) {
        return refuse(
            Code::RoleScope,
            format!("{kind} {name}: the signers' roles are for other name prefixes"),
        );
    }
    // What no deployment here refers to is none of this device's business, and takes no room.
    if case.on_device() && !case.is_stored() && !case.state.refers_to(T::ENTRY, name) {
        return refuse(Code::WrongTarget, format!("no deployment here refers to {kind} {name}"));
    }
    case.check_epoch(head.epoch)?;
    let revision = Revision { sequence: head.sequence, digest: case.identity };
    let pinned = case.state.pins(T::ENTRY, name, &revision);
    let held = check_sequence(case, T::ENTRY, (name, head.epoch), &revision, pinned)?;
    check_floor(case, T::ENTRY, name, head.epoch, &revision)?;
    if !held {
        // Whoever signed the deployment, which was listed, has named these very bytes.
        if !pinned {
            check_listed(case, T::ENTRY, name, &revision)?;
        }
        case.check_time(head.issued_at, Some(head.not_after).filter(|_| !pinned), "time to accept it")?;
    }
    let standing = if held { Standing::Held } else { Standing::New };
    Ok(Verified::new(document, case.identity, standing, signers))
}

/// Whether exactly this revision is held; refuses lower, forked and leaping sequences.
pub(super) fn check_sequence(
    case: &Case<'_>,
    kind: EntryKind,
    (name, epoch): (&Name, u64),
    revision: &Revision,
    pinned: bool,
) -> Result<bool, Refusal> {
    let sequence = revision.sequence;
    let Some(history) = case.state.documents.get(&(kind, name.clone())) else { return Ok(case.is_stored()) };
    if history.holds(revision) {
        return Ok(true);
    }
    // Delivered, it is of the root's epoch, and what is held of an earlier one: it begins anew.
    if history.epoch != epoch {
        return Ok(case.is_stored());
    }
    if history.revisions.contains_key(&sequence) {
        return refuse(
            Code::Equivocation,
            format!("{name}: sequence {sequence} was accepted with other bytes; the first is kept"),
        );
    }
    // What is stored may lie far apart: a deployment pins an old one.
    if case.is_stored() {
        return Ok(true);
    }
    let highest = history.revisions.last_key_value().map_or(0, |(s, _)| *s);
    match sequence.checked_sub(highest) {
        None if !pinned => {
            refuse(Code::Rollback, format!("{name}: sequence {sequence}, {highest} was accepted"))
        }
        Some(ahead) if ahead > MAX_JUMP => {
            refuse(Code::SequenceJump, format!("{name}: sequence {sequence}, {highest} is known"))
        }
        _ => Ok(false),
    }
}

/// A grant says nothing that counts by itself: it opens a secret only with the one key that the secret commits to. So one
/// key of a role that may sign the secret is enough, whatever the role's threshold.
pub(super) fn verify_grant(case: &Case<'_>) -> Result<Verified<Grant>, Refusal> {
    let anchor = case.anchor()?;
    let root = &anchor.root.document;
    let tally = case.signed.tally(&role_keys(root, RoleName::Deployment), Some(anchor));
    if tally.good.is_empty() {
        return Err(tally.refusal("the deployment role"));
    }
    let grant: Grant = case.decode()?;
    let name = &grant.name;
    if grant.sealed.0.len() > MAX_WRAPPED || grant.revision.sequence == 0 {
        return refuse(Code::Malformed, format!("grant of {name}: no wrapped key, or no sequence"));
    }
    case.check_fleet(&grant.fleet)?;
    let may = roles(root, RoleName::Deployment)
        .any(|r| name.as_str().starts_with(&r.prefix) && tally.good.iter().any(|k| r.keys.contains(k)));
    if !may {
        return refuse(
            Code::RoleScope,
            format!("grant of {name}: the signer's roles are for other name prefixes"),
        );
    }
    if case.on_device() {
        let own = case.state.record.as_ref().map(|r| &r.document.device);
        if own != Some(&grant.device) {
            return refuse(Code::WrongTarget, format!("grant of {name}: for device {}", grant.device));
        }
    }
    case.check_epoch(grant.epoch)?;
    if case.on_device() {
        let secret = case.state.documents.get(&(EntryKind::Secret, name.clone()));
        if !secret.is_some_and(|h| h.holds(&grant.revision)) {
            let sequence = grant.revision.sequence;
            return refuse(
                Code::WrongTarget,
                format!("grant of {name}: sequence {sequence} of that secret is not held here"),
            );
        }
    }
    let held = case.state.grants.get(&(name.clone(), grant.revision.sequence)) == Some(&case.identity);
    if !held {
        case.check_time(grant.issued_at, None, "grant")?;
    }
    let standing = if held || case.is_stored() { Standing::Held } else { Standing::New };
    Ok(Verified::new(grant, case.identity, standing, tally.good))
}
