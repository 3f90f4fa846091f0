//! A real shoald with its real broker, an operator's keys, and devices that speak the wire.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests that is not itself a test")]

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use shoal_controller_core::api;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Bytes, DeviceId, Digest, FleetId, Name, Timestamp};
use shoal_protocol::latest as wire;
use shoal_protocol::text_map::TextMap;
use shoal_protocol::topics::Topic;
use shoal_protocol::{Ed25519Signer, Es256Signer, Signer};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Timestamp {
    Timestamp(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Which broker stands behind the controller's one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    /// shoald's own child.
    Embedded,
    /// A real Mosquitto, with the files that `shoald mosquitto` wrote.
    Mosquitto,
}

/// A Mosquitto process.
pub(crate) struct Mosquitto {
    dir: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// Has its files written for the controller in `data`, and starts it.
    pub(crate) fn start(data: &Path, dir: &Path) -> Self {
        let mut mosquitto = Self { dir: dir.to_owned(), port: free_port(), child: None };
        let written = Command::new(env!("CARGO_BIN_EXE_shoald"))
            .args(["mosquitto", "--name", "127.0.0.1", "--data"])
            .arg(data)
            .arg(format!("--listen=127.0.0.1:{}", mosquitto.port))
            .arg("--out")
            .arg(dir)
            .status()
            .unwrap();
        assert!(written.success());
        if rustix::process::geteuid().is_root() {
            // Otherwise it becomes a user who may not look into a test's folder.
            mosquitto.change("mosquitto.conf", |text| text + "user root\n");
        }
        mosquitto.start_again();
        mosquitto
    }

    /// Changes one of its files, for its next start.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(String) -> String) {
        let path = self.dir.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, change(text)).unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.dir.join("mosquitto.conf")).stdin(Stdio::null());
        let child =
            command.stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("mosquitto is installed");
        self.child = Some(child);
        let begin = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap();
            assert!(begin.elapsed() < PATIENCE, "mosquitto does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtts://127.0.0.1:{}", self.port)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A controller on a folder of its own.
pub(crate) struct Shoald {
    pub(crate) mosquitto: Option<Mosquitto>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) api_port: u16,
    pub(crate) child: Option<Child>,
    /// More arguments for its next start.
    pub(crate) extra: Vec<String>,
    /// The soft limit of descriptors that it is started with.
    pub(crate) descriptors: Option<u32>,
}

impl Shoald {
    pub(crate) fn start() -> Self {
        Self::start_on(Broker::Embedded)
    }

    pub(crate) fn start_on(broker: Broker) -> Self {
        let mut shoald = Self::prepare(broker);
        shoald.start_again();
        shoald
    }

    /// The folder and the broker; nothing of the controller runs yet.
    pub(crate) fn prepare(broker: Broker) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut shoald = Self {
            mosquitto: None,
            dir,
            api_port: free_port(),
            child: None,
            extra: Vec::new(),
            descriptors: None,
        };
        if broker == Broker::Mosquitto {
            let mosquitto = Mosquitto::start(&shoald.data(), &shoald.dir.path().join("mosquitto"));
            shoald.extra = vec!["--broker".to_owned(), mosquitto.url()];
            shoald.mosquitto = Some(mosquitto);
        }
        shoald
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = match self.descriptors {
            None => Command::new(env!("CARGO_BIN_EXE_shoald")),
            Some(limit) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!(r#"ulimit -S -n {limit} && exec "$0" "$@""#)]);
                command.arg(env!("CARGO_BIN_EXE_shoald"));
                command
            }
        };
        command
            .args(["run", "--name", "127.0.0.1", "--data"])
            .arg(self.data())
            .arg(format!("--listen=127.0.0.1:{}", self.api_port))
            .args(&self.extra)
            .env("RUST_LOG", "info");
        command
    }

    /// Starts it on the same folder and ports, and waits until it says that devices can connect.
    pub(crate) fn start_again(&mut self) {
        let ready = |s: &Self| s.out().matches("API and registry").count();
        let before = ready(self);
        let open = |name: &str| {
            std::fs::OpenOptions::new().append(true).create(true).open(self.dir.path().join(name)).unwrap()
        };
        let child = self.command().stdout(open("out")).stderr(open("log")).spawn().unwrap();
        self.child = Some(child);
        self.wait("shoald to be ready", |s| {
            if let Some(status) = s.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("shoald ended with {status}: {}", s.log());
            }
            ready(s) > before
        });
    }

    pub(crate) fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !done(self) {
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The broker's process id, from the kernel's list of children.
    pub(crate) fn broker(&self) -> Option<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let children: Vec<u32> =
            std::fs::read_to_string(path).ok()?.split_whitespace().map(|p| p.parse().unwrap()).collect();
        // A child may be started from any thread of shoald.
        let all = std::fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?.flatten().flat_map(|t| {
            let text = std::fs::read_to_string(t.path().join("children")).unwrap_or_default();
            text.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<u32>>()
        });
        children.into_iter().chain(all).next()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Ends it in good order; its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.child.take().unwrap().wait().unwrap().code()
    }

    pub(crate) fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.child.take().unwrap().wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap_or_default()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.data().join("admin-credential")).unwrap().trim().to_owned()
    }

    pub(crate) fn ca(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(&std::fs::read(self.data().join("ca.pem")).unwrap()).unwrap()
    }

    /// Runs another one to its end: exit code and standard error.
    pub(crate) fn fails(command: &mut Command) -> (Option<i32>, String) {
        let out = command.stdin(Stdio::null()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    }

    /// Starts it and waits for its end, which comes soon or is none: exit code and log.
    pub(crate) fn refuses(&mut self) -> (Option<i32>, String) {
        let log = self.dir.path().join("refused");
        let child = self.command().stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap()).spawn();
        let (mut child, begin) = (child.unwrap(), Instant::now());
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status.code(), std::fs::read_to_string(&log).unwrap());
            }
            if begin.elapsed() > PATIENCE * 2 {
                let _ = child.kill();
                let _ = child.wait();
                return (None, std::fs::read_to_string(&log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An operator's client.
    pub(crate) fn operator(&self) -> Http {
        Http { client: self.client(None), base: self.base(), token: Some(self.token()) }
    }

    pub(crate) fn base(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }

    pub(crate) fn client(&self, identity: Option<&Certificate>) -> reqwest::Client {
        let config = tls(&self.ca(), identity);
        reqwest::Client::builder().tls_backend_preconfigured(config).timeout(PATIENCE).build().unwrap()
    }
}

impl Drop for Shoald {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
}

pub(crate) fn tls(ca: &CertificateDer<'static>, identity: Option<&Certificate>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    match identity {
        Some(c) => builder.with_client_auth_cert(vec![c.der.clone()], c.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

/// HTTP with a credential.
pub(crate) struct Http {
    pub(crate) client: reqwest::Client,
    pub(crate) base: String,
    pub(crate) token: Option<String>,
}

impl Http {
    pub(crate) async fn send(&self, method: &str, path: &str, body: Vec<u8>, kind: &str) -> (u16, Vec<u8>) {
        let url = format!("{}{path}", self.base);
        let mut request = self.client.request(method.parse().unwrap(), url).header("content-type", kind);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let response = request.body(body).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.send("GET", path, Vec::new(), "").await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn post(&self, path: &str, body: &impl serde::Serialize) -> (u16, Value) {
        let body = serde_json::to_vec(body).unwrap();
        let (status, body) = self.send("POST", path, body, "application/json").await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn wait(&self, path: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let (_, value) = self.get(path).await;
            if done(&value) {
                return value;
            }
            assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}: {value:#}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

/// The keys of a fleet and what was signed last.
pub(crate) struct Operator {
    pub(crate) root_key: Ed25519Signer,
    pub(crate) key: Ed25519Signer,
    pub(crate) fleet: FleetId,
    pub(crate) root: Vec<u8>,
    pub(crate) snapshot: Option<(u64, Digest)>,
    pub(crate) entries: Vec<wire::Entry>,
}

impl Operator {
    /// Founds a fleet on an uninitialised controller.
    pub(crate) async fn found(http: &Http) -> Self {
        let (_, trust) = http.get("/v1/trust").await;
        assert_eq!(trust["initialized"], json!(false));
        let controller: api::Controller = serde_json::from_value(trust["controller"].clone()).unwrap();
        let operator = Self::sign_root((&controller).try_into().unwrap());
        let post = api::PostRoot { root: operator.root.clone().into(), handover: false };
        let (status, answer) = http.post("/v1/trust/roots", &post).await;
        assert_eq!((status, &answer["fleet"]), (200, &json!(operator.fleet)), "{answer}");
        operator
    }

    pub(crate) fn sign_root(controller: wire::Controller) -> Self {
        let (root_key, key) = (Ed25519Signer::from_seed([1; 32]), Ed25519Signer::from_seed([2; 32]));
        let role = |name, key: &Ed25519Signer, may_remove| wire::Role {
            name,
            threshold: 1,
            keys: vec![key.public()],
            prefix: String::new(),
            may_remove,
            ceiling: None,
        };
        let root = wire::Root {
            version: 1,
            epoch: 1,
            issued_at: now(),
            not_after: now().plus(86_400),
            roles: vec![
                role(wire::RoleName::Root, &root_key, false),
                role(wire::RoleName::Snapshot, &key, false),
                role(wire::RoleName::Deployment, &key, true),
                role(wire::RoleName::Enrollment, &key, false),
            ],
            controller,
            fleet: None,
            revoked: Vec::new(),
            ext: std::collections::BTreeMap::default(),
        };
        let (root, identity) = seal_document(&root, &[&root_key]).unwrap();
        let fleet = FleetId::of_root(&identity);
        Self { root_key, key, fleet, root, snapshot: None, entries: Vec::new() }
    }

    pub(crate) fn deployment(&self, app: &str, sequence: u64, labels: &[(&str, &str)]) -> wire::Deployment {
        let module =
            wire::File { path: "/a.wasm".into(), size: 10, mode: 0o755, digest: Digest::of(b"module") };
        let image = wire::Image {
            reference: "a:1".into(),
            manifest: Digest::of(b"manifest"),
            manifest_size: 1,
            module,
            files: Vec::new(),
        };
        let container = wire::Container {
            name: name("main"),
            image,
            argv: vec!["a.wasm".into()],
            working_dir: "/".into(),
            resources: wire::Resources::default(),
            readonly_rootfs: false,
            engine: wire::Engine::Aot,
            env: Vec::new(),
            mounts: Vec::new(),
            restart_policy: None,
            liveness_probe: None,
            readiness_probe: None,
            startup_probe: None,
            devices: Vec::new(),
            capabilities: Vec::new(),
            self_test: None,
            stdin: false,
            post_start: None,
            pre_stop: None,
            env_from: Vec::new(),
        };
        let template = wire::PodTemplate {
            runtime_class: wire::RuntimeClass::Wasm,
            network: wire::Network::None,
            restart_policy: wire::RestartPolicy::Always,
            termination_grace: 5,
            containers: vec![container],
            resources: wire::Resources::default(),
            hostname: None,
            volumes: Vec::new(),
            labels: TextMap::default(),
            annotations: TextMap::default(),
            ports: Vec::new(),
            required_features: Vec::new(),
            init_containers: Vec::new(),
        };
        let match_labels = labels.iter().copied().collect();
        let selector = Some(wire::Selector { match_labels, ..wire::Selector::default() });
        wire::Deployment {
            fleet: self.fleet.clone(),
            epoch: 1,
            name: name(app),
            sequence,
            issued_at: now(),
            not_after: now().plus(3600),
            target: wire::Target { selector, ..wire::Target::default() },
            rollout: wire::Rollout::default(),
            logs: wire::LogConsent::Tail,
            template,
            not_before: None,
            requires: Vec::new(),
        }
    }

    /// A request that makes these deployments the newest, on top of what this operator knows.
    pub(crate) fn publish(
        &self,
        deployments: &[wire::Deployment],
    ) -> (api::PostSnapshot, u64, Vec<wire::Entry>) {
        let mut entries = self.entries.clone();
        let mut documents = Vec::new();
        for d in deployments {
            let (envelope, digest) = seal_document(d, &[&self.key]).unwrap();
            documents.push(envelope.into());
            let newest = wire::Revision { sequence: d.sequence, digest };
            let before = entries.iter().position(|e| e.name == d.name).map(|at| entries.remove(at));
            entries.push(wire::Entry {
                kind: wire::EntryKind::Deployment,
                name: d.name.clone(),
                liveness: wire::Liveness::Live,
                floor: 0,
                newest,
                stable: before.map(|e| e.newest),
                removal: None,
            });
        }
        entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let version = self.snapshot.map_or(1, |(v, _)| v + 1);
        let snapshot = wire::Snapshot {
            fleet: self.fleet.clone(),
            epoch: 1,
            version,
            root_version: 1,
            issued_at: now(),
            not_after: now().plus(3600),
            entries: entries.clone(),
            audit_head: None,
            previous: self.snapshot.map(|(_, d)| d),
        };
        let (envelope, _) = seal_document(&snapshot, &[&self.key]).unwrap();
        let expected_previous = self.snapshot.map(|(_, d)| d.into());
        (api::PostSnapshot { snapshot: envelope.into(), documents, expected_previous }, version, entries)
    }

    /// Publishes, and remembers it.
    pub(crate) async fn apply(&mut self, http: &Http, deployments: &[wire::Deployment]) -> Digest {
        let (post, version, entries) = self.publish(deployments);
        let (status, answer) = http.post("/v1/snapshots", &post).await;
        assert_eq!(status, 200, "{answer}");
        let digest = answer["snapshot"]["digest"].as_str().unwrap().parse().unwrap();
        self.snapshot = Some((version, digest));
        self.entries = entries;
        digest
    }

    pub(crate) fn token(&self, uses: u64, labels: &[(&str, &str)]) -> (Vec<u8>, Ed25519Signer) {
        self.token_with(uses, labels, |_| {})
    }

    pub(crate) fn token_with(
        &self,
        uses: u64,
        labels: &[(&str, &str)],
        change: impl FnOnce(&mut wire::Token),
    ) -> (Vec<u8>, Ed25519Signer) {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let key = Ed25519Signer::from_seed(seed);
        let mut token = wire::Token {
            fleet: self.fleet.clone(),
            epoch: 1,
            key: key.public(),
            issued_at: now(),
            not_after: now().plus(600),
            uses,
            approval: false,
            minima: wire::Minima { root_version: 1, snapshot_version: 0, time: now() },
            labels: labels.iter().copied().collect(),
        };
        change(&mut token);
        (seal_document(&token, &[&self.key]).unwrap().0, key)
    }
}

/// A device's keys.
pub(crate) struct Identity {
    pub(crate) pair: rcgen::KeyPair,
    pub(crate) signer: Es256Signer,
    pub(crate) attest: Ed25519Signer,
    pub(crate) id: DeviceId,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signer = Es256Signer::from_pkcs8(pair.serialized_der()).unwrap();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let id = signer.key().device_id();
        Self { pair, signer, attest: Ed25519Signer::from_seed(seed), id }
    }

    pub(crate) fn csr(&self) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, self.id.as_str());
        params.serialize_request(&self.pair).unwrap().der().to_vec()
    }

    pub(crate) fn record(
        &self,
        fleet: &FleetId,
        sequence: u64,
        labels: &[(&str, &str)],
    ) -> wire::DeviceRecord {
        wire::DeviceRecord {
            fleet: fleet.clone(),
            epoch: 1,
            device: self.id.clone(),
            sequence,
            issued_at: now(),
            identity: self.signer.key(),
            sealing: Bytes(vec![9; 32]),
            attest: self.attest.public(),
            labels: labels.iter().copied().collect(),
            decommissioned: false,
        }
    }

    pub(crate) fn certificate(&self, der: Vec<u8>) -> Certificate {
        let key = PrivateKeyDer::try_from(self.pair.serialize_der()).unwrap();
        Certificate { der: der.into(), key: Arc::new(key) }
    }
}

/// Enrols; the status, and the certificate or the error.
pub(crate) async fn enroll(
    http: &Http,
    identity: &Identity,
    token: &[u8],
    record: Vec<u8>,
    csr: Vec<u8>,
) -> Result<Certificate, (u16, String)> {
    let request = wire::EnrollRequest {
        token: token.to_vec().into(),
        record: record.into(),
        csr: csr.into(),
        name: Some("pump-7".into()),
    };
    let (status, body) = http.send("POST", "/v1/enroll", codec::encode(&request), "application/cbor").await;
    if status != 200 {
        let error: api::ApiError = serde_json::from_slice(&body).unwrap();
        return Err((status, error.code));
    }
    let answer: wire::EnrollResponse = codec::decode(&body, Limits::of_size(1 << 20)).unwrap();
    assert_eq!(answer.device, identity.id);
    Ok(identity.certificate(answer.certificates[0].0.clone()))
}

/// How a device reaches the broker through the one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its TLS goes on to the broker.
    Tls,
    /// Its TLS ends in shoald.
    WebSocket,
}

/// An enrolled device.
pub(crate) struct Device {
    pub(crate) identity: Identity,
    pub(crate) certificate: Certificate,
    pub(crate) fleet: FleetId,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) port: u16,
    pub(crate) way: Way,
}

impl Device {
    pub(crate) async fn enroll(shoald: &Shoald, operator: &Operator, labels: &[(&str, &str)]) -> Self {
        let identity = Identity::new();
        let (token, key) = operator.token(1, labels);
        let record = seal_document(&identity.record(&operator.fleet, 1, labels), &[&key]).unwrap().0;
        let http = Http { client: shoald.client(None), base: shoald.base(), token: None };
        let certificate = enroll(&http, &identity, &token, record, identity.csr()).await.unwrap();
        Self {
            identity,
            certificate,
            fleet: operator.fleet.clone(),
            ca: shoald.ca(),
            port: shoald.api_port,
            way: Way::Tls,
        }
    }

    pub(crate) fn id(&self) -> &DeviceId {
        &self.identity.id
    }

    pub(crate) fn options(&self, client_id: &str, certificate: Option<&Certificate>) -> MqttOptions {
        let mut config = tls(&self.ca, certificate);
        let mut options = match self.way {
            Way::Tls => {
                config.alpn_protocols = vec![b"mqtt".to_vec()];
                MqttOptions::new(client_id, "127.0.0.1", self.port)
            }
            Way::WebSocket => {
                MqttOptions::new(client_id, format!("wss://127.0.0.1:{}/mqtt", self.port), self.port)
            }
        };
        let config = TlsConfiguration::Rustls(Arc::new(config));
        options.set_transport(match self.way {
            Way::Tls => Transport::tls_with_config(config),
            Way::WebSocket => Transport::wss_with_config(config),
        });
        options.set_max_packet_size(Some(1 << 20));
        options
    }

    pub(crate) async fn connect(&self) -> Connection {
        let options = self.options(self.id().as_str(), Some(&self.certificate));
        let mut connection = Connection::open(options).await.expect("a device may connect");
        let filter = Topic::filter_device(&self.fleet, self.id());
        assert!(connection.subscribe(&filter).await, "a device may subscribe to its own branch");
        connection
    }

    /// A certificate as the controller's CA would have issued it years ago.
    pub(crate) fn expired_certificate(&self, shoald: &Shoald) -> Certificate {
        self.issued_by(shoald, 2021, 2022)
    }

    /// A certificate as the controller's CA would have issued it, had it forgotten that since.
    pub(crate) fn unrecorded_certificate(&self, shoald: &Shoald) -> Certificate {
        self.issued_by(shoald, 2021, 2200)
    }

    fn issued_by(&self, shoald: &Shoald, from: i32, to: i32) -> Certificate {
        let identity = std::fs::read(shoald.data().join("identity.json")).unwrap();
        let identity: Value = serde_json::from_slice(&identity).unwrap();
        let key = rcgen::KeyPair::from_pem(identity["ca_key"].as_str().unwrap()).unwrap();
        let ca = identity["ca_certificate"].as_str().unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(ca, key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, self.id().as_str());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.signed_by(&self.identity.pair, &issuer).unwrap();
        self.identity.certificate(certificate.der().to_vec())
    }

    pub(crate) fn hello() -> wire::Hello {
        wire::Hello {
            root_version: 1,
            system: system(),
            held: Vec::new(),
            order_counter: 0,
            report_counter: 0,
            snapshot: None,
            documents: Vec::new(),
        }
    }

    pub(crate) fn report(
        &self,
        counter: u64,
        revision: Option<wire::Revision>,
        facts: Vec<Bytes>,
    ) -> Vec<u8> {
        let pod = revision.map(|revision| wire::PodStatus {
            name: name("app"),
            revision,
            phase: wire::Phase::Healthy,
            since: now(),
            reason: None,
            message: None,
            deadline: None,
            containers: Vec::new(),
        });
        let report = wire::Report {
            fleet: self.fleet.clone(),
            device: self.id().clone(),
            counter,
            issued_at: now(),
            root_version: 1,
            system: system(),
            pods: pod.into_iter().collect(),
            snapshot: None,
            refusals: Vec::new(),
            facts,
            conditions: Vec::new(),
        };
        seal_document(&report, &[&self.identity.signer]).unwrap().0
    }

    pub(crate) fn healthy(&self, counter: u64, deployment: Digest, signer: &dyn Signer) -> Bytes {
        let fact = wire::Fact {
            fleet: self.fleet.clone(),
            device: self.id().clone(),
            counter,
            at: now(),
            deployment,
            name: name("app"),
            container: name("main"),
            attempt: 1,
            event: wire::Event::Healthy,
        };
        seal_document(&fact, &[signer]).unwrap().0.into()
    }

    pub(crate) fn topic(&self, topic: Topic) -> String {
        topic.of(&self.fleet, self.id())
    }
}

pub(crate) fn system() -> wire::System {
    wire::System {
        agent: "0.1.0".into(),
        engine: "0.17.1".into(),
        architecture: "x86_64".into(),
        hostname: "edge-1".into(),
        ..wire::System::default()
    }
}

/// An MQTT connection.
pub(crate) struct Connection {
    pub(crate) client: AsyncClient,
    events: EventLoop,
    pub(crate) received: VecDeque<(String, Vec<u8>)>,
}

impl Connection {
    /// Nothing when the broker does not let it in.
    pub(crate) async fn open(options: MqttOptions) -> Option<Self> {
        let (client, events) = AsyncClient::new(options, 64);
        let mut connection = Self { client, events, received: VecDeque::new() };
        let accepted = connection.until(|p| matches!(p, Packet::ConnAck(_)).then_some(())).await;
        accepted.map(|()| connection)
    }

    pub(crate) async fn open_with_will(mut options: MqttOptions, topic: &str) -> Option<Self> {
        options.set_last_will(LastWill::new(topic, "boo", QoS::AtLeastOnce, false, None));
        Self::open(options).await
    }

    /// The first packet that is wanted; nothing when the connection ends.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&Packet) -> Option<T>) -> Option<T> {
        let work = async {
            loop {
                let packet = match self.events.poll().await {
                    Ok(Event::Incoming(packet)) => packet,
                    Ok(_) => continue,
                    Err(_) => return None,
                };
                if let Packet::Publish(p) = &packet {
                    let topic = String::from_utf8(p.topic.to_vec()).unwrap();
                    self.received.push_back((topic, p.payload.to_vec()));
                }
                if let Some(found) = wanted(&packet) {
                    return Some(found);
                }
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("the broker answers in time")
    }

    /// Whether the broker granted it.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> bool {
        use rumqttc::v5::mqttbytes::v5::SubscribeReasonCode;
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        self.until(|p| match p {
            Packet::SubAck(ack) => {
                Some(ack.return_codes.iter().all(|c| matches!(c, SubscribeReasonCode::Success(_))))
            }
            _ => None,
        })
        .await
        .unwrap_or(false)
    }

    /// Whether the broker took it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: Vec<u8>) -> bool {
        use rumqttc::v5::mqttbytes::v5::PubAckReason;
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        self.until(|p| match p {
            Packet::PubAck(ack) => {
                Some(matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers))
            }
            _ => None,
        })
        .await
        .unwrap_or(false)
    }

    /// The next message, or nothing for a while.
    pub(crate) async fn next(&mut self, patience: Duration) -> Option<(String, Vec<u8>)> {
        if let Some(message) = self.received.pop_front() {
            return Some(message);
        }
        let more = self.until(|p| matches!(p, Packet::Publish(_)).then_some(()));
        tokio::time::timeout(patience, more).await.ok()??;
        self.received.pop_front()
    }

    /// The next message on a topic of the device; others before it are dropped.
    pub(crate) async fn next_on(&mut self, device: &Device, topic: Topic) -> Vec<u8> {
        let wanted = device.topic(topic);
        loop {
            let (on, payload) = self.next(PATIENCE).await.unwrap_or_else(|| panic!("no {topic:?} came"));
            if on == wanted {
                return payload;
            }
        }
    }

    /// The next acknowledged counter.
    pub(crate) async fn ack(&mut self, device: &Device) -> u64 {
        let payload = self.next_on(device, Topic::Ack).await;
        codec::decode::<wire::Ack>(&payload, Limits::of_size(1024)).unwrap().counter
    }

    /// Waits until the broker ends the connection.
    pub(crate) async fn ended(&mut self) {
        assert!(self.until::<()>(|_| None).await.is_none());
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
