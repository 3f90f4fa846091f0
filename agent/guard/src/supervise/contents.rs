//! Files of configs and secrets: bytes that admission handed over for its tickets, in memory only, each hashed on arrival.
//!
//! A container gets them by a descriptor that only it reads ([`shoal_ipc::Content`]): not on a disk, not in the memory of
//! what it is forked from, and not in that of another container. It keeps what it was started with; a newer ticket is
//! for the next start.

use super::{Refused, refuse};
use crate::say;
use sha2::{Digest as _, Sha256};
use shoal_ipc::{
    CONTENTS_MAX, Content, ContentFile, ContentFolder, Digest, Ticket, TicketContainer, TicketFile,
    VolumeSource, read_sealed,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;

/// Bytes of one file.
const FILE_MAX: usize = 64 * 1024;
/// Bytes of all tickets together.
const TOTAL_MAX: usize = 32 * 1024 * 1024;

/// All that tickets name.
#[derive(Default)]
pub(super) struct Contents(BTreeMap<Digest, Vec<u8>>);

impl fmt::Debug for Contents {
    /// Without bytes, which may be a secret's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contents({} files)", self.0.len())
    }
}

impl Contents {
    /// Takes bytes if they are what they are said to be.
    pub(super) fn take(&mut self, item: Digest, fd: &OwnedFd) {
        let total: usize = self.0.values().map(Vec::len).sum();
        match read_sealed(fd, FILE_MAX) {
            Ok(bytes) if Sha256::digest(&bytes).as_slice() != item.0 => {
                say::line("a file of a document is not what admission calls it");
            }
            Ok(bytes) if total + bytes.len() > TOTAL_MAX => {
                say::line("files of documents are more than 32 MiB; one is not taken");
            }
            Ok(bytes) => {
                self.0.insert(item, bytes);
            }
            Err(e) => say::error("a file of a document is not taken", &e),
        }
    }

    /// Forgets what no ticket names.
    pub(super) fn keep_only<'t>(&mut self, named: impl Iterator<Item = &'t TicketFile>) {
        let named: BTreeSet<Digest> = named.map(|f| f.digest).collect();
        self.0.retain(|item, _| named.contains(item));
    }

    /// What this container is given, if it is given anything.
    pub(super) fn of(
        &self,
        ticket: &Ticket,
        container: &TicketContainer,
    ) -> Result<Option<Content>, Refused> {
        let mut folders = Vec::new();
        let mut total = 0;
        for m in &container.mounts {
            let Some(volume) = ticket.volumes.get(usize::from(m.volume)) else { continue };
            let VolumeSource::Files { files, .. } = &volume.source else { continue };
            let read = |f: &TicketFile| {
                let bytes = self.0.get(&f.digest).filter(|b| b.len() as u64 == f.size).ok_or_else(|| {
                    refuse("not_admitted", format!("{}: {} was not handed over", volume.name, f.path))
                })?;
                total += f.size;
                Ok(ContentFile { path: f.path.clone(), mode: f.mode, bytes: bytes.clone() })
            };
            let files = files.iter().map(read).collect::<Result<_, Refused>>()?;
            folders.push(ContentFolder { target: m.path.clone(), files });
        }
        if total > CONTENTS_MAX {
            return Err(refuse("too_large", format!("files of documents have {total} bytes")));
        }
        let env: Vec<String> =
            container.private_env.iter().map(|e| format!("{}={}", e.name, e.value)).collect();
        Ok((!env.is_empty() || !folders.is_empty()).then_some(Content { env, folders }))
    }
}

/// Without walls files are on the disk, where nothing private may be.
pub(super) fn fits_unconfined(ticket: &Ticket) -> Result<(), Refused> {
    let private =
        ticket.volumes.iter().find(|v| matches!(v.source, VolumeSource::Files { private: true, .. }));
    match private {
        Some(v) => {
            let why = format!(
                "the files of {} are a secret's and would be on the disk: that needs the guard to run as root",
                v.name
            );
            Err(refuse("kernel_unsupported", why))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::sealed_memfd;

    fn file(bytes: &[u8]) -> TicketFile {
        let digest = Digest(Sha256::digest(bytes).into());
        TicketFile { path: "a".into(), size: bytes.len() as u64, mode: 0o644, digest }
    }

    #[test]
    fn s13_only_bytes_of_their_digest_are_taken_and_kept_for_as_long_as_they_are_named() {
        let mut all = Contents::default();
        let (a, b) = (file(b"a"), file(b"b"));
        all.take(a.digest, &sealed_memfd(b"other").unwrap());
        assert!(all.0.is_empty());
        all.take(a.digest, &sealed_memfd(b"a").unwrap());
        all.take(b.digest, &sealed_memfd(b"b").unwrap());
        let big = vec![0; FILE_MAX + 1];
        all.take(file(&big).digest, &sealed_memfd(&big).unwrap());
        assert_eq!(all.0.len(), 2);
        all.keep_only([&b].into_iter());
        assert_eq!(all.0.keys().collect::<Vec<_>>(), [&b.digest]);
    }
}
