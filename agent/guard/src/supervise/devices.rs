//! Device nodes for containers: character devices that a pod was granted, each as a node of the pod's own.
//!
//! The host's nodes stay as they are. Supervise makes one of the same number, owned by the pod's user, in a folder in memory
//! that only root can enter; the container's jail shows that single node. So a grant neither opens the host's node to anybody
//! nor this one to another pod, and no group or capability comes with it. Pseudo-terminals exist in their own file system
//! alone: theirs are shown as they are, to whom their owner and mode let in.

use super::dirs;
use super::{Refused, refuse};
use rustix::fs::{CWD, FileType, Mode, mknodat, statfs};
use rustix::mount::{MountFlags, mount};
use shoal_ipc::{Bind, Layout, Ticket, TicketContainer, TicketDevice};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// Below a pod's folders in memory; no volume has such a name.
const FOLDER: &str = "+devices";
/// devpts (statfs(2)).
const PSEUDO_TERMINALS: i64 = 0x1cd1;

/// Whether this is a path below `/dev` of plain names.
pub(super) fn is_device_path(path: &str) -> bool {
    super::policy::is_plain_absolute(path) && path.len() > 5 && path.starts_with("/dev/")
}

/// Folders with devices to write to: the engine opens nothing for writing in a folder that it was given to read, so these
/// are given beside it. What else is in them refuses writing by its mount.
pub(super) fn writable_folders(container: &TicketContainer) -> BTreeSet<String> {
    let writable = container.devices.iter().filter(|d| !d.read_only);
    writable.filter_map(|d| Some(d.path.rsplit_once('/')?.0.to_owned())).collect()
}

/// What of these devices the container finds in its root.
pub(super) fn prepare(
    layout: &Layout,
    ticket: &Ticket,
    container: &TicketContainer,
    number: u16,
    uid: Option<u32>,
) -> Result<Vec<Bind>, Refused> {
    if container.devices.is_empty() {
        return Ok(Vec::new());
    }
    let uid = uid.ok_or_else(|| refuse("kernel_unsupported", "devices need the guard to run as root"))?;
    let folder = dirs::pods(layout).join(ticket.id.hex()).join(FOLDER);
    let failed = |e: io::Error| refuse("storage_unavailable", format!("make nodes for devices: {e}"));
    in_memory(&folder).map_err(failed)?;
    let one = |(at, d): (usize, &TicketDevice)| {
        let found = look(&d.host_path)?;
        let source = if found.is_pseudo {
            if d.read_only {
                let why =
                    format!("{} is a pseudo-terminal, which cannot be granted to read only", d.host_path);
                return Err(refuse("policy_denied", why));
            }
            found.path
        } else {
            let node = folder.join(format!("{number}-{at}"));
            make(&node, found.number, d.read_only, uid).map_err(failed)?;
            node
        };
        let (source, target) = (source.to_string_lossy().into_owned(), d.path.clone());
        Ok(Bind { source, target, read_only: d.read_only, executable: false, device: true })
    };
    container.devices.iter().enumerate().map(one).collect()
}

/// A character device of this machine.
struct Found {
    path: PathBuf,
    number: u64,
    is_pseudo: bool,
}

/// Links are followed: names that stay (`/dev/serial/by-id/…`) are links, which only root makes in `/dev`.
fn look(host_path: &str) -> Result<Found, Refused> {
    let absent =
        |e: io::Error| refuse("kernel_unsupported", format!("the device {host_path} is not there: {e}"));
    let path = fs::canonicalize(host_path).map_err(absent)?;
    let found = fs::metadata(&path).map_err(absent)?;
    if !path.starts_with("/dev") || !found.file_type().is_char_device() {
        return Err(refuse("policy_denied", format!("{host_path} is no character device below /dev")));
    }
    let kind = statfs(&path).map_err(|e| absent(e.into()))?.f_type;
    Ok(Found { number: found.rdev(), is_pseudo: i128::from(kind) == i128::from(PSEUDO_TERMINALS), path })
}

/// A file system whose nodes work, that root alone can enter.
fn in_memory(folder: &Path) -> io::Result<()> {
    if folder.exists() && super::volumes::is_mount(folder)? {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(mount("shoal", folder, "tmpfs", flags, c"size=64k,nr_inodes=1024,mode=0700")?)
}

/// Made anew for each start: the device behind a name may be another one since.
fn make(node: &Path, number: u64, read_only: bool, uid: u32) -> io::Result<()> {
    match fs::remove_file(node) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    mknodat(CWD, node, FileType::CharacterDevice, Mode::empty(), number)?;
    chown(node, Some(uid), Some(uid))?;
    fs::set_permissions(node, fs::Permissions::from_mode(if read_only { 0o400 } else { 0o600 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_character_devices_below_dev_are_devices() {
        assert!(look("/dev/null").is_ok_and(|f| f.number == rustix::fs::makedev(1, 3) && !f.is_pseudo));
        // A link out of /dev leads to no device of /dev.
        for (path, code) in [
            ("/dev", "policy_denied"),
            ("/dev/fd", "policy_denied"),
            ("/etc/hostname", "policy_denied"),
            ("/dev/shoal-nothing-here", "kernel_unsupported"),
        ] {
            assert!(look(path).is_err_and(|e| e.code == code), "{path}");
        }
        assert!(is_device_path("/dev/serial/by-id/usb-0"));
        for bad in ["/dev/", "/dev", "/devices/x", "/dev/../etc/passwd", "dev/null"] {
            assert!(!is_device_path(bad), "{bad}");
        }
    }
}
