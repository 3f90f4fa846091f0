//! The data folder: one shoald at a time in it, its identity made once and whole, its credential printed once.

use crate::app::{Endpoints, Own, now};
use crate::pki::Authority;
use crate::store::Store;
use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use shoal_protocol::Ed25519Signer;
use shoal_protocol::ids::Digest;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a data folder cannot be used, for the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// Another shoald has it.
    #[error("another shoald is running on {0}; stop it first, or choose another folder with --data")]
    Taken(PathBuf),
    /// It cannot be made or written.
    #[error("cannot use the data folder {0}; it must be writable for this user")]
    Unusable(PathBuf, #[source] std::io::Error),
}

/// A locked data folder.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held for as long as shoald runs; the kernel lets go of it whatever happens, so no stale lock stays (U7).
    _lock: File,
}

/// What makes this controller this controller: one file, written whole or not at all.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    ca_certificate: String,
    ca_key: String,
    /// Ed25519 seed of the online key, hexadecimal.
    online_key: String,
}

/// Where the store has the hash of the operators' credential.
const CREDENTIAL: &str = "admin_credential_sha256";

/// A credential that was made just now.
pub(crate) struct NewCredential {
    pub(crate) token: String,
    pub(crate) file: PathBuf,
}

impl DataDir {
    /// Makes the folder if need be, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let unusable = |e| DataError::Unusable(path.to_owned(), e);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataError::Taken(path.to_owned())),
            Err(e) => Err(unusable(e.into())),
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("shoald.db")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.path.join("images")
    }

    /// The identity, made at the first start; and `ca.pem` for people.
    pub(crate) fn identity(&self) -> Result<(Authority, Ed25519Signer)> {
        let path = self.path.join("identity.json");
        let identity: Identity = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is damaged; restore it from a backup", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                anyhow::ensure!(
                    !self.store().exists(),
                    "{} is gone, but there is a store beside it; restore it from a backup",
                    path.display()
                );
                let (ca_certificate, ca_key) = Authority::create(now())?;
                let identity = Identity { ca_certificate, ca_key, online_key: hex::encode(random::<32>()?) };
                write_whole(
                    &path,
                    &serde_json::to_vec_pretty(&identity).context("writing the identity")?,
                    0o600,
                )?;
                identity
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut seed = [0; 32];
        hex::decode_to_slice(&identity.online_key, &mut seed)
            .with_context(|| format!("the online key in {} is damaged", path.display()))?;
        let authority = Authority::load(&identity.ca_certificate, &identity.ca_key)?;
        write_whole(&self.path.join("ca.pem"), identity.ca_certificate.as_bytes(), 0o644)?;
        Ok((authority, Ed25519Signer::from_seed(seed)))
    }

    /// The authority of a folder that a shoald may be running on; made at the first start, here or there.
    pub(crate) fn authority(path: &Path) -> Result<Authority> {
        match std::fs::read(path.join("identity.json")) {
            Ok(bytes) => {
                let identity: Identity = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged", path.join("identity.json").display()))?;
                Authority::load(&identity.ca_certificate, &identity.ca_key)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::open(path)?.identity()?.0),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.join("identity.json").display())),
        }
    }

    /// Another authority, another online key and, at the next start, another credential for a folder whose old ones are, or may
    /// be, in other hands. The store stays: devices follow once a root names what is new.
    pub(crate) async fn renew_identity(&self) -> Result<Authority> {
        anyhow::ensure!(self.store().exists(), "there is no store in {}", self.path.display());
        let store = Store::open(&self.store())?;
        let (ca_certificate, ca_key) = Authority::create(now())?;
        let authority = Authority::load(&ca_certificate, &ca_key)?;
        let identity = Identity { ca_certificate, ca_key, online_key: hex::encode(random::<32>()?) };
        // The credential goes first: cut off in between, the folder has the old identity and a credential that nobody knows yet.
        store.forget_meta(CREDENTIAL).await?;
        let text = serde_json::to_vec_pretty(&identity).context("writing the identity")?;
        write_whole(&self.path.join("identity.json"), &text, 0o600)?;
        self.identity()?;
        Ok(authority)
    }

    /// The hash of the operators' credential; the credential itself when it was made just now.
    pub(crate) async fn credential(&self, store: &Store) -> Result<(Digest, Option<NewCredential>)> {
        if let Some(hash) = store.meta(CREDENTIAL).await? {
            let hash =
                hash.try_into().map_err(|_| anyhow!("the credential's hash in the store is damaged"))?;
            return Ok((Digest(hash), None));
        }
        let token = format!("shoal_{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
        let file = self.path.join("admin-credential");
        write_whole(&file, format!("{token}\n").as_bytes(), 0o600)?;
        let hash = Digest::of(token.as_bytes());
        store.set_meta(CREDENTIAL, hash.0.to_vec()).await?;
        Ok((hash, Some(NewCredential { token, file })))
    }

    /// All that the application needs of the folder.
    pub(crate) async fn own(
        &self,
        store: &Store,
        endpoints: Endpoints,
    ) -> Result<(Own, Option<NewCredential>)> {
        let (authority, online) = self.identity()?;
        let (credential, new) = self.credential(store).await?;
        Ok((Own { authority, online, endpoints, credential }, new))
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow!("the operating system gave no randomness: {e}"))?;
    Ok(bytes)
}

/// Temporary file, flush, rename, flush of the folder: a power cut leaves the old file or the new one.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let aside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&aside)
        .with_context(what)?;
    file.write_all(bytes).with_context(what)?;
    file.sync_all().with_context(what)?;
    std::fs::rename(&aside, path).with_context(what)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|d| d.sync_all()).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn u7_the_identity_is_made_once_and_a_folder_has_one_shoald() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(DataError::Taken(_))));
        let (first, _) = data.identity().unwrap();
        let store = Store::open(&data.store()).unwrap();
        let (hash, new) = data.credential(&store).await.unwrap();
        assert_eq!(Digest::of(new.unwrap().token.as_bytes()), hash);
        drop(data);
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(data.identity().unwrap().0.fingerprint(), first.fingerprint());
        let (again, new) = data.credential(&store).await.unwrap();
        assert!(again == hash && new.is_none());
        // Without its identity a used folder is not silently given a new one.
        std::fs::remove_file(dir.path().join("identity.json")).unwrap();
        assert!(data.identity().is_err());
    }
}
