//! Unsigned pods of uid 0: only where the policy says so, never for the agent, within the policy's limits, kept over restarts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, as_agent, needs_root, needs_runner, wait_for};
use shoal_ipc::{
    Cause, Digest as Id, Error, Event, EventStream, Limits, Network, Restart, SuperviseClient, Ticket,
    TicketContainer, TicketFile, VERSION, sealed_memfd,
};
use shoal_protocol::ids::Digest;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

const ON: &str = "local_unsigned = true\n[limits]\nmemory = \"64Mi\"";

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

const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

fn container(name: &str, module: &[u8]) -> TicketContainer {
    let digest = Id(Digest::of(module).0);
    TicketContainer {
        name: name.into(),
        argv: vec!["/main.wasm".into()],
        env: vec![],
        working_dir: "/".into(),
        module: TicketFile { path: "/main.wasm".into(), size: module.len() as u64, mode: 0o644, digest },
        files: vec![],
        limits: Limits { memory: Some(32 << 20), ..Limits::default() },
        mounts: vec![],
        readonly_rootfs: false,
        restart: Restart::Never,
        interpreter: false,
        self_test: None,
        probes: vec![],
        post_start: None,
        pre_stop: None,
        private_env: Vec::new(),
        stdin: false,
        init: false,
        devices: Vec::new(),
    }
}

fn ticket(containers: Vec<TicketContainer>) -> Ticket {
    Ticket {
        version: VERSION,
        id: Id([9; 32]),
        name: "local_web_09".into(),
        sequence: 0,
        stageable: true,
        startable: true,
        hostname: "web".into(),
        grace: 1,
        limits: Limits::default(),
        volumes: vec![],
        containers,
        required_features: vec![],
        network: Network::None,
        ports: vec![],
    }
}

fn root(device: &Device) -> SuperviseClient {
    SuperviseClient::connect_root(&device.layout).unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

/// Has the pod's first module staged and compiled.
fn prepare(device: &Device, module: &[u8]) {
    let mut events = EventStream::supervise_root(&device.layout).unwrap();
    let item = Id(Digest::of(module).0);
    let mut s = root(device);
    s.stage(Id([9; 32]), item, sealed_memfd(module).unwrap().as_fd()).unwrap();
    s.compile(Id([9; 32]), item).unwrap();
    loop {
        match events.next(Duration::from_mins(1)).unwrap() {
            Event::Compiled { module, .. } if module == item => return,
            Event::CompileFailed { code, detail, .. } => panic!("{code}: {detail}"),
            _ => {}
        }
    }
}

#[test]
fn c5_without_the_owners_word_uid_0_starts_nothing_unsigned_either() {
    if needs_root("c5_without_the_owners_word_uid_0_starts_nothing_unsigned_either") {
        return;
    }
    let device = Device::start();
    assert_eq!(code(root(&device).local_ticket(&ticket(vec![]))), "not_admitted");
}

#[test]
fn c5_a_taken_over_agent_gets_nothing_of_local_pods_also_where_they_are_allowed() {
    if needs_runner("c5_a_taken_over_agent_gets_nothing_of_local_pods_also_where_they_are_allowed") {
        return;
    }
    let device = Device::start_with(ON);
    let module = wat::parse_str(LOOPS).unwrap();
    let pod = ticket(vec![container("main", &module)]);
    let id = pod.id;
    let mut agent = device.supervise();
    assert_eq!(code(agent.local_ticket(&pod)), "not_admitted");
    as_agent(|| assert!(SuperviseClient::connect_root(&device.layout).is_err(), "the root-only socket"));
    // With the pod there, its ticket's id is worth nothing to the agent.
    root(&device).local_ticket(&pod).unwrap();
    prepare(&device, &module);
    assert_eq!(code(agent.have(id)), "not_admitted");
    assert_eq!(code(agent.start(id, 0, 1)), "not_admitted");
    assert_eq!(code(agent.start_attached(id, 0, 1)), "not_admitted");
    root(&device).start(id, 0, 1).unwrap();
    assert_eq!(code(agent.stop(id, None, Duration::ZERO)), "not_admitted");
    assert_eq!(code(agent.stats(id, 0)), "not_admitted");
    assert_eq!(code(agent.remove_container(id, 0)), "not_admitted");
    assert_eq!(code(agent.remove(id)), "not_admitted");
    let list = agent.list().unwrap();
    assert!(list.len() == 1 && list[0].local && list[0].running, "it is listed, as local: {list:?}");
    assert!(device.status().not_admitted >= 8);
}

#[test]
fn c3_the_policys_limits_hold_for_local_pods() {
    if needs_root("c3_the_policys_limits_hold_for_local_pods") {
        return;
    }
    let device = Device::start_with(ON);
    let mut big = container("main", b"x");
    big.limits.memory = Some(65 << 20);
    assert_eq!(code(root(&device).local_ticket(&ticket(vec![big]))), "policy_denied");
    let unlimited = TicketContainer { limits: Limits::default(), ..container("main", b"x") };
    assert_eq!(code(root(&device).local_ticket(&ticket(vec![unlimited]))), "policy_denied");
}

#[test]
fn a_local_pod_runs_outlives_supervise_and_goes_without_a_trace() {
    if needs_runner("a_local_pod_runs_outlives_supervise_and_goes_without_a_trace") {
        return;
    }
    let mut device = Device::start_with(ON);
    let (ends, loops) = (wat::parse_str(ENDS).unwrap(), wat::parse_str(LOOPS).unwrap());
    let pod = ticket(vec![container("main", &loops)]);
    let id = pod.id;
    root(&device).local_ticket(&pod).unwrap();
    prepare(&device, &loops);
    root(&device).start(id, 0, 1).unwrap();
    device.kill_supervise();
    device.launch();
    let list = root(&device).list().unwrap();
    assert!(list.len() == 1 && list[0].running && list[0].local, "{list:?}");
    // What runs cannot become something else; another container beside it is fine.
    assert_eq!(code(root(&device).local_ticket(&ticket(vec![container("other", &loops)]))), "conflict");
    let both = ticket(vec![container("main", &loops), container("second", &ends)]);
    root(&device).local_ticket(&both).unwrap();
    prepare(&device, &ends);
    let mut events = EventStream::supervise_root(&device.layout).unwrap();
    let (_, [out, err]) = root(&device).start_attached(id, 1, 1).unwrap();
    let read = |fd| {
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!((read(out).as_str(), read(err).as_str()), ("out\n", "err\n"), "its output is the caller's");
    let Event::Ended(state) = events.next(Duration::from_mins(1)).unwrap() else { panic!() };
    assert_eq!(state.cause, Some(Cause::Exited { code: 3 }));
    let mut s = root(&device);
    assert_eq!(code(s.remove_container(id, 0)), "conflict", "it runs");
    s.reopen_log(id, 0).unwrap();
    s.remove_container(id, 1).unwrap();
    assert_eq!(s.list().unwrap().len(), 1);
    assert_eq!(code(s.remove(id)), "conflict");
    assert_eq!(s.stop(id, None, Duration::ZERO).unwrap(), 1);
    wait_for("the end", || s.list().unwrap().iter().all(|c| !c.running).then_some(()));
    s.remove(id).unwrap();
    assert!(s.list().unwrap().is_empty());
    assert_eq!(code(s.have(id)), "not_admitted");
    assert_eq!(std::fs::read_dir(device.layout.local_tickets()).unwrap().count(), 0);
    device.stop_all();
    assert_eq!(device.groups(), Vec::<std::path::PathBuf>::new());
}
