//! Registries that attack whoever pulls: M1, M2, M3, M6 and the caps, against a server that does just that.
#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use shoal_image::registry::{Access, Patience, Registry, RegistryAuth};
use shoal_image::{Descriptor, Error, Reference, Store, limits};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{module, store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a server does with one request; `None` ends the connection.
type Answer = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

#[derive(Debug, Clone)]
struct Request {
    path: String,
    range: Option<u64>,
    authorization: Option<String>,
}

/// A status line with headers, then bytes; then perhaps more, slowly or for ever.
#[derive(Default)]
struct Reply {
    head: String,
    body: Vec<u8>,
    /// Bytes sent one by one with this pause, for ever.
    drip: Option<Duration>,
    /// Keeps the connection when everything was sent.
    whole: bool,
}

impl Reply {
    fn ok(body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Self { head, body: body.to_vec(), whole: true, ..Self::default() }
    }
    fn status(line: &str, headers: &str) -> Self {
        Self {
            head: format!("HTTP/1.1 {line}\r\n{headers}Content-Length: 0\r\n\r\n"),
            whole: true,
            ..Self::default()
        }
    }
}

struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    async fn start(answer: Answer) -> Self {
        Self::on("127.0.0.1", answer).await
    }

    async fn on(address: &str, answer: Answer) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&log)));
            }
        });
        Self { host, seen }
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, log: Arc<Mutex<Vec<Request>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            head.lines().find_map(|l| {
                l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
            })
        };
        let request = Request {
            path: head.split(' ').nth(1).unwrap().to_owned(),
            range: header("range")
                .map(|r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()),
            authorization: header("authorization"),
        };
        log.lock().unwrap().push(request.clone());
        let reply = answer(&request);
        if stream.write_all(reply.head.as_bytes()).await.is_err()
            || stream.write_all(&reply.body).await.is_err()
        {
            return;
        }
        while let Some(pause) = reply.drip {
            tokio::time::sleep(pause).await;
            if stream.write_all(b"x").await.is_err() {
                return;
            }
        }
        if !reply.whole {
            return;
        }
    }
}

fn impatient() -> Patience {
    Patience {
        connect: Duration::from_secs(2),
        answer: Duration::from_millis(800),
        window: Duration::from_millis(400),
        bytes_per_window: 1024,
        attempts: 1,
        pause: Duration::from_millis(10),
    }
}

fn registry(host: &str, auth: RegistryAuth, token_hosts: &[&str]) -> Registry {
    let token_hosts = token_hosts.iter().map(|h| (*h).to_owned()).collect();
    let access = Access { auth, insecure: true, token_hosts, patience: impatient(), ..Access::default() };
    Registry::new(host, access).unwrap()
}

async fn fetch(server: &Server, blob: &Descriptor, store: &Store) -> Result<(), Error> {
    registry(&server.host, RegistryAuth::Anonymous, &[]).fetch_blob("app", blob, store, &|_| {}).await
}

fn nothing_kept(store: &Store) {
    assert_eq!(store.list().unwrap(), []);
    for left in std::fs::read_dir(store.root().join("incoming")).unwrap() {
        assert_eq!(left.unwrap().metadata().unwrap().len(), 0);
    }
}

fn secret() -> RegistryAuth {
    RegistryAuth::Basic("me".into(), "secret".into())
}

#[tokio::test]
async fn m1_a_blob_that_never_ends_is_stopped_at_its_signed_size() {
    let (_dir, store) = store();
    let blob = Descriptor::of("x", &[7; 5_000]);
    let endless = |_: &Request| Reply {
        head: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
        body: vec![7; 3_000_000],
        drip: Some(Duration::from_micros(10)),
        ..Reply::default()
    };
    let server = Server::start(Arc::new(endless)).await;
    let e = fetch(&server, &blob, &store).await.unwrap_err();
    assert_eq!(e.code(), Some(Code::DigestMismatch), "{e}");
    nothing_kept(&store);
    let honest_about_it = Server::start(Arc::new(|_: &Request| Reply::ok(&[7; 6_000]))).await;
    assert_eq!(fetch(&honest_about_it, &blob, &store).await.unwrap_err().code(), Some(Code::DigestMismatch));
    nothing_kept(&store);
}

#[tokio::test]
async fn m1_a_byte_at_a_time_is_stalled_and_silence_is_unavailable() {
    let (_dir, store) = store();
    let blob = Descriptor::of("x", &[b'x'; 5_000]);
    let drip = |_: &Request| Reply {
        head: "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n".into(),
        drip: Some(Duration::from_millis(20)),
        ..Reply::default()
    };
    let server = Server::start(Arc::new(drip)).await;
    let started = Instant::now();
    let e = fetch(&server, &blob, &store).await.unwrap_err();
    assert_eq!(e.code(), Some(Code::Stalled), "{e}");
    assert!(started.elapsed() < Duration::from_secs(3) && e.is_transient());
    let mute = Server::start(Arc::new(|_: &Request| Reply {
        drip: Some(Duration::from_mins(1)),
        ..Reply::default()
    }))
    .await;
    assert!(matches!(fetch(&mute, &blob, &store).await, Err(Error::Unavailable(_))));
}

#[tokio::test]
async fn m2_other_bytes_of_the_right_size_are_not_kept() {
    let (_dir, store) = store();
    let blob = Descriptor::of("x", &[1; 5_000]);
    let server = Server::start(Arc::new(|_: &Request| Reply::ok(&[2; 5_000]))).await;
    let e = fetch(&server, &blob, &store).await.unwrap_err();
    assert_eq!(e.code(), Some(Code::DigestMismatch), "{e}");
    nothing_kept(&store);
    let manifest = Server::start(Arc::new(|_: &Request| Reply::ok(b"{}"))).await;
    let pinned: Reference = format!("{}/app@{}", manifest.host, Digest::of(b"other")).parse().unwrap();
    let e = registry(&manifest.host, RegistryAuth::Anonymous, &[])
        .pull(&pinned, &store, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(e.code(), Some(Code::DigestMismatch), "{e}");
}

/// Breaks off after 60 %, then serves ranges of `rest`.
fn cut(first: Vec<u8>, rest: Vec<u8>) -> Answer {
    Arc::new(move |r: &Request| match r.range {
        None => Reply {
            head: format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", first.len()),
            body: first[..first.len() * 6 / 10].to_vec(),
            ..Reply::default()
        },
        Some(from) => {
            let body = rest[usize::try_from(from).unwrap()..].to_vec();
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", rest.len() - 1, rest.len());
            let head =
                format!("HTTP/1.1 206 Partial Content\r\n{range}Content-Length: {}\r\n\r\n", body.len());
            Reply { head, body, whole: true, ..Reply::default() }
        }
    })
}

#[tokio::test]
async fn m3_a_good_resume_fetches_only_what_was_missing() {
    let (_dir, store) = store();
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let blob = Descriptor::of("x", &bytes);
    let server = Server::start(cut(bytes.clone(), bytes.clone())).await;
    assert!(matches!(fetch(&server, &blob, &store).await, Err(Error::Unavailable(_))));
    fetch(&server, &blob, &store).await.unwrap();
    assert_eq!(store.read(&blob.digest, 1 << 20).unwrap(), bytes);
    let ranges: Vec<_> = server.requests().iter().map(|r| r.range).collect();
    assert_eq!(ranges[0], None);
    assert!(ranges[1].is_some_and(|from| from > 0 && from <= 240_000), "{ranges:?}");
}

#[tokio::test]
async fn m3_a_resume_with_changed_bytes_is_detected_and_starts_over_next_time() {
    let (_dir, store) = store();
    let bytes = vec![1; 400_000];
    let blob = Descriptor::of("x", &bytes);
    let server = Server::start(cut(bytes.clone(), vec![2; 400_000])).await;
    assert!(matches!(fetch(&server, &blob, &store).await, Err(Error::Unavailable(_))));
    let e = fetch(&server, &blob, &store).await.unwrap_err();
    assert_eq!(e.code(), Some(Code::DigestMismatch), "{e}");
    nothing_kept(&store);
    let good = Server::start(Arc::new(move |_: &Request| Reply::ok(&bytes))).await;
    fetch(&good, &blob, &store).await.unwrap();
    assert_eq!(good.requests()[0].range, None);
}

#[tokio::test]
async fn m3_one_pull_takes_a_cut_transfer_up_again_by_itself() {
    let (_dir, store) = store();
    let bytes = vec![3; 400_000];
    let blob = Descriptor::of("x", &bytes);
    let server = Server::start(cut(bytes.clone(), bytes)).await;
    let patience = Patience { attempts: 3, ..impatient() };
    let access = Access { insecure: true, patience, ..Access::default() };
    Registry::new(&server.host, access).unwrap().fetch_blob("app", &blob, &store, &|_| {}).await.unwrap();
}

#[tokio::test]
async fn m6_a_realm_on_another_host_gets_no_credentials() {
    let token = Server::on("127.0.0.2", Arc::new(|_: &Request| Reply::ok(br#"{"token":"t"}"#))).await;
    let realm = token.host.clone();
    let server = Server::start(Arc::new(move |r: &Request| match &r.authorization {
        Some(a) if a == "Bearer t" => Reply::ok(&[1; 10]),
        _ => Reply::status(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\"\r\n"),
        ),
    }))
    .await;
    let (_dir, store) = store();
    let blob = Descriptor::of("x", &[1; 10]);
    let pull = |auth, hosts: &'static [&str]| {
        let registry = registry(&server.host, auth, hosts);
        let (blob, store) = (blob.clone(), store.clone());
        async move { registry.fetch_blob("app", &blob, &store, &|_| {}).await }
    };
    let e = pull(secret(), &[]).await.unwrap_err();
    assert!(matches!(&e, Error::Unauthorized(m) if m.contains("127.0.0.2")), "{e}");
    assert!(token.requests().is_empty(), "nothing goes there, not even an anonymous request");
    assert!(server.requests().iter().all(|r| r.authorization.is_none()));
    // Without credentials there is nothing to lose, and a host that the operator named may see them.
    pull(RegistryAuth::Anonymous, &[]).await.unwrap();
    assert_eq!(token.requests()[0].authorization, None);
    store.remove(&blob.digest).unwrap();
    pull(secret(), &["127.0.0.2"]).await.unwrap();
    assert_eq!(token.requests()[1].authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
    assert!(token.requests()[1].path.contains("scope=repository%3Aapp%3Apull"), "{:?}", token.requests()[1]);
}

#[tokio::test]
async fn m6_a_redirect_to_another_host_carries_no_credentials() {
    let elsewhere = Server::on("127.0.0.2", Arc::new(|_: &Request| Reply::ok(&[1; 10]))).await;
    let target = elsewhere.host.clone();
    let server = Server::start(Arc::new(move |r: &Request| match r.authorization {
        None => Reply::status("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n"),
        Some(_) => Reply::status("307 Temporary Redirect", &format!("Location: http://{target}/blob\r\n")),
    }))
    .await;
    let (_dir, store) = store();
    let blob = Descriptor::of("x", &[1; 10]);
    registry(&server.host, secret(), &[]).fetch_blob("app", &blob, &store, &|_| {}).await.unwrap();
    assert!(server.requests().iter().any(|r| r.authorization.is_some()));
    assert_eq!(elsewhere.requests().len(), 1);
    assert_eq!(elsewhere.requests()[0].authorization, None);
}

#[tokio::test]
async fn redirects_without_end_or_out_of_http_are_not_followed() {
    let (_dir, store) = store();
    let blob = Descriptor::of("x", &[1; 10]);
    for location in ["/v2/again", "file:///etc/passwd", "http://10.255.255.1/internal"] {
        let server = Server::start(Arc::new(move |_: &Request| {
            Reply::status("302 Found", &format!("Location: {location}\r\n"))
        }))
        .await;
        assert!(matches!(fetch(&server, &blob, &store).await, Err(Error::Unavailable(_))), "{location}");
        assert!(server.requests().len() <= 6);
    }
}

#[tokio::test]
async fn missing_credentials_wrong_ones_and_missing_images_are_told_apart() {
    let (_dir, store) = store();
    let server = Server::start(Arc::new(|r: &Request| match r.path.as_str() {
        "/v2/secret/manifests/latest" => {
            Reply::status("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n")
        }
        "/v2/broken/manifests/latest" => Reply::status("503 Service Unavailable", ""),
        _ => Reply::status("404 Not Found", ""),
    }))
    .await;
    let pull = |name: &str, auth| {
        let reference: Reference = format!("{}/{name}", server.host).parse().unwrap();
        let registry = registry(&server.host, auth, &[]);
        let store = store.clone();
        async move { registry.pull(&reference, &store, &|_| {}).await.unwrap_err() }
    };
    assert!(matches!(pull("secret", RegistryAuth::Anonymous).await, Error::Unauthorized(_)));
    assert!(matches!(pull("secret", secret()).await, Error::Unauthorized(_)));
    assert!(matches!(pull("gone", RegistryAuth::Anonymous).await, Error::NotFound(_)));
    let e = pull("broken", RegistryAuth::Anonymous).await;
    assert!(matches!(e, Error::Unavailable(_)) && e.is_transient());
    assert!(!e.to_string().contains("secret"));
}

#[tokio::test]
async fn manifests_and_token_answers_without_end_stop_at_their_caps() {
    let (_dir, store) = store();
    let flood = |r: &Request| {
        let body =
            if r.path.contains("token") { 1 << 20 } else { usize::try_from(limits::DOCUMENT).unwrap() + 99 };
        Reply {
            head: "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
            body: vec![b' '; body],
            ..Reply::default()
        }
    };
    let server = Server::start(Arc::new(flood)).await;
    let reference: Reference = format!("{}/app", server.host).parse().unwrap();
    let e = registry(&server.host, RegistryAuth::Anonymous, &[])
        .pull(&reference, &store, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(e.code(), Some(Code::TooLarge), "{e}");
    let realm = server.host.clone();
    let challenge = Server::start(Arc::new(move |_: &Request| {
        Reply::status(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\"\r\n"),
        )
    }))
    .await;
    let e = registry(&challenge.host, RegistryAuth::Anonymous, &[])
        .pull(&reference, &store, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(e.code(), Some(Code::TooLarge), "{e}");
}

#[tokio::test]
async fn the_text_of_an_error_without_end_is_not_waited_for() {
    let (_dir, store) = store();
    let endless = |_: &Request| Reply {
        head: "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n".into(),
        body: vec![b'e'; 64 << 20],
        drip: Some(Duration::from_micros(10)),
        ..Reply::default()
    };
    let server = Server::start(Arc::new(endless)).await;
    let started = Instant::now();
    let e = fetch(&server, &Descriptor::of("x", &[1; 10]), &store).await.unwrap_err();
    assert!(matches!(&e, Error::Unavailable(m) if m.contains("503") && m.len() < 400), "{e}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn m4_a_manifest_served_as_an_index() {
    let (_dir, store) = store();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": Descriptor::of("x", b"{}"),
        "layers": [Descriptor::of("application/wasm", &module())],
    })
    .to_string();
    let server = Server::start(Arc::new(move |_: &Request| {
        let mut reply = Reply::ok(manifest.as_bytes());
        reply.head = reply
            .head
            .replace("\r\n\r\n", "\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\n\r\n");
        reply
    }))
    .await;
    let reference: Reference = format!("{}/app", server.host).parse().unwrap();
    let e = registry(&server.host, RegistryAuth::Anonymous, &[])
        .pull(&reference, &store, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(e.code(), Some(Code::AmbiguousManifest), "{e}");
}

#[test]
fn plain_http_is_for_the_loopback_and_hosts_named_insecure() {
    let of = |host: &str, insecure| {
        format!("{:?}", Registry::new(host, Access { insecure, ..Access::default() }).unwrap())
    };
    assert!(of("localhost:5000", false).contains("scheme: \"http\""));
    assert!(of("r.example", true).contains("scheme: \"http\""));
    assert!(of("r.example:5000", false).contains("scheme: \"https\""));
    assert!(of("localhost.evil.example", false).contains("scheme: \"https\""));
    for bad in ["r.example/path", "user@r.example", "r.example?x", ""] {
        assert!(Registry::new(bad, Access::default()).is_err(), "{bad}");
    }
}
