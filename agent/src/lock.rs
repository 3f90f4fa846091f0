//! One agent a state folder: a lock of the kernel's, which ends with its holder, so that a stale one cannot exist (U7).

use crate::failure::{Explained, Kind};
use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The lock, held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, never read: dropping it is what counts")] File);

fn path(dir: &Path) -> PathBuf {
    dir.join("agent.lock")
}

/// Takes the lock on a state folder.
pub(crate) fn take(dir: &Path) -> Result<Lock> {
    let path = path(dir);
    let what = || format!("cannot lock the state folder through {}", path.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).with_context(what)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = holder(dir)
            .map_or_else(|| "another agent".to_owned(), |pid| format!("the agent with process id {pid}"));
        return Err(Explained::new(Kind::Unavailable, format!("{holder} already runs on {}", dir.display()))
            .hint("two agents on one device would be two devices with one identity; stop the other, or give this one another --root")
            .into());
    }
    // For people only; the lock is what counts.
    let _ =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(Lock(file))
}

/// The process that holds the lock, if one does and says who it is.
pub(crate) fn holder(dir: &Path) -> Option<u32> {
    let mut file = OpenOptions::new().read(true).open(path(dir)).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u7_a_second_agent_is_named_and_a_stale_lock_file_never_blocks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path(dir.path()), "99999999").unwrap();
        assert_eq!(holder(dir.path()), None, "a file alone is no lock");
        let lock = take(dir.path()).unwrap();
        assert_eq!(holder(dir.path()), Some(std::process::id()));
        let error = take(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert_eq!(crate::failure::kind(&error), Kind::Unavailable);
        drop(lock);
        // A child that another test is about to start has a copy of the lock until it becomes its program.
        let free = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            take(dir.path()).is_ok()
        });
        assert!(free, "who is gone holds nothing");
    }
}
