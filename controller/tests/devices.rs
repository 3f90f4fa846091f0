//! Devices on the real broker: what they may not do, what they are sent, what becomes of what they say.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Broker, Connection, Device, Http, Operator, Shoald, Way, now};
use serde_json::json;
use shoal_controller_core::api;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, seal_document};
use shoal_protocol::latest as wire;
use shoal_protocol::topics::{CONTROLLER, Topic};
use shoal_protocol::{Ed25519Signer, Signer as _};
use std::time::Duration;

async fn fleet() -> (Shoald, Http, Operator) {
    fleet_on(Broker::Embedded).await
}

async fn fleet_on(broker: Broker) -> (Shoald, Http, Operator) {
    let shoald = Shoald::start_on(broker);
    let http = shoald.operator();
    let operator = Operator::found(&http).await;
    (shoald, http, operator)
}

#[tokio::test]
async fn b1_a_device_reaches_only_its_own_branch_and_the_other_is_undisturbed() {
    Box::pin(b1_over(Way::Tls, Broker::Embedded)).await;
}

#[tokio::test]
async fn b1_over_websocket_a_device_reaches_no_more() {
    Box::pin(b1_over(Way::WebSocket, Broker::Embedded)).await;
}

#[tokio::test]
async fn b1_behind_mosquitto_a_device_reaches_no_more() {
    Box::pin(b1_over(Way::Tls, Broker::Mosquitto)).await;
}

#[tokio::test]
async fn b1_behind_mosquitto_over_websocket_a_device_reaches_no_more() {
    Box::pin(b1_over(Way::WebSocket, Broker::Mosquitto)).await;
}

/// The embedded broker says no. Mosquitto takes another name for the client's own, a foreign last will and a foreign filter
/// without a word, and then does nothing about them: there it is only what arrives that counts, which is asked of both.
async fn b1_over(way: Way, broker: Broker) {
    let says_no = broker == Broker::Embedded;
    let (shoald, http, operator) = fleet_on(broker).await;
    let mut a = Device::enroll(&shoald, &operator, &[]).await;
    a.way = way;
    let mut b = Device::enroll(&shoald, &operator, &[]).await;
    b.way = way;
    let mut undisturbed = b.connect().await;

    // Another's client id, the controller's, a stranger's, none of its own.
    for id in [b.id().as_str(), CONTROLLER, "x", ""] {
        let let_in = Connection::open(a.options(id, Some(&a.certificate))).await.is_some();
        assert!(!(says_no && let_in), "client id {id:?}");
    }
    assert!(Connection::open(a.options(a.id().as_str(), None)).await.is_none(), "no certificate");
    // B6: a certificate of another CA.
    let mallory = Shoald::start();
    let elsewhere = Operator::found(&mallory.operator()).await;
    let foreign = Device::enroll(&mallory, &elsewhere, &[]).await;
    let with_foreign = b.options(foreign.id().as_str(), Some(&foreign.certificate));
    assert!(Connection::open(with_foreign).await.is_none(), "another CA");
    // B6: the right CA and name, but past its time.
    let stale = b.expired_certificate(&shoald);
    assert!(Connection::open(b.options(b.id().as_str(), Some(&stale))).await.is_none(), "expired");
    // A last will bypasses the publish hook of the embedded broker.
    for topic in [b.topic(Topic::Report), b.topic(Topic::Snapshot)] {
        let own = a.options(a.id().as_str(), Some(&a.certificate));
        let dies = Connection::open_with_will(own, &topic).await;
        assert!(!(says_no && dies.is_some()), "a will on {topic}");
        // Put out by itself, it has its will published before the next one is let in.
        a.connect().await;
    }

    let mut c = a.connect().await;
    for topic in
        [b.topic(Topic::Report), b.topic(Topic::Snapshot), a.topic(Topic::Snapshot), "shoal".to_owned()]
    {
        assert!(!c.publish(&topic, b"x".to_vec()).await, "{topic}");
        c = a.connect().await;
    }
    let fleet = &operator.fleet;
    for filter in [
        Topic::filter_device(fleet, b.id()),
        Topic::filter_controller(fleet),
        "#".to_owned(),
        "+/#".to_owned(),
        format!("shoal/v1/+/{}/down/#", a.id()),
        format!("shoal/v1/{fleet}/+/down/#"),
        format!("$share/g/{}", Topic::filter_device(fleet, b.id())),
        format!("$share/g/{}", Topic::filter_device(fleet, a.id())),
        "$SYS/#".to_owned(),
        a.topic(Topic::Report),
    ] {
        // The broker may answer or end the connection; either way nothing is granted.
        if !c.subscribe(&filter).await {
            c = a.connect().await;
            continue;
        }
        assert!(!says_no, "{filter} was granted");
    }
    assert!(c.publish(&a.topic(Topic::Heartbeat), codec::encode(&wire::Heartbeat { uptime: 1 })).await);
    // B heard nothing of all that, and still works.
    assert!(undisturbed.publish(&b.topic(Topic::Hello), codec::encode(&Device::hello())).await);
    let (topic, _) = undisturbed.next(common::PATIENCE).await.unwrap();
    assert_eq!(topic, b.topic(Topic::Document), "its record, and nothing before it");
    http.wait(&format!("/v1/devices/{}", b.id()), "b online", |d| d["state"] == "online").await;
    // And A, by whatever it asked for, nothing but its own.
    assert!(c.publish(&a.topic(Topic::Hello), codec::encode(&Device::hello())).await);
    let own = format!("shoal/v1/{fleet}/{}/down/", a.id());
    let (mut topic, _) = c.next(common::PATIENCE).await.unwrap();
    loop {
        assert!(topic.starts_with(&own), "{topic}");
        if topic == a.topic(Topic::Document) {
            break;
        }
        topic = c.next(common::PATIENCE).await.unwrap().0;
    }
}

#[tokio::test]
async fn b1_another_broker_that_does_not_deny_is_not_used() {
    let mut shoald = Shoald::prepare(Broker::Mosquitto);
    let everything = "topic readwrite #\n".to_owned() + "pattern readwrite #\n";
    let reading = "pattern read #\npattern write shoal/v1/+/%u/up/#\n";
    let writing = "pattern read shoal/v1/+/%u/down/#\npattern write #\n";
    let controller = "user controller\ntopic readwrite #\n";
    let open = [
        ("acl", String::new(), everything),
        ("acl", String::new(), controller.to_owned() + reading),
        ("acl", String::new(), controller.to_owned() + writing),
        ("mosquitto.conf", "use_username_as_clientid true".to_owned(), String::new()),
    ];
    for (file, old, new) in open {
        let mosquitto = shoald.mosquitto.as_mut().unwrap();
        mosquitto.kill();
        let mut good = String::new();
        mosquitto.change(file, |text| {
            good.clone_from(&text);
            if old.is_empty() { new.clone() } else { text.replace(&old, &new) }
        });
        mosquitto.start_again();
        let (code, said) = shoald.refuses();
        assert_eq!(code, Some(5), "{old:?} → {new:?}: {said}");
        assert!(said.contains("proof_failed"), "{said}");
        shoald.mosquitto.as_ref().unwrap().change(file, |_| good);
    }
    // As it was written, it is.
    let mosquitto = shoald.mosquitto.as_mut().unwrap();
    mosquitto.kill();
    mosquitto.start_again();
    shoald.start_again();
}

#[tokio::test]
async fn b3_behind_mosquitto_a_broker_that_dies_loses_no_report() {
    let (mut shoald, http, operator) = fleet_on(Broker::Mosquitto).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Report), device.report(1, None, Vec::new())).await;
    assert_eq!(c.ack(&device).await, 1);
    shoald.mosquitto.as_mut().unwrap().kill();
    c.ended().await;
    shoald.mosquitto.as_mut().unwrap().start_again();
    shoald.wait("shoald on it", |s| s.log().matches("connected to the broker").count() >= 2);
    let mut c = device.connect().await;
    for counter in 2..=300 {
        let report = device.report(counter, None, Vec::new());
        let once = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
        c.client.publish(device.topic(Topic::Report), once, false, report).await.unwrap();
        if counter % 50 == 0 {
            while c.ack(&device).await < counter {}
        }
    }
    let (_, d) = http.get(&format!("/v1/devices/{}", device.id())).await;
    assert_eq!(d["report_counter"], 300);
}

#[tokio::test]
async fn b6_behind_mosquitto_a_revoked_device_is_not_heard_and_hears_nothing() {
    let (shoald, http, mut operator) = fleet_on(Broker::Mosquitto).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let other = Device::enroll(&shoald, &operator, &[]).await;
    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    c.next_on(&device, Topic::Document).await;
    let (status, _) = http.post(&format!("/v1/devices/{}/revoke", device.id()), &json!({})).await;
    assert_eq!(status, 200);
    // Mosquitto knows nothing of it; shoald neither listens nor speaks any more.
    operator.apply(&http, &[operator.deployment("app", 1, &[])]).await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    c.publish(&device.topic(Topic::Report), device.report(1, None, Vec::new())).await;
    let mut o = other.connect().await;
    o.publish(&other.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    o.next_on(&other, Topic::Snapshot).await;
    o.publish(&other.topic(Topic::Report), other.report(1, None, Vec::new())).await;
    assert_eq!(o.ack(&other).await, 1);
    // What was for it came before the broker's answer to this.
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    assert!(c.received.is_empty(), "{:?}", c.received.iter().map(|(t, _)| t).collect::<Vec<_>>());
    let (_, d) = http.get(&format!("/v1/devices/{}", device.id())).await;
    assert_eq!(d["report_counter"], 0, "{d:#}");
    let path = format!("/v1/devices/{}/orders", device.id());
    let restart = api::PostOrder::Restart { deployment: common::name("app") };
    assert_eq!(http.post(&path, &restart).await.0, 403);
}

#[tokio::test]
async fn b2_retained_and_oversized_messages_stop_nobody_but_their_sender() {
    Box::pin(retained_on(Broker::Embedded)).await;
}

#[tokio::test]
async fn b2_behind_mosquitto_retained_and_oversized_messages_stop_nobody_but_their_sender() {
    Box::pin(retained_on(Broker::Mosquitto)).await;
}

async fn retained_on(broker: Broker) {
    let (shoald, http, operator) = fleet_on(broker).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let mut c = device.connect().await;
    let topic = device.topic(Topic::Report);
    let _ =
        c.client.publish(&topic, rumqttc::v5::mqttbytes::QoS::AtLeastOnce, true, b"poison".to_vec()).await;
    // The broker keeps nothing: whether it answers or ends the connection is its choice.
    let _ = c.next(Duration::from_millis(300)).await;
    let mut c = device.connect().await;
    let huge = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
    let _ = c.client.publish(&topic, huge, false, vec![0; (1 << 20) + 1]).await;
    let _ = c.next(Duration::from_millis(300)).await;
    let mut c = device.connect().await;
    // Within the packet limit, above the report's: dropped, and what comes after it is heard.
    c.publish(&topic, vec![0; (256 << 10) + 1]).await;
    c.publish(&topic, device.report(1, None, Vec::new())).await;
    assert_eq!(c.ack(&device).await, 1);
    http.wait(&format!("/v1/devices/{}", device.id()), "the report", |d| d["report_counter"] == 1).await;
}

#[tokio::test]
async fn a_device_gets_what_differs_and_its_signed_facts_complete_the_rollout() {
    Box::pin(differs_on(Broker::Embedded)).await;
}

#[tokio::test]
async fn behind_mosquitto_a_device_gets_what_differs_and_completes_the_rollout() {
    Box::pin(differs_on(Broker::Mosquitto)).await;
}

async fn differs_on(broker: Broker) {
    let (shoald, http, mut operator) = fleet_on(broker).await;
    let device = Device::enroll(&shoald, &operator, &[("site", "here")]).await;
    operator.apply(&http, &[operator.deployment("app", 1, &[("site", "here")])]).await;
    let entry = operator.entries[0].clone();
    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    let kinds = |bytes: &[u8]| Envelope::parse(bytes).unwrap().kind().unwrap();
    let (_, record) = c.next(common::PATIENCE).await.unwrap();
    assert_eq!(kinds(&record), wire::Kind::Device);
    let (topic, _) = c.next(common::PATIENCE).await.unwrap();
    assert_eq!(topic, device.topic(Topic::Snapshot));
    let (topic, document) = c.next(common::PATIENCE).await.unwrap();
    assert_eq!((topic, kinds(&document)), (device.topic(Topic::Document), wire::Kind::Deployment));
    assert_eq!(Envelope::parse(&document).unwrap().identity(), entry.newest.digest);
    assert!(c.next(Duration::from_millis(300)).await.is_none(), "nothing is sent twice");

    // An agent's word alone, and a fact that is not signed by admission, complete nothing.
    let forged = device.healthy(1, entry.newest.digest, &Ed25519Signer::from_seed([3; 32]));
    c.publish(&device.topic(Topic::Report), device.report(1, Some(entry.newest), vec![forged])).await;
    assert_eq!(c.ack(&device).await, 1);
    let (_, d) = http.get("/v1/deployments/app").await;
    assert_eq!(
        (&d["state"], &d["devices"][0]["rollout"]),
        (&json!("progressing"), &json!("updating")),
        "{d:#}"
    );
    let fact = device.healthy(2, entry.newest.digest, &device.identity.attest);
    c.publish(&device.topic(Topic::Report), device.report(2, Some(entry.newest), vec![fact])).await;
    assert_eq!(c.ack(&device).await, 2);
    let (_, d) = http.get("/v1/deployments/app").await;
    assert_eq!((&d["state"], &d["counts"]["healthy"]), (&json!("complete"), &json!(1)), "{d:#}");
    let (_, pods) = http.get("/v1/pods").await;
    assert_eq!(pods["pods"][0]["phase"], "healthy");

    // A new revision reaches the connected device at once; one that no longer selects it does too (S21).
    operator.apply(&http, &[operator.deployment("app", 2, &[("site", "here")])]).await;
    c.next_on(&device, Topic::Snapshot).await;
    let document = c.next_on(&device, Topic::Document).await;
    assert_eq!(Envelope::parse(&document).unwrap().identity(), operator.entries[0].newest.digest);
    operator.apply(&http, &[operator.deployment("app", 3, &[("site", "there")])]).await;
    let document = c.next_on(&device, Topic::Document).await;
    assert_eq!(Envelope::parse(&document).unwrap().identity(), operator.entries[0].newest.digest);
}

#[tokio::test]
async fn waves_open_one_after_the_other() {
    let (shoald, http, mut operator) = fleet().await;
    let devices =
        [Device::enroll(&shoald, &operator, &[]).await, Device::enroll(&shoald, &operator, &[]).await];
    let mut connections = Vec::new();
    for device in &devices {
        let mut c = device.connect().await;
        c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
        c.next_on(device, Topic::Document).await;
        connections.push(c);
    }
    let mut deployment = operator.deployment("app", 1, &[]);
    deployment.rollout.max_unavailable = Some(1);
    operator.apply(&http, &[deployment]).await;
    let newest = operator.entries[0].newest;
    let d = http.wait("/v1/deployments/app", "the first wave", |d| d["counts"]["updating"] == 1).await;
    assert_eq!(d["counts"]["held"], 1, "{d:#}");
    let first = usize::from(d["devices"][0]["rollout"] != "updating");
    let id = d["devices"][first]["device"].as_str().unwrap().to_owned();
    let at = devices.iter().position(|d| d.id().as_str() == id).unwrap();
    connections[at].next_on(&devices[at], Topic::Document).await;
    connections[1 - at].next_on(&devices[1 - at], Topic::Snapshot).await;
    assert!(connections[1 - at].next(Duration::from_millis(300)).await.is_none(), "its wave is closed");
    let fact = devices[at].healthy(1, newest.digest, &devices[at].identity.attest);
    let report = devices[at].report(1, Some(newest), vec![fact]);
    connections[at].publish(&devices[at].topic(Topic::Report), report).await;
    connections[1 - at].next_on(&devices[1 - at], Topic::Document).await;
}

#[tokio::test]
async fn b3_reports_are_stored_before_they_are_acknowledged_and_duplicates_are_dropped() {
    Box::pin(stored_on(Broker::Embedded)).await;
}

#[tokio::test]
async fn b3_behind_mosquitto_reports_are_stored_before_they_are_acknowledged() {
    Box::pin(stored_on(Broker::Mosquitto)).await;
}

async fn stored_on(broker: Broker) {
    let (mut shoald, _, operator) = fleet_on(broker).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let mut c = device.connect().await;
    let report = device.report(7, None, Vec::new());
    c.publish(&device.topic(Topic::Report), report.clone()).await;
    assert_eq!(c.ack(&device).await, 7);
    c.publish(&device.topic(Topic::Report), report.clone()).await;
    assert_eq!(c.ack(&device).await, 7, "a duplicate is acknowledged again");

    // A power cut, then the same report again, and one that was on its way.
    shoald.kill();
    shoald.start_again();
    let http = shoald.operator();
    let path = format!("/v1/devices/{}", device.id());
    let (_, before) = http.get(&path).await;
    assert_eq!(before["report_counter"], 7, "what was acknowledged is there: {before:#}");
    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    assert_eq!(c.ack(&device).await, 7, "a lost acknowledgement comes with the hello");
    c.publish(&device.topic(Topic::Report), device.report(1025, None, Vec::new())).await;
    assert_eq!(c.ack(&device).await, 1025, "gaps are allowed");
    // S25: the old counter with other bytes changes nothing but an alarm.
    let mut forked: wire::Report =
        codec::decode(Envelope::parse(&report).unwrap().payload(), Limits::of_size(1 << 18)).unwrap();
    forked.conditions = vec!["forked".into()];
    let forked = seal_document(&forked, &[&device.identity.signer]).unwrap().0;
    c.publish(&device.topic(Topic::Report), forked).await;
    c.ack(&device).await;
    let after = http.wait(&path, "the alarm", |d| !d["conditions"].as_array().unwrap().is_empty()).await;
    assert_eq!((&after["conditions"], &after["report_counter"]), (&json!(["report_replay"]), &json!(1025)));
    // Signed by somebody else, or garbage: nothing.
    let other = Device::enroll(&shoald, &operator, &[]).await;
    c.publish(&device.topic(Topic::Report), other.report(2000, None, Vec::new())).await;
    c.publish(&device.topic(Topic::Report), b"garbage".to_vec()).await;
    c.publish(&device.topic(Topic::Report), device.report(1026, None, Vec::new())).await;
    assert_eq!(c.ack(&device).await, 1026);
}

#[tokio::test]
async fn b3_a_broker_that_dies_loses_no_report() {
    let (mut shoald, http, operator) = fleet().await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Report), device.report(1, None, Vec::new())).await;
    assert_eq!(c.ack(&device).await, 1);
    let broker = shoald.broker().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(broker).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    c.ended().await;
    shoald.wait("another broker", |s| s.log().contains("again"));
    shoald.wait("shoald on it", |s| s.log().matches("connected to the broker").count() >= 2);
    let mut c = device.connect().await;
    for counter in 1..=300 {
        c.client
            .publish(
                device.topic(Topic::Report),
                rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
                false,
                device.report(counter, None, Vec::new()),
            )
            .await
            .unwrap();
        if counter % 50 == 0 {
            while c.ack(&device).await < counter {}
        }
    }
    let (_, d) = http.get(&format!("/v1/devices/{}", device.id())).await;
    assert_eq!(d["report_counter"], 300);
}

#[tokio::test]
async fn b6_a_revoked_device_is_out_at_once_and_stays_out() {
    b6_over(Way::Tls).await;
}

#[tokio::test]
async fn b6_a_revoked_device_is_out_over_websocket_too() {
    b6_over(Way::WebSocket).await;
}

async fn b6_over(way: Way) {
    let (mut shoald, http, operator) = fleet().await;
    let mut device = Device::enroll(&shoald, &operator, &[]).await;
    device.way = way;
    let me = Http { client: shoald.client(Some(&device.certificate)), base: shoald.base(), token: None };
    assert_eq!(me.get("/v1/trust").await.0, 200);
    // Renewal by the certificate that still counts.
    let (status, body) = me.send("POST", "/v1/renew", device.identity.csr(), "application/pkcs10").await;
    assert_eq!(status, 200);
    let renewed: wire::EnrollResponse = codec::decode(&body, Limits::of_size(1 << 20)).unwrap();
    let renewed = device.identity.certificate(renewed.certificates[0].0.clone());
    assert!(Connection::open(device.options(device.id().as_str(), Some(&renewed))).await.is_some());
    let (status, _) = me.send("POST", "/v1/renew", common::Identity::new().csr(), "application/pkcs10").await;
    assert_eq!(status, 422);

    let mut c = device.connect().await;
    let (status, body) = http.post(&format!("/v1/devices/{}/revoke", device.id()), &json!({})).await;
    assert_eq!((status, &body["certificates"]), (200, &json!(2)));
    c.ended().await;
    for restart in [false, true] {
        if restart {
            assert_eq!(shoald.stop(), Some(0));
            shoald.start_again();
        }
        for certificate in [&device.certificate, &renewed] {
            let options = device.options(device.id().as_str(), Some(certificate));
            assert!(Connection::open(options).await.is_none(), "restarted: {restart}");
        }
        let me = Http { client: shoald.client(Some(&device.certificate)), base: shoald.base(), token: None };
        assert_eq!(me.get("/v1/trust").await.0, 403);
    }
}

#[tokio::test]
async fn s23_orders_are_signed_by_the_online_key_counted_and_wait_for_the_device() {
    Box::pin(orders_on(Broker::Embedded)).await;
}

#[tokio::test]
async fn s23_behind_mosquitto_orders_wait_for_the_device() {
    Box::pin(orders_on(Broker::Mosquitto)).await;
}

async fn orders_on(broker: Broker) {
    let (shoald, http, mut operator) = fleet_on(broker).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    operator.apply(&http, &[operator.deployment("app", 1, &[])]).await;
    let path = format!("/v1/devices/{}/orders", device.id());
    let restart = api::PostOrder::Restart { deployment: common::name("app") };
    let (status, body) = http.post(&path, &restart).await;
    assert_eq!((status, &body["counter"]), (200, &json!(1)));
    let missing = api::PostOrder::Restart { deployment: common::name("other") };
    assert_eq!(http.post(&path, &missing).await.0, 404);
    let (status, body) = http.post(&path, &json!({"verb": "shell", "deployment": "app"})).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_request")));

    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    let envelope = c.next_on(&device, Topic::Order).await;
    let (_, trust) = http.get("/v1/trust").await;
    let online: api::PublicKey = serde_json::from_value(trust["controller"]["online"].clone()).unwrap();
    let online: wire::Key = (&online).try_into().unwrap();
    let parsed = Envelope::parse(&envelope).unwrap();
    assert_eq!(parsed.signatures()[0].kid, online.kid());
    let order: wire::Order = codec::decode(parsed.payload(), Limits::of_size(8192)).unwrap();
    assert_eq!((order.counter, &order.device), (1, device.id()));
    assert!(order.not_after <= now().plus(3600));
    // A device that says that it took it is not asked again; the next counter is above what it has seen.
    let hello = wire::Hello { order_counter: 5, ..Device::hello() };
    c.publish(&device.topic(Topic::Hello), codec::encode(&hello)).await;
    // Heard in order: what acknowledges the report comes after the hello was taken in.
    c.publish(&device.topic(Topic::Report), device.report(1, None, Vec::new())).await;
    assert_eq!(c.ack(&device).await, 1);
    let (_, body) = http.post(&path, &restart).await;
    assert_eq!(body["counter"], 6);
    let envelope = c.next_on(&device, Topic::Order).await;
    let order: wire::Order =
        codec::decode(Envelope::parse(&envelope).unwrap().payload(), Limits::of_size(8192)).unwrap();
    assert_eq!(order.counter, 6);
}

#[tokio::test]
async fn logs_are_asked_by_order_and_stream_line_by_line() {
    Box::pin(logs_on(Broker::Embedded)).await;
}

#[tokio::test]
async fn behind_mosquitto_logs_are_asked_by_order_and_stream_line_by_line() {
    Box::pin(logs_on(Broker::Mosquitto)).await;
}

async fn logs_on(broker: Broker) {
    let (shoald, http, mut operator) = fleet_on(broker).await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    operator.apply(&http, &[operator.deployment("app", 1, &[])]).await;
    let path = format!("/v1/logs/{}/app?tail=10", device.id());
    let (status, body) = http.get(&path).await;
    assert_eq!((status, &body["code"]), (409, &json!("device_offline")));

    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    http.wait(&format!("/v1/devices/{}", device.id()), "the device", |d| d["state"] == "online").await;
    c.next_on(&device, Topic::Snapshot).await;
    let answer = async {
        let envelope = c.next_on(&device, Topic::Order).await;
        let order: wire::Order =
            codec::decode(Envelope::parse(&envelope).unwrap().payload(), Limits::of_size(8192)).unwrap();
        let wire::Verb::Logs { stream, tail: 10, .. } = order.verb else { panic!("{:?}", order.verb) };
        let lines = b"2026-01-02T03:04:05Z stdout F hello\n".to_vec();
        let chunk = |lines: Vec<u8>, end| wire::LogChunk {
            stream,
            container: common::name("main"),
            lines: lines.into(),
            end,
            reason: None,
        };
        c.publish(&device.topic(Topic::Log), codec::encode(&chunk(lines, false))).await;
        c.publish(&device.topic(Topic::Log), codec::encode(&chunk(Vec::new(), true))).await;
    };
    let ((status, body), ()) = tokio::join!(http.send("GET", &path, Vec::new(), ""), answer);
    assert_eq!(status, 200);
    let events: Vec<api::LogEvent> =
        String::from_utf8(body).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(matches!(&events[0], api::LogEvent::Opened { .. }));
    assert!(matches!(&events[1], api::LogEvent::Line { text, .. } if text == "hello"), "{events:?}");
    assert_eq!(events[2], api::LogEvent::End { reason: None });
}

#[tokio::test]
async fn s21_a_signed_relabel_changes_what_selects_a_device() {
    let (shoald, http, mut operator) = fleet().await;
    let device = Device::enroll(&shoald, &operator, &[("site", "here")]).await;
    operator.apply(&http, &[operator.deployment("app", 1, &[("site", "there")])]).await;
    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    c.next_on(&device, Topic::Snapshot).await;
    let path = format!("/v1/devices/{}/record", device.id());
    let record = |sequence| {
        let record = device.identity.record(&operator.fleet, sequence, &[("site", "there")]);
        api::PostRecord { record: seal_document(&record, &[&operator.key]).unwrap().0.into() }
    };
    assert_eq!(http.post(&path, &record(2)).await.0, 200);
    c.next_on(&device, Topic::Document).await;
    let document = c.next_on(&device, Topic::Document).await;
    assert_eq!(Envelope::parse(&document).unwrap().identity(), operator.entries[0].newest.digest);
    let older = device.identity.record(&operator.fleet, 1, &[("site", "there")]);
    let older = api::PostRecord { record: seal_document(&older, &[&operator.key]).unwrap().0.into() };
    let (status, body) = http.post(&path, &older).await;
    assert_eq!((status, &body["code"]), (422, &json!("record_rollback")));
    assert_eq!(device.identity.signer.key().device_id(), *device.id());
}

#[tokio::test]
async fn a_device_is_sent_what_concerns_it_and_reads_nothing_else_of_the_fleets() {
    let (shoald, http, mut operator) = fleet().await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let digest = operator.apply(&http, &[operator.deployment("other", 1, &[("site", "elsewhere")])]).await;
    let me = Http { client: shoald.client(Some(&device.certificate)), base: shoald.base(), token: None };
    assert_eq!(me.get("/v1/trust").await.0, 200);
    let listed = operator.entries[0].newest.digest;
    for path in [format!("/v1/documents/{listed}"), format!("/v1/grants/{digest}"), "/v1/records".into()] {
        assert_eq!(me.get(&path).await.0, 401, "{path}");
    }
    assert_eq!(http.get(&format!("/v1/documents/{listed}")).await.0, 200);
}
