//! Whom to trust on the way to a registry, and as whom to appear there.

use crate::error::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// The TLS side of a registry.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// The machine's own certificate authorities, no client certificate. A registry on the loopback speaks plain HTTP.
    #[default]
    System,
    /// Exactly this: a fleet's own authority and the device's certificate, say.
    Config(Box<ClientConfig>),
}

impl Tls {
    /// Trusts the authorities in `pem` and no others.
    pub fn with_ca(pem: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(pem) {
            let cert = cert.map_err(|e| Error::Unavailable(format!("the CA file is not readable: {e}")))?;
            roots
                .add(cert)
                .map_err(|e| Error::Unavailable(format!("the CA file has an unusable certificate: {e}")))?;
        }
        if roots.is_empty() {
            return Err(Error::Unavailable("the CA file has no certificate".to_owned()));
        }
        Ok(Self::Config(Box::new(with_roots(roots)?)))
    }

    pub(super) fn config(&self) -> Result<ClientConfig> {
        match self {
            Self::Config(config) => Ok((**config).clone()),
            Self::System => system(),
        }
    }
}

/// Trusts the machine's own authorities, and shows no certificate.
pub(super) fn system() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    with_roots(roots)
}

fn with_roots(roots: RootCertStore) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Unavailable(format!("TLS cannot be set up: {e}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
