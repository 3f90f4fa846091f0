//! Random access to the members of a tar file, packed or not, or of a folder: where images are imported from.

use crate::compression;
use crate::error::{Context as _, Error, Result};
use crate::limits;
use crate::path;
use crate::tarball::Entries;
use shoal_protocol::refusal::Code;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use tar::EntryType;

/// Links between members that are followed one after the other.
const LINKS: usize = 4;

/// A folder or an archive, by member names like `/blobs/sha256/…`.
pub(crate) enum Source {
    Folder(PathBuf),
    Archive { file: File, members: BTreeMap<String, Member> },
}

pub(crate) enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Source {
    /// Opens what lies at `path`; a packed archive is unpacked into a nameless file in `scratch` first.
    pub(crate) fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let what = || format!("cannot read {}", path.display());
        let kind = fs::metadata(path).context(what)?;
        if kind.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if !kind.is_file() {
            return Err(Error::refused(Code::Malformed, format!("{} is no file or folder", path.display())));
        }
        let mut file = File::open(path).context(what)?;
        let mut head = [0; 4];
        let n = file.read(&mut head).context(what)?;
        file.rewind().context(what)?;
        if compression::is_packed(&head[..n]) {
            let mut plain = tempfile::tempfile_in(scratch)
                .context(|| format!("cannot write in {}", scratch.display()))?;
            let mut unpacked = compression::unpacked(file).context(what)?.take(limits::ARCHIVE + 1);
            let size = io::copy(&mut unpacked, &mut plain).map_err(|e| unreadable(path, &e))?;
            if size > limits::ARCHIVE {
                let detail = format!("{} unpacks to more than {} bytes", path.display(), limits::ARCHIVE);
                return Err(Error::refused(Code::TooLarge, detail));
            }
            plain.rewind().context(what)?;
            file = plain;
        }
        let members = list(&file).map_err(|e| match e {
            Error::Refused { code, detail } => Error::refused(
                code,
                format!("{} is no image layout, image archive or module: {detail}", path.display()),
            ),
            other => other,
        })?;
        Ok(Self::Archive { file, members })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(dir) => dir.join(&name[1..]).is_file(),
            Self::Archive { members, .. } => members.contains_key(name),
        }
    }

    /// A member's contents.
    pub(crate) fn reader(&self, name: &str) -> Result<Box<dyn Read>> {
        let missing = || Error::NotFound(format!("the image lacks {}", &name[1..]));
        match self {
            Self::Folder(dir) => {
                let path = dir.join(&name[1..]);
                if !path.is_file() {
                    return Err(missing());
                }
                Ok(Box::new(File::open(&path).context(|| format!("cannot open {}", path.display()))?))
            }
            Self::Archive { file, members } => {
                let mut name = name.to_owned();
                for _ in 0..LINKS {
                    match members.get(&name) {
                        None => break,
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(Member::File { offset, size }) => {
                            let mut file =
                                file.try_clone().context(|| "cannot read the archive".to_owned())?;
                            file.seek(SeekFrom::Start(*offset))
                                .context(|| "cannot read the archive".to_owned())?;
                            return Ok(Box::new(file.take(*size)));
                        }
                    }
                }
                Err(missing())
            }
        }
    }

    /// A small member, whole.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader(name)?
            .take(limits::DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .context(|| format!("cannot read {}", &name[1..]))?;
        if bytes.len() as u64 > limits::DOCUMENT {
            let detail = format!("{} has more than {} bytes", &name[1..], limits::DOCUMENT);
            return Err(Error::refused(Code::TooLarge, detail));
        }
        Ok(bytes)
    }
}

fn list(file: &File) -> Result<BTreeMap<String, Member>> {
    let mut members = BTreeMap::new();
    let mut entries = Entries::new(io::BufReader::new(file));
    while let Some(entry) = entries.next()? {
        let Some(name) = path::of_entry(&entry.path)? else { continue };
        let dir = name.rsplit_once('/').map_or("/", |(dir, _)| dir).to_owned();
        let target = String::from_utf8_lossy(&entry.link);
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => {
                members.insert(name, Member::File { offset: entry.offset, size: entry.size });
            }
            EntryType::Symlink => {
                members.insert(name, Member::Link(path::join(&dir, &target)));
            }
            EntryType::Link => {
                members.insert(name, Member::Link(path::join("/", &target)));
            }
            _ => {}
        }
        if members.len() > limits::ENTRIES {
            return Err(Error::refused(Code::TooLarge, format!("more than {} members", limits::ENTRIES)));
        }
    }
    Ok(members)
}

fn unreadable(path: &Path, e: &io::Error) -> Error {
    Error::refused(Code::Malformed, format!("{} cannot be unpacked: {e}", path.display()))
}
