//! Roots: the first one by itself, each later one by the thresholds of the one before and of its own.

use super::signatures::{role_keys, roles};
use super::state::named_keys;
use super::{Anchor, Case, Expect, Standing, Verified, refuse, time};
use crate::ids::FleetId;
use crate::refusal::{Code, Refusal};
use crate::v1::{Disposition, Key, Role, RoleName, Root};
use std::collections::BTreeSet;

const MAX_ROLES: usize = 64;
const MAX_KEYS: usize = 32;

/// What a root says about the work of a key that no longer counts; a key that it does not list is kept.
pub fn disposition(root: &Root, key: &Key) -> Disposition {
    root.revoked.iter().find(|r| r.key == *key).map_or(Disposition::Keep, |r| r.disposition)
}

pub(super) fn verify(case: &Case<'_>) -> Result<Verified<Root>, Refusal> {
    match (&case.state.anchor, case.expect) {
        (None, Expect::FirstRoot) => first(case),
        (None, _) => refuse(
            Code::NotAdmitted,
            "a first root is taken on the root-only socket only, brought by uid 0 (`shoal-agent enroll`)",
        ),
        (Some(anchor), Expect::FirstRoot) => {
            if FleetId::of_root(&case.identity) != anchor.fleet {
                return refuse(
                    Code::NotAdmitted,
                    format!("this device belongs to fleet {} already", anchor.fleet),
                );
            }
            // Only bytes of the identity that founded this fleet come here, and those were verified then.
            Ok(Verified::new(case.decode()?, case.identity, Standing::Held, Vec::new()))
        }
        (Some(anchor), _) => next(case, anchor),
    }
}

/// TUF §5.2: the trusted root that a client begins with; here by the hand of uid 0. REQ.SEC.RIGHTS.
fn first(case: &Case<'_>) -> Result<Verified<Root>, Refusal> {
    let root: Root = case.decode()?;
    let signers = self_signed(case, &root)?;
    if root.version != 1 || root.fleet.is_some() {
        return refuse(Code::RootVersion, format!("version {}: a chain begins with root 1", root.version));
    }
    let fleet = FleetId::of_root(&case.identity);
    if let Some(wanted) = &case.state.fleet
        && *wanted != fleet
    {
        return refuse(Code::WrongTarget, format!("it founds fleet {fleet}, wanted is {wanted}"));
    }
    check_form(&root)?;
    // A device takes its first root, and with it the year, from the hand of uid 0: its own clock may say 1970.
    if !case.on_device() {
        time::check_issued(case.state, case.time, root.issued_at, time::ROOT_AHEAD)?;
    }
    Ok(Verified::new(root, case.identity, Standing::New, signers))
}

fn next(case: &Case<'_>, anchor: &Anchor) -> Result<Verified<Root>, Refusal> {
    let held = &anchor.root.document;
    if case.identity == anchor.root.digest {
        return Ok(Verified::new((**held).clone(), case.identity, Standing::Held, Vec::new()));
    }
    let tally = case.signed.tally(&role_keys(held, RoleName::Root), Some(anchor));
    if tally.only_bad() {
        return Err(tally.refusal("the root role"));
    }
    // TUF §5.3.4, Uptane §5.4.4.3: the threshold of the trusted root, then (below) of the new one.
    let by_old = roles(held, RoleName::Root).any(|r| tally.meets(r));
    let root: Root = case.decode()?;
    let wanted = held.version.saturating_add(1);
    if root.version < held.version {
        return refuse(Code::Rollback, format!("root {}, root {} is held", root.version, held.version));
    }
    // TUF §5.3.5, Uptane §5.4.4.3: exactly N+1.
    if root.version > wanted {
        return refuse(Code::RootVersion, format!("root {}, the next one here is {wanted}", root.version));
    }
    if !by_old {
        return refuse(Code::RootThreshold, format!("the threshold of root {} is not met", held.version));
    }
    if root.version == held.version {
        return refuse(Code::Equivocation, format!("another root {} is held", held.version));
    }
    let signers = self_signed(case, &root)?;
    match &root.fleet {
        Some(fleet) => case.check_fleet(fleet)?,
        None => return refuse(Code::Malformed, "a root after the first names its fleet"),
    }
    check_form(&root)?;
    if root.epoch < held.epoch {
        return refuse(
            Code::Epoch,
            format!("epoch {}, root {} has {}", root.epoch, held.version, held.epoch),
        );
    }
    // TUF §5.3.6: the end of an intermediate root does not matter; what it rules looks at that of the newest (§5.3.10).
    time::check_issued(case.state, case.time, root.issued_at, time::ROOT_AHEAD)?;
    Ok(Verified::new(root, case.identity, Standing::New, signers))
}

/// The threshold of the root's own root role.
fn self_signed(case: &Case<'_>, root: &Root) -> Result<Vec<Key>, Refusal> {
    let tally = case.signed.tally(&role_keys(root, RoleName::Root), None);
    if roles(root, RoleName::Root).any(|r| tally.meets(r)) {
        return Ok(tally.good);
    }
    if tally.only_bad() {
        return Err(tally.refusal("the root role"));
    }
    refuse(Code::RootThreshold, format!("the threshold of root {} itself is not met", root.version))
}

/// What must hold for a root by itself, whoever signs it: for those who are about to.
///
/// # Errors
/// `malformed` or `role_overlap`, as [`super::verify`] would say.
pub fn check_root(root: &Root) -> Result<(), Refusal> {
    check_form(root)
}

/// What must hold for a root by itself.
fn check_form(root: &Root) -> Result<(), Refusal> {
    let malformed = |why: &str| refuse(Code::Malformed, format!("root {}: {why}", root.version));
    let is_sound = |r: &Role| {
        // TUF §4.3: a threshold counts distinct keys.
        let distinct: BTreeSet<&Key> = r.keys.iter().collect();
        r.keys.len() <= MAX_KEYS
            && distinct.len() == r.keys.len()
            && r.threshold >= 1
            && r.threshold <= distinct.len() as u64
    };
    if root.roles.len() > MAX_ROLES || !root.roles.iter().all(is_sound) {
        return malformed(
            "a role's threshold lies outside 1 to the number of its distinct keys, or the lists are too long",
        );
    }
    if !named_keys(root).all(Key::is_well_formed) {
        return malformed("a key does not have the form of its algorithm");
    }
    for name in [RoleName::Root, RoleName::Snapshot] {
        if roles(root, name).count() != 1 || roles(root, name).any(|r| !r.prefix.is_empty()) {
            return malformed("it needs exactly one root role and one snapshot role, for all names");
        }
    }
    let others: Vec<&Key> = root
        .roles
        .iter()
        .filter(|r| r.name != RoleName::Root)
        .flat_map(|r| &r.keys)
        .chain(std::iter::once(&root.controller.online))
        .collect();
    // Own: a key that signs every day never decides who may sign.
    if role_keys(root, RoleName::Root).iter().any(|k| others.contains(k)) {
        return refuse(Code::RoleOverlap, format!("root {}: a root key sits in another role", root.version));
    }
    Ok(())
}
