//! Images from and to files: OCI image layouts, oci-archives, Docker's archives and bare modules.
//!
//! All become OCI manifests in the store, the same bytes each time they are imported.

use crate::archive::Source;
use crate::compression;
use crate::error::{Context as _, Error, Result};
use crate::image::blobs_of;
use crate::index::{FULL_NAME, REF_NAME, index_of, new_index};
use crate::limits;
use crate::manifest::{Descriptor, Document, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, select_platform};
use crate::path;
use crate::store::{Expect, Store};
use serde::Deserialize;
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const WASM_LAYER: &str = "application/wasm";
const TITLE: &str = "org.opencontainers.image.title";

/// An image that is whole in the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// Its name where it came from, when it had one: often a whole reference, sometimes only a tag.
    pub reference: Option<String>,
    /// Its manifest, never an index.
    pub manifest: Descriptor,
    /// The bytes of the manifest and all it names.
    pub size: u64,
}

/// Imports every image in `path`: a layout folder, an oci-archive, a docker-archive (each packed or not) or a `.wasm`.
///
/// Naming them in the store (see [`crate::tag`]) is the caller's part.
pub fn import(store: &Store, path: &Path) -> Result<Vec<ImportedImage>> {
    if let Some(module) = bare_module(path)? {
        let title = path.file_name().map(|n| n.to_string_lossy().into_owned());
        return Ok(vec![import_module(store, &module, title.as_deref())?]);
    }
    let source = Source::open(path, store.root())?;
    let images = if source.has("/index.json") {
        from_layout(store, &source)
    } else if source.has("/manifest.json") {
        from_docker(store, &source)
    } else {
        Err(Error::refused(
            Code::Malformed,
            "neither an index.json (OCI) nor a manifest.json (Docker) is in it",
        ))
    };
    images.map_err(|e| match e {
        Error::Refused { code, detail } => Error::refused(code, format!("{}: {detail}", path.display())),
        Error::NotFound(what) => Error::refused(Code::Malformed, format!("{}: {what}", path.display())),
        other => other,
    })
}

/// Makes an image of a bare module: the CNCF wasm artifact, with `title` as its file's name.
pub fn import_module(store: &Store, module: &[u8], title: Option<&str>) -> Result<ImportedImage> {
    let mut layer = Descriptor::of(WASM_LAYER, module);
    if let Some(title) = title.filter(|t| path::of_entry(t.as_bytes()).is_ok_and(|p| p.is_some())) {
        layer.annotations.insert(TITLE.to_owned(), title.to_owned());
    }
    let config = format!(r#"{{"architecture":"wasm","os":"wasip1","layerDigests":["{}"]}}"#, layer.digest);
    store.put(module)?;
    store.put(config.as_bytes())?;
    keep_manifest(store, Descriptor::of(WASM_CONFIG, config.as_bytes()), vec![layer], None)
}

/// Copies an image and all it names from one store to another.
pub fn copy(from: &Store, to: &Store, manifest: &Digest) -> Result<ImportedImage> {
    let descriptor = described(from, manifest)?;
    take_manifest(to, &descriptor, None, &|digest| Ok(Box::new(from.open_blob(digest)?)))
}

/// Writes an image as an oci-archive: the same bytes for the same image and name.
pub fn export_archive(
    store: &Store,
    manifest: &Digest,
    name: Option<&str>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut descriptor = described(store, manifest)?;
    let bytes = store.read(manifest, limits::DOCUMENT)?;
    let Document::Manifest(parsed) = Document::parse(&bytes, None)? else {
        return Err(Error::refused(Code::AmbiguousManifest, format!("{manifest} is an index")));
    };
    if let Some(name) = name {
        descriptor.annotations.insert(REF_NAME.to_owned(), name.to_owned());
    }
    let mut blobs: BTreeMap<Digest, u64> = blobs_of(&parsed)?.iter().map(|b| (b.digest, b.size)).collect();
    blobs.insert(*manifest, bytes.len() as u64);
    write_layout(vec![descriptor], &blobs, &|digest| Ok(Box::new(store.open_blob(digest)?)), out)
}

/// Writes a layout as a tar: the same bytes for the same contents.
pub(crate) fn write_layout(
    manifests: Vec<Descriptor>,
    blobs: &BTreeMap<Digest, u64>,
    open: Open<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let mut archive = tar::Builder::new(out);
    let mut add = |path: &str, size: u64, contents: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive
            .append_data(&mut header, path, contents)
            .context(|| format!("cannot write {path} to the archive"))
    };
    let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add("oci-layout", marker.len() as u64, &mut &marker[..])?;
    let index = to_json(&new_index(manifests))?;
    add("index.json", index.len() as u64, &mut &index[..])?;
    for (digest, size) in blobs {
        add(&blob_name(digest)[1..], *size, &mut open(digest)?.take(*size))?;
    }
    archive.finish().context(|| "cannot write the archive's end".to_owned())
}

pub(crate) type Open<'a> = &'a dyn Fn(&Digest) -> Result<Box<dyn Read>>;

fn from_layout(store: &Store, source: &Source) -> Result<Vec<ImportedImage>> {
    let index = index_of(&source.document("/index.json")?)?;
    let open = |digest: &Digest| source.reader(&blob_name(digest));
    // Several manifests under one name, or without any, are one image's platforms.
    let mut by_name: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for mut d in index.manifests {
        let full = d.annotations.remove(FULL_NAME);
        let short = d.annotations.remove(REF_NAME);
        let name = full.or(short).or_else(|| d.platform.is_none().then(|| d.digest.to_string()));
        by_name.entry(name).or_default().push(d);
    }
    if by_name.len() > limits::IMAGES {
        return Err(Error::refused(Code::TooLarge, format!("more than {} images", limits::IMAGES)));
    }
    let mut out = Vec::new();
    for (name, choices) in by_name {
        let name = name.filter(|n| n.parse::<Digest>().is_err());
        let chosen = match choices.as_slice() {
            [only] => only.clone(),
            _ => select_platform(&new_index(choices))?.clone(),
        };
        let manifest = if is_index(&chosen) {
            let inner = index_of(&exactly(&chosen, &open)?)?;
            select_platform(&inner)?.clone()
        } else {
            chosen
        };
        out.push(take_manifest(store, &manifest, name, &open)?);
    }
    Ok(out)
}

fn is_index(d: &Descriptor) -> bool {
    d.media_type == OCI_INDEX || d.media_type == crate::manifest::DOCKER_INDEX
}

/// Takes a manifest and all it names, each checked against its digest.
pub(crate) fn take_manifest(
    store: &Store,
    d: &Descriptor,
    name: Option<String>,
    open: Open<'_>,
) -> Result<ImportedImage> {
    let bytes = exactly(d, open)?;
    let Document::Manifest(manifest) = Document::parse(&bytes, Some(&d.media_type))? else {
        return Err(Error::refused(
            Code::AmbiguousManifest,
            format!("{} is an index inside an index", d.digest),
        ));
    };
    let mut size = bytes.len() as u64;
    for blob in blobs_of(&manifest)? {
        size += blob.size;
        if store.size(&blob.digest) != Some(blob.size) {
            let expect = Expect::Exactly { digest: blob.digest, size: blob.size };
            store.put_from(&mut open(&blob.digest)?, expect)?;
        }
    }
    store.put(&bytes)?;
    Ok(ImportedImage { reference: name, manifest: Descriptor::new(&d.media_type, d.digest, d.size), size })
}

pub(crate) fn exactly(d: &Descriptor, open: Open<'_>) -> Result<Vec<u8>> {
    if d.size > limits::DOCUMENT {
        return Err(Error::refused(Code::TooLarge, format!("a manifest of {} bytes", d.size)));
    }
    let mut bytes = Vec::new();
    open(&d.digest)?
        .take(d.size + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("cannot read {}", d.digest))?;
    let found = Digest::of(&bytes);
    if found != d.digest || bytes.len() as u64 != d.size {
        return Err(Error::refused(Code::DigestMismatch, format!("expected {}, got {found}", d.digest)));
    }
    Ok(bytes)
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("/blobs/sha256/{}", digest.hex())
}

/// One image of a `docker save` (its `manifest.json`).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn from_docker(store: &Store, source: &Source) -> Result<Vec<ImportedImage>> {
    let malformed = |e: serde_json::Error| Error::refused(Code::Malformed, format!("manifest.json: {e}"));
    let saved: Vec<Saved> = serde_json::from_slice(&source.document("/manifest.json")?).map_err(malformed)?;
    if saved.len() > limits::IMAGES {
        return Err(Error::refused(Code::TooLarge, format!("more than {} images", limits::IMAGES)));
    }
    let member = |name: &str| {
        path::of_entry(name.as_bytes())?
            .ok_or_else(|| Error::refused(Code::Malformed, "manifest.json names no file".to_owned()))
    };
    let mut out = Vec::new();
    for image in saved {
        if image.layers.len() > limits::LAYERS {
            return Err(Error::refused(Code::TooLarge, format!("{} layers", image.layers.len())));
        }
        let config = source.document(&member(&image.config)?)?;
        store.put(&config)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let mut reader = source.reader(&member(layer)?)?;
            let mut head = Vec::new();
            reader.by_ref().take(4).read_to_end(&mut head).context(|| format!("cannot read {layer}"))?;
            let kind = format!("application/vnd.oci.image.layer.v1.tar{}", compression::suffix(&head));
            let (digest, size) = store.put_from(&mut head.chain(reader), Expect::AtMost(limits::BLOB))?;
            layers.push(Descriptor::new(&kind, digest, size));
        }
        let imported = keep_manifest(store, Descriptor::of(OCI_CONFIG, &config), layers, None)?;
        match image.repo_tags.filter(|t| !t.is_empty()) {
            None => out.push(imported),
            Some(tags) => {
                out.extend(
                    tags.into_iter().map(|t| ImportedImage { reference: Some(t), ..imported.clone() }),
                );
            }
        }
    }
    Ok(out)
}

/// Writes the manifest of what is in the store already.
fn keep_manifest(
    store: &Store,
    config: Descriptor,
    layers: Vec<Descriptor>,
    reference: Option<String>,
) -> Result<ImportedImage> {
    let media_type = Some(OCI_MANIFEST.to_owned());
    let manifest = Manifest { media_type, config, layers, annotations: BTreeMap::new() };
    let bytes = to_json(&manifest)?;
    let size = bytes.len() as u64 + blobs_of(&manifest)?.iter().map(|b| b.size).sum::<u64>();
    store.put(&bytes)?;
    Ok(ImportedImage { reference, manifest: Descriptor::of(OCI_MANIFEST, &bytes), size })
}

/// A manifest in the store as a descriptor, with the media type that it names itself.
pub(crate) fn described(store: &Store, manifest: &Digest) -> Result<Descriptor> {
    let bytes = store.read(manifest, limits::DOCUMENT)?;
    let kind = match Document::parse(&bytes, None)? {
        Document::Manifest(m) => m.media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned()),
        Document::Index(_) => OCI_INDEX.to_owned(),
    };
    Ok(Descriptor::of(&kind, &bytes))
}

/// The bytes of `path` when they are a wasm binary.
fn bare_module(path: &Path) -> Result<Option<Vec<u8>>> {
    let what = || format!("cannot read {}", path.display());
    let metadata = std::fs::metadata(path).context(what)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut file = File::open(path).context(what)?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut bytes).context(what)?;
    if bytes != b"\0asm" {
        return Ok(None);
    }
    file.take(limits::MODULE - 3).read_to_end(&mut bytes).context(what)?;
    if bytes.len() as u64 > limits::MODULE {
        let detail = format!("{} has more than {} bytes", path.display(), limits::MODULE);
        return Err(Error::refused(Code::TooLarge, detail));
    }
    Ok(Some(bytes))
}

pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other).context(|| "cannot write JSON".to_owned())
}
