//! Snapshots: signed by their own role, rising in version, never losing a live name or a step of any sequence.

use super::signatures::{of_role, roles};
use super::{Case, MAX_JUMP, Standing, Verified, refuse};
use crate::ids::Name;
use crate::refusal::{Code, Refusal};
use crate::v1::{Entry, EntryKind, Key, Liveness, Revision, Role, RoleName, Snapshot};

/// How many names a snapshot may list.
pub(super) const MAX_NAMES: usize = 4096;

pub(super) fn verify(case: &Case<'_>) -> Result<Verified<Snapshot>, Refusal> {
    let anchor = case.anchor()?;
    let (_, signers) = of_role(&case.signed, anchor, RoleName::Snapshot)?;
    let snapshot: Snapshot = case.decode()?;
    check_form(&snapshot)?;
    case.check_fleet(&snapshot.fleet)?;
    // Own: nothing is judged by a root that its signers had left behind.
    if snapshot.root_version > anchor.root.document.version {
        return refuse(
            Code::RootBehind,
            format!("it needs root {}, root {} is held", snapshot.root_version, anchor.root.document.version),
        );
    }
    case.check_epoch(snapshot.epoch)?;
    let held = case.state.snapshot.as_ref();
    if held.is_some_and(|h| h.digest == case.identity) {
        return Ok(Verified::new(snapshot, case.identity, Standing::Held, signers));
    }
    check_version(case, &snapshot)?;
    if let Some(held) = held {
        check_succession(&held.document, &snapshot)?;
        check_removals(case, &held.document, &snapshot)?;
    }
    case.check_time(snapshot.issued_at, Some(snapshot.not_after), "snapshot")?;
    Ok(Verified::new(snapshot, case.identity, Standing::New, signers))
}

/// The entry of a name.
pub(super) fn entry_of<'s>(snapshot: &'s Snapshot, kind: EntryKind, name: &Name) -> Option<&'s Entry> {
    let key = (kind, name);
    snapshot.entries.binary_search_by(|e| (e.kind, &e.name).cmp(&key)).ok().map(|at| &snapshot.entries[at])
}

/// What devices run until the newest revision's wave opens.
pub(super) fn stable_of(entry: &Entry) -> Revision {
    entry.stable.unwrap_or(entry.newest)
}

fn check_form(snapshot: &Snapshot) -> Result<(), Refusal> {
    let entries = &snapshot.entries;
    if entries.len() > MAX_NAMES {
        return refuse(Code::Malformed, format!("{} names, at most {MAX_NAMES}", entries.len()));
    }
    if !entries.windows(2).all(|w| (w[0].kind, &w[0].name) < (w[1].kind, &w[1].name)) {
        return refuse(Code::Malformed, "its entries are not ascending by kind and name");
    }
    for e in entries {
        let above = e.stable.is_some_and(|stable| stable.sequence >= e.newest.sequence);
        if e.newest.sequence == 0 || above {
            return refuse(Code::Malformed, format!("{}: stable does not lie below newest", e.name));
        }
    }
    Ok(())
}

/// TUF §5.4.3 (rollback; versions only rise), §5.3.11 (a higher epoch begins anew). The bound on a jump is own.
fn check_version(case: &Case<'_>, new: &Snapshot) -> Result<(), Refusal> {
    let least = case.state.minima.map_or(0, |m| m.snapshot_version);
    let held = case.state.snapshot.as_ref().map(|h| &h.document).filter(|h| h.epoch == new.epoch);
    if let Some(held) = held {
        if new.version < held.version {
            return refuse(
                Code::Rollback,
                format!("version {}, version {} is held", new.version, held.version),
            );
        }
        if new.version == held.version {
            return refuse(
                Code::Equivocation,
                format!("another snapshot of version {} is held", held.version),
            );
        }
    } else if case.state.snapshot.is_some() {
        // A higher epoch begins anew: that is how a version that leapt is recovered from.
        return Ok(());
    }
    if new.version < least {
        return refuse(Code::Rollback, format!("version {}, the join file begins at {least}", new.version));
    }
    let base = held.map_or(least, |h| h.version.max(least));
    // Without a snapshot and without minima nothing is known to measure from.
    if (held.is_some() || case.state.minima.is_some()) && new.version - base > MAX_JUMP {
        return refuse(Code::SequenceJump, format!("version {}, {base} is known", new.version));
    }
    Ok(())
}

/// Walks both lists once, side by side. TUF §5.5.5, Uptane §5.4.4.5: no name vanishes, no sequence falls.
fn check_succession(old: &Snapshot, new: &Snapshot) -> Result<(), Refusal> {
    let same_epoch = old.epoch == new.epoch;
    let mut olds = old.entries.iter().peekable();
    for entry in &new.entries {
        let key = (entry.kind, &entry.name);
        while let Some(gone) = olds.next_if(|o| (o.kind, &o.name) < key) {
            check_gone(gone)?;
        }
        match olds.next_if(|o| (o.kind, &o.name) == key) {
            Some(before) if same_epoch => check_entry(before, entry)?,
            None if same_epoch => check_jump(&entry.name, 0, entry.newest.sequence)?,
            _ => {}
        }
    }
    olds.try_for_each(check_gone)
}

fn check_gone(entry: &Entry) -> Result<(), Refusal> {
    match entry.liveness {
        Liveness::Live => refuse(Code::SnapshotRollback, format!("the live name {} is missing", entry.name)),
        Liveness::Removed => Ok(()),
    }
}

fn check_entry(old: &Entry, new: &Entry) -> Result<(), Refusal> {
    let name = &new.name;
    if new.newest.sequence < old.newest.sequence
        || stable_of(new).sequence < stable_of(old).sequence
        || new.floor < old.floor
    {
        return refuse(Code::SnapshotRollback, format!("{name}: a sequence or the floor falls"));
    }
    for (a, b) in [(old.newest, new.newest), (stable_of(old), stable_of(new)), (old.newest, stable_of(new))] {
        if a.sequence == b.sequence && a.digest != b.digest {
            return refuse(
                Code::Equivocation,
                format!("{name}: another document of sequence {}", a.sequence),
            );
        }
    }
    check_jump(name, old.newest.sequence, new.newest.sequence)
}

fn check_jump(name: &Name, known: u64, new: u64) -> Result<(), Refusal> {
    if new.saturating_sub(known) > MAX_JUMP {
        return refuse(Code::SequenceJump, format!("{name}: sequence {new}, {known} is known"));
    }
    Ok(())
}

/// Until removals are documents of their own, a snapshot that removes a name or raises its floor must also carry the
/// signatures of a role with `may_remove` for that name (in a small fleet the same person's key).
/// TUF §5.6.7, Uptane §5.4.4.7 (delegation): who ends a name must have been given it; REQ.SEC.ACCESS_CONTROL.
fn check_removals(case: &Case<'_>, old: &Snapshot, new: &Snapshot) -> Result<(), Refusal> {
    let mut olds = old.entries.iter().peekable();
    let mut ended = new.entries.iter().filter(|entry| {
        let key = (entry.kind, &entry.name);
        while olds.next_if(|o| (o.kind, &o.name) < key).is_some() {}
        olds.next_if(|o| (o.kind, &o.name) == key).is_some_and(|before| {
            let removed = entry.liveness == Liveness::Removed && before.liveness == Liveness::Live;
            removed || entry.floor > before.floor
        })
    });
    let Some(first) = ended.next() else { return Ok(()) };
    let anchor = case.anchor()?;
    let root = &anchor.root.document;
    for entry in std::iter::once(first).chain(ended) {
        // Who may sign something of a kind may end it.
        let role = if entry.kind == EntryKind::Release { RoleName::Release } else { RoleName::Deployment };
        let may_remove: Vec<&Role> = roles(root, role).filter(|r| r.may_remove).collect();
        let keys: Vec<&Key> = may_remove.iter().flat_map(|r| &r.keys).collect();
        let tally = case.signed.tally(&keys, Some(anchor));
        if !may_remove.iter().any(|r| entry.name.as_str().starts_with(&r.prefix) && tally.meets(r)) {
            return refuse(
                Code::RoleScope,
                format!(
                    "{}: its removal or raised floor needs signatures of a role with may_remove for this name, \
                     beside the snapshot role's",
                    entry.name
                ),
            );
        }
    }
    Ok(())
}
