//! Images on the operator's machine: the own OCI layout, the lock file, and copies for the controller.
//!
//! A tag counts only as the own layout or the lock file resolves it. Never here: asking a registry or the controller
//! what a tag means while a deployment is signed.

use crate::api::Client;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::output;
use serde::{Deserialize, Serialize};
use shoal_controller_core::api::ImageAccepted;
use shoal_image::{Document, FileEntry, Form, Image, ImageConfig, ModuleFacts, Reference, Store, Tag};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::collections::BTreeMap;
use std::path::Path;

/// Where lock files are looked for.
pub(crate) const LOCK_FILE: &str = "shoal.lock";

/// An error of the image library as this program's error.
pub(crate) fn image_error(what: &str, e: shoal_image::Error) -> CliError {
    use shoal_image::Error;
    match e {
        Error::Refused { code, detail } => {
            CliError::refused(code.as_str(), format!("{what}: {detail}")).hint(code.hint())
        }
        Error::NotFound(detail) => CliError::usage(format!("{what}: {detail}")),
        Error::Unauthorized(detail) => CliError::credential(format!("{what}: {detail}"))
            .hint("log in to that registry with `docker login` or `podman login`, or set SHOAL_REGISTRY_USER and SHOAL_REGISTRY_PASSWORD"),
        Error::Unavailable(detail) => CliError::unreachable(format!("{what}: {detail}")),
        Error::Io { what: tried, source } => CliError::usage(format!("{what}: {tried}")).because(source),
    }
}

/// The operator's own layout.
pub(crate) fn store(home: &Home) -> Result<Store> {
    Store::open(home.images()).map_err(|e| image_error("cannot open the own image layout", e))
}

/// Parses a reference as an operator writes it.
pub(crate) fn reference(text: &str) -> Result<Reference> {
    text.parse().map_err(|e: shoal_image::Error| CliError::usage(e.to_string()))
}

/// The one name of a reference here: `docker.io/x`, `x` and `x:latest` are the same.
pub(crate) fn canonical(r: &Reference) -> String {
    let host = match r.registry.as_deref() {
        None | Some("docker.io" | "index.docker.io") => String::new(),
        Some(host) => format!("{host}/"),
    };
    format!("{host}{}:{}", r.repository, r.tag_or_latest())
}

/// What a deployment needs to know of an image: from the layout, or from a lock file without the blobs.
#[derive(Debug, Clone)]
pub(crate) struct Pinned {
    /// Manifest, configuration and files.
    pub(crate) image: Image,
    /// What is known of its modules, by digest.
    pub(crate) modules: BTreeMap<Digest, ModuleFacts>,
    /// Why others of its files that look like modules must not run.
    pub(crate) refused: BTreeMap<Digest, (Code, String)>,
    /// Whether the own layout holds its blobs.
    pub(crate) in_layout: bool,
}

/// Finds what a reference is pinned to: the own layout first, then the lock file.
pub(crate) fn pin(store: &Store, lock: &Lock, text: &str) -> Result<Pinned> {
    let r = reference(text)?;
    let name = canonical(&r);
    let tags = shoal_image::tags(store).map_err(|e| image_error("cannot read the own image layout", e))?;
    let tagged = tags.iter().find(|t| t.name == name).map(|t| t.manifest.digest);
    let locked = lock.images.iter().find(|i| i.reference == name || Some(i.manifest) == r.digest);
    if let (Some(own), Some(l)) = (tagged, locked)
        && r.digest.is_none()
        && own != l.manifest
    {
        return Err(CliError::refused(
            Code::DigestMismatch.as_str(),
            format!("{text} is {own} in the own layout and {} in {LOCK_FILE}", l.manifest),
        )
        .hint("decide which one you mean: `shoal image lock` writes the layout's into the lock file"));
    }
    let digest = r.digest.or(tagged);
    if let Some(digest) = digest.filter(|d| store.size(d).is_some()) {
        return load(store, text, &digest);
    }
    if let Some(l) = locked.filter(|l| r.digest.is_none_or(|d| d == l.manifest)) {
        return Ok(l.pinned());
    }
    let what = match r.digest {
        Some(d) => format!("the image {d} is neither in the own layout nor in {LOCK_FILE}"),
        None => format!(
            "the tag {text} is not resolved on this machine, and what a controller or registry says about it is not signed"
        ),
    };
    let near: Vec<&str> = tags.iter().map(|t| t.name.as_str()).take(6).collect();
    let have = if near.is_empty() { "no images yet".to_owned() } else { near.join(", ") };
    Err(CliError::refused(Code::DigestUnpinned.as_str(), what)
        .details(vec![format!("imported here: {have}")])
        .hint(format!(
            "import it with `shoal image import SOURCE {text}`, or pin it with `shoal image lock`"
        )))
}

/// Reads an image of the layout and all its modules.
pub(crate) fn load(store: &Store, what: &str, digest: &Digest) -> Result<Pinned> {
    let image = Image::load(store, digest).map_err(|e| image_error(what, e))?;
    let mut pinned = Pinned { image, modules: BTreeMap::new(), refused: BTreeMap::new(), in_layout: true };
    for file in pinned.image.files.values().filter(|f| f.size <= shoal_image::limits::MODULE) {
        let bytes =
            store.read(&file.digest, shoal_image::limits::MODULE).map_err(|e| image_error(what, e))?;
        // An artifact's only file is a module whatever it is called.
        if pinned.image.form != Form::Artifact && !is_wasm_name(&file.path) && !bytes.starts_with(b"\0asm") {
            continue;
        }
        match shoal_image::inspect(&bytes) {
            Ok(facts) => {
                pinned.modules.insert(file.digest, facts);
            }
            Err(shoal_image::Error::Refused { code, detail }) => {
                pinned.refused.insert(file.digest, (code, detail));
            }
            Err(e) => return Err(image_error(what, e)),
        }
    }
    Ok(pinned)
}

/// Whether a path is called like a module.
pub(crate) fn is_wasm_name(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e.eq_ignore_ascii_case("wasm"))
}

impl Pinned {
    /// What a module may do, or why it must not run.
    pub(crate) fn facts(&self, what: &str, file: &FileEntry) -> Result<&ModuleFacts> {
        let (code, detail) = match (self.modules.get(&file.digest), self.refused.get(&file.digest)) {
            (Some(facts), _) => return Ok(facts),
            (None, Some((code, detail))) => (*code, detail.as_str()),
            (None, None) => (Code::NotWasm, "it is no WebAssembly module"),
        };
        Err(CliError::refused(code.as_str(), format!("{what}: {}: {detail}", file.path)).hint(code.hint()))
    }
}

/// `shoal.lock`: what tags meant when somebody who had the images wrote it down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    /// 1.
    pub(crate) version: u32,
    /// By reference.
    pub(crate) images: Vec<LockedImage>,
}

/// One image, complete enough to sign a deployment without its blobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LockedImage {
    pub(crate) reference: String,
    #[serde(with = "digest_text")]
    pub(crate) manifest: Digest,
    manifest_size: u64,
    artifact: bool,
    config: ImageConfig,
    files: Vec<FileEntry>,
    modules: Vec<LockedModule>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LockedModule {
    #[serde(with = "digest_text")]
    digest: Digest,
    facts: ModuleFacts,
}

mod digest_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use shoal_protocol::ids::Digest;

    pub(super) fn serialize<S: Serializer>(d: &Digest, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(d)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl LockedImage {
    pub(crate) fn new(reference: String, pinned: &Pinned) -> Self {
        let image = &pinned.image;
        Self {
            reference,
            manifest: image.manifest,
            manifest_size: image.manifest_size,
            artifact: image.form == Form::Artifact,
            config: image.config.clone(),
            files: image.files.values().cloned().collect(),
            modules: pinned
                .modules
                .iter()
                .map(|(d, f)| LockedModule { digest: *d, facts: f.clone() })
                .collect(),
        }
    }
    fn pinned(&self) -> Pinned {
        let image = Image {
            manifest: self.manifest,
            manifest_size: self.manifest_size,
            form: if self.artifact { Form::Artifact } else { Form::Layers },
            config: self.config.clone(),
            files: self.files.iter().map(|f| (f.path.clone(), f.clone())).collect(),
            annotations: BTreeMap::new(),
        };
        let modules = self.modules.iter().map(|m| (m.digest, m.facts.clone())).collect();
        Pinned { image, modules, refused: BTreeMap::new(), in_layout: false }
    }
}

impl Lock {
    /// Reads a lock file; an absent one is empty unless it was asked for by name.
    pub(crate) fn read(path: &Path, required: bool) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return Ok(Self::default()),
            Err(e) => return Err(e).on_path("read the lock file", path),
        };
        let lock: Self = serde_saphyr::from_str(&text).map_err(|e| {
            CliError::usage(format!("{} is no lock file", path.display()))
                .because(e)
                .hint("write it again with `shoal image lock`")
        })?;
        if lock.version != 1 {
            return Err(CliError::usage(format!(
                "{} has version {}, this program knows version 1",
                path.display(),
                lock.version
            )));
        }
        Ok(lock)
    }
    /// Writes it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_saphyr::to_string(self)
            .map_err(|e| CliError::failure("cannot write the lock file").because(e))?;
        std::fs::write(path, text).on_path("write the lock file", path)
    }
}

/// An image as it travels.
struct Parts {
    manifest: Vec<u8>,
    media_type: String,
    blobs: Vec<(Digest, u64)>,
}

/// A manifest and all blobs that it names, with their sizes; manifests of indexes are not expected in the own layout.
fn parts(store: &Store, what: &str, manifest: &Digest) -> Result<Parts> {
    let bytes = store.read(manifest, shoal_image::limits::DOCUMENT).map_err(|e| image_error(what, e))?;
    let Document::Manifest(m) = Document::parse(&bytes, None).map_err(|e| image_error(what, e))? else {
        return Err(CliError::failure(format!("{what}: an index stands where a manifest should")));
    };
    let media_type =
        m.media_type.clone().unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
    let mut all: Vec<(Digest, u64)> =
        std::iter::once(&m.config).chain(&m.layers).map(|d| (d.digest, d.size)).collect();
    all.sort_unstable();
    all.dedup();
    Ok(Parts { manifest: bytes, media_type, blobs: all })
}

/// Gives the controller what it lacks of an image; true when anything was sent.
pub(crate) fn upload(client: &Client, store: &Store, r: &Reference, manifest: &Digest) -> Result<bool> {
    let what = canonical(r);
    let Parts { manifest: bytes, media_type, blobs } = parts(store, &what, manifest)?;
    let mut missing = Vec::new();
    for (digest, size) in blobs {
        if !client.has(&format!("/v1/images/blobs/{digest}"), &what)? {
            missing.push((digest, size));
        }
    }
    let bar = output::bytes_bar(&format!("uploading {what}"), missing.iter().map(|m| m.1).sum());
    for (digest, size) in &missing {
        let file = store.open_blob(digest).map_err(|e| image_error(&what, e))?;
        let reader = bar.wrap_read(file);
        client.upload(
            &format!("/v1/images/blobs/{digest}"),
            "application/octet-stream",
            reader,
            *size,
            &what,
        )?;
    }
    bar.finish_and_clear();
    let path = format!("/v1/images/manifests/{}:{}", r.repository, r.tag_or_latest());
    let answer = client.upload(&path, &media_type, &bytes[..], bytes.len() as u64, &what)?;
    let accepted: ImageAccepted = crate::api::decode(client.server(), &what, &answer)?;
    if accepted.digest.0 != *manifest {
        return Err(CliError::refused(
            Code::DigestMismatch.as_str(),
            format!("the controller stored {} as {what}, sent was {manifest}", accepted.digest),
        ));
    }
    Ok(!missing.is_empty())
}

/// All images of the own layout.
pub(crate) fn tags(store: &Store) -> Result<Vec<Tag>> {
    shoal_image::tags(store).map_err(|e| image_error("cannot read the own image layout", e))
}
