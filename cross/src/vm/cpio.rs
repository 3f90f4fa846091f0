//! Writes an initramfs: the "new ASCII" cpio format that the kernel unpacks (Linux, `buffer-format.rst`). Reads files, decides nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path};

use anyhow::{Context as _, Result, bail};

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive being written; everything in it belongs to root.
pub(crate) struct Archive<W: Write> {
    out: W,
    folders: std::collections::BTreeSet<String>,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(crate) fn new(out: W) -> Self {
        Self { out, folders: std::collections::BTreeSet::new(), entries: 0 }
    }

    /// A folder, and those above it.
    pub(crate) fn folder(&mut self, path: &str) -> Result<()> {
        let path = plain(path)?;
        let mut at = String::new();
        for part in path.split('/') {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(part);
            if self.folders.insert(at.clone()) {
                self.entry(&at, FOLDER | 0o755, 0, io::empty())?;
            }
        }
        Ok(())
    }

    /// A small file with this text.
    pub(crate) fn text(&mut self, path: &str, mode: u32, text: &str) -> Result<()> {
        self.parent(path)?;
        self.entry(plain(path)?, REGULAR | mode, text.len() as u64, text.as_bytes())
    }

    /// A file of this machine; a link is followed.
    pub(crate) fn file(&mut self, from: &Path, path: &str, mode: u32) -> Result<()> {
        self.parent(path)?;
        let mut copy = || -> Result<()> {
            let file = File::open(from)?;
            let size = file.metadata()?.len();
            self.entry(plain(path)?, REGULAR | mode, size, file)
        };
        copy().with_context(|| format!("put {} into the initramfs", from.display()))
    }

    /// A folder of this machine with all that is in it: links stay links, files keep their run bit.
    pub(crate) fn tree(&mut self, from: &Path, path: &str) -> Result<()> {
        self.folder(path)?;
        let mut names: Vec<_> = fs::read_dir(from)
            .with_context(|| format!("read {}", from.display()))?
            .collect::<io::Result<_>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("{} is not UTF-8", entry.path().display()))?;
            let to = format!("{path}/{name}");
            let kind = entry.metadata()?;
            if kind.is_dir() {
                self.tree(&entry.path(), &to)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                let target = target.to_str().with_context(|| format!("{to} links to no UTF-8"))?;
                self.entry(plain(&to)?, LINK | 0o777, target.len() as u64, target.as_bytes())?;
            } else {
                let mode = if kind.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
                self.file(&entry.path(), &to, mode)?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, 0, io::empty())?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &str) -> Result<()> {
        match plain(path)?.rsplit_once('/') {
            Some((parent, _)) => self.folder(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, size: u64, data: impl io::Read) -> Result<()> {
        self.entries += 1;
        let length = u32::try_from(size).with_context(|| format!("{name} is too large for an initramfs"))?;
        let links = if mode & FOLDER == 0 { 1 } else { 2 };
        // Inode, mode, uid, gid, links, time, size, four device numbers, the name's length with its NUL, no checksum.
        let named = u32::try_from(name.len() + 1).context("a name that long")?;
        let fields = [self.entries, mode, 0, 0, links, 0, length, 0, 0, 0, 0, named, 0];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        write!(self.out, "{name}\0")?;
        pad(&mut self.out, 110 + u64::from(named))?;
        let copied = io::copy(&mut data.take(size), &mut self.out)?;
        if copied != size {
            bail!("{name} became shorter while it was read");
        }
        Ok(pad(&mut self.out, size)?)
    }
}

/// Fills up to a multiple of four.
fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    let missing = (4 - written % 4) % 4;
    io::copy(&mut io::Read::take(io::repeat(0), missing), out).map(drop)
}

/// The path as the archive has it: without the slash in front, of plain names only.
fn plain(path: &str) -> Result<&str> {
    let bare = path.trim_start_matches('/');
    if bare.is_empty() || !Path::new(bare).components().all(|c| matches!(c, Component::Normal(_))) {
        bail!("{path:?} is no path for an initramfs");
    }
    Ok(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode and data of each entry, read back by the offsets of the format.
    fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let (mut all, mut at) = (Vec::new(), 0);
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let from = at + 6 + n * 8;
                u32::from_str_radix(std::str::from_utf8(&bytes[from..from + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, named) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[at + 110..at + 109 + named].to_vec()).unwrap();
            let data = (at + 110 + named).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return all;
            }
            all.push((name, mode, bytes[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once_only() {
        let mut archive = Archive::new(Vec::new());
        archive.text("/init", 0o755, "hello").unwrap();
        archive.text("/a/b/one", 0o644, "1").unwrap();
        archive.text("/a/b/two", 0o644, "").unwrap();
        let found = entries(&archive.finish().unwrap());
        let names: Vec<(&str, u32)> = found.iter().map(|(n, m, _)| (n.as_str(), *m)).collect();
        assert_eq!(
            names,
            [
                ("init", 0o100_755),
                ("a", 0o040_755),
                ("a/b", 0o040_755),
                ("a/b/one", 0o100_644),
                ("a/b/two", 0o100_644)
            ]
        );
        assert_eq!((found[0].2.as_slice(), found[3].2.as_slice()), (&b"hello"[..], &b"1"[..]));
    }

    #[test]
    fn a_tree_keeps_links_and_run_bits() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ld.so"), "x").unwrap();
        fs::set_permissions(dir.path().join("ld.so"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("ld.so", dir.path().join("link")).unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.tree(dir.path(), "/lib").unwrap();
        let found = entries(&archive.finish().unwrap());
        assert_eq!(found[1], ("lib/ld.so".into(), 0o100_755, b"x".to_vec()));
        assert_eq!(found[2], ("lib/link".into(), 0o120_777, b"ld.so".to_vec()));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let mut archive = Archive::new(Vec::new());
        for path in ["/", "../x", "/a/../b"] {
            assert!(archive.text(path, 0o644, "").is_err(), "{path}");
        }
    }
}
