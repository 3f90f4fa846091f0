//! The system calls that the engine makes for a guest, and no others, by seccomp.
//!
//! How the list was measured: a guest that makes every call of WASI preview 1 but those on sockets
//! (`agent/guard/tests/wasi.rs`) ran in a container while `strace -f` watched its zygote (the test's `SHOAL_PAUSE` makes room
//! for that); what was seen after the first filter is allowed. Beside it stands what `nm -D` shows that the engine or its
//! libraries may call and that guest did not reach: growing and shrinking memory, sleeping, another kernel's spelling of the
//! same call. The calls on sockets were found the same way, by a server and a client (`agent/guard/tests/network.rs`); without a
//! network they, and calls by which libraries only look around, are refused quietly, so that whoever asks is told no and
//! goes on. Any other call ends the process.

use super::{StepError, at, process};
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;
use std::io;

/// Memory, time, threads' own affairs and the end.
const PROCESS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
];

/// Files and folders by descriptor: Landlock and the mounts say which.
const FILES: &[i64] = &[
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Waiting for descriptors and clocks.
const WAITING: &[i64] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// Sockets that exist already, and what belongs to them; new ones are held by [`other_sockets`].
const SOCKETS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// Refused with EPERM rather than by death: libraries ask these to look around, and cope.
const QUIET: &[i64] = &[
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_sysinfo,
    // To itself alone (WASI's proc_raise, abort): the first process of a namespace would be spared from most of them anyway.
    libc::SYS_tgkill,
    libc::SYS_uname,
];

/// What only this architecture still has.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_mkdir, libc::SYS_time];
#[cfg(target_arch = "x86_64")]
const OLD_QUIET: &[i64] = &[libc::SYS_access, libc::SYS_arch_prctl];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[i64] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_QUIET: &[i64] = &[];

/// What nothing that compiles has a use for: other processes, programs, users, namespaces, mounts, keys, sockets, devices, and the
/// parts of a kernel that faults are found in most.
const HAZARDS: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_capset,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_connect,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setdomainname,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_settimeofday,
    libc::SYS_setuid,
    libc::SYS_shmget,
    libc::SYS_socketpair,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_tkill,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    libc::SYS_vmsplice,
];
#[cfg(target_arch = "x86_64")]
const OLD_HAZARDS: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_HAZARDS: &[i64] = &[];

/// Namespaces that a new process or thread could ask for.
const NEW_NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// From here on a hazard ends this process, and a socket is refused.
pub(crate) fn fence() -> Result<(), StepError> {
    let step = || at("fence system calls in");
    let mut deadly: Rules = HAZARDS.iter().chain(OLD_HAZARDS).map(|n| (*n, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for kind in NEW_NAMESPACES {
        let bit = u64::from(kind.cast_unsigned());
        namespaces.extend(only(bit, Op::MaskedEq(bit)).map_err(step())?);
    }
    deadly.insert(libc::SYS_clone, namespaces);
    // Its flags lie in memory, where no filter sees them; a C library goes on with the older call.
    let absent = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let quiet = Rules::from([(libc::SYS_socket, Vec::new())]);
    let errno = |n: i32| SeccompAction::Errno(n.cast_unsigned());
    for (rules, action) in
        [(quiet, errno(libc::EPERM)), (absent, errno(libc::ENOSYS)), (deadly, SeccompAction::KillProcess)]
    {
        let program = compile(rules, SeccompAction::Allow, action).map_err(step())?;
        apply_filter(&program).map_err(|e| step()(error(e)))?;
    }
    if process::socket_is_refused() { Ok(()) } else { Err(step()(io::Error::from(Errno::PROTO))) }
}

/// The filters, made once and applied in each child.
#[derive(Debug)]
pub struct Filter {
    alone: [BpfProgram; 2],
    sockets: [BpfProgram; 2],
    no_new_code: BpfProgram,
}

/// seccomp(2).
const SET_MODE_FILTER: u64 = 1;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn error(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(e)
}

fn compile(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(error)?;
    let filter = SeccompFilter::new(rules, otherwise, on_match, arch).map_err(error)?;
    filter.try_into().map_err(error)
}

/// Everything but an Internet socket for TCP or UDP: other families, kinds and protocols have walls of their own, or none
/// (Landlock's rules for ports know TCP alone, not MPTCP or SCTP).
fn other_sockets() -> io::Result<Vec<SeccompRule>> {
    let number = |n: i32| u64::from(n.cast_unsigned());
    let is = |arg, op, n: i32| Condition::new(arg, Len::Dword, op, number(n)).map_err(error);
    let none_of = |arg, all: &[i32]| -> io::Result<SeccompRule> {
        let conditions = all.iter().map(|n| is(arg, Op::Ne, *n)).collect::<io::Result<_>>()?;
        SeccompRule::new(conditions).map_err(error)
    };
    let mut rules = vec![
        none_of(0, &[libc::AF_INET, libc::AF_INET6])?,
        none_of(2, &[0, libc::IPPROTO_TCP, libc::IPPROTO_UDP])?,
    ];
    // The low bits are the kind; the flags above them are harmless.
    for kind in (0..16).filter(|k| ![libc::SOCK_STREAM, libc::SOCK_DGRAM].contains(k)) {
        rules.push(SeccompRule::new(vec![is(1, Op::MaskedEq(0xf), kind)?]).map_err(error)?);
    }
    Ok(rules)
}

/// A call whose first argument is this, or anything else.
fn only(first: u64, op: Op) -> io::Result<Vec<SeccompRule>> {
    let condition = Condition::new(0, Len::Dword, op, first).map_err(error)?;
    Ok(vec![SeccompRule::new(vec![condition]).map_err(error)?])
}

/// Mapping or marking memory as code.
fn code() -> io::Result<Vec<SeccompRule>> {
    const EXEC: u64 = libc::PROT_EXEC as u64;
    let condition = Condition::new(2, Len::Dword, Op::MaskedEq(EXEC), EXEC).map_err(error)?;
    Ok(vec![SeccompRule::new(vec![condition]).map_err(error)?])
}

impl Filter {
    /// Makes the filters for this architecture.
    pub fn new() -> io::Result<Self> {
        let set = |sockets: bool| -> io::Result<[BpfProgram; 2]> {
            let lists = [PROCESS, FILES, WAITING, OLD_FILES, QUIET, OLD_QUIET];
            let mut allowed: Rules = lists.iter().flat_map(|l| l.iter()).map(|n| (*n, Vec::new())).collect();
            let mut quiet: Rules = QUIET.iter().chain(OLD_QUIET).map(|n| (*n, Vec::new())).collect();
            allowed.extend(SOCKETS.iter().map(|n| (*n, Vec::new())));
            allowed.insert(libc::SYS_socket, Vec::new());
            // Further filters may be set: they can only take away.
            allowed.insert(libc::SYS_seccomp, only(SET_MODE_FILTER, Op::Eq)?);
            quiet.insert(libc::SYS_prctl, only(libc::PR_SET_NO_NEW_PRIVS.cast_unsigned().into(), Op::Ne)?);
            if sockets {
                quiet.insert(libc::SYS_socket, other_sockets()?);
            } else {
                quiet.extend(SOCKETS.iter().chain(&[libc::SYS_socket]).map(|n| (*n, Vec::new())));
            }
            let eperm = SeccompAction::Errno(libc::EPERM.cast_unsigned());
            Ok([
                compile(allowed, SeccompAction::KillProcess, SeccompAction::Allow)?,
                // The stricter of the two answers counts.
                compile(quiet, SeccompAction::Allow, eperm)?,
            ])
        };
        let exec = Rules::from([(libc::SYS_mmap, code()?), (libc::SYS_mprotect, code()?)]);
        Ok(Self {
            alone: set(false)?,
            sockets: set(true)?,
            no_new_code: compile(exec, SeccompAction::Allow, SeccompAction::KillProcess)?,
        })
    }

    /// Applies the one for a container with or without sockets, and makes sure that it is there.
    pub(crate) fn apply(&self, sockets: bool) -> Result<(), StepError> {
        let [allowed, quiet] = if sockets { &self.sockets } else { &self.alone };
        for program in [allowed, quiet] {
            apply_filter(program).map_err(|e| at("filter system calls")(error(e)))?;
        }
        if process::socket_is_refused() {
            Ok(())
        } else {
            Err(at("filter system calls")(io::Error::from(Errno::PROTO)))
        }
    }
}

/// From here on no memory becomes code: for when a guest's own has been mapped.
pub fn no_new_code(filter: &Filter) -> io::Result<()> {
    apply_filter(&filter.no_new_code).map_err(error)
}
