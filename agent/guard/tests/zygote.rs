//! F6 for the process that forks containers: killed, replaced, outlived, upgraded; no container notices.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, Fleet, as_agent, ended, needs_runner, nothing_is_left, stage_and_compile, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use shoal_ipc::{Cause, Digest as Id, EventStream};
use shoal_protocol::v1::Resources;
use std::time::Duration;

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A container that loops slowly, and its process.
fn looping(device: &Device, fleet: &Fleet, name: &str, version: u64) -> (Id, u32) {
    let module = wat::parse_str(LOOPS).unwrap();
    let limits = Resources { cpu_quota: Some(20_000), ..Resources::default() };
    let d = fleet.pod(name, version, &module, limits);
    let ticket = fleet.roll_out(device, version, &d);
    stage_and_compile(device, ticket, &d, &module);
    let pid = device.supervise().start(ticket, 0, 1).unwrap().pid;
    (ticket, pid)
}

fn zygote_other_than(device: &Device, old: u32) -> u32 {
    wait_for("another zygote", || {
        let pid = device.status().zygote_pid;
        (pid != 0 && pid != old).then_some(pid)
    })
}

#[test]
fn f6_a_killed_zygote_is_replaced_and_its_container_goes_on_to_a_known_end() {
    if needs_runner("f6_a_killed_zygote_is_replaced_and_its_container_goes_on_to_a_known_end") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let (ticket, pid) = looping(&device, &fleet, "loops", 1);
    let zygote = device.status().zygote_pid;
    kill(zygote);
    zygote_other_than(&device, zygote);
    assert!(is_alive(pid));
    let mut s = device.supervise();
    assert!(s.list().unwrap().iter().any(|c| c.running && c.pid == pid));
    // Supervise has inherited it, and with it the word of how it ended.
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    kill(pid);
    assert_eq!(ended(&mut events).cause, Some(Cause::Signal { number: 9 }));
    s.start(ticket, 0, 2).unwrap();
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn f6_an_end_while_supervise_is_away_keeps_its_cause() {
    if needs_runner("f6_an_end_while_supervise_is_away_keeps_its_cause") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let (ticket, pid) = looping(&device, &fleet, "loops", 1);
    let zygote = device.status().zygote_pid;
    device.kill_supervise();
    kill(pid);
    wait_for("its end", || (!is_alive(pid)).then_some(()));
    device.launch();
    let mut s = device.supervise();
    let all = s.list().unwrap();
    assert_eq!(all[0].cause, Some(Cause::Signal { number: 9 }), "{all:?}");
    // The same zygote was found again and serves on.
    assert_eq!(device.status().zygote_pid, zygote);
    wait_for("its ticket", || s.have(ticket).ok());
    s.start(ticket, 0, 2).unwrap();
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn f6_with_zygote_and_supervise_killed_the_container_is_adopted_by_its_record() {
    if needs_runner("f6_with_zygote_and_supervise_killed_the_container_is_adopted_by_its_record") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let (ticket, pid) = looping(&device, &fleet, "loops", 1);
    let zygote = device.status().zygote_pid;
    device.kill_supervise();
    kill(zygote);
    wait_for("the zygote's end", || (!is_alive(zygote)).then_some(()));
    assert!(is_alive(pid));
    device.launch();
    zygote_other_than(&device, zygote);
    let mut s = device.supervise();
    assert!(s.list().unwrap().iter().any(|c| c.running && c.pid == pid));
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    assert_eq!(s.stop(ticket, None, Duration::from_mins(1)).unwrap(), 1);
    assert_eq!(ended(&mut events).cause, Some(Cause::Stopped));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn f6_after_an_upgrade_new_containers_come_from_a_new_zygote_and_the_old_one_ends_with_its_last() {
    if needs_runner(
        "f6_after_an_upgrade_new_containers_come_from_a_new_zygote_and_the_old_one_ends_with_its_last",
    ) {
        return;
    }
    let libexec = tempfile::tempdir().unwrap();
    let (mut device, fleet) = (Device::start_from(libexec.path()), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(LOOPS).unwrap();
    let limits = Resources { cpu_quota: Some(20_000), ..Resources::default() };
    let [a, b] = ["first", "second"].map(|name| fleet.pod(name, 1, &module, limits.clone()));
    let tickets = fleet.roll_out_all(&device, 1, &[&a, &b]);
    let (first, second) = (tickets[0], tickets[1]);
    stage_and_compile(&device, first, &a, &module);
    let mut s = device.supervise();
    let pid = s.start(first, 0, 1).unwrap().pid;
    let old = device.status().zygote_pid;
    common::install_runner(libexec.path());
    let other = s.start(second, 0, 1).unwrap().pid;
    let new = zygote_other_than(&device, old);
    assert!(is_alive(old) && is_alive(pid));
    let parent = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse::<u32>().ok()).unwrap()
    };
    assert_eq!((parent(pid), parent(other)), (old, new));
    s.stop(first, None, Duration::from_secs(5)).unwrap();
    wait_for("the old zygote's end", || (!is_alive(old)).then_some(()));
    assert!(is_alive(other) && is_alive(new));
    s.stop(second, None, Duration::from_secs(5)).unwrap();
    device.stop_all();
    nothing_is_left(&device);
}
