//! Another engine or another CPU under the same device: code is made anew, nothing of the old one runs by mistake, what runs
//! goes on. The other engine is the real runner with another word in the line that names it; the other CPU is a list of
//! features without one of them, in place of the kernel's.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, Fleet, SOON, as_agent, needs_runner, nothing_is_left, wait_for};
use shoal_ipc::{Digest as Id, Event, EventStream, Layout, SuperviseClient};
use shoal_protocol::v1::{Engine, Resources};
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

/// Goes on for ever.
const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;

/// Puts a runner in place whose engine calls itself another.
fn install_other_engine(libexec: &Path) {
    let mut bytes = fs::read(Layout::runner_binary()).unwrap();
    let (old, new) = (b" proposals-1", b" proposals-X");
    let at: Vec<usize> =
        bytes.windows(old.len()).enumerate().filter(|(_, w)| w == old).map(|(at, _)| at).collect();
    assert!(!at.is_empty(), "the runner does not name its options any more");
    for at in at {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    let file = libexec.join("shoal-runner.new");
    fs::write(&file, bytes).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(file, libexec.join("shoal-runner")).unwrap();
}

fn native_code(device: &Device) -> usize {
    let all = fs::read_dir(device.layout.cache()).unwrap().flatten();
    all.filter(|e| e.path().extension().is_some_and(|e| e == "so")).count()
}

fn compile(s: &mut SuperviseClient, events: &mut EventStream, ticket: Id, item: Id) {
    s.compile(ticket, item).unwrap();
    loop {
        match events.next(SOON).unwrap() {
            Event::Compiled { module, .. } if module == item => return,
            Event::CompileFailed { code, detail, .. } => panic!("{code}: {detail}"),
            _ => {}
        }
    }
}

#[test]
fn another_engine_and_another_cpu_have_code_made_anew_and_what_runs_goes_on() {
    if needs_runner("another_engine_and_another_cpu_have_code_made_anew_and_what_runs_goes_on") {
        return;
    }
    let libexec = tempfile::tempdir().unwrap();
    let (mut device, fleet) = (Device::start_from(libexec.path()), Fleet::new(10));
    fleet.enroll(&device);
    let module = wat::parse_str(LOOPS).unwrap();
    let limits = Resources { cpu_quota: Some(10_000), ..Resources::default() };
    let mut pods = ["first", "second", "third"].map(|name| fleet.pod(name, 1, &module, limits.clone()));
    pods[2].template.containers[0].engine = Engine::Interpreter;
    let tickets = fleet.roll_out_all(&device, 1, &pods.iter().collect::<Vec<_>>());
    let item = Id(pods[0].template.containers[0].image.module.digest.0);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    wait_for("the tickets", || tickets.iter().all(|t| s.have(*t).is_ok()).then_some(()));
    s.stage(tickets[0], item, shoal_ipc::sealed_memfd(&module).unwrap().as_fd()).unwrap();
    compile(&mut s, &mut events, tickets[0], item);
    let first = s.start(tickets[0], 0, 1).unwrap().pid;
    let proof = fs::read(device.layout.proof()).unwrap();
    assert_eq!(native_code(&device), 1);

    // The engine is upgraded under a running guard.
    install_other_engine(libexec.path());
    assert!(s.have(tickets[1]).unwrap().modules[0].compiled.is_none(), "no code of that engine is there");
    assert_eq!(s.start(tickets[1], 0, 1).unwrap_err().refusal(), Some("cache_changed"));
    compile(&mut s, &mut events, tickets[1], item);
    assert_ne!(fs::read(device.layout.proof()).unwrap(), proof, "the new one proved itself");
    assert_eq!(native_code(&device), 2, "what runs and what it may return to keeps its code");
    let second = s.start(tickets[1], 0, 1).unwrap().pid;
    let runs = |s: &mut SuperviseClient, pid| s.list().unwrap().iter().any(|c| c.running && c.pid == pid);
    assert!(runs(&mut s, first) && runs(&mut s, second));

    // The disk is put into another machine, or a kernel shows one feature less.
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let key = if cpuinfo.contains("\nflags") { "flags" } else { "Features" };
    let less: Vec<String> = cpuinfo
        .lines()
        .map(|l| if l.starts_with(key) { l.rsplit_once(' ').unwrap().0.to_owned() } else { l.to_owned() })
        .collect();
    let file = libexec.path().join("cpuinfo");
    fs::write(&file, less.join("\n")).unwrap();
    device.kill_supervise();
    device.cpuinfo = Some(file);
    device.launch();
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    wait_for("the tickets", || tickets.iter().all(|t| s.have(*t).is_ok()).then_some(()));
    assert!(runs(&mut s, first) && runs(&mut s, second), "nobody who runs is touched");
    assert!(s.have(tickets[1]).unwrap().modules[0].compiled.is_none());
    s.stop(tickets[1], None, Duration::ZERO).unwrap();
    wait_for("its end", || (!runs(&mut s, second)).then_some(()));
    assert_eq!(
        s.start(tickets[1], 0, 2).unwrap_err().refusal(),
        Some("cache_changed"),
        "not with the other CPU's code"
    );
    compile(&mut s, &mut events, tickets[1], item);
    s.start(tickets[1], 0, 3).unwrap();
    assert_eq!(native_code(&device), 3);
    // What is interpreted depends on no CPU and on no proof of one.
    compile(&mut s, &mut events, tickets[2], item);
    s.start(tickets[2], 0, 1).unwrap();
    device.stop_all();
    nothing_is_left(&device);
}
