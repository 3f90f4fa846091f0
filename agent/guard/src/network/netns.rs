//! Named network namespaces: made, kept by a file that they are mounted on, and let go.

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, mount_bind,
    unmount,
};
use rustix::thread::UnshareFlags;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes an empty one and mounts it on a new file.
pub(super) fn make(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // What an earlier attempt left would be somebody else's network.
    drop_it(path)?;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // The kernel keeps it by thread: this one alone steps over, and is gone before anything else is started.
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            crate::supervise::process::unshare(UnshareFlags::NEWNET)?;
            // Which ports a container may listen at is its grant's to say; low ones are nothing special in here.
            fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
            Ok(mount_bind("/proc/thread-self/ns/net", path)?)
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes it ended")))
    });
    if made.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    made
}

/// Whether a namespace is mounted there.
pub(crate) fn is_there(path: &Path) -> bool {
    let own = fs::metadata("/proc/self/ns/net").map(|m| m.dev());
    own.is_ok_and(|dev| fs::symlink_metadata(path).is_ok_and(|m| m.dev() == dev))
}

/// Lets go of it; what still runs in it keeps it for as long as it runs.
pub(crate) fn drop_it(path: &Path) -> io::Result<()> {
    while is_there(path) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Keeps this end of a cable from speaking with other isolated ends on its bridge. Nothing for an interface that is on none.
pub(super) fn isolate(interface: &str) -> io::Result<()> {
    // Another view of /sys than the mounted one, which may show another namespace's interfaces.
    let fs = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let sys = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let open = |name: &str, flags| {
        openat(&sys, format!("class/net/{interface}/{name}"), flags | OFlags::CLOEXEC, Mode::empty())
    };
    match open("brport", OFlags::PATH) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other?,
    };
    File::from(open("brport/isolated", OFlags::WRONLY)?).write_all(b"1")
}
