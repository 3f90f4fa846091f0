//! The operator's keys: Ed25519 in PKCS#8 PEM, one file each, mode 0600, with the public half beside it.
//!
//! Never here: what a key may sign (the root says that). A private key leaves this machine only if its owner copies it.

use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Home, write_secret};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_protocol::ids::Name;
use shoal_protocol::latest::Key;
use shoal_protocol::{Ed25519Signer, Signer};
use std::path::{Path, PathBuf};

/// DER before the seed in a PKCS#8 document (RFC 8410 §7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A key that can sign, and what its owner calls it.
#[derive(Debug)]
pub(crate) struct OwnKey {
    pub(crate) name: String,
    pub(crate) signer: Ed25519Signer,
}

impl OwnKey {
    /// The public half.
    pub(crate) fn public(&self) -> Key {
        self.signer.key()
    }
}

/// A key for people: algorithm and the first 16 digits of its hash, as in signatures.
pub(crate) fn fingerprint(key: &Key) -> String {
    hex::encode(key.kid())
}

fn path_of(home: &Home, name: &Name) -> PathBuf {
    home.keys().join(format!("{name}.key"))
}

/// 32 bytes from the operating system.
pub(crate) fn random_seed() -> Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|e| CliError::failure(format!("the operating system gave no randomness: {e}")))?;
    Ok(seed)
}

/// Makes a key; an existing one is never replaced.
pub(crate) fn create(home: &Home, name: &Name) -> Result<OwnKey> {
    let path = path_of(home, name);
    if path.exists() {
        return Err(CliError::usage(format!("the key {name} exists already: {}", path.display()))
            .hint("choose another name, or use the key that is there"));
    }
    let seed = random_seed()?;
    let signer = Ed25519Signer::from_seed(seed);
    write_secret(&path, pem("PRIVATE KEY", &[&PKCS8[..], &seed].concat()).as_bytes())?;
    write_secret(&path.with_extension("pub"), pem("PUBLIC KEY", &signer.key().spki()).as_bytes())?;
    Ok(OwnKey { name: name.to_string(), signer })
}

/// Loads a key by its name in the keys folder, or by the path of its file.
pub(crate) fn load(home: &Home, key: &str) -> Result<OwnKey> {
    let by_path = key.contains('/');
    let path = if by_path {
        PathBuf::from(key)
    } else {
        let name = key.strip_suffix(".key").unwrap_or(key);
        path_of(
            home,
            &name.parse().map_err(|e| CliError::usage(format!("{key:?} is no name of a key")).because(e))?,
        )
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let known = names(home).join(", ");
            let known = if known.is_empty() { "none yet".to_owned() } else { known };
            return Err(CliError::usage(format!("there is no key {}", path.display()))
                .hint(format!("your keys: {known}; make one with `shoal keys new NAME`")));
        }
        Err(e) => return Err(e).on_path("read the key", &path),
    };
    let name = path.file_stem().map_or_else(|| key.to_owned(), |s| s.to_string_lossy().into_owned());
    Ok(OwnKey { name, signer: parse(&path, &text)? })
}

fn parse(path: &Path, text: &str) -> Result<Ed25519Signer> {
    let bad = |why: &str| {
        CliError::usage(format!("{} is no Ed25519 private key in PKCS#8 PEM: {why}", path.display()))
            .hint("keys are made by `shoal keys new NAME` or `openssl genpkey -algorithm ed25519`")
    };
    let body = text
        .split_once("-----BEGIN PRIVATE KEY-----")
        .and_then(|(_, rest)| rest.split_once("-----END PRIVATE KEY-----"))
        .ok_or_else(|| bad("the lines BEGIN PRIVATE KEY and END PRIVATE KEY are missing"))?
        .0;
    let compact: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let der = STANDARD.decode(compact).map_err(|_| bad("what stands between its lines is not base64"))?;
    let seed = der.strip_prefix(&PKCS8).and_then(|s| <[u8; 32]>::try_from(s).ok());
    seed.map(Ed25519Signer::from_seed).ok_or_else(|| bad("it is a key of another kind"))
}

/// The names of all keys in the keys folder.
pub(crate) fn names(home: &Home) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(home.keys())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().strip_suffix(".key").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        (dir, home)
    }

    #[test]
    fn a_key_is_made_once_and_read_by_name_or_path() {
        let (_dir, home) = home();
        let made = create(&home, &"ops".parse().unwrap()).unwrap();
        assert_eq!(load(&home, "ops").unwrap().public(), made.public());
        let path = home.keys().join("ops.key");
        assert_eq!(load(&home, path.to_str().unwrap()).unwrap().name, "ops");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(create(&home, &"ops".parse().unwrap()).unwrap_err().render().contains("exists already"));
        assert_eq!(names(&home), ["ops"]);
    }

    #[test]
    fn a_missing_key_names_those_that_are_there() {
        let (_dir, home) = home();
        create(&home, &"ops".parse().unwrap()).unwrap();
        let e = load(&home, "opps").unwrap_err().render();
        assert!(e.contains("there is no key") && e.contains("your keys: ops"), "{e}");
    }

    #[test]
    fn other_files_are_no_keys() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        ] {
            assert!(parse(Path::new("x.key"), text).is_err(), "{text}");
        }
    }
}
