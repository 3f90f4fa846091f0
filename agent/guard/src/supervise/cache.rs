//! The store of modules, files and compiled code. Only digests name anything, and only supervise writes.

use sha2::{Digest as _, Sha256};
use shoal_ipc::{CompiledInfo, Digest, Error, Field, Layout, Reader, Writer, decode, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What makes compiled code fit: engine with its options, and this CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Engine {
    /// The line that `shoal-runner engine` prints; empty without an engine.
    pub(crate) line: String,
    /// The CPU's features as the kernel lists them.
    pub(crate) cpu: String,
    pub(crate) compiler: bool,
}

impl Engine {
    /// The engine's version.
    pub(crate) fn version(&self) -> &str {
        self.line.split(' ').next().unwrap_or("")
    }

    /// The name of a module's code in the cache.
    pub(crate) fn key(&self, module: &Digest) -> Digest {
        let mut hash = Sha256::new();
        hash.update(module.0);
        for part in [&self.line, &self.cpu] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Digest(hash.finalize().into())
    }
}

/// The CPU's features, as `/proc/cpuinfo` lists them.
pub(crate) fn cpu_features() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("flags") || l.starts_with("Features"));
    let mut all: Vec<&str> =
        line.and_then(|l| l.split_once(':')).map(|(_, f)| f.split_whitespace().collect()).unwrap_or_default();
    all.sort_unstable();
    all.join(" ")
}

/// What is written down beside compiled code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CodeInfo {
    hash: Digest,
    info: CompiledInfo,
}

impl Field for CodeInfo {
    fn put(&self, w: &mut Writer) {
        self.hash.put(w);
        self.info.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { hash: Field::take(r)?, info: Field::take(r)? })
    }
}

/// What identifies a file's content without reading it: nobody but root can write here, and a write moves ctime.
type Stamp = (u64, u64, i64, i64);

/// Whether compiled code may be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// It is as it was made.
    Good(PathBuf),
    /// There is none.
    Absent,
    /// It is not what was made; it was deleted.
    Changed,
}

/// The folders, and which code was checked already.
#[derive(Debug)]
pub(crate) struct Cache {
    layout: Layout,
    checked: BTreeMap<Digest, Stamp>,
}

/// A file's digest.
fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let m = fs::metadata(path)?;
    Ok((m.ino(), m.size(), m.ctime(), m.ctime_nsec()))
}

impl Cache {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, checked: BTreeMap::new() }
    }

    /// Where a staged item is kept.
    pub(crate) fn item(&self, digest: &Digest, module: bool) -> PathBuf {
        let folder = if module { self.layout.modules() } else { self.layout.files() };
        folder.join(digest.hex())
    }

    pub(crate) fn has(&self, digest: &Digest, module: bool) -> bool {
        self.item(digest, module).exists()
    }

    fn code_file(&self, key: &Digest) -> PathBuf {
        self.layout.cache().join(format!("{}.so", key.hex()))
    }

    fn info_file(&self, key: &Digest) -> PathBuf {
        self.layout.cache().join(format!("{}.info", key.hex()))
    }

    fn read_info(&self, key: &Digest) -> Option<CodeInfo> {
        decode(&fs::read(self.info_file(key)).ok()?).ok()
    }

    /// What the code of this key cost to make.
    pub(crate) fn info(&self, key: &Digest) -> Option<CompiledInfo> {
        let info = self.read_info(key)?;
        self.code_file(key).exists().then_some(info.info)
    }

    /// The code of this key, hashed before each first use and after each change of its file.
    pub(crate) fn code(&mut self, key: &Digest) -> Code {
        let path = self.code_file(key);
        let Some(info) = self.read_info(key) else { return Code::Absent };
        let Ok(now) = stamp(&path) else { return Code::Absent };
        if self.checked.get(key) == Some(&now) {
            return Code::Good(path);
        }
        if hash_file(&path).ok() == Some(info.hash) {
            self.checked.insert(*key, now);
            return Code::Good(path);
        }
        self.drop_code(key);
        Code::Changed
    }

    /// Keeps freshly compiled code; `temp` is in the cache's own folder.
    pub(crate) fn keep(
        &mut self,
        key: &Digest,
        temp: &Path,
        hash: Digest,
        info: CompiledInfo,
    ) -> io::Result<()> {
        let path = self.code_file(key);
        fs::File::open(temp)?.sync_all()?;
        fs::rename(temp, &path)?;
        super::dirs::write_durably(&self.info_file(key), &encode(&CodeInfo { hash, info }))?;
        self.checked.insert(*key, stamp(&path)?);
        Ok(())
    }

    /// A name for code on its way in.
    pub(crate) fn temp_code(&self, key: &Digest) -> PathBuf {
        self.layout.cache().join(format!("{}.new", key.hex()))
    }

    fn drop_code(&mut self, key: &Digest) {
        self.checked.remove(key);
        // Whatever cannot be deleted fails its hash again next time.
        let _ = fs::remove_file(self.code_file(key));
        let _ = fs::remove_file(self.info_file(key));
    }

    /// Deletes what no ticket names any more.
    pub(crate) fn sweep(
        &mut self,
        modules: &BTreeSet<Digest>,
        files: &BTreeSet<Digest>,
        keys: &BTreeSet<Digest>,
    ) {
        let names = |set: &BTreeSet<Digest>| set.iter().map(Digest::hex).collect::<BTreeSet<_>>();
        sweep_folder(&self.layout.modules(), &names(modules));
        sweep_folder(&self.layout.files(), &names(files));
        sweep_folder(&self.layout.cache(), &names(keys));
        self.checked.retain(|k, _| keys.contains(k));
    }
}

fn sweep_folder(folder: &Path, keep: &BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|n| n.split('.').next()).unwrap_or("");
        // Files on their way in belong to a running job.
        let arriving = Path::new(&name).extension().is_some_and(|e| e == "new");
        if !keep.contains(stem) && !arriving {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        super::super::dirs::set_up(&layout, None).unwrap();
        (dir, Cache::new(layout))
    }

    fn keep(c: &mut Cache, key: &Digest, bytes: &[u8]) {
        let temp = c.temp_code(key);
        fs::write(&temp, bytes).unwrap();
        let hash = hash_file(&temp).unwrap();
        let info =
            CompiledInfo { engine: "1".into(), millis: 1, module_size: 1, code_size: 1, cache_hit: false };
        c.keep(key, &temp, hash, info).unwrap();
    }

    #[test]
    fn m9_changed_code_is_noticed_and_deleted() {
        let (_dir, mut c) = cache();
        let key = Digest([1; 32]);
        assert_eq!(c.code(&key), Code::Absent);
        keep(&mut c, &key, b"code");
        let Code::Good(path) = c.code(&key) else { panic!() };
        fs::write(&path, b"evil").unwrap();
        assert_eq!(c.code(&key), Code::Changed);
        assert_eq!(c.code(&key), Code::Absent);
    }

    #[test]
    fn another_engine_option_or_cpu_is_another_key() {
        let e = Engine { line: "0.17.1 O3".into(), cpu: "avx".into(), compiler: true };
        let m = Digest([2; 32]);
        assert_ne!(e.key(&m), Engine { line: "0.17.1 O2".into(), ..e.clone() }.key(&m));
        assert_ne!(e.key(&m), Engine { cpu: "sse".into(), ..e.clone() }.key(&m));
        assert_ne!(e.key(&m), e.key(&Digest([3; 32])));
        assert_eq!(e.version(), "0.17.1");
    }

    #[test]
    fn sweeping_keeps_what_tickets_name() {
        let (_dir, mut c) = cache();
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        keep(&mut c, &a, b"a");
        keep(&mut c, &b, b"b");
        fs::write(c.item(&a, true), b"m").unwrap();
        c.sweep(&BTreeSet::new(), &BTreeSet::new(), &BTreeSet::from([b]));
        assert_eq!(c.code(&a), Code::Absent);
        assert!(matches!(c.code(&b), Code::Good(_)));
        assert!(!c.has(&a, true));
    }
}
