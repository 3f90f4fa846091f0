//! Releases of the device's own software as OCI artifacts: one blob a file, packed, and a configuration that names them all.
//! Any registry keeps them, any tool copies them; devices fetch the blobs that they lack.

use crate::error::{Context as _, Error, Result};
use crate::image::blobs_of;
use crate::layout::{ImportedImage, described, to_json};
use crate::limits;
use crate::manifest::{Descriptor, Document, Manifest, OCI_MANIFEST};
use crate::store::{Expect, Store};
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{Blob, Build, ReleaseFile};
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What the artifact is: its configuration's media type, as OCI image-spec 1.1 has it (manifest.md, `artifactType`).
pub const ARTIFACT_TYPE: &str = "application/vnd.shoal.release.v1+json";
const FILE_TYPE: &str = "application/vnd.shoal.release.file.v1+gzip";
const TITLE: &str = "org.opencontainers.image.title";

/// One file as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Listed {
    path: String,
    size: u64,
    digest: String,
    executable: bool,
}

/// The artifact's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Config {
    version: String,
    architecture: String,
    files: Vec<Listed>,
}

/// A release's files as they were packed: what an operator signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// `major.minor.patch`.
    pub version: String,
    /// The files, ascending by path.
    pub build: Build,
    /// Bytes that travel.
    pub size: u64,
}

/// Packs all regular files below `folder` into `store`: the same bytes for the same files. Programs are what may be executed.
///
/// # Errors
/// What is neither a file nor a folder, or cannot be read; `too_large`.
pub fn pack(store: &Store, folder: &Path, version: &str, architecture: &str) -> Result<ImportedImage> {
    let mut paths = Vec::new();
    walk(folder, Path::new(""), &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    let mut layers: Vec<Descriptor> = Vec::new();
    for path in &paths {
        let from = folder.join(path);
        let what = || format!("cannot read {}", from.display());
        let bytes = fs::read(&from).context(what)?;
        let mode = fs::metadata(&from).context(what)?.permissions().mode();
        let title = path.to_string_lossy().into_owned();
        let mut packer = GzBuilder::new().write(Vec::new(), Compression::default());
        let packed = packer.write_all(&bytes).and_then(|()| packer.finish()).context(what)?;
        let mut layer = Descriptor::of(FILE_TYPE, &packed);
        store.put(&packed)?;
        layer.annotations.insert(TITLE.to_owned(), title.clone());
        layers.push(layer);
        files.push(Listed {
            path: title,
            size: bytes.len() as u64,
            digest: Digest::of(&bytes).to_string(),
            executable: mode & 0o111 != 0,
        });
    }
    let config =
        to_json(&Config { version: version.to_owned(), architecture: architecture.to_owned(), files })?;
    store.put(&config)?;
    let media_type = Some(OCI_MANIFEST.to_owned());
    let config = Descriptor::of(ARTIFACT_TYPE, &config);
    let manifest = Manifest { media_type, config, layers, annotations: BTreeMap::new() };
    let size = blobs_of(&manifest)?.iter().map(|b| b.size).sum();
    let bytes = to_json(&manifest)?;
    store.put(&bytes)?;
    Ok(ImportedImage { reference: None, manifest: Descriptor::of(OCI_MANIFEST, &bytes), size })
}

fn walk(root: &Path, below: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    let folder = root.join(below);
    let what = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(&folder).context(what)? {
        let entry = entry.context(what)?;
        let path = below.join(entry.file_name());
        // Links are followed: what a release has is files.
        let kind = fs::metadata(entry.path()).context(what)?;
        if kind.is_dir() {
            walk(root, &path, out)?;
        } else if kind.is_file() {
            out.push(path);
        } else {
            let detail = format!("{} is neither a file nor a folder", entry.path().display());
            return Err(Error::refused(Code::LayerForbidden, detail));
        }
    }
    Ok(())
}

/// Reads a release whose blobs are all in `store`, and unpacks every file once, so that what is signed was seen.
///
/// # Errors
/// `wrong_type` for another artifact, `digest_mismatch`, `malformed`; what is not in the store.
pub fn read(store: &Store, manifest: &Digest, reference: &str) -> Result<Packed> {
    let descriptor = described(store, manifest)?;
    let Document::Manifest(parsed) = Document::parse(&store.read(manifest, limits::DOCUMENT)?, None)? else {
        return Err(Error::refused(Code::AmbiguousManifest, format!("{manifest} is an index")));
    };
    if parsed.config.media_type != ARTIFACT_TYPE {
        let detail = format!("{manifest} is no release: its type is {:?}", parsed.config.media_type);
        return Err(Error::refused(Code::WrongType, detail));
    }
    let malformed = |what: &str| Error::refused(Code::Malformed, format!("release {manifest}: {what}"));
    let config: Config = serde_json::from_slice(&store.read(&parsed.config.digest, limits::DOCUMENT)?)
        .map_err(|e| malformed(&format!("its configuration: {e}")))?;
    if config.files.len() != parsed.layers.len() {
        return Err(malformed("it names other files than it has"));
    }
    let scratch = tempfile::tempdir_in(store.root())
        .context(|| format!("cannot make a folder in {}", store.root().display()))?;
    let unpacked = Store::open(scratch.path())?;
    let mut files = Vec::new();
    for (file, layer) in config.files.iter().zip(&parsed.layers) {
        let digest: Digest = file.digest.parse().map_err(|_| malformed("a digest is none"))?;
        if layer.annotations.get(TITLE) != Some(&file.path) || file.size > limits::BLOB {
            return Err(malformed("a file and its blob differ in name, or it is too large"));
        }
        if store.size(&layer.digest) != Some(layer.size) {
            return Err(Error::refused(Code::DigestMismatch, format!("{} is not there whole", file.path)));
        }
        store.unpack_into(&layer.digest, &unpacked, Expect::Exactly { digest, size: file.size })?;
        unpacked.remove(&digest)?;
        files.push(ReleaseFile {
            path: file.path.clone(),
            size: file.size,
            digest,
            executable: file.executable,
            packed: Some(Blob { digest: layer.digest, size: layer.size }),
        });
    }
    let size = descriptor.size + blobs_of(&parsed)?.iter().map(|b| b.size).sum::<u64>();
    let build = Build {
        architecture: config.architecture,
        reference: reference.to_owned(),
        manifest: *manifest,
        files,
    };
    Ok(Packed { version: config.version, build, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("engine/run/lib")).unwrap();
        fs::write(dir.path().join("engine/run/lib/x.so"), vec![7; 100_000]).unwrap();
        for program in ["shoal-agent", "shoal-guard", "shoal-runner"] {
            fs::write(dir.path().join(program), program).unwrap();
            fs::set_permissions(dir.path().join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("blobs")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_release_comes_out_as_it_went_in_and_has_the_same_bytes_each_time() {
        let (folder, (_dir, own)) = (folder(), store());
        let packed = pack(&own, folder.path(), "0.2.0", "x86_64").unwrap();
        assert_eq!(pack(&own, folder.path(), "0.2.0", "x86_64").unwrap(), packed);
        let read = read(&own, &packed.manifest.digest, "shoal/agent:0.2.0").unwrap();
        let paths: Vec<(&str, bool)> =
            read.build.files.iter().map(|f| (f.path.as_str(), f.executable)).collect();
        assert_eq!(
            paths,
            [
                ("engine/run/lib/x.so", false),
                ("shoal-agent", true),
                ("shoal-guard", true),
                ("shoal-runner", true)
            ]
        );
        assert_eq!(read.build.files[0].digest, Digest::of(&vec![7; 100_000]));
        assert!(read.build.files[0].blob().size < 1000, "it travels packed");
        // And through an archive.
        let mut bytes = Vec::new();
        crate::export_archive(&own, &packed.manifest.digest, Some("shoal/agent:0.2.0"), &mut bytes).unwrap();
        let (dir, other) = store();
        fs::write(dir.path().join("r.tar"), bytes).unwrap();
        let found = crate::import(&other, &dir.path().join("r.tar")).unwrap();
        assert_eq!(found[0].manifest.digest, packed.manifest.digest);
        // What is no container is not run as one.
        let refused = crate::Image::load(&other, &packed.manifest.digest).unwrap_err();
        assert_eq!(refused.code(), Some(Code::NotWasm));
    }

    #[test]
    fn a_release_whose_files_are_not_what_it_says_is_refused() {
        let (folder, (_dir, own)) = (folder(), store());
        let packed = pack(&own, folder.path(), "0.2.0", "x86_64").unwrap();
        let bytes = own.read(&packed.manifest.digest, limits::DOCUMENT).unwrap();
        let Document::Manifest(manifest) = Document::parse(&bytes, None).unwrap() else { panic!() };
        let change = |f: fn(&mut Config)| {
            let bytes = own.read(&manifest.config.digest, limits::DOCUMENT).unwrap();
            let mut config: Config = serde_json::from_slice(&bytes).unwrap();
            f(&mut config);
            let config = to_json(&config).unwrap();
            own.put(&config).unwrap();
            let changed = Manifest { config: Descriptor::of(ARTIFACT_TYPE, &config), ..(*manifest).clone() };
            let bytes = to_json(&changed).unwrap();
            read(&own, &own.put(&bytes).unwrap(), "x").unwrap_err().code()
        };
        assert_eq!(change(|c| c.files[1].digest = Digest([1; 32]).to_string()), Some(Code::DigestMismatch));
        assert_eq!(change(|c| c.files[1].size += 1), Some(Code::DigestMismatch));
        assert_eq!(change(|c| c.files[1].path = "other".into()), Some(Code::Malformed));
        assert_eq!(change(|c| c.files.truncate(1)), Some(Code::Malformed));
        let image = crate::import_module(&own, b"\0asm\x01\0\0\0", None).unwrap().manifest.digest;
        assert_eq!(read(&own, &image, "x").unwrap_err().code(), Some(Code::WrongType));
    }
}
