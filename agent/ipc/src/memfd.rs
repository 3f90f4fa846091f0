//! Sealed memfds: documents, tickets and specs that cannot change under the reader.

use crate::Error;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{pread, write};
use std::os::fd::{AsFd, OwnedFd};

/// The largest document, ticket or list that passes as a memfd, bytes.
pub const MEMFD_MAX: usize = 1024 * 1024;

/// The size of an answer area, bytes.
pub const AREA_SIZE: usize = 4096;

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

/// An answer area: a memfd of [`AREA_SIZE`] zeros whose size can no longer change.
pub fn answer_area() -> Result<OwnedFd, Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("shoal-answer", flags).map_err(|e| Error::io("create an answer area", e))?;
    rustix::fs::ftruncate(&fd, AREA_SIZE as u64).map_err(|e| Error::io("size an answer area", e))?;
    fcntl_add_seals(&fd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW)
        .map_err(|e| Error::io("seal an answer area", e))?;
    Ok(fd)
}

/// The bytes of an answer area; shorter when it is not one.
pub fn read_area(fd: impl AsFd) -> Vec<u8> {
    let mut bytes = vec![0; AREA_SIZE];
    let mut at = 0;
    while at < AREA_SIZE {
        match pread(&fd, &mut bytes[at..], at as u64) {
            Ok(n) if n > 0 => at += n,
            Err(rustix::io::Errno::INTR) => {}
            _ => break,
        }
    }
    bytes.truncate(at);
    bytes
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
    fn an_answer_area_holds_one_answer_and_never_grows() {
        use crate::EndRecord;
        let fd = answer_area().unwrap();
        assert_eq!(EndRecord::from_area(&read_area(&fd)), None, "zeros are no answer");
        let end = EndRecord::Exit { code: 0 };
        write(&fd, &end.encode()).unwrap();
        assert_eq!(EndRecord::from_area(&read_area(&fd)), Some(end));
        write(&fd, b"and more").unwrap();
        assert_eq!(EndRecord::from_area(&read_area(&fd)), None, "two answers are none");
        assert!(rustix::io::pwrite(&fd, &[1; 2], AREA_SIZE as u64).is_err());
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
