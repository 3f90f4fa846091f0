//! Manifests and indexes (OCI image-spec 1.1, and Docker's schema 2): parsing and choosing, from bytes. Pure.

use crate::error::{Error, Result};
use crate::limits;
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A reference to bytes by their digest (OCI image-spec 1.1, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest; only SHA-256 is taken.
    #[serde(with = "digest_text")]
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Other places to fetch them from; refused when there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Of bytes known by digest and size.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, urls: Vec::new(), annotations: BTreeMap::new(), platform: None }
    }
}

/// What a manifest of an index is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `wasi`, `wasip1`, `linux` …
    pub os: String,
    /// `wasm`, `amd64` …
    pub architecture: String,
    /// Of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// As the document names itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact it is, when it is no container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// Its contents, lowest first.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index: several manifests, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// As the document names itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
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
            let index: Index = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
            capped("manifests", index.manifests.len(), limits::MANIFESTS)?;
            Ok(Self::Index(index))
        } else {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| malformed(&e))?;
            capped("layers", manifest.layers.len(), limits::LAYERS)?;
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                if !blob.urls.is_empty() {
                    return Err(Error::refused(
                        Code::UnsupportedValue,
                        format!("{} lies at foreign urls, which are never fetched", blob.digest),
                    ));
                }
                if blob.size > limits::BLOB {
                    let detail =
                        format!("{} has {} bytes, the limit is {}", blob.digest, blob.size, limits::BLOB);
                    return Err(Error::refused(Code::TooLarge, detail));
                }
            }
            Ok(Self::Manifest(Box::new(manifest)))
        }
    }
}

/// The manifest of an index that a wasm engine should run: one for wasm before one for Linux that may hold a module (as
/// the first images with wasm in them did), attestations never.
pub fn select_platform(index: &Index) -> Result<&Descriptor> {
    let rank = |d: &Descriptor| match d.platform.as_ref().map(|p| (p.os.as_str(), p.architecture.as_str())) {
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

fn malformed(e: &serde_json::Error) -> Error {
    Error::refused(Code::Malformed, format!("the manifest is not readable: {e}"))
}

fn capped(what: &str, count: usize, limit: usize) -> Result<()> {
    if count > limit {
        return Err(Error::refused(Code::TooLarge, format!("{count} {what}, the limit is {limit}")));
    }
    Ok(())
}

/// Digests as `sha256:<hex>` text, as JSON documents have them.
pub(crate) mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use shoal_protocol::ids::Digest;

    pub(crate) fn serialize<S: Serializer>(d: &Digest, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(d)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}
