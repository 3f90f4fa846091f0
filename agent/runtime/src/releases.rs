//! Files of a release on their way to supervise: from what is here already, from the blobs that a stick brought, or from a
//! registry. Nothing of it is believed; supervise hashes what it is given.

use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::images::PullSource;
use shoal_image::registry::Registry;
use shoal_image::{Descriptor, Expect, Reference, Store};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{Build, ReleaseFile};
use shoal_protocol::refusal::Code;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

/// The files of releases that this device may change to.
#[derive(Debug, Clone)]
pub struct ReleaseService {
    store: Store,
    /// The images' blobs: a stick's are kept there.
    beside: Store,
    guard: Guard,
}

impl ReleaseService {
    /// Over a blob store of its own in the agent's folder.
    ///
    /// # Errors
    /// When that folder cannot be made.
    pub fn open(guard: Guard) -> Result<Self> {
        let root = guard.layout().release_blobs();
        let open = |root: PathBuf| {
            Store::open(&root).map_err(|source| Error::Image { image: root.display().to_string(), source })
        };
        let beside = open(guard.layout().blobs())?;
        Ok(Self { store: open(root)?, beside, guard })
    }

    /// Where the blobs are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Forgets all blobs: the software that they were for runs, or another one is offered.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn clear(&self) -> Result<()> {
        let failed = |source| Error::Image { image: "blobs of releases".to_owned(), source };
        for (digest, _) in self.store.list().map_err(failed)? {
            self.store.remove(&digest).map_err(failed)?;
        }
        Ok(())
    }

    /// Hands supervise one file after another of those that it misses. `folders` are those of software that is here: a file of
    /// the same name and size there is tried before anything is fetched.
    ///
    /// # Errors
    /// The first file that no source gives, or that supervise refuses.
    pub async fn bring(
        &self,
        release: Digest,
        build: &Build,
        missing: &BTreeSet<Digest>,
        sources: &[PullSource],
        folders: &[PathBuf],
    ) -> Result<()> {
        let mut given = BTreeSet::new();
        for file in build.files.iter().filter(|f| missing.contains(&f.digest)) {
            if given.insert(file.digest) && !self.give_local(release, file, folders).await? {
                self.fetch(build, file, sources).await?;
                let blob = self.open_file(file).await?;
                self.give(release, file, blob).await?;
                // Supervise has its own copy now; what was packed stays until the change, in case that is lost.
                if file.packed.is_some() {
                    self.store.remove(&file.digest).map_err(|source| of(file, source))?;
                }
            }
        }
        Ok(())
    }

    /// Whether supervise took a file that is here already.
    async fn give_local(&self, release: Digest, file: &ReleaseFile, folders: &[PathBuf]) -> Result<bool> {
        for path in folders.iter().map(|f| f.join(&file.path)) {
            let Ok(local) = File::open(&path) else { continue };
            if !local.metadata().is_ok_and(|m| m.is_file() && m.len() == file.size) {
                continue;
            }
            match self.give(release, file, local).await {
                Ok(()) => return Ok(true),
                // It is another version of it.
                Err(e) if e.code() == Code::DigestMismatch.as_str() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    async fn give(&self, release: Digest, file: &ReleaseFile, bytes: File) -> Result<()> {
        let (ticket, item) = (shoal_ipc::Digest(release.0), shoal_ipc::Digest(file.digest.0));
        self.guard
            .staging(move |c| c.stage(ticket, item, bytes.as_fd()))
            .await
            .map_err(|source| Error::Guard { verb: "take a file of a release", source })
    }

    async fn fetch(&self, build: &Build, file: &ReleaseFile, sources: &[PullSource]) -> Result<()> {
        let blob = file.blob();
        let descriptor = Descriptor::new("application/octet-stream", blob.digest, blob.size);
        if self.store.size(&blob.digest) == Some(blob.size) {
            return Ok(());
        }
        if self.beside.size(&blob.digest) == Some(blob.size) {
            let (store, beside) = (self.store.clone(), self.beside.clone());
            let expect = Expect::Exactly { digest: blob.digest, size: blob.size };
            let copy = move || store.put_from(&mut beside.open_blob(&blob.digest)?, expect);
            let copied = tokio::task::spawn_blocking(copy).await.map_err(broke_off)?;
            return copied.map(drop).map_err(|source| of(file, source));
        }
        let reference: Reference = build.reference.parse().map_err(|source| of(file, source))?;
        let mut last = shoal_image::Error::Unavailable("no registry to ask".to_owned());
        for source in sources {
            let fetched = match Registry::new(&source.host, source.access.clone()) {
                Ok(r) => r.fetch_blob(&reference.path(), &descriptor, &self.store, &|_| {}).await,
                Err(e) => Err(e),
            };
            match fetched {
                Ok(()) => return Ok(()),
                Err(e) => {
                    tracing::debug!(file = %file.path, host = %source.host, error = %e, "not fetched");
                    last = e;
                }
            }
        }
        Err(of(file, last))
    }

    /// The file's own bytes, unpacked where they travel packed.
    async fn open_file(&self, file: &ReleaseFile) -> Result<File> {
        let (store, wanted) = (self.store.clone(), file.clone());
        let open = move || {
            if let Some(packed) = wanted.packed {
                let expect = Expect::Exactly { digest: wanted.digest, size: wanted.size };
                store.unpack(&packed.digest, expect)?;
            }
            store.open_blob(&wanted.digest)
        };
        let opened = tokio::task::spawn_blocking(open).await.map_err(broke_off)?;
        opened.map_err(|source| of(file, source))
    }
}

fn broke_off(e: tokio::task::JoinError) -> Error {
    Error::Io { what: "a task that reads a file broke off".to_owned(), source: std::io::Error::other(e) }
}

fn of(file: &ReleaseFile, source: shoal_image::Error) -> Error {
    Error::Image { image: format!("{} of a release", file.path), source }
}
