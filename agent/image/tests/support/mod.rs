//! Builds images and modules for the tests, good ones and hostile ones.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses its own part")]

use shoal_image::{Descriptor, Store};
use shoal_protocol::ids::Digest;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A module that exits.
pub(crate) fn module() -> Vec<u8> {
    wat::parse_str(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 0))))"#,
    )
    .unwrap()
}

/// A store in a folder of its own.
pub(crate) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

/// A tar archive of entries as the builder writes them.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    /// Adds a regular file.
    pub(crate) fn file(self, path: &str, contents: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, "", contents)
    }

    /// Adds any entry; the path is taken as it is, however bad.
    pub(crate) fn entry(mut self, path: &str, kind: tar::EntryType, link: &str, contents: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(contents);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Packs with gzip.
pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(data).unwrap();
    gz.finish().unwrap()
}

/// Packs with zstd.
pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Puts an image of these layers (media type, stored bytes, diff id) into the store.
pub(crate) fn image(store: &Store, layers: &[(&str, Vec<u8>, Digest)], config: &str) -> Digest {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("\"{}\"", l.2)).collect();
    let config = format!(
        r#"{{"architecture":"wasm","os":"wasip1","config":{config},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    store.put(config.as_bytes()).unwrap();
    let layers: Vec<Descriptor> = layers.iter().map(|(kind, bytes, _)| Descriptor::of(kind, bytes)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": Descriptor::of("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": layers,
    });
    store.put(manifest.to_string().as_bytes()).unwrap()
}

/// An image of plain tar layers, each also put into the store.
pub(crate) fn tar_image(store: &Store, layers: Vec<Vec<u8>>, config: &str) -> Digest {
    let layers: Vec<_> = layers
        .into_iter()
        .map(|bytes| {
            store.put(&bytes).unwrap();
            let digest = Digest::of(&bytes);
            ("application/vnd.oci.image.layer.v1.tar", bytes, digest)
        })
        .collect();
    image(store, &layers, config)
}

/// Writes a file below `dir`.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}
