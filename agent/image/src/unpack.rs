//! Applies layers, lowest first, to a list of regular files (OCI image-spec 1.1, layer.md): within caps, whiteouts
//! honoured, anything but files and folders refused. Contents go into the store under their digests, never to a path.

use crate::compression;
use crate::error::{Context as _, Error, Result};
use crate::limits;
use crate::manifest::{Descriptor, Manifest};
use crate::path;
use crate::store::{Expect, Hashing, Store};
use crate::tarball::{Entries, Entry};
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use tar::EntryType;

/// A regular file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Absolute, normalised.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Contents; the store has them under this name.
    #[serde(with = "digest_text")]
    pub digest: Digest,
}

/// Digests as `sha256:<hex>` text, as JSON documents have them.
mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use shoal_protocol::ids::Digest;

    pub(super) fn serialize<S: Serializer>(d: &Digest, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(d)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The regular files of an image by path.
pub type FileTree = BTreeMap<String, FileEntry>;

/// What is left of the image's caps.
struct Budget {
    bytes: u64,
    entries: usize,
}

/// Applies the layers of `manifest` in order; `diff_ids` (when there are any) name their unpacked bytes.
pub(crate) fn apply(store: &Store, manifest: &Manifest, diff_ids: &[Digest]) -> Result<FileTree> {
    if !diff_ids.is_empty() && diff_ids.len() != manifest.layers.len() {
        let detail = format!("{} layers and {} diff_ids", manifest.layers.len(), diff_ids.len());
        return Err(Error::refused(Code::DigestMismatch, detail));
    }
    let mut budget = Budget { bytes: limits::UNPACKED, entries: limits::ENTRIES };
    let mut tree = FileTree::new();
    for (i, layer) in manifest.layers.iter().enumerate() {
        let changes = read_layer(store, layer, diff_ids.get(i), &mut budget)?;
        changes.apply(&mut tree);
        if tree.len() > limits::FILES {
            let detail = format!("the image has {} files, the limit is {}", tree.len(), limits::FILES);
            return Err(Error::refused(Code::TooLarge, detail));
        }
    }
    Ok(tree)
}

/// What one layer does to those below it.
#[derive(Default)]
struct Changes {
    files: FileTree,
    folders: BTreeSet<String>,
    whiteouts: BTreeSet<String>,
    opaque: BTreeSet<String>,
}

impl Changes {
    fn apply(self, tree: &mut FileTree) {
        for gone in &self.whiteouts {
            remove(tree, gone);
        }
        for dir in &self.opaque {
            remove_below(tree, dir);
        }
        for dir in &self.folders {
            tree.remove(dir);
        }
        for (path, file) in self.files {
            remove_below(tree, &path);
            tree.insert(path, file);
        }
    }

    fn folder(&mut self, path: &str) {
        self.files.remove(path);
        self.folders.insert(path.to_owned());
    }

    fn file(&mut self, file: FileEntry) {
        remove_below(&mut self.files, &file.path);
        self.folders.retain(|f| *f != file.path && !is_below(f, &file.path));
        self.files.insert(file.path.clone(), file);
    }

    /// Every folder above `path`, as an unpacker would make them.
    fn folders_above(&mut self, path: &str) {
        for (i, _) in path.match_indices('/').skip(1) {
            self.folder(&path[..i]);
        }
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| dir == "/" || rest.starts_with('/'))
}

fn remove_below(tree: &mut FileTree, dir: &str) {
    tree.retain(|path, _| !is_below(path, dir));
}

fn remove(tree: &mut FileTree, path: &str) {
    tree.remove(path);
    remove_below(tree, path);
}

fn read_layer(
    store: &Store,
    layer: &Descriptor,
    diff_id: Option<&Digest>,
    budget: &mut Budget,
) -> Result<Changes> {
    let what = || format!("cannot unpack layer {}", layer.digest);
    let packed = Hashing::new(store.open_blob(&layer.digest)?);
    let mut packed = Meter { inner: packed, left: layer.size.min(limits::BLOB), digest: layer.digest };
    let unpacked = compression::unpacked(&mut packed).map_err(|e| unreadable(layer, e))?;
    let mut entries = Entries::new(Hashing::new(Bomb { inner: unpacked, left: &mut budget.bytes }));
    let mut changes = Changes::default();
    while let Some(entry) = entries.next().map_err(|e| in_layer(layer, e))? {
        budget.entries = budget.entries.checked_sub(1).ok_or_else(|| {
            Error::refused(Code::TooLarge, format!("the layers have more than {} entries", limits::ENTRIES))
        })?;
        take_entry(store, &mut entries, &entry, &mut changes).map_err(|e| in_layer(layer, e))?;
    }
    let found = entries.drain().map_err(|e| in_layer(layer, e))?.finish();
    if let Some(expected) = diff_id.filter(|d| **d != found) {
        let detail = format!("layer {} unpacks to {found}, the configuration says {expected}", layer.digest);
        return Err(Error::refused(Code::DigestMismatch, detail));
    }
    io::copy(&mut packed, &mut io::sink()).context(what)?;
    let stored = packed.inner.finish();
    if stored != layer.digest {
        let detail = format!("layer {} in the store has become {stored}", layer.digest);
        return Err(Error::refused(Code::DigestMismatch, detail));
    }
    Ok(changes)
}

fn take_entry(store: &Store, contents: &mut dyn Read, entry: &Entry, changes: &mut Changes) -> Result<()> {
    let Some(path) = path::of_entry(&entry.path)? else { return Ok(()) };
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let above = if dir.is_empty() { "/" } else { dir };
    changes.folders_above(&path);
    match entry.kind {
        _ if name == ".wh..wh..opq" => {
            changes.opaque.insert(above.to_owned());
        }
        _ if name.starts_with(".wh.") => {
            // A bare prefix would remove the folder itself.
            let gone = &name[4..];
            if gone.is_empty() || gone == "." || gone == ".." {
                return Err(Error::refused(
                    Code::LayerForbidden,
                    format!("entry {path:?} removes nothing nameable"),
                ));
            }
            changes.whiteouts.insert(format!("{dir}/{gone}"));
        }
        EntryType::Directory => changes.folder(&path),
        EntryType::Regular | EntryType::Continuous => {
            let (digest, size) = store.put_from(contents, Expect::AtMost(entry.size))?;
            changes.file(FileEntry { path, mode: entry.mode, size, digest });
        }
        kind => {
            let what = match kind {
                EntryType::Symlink => "a symbolic link",
                EntryType::Link => "a hard link",
                EntryType::Char | EntryType::Block => "a device",
                EntryType::Fifo => "a pipe",
                _ => "of a kind that images must not have",
            };
            let detail =
                format!("entry {path:?} is {what}: an image may have regular files and folders only");
            return Err(Error::refused(Code::LayerForbidden, detail));
        }
    }
    Ok(())
}

fn in_layer(layer: &Descriptor, e: Error) -> Error {
    match e {
        Error::Refused { code, detail } => Error::refused(code, format!("layer {}: {detail}", layer.digest)),
        // What a decompressor could not read is the layer's fault, not the disk's.
        Error::Io { source, .. } => unreadable(layer, source),
        other => other,
    }
}

fn unreadable(layer: &Descriptor, e: io::Error) -> Error {
    let what = format!("layer {} cannot be unpacked", layer.digest);
    match e.kind() {
        io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::Other => match e.downcast::<Error>() {
            Ok(ours) => ours,
            Err(e) => Error::refused(Code::Malformed, format!("{what}: {e}")),
        },
        _ => Error::Io { what, source: e },
    }
}

/// Gives a layer's packed bytes up to its stated size.
struct Meter<R> {
    inner: R,
    left: u64,
    digest: Digest,
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            Error::refused(
                Code::DigestMismatch,
                format!("layer {} is longer than its manifest says", self.digest),
            )
        })?;
        Ok(n)
    }
}

/// Stops a decompression bomb.
struct Bomb<'a, R> {
    inner: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Bomb<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        *self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            Error::refused(
                Code::TooLarge,
                format!("the layers unpack to more than {} bytes", limits::UNPACKED),
            )
        })?;
        Ok(n)
    }
}
