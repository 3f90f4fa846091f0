//! The content-addressed store, an OCI image layout on disk: what is in it has the digest it is named by.
//!
//! A blob is written aside, hashed, flushed and renamed; a crash leaves a whole blob or none.

use crate::error::{Context as _, Error, Result};
use sha2::{Digest as _, Sha256};
use shoal_protocol::ids::Digest;
use shoal_protocol::refusal::Code;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

/// How much of a stream is read at a time.
pub(crate) const CHUNK: usize = 64 << 10;

/// What bytes must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Exactly these.
    Exactly {
        /// Their digest.
        digest: Digest,
        /// Their number.
        size: u64,
    },
    /// Any, up to this many.
    AtMost(u64),
}

impl Expect {
    fn limit(self) -> u64 {
        match self {
            Self::Exactly { size, .. } | Self::AtMost(size) => size,
        }
    }
}

/// A folder of blobs by digest, with the names of images in its `index.json`.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, and makes it when it is not there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let store = Self { root: root.into() };
        for dir in [store.blobs(), store.incoming()] {
            fs::create_dir_all(&dir).context(|| format!("cannot create {}", dir.display()))?;
        }
        let marker = store.root.join("oci-layout");
        if !marker.exists() {
            replace_file(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(store)
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob lies, or would.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The blob's size when it is there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().filter(fs::Metadata::is_file).map(|m| m.len())
    }

    /// Opens a blob for reading. Its bytes are not hashed again: who acts on them does.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound(format!("{digest} is not in {}", self.root.display())),
            _ => Error::Io { what: format!("cannot open {}", path.display()), source },
        })
    }

    /// A blob's bytes, at most `cap` of them, hashed again.
    pub fn read(&self, digest: &Digest, cap: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?
            .take(cap.saturating_add(1))
            .read_to_end(&mut bytes)
            .context(|| format!("cannot read {digest}"))?;
        if bytes.len() as u64 > cap {
            return Err(Error::refused(Code::TooLarge, format!("{digest} has more than {cap} bytes")));
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::refused(
                Code::DigestMismatch,
                format!("{digest} in the store has become {found}"),
            ));
        }
        Ok(bytes)
    }

    /// Keeps `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self.size(&digest) != Some(bytes.len() as u64) {
            let mut writer = self.writer(Expect::Exactly { digest, size: bytes.len() as u64 })?;
            writer.write(bytes)?;
            writer.finish()?;
        }
        Ok(digest)
    }

    /// Keeps all that `reader` gives, if it is what was expected.
    pub fn put_from(&self, reader: &mut dyn Read, expect: Expect) -> Result<(Digest, u64)> {
        let mut writer = self.writer(expect)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = reader.read(&mut buffer).context(|| "cannot read the incoming bytes".to_owned())?;
            if n == 0 {
                return writer.finish();
            }
            writer.write(&buffer[..n])?;
        }
    }

    /// Keeps what the packed blob `packed` holds (gzip, zstd or plain), if it is what was expected.
    pub fn unpack(&self, packed: &Digest, expect: Expect) -> Result<(Digest, u64)> {
        self.unpack_into(packed, self, expect)
    }

    /// The same, kept in another store.
    pub(crate) fn unpack_into(&self, packed: &Digest, to: &Self, expect: Expect) -> Result<(Digest, u64)> {
        let blob = self.open_blob(packed)?;
        let mut reader =
            crate::compression::unpacked(blob).context(|| format!("cannot read the blob {packed}"))?;
        to.put_from(&mut reader, expect)
    }

    /// Begins a blob; dropped unfinished, it leaves nothing.
    pub fn writer(&self, expect: Expect) -> Result<BlobWriter> {
        let dir = self.incoming();
        let file = NamedTempFile::new_in(&dir).context(|| format!("cannot write in {}", dir.display()))?;
        Ok(BlobWriter { store: self.clone(), file, hash: Sha256::new(), written: 0, expect })
    }

    /// Forgets a blob; one that is not there is no error.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).context(|| format!("cannot remove {digest} from {}", self.root.display()))
            }
            _ => Ok(()),
        }
    }

    /// Every blob and its size.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let dir = self.blobs();
        let what = || format!("cannot list {}", dir.display());
        let mut out = Vec::new();
        for entry in fs::read_dir(&dir).context(what)? {
            let entry = entry.context(what)?;
            let name = entry.file_name();
            if let Some(digest) = name.to_str().and_then(|n| format!("sha256:{n}").parse().ok()) {
                out.push((digest, entry.metadata().context(what)?.len()));
            }
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Where the beginning of a blob that is still arriving is kept across interruptions.
    #[cfg(feature = "registry")]
    pub(crate) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.incoming().join(digest.hex())
    }

    /// Hashes what arrived at `partial_path` once more, whole, and keeps it, or removes it.
    #[cfg(feature = "registry")]
    pub(crate) fn adopt_partial(&self, digest: &Digest, size: u64) -> Result<()> {
        let path = self.partial_path(digest);
        let what = || format!("cannot read {}", path.display());
        let file = File::open(&path).context(what)?;
        let mut hashing = Hashing::new((&file).take(size + 1));
        let read = io::copy(&mut hashing, &mut io::sink()).context(what)?;
        let found = hashing.finish();
        if let Err(e) = verdict(Expect::Exactly { digest: *digest, size }, found, read) {
            fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
            return Err(e);
        }
        file.sync_all().context(|| format!("cannot flush {}", path.display()))?;
        fs::rename(&path, self.path(digest)).context(|| format!("cannot keep {digest}"))?;
        sync_dir(&self.blobs())
    }

    /// Removes what was left half-written for longer than `age`.
    pub fn sweep(&self, age: Duration) -> Result<()> {
        let dir = self.incoming();
        let what = || format!("cannot tidy {}", dir.display());
        for entry in fs::read_dir(&dir).context(what)? {
            let entry = entry.context(what)?;
            let modified = entry.metadata().and_then(|m| m.modified()).context(what)?;
            if modified.elapsed().is_ok_and(|since| since > age) {
                fs::remove_file(entry.path()).context(what)?;
            }
        }
        Ok(())
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }
}

/// A blob on its way into the store.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: NamedTempFile,
    hash: Sha256,
    written: u64,
    expect: Expect,
}

impl BlobWriter {
    /// Takes the next bytes; refuses as soon as they are too many.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.expect.limit() {
            return Err(match self.expect {
                Expect::Exactly { digest, size } => more_than_signed(&digest, size),
                Expect::AtMost(limit) => {
                    Error::refused(Code::TooLarge, format!("more than {limit} bytes came"))
                }
            });
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).context(|| format!("cannot write {}", self.file.path().display()))
    }

    /// Keeps the blob if it is what was expected.
    pub fn finish(self) -> Result<(Digest, u64)> {
        let digest = Digest(self.hash.finalize().into());
        verdict(self.expect, digest, self.written)?;
        let what = || format!("cannot keep {digest}");
        self.file.as_file().sync_all().context(what)?;
        self.file.persist(self.store.path(&digest)).map_err(|e| e.error).context(what)?;
        sync_dir(&self.store.blobs())?;
        Ok((digest, self.written))
    }
}

/// Hashes what passes.
pub(crate) struct Hashing<R> {
    pub(crate) inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}

/// A source that gave more than was signed.
pub(crate) fn more_than_signed(digest: &Digest, size: u64) -> Error {
    Error::refused(Code::DigestMismatch, format!("{digest} should have {size} bytes and more came"))
}

fn verdict(expect: Expect, found: Digest, written: u64) -> Result<()> {
    match expect {
        Expect::Exactly { digest, size } if found != digest || written != size => Err(Error::refused(
            Code::DigestMismatch,
            format!("expected {digest} ({size} bytes), got {found} ({written} bytes)"),
        )),
        _ => Ok(()),
    }
}

/// Replaces a small file as a whole.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let what = || format!("cannot write {}", path.display());
    let mut file = NamedTempFile::new_in(dir).context(what)?;
    file.write_all(bytes).context(what)?;
    file.as_file().sync_all().context(what)?;
    file.persist(path).map_err(|e| e.error).context(what)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).context(|| format!("cannot flush {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        (dir, store)
    }

    #[test]
    fn m1_bytes_beyond_the_signed_size_stop_the_copy() {
        let (_dir, store) = store();
        let digest = Digest::of(b"ten bytes!");
        let mut endless = io::repeat(7);
        let e = store.put_from(&mut endless, Expect::Exactly { digest, size: 10 }).unwrap_err();
        assert_eq!(e.code(), Some(Code::DigestMismatch));
        assert_eq!(
            store.put_from(&mut io::repeat(7), Expect::AtMost(99)).unwrap_err().code(),
            Some(Code::TooLarge)
        );
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(fs::read_dir(store.incoming()).unwrap().count(), 0);
    }

    #[test]
    fn m2_other_bytes_than_the_digest_are_not_kept() {
        let (_dir, store) = store();
        let digest = Digest::of(b"right");
        for wrong in [&b"wrong"[..], b"righ"] {
            let e = store.put_from(&mut &wrong[..], Expect::Exactly { digest, size: 5 }).unwrap_err();
            assert_eq!(e.code(), Some(Code::DigestMismatch));
        }
        assert_eq!((store.size(&digest), store.list().unwrap().len()), (None, 0));
        store.put_from(&mut &b"right"[..], Expect::Exactly { digest, size: 5 }).unwrap();
        assert_eq!(store.read(&digest, 5).unwrap(), b"right");
    }

    #[test]
    fn a_blob_that_rotted_on_disk_is_not_read() {
        let (_dir, store) = store();
        let digest = store.put(b"good").unwrap();
        fs::write(store.path(&digest), b"evil").unwrap();
        assert_eq!(store.read(&digest, 99).unwrap_err().code(), Some(Code::DigestMismatch));
        store.remove(&digest).unwrap();
        assert!(matches!(store.read(&digest, 99), Err(Error::NotFound(_))));
    }
}
