//! TLS to the fleet's controller: its CA from the root and nothing else, the device's own certificate, a clock with a floor.

use crate::identity::IdentityKey;
use crate::points;
use anyhow::{Context, Result};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use shoal_protocol::ids::{Bytes, Timestamp};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, by the device's clock.
pub(crate) fn clock() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Timestamp(now.saturating_sub(points::clock_behind()))
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

/// The authorities that a root names.
pub(crate) fn authorities(ca: &[Bytes]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for der in ca {
        roots
            .add(CertificateDer::from(der.0.clone()))
            .context("a CA certificate in the root cannot be read")?;
    }
    Ok(roots)
}

/// The TLS error in a chain of causes, if one is there.
pub(crate) fn failure<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut found = None;
    let mut cause = Some(error);
    while let Some(e) = cause {
        // An I/O error carries the TLS error inside, not as its source.
        let inside = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        found = e.downcast_ref().or_else(|| inside.and_then(|e| e.downcast_ref())).or(found);
        cause = e.source();
    }
    found
}

/// Whether the other side ended TLS because it calls this device's certificate expired.
pub(crate) fn called_expired(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(failure(error), Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)))
}

/// A client that trusts `ca` alone. With an identity it shows the device's certificate.
pub(crate) fn client(
    ca: &[Bytes],
    floor: Timestamp,
    identity: Option<(&IdentityKey, Vec<CertificateDer<'static>>)>,
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(FlooredClock(floor)))
        .with_safe_default_protocol_versions()
        .context("no TLS version is left")?
        .with_root_certificates(authorities(ca)?);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((key, certificates)) => {
            let certified = key.certified(certificates)?;
            Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))))
        }
    }
}
