//! Another certificate for the same identity key: asks for it, judges it, proves it by a handshake. Never here: when (core's
//! `renewal`), and what is done with it (the daemon's `renew`).

use crate::durable;
use crate::failure::{Explained, Kind};
use crate::http::{self, NoAnswer};
use crate::identity::IdentityKey;
use crate::tls;
use anyhow::{Context, Result, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use serde::{Deserialize, Serialize};
use shoal_agent_core::renewal::Life;
use shoal_ipc::Layout;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::ids::{Bytes, DeviceId, Timestamp};
use shoal_protocol::latest::EnrollResponse;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Certificates in an answer.
const CHAIN_MAX: usize = 8;
const ANSWER_MAX: usize = 1 << 20;
const TROUBLE_MAX: u64 = 16 << 10;
/// What a device may read and is small: proves that a certificate is taken.
const PROOF: &str = "/v2/";

/// What a certificate says of itself. Nothing is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// From when to when it counts.
    pub life: Life,
    /// In hexadecimal.
    pub serial: String,
    name: String,
    device: DeviceId,
}

/// Reads a certificate.
pub(crate) fn read(der: &[u8]) -> Result<Certificate> {
    let (rest, parsed) = x509_parser::parse_x509_certificate(der).context("this is no certificate")?;
    ensure!(rest.is_empty(), "{} bytes follow the certificate", rest.len());
    let seconds = |t: &x509_parser::time::ASN1Time| Timestamp(u64::try_from(t.timestamp()).unwrap_or(0));
    let validity = parsed.validity();
    let mut names = parsed.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        bail!("the certificate does not have exactly one common name");
    };
    Ok(Certificate {
        life: Life { not_before: seconds(&validity.not_before), not_after: seconds(&validity.not_after) },
        serial: parsed.serial.to_str_radix(16),
        name: name.as_str().context("the certificate's common name is no text")?.to_owned(),
        device: DeviceId::of_spki(parsed.public_key().raw),
    })
}

/// Whether a chain is a certificate for this device's own name and key by the root's authorities, and its first one read.
///
/// It is checked by the controller's clock, so this device's clock need not agree: only a time that signed documents prove
/// can show that it ended. What it must never do is to change who this device is.
fn judge(
    chain: &[CertificateDer<'_>],
    key: &IdentityKey,
    ca: &[Bytes],
    proven: Timestamp,
) -> Result<Certificate> {
    let [first, others @ ..] = chain else { bail!("the controller answered without a certificate") };
    ensure!(chain.len() <= CHAIN_MAX, "the controller answered {} certificates", chain.len());
    let certificate = read(first)?;
    let device = key.device();
    ensure!(
        certificate.name == device.as_str(),
        "the certificate is for the name {:?}, this is {device}",
        certificate.name
    );
    ensure!(
        certificate.device == device,
        "the certificate is for the key of {}, this is {device}",
        certificate.device
    );
    let Life { not_before, not_after } = certificate.life;
    ensure!(not_before < not_after, "the certificate ends before it begins");
    ensure!(
        !certificate.life.has_ended(proven),
        "the certificate ended at {}, and signed documents prove that it is {}",
        crate::output::time(not_after.0),
        crate::output::time(proven.0)
    );
    issued_by(ca, first, others, proven.max(not_before))?;
    Ok(certificate)
}

/// Whether a certificate is by one of the root's authorities and counts at that time.
fn issued_by(
    ca: &[Bytes],
    first: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    at: Timestamp,
) -> Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(tls::authorities(ca)?), provider)
        .build()
        .context("the root names no authority")?
        .verify_client_cert(first, others, UnixTime::since_unix_epoch(Duration::from_secs(at.0)))
        .map(drop)
        .context("the certificate is not by an authority that the root names")
}

/// Whether the newest root has another authority than the one that this certificate is by: the controller that it names does not
/// take it, whatever its time. Only the identity key, which stays, proves this device there.
pub(crate) fn is_foreign(ca: &[Bytes], certificate: &CertificateDer<'_>) -> bool {
    read(certificate).is_ok_and(|c| issued_by(ca, certificate, &[], c.life.not_before).is_err())
}

/// What a renewal needs.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The identity key, which stays.
    pub key: IdentityKey,
    /// The root's authorities.
    pub ca: Vec<Bytes>,
    /// The controller's API, tried in turn.
    pub addresses: Vec<String>,
    /// With the present certificate.
    pub present: Arc<ClientConfig>,
    /// The present certificate ended, as far as anybody can tell here, or is by an authority of an older root.
    pub ended: bool,
    /// What signed documents prove of the time.
    pub proven: Timestamp,
}

/// A certificate that was judged and proven, and is nowhere yet but here.
#[derive(Debug)]
pub(crate) struct Renewed {
    /// To be kept.
    pub certificates: Vec<Bytes>,
    /// The first of them, read.
    pub certificate: Certificate,
    /// To be used, once it is kept.
    pub tls: Arc<ClientConfig>,
}

/// Why there is no other certificate.
#[derive(Debug)]
pub(crate) struct NotRenewed {
    /// The chain of causes.
    pub error: anyhow::Error,
    /// Nobody said no: it may be different as soon as the controller can be reached.
    pub unreachable: bool,
}

/// Asks for another certificate.
pub(crate) async fn renew(ask: Ask) -> Result<Renewed, NotRenewed> {
    let refused = |error| NotRenewed { error, unreachable: false };
    let request = ask.key.certificate_request().map_err(refused)?;
    let (address, answer) = request_anywhere(&ask, &request).await?;
    let renewed = take(&ask, &answer).map_err(refused)?;
    // The old one goes only for one that is taken.
    let client = http::client((*renewed.tls).clone()).map_err(refused)?;
    match http::get(&client, &address, PROOF).await {
        Ok(_) => Ok(renewed),
        Err(NoAnswer::Unreachable(e)) => {
            Err(NotRenewed { error: e.context("the new certificate could not be proven"), unreachable: true })
        }
        Err(NoAnswer::Refused(e)) => Err(refused(e.context("the new certificate is not taken"))),
    }
}

/// By the present certificate; where that ended, by the identity key alone, with which the request is signed.
async fn request_anywhere(ask: &Ask, request: &[u8]) -> Result<(String, Vec<u8>), NotRenewed> {
    let refused = |error| NotRenewed { error, unreachable: false };
    let with = http::client((*ask.present).clone()).map_err(refused)?;
    let bare = tls::client(&ask.ca, ask.proven, None).and_then(http::client).map_err(refused)?;
    let mut last = anyhow::anyhow!("the root names no address of the controller's API");
    for address in &ask.addresses {
        let mut answer = http::post(&with, address, "/v1/renew", request.to_vec()).await;
        if let Err(NoAnswer::Unreachable(e)) = &answer
            && (ask.ended || e.chain().any(tls::called_expired))
        {
            answer = http::post(&bare, address, "/v1/renew", request.to_vec()).await;
        }
        match answer {
            Ok(bytes) => return Ok((address.clone(), bytes)),
            Err(NoAnswer::Refused(e)) => return Err(refused(e)),
            Err(NoAnswer::Unreachable(e)) => last = e,
        }
    }
    Err(NotRenewed { error: last, unreachable: true })
}

/// What an answer is worth.
fn take(ask: &Ask, answer: &[u8]) -> Result<Renewed> {
    let answer: EnrollResponse = codec::decode(answer, Limits::of_size(ANSWER_MAX))
        .context("the controller answered something that is no renewal")?;
    let device = ask.key.device();
    ensure!(
        answer.device == device,
        "the controller answered for device {}, this is {device}",
        answer.device
    );
    let chain: Vec<CertificateDer<'static>> =
        answer.certificates.iter().map(|c| CertificateDer::from(c.0.clone())).collect();
    let certificate = judge(&chain, &ask.key, &ask.ca, ask.proven)?;
    let tls = Arc::new(tls::client(&ask.ca, ask.proven, Some((&ask.key, chain)))?);
    Ok(Renewed { certificates: answer.certificates, certificate, tls })
}

/// That renewals fail, and since when: kept, so that `status` can tell and a restart does not begin anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// Failures in a row.
    pub failures: u32,
    /// Time of the first.
    pub since: u64,
    /// Time of the last.
    pub last: u64,
    /// When it is tried again.
    pub next: u64,
    /// Why the last failed.
    pub error: String,
    /// What to do.
    pub hint: String,
}

impl Trouble {
    fn path(layout: &Layout) -> PathBuf {
        layout.agent_dir().join("renewal.json")
    }

    /// What is known of it; `None` when all is well. A damaged file is no trouble of its own.
    pub(crate) fn load(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&durable::read(&Self::path(layout), TROUBLE_MAX).ok()??).ok()
    }

    /// One failure more.
    pub(crate) fn after(before: Option<&Self>, now: Timestamp, error: &NotRenewed) -> Self {
        let hint = crate::failure::first_hint(&error.error).unwrap_or_else(|| {
            match crate::failure::kind(&error.error) {
                Kind::Refused => "ask the fleet's operator whether this device was revoked",
                _ => "see the agent's log, and the controller's",
            }
            .to_owned()
        });
        Self {
            failures: before.map_or(1, |b| b.failures.saturating_add(1)),
            since: before.map_or(now.0, |b| b.since),
            last: now.0,
            next: now.0,
            error: format!("{:#}", error.error).chars().take(1000).collect(),
            hint: hint.chars().take(1000).collect(),
        }
    }

    /// Keeps it.
    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        durable::write(&Self::path(layout), &serde_json::to_vec(self).context("cannot write it down")?)
    }

    /// Forgets it.
    pub(crate) fn clear(layout: &Layout) -> Result<()> {
        match std::fs::remove_file(Self::path(layout)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Explained::new(Kind::Failure, "cannot forget failed renewals").because(e).into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Files;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PublicKeyData};

    const NOW: u64 = 1_800_000_000;

    struct Ca {
        der: Bytes,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Ca {
        fn new() -> Self {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
            let der = Bytes(params.self_signed(&key).unwrap().der().to_vec());
            Self { der, issuer: Issuer::new(params, key) }
        }

        /// A device's certificate, as shoald makes it.
        fn issue(&self, name: &str, key: &impl PublicKeyData) -> CertificateDer<'static> {
            self.issue_for(name, key, ExtendedKeyUsagePurpose::ClientAuth)
        }

        fn issue_for(
            &self,
            name: &str,
            key: &impl PublicKeyData,
            usage: ExtendedKeyUsagePurpose,
        ) -> CertificateDer<'static> {
            let at = |t: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(t);
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            (params.not_before, params.not_after) = (at(NOW / 2), at(NOW + 86_400));
            params.extended_key_usages = vec![usage];
            params.signed_by(key, &self.issuer).unwrap().der().clone()
        }
    }

    struct Own {
        key: IdentityKey,
        public: rcgen::SubjectPublicKeyInfo,
        name: String,
    }

    fn own() -> Own {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.identity()).unwrap();
        let key = Files::new(&layout).load_or_make_key().unwrap();
        let public = rcgen::SubjectPublicKeyInfo::from_der(&key.public().spki()).unwrap();
        let name = key.device().to_string();
        Own { key, public, name }
    }

    fn ask(own: &Own, ca: &Ca) -> Ask {
        Ask {
            key: own.key.clone(),
            ca: vec![ca.der.clone()],
            addresses: Vec::new(),
            present: Arc::new(tls::client(std::slice::from_ref(&ca.der), Timestamp(NOW), None).unwrap()),
            ended: false,
            proven: Timestamp(NOW),
        }
    }

    fn answer(own: &Own, certificates: &[CertificateDer<'_>]) -> Vec<u8> {
        let certificates = certificates.iter().map(|c| Bytes(c.to_vec())).collect();
        codec::encode(&EnrollResponse {
            device: own.key.device(),
            certificates,
            roots: Vec::new(),
            record: None,
        })
    }

    /// Why an answer with this certificate is not taken.
    fn why_not(own: &Own, ca: &Ca, certificate: &CertificateDer<'_>) -> String {
        let error = take(&ask(own, ca), &answer(own, std::slice::from_ref(certificate))).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn b6_a_certificate_for_the_own_name_and_key_is_taken() {
        let (own, ca) = (own(), Ca::new());
        let renewed = take(&ask(&own, &ca), &answer(&own, &[ca.issue(&own.name, &own.public)])).unwrap();
        assert_eq!(renewed.certificate.life.not_after, Timestamp(NOW + 86_400));
        assert_eq!(renewed.certificate.device, own.key.device());
    }

    #[test]
    fn b6_a_certificate_for_another_name_is_not_taken() {
        let (own, ca, other) = (own(), Ca::new(), own());
        let why = why_not(&own, &ca, &ca.issue(&other.name, &own.public));
        assert!(why.contains(&format!("for the name {:?}", other.name)), "{why}");
    }

    #[test]
    fn b6_a_certificate_for_another_key_is_not_taken() {
        let (own, ca, other) = (own(), Ca::new(), own());
        let why = why_not(&own, &ca, &ca.issue(&own.name, &other.public));
        assert!(why.contains(&format!("for the key of {}", other.name)), "{why}");
    }

    #[test]
    fn b6_an_answer_for_another_device_is_not_taken() {
        let (own, ca, other) = (own(), Ca::new(), own());
        let answer = answer(&other, &[ca.issue(&other.name, &other.public)]);
        let why = format!("{:#}", take(&ask(&own, &ca), &answer).unwrap_err());
        assert!(why.contains("answered for device"), "{why}");
    }

    #[test]
    fn b6_a_certificate_by_an_authority_that_the_root_does_not_name_is_not_taken() {
        let (own, ca) = (own(), Ca::new());
        let why = why_not(&own, &ca, &Ca::new().issue(&own.name, &own.public));
        assert!(why.contains("authority"), "{why}");
    }

    #[test]
    fn b6_a_certificate_for_servers_is_not_taken() {
        let (own, ca) = (own(), Ca::new());
        let server = ca.issue_for(&own.name, &own.public, ExtendedKeyUsagePurpose::ServerAuth);
        let why = why_not(&own, &ca, &server);
        assert!(why.contains("authority"), "{why}");
    }

    #[test]
    fn b6_only_proven_time_ends_a_certificate_and_a_clock_of_1970_refuses_none() {
        let (own, ca) = (own(), Ca::new());
        let chain = [ca.issue(&own.name, &own.public)];
        let at = |t: u64| judge(&chain, &own.key, std::slice::from_ref(&ca.der), Timestamp(t));
        assert!(at(0).is_ok());
        assert!(at(NOW + 86_400).is_ok());
        let why = format!("{:#}", at(NOW + 86_401).unwrap_err());
        assert!(why.contains("signed documents prove"), "{why}");
    }

    #[test]
    fn an_answer_of_nothing_too_much_or_garbage_is_an_error() {
        let (own, ca) = (own(), Ca::new());
        let one = ca.issue(&own.name, &own.public);
        let ask = ask(&own, &ca);
        assert!(take(&ask, &answer(&own, &[])).is_err());
        assert!(take(&ask, &answer(&own, &vec![one.clone(); CHAIN_MAX + 1])).is_err());
        assert!(take(&ask, b"garbage").is_err());
        assert!(read(&[one.as_ref(), b"x"].concat()).is_err());
    }

    /// A controller for a renewal and for one connection after it, on which it trusts `then` for devices; its address.
    fn controller(own: &Own, ca: &Ca, then: Option<&Ca>) -> String {
        let config = |trusted: &Ca| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from(trusted.der.0.clone())).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let certificate = params.signed_by(&key, &ca.issuer).unwrap().der().clone();
            let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
                .with_single_cert(vec![certificate], key)
                .unwrap()
        };
        let certificate = answer(own, &[ca.issue(&own.name, &own.public)]);
        let mut connections = vec![(config(ca), certificate)];
        connections.extend(then.map(|trusted| (config(trusted), Vec::new())));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (config, body) in connections {
                let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
                let mut stream = rustls::StreamOwned::new(session, listener.accept().unwrap().0);
                // A client that is not let in ends it here.
                let _ = serve(&mut stream, &body);
            }
        });
        address
    }

    fn serve(stream: &mut (impl std::io::Read + std::io::Write), body: &[u8]) -> std::io::Result<()> {
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        let whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).to_lowercase();
            let Some(head) = text.find("\r\n\r\n") else { return false };
            let length = text.split("content-length: ").nth(1).and_then(|t| t.lines().next()?.parse().ok());
            text.starts_with("get ") || request.len() >= head + 4 + length.unwrap_or(0)
        };
        while !whole(&request) {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            request.extend_from_slice(&buffer[..n]);
        }
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len())?;
        stream.write_all(body)?;
        stream.flush()
    }

    fn renew_at(own: &Own, ca: &Ca, address: String) -> Result<Renewed, NotRenewed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(renew(Ask { addresses: vec![address], ..ask(own, ca) }))
    }

    #[test]
    fn u3_a_certificate_counts_once_a_handshake_with_it_went_well() {
        let (own, ca) = (own(), Ca::new());
        let renewed = renew_at(&own, &ca, controller(&own, &ca, Some(&ca))).unwrap();
        assert_eq!(renewed.certificate.device, own.key.device());
    }

    #[test]
    fn u3_a_good_looking_certificate_that_no_handshake_takes_is_not_used() {
        let (own, ca) = (own(), Ca::new());
        let error = renew_at(&own, &ca, controller(&own, &ca, Some(&Ca::new()))).unwrap_err();
        assert!(format!("{:#}", error.error).contains("could not be proven"), "{:#}", error.error);
    }

    #[test]
    fn u3_a_certificate_that_cannot_be_tried_is_not_used() {
        let (own, ca) = (own(), Ca::new());
        let error = renew_at(&own, &ca, controller(&own, &ca, None)).unwrap_err();
        assert!(error.unreachable, "{:#}", error.error);
    }

    #[test]
    fn trouble_counts_over_restarts_and_is_forgotten_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.agent_dir()).unwrap();
        assert_eq!(Trouble::load(&layout), None);
        let no = NotRenewed { error: anyhow::anyhow!("no answer"), unreachable: true };
        Trouble::after(None, Timestamp(10), &no).save(&layout).unwrap();
        let second = Trouble::after(Trouble::load(&layout).as_ref(), Timestamp(20), &no);
        assert_eq!((second.failures, second.since, second.last), (2, 10, 20));
        second.save(&layout).unwrap();
        Trouble::clear(&layout).unwrap();
        assert_eq!(Trouble::load(&layout), None);
        Trouble::clear(&layout).unwrap();
    }
}
