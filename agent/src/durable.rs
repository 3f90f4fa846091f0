//! Files that are whole or not there: temp → write → fsync → rename → fsync of the folder (U7).

use crate::points;
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `bytes` to `path` with mode 0600, whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let dir = path.parent().with_context(what)?;
    let name = path.file_name().with_context(what)?.to_string_lossy();
    let temp = dir.join(format!(".{name}.new"));
    // What an interrupted run left behind is ours to replace.
    match fs::remove_file(&temp) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).with_context(what),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp).with_context(what)?;
    file.write_all(bytes).with_context(what)?;
    file.sync_all().with_context(what)?;
    points::hit(points::FILE_WRITTEN);
    fs::rename(&temp, path).with_context(what)?;
    points::hit(points::FILE_RENAMED);
    File::open(dir).and_then(|d| d.sync_all()).with_context(what)
}

/// The bytes of `path`, at most `cap`; `None` if it is not there.
pub(crate) fn read(path: &Path, cap: u64) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let what = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(what),
    };
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes).with_context(what)?;
    anyhow::ensure!(bytes.len() as u64 <= cap, "{} has more than {cap} bytes", path.display());
    Ok(Some(bytes))
}

/// Whether `error` says that the disk is full, read-only or broken: what an operator or the freeing of space can mend.
pub(crate) fn is_storage_unavailable(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    error.chain().any(|cause| {
        if let Some(e) = cause.downcast_ref::<std::io::Error>() {
            return matches!(e.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
                || e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        }
        let sqlite = cause.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        sqlite.is_some_and(|code| matches!(code, DiskFull | ReadOnly | SystemIoFailure | CannotOpen))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn u7_a_half_written_file_of_an_earlier_run_is_replaced_and_never_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.key");
        fs::write(dir.path().join(".device.key.new"), b"half").unwrap();
        assert_eq!(read(&path, 10).unwrap(), None);
        write(&path, b"whole").unwrap();
        assert_eq!(read(&path, 10).unwrap().as_deref(), Some(b"whole".as_slice()));
        assert!(read(&path, 3).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
