//! Deployments: signed within a grant, for this device, rising in sequence, listed by the held snapshot.

use super::signatures::of_role;
use super::snapshot::{entry_of, stable_of};
use super::target::{Selection, selection};
use super::{Case, MAX_JUMP, Standing, Verified, refuse, template, time};
use crate::ids::Name;
use crate::refusal::{Code, Refusal};
use crate::v1::{Deployment, EntryKind, Liveness, Revision, Role, RoleName};

pub(super) fn verify(case: &Case<'_>) -> Result<Verified<Deployment>, Refusal> {
    let (roles, signers) = of_role(&case.signed, case.anchor()?, RoleName::Deployment)?;
    let deployment: Deployment = case.decode()?;
    template::check_form(&deployment)?;
    case.check_fleet(&deployment.fleet)?;
    check_grant(&roles, &deployment)?;
    let selected = check_target(case, &deployment)?;
    if selected {
        template::check_supported(&deployment)?;
    }
    case.check_epoch(deployment.epoch)?;
    let revision = Revision { sequence: deployment.sequence, digest: case.identity };
    let held = check_sequence(case, &deployment, &revision)?;
    check_snapshot(case, &deployment, &revision, held)?;
    if !held {
        case.check_time(deployment.issued_at, Some(deployment.not_after), "time to accept it")?;
    }
    let standing = match (selected, held) {
        (false, _) => Standing::Deselected,
        (true, true) => Standing::Held,
        (true, false) => Standing::New,
    };
    Ok(Verified::new(deployment, case.identity, standing, signers))
}

/// One of the roles whose threshold is met must allow the name and all that the template asks for.
/// TUF §5.6.7, Uptane §5.4.4.7 (delegations); REQ.SEC.ACCESS_CONTROL against THREAT.UPD.UNAPPROVED.
fn check_grant(roles: &[&Role], deployment: &Deployment) -> Result<(), Refusal> {
    let mut why = format!("{}: the signers' roles are for other name prefixes", deployment.name);
    for role in roles.iter().filter(|r| deployment.name.as_str().starts_with(&r.prefix)) {
        // What it refers to it gets to read: a key reads no further than it writes.
        let foreign =
            deployment.template.documents().find(|(_, d)| !d.name.as_str().starts_with(&role.prefix));
        if let Some((_, d)) = foreign {
            let names = (&deployment.name, &d.name, &role.prefix);
            why =
                format!("{}: it refers to {}, and its key's names begin with {}", names.0, names.1, names.2);
            continue;
        }
        match role.ceiling.as_ref().and_then(|c| template::beyond(c, &deployment.template)) {
            None => return Ok(()),
            Some(what) => why = format!("{}: beyond the role's ceiling: {what}", deployment.name),
        }
    }
    refuse(Code::RoleScope, why)
}

/// Whether it selects this device. One that does not is refused, unless it takes the place of one that did.
/// Uptane §5.4.4.6; REQ.SEC.COMPATIBLE, REQ.SEC.AUTH.COMPATIBILITY.
fn check_target(case: &Case<'_>, deployment: &Deployment) -> Result<bool, Refusal> {
    if !case.on_device() {
        return Ok(true);
    }
    let Some(record) = &case.state.record else {
        return refuse(Code::WrongTarget, "this device has no record yet, so nothing selects it");
    };
    let refusal = match selection(&deployment.target, &record.document, case.state.platform.as_ref()) {
        Selection::Selected => return Ok(true),
        Selection::EngineTooOld => {
            let least = deployment.target.min_engine.clone().unwrap_or_default();
            return refuse(Code::EngineTooOld, format!("{}: needs engine {least}", deployment.name));
        }
        Selection::Not(why) => Refusal::new(Code::WrongTarget, format!("{}: {why}", deployment.name)),
    };
    if case.is_stored() || case.state.deployments.contains_key(&deployment.name) {
        Ok(false)
    } else {
        Err(refusal)
    }
}

/// Whether exactly this revision was accepted before; refuses lower, forked and leaping sequences.
/// TUF §5.5.5 (rollback); REQ.SEC.SEQUENCE against THREAT.IMG.EXPIRED. Equivocation is own.
fn check_sequence(case: &Case<'_>, deployment: &Deployment, revision: &Revision) -> Result<bool, Refusal> {
    let name = &deployment.name;
    let Some(history) = case.state.deployments.get(name) else { return Ok(case.is_stored()) };
    if history.holds(revision) && (case.is_stored() || history.highest() == Some(*revision)) {
        return Ok(true);
    }
    if case.is_stored() {
        return match history.revisions.get(&revision.sequence) {
            Some(_) => refuse(Code::Equivocation, format!("{name}: another sequence {}", revision.sequence)),
            None => Ok(true),
        };
    }
    let Some(highest) = history.highest().filter(|_| history.epoch >= deployment.epoch) else {
        return Ok(false);
    };
    let other = history.revisions.get(&revision.sequence).is_some_and(|a| a.digest != revision.digest);
    if other {
        return refuse(
            Code::Equivocation,
            format!(
                "{name}: sequence {} was accepted with other bytes; the first is kept",
                revision.sequence
            ),
        );
    }
    let (sequence, known) = (revision.sequence, highest.sequence);
    match sequence.checked_sub(known) {
        None => refuse(Code::Rollback, format!("{name}: sequence {sequence}, {known} was accepted")),
        Some(ahead) if ahead > MAX_JUMP => {
            refuse(Code::SequenceJump, format!("{name}: sequence {sequence}, {known} is known"))
        }
        Some(_) => Ok(false),
    }
}

/// Listing gates first acceptance only; the floor holds always.
/// TUF §5.6.2, §5.6.4 (mix and match: exactly the digest and version that the snapshot lists); Uptane §5.4.4.6.
fn check_snapshot(
    case: &Case<'_>,
    deployment: &Deployment,
    revision: &Revision,
    held: bool,
) -> Result<(), Refusal> {
    let Deployment { name, epoch, .. } = deployment;
    check_floor(case, EntryKind::Deployment, name, *epoch, revision)?;
    if held { Ok(()) } else { check_listed(case, EntryKind::Deployment, name, revision) }
}

/// Nothing below the floor that the held snapshot sets for the name.
pub(super) fn check_floor(
    case: &Case<'_>,
    kind: EntryKind,
    name: &Name,
    epoch: u64,
    revision: &Revision,
) -> Result<(), Refusal> {
    let snapshot = case.state.snapshot.as_ref().map(|s| &*s.document).filter(|s| s.epoch == epoch);
    let entry = snapshot.and_then(|s| entry_of(s, kind, name));
    match entry.filter(|e| revision.sequence < e.floor) {
        Some(entry) => refuse(
            Code::BelowFloor,
            format!("{name}: sequence {}, the floor is {}", revision.sequence, entry.floor),
        ),
        None => Ok(()),
    }
}

/// The held snapshot lists exactly this revision, and still counts.
pub(super) fn check_listed(
    case: &Case<'_>,
    kind: EntryKind,
    name: &Name,
    revision: &Revision,
) -> Result<(), Refusal> {
    let Some(snapshot) = case.state.snapshot.as_ref().map(|s| &*s.document) else {
        // An observer without a snapshot looks at one document by itself; a device takes nothing unlisted.
        return if case.on_device() {
            refuse(Code::NotInSnapshot, "no snapshot is held yet")
        } else {
            Ok(())
        };
    };
    let listed = entry_of(snapshot, kind, name).is_some_and(|e| {
        e.liveness == Liveness::Live && (e.newest == *revision || stable_of(e) == *revision)
    });
    if !listed {
        return refuse(
            Code::NotInSnapshot,
            format!("{name} sequence {} is not listed by snapshot {}", revision.sequence, snapshot.version),
        );
    }
    if case.on_device() && time::check_not_after(case.time, snapshot.not_after, "snapshot").is_err() {
        return refuse(
            Code::SnapshotExpired,
            format!(
                "snapshot {} ended at {}, the time here is {}",
                snapshot.version, snapshot.not_after.0, case.time.0
            ),
        );
    }
    Ok(())
}
