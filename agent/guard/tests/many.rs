//! Many at once, and many one after the other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, SOON, as_agent, ended, name, needs_runner, nothing_is_left, stage_and_compile, wait_for,
};
use shoal_ipc::{Cause, Digest as Id, Event, EventStream, SuperviseClient};
use shoal_protocol::v1::{Deployment, Resources};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

const PODS: u8 = 4;
const CONTAINERS: u16 = 16;

/// Waits for an hour.
const SLEEPS: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 272) "\01") (data (i32.const 280) "\00\a0\b8\30\46\03")
  (func (export "_start") (drop (call $p (i32.const 256) (i32.const 1024) (i32.const 1) (i32.const 1100)))))"#;

/// Exits with 7 at once.
const ENDS: &str = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))"#;

/// Four pods of sixteen containers of this module each, ready to start; their tickets.
fn pods(device: &Device, fleet: &Fleet, version: u64, called: &str, module: &[u8]) -> Vec<Id> {
    let pod = |n: u8| {
        let limits = Resources { memory_limit: Some(32 << 20), pids_limit: Some(8), ..Resources::default() };
        let mut d = fleet.pod(&format!("{called}{n}"), version, module, limits);
        let first = d.template.containers.remove(0);
        d.template.containers = (0..CONTAINERS)
            .map(|c| {
                let mut container = first.clone();
                container.name = name(&format!("c{c}"));
                container
            })
            .collect();
        d
    };
    let all: Vec<Deployment> = (0..PODS).map(pod).collect();
    let tickets = fleet.roll_out_all(device, version, &all.iter().collect::<Vec<_>>());
    stage_and_compile(device, tickets[0], &all[0], module);
    let mut s = device.supervise();
    for ticket in &tickets {
        wait_for("the ticket", || s.have(*ticket).ok());
    }
    tickets
}

/// Asks for all starts at once, each on a connection of its own; the processes.
fn start_all(device: &Device, tickets: &[Id]) -> Vec<u32> {
    let all: Vec<(Id, u16)> = tickets.iter().flat_map(|t| (0..CONTAINERS).map(|c| (*t, c))).collect();
    let clients: Vec<SuperviseClient> = as_agent(|| {
        all.iter()
            .map(|_| wait_for("a connection", || SuperviseClient::connect(&device.layout).ok()))
            .collect()
    });
    let barrier = std::sync::Barrier::new(all.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(&all)
            .map(|(mut client, (ticket, container))| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    client.start(*ticket, *container, 1).unwrap().pid
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn sixty_four_starts_at_once_all_run_all_end_and_leave_nothing() {
    if needs_runner("sixty_four_starts_at_once_all_run_all_end_and_leave_nothing") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let count = usize::from(PODS) * usize::from(CONTAINERS);
    let mut events = EventStream::supervise_root(&device.layout).unwrap();
    let mut next_ends = |n: usize| -> Vec<Cause> {
        let mut causes = Vec::new();
        while causes.len() < n {
            if let Event::Ended(state) = events.next(SOON).unwrap() {
                causes.push(state.cause.unwrap());
            }
        }
        causes
    };
    // Those that go on: all there at one time, each a process of its own.
    let tickets = pods(&device, &fleet, 1, "sleeps", &wat::parse_str(SLEEPS).unwrap());
    let pids: BTreeSet<u32> = start_all(&device, &tickets).into_iter().collect();
    assert_eq!(pids.len(), count);
    // The agent's side has room for 64.
    let mut s = SuperviseClient::connect_root(&device.layout).unwrap();
    let running: BTreeSet<u32> = s.list().unwrap().iter().filter(|c| c.running).map(|c| c.pid).collect();
    assert_eq!(running, pids);
    assert!(pids.iter().all(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()));
    for ticket in &tickets {
        assert_eq!(s.stop(*ticket, None, Duration::ZERO).unwrap(), CONTAINERS.into());
    }
    assert!(next_ends(count).iter().all(|c| *c == Cause::Stopped));
    for ticket in &tickets {
        s.remove(*ticket).unwrap();
    }
    // Those that end while others are still being started.
    let module = wat::parse_str(ENDS).unwrap();
    let fleet_two = pods(&device, &fleet, 2, "sleeps", &module);
    start_all(&device, &fleet_two);
    assert!(next_ends(count).iter().all(|c| *c == Cause::Exited { code: 7 }));
    let list = s.list().unwrap();
    assert!(list.len() == count && list.iter().all(|c| !c.running), "{list:?}");
    for ticket in &fleet_two {
        s.remove(*ticket).unwrap();
    }
    assert!(s.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(device.layout.containers()).unwrap().count(), 0);
    // Groups are removed while nobody waits for it.
    let inner =
        |group: PathBuf| std::fs::read_dir(group).unwrap().flatten().filter(|e| e.path().is_dir()).count();
    wait_for("the end of all groups", || {
        (device.groups().into_iter().map(inner).sum::<usize>() == 0).then_some(())
    });
    device.stop_all();
    nothing_is_left(&device);
}

/// A module that takes a while to compile; each number gives another.
fn heavy(number: u32) -> Vec<u8> {
    let mut text = String::from("(module (memory (export \"memory\") 1)");
    for f in 0..150 {
        write!(text, "(func $f{f} (param i32) (result i32) (local $a i32)").unwrap();
        for step in 0..40 {
            let constant = number + f * 41 + step;
            write!(
                text,
                "(local.set $a (i32.add (i32.mul (local.get $a) (local.get 0)) (i32.const {constant})))
                 (if (i32.and (local.get $a) (i32.const 1)) (then (local.set $a (i32.rotl (local.get $a) (i32.const 3)))))"
            )
            .unwrap();
        }
        text.push_str("(local.get $a))");
    }
    text.push_str("(func (export \"_start\") (drop (call $f0 (i32.const 1)))))");
    wat::parse_str(text).unwrap()
}

#[test]
fn as_many_modules_are_compiled_at_a_time_as_the_policy_says_and_no_more() {
    if needs_runner("as_many_modules_are_compiled_at_a_time_as_the_policy_says_and_no_more") {
        return;
    }
    let (mut device, fleet) = (Device::start_with("[compile]\njobs = 3\n"), Fleet::new(10));
    fleet.enroll(&device);
    wait_for("the proof", || device.layout.proof().exists().then_some(()));
    let modules: Vec<Vec<u8>> = (0..5).map(|n| heavy(n * 1_000_000)).collect();
    let pods: Vec<Deployment> = modules
        .iter()
        .enumerate()
        .map(|(n, module)| fleet.pod(&format!("heavy{n}"), 1, module, Resources::default()))
        .collect();
    let tickets = fleet.roll_out_all(&device, 1, &pods.iter().collect::<Vec<_>>());
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    for ((ticket, pod), module) in tickets.iter().zip(&pods).zip(&modules) {
        let item = Id(pod.template.containers[0].image.module.digest.0);
        wait_for("the ticket", || s.have(*ticket).ok());
        s.stage(*ticket, item, shoal_ipc::sealed_memfd(module).unwrap().as_fd()).unwrap();
        s.compile(*ticket, item).unwrap();
    }
    // Each job has a group of its own while it runs.
    let jobs = || {
        let tree = device.groups().into_iter().next()?;
        let all = std::fs::read_dir(tree).ok()?.flatten();
        Some(all.filter(|e| e.file_name().to_string_lossy().starts_with("compile-")).count())
    };
    let (mut most, mut done) = (0, BTreeSet::new());
    while done.len() < modules.len() {
        most = most.max(jobs().unwrap_or(0));
        match events.next(Duration::from_millis(20)) {
            Ok(Event::Compiled { module, .. }) => assert!(done.insert(module)),
            Ok(Event::CompileFailed { code, detail, .. }) => panic!("{code}: {detail}"),
            Ok(_) | Err(shoal_ipc::Error::TimedOut { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    assert!((2..=3).contains(&most), "{most} at a time");
    s.start(tickets[4], 0, 1).unwrap();
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 0 }));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn a_zygote_is_renewed_after_as_many_containers_as_the_policy_says() {
    if needs_runner("a_zygote_is_renewed_after_as_many_containers_as_the_policy_says") {
        return;
    }
    let (mut device, fleet) = (Device::start_with("[zygote]\ncontainers = 3\n"), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(ENDS).unwrap();
    let d = fleet.pod("ends", 1, &module, Resources::default());
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    let mut zygotes = Vec::new();
    for attempt in 1..=7 {
        s.start(ticket, 0, attempt).unwrap();
        assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 7 }));
        zygotes.push(device.status().zygote_pid);
    }
    let [first, second, third] = [zygotes[0], zygotes[3], zygotes[6]];
    assert_eq!(zygotes, [first, first, first, second, second, second, third]);
    assert!(first != second && second != third, "{zygotes:?}");
    // With nothing of theirs left, the old ones are gone.
    for old in [first, second] {
        wait_for("the end of an old zygote", || {
            let stat = std::fs::read_to_string(format!("/proc/{old}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
    device.stop_all();
    nothing_is_left(&device);
}
