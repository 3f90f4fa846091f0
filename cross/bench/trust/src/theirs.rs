//! A TUF repository in memory with the same chain of roots, whose targets metadata is as long as our deployment.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use bytes::Bytes;
use serde_json::{Value, json};
use tough::schema::{Role, Root, Signature, Signed, Snapshot, Targets, Timestamp};
use tough::sign::Sign;
use tough::{RepositoryLoader, Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

const SPEC: &str = "1.0.0";
const EXPIRES: &str = "2099-01-01T00:00:00Z";

pub struct Repository {
    runtime: tokio::runtime::Runtime,
    files: Files,
    first: Vec<u8>,
    last: Vec<u8>,
    base: Url,
}

/// The files of a repository, by name.
#[derive(Debug, Clone)]
struct Files(Arc<HashMap<String, Bytes>>);

#[async_trait]
impl Transport for Files {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let name = url.path().trim_start_matches('/');
        match self.0.get(name).cloned() {
            Some(bytes) => Ok(Box::pin(futures::stream::once(std::future::ready(Ok(bytes))))),
            None => Err(TransportError::new(TransportErrorKind::FileNotFound, url)),
        }
    }
}

/// An Ed25519 key, and what the metadata call it.
struct Key {
    pair: Ed25519KeyPair,
    id: String,
    public: Value,
}

impl Key {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = pair.tuf_key();
        let id = hex::encode(&*key.key_id().unwrap());
        Self { public: serde_json::to_value(key).unwrap(), pair, id }
    }
}

impl Repository {
    pub fn new(rotations: u64, size: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let online = Key::new();
        let mut files = HashMap::new();
        let mut root_key = Key::new();
        let first = runtime.block_on(root(1, &root_key, &online, &[&root_key]));
        let mut last = first.clone();
        for version in 2..=rotations + 1 {
            let next = Key::new();
            last = runtime.block_on(root(version, &next, &online, &[&root_key, &next]));
            files.insert(format!("{version}.root.json"), Bytes::from(last.clone()));
            root_key = next;
        }
        let mut targets = Vec::new();
        for count in 0.. {
            let entry = |n: usize| {
                let sha256 = format!("{n:064x}");
                (format!("target-{n}"), json!({ "length": n, "hashes": { "sha256": sha256 } }))
            };
            let all: serde_json::Map<String, Value> = (0..count).map(entry).collect();
            let role: Targets = role(json!({
                "_type": "targets", "spec_version": SPEC, "version": 1, "expires": EXPIRES, "targets": all,
            }));
            targets = runtime.block_on(sign(role, &[&online]));
            if targets.len() >= size {
                break;
            }
        }
        let listed = |file: &str, bytes: &[u8]| {
            use sha2::Digest as _;
            let sha256 = hex::encode(sha2::Sha256::digest(bytes));
            json!({ file: { "version": 1, "length": bytes.len(), "hashes": { "sha256": sha256 } } })
        };
        let snapshot: Snapshot = role(json!({
            "_type": "snapshot", "spec_version": SPEC, "version": 1, "expires": EXPIRES,
            "meta": listed("targets.json", &targets),
        }));
        let snapshot = runtime.block_on(sign(snapshot, &[&online]));
        let timestamp: Timestamp = role(json!({
            "_type": "timestamp", "spec_version": SPEC, "version": 1, "expires": EXPIRES,
            "meta": listed("snapshot.json", &snapshot),
        }));
        let timestamp = runtime.block_on(sign(timestamp, &[&online]));
        for (name, bytes) in [("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)] {
            files.insert(format!("{name}.json"), bytes.into());
        }
        let base = Url::parse("memory:///").unwrap();
        Self { runtime, files: Files(Arc::new(files)), first, last, base }
    }

    /// Timestamp, snapshot and targets, with the newest root at hand.
    pub fn update(&self) {
        self.load(&self.last);
    }

    /// The same with all roots before it.
    pub fn roots(&self) {
        self.load(&self.first);
    }

    fn load(&self, root: &Vec<u8>) {
        let loader = RepositoryLoader::new(root, self.base.clone(), self.base.clone());
        let found = self.runtime.block_on(loader.transport(self.files.clone()).load()).unwrap();
        assert!(!found.targets().signed.targets.is_empty());
    }
}

fn role<T: Role + serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

async fn root(version: u64, own: &Key, online: &Key, signers: &[&Key]) -> Vec<u8> {
    let by = |key: &Key| json!({ "keyids": [key.id], "threshold": 1 });
    let root: Root = role(json!({
        "_type": "root", "spec_version": SPEC, "version": version, "expires": EXPIRES, "consistent_snapshot": false,
        "keys": { own.id.as_str(): own.public, online.id.as_str(): online.public },
        "roles": { "root": by(own), "timestamp": by(online), "snapshot": by(online), "targets": by(online) },
    }));
    sign(root, signers).await
}

async fn sign<T: Role + serde::Serialize>(role: T, signers: &[&Key]) -> Vec<u8> {
    let data = role.canonical_form().unwrap();
    let mut signatures = Vec::new();
    for key in signers {
        let sig = Sign::sign(&key.pair, &data, &SystemRandom::new()).await.unwrap();
        let keyid = hex::decode(&key.id).unwrap();
        signatures.push(Signature { keyid: keyid.into(), sig: sig.into() });
    }
    serde_json::to_vec(&Signed { signed: role, signatures }).unwrap()
}
