//! TLS to the fleet's controller: its CA from the root and nothing else, the device's own certificate, a clock with a floor.

use crate::identity::IdentityKey;
use anyhow::{Context, Result};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use shoal_protocol::ids::{Bytes, Timestamp};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, by the device's clock.
pub(crate) fn clock() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// The clock, but never before a time that signed documents prove: certificates verify also on a device whose clock
/// starts in 1970.
#[derive(Debug)]
struct FlooredClock(Timestamp);

impl TimeProvider for FlooredClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(clock().max(self.0).0)))
    }
}

/// A client that trusts `ca` alone. With an identity it shows the device's certificate.
pub(crate) fn client(
    ca: &[Bytes],
    floor: Timestamp,
    identity: Option<(&IdentityKey, Vec<CertificateDer<'static>>)>,
) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for der in ca {
        roots
            .add(CertificateDer::from(der.0.clone()))
            .context("a CA certificate in the root cannot be read")?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(FlooredClock(floor)))
        .with_safe_default_protocol_versions()
        .context("no TLS version is left")?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((key, certificates)) => builder
            .with_client_auth_cert(certificates, PrivateKeyDer::Pkcs8(key.private_key()))
            .context("the device's certificate does not fit its key"),
    }
}
