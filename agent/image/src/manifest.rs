//! Manifests and indexes (OCI image-spec 1.1, and Docker's schema 2): parsing and choosing, from bytes. Pure.
//!
//! JSON is read into `oci-client`'s types; what is handed on has real digests, sizes within the caps and no foreign urls.

use crate::error::{Error, Result};
use crate::limits;
use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageIndex, OciImageManifest};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;

pub use oci_client::manifest::Platform;
pub(crate) use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE as OCI_CONFIG, IMAGE_MANIFEST_LIST_MEDIA_TYPE as DOCKER_INDEX,
    IMAGE_MANIFEST_MEDIA_TYPE as DOCKER_MANIFEST, OCI_IMAGE_INDEX_MEDIA_TYPE as OCI_INDEX,
    OCI_IMAGE_MEDIA_TYPE as OCI_MANIFEST,
};

/// A reference to bytes by their digest (OCI image-spec 1.1, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "ImageIndexEntry")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest; only SHA-256 is taken.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Notes.
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Of bytes known by digest and size.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new(), platform: None }
    }

    /// Of a manifest's configuration or layer.
    fn of_blob(d: OciDescriptor) -> Result<Self> {
        if d.urls.is_some_and(|urls| !urls.is_empty()) {
            let detail = format!("{} lies at foreign urls, which are never fetched", d.digest);
            return Err(Error::refused(Code::UnsupportedValue, detail));
        }
        let blob = Self::checked(d.media_type, &d.digest, d.size, d.annotations, None)?;
        if blob.size > limits::BLOB {
            let detail = format!("{} has {} bytes, the limit is {}", blob.digest, blob.size, limits::BLOB);
            return Err(Error::refused(Code::TooLarge, detail));
        }
        Ok(blob)
    }

    /// Of an index.
    fn of_entry(d: ImageIndexEntry) -> Result<Self> {
        Self::checked(d.media_type, &d.digest, d.size, d.annotations, d.platform)
    }

    fn checked(
        media_type: String,
        digest: &str,
        size: i64,
        annotations: Option<BTreeMap<String, String>>,
        platform: Option<Platform>,
    ) -> Result<Self> {
        Ok(Self {
            media_type,
            digest: digest.parse().map_err(|e| malformed(&e))?,
            size: size.try_into().map_err(|e| malformed(&e))?,
            annotations: annotations.unwrap_or_default(),
            platform,
        })
    }
}

impl From<Descriptor> for ImageIndexEntry {
    fn from(d: Descriptor) -> Self {
        Self {
            media_type: d.media_type,
            digest: d.digest.to_string(),
            size: d.size.try_into().unwrap_or(i64::MAX),
            platform: d.platform,
            annotations: Some(d.annotations).filter(|a| !a.is_empty()),
            artifact_type: None,
        }
    }
}

impl From<Descriptor> for OciDescriptor {
    fn from(d: Descriptor) -> Self {
        let entry = ImageIndexEntry::from(d);
        Self {
            media_type: entry.media_type,
            digest: entry.digest,
            size: entry.size,
            annotations: entry.annotations,
            ..Self::default()
        }
    }
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "OciImageManifest")]
pub struct Manifest {
    /// As the document names itself.
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// Its contents, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    pub annotations: BTreeMap<String, String>,
}

impl From<Manifest> for OciImageManifest {
    fn from(m: Manifest) -> Self {
        Self {
            media_type: m.media_type,
            config: m.config.into(),
            layers: m.layers.into_iter().map(Into::into).collect(),
            annotations: Some(m.annotations).filter(|a| !a.is_empty()),
            ..Self::default()
        }
    }
}

/// An index: several manifests, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "OciImageIndex")]
pub struct Index {
    /// As the document names itself.
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

impl From<Index> for OciImageIndex {
    fn from(index: Index) -> Self {
        Self {
            schema_version: 2,
            media_type: index.media_type,
            manifests: index.manifests.into_iter().map(Into::into).collect(),
            artifact_type: None,
            annotations: None,
        }
    }
}

/// What the bytes under an image's name are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// A choice of images.
    Index(Index),
}

impl Document {
    /// Reads a document. `served_as` is the media type under which it came, from a descriptor or a registry's header.
    pub fn parse(bytes: &[u8], served_as: Option<&str>) -> Result<Self> {
        if bytes.len() as u64 > limits::DOCUMENT {
            return Err(Error::refused(
                Code::TooLarge,
                format!("a manifest of {} bytes, the limit is {}", bytes.len(), limits::DOCUMENT),
            ));
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
        let is_index = shape.manifests.is_some();
        let is_manifest = shape.layers.is_some() || shape.config.is_some();
        let named = [shape.media_type.as_deref(), served_as.map(essence)];
        let claims_index = named.iter().flatten().any(|m| [OCI_INDEX, DOCKER_INDEX].contains(m));
        let claims_manifest = named.iter().flatten().any(|m| [OCI_MANIFEST, DOCKER_MANIFEST].contains(m));
        if (is_index || claims_index) && (is_manifest || claims_manifest) {
            return Err(Error::refused(
                Code::AmbiguousManifest,
                "the document is a manifest and an index at once: two readers would see two images",
            ));
        }
        if shape.schema_version != Some(2) {
            return Err(Error::refused(
                Code::UnsupportedValue,
                "schemaVersion is not 2: push the image again with a current tool",
            ));
        }
        if is_index {
            let index: OciImageIndex = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
            capped("manifests", index.manifests.len(), limits::MANIFESTS)?;
            let manifests = index.manifests.into_iter().map(Descriptor::of_entry).collect::<Result<_>>()?;
            Ok(Self::Index(Index { media_type: index.media_type, manifests }))
        } else {
            let manifest: OciImageManifest = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
            capped("layers", manifest.layers.len(), limits::LAYERS)?;
            Ok(Self::Manifest(Box::new(Manifest {
                media_type: manifest.media_type,
                config: Descriptor::of_blob(manifest.config)?,
                layers: manifest.layers.into_iter().map(Descriptor::of_blob).collect::<Result<_>>()?,
                annotations: manifest.annotations.unwrap_or_default(),
            })))
        }
    }
}

/// The manifest of an index that a wasm engine should run: one for wasm before one for Linux that may hold a module (as
/// the first images with wasm in them did), attestations never.
pub fn select_platform(index: &Index) -> Result<&Descriptor> {
    let named = |p: &Platform| (p.os.to_string(), p.architecture.to_string());
    let rank = |d: &Descriptor| match d.platform.as_ref().map(named).as_ref().map(|(o, a)| (&**o, &**a)) {
        Some(("wasip1" | "wasi", "wasm" | "wasm32")) => Some(0),
        Some((_, "wasm" | "wasm32")) => Some(1),
        None => Some(2),
        Some(("unknown", _) | (_, "unknown")) => None,
        Some(("linux", "amd64")) => Some(3),
        Some(("linux", _)) => Some(4),
        Some(_) => None,
    };
    let attestation = |d: &Descriptor| d.annotations.contains_key("vnd.docker.reference.type");
    let is_image = |d: &Descriptor| [OCI_MANIFEST, DOCKER_MANIFEST].contains(&d.media_type.as_str());
    index
        .manifests
        .iter()
        .filter(|d| is_image(d) && !attestation(d))
        .filter_map(|d| rank(d).map(|r| (r, d)))
        .min_by_key(|(r, _)| *r)
        .map(|(_, d)| d)
        .ok_or_else(|| {
            let offered: Vec<String> = index
                .manifests
                .iter()
                .filter_map(|d| d.platform.as_ref().map(|p| format!("{}/{}", p.os, p.architecture)))
                .take(8)
                .collect();
            Error::refused(
                Code::NotWasm,
                format!("the index has no image for wasm; it offers [{}]", offered.join(", ")),
            )
        })
}

/// Just enough of a document to see what it claims to be.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn malformed(e: &dyn std::error::Error) -> Error {
    Error::refused(Code::Malformed, format!("the manifest is not readable: {e}"))
}

fn capped(what: &str, count: usize, limit: usize) -> Result<()> {
    if count > limit {
        return Err(Error::refused(Code::TooLarge, format!("{count} {what}, the limit is {limit}")));
    }
    Ok(())
}
