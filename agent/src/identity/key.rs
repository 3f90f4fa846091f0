//! The identity key, and how TLS and certificate requests sign with it: one way, wherever the private half is.

use anyhow::{Context as _, Result};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{Alg, Key};
use shoal_protocol::signer::{Ed25519Signer, SignError, Signer};
use shoal_signer::{SignerCommand, der_of_fixed};
use std::sync::Arc;
use std::time::Duration;

/// How long hardware may take for one signature: nobody stands beside a device to touch it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The identity key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct IdentityKey(Holder);

#[derive(Clone, PartialEq, Eq)]
enum Holder {
    Seed([u8; 32]),
    Command(SignerCommand),
}

impl std::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdentityKey({})", self.device())
    }
}

impl IdentityKey {
    /// An Ed25519 key that is here.
    pub(super) fn of_seed(seed: [u8; 32]) -> Self {
        Self(Holder::Seed(seed))
    }

    /// A key behind a command.
    pub(super) fn behind(line: String, public: Key) -> Self {
        Self(Holder::Command(SignerCommand { line, public, patience: PATIENCE }))
    }

    /// The public half.
    pub(crate) fn public(&self) -> Key {
        self.key()
    }

    /// The device's id.
    pub(crate) fn device(&self) -> DeviceId {
        self.public().device_id()
    }

    /// Signs something, and verifies it.
    pub(super) fn prove(&self) -> Result<()> {
        let request = self.certificate_request()?;
        rcgen::CertificateSigningRequestParams::from_der(&request.as_slice().into())
            .context("what it signs does not verify by the public key")?;
        Ok(())
    }

    /// For TLS, with the certificates for it.
    pub(crate) fn certified(&self, certificates: Vec<CertificateDer<'static>>) -> Result<CertifiedKey> {
        let certified = CertifiedKey::new(certificates, Arc::new(self.clone()));
        certified.keys_match().context("the device's certificate does not fit its key")?;
        Ok(certified)
    }

    /// A DER certificate request with the device's id as its common name.
    pub(crate) fn certificate_request(&self) -> Result<Vec<u8>> {
        let what = "cannot make a certificate request";
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, self.device().as_str());
        let public = self.public().public.0;
        Ok(params.serialize_request(&Request { key: self, public }).context(what)?.der().to_vec())
    }

    /// A signature as X.509 and TLS spell it.
    fn sign_x509(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.sign(message)?;
        match self.public().alg {
            Alg::EdDsa => Ok(signature),
            Alg::Es256 => {
                der_of_fixed(&signature).ok_or_else(|| SignError("a signature of another length".to_owned()))
            }
        }
    }
}

impl Signer for IdentityKey {
    fn key(&self) -> Key {
        match &self.0 {
            Holder::Seed(seed) => Ed25519Signer::from_seed(*seed).public(),
            Holder::Command(command) => command.key(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.0 {
            Holder::Seed(seed) => Ed25519Signer::from_seed(*seed).sign(message),
            Holder::Command(command) => command.sign(message),
        }
    }
}

/// What a certificate request is signed with.
struct Request<'a> {
    key: &'a IdentityKey,
    public: Vec<u8>,
}

impl rcgen::PublicKeyData for Request<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.key.public().alg {
            Alg::EdDsa => &rcgen::PKCS_ED25519,
            Alg::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl rcgen::SigningKey for Request<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign_x509(message).map_err(|e| {
            tracing::warn!(error = %e, "the device's key did not sign");
            rcgen::Error::RemoteKeyError
        })
    }
}

impl SigningKey for IdentityKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let scheme = scheme(self.public().alg);
        offered.contains(&scheme).then(|| Box::new(TlsSigner(self.clone())) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.public().spki()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.public().alg {
            Alg::EdDsa => SignatureAlgorithm::ED25519,
            Alg::Es256 => SignatureAlgorithm::ECDSA,
        }
    }
}

/// One TLS signature.
#[derive(Debug)]
struct TlsSigner(IdentityKey);

impl rustls::sign::Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign_x509(message).map_err(|e| rustls::Error::General(e.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        scheme(self.0.public().alg)
    }
}

fn scheme(alg: Alg) -> SignatureScheme {
    match alg {
        Alg::EdDsa => SignatureScheme::ED25519,
        Alg::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
    }
}
