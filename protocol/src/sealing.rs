//! What keeps a secret from everybody but the devices that were granted it: one key seals the values once, and is itself
//! sealed to each device.
//!
//! - The values: ChaCha20-Poly1305 under a key that seals exactly one message, so that its nonce is zero. Authenticated along
//!   with them is all that the document says in clear: fleet, epoch, name, sequence, deployments and keys. A ciphertext in
//!   another document does not open (S25).
//! - The key, to a device: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305;
//!   its `info` names fleet, device, secret and the exact revision.
//! - The document commits to the key by a hash, so that no grant, whoever made it, can make a ciphertext say something else.
//!
//! Pure: entropy is a parameter. Never here: who may be granted what.

use crate::codec::{self, Limits};
use crate::ids::{Bytes, DeviceId, Digest, FleetId, Name};
use crate::refusal::{Code, Refusal};
use crate::text_map::ByteMap;
use crate::v1::{Grant, Revision, Secret};
use crate::verify::MAX_DATA;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of what HPKE puts in front.
const ENCAPSULATED: usize = 32;
/// Values are padded to a multiple of this, so that their length tells less.
const BLOCK: usize = 64;

type Suite = X25519HkdfSha256;
type PublicKey = <Suite as Kem>::PublicKey;
type PrivateKey = <Suite as Kem>::PrivateKey;

/// The key of one revision of one secret. Not printed, and gone from memory with its owner.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<[u8; KEY]>);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl SecretKey {
    /// A key of these bytes, which nobody else knows.
    pub fn new(bytes: [u8; KEY]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be kept where only their owner reads them.
    pub fn expose(&self) -> &[u8; KEY] {
        &self.0
    }

    /// What the document says of it.
    pub fn commitment(&self) -> Digest {
        Digest::of(&[b"shoal secret key v1\0".as_slice(), self.0.as_slice()].concat())
    }
}

/// Entropy that the caller drew, as the source of randomness that HPKE asks for; stretched if more is asked than is there.
struct Drawn {
    seed: Zeroizing<[u8; 32]>,
    block: u64,
}

impl TryRng for Drawn {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(32) {
            let block =
                Sha256::new().chain_update(self.seed.as_slice()).chain_update(self.block.to_le_bytes());
            self.block += 1;
            chunk.copy_from_slice(&block.finalize()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

fn refuse(detail: String) -> Refusal {
    Refusal::new(Code::SecretContext, detail)
}

/// Texts one after the other, each behind its length, so that no two lists look alike.
fn context<'a>(what: &'a str, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in std::iter::once(what.as_bytes()).chain(parts) {
        out.extend((part.len() as u64).to_be_bytes());
        out.extend(part);
    }
    out
}

/// All that a secret says in clear, but for what depends on its key.
fn clear(s: &Secret) -> Vec<u8> {
    let numbers =
        [s.epoch, s.sequence, s.deployments.len() as u64, s.keys.len() as u64].map(u64::to_be_bytes);
    let texts = [s.fleet.as_str().as_bytes(), s.name.as_str().as_bytes()];
    let lists = s.deployments.iter().chain(&s.keys).map(String::as_bytes);
    context("shoal secret v1", texts.into_iter().chain(numbers.iter().map(<[u8; 8]>::as_slice)).chain(lists))
}

fn cipher(key: &SecretKey) -> Result<LessSafeKey, Refusal> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.0.as_slice());
    key.map(LessSafeKey::new).map_err(|_| refuse("the key has another size".to_owned()))
}

/// Seals `data` into a secret whose other fields stand: fills `keys`, `commitment` and `sealed`. A key seals once.
///
/// # Errors
/// `secret_context` when the cipher refuses, which it has no reason to.
pub fn seal(secret: &mut Secret, key: &SecretKey, data: &ByteMap) -> Result<(), Refusal> {
    secret.keys = data.keys().map(str::to_owned).collect();
    secret.commitment = key.commitment();
    let encoded = Zeroizing::new(codec::encode(data));
    let padded = (4 + encoded.len()).next_multiple_of(BLOCK);
    // Room for all at once, so that nothing is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(padded + CHACHA20_POLY1305.tag_len()));
    text.extend(u32::try_from(encoded.len()).unwrap_or(u32::MAX).to_be_bytes());
    text.extend(encoded.iter());
    text.resize(padded, 0);
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    cipher(key)?
        .seal_in_place_append_tag(nonce, Aad::from(clear(secret)), &mut *text)
        .map_err(|_| refuse(format!("secret {}: it cannot be sealed", secret.name)))?;
    secret.sealed = Bytes(text.to_vec());
    Ok(())
}

/// What is in a secret.
///
/// # Errors
/// `secret_context` when the key is not the one that it commits to, or the ciphertext was sealed for another place.
pub fn open(secret: &Secret, key: &SecretKey) -> Result<ByteMap, Refusal> {
    let name = &secret.name;
    if key.commitment() != secret.commitment {
        return Err(refuse(format!("secret {name}: the grant holds another key than it commits to")));
    }
    let mut text = Zeroizing::new(secret.sealed.0.clone());
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let text = cipher(key)?
        .open_in_place(nonce, Aad::from(clear(secret)), &mut text)
        .map_err(|_| refuse(format!("secret {name}: its ciphertext was sealed for another place")))?;
    let (length, rest) = text.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let unreadable = || refuse(format!("secret {name}: what was sealed is no list of values"));
    let encoded = rest.get(..length).ok_or_else(unreadable)?;
    let data: ByteMap = codec::decode(encoded, Limits::of_size(2 * MAX_DATA)).map_err(|_| unreadable())?;
    if !data.keys().eq(secret.keys.iter().map(String::as_str)) {
        return Err(refuse(format!("secret {name}: it holds other keys than it names")));
    }
    Ok(data)
}

/// The public half of a device's sealing key, as its record names it.
pub fn public_of(private: &[u8; 32]) -> [u8; 32] {
    let key = PrivateKey::from_bytes(private).map(|k| Suite::sk_to_pk(&k).to_bytes());
    key.ok().and_then(|k| <[u8; 32]>::try_from(k.as_slice()).ok()).unwrap_or_default()
}

fn info(fleet: &FleetId, device: &DeviceId, name: &Name, revision: &Revision) -> Vec<u8> {
    let texts = [fleet.as_str(), device.as_str(), name.as_str()].map(str::as_bytes);
    let sequence = revision.sequence.to_be_bytes();
    context("shoal grant v1", texts.into_iter().chain([sequence.as_slice(), revision.digest.0.as_slice()]))
}

/// The key of a secret, sealed to one device; `entropy` is used once.
///
/// # Errors
/// `recipient_unsigned` when the recipient's sealing key is none.
pub fn wrap(
    key: &SecretKey,
    recipient: &[u8],
    (fleet, device): (&FleetId, &DeviceId),
    (name, revision): (&Name, &Revision),
    entropy: [u8; 32],
) -> Result<Bytes, Refusal> {
    let failed =
        |_| Refusal::new(Code::RecipientUnsigned, format!("device {device} has no usable sealing key"));
    let recipient = PublicKey::from_bytes(recipient).map_err(failed)?;
    let mut rng = Drawn { seed: Zeroizing::new(entropy), block: 0 };
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeS::Base,
        &recipient,
        &info(fleet, device, name, revision),
        key.0.as_slice(),
        &[],
        &mut rng,
    )
    .map_err(failed)?;
    Ok(Bytes([encapsulated.to_bytes().as_slice(), &sealed].concat()))
}

/// The key that a grant holds, with the private half of the device's sealing key.
///
/// # Errors
/// `secret_context` when it was sealed to another key, or for another device, secret or revision.
pub fn unwrap(grant: &Grant, sealing: &[u8; 32]) -> Result<SecretKey, Refusal> {
    let foreign = || refuse(format!("secret {}: its grant was made for another place", grant.name));
    let (encapsulated, sealed) = grant.sealed.0.split_at_checked(ENCAPSULATED).ok_or_else(foreign)?;
    let encapsulated = <Suite as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| foreign())?;
    let private = PrivateKey::from_bytes(sealing).map_err(|_| foreign())?;
    let key = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Suite>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        &info(&grant.fleet, &grant.device, &grant.name, &grant.revision),
        sealed,
        &[],
    )
    .map_err(|_| foreign())?;
    let key = Zeroizing::new(key);
    let bytes: [u8; KEY] = key.as_slice().try_into().map_err(|_| foreign())?;
    Ok(SecretKey::new(bytes))
}
