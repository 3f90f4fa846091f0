//! The envelope of everything signed: COSE_Sign (RFC 9052 §4.1, tag 98) in one narrow profile, laid out by hand.
//!
//! Parses, signs and names documents; never decides whether a signature counts (that is `verify`'s alone).

use crate::codec::{self, CodecError, Reader, Writer};
use crate::ids::Digest;
use crate::refusal::{Code, Refusal};
use crate::signer::{SignError, Signer};
use crate::v1::{Alg, Document, Kind};
use sha2::{Digest as _, Sha256};

/// How many signatures an envelope may carry.
pub const MAX_SIGNATURES: usize = 8;
/// What an envelope adds at most to its payload, for size caps on payloads.
pub const MAX_OVERHEAD: usize = 96 + MAX_SIGNATURES * 84;

const TAG_COSE_SIGN: [u8; 2] = [0xd8, 0x62];
const PREFIX: &str = "application/vnd.shoal.";
const SUFFIX: &str = "+cbor";
const SIGNATURE_SIZE: usize = 64;

/// One signature as it stands in the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// The algorithm that the signer claims.
    pub alg: Alg,
    /// The first 8 bytes of the key's SHA-256: a hint that filters, never counts.
    pub kid: [u8; 8],
    /// The 64 bytes.
    pub bytes: &'a [u8],
}

/// A parsed envelope; nothing in it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    content_type: &'a str,
    payload: &'a [u8],
    signatures: Vec<Signature<'a>>,
}

impl<'a> Envelope<'a> {
    /// Parses exactly the profile.
    ///
    /// # Errors
    /// [`CodecError`] for anything else, however valid it is as COSE.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut outer = Reader::new(bytes);
        outer.literal(&TAG_COSE_SIGN, "not the tag of COSE_Sign")?;
        outer.literal(&[0x84], "not an array of four")?;
        let mut protected = Reader::new(outer.bytes()?);
        protected.literal(&[0xa1, 0x03], "a protected header that is not exactly a content type")?;
        let content_type = protected.text()?;
        protected.end()?;
        outer.literal(&[0xa0], "an unprotected header that is not empty")?;
        let payload = outer.bytes()?;
        let count = outer.array()?;
        if count == 0 || count > MAX_SIGNATURES as u64 {
            return outer.refuse("not 1 to 8 signatures");
        }
        let mut signatures = Vec::with_capacity(MAX_SIGNATURES);
        for _ in 0..count {
            outer.literal(&[0x83], "a signature that is not an array of three")?;
            let alg = match outer.bytes()? {
                [0xa1, 0x01, 0x27] => Alg::EdDsa,
                [0xa1, 0x01, 0x26] => Alg::Es256,
                _ => {
                    return outer.refuse("a signature's protected header that is not exactly EdDSA or ES256");
                }
            };
            outer.literal(&[0xa1, 0x04], "a signature's unprotected header that is not exactly a kid")?;
            let Ok(kid) = <[u8; 8]>::try_from(outer.bytes()?) else {
                return outer.refuse("a kid that is not of 8 bytes");
            };
            let bytes = outer.bytes()?;
            if bytes.len() != SIGNATURE_SIZE {
                return outer.refuse("a signature that is not of 64 bytes");
            }
            signatures.push(Signature { alg, kid, bytes });
        }
        outer.end()?;
        Ok(Self { content_type, payload, signatures })
    }

    /// The content type as it stands there.
    pub fn content_type(&self) -> &'a str {
        self.content_type
    }

    /// The payload as received.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The signatures, in order, not verified.
    pub fn signatures(&self) -> &[Signature<'a>] {
        &self.signatures
    }

    /// The kind that the content type names.
    ///
    /// # Errors
    /// `wrong_type` for a content type that is none of ours, `unsupported_version` for a later version or a reserved kind.
    pub fn kind(&self) -> Result<Kind, Refusal> {
        kind_of(self.content_type)
    }

    /// The document's identity: signatures do not change it.
    pub fn identity(&self) -> Digest {
        identity_of(self.content_type, self.payload)
    }

    /// What the signature with this algorithm is over.
    pub(crate) fn to_be_signed(&self, alg: Alg) -> Vec<u8> {
        to_be_signed(self.content_type, self.payload, alg)
    }

    /// The same document with one more signature; its identity stays.
    ///
    /// # Errors
    /// [`SignError`] when the signer fails or eight signatures are there already.
    pub fn cosign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let mut all: Vec<(Alg, [u8; 8], Vec<u8>)> =
            self.signatures.iter().map(|s| (s.alg, s.kid, s.bytes.to_vec())).collect();
        all.push(make_signature(self.content_type, self.payload, signer)?);
        lay_out(self.content_type, self.payload, &all)
    }
}

/// The content type of a kind, version 1.
pub fn content_type(kind: Kind) -> String {
    format!("{PREFIX}{}.v1{SUFFIX}", kind.as_str())
}

fn kind_of(content_type: &str) -> Result<Kind, Refusal> {
    let shown: String = content_type.chars().take(80).collect();
    let wrong = || Refusal::new(Code::WrongType, format!("content type {shown:?} is not one of Shoal's"));
    let (name, version) = content_type
        .strip_prefix(PREFIX)
        .and_then(|t| t.strip_suffix(SUFFIX))
        .and_then(|t| t.split_once(".v"))
        .ok_or_else(wrong)?;
    let kind = Kind::ALL.into_iter().find(|k| k.as_str() == name).ok_or_else(wrong)?;
    let digits = !version.is_empty() && version.len() <= 9 && version.bytes().all(|b| b.is_ascii_digit());
    if !digits || version.starts_with('0') {
        return Err(wrong());
    }
    if version != "1" || kind.is_reserved() {
        return Err(Refusal::new(
            Code::UnsupportedVersion,
            format!("{name} version {version}; this side knows version 1 of the kinds built so far"),
        ));
    }
    Ok(kind)
}

/// A document's identity: SHA-256 of its content type, a zero byte and its payload.
pub fn identity(kind: Kind, payload: &[u8]) -> Digest {
    identity_of(&content_type(kind), payload)
}

fn identity_of(content_type: &str, payload: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(content_type.as_bytes());
    hash.update([0]);
    hash.update(payload);
    Digest(hash.finalize().into())
}

fn write_body_protected(out: &mut Writer, content_type: &str) {
    let mut inner = Writer::with_capacity(64);
    inner.literal(&[0xa1, 0x03]);
    inner.text(content_type);
    out.bytes(&inner.finish());
}

fn sign_protected(alg: Alg) -> [u8; 3] {
    match alg {
        Alg::EdDsa => [0xa1, 0x01, 0x27],
        Alg::Es256 => [0xa1, 0x01, 0x26],
    }
}

/// The Sig_structure of RFC 9052 §4.4, without external data.
fn to_be_signed(content_type: &str, payload: &[u8], alg: Alg) -> Vec<u8> {
    let mut out = Writer::with_capacity(payload.len() + 96);
    out.array(5);
    out.text("Signature");
    write_body_protected(&mut out, content_type);
    out.bytes(&sign_protected(alg));
    out.bytes(&[]);
    out.bytes(payload);
    out.finish()
}

fn make_signature(
    content_type: &str,
    payload: &[u8],
    signer: &dyn Signer,
) -> Result<(Alg, [u8; 8], Vec<u8>), SignError> {
    let key = signer.key();
    let bytes = signer.sign(&to_be_signed(content_type, payload, key.alg))?;
    if bytes.len() != SIGNATURE_SIZE {
        return Err(SignError(format!("the signer gave {} bytes, a signature has 64", bytes.len())));
    }
    Ok((key.alg, key.kid(), bytes))
}

fn lay_out(
    content_type: &str,
    payload: &[u8],
    all: &[(Alg, [u8; 8], Vec<u8>)],
) -> Result<Vec<u8>, SignError> {
    if all.is_empty() || all.len() > MAX_SIGNATURES {
        return Err(SignError(format!("{} signatures; an envelope carries 1 to 8", all.len())));
    }
    let mut out = Writer::with_capacity(payload.len() + MAX_OVERHEAD);
    out.literal(&TAG_COSE_SIGN);
    out.array(4);
    write_body_protected(&mut out, content_type);
    out.literal(&[0xa0]);
    out.bytes(payload);
    out.array(all.len() as u64);
    for (alg, kid, bytes) in all {
        out.array(3);
        out.bytes(&sign_protected(*alg));
        out.literal(&[0xa1, 0x04]);
        out.bytes(kid);
        out.bytes(bytes);
    }
    Ok(out.finish())
}

/// Signs a payload of a kind. The payload is taken as it is.
///
/// # Errors
/// [`SignError`] when a signer fails, or without 1 to 8 of them.
pub fn sign(kind: Kind, payload: &[u8], signers: &[&dyn Signer]) -> Result<Vec<u8>, SignError> {
    let content_type = content_type(kind);
    let all = signers
        .iter()
        .map(|signer| make_signature(&content_type, payload, *signer))
        .collect::<Result<Vec<_>, _>>()?;
    lay_out(&content_type, payload, &all)
}

/// Encodes and signs a document: the envelope and the document's identity.
///
/// # Errors
/// [`SignError`] as in [`sign`], or when the envelope would exceed its kind's size cap.
pub fn seal_document<T: Document>(
    document: &T,
    signers: &[&dyn Signer],
) -> Result<(Vec<u8>, Digest), SignError> {
    let payload = codec::encode(document);
    let envelope = sign(T::KIND, &payload, signers)?;
    if envelope.len() > T::KIND.size_cap() {
        return Err(SignError(format!(
            "the {} would be {} bytes signed, at most {} are accepted",
            T::KIND.as_str(),
            envelope.len(),
            T::KIND.size_cap()
        )));
    }
    Ok((envelope, identity(T::KIND, &payload)))
}
