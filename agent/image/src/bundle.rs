//! A bundle: what a device without a network is given on a stick. One OCI image layout in a tar, with the signed documents
//! beside the images, as an artifact of their own.
//!
//! Any tool that copies layouts carries it. Nothing here verifies a signature: admission does, as with what comes by MQTT.

use crate::archive::Source;
use crate::error::{Error, Result};
use crate::image::blobs_of;
use crate::index::{REF_NAME, index_of};
use crate::layout::{
    ImportedImage, Open, blob_name, described, exactly, take_manifest, to_json, write_layout,
};
use crate::limits;
use crate::manifest::{Descriptor, Document, Manifest, OCI_MANIFEST};
use crate::store::Store;
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

/// What the artifact is: its configuration's media type, as OCI image-spec 1.1 has it (manifest.md, `artifactType`).
pub const ARTIFACT_TYPE: &str = "application/vnd.shoal.bundle.v1+json";
/// One signed document in it.
pub const DOCUMENT_TYPE: &str = "application/vnd.shoal.document.v1+cose";
/// What the artifact is called in the layout.
const NAME: &str = "shoal-bundle";
const TITLE: &str = "org.opencontainers.image.title";
/// Documents of one bundle.
const DOCUMENTS: usize = limits::LAYERS;

/// A signed document on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDocument {
    /// What a reader is told that it is.
    pub title: String,
    /// Its envelope, exactly as it was signed.
    pub envelope: Vec<u8>,
}

/// Writes a bundle of these documents and images: the same bytes for the same contents.
///
/// # Errors
/// `too_large` for more documents than a bundle has; what the store lacks; what cannot be written.
pub fn write(
    documents: &[SignedDocument],
    images: &[(Digest, String)],
    store: &Store,
    out: &mut dyn Write,
) -> Result<()> {
    if documents.len() > DOCUMENTS {
        let detail = format!("{} documents, a bundle has {DOCUMENTS} at most", documents.len());
        return Err(Error::refused(Code::TooLarge, detail));
    }
    let mut own: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    let mut keep = |media_type: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::of(media_type, &bytes);
        own.insert(descriptor.digest, bytes);
        descriptor
    };
    let config = keep(ARTIFACT_TYPE, b"{}".to_vec());
    let mut layers = Vec::new();
    for document in documents {
        let mut layer = keep(DOCUMENT_TYPE, document.envelope.clone());
        layer.annotations.insert(TITLE.to_owned(), document.title.clone());
        layers.push(layer);
    }
    let media_type = Some(OCI_MANIFEST.to_owned());
    let manifest = Manifest { media_type, config, layers, annotations: BTreeMap::new() };
    let mut artifact = keep(OCI_MANIFEST, to_json(&manifest)?);
    artifact.annotations.insert(REF_NAME.to_owned(), NAME.to_owned());

    let mut blobs: BTreeMap<Digest, u64> = own.iter().map(|(d, b)| (*d, b.len() as u64)).collect();
    let mut manifests = vec![artifact];
    for (digest, name) in images {
        let mut descriptor = described(store, digest)?;
        let parsed = Document::parse(&store.read(digest, limits::DOCUMENT)?, None)?;
        blobs.extend(blobs_of(&plain(parsed, digest)?)?.iter().map(|b| (b.digest, b.size)));
        blobs.insert(descriptor.digest, descriptor.size);
        descriptor.annotations.insert(REF_NAME.to_owned(), name.clone());
        manifests.push(descriptor);
    }
    let open: Open<'_> = &|digest| match own.get(digest) {
        Some(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
        None => Ok(Box::new(store.open_blob(digest)?)),
    };
    write_layout(manifests, &blobs, open, out)
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
    documents: Vec<SignedDocument>,
    images: Vec<Descriptor>,
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
        let index = index_of(&source.document("/index.json")?)?;
        if index.manifests.len() > limits::IMAGES {
            return Err(Error::refused(Code::TooLarge, format!("more than {} images", limits::IMAGES)));
        }
        let (mut documents, mut images) = (None, Vec::new());
        for entry in index.manifests {
            let open: Open<'_> = &|digest| source.reader(&blob_name(digest));
            let bytes = exactly(&entry, open)?;
            let artifact = match Document::parse(&bytes, Some(&entry.media_type))? {
                Document::Manifest(m) if m.config.media_type == ARTIFACT_TYPE => m,
                _ => {
                    images.push(entry);
                    continue;
                }
            };
            if documents.is_some() || artifact.layers.len() > DOCUMENTS {
                let detail = "it has two sets of documents, or more of them than a bundle may have";
                return Err(Error::refused(Code::Malformed, detail));
            }
            let mut read = Vec::new();
            for mut layer in artifact.layers {
                let envelope = exactly(&layer, open)?;
                read.push(SignedDocument {
                    title: layer.annotations.remove(TITLE).unwrap_or_default(),
                    envelope,
                });
            }
            documents = Some(read);
        }
        let none =
            || Error::refused(Code::Malformed, "it is an image layout without signed documents: no bundle");
        Ok(Self { documents: documents.ok_or_else(none)?, source, images })
    }

    /// The documents, as they stand.
    pub fn documents(&self) -> &[SignedDocument] {
        &self.documents
    }

    /// The images' manifests.
    pub fn images(&self) -> &[Descriptor] {
        &self.images
    }

    /// Copies an image into a store, if the bundle has it; each blob is held against digest and size.
    ///
    /// # Errors
    /// `digest_mismatch`, `malformed` for a blob that the bundle lacks; what cannot be read or written.
    pub fn take(&self, manifest: &Digest, store: &Store) -> Result<Option<ImportedImage>> {
        let Some(found) = self.images.iter().find(|d| d.digest == *manifest) else { return Ok(None) };
        take_manifest(store, found, None, &|digest| self.source.reader(&blob_name(digest))).map(Some)
    }

    /// Bytes of an image of the bundle that the store does not have yet, as its manifest says.
    ///
    /// # Errors
    /// As [`Self::take`] for the manifest.
    pub fn missing(&self, manifest: &Digest, store: &Store) -> Result<u64> {
        let Some(found) = self.images.iter().find(|d| d.digest == *manifest) else { return Ok(0) };
        let bytes = exactly(found, &|digest| self.source.reader(&blob_name(digest)))?;
        let image = plain(Document::parse(&bytes, Some(&found.media_type))?, manifest)?;
        let blobs = blobs_of(&image)?;
        Ok(blobs.iter().filter(|b| store.size(&b.digest) != Some(b.size)).map(|b| b.size).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::import_module;

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
        write(&documents(), images, store, &mut out).unwrap();
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
        assert_eq!(bundle.take(&image, &device).unwrap().unwrap().manifest.digest, image);
        assert_eq!(bundle.missing(&image, &device).unwrap(), 0);
        assert_eq!(bundle.take(&Digest::of(b"another"), &device).unwrap(), None);
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
            let taken = Bundle::open(&path, device.root()).and_then(|b| b.take(&image, &device));
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
}
