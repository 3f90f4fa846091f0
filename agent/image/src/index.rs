//! The names of a store's images: the layout's `index.json` (OCI image-spec 1.1, image-layout.md).

use crate::error::{Context as _, Error, Result};
use crate::limits;
use crate::manifest::{Descriptor, Document, Index, OCI_INDEX};
use crate::store::{Store, replace_file};
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd and Docker write beside it, with the whole reference.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";

/// A name and the manifest it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The reference under which the image is known here.
    pub name: String,
    /// The image's manifest.
    pub manifest: Descriptor,
}

/// All named images, by name.
pub fn tags(store: &Store) -> Result<Vec<Tag>> {
    let index = read_index(store.root())?;
    let mut out: Vec<Tag> = index
        .manifests
        .into_iter()
        .filter_map(|mut manifest| {
            let name = manifest.annotations.remove(FULL_NAME);
            let name = name.or_else(|| manifest.annotations.remove(REF_NAME))?;
            manifest.annotations.remove(REF_NAME);
            Some(Tag { name, manifest })
        })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

/// Makes `name` stand for `manifest`, from now on.
pub fn tag(store: &Store, name: &str, manifest: &Descriptor) -> Result<()> {
    change(store, |tags| {
        tags.insert(name.to_owned(), manifest.clone());
    })
}

/// Forgets a name; the blobs stay. True when it was there.
pub fn untag(store: &Store, name: &str) -> Result<bool> {
    let mut was_there = false;
    change(store, |tags| was_there = tags.remove(name).is_some())?;
    Ok(was_there)
}

fn change(store: &Store, edit: impl FnOnce(&mut BTreeMap<String, Descriptor>)) -> Result<()> {
    // Two commands at once: the second waits for the first, which only rewrites one small file.
    let lock_path = store.root().join("index.lock");
    let lock = File::create(&lock_path).context(|| format!("cannot create {}", lock_path.display()))?;
    lock.lock().context(|| format!("cannot lock {}", lock_path.display()))?;
    let mut by_name: BTreeMap<String, Descriptor> =
        tags(store)?.into_iter().map(|t| (t.name, t.manifest)).collect();
    edit(&mut by_name);
    let manifests = by_name.into_iter().map(|(name, mut manifest)| {
        manifest.annotations.insert(REF_NAME.to_owned(), name);
        manifest
    });
    let index = new_index(manifests.collect());
    let bytes = serde_json::to_vec(&index)
        .map_err(io::Error::other)
        .context(|| "cannot write the index".to_owned())?;
    replace_file(&store.root().join("index.json"), &bytes)
}

pub(crate) fn new_index(manifests: Vec<Descriptor>) -> Index {
    Index { media_type: Some(OCI_INDEX.to_owned()), manifests }
}

/// The `index.json` of the layout at `root`; an absent one is empty.
pub(crate) fn read_index(root: &Path) -> Result<Index> {
    let path = root.join("index.json");
    let what = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(limits::DOCUMENT + 1).read_to_end(&mut bytes).context(what)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(new_index(Vec::new())),
        Err(e) => return Err(e).context(what),
    };
    index_of(&bytes)
}

/// The index in `bytes`.
pub(crate) fn index_of(bytes: &[u8]) -> Result<Index> {
    match Document::parse(bytes, Some(OCI_INDEX))? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(Error::refused(Code::AmbiguousManifest, "index.json is a manifest")),
    }
}
