//! Sealed memfds: documents, tickets and specs that cannot change under the reader.

use crate::Error;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{pread, write};
use std::os::fd::{AsFd, OwnedFd};

/// The largest document, ticket or list that passes as a memfd, bytes.
pub const MEMFD_MAX: usize = 1024 * 1024;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A memfd that holds `bytes` and can no longer change.
pub fn sealed_memfd(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("shoal", flags).map_err(|e| Error::io("create a memfd", e))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match write(&fd, rest) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("fill a memfd", e)),
        }
    }
    fcntl_add_seals(&fd, SEALS).map_err(|e| Error::io("seal a memfd", e))?;
    Ok(fd)
}

/// All bytes of a sealed memfd of at most `max` bytes; anything else is refused before it is read.
pub fn read_sealed(fd: impl AsFd, max: usize) -> Result<Vec<u8>, Error> {
    // Only memfds (and other shmem files) know seals at all, so this also refuses pipes, devices and disk files.
    let seals = fcntl_get_seals(&fd).map_err(|_| Error::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(Error::NotSealed);
    }
    let size = fstat(&fd).map_err(|e| Error::io("look at a memfd", e))?.st_size;
    let size = usize::try_from(size).map_err(|_| Error::NotSealed)?;
    if size > max {
        return Err(Error::TooLarge { what: "the document", max });
    }
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        match pread(&fd, &mut bytes[at..], at as u64) {
            Ok(0) => return Err(Error::Truncated),
            Ok(n) => at += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("read a memfd", e)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_memfd_reads_back_and_refuses_writing() {
        let fd = sealed_memfd(b"abc").unwrap();
        assert_eq!(read_sealed(&fd, 3).unwrap(), b"abc");
        assert_eq!(rustix::io::pwrite(&fd, b"x", 0), Err(rustix::io::Errno::PERM));
        assert!(matches!(read_sealed(&fd, 2), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn an_unsealed_memfd_a_pipe_and_a_file_are_refused() {
        let open = memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(read_sealed(&open, 10), Err(Error::NotSealed)));
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert!(matches!(read_sealed(&read, 10), Err(Error::NotSealed)));
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(read_sealed(&file, 10), Err(Error::NotSealed)));
    }
}
