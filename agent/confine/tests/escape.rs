//! C1, C4: what native code in a container's place can still do. Each attempt runs twice: in a plain child, where it must
//! succeed (or the attempt proves nothing), and behind the walls that the zygote puts around a container, where it must not.
//!
//! A guest cannot express most of this; a guest that broke out of its engine could. One thread, because it forks: so it has
//! its own `main`, which prints what cargo's harness would.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and prints its own count")]

use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;
use shoal_confine::process::{exit_now, spawn_in};
use shoal_confine::{Filter, Grant, Namespaces, container, enter, fence, no_new_code};
use shoal_ipc::{
    Bind, ContentFile, ContentFolder, Jail, Launch, NetworkPlace, Preopen, Rootfs, Spec, VERSION,
};
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

/// A uid that nobody has.
const UID: u32 = 78_999;

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    /// Refused with an error.
    Refused(i32),
    Killed(i32),
    /// It never began.
    NotConfined,
}

/// A test of its own, by name.
type Whole = (&'static str, fn(&Filter, &Namespaces) -> bool);

/// What is refused, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// With an error.
    Refusal,
    /// By death (SIGSYS).
    Death,
    /// The harmless twin: it works.
    Success,
}

struct Attempt {
    name: &'static str,
    expect: Expect,
    act: fn(&World) -> i64,
}

/// What an attempt aims at.
struct World {
    /// A folder of the host's, with `secret` in it; granted is `data` below it, seen as `/rootfs/data`.
    outside: String,
    data: String,
    parent: i32,
}

fn errno() -> i64 {
    -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(1))
}

/// A system call with numbers and strings that live as long as it; negative is an error.
fn call(number: i64, args: [i64; 5]) -> i64 {
    // SAFETY: a test's attempt: pointers among the arguments are to strings that the caller keeps; whatever a call breaks,
    // it breaks in a child that ends right after.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    if result < 0 { errno() } else { result }
}

fn open(path: &str, flags: i32) -> i64 {
    let path = CString::new(path).unwrap();
    call(libc::SYS_openat, [libc::AT_FDCWD.into(), path.as_ptr() as i64, flags.into(), 0o600, 0])
}

fn with_path(number: i64, path: &str, rest: [i64; 3]) -> i64 {
    let path = CString::new(path).unwrap();
    call(number, [libc::AT_FDCWD.into(), path.as_ptr() as i64, rest[0], rest[1], rest[2]])
}

fn socket(family: i32) -> i64 {
    call(libc::SYS_socket, [family.into(), libc::SOCK_DGRAM.into(), 0, 0, 0])
}

fn map_code(_: &World) -> i64 {
    let flags = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping that nobody uses.
    let at = unsafe {
        libc::syscall(libc::SYS_mmap, 0_usize, 4096_usize, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0)
    };
    if at < 0 { errno() } else { at }
}

/// Reads 8 bytes of the parent, which lie where this process has them: it is a copy.
fn read_parent(w: &World) -> i64 {
    let (mut into, from) = ([0_u8; 8], [7_u8; 8]);
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: 8 };
    // SAFETY: both vectors name memory of this frame; the remote one is only read, in the parent.
    let n = unsafe { libc::process_vm_readv(w.parent, &raw const local, 1, &raw const remote, 1, 0) };
    if n < 0 { errno() } else { i64::try_from(n).unwrap_or(0) }
}

fn in_data(w: &World, name: &str) -> String {
    // In the jail the folder has another name; outside it has its own.
    let inside = format!("/rootfs/data/{name}");
    if Path::new("/rootfs").exists() { inside } else { format!("{}/{name}", w.data) }
}

const RW: i32 = libc::O_RDWR;
const RO: i32 = libc::O_RDONLY;

/// A link in place of a granted folder, put there after supervise looked: it is neither followed nor mounted as itself.
fn c1_a_link_in_place_of_a_volume(filter: &Filter, host: &Namespaces) -> bool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for folder in ["jail", "data", "outside", "outside/data"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("code"), "x").unwrap();
    std::os::unix::fs::symlink("outside", dir.path().join("way")).unwrap();
    std::os::unix::fs::symlink("outside/data", dir.path().join("end")).unwrap();
    std::os::unix::fs::symlink("code", dir.path().join("file")).unwrap();
    let world = World { outside: String::new(), data: String::new(), parent: 0 };
    let nothing = Attempt { name: "", expect: Expect::Success, act: |_| 0 };
    let with = |source: &str| {
        let mut launch = launch(dir.path());
        let source = dir.path().join(source);
        launch.jail.as_mut().unwrap().rootfs.as_mut().unwrap().volumes =
            vec![Bind::data(source, "/data", false)];
        run(&nothing, &world, Some((&launch, filter, host)))
    };
    ["way/data", "end", "file"].into_iter().all(|link| with(link) == End::NotConfined)
        && with("data") == End::Succeeded
}

/// A folder with what a container is told.
fn content(target: &str) -> ContentFolder {
    let file = ContentFile { path: "greeting".into(), mode: 0o600, bytes: b"hello".to_vec() };
    ContentFolder { target: target.into(), files: vec![file] }
}

/// A link that a guest left in its volume, where something else is mounted below: nothing is made or mounted where it leads.
fn c1_a_link_on_the_way_to_a_mount_point(filter: &Filter, host: &Namespaces) -> bool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for folder in ["jail", "data", "more", "elsewhere", "elsewhere/end"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("code"), "x").unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("data/way")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("end"), dir.path().join("data/end")).unwrap();
    let world = World { outside: String::new(), data: String::new(), parent: 0 };
    let attempt = |act| Attempt { name: "", expect: Expect::Success, act };
    let with = |attempt: &Attempt, volume: Option<&str>, folder: Option<&str>| {
        let mut launch = launch(dir.path());
        let rootfs = launch.jail.as_mut().unwrap().rootfs.as_mut().unwrap();
        rootfs.volumes.extend(volume.map(|target| Bind::data(dir.path().join("more"), target, false)));
        let folders: Vec<ContentFolder> = folder.map(content).into_iter().collect();
        run_with(attempt, &world, Some((&launch, filter, host)), &folders)
    };
    let nothing = attempt(|_| 0);
    let held = ["/data/way/sub", "/data/end"].into_iter().all(|place| {
        with(&nothing, Some(place), None) == End::NotConfined
            && with(&nothing, None, Some(place)) == End::NotConfined
    });
    let untouched = !elsewhere.join("sub").exists();
    // Where no link is on the way, it is there to be read.
    let read = attempt(|_| open("/rootfs/data/deep/down/greeting", RO));
    let written = attempt(|_| open("/rootfs/data/deep/down/greeting", RW));
    held && untouched
        && with(&read, None, Some("/data/deep/down")) == End::Succeeded
        && with(&written, None, Some("/data/deep/down")) == End::Refused(libc::EROFS)
        && with(&nothing, Some("/data/deep/folder"), None) == End::Succeeded
}

/// Kernels from 6.4 on can promise it.
fn knows_noswap() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(4))
}

/// What a container is told is not written to a disk by way of swap.
fn c1_files_of_documents_are_never_swapped(filter: &Filter, host: &Namespaces) -> bool {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["jail", "data"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("code"), "x").unwrap();
    let (launch, folders) = (launch(dir.path()), [content("/conf")]);
    let (input, gate) = rustix::pipe::pipe().unwrap();
    let stderr = std::io::stderr();
    let child = spawn_in(None, BORN, || {
        let fds = [input.as_fd(), stderr.as_fd(), stderr.as_fd()];
        let plan = container(&launch, &folders, &fds, None, filter, Some(host));
        if plan.and_then(|mut plan| enter(&mut plan)).is_err() {
            exit_now(255);
        }
        // Until it was looked at.
        let _ = std::io::stdin().read(&mut [0]);
        exit_now(0)
    })
    .unwrap();
    let file = format!("/proc/{}/mountinfo", child.pid.as_raw_nonzero());
    let begin = std::time::Instant::now();
    let found = loop {
        let mounts = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(line) = mounts.lines().find(|l| l.split(' ').nth(4) == Some("/rootfs/conf")) {
            break line.contains("noswap") && line.contains(" ro,");
        }
        if begin.elapsed() > std::time::Duration::from_secs(20) {
            break false;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    drop(gate);
    found && end_of(&child) == End::Succeeded
}

/// A TCP socket bound to this port of all addresses.
fn bind(port: u16) -> i64 {
    let fd = call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0]);
    if fd < 0 {
        return fd;
    }
    let family = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes();
    let (port, mut address) = (port.to_be_bytes(), [0_u8; 16]);
    address[..4].copy_from_slice(&[family[0], family[1], port[0], port[1]]);
    call(libc::SYS_bind, [fd, address.as_ptr() as i64, 16, 0, 0])
}

fn stream(family: i32, kind: i32, protocol: i32) -> i64 {
    call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0])
}

/// The one port that those with a network may listen at.
const PORT: u16 = 49_151;

/// What a container with a network of its pod's may do with it, and what not.
#[rustfmt::skip]
fn with_network() -> Vec<Attempt> {
    use Expect::{Refusal, Success};
    let a = |name, expect, act| Attempt { name, expect, act };
    vec![
        a("c4_a_port_that_was_not_granted", Refusal, |_: &World| bind(PORT - 1)),
        a("c4_a_port_that_the_kernel_chooses", Refusal, |_| bind(0)),
        a("c4_a_local_socket_beside_a_network", Refusal, |_| stream(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
        a("c4_a_netlink_socket_beside_a_network", Refusal, |_| stream(libc::AF_NETLINK, libc::SOCK_DGRAM, 0)),
        a("c4_a_raw_socket_beside_a_network", Refusal, |_| stream(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
        a("c4_a_socket_of_many_paths", Refusal, |_| stream(libc::AF_INET, libc::SOCK_STREAM, 262)),
        a("twin_the_port_that_was_granted", Success, |_| bind(PORT)),
        a("twin_a_socket_for_datagrams", Success, |_| stream(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)),
    ]
}

/// In the order of the calls' kinds. The last ones are what a guest may well do.
#[rustfmt::skip]
fn attempts() -> Vec<Attempt> {
    use Expect::{Death, Refusal, Success};
    let a = |name, expect, act| Attempt { name, expect, act };
    vec![
        a("c1_a_file_outside_by_its_path", Refusal, |w: &World| open(&format!("{}/secret", w.outside), RO)),
        a("c1_a_symlink_to_the_outside", Refusal, |w| open(&in_data(w, "link"), RO)),
        a("c1_the_top_of_the_root", Refusal, |_| open("/", RO)),
        a("c1_other_processes_in_proc", Refusal, |w| open(&format!("/proc/{}/status", w.parent), RO)),
        a("c1_kernel_settings_in_sys", Refusal, |_| open("/sys/kernel", RO)),
        a("c1_a_device_node_that_is_there", Refusal, |_| open("/dev/null", RO)),
        a("c1_a_new_device_node", Death, |w| {
            let (name, device) = (in_data(w, "node"), i64::try_from(libc::makedev(1, 3)).unwrap());
            with_path(libc::SYS_mknodat, &name, [i64::from(libc::S_IFCHR | 0o600), device, 0])
        }),
        a("c1_a_mount", Death, |_| { let (f, t) = (CString::new("tmpfs").unwrap(), CString::new("/").unwrap());
            // Of propagation alone, so that the twin changes nothing: of its own namespace.
            call(libc::SYS_unshare, [libc::CLONE_NEWNS.into(), 0, 0, 0, 0]).min(call(libc::SYS_mount,
                [f.as_ptr() as i64, t.as_ptr() as i64, 0, i64::try_from(libc::MS_PRIVATE | libc::MS_REC).unwrap(), 0])) }),
        a("c1_another_root", Death, |w| { let p = CString::new(w.data.as_str()).unwrap();
            call(libc::SYS_chroot, [p.as_ptr() as i64, 0, 0, 0, 0]) }),
        a("c1_a_file_by_its_handle", Death, |w| {
            let p = CString::new(w.outside.as_str()).unwrap();
            let (mut handle, mut mount) = ([0_u32; 34], 0_i32);
            handle[0] = 128;
            call(libc::SYS_name_to_handle_at, [libc::AT_FDCWD.into(), p.as_ptr() as i64, handle.as_mut_ptr() as i64,
                (&raw mut mount) as i64, 0])
        }),
        a("c4_the_memory_of_another_process", Death, read_parent),
        a("c4_a_debugger", Death, |_| call(libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0])),
        a("c4_a_signal_to_another_process", Death, |w| call(libc::SYS_kill, [w.parent.into(), 0, 0, 0, 0])),
        a("c4_c6_a_signal_to_itself", Refusal, |_| { let me = i64::from(std::process::id());
            call(libc::SYS_tgkill, [me, call(libc::SYS_gettid, [0; 5]), 0, 0, 0]) }),
        a("c4_a_descriptor_of_another_process", Death, |w| call(libc::SYS_pidfd_open, [w.parent.into(), 0, 0, 0, 0])),
        a("c4_an_internet_socket", Refusal, |_| socket(libc::AF_INET)),
        a("c4_a_local_socket", Refusal, |_| socket(libc::AF_UNIX)),
        a("c4_a_netlink_socket", Refusal, |_| socket(libc::AF_NETLINK)),
        a("c4_a_pair_of_sockets", Death, |_| { let mut fds = [0_i32; 2];
            call(libc::SYS_socketpair, [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, fds.as_mut_ptr() as i64, 0]) }),
        a("c4_another_program", Death, |_| { let (p, none) = (CString::new("/bin/true").unwrap(), [std::ptr::null::<u8>(); 1]);
            let argv = [p.as_ptr(), std::ptr::null()];
            call(libc::SYS_execve, [p.as_ptr() as i64, argv.as_ptr() as i64, none.as_ptr() as i64, 0, 0]) }),
        a("c4_a_child", Death, |_| match call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]) { 0 => exit_now(0), n => n }),
        a("c4_uid_0_again", Death, |_| call(libc::SYS_setuid, [0, 0, 0, 0, 0])),
        a("c4_other_groups", Death, |_| call(libc::SYS_setgroups, [0, 0, 0, 0, 0])),
        a("c4_a_user_namespace", Death, |_| call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0])),
        a("c4_the_keys_of_the_session", Death, |_| call(libc::SYS_keyctl, [0, -3, 1, 0, 0])),
        a("c4_another_host_name", Death, |_| { let n = CString::new("x").unwrap();
            call(libc::SYS_unshare, [libc::CLONE_NEWUTS.into(), 0, 0, 0, 0])
                .min(call(libc::SYS_sethostname, [n.as_ptr() as i64, 1, 0, 0, 0])) }),
        a("c4_a_file_in_memory_to_execute", Death, |_| { let n = CString::new("x").unwrap();
            call(libc::SYS_memfd_create, [n.as_ptr() as i64, 0, 0, 0, 0]) }),
        a("c4_a_higher_limit", Refusal, |_| { let l = [4096_u64, 4096];
            call(libc::SYS_prlimit64, [0, i64::from(libc::RLIMIT_NOFILE), l.as_ptr() as i64, 0, 0]) }),
        a("c4_memory_that_others_may_dump", Refusal, |_| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0])),
        a("c4_new_code_after_its_own_was_mapped", Death, map_code),
        a("twin_a_file_in_its_folder_is_made_and_read", Success, |w| open(&in_data(w, "new"), RW | libc::O_CREAT).min(open(&in_data(w, "new"), RO))),
        a("twin_a_folder_in_its_folder_is_made", Success, |w| with_path(libc::SYS_mkdirat, &in_data(w, "made"), [0o700, 0, 0])),
        a("twin_its_folder_is_listed", Success, |w| open(&in_data(w, "."), RO | libc::O_DIRECTORY)),
        a("twin_memory_is_mapped", Success, |_| {
            // SAFETY: a fresh anonymous mapping that nobody uses.
            unsafe { libc::syscall(libc::SYS_mmap, 0_usize, 4096_usize, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) }
        }),
        a("twin_a_random_number", Success, |_| { let mut b = [0_u8; 8]; call(libc::SYS_getrandom, [b.as_mut_ptr() as i64, 8, 0, 0, 0]) }),
    ]
}

fn launch(outside: &Path) -> Launch {
    let show = |p: &Path| p.to_str().unwrap().to_owned();
    let preopen =
        |guest: &str, read_only| Preopen { guest: guest.into(), host: format!("/rootfs{guest}"), read_only };
    Launch {
        version: VERSION,
        spec: Spec {
            version: VERSION,
            code: "/code.so".into(),
            argv: Vec::new(),
            env: Vec::new(),
            preopens: vec![preopen("/", true), preopen("/data", false)],
            working_dir: "/".into(),
            wasm_pages: None,
            interpreter: false,
            entry: shoal_ipc::Entry::Start,
            start_function: false,
        },
        jail: Some(Jail {
            mount_point: show(&outside.join("jail")),
            binds: vec![Bind::code(outside.join("code"), "/code.so")],
            rootfs: Some(Rootfs {
                size: 1 << 20,
                files: Vec::new(),
                read_only: false,
                volumes: vec![Bind::data(outside.join("data"), "/data", false)],
            }),
            hostname: "jail".into(),
        }),
        uid: Some(UID),
        groups: Vec::new(),
        birth: None,
        oom_score_adj: None,
        network: NetworkPlace::Nowhere,
        cpu_seconds: None,
        bind: Vec::new(),
        content: false,
    }
}

/// What a container is born into.
const BORN: UnshareFlags = UnshareFlags::NEWPID
    .union(UnshareFlags::NEWNS)
    .union(UnshareFlags::NEWNET)
    .union(UnshareFlags::NEWIPC)
    .union(UnshareFlags::NEWUTS);

fn run(attempt: &Attempt, world: &World, walls: Option<(&Launch, &Filter, &Namespaces)>) -> End {
    run_with(attempt, world, walls, &[])
}

fn run_with(
    attempt: &Attempt,
    world: &World,
    walls: Option<(&Launch, &Filter, &Namespaces)>,
    content: &[ContentFolder],
) -> End {
    // Without walls in an empty network too, where no port is anybody else's.
    let born = if walls.is_some() { BORN } else { UnshareFlags::NEWNET };
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let stderr = std::io::stderr();
    let child = spawn_in(None, born, || {
        if let Some((launch, filter, host)) = walls {
            let fds = [null.as_fd(), null.as_fd(), stderr.as_fd()];
            let done = container(launch, content, &fds, None, filter, Some(host))
                .and_then(|mut plan| enter(&mut plan))
                .map_err(|e| format!("cannot {}: {}", e.0, e.1))
                .and_then(|()| no_new_code(filter).map_err(|e| e.to_string()));
            if let Err(why) = done {
                let _ = rustix::io::write(&stderr, format!("{why}\n").as_bytes());
                exit_now(255);
            }
        }
        let result = (attempt.act)(world);
        exit_now(if result >= 0 { 0 } else { i32::try_from(-result).unwrap_or(1).clamp(1, 254) })
    })
    .unwrap();
    end_of(&child)
}

/// What a job that compiles may do all the same: make code, and processes of its own.
const OF_A_JOB: [&str; 2] = ["c4_new_code_after_its_own_was_mapped", "c4_a_child"];

/// The same behind what holds a job that compiles; its namespaces, root and user are left out, so that only this is tried.
fn run_fenced(attempt: &Attempt, world: &World) -> End {
    let child = spawn_in(None, UnshareFlags::empty(), || {
        if let Err(why) = fence(&[Grant { path: world.data.clone(), write: true, code: false }]) {
            let _ = rustix::io::write(std::io::stderr(), format!("cannot {}: {}\n", why.0, why.1).as_bytes());
            exit_now(255);
        }
        let result = (attempt.act)(world);
        exit_now(if result >= 0 { 0 } else { i32::try_from(-result).unwrap_or(1).clamp(1, 254) })
    })
    .unwrap();
    end_of(&child)
}

fn end_of(child: &shoal_confine::process::Child) -> End {
    let (_, status) = waitpid(Some(child.pid), WaitOptions::empty()).unwrap().unwrap();
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => End::Succeeded,
        (Some(255), _) => End::NotConfined,
        (Some(n), _) => End::Refused(n),
        (None, signal) => End::Killed(signal.unwrap_or(0)),
    }
}

fn main() {
    // Cargo asks a harness for a list now and then; filters are not worth their code here.
    if std::env::args().any(|a| a == "--list") {
        return;
    }
    let plain = attempts();
    let without = plain.len();
    let attempts: Vec<Attempt> = plain.into_iter().chain(with_network()).collect();
    let others: [Whole; 3] = [
        ("c1_a_link_in_place_of_a_volume", c1_a_link_in_place_of_a_volume),
        ("c1_a_link_on_the_way_to_a_mount_point", c1_a_link_on_the_way_to_a_mount_point),
        ("c1_files_of_documents_are_never_swapped", c1_files_of_documents_are_never_swapped),
    ];
    let total = attempts.len() + others.len();
    println!("running {total} tests");
    if !rustix::process::geteuid().is_root() {
        for a in &attempts {
            println!("SKIPPED {}: needs root", a.name);
        }
        for (name, _) in others {
            println!("SKIPPED {name}: needs root");
        }
        println!("test result: ok. {total} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        return;
    }
    let (filter, host) = (Filter::new().unwrap(), Namespaces::own());
    let mut failed = 0;
    for (number, attempt) in attempts.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path();
        std::fs::set_permissions(outside, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for folder in ["jail", "data"] {
            std::fs::create_dir(outside.join(folder)).unwrap();
        }
        std::os::unix::fs::chown(outside.join("data"), Some(UID), Some(UID)).unwrap();
        for file in ["secret", "code"] {
            std::fs::write(outside.join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.join("secret"), outside.join("data/link")).unwrap();
        let world = World {
            outside: outside.to_str().unwrap().to_owned(),
            data: outside.join("data").to_str().unwrap().to_owned(),
            parent: rustix::process::getpid().as_raw_nonzero().get(),
        };
        let mut launch = launch(outside);
        if number >= without {
            (launch.network, launch.bind) = (NetworkPlace::Given, vec![PORT]);
        }
        let behind = run(attempt, &world, Some((&launch, &filter, &host)));
        for made in ["new", "node"] {
            let _ = std::fs::remove_file(outside.join("data").join(made));
        }
        let _ = std::fs::remove_dir(outside.join("data/made"));
        let plain = run(attempt, &world, None);
        let held = match attempt.expect {
            Expect::Success => behind == End::Succeeded,
            Expect::Refusal => matches!(behind, End::Refused(_)),
            Expect::Death => behind == End::Killed(libc::SIGSYS),
        };
        // Calls that only look at what is theirs are no hazard, and refused ones are the kernel's own no.
        let _ = std::fs::remove_dir(outside.join("data/made"));
        let fenced = run_fenced(attempt, &world);
        let with_sockets = attempt.name.contains("socket") || attempt.name.contains("port");
        let fence_holds = match attempt.expect {
            Expect::Death => fenced == End::Killed(libc::SIGSYS) || OF_A_JOB.contains(&attempt.name),
            Expect::Success => fenced == End::Succeeded || with_sockets,
            Expect::Refusal => true,
        };
        let good = held && fence_holds && plain == End::Succeeded;
        println!("test {} ... {}", attempt.name, if good { "ok" } else { "FAILED" });
        if !good {
            failed += 1;
            println!(
                "    behind the walls: {behind:?}, expected {:?}; without them: {plain:?}; as a job that compiles: {fenced:?}",
                attempt.expect
            );
        }
    }
    for (name, holds) in others {
        if name.contains("swapped") && !knows_noswap() {
            println!("SKIPPED {name}: needs a kernel from 6.4 on");
            continue;
        }
        let held = holds(&filter, &host);
        println!("test {name} ... {}", if held { "ok" } else { "FAILED" });
        failed += usize::from(!held);
    }
    let passed = total - failed;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed > 0 {
        std::process::exit(1);
    }
}
