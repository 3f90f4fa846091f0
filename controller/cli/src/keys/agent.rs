//! Keys in a running ssh-agent, and so on whatever hardware that reaches (`ssh-add -s` for PKCS#11): the two requests of its
//! protocol that matter, list and sign (draft-ietf-sshm-ssh-agent §3.5, §3.6).
//!
//! The agent signs the bytes that it is given, so an Ed25519 or P-256 key's signature is the one that an envelope needs.
//! A FIDO key (`sk-…`) signs other bytes and is refused by name.

use crate::error::CliError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use shoal_protocol::ids::{Bytes, Digest};
use shoal_protocol::latest::{Alg, Key};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// What OpenSSH's agent takes and gives at most.
const MAX_MESSAGE: usize = 256 << 10;
/// Somebody may have to touch a card, or to type its PIN.
const PATIENCE: Duration = Duration::from_mins(2);
const ED25519: &[u8] = b"ssh-ed25519";
const P256: &[u8] = b"ecdsa-sha2-nistp256";

/// Why a key in the agent could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// No agent was started, or it is another shell's.
    #[error("SSH_AUTH_SOCK is not set: no ssh-agent to ask")]
    NoSocket,
    /// It does not answer.
    #[error("the ssh-agent at {path} does not answer")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It answered something else.
    #[error("the ssh-agent answered what its protocol does not have ({0})")]
    Protocol(&'static str),
    /// The key is not there.
    #[error("the ssh-agent has no key {wanted}; it has: {}", if has.is_empty() { "none".to_owned() } else { has.join(", ") })]
    NoSuchKey { wanted: String, has: Vec<String> },
    /// The key signs something else.
    #[error(
        "{fingerprint} is a key of type {kind}; a signature here needs ssh-ed25519 or ecdsa-sha2-nistp256"
    )]
    OtherKind { fingerprint: String, kind: String },
    /// It would not sign.
    #[error(
        "the ssh-agent refused to sign with {0}: is the agent locked, or was the question answered with no?"
    )]
    Refused(String),
    /// More than agents take.
    #[error("the document has {0} bytes, an ssh-agent signs at most {MAX_MESSAGE}")]
    TooLarge(usize),
}

impl From<AgentError> for CliError {
    fn from(e: AgentError) -> Self {
        let text = "cannot sign with the ssh-agent";
        let error = match e {
            AgentError::NoSocket | AgentError::Io { .. } => Self::unreachable(text),
            AgentError::OtherKind { .. } => Self::usage(text),
            _ => Self::credential(text),
        };
        error.because(e).hint("`eval $(ssh-agent)` starts one, `ssh-add FILE` or `ssh-add -s PKCS11.so` adds keys, `ssh-add -l` lists them")
    }
}

/// A key that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentKey {
    /// As `ssh-add -l` writes it: `SHA256:…`.
    pub(crate) fingerprint: String,
    /// The public half.
    pub(crate) public: Key,
    blob: Vec<u8>,
}

/// The agent's key with this fingerprint.
pub(crate) fn find(fingerprint: &str) -> Result<AgentKey, AgentError> {
    let answer = ask(&[REQUEST_IDENTITIES], IDENTITIES_ANSWER)?
        .ok_or(AgentError::Protocol("it does not list its keys"))?;
    choose(&answer, fingerprint)
}

fn choose(answer: &[u8], wanted: &str) -> Result<AgentKey, AgentError> {
    let mut reader = Reader(answer);
    let count = reader.number()?;
    let mut has = Vec::new();
    for _ in 0..count {
        let (blob, _comment) = (reader.string()?, reader.string()?);
        let fingerprint = fingerprint_of(blob);
        if fingerprint == wanted {
            let public = public_of(blob)?.ok_or_else(|| AgentError::OtherKind {
                fingerprint: fingerprint.clone(),
                kind: kind_of(blob),
            })?;
            return Ok(AgentKey { fingerprint, public, blob: blob.to_vec() });
        }
        has.push(fingerprint);
    }
    Err(AgentError::NoSuchKey { wanted: wanted.to_owned(), has })
}

fn kind_of(blob: &[u8]) -> String {
    let kind = Reader(blob).string().unwrap_or_default();
    String::from_utf8_lossy(kind).chars().filter(char::is_ascii_graphic).take(64).collect()
}

/// As OpenSSH writes it.
pub(crate) fn fingerprint_of(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Digest::of(blob).0))
}

/// The key of OpenSSH's wire form; nothing when it is of a kind that documents are not signed with.
pub(crate) fn public_of(blob: &[u8]) -> Result<Option<Key>, AgentError> {
    let mut reader = Reader(blob);
    let key = match reader.string()? {
        ED25519 => Key { alg: Alg::EdDsa, public: Bytes(reader.string()?.to_vec()) },
        P256 => {
            reader.string()?;
            Key { alg: Alg::Es256, public: Bytes(reader.string()?.to_vec()) }
        }
        _ => return Ok(None),
    };
    Ok(Some(key).filter(Key::is_well_formed))
}

impl AgentKey {
    /// 64 bytes: Ed25519's signature, or r‖s.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, AgentError> {
        let mut request = vec![SIGN_REQUEST];
        push(&mut request, &self.blob);
        push(&mut request, message);
        request.extend(0_u32.to_be_bytes());
        if request.len() > MAX_MESSAGE {
            return Err(AgentError::TooLarge(message.len()));
        }
        let answer =
            ask(&request, SIGN_RESPONSE)?.ok_or_else(|| AgentError::Refused(self.fingerprint.clone()))?;
        signature(&answer, self.public.alg)
    }
}

fn signature(answer: &[u8], alg: Alg) -> Result<Vec<u8>, AgentError> {
    let mut inner = Reader(Reader(answer).string()?);
    let kind = inner.string()?;
    let bytes = inner.string()?;
    match (alg, kind) {
        (Alg::EdDsa, ED25519) if bytes.len() == 64 => Ok(bytes.to_vec()),
        (Alg::Es256, P256) => {
            let mut numbers = Reader(bytes);
            let (r, s) = (half(numbers.string()?)?, half(numbers.string()?)?);
            Ok([r, s].concat())
        }
        _ => Err(AgentError::Protocol("a signature of another kind")),
    }
}

/// A number as SSH writes it (RFC 4251 §5, mpint) in 32 bytes.
fn half(mpint: &[u8]) -> Result<[u8; 32], AgentError> {
    let digits = mpint.strip_prefix(&[0]).unwrap_or(mpint);
    let mut out = [0; 32];
    let at = out.len().checked_sub(digits.len()).ok_or(AgentError::Protocol("a number beyond P-256"))?;
    out[at..].copy_from_slice(digits);
    Ok(out)
}

/// One request; nothing when the agent says no.
fn ask(request: &[u8], expected: u8) -> Result<Option<Vec<u8>>, AgentError> {
    let path: PathBuf =
        std::env::var_os("SSH_AUTH_SOCK").filter(|p| !p.is_empty()).ok_or(AgentError::NoSocket)?.into();
    let talk = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut framed = Vec::with_capacity(request.len() + 4);
        push(&mut framed, request);
        stream.write_all(&framed)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MAX_MESSAGE {
            return Err(std::io::Error::other("an answer of an impossible length"));
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    let mut answer = talk().map_err(|source| AgentError::Io { path: path.clone(), source })?;
    Ok((answer.first() == Some(&expected)).then(|| answer.split_off(1)))
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    // What is sent lies below MAX_MESSAGE.
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

/// Reads SSH's numbers and strings; everything is inside the message or an error.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u32, AgentError> {
        let (head, rest) = self.0.split_first_chunk::<4>().ok_or(AgentError::Protocol("it ends early"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }
    fn string(&mut self) -> Result<&'a [u8], AgentError> {
        let length = self.number()? as usize;
        let (head, rest) =
            self.0.split_at_checked(length).ok_or(AgentError::Protocol("a text longer than its message"))?;
        self.0 = rest;
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(kind: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        push(&mut out, kind);
        for part in parts {
            push(&mut out, part);
        }
        out
    }

    fn listing(blobs: &[Vec<u8>]) -> Vec<u8> {
        let mut out = u32::try_from(blobs.len()).unwrap().to_be_bytes().to_vec();
        for b in blobs {
            push(&mut out, b);
            push(&mut out, b"comment");
        }
        out
    }

    #[test]
    fn a_key_is_found_by_its_fingerprint_and_fido_keys_are_refused_by_name() {
        let plain = blob(ED25519, &[&[7; 32]]);
        let fido = blob(b"sk-ssh-ed25519@openssh.com", &[&[7; 32], b"ssh:"]);
        let list = listing(&[fido.clone(), plain.clone()]);
        let found = choose(&list, &fingerprint_of(&plain)).unwrap();
        assert_eq!(found.public, Key::ed25519([7; 32]));
        let e = choose(&list, &fingerprint_of(&fido)).unwrap_err().to_string();
        assert!(e.contains("sk-ssh-ed25519@openssh.com"), "{e}");
        let e = choose(&list, "SHA256:x").unwrap_err().to_string();
        assert!(e.contains(&fingerprint_of(&plain)), "{e}");
    }

    #[test]
    fn answers_that_lie_about_their_length_are_errors() {
        for bad in [&[][..], &[0, 0, 0, 1], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], &[0, 0, 0, 9, 1]] {
            assert!(choose(bad, "SHA256:x").is_err(), "{bad:?}");
            assert!(signature(bad, Alg::EdDsa).is_err(), "{bad:?}");
        }
        assert!(half(&[1; 33]).is_err() && half(&[0; 34]).is_err());
        assert_eq!(half(&[0, 0x80]).unwrap()[30..], [0, 0x80]);
    }
}
