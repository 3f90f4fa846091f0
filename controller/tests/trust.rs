//! Roots and snapshots: only this fleet's, and one operator at a time.

mod common;

use common::{Operator, Shoald};
use serde_json::json;
use shoal_controller_core::api;
use shoal_protocol::Ed25519Signer;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::latest as wire;

#[tokio::test]
async fn s20_two_operators_at_once_get_one_conflict_and_nothing_is_lost() {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let mut a = Operator::found(&http).await;
    a.apply(&http, &[a.deployment("base", 1, &[])]).await;
    // Both sign on top of the same snapshot.
    let (first, ..) = a.publish(&[a.deployment("one", 1, &[])]);
    let (second, ..) = a.publish(&[a.deployment("two", 1, &[])]);
    let (x, y) = tokio::join!(http.post("/v1/snapshots", &first), http.post("/v1/snapshots", &second));
    let mut results = [(x, first), (y, second)];
    results.sort_by_key(|((status, _), _)| *status);
    let [((won, winner), winning), ((lost, loser), _)] = results;
    assert_eq!((won, lost), (200, 409));
    assert_eq!(loser["code"], "conflict");
    assert_eq!(loser["current"], winner["snapshot"]);
    // Asking again after a lost answer is no conflict.
    assert_eq!(http.post("/v1/snapshots", &winning).await.0, 200);
    let (_, deployments) = http.get("/v1/deployments").await;
    assert_eq!(deployments["deployments"].as_array().unwrap().len(), 2);
    assert_eq!(deployments["deployments"][0]["state"], "no_devices");
}

#[tokio::test]
async fn a_root_of_another_controller_and_a_snapshot_without_its_documents_are_refused() {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let (_, trust) = http.get("/v1/trust").await;
    let own: api::Controller = serde_json::from_value(trust["controller"].clone()).unwrap();
    let mut foreign: wire::Controller = (&own).try_into().unwrap();
    foreign.online = Ed25519Signer::from_seed([7; 32]).public();
    let root = api::PostRoot { root: Operator::sign_root(foreign).root.into(), handover: false };
    let (status, body) = http.post("/v1/trust/roots", &root).await;
    assert_eq!((status, &body["code"]), (422, &json!("controller_mismatch")));

    let operator = Operator::found(&http).await;
    let (mut post, ..) = operator.publish(&[operator.deployment("app", 1, &[])]);
    let documents = std::mem::take(&mut post.documents);
    let (status, body) = http.post("/v1/snapshots", &post).await;
    assert_eq!((status, &body["code"]), (422, &json!("document_missing")));

    let mut flipped = documents.clone();
    let last = flipped[0].0.len() - 1;
    flipped[0].0[last] ^= 1;
    let bad = api::PostSnapshot { documents: flipped, ..post.clone() };
    let (status, body) = http.post("/v1/snapshots", &bad).await;
    assert_eq!((status, &body["code"]), (422, &json!("bad_signature")));

    // A stranger's key signs nothing here; a good one still does.
    let mut stranger = Operator::sign_root((&own).try_into().unwrap());
    stranger.key = Ed25519Signer::from_seed([8; 32]);
    stranger.fleet = operator.fleet.clone();
    let (forged, ..) = stranger.publish(&[stranger.deployment("app", 1, &[])]);
    let (status, body) = http.post("/v1/snapshots", &forged).await;
    assert_eq!((status, &body["code"]), (422, &json!("unknown_key")));
    post.documents = documents;
    assert_eq!(http.post("/v1/snapshots", &post).await.0, 200);
}

#[tokio::test]
async fn s25_enrolment_wants_the_tokens_proof_and_the_identity_keys_own_request() {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let operator = Operator::found(&http).await;
    let (token, key) = operator.token(1, &[("site", "here")]);
    let (status, body) = http.post("/v1/tokens", &api::PostToken { token: token.clone().into() }).await;
    assert_eq!((status, &body["uses"]), (200, &json!(1)));

    let me = common::Identity::new();
    let other = common::Identity::new();
    let sign = |labels: &[(&str, &str)], by: &Ed25519Signer| {
        seal_document(&me.record(&operator.fleet, 1, labels), &[by]).unwrap().0
    };
    let good = sign(&[("site", "here")], &key);
    let try_it = |record: Vec<u8>, csr: Vec<u8>| common::enroll(&http, &me, &token, record, csr);
    let code = |r: Result<_, (u16, String)>| r.map(|_: common::Certificate| ()).unwrap_err().1;
    assert_eq!(code(try_it(sign(&[("site", "there")], &key), me.csr()).await), "role_scope");
    assert_eq!(
        code(try_it(sign(&[("site", "here")], &Ed25519Signer::from_seed([5; 32])), me.csr()).await),
        "unknown_key"
    );
    assert_eq!(code(try_it(good.clone(), other.csr()).await), "enroll_proof");
    assert_eq!(code(try_it(good.clone(), b"no request".to_vec()).await), "enroll_proof");
    // Nothing of that spent the token's one use; the same device may ask again, nobody else may.
    try_it(good.clone(), me.csr()).await.unwrap();
    try_it(good, me.csr()).await.unwrap();
    let late = seal_document(&other.record(&operator.fleet, 1, &[("site", "here")]), &[&key]).unwrap().0;
    let refused = common::enroll(&http, &other, &token, late, other.csr()).await;
    assert_eq!(code(refused), "enroll_proof");
    let (_, tokens) = http.get("/v1/tokens").await;
    assert_eq!(tokens["tokens"][0]["used"], 1);
    let (_, devices) = http.get("/v1/devices?selector=site%3Dhere").await;
    assert_eq!(devices["devices"][0]["id"], json!(me.id));
    assert_eq!(devices["devices"][0]["state"], "enrolled");
    let (_, none) = http.get("/v1/devices?selector=site!%3Dhere").await;
    assert_eq!(none["devices"], json!([]));
}
