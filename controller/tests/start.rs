//! Starting, stopping, credentials, and what is said when it does not work.

mod common;

use common::{Http, Operator, Shoald, is_alive, mode};
use serde_json::json;
use shoal_controller_core::api;

#[tokio::test]
async fn a_first_start_makes_everything_once_and_a_restart_loses_nothing() {
    let mut shoald = Shoald::start();
    let out = shoald.out();
    let token = shoald.token();
    let line = out.lines().find(|l| l.trim().starts_with("shoal login")).expect("the login line");
    assert!(line.contains(&shoald.base()) && line.contains(&token), "{line}");
    let http = shoald.operator();
    let (_, ca) = http.get("/v1/ca").await;
    assert!(line.contains(ca["fingerprint"].as_str().unwrap()));
    for secret in ["admin-credential", "identity.json", "shoald.db"] {
        assert_eq!(mode(&shoald.data().join(secret)), 0o600, "{secret}");
    }
    let mut operator = Operator::found(&http).await;
    let digest = operator.apply(&http, &[operator.deployment("app", 1, &[])]).await;
    let broker = shoald.broker().expect("the broker is a child");

    assert_eq!(shoald.stop(), Some(0));
    assert!(!is_alive(broker), "the broker ends with shoald");
    shoald.start_again();
    assert_eq!(shoald.out().matches("shoal login").count(), 1, "the credential is printed once");
    assert_eq!(shoald.token(), token);
    let http = shoald.operator();
    let (_, trust) = http.get("/v1/trust").await;
    assert_eq!(trust["fleet"], json!(operator.fleet));
    let (_, again) = http.get("/v1/ca").await;
    assert_eq!(again, ca);
    let (status, _) = http.get(&format!("/v1/documents/{}", operator.entries[0].newest.digest)).await;
    assert_eq!(status, 200);
    // The next snapshot goes on top of the one from before.
    let next = operator.apply(&http, &[operator.deployment("app", 2, &[])]).await;
    assert_ne!(next, digest);
}

#[tokio::test]
async fn a_killed_controller_leaves_no_broker_and_a_killed_broker_comes_back() {
    let mut shoald = Shoald::start();
    let broker = shoald.broker().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(broker).unwrap()).unwrap();
    if rustix::process::geteuid().is_root() {
        let status = std::fs::read_to_string(format!("/proc/{broker}/status")).unwrap();
        let uid = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
        assert!(!uid.contains("\t0"), "the broker has a uid of its own: {uid}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    shoald.wait("another broker", |s| s.broker().is_some_and(|b| b != broker) && s.log().contains("again"));
    let port = shoald.api_port;
    shoald.wait("its port", |_| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let second = shoald.broker().unwrap();
    shoald.kill();
    let begin = std::time::Instant::now();
    while is_alive(second) {
        assert!(begin.elapsed() < common::PATIENCE, "the broker outlived shoald");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // No stale lock blocks the next start (U7).
    shoald.start_again();
}

#[tokio::test]
async fn shoald_takes_all_descriptors_that_it_may_have() {
    let mut shoald = Shoald::start();
    shoald.stop();
    shoald.descriptors = Some(256);
    shoald.start_again();
    for pid in [shoald.pid(), shoald.broker().unwrap()] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find(|l| l.starts_with("Max open files")).unwrap();
        let words: Vec<&str> = line.split_whitespace().rev().collect();
        let (hard, soft) = (words[1], words[2]);
        assert!(soft == hard && soft != "256", "{line}");
    }
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_told_apart_and_nothing_is_open_by_chance() {
    let shoald = Shoald::start();
    let mut http = shoald.operator();
    assert_eq!(http.post("/v1/login", &json!({})).await.0, 200);
    let paths = [
        "/v1/trust",
        "/v1/tokens",
        "/v1/devices",
        "/v1/devices/x",
        "/v1/deployments",
        "/v1/deployments/x",
        "/v1/pods",
        "/v1/refusals",
        "/v1/images",
        "/v1/documents/x",
        "/v1/grants/x",
        "/v1/records",
        "/v2/",
        "/v2/a/manifests/b",
        "/v1/logs/a/b",
        "/v1/images/blobs/x",
    ];
    for token in [None, Some("wrong".to_owned()), Some(String::new())] {
        http.token = token;
        for path in paths {
            let (status, body) = http.get(path).await;
            assert_eq!(status, 401, "{path} {body}");
        }
    }
    let (_, body) = http.get("/v1/pods").await;
    assert_eq!(body["code"], "unauthorized");
    assert!(body["hint"].is_string());
    for path in [
        "/v1/trust/roots",
        "/v1/snapshots",
        "/v1/grants",
        "/v1/tokens",
        "/v1/devices/x/orders",
        "/v1/plan",
        "/v1/devices/x/revoke",
        "/v1/devices/x/record",
        "/v1/images/blobs/x",
        "/v1/images/manifests/a:b",
        "/v1/renew",
    ] {
        assert_eq!(http.post(path, &json!({})).await.0, 401, "{path}");
    }
}

#[tokio::test]
async fn bad_requests_name_what_is_wrong() {
    let shoald = Shoald::start();
    let http = shoald.operator();
    let (status, body) = http.post("/v1/trust/roots", &json!({"rot": 1})).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_request")));
    assert!(body["message"].as_str().unwrap().contains("`rot`"), "{body}");
    let (status, body) = http.get("/v1/nothing").await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
    let (status, body) = http.send("POST", "/v1/plan", vec![b' '; (1 << 20) + 1], "application/json").await;
    let body: api::ApiError = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, body.code.as_str()), (413, "too_large"));
    let (status, body) = http.post("/v1/tokens", &api::PostToken { token: vec![1].into() }).await;
    assert_eq!((status, &body["code"]), (409, &json!("not_initialized")));
    let (status, body) = http.get("/v1/devices?selector=%3Dx").await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn taken_ports_and_folders_are_named_and_the_first_goes_on() {
    let shoald = Shoald::start();
    let (code, error) = Shoald::fails(&mut shoald.command());
    assert_eq!(code, Some(3));
    assert!(error.contains(shoald.data().to_str().unwrap()), "{error}");

    let mut other = std::process::Command::new(env!("CARGO_BIN_EXE_shoald"));
    other.arg(format!("--listen=127.0.0.1:{}", shoald.api_port));
    let (code, error) = Shoald::fails(other.arg("--data").arg(shoald.dir.path().join("other")));
    assert_eq!(code, Some(4));
    assert!(error.contains(&shoald.api_port.to_string()) && error.contains("--listen"), "{error}");

    let mut nowhere = std::process::Command::new(env!("CARGO_BIN_EXE_shoald"));
    let (code, error) = Shoald::fails(nowhere.args(["--data", "/proc/nowhere"]));
    assert_eq!(code, Some(3));
    assert!(error.contains("/proc/nowhere"), "{error}");
    let http: Http = shoald.operator();
    assert_eq!(http.get("/v1/version").await.0, 200);
}
