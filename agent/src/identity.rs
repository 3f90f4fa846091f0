//! The device's identity: one Ed25519 key for TLS and reports, kept for life; its certificate and record beside it.

use crate::durable;
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use shoal_ipc::Layout;
use shoal_protocol::ids::{Bytes, DeviceId};
use shoal_protocol::signer::{Ed25519Signer, Signer};
use std::path::PathBuf;

/// PKCS#8 version 1 before an Ed25519 seed (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const FILE_MAX: u64 = 64 << 10;

/// Where the parts of an identity are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Of this device.
    pub(crate) fn new(layout: &Layout) -> Self {
        Self { dir: layout.identity() }
    }

    fn key(&self) -> PathBuf {
        self.dir.join("device.key")
    }

    fn certificate(&self) -> PathBuf {
        self.dir.join("device.crt")
    }

    fn record(&self) -> PathBuf {
        self.dir.join("device.record")
    }

    fn name(&self) -> PathBuf {
        self.dir.join("name")
    }

    /// The key, if there is one.
    pub(crate) fn load_key(&self) -> Result<Option<IdentityKey>> {
        let Some(pem) = durable::read(&self.key(), FILE_MAX)? else { return Ok(None) };
        let what = || format!("{} is no Ed25519 key in PKCS#8", self.key().display());
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).with_context(what)?;
        let seed = der.secret_pkcs8_der().strip_prefix(&PKCS8_PREFIX).with_context(what)?;
        let seed: [u8; 32] = seed.try_into().ok().with_context(what)?;
        Ok(Some(IdentityKey { seed }))
    }

    /// The key; made and kept if there is none.
    pub(crate) fn load_or_make_key(&self) -> Result<IdentityKey> {
        if let Some(key) = self.load_key()? {
            return Ok(key);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).context("the operating system gave no randomness")?;
        let key = IdentityKey { seed };
        durable::write(&self.key(), pem("PRIVATE KEY", &key.pkcs8()).as_bytes())?;
        Ok(key)
    }

    /// The certificates, the device's own first; empty before enrolment.
    pub(crate) fn load_certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let Some(pem) = durable::read(&self.certificate(), FILE_MAX)? else { return Ok(Vec::new()) };
        CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} holds no certificates", self.certificate().display()))
    }

    /// Keeps the certificates: with them, the device is enrolled.
    pub(crate) fn save_certificates(&self, certificates: &[Bytes]) -> Result<()> {
        ensure!(!certificates.is_empty(), "the controller answered without a certificate");
        let text: String = certificates.iter().map(|c| pem("CERTIFICATE", &c.0)).collect();
        durable::write(&self.certificate(), text.as_bytes())
    }

    /// The device record of an enrolment that was begun.
    pub(crate) fn load_record(&self) -> Result<Option<Vec<u8>>> {
        durable::read(&self.record(), FILE_MAX)
    }

    /// Keeps the device record, so that every try of one enrolment sends the same bytes.
    pub(crate) fn save_record(&self, envelope: &[u8]) -> Result<()> {
        durable::write(&self.record(), envelope)
    }

    /// The name that was chosen for this device, if one was.
    pub(crate) fn load_name(&self) -> Result<Option<String>> {
        Ok(durable::read(&self.name(), 256)?.map(|b| String::from_utf8_lossy(&b).trim().to_owned()))
    }

    /// Keeps a name for this device.
    pub(crate) fn save_name(&self, name: &str) -> Result<()> {
        durable::write(&self.name(), name.as_bytes())
    }
}

/// The identity key.
#[derive(Clone)]
pub(crate) struct IdentityKey {
    seed: [u8; 32],
}

impl std::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdentityKey({})", self.device())
    }
}

impl IdentityKey {
    /// Signs reports.
    pub(crate) fn signer(&self) -> Ed25519Signer {
        Ed25519Signer::from_seed(self.seed)
    }

    /// The device's id.
    pub(crate) fn device(&self) -> DeviceId {
        self.signer().key().device_id()
    }

    fn pkcs8(&self) -> Vec<u8> {
        [PKCS8_PREFIX.as_slice(), &self.seed].concat()
    }

    /// For TLS.
    pub(crate) fn private_key(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8())
    }

    /// A DER certificate request with the device's id as its common name.
    pub(crate) fn certificate_request(&self) -> Result<Vec<u8>> {
        let what = "cannot make a certificate request";
        let key = rcgen::KeyPair::try_from(&self.private_key()).context(what)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, self.device().as_str());
        Ok(params.serialize_request(&key).context(what)?.der().to_vec())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|i| &body[i..body.len().min(i + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.identity()).unwrap();
        (dir, Files::new(&layout))
    }

    #[test]
    fn u7_the_key_is_made_once_and_kept() {
        let (_dir, files) = files();
        assert!(files.load_key().unwrap().is_none());
        let device = files.load_or_make_key().unwrap().device();
        assert_eq!(files.load_or_make_key().unwrap().device(), device);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(files.key()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_an_error_and_never_replaced() {
        let (_dir, files) = files();
        std::fs::write(files.key(), b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
            .unwrap();
        assert!(files.load_or_make_key().is_err());
    }

    #[test]
    fn the_request_is_for_the_device_and_its_key() {
        let (_dir, files) = files();
        let key = files.load_or_make_key().unwrap();
        let der = key.certificate_request().unwrap();
        let params = rcgen::CertificateSigningRequestParams::from_der(&der.into()).unwrap();
        let name = params.params.distinguished_name.get(&rcgen::DnType::CommonName).unwrap();
        assert_eq!(*name, rcgen::DnValue::Utf8String(key.device().to_string()));
    }

    #[test]
    fn certificates_survive_the_round_trip() {
        let (_dir, files) = files();
        assert!(files.load_certificates().unwrap().is_empty());
        let two = [Bytes(vec![1; 100]), Bytes(vec![2; 3])];
        files.save_certificates(&two).unwrap();
        let read: Vec<Bytes> = files.load_certificates().unwrap().iter().map(|c| Bytes(c.to_vec())).collect();
        assert_eq!(read, two);
        assert!(files.save_certificates(&[]).is_err());
    }
}
