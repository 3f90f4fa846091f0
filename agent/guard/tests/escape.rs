//! C1, C2, C4, C6 from inside: guests in real containers that try to get out, to take more than they were given, or to break
//! what runs them. Beside each attempt stands what is allowed, so that a wall which refuses everything would show.
//!
//! What native code in a guest's place could still do is tried in `agent/confine/tests/escape.rs`. A fork bomb is nothing that
//! a guest can write: WASI preview 1 has no processes and no threads, and the process that a container is may make none
//! (`c4_a_child` there).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::script::{BADF, MFILE, NOSPC, PAGES, SUCCESS, Script, results};
use common::{Device, Fleet, SOON, as_agent, name, needs_runner, nothing_is_left, stage_and_compile};
use shoal_ipc::{Cause, ContainerState, Digest as Id, Event, EventStream};
use shoal_protocol::v1::{Deployment, EnvVar, Mount, Resources, Volume, VolumeSource};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

struct Rig {
    device: Device,
    fleet: Fleet,
    events: EventStream,
    runs: u64,
}

/// What came of one run.
struct Ran {
    cause: Cause,
    state: ContainerState,
    log: String,
}

impl Ran {
    fn results(&self) -> Vec<u32> {
        assert_eq!(self.cause, Cause::Exited { code: 0 }, "{}", self.log);
        results(&self.log)
    }
}

impl Rig {
    fn new(policy: &str) -> Self {
        let (device, fleet) = (Device::start_with(policy), Fleet::new(10));
        fleet.enroll(&device);
        let events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
        Self { device, fleet, events, runs: 0 }
    }

    /// Rolls out the next revision of the one deployment and has its module made ready.
    fn ready(&mut self, module: &[u8], change: impl FnOnce(&mut Deployment)) -> Id {
        self.runs += 1;
        let mut d = self.fleet.pod("guest", self.runs, module, Resources::default());
        change(&mut d);
        let ticket = self.fleet.roll_out(&self.device, self.runs, &d);
        stage_and_compile(&self.device, ticket, &d, module);
        ticket
    }

    fn run(&mut self, module: &[u8], change: impl FnOnce(&mut Deployment)) -> Ran {
        let ticket = self.ready(module, change);
        self.device.supervise().start(ticket, 0, 1).unwrap();
        let state = self.end_of(ticket);
        let log = self.device.layout.log_file("guest", &ticket, "main", 1);
        let log = as_agent(|| fs::read_to_string(&log)).unwrap_or_default();
        Ran { cause: state.cause.clone().unwrap(), state, log }
    }

    fn end_of(&mut self, ticket: Id) -> ContainerState {
        loop {
            match self.events.next(SOON).unwrap() {
                Event::Ended(state) if state.ticket == ticket => return *state,
                _ => {}
            }
        }
    }

    fn finish(mut self) {
        self.device.stop_all();
        nothing_is_left(&self.device);
    }
}

fn mount(d: &mut Deployment, called: &str, source: VolumeSource, read_only: bool) {
    d.template.volumes.push(Volume { name: name(called), source });
    let path = format!("/{called}");
    d.template.containers[0].mounts.push(Mount { volume: name(called), path, read_only });
}

fn host(folder: &Path) -> VolumeSource {
    VolumeSource::HostPath { path: folder.to_str().unwrap().into() }
}

fn open_to_all(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
}

/// A folder of the host's with `granted` in it, and beside that what nobody granted.
fn world() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for folder in [dir.path(), &dir.path().join("granted"), &dir.path().join("outside")] {
        open_to_all(folder);
    }
    let secret = dir.path().join("outside/secret");
    fs::write(&secret, "secret").unwrap();
    // Neither owner nor mode is what keeps a guest from it.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).unwrap();
    let granted = dir.path().join("granted");
    fs::write(granted.join("kept"), "kept").unwrap();
    fs::set_permissions(granted.join("kept"), fs::Permissions::from_mode(0o666)).unwrap();
    for (link, to) in
        [("link", Path::new("../outside/secret")), ("abs", &secret), ("dir", Path::new("../outside"))]
    {
        symlink(to, granted.join(link)).unwrap();
    }
    let policy = format!("[allow]\nhost_paths = [\"{}\"]", granted.display());
    (dir, policy)
}

fn names_below(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).unwrap().flatten().map(|e| e.file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn c1_a_guest_reaches_nothing_outside_its_folders_by_path_link_or_name() {
    if needs_runner("c1_a_guest_reaches_nothing_outside_its_folders_by_path_link_or_name") {
        return;
    }
    let (dir, policy) = world();
    let mut rig = Rig::new(&policy);
    let mut guest = Script::new();
    let mut tried = Vec::new();
    for base in ["@/", "@/granted"] {
        for path in [
            "/etc/passwd",
            "../etc/passwd",
            "../../../../../etc/passwd",
            "./../etc/passwd",
            "kept/../../etc/passwd",
            "..",
            "/",
            "/code.so",
            "../code.so",
            "../../code.so",
            "code.so",
            "/rootfs/granted/kept",
            "/proc/self/environ",
            "proc/self/environ",
            "../proc/1/root/etc/passwd",
            "/sys/kernel",
            "../sys/kernel",
            "/dev/null",
            "dev/null",
            "../dev/null",
            "../engine/lib",
            "granted/../../code.so",
        ] {
            guest.peek(base, path, 0);
            tried.push(format!("open {path} below {base}"));
        }
    }
    for path in ["link", "abs", "dir/secret", "./link", "dir/../outside/secret", "../outside/secret", "dir"] {
        guest.peek("@/granted", path, 0);
        tried.push(format!("open {path}"));
    }
    // Links of its own making, to its code and to what lies outside; whether they can be made is no matter.
    for (at, (to, link)) in [
        ("../code.so", "own0"),
        ("/code.so", "own1"),
        ("../../../code.so", "own2"),
        ("../outside/secret", "own3"),
        ("/proc/self/environ", "own4"),
        ("..", "own5"),
        ("/", "own6"),
    ]
    .into_iter()
    .enumerate()
    {
        let make = guest.expression(&format!("path_symlink '{to}' @/granted '{link}'"));
        guest.code(&format!("(drop {make})")).peek("@/granted", link, 0);
        tried.push(format!("open the link {at} to {to}"));
    }
    for path in ["own5/outside/secret", "own6/etc/passwd", "own5/code.so", "own6/code.so"] {
        guest.peek("@/granted", path, 0);
        tried.push(format!("open {path}"));
    }
    for call in [
        "path_filestat_get @/granted 1 'link' 1024",
        "path_filestat_get @/granted 1 '../outside/secret' 1024",
        "path_filestat_set_times @/granted 1 'link' 1 1 5",
        "path_create_directory @/granted '../outside/made'",
        "path_create_directory @/granted 'dir/made'",
        "path_unlink_file @/granted '../outside/secret'",
        "path_unlink_file @/granted 'dir/secret'",
        "path_remove_directory @/granted '../outside'",
        "path_rename @/granted 'kept' @/granted '../outside/kept'",
        "path_rename @/granted 'kept' @/granted 'dir/kept'",
        "path_rename @/granted '../outside/secret' @/granted 'taken'",
        "path_link @/granted 1 'link' @/granted 'hard'",
        "path_link @/granted 0 '../outside/secret' @/granted 'hard'",
        "path_link @/granted 0 'kept' @/granted '../outside/hard'",
        "path_symlink 'x' @/granted '../outside/soft'",
    ] {
        guest.call(call);
        tried.push(call.to_owned());
    }
    for (path, flags) in [("../outside/new", 1), ("dir/new", 1), ("link", 8), ("link", 0), ("abs", 8)] {
        guest.open("@/granted", path, flags, 0);
        tried.push(format!("open {path} to write, flags {flags}"));
    }
    // The twin: its own.
    guest.open("@/granted", "mine", 1, 1).call("fd_write $1 0 1 8").peek("@/granted", "kept", 2).peek(
        "@/granted",
        "./kept",
        2,
    );
    let module = guest.module();
    let ran = rig.run(&module, |d| mount(d, "granted", host(&dir.path().join("granted")), false));
    let all = ran.results();
    let (attempts, twins) = all.split_at(tried.len());
    let got: Vec<_> =
        tried.iter().zip(attempts).filter(|(_, errno)| **errno == SUCCESS).map(|(t, _)| t).collect();
    assert!(got.is_empty(), "succeeded: {got:?}");
    assert_eq!(twins, [SUCCESS; 4]);
    assert_eq!(names_below(&dir.path().join("outside")), ["secret"]);
    assert_eq!(fs::read_to_string(dir.path().join("outside/secret")).unwrap(), "secret");
    assert!(dir.path().join("granted/mine").exists() && dir.path().join("granted/kept").exists());
    rig.finish();
}

#[test]
fn c1_what_is_read_only_stays_as_it_was_whatever_rights_a_guest_asks_for() {
    if needs_runner("c1_what_is_read_only_stays_as_it_was_whatever_rights_a_guest_asks_for") {
        return;
    }
    let (dir, policy) = world();
    let mut rig = Rig::new(&policy);
    let mut guest = Script::new();
    let mut tried = Vec::new();
    // `/` and the granted folder refuse writing, the volume in memory does not.
    for base in ["@/", "@/granted"] {
        for call in [
            format!("fd_fdstat_set_rights {base} 0x1fffffff 0x1fffffff"),
            format!("path_open {base} 0 'new' 1 0x1fffffff 0x1fffffff 0 &0"),
            format!("path_open {base} 0 'new' 5 64 64 0 &0"),
            format!("path_open {base} 0 'kept' 8 0x1fffffff 0x1fffffff 0 &0"),
            format!("path_create_directory {base} 'made'"),
            format!("path_symlink 'kept' {base} 'soft'"),
            format!("path_unlink_file {base} 'kept'"),
            format!("path_rename {base} 'kept' {base} 'gone'"),
            format!("path_rename {base} 'kept' @/memory 'stolen'"),
            format!("path_link {base} 0 'kept' {base} 'hard'"),
            format!("path_rename @/memory 'mine' {base} 'brought'"),
            format!("path_filestat_set_times {base} 0 'kept' 1 1 5"),
        ] {
            // The first may answer as it likes: what counts is what it changes.
            let raises = call.starts_with("fd_fdstat_set_rights");
            if raises {
                let call = guest.expression(&call);
                guest.code(&format!("(drop {call})"));
            } else {
                guest.call(&call);
                tried.push(call);
            }
        }
    }
    // A file that was opened for reading is not written by other calls either.
    guest.peek("@/granted", "kept", 3);
    for call in [
        "fd_fdstat_set_rights $3 0x1fffffff 0x1fffffff",
        "fd_write $3 0 1 8",
        "fd_pwrite $3 0 1 0 8",
        "fd_filestat_set_size $3 0",
        "fd_allocate $3 0 100",
    ] {
        guest.call(call);
    }
    guest.open("@/memory", "mine", 1, 4).call("fd_write $4 0 1 8");
    let module = guest.module();
    let ran = rig.run(&module, |d| {
        d.template.containers[0].readonly_rootfs = true;
        mount(d, "granted", host(&dir.path().join("granted")), true);
        mount(d, "memory", VolumeSource::EmptyDir { size_limit: None }, false);
    });
    let all = ran.results();
    let (attempts, rest) = all.split_at(tried.len());
    let got: Vec<_> =
        tried.iter().zip(attempts).filter(|(_, errno)| **errno == SUCCESS).map(|(t, _)| t).collect();
    assert!(got.is_empty(), "succeeded: {got:?}");
    assert_eq!(rest[0], SUCCESS, "it may be read");
    assert!(rest[2..6].iter().all(|errno| *errno != SUCCESS), "{rest:?}");
    assert_eq!(rest[6..], [SUCCESS; 2]);
    let granted = dir.path().join("granted");
    assert_eq!(names_below(&granted), ["abs", "dir", "kept", "link"]);
    assert_eq!(fs::read_to_string(granted.join("kept")).unwrap(), "kept");
    assert!(fs::metadata(granted.join("kept")).unwrap().mtime() > 1_000_000);
    rig.finish();
}

#[test]
fn c1_a_link_on_the_way_to_a_granted_folder_is_not_followed_by_the_guard_either() {
    if needs_runner("c1_a_link_on_the_way_to_a_granted_folder_is_not_followed_by_the_guard_either") {
        return;
    }
    let (dir, policy) = world();
    let mut rig = Rig::new(&policy);
    let module = Script::new().peek("@/granted", "secret", 0).module();
    for inside in ["dir", "link", "dir/secret"] {
        let path = dir.path().join("granted").join(inside);
        let ticket = rig.ready(&module, |d| mount(d, "granted", host(&path), true));
        let refused = rig.device.supervise().start(ticket, 0, 1).unwrap_err();
        assert_eq!(refused.refusal(), Some("policy_denied"), "{refused}");
        assert!(refused.to_string().contains("a link is on the path"), "{refused}");
    }
    // What the policy does not name is refused before that, and whatever is spelled.
    for outside in [dir.path().join("outside"), dir.path().to_path_buf(), "/".into(), "/etc".into()] {
        rig.runs += 1;
        let mut d = rig.fleet.pod("guest", rig.runs, &module, Resources::default());
        mount(&mut d, "granted", host(&outside), true);
        let ticket = rig.fleet.roll_out(&rig.device, rig.runs, &d);
        let refused = common::wait_for("the refusal", || {
            let e = rig.device.supervise().have(ticket).unwrap_err();
            (e.refusal() != Some("not_admitted")).then_some(e)
        });
        assert_eq!(refused.refusal(), Some("policy_denied"), "{}", outside.display());
    }
    rig.finish();
}

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

#[test]
fn c1_c4_another_pods_volumes_and_files_are_out_of_reach() {
    if needs_runner("c1_c4_another_pods_volumes_and_files_are_out_of_reach") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let loops = wat::parse_str(LOOPS).unwrap();
    let mut victim =
        fleet.pod("victim", 1, &loops, Resources { cpu_quota: Some(20_000), ..Resources::default() });
    mount(&mut victim, "memory", VolumeSource::EmptyDir { size_limit: None }, false);
    mount(&mut victim, "disk", VolumeSource::Persistent { size_limit: None }, false);
    let tickets = fleet.roll_out_all(&device, 1, &[&victim]);
    stage_and_compile(&device, tickets[0], &victim, &loops);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let pid = device.supervise().start(tickets[0], 0, 1).unwrap().pid;
    // Its volumes as the host sees them; what is in them is open to all by mode, if one gets there.
    let found = |below: &Path| {
        let mut all = vec![below.to_path_buf()];
        let mut at = 0;
        while at < all.len() {
            let inner = fs::read_dir(&all[at]).map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>());
            all.extend(inner.unwrap_or_default());
            at += 1;
        }
        all
    };
    let volumes: Vec<_> = found(device.dir.path())
        .into_iter()
        .filter(|p| p.is_dir() && p.components().all(|c| c.as_os_str() != "containers"))
        .filter(|p| p.ends_with("memory") || p.ends_with("disk"))
        .collect();
    assert_eq!(volumes.len(), 2, "{volumes:?}");
    let mut guest = Script::new();
    let mut count = 0;
    for volume in &volumes {
        fs::write(volume.join("mine"), "mine").unwrap();
        let text = volume.join("mine");
        let text = text.to_str().unwrap();
        for path in [text.to_owned(), format!("../..{text}"), text[1..].to_owned()] {
            guest.peek("@/", &path, 0).peek("@/disk", &path, 0);
            count += 2;
        }
    }
    for path in ["../memory/mine", "../disk/mine", "../../victim/disk/mine", "/disk/mine"] {
        guest.peek("@/disk", path, 0).peek("@/", path, 0);
        count += 2;
    }
    let module = guest.module();
    // A volume of the same name is another one.
    let mut thief = fleet.pod("thief", 1, &module, Resources::default());
    mount(&mut thief, "memory", VolumeSource::EmptyDir { size_limit: None }, false);
    mount(&mut thief, "disk", VolumeSource::Persistent { size_limit: None }, false);
    let tickets = fleet.roll_out_all(&device, 2, &[&victim, &thief]);
    stage_and_compile(&device, tickets[1], &thief, &module);
    let other = device.supervise().start(tickets[1], 0, 1).unwrap().pid;
    let ids = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|l| l.strip_prefix("Uid:").map(str::to_owned))
    };
    if let Some(theirs) = ids(other) {
        assert_ne!(ids(pid).unwrap(), theirs, "each pod has a uid of its own");
    }
    let state = loop {
        if let Event::Ended(state) = events.next(SOON).unwrap()
            && state.ticket == tickets[1]
        {
            break state;
        }
    };
    assert_eq!(state.cause, Some(Cause::Exited { code: 0 }));
    let log = device.layout.log_file("thief", &tickets[1], "main", 1);
    let all = results(&as_agent(|| fs::read_to_string(&log)).unwrap());
    assert_eq!(all.len(), count);
    assert!(all.iter().all(|errno| *errno != SUCCESS), "{all:?}");
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn c2_space_in_memory_ends_at_its_size_and_counts_for_the_container() {
    if needs_runner("c2_space_in_memory_ends_at_its_size_and_counts_for_the_container") {
        return;
    }
    let mut rig = Rig::new("");
    let mut guest = Script::new();
    guest.open("@/", "fill", 1, 0).fill(0).open("@/memory", "fill", 1, 1).fill(1);
    // What it deletes is free again.
    guest
        .call("fd_close $0")
        .call("path_unlink_file @/ 'fill'")
        .open("@/", "again", 1, 0)
        .call("fd_write $0 0 1 8");
    let module = guest.module();
    let limited = |memory: u64| {
        move |d: &mut Deployment| {
            d.template.containers[0].resources.memory_limit = Some(memory);
            mount(d, "memory", VolumeSource::EmptyDir { size_limit: Some(2 << 20) }, false);
        }
    };
    let ran = rig.run(&module, limited(256 << 20));
    let all = ran.results();
    assert_eq!((all[0], all[1], all[3], all[4]), (SUCCESS, NOSPC, SUCCESS, NOSPC), "{all:?}");
    assert!((60..=64).contains(&all[2]), "{} MiB fit into `/`", all[2]);
    assert!(all[5] <= 2, "{} MiB fit into a volume of 2 MiB", all[5]);
    assert_eq!(all[6..], [SUCCESS; 4]);
    let peak = ran.state.stats.memory_peak;
    assert!(peak > u64::from(all[2]) << 20, "{peak} bytes at most were counted for {} MiB", all[2]);
    // With less memory than space its own limit ends it, and nobody else's.
    let ran = rig.run(&module, limited(32 << 20));
    assert_eq!(ran.cause, Cause::OomKilled);
    rig.finish();
}

#[test]
fn c2_c6_memory_and_stack_end_at_their_limits_each_by_its_name() {
    if needs_runner("c2_c6_memory_and_stack_end_at_their_limits_each_by_its_name") {
        return;
    }
    let mut rig = Rig::new("");
    let mut guest = Script::new();
    guest
        .record("(memory.grow (i32.const 3))")
        .record("(memory.grow (i32.const 65000))")
        .record("(memory.grow (i32.const 2))")
        .record("(memory.grow (i32.const 1))");
    let ran = rig.run(&guest.module(), |d| {
        d.template.containers[0].resources.wasm_pages = Some(u64::from(PAGES) + 2);
    });
    assert_eq!(ran.results(), [u32::MAX, u32::MAX, PAGES, u32::MAX]);
    let body = |memory: u32, body: &str| {
        let text = format!(
            r#"(module (memory (export "memory") {memory})
                (func $deep (param i32) (result i32)
                  (i32.store (i32.const 0) (local.get 0))
                  (i32.mul (call $deep (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.load (i32.const 0))))
                (func (export "_start") (local $at i32) {body}))"#
        );
        wat::parse_str(text).unwrap()
    };
    let eats = "(loop $more
        (local.set $at (memory.grow (i32.const 1)))
        (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
        (i32.store (i32.mul (local.get $at) (i32.const 65536)) (i32.const 1)) (br $more))";
    // Of a page only what is touched counts, so a page more is 4 KiB of the group's.
    let ran = rig.run(&body(1, eats), |d| d.template.containers[0].resources.wasm_pages = Some(64));
    assert_eq!(ran.cause, Cause::GuestMemory);
    let touches = "(loop $more
        (i32.store (local.get $at) (i32.const 1))
        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
        (br_if $more (i32.lt_u (local.get $at) (i32.const 67108864))))";
    let ran = rig.run(&body(1024, touches), |d| {
        d.template.containers[0].resources.memory_limit = Some(16 << 20);
    });
    assert_eq!(ran.cause, Cause::OomKilled);
    let ran = rig.run(&body(1024, touches), |d| {
        d.template.containers[0].resources.memory_limit = Some(128 << 20);
    });
    assert_eq!(ran.cause, Cause::Exited { code: 0 }, "the twin has room");
    let ran = rig.run(&body(1, "(drop (call $deep (i32.const 0)))"), |_| {});
    assert!(matches!(&ran.cause, Cause::Trap { message } if message.contains("stack")), "{:?}", ran.cause);
    let ran = rig.run(&body(1, "(drop (i32.load (i32.const 70000)))"), |_| {});
    assert!(
        matches!(&ran.cause, Cause::Trap { message } if message.contains("out of bounds")),
        "{:?}",
        ran.cause
    );
    let ran = rig.run(&body(1, "unreachable"), |_| {});
    assert!(
        matches!(&ran.cause, Cause::Trap { message } if message.contains("unreachable")),
        "{:?}",
        ran.cause
    );
    rig.finish();
}

#[test]
fn c4_descriptors_end_at_their_number_and_none_but_the_granted_ones_exist() {
    if needs_runner("c4_descriptors_end_at_their_number_and_none_but_the_granted_ones_exist") {
        return;
    }
    let mut rig = Rig::new("");
    let mut guest = Script::new();
    // Every number from 5 on (3 and 4 are `/` and the volume): asked about, written to, read from, closed, renamed.
    let mut probe = |call: &str| {
        let call = guest.expression(call).replace("(i32.const 77)", "(local.get $n)");
        guest.code(&format!(
            "(local.set $n (i32.const 5)) (local.set $e (i32.const 0))
             (loop $next
               (if (i32.eqz {call}) (then (local.set $e (i32.add (local.get $e) (i32.const 1)))))
               (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3000))))"
        ));
        guest.record("(local.get $e)");
    };
    for call in [
        "fd_fdstat_get 77 1024",
        "fd_write 77 0 1 8",
        "fd_read 77 0 1 8",
        "fd_prestat_get 77 1024",
        "fd_seek 77 0 1 1024",
        "fd_renumber 77 4",
        "fd_close 77",
    ] {
        probe(call);
    }
    for fd in ["-1", "0x7fffffff", "-2147483648"] {
        guest.call(&format!("fd_fdstat_get {fd} 1024")).call(&format!("fd_close {fd}"));
    }
    // As many files as it gets.
    let open = guest.expression("path_open @/ 0 'f' 1 2 2 0 &0");
    guest.code(&format!(
        "(local.set $n (i32.const 0))
         (block $full (loop $more
           (local.set $e {open}) (br_if $full (local.get $e))
           (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 5000)))))"
    ));
    guest.record("(local.get $e)").record("(local.get $n)");
    guest.call("fd_renumber 4 4000000").call("fd_prestat_get 3 1024");
    let module = guest.module();
    let ran = rig.run(&module, |d| mount(d, "memory", VolumeSource::EmptyDir { size_limit: None }, false));
    let all = ran.results();
    assert_eq!(all[..7], [0; 7], "a descriptor that nobody granted answered");
    assert_eq!(all[7..13], [BADF; 6]);
    assert_eq!(all[13], MFILE);
    assert!((900..1024).contains(&all[14]), "{} files at once", all[14]);
    assert_eq!(all[16], SUCCESS, "its own answers");
    rig.finish();
}

#[test]
fn c6_a_guest_that_closes_its_streams_still_ends_with_its_own_code() {
    if needs_runner("c6_a_guest_that_closes_its_streams_still_ends_with_its_own_code") {
        return;
    }
    let mut rig = Rig::new("");
    let mut guest = Script::new();
    for fd in 0..3 {
        guest.call(&format!("fd_close {fd}"));
    }
    // Files take the numbers that became free; what they get is theirs and nobody's answer.
    for at in 0..6 {
        guest.open("@/", &format!("f{at}"), 1, at).call(&format!("fd_write ${at} 0 1 8"));
    }
    guest.code("(call $proc_exit (i32.const 7))");
    let ran = rig.run(&guest.module(), |_| {});
    assert_eq!(ran.cause, Cause::Exited { code: 7 }, "{}", ran.log);
    rig.finish();
}

#[test]
fn c6_signals_that_a_guest_raises_are_told_as_what_they_are() {
    if needs_runner("c6_signals_that_a_guest_raises_are_told_as_what_they_are") {
        return;
    }
    let mut rig = Rig::new("");
    let mut guest = Script::new();
    for signal in 0..31 {
        guest.call(&format!("proc_raise {signal}"));
    }
    let ran = rig.run(&guest.module(), |_| {});
    let all = ran.results();
    assert!(all.iter().all(|errno| *errno != SUCCESS), "no signal is raised: {all:?}");
    rig.finish();
}

#[test]
fn long_arguments_and_a_full_environment_arrive_whole() {
    if needs_runner("long_arguments_and_a_full_environment_arrive_whole") {
        return;
    }
    let mut rig = Rig::new("");
    let mut guest = Script::new();
    guest.call("args_sizes_get &0 &1").call("environ_sizes_get &2 &3");
    for slot in 0..4 {
        guest.record(&format!("(i32.load (i32.const {}))", 256 + 4 * slot));
    }
    guest.call("args_get 1048576 1100000").call("environ_get 1048576 1200000");
    let module = guest.module();
    let ran = rig.run(&module, |d| {
        let c = &mut d.template.containers[0];
        c.argv = (0..200).map(|n| format!("{n:0100}")).collect();
        c.env = (0..200).map(|n| EnvVar::plain(format!("N{n:03}"), "v".repeat(100))).collect();
    });
    let (args, env) = (200 * 101, 200 * (4 + 1 + 100 + 1));
    assert_eq!(ran.results(), [SUCCESS, SUCCESS, 200, args, 200, env, SUCCESS, SUCCESS]);
    rig.finish();
}
