//! What supervise saw becomes a signed fact: counted once, durable, and the ground of last-good.

use super::model::{Model, marks_of, storage};
use super::store::{Change, Marks};
use shoal_ipc::{FactEvent, FactList, ProbeKind, SignedFact};
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::refusal::{Code, Refusal};
use shoal_protocol::v1::{self, Fact};
use std::collections::BTreeMap;

/// Facts in one answer.
const FACTS: usize = 128;
/// Changes of mind of one container's probes that are signed of one attempt: beyond, they are only reported, so that a
/// probe that goes to and fro fills neither flash nor outbox.
const PROBED: u64 = 32;

/// What is known of an attempt with this event in it; nothing when it says nothing new. Bits 0 to 2: started, ended,
/// healthy. From bit 8, two for each kind of probe: whether it said anything, and what last. From bit 32: how often.
fn note(seen: u64, event: &FactEvent) -> Option<u64> {
    let bit = match event {
        FactEvent::Started => 1,
        FactEvent::Ended { .. } => 2,
        FactEvent::Healthy => 4,
        FactEvent::Probed { probe, passed } => {
            let at = match probe {
                ProbeKind::Liveness => 8,
                ProbeKind::Readiness => 10,
                ProbeKind::Startup => 12,
            };
            let (mask, now) = (3 << at, (1 | u64::from(*passed) << 1) << at);
            let fresh = seen & mask != now && seen >> 32 < PROBED;
            return fresh.then(|| (seen & !mask | now) + (1 << 32));
        }
    };
    (seen & bit == 0).then_some(seen | bit)
}

impl Model {
    /// The oldest facts above this counter, as many as go into one answer.
    pub(super) fn facts_after(&self, after: u64) -> Result<FactList, Refusal> {
        let mut all = self.store.facts(after, FACTS + 1).map_err(|e| storage(&e))?;
        let more = all.len() > FACTS;
        all.truncate(FACTS);
        let facts = all.into_iter().map(|(counter, envelope)| SignedFact { counter, envelope }).collect();
        Ok(FactList { facts, more })
    }

    /// Keeps and signs what supervise saw. Seen twice, it counts once.
    pub(super) fn fact(
        &mut self,
        ticket: [u8; 32],
        container: &str,
        attempt: u64,
        event: FactEvent,
        at: u64,
    ) -> Result<(), Refusal> {
        let digest = Digest(ticket);
        let Some(r) = self.held.values().flat_map(BTreeMap::values).find(|r| r.digest == digest) else {
            return Ok(());
        };
        let (Some(keys), Some(record)) = (&self.keys, &self.trust.record) else { return Ok(()) };
        let Ok(container_name) = container.parse::<Name>() else { return Ok(()) };
        let (last, mut seen, mut healthy) =
            self.store.progress(&ticket, container).map_err(|e| storage(&e))?;
        if attempt < last {
            return Ok(());
        }
        if attempt > last {
            seen = 0;
        }
        let Some(seen) = note(seen, &event) else { return Ok(()) };
        healthy |= event == FactEvent::Healthy;
        let fact = Fact {
            fleet: record.document.fleet.clone(),
            device: record.document.device.clone(),
            counter: self.fact_counter + 1,
            at: Timestamp(at),
            deployment: digest,
            name: r.deployment.name.clone(),
            container: container_name,
            attempt,
            event: wire_event(event),
        };
        let (envelope, _) = seal_document(&fact, &[&keys.attest])
            .map_err(|e| Refusal::new(Code::Malformed, format!("a fact cannot be signed: {e}")))?;
        let others = r.deployment.template.all_containers().filter(|c| c.name.as_str() != container);
        let mut good = healthy;
        for c in others {
            good &= self.store.progress(&ticket, c.name.as_str()).map_err(|e| storage(&e))?.2;
        }
        let marks = Marks { good: r.good || good, ..marks_of(r) };
        let change = |c: &Change<'_>| {
            c.add_fact(fact.counter, &envelope)?;
            c.set_progress(&ticket, container, (attempt, seen, healthy))?;
            c.mark(&ticket, marks)
        };
        self.store.change(change).map_err(|e| storage(&e))?;
        self.fact_counter = fact.counter;
        self.set_marks(&digest, marks);
        self.forget_old().map_err(|e| storage(&e))
    }
}

fn wire_kind(kind: ProbeKind) -> v1::ProbeKind {
    match kind {
        ProbeKind::Liveness => v1::ProbeKind::Liveness,
        ProbeKind::Readiness => v1::ProbeKind::Readiness,
        ProbeKind::Startup => v1::ProbeKind::Startup,
    }
}

fn wire_event(event: FactEvent) -> v1::Event {
    match event {
        FactEvent::Started => v1::Event::Started,
        FactEvent::Healthy => v1::Event::Healthy,
        FactEvent::Probed { probe, passed } => v1::Event::Probed { probe: wire_kind(probe), passed },
        FactEvent::Ended { cause } => v1::Event::Ended { cause: wire_cause(cause) },
    }
}

fn wire_cause(cause: shoal_ipc::Cause) -> v1::Cause {
    use shoal_ipc::Cause as C;
    match cause {
        C::Exited { code } => v1::Cause::Exited { code: code.into() },
        C::Trap { message } => v1::Cause::Trap { message },
        C::GuestMemory => v1::Cause::GuestMemory,
        C::OomKilled => v1::Cause::OomKilled,
        C::CpuLimit => v1::Cause::CpuLimit,
        C::TimeLimit => v1::Cause::TimeLimit,
        C::Unhealthy => v1::Cause::Unhealthy,
        C::Stopped => v1::Cause::Stopped,
        C::Signal { number } => v1::Cause::Signal { number: number.into() },
        C::Refused { code, .. } => v1::Cause::Refused { code },
        C::Unknown => v1::Cause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::documents::Documents;
    use super::super::model::Keys;
    use super::super::release::Releases;
    use super::super::store::Store;
    use super::super::testing::held;
    use super::*;
    use shoal_protocol::codec::{self, Limits};
    use shoal_protocol::envelope::Envelope;
    use shoal_protocol::ids::{Bytes, FleetId};
    use shoal_protocol::signer::{Ed25519Signer, Signer as _};
    use shoal_protocol::text_map::TextMap;
    use shoal_protocol::verify::{Known, TrustState};

    /// A device that holds `web`, of two containers.
    fn model() -> (tempfile::TempDir, Model) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("admit.db")).unwrap();
        let identity = Ed25519Signer::from_seed([7; 32]).key();
        let keys = Keys::of([8; 32], [9; 32]);
        let record = v1::DeviceRecord {
            fleet: FleetId::of_root(&Digest([1; 32])),
            epoch: 1,
            device: identity.device_id(),
            sequence: 1,
            issued_at: Timestamp(1),
            identity,
            sealing: Bytes(vec![9; 32]),
            attest: keys.attest.key(),
            labels: TextMap::default(),
            decommissioned: false,
        };
        let trust = TrustState { record: Some(Known::new(record, Digest([2; 32]))), ..TrustState::default() };
        let mut held = held(&[("web", 1), ("web", 2)]);
        for r in held.values_mut().flat_map(BTreeMap::values_mut) {
            let mut d = (*r.deployment).clone();
            let second =
                v1::Container { name: "second".parse().unwrap(), ..d.template.containers[0].clone() };
            d.template.containers.push(second);
            r.deployment = d.into();
        }
        let (documents, releases) = (Documents::default(), Releases::new());
        (dir, Model { store, trust, keys: Some(keys), held, documents, releases, fact_counter: 0 })
    }

    fn web(model: &Model, sequence: u64) -> &super::super::decide::Revision {
        &model.held.values().next().unwrap()[&sequence]
    }

    #[test]
    fn s24_a_revision_is_good_once_each_of_its_containers_was_healthy_in_any_attempt() {
        let (_dir, mut model) = model();
        let ticket = web(&model, 1).digest.0;
        let mut say = |container: &str, attempt, event| {
            model.fact(ticket, container, attempt, event, 5).unwrap();
            (model.fact_counter, web(&model, 1).good, web(&model, 2).good)
        };
        assert_eq!(say("main", 1, FactEvent::Started), (1, false, false));
        assert_eq!(say("main", 1, FactEvent::Started), (1, false, false), "said twice, counted once");
        assert_eq!(say("main", 1, FactEvent::Healthy), (2, false, false));
        assert_eq!(say("second", 1, FactEvent::Started), (3, false, false));
        assert_eq!(say("main", 2, FactEvent::Started), (4, false, false), "a new attempt begins anew");
        assert_eq!(say("main", 1, FactEvent::Ended { cause: shoal_ipc::Cause::Stopped }), (4, false, false));
        assert_eq!(say("second", 1, FactEvent::Healthy), (5, true, false));
        assert_eq!(say("main", 3, FactEvent::Started), (6, true, false), "and stays so");
        assert_eq!(say("Not A Name", 1, FactEvent::Started), (6, true, false));
        model.fact([0; 32], "main", 1, FactEvent::Started, 5).unwrap();
        assert_eq!(model.fact_counter, 6, "nobody's");
        // What is told to the controller is signed, and numbered without a gap.
        let all = model.facts_after(0).unwrap();
        assert_eq!(all.facts.iter().map(|f| f.counter).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert!(!all.more);
        let signed = Envelope::parse(&all.facts[4].envelope).unwrap();
        let fact: Fact = codec::decode(signed.payload(), Limits::of_size(1 << 16)).unwrap();
        assert_eq!((fact.counter, fact.attempt, fact.event), (5, 1, v1::Event::Healthy));
        assert_eq!((fact.container.as_str(), fact.at, fact.deployment.0), ("second", Timestamp(5), ticket));
    }

    #[test]
    fn facts_are_given_out_so_many_at_a_time() {
        let (_dir, mut model) = model();
        let add = |model: &mut Model, n: usize| {
            for _ in 0..n {
                let counter = model.fact_counter + 1;
                model.store.change(|c| c.add_fact(counter, b"fact")).unwrap();
                model.fact_counter = counter;
            }
        };
        let told = |model: &Model, after: u64| {
            let list = model.facts_after(after).unwrap();
            (list.facts.len(), list.facts.last().map_or(0, |f| f.counter), list.more)
        };
        add(&mut model, FACTS);
        assert_eq!(told(&model, 0), (FACTS, 128, false));
        add(&mut model, 1);
        assert_eq!(told(&model, 0), (FACTS, 128, true));
        assert_eq!(told(&model, 1), (FACTS, 129, false));
        assert_eq!(told(&model, 129), (0, 0, false));
    }

    #[test]
    fn an_event_counts_once_and_a_probe_once_a_change() {
        let ready = |passed| FactEvent::Probed { probe: ProbeKind::Readiness, passed };
        let started = note(0, &FactEvent::Started).unwrap();
        assert_eq!(note(started, &FactEvent::Started), None);
        let yes = note(started, &ready(true)).unwrap();
        assert_eq!(note(yes, &ready(true)), None);
        assert_eq!(note(yes, &FactEvent::Started), None);
        assert!(note(yes, &FactEvent::Probed { probe: ProbeKind::Startup, passed: true }).is_some());
        assert!(note(note(yes, &ready(false)).unwrap(), &FactEvent::Healthy).is_some());
    }

    #[test]
    fn a_probe_that_goes_to_and_fro_is_signed_so_often_and_no_more() {
        let flip = |seen, n: u64| {
            note(seen, &FactEvent::Probed { probe: ProbeKind::Readiness, passed: n.is_multiple_of(2) })
        };
        let mut seen = 0;
        for n in 0..PROBED {
            seen = flip(seen, n).unwrap();
        }
        assert_eq!(flip(seen, PROBED), None);
        assert!(note(seen, &FactEvent::Ended { cause: shoal_ipc::Cause::Unhealthy }).is_some());
    }
}
