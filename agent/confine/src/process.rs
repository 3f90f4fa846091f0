//! Making processes: the only `unsafe` of guard and confinement. Never decides what is made.
//!
//! Supervise and zygote have one thread, always: a forked child may therefore use the whole of std until it executes or exits.

use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `clone3(2)`; the constant of the libc crate does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    /// Its id; valid until it is reaped, which only supervise's loop does.
    pub pid: Pid,
    /// The same for signals without races.
    pub pidfd: OwnedFd,
}

/// Starts a child that runs `body` and never comes back from it. `birth` is the v2 group that it is born in.
pub fn spawn(birth: Option<BorrowedFd<'_>>, body: impl FnOnce() -> Infallible) -> io::Result<Child> {
    spawn_in(birth, UnshareFlags::empty(), body)
}

/// The same, born into new namespaces; the flags of the two calls are the same bits.
pub fn spawn_in(
    birth: Option<BorrowedFd<'_>>,
    namespaces: UnshareFlags,
    body: impl FnOnce() -> Infallible,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero clone_args is the documented "nothing asked for" value; the struct holds only integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(libc::CLONE_PIDFD.cast_unsigned()) | u64::from(namespaces.bits());
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    if let Some(group) = birth {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has a copy of this memory and its own stack at the same address, as after
    // fork; `args` and `pidfd` live until the call returns. The process has one thread (module's invariant, kept by
    // guard and zygote never starting one), so no lock can be held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // A panic must not unwind into the parent's loop in the child's copy of it.
            let never = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            match never {
                Ok(infallible) => match infallible {},
                Err(_) => exit_now(70),
            }
        }
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
            // SAFETY: the kernel has just written a new descriptor there, which nobody else knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid, pidfd })
        }
    }
}

/// Leaves namespaces of the parent.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the hazard is UnshareFlags::FILES with several threads; this process has one, and no caller passes it.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Ends a child at once, without running the parent's exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Enters a network namespace.
pub fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        namespace,
        Some(rustix::thread::LinkNameSpaceType::Network),
    )?)
}

/// Real, effective and saved uid and gid.
pub fn all_ids() -> io::Result<([u32; 3], [u32; 3])> {
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    // SAFETY: both calls write three numbers through pointers into arrays on this stack.
    let done = unsafe {
        libc::getresuid(&raw mut uids[0], &raw mut uids[1], &raw mut uids[2])
            | libc::getresgid(&raw mut gids[0], &raw mut gids[1], &raw mut gids[2])
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok((uids, gids)) }
}

/// The Landlock version of this kernel; nothing when it has none or does not use it.
pub fn landlock_version() -> Option<u32> {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no pointer and answers a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|v| *v > 0)
}

/// Whether a call answers EPERM or EACCES here: for reading back a filter. `socket` makes nothing when it is refused.
pub fn socket_is_refused() -> bool {
    // SAFETY: plain numbers; a descriptor that comes of it after all is closed.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd >= 0 {
            libc::close(fd);
        }
        fd < 0 && [Some(libc::EPERM), Some(libc::EACCES)].contains(&io::Error::last_os_error().raw_os_error())
    }
}

/// Puts `fds[i]` at descriptor `i`; all others are closed, now or by the execution that follows. For a child only:
/// afterwards no other descriptor may be used, except, before the execution, to report a failure.
pub fn place_descriptors(fds: &[BorrowedFd<'_>], close_now: bool) -> io::Result<()> {
    let count = RawFd::try_from(fds.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // First away from the low numbers, so that no source is overwritten before it is copied.
    let mut high = Vec::with_capacity(fds.len());
    for fd in fds {
        // SAFETY: fcntl on a borrowed, open descriptor; the result is a new one.
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, count.max(64)) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        high.push(copy);
    }
    for (target, copy) in (0..count).zip(&high) {
        // SAFETY: `copy` is open; whatever had the number `target` in this forked child is given up by contract.
        if unsafe { libc::dup2(*copy, target) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let how = if close_now { 0 } else { libc::CLOSE_RANGE_CLOEXEC };
    // SAFETY: descriptors of this child alone. Values in its copy of the parent's memory that own one are never dropped:
    // the child leaves by execution or _exit (the contract above).
    let done = unsafe { libc::syscall(libc::SYS_close_range, count.cast_unsigned(), u32::MAX, how) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes a descriptor that the parent put at this number before executing this binary, or before this child was forked
/// ([`place_descriptors`] with closing).
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl may be asked about any number; it fails when nothing is open there.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (just asked), and by the contract between supervise and its services no other owner exists:
    // each number is taken once, at the very start of main.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor that becomes readable when a child ends or the process is asked to stop; those signals are blocked.
pub fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: sigemptyset and sigaddset initialise and fill a set on this stack; sigprocmask and signalfd read it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Undoes [`signal_descriptor`] and what a shell in the background left ignored. For a child only. The first process of a
/// namespace is spared by the kernel from every signal that it does not handle, so there requests to stop get a handler
/// (`first`), set before those that came meanwhile are let in.
pub fn take_back_signals(first: bool) -> io::Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        exit_now(128 + signal)
    }
    let handler = if first { end as extern "C" fn(libc::c_int) as libc::sighandler_t } else { libc::SIG_DFL };
    // SAFETY: sigemptyset fills a set on this stack and sigprocmask reads it. SIG_DFL is a valid disposition for each, and
    // `end` has a handler's signature and only calls _exit, which may be called at any point of the interrupted code.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
            if libc::signal(signal, handler) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        let done = libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// The numbers of the signals that wait on a signal descriptor.
pub fn read_signals(fd: &OwnedFd) -> Vec<i32> {
    const SIZE: usize = size_of::<libc::signalfd_siginfo>();
    let mut all = Vec::new();
    let mut buffer = [0_u8; SIZE];
    while let Ok(SIZE) = rustix::io::read(fd, &mut buffer) {
        // The first field, ssi_signo, is a u32 in the machine's order.
        let number = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        all.push(number.cast_signed());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};
    use std::os::fd::AsFd;

    #[test]
    fn a_child_runs_its_body_with_descriptors_where_they_belong() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let child = spawn(None, || {
            let fds = [null.as_fd(), write.as_fd(), null.as_fd()];
            if place_descriptors(&fds, false).is_err() {
                exit_now(1);
            }
            let e =
                std::os::unix::process::CommandExt::exec(std::process::Command::new("/bin/echo").arg("hi"));
            exit_now(e.raw_os_error().unwrap_or(2));
        })
        .unwrap();
        drop(write);
        let (_, status) = waitpid(Some(child.pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
        let mut text = String::new();
        io::Read::read_to_string(&mut std::fs::File::from(read), &mut text).unwrap();
        assert_eq!(text, "hi\n");
    }

    #[test]
    fn a_panic_in_a_child_ends_the_child_only() {
        let child = spawn(None, || panic!("in the child")).unwrap();
        let (_, status) = waitpid(Some(child.pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(70));
    }
}
