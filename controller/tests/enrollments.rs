//! Devices that an operator approves, and devices that an operator sends away.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;
use common::{Connection, Device, Http, Identity, Operator, Shoald, now};
use serde_json::{Value, json};
use shoal_controller_core::api;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, seal_document};
use shoal_protocol::latest as wire;
use shoal_protocol::topics::Topic;
use std::time::Instant;

struct Fleet {
    shoald: Shoald,
    http: Http,
    operator: Operator,
}

async fn fleet() -> Fleet {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let operator = Operator::found(&http).await;
    Fleet { shoald, http, operator }
}

/// A device that asks, always with the same bytes.
struct Asking {
    identity: Identity,
    request: wire::EnrollRequest,
}

impl Asking {
    fn new(fleet: &Fleet, token: &[u8], key: &shoal_protocol::Ed25519Signer) -> Self {
        let identity = Identity::new();
        let record = identity.record(&fleet.operator.fleet, 1, &[("site", "here")]);
        let request = wire::EnrollRequest {
            token: token.to_vec().into(),
            record: seal_document(&record, &[key]).unwrap().0.into(),
            csr: identity.csr().into(),
            name: Some("pump-7".into()),
        };
        Self { identity, request }
    }

    async fn ask(&self, shoald: &Shoald) -> Result<wire::EnrollResponse, String> {
        let http = Http { client: shoald.client(None), base: shoald.base(), token: None };
        let body = codec::encode(&self.request);
        let (status, body) = http.send("POST", "/v1/enroll", body, "application/cbor").await;
        if status == 200 {
            return Ok(codec::decode(&body, Limits::of_size(1 << 20)).unwrap());
        }
        let error: Value = serde_json::from_slice(&body).unwrap();
        Err(format!("{status} {}", error["code"].as_str().unwrap()))
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/enrollments/{}{what}", self.identity.id)
    }

    /// What an operator who saw the fingerprint signs.
    fn approval(&self, fleet: &Fleet, signer: &dyn shoal_protocol::Signer) -> api::PostRecord {
        let record = self.identity.record(&fleet.operator.fleet, 1, &[("site", "here")]);
        api::PostRecord { record: seal_document(&record, &[signer]).unwrap().0.into() }
    }
}

fn approving(fleet: &Fleet, uses: u64) -> (Vec<u8>, shoal_protocol::Ed25519Signer) {
    fleet.operator.token_with(uses, &[("site", "here")], |t| t.approval = true)
}

#[tokio::test]
async fn a_device_of_an_approving_token_waits_until_an_operator_signed_its_record() {
    let mut f = fleet().await;
    let (token, key) = approving(&f, 1);
    let device = Asking::new(&f, &token, &key);
    let waiting = device.ask(&f.shoald).await.unwrap();
    assert!(waiting.certificates.is_empty() && waiting.record.is_none());
    let (_, devices) = f.http.get("/v1/devices").await;
    assert_eq!(devices["devices"], json!([]), "it is no device of the fleet yet");

    let (_, list) = f.http.get("/v1/enrollments").await;
    let entry = &list["enrollments"][0];
    let keys = device.identity.record(&f.operator.fleet, 1, &[]).fingerprint();
    assert_eq!(entry["device"], json!(device.identity.id), "{list:#}");
    assert_eq!((&entry["state"], &entry["name"]), (&json!("pending"), &json!("pump-7")));
    assert_eq!(entry["fingerprint"], json!(keys.to_string()));
    let (_, one) = f.http.get(&device.path("")).await;
    let request: api::Enrollment = serde_json::from_value(one).unwrap();
    assert_eq!(request.request.unwrap().0, device.request.record.0);

    // Neither the token's key nor a stranger's approves; the controller has none that could.
    let stranger = shoal_protocol::Ed25519Signer::from_seed([77; 32]);
    for signer in [&key, &stranger] {
        let (status, body) = f.http.post(&device.path("/approve"), &device.approval(&f, signer)).await;
        assert_eq!((status, &body["code"]), (422, &json!("unknown_key")), "{body}");
    }
    // Nor does a record for other keys.
    let other = Asking::new(&f, &token, &key);
    let swapped = wire::DeviceRecord {
        attest: other.identity.attest.public(),
        ..device.identity.record(&f.operator.fleet, 1, &[])
    };
    let swapped = seal_document(&swapped, &[&f.operator.key]).unwrap().0;
    let post = api::PostRecord { record: swapped.into() };
    let (status, body) = f.http.post(&device.path("/approve"), &post).await;
    assert_eq!((status, &body["code"]), (422, &json!("enroll_proof")), "{body}");
    assert!(device.ask(&f.shoald).await.unwrap().certificates.is_empty());

    // Also over a restart of the controller.
    assert_eq!(f.shoald.stop(), Some(0));
    f.shoald.start_again();
    f.http = f.shoald.operator();
    let approval = device.approval(&f, &f.operator.key);
    let (status, body) = f.http.post(&device.path("/approve"), &approval).await;
    assert_eq!((status, &body["state"]), (200, &json!("approved")), "{body}");
    let granted = device.ask(&f.shoald).await.unwrap();
    assert_eq!(granted.record.unwrap().0, approval.record.0, "the operator's bytes, as they are");
    let certificate = device.identity.certificate(granted.certificates[0].0.clone());
    let me = Http { client: f.shoald.client(Some(&certificate)), base: f.shoald.base(), token: None };
    assert_eq!(me.get("/v1/trust").await.0, 200);
    let (_, devices) = f.http.get("/v1/devices").await;
    assert_eq!(devices["devices"][0]["labels"], json!({"site": "here"}));

    // The token is spent: another device may ask, and is not approved.
    other.ask(&f.shoald).await.unwrap();
    let (status, body) = f.http.post(&other.path("/approve"), &other.approval(&f, &f.operator.key)).await;
    assert_eq!((status, &body["code"]), (422, &json!("enroll_proof")), "{body}");
    // An approved one is not denied.
    assert_eq!(f.http.post(&device.path("/deny"), &json!({})).await.0, 409);
}

#[tokio::test]
async fn a_denied_device_is_told_so_and_may_still_be_approved() {
    let f = fleet().await;
    let (token, key) = approving(&f, 1);
    let device = Asking::new(&f, &token, &key);
    assert_eq!(f.http.post(&device.path("/deny"), &json!({})).await.0, 404);
    device.ask(&f.shoald).await.unwrap();
    assert_eq!(f.http.post(&device.path("/deny"), &json!({})).await.0, 200);
    assert_eq!(device.ask(&f.shoald).await.err().as_deref(), Some("403 enrollment_denied"));
    let approval = device.approval(&f, &f.operator.key);
    assert_eq!(f.http.post(&device.path("/approve"), &approval).await.0, 200);
    assert_eq!(device.ask(&f.shoald).await.unwrap().certificates.len(), 1);
}

#[tokio::test]
async fn a_device_that_waits_outlives_its_token() {
    let f = fleet().await;
    let (token, key) =
        f.operator.token_with(1, &[("site", "here")], |t| (t.approval, t.not_after) = (true, now().plus(3)));
    let device = Asking::new(&f, &token, &key);
    device.ask(&f.shoald).await.unwrap();
    let ended = now().plus(3);
    while now() <= ended {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // S25: nobody else comes by it any more.
    let late = Asking::new(&f, &token, &key);
    assert_eq!(late.ask(&f.shoald).await.err().as_deref(), Some("422 enroll_proof"));
    assert!(device.ask(&f.shoald).await.unwrap().certificates.is_empty());
    let approval = device.approval(&f, &f.operator.key);
    assert_eq!(f.http.post(&device.path("/approve"), &approval).await.0, 200);
    assert_eq!(device.ask(&f.shoald).await.unwrap().certificates.len(), 1);
}

#[tokio::test]
async fn only_the_device_itself_gets_what_an_operator_approved() {
    let f = fleet().await;
    let (token, key) = approving(&f, 2);
    let device = Asking::new(&f, &token, &key);
    device.ask(&f.shoald).await.unwrap();
    assert_eq!(f.http.post(&device.path("/approve"), &device.approval(&f, &f.operator.key)).await.0, 200);
    // Somebody who has the request's bytes and the token, and not the identity key.
    let thief = Identity::new();
    let request = wire::EnrollRequest { csr: thief.csr().into(), ..device.request.clone() };
    let thief = Asking { identity: thief, request };
    assert_eq!(thief.ask(&f.shoald).await.err().as_deref(), Some("422 enroll_proof"));
}

#[tokio::test]
async fn a_decommissioned_device_is_told_dropped_within_seconds_and_stays_out() {
    let mut f = fleet().await;
    let device = Device::enroll(&f.shoald, &f.operator, &[("site", "here")]).await;
    let path = format!("/v1/devices/{}/decommission", device.id());
    let record = |gone, sequence| wire::DeviceRecord {
        decommissioned: gone,
        ..device.identity.record(&f.operator.fleet, sequence, &[])
    };
    let sealed = |r: &wire::DeviceRecord, key: &dyn shoal_protocol::Signer| api::PostRecord {
        record: seal_document(r, &[key]).unwrap().0.into(),
    };
    let stranger = shoal_protocol::Ed25519Signer::from_seed([77; 32]);
    let (status, body) = f.http.post(&path, &sealed(&record(true, 2), &stranger)).await;
    assert_eq!((status, &body["code"]), (422, &json!("unknown_key")), "{body}");
    let (status, _) = f.http.post(&path, &sealed(&record(false, 2), &f.operator.key)).await;
    assert_eq!(status, 400, "a record that does not say so");

    let mut c = device.connect().await;
    c.publish(&device.topic(Topic::Hello), codec::encode(&Device::hello())).await;
    f.http.wait(&format!("/v1/devices/{}", device.id()), "the device", |d| d["state"] == "online").await;
    let begin = Instant::now();
    let post = sealed(&record(true, 2), &f.operator.key);
    let call = f.http.post(&path, &post);
    // It hears its record, then its connection ends.
    let listen = async {
        loop {
            let bytes = c.next_on(&device, Topic::Document).await;
            let payload = Envelope::parse(&bytes).unwrap().payload().to_vec();
            let heard: wire::DeviceRecord = codec::decode(&payload, Limits::of_size(8192)).unwrap();
            if heard.decommissioned {
                break;
            }
        }
        c.ended().await;
        begin.elapsed()
    };
    let ((status, body), gone) = tokio::join!(call, listen);
    assert_eq!((status, &body["told"], &body["certificates"]), (200, &json!(true), &json!(1)), "{body}");
    assert!(gone < std::time::Duration::from_secs(10), "{gone:?}");

    for restart in [false, true] {
        if restart {
            assert_eq!(f.shoald.stop(), Some(0));
            f.shoald.start_again();
        }
        let options = device.options(device.id().as_str(), Some(&device.certificate));
        assert!(Connection::open(options).await.is_none(), "restarted: {restart}");
        // B6: not even by a certificate of the CA's that the controller does not know of.
        let unknown = device.unrecorded_certificate(&f.shoald);
        let options = device.options(device.id().as_str(), Some(&unknown));
        assert!(Connection::open(options).await.is_none(), "restarted: {restart}");
        for certificate in [None, Some(&device.certificate)] {
            let me = Http { client: f.shoald.client(certificate), base: f.shoald.base(), token: None };
            let (status, body) =
                me.send("POST", "/v1/renew", device.identity.csr(), "application/pkcs10").await;
            let error: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, &error["code"]), (403, &json!("revoked_key")), "restarted: {restart}");
        }
        let (_, shown) = f.http.get(&format!("/v1/devices/{}", device.id())).await;
        assert_eq!(shown["state"], "revoked");
    }
}
