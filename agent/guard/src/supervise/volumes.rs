//! Volumes: folders that outlive a container, made with the pod's uid before its first start.

use super::dirs::{self, ensure};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use shoal_ipc::{Bind, Digest, Layout, Ticket, TicketContainer, VolumeSource};
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A volume that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the volume {name} cannot be made: {source}")]
pub(crate) struct VolumeError {
    name: String,
    /// A stable code.
    pub(crate) code: &'static str,
    source: io::Error,
}

/// Makes sure that `path` is a folder and that no link is on the way to it; the mount makes sure again. A folder that is not
/// there may come; a link in place of one is somebody's way around the policy.
fn is_folder_without_links(path: &str) -> Result<(), (&'static str, io::Error)> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, path, how, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(_) => Ok(()),
        Err(Errno::LOOP) => {
            let why = format!("a link is on the path {path}; name the folder that it leads to");
            Err(("policy_denied", io::Error::other(why)))
        }
        Err(e) => Err(("storage_unavailable", io::Error::other(format!("the folder {path}: {e}")))),
    }
}

fn memory_folder(layout: &Layout, ticket: &Digest) -> PathBuf {
    dirs::pods(layout).join(ticket.hex())
}

fn persistent_folder(layout: &Layout, deployment: &str) -> PathBuf {
    layout.volumes().join(deployment)
}

/// Where a volume that this guard keeps is; nothing for a folder of the device.
pub(crate) fn folder(layout: &Layout, ticket: &Ticket, volume: u16) -> Option<PathBuf> {
    let v = ticket.volumes.get(usize::from(volume))?;
    match v.source {
        VolumeSource::HostPath { .. } | VolumeSource::Files { .. } => None,
        VolumeSource::Persistent => Some(persistent_folder(layout, &ticket.name).join(&v.name)),
        VolumeSource::EmptyDir { .. } => Some(memory_folder(layout, &ticket.id).join(&v.name)),
    }
}

/// The folders that this container mounts.
pub(crate) fn prepare(
    layout: &Layout,
    ticket: &Ticket,
    container: &TicketContainer,
    uid: Option<u32>,
) -> Result<Vec<Bind>, VolumeError> {
    let mut all = Vec::new();
    for m in &container.mounts {
        let Some(volume) = ticket.volumes.get(usize::from(m.volume)) else {
            let source = io::Error::other("the ticket has no such volume");
            return Err(VolumeError { name: m.path.clone(), code: "not_admitted", source });
        };
        let because = |code, source| VolumeError { name: volume.name.clone(), code, source };
        let fail = |source| because("storage_unavailable", source);
        let owner = uid.map(|u| (u, u));
        let source = match &volume.source {
            // Every container's own: see `contents`.
            VolumeSource::Files { .. } => continue,
            VolumeSource::HostPath { path } => {
                is_folder_without_links(path).map_err(|(code, source)| because(code, source))?;
                PathBuf::from(path)
            }
            VolumeSource::Persistent => {
                let parent = persistent_folder(layout, &ticket.name);
                let folder = parent.join(&volume.name);
                ensure(&parent, 0o700, None).and_then(|()| ensure(&folder, 0o700, owner)).map_err(fail)?;
                folder
            }
            VolumeSource::EmptyDir { size_limit } => {
                let folder = memory_folder(layout, &ticket.id).join(&volume.name);
                in_memory(&folder, *size_limit, owner).map_err(fail)?;
                folder
            }
        };
        all.push(Bind::data(source, &m.path, m.read_only));
    }
    Ok(all)
}

/// A tmpfs of this size; a plain folder without root. Left as it is when it is there already.
fn in_memory(folder: &Path, size: u64, owner: Option<(u32, u32)>) -> io::Result<()> {
    if folder.exists() && (owner.is_none() || is_mount(folder)?) {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    if let Some((uid, gid)) = owner {
        let options = CString::new(format!("size={size},nr_inodes=16384,mode=0700,uid={uid},gid={gid}"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("shoal", folder, "tmpfs", flags, options.as_c_str())?;
    }
    Ok(())
}

pub(crate) fn is_mount(folder: &Path) -> io::Result<bool> {
    let parent = folder.parent().unwrap_or(folder);
    Ok(fs::metadata(folder)?.dev() != fs::metadata(parent)?.dev())
}

/// Unmounts and deletes what is in memory of a pod.
pub(crate) fn drop_memory(layout: &Layout, ticket: &Digest) -> io::Result<()> {
    let parent = memory_folder(layout, ticket);
    let entries = match fs::read_dir(&parent) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let folder = entry?.path();
        if is_mount(&folder)? {
            unmount(&folder, UnmountFlags::DETACH)?;
        }
    }
    fs::remove_dir_all(&parent)
}

/// All pods that have something in memory.
pub(crate) fn drop_all_memory(layout: &Layout) -> io::Result<()> {
    for entry in fs::read_dir(dirs::pods(layout))? {
        let path = entry?.path();
        for folder in fs::read_dir(&path)? {
            let folder = folder?.path();
            if is_mount(&folder)? {
                unmount(&folder, UnmountFlags::DETACH)?;
            }
        }
        fs::remove_dir_all(&path)?;
    }
    Ok(())
}

/// Deletes what was kept for a deployment that is no more.
pub(crate) fn drop_persistent(layout: &Layout, deployment: &str) -> io::Result<()> {
    match fs::remove_dir_all(persistent_folder(layout, deployment)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
