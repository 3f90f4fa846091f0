//! Real containers under the real guard: limits read back, ends with their cause, signed facts, nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, SOON, as_agent, ended, needs_runner, nothing_is_left, stage_and_compile, wait_for,
};
use shoal_ipc::{Cause, EventStream, HeldRole};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::v1::Resources;

/// Says a word on each stream and exits with 3.
const ENDS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "out\nerr\n")
  (func $say (param $fd i32) (param $at i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (i32.const 4))
    (drop (call $w (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 100))))
  (func (export "_start")
    (call $say (i32.const 1) (i32.const 8)) (call $say (i32.const 2) (i32.const 12))
    (call $exit (i32.const 3))))"#;

/// Exits well at once.
const GOOD: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

#[test]
fn a_container_runs_under_its_limits_and_its_end_is_a_signed_fact() {
    if needs_runner("a_container_runs_under_its_limits_and_its_end_is_a_signed_fact") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    let keys = fleet.enroll(&device);
    let module = wat::parse_str(ENDS).unwrap();
    let limits = Resources {
        memory_limit: Some(64 << 20),
        cpu_quota: Some(20_000),
        cpu_period: Some(10_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("0".into()),
        pids_limit: Some(16),
        oom_score_adj: Some(30),
        ..Resources::default()
    };
    let d = fleet.pod("ends", 1, &module, limits);
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    let started = s.start(ticket, 0, 1).unwrap();
    let a = &started.applied;
    assert_eq!((a.memory_limit, a.cpu_quota, a.cpu_period), (Some(64 << 20), Some(20_000), Some(10_000)));
    assert_eq!((a.cpu_shares, a.pids_limit, a.oom_score_adj), (Some(512), Some(16), Some(30)));
    assert_eq!((a.cpuset_cpus.as_deref(), a.cpuset_mems.as_deref()), (Some("0"), Some("0")));
    let state = ended(&mut events);
    assert_eq!(state.cause, Some(Cause::Exited { code: 3 }));
    assert_eq!(state.stderr_tail, "err\n");
    assert!(state.stats.memory_peak > 0 && state.stats.cpu_usage > 0, "{:?}", state.stats);
    let log = device.layout.log_file("ends", &ticket, "main", 1);
    let text = as_agent(|| std::fs::read_to_string(&log)).unwrap();
    assert!(text.contains(" stdout F out\n") && text.contains(" stderr F err\n"), "{text}");
    // The same attempt again is no start.
    assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("conflict"));
    let facts = wait_for("two facts", || {
        let all = device.admit().facts(0).ok()?.facts;
        (all.len() == 2).then_some(all)
    });
    let kid = shoal_protocol::v1::Key::ed25519(keys.attest).kid();
    for fact in &facts {
        let envelope = Envelope::parse(&fact.envelope).unwrap();
        assert_eq!(envelope.signatures()[0].kid, kid);
    }
    device.admit().facts_done(facts[1].counter).unwrap();
    assert!(device.admit().facts(0).unwrap().facts.is_empty());
    s.remove(ticket).unwrap();
    assert!(s.list().unwrap().is_empty());
    wait_for("the end of its log", || (!log.exists()).then_some(()));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn a_pod_that_ends_well_becomes_last_good_and_a_running_one_is_stopped() {
    if needs_runner("a_pod_that_ends_well_becomes_last_good_and_a_running_one_is_stopped") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(GOOD).unwrap();
    let d = fleet.pod("job", 1, &module, Resources::default());
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    device.supervise().start(ticket, 0, 1).unwrap();
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 0 }));
    wait_for("last-good", || (device.admit().trust().ok()?.held[0].role == HeldRole::LastGood).then_some(()));

    let module = wat::parse_str(LOOPS).unwrap();
    let next = fleet.pod("job", 2, &module, Resources { cpu_quota: Some(20_000), ..Resources::default() });
    let second = fleet.roll_out(&device, 2, &next);
    stage_and_compile(&device, second, &next, &module);
    let mut s = device.supervise();
    let pid = s.start(second, 0, 1).unwrap().pid;
    // It sees neither the host's files nor a network, holds no capability and is a uid of the pods' range.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    assert_eq!(
        (field("CapEff:").as_str(), field("CapBnd:").as_str()),
        ("0000000000000000", "0000000000000000")
    );
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(field("Uid:").starts_with(&(common::AGENT + 100).to_string()), "{}", field("Uid:"));
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/etc")).exists());
    let own = |ns: &str| std::fs::read_link(format!("/proc/{pid}/ns/{ns}")).unwrap();
    assert_eq!((field("Seccomp:").as_str(), field("Groups:").as_str()), ("2", ""));
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"), "the first process of its own tree");
    let memory = std::fs::metadata(format!("/proc/{pid}/mem")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0, "its memory is not its own to open");
    // Standard streams, the answer and the guest's folder; its gate too until it is through.
    wait_for("the gate closed and nothing else open", || {
        (std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() <= 5).then_some(())
    });
    for ns in ["net", "mnt", "ipc", "uts", "pid", "cgroup"] {
        assert_ne!(own(ns), std::fs::read_link(format!("/proc/self/ns/{ns}")).unwrap(), "{ns}");
    }
    // Supervise killed: the next one finds it, and its end keeps its cause.
    device.kill_supervise();
    device.launch();
    let found = device.supervise().list().unwrap();
    assert!(found.iter().any(|c| c.running && c.pid == pid), "{found:?}");
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    assert_eq!(device.supervise().stop(second, None, SOON).unwrap(), 1);
    assert_eq!(ended(&mut events).cause, Some(Cause::Stopped));
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn stop_all_ends_what_runs_also_when_supervise_is_gone() {
    if needs_runner("stop_all_ends_what_runs_also_when_supervise_is_gone") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(LOOPS).unwrap();
    let limits = Resources { cpu_quota: Some(20_000), memory_limit: Some(64 << 20), ..Resources::default() };
    let d = fleet.pod("loops", 1, &module, limits);
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    device.supervise().start(ticket, 0, 1).unwrap();
    device.kill_supervise();
    device.stop_all();
    nothing_is_left(&device);
}

#[test]
fn a_containers_process_has_no_compiler_in_its_memory() {
    if needs_runner("a_containers_process_has_no_compiler_in_its_memory") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(LOOPS).unwrap();
    let limits = Resources { cpu_quota: Some(20_000), ..Resources::default() };
    let d = fleet.pod("loops", 1, &module, limits);
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let pid = device.supervise().start(ticket, 0, 1).unwrap().pid;
    // What stands in for LLVM has its name; the real one is a thousand times larger and brings a solver along.
    let maps = wait_for("the engine in its memory", || {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        maps.contains("libwasmedge").then_some(maps)
    });
    let mapped = |line: &&str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(number(to)? - number(from)?)
    };
    let llvm: u64 = maps.lines().filter(|l| l.contains("LLVM")).filter_map(|l| mapped(&l)).sum();
    assert!(llvm < 1 << 20, "{llvm} bytes of LLVM are mapped");
    assert!(!maps.contains("libz3") && !maps.contains("libxml2"), "{maps}");
}

#[test]
fn m9_changed_code_in_the_cache_is_noticed_before_it_runs() {
    if needs_runner("m9_changed_code_in_the_cache_is_noticed_before_it_runs") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(GOOD).unwrap();
    let d = fleet.pod("job", 1, &module, Resources::default());
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let code = std::fs::read_dir(device.layout.cache()).unwrap().flatten().map(|e| e.path());
    let code = code.into_iter().find(|p| p.extension().is_some_and(|e| e == "so")).unwrap();
    let mut bytes = std::fs::read(&code).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&code, bytes).unwrap();
    let mut s = device.supervise();
    assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("cache_changed"));
    stage_and_compile(&device, ticket, &d, &module);
    s.start(ticket, 0, 2).unwrap();
}

#[test]
fn c3_a_limit_that_the_kernel_does_not_take_refuses_the_start() {
    if needs_runner("c3_a_limit_that_the_kernel_does_not_take_refuses_the_start") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(GOOD).unwrap();
    // No machine has this CPU.
    let limits = Resources { cpuset_cpus: Some("4000".into()), ..Resources::default() };
    let d = fleet.pod("job", 1, &module, limits);
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut s = device.supervise();
    assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("limit_not_applied"));
    assert!(s.list().unwrap().is_empty(), "nothing was started");
    device.stop_all();
    nothing_is_left(&device);
}
