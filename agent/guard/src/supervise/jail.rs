//! What a child does between birth and execution. The order is the whole point: read [`enter`] from top to bottom.
//!
//! Never decides: paths, ids and limits come checked from supervise.

use super::process::{default_signals, place_descriptors, unshare};
use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use rustix::process::{Resource, Rlimit, chdir, pivot_root, setrlimit, setsid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// A thing of the host that shows up in the jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    /// On the host.
    pub(crate) source: PathBuf,
    /// In the jail, absolute.
    pub(crate) target: String,
    pub(crate) read_only: bool,
    /// Whether what is there may be executed or mapped as code.
    pub(crate) executable: bool,
    /// A device node rather than a file or folder.
    pub(crate) device: bool,
}

impl Bind {
    /// Something to read and execute.
    pub(crate) fn code(source: impl Into<PathBuf>, target: &str) -> Self {
        let target = target.to_owned();
        Self { source: source.into(), target, read_only: true, executable: true, device: false }
    }
    /// A folder for data.
    pub(crate) fn data(source: impl Into<PathBuf>, target: &str, read_only: bool) -> Self {
        let target = target.to_owned();
        Self { source: source.into(), target, read_only, executable: false, device: false }
    }
    /// A harmless device node of the same name.
    pub(crate) fn device(path: &str) -> Self {
        let (source, target) = (path.into(), path.to_owned());
        Self { source, target, read_only: false, executable: false, device: true }
    }
}

/// A file that is copied into the guest's `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) source: PathBuf,
    /// Absolute, as the guest names it.
    pub(crate) path: String,
    pub(crate) mode: u32,
}

/// The guest's `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rootfs {
    /// Bytes at most.
    pub(crate) size: u64,
    pub(crate) files: Vec<Copy>,
    pub(crate) read_only: bool,
    /// Volumes, mounted below it.
    pub(crate) volumes: Vec<Bind>,
}

/// Namespaces and a root of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Jail {
    /// An empty folder of supervise's, mounted over in the child's namespace only.
    pub(crate) mount_point: PathBuf,
    pub(crate) binds: Vec<Bind>,
    pub(crate) rootfs: Option<Rootfs>,
    pub(crate) hostname: String,
}

/// Everything that a child needs to know.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// `tasks` files to join by (v1); empty when the child is born in its group or has none.
    pub(crate) groups: Vec<fs::File>,
    pub(crate) oom_score_adj: Option<i64>,
    /// Absent without root.
    pub(crate) jail: Option<&'a Jail>,
    /// Absent without root.
    pub(crate) ids: Option<(u32, u32)>,
    pub(crate) limits: Vec<(Resource, u64)>,
    /// Descriptors 0, 1, 2 …
    pub(crate) fds: Vec<BorrowedFd<'a>>,
    pub(crate) working_dir: &'a Path,
    pub(crate) argv: &'a [OsString],
    pub(crate) env: &'a [(OsString, OsString)],
}

/// The step that failed, and why.
#[derive(Debug)]
pub(crate) struct StepError(pub(crate) &'static str, pub(crate) io::Error);

/// Where the guest's `/` stands in the jail.
pub(crate) const ROOTFS: &str = "/rootfs";

fn at<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> StepError {
    move |e| StepError(step, e.into())
}

/// Confines this process and executes the command. Runs in a child of supervise's, which has one thread.
pub(crate) fn enter(plan: &mut Plan<'_>) -> Result<Infallible, StepError> {
    // 1. Into the groups, while nothing has been allocated that they should count.
    for tasks in &mut plan.groups {
        tasks.write_all(b"0").map_err(at("join a control group"))?;
    }
    if let Some(wanted) = plan.oom_score_adj {
        oom_score_adj(wanted).map_err(at("set oom_score_adj"))?;
    }
    // 2. A session of its own: no terminal, no signal meant for the parent; and those that supervise blocks and ignores
    // do their work again, or a request to stop would wait for the kill.
    setsid().map_err(at("start a session"))?;
    default_signals().map_err(at("take back signals"))?;
    // 3. Namespaces and root. What is copied into the tmpfs from here on is charged to the groups.
    if let Some(jail) = plan.jail {
        let all = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWNET;
        unshare(all).map_err(at("make namespaces"))?;
        rustix::system::sethostname(jail.hostname.as_bytes()).map_err(at("set the host name"))?;
        let owner = plan.ids.unwrap_or((0, 0));
        build_root(jail, owner)?;
    }
    // 4. Descriptors: the few that it gets; all others close on execution.
    place_descriptors(&plan.fds).map_err(at("place descriptors"))?;
    chdir(plan.working_dir).map_err(at("enter the working folder"))?;
    // 5. Limits that it cannot raise again.
    for (resource, value) in &plan.limits {
        let rlimit = Rlimit { current: Some(*value), maximum: Some(*value) };
        setrlimit(*resource, rlimit).map_err(at("set a resource limit"))?;
    }
    // 6. Privileges, last of all: identity, then every capability, then the way back.
    if let Some((uid, gid)) = plan.ids {
        drop_privileges(uid, gid)?;
    }
    set_no_new_privs(true).map_err(at("set no_new_privs"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let mut command = Command::new(&plan.argv[0]);
    command.args(&plan.argv[1..]).env_clear().envs(plan.env.iter().map(|(k, v)| (k, v)));
    Err(StepError("execute the runner", command.exec()))
}

fn oom_score_adj(wanted: i64) -> io::Result<()> {
    let file = "/proc/self/oom_score_adj";
    fs::write(file, wanted.to_string())?;
    let found = fs::read_to_string(file)?;
    if found.trim() == wanted.to_string() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{wanted} was written, {} is read back", found.trim())))
    }
}

/// Gives up everything that uid 0 may. Also what services of the guard do before they execute.
pub(crate) fn drop_privileges(uid: u32, gid: u32) -> Result<(), StepError> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    for bit in 0..64 {
        let Some(capability) = CapabilitySet::from_bits(1 << bit) else { break };
        // The kernel refuses numbers that it does not know; those are not in the set either.
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    // The ambient set is empty in a supervise that root started; clearing it is for one that inherited some.
    let _ = clear_ambient_capability_set();
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED,
    )
    .map_err(at("lock capabilities"))?;
    set_thread_groups(&[]).map_err(at("drop groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(at("change the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(at("change the user"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(at("drop capabilities"))
}

fn build_root(jail: &Jail, owner: (u32, u32)) -> Result<(), StepError> {
    let top = jail.mount_point.as_path();
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
    let rest = Path::new(inner.trim_start_matches('/'));
    if rest.components().all(|c| matches!(c, Component::Normal(_))) {
        Ok(top.join(rest))
    } else {
        Err(StepError("use a path", io::Error::other(format!("{inner:?} has parts other than plain names"))))
    }
}

/// The tree below `top` was made here from nothing and holds no link, so plain creation follows none.
fn copy_in(root: &Path, copy: &Copy, owner: (u32, u32)) -> io::Result<()> {
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

/// Without root the guest's `/` is a folder of copies; what it may reach is the engine's word alone.
pub(crate) fn plain_root(root: &Path, files: &[Copy]) -> io::Result<()> {
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
    let target = below(top, &b.target)?;
    let is_dir = fs::metadata(&b.source).map_err(at("look at what is mounted"))?.is_dir();
    if is_dir {
        make_folders(top, &target, (0, 0)).map_err(at("make a mount point"))?;
    } else {
        if let Some(folder) = target.parent() {
            make_folders(top, folder, (0, 0)).map_err(at("make a mount point"))?;
        }
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&target);
        match made {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StepError("make a mount point", e));
            }
            _ => {}
        }
    }
    if b.device {
        return mount_bind(&b.source, &target).map_err(at("mount a device node"));
    }
    // Data folders are reached without following any link, so that nobody who may write above one can redirect it.
    // Not recursive: what is mounted below one would escape the restriction that follows.
    if b.executable {
        mount_bind(&b.source, &target).map_err(at("mount code"))?;
    } else {
        let how = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let source = openat2(CWD, &b.source, how, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(at("open a volume, on whose path no link may be"))?;
        mount_bind(format!("/proc/self/fd/{}", source.as_raw_fd()), &target).map_err(at("mount a volume"))?;
    }
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    if b.read_only {
        flags |= MountFlags::RDONLY;
    }
    if !b.executable {
        flags |= MountFlags::NOEXEC;
    }
    mount_remount(&target, flags, c"").map_err(at("restrict a mount"))
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
