//! Devices in real containers: a guest talks over a serial line (one end of a pseudo-terminal), and gets no other node than
//! the one that it was granted, under no other right.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::script::{SUCCESS, Script, results};
use common::{
    AGENT, Device, Fleet, as_agent, ended, needs_runner, nothing_is_left, stage_and_compile, wait_for,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, makedev, mknodat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use shoal_ipc::{Cause, ContainerState, Digest as Id, EventStream};
use shoal_protocol::v1::{Deployment, DeviceGrant, Resources};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Of WASI preview 1.
const ACCES: u32 = 2;
const NOENT: u32 = 44;
const NOSPC: u32 = 51;

/// Reads two lines from `/dev/port` and answers each there; exits with the number of the step that failed.
const TALKS: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "dev/port")
  (data (i32.const 80) "heard ")
  (func $must (param $errno i32) (param $step i32)
    (if (local.get $errno) (then (call $exit (local.get $step)))))
  (func (export "_start")
    (call $must (call $open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 8) (i32.const 0)
      (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 0)) (i32.const 11))
    (call $talk) (call $talk))
  (func $talk
    (i32.store (i32.const 8) (i32.const 128)) (i32.store (i32.const 12) (i32.const 100))
    (call $must (call $read (i32.load (i32.const 0)) (i32.const 8) (i32.const 1) (i32.const 4)) (i32.const 12))
    (i32.store (i32.const 16) (i32.const 80)) (i32.store (i32.const 20) (i32.const 6))
    (i32.store (i32.const 24) (i32.const 128)) (i32.store (i32.const 28) (i32.load (i32.const 4)))
    (call $must (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 2) (i32.const 4)) (i32.const 13))))"#;

fn grant(host_path: &str, path: &str, read_only: bool) -> DeviceGrant {
    DeviceGrant { host_path: host_path.into(), path: path.into(), read_only }
}

fn with(fleet: &Fleet, called: &str, module: &[u8], devices: &[DeviceGrant]) -> Deployment {
    let mut d = fleet.pod(called, 1, module, Resources::default());
    d.template.containers[0].devices = devices.to_vec();
    d
}

/// Starts it and waits for its end; its log too.
fn run(device: &Device, ticket: Id, called: &str) -> (ContainerState, String) {
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    device.supervise().start(ticket, 0, 1).unwrap();
    let state = ended(&mut events);
    let log = device.layout.log_file(called, &ticket, "main", 1);
    (state, as_agent(|| fs::read_to_string(log)).unwrap_or_default())
}

#[test]
fn a_guest_reads_a_line_from_its_serial_port_and_answers_it() {
    if needs_runner("a_guest_reads_a_line_from_its_serial_port_and_answers_it") {
        return;
    }
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let port = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    // Its other end stays open here, as a line does when nobody listens.
    let no_terminal = i32::from_ne_bytes(OFlags::NOCTTY.bits().to_ne_bytes());
    let _line = fs::OpenOptions::new().read(true).write(true).custom_flags(no_terminal).open(&port).unwrap();
    // Pseudo-terminals are shown as they are, so their owner lets the pod's user in.
    chown(&port, Some(AGENT + 100), None).unwrap();

    let mut device = Device::start_with(&format!("[allow]\ndevices = [\"{port}\"]"));
    let fleet = Fleet::new(10);
    fleet.enroll(&device);
    let module = wat::parse_str(TALKS).unwrap();
    let d = with(&fleet, "talks", &module, &[grant(&port, "/dev/port", false)]);
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    device.supervise().start(ticket, 0, 1).unwrap();
    fcntl_setfl(&master, OFlags::NONBLOCK).unwrap();
    let mut master = File::from(master);
    let mut heard = String::new();
    // Once it is open: the line is no terminal of the container's, so a byte that means "interrupt" there ends nothing.
    for (said, answer) in [("hello\n", "heard hello"), ("\x03again\n", "heard again")] {
        master.write_all(said.as_bytes()).unwrap();
        wait_for("the answer on the line", || {
            let mut buffer = [0; 256];
            if let Ok(n) = master.read(&mut buffer) {
                heard.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            heard.contains(answer).then_some(())
        });
    }
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 0 }), "{heard:?}");
    device.stop_all();
    nothing_is_left(&device);
}

/// A node of the test's own in `/dev`, for root alone: the device whose reads are zeros and whose disk is full.
struct Node(PathBuf);

impl Node {
    fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("/dev/shoal-test-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        mknodat(CWD, &name, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 7)).unwrap();
        Self(name.into())
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn c1_c4_a_device_is_its_pods_alone_and_only_as_it_was_granted() {
    if needs_runner("c1_c4_a_device_is_its_pods_alone_and_only_as_it_was_granted") {
        return;
    }
    let node = Node::new();
    let mut device = Device::start_with(&format!("[allow]\ndevices = [\"{}\"]", node.path()));
    let fleet = Fleet::new(10);
    fleet.enroll(&device);
    // Opened to read and write, read, written to; and opened to read alone.
    let script = |folder: &str, name: &str| {
        Script::new()
            .open(folder, name, 0, 0)
            .code("(i32.store (i32.const 0) (i32.const 1048576)) (i32.store (i32.const 4) (i32.const 16))")
            .call("fd_read $0 0 1 8")
            .record("(i32.load (i32.const 1048576))")
            .call("fd_write $0 0 1 8")
            .peek(folder, name, 1)
            .call("fd_read $1 0 1 8")
            .call(&format!("path_unlink_file {folder} '{name}'"))
            .module()
    };
    let (module, in_folder) = (script("@/", "dev/full"), script("@/dev", "full"));
    let granted = [grant(node.path(), "/dev/full", false)];
    let to_read = [grant(node.path(), "/dev/full", true)];
    // Where `/` itself refuses writing the device does not.
    let mut first = with(&fleet, "with", &in_folder, &granted);
    first.template.containers[0].readonly_rootfs = true;
    let all = [
        first,
        with(&fleet, "reads", &module, &to_read),
        with(&fleet, "without", &module, &[]),
        with(&fleet, "writable", &module, &granted),
    ];
    let tickets = fleet.roll_out_all(&device, 1, &[&all[0], &all[1], &all[2], &all[3]]);
    stage_and_compile(&device, tickets[0], &all[0], &in_folder);
    stage_and_compile(&device, tickets[1], &all[1], &module);
    let mut answers = Vec::new();
    for (ticket, called) in tickets.iter().zip(["with", "reads", "without", "writable"]) {
        let (state, log) = run(&device, *ticket, called);
        assert_eq!(state.cause, Some(Cause::Exited { code: 0 }), "{called}: {log}");
        answers.push(results(&log));
    }
    for had in [&answers[0], &answers[3]] {
        assert_eq!(had[..4], [SUCCESS, SUCCESS, 0, NOSPC], "read as zeros, written to a full disk");
        assert_eq!(had[4..6], [SUCCESS, SUCCESS]);
        assert_ne!(had[6], SUCCESS, "what is mounted stays");
    }
    assert_eq!(answers[1][0], ACCES, "not to write");
    assert_eq!(answers[1][4..6], [SUCCESS, SUCCESS], "to read");
    assert_eq!((answers[2][0], answers[2][4]), (NOENT, NOENT), "nothing is there without a grant");
    // The host's node is as it was, and nobody else comes to the pods' own.
    let host = fs::metadata(&node.0).unwrap();
    assert_eq!((host.uid(), host.mode() & 0o777), (0, 0o600));
    let pods = device.layout.supervise_dir().join("pods");
    for ticket in &tickets[..2] {
        let folder = pods.join(ticket.hex()).join("+devices");
        let m = fs::metadata(&folder).unwrap();
        assert_eq!((m.uid(), m.mode() & 0o777), (0, 0o700), "{}", folder.display());
        let own: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|e| e.metadata().unwrap()).collect();
        assert!(
            own.len() == 1
                && own[0].rdev() == makedev(1, 7)
                && matches!(own[0].mode() & 0o777, 0o400 | 0o600)
        );
    }
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn c3_a_device_that_the_owner_forbids_or_that_is_not_there_is_no_start() {
    if needs_runner("c3_a_device_that_the_owner_forbids_or_that_is_not_there_is_no_start") {
        return;
    }
    let node = Node::new();
    let mut device = Device::start_with("[allow]\ndevices = [\"/dev/shoal-test-not-there\", \"/dev/shm\"]");
    let fleet = Fleet::new(10);
    fleet.enroll(&device);
    let module = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).unwrap();
    let of = |called: &str, path: &str| with(&fleet, called, &module, &[grant(path, "/dev/x", false)]);
    let all =
        [of("forbidden", node.path()), of("absent", "/dev/shoal-test-not-there"), of("folder", "/dev/shm")];
    let tickets = fleet.roll_out_all(&device, 1, &[&all[0], &all[1], &all[2]]);
    // One that is forbidden is not even compiled.
    let mut s = device.supervise();
    wait_for("the tickets", || s.have(tickets[2]).ok());
    let item = Id(all[0].template.containers[0].image.module.digest.0);
    s.stage(tickets[1], item, std::os::fd::AsFd::as_fd(&shoal_ipc::sealed_memfd(&module).unwrap())).unwrap();
    stage_and_compile(&device, tickets[1], &all[1], &module);
    for (ticket, code) in tickets.iter().zip(["policy_denied", "kernel_unsupported", "policy_denied"]) {
        assert_eq!(s.start(*ticket, 0, 1).unwrap_err().refusal(), Some(code));
    }
    device.stop_all();
    nothing_is_left(&device);
}
