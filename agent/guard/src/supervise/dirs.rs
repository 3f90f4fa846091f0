//! The device's folders: made at start with the owner and mode that the walls between processes rest on.

use super::policy::Uids;
use rustix::fs::{Gid, Uid};
use shoal_ipc::{Layout, Software};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// A folder that could not be brought into its state.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the folder {path}")]
pub(crate) struct DirError {
    path: PathBuf,
    source: io::Error,
}

/// Path, mode and owner.
type Folder = (PathBuf, u32, Option<(u32, u32)>);

/// Makes all folders. Without root (`uids` absent) owners stay as they are.
pub(crate) fn set_up(layout: &Layout, uids: Option<&Uids>) -> Result<(), DirError> {
    let own = |pick: fn(&Uids) -> (u32, u32)| uids.map(pick);
    let table: [Folder; 19] = [
        (layout.state(), 0o755, own(|_| (0, 0))),
        (layout.releases(), 0o755, own(|_| (0, 0))),
        (Software::new(layout).staging(), 0o700, own(|_| (0, 0))),
        (layout.run(), 0o755, own(|_| (0, 0))),
        (layout.logs(), 0o755, own(|_| (0, 0))),
        (layout.pod_logs(), 0o750, own(|u| (u.log, u.agent))),
        (layout.admit_dir(), 0o700, own(|u| (u.admit, u.admit))),
        (layout.agent_dir(), 0o700, own(|u| (u.agent, u.agent))),
        (layout.supervise_dir(), 0o700, own(|_| (0, 0))),
        (layout.modules(), 0o700, own(|_| (0, 0))),
        (layout.files(), 0o700, own(|_| (0, 0))),
        (layout.cache(), 0o700, own(|_| (0, 0))),
        (layout.containers(), 0o700, own(|_| (0, 0))),
        (layout.volumes(), 0o700, own(|_| (0, 0))),
        (layout.scratch(), 0o700, own(|_| (0, 0))),
        (layout.networks(), 0o700, own(|_| (0, 0))),
        (layout.facts(), 0o700, own(|_| (0, 0))),
        (layout.local_tickets(), 0o700, own(|_| (0, 0))),
        (pods(layout), 0o700, own(|_| (0, 0))),
    ];
    for (path, mode, owner) in &table {
        ensure(path, *mode, *owner).map_err(|source| DirError { path: path.clone(), source })?;
    }
    Ok(())
}

/// Where volumes in memory are mounted, by ticket.
pub(crate) fn pods(layout: &Layout) -> PathBuf {
    layout.supervise_dir().join("pods")
}

/// Makes one folder, or corrects the one that is there. A link in its place is refused.
pub(crate) fn ensure(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Err(io::Error::other("something else than a folder is there"));
    }
    if let Some((uid, gid)) = owner
        && (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid())) != (Uid::from_raw(uid), Gid::from_raw(gid))
    {
        chown(path, Some(uid), Some(gid))?;
    }
    if meta.permissions().mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Writes a file whole or not at all, and lets it last.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    let mut file = fs::File::create(&temp)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    sync_folder_of(path)
}

/// Lets a rename or creation in the folder of `path` last.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_get_their_modes_also_when_they_were_loosened() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        set_up(&layout, None).unwrap();
        fs::set_permissions(layout.admit_dir(), fs::Permissions::from_mode(0o777)).unwrap();
        set_up(&layout, None).unwrap();
        let mode = |p: PathBuf| fs::metadata(p).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(layout.admit_dir()), 0o700);
        assert_eq!(mode(layout.pod_logs()), 0o750);
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", dir.path().join("x")).unwrap();
        assert!(ensure(&dir.path().join("x"), 0o700, None).is_err());
    }
}
