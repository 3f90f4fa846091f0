//! TLS configurations, all with ring, whatever else the broker's library brings into the process.

use crate::pki::{Authority, Leaf};
use anyhow::{Context as _, Result};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// A client that trusts this CA only.
pub(crate) fn client(
    ca: &CertificateDer<'static>,
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).context("trusting the CA")?;
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_root_certificates(roots);
    match identity {
        Some((certificate, key)) => {
            builder.with_client_auth_cert(vec![certificate], key).context("using the client certificate")
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The API's server: devices show a certificate of the fleet's CA, operators none.
pub(crate) fn server(authority: &Authority, leaf: &Leaf) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots()?, provider.clone())
        .allow_unauthenticated()
        .build()
        .context("trusting the own CA for devices")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.certificate()?, authority.certificate.clone()], leaf.key()?)
        .context("using the own server certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
