//! Images that the device's owner pulls by name, in the agent's blob store: tagged there, so that they stay until untagged.
//!
//! Runs as the agent's uid: every byte of an image is hostile. What it says of an image is worth no more than that uid, and
//! supervise hashes each file against the ticket that uid 0 makes of it.

use crate::cri::message::Image as ImageMessage;
use crate::error::{Error, Result};
use crate::images::{ImageService, PullSource};
use serde::{Deserialize, Serialize};
use shoal_image::{FileEntry, Image, ModuleFacts, Overrides, Reference};
use shoal_protocol::ids::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// An image, read: what of it runs, and with which files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinnedImage {
    /// Its name here.
    pub reference: String,
    /// The manifest.
    #[serde(with = "digest_text")]
    pub manifest: Digest,
    /// The module that starts.
    pub module: FileEntry,
    /// The whole argument vector.
    pub argv: Vec<String>,
    /// The image's environment with what was set over it.
    pub env: Vec<(String, String)>,
    /// Where relative paths begin.
    pub working_dir: String,
    /// All other files.
    pub files: Vec<FileEntry>,
    /// What the module is and may do.
    pub facts: Option<ModuleFacts>,
}

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

/// The name under which an image is kept: Docker Hub's without its host, everything with its tag.
pub fn canonical(r: &Reference) -> String {
    let host = match r.registry.as_deref() {
        None | Some("docker.io" | "index.docker.io") => String::new(),
        Some(host) => format!("{host}/"),
    };
    let short = r.repository.strip_prefix("library/").filter(|_| host.is_empty());
    format!("{host}{}:{}", short.unwrap_or(&r.repository), r.tag_or_latest())
}

/// The same with the host that every other tool shows.
pub fn full(name: &str) -> String {
    let first = name.split('/').next().unwrap_or_default();
    let has_host = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    if has_host {
        name.to_owned()
    } else if name.contains('/') {
        format!("docker.io/{name}")
    } else {
        format!("docker.io/library/{name}")
    }
}

fn failed(image: &str) -> impl FnOnce(shoal_image::Error) -> Error {
    let image = image.to_owned();
    move |source| Error::Image { image, source }
}

impl ImageService {
    fn name_of(&self, wanted: &str) -> Result<(String, Digest)> {
        let tags = shoal_image::tags(&self.store).map_err(failed(wanted))?;
        let id = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let is_id = id.len() >= 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let by_id: Vec<_> =
            tags.iter().filter(|t| is_id && t.manifest.digest.hex().starts_with(id)).collect();
        if let [first, rest @ ..] = by_id.as_slice()
            && rest.iter().all(|t| t.manifest.digest == first.manifest.digest)
        {
            return Ok((first.name.clone(), first.manifest.digest));
        }
        let reference: Reference = wanted.parse().map_err(failed(wanted))?;
        let name = canonical(&reference);
        let pinned = reference.digest;
        tags.into_iter()
            .find(|t| if pinned.is_some() { Some(t.manifest.digest) == pinned } else { t.name == name })
            .map(|t| (t.name, t.manifest.digest))
            .ok_or_else(|| Error::NotFound { kind: "image", id: wanted.to_owned() })
    }

    /// CRI `PullImage` by name: from the first source that has it. Gives the manifest.
    pub async fn pull_named(&self, wanted: &str, sources: &[PullSource]) -> Result<Digest> {
        let reference: Reference = wanted.parse().map_err(failed(wanted))?;
        // What it will take is not known before its manifest is read; a large image ends at the store's own cap.
        self.make_room(1 << 20, &self.tagged()?)?;
        let found = self.first_of(&reference, sources).await?;
        shoal_image::tag(&self.store, &canonical(&reference), &found).map_err(failed(wanted))?;
        Ok(found.digest)
    }

    /// Takes images out of a file: an OCI layout or archive, a docker archive, a bare module. Gives their names.
    pub fn load(&self, path: &Path, name: Option<&str>) -> Result<Vec<String>> {
        let what = path.display().to_string();
        let found = shoal_image::import(&self.store, path).map_err(failed(&what))?;
        let mut names = Vec::new();
        for image in found {
            let text = name.map(str::to_owned).or(image.reference.clone());
            let Some(text) = text else {
                return Err(Error::Config {
                    text: format!("{what} does not say what it is called: name it"),
                });
            };
            let reference: Reference = text.parse().map_err(failed(&text))?;
            let name = canonical(&reference);
            shoal_image::tag(&self.store, &name, &image.manifest).map_err(failed(&text))?;
            names.push(name);
        }
        Ok(names)
    }

    /// Copies an image from another store and names it.
    pub fn copy_from(&self, from: &shoal_image::Store, manifest: &Digest, name: &str) -> Result<()> {
        let image = shoal_image::copy(from, &self.store, manifest).map_err(failed(name))?;
        shoal_image::tag(&self.store, name, &image.manifest).map_err(failed(name))
    }

    /// Manifests that have a name here.
    pub(crate) fn tagged(&self) -> Result<BTreeSet<Digest>> {
        let tags = shoal_image::tags(&self.store).map_err(failed("list"))?;
        Ok(tags.into_iter().map(|t| t.manifest.digest).collect())
    }

    /// CRI `ListImages` of those with a name.
    pub fn list_named(&self) -> Result<Vec<ImageMessage>> {
        let mut by_manifest: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for t in shoal_image::tags(&self.store).map_err(failed("list"))? {
            by_manifest.entry(t.manifest.digest).or_default().push(t.name);
        }
        Ok(by_manifest.iter().map(|(digest, names)| self.message(digest, names)).collect())
    }

    fn message(&self, digest: &Digest, names: &[String]) -> ImageMessage {
        let repository = |n: &String| full(n.rsplit_once(':').map_or(n.as_str(), |(r, _)| r));
        ImageMessage {
            id: digest.to_string(),
            repo_tags: names.iter().map(|n| full(n)).collect(),
            repo_digests: names.iter().map(|n| format!("{}@{digest}", repository(n))).collect(),
            size: self.image_status(digest).map_or(0, |s| s.size),
        }
    }

    /// CRI `ImageStatus` by name or the beginning of its id.
    pub fn status_named(&self, wanted: &str) -> Result<ImageMessage> {
        let (_, digest) = self.name_of(wanted)?;
        let tags = shoal_image::tags(&self.store).map_err(failed(wanted))?;
        let names: Vec<String> =
            tags.into_iter().filter(|t| t.manifest.digest == digest).map(|t| t.name).collect();
        Ok(self.message(&digest, &names))
    }

    /// CRI `RemoveImage`: the name goes, or with an id all of its names; blobs go when nothing else needs them.
    pub fn remove_named(&self, wanted: &str, keep: &BTreeSet<Digest>) -> Result<Vec<String>> {
        let (name, digest) = self.name_of(wanted)?;
        let by_name = wanted.parse::<Reference>().is_ok_and(|r| r.digest.is_none() && canonical(&r) == name);
        let tags = shoal_image::tags(&self.store).map_err(failed(wanted))?;
        let going = tags.into_iter().filter(|t| t.manifest.digest == digest && (!by_name || t.name == name));
        let mut gone = Vec::new();
        for t in going {
            shoal_image::untag(&self.store, &t.name).map_err(failed(wanted))?;
            gone.push(full(&t.name));
        }
        self.collect(keep)?;
        Ok(gone)
    }

    /// What of an image would run: unpacks it, resolves entry point and arguments, and inspects the module.
    pub fn pin(&self, wanted: &str, overrides: &Overrides) -> Result<PinnedImage> {
        let (reference, manifest) = self.name_of(wanted)?;
        let image = Image::load(&self.store, &manifest).map_err(failed(wanted))?;
        let resolved = shoal_image::resolve(&image, overrides).map_err(failed(wanted))?;
        let bytes =
            self.store.read(&resolved.module.digest, shoal_image::limits::MODULE).map_err(failed(wanted))?;
        let facts = shoal_image::inspect(&bytes).map_err(failed(wanted))?;
        // Its grants are the pod's: they are held against it when a container is made of it.
        facts.check(true, None).map_err(failed(wanted))?;
        let files = image.files.values().filter(|f| f.path != resolved.module.path).cloned().collect();
        Ok(PinnedImage {
            reference,
            manifest,
            module: resolved.module,
            argv: resolved.argv,
            env: resolved.env,
            working_dir: resolved.working_dir,
            files,
            facts: Some(facts),
        })
    }

    /// Where a file of a pinned image lies.
    pub fn path_of(&self, file: &FileEntry) -> std::path::PathBuf {
        self.store.path(&file.digest)
    }

    /// Supervise has what it needs; the layers stay, so that it can be unpacked again.
    pub fn forget_unpacked(&self, image: &PinnedImage) -> Result<()> {
        let blobs = self.blobs(&image.manifest).unwrap_or_default();
        let files = image.files.iter().chain([&image.module]);
        for file in files.filter(|f| !blobs.contains(&f.digest)) {
            self.store.remove(&file.digest).map_err(failed(&image.reference))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Guard;

    #[test]
    fn names_are_shown_with_their_host_and_kept_without_dockers() {
        let name = |t: &str| canonical(&t.parse().unwrap());
        assert_eq!(name("docker.io/hydai/wasm-wasi-example"), "hydai/wasm-wasi-example:latest");
        assert_eq!(name("hydai/wasm-wasi-example:latest"), "hydai/wasm-wasi-example:latest");
        assert_eq!(full("hydai/wasm-wasi-example:latest"), "docker.io/hydai/wasm-wasi-example:latest");
        assert_eq!(full("app:1"), "docker.io/library/app:1");
        assert_eq!(full("localhost:5000/a:1"), "localhost:5000/a:1");
    }

    #[test]
    fn a_named_image_is_found_by_name_and_id_stays_when_others_are_collected_and_goes_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let service = ImageService::open(Guard::new(shoal_ipc::Layout::new(dir.path()))).unwrap();
        let module =
            wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
        let file = dir.path().join("app.wasm");
        std::fs::write(&file, module).unwrap();
        assert_eq!(service.load(&file, Some("app")).unwrap(), ["app:latest"]);
        service.collect(&BTreeSet::new()).unwrap();
        let all = service.list_named().unwrap();
        assert_eq!(all[0].repo_tags, ["docker.io/library/app:latest"]);
        let id = all[0].id.strip_prefix("sha256:").unwrap();
        assert_eq!(service.status_named(&id[..13]).unwrap(), all[0]);
        let args = Overrides { args: Some(vec!["x".into()]), ..Overrides::default() };
        let pinned = service.pin("docker.io/library/app", &args).unwrap();
        assert_eq!(pinned.argv, ["/app.wasm", "x"]);
        service.forget_unpacked(&pinned).unwrap();
        assert!(service.path_of(&pinned.module).exists(), "an artifact's module is its layer");
        assert_eq!(service.remove_named("app", &BTreeSet::new()).unwrap(), ["docker.io/library/app:latest"]);
        assert!(service.list_named().unwrap().is_empty());
        assert!(!service.path_of(&pinned.module).exists());
        assert_eq!(service.status_named("app").unwrap_err().code(), "not_found");
    }
}
