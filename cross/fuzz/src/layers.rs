//! Layers: two of them, one upon the other, plain or packed, into a store in memory. What comes of them stays within the
//! caps and within the store's folder, and the list of files is one that a file system could hold.
//!
//! An input is a byte of flags, where the second layer begins (16 bits), and the bytes of both.

use crate::images::{forms, is_clean};
use crate::split_first;
use shoal_image::{Descriptor, Image, Store, limits};
use shoal_protocol::ids::Digest;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use tar::Header;

/// Sandboxes are called so, with the process that they belong to.
const PREFIX: &str = "shoal-fuzz-";
const GZIP: u8 = 1;
const ZSTD: u8 = 2;
/// The input's own checksums are left as they are.
const AS_IT_IS: u8 = 4;
const DIFF_IDS: u8 = 8;

/// A store in a folder of its own in memory, of which nothing may get out.
pub(crate) struct Sandbox {
    dir: tempfile::TempDir,
    store: Store,
}

impl Sandbox {
    /// The one of this thread; it is never taken down before the process ends.
    pub(crate) fn get() -> &'static Self {
        thread_local! { static SANDBOX: OnceCell<&'static Sandbox> = const { OnceCell::new() }; }
        SANDBOX.with(|cell| *cell.get_or_init(|| Box::leak(Box::new(Self::make()))))
    }

    fn make() -> Self {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        sweep(&base);
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir_in(base)
            .unwrap_or_else(|e| panic!("{e}"));
        let store = Store::open(dir.path().join("store")).unwrap_or_else(|e| panic!("{e}"));
        std::fs::create_dir(dir.path().join("outside")).unwrap_or_else(|e| panic!("{e}"));
        Self { dir, store }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A folder beside the store.
    pub(crate) fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Everything is where it belongs, and each blob is what its name says. Then the store is empty again.
    pub(crate) fn check_and_clear(&self) {
        assert_eq!(names(self.dir.path()), ["outside", "store"], "something was written beside the store");
        let allowed = ["blobs", "incoming", "index.json", "index.lock", "oci-layout"];
        for name in names(self.store.root()) {
            assert!(allowed.contains(&name.as_str()), "the store holds {name}");
        }
        let blobs = self.store.list().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            names(&self.store.root().join("blobs/sha256")).len(),
            blobs.len(),
            "blobs have digests as names"
        );
        for (digest, size) in blobs {
            if let Err(e) = self.store.read(&digest, size) {
                panic!("a blob of the store: {e}");
            }
            self.store.remove(&digest).unwrap_or_else(|e| panic!("{e}"));
        }
        let _ = std::fs::remove_file(self.store.root().join("index.json"));
        assert!(names(&self.store.root().join("incoming")).is_empty(), "something half-written stayed");
    }
}

/// Takes away what earlier processes left: a sandbox lives as long as its process, which an engine ends without a word.
fn sweep(base: &Path) {
    for name in names(base) {
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            let _ = std::fs::remove_dir_all(base.join(name));
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut all: Vec<String> =
        entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect();
    all.sort();
    all
}

pub(crate) fn run(data: &[u8]) -> bool {
    let (flags, rest) = split_first(data);
    let (split, bodies) =
        rest.split_first_chunk::<2>().map_or((0, rest), |(n, b)| (u16::from_le_bytes(*n), b));
    let (low, high) = bodies.split_at(usize::from(split).min(bodies.len()));
    let sandbox = Sandbox::get();
    let store = sandbox.store();
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for body in [low, high] {
        let plain = if flags & AS_IT_IS == 0 { with_checksums(body) } else { body.to_vec() };
        diff_ids.push(format!("\"{}\"", Digest::of(&plain)));
        let packed = match flags & (GZIP | ZSTD) {
            GZIP => forms::gzip(&plain),
            ZSTD => forms::zstd(&plain),
            _ => plain,
        };
        store.put(&packed).unwrap_or_else(|e| panic!("{e}"));
        layers.push(Descriptor::of("application/vnd.oci.image.layer.v1.tar", &packed));
    }
    if flags & DIFF_IDS == 0 {
        diff_ids.clear();
    }
    let config = format!(r#"{{"rootfs":{{"diff_ids":[{}]}}}}"#, diff_ids.join(","));
    store.put(config.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": Descriptor::of("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": layers,
    });
    let digest = store.put(manifest.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let image = Image::load(store, &digest);
    if let Ok(image) = &image {
        sound(image, store);
    }
    sandbox.check_and_clear();
    image.is_ok()
}

fn sound(image: &Image, store: &Store) {
    assert!(image.files.len() <= limits::FILES);
    assert!(image.files.values().map(|f| f.size).sum::<u64>() <= limits::UNPACKED);
    for (path, file) in &image.files {
        assert_eq!(path, &file.path);
        assert!(path != "/" && is_clean(path) && path.len() <= limits::PATH, "{path:?} is no plain path");
        assert!(file.mode <= 0o777);
        assert_eq!(store.size(&file.digest), Some(file.size), "{path} is not in the store");
        for (at, _) in path.match_indices('/').skip(1) {
            assert!(!image.files.contains_key(&path[..at]), "{path} lies below a file");
        }
    }
}

/// The same archive with the checksum of each header put right: else the search would only ever find wrong ones.
pub(crate) fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut out = archive.to_vec();
    let mut at = 0;
    while let Some(block) = out.get_mut(at..at + 512) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().all(|b| *b == 0) {
            break;
        }
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let size = header.entry_size().ok().and_then(|n| usize::try_from(n).ok());
        let Some(next) = size.and_then(|n| n.checked_next_multiple_of(512)?.checked_add(at + 512)) else {
            break;
        };
        at = next;
    }
    out
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let low = forms::Tar::default().file("app.wasm", b"\0asm\x01\0\0\0").file("etc/a", b"1");
    let high = forms::Tar::default().file("etc/.wh.a", b"").entry("etc", tar::EntryType::Directory, "", b"");
    let deep = forms::Tar::default().file("etc/.wh..wh..opq", b"").file("./b/c", b"2");
    let long = forms::Tar::default()
        .entry("././@LongLink", tar::EntryType::GNULongName, "", b"a/long/name")
        .file("short", b"")
        .entry("pax", tar::EntryType::XHeader, "", b"17 path=pax/name\n")
        .file("short", b"3");
    let pair = |flags: u8, a: &[u8], b: &[u8]| {
        let mut out = vec![flags];
        out.extend(u16::try_from(a.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(a);
        out.extend_from_slice(b);
        out
    };
    let (low, high, deep, long) = (low.bytes(), high.bytes(), deep.bytes(), long.bytes());
    vec![
        pair(0, &low, &high),
        pair(GZIP | DIFF_IDS, &low, &deep),
        pair(ZSTD | DIFF_IDS, &long, &high),
        pair(AS_IT_IS, &forms::gzip(&low), &forms::zstd(&deep)),
    ]
}
