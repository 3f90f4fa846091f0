//! One image in a store, read whole: its form, its configuration and its files.

use crate::config::ImageConfig;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{Descriptor, Document, Manifest};
use crate::path;
use crate::store::Store;
use crate::unpack::{self, FileEntry, FileTree};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;

/// How an image carries its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Files in tar layers, as any container image.
    Layers,
    /// The module itself as the one layer (CNCF's wasm artifact and the older ones).
    Artifact,
}

/// Layers that are modules.
const MODULE_LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

/// Layers that are tar archives; how they are packed is seen in their bytes.
const TAR_LAYERS: [&str; 7] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/x-tar",
];

/// Under this title an artifact's module stands in the file list when it names none.
const ARTIFACT_PATH: &str = "/module.wasm";

/// An image: what it holds and what it wants.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest's digest; what a deployment pins.
    pub manifest: Digest,
    /// The manifest's bytes.
    pub manifest_size: u64,
    /// How it carries its module.
    pub form: Form,
    /// What it wants to run.
    pub config: ImageConfig,
    /// Its regular files; the store holds their contents under their digests.
    pub files: FileTree,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Image {
    /// Reads an image whose blobs are all in `store`, and unpacks its files into it.
    pub fn load(store: &Store, manifest: &Digest) -> Result<Self> {
        let bytes = store.read(manifest, limits::DOCUMENT)?;
        let Document::Manifest(m) = Document::parse(&bytes, None)? else {
            let detail = format!("{manifest} is an index: name the manifest for wasm in it");
            return Err(Error::refused(Code::AmbiguousManifest, detail));
        };
        if m.config.media_type == crate::release::ARTIFACT_TYPE {
            let detail = format!(
                "{manifest} is a release of the device's own software: nothing to run in a container"
            );
            return Err(Error::refused(Code::NotWasm, detail));
        }
        let (form, config, files) = match classify(&m)? {
            Form::Artifact => {
                let file = artifact_file(store, &m)?;
                (Form::Artifact, ImageConfig::of_artifact(), FileTree::from([(file.path.clone(), file)]))
            }
            Form::Layers => {
                let config = ImageConfig::parse(&read_blob(store, &m.config)?)?;
                let files = unpack::apply(store, &m, &config.diff_ids)?;
                (Form::Layers, config, files)
            }
        };
        let annotations = m.annotations;
        Ok(Self { manifest: *manifest, manifest_size: bytes.len() as u64, form, config, files, annotations })
    }
}

/// The blobs that an image needs beside its manifest, in the order in which they are used.
pub(crate) fn blobs_of(manifest: &Manifest) -> Result<Vec<Descriptor>> {
    let mut out: Vec<Descriptor> = Vec::new();
    let mut total = 0;
    for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
        if out.iter().all(|b| b.digest != blob.digest) {
            total += blob.size;
            out.push(blob.clone());
        }
    }
    if manifest.config.media_type != crate::release::ARTIFACT_TYPE {
        classify(manifest)?;
    }
    if manifest.config.size > limits::DOCUMENT {
        let detail =
            format!("a configuration of {} bytes, the limit is {}", manifest.config.size, limits::DOCUMENT);
        return Err(Error::refused(Code::TooLarge, detail));
    }
    if total > limits::BLOB {
        let detail = format!("the image has {total} bytes, the limit is {}", limits::BLOB);
        return Err(Error::refused(Code::TooLarge, detail));
    }
    Ok(out)
}

fn classify(manifest: &Manifest) -> Result<Form> {
    let is = |kinds: &[&str], d: &Descriptor| kinds.contains(&d.media_type.as_str());
    if manifest.layers.is_empty() {
        return Err(Error::refused(Code::NotWasm, "the image has no layers, so no module"));
    }
    if manifest.layers.iter().all(|l| is(&TAR_LAYERS, l)) {
        return Ok(Form::Layers);
    }
    match manifest.layers.as_slice() {
        [only] if is(&MODULE_LAYERS, only) => Ok(Form::Artifact),
        layers if layers.iter().any(|l| is(&MODULE_LAYERS, l)) => Err(Error::refused(
            Code::UnsupportedValue,
            format!("a wasm artifact with {} layers: exactly one, the module, is run", layers.len()),
        )),
        layers => {
            let strange = layers.iter().find(|l| !is(&TAR_LAYERS, l)).map_or("", |l| l.media_type.as_str());
            Err(Error::refused(
                Code::NotWasm,
                format!("a layer of type {strange:?} is neither a file system layer nor a wasm module"),
            ))
        }
    }
}

fn artifact_file(store: &Store, manifest: &Manifest) -> Result<FileEntry> {
    let layer = &manifest.layers[0];
    let found = store.size(&layer.digest);
    if found != Some(layer.size) {
        return Err(match found {
            None => Error::NotFound(format!("{} is not in {}", layer.digest, store.root().display())),
            Some(n) => Error::refused(
                Code::DigestMismatch,
                format!("{} has {n} bytes, the manifest says {}", layer.digest, layer.size),
            ),
        });
    }
    let title = layer.annotations.get("org.opencontainers.image.title");
    let path = match title.map(|t| path::of_entry(t.as_bytes())).transpose()?.flatten() {
        Some(path) => path,
        None => ARTIFACT_PATH.to_owned(),
    };
    Ok(FileEntry { path, mode: 0o644, size: layer.size, digest: layer.digest })
}

fn read_blob(store: &Store, blob: &Descriptor) -> Result<Vec<u8>> {
    let bytes = store.read(&blob.digest, limits::DOCUMENT)?;
    if bytes.len() as u64 != blob.size {
        let detail = format!("{} has {} bytes, the manifest says {}", blob.digest, bytes.len(), blob.size);
        return Err(Error::refused(Code::DigestMismatch, detail));
    }
    Ok(bytes)
}
