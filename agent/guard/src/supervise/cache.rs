//! The store of modules, files and compiled code. Only digests name anything, and only supervise writes.

use sha2::{Digest as _, Sha256};
use shoal_ipc::{CompiledInfo, Digest, Error, Field, Layout, Needs, Reader, Writer, decode, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How a module is executed, and so what is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// As native code for this CPU.
    Native,
    /// By the engine's interpreter, without custom sections.
    Interpreted,
}

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

    /// The name of a module's code in the cache. What is interpreted depends on no CPU.
    pub(crate) fn key(&self, module: &Digest, mode: Mode) -> Digest {
        match mode {
            Mode::Native => digest(module, [&self.line, &self.cpu]),
            Mode::Interpreted => digest(module, [&self.line, "interpreted"]),
        }
    }

    /// This engine on this CPU.
    pub(crate) fn id(&self) -> Digest {
        digest(&Digest([0; 32]), [&self.line, &self.cpu])
    }
}

fn digest(module: &Digest, parts: [&str; 2]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(module.0);
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Digest(hash.finalize().into())
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
pub(crate) struct CodeInfo {
    pub(crate) hash: Digest,
    pub(crate) info: CompiledInfo,
    /// What a container must be granted to run it.
    pub(crate) needs: Needs,
    /// The self-tests that it passed.
    pub(crate) tested: Vec<String>,
}

impl CodeInfo {
    /// Whether it passed this self-test; without one its trial was enough, which all code here has behind it.
    pub(crate) fn passed(&self, self_test: Option<&String>) -> bool {
        self_test.is_none_or(|t| self.tested.contains(t))
    }
}

impl Field for CodeInfo {
    fn put(&self, w: &mut Writer) {
        self.hash.put(w);
        self.info.put(w);
        self.needs.put(w);
        self.tested.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            hash: Field::take(r)?,
            info: Field::take(r)?,
            needs: Field::take(r)?,
            tested: Field::take(r)?,
        })
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

/// What the name of a file begins with that no job has finished.
const ON_ITS_WAY: &str = "new-";

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

    /// What is known of the code of this key.
    pub(crate) fn info(&self, key: &Digest) -> Option<CodeInfo> {
        let info = self.read_info(key)?;
        self.code_file(key).exists().then_some(info)
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
            // Once in a life of supervise's it counts as used; what cannot be noted goes a little earlier.
            let _ = fs::File::open(self.info_file(key)).and_then(|f| f.set_modified(SystemTime::now()));
            return Code::Good(path);
        }
        self.drop_code(key);
        Code::Changed
    }

    /// Keeps freshly made code that passed its trial; `temp` is in the cache's own folder.
    pub(crate) fn keep(&mut self, key: &Digest, temp: &Path, info: &CodeInfo) -> io::Result<()> {
        let path = self.code_file(key);
        // Its bytes are on disk already: the copy that made `temp` ended with that.
        fs::rename(temp, &path)?;
        super::dirs::write_durably(&self.info_file(key), &encode(info))?;
        self.checked.insert(*key, stamp(&path)?);
        Ok(())
    }

    /// Notes that code which is kept passed another self-test.
    pub(crate) fn passed(&mut self, key: &Digest, self_test: String) -> io::Result<()> {
        let mut info = self.read_info(key).ok_or(io::ErrorKind::NotFound)?;
        info.tested.push(self_test);
        super::dirs::write_durably(&self.info_file(key), &encode(&info))
    }

    /// A name for code on its way in. Without root the engine opens it for its trial, by what a name ends in.
    pub(crate) fn temp_code(&self, key: &Digest) -> PathBuf {
        self.layout.cache().join(format!("{ON_ITS_WAY}{}.so", key.hex()))
    }

    fn drop_code(&mut self, key: &Digest) {
        self.checked.remove(key);
        // Whatever cannot be deleted fails its hash again next time.
        let _ = fs::remove_file(self.code_file(key));
        let _ = fs::remove_file(self.info_file(key));
    }

    /// Deletes files that no ticket names any more, and of modules and code that none names the longest unused, until all of
    /// it fits into `quota` bytes and `free` bytes are left on the disk. What a ticket names stays whatever it takes.
    pub(crate) fn sweep(&mut self, named: &Named, quota: u64, free: u64) {
        let (mut total, mut idle) = (0, Vec::new());
        let folders = [
            (self.layout.files(), &named.files),
            (self.layout.modules(), &named.modules),
            (self.layout.cache(), &named.keys),
        ];
        for (at, (folder, keep)) in folders.into_iter().enumerate() {
            for entry in entries(&folder) {
                total += entry.size;
                if keep.contains(&entry.stem) {
                    continue;
                }
                if at == 0 {
                    total -= entry.remove();
                } else {
                    idle.push(entry);
                }
            }
        }
        idle.sort_by_key(|e| e.used);
        for entry in idle {
            if total <= quota && self.free_bytes() >= free {
                break;
            }
            total -= entry.remove();
        }
        let cache = self.layout.cache();
        self.checked.retain(|k, _| cache.join(format!("{}.so", k.hex())).exists());
    }

    fn free_bytes(&self) -> u64 {
        // Without an answer there is no reason to delete.
        rustix::fs::statvfs(self.layout.cache()).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
    }
}

/// The names that tickets keep alive: digests and keys in hexadecimal.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) modules: BTreeSet<String>,
    pub(crate) files: BTreeSet<String>,
    pub(crate) keys: BTreeSet<String>,
}

/// What belongs together in a folder: a module, or code with what is written down beside it.
struct Entry {
    stem: String,
    paths: Vec<PathBuf>,
    size: u64,
    used: SystemTime,
}

impl Entry {
    fn remove(&self) -> u64 {
        for path in &self.paths {
            // What stays is looked at again next time.
            let _ = fs::remove_file(path);
        }
        self.size
    }
}

fn entries(folder: &Path) -> Vec<Entry> {
    let mut all: BTreeMap<String, Entry> = BTreeMap::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (name, path) = (file.file_name(), file.path());
        let (Some(stem), Ok(meta)) = (name.to_str().and_then(|n| n.split('.').next()), file.metadata())
        else {
            continue;
        };
        // Files on their way in belong to a running job; the engine's proof is nobody's code.
        if stem.starts_with(ON_ITS_WAY) || path.extension().is_some_and(|e| e == "new" || e == "proof") {
            continue;
        }
        let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let entry = all.entry(stem.to_owned()).or_insert_with(|| Entry {
            stem: stem.to_owned(),
            paths: Vec::new(),
            size: 0,
            used,
        });
        entry.paths.push(path);
        entry.size += meta.len();
        entry.used = entry.used.max(used);
    }
    all.into_values().collect()
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
        c.keep(key, &temp, &CodeInfo { hash, info, needs: Needs::default(), tested: vec![] }).unwrap();
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
    fn another_engine_option_cpu_or_mode_is_another_key() {
        let e = Engine { line: "0.17.1 O3".into(), cpu: "avx".into(), compiler: true };
        let (m, native) = (Digest([2; 32]), Mode::Native);
        let other_line = Engine { line: "0.17.1 O2".into(), ..e.clone() };
        let other_cpu = Engine { cpu: "sse".into(), ..e.clone() };
        assert_ne!(e.key(&m, native), other_line.key(&m, native));
        assert_ne!(e.key(&m, native), other_cpu.key(&m, native));
        assert_ne!(e.key(&m, native), e.key(&Digest([3; 32]), native));
        assert_ne!(e.key(&m, native), e.key(&m, Mode::Interpreted));
        assert_eq!(e.key(&m, Mode::Interpreted), other_cpu.key(&m, Mode::Interpreted));
        assert_ne!(e.id(), other_cpu.id());
        assert_eq!(e.version(), "0.17.1");
    }

    #[test]
    fn a_self_test_passed_later_is_kept_beside_the_code() {
        let (_dir, mut c) = cache();
        let key = Digest([1; 32]);
        keep(&mut c, &key, b"code");
        assert!(c.info(&key).unwrap().passed(None));
        assert!(!c.info(&key).unwrap().passed(Some(&"t".into())));
        c.passed(&key, "t".into()).unwrap();
        assert!(c.info(&key).unwrap().passed(Some(&"t".into())));
        assert!(matches!(c.code(&key), Code::Good(_)));
    }

    /// Three pieces of code of 10 bytes and more, the first used longest ago.
    fn filled() -> (tempfile::TempDir, Cache, [Digest; 3]) {
        let (dir, mut c) = cache();
        let keys = [Digest([1; 32]), Digest([2; 32]), Digest([3; 32])];
        for (n, key) in keys.iter().enumerate() {
            keep(&mut c, key, &[0; 10]);
            for path in [c.code_file(key), c.info_file(key)] {
                let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + n as u64);
                fs::File::open(path).unwrap().set_modified(then).unwrap();
            }
        }
        (dir, c, keys)
    }

    #[test]
    fn the_longest_unused_code_goes_first_and_only_as_much_as_the_quota_asks() {
        let (_dir, mut c, keys) = filled();
        let size: u64 = entries(&c.layout.cache()).iter().map(|e| e.size).sum();
        c.sweep(&Named::default(), size, 0);
        assert!(keys.iter().all(|k| c.info(k).is_some()), "all of it fits");
        c.sweep(&Named::default(), size - 1, 0);
        assert_eq!(keys.map(|k| c.info(&k).is_some()), [false, true, true]);
    }

    #[test]
    fn what_a_ticket_names_is_never_dropped_however_small_the_quota_or_the_disk() {
        let (_dir, mut c, keys) = filled();
        fs::write(c.item(&keys[1], true), b"m").unwrap();
        fs::write(c.item(&keys[2], true), b"m").unwrap();
        fs::write(c.item(&keys[2], false), b"f").unwrap();
        let hex = |k: &Digest| BTreeSet::from([k.hex()]);
        let named = Named { modules: hex(&keys[1]), keys: hex(&keys[0]), files: BTreeSet::new() };
        c.sweep(&named, 0, u64::MAX);
        assert_eq!(keys.map(|k| c.info(&k).is_some()), [true, false, false]);
        assert!(matches!(c.code(&keys[0]), Code::Good(_)));
        assert!(c.has(&keys[1], true) && !c.has(&keys[2], true) && !c.has(&keys[2], false));
    }

    #[test]
    fn a_full_disk_drops_what_no_ticket_names() {
        let (_dir, mut c, keys) = filled();
        c.sweep(&Named::default(), u64::MAX, u64::MAX);
        assert!(keys.iter().all(|k| c.info(k).is_none()));
    }
}
