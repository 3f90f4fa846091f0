//! What a thief finds in a controller's data folder, and what can be made of it: any certificate of the fleet's CA.

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rusqlite::{Connection, OpenFlags};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, Digest, FleetId};
use shoal_protocol::latest::{Document, Kind, Root};
use shoal_protocol::topics::CONTROLLER;
use std::path::Path;
use std::sync::Arc;

/// A signed document as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Genuine {
    pub(crate) kind: Kind,
    pub(crate) envelope: Vec<u8>,
}

impl Genuine {
    fn new(envelope: Vec<u8>) -> Result<Self> {
        let kind = Envelope::parse(&envelope)?.kind()?;
        Ok(Self { kind, envelope })
    }

    /// What it says.
    pub(crate) fn read<T: Document>(&self) -> Result<T> {
        let envelope = Envelope::parse(&self.envelope)?;
        Ok(codec::decode(envelope.payload(), Limits::of_size(T::KIND.size_cap()))?)
    }

    /// Its identity.
    pub(crate) fn identity(&self) -> Result<Digest> {
        Ok(Envelope::parse(&self.envelope)?.identity())
    }
}

/// The controller's secrets, and all that it keeps.
pub(crate) struct Loot {
    /// Seed of the online key.
    pub(crate) online: [u8; 32],
    pub(crate) fleet: FleetId,
    pub(crate) broker: (String, u16),
    /// All signed documents, the oldest of each kind first.
    pub(crate) all: Vec<Genuine>,
    ca_certificate: String,
    ca_key: String,
}

/// Where envelopes are in the store, each table oldest first.
const SHELVES: [&str; 9] = [
    "SELECT envelope FROM roots ORDER BY version",
    "SELECT envelope FROM snapshots ORDER BY id",
    "SELECT envelope FROM documents ORDER BY stored_at, sequence",
    "SELECT envelope FROM grants",
    "SELECT record FROM devices ORDER BY enrolled_at",
    "SELECT envelope FROM tokens ORDER BY stored_at",
    "SELECT envelope FROM orders ORDER BY counter",
    "SELECT envelope FROM reports ORDER BY counter",
    "SELECT envelope FROM facts ORDER BY counter",
];

impl Loot {
    /// Reads a controller's data folder, and an older copy of it, if the thief was there before.
    pub(crate) fn take(data: &Path, before: Option<&Path>) -> Result<Self> {
        let path = data.join("identity.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let identity: serde_json::Value = serde_json::from_str(&text)?;
        let word =
            |name: &str| identity[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        let mut seed = [0; 32];
        hex::decode_to_slice(word("online_key")?, &mut seed)?;
        let mut all = Vec::new();
        for folder in before.into_iter().chain([data]) {
            for genuine in kept(folder)? {
                // What both copies have stands where the newer has it.
                all.retain(|g| *g != genuine);
                all.push(genuine);
            }
        }
        let mut loot = Self {
            online: seed,
            fleet: FleetId::of_root(&Digest::of(b"")),
            broker: (String::new(), 0),
            all,
            ca_certificate: word("ca_certificate")?,
            ca_key: word("ca_key")?,
        };
        let first = loot.of(Kind::Root).next().context("no root in the store")?;
        loot.fleet = FleetId::of_root(&first.identity()?);
        let root: Root = loot.newest(Kind::Root)?.read()?;
        let url = root.controller.mqtt.first().context("the root names no broker")?;
        let (host, port) = url
            .strip_prefix("mqtts://")
            .and_then(|rest| rest.rsplit_once(':'))
            .with_context(|| format!("{url} is no broker's address"))?;
        loot.broker = (host.to_owned(), port.parse().with_context(|| format!("the port in {url}"))?);
        Ok(loot)
    }

    /// All of a kind, the oldest first.
    pub(crate) fn of(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Genuine> {
        self.all.iter().filter(move |g| g.kind == kind)
    }

    /// The newest of a kind.
    pub(crate) fn newest(&self, kind: Kind) -> Result<&Genuine> {
        self.of(kind).next_back().with_context(|| format!("no {} in the store", kind.as_str()))
    }

    /// The newest of a kind that satisfies `wanted`.
    pub(crate) fn newest_where<T: Document>(&self, wanted: impl Fn(&T) -> bool) -> Result<(&Genuine, T)> {
        let mut all = self.of(T::KIND).rev().filter_map(|g| Some((g, g.read::<T>().ok()?)));
        let kind = T::KIND.as_str();
        all.find(|(_, d)| wanted(d)).with_context(|| format!("no such {kind} in the store"))
    }

    /// A TLS client with a certificate as the controller's own, signed by the stolen CA key.
    pub(crate) fn tls(&self) -> Result<Arc<rustls::ClientConfig>> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca_certificate, KeyPair::from_pem(&self.ca_key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, CONTROLLER);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        Ok(Arc::new(config))
    }
}

/// All envelopes in a store.
fn kept(folder: &Path) -> Result<Vec<Genuine>> {
    let path = folder.join("shoald.db");
    let store = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("open {}", path.display()))?;
    let mut all = Vec::new();
    for shelf in SHELVES {
        let mut query = store.prepare(shelf)?;
        for envelope in query.query_map([], |row| row.get::<_, Vec<u8>>(0))? {
            all.push(Genuine::new(envelope?)?);
        }
    }
    Ok(all)
}

/// Puts into the store, as the record of a device, one that names a sealing key of the thief's, signed by the online key:
/// whoever seals to the recipients that the controller names would seal to the thief.
pub(crate) fn plant(data: &Path, device: &DeviceId, record: &[u8]) -> Result<()> {
    let store = Connection::open(data.join("shoald.db"))?;
    let n = store.execute("UPDATE devices SET record = ?1 WHERE id = ?2", (record, device.as_str()))?;
    anyhow::ensure!(n == 1, "no device {device} in the store");
    Ok(())
}
