//! The fleet's own certificate authority: issues what broker, API, controller and devices show each other.
//!
//! Never decides who may have a certificate; enrolment does.

use anyhow::{Context as _, Result, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _, SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};
use shoal_protocol::latest::Key;
use std::sync::Arc;
use std::time::Duration;

/// Seconds that a device's certificate lasts unless `--device-certificate-life` says otherwise.
pub(crate) const DEVICE_LIFE: u64 = 90 * DAY;
/// Seconds that the controller's own certificates last; they are made anew at each start.
const OWN_LIFE: u64 = 825 * DAY;
/// A year before every token of every fleet.
const FOUNDED: i32 = 2020;
const DAY: u64 = 24 * 60 * 60;

/// A certificate with its private key.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Leaf {
    /// The certificate in DER.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).context("reading an own certificate")
    }

    /// The private key in DER.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).context("reading an own key")
    }
}

/// A certificate that a device may have.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) der: Vec<u8>,
    /// Lower-case hexadecimal without leading zeros, as the broker has it.
    pub(crate) serial: String,
    pub(crate) not_after: Timestamp,
}

/// Whom a peer's certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) common_name: String,
    pub(crate) serial: String,
    pub(crate) not_after: Timestamp,
}

/// The certificate authority.
pub(crate) struct Authority {
    pub(crate) certificate_pem: String,
    pub(crate) certificate: CertificateDer<'static>,
    /// Seconds that a device's certificate lasts.
    pub(crate) device_life: u64,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one: its certificate and its key, both in PEM.
    pub(crate) fn create(now: Timestamp) -> Result<(String, String)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making the CA's key")?;
        let mark = Digest::of(key.public_key_raw()).hex();
        let mut params = named(&format!("Shoal fleet CA {}", &mark[..8]), now, 20 * 365 * DAY)?;
        params.not_before = rcgen::date_time_ymd(FOUNDED, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("making the CA's certificate")?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The one that [`Authority::create`] made.
    pub(crate) fn load(certificate_pem: &str, key_pem: &str) -> Result<Self> {
        let key = KeyPair::from_pem(key_pem).context("reading the CA's key")?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            certificate: CertificateDer::from_pem_slice(certificate_pem.as_bytes())
                .context("reading the CA's certificate")?,
            device_life: DEVICE_LIFE,
            issuer: Issuer::from_ca_cert_pem(certificate_pem, key).context("reading the CA's certificate")?,
        })
    }

    /// SHA-256 of its certificate.
    pub(crate) fn fingerprint(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    /// A server certificate for these host names and addresses.
    pub(crate) fn server(&self, common_name: &str, names: &[String], now: Timestamp) -> Result<Leaf> {
        let mut params = CertificateParams::new(names)
            .with_context(|| format!("{names:?} are not all host names or addresses"))?;
        fill(&mut params, common_name, now, OWN_LIFE)?;
        // Made anew at each start: a device without a clock must not find it to begin after all that it knows of the time.
        params.not_before = rcgen::date_time_ymd(FOUNDED, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.leaf(&params)
    }

    /// A client certificate for a part of the controller itself.
    pub(crate) fn client(&self, common_name: &str, now: Timestamp) -> Result<Leaf> {
        let mut params = named(common_name, now, OWN_LIFE)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf(&params)
    }

    /// A client certificate named after its own key, as a device's is; nobody ever enrolled it.
    pub(crate) fn nobody(&self, now: Timestamp) -> Result<(DeviceId, Leaf)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")?;
        let device = DeviceId::of_spki(&key.subject_public_key_info());
        let mut params = named(device.as_str(), now, DAY)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok((device, self.signed(&params, &key)?))
    }

    fn leaf(&self, params: &CertificateParams) -> Result<Leaf> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")?;
        self.signed(params, &key)
    }

    fn signed(&self, params: &CertificateParams, key: &KeyPair) -> Result<Leaf> {
        let certificate = params.signed_by(key, &self.issuer).context("issuing an own certificate")?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate for a device: the request proves its identity key, whose hash is the device's id and the
    /// certificate's only name. Nothing else in the request is taken over.
    pub(crate) fn device(&self, request: &Request, now: Timestamp) -> Result<Issued> {
        let mut params = named(request.device.as_str(), now, self.device_life)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().map(|s| hex::encode(s.to_bytes())).unwrap_or_default();
        let csr = CertificateSigningRequestParams { params, public_key: request.public_key.clone() };
        let certificate = csr.signed_by(&self.issuer).context("issuing a device's certificate")?;
        Ok(Issued { der: certificate.der().to_vec(), serial, not_after: now.plus(self.device_life) })
    }

    /// The trust of everyone in this fleet.
    pub(crate) fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).context("trusting the own CA")?;
        Ok(Arc::new(roots))
    }
}

/// A certificate request whose signature is good.
pub(crate) struct Request {
    /// The id that belongs to its key.
    pub(crate) device: DeviceId,
    /// Its key.
    pub(crate) key: Key,
    public_key: rcgen::PublicKey,
}

impl Request {
    /// Reads a DER certificate request and checks that its key signed it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self> {
        let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .context("not a certificate request signed by its own key")?;
        let spki = csr.public_key.subject_public_key_info();
        let key = Key::from_spki(&spki)
            .ok_or_else(|| anyhow!("the request's key is neither Ed25519 nor ECDSA on P-256"))?;
        Ok(Self { device: DeviceId::of_spki(&spki), key, public_key: csr.public_key })
    }
}

/// Whom a certificate names. It was verified before.
pub(crate) fn peer(der: &[u8]) -> Result<Peer> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(der).context("reading a peer's certificate")?;
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else {
        bail!("a peer's certificate does not have exactly one common name");
    };
    let common_name = name.as_str().context("a peer's common name is no text")?.to_owned();
    let not_after = Timestamp(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0));
    Ok(Peer { common_name, serial: certificate.serial.to_str_radix(16), not_after })
}

fn named(common_name: &str, now: Timestamp, life: u64) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    fill(&mut params, common_name, now, life)?;
    Ok(params)
}

fn fill(params: &mut CertificateParams, common_name: &str, now: Timestamp, life: u64) -> Result<()> {
    let at = |t: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(t);
    // Grace for clocks that are behind: a day, and of a short life a tenth.
    params.not_before = at(now.0.saturating_sub(DAY.min(life / 10)));
    params.not_after = at(now.0.saturating_add(life));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(serial()?);
    Ok(())
}

/// 126 random bits, positive, with no leading zero digit in any notation.
fn serial() -> Result<SerialNumber> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| anyhow!("the operating system gave no randomness: {e}"))?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_certificate_names_the_device_and_carries_the_stored_serial() {
        let now = Timestamp(1_800_000_000);
        let (certificate, key) = Authority::create(now).unwrap();
        let ca = Authority::load(&certificate, &key).unwrap();
        let own = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "controller");
        let request = Request::parse(params.serialize_request(&own).unwrap().der()).unwrap();
        assert_eq!(request.device, DeviceId::of_spki(&own.subject_public_key_info()));
        let issued = ca.device(&request, now).unwrap();
        let peer = peer(&issued.der).unwrap();
        let common_name = request.device.to_string();
        assert_eq!(peer, Peer { common_name, serial: issued.serial, not_after: now.plus(DEVICE_LIFE) });
        assert_eq!(issued.not_after, peer.not_after);
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        assert!(parsed.subject_alternative_name().unwrap().is_none());
        assert!(!parsed.is_ca());
    }

    #[test]
    fn a_request_with_a_changed_byte_is_refused() {
        let own = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut der = CertificateParams::default().serialize_request(&own).unwrap().der().to_vec();
        assert!(Request::parse(&der).is_ok());
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(Request::parse(&der).is_err());
        assert!(Request::parse(b"").is_err());
    }
}
