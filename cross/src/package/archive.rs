//! Archives whose bytes follow from their contents alone: tar in the order of names, owned by root, with one time for all;
//! gzip without name and time; `ar` as dpkg wants it (deb(5)).

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::pins::Pins;
use crate::{fetch, layout, paths};

/// One member of an archive.
pub(super) enum Item<'a> {
    Folder,
    File { mode: u32, bytes: &'a [u8] },
    Link(&'a str),
}

/// A tar file being written.
pub(super) struct Tar {
    builder: tar::Builder<Vec<u8>>,
    time: u64,
    last: String,
}

impl Tar {
    /// An empty one; everything in it is of `time`.
    pub(super) fn new(time: u64) -> Self {
        Self { builder: tar::Builder::new(Vec::new()), time, last: String::new() }
    }

    /// Adds a member. Names must come in order, so that nobody's folder order can show.
    pub(super) fn add(&mut self, path: &str, item: &Item<'_>) -> Result<()> {
        if path <= self.last.as_str() {
            bail!("{path} comes after {} in an archive: names must rise", self.last);
        }
        path.clone_into(&mut self.last);
        let mut header = tar::Header::new_gnu();
        header.set_mtime(self.time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root").context("name the owner")?;
        header.set_groupname("root").context("name the owner")?;
        let (kind, mode, bytes) = match item {
            Item::Folder => (tar::EntryType::Directory, 0o755, &b""[..]),
            Item::File { mode, bytes } => (tar::EntryType::Regular, *mode, *bytes),
            Item::Link(_) => (tar::EntryType::Symlink, 0o777, &b""[..]),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        let name = if matches!(item, Item::Folder) { format!("{path}/") } else { path.to_owned() };
        match item {
            Item::Link(target) => self.builder.append_link(&mut header, name, target),
            _ => self.builder.append_data(&mut header, name, bytes),
        }
        .with_context(|| format!("add {path} to an archive"))
    }

    /// The finished bytes.
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        self.builder.into_inner().context("finish an archive")
    }
}

/// gzip (RFC 1952) without a name and a time; `level` from 1 to 9.
pub(super) fn gzip(bytes: &[u8], level: u32) -> Result<Vec<u8>> {
    filter(Command::new("gzip").args(["-n", "-c", &format!("-{level}")]).env_remove("GZIP"), bytes)
}

/// xz in one thread (with more, the number of cores would show), with a dictionary that a small device can hold.
pub(super) fn xz(bytes: &[u8], is_x86: bool) -> Result<Vec<u8>> {
    let mut command = Command::new("xz");
    command.args(["--format=xz", "--check=crc32", "--threads=1", "--stdout"]);
    if is_x86 {
        command.arg("--x86");
    }
    command.arg("--lzma2=preset=9e,dict=16MiB").env_remove("XZ_OPT").env_remove("XZ_DEFAULTS");
    filter(&mut command, bytes)
}

/// Zstandard (RFC 8878) in one thread: unpacked five times as fast as xz, for a fifth more bytes. The version is pinned, since the
/// bytes follow from it.
pub(super) fn zstd(bytes: &[u8]) -> Result<Vec<u8>> {
    let pins = Pins::parse("pins/packer-amd64.toml", include_str!("../../pins/packer-amd64.toml"))?;
    let dir = paths::target()?.join("tools/packer");
    fetch::install(&pins, "packer layout 1", &dir, |unpacked, new| {
        layout::take(&unpacked.join("usr/bin/zstd"), &new.join("zstd"))
    })?;
    let mut command = Command::new(dir.join("zstd"));
    command.args(["-19", "--single-thread", "--quiet", "--stdout"]).env_remove("ZSTD_CLEVEL");
    filter(&mut command, bytes)
}

/// What a program makes of these bytes.
fn filter(command: &mut Command, bytes: &[u8]) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}: is it installed?"))?;
    let (mut input, mut output) =
        child.stdin.take().zip(child.stdout.take()).context("a program was started without pipes")?;
    let mut packed = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        // It reads and writes at once.
        let writer = scope.spawn(move || input.write_all(bytes));
        output.read_to_end(&mut packed).with_context(|| format!("read from {name}"))?;
        let written = writer.join().ok().context("the thread that writes died")?;
        written.with_context(|| format!("write to {name}"))
    })?;
    let status = child.wait().with_context(|| format!("wait for {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(packed)
}

/// An `ar` file of these members, in this order.
pub(super) fn ar(time: u64, members: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        if name.len() > 16 {
            bail!("{name} is too long a name for an ar file");
        }
        let header = format!("{name:<16}{time:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 100_644, bytes.len());
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(bytes);
        if bytes.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    Ok(out)
}

/// Writes a file whole or not at all.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, path).with_context(|| format!("rename {} to {}", new.display(), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut tar = Tar::new(1_700_000_000);
        tar.add("usr", &Item::Folder).unwrap();
        tar.add("usr/bin", &Item::Folder).unwrap();
        tar.add("usr/bin/a", &Item::File { mode: 0o755, bytes: b"abc" }).unwrap();
        tar.add("usr/bin/b", &Item::Link("../lib/b")).unwrap();
        tar.finish().unwrap()
    }

    #[test]
    fn an_archive_follows_from_its_contents() {
        assert_eq!(sample(), sample());
        let bytes = sample();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 1_700_000_000));
            found.push((entry.path().unwrap().display().to_string(), header.mode().unwrap()));
        }
        let expected = [("usr/", 0o755), ("usr/bin/", 0o755), ("usr/bin/a", 0o755), ("usr/bin/b", 0o777)];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn a_name_that_does_not_rise_is_refused() {
        let mut tar = Tar::new(0);
        tar.add("b", &Item::Folder).unwrap();
        assert!(tar.add("a", &Item::Folder).is_err());
        assert!(tar.add("b", &Item::Folder).is_err());
    }

    #[test]
    fn compressed_bytes_hold_neither_name_nor_time() {
        let packed = gzip(b"abc", 9).unwrap();
        assert_eq!(packed[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
        assert_eq!(packed, gzip(b"abc", 9).unwrap());
        assert_eq!(xz(b"abc", true).unwrap(), xz(b"abc", true).unwrap());
    }

    #[test]
    fn members_of_an_ar_file_are_padded_and_begin_at_even_places() {
        let bytes = ar(7, &[("debian-binary", b"2.0\n"), ("x", b"odd"), ("y", b"")]).unwrap();
        let header = "debian-binary   7           0     0     100644  4         `\n2.0\n";
        assert_eq!(std::str::from_utf8(&bytes[8..72]).unwrap(), header);
        assert_eq!(&bytes[72 + 60..72 + 64], b"odd\n");
        assert_eq!(bytes.len(), 72 + 64 + 60);
        assert!(ar(7, &[("a-name-that-is-too-long", b"")]).is_err());
    }
}
