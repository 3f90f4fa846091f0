//! Spares: what waits is confined and has run nothing; a start takes it; nothing of it outlives whoever it was made for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, as_agent, ended, install_runner, needs_runner, nothing_is_left, stage_and_compile,
    wait_for,
};
use shoal_ipc::{Cause, Digest as Id, EventStream};
use shoal_protocol::v1::{Deployment, Resources, RestartPolicy};
use std::fs;
use std::time::Duration;

const ENDS: &str = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"#;

/// Its start function notes the time; ends with 5 when that is more than a second before its `_start`.
const STARTS_ITSELF: &str = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
    (memory (export "memory") 1)
    (func $begin (drop (call $now (i32.const 1) (i64.const 1) (i32.const 8)))) (start $begin)
    (func (export "_start") (drop (call $now (i32.const 1) (i64.const 1) (i32.const 16)))
      (call $exit (select (i32.const 5) (i32.const 4) (i64.gt_u
        (i64.sub (i64.load (i32.const 16)) (i64.load (i32.const 8))) (i64.const 1000000000))))))"#;

/// Confined children of the zygote.
fn children(device: &Device) -> Vec<u32> {
    let zygote = device.status().zygote_pid;
    let text = fs::read_to_string(format!("/proc/{zygote}/task/{zygote}/children")).unwrap_or_default();
    text.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

fn status_of(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).unwrap().trim().to_owned()
}

/// The one that waits: no capability is left to it, and its filter is set.
fn the_spare(device: &Device) -> u32 {
    wait_for("a confined spare", || match children(device)[..] {
        [pid] => (status_of(pid, "Seccomp_filters") == "3" && status_of(pid, "CapEff") == "0000000000000000")
            .then_some(pid),
        _ => None,
    })
}

fn service(fleet: &Fleet, name: &str, version: u64, module: &[u8]) -> Deployment {
    let mut d =
        fleet.pod(name, version, module, Resources { memory_limit: Some(32 << 20), ..Resources::default() });
    d.template.restart_policy = RestartPolicy::Always;
    d
}

fn ready(device: &Device, fleet: &Fleet, text: &str) -> Id {
    let module = wat::parse_str(text).unwrap();
    let d = service(fleet, "web", 1, &module);
    let ticket = fleet.roll_out(device, 1, &d);
    stage_and_compile(device, ticket, &d, &module);
    ticket
}

#[test]
fn a_start_lets_the_waiting_container_go_and_the_next_one_waits_after_its_end() {
    if needs_runner("a_start_lets_the_waiting_container_go_and_the_next_one_waits_after_its_end") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let ticket = ready(&device, &fleet, ENDS);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    for attempt in 1..=3 {
        let spare = the_spare(&device);
        assert!(s.list().unwrap().iter().all(|c| !c.running), "nobody was told of it");
        // Many starts on one connection, answered at once or later.
        assert_eq!(s.start(ticket, 0, attempt).unwrap().pid, spare);
        let state = ended(&mut events);
        assert_eq!((state.cause, state.attempt), (Some(Cause::Exited { code: 3 }), attempt));
    }
    the_spare(&device);
    // Stopped for good, there is nothing to wait for.
    s.stop(ticket, None, Duration::from_secs(1)).unwrap();
    wait_for("the spare's end", || children(&device).is_empty().then_some(()));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn a_start_function_does_not_run_before_the_start() {
    if needs_runner("a_start_function_does_not_run_before_the_start") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let ticket = ready(&device, &fleet, STARTS_ITSELF);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let spare = the_spare(&device);
    // Long enough to be told from the time between the two functions.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(device.supervise().start(ticket, 0, 1).unwrap().pid, spare);
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 4 }));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn f6_a_spare_ends_with_supervise_and_with_an_upgrade() {
    if needs_runner("f6_a_spare_ends_with_supervise_and_with_an_upgrade") {
        return;
    }
    let libexec = tempfile::tempdir().unwrap();
    let (mut device, fleet) = (Device::start_from(libexec.path()), Fleet::new(10));
    fleet.enroll(&device);
    let ticket = ready(&device, &fleet, ENDS);
    let first = the_spare(&device);
    device.kill_supervise();
    wait_for("the spare's end", || (!fs::exists(format!("/proc/{first}")).unwrap()).then_some(()));
    device.launch();
    let mut s = device.supervise();
    wait_for("its ticket", || s.have(ticket).ok());
    let second = the_spare(&device);
    // Another runner: what waits was forked by the old one, and is not used.
    install_runner(libexec.path());
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    assert_ne!(s.start(ticket, 0, 1).unwrap().pid, second);
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 3 }));
    wait_for("the old spare's end", || (!fs::exists(format!("/proc/{second}")).unwrap()).then_some(()));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn without_spares_in_the_policy_nothing_waits() {
    if needs_runner("without_spares_in_the_policy_nothing_waits") {
        return;
    }
    let (mut device, fleet) = (Device::start_with("spares = 0"), Fleet::new(10));
    fleet.enroll(&device);
    let ticket = ready(&device, &fleet, ENDS);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    device.supervise().start(ticket, 0, 1).unwrap();
    ended(&mut events);
    // Supervise has done what follows an end before it answers this.
    device.status();
    assert_eq!(children(&device), Vec::<u32>::new());
    device.stop_all();
    nothing_is_left(&device);
}
