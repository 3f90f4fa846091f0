//! CRI v1 `ImageService` over the agent's blob store: pull, list, remove, space; and the way of an image's files to supervise.
//!
//! Only what a deployment pins is fetched, by digest. Nothing here is trusted by supervise, which hashes all again. What a
//! running or last-good revision needs is never collected (U5): the caller names it.

use crate::error::{Error, Result};
use crate::guard::Guard;
use rustix::fs::statvfs;
use serde::Serialize;
use shoal_image::registry::{Access, Registry};
use shoal_image::{Document, Image, Reference, Store};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest as wire;
use shoal_protocol::refusal::Code;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes that a pull leaves free, at most.
const RESERVE: u64 = 32 << 20;
/// Of a small file system it is this part.
const RESERVE_PART: u64 = 20;
/// Half-fetched blobs older than this are dropped when space is needed.
const PARTIAL_AGE: Duration = Duration::from_hours(24);

/// CRI v1 `FilesystemUsage`, and what is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FilesystemUsage {
    /// CRI v1 `FilesystemIdentifier.mountpoint`: where the blobs are.
    pub fs_id: PathBuf,
    /// Bytes of all blobs.
    pub used_bytes: u64,
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// CRI v1 `Image`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageStatus {
    /// The manifest's digest.
    pub id: String,
    /// Bytes of the manifest and all its blobs.
    pub size: u64,
}

/// An image as a deployment pins it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The pinned image.
    pub image: wire::Image,
}

impl Wanted {
    fn items(&self) -> impl Iterator<Item = &wire::File> {
        std::iter::once(&self.image.module).chain(&self.image.files)
    }

    fn unpacked(&self) -> u64 {
        self.items().map(|f| f.size).sum()
    }

    /// Whether all that supervise misses is of another image.
    pub fn has_none_of(&self, missing: &BTreeSet<Digest>) -> bool {
        self.items().all(|f| !missing.contains(&f.digest))
    }
}

/// A registry to ask.
#[derive(Debug, Clone)]
pub struct PullSource {
    /// Host and port.
    pub host: String,
    /// How to appear there.
    pub access: Access,
}

/// The agent's images.
#[derive(Debug, Clone)]
pub struct ImageService {
    pub(crate) store: Store,
    guard: Guard,
}

fn blocked(e: tokio::task::JoinError) -> Error {
    Error::Io { what: "a task that reads an image broke off".to_owned(), source: std::io::Error::other(e) }
}

impl ImageService {
    /// Over the blob store in the agent's folder.
    pub fn open(guard: Guard) -> Result<Self> {
        let root = guard.layout().blobs();
        let store = Store::open(&root)
            .map_err(|source| Error::Image { image: root.display().to_string(), source })?;
        Ok(Self { store, guard })
    }

    fn failed(image: &str) -> impl FnOnce(shoal_image::Error) -> Error {
        let image = image.to_owned();
        move |source| Error::Image { image, source }
    }

    /// CRI `ImageFsInfo`.
    pub fn image_fs_info(&self) -> Result<FilesystemUsage> {
        let root = self.store.root();
        let what = || format!("cannot ask for the space of {}", root.display());
        let fs = statvfs(root).map_err(|e| Error::Io { what: what(), source: e.into() })?;
        let blobs = self.store.list().map_err(Self::failed("list"))?;
        Ok(FilesystemUsage {
            fs_id: root.to_owned(),
            used_bytes: blobs.iter().map(|(_, size)| size).sum(),
            free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
        })
    }

    /// CRI `ImageStatus`: absent unless the image is here whole.
    pub fn image_status(&self, manifest: &Digest) -> Option<ImageStatus> {
        let blobs = self.blobs(manifest)?;
        let sizes: Option<Vec<u64>> = blobs.iter().map(|b| self.store.size(b)).collect();
        Some(ImageStatus { id: manifest.to_string(), size: sizes?.iter().sum() })
    }

    /// CRI `ListImages`, of those that the caller knows of.
    pub fn list_images<'a>(&self, manifests: impl Iterator<Item = &'a Digest>) -> Vec<ImageStatus> {
        manifests.filter_map(|m| self.image_status(m)).collect()
    }

    /// CRI `RemoveImage`: takes away what only this image needs. `keep` are the manifests of all others.
    pub fn remove_image(&self, manifest: &Digest, keep: &BTreeSet<Digest>) -> Result<u64> {
        let keep: BTreeSet<Digest> = keep.iter().copied().filter(|k| k != manifest).collect();
        self.collect(&keep)
    }

    /// Takes away every blob that no manifest in `keep` needs; gives the bytes won.
    pub fn collect(&self, keep: &BTreeSet<Digest>) -> Result<u64> {
        // What the owner pulled by name stays until they take the name away.
        let named = self.tagged()?;
        let needed: BTreeSet<Digest> = keep.union(&named).filter_map(|m| self.blobs(m)).flatten().collect();
        let mut won = 0;
        for (digest, size) in self.store.list().map_err(Self::failed("list"))? {
            if !needed.contains(&digest) {
                self.store.remove(&digest).map_err(Self::failed(&digest.to_string()))?;
                won += size;
            }
        }
        self.store.sweep(PARTIAL_AGE).map_err(Self::failed("sweep"))?;
        Ok(won)
    }

    /// The manifest and what it names; `None` if it is not here.
    pub(crate) fn blobs(&self, manifest: &Digest) -> Option<BTreeSet<Digest>> {
        let bytes = self.store.read(manifest, shoal_image::limits::DOCUMENT).ok()?;
        let Ok(Document::Manifest(m)) = Document::parse(&bytes, None) else { return None };
        Some([*manifest, m.config.digest].into_iter().chain(m.layers.iter().map(|l| l.digest)).collect())
    }

    /// CRI `PullImage`: fetches an image, from the first source that has it, unless it is here. The disk is checked before, and
    /// what is not in `keep` goes when there is too little room.
    pub async fn pull_image(
        &self,
        wanted: &Wanted,
        sources: &[PullSource],
        keep: &BTreeSet<Digest>,
    ) -> Result<()> {
        let image = &wanted.image;
        if self.image_status(&image.manifest).is_some() {
            return Ok(());
        }
        self.make_room(wanted.unpacked().saturating_mul(2).saturating_add(image.manifest_size), keep)?;
        let mut reference: Reference = image.reference.parse().map_err(Self::failed(&image.reference))?;
        reference.digest = Some(image.manifest);
        self.first_of(&reference, sources).await.map(drop)
    }

    /// Fetches what `reference` names from the first source that gives it; the manifest.
    pub(crate) async fn first_of(
        &self,
        reference: &Reference,
        sources: &[PullSource],
    ) -> Result<shoal_image::Descriptor> {
        let mut last = None;
        for source in sources {
            let at = format!("{reference} from {}", source.host);
            let pulled = match Registry::new(&source.host, source.access.clone()) {
                Ok(registry) => registry.pull(reference, &self.store, &|_| {}).await,
                Err(e) => Err(e),
            };
            match pulled {
                Ok(found) => return Ok(found.manifest),
                Err(source) => {
                    let error = Error::Image { image: at, source };
                    tracing::debug!(error = %error.chain(), "not pulled");
                    // What a source refused says more than that another one could not be reached.
                    if last.as_ref().is_none_or(
                        |e: &Error| !matches!(e, Error::Image { source, .. } if source.code().is_some()),
                    ) {
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Image {
            image: reference.to_string(),
            source: shoal_image::Error::Unavailable("no registry to ask".to_owned()),
        }))
    }

    pub(crate) fn make_room(&self, bytes: u64, keep: &BTreeSet<Digest>) -> Result<()> {
        if self.room_for(bytes).is_ok() {
            return Ok(());
        }
        let won = self.collect(keep)?;
        tracing::warn!(won, needed = bytes, "space was low: images that nothing needs are gone");
        self.room_for(bytes)
    }

    /// Whether so many bytes can be written, and what has to stay free stays free.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when not.
    pub fn room_for(&self, bytes: u64) -> Result<()> {
        let space = self.image_fs_info()?;
        let needed = bytes.saturating_add(RESERVE.min(space.total_bytes / RESERVE_PART));
        if space.free_bytes >= needed {
            return Ok(());
        }
        Err(Error::NoSpace { path: space.fs_id.display().to_string(), needed, free: space.free_bytes })
    }

    /// Where the blobs are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Hands supervise what it misses of an image that was pulled: manifest → layers → files by digest. `hit` is called after
    /// each item.
    pub async fn stage_image(
        &self,
        pod: Digest,
        wanted: &Wanted,
        missing: &BTreeSet<Digest>,
        hit: impl Fn(),
    ) -> Result<()> {
        let (store, manifest) = (self.store.clone(), wanted.image.manifest);
        let image = tokio::task::spawn_blocking(move || Image::load(&store, &manifest))
            .await
            .map_err(blocked)?
            .map_err(Self::failed(&wanted.image.reference))?;
        for file in wanted.items() {
            let found = image.files.get(&file.path);
            if found.is_none_or(|f| f.digest != file.digest || f.size != file.size) {
                let found =
                    found.map_or("nothing".to_owned(), |f| format!("{} of {} bytes", f.digest, f.size));
                let detail = format!(
                    "{} should be {} of {} bytes, the image has {found}",
                    file.path, file.digest, file.size
                );
                let source = shoal_image::Error::refused(Code::DigestMismatch, detail);
                return Err(Error::Image { image: wanted.image.reference.clone(), source });
            }
        }
        for file in wanted.items().filter(|f| missing.contains(&f.digest)) {
            let blob = self.store.open_blob(&file.digest).map_err(Self::failed(&wanted.image.reference))?;
            let (ticket, item) = (shoal_ipc::Digest(pod.0), shoal_ipc::Digest(file.digest.0));
            self.guard
                .staging(move |c| c.stage(ticket, item, blob.as_fd()))
                .await
                .map_err(|source| Error::Guard { verb: "take a file", source })?;
            hit();
        }
        self.drop_unpacked(wanted)
    }

    /// Supervise has its own copies of unpacked files; the layers stay, so that they can be handed over again.
    fn drop_unpacked(&self, wanted: &Wanted) -> Result<()> {
        let blobs = self.blobs(&wanted.image.manifest).unwrap_or_default();
        for file in wanted.items().filter(|f| !blobs.contains(&f.digest)) {
            self.store.remove(&file.digest).map_err(Self::failed(&wanted.image.reference))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_image::Descriptor;

    fn service() -> (tempfile::TempDir, ImageService) {
        let dir = tempfile::tempdir().unwrap();
        let service = ImageService::open(Guard::new(shoal_ipc::Layout::new(dir.path()))).unwrap();
        (dir, service)
    }

    fn artifact(store: &Store, content: &[u8]) -> (Digest, u64) {
        let layer = Descriptor::of("application/wasm", content);
        let config = Descriptor::of("application/vnd.wasm.config.v0+json", b"{}");
        store.put(content).unwrap();
        store.put(b"{}").unwrap();
        let json = |d: &Descriptor| serde_json::json!({ "mediaType": d.media_type, "digest": d.digest.to_string(), "size": d.size });
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": json(&config), "layers": [json(&layer)],
        })
        .to_string();
        (store.put(manifest.as_bytes()).unwrap(), manifest.len() as u64)
    }

    #[test]
    fn u5_collecting_never_drops_what_is_kept_and_drops_all_else() {
        let (_dir, service) = service();
        let (kept, _) = artifact(&service.store, b"kept");
        let (other, _) = artifact(&service.store, b"other");
        service.store.put(b"stray").unwrap();
        assert_eq!(service.list_images([kept, other].iter()).len(), 2);
        let won = service.collect(&BTreeSet::from([kept])).unwrap();
        assert!(won > 0);
        assert!(
            service.image_status(&kept).is_some(),
            "whole, its configuration shared with the other one included"
        );
        assert!(service.image_status(&other).is_none());
        assert_eq!(service.store.list().unwrap().len(), 3);
    }

    #[test]
    fn u5_the_disk_is_checked_before_a_pull() {
        let (_dir, service) = service();
        let error = service.make_room(u64::MAX / 4, &BTreeSet::new()).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert_eq!(error.code(), "storage_unavailable");
        assert!(!error.is_terminal());
        service.make_room(1, &BTreeSet::new()).unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn s13_an_image_with_other_bytes_than_signed_is_refused_before_supervise_is_asked() {
        let (_dir, service) = service();
        let (manifest, manifest_size) = artifact(&service.store, b"\0asm");
        let module =
            wire::File { path: "/module.wasm".into(), size: 4, mode: 0o644, digest: Digest::of(b"signed") };
        let image = wire::Image { reference: "x/y:1".into(), manifest, manifest_size, module, files: vec![] };
        let missing = BTreeSet::from([image.module.digest]);
        let wanted = Wanted { image };
        let error = service.stage_image(Digest::of(b"pod"), &wanted, &missing, || {}).await.unwrap_err();
        assert_eq!(error.code(), "digest_mismatch");
    }
}
