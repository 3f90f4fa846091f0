//! What comes by MQTT: topics and filters as the broker asks about them, and each message as its receiver reads it
//! (the controller's `ingest`, the agent's `inbox`).

use crate::fleet::{Fleet, NOW, full, key, seal, seed};
use crate::{prefixed, split_first};
use shoal_controller_core::sync::{Holds, Send, Wants, bring_up_to_date};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, Digest};
use shoal_protocol::latest::{Ack, Fact, Heartbeat, Hello, Kind, LogChunk, Order, Report, SnapshotRef};
use shoal_protocol::topics::{CONTROLLER, Topic};
use shoal_protocol::verify::{Expect, TrustState, Viewpoint, verify, verify_as};
use std::sync::LazyLock;

struct World {
    device: Fleet,
    controller: TrustState,
    id: DeviceId,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let device = Fleet::new();
    let controller = TrustState { viewpoint: Viewpoint::Observer, own: None, ..device.state.clone() };
    World { device, controller, id: key(seed::IDENTITY).public().device_id() }
});

pub(crate) fn run(data: &[u8]) -> bool {
    let (which, payload) = split_first(data);
    let Some(topic) = Topic::ALL.get(usize::from(which)).copied() else { return names(payload) };
    if payload.len() > topic.size_cap() {
        return false;
    }
    match topic {
        Topic::Hello => decode::<Hello>(topic, payload).is_some_and(|h| hello(&h)),
        Topic::Heartbeat => decode::<Heartbeat>(topic, payload).is_some(),
        Topic::Log => decode::<LogChunk>(topic, payload).is_some(),
        Topic::Ack => decode::<Ack>(topic, payload).is_some(),
        Topic::Report => report(payload),
        Topic::Root | Topic::Snapshot | Topic::Document | Topic::Order => delivered(topic, payload),
    }
}

fn decode<T: serde::Serialize + serde::de::DeserializeOwned>(topic: Topic, payload: &[u8]) -> Option<T> {
    codec::decode(payload, Limits::of_size(topic.size_cap())).ok()
}

/// What the controller sends to a device that says this of itself: what it has, once.
fn hello(hello: &Hello) -> bool {
    let name = crate::fleet::name("app");
    let revision = crate::fleet::revision(2, Digest::of(b"2"));
    let wants = Wants {
        root_version: 3,
        record: 1,
        snapshot: Some(SnapshotRef { version: 2, digest: Digest::of(b"snapshot") }),
        documents: vec![(&name, revision)],
        inputs: Vec::new(),
    };
    let mut holds = Holds::from(hello);
    let sent = bring_up_to_date(&mut holds, &wants);
    assert!(sent.len() <= 6, "{} messages for one device of one deployment", sent.len());
    for message in &sent {
        assert!(
            !matches!(message, Send::Root(v) if *v < 1 || *v > 3),
            "a root that is not there: {message:?}"
        );
    }
    assert!(bring_up_to_date(&mut holds, &wants).is_empty(), "what was sent is held");
    true
}

fn report(payload: &[u8]) -> bool {
    let Ok(verified) = verify_as::<Report>(payload, &WORLD.controller, NOW) else { return false };
    assert_eq!(verified.document().device, WORLD.id);
    assert_eq!(verified.identity(), known(0).1, "nobody signed this report");
    for fact in &verified.document().facts {
        let _ = verify_as::<Fact>(&fact.0, &WORLD.controller, NOW);
    }
    true
}

fn delivered(topic: Topic, payload: &[u8]) -> bool {
    let Ok(verdict) = verify(payload, &WORLD.device.state, NOW, Expect::Delivered) else { return false };
    let ours = (1..KNOWN).any(|n| known(n).1 == verdict.identity());
    assert!(ours, "nobody signed this {:?}", verdict.kind());
    if verdict.kind() == Kind::Order {
        let order = Envelope::parse(payload).ok().and_then(|e| decode::<Order>(topic, e.payload()));
        assert!(order.is_some(), "the agent reads what admission took");
    }
    true
}

const KNOWN: usize = 5;

/// The only documents that anybody ever signed here.
fn known(n: usize) -> (Vec<u8>, Digest) {
    let fleet = &WORLD.device;
    match n {
        0 => seal(&full::report(fleet), &[seed::IDENTITY]),
        1 => seal(&fleet.root_2(), &[seed::ROOT]),
        2 => seal(&fleet.snapshot(2, vec![]), &[seed::SNAPSHOT]),
        3 => seal(&fleet.record(2), &[seed::ENROLL]),
        _ => seal(&full::orders(fleet)[3], &[seed::ONLINE]),
    }
}

/// Topic names and filters: a device reaches its own branch and nothing else (B1).
fn names(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let parsed = Topic::parse(text);
    if let Some((fleet, device, topic)) = &parsed {
        assert_eq!(topic.of(fleet, device), text, "a topic has one spelling");
    }
    let own = WORLD.id.as_str();
    if Topic::may_publish(own, text) {
        assert!(parsed.is_some_and(|(_, d, t)| d == WORLD.id && t.is_up()), "{text} is not the device's");
        return true;
    }
    if Topic::may_subscribe(own, text) {
        let branch = text.split('/').nth(3);
        assert!(branch == Some(own) && !text.contains(['+', '$']), "{text} leaves the device's branch");
        assert!(text.contains("/down/") && text.find('#').is_none_or(|at| at == text.len() - 1));
        return true;
    }
    Topic::may_publish(CONTROLLER, text) || Topic::may_subscribe(CONTROLLER, text)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let fleet = &WORLD.device;
    let of = |topic: Topic, bytes: &[u8]| {
        let n = Topic::ALL.iter().position(|t| *t == topic).and_then(|n| u8::try_from(n).ok());
        prefixed(n.unwrap_or_default(), bytes)
    };
    let mut out = vec![
        of(Topic::Hello, &codec::encode(&full::hello(fleet))),
        of(
            Topic::Hello,
            &codec::encode(&Hello { root_version: u64::MAX, held: vec![], ..full::hello(fleet) }),
        ),
        of(Topic::Heartbeat, &codec::encode(&Heartbeat { uptime: 3600 })),
        of(Topic::Log, &codec::encode(&full::log())),
        of(Topic::Ack, &codec::encode(&Ack { counter: 17 })),
        of(Topic::Report, &known(0).0),
        of(Topic::Root, &known(1).0),
        of(Topic::Snapshot, &known(2).0),
        of(Topic::Document, &known(3).0),
        of(Topic::Order, &known(4).0),
    ];
    let texts = [
        Topic::Report.of(&fleet.id, &WORLD.id),
        Topic::Order.of(&fleet.id, &WORLD.id),
        Topic::filter_device(&fleet.id, &WORLD.id),
        Topic::filter_controller(&fleet.id),
        format!("$share/g/{}", Topic::filter_controller(&fleet.id)),
    ];
    out.extend(texts.iter().map(|t| prefixed(0xff, t.as_bytes())));
    out
}
