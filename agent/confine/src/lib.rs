//! What a child does between its birth and its work. The order is the whole point: read [`enter`] from top to bottom.
//!
//! Beside it: [`process`] makes children, [`memory`] is what a process at rest gives back.
//!
//! Guard's jobs and the containers that the zygote forks go through the same steps. Never decides: paths, ids, limits
//! and grants come checked from supervise. Nothing here reads a byte that a guest, an image or the network made.

mod container;
mod folders;
mod kernel;
pub mod memory;
mod place;
mod privileges;
pub mod process;
mod readback;
mod root;
mod syscalls;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, chdir, setpgid, setrlimit, setsid};
use rustix::thread::{UnshareFlags, set_no_new_privs};
use shoal_ipc::{ContentFolder, Jail};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::path::Path;

pub use container::container;
pub use folders::Grant;
pub use kernel::{Feature, missing};
pub use privileges::{drop_privileges, hide_memory, keep_in_bounding_set};
pub use readback::Namespaces;
pub use root::{ROOTFS, plain_files, plain_root};
pub use syscalls::{Filter, no_new_code};

/// Everything that a child needs to know.
#[derive(Debug)]
pub struct Plan<'a> {
    /// `tasks` files to join by (v1); empty when the child is born in its group or has none.
    pub groups: Vec<fs::File>,
    /// −1000 to 1000.
    pub oom_score_adj: Option<i64>,
    /// Namespaces to make: those that it was not born into.
    pub namespaces: UnshareFlags,
    /// Whether it is the first process of a namespace.
    pub first: bool,
    /// A network namespace to enter.
    pub network: Option<BorrowedFd<'a>>,
    /// Absent without root.
    pub jail: Option<&'a Jail>,
    /// Folders of files that it alone gets, in memory; only in a jail.
    pub content: &'a [ContentFolder],
    /// Absent without root.
    pub ids: Option<(u32, u32)>,
    /// Values that it cannot raise again.
    pub limits: Vec<(Resource, u64)>,
    /// Descriptors 0, 1, 2 …; nothing else stays open.
    pub fds: Vec<BorrowedFd<'a>>,
    /// What becomes of the others.
    pub others: Others,
    /// Where it stands in its own root.
    pub working_dir: &'a Path,
    /// The walls of a container; absent for a job of the guard's own, which executes its program first.
    pub walls: Option<Walls<'a>>,
}

/// What becomes of descriptors that are not handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Closed by the execution that follows.
    CloseOnExec,
    /// Closed now: nothing is executed.
    Close,
}

/// What holds a container beside its namespaces.
#[derive(Debug)]
pub struct Walls<'a> {
    /// The folders and files that it was granted, as it sees them.
    pub grants: Vec<Grant>,
    /// The sockets that it was granted.
    pub sockets: Sockets<'a>,
    /// The system calls that its engine makes.
    pub filter: &'a Filter,
    /// The host's namespaces, none of which may be its own; absent without root.
    pub host: Option<&'a Namespaces>,
}

/// Which sockets a container may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets<'a> {
    /// None.
    None,
    /// Those of its pod's own network: to connect anywhere in it, and to listen at these TCP ports.
    Pod(&'a [u16]),
    /// Those of the host's network.
    Host,
}

/// The step that failed, and why.
#[derive(Debug)]
pub struct StepError(pub &'static str, pub io::Error);

fn at<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> StepError {
    move |e| StepError(step, e.into())
}

/// A limit that cannot be raised again. That of CPU time leaves no room for the signal which the kernel sends at a lower mark:
/// the first process of a namespace would not get it.
fn rlimit(value: u64) -> Rlimit {
    Rlimit { current: Some(value), maximum: Some(value) }
}

/// Confines this process, which has one thread.
pub fn enter(plan: &mut Plan<'_>) -> Result<(), StepError> {
    // 1. Into the groups, while nothing has been allocated that they should count. The files are closed here: what
    // follows closes by number.
    for mut tasks in plan.groups.drain(..) {
        tasks.write_all(b"0").map_err(at("join a control group"))?;
    }
    if let Some(wanted) = plan.oom_score_adj {
        oom_score_adj(wanted).map_err(at("set oom_score_adj"))?;
    }
    // 2. A session or group of its own: no terminal, no signal meant for the parent; and those that the parent blocks and
    // ignores do their work again, or a request to stop would wait for the kill. A container leads no session, or a serial
    // port that it opens would become its terminal, and a byte on the wire its end; the zygote's session has none.
    if plan.walls.is_some() {
        setpgid(None, None).map_err(at("start a process group"))?;
    } else {
        setsid().map_err(at("start a session"))?;
    }
    process::take_back_signals(plan.first).map_err(at("take back signals"))?;
    // 3. Namespaces and root. What is copied into the tmpfs from here on is charged to the groups. The group's namespace
    // begins at the groups that were joined above.
    if let Some(network) = plan.network {
        process::enter_network(network).map_err(at("enter the pod's network"))?;
    }
    if let Some(jail) = plan.jail {
        process::unshare(plan.namespaces).map_err(at("make namespaces"))?;
        rustix::system::sethostname(jail.hostname.as_bytes()).map_err(at("set the host name"))?;
        if let Some(host) = plan.walls.as_ref().and_then(|w| w.host) {
            // While /proc is still there to tell.
            let shares = plan.walls.as_ref().is_some_and(|w| w.sockets == Sockets::Host);
            host.differ(!shares).map_err(at("read back the namespaces"))?;
        }
        root::build(jail, plan.content, plan.ids.unwrap_or((0, 0)))?;
    }
    // 4. Descriptors: the few that it gets.
    process::place_descriptors(&plan.fds, plan.others == Others::Close).map_err(at("place descriptors"))?;
    chdir(plan.working_dir).map_err(at("enter the working folder"))?;
    // 5. Limits that it cannot raise again.
    for (resource, value) in &plan.limits {
        setrlimit(*resource, rlimit(*value)).map_err(at("set a resource limit"))?;
    }
    // 6. Privileges: identity, then every capability, then the way back.
    if let Some((uid, gid)) = plan.ids {
        drop_privileges(uid, gid)?;
    }
    set_no_new_privs(true).map_err(at("set no_new_privs"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    readback::identity(plan)?;
    plan.walls.as_ref().map_or(Ok(()), raise)
}

/// The walls alone: the end of [`enter`], and what a trial does for itself once it was executed and has its engine loaded.
pub fn raise(walls: &Walls<'_>) -> Result<(), StepError> {
    hide_memory().map_err(at("make the process undumpable"))?;
    // 7. Folders and ports, by Landlock as far as this kernel has it.
    folders::restrict(&walls.grants, walls.sockets)?;
    // 8. Read back, while the calls for that are still allowed.
    readback::walls(&walls.grants)?;
    // 9. System calls, last of all.
    walls.filter.apply(walls.sockets != Sockets::None)
}

/// The same for a job that compiles, by itself once it was executed: its folder, and no call that it has no use for.
/// Its compiler makes threads and more calls than a container's engine, so these are named rather than the rest.
pub fn fence(grants: &[Grant]) -> Result<(), StepError> {
    hide_memory().map_err(at("make the process undumpable"))?;
    folders::restrict(grants, Sockets::None)?;
    readback::walls(grants)?;
    syscalls::fence()
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
