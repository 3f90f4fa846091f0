//! Keys: what a public key is called, and the signers that hold a private one.
//!
//! Never verifies. A hardware key is a [`Signer`] of its owner's making.

use crate::ids::{Bytes, DeviceId, Digest};
use crate::v1::{Alg, Key};
use ed25519_dalek::Signer as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not sign: {0}")]
pub struct SignError(pub String);

/// Something that holds a private key and signs with it.
pub trait Signer {
    /// The public half.
    fn key(&self) -> Key;

    /// Signs a message: 64 bytes (Ed25519, or r‖s of ECDSA on P-256 with SHA-256).
    ///
    /// # Errors
    /// [`SignError`] when the key cannot be used.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// An Ed25519 key in memory; wiped when dropped.
pub struct Ed25519Signer(ed25519_dalek::SigningKey);

impl Ed25519Signer {
    /// The key of this seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The public half.
    pub fn public(&self) -> Key {
        Key::ed25519(self.0.verifying_key().to_bytes())
    }
}

impl std::fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ed25519Signer({:?})", self.public().public)
    }
}

impl Signer for Ed25519Signer {
    fn key(&self) -> Key {
        self.public()
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

/// An ECDSA key on P-256 in memory. The nonce of each signature comes from the operating system.
#[derive(Debug)]
pub struct Es256Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Es256Signer {
    /// The key of a PKCS#8 document.
    ///
    /// # Errors
    /// [`SignError`] when it is not a P-256 private key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, SignError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| SignError(format!("not a P-256 key in PKCS#8: {e}")))?;
        Ok(Self { pair, random })
    }
}

impl Signer for Es256Signer {
    fn key(&self) -> Key {
        Key { alg: Alg::Es256, public: Bytes(self.pair.public_key().as_ref().to_vec()) }
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.pair
            .sign(&self.random, message)
            .map(|s| s.as_ref().to_vec())
            .map_err(|_| SignError("the operating system gave no randomness".to_owned()))
    }
}

/// DER before the raw key in a SubjectPublicKeyInfo (RFC 8410 §4, RFC 5480 §2).
const SPKI_ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl Key {
    /// An Ed25519 public key.
    pub fn ed25519(public: [u8; 32]) -> Self {
        Self { alg: Alg::EdDsa, public: Bytes(public.to_vec()) }
    }

    /// The hint that stands beside its signatures: the first 8 bytes of the SHA-256 of the raw public key.
    pub fn kid(&self) -> [u8; 8] {
        let Digest(hash) = Digest::of(&self.public.0);
        let mut kid = [0; 8];
        kid.copy_from_slice(&hash[..8]);
        kid
    }

    /// Whether it has the length and form of its algorithm.
    pub fn is_well_formed(&self) -> bool {
        match self.alg {
            Alg::EdDsa => self.public.0.len() == 32,
            Alg::Es256 => self.public.0.len() == 65 && self.public.0[0] == 4,
        }
    }

    /// Its DER SubjectPublicKeyInfo, as in a certificate.
    pub fn spki(&self) -> Vec<u8> {
        let prefix: &[u8] = match self.alg {
            Alg::EdDsa => &SPKI_ED25519,
            Alg::Es256 => &SPKI_P256,
        };
        [prefix, &self.public.0].concat()
    }

    /// The key of a DER SubjectPublicKeyInfo; nothing when it is of another kind.
    pub fn from_spki(spki: &[u8]) -> Option<Self> {
        let (alg, raw) = if let Some(raw) = spki.strip_prefix(&SPKI_ED25519) {
            (Alg::EdDsa, raw)
        } else {
            (Alg::Es256, spki.strip_prefix(&SPKI_P256)?)
        };
        Some(Self { alg, public: Bytes(raw.to_vec()) }).filter(Self::is_well_formed)
    }

    /// The id of the device that has this identity key.
    pub fn device_id(&self) -> DeviceId {
        DeviceId::of_spki(&self.spki())
    }
}
