//! A bundle: what a device without a network is given on a stick. One OCI image layout in a tar, with the signed documents
//! beside the images, as artifacts of their own.
//!
//! `index.json` names one index, [`NAME`], that holds everything, so that a tool which copies one name copies the whole; and
//! each image by its own name. Any tool that copies layouts carries it. Nothing here verifies a signature: admission does, as
//! with what comes by MQTT.

use crate::archive::Source;
use crate::error::{Context as _, Error, Result};
use crate::image::blobs_of;
use crate::index::{REF_NAME, index_of, new_index};
use crate::layout::{
    ImportedImage, Open, blob_name, described, exactly, take_manifest, to_json, write_layout,
};
use crate::limits;
use crate::manifest::{Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::store::{Hashing, Store};
use serde::{Deserialize, Serialize};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::Kind;
use shoal_protocol::refusal::Code;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::rc::Rc;

/// What the artifact of all documents is: its configuration's media type, as OCI image-spec 1.1 has it (manifest.md,
/// `artifactType`).
pub const ARTIFACT_TYPE: &str = "application/vnd.shoal.bundle.v1+json";
/// What one deployment is, as an artifact of its own that mirrors can carry.
pub const DEPLOYMENT_TYPE: &str = "application/vnd.shoal.deployment.v1+json";
/// One signed document in either.
pub const DOCUMENT_TYPE: &str = "application/vnd.shoal.document.v1+cose";
/// What the whole is called in the layout.
pub const NAME: &str = "shoal-bundle";
const TITLE: &str = "org.opencontainers.image.title";
/// Documents of one bundle: grants are one a device and secret.
const DOCUMENTS: usize = 4_096;
/// Bytes of all of them: they are held in memory.
const DOCUMENT_BYTES: u64 = 32 << 20;
/// Manifests of one bundle: images, deployments, and artifacts of documents.
const MANIFESTS: usize = limits::IMAGES + 512;

/// A signed document on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDocument {
    /// What a reader is told that it is.
    pub title: String,
    /// Its envelope, exactly as it was signed.
    pub envelope: Vec<u8>,
}

/// What the artifact's configuration says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Settings {
    /// The bundle whose blobs of images were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// What goes into a bundle.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The documents, in the order in which they are offered to admission.
    pub documents: &'a [SignedDocument],
    /// Manifests of images, each with its name.
    pub images: &'a [(Digest, String)],
    /// A bundle that whoever gets this one has been given before: what its images had is left out.
    pub since: Option<&'a Bundle>,
}

/// Blobs that are made here.
#[derive(Default)]
struct Own(BTreeMap<Digest, Vec<u8>>);

impl Own {
    fn keep(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.0.insert(descriptor.digest, bytes);
        descriptor
    }

    fn document(&mut self, document: &SignedDocument) -> Descriptor {
        let mut layer = self.keep(DOCUMENT_TYPE, document.envelope.clone());
        layer.annotations.insert(TITLE.to_owned(), document.title.clone());
        layer
    }

    fn artifact(&mut self, config: Descriptor, layers: Vec<Descriptor>) -> Result<Descriptor> {
        let media_type = Some(OCI_MANIFEST.to_owned());
        let manifest = Manifest { media_type, config, layers, annotations: BTreeMap::new() };
        Ok(self.keep(OCI_MANIFEST, to_json(&manifest)?))
    }
}

fn is_deployment(document: &SignedDocument) -> bool {
    Envelope::parse(&document.envelope).is_ok_and(|e| e.kind() == Ok(Kind::Deployment))
}

/// Writes a bundle: the same bytes for the same contents.
///
/// # Errors
/// `too_large` for more documents than a bundle has; what the store lacks; what cannot be written.
pub fn write(contents: &Contents<'_>, store: &Store, out: &mut dyn Write) -> Result<()> {
    let (documents, images) = (contents.documents, contents.images);
    if documents.len() > DOCUMENTS || images.len() > limits::IMAGES {
        let (is, most) = ((documents.len(), images.len()), (DOCUMENTS, limits::IMAGES));
        let detail =
            format!("{} documents and {} images, the limits are {} and {}", is.0, is.1, most.0, most.1);
        return Err(Error::refused(Code::TooLarge, detail));
    }
    let mut own = Own::default();
    let settings = Settings { since: contents.since.map(|b| b.digest().to_string()) };
    let config = own.keep(ARTIFACT_TYPE, to_json(&settings)?);
    let mut all = Vec::new();
    for part in documents.chunks(limits::LAYERS) {
        let layers = part.iter().map(|d| own.document(d)).collect();
        all.push(own.artifact(config.clone(), layers)?);
    }
    for document in documents.iter().filter(|d| is_deployment(d)) {
        let (config, layer) = (own.keep(DEPLOYMENT_TYPE, b"{}".to_vec()), own.document(document));
        let mut artifact = own.artifact(config, vec![layer])?;
        artifact.annotations.insert(TITLE.to_owned(), document.title.clone());
        all.push(artifact);
    }
    let left_out = contents.since.map(Bundle::held).transpose()?.unwrap_or_default();
    let mut blobs: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut named = Vec::new();
    for (digest, name) in images {
        let mut descriptor = described(store, digest)?;
        let parsed = Document::parse(&store.read(digest, limits::DOCUMENT)?, None)?;
        let of_image = blobs_of(&plain(parsed, digest)?)?;
        blobs.extend(of_image.iter().map(|b| (b.digest, b.size)).filter(|(d, _)| !left_out.contains(d)));
        // Its manifest is always there: it says what the rest is.
        blobs.insert(descriptor.digest, descriptor.size);
        all.push(descriptor.clone());
        descriptor.annotations.insert(REF_NAME.to_owned(), name.clone());
        named.push(descriptor);
    }
    let mut whole = own.keep(OCI_INDEX, to_json(&new_index(all))?);
    whole.annotations.insert(REF_NAME.to_owned(), NAME.to_owned());
    blobs.extend(own.0.iter().map(|(d, b)| (*d, b.len() as u64)));
    let open: Open<'_> = &|digest| match own.0.get(digest) {
        Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
        None => Ok(Box::new(store.open_blob(digest)?)),
    };
    named.insert(0, whole);
    write_layout(named, &blobs, open, out)
}

fn plain(document: Document, digest: &Digest) -> Result<Manifest> {
    match document {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(Error::refused(Code::AmbiguousManifest, format!("{digest} is an index"))),
    }
}

/// A bundle that was opened: its documents are read, its images are not.
pub struct Bundle {
    source: Source,
    digest: Digest,
    since: Option<String>,
    documents: Vec<SignedDocument>,
    images: Vec<Descriptor>,
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Bundle {
    /// Opens a file or a folder; a packed one is unpacked in `scratch`. Every document is read and held against its digest.
    ///
    /// # Errors
    /// `malformed` for what is no bundle or lacks something, `digest_mismatch`, `too_large`; what cannot be read.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let named = |e: Error| match e {
            Error::Refused { code, detail } => Error::refused(code, format!("{}: {detail}", path.display())),
            Error::NotFound(what) => Error::refused(Code::Malformed, format!("{}: {what}", path.display())),
            other => other,
        };
        Source::open(path, scratch).and_then(Self::read).map_err(named)
    }

    fn read(source: Source) -> Result<Self> {
        let open: Open<'_> = &|digest| source.reader(&blob_name(digest));
        let bytes = source.document("/index.json")?;
        let top = index_of(&bytes)?;
        let mut digest = Digest::of(&bytes);
        let mut entries: Vec<Descriptor> = Vec::new();
        for entry in top.manifests {
            // A copy of the whole may have lost its name on the way, so what counts is that it is an index.
            if entry.media_type == OCI_INDEX {
                digest = entry.digest;
                entries.extend(index_of(&exactly(&entry, open)?)?.manifests);
            } else {
                entries.push(entry);
            }
            if entries.len() > MANIFESTS {
                return Err(Error::refused(Code::TooLarge, format!("more than {MANIFESTS} manifests")));
            }
        }
        let (mut documents, mut images) = (Vec::new(), BTreeMap::<Digest, Descriptor>::new());
        let (mut since, mut size) = (None, 0_u64);
        for entry in entries {
            let bytes = exactly(&entry, open)?;
            let artifact = match Document::parse(&bytes, Some(&entry.media_type))? {
                Document::Manifest(m) if m.config.media_type == ARTIFACT_TYPE => m,
                // Its document is among all the others too.
                Document::Manifest(m) if m.config.media_type == DEPLOYMENT_TYPE => continue,
                Document::Manifest(_) => {
                    // Under its name it says more than in the index of the whole.
                    let known = images.entry(entry.digest).or_insert_with(|| entry.clone());
                    known.annotations.extend(entry.annotations);
                    continue;
                }
                Document::Index(_) => {
                    let detail = format!("{} is an index inside an index", entry.digest);
                    return Err(Error::refused(Code::AmbiguousManifest, detail));
                }
            };
            size = artifact.layers.iter().fold(size, |sum, l| sum.saturating_add(l.size));
            let many = documents.len() + artifact.layers.len() > DOCUMENTS || size > DOCUMENT_BYTES;
            if many || images.len() > limits::IMAGES {
                let detail = "it has more documents or images than a bundle may have";
                return Err(Error::refused(Code::TooLarge, detail));
            }
            let settings: Settings = serde_json::from_slice(&exactly(&artifact.config, open)?)
                .map_err(|e| Error::refused(Code::Malformed, format!("its settings: {e}")))?;
            since = since.or(settings.since);
            for mut layer in artifact.layers {
                let envelope = exactly(&layer, open)?;
                let title = layer.annotations.remove(TITLE).unwrap_or_default();
                documents.push(SignedDocument { title, envelope });
            }
        }
        if documents.is_empty() {
            let detail = "it is an image layout without signed documents: no bundle";
            return Err(Error::refused(Code::Malformed, detail));
        }
        Ok(Self { source, digest, since, documents, images: images.into_values().collect() })
    }

    /// What the bundle is known by: the digest of the index that holds it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bundle whose blobs this one leaves out, if it does.
    pub fn since(&self) -> Option<&str> {
        self.since.as_deref()
    }

    /// The documents, as they stand.
    pub fn documents(&self) -> &[SignedDocument] {
        &self.documents
    }

    /// The images' manifests.
    pub fn images(&self) -> &[Descriptor] {
        &self.images
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read>> {
        self.source.reader(&blob_name(digest)).map_err(|e| match (e, &self.since) {
            (Error::NotFound(_), Some(since)) => Error::NotFound(format!(
                "{digest} is left out, as it was in the bundle {since}, and it is not here"
            )),
            (other, _) => other,
        })
    }

    fn manifest(&self, found: &Descriptor) -> Result<Manifest> {
        let bytes = exactly(found, &|digest| self.open_blob(digest))?;
        plain(Document::parse(&bytes, Some(&found.media_type))?, &found.digest)
    }

    /// All blobs of its images, those that it left out itself included.
    fn held(&self) -> Result<BTreeSet<Digest>> {
        let mut all = BTreeSet::new();
        for image in &self.images {
            all.extend(blobs_of(&self.manifest(image)?)?.iter().map(|b| b.digest));
        }
        Ok(all)
    }

    /// Copies an image into a store, if the bundle has it; each blob is held against digest and size. What the store has
    /// already is not read again. `read` is told how many bytes came.
    ///
    /// # Errors
    /// `digest_mismatch`; [`Error::NotFound`] for a blob that neither bundle nor store has; what cannot be read or written.
    pub fn take(
        &self,
        manifest: &Digest,
        store: &Store,
        read: &Rc<dyn Fn(u64)>,
    ) -> Result<Option<ImportedImage>> {
        let Some(found) = self.images.iter().find(|d| d.digest == *manifest) else { return Ok(None) };
        let open: Open<'_> =
            &|digest| Ok(Box::new(Telling { inner: self.open_blob(digest)?, read: read.clone() }));
        take_manifest(store, found, None, open).map(Some)
    }

    /// Bytes of an image of the bundle that the store does not have yet, as its manifest says.
    ///
    /// # Errors
    /// As [`Self::take`]: also for a blob that would be missing, before anything was copied.
    pub fn missing(&self, manifest: &Digest, store: &Store) -> Result<u64> {
        let Some(found) = self.images.iter().find(|d| d.digest == *manifest) else { return Ok(0) };
        let mut missing = 0_u64;
        for blob in blobs_of(&self.manifest(found)?)?.iter().filter(|b| store.size(&b.digest) != Some(b.size))
        {
            self.open_blob(&blob.digest)?;
            missing = missing.saturating_add(blob.size);
        }
        Ok(missing)
    }

    /// Reads every blob that the bundle has of an image and holds it against its digest; those that it left out.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn check(&self, found: &Descriptor) -> Result<Vec<Digest>> {
        let mut absent = Vec::new();
        for blob in blobs_of(&self.manifest(found)?)? {
            let reader = match self.open_blob(&blob.digest) {
                Err(Error::NotFound(_)) if self.since.is_some() => {
                    absent.push(blob.digest);
                    continue;
                }
                other => other?,
            };
            let mut hashing = Hashing::new(reader.take(blob.size.saturating_add(1)));
            let size = io::copy(&mut hashing, &mut io::sink());
            let size = size.context(|| format!("cannot read {}", blob.digest))?;
            let is = hashing.finish();
            if (is, size) != (blob.digest, blob.size) {
                let detail = format!("expected {} of {} bytes, got {is} of {size}", blob.digest, blob.size);
                return Err(Error::refused(Code::DigestMismatch, detail));
            }
        }
        Ok(absent)
    }
}

/// Tells of every byte that is read.
struct Telling {
    inner: Box<dyn Read>,
    read: Rc<dyn Fn(u64)>,
}

impl Read for Telling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.read)(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::import_module;
    use std::cell::Cell;

    fn quiet() -> Rc<dyn Fn(u64)> {
        Rc::new(|_| ())
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("blobs")).unwrap();
        (dir, store)
    }

    fn documents() -> Vec<SignedDocument> {
        let of = |t: &str| SignedDocument { title: t.to_owned(), envelope: t.repeat(3).into_bytes() };
        vec![of("root 1"), of("snapshot 4"), of("deployment app")]
    }

    fn written(store: &Store, images: &[(Digest, String)]) -> Vec<u8> {
        let mut out = Vec::new();
        let contents = Contents { documents: &documents(), images, since: None };
        write(&contents, store, &mut out).unwrap();
        out
    }

    #[test]
    fn a_bundle_is_a_layout_with_its_documents_and_comes_out_as_it_went_in() {
        let (dir, own) = store();
        let image = import_module(&own, b"\0asm\x01\0\0\0", Some("app.wasm")).unwrap().manifest.digest;
        let bytes = written(&own, &[(image, "app:1".to_owned())]);
        assert_eq!(bytes, written(&own, &[(image, "app:1".to_owned())]), "the same bytes each time");
        let path = dir.path().join("app.shoal");
        std::fs::write(&path, &bytes).unwrap();

        let (_other, device) = store();
        let bundle = Bundle::open(&path, device.root()).unwrap();
        assert_eq!(bundle.documents(), documents());
        assert_eq!(bundle.images().len(), 1);
        assert!(bundle.missing(&image, &device).unwrap() > 8);
        let read = Rc::new(Cell::new(0));
        let count = read.clone();
        let tell: Rc<dyn Fn(u64)> = Rc::new(move |n| count.set(count.get() + n));
        assert_eq!(bundle.take(&image, &device, &tell).unwrap().unwrap().manifest.digest, image);
        assert!(read.get() > 8, "it says how much was read");
        assert_eq!(bundle.missing(&image, &device).unwrap(), 0);
        assert_eq!(bundle.take(&Digest::of(b"another"), &device, &quiet()).unwrap(), None);
    }

    #[test]
    fn f5_a_bundle_cut_short_anywhere_gives_nothing_half() {
        let (dir, own) = store();
        let image = import_module(&own, b"\0asm\x01\0\0\0", None).unwrap().manifest.digest;
        let bytes = written(&own, &[(image, "app:1".to_owned())]);
        let path = dir.path().join("app.shoal");
        // The last kilobyte is a tar's end mark, which says nothing.
        for end in (0..bytes.len() - 1024).step_by(257) {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let (_other, device) = store();
            let taken = Bundle::open(&path, device.root()).and_then(|b| b.take(&image, &device, &quiet()));
            assert!(taken.is_err(), "cut at {end}");
            assert_eq!(device.size(&image), None, "no manifest without all that it names");
        }
    }

    #[test]
    fn f5_other_bytes_under_a_digest_are_refused() {
        let (dir, own) = store();
        let bytes = written(&own, &[]);
        let at = bytes.windows(18).position(|w| w == b"snapshot 4snapshot").unwrap();
        let mut other = bytes.clone();
        other[at] = b'S';
        let path = dir.path().join("app.shoal");
        std::fs::write(&path, other).unwrap();
        let Err(Error::Refused { code, .. }) = Bundle::open(&path, own.root()) else { panic!("taken") };
        assert_eq!(code, Code::DigestMismatch);
    }

    #[test]
    fn an_image_without_documents_is_no_bundle() {
        let (dir, own) = store();
        let image = import_module(&own, b"\0asm\x01\0\0\0", None).unwrap().manifest.digest;
        let mut out = Vec::new();
        crate::layout::export_archive(&own, &image, None, &mut out).unwrap();
        let path = dir.path().join("image.tar");
        std::fs::write(&path, out).unwrap();
        let Err(Error::Refused { detail, .. }) = Bundle::open(&path, own.root()) else { panic!("taken") };
        assert!(detail.contains("no bundle"), "{detail}");
    }

    #[test]
    fn f5_a_bundle_since_another_needs_what_that_one_had_and_says_so() {
        let (dir, own) = store();
        let old = import_module(&own, b"\0asm\x01\0\0\0", Some("old.wasm")).unwrap().manifest.digest;
        let new = import_module(&own, b"\0asm\x01\0\0\0\0\x01\0", Some("new.wasm")).unwrap().manifest.digest;
        let (first, second) = (dir.path().join("first.shoal"), dir.path().join("second.shoal"));
        std::fs::write(&first, written(&own, &[(old, "app:1".to_owned())])).unwrap();
        let before = Bundle::open(&first, own.root()).unwrap();
        let images = [(old, "app:1".to_owned()), (new, "app:2".to_owned())];
        let contents = Contents { documents: &documents(), images: &images, since: Some(&before) };
        let mut out = Vec::new();
        write(&contents, &own, &mut out).unwrap();
        std::fs::write(&second, out).unwrap();

        let bundle = Bundle::open(&second, own.root()).unwrap();
        assert_eq!(bundle.since(), Some(before.digest().to_string().as_str()));
        let absent: usize = bundle.images().iter().map(|i| bundle.check(i).unwrap().len()).sum();
        assert!(absent >= 2, "module and configuration of the old one");
        let (_a, fresh) = store();
        let Err(Error::NotFound(what)) = bundle.missing(&old, &fresh) else { panic!("taken") };
        assert!(what.contains("left out") && what.contains(&before.digest().to_string()), "{what}");
        assert!(bundle.take(&old, &fresh, &quiet()).is_err());
        before.take(&old, &fresh, &quiet()).unwrap();
        assert_eq!(bundle.missing(&old, &fresh).unwrap(), 0);
        assert!(bundle.take(&new, &fresh, &quiet()).unwrap().is_some());
    }
}
