//! What a controller's own key may say, with every verb; and everything beside it.

use super::{Attempt, Comes, Thief};
use anyhow::{Context as _, Result};
use shoal_protocol::Code;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{DeviceId, Digest, FleetId, Name, Timestamp};
use shoal_protocol::latest::{Order, Revision, Verb};
use shoal_protocol::topics::Topic;

/// The newest revision of what the device runs, by the snapshot.
fn revision(thief: &Thief<'_>) -> Result<Revision> {
    let name = &thief.deployment.name;
    let entry = thief
        .snapshot
        .entries
        .iter()
        .find(|e| e.name == *name && e.newest.sequence == thief.deployment.sequence);
    Ok(entry.context("what it runs is not listed")?.newest)
}

/// Every verb about this revision, the one that ends what runs last; a new verb does not compile until it stands here.
pub(super) fn verbs(thief: &Thief<'_>) -> Result<Vec<Verb>> {
    let (name, revision) = (thief.deployment.name.clone(), revision(thief)?);
    let mut all: Vec<Verb> = Vec::new();
    loop {
        let name = name.clone();
        let next = match all.last() {
            None => Verb::Stage { name, revision },
            Some(Verb::Stage { .. }) => Verb::Activate { name, revision },
            Some(Verb::Activate { .. }) => {
                Verb::Logs { name, container: None, tail: 10, follow: 0, stream: 77 }
            }
            Some(Verb::Logs { .. }) => Verb::Restart { name },
            Some(Verb::Restart { .. }) => Verb::Return { name, revision },
            Some(Verb::Return { .. }) => break,
        };
        all.push(next);
    }
    Ok(all)
}

/// The verb's name on a command line.
pub(super) fn word(verb: &Verb) -> &'static str {
    match verb {
        Verb::Stage { .. } => "stage",
        Verb::Activate { .. } => "activate",
        Verb::Return { .. } => "return",
        Verb::Restart { .. } => "restart",
        Verb::Logs { .. } => "logs",
    }
}

/// The same about another name and revision.
fn about(verb: &Verb, name: &Name, revision: Revision) -> Verb {
    let name = name.clone();
    match verb {
        Verb::Stage { .. } => Verb::Stage { name, revision },
        Verb::Activate { .. } => Verb::Activate { name, revision },
        Verb::Return { .. } => Verb::Return { name, revision },
        Verb::Restart { .. } => Verb::Restart { name },
        Verb::Logs { tail, follow, stream, .. } => {
            Verb::Logs { name, container: None, tail: *tail, follow: *follow, stream: *stream }
        }
    }
}

fn order(thief: &Thief<'_>, verb: Verb) -> Order {
    Order {
        fleet: thief.fleet().clone(),
        device: thief.device.clone(),
        counter: thief.counter,
        issued_at: thief.now,
        not_after: thief.now.plus(600),
        verb,
    }
}

/// What a controller may say with a verb.
pub(super) fn granted(thief: &Thief<'_>, verb: Verb) -> Result<Attempt> {
    let comes = match &verb {
        Verb::Stage { .. } => "it has it already",
        Verb::Activate { .. } => "it runs already",
        Verb::Logs { .. } => "the last lines, as the deployment consents",
        Verb::Restart { .. } => "the same revision, started again",
        Verb::Return { .. } => "the last good revision before it",
    };
    let message = seal_document(&order(thief, verb), &[&thief.online])?.0;
    Ok(Attempt::new("order", Topic::Order, message, Comes::Granted(comes)))
}

/// What a controller may not say with a verb, though its own key signed it.
pub(super) fn beyond(thief: &Thief<'_>, verb: &Verb) -> Result<Vec<Attempt>> {
    let good = order(thief, verb.clone());
    let nobody: Name = "never-signed".parse()?;
    let unsigned = Revision { sequence: thief.deployment.sequence + 1, digest: Digest::of(b"never signed") };
    let name = &thief.deployment.name;
    let with = |verb: Verb| Order { verb, ..good.clone() };
    let mut orders = vec![
        ("about nothing that is signed", with(about(verb, &nobody, unsigned)), Code::OrderForbidden),
        (
            "for another device",
            Order { device: DeviceId::of_spki(b"another"), ..good.clone() },
            Code::WrongTarget,
        ),
        (
            "for another fleet",
            Order { fleet: FleetId::of_root(&Digest::of(b"another")), ..good.clone() },
            Code::WrongTarget,
        ),
        (
            "for longer than an hour",
            Order { not_after: thief.now.plus(3601), ..good.clone() },
            Code::OrderForbidden,
        ),
        ("with a counter that was", Order { counter: 0, ..good.clone() }, Code::OrderReplay),
        ("with all counters at once", Order { counter: u64::MAX, ..good.clone() }, Code::SequenceJump),
        (
            "past its time",
            Order { issued_at: Timestamp(1), not_after: Timestamp(2), ..good.clone() },
            Code::Expired,
        ),
        (
            "from 2099",
            Order {
                issued_at: Timestamp(4_070_908_800),
                not_after: Timestamp(4_070_908_900),
                ..good.clone()
            },
            Code::TimeJump,
        ),
    ];
    match verb {
        Verb::Stage { .. } | Verb::Activate { .. } | Verb::Return { .. } => {
            orders.push((
                "about a revision that nobody signed",
                with(about(verb, name, unsigned)),
                Code::OrderForbidden,
            ));
        }
        Verb::Restart { .. } => {}
        Verb::Logs { stream, .. } => {
            let logs = |tail, follow| Verb::Logs {
                name: name.clone(),
                container: None,
                tail,
                follow,
                stream: *stream,
            };
            orders.push(("more lines than consented", with(logs(201, 0)), Code::OrderForbidden));
            orders.push(("followed for longer than an hour", with(logs(1, 3601)), Code::OrderForbidden));
        }
    }
    let mut out = Vec::new();
    for (what, order, code) in orders {
        let message = seal_document(&order, &[&thief.online])?.0;
        out.push(Attempt::refused(format!("{} {what}", word(verb)), Topic::Order, message, code));
    }
    Ok(out)
}
