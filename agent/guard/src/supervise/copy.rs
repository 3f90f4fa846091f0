//! The short-lived helper that copies bytes of others: regular files and memfds only, to their exact size, hashed on
//! the way. It may hang or be killed; supervise neither reads the bytes nor waits for them.

use super::jail::drop_privileges;
use super::process::exit_now;
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, pread};
use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use shoal_ipc::{Digest, encode};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};

/// How a copy ended, as the helper's exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    NotRegular,
    WrongSize,
    WrongDigest,
    Failed,
}

impl Outcome {
    fn code(self) -> i32 {
        match self {
            Self::Done => 0,
            Self::NotRegular => 10,
            Self::WrongSize => 11,
            Self::WrongDigest => 12,
            Self::Failed => 13,
        }
    }

    /// Reads the exit code.
    pub(crate) fn of(code: i32) -> Self {
        [Self::Done, Self::NotRegular, Self::WrongSize, Self::WrongDigest]
            .into_iter()
            .find(|o| o.code() == code)
            .unwrap_or(Self::Failed)
    }

    /// The refusal, unless it went well.
    pub(crate) fn refusal(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Done => None,
            Self::NotRegular => Some(("not_admitted", "only regular files and memfds are taken as bytes")),
            Self::WrongSize => Some(("digest_mismatch", "the bytes are more or fewer than signed")),
            Self::WrongDigest => Some(("digest_mismatch", "the bytes do not have the signed digest")),
            Self::Failed => {
                Some(("storage_unavailable", "the bytes could not be read or written; is the disk full?"))
            }
        }
    }
}

/// What the bytes must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want {
    /// Exactly this.
    Exact { size: u64, digest: Digest },
    /// Anything up to this size.
    AtMost(u64),
}

impl Want {
    fn max(self) -> u64 {
        match self {
            Self::Exact { size, .. } => size,
            Self::AtMost(max) => max,
        }
    }
}

/// The helper's whole life. Its digest goes to `area`, if there is one.
pub(crate) fn run(from: &OwnedFd, to: &File, want: Want, ids: Option<u32>, area: Option<&OwnedFd>) -> ! {
    let limit = want.max().max(1);
    let rlimit = |v| Rlimit { current: Some(v), maximum: Some(v) };
    let confined = setrlimit(Resource::Fsize, rlimit(limit)).is_ok()
        && setrlimit(Resource::Cpu, rlimit(120)).is_ok()
        && ids.is_none_or(|id| drop_privileges(id, id).is_ok());
    let outcome = if confined { copy(from, to, want, area) } else { Outcome::Failed };
    exit_now(outcome.code())
}

fn copy(from: &OwnedFd, to: &File, want: Want, area: Option<&OwnedFd>) -> Outcome {
    let Ok(stat) = fstat(from) else { return Outcome::Failed };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Outcome::NotRegular;
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut at = 0_u64;
    let mut out = to;
    loop {
        let n = match pread(from.as_fd(), &mut buffer, at) {
            Ok(0) => break,
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(_) => return Outcome::Failed,
        };
        at += n as u64;
        // Also ends a file that grows as fast as it is read.
        if at > want.max() {
            return Outcome::WrongSize;
        }
        hash.update(&buffer[..n]);
        if out.write_all(&buffer[..n]).is_err() {
            return Outcome::Failed;
        }
    }
    let found = Digest(hash.finalize().into());
    match want {
        Want::Exact { size, .. } if size != at => return Outcome::WrongSize,
        Want::Exact { digest, .. } if digest != found => return Outcome::WrongDigest,
        _ => {}
    }
    if let Some(area) = area
        && rustix::io::pwrite(area, &encode(&(found)), 0).is_err()
    {
        return Outcome::Failed;
    }
    if to.sync_all().is_ok() { Outcome::Done } else { Outcome::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_ipc::{answer_area, decode, read_area, sealed_memfd};

    fn try_copy(from: &OwnedFd, want: Want) -> Outcome {
        copy(from, &tempfile::tempfile().unwrap(), want, None)
    }

    fn exact(bytes: &[u8], size: u64) -> Want {
        Want::Exact { size, digest: Digest(Sha256::digest(bytes).into()) }
    }

    #[test]
    fn c5_only_regular_files_and_memfds_of_the_signed_size_and_digest_pass() {
        let memfd = || sealed_memfd(b"abc").unwrap();
        assert_eq!(try_copy(&memfd(), exact(b"abc", 3)), Outcome::Done);
        assert_eq!(try_copy(&memfd(), exact(b"abc", 2)), Outcome::WrongSize);
        assert_eq!(try_copy(&memfd(), exact(b"abc", 4)), Outcome::WrongSize);
        assert_eq!(try_copy(&memfd(), exact(b"abd", 3)), Outcome::WrongDigest);
        let (read, _write) = rustix::pipe::pipe().unwrap();
        assert_eq!(try_copy(&read, exact(b"", 0)), Outcome::NotRegular);
        let zero = File::open("/dev/zero").unwrap();
        assert_eq!(try_copy(&zero.into(), exact(b"", 0)), Outcome::NotRegular);
    }

    #[test]
    fn the_digest_of_unknown_bytes_comes_back() {
        let area = answer_area().unwrap();
        let from = sealed_memfd(b"code").unwrap();
        let done = copy(&from, &tempfile::tempfile().unwrap(), Want::AtMost(100), Some(&area));
        assert_eq!(done, Outcome::Done);
        assert_eq!(
            decode::<Digest>(&read_area(&area)[..32]).unwrap(),
            Digest(Sha256::digest(b"code").into())
        );
    }
}
