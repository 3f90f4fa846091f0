//! Renewed certificates: who gets one, and who never again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;
use common::{Certificate, Connection, Device, Http, Identity, Operator, Shoald, Way, enroll};
use serde_json::{Value, json};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::seal_document;
use shoal_protocol::latest as wire;

async fn fleet() -> (Shoald, Http, Operator) {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let operator = Operator::found(&http).await;
    (shoald, http, operator)
}

/// Somebody without an operator's credential.
fn caller(shoald: &Shoald, certificate: Option<&Certificate>) -> Http {
    Http { client: shoald.client(certificate), base: shoald.base(), token: None }
}

/// Asks for another certificate; the status, and the certificate or the stable code.
async fn renew(http: &Http, identity: &Identity) -> Result<Certificate, (u16, String)> {
    let (status, body) = http.send("POST", "/v1/renew", identity.csr(), "application/pkcs10").await;
    if status != 200 {
        let error: Value = serde_json::from_slice(&body).unwrap();
        return Err((status, error["code"].as_str().unwrap().to_owned()));
    }
    let answer: wire::EnrollResponse = codec::decode(&body, Limits::of_size(1 << 20)).unwrap();
    Ok(identity.certificate(answer.certificates[0].0.clone()))
}

/// The last request may have been answered a moment ago: an identity's proof alone is answered rarely.
async fn renew_without_certificate(
    shoald: &Shoald,
    identity: &Identity,
) -> Result<Certificate, (u16, String)> {
    let begin = std::time::Instant::now();
    loop {
        match renew(&caller(shoald, None), identity).await {
            Err((429, _)) if begin.elapsed() < common::PATIENCE * 3 => {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            other => return other,
        }
    }
}

/// A shoald whose certificates for devices live for 20 seconds, so that the pause after each is two.
async fn short_lived() -> (Shoald, Http, Operator) {
    let mut shoald = Shoald::start();
    shoald.stop();
    shoald.extra = vec!["--device-certificate-life=20".to_owned()];
    shoald.start_again();
    let http = shoald.operator();
    let operator = Operator::found(&http).await;
    (shoald, http, operator)
}

#[tokio::test]
async fn u3_an_expired_certificate_is_refused_and_the_identity_key_alone_renews_it() {
    let (shoald, _, operator) = short_lived().await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let expired = device.expired_certificate(&shoald);
    // TLS ends at it: neither API nor broker let it in.
    let client = shoald.client(Some(&expired));
    assert!(client.get(format!("{}/v1/trust", shoald.base())).send().await.is_err());
    assert!(Connection::open(device.options(device.id().as_str(), Some(&expired))).await.is_none());
    let renewed = renew_without_certificate(&shoald, &device.identity).await.unwrap();
    assert_eq!(caller(&shoald, Some(&renewed)).get("/v1/trust").await.0, 200);
    assert!(Connection::open(device.options(device.id().as_str(), Some(&renewed))).await.is_some());
}

#[tokio::test]
async fn b6_a_connection_ends_with_the_certificate_that_opened_it_and_the_next_one_opens_another() {
    let (shoald, _, operator) = short_lived().await;
    let mut direct = Device::enroll(&shoald, &operator, &[]).await;
    let mut over_websocket = Device::enroll(&shoald, &operator, &[]).await;
    over_websocket.way = Way::WebSocket;
    let begin = std::time::Instant::now();
    let at = |seconds| tokio::time::sleep_until((begin + std::time::Duration::from_secs(seconds)).into());
    let me = caller(&shoald, Some(&direct.certificate));
    let mut connections = (direct.connect().await, over_websocket.connect().await);
    // Still good, and used so lately that it is open when its certificate ends.
    at(12).await;
    assert_eq!(me.get("/v1/trust").await.0, 200);
    at(16).await;
    connections.0.ended().await;
    connections.1.ended().await;
    assert!(begin.elapsed().as_secs() >= 17, "not before its time");
    // The same on a connection that stayed open; one that is opened anew ends in TLS.
    let answer = me.client.get(format!("{}/v1/trust", me.base)).send().await;
    assert_ne!(answer.ok().map(|a| a.status().as_u16()), Some(200));
    // It was put out, and not revoked.
    for device in [&mut direct, &mut over_websocket] {
        device.certificate = renew_without_certificate(&shoald, &device.identity).await.unwrap();
        device.connect().await;
    }
}

#[tokio::test]
async fn u3_the_identity_key_alone_is_answered_once_in_a_while() {
    let (shoald, _, operator) = fleet().await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let again = renew(&caller(&shoald, None), &device.identity).await;
    assert_eq!(again.err().map(|(status, _)| status), Some(429));
    // With the certificate it is asked as often as it likes.
    let me = caller(&shoald, Some(&device.certificate));
    assert!(renew(&me, &device.identity).await.is_ok());
    assert!(renew(&me, &device.identity).await.is_ok());
}

#[tokio::test]
async fn b6_nobody_renews_but_a_live_device_with_its_own_key() {
    let (shoald, http, operator) = short_lived().await;
    let device = Device::enroll(&shoald, &operator, &[]).await;
    let stranger = Identity::new();
    let code =
        |r: Result<Certificate, (u16, String)>| r.err().map(|(status, code)| format!("{status} {code}"));
    // A key that never enrolled, by itself and on the connection of a device.
    assert_eq!(code(renew(&caller(&shoald, None), &stranger).await).as_deref(), Some("403 unknown_key"));
    let me = caller(&shoald, Some(&device.certificate));
    assert_eq!(code(renew(&me, &stranger).await).as_deref(), Some("422 enroll_proof"));
    // Somebody else's name below one's own key: the key counts, not the name.
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, device.id().as_str());
    let forged = params.serialize_request(&stranger.pair).unwrap().der().to_vec();
    let (status, body) = caller(&shoald, None).send("POST", "/v1/renew", forged, "application/pkcs10").await;
    assert_ne!(status, 200, "{}", String::from_utf8_lossy(&body));
    // A request whose own signature is not by its key.
    let mut broken = device.identity.csr();
    *broken.last_mut().unwrap() ^= 1;
    let (status, _) = caller(&shoald, None).send("POST", "/v1/renew", broken, "application/pkcs10").await;
    assert_eq!(status, 401);

    let (status, _) = http.post(&format!("/v1/devices/{}/revoke", device.id()), &json!({})).await;
    assert_eq!(status, 200);
    for certificate in [None, Some(&device.certificate)] {
        let answer = renew(&caller(&shoald, certificate), &device.identity).await;
        assert_eq!(code(answer).as_deref(), Some("403 revoked_key"));
    }
}

#[tokio::test]
async fn b6_a_revoked_device_does_not_come_back_by_the_token_it_came_with() {
    let (shoald, http, operator) = fleet().await;
    let identity = Identity::new();
    let (token, key) = operator.token(5, &[]);
    let record = seal_document(&identity.record(&operator.fleet, 1, &[]), &[&key]).unwrap().0;
    let anyone = caller(&shoald, None);
    let ask = || enroll(&anyone, &identity, &token, record.clone(), identity.csr());
    assert!(ask().await.is_ok());
    assert!(ask().await.is_ok(), "a lost answer is asked for again");
    assert_eq!(http.post(&format!("/v1/devices/{}/revoke", identity.id), &json!({})).await.0, 200);
    assert_eq!(ask().await.err(), Some((403, "revoked_key".to_owned())));
}
