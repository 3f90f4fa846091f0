//! What concerns one device: records and tokens by the enrollment role, orders by the controller, reports and facts by the device.

use super::signatures::{of_key, of_role, role_keys, roles};
use super::{Case, Known, MAX_JUMP, Mark, Standing, Verified, refuse, time};
use crate::ids::{DeviceId, Name, Timestamp};
use crate::refusal::{Code, Refusal};
use crate::v1::{DeviceRecord, Fact, Key, LogConsent, Order, Report, Revision, RoleName, Token, Verb};

/// An order lives no longer than this, seconds.
pub(super) const ORDER_LIFETIME: u64 = 3600;
/// The most lines that `tail` consent gives out at a time.
const TAIL_LINES: u64 = 200;
/// The most seconds that an order may ask to follow a log.
const MAX_FOLLOW: u64 = 3600;
const MAX_LABELS: usize = 64;

pub(super) fn verify_record(case: &Case<'_>) -> Result<Verified<DeviceRecord>, Refusal> {
    let anchor = case.anchor()?;
    let tokens = &case.state.tokens;
    let mut wanted = role_keys(&anchor.root.document, RoleName::Enrollment);
    wanted.extend(tokens.iter().map(|t| &t.key));
    let tally = case.signed.tally(&wanted, Some(anchor));
    let by_role = roles(&anchor.root.document, RoleName::Enrollment).any(|r| tally.meets(r));
    let token = tokens.iter().find(|t| tally.good.contains(&t.key));
    if !by_role && token.is_none() {
        return Err(tally.refusal("the enrollment role or a token"));
    }
    let record: DeviceRecord = case.decode()?;
    let sound = record.identity.is_well_formed()
        && record.attest.is_well_formed()
        && record.sealing.0.len() == 32
        && record.labels.len() <= MAX_LABELS
        && record.sequence >= 1
        && record.device == record.identity.device_id();
    if !sound {
        return refuse(
            Code::Malformed,
            "the id is not the identity key's, or a key or label list is out of form",
        );
    }
    case.check_fleet(&record.fleet)?;
    if !by_role && let Some(token) = token {
        check_token_grant(case, token, &record)?;
    }
    check_whose(case, &record)?;
    case.check_epoch(record.epoch)?;
    let standing = check_record_sequence(case, &record)?;
    if standing == Standing::New {
        case.check_time(record.issued_at, None, "record")?;
    }
    Ok(Verified::new(record, case.identity, standing, tally.good))
}

/// A token's own key may sign exactly one thing: the first record, with the token's labels.
/// REQ.SEC.RIGHTS: a right comes with its proof, and with no other right.
fn check_token_grant(case: &Case<'_>, token: &Token, record: &DeviceRecord) -> Result<(), Refusal> {
    if token.approval {
        return refuse(
            Code::RoleScope,
            "this token's devices are approved by an operator, whose key must sign",
        );
    }
    if record.sequence != 1 || record.labels != token.labels || record.decommissioned {
        return refuse(Code::RoleScope, "a token's key signs sequence 1 with exactly the token's labels");
    }
    if !case.is_stored() && case.state.record.is_none() && case.time > token.not_after {
        return refuse(Code::EnrollProof, format!("the token ended at {}", token.not_after.0));
    }
    Ok(())
}

fn check_whose(case: &Case<'_>, record: &DeviceRecord) -> Result<(), Refusal> {
    if let Some(own) = &case.state.own
        && (record.attest != own.attest || record.sealing != own.sealing)
    {
        return refuse(Code::WrongTarget, "it names other sealing or attest keys than this device's");
    }
    match &case.state.record {
        Some(held) if held.document.device != record.device => refuse(
            Code::WrongTarget,
            format!("for device {}, this is {}", record.device, held.document.device),
        ),
        _ => Ok(()),
    }
}

/// REQ.SEC.SEQUENCE, for labels as for what runs.
fn check_record_sequence(case: &Case<'_>, record: &DeviceRecord) -> Result<Standing, Refusal> {
    let Some(held) = &case.state.record else { return Ok(Standing::New) };
    if held.digest == case.identity {
        return Ok(Standing::Held);
    }
    let known = held.document.sequence;
    if held.document.epoch != record.epoch {
        return Ok(Standing::New);
    }
    if record.sequence < known {
        return refuse(Code::RecordRollback, format!("sequence {}, {known} is held", record.sequence));
    }
    if record.sequence == known {
        return refuse(Code::Equivocation, format!("another record of sequence {known} is held"));
    }
    if record.sequence - known > MAX_JUMP {
        return refuse(Code::SequenceJump, format!("sequence {}, {known} is known", record.sequence));
    }
    Ok(Standing::New)
}

pub(super) fn verify_token(case: &Case<'_>) -> Result<Verified<Token>, Refusal> {
    let anchor = case.anchor()?;
    let (_, signers) = of_role(&case.signed, anchor, RoleName::Enrollment)?;
    let token: Token = case.decode()?;
    if !token.key.is_well_formed() || token.uses == 0 || token.labels.len() > MAX_LABELS {
        return refuse(
            Code::Malformed,
            "a token has a well-formed key, at least one use and at most 64 labels",
        );
    }
    case.check_fleet(&token.fleet)?;
    case.check_epoch(token.epoch)?;
    let version = anchor.root.document.version;
    if version < token.minima.root_version {
        return refuse(
            Code::RootBehind,
            format!("it begins at root {}, root {version} is held", token.minima.root_version),
        );
    }
    // A device gets its token, and with it the time it begins at, from the hand of uid 0.
    if !case.on_device() {
        case.check_time(token.issued_at, None, "token")?;
    }
    if !case.is_stored() && case.time > token.not_after {
        return refuse(
            Code::EnrollProof,
            format!("the token ended at {}, the time here is {}", token.not_after.0, case.time.0),
        );
    }
    // Found by fuzzing: the time floor never falls, so a device that began after these ends would take nothing any more.
    let begin = token.minima.time;
    if !case.is_stored() && begin > token.not_after.min(anchor.root.document.not_after) {
        return refuse(
            Code::TimeJump,
            format!("a device would begin at {}, after the token or the root has ended", begin.0),
        );
    }
    let standing = if case.state.tokens.contains(&token) { Standing::Held } else { Standing::New };
    Ok(Verified::new(token, case.identity, standing, signers))
}

pub(super) fn verify_order(case: &Case<'_>) -> Result<Verified<Order>, Refusal> {
    let anchor = case.anchor()?;
    let signers = of_key(&case.signed, anchor, &anchor.root.document.controller.online, "the controller")?;
    let order: Order = case.decode()?;
    case.check_fleet(&order.fleet)?;
    if case.on_device() {
        match &case.state.record {
            Some(own) if own.document.device == order.device => {}
            _ => return refuse(Code::WrongTarget, format!("for device {}", order.device)),
        }
    }
    if order.not_after > order.issued_at.plus(ORDER_LIFETIME) {
        return refuse(Code::OrderForbidden, "an order lives at most an hour");
    }
    if order.counter <= case.state.order_counter {
        let known = case.state.order_counter;
        return refuse(Code::OrderReplay, format!("counter {}, {known} was accepted", order.counter));
    }
    // Own: a stolen controller does not use up the counters of the one that takes its place.
    if order.counter - case.state.order_counter > MAX_JUMP {
        let known = case.state.order_counter;
        return refuse(Code::SequenceJump, format!("counter {}, {known} is known", order.counter));
    }
    time::check_issued(case.state, case.time, order.issued_at, time::DEVICE_AHEAD)?;
    time::check_not_after(case.time, order.not_after, "order")?;
    if case.on_device() {
        check_verb(case, &order.verb)?;
    }
    Ok(Verified::new(order, case.identity, Standing::New, signers))
}

/// An order names only what an operator signed and this device accepted.
/// REQ.SEC.ACCESS_CONTROL; in Uptane's terms the controller is a director that can choose among signed images only.
fn check_verb(case: &Case<'_>, verb: &Verb) -> Result<(), Refusal> {
    match verb {
        Verb::Stage { name, revision } | Verb::Return { name, revision } => {
            held(case, name, revision).map(|_| ())
        }
        Verb::Activate { name, revision } => match held(case, name, revision)? {
            Some(begin) if case.time < begin => refuse(
                Code::OutsideWindow,
                format!("{name}: not before {}, the time here is {}", begin.0, case.time.0),
            ),
            _ => Ok(()),
        },
        Verb::Restart { name } => consent(case, name).map(|_| ()),
        Verb::Logs { name, tail, follow, .. } => {
            let allowed = match consent(case, name)? {
                LogConsent::None => false,
                LogConsent::Tail => *tail <= TAIL_LINES,
                LogConsent::Full => true,
            };
            if allowed && *follow <= MAX_FOLLOW {
                Ok(())
            } else {
                refuse(
                    Code::OrderForbidden,
                    format!("{name}: {tail} lines and {follow} s are beyond the signed consent"),
                )
            }
        }
    }
}

/// When an accepted revision may be activated at the earliest.
fn held(case: &Case<'_>, name: &Name, revision: &Revision) -> Result<Option<Timestamp>, Refusal> {
    let accepted = case
        .state
        .deployments
        .get(name)
        .and_then(|h| h.revisions.get(&revision.sequence))
        .filter(|a| a.digest == revision.digest);
    match accepted {
        Some(a) => Ok(a.not_before),
        None => refuse(
            Code::OrderForbidden,
            format!("{name}: sequence {} was not accepted here", revision.sequence),
        ),
    }
}

/// The log consent of the highest accepted revision.
fn consent(case: &Case<'_>, name: &Name) -> Result<LogConsent, Refusal> {
    match case.state.deployments.get(name).and_then(|h| h.revisions.last_key_value()) {
        Some((_, accepted)) => Ok(accepted.logs),
        None => refuse(Code::OrderForbidden, format!("{name} was not accepted here")),
    }
}

pub(super) fn verify_report(case: &Case<'_>) -> Result<Verified<Report>, Refusal> {
    let record = record_of(case)?;
    let signers = of_key(&case.signed, case.anchor()?, &record.document.identity, "the device")?;
    let report: Report = case.decode()?;
    case.check_fleet(&report.fleet)?;
    check_from(&record.document.device, &report.device)?;
    check_counter(case, case.state.report, report.counter)?;
    Ok(Verified::new(report, case.identity, Standing::New, signers))
}

pub(super) fn verify_fact(case: &Case<'_>) -> Result<Verified<Fact>, Refusal> {
    let record = record_of(case)?;
    let key: &Key = &record.document.attest;
    let signers = of_key(&case.signed, case.anchor()?, key, "the device's admission")?;
    let fact: Fact = case.decode()?;
    case.check_fleet(&fact.fleet)?;
    check_from(&record.document.device, &fact.device)?;
    check_counter(case, case.state.fact, fact.counter)?;
    Ok(Verified::new(fact, case.identity, Standing::New, signers))
}

pub(super) fn record_of<'s>(case: &'s Case<'_>) -> Result<&'s Known<DeviceRecord>, Refusal> {
    match &case.state.record {
        Some(record) => Ok(record),
        None => refuse(Code::UnknownKey, "no device record is known for the sender"),
    }
}

pub(super) fn check_from(own: &DeviceId, named: &DeviceId) -> Result<(), Refusal> {
    if own == named {
        Ok(())
    } else {
        refuse(Code::WrongTarget, format!("from device {named}, the key is {own}'s"))
    }
}

/// Counters only rise; one counter with two contents is two machines with one identity.
/// Uptane §5.4.2.1 (version reports cannot be replayed); REQ.SEC.REPORTING.
pub(super) fn check_counter(case: &Case<'_>, last: Option<Mark>, counter: u64) -> Result<(), Refusal> {
    let Some(Mark { counter: known, digest }) = last else { return Ok(()) };
    if case.is_stored() || counter > known {
        return Ok(());
    }
    if counter == known && digest != case.identity {
        return refuse(Code::DeviceCloned, format!("counter {counter} was stored with other bytes"));
    }
    refuse(Code::ReportReplay, format!("counter {counter}, {known} was stored"))
}
