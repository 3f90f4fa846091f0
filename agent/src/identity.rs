//! The device's identity: one key for TLS and reports, kept for life; its certificate and record beside it.
//!
//! The key is an Ed25519 seed in a file, or behind a command: in a TPM, a secure element, whatever signs.

mod key;

pub(crate) use key::IdentityKey;

use crate::durable;
use crate::failure::{Explained, Kind};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use shoal_ipc::Layout;
use shoal_protocol::ids::Bytes;
use shoal_protocol::latest::Key;
use std::path::{Path, PathBuf};

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

    /// The command that signs, when the key is not in a file.
    fn command(&self) -> PathBuf {
        self.dir.join("device.signer")
    }

    fn public(&self) -> PathBuf {
        self.dir.join("device.pub")
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
        if let Some(line) = durable::read(&self.command(), FILE_MAX)? {
            let line = String::from_utf8(line)
                .with_context(|| format!("{} is not text", self.command().display()))?;
            let path = self.public();
            let pem = durable::read(&path, FILE_MAX)?
                .with_context(|| format!("{} is lost: the public half of the key", path.display()))?;
            return Ok(Some(IdentityKey::behind(line.trim().to_owned(), public_key(&path, &pem)?)));
        }
        let Some(pem) = durable::read(&self.key(), FILE_MAX)? else { return Ok(None) };
        let what = || format!("{} is no Ed25519 key in PKCS#8", self.key().display());
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).with_context(what)?;
        let seed = der.secret_pkcs8_der().strip_prefix(&PKCS8_PREFIX).with_context(what)?;
        let seed: [u8; 32] = seed.try_into().ok().with_context(what)?;
        Ok(Some(IdentityKey::of_seed(seed)))
    }

    /// The key; made and kept if there is none.
    pub(crate) fn load_or_make_key(&self) -> Result<IdentityKey> {
        if let Some(key) = self.load_key()? {
            return Ok(key);
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).context("the operating system gave no randomness")?;
        let pkcs8 = [PKCS8_PREFIX.as_slice(), &seed].concat();
        durable::write(&self.key(), pem("PRIVATE KEY", &pkcs8).as_bytes())?;
        Ok(IdentityKey::of_seed(seed))
    }

    /// Takes a key behind a command for this device's, once it has signed something that its public half verifies. Another
    /// key than the one that this device has is refused: who a device is does not change.
    pub(crate) fn adopt_key(&self, line: &str, public: Key) -> Result<IdentityKey> {
        let usage = |why: String| Explained::new(Kind::Usage, why);
        let key = IdentityKey::behind(line.to_owned(), public);
        if let Some(held) = self.load_key()?
            && held != key
        {
            let why = format!("this device has another key already, that of {}", held.device());
            return Err(usage(why).into());
        }
        key.prove()
            .map_err(|e| usage(format!("the key cannot be used through the command `{line}`: {e:#}")))?;
        durable::write(&self.public(), pem("PUBLIC KEY", &key.public().spki()).as_bytes())?;
        durable::write(&self.command(), line.as_bytes())?;
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

/// Reads the file of a public key.
pub(crate) fn read_public(path: &Path) -> Result<Key> {
    public_key(path, &std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
}

/// Reads a public key in PEM.
fn public_key(path: &Path, text: &[u8]) -> Result<Key> {
    let what = || format!("{} is no Ed25519 or P-256 public key in PEM", path.display());
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(text).ok().with_context(what)?;
    Key::from_spki(&spki).with_context(what)
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

    /// A P-256 key in a file, and a command that signs with it as hardware would: in DER.
    fn command_key(dir: &Path, name: &str) -> (String, PathBuf) {
        let (private, public) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.pub")));
        let openssl = |args: &[&str]| {
            let done = std::process::Command::new("openssl").args(args).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        let (private, file) = (private.to_str().unwrap(), public.to_str().unwrap());
        openssl(&["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", private]);
        openssl(&["pkey", "-in", private, "-pubout", "-out", file]);
        (format!("openssl dgst -sha256 -sign {private}"), public)
    }

    #[test]
    fn a_key_behind_a_command_is_proven_then_kept_and_never_exchanged() {
        let (dir, files) = files();
        let ((line, public), (other, stranger)) =
            (command_key(dir.path(), "a"), command_key(dir.path(), "b"));
        let why = files.adopt_key(&other, read_public(&public).unwrap()).unwrap_err().to_string();
        assert!(why.contains("does not verify"), "{why}");
        assert!(files.adopt_key("false", read_public(&public).unwrap()).is_err());
        assert!(files.load_key().unwrap().is_none(), "what failed leaves nothing");

        let key = files.adopt_key(&line, read_public(&public).unwrap()).unwrap();
        assert_eq!(key.public().alg, shoal_protocol::latest::Alg::Es256);
        assert_eq!(files.load_or_make_key().unwrap().device(), key.device());
        assert!(!files.key().exists(), "no other key is made beside it");
        files.adopt_key(&line, read_public(&public).unwrap()).unwrap();
        let why = files.adopt_key(&other, read_public(&stranger).unwrap()).unwrap_err().to_string();
        assert!(why.contains("another key already"), "{why}");
        std::fs::remove_file(files.public()).unwrap();
        assert!(files.load_or_make_key().is_err(), "half an identity is no reason to make another");
    }

    #[test]
    fn a_device_with_a_key_in_a_file_keeps_it() {
        let (dir, files) = files();
        let device = files.load_or_make_key().unwrap().device();
        let (line, public) = command_key(dir.path(), "a");
        assert!(files.adopt_key(&line, read_public(&public).unwrap()).is_err());
        assert_eq!(files.load_key().unwrap().unwrap().device(), device);
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
