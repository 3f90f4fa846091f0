//! Pulls images: the manifest by its digest, then each blob up to its stated size, resumed where it broke off.

use super::client::Registry;
use super::pace::Body;
use crate::error::{Context as _, Error, Result};
use crate::image::blobs_of;
use crate::layout::ImportedImage;
use crate::limits;
use crate::manifest::{self, Descriptor, Document, Manifest, select_platform};
use crate::reference::Reference;
use crate::store::{Store, more_than_signed};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek as _, SeekFrom, Write as _};

/// How far a pull has come, in bytes of blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Here already.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// Hears of progress.
type Watch<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Registry {
    /// Pulls the image that `reference` names, by its digest when it has one, into `store`.
    ///
    /// What is in the store already is not fetched again, a manifest named by its digest included.
    pub async fn pull(
        &self,
        reference: &Reference,
        store: &Store,
        watch: Watch<'_>,
    ) -> Result<ImportedImage> {
        let repository = reference.path();
        let (named, bytes) = match reference.digest {
            Some(digest) => self.manifest_by_digest(&repository, &digest, store).await?,
            None => self.manifest(&repository, reference.tag_or_latest(), None).await?,
        };
        let (chosen, bytes, manifest) = match Document::parse(&bytes, Some(&named.media_type))? {
            Document::Manifest(manifest) => (named, bytes, manifest),
            Document::Index(index) => {
                let chosen = select_platform(&index)?;
                let (found, bytes) = self.manifest_by_digest(&repository, &chosen.digest, store).await?;
                match Document::parse(&bytes, Some(&chosen.media_type))? {
                    Document::Manifest(manifest) => (found, bytes, manifest),
                    Document::Index(_) => {
                        let detail = format!("{} is an index inside an index", chosen.digest);
                        return Err(Error::refused(Code::AmbiguousManifest, detail));
                    }
                }
            }
        };
        self.blobs(&repository, &manifest, store, watch).await?;
        store.put(&bytes)?;
        let size = bytes.len() as u64 + blobs_of(&manifest)?.iter().map(|b| b.size).sum::<u64>();
        let served_as = Some(chosen.media_type).filter(|m| m.ends_with("+json"));
        let media_type =
            manifest.media_type.clone().or(served_as).unwrap_or_else(|| manifest::OCI_MANIFEST.to_owned());
        let descriptor = Descriptor::new(&media_type, chosen.digest, chosen.size);
        Ok(ImportedImage { reference: Some(reference.to_string()), manifest: descriptor, size })
    }

    /// Fetches one blob of `repository` into `store`, unless it is there.
    pub async fn fetch_blob(
        &self,
        repository: &str,
        blob: &Descriptor,
        store: &Store,
        watch: Watch<'_>,
    ) -> Result<()> {
        if store.size(&blob.digest) == Some(blob.size) {
            return Ok(());
        }
        if blob.size > limits::BLOB {
            return Err(Error::refused(Code::TooLarge, format!("{} has {} bytes", blob.digest, blob.size)));
        }
        let mut partial = Partial::open(store, blob)?;
        let mut attempt = 1;
        loop {
            let before = partial.here;
            match self.continue_blob(repository, &mut partial, watch).await {
                Ok(()) => break,
                Err(Error::Unavailable(_)) if partial.here > before && attempt < self.patience.attempts => {
                    attempt += 1;
                    tokio::time::sleep(self.patience.pause).await;
                }
                Err(e) => return Err(e),
            }
        }
        store.adopt_partial(&blob.digest, blob.size)
    }

    async fn blobs(
        &self,
        repository: &str,
        manifest: &Manifest,
        store: &Store,
        watch: Watch<'_>,
    ) -> Result<()> {
        let blobs = blobs_of(manifest)?;
        let total = blobs.iter().map(|b| b.size).sum();
        let mut done = 0;
        for blob in &blobs {
            let before = done;
            self.fetch_blob(repository, blob, store, &|p| watch(Progress { done: before + p.done, total }))
                .await?;
            done += blob.size;
            watch(Progress { done, total });
        }
        Ok(())
    }

    async fn manifest_by_digest(
        &self,
        repository: &str,
        digest: &Digest,
        store: &Store,
    ) -> Result<(Descriptor, Vec<u8>)> {
        if let Ok(bytes) = store.read(digest, limits::DOCUMENT) {
            return Ok((Descriptor::new("", *digest, bytes.len() as u64), bytes));
        }
        self.manifest(repository, &digest.to_string(), Some(digest)).await
    }

    async fn manifest(
        &self,
        repository: &str,
        name: &str,
        expected: Option<&Digest>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let accept =
            [manifest::OCI_MANIFEST, manifest::OCI_INDEX, manifest::DOCKER_MANIFEST, manifest::DOCKER_INDEX]
                .join(", ");
        let response = self.get(repository, &format!("manifests/{name}"), &accept, 0).await?;
        let header =
            |name: &str| response.headers().get(name).and_then(|h| h.to_str().ok()).map(str::to_owned);
        let media_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let claimed: Option<Digest> = header("docker-content-digest").and_then(|d| d.parse().ok());
        let what = format!("manifest {name} of {}/{repository}", self.name());
        let bytes = Body::new(response, &self.patience).whole(limits::DOCUMENT, &what).await?;
        let found = Digest::of(&bytes);
        match expected.copied().or(claimed).filter(|d| *d != found) {
            Some(expected) => Err(Error::refused(
                Code::DigestMismatch,
                format!("{what}: expected {expected}, got {found} ({} bytes)", bytes.len()),
            )),
            None => Ok((Descriptor::new(&media_type, found, bytes.len() as u64), bytes)),
        }
    }

    /// One request for what is missing of a blob.
    async fn continue_blob(
        &self,
        repository: &str,
        partial: &mut Partial<'_>,
        watch: Watch<'_>,
    ) -> Result<()> {
        let (digest, size) = (partial.blob.digest, partial.blob.size);
        if partial.here == size {
            return Ok(());
        }
        let response = self.get(repository, &format!("blobs/{digest}"), "*/*", partial.here).await?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range =
                response.headers().get(CONTENT_RANGE).and_then(|h| h.to_str().ok()).unwrap_or_default();
            if !range.starts_with(&format!("bytes {}-", partial.here)) {
                partial.restart()?;
                return Err(Error::Unavailable(format!(
                    "{digest}: asked for the rest, got the range {range:?}"
                )));
            }
        } else if partial.here > 0 {
            partial.restart()?;
        }
        if let Some(length) = response.content_length()
            && partial.here + length != size
        {
            partial.restart()?;
            let detail = format!("{digest} should have {size} bytes, the registry sends {length}");
            return Err(Error::refused(Code::DigestMismatch, detail));
        }
        let mut body = Body::new(response, &self.patience);
        while let Some(chunk) = body.chunk().await.map_err(|e| named(&digest, e))? {
            if partial.here + chunk.len() as u64 > size {
                partial.restart()?;
                return Err(more_than_signed(&digest, size));
            }
            partial.append(&chunk)?;
            watch(Progress { done: partial.here, total: size });
        }
        if partial.here < size {
            let detail = format!("{digest} should have {size} bytes and ended after {}", partial.here);
            partial.restart()?;
            return Err(Error::refused(Code::DigestMismatch, detail));
        }
        Ok(())
    }
}

fn named(digest: &Digest, e: Error) -> Error {
    match e {
        Error::Refused { code, detail } => Error::refused(code, format!("{digest}: {detail}")),
        Error::Unavailable(detail) => Error::Unavailable(format!("{digest}: {detail}")),
        other => other,
    }
}

/// The beginning of a blob on disk; hashed only when it is whole.
struct Partial<'a> {
    blob: &'a Descriptor,
    file: File,
    here: u64,
}

impl<'a> Partial<'a> {
    fn open(store: &Store, blob: &'a Descriptor) -> Result<Self> {
        let path = store.partial_path(&blob.digest);
        let what = || format!("cannot write {}", path.display());
        let file = OpenOptions::new().create(true).append(true).open(&path).context(what)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Unavailable(format!(
                    "{} is being fetched by another process",
                    blob.digest
                )));
            }
            Err(TryLockError::Error(e)) => return Err(e).context(what),
        }
        let here = file.metadata().context(what)?.len();
        let mut partial = Self { blob, file, here };
        if here > blob.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .context(|| format!("cannot keep the beginning of {}", self.blob.digest))?;
        self.here += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.here = 0;
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)).map(drop))
            .context(|| format!("cannot drop the beginning of {}", self.blob.digest))
    }
}
