//! The root that a jailed process sees: made from nothing in its own mount namespace, then swapped in.

use super::place::Place;
use super::{StepError, at};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};
use shoal_ipc::{Bind, ContentFolder, ImageFile, Jail};
use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Component, Path, PathBuf};

/// Where the guest's `/` stands in the jail.
pub const ROOTFS: &str = "/rootfs";
/// Where files of documents are written before the guest's root gets them: nobody reaches it.
const DESK: &str = "/desk";

/// Builds the jail and makes it this process's root.
pub(crate) fn build(jail: &Jail, content: &[ContentFolder], owner: (u32, u32)) -> Result<(), StepError> {
    let top = Path::new(&jail.mount_point);
    // Nothing that is mounted here may show up outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make mounts private"))?;
    tmpfs(top, "size=1m,mode=0755").map_err(at("mount the jail"))?;
    if let Some(rootfs) = &jail.rootfs {
        let root = below(top, ROOTFS)?;
        fs::create_dir(&root).map_err(at("make the guest's root"))?;
        let (uid, gid) = owner;
        let options = format!("size={},nr_inodes=16384,mode=0755,uid={uid},gid={gid}", rootfs.size);
        tmpfs(&root, &options).map_err(at("mount the guest's root"))?;
        for copy in &rootfs.files {
            copy_in(&root, copy, owner).map_err(at("copy a file of the image"))?;
        }
        for volume in &rootfs.volumes {
            bind(&root, volume)?;
        }
        for folder in content {
            write_folder(top, &root, folder, owner)?;
        }
        if rootfs.read_only {
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            mount_remount(&root, flags, c"").map_err(at("make the guest's root read-only"))?;
        }
    }
    for b in &jail.binds {
        bind(top, b)?;
    }
    // Swap roots on one spot, then let go of the old one.
    chdir(top).map_err(at("enter the jail"))?;
    pivot_root(".", ".").map_err(at("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(at("let go of the old root"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount("/", flags, c"size=1m,mode=0755").map_err(at("make the jail read-only"))?;
    chdir("/").map_err(at("enter the new root"))
}

fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("shoal", target, "tmpfs", flags, options.as_c_str())?)
}

/// `inner`, taken as absolute in `top`; refuses anything but plain names.
fn below(top: &Path, inner: &str) -> Result<PathBuf, StepError> {
    plain(inner).map(|rest| top.join(rest))
}

/// The same without what it begins with.
pub(crate) fn plain(inner: &str) -> Result<&Path, StepError> {
    let rest = Path::new(inner.trim_start_matches('/'));
    if rest.components().all(|c| matches!(c, Component::Normal(_))) {
        Ok(rest)
    } else {
        Err(StepError("use a path", io::Error::other(format!("{inner:?} has parts other than plain names"))))
    }
}

/// The tree below `top` was made here from nothing and holds no link, so plain creation follows none.
fn copy_in(root: &Path, copy: &ImageFile, owner: (u32, u32)) -> io::Result<()> {
    let target = below(root, &copy.path).map_err(|e| e.1)?;
    if let Some(folder) = target.parent() {
        make_folders(root, folder, owner)?;
    }
    let mut from = fs::File::open(&copy.source)?;
    let mode = copy.mode & 0o777;
    let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&target)?;
    io::copy(&mut from, &mut to)?;
    chown(&target, Some(owner.0), Some(owner.1))
}

/// A folder of its own in memory, which nobody else ever sees and which cannot be written to any more. It is filled where
/// nobody else comes, and only then moved to its place: whoever may write above that place could lead the writing elsewhere.
fn write_folder(top: &Path, root: &Path, folder: &ContentFolder, owner: (u32, u32)) -> Result<(), StepError> {
    let place = Place::folder(root, &folder.target)?;
    let desk = below(top, DESK)?;
    fs::create_dir(&desk).map_err(at("make a folder for files of documents"))?;
    // A page each for what is in it and for the folders on the way; the kernel counts whole pages.
    let size: usize = folder.files.iter().map(|f| f.bytes.len().next_multiple_of(4096) + 4096).sum();
    let options = format!("size={},nr_inodes=2048,mode=0755,uid={},gid={}", size + 65_536, owner.0, owner.1);
    // Not into swap either, where a secret would outlive it: kernels from 6.4 on can promise that.
    match tmpfs(&desk, &format!("{options},noswap")) {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) => tmpfs(&desk, &options),
        other => other,
    }
    .map_err(at("mount a folder for files of documents"))?;
    write_files(&desk, folder, owner).map_err(at("write a file of a document"))?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(&desk, flags, c"").map_err(at("make files of documents read-only"))?;
    mount_move(&desk, place.name()).map_err(at("put files of documents in their place"))?;
    fs::remove_dir(&desk).map_err(at("take away the folder for files of documents"))
}

/// Writes the files of a folder that is empty and nobody else's yet.
fn write_files(target: &Path, folder: &ContentFolder, owner: (u32, u32)) -> io::Result<()> {
    for file in &folder.files {
        let path = below(target, &file.path).map_err(|e| e.1)?;
        if let Some(parent) = path.parent() {
            make_folders(target, parent, owner)?;
        }
        let mode = file.mode & 0o777;
        let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        to.write_all(&file.bytes)?;
        chown(&path, Some(owner.0), Some(owner.1))?;
    }
    Ok(())
}

/// Without root a folder of files is a plain one of copies, as the guest's `/` is.
pub fn plain_files(target: &Path, folder: &ContentFolder) -> io::Result<()> {
    match fs::remove_dir_all(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::create_dir_all(target)?;
    let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    write_files(target, folder, me)
}

/// Without root the guest's `/` is a folder of copies; what it may reach is the engine's word alone.
pub fn plain_root(root: &Path, files: &[ImageFile]) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::create_dir_all(root)?;
    let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    files.iter().try_for_each(|copy| copy_in(root, copy, me))
}

fn make_folders(root: &Path, folder: &Path, owner: (u32, u32)) -> io::Result<()> {
    let Ok(rest) = folder.strip_prefix(root) else { return Ok(()) };
    let mut at = root.to_owned();
    for part in rest.components() {
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => chown(&at, Some(owner.0), Some(owner.1))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn bind(top: &Path, b: &Bind) -> Result<(), StepError> {
    let is_dir = fs::metadata(&b.source).map_err(at("look at what is mounted"))?.is_dir();
    let place = if is_dir { Place::folder(top, &b.target)? } else { Place::file(top, &b.target)? };
    if b.device {
        return mount_bind(b.source.as_str(), place.name()).map_err(at("mount a device node"));
    }
    // Data folders are reached without following any link, so that nobody who may write above one can redirect it.
    // Not recursive: what is mounted below one would escape the restriction that follows.
    if b.executable {
        mount_bind(b.source.as_str(), place.name()).map_err(at("mount code"))?;
    } else {
        // Without NOFOLLOW: with it a link at the very end would be opened as itself, and mounted.
        let how = OFlags::PATH | OFlags::CLOEXEC;
        let source = openat2(CWD, b.source.as_str(), how, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(at("open a volume, on whose path no link may be"))?;
        mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), place.name())
            .map_err(at("mount a volume"))?;
    }
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    if b.read_only {
        flags |= MountFlags::RDONLY;
    }
    if !b.executable {
        flags |= MountFlags::NOEXEC;
    }
    // What is there now is the mount; were it something else, it would not be restricted, and refused for that.
    mount_remount(place.again()?.name(), flags, c"").map_err(at("restrict a mount"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_a_jail_are_plain_names_only() {
        let top = Path::new("/jail");
        assert_eq!(below(top, "/etc/x").unwrap(), Path::new("/jail/etc/x"));
        assert!(below(top, "/../x").is_err());
        assert!(below(top, "/a/../../x").is_err());
    }
}
