//! Image documents (manifest, index, configuration, reference) and archives of images, as the operator's machine imports them.

use crate::layers::Sandbox;
use crate::{prefixed, split_first};
use shoal_image::{Document, ImageConfig, Reference, import, limits, select_platform};

/// The forms of images that the image crate's own tests build.
#[allow(clippy::pedantic, unreachable_pub, missing_docs, reason = "code of tests, shared")]
#[path = "../../../agent/image/tests/support/mod.rs"]
pub(crate) mod forms;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn documents(data: &[u8]) -> bool {
    let (which, bytes) = split_first(data);
    match which {
        0 => manifest(bytes, None),
        1 => manifest(bytes, Some(INDEX)),
        2 => manifest(bytes, Some(MANIFEST)),
        3 => ImageConfig::parse(bytes).is_ok_and(|c| {
            assert!(is_clean(&c.working_dir), "{:?} is no absolute, plain path", c.working_dir);
            true
        }),
        _ => reference(bytes),
    }
}

fn manifest(bytes: &[u8], served_as: Option<&str>) -> bool {
    let Ok(document) = Document::parse(bytes, served_as) else { return false };
    let raw: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let has = |field: &str| raw.get(field).is_some_and(|v| !v.is_null());
    // M4: no reader may see another image than we do.
    let again = match &document {
        Document::Manifest(m) => {
            assert!(!has("manifests") && served_as != Some(INDEX), "a manifest that could be an index");
            assert!(m.layers.len() <= limits::LAYERS);
            for blob in m.layers.iter().chain([&m.config]) {
                assert!(blob.size <= limits::BLOB, "a blob above the cap");
            }
            serde_json::to_vec(m)
        }
        Document::Index(index) => {
            assert!(
                !has("layers") && !has("config") && served_as != Some(MANIFEST),
                "an index that could be a manifest"
            );
            assert!(index.manifests.len() <= limits::MANIFESTS);
            if let Ok(chosen) = select_platform(index) {
                assert!(index.manifests.contains(chosen));
            }
            serde_json::to_vec(index)
        }
    };
    let again = again.ok().and_then(|b| Document::parse(&b, served_as).ok());
    assert_eq!(again.as_ref(), Some(&document), "what was read is written back the same");
    true
}

fn reference(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(reference) = text.parse::<Reference>() else { return false };
    let written = reference.to_string();
    assert_eq!(written.parse::<Reference>().ok().as_ref(), Some(&reference), "{text:?} became {written:?}");
    assert!(!reference.host().contains(['/', '@', ' ']) && !reference.path().contains(".."));
    true
}

/// Absolute, and nothing in it that means another place.
pub(crate) fn is_clean(path: &str) -> bool {
    path == "/"
        || path.starts_with('/')
            && path[1..].split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
}

pub(crate) fn document_seeds() -> Vec<Vec<u8>> {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":0,"annotations":{{"a":"b"}}}}],"annotations":{{"c":"d"}}}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{digest}","size":7,"platform":{{"architecture":"wasm","os":"wasip1"}}}}]}}"#
    );
    let config = format!(
        r#"{{"architecture":"wasm","os":"wasip1","config":{{"Entrypoint":["/a.wasm"],"Cmd":["x"],"Env":["A=1"],"WorkingDir":"/srv"}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
    );
    vec![
        prefixed(0, manifest.as_bytes()),
        prefixed(2, manifest.as_bytes()),
        prefixed(0, index.as_bytes()),
        prefixed(1, index.as_bytes()),
        prefixed(3, config.as_bytes()),
        prefixed(4, b"registry.example:5000/team/app:1.2"),
        prefixed(4, format!("app@{digest}").as_bytes()),
    ]
}

pub(crate) fn archives(data: &[u8]) -> bool {
    let sandbox = Sandbox::get();
    let file = sandbox.outside().join("archive");
    std::fs::write(&file, crate::layers::with_checksums(data)).unwrap_or_else(|e| panic!("{e}"));
    let imported = import(sandbox.store(), &file);
    if let Ok(images) = &imported {
        assert!(images.len() <= limits::IMAGES);
    }
    sandbox.check_and_clear();
    imported.is_ok()
}

pub(crate) fn archive_seeds() -> Vec<Vec<u8>> {
    let (dir, store) = forms::store();
    let layer = forms::Tar::default().file("app.wasm", &forms::module()).bytes();
    let digest = forms::tar_image(&store, vec![layer.clone()], r#"{"Entrypoint":["/app.wasm"]}"#);
    let mut archive = Vec::new();
    let mut seeds = vec![forms::module()];
    if shoal_image::export_archive(&store, &digest, Some("app:1"), &mut archive).is_ok() {
        seeds.push(archive);
    }
    drop(dir);
    let config = r#"{"config":{"Cmd":["app.wasm"]},"rootfs":{"diff_ids":[]}}"#;
    let manifest = r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["l/layer.tar"]}]"#;
    let docker = forms::Tar::default()
        .file("manifest.json", manifest.as_bytes())
        .file("c.json", config.as_bytes())
        .file("l/layer.tar", &layer);
    seeds.push(docker.bytes());
    seeds
}
