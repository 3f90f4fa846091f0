//! A key in a file: PKCS#8 PEM, as it is or inside age's passphrase format (scrypt); and public keys in PEM or OpenSSH's line.
//!
//! Reads and writes text; opens nothing by itself. `age -d FILE` gives the same PEM, so that no tool of ours is needed to
//! get a key out.

use crate::error::{CliError, Result};
use age::secrecy::SecretString;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_protocol::Ed25519Signer;
use shoal_protocol::latest::Key;
use std::path::Path;
use zeroize::Zeroizing;

/// DER before the seed in a PKCS#8 document (RFC 8410 §7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
const AGE: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
/// scrypt's work factor, 2^17: about a third of a second and 128 MiB. Fixed, so that a busy machine makes no weaker files.
const WORK: u8 = 17;
/// Files of others may be stronger, up to 4 GiB of memory.
const MOST_WORK: u8 = 22;

/// Whether a passphrase opens it.
pub(crate) fn is_locked(text: &str) -> bool {
    text.trim_start().starts_with(AGE)
}

/// The seed's file, without protection.
pub(crate) fn plain(seed: &[u8; 32]) -> Zeroizing<String> {
    let der = Zeroizing::new([&PKCS8[..], seed].concat());
    Zeroizing::new(pem("PRIVATE KEY", &der))
}

/// The same inside age's format.
pub(crate) fn locked(seed: &[u8; 32], passphrase: SecretString) -> Result<String> {
    let mut recipient = age::scrypt::Recipient::new(passphrase);
    recipient.set_work_factor(WORK);
    age::encrypt_and_armor(&recipient, plain(seed).as_bytes())
        .map_err(|e| CliError::failure("cannot protect the key with a passphrase").because(e))
}

/// Opens a protected file.
pub(crate) fn unlock(path: &Path, text: &str, passphrase: SecretString) -> Result<Ed25519Signer> {
    let mut identity = age::scrypt::Identity::new(passphrase);
    identity.set_max_work_factor(MOST_WORK);
    let shown = path.display();
    let opened = age::decrypt(&identity, text.as_bytes()).map_err(|e| match e {
        age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed => {
            CliError::credential(format!("the passphrase does not open {shown}"))
                .hint("nothing was signed; try again")
        }
        age::DecryptError::NoMatchingKeys => {
            CliError::usage(format!("{shown} is protected by age keys, not by a passphrase"))
                .hint("open it with `age -d -i IDENTITY`, and give it a passphrase with `age -p -a`")
        }
        e => CliError::usage(format!("{shown} cannot be opened")).because(e),
    })?;
    let opened = Zeroizing::new(opened);
    let text = std::str::from_utf8(&opened)
        .map_err(|e| CliError::usage(format!("what {shown} protects is no text")).because(e))?;
    parse(path, text)
}

/// Reads an unprotected file.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Ed25519Signer> {
    let bad = |why: &str| {
        CliError::usage(format!("{} is no Ed25519 private key in PKCS#8 PEM: {why}", path.display()))
            .hint("keys are made by `shoal keys new NAME` or `openssl genpkey -algorithm ed25519`")
    };
    let der = Zeroizing::new(body(text, "PRIVATE KEY").map_err(bad)?);
    let seed = der.strip_prefix(&PKCS8).and_then(|s| <[u8; 32]>::try_from(s).ok()).map(Zeroizing::new);
    seed.map(|s| Ed25519Signer::from_seed(*s)).ok_or_else(|| bad("it is a key of another kind"))
}

/// A public key's file.
pub(crate) fn public(key: &Key) -> String {
    pem("PUBLIC KEY", &key.spki())
}

/// Reads a public key: SubjectPublicKeyInfo in PEM, or the line that OpenSSH keeps beside a private key.
pub(crate) fn parse_public(path: &Path, text: &str) -> Result<Key> {
    let bad = |why: &str| {
        CliError::usage(format!("{} is no public key: {why}", path.display()))
            .hint("Ed25519 or P-256, as `shoal keys new`, `openssl pkey -pubout` or `ssh-keygen` write them")
    };
    let mut words = text.split_whitespace();
    let key = match words.next() {
        Some("ssh-ed25519" | "ecdsa-sha2-nistp256") => {
            let blob = words.next().and_then(|w| STANDARD.decode(w).ok());
            blob.and_then(|b| super::agent::public_of(&b).ok().flatten())
        }
        _ => Key::from_spki(&body(text, "PUBLIC KEY").map_err(bad)?),
    };
    key.ok_or_else(|| bad("it is a key of another kind"))
}

fn body(text: &str, label: &str) -> std::result::Result<Vec<u8>, &'static str> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let body = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(body, _)| body);
    let body = body.ok_or("the lines BEGIN and END are missing")?;
    let compact: Zeroizing<String> = Zeroizing::new(body.chars().filter(|c| !c.is_whitespace()).collect());
    STANDARD.decode(compact.as_bytes()).map_err(|_| "what stands between its lines is not base64")
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", *body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_no_keys() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            assert!(parse(Path::new("x.key"), text).is_err(), "{text}");
        }
        for text in ["", "ssh-rsa AAAA x", "ssh-ed25519 AAAA x", "ssh-ed25519"] {
            assert!(parse_public(Path::new("x.pub"), text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_right_passphrase_opens_a_protected_file() {
        let pass = |text: &str| SecretString::from(text.to_owned());
        let text = locked(&[7; 32], pass("correct horse")).unwrap();
        assert!(is_locked(&text) && !is_locked(&plain(&[7; 32])));
        assert!(!text.contains("PRIVATE KEY"));
        let signer = unlock(Path::new("k"), &text, pass("correct horse")).unwrap();
        assert_eq!(signer.public(), Ed25519Signer::from_seed([7; 32]).public());
        let e = unlock(Path::new("k"), &text, pass("wrong horse")).unwrap_err();
        assert_eq!(e.kind, crate::error::Kind::Credential, "{}", e.render());
        // A changed file is no other key.
        let at = text.len() / 2;
        let changed =
            format!("{}{}{}", &text[..at], if &text[at..=at] == "A" { "B" } else { "A" }, &text[at + 1..]);
        assert!(unlock(Path::new("k"), &changed, pass("correct horse")).is_err());
    }
}
