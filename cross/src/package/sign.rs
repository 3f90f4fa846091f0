//! The release key's signature over the list of checksums: Ed25519 as raw bytes, made and checked by `openssl`, so that a
//! plain Debian can check it with what it has. Keeps no key.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::process;

/// Signs a file; the key is PKCS#8 in PEM.
pub(super) fn sign(key: &Path, file: &Path, signature: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-sign", "-rawin", "-inkey"]).arg(key);
    openssl.arg("-in").arg(file).arg("-out").arg(signature);
    process::capture(&mut openssl)
        .with_context(|| format!("sign {} with the key in {}", file.display(), key.display()))
        .map(drop)
}

/// Writes the public half of a key.
pub(super) fn public(key: &Path, to: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-pubout", "-in"]).arg(key).arg("-out").arg(to);
    process::capture(&mut openssl).context("take the public half of the release key").map(drop)
}

/// What a public key is told by: SHA-256 of its DER form (`SubjectPublicKeyInfo`), as install.sh takes it.
pub(super) fn fingerprint(public: &Path) -> Result<String> {
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-pubin", "-outform", "DER", "-in"]).arg(public);
    let out = process::output(&mut openssl)?;
    if !out.status.success() {
        bail!("read the key in {}: {}", public.display(), process::tail(&out.stderr, 5));
    }
    Ok(format!("sha256:{}", hex::encode(Sha256::digest(&out.stdout))))
}

/// Checks a signature, by the command that docs/install.md gives.
pub(super) fn verify(public: &Path, file: &Path, signature: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"]).arg(public);
    openssl.arg("-in").arg(file).arg("-sigfile").arg(signature);
    process::capture(&mut openssl)
        .with_context(|| format!("check the signature of {}", file.display()))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_bytes_and_its_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["key", "other"] {
            let mut openssl = Command::new("openssl");
            process::capture(openssl.args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(path(name)))
                .unwrap();
            public(&path(name), &path(&format!("{name}.pub"))).unwrap();
        }
        std::fs::write(path("sums"), "aa  x\n").unwrap();
        sign(&path("key"), &path("sums"), &path("sig")).unwrap();
        assert_eq!(std::fs::metadata(path("sig")).unwrap().len(), 64);
        verify(&path("key.pub"), &path("sums"), &path("sig")).unwrap();
        verify(&path("other.pub"), &path("sums"), &path("sig")).unwrap_err();
        std::fs::write(path("sums"), "ab  x\n").unwrap();
        verify(&path("key.pub"), &path("sums"), &path("sig")).unwrap_err();
    }
}
