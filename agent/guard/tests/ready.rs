//! What must be so before a module runs: proven, compiled or interpreted, tried, granted. With the real guard and engine.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, Fleet, needs_runner, wait_for};
use shoal_ipc::{Cause, Digest as Id, Event, EventStream, ProofRecord, SuperviseClient};
use shoal_protocol::v1::{Deployment, Engine, Resources};
use std::os::fd::AsFd;
use std::time::Duration;

const SOON: Duration = Duration::from_mins(1);

/// Exits well at once; its self-tests do as they are called.
const MODULE: &str = r#"(module (memory (export "memory") 3)
  (func (export "passes") (result i32) (i32.const 0))
  (func (export "fails") (result i32) (i32.const 7))
  (func (export "hangs") (loop $l (br $l)))
  (func (export "_start")))"#;

struct Rig {
    device: Device,
    fleet: Fleet,
    events: EventStream,
}

impl Rig {
    fn new() -> Self {
        Self::with_policy("")
    }

    fn with_policy(more: &str) -> Self {
        let (device, fleet) = (Device::start_with(more), Fleet::new(10));
        fleet.enroll(&device);
        let events = common::as_agent(|| EventStream::supervise(&device.layout)).unwrap();
        Self { device, fleet, events }
    }

    fn pod(&self, sequence: u64, module: &[u8], change: impl FnOnce(&mut Deployment)) -> Deployment {
        let mut d = self.fleet.pod("job", sequence, module, Resources::default());
        change(&mut d);
        d
    }

    /// Rolls out, stages and asks to compile; what came of it.
    fn prepare(&mut self, version: u64, d: &Deployment, module: &[u8]) -> (Id, Result<(), String>) {
        let ticket = self.fleet.roll_out(&self.device, version, d);
        let item = Id(d.template.containers[0].image.module.digest.0);
        let mut s = self.device.supervise();
        wait_for("the ticket", || s.have(ticket).ok());
        s.stage(ticket, item, shoal_ipc::sealed_memfd(module).unwrap().as_fd()).unwrap();
        (ticket, self.compile(&mut s, ticket, item))
    }

    fn compile(&mut self, s: &mut SuperviseClient, ticket: Id, item: Id) -> Result<(), String> {
        if let Err(e) = s.compile(ticket, item) {
            return Err(e.refusal().unwrap().to_owned());
        }
        loop {
            match self.events.next(SOON).unwrap() {
                Event::Compiled { module, .. } if module == item => return Ok(()),
                Event::CompileFailed { module, code, .. } if module == item => return Err(code),
                _ => {}
            }
        }
    }

    /// Starts the container; how it ended.
    fn run(&mut self, ticket: Id) -> Cause {
        self.device.supervise().start(ticket, 0, 1).unwrap();
        loop {
            if let Event::Ended(state) = self.events.next(SOON).unwrap() {
                return state.cause.unwrap();
            }
        }
    }

    fn cached(&self) -> Vec<Vec<u8>> {
        let all = std::fs::read_dir(self.device.layout.cache()).unwrap().flatten().map(|e| e.path());
        all.filter(|p| p.extension().is_some_and(|e| e == "so")).map(|p| std::fs::read(p).unwrap()).collect()
    }
}

fn interpreted(d: &mut Deployment) {
    d.template.containers[0].engine = Engine::Interpreter;
}

#[test]
fn an_interpreted_deployment_runs_without_any_native_code() {
    if needs_runner("an_interpreted_deployment_runs_without_any_native_code") {
        return;
    }
    let mut rig = Rig::new();
    let module = wat::parse_str(MODULE).unwrap();
    let d = rig.pod(1, &module, interpreted);
    let (ticket, made) = rig.prepare(1, &d, &module);
    assert_eq!(made, Ok(()));
    let kept = rig.cached();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with(b"\0asm"), "a module, not native code");
    let info = rig.device.supervise().have(ticket).unwrap().modules.remove(0).compiled.unwrap();
    assert!(info.engine.ends_with(" interpreter"), "{}", info.engine);
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
    // The same module compiled is another thing, and is made apart.
    let d = rig.pod(2, &module, |_| {});
    let (ticket, made) = rig.prepare(2, &d, &module);
    assert_eq!(made, Ok(()));
    assert_eq!(rig.cached().iter().filter(|c| c.starts_with(b"\x7fELF")).count(), 1);
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
}

#[test]
fn a_module_is_staged_only_after_it_passed_its_self_test() {
    if needs_runner("a_module_is_staged_only_after_it_passed_its_self_test") {
        return;
    }
    let mut rig = Rig::with_policy("[compile]\ntest_seconds = 2\n");
    let module = wat::parse_str(MODULE).unwrap();
    let tested =
        |name: &'static str| move |d: &mut Deployment| d.template.containers[0].self_test = Some(name.into());
    for (n, (name, expected)) in [
        ("fails", Err("unhealthy".to_owned())),
        ("absent", Err("malformed".to_owned())),
        ("hangs", Err("time_limit".to_owned())),
        ("passes", Ok(())),
    ]
    .into_iter()
    .enumerate()
    {
        let sequence = n as u64 + 1;
        let d = rig.pod(sequence, &module, tested(name));
        let (ticket, made) = rig.prepare(sequence, &d, &module);
        assert_eq!(made, expected, "{name}");
        let mut s = rig.device.supervise();
        assert_eq!(s.have(ticket).unwrap().modules[0].compiled.is_some(), expected.is_ok(), "{name}");
        if expected.is_err() {
            assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("cache_changed"), "{name}");
        } else {
            assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
        }
    }
    // Another self-test of code that is there already: only that runs.
    let d = rig.pod(9, &module, |d| {
        interpreted(d);
        tested("passes")(d);
    });
    assert_eq!(rig.prepare(9, &d, &module).1, Ok(()));
    let d = rig.pod(10, &module, |d| {
        interpreted(d);
        tested("fails")(d);
    });
    let (ticket, made) = rig.prepare(10, &d, &module);
    assert_eq!(made, Err("unhealthy".into()));
    assert!(rig.device.supervise().have(ticket).unwrap().modules[0].compiled.is_none());
}

#[test]
fn m11_nothing_compiled_runs_after_a_mismatch_and_the_interpreter_still_does() {
    if needs_runner("m11_nothing_compiled_runs_after_a_mismatch_and_the_interpreter_still_does") {
        return;
    }
    let mut rig = Rig::new();
    let module = wat::parse_str(MODULE).unwrap();
    let d = rig.pod(1, &module, |_| {});
    let (ticket, made) = rig.prepare(1, &d, &module);
    assert_eq!(made, Ok(()), "this engine agrees with itself");
    // The verdict is kept as the engine's name and the record; a CPU on which they differ leaves this one.
    let file = rig.device.layout.proof();
    let mut verdict = std::fs::read(&file).unwrap();
    assert!(matches!(ProofRecord::decode(&verdict[32..]).unwrap(), ProofRecord::Same { .. }));
    verdict.truncate(32);
    verdict.extend(ProofRecord::Differs { detail: "i32.add(1, 1): 3".into() }.encode());
    rig.device.kill_supervise();
    std::fs::write(&file, verdict).unwrap();
    rig.device.launch();
    rig.events = common::as_agent(|| EventStream::supervise(&rig.device.layout)).unwrap();
    let mut s = rig.device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    let refused = s.start(ticket, 0, 1).unwrap_err();
    assert_eq!(refused.refusal(), Some("engine_mismatch"), "{refused}");
    let item = Id(d.template.containers[0].image.module.digest.0);
    assert_eq!(rig.compile(&mut s, ticket, item), Err("engine_mismatch".into()));
    assert!(s.have(ticket).unwrap().modules[0].compiled.is_none());
    let features = s.features().unwrap();
    assert!(features.engine_mismatch);
    assert!(features.missing.iter().any(|m| m.contains("i32.add(1, 1): 3")), "{:?}", features.missing);
    let d = rig.pod(2, &module, interpreted);
    let (ticket, made) = rig.prepare(2, &d, &module);
    assert_eq!(made, Ok(()));
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
}

#[test]
fn m11_an_engine_or_cpu_that_is_another_proves_itself_again() {
    if needs_runner("m11_an_engine_or_cpu_that_is_another_proves_itself_again") {
        return;
    }
    let mut rig = Rig::new();
    let module = wat::parse_str(MODULE).unwrap();
    let d = rig.pod(1, &module, |_| {});
    assert_eq!(rig.prepare(1, &d, &module).1, Ok(()));
    let file = rig.device.layout.proof();
    let good = std::fs::read(&file).unwrap();
    // A bad verdict of another engine or CPU says nothing of this one.
    let mut other = vec![7; 32];
    other.extend(ProofRecord::Differs { detail: "elsewhere".into() }.encode());
    rig.device.kill_supervise();
    std::fs::write(&file, other).unwrap();
    rig.device.launch();
    wait_for("the proof", || (std::fs::read(&file).unwrap() == good).then_some(()));
    assert!(!rig.device.supervise().features().unwrap().engine_mismatch);
}

#[test]
fn m9_without_the_compiler_the_interpreter_runs_and_the_rest_says_what_to_install() {
    if needs_runner("m9_without_the_compiler_the_interpreter_runs_and_the_rest_says_what_to_install") {
        return;
    }
    let engine = shoal_ipc::EngineDirs::find();
    let Some(engine) = engine else {
        common::skipped("m9_without_the_compiler", "no engine folder beside the binaries");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&engine.run, folder.path().join("run")).unwrap();
    // Proven while it had one: what is wanting is the compiler alone.
    let mut device = Device::start();
    wait_for("the proof", || device.layout.proof().exists().then_some(()));
    device.kill_supervise();
    device.engine = Some(folder.path().to_path_buf());
    device.launch();
    let fleet = Fleet::new(10);
    fleet.enroll(&device);
    let events = common::as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut rig = Rig { device, fleet, events };
    let module = wat::parse_str(MODULE).unwrap();
    let d = rig.pod(1, &module, |_| {});
    let ticket = rig.fleet.roll_out(&rig.device, 1, &d);
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut s = rig.device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    s.stage(ticket, item, shoal_ipc::sealed_memfd(&module).unwrap().as_fd()).unwrap();
    let refused = s.compile(ticket, item).unwrap_err();
    assert_eq!(refused.refusal(), Some("compiler_absent"));
    assert!(refused.to_string().contains("`compile`"), "{refused}");
    assert!(!s.features().unwrap().compiler);
    let d = rig.pod(2, &module, interpreted);
    let (ticket, made) = rig.prepare(2, &d, &module);
    assert_eq!(made, Ok(()));
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });

    // It comes and goes while the guard runs, as its package does.
    std::os::unix::fs::symlink(engine.compile.unwrap(), folder.path().join("compile")).unwrap();
    assert!(s.features().unwrap().compiler);
    let d = rig.pod(3, &module, |_| {});
    let (ticket, made) = rig.prepare(3, &d, &module);
    assert_eq!(made, Ok(()));
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
    std::fs::remove_file(folder.path().join("compile")).unwrap();
    assert!(!s.features().unwrap().compiler);
}

#[test]
fn c3_what_a_module_needs_is_held_against_the_container_on_the_device_too() {
    if needs_runner("c3_what_a_module_needs_is_held_against_the_container_on_the_device_too") {
        return;
    }
    let mut rig = Rig::new();
    let sockets = r#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (func (export "_start")))"#;
    let module = wat::parse_str(sockets).unwrap();
    let d = rig.pod(1, &module, |_| {});
    let (ticket, _) = rig.prepare(1, &d, &module);
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut s = rig.device.supervise();
    assert!(s.have(ticket).unwrap().modules[0].compiled.is_none(), "it is never staged");
    assert_eq!(rig.compile(&mut s, ticket, item), Err("import_denied".into()));
    assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("import_denied"));
    // Memory that is not exported counts like any other.
    let module = wat::parse_str(r#"(module (memory 3) (func (export "_start")))"#).unwrap();
    let d = rig.pod(2, &module, |d| d.template.containers[0].resources.wasm_pages = Some(2));
    let (ticket, _) = rig.prepare(2, &d, &module);
    assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("guest_memory"));
    let d = rig.pod(3, &module, |d| d.template.containers[0].resources.wasm_pages = Some(3));
    let (ticket, made) = rig.prepare(3, &d, &module);
    assert_eq!(made, Ok(()));
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
}

#[test]
fn c3_a_ticket_whose_kernel_features_are_not_all_there_is_not_even_staged() {
    if needs_runner("c3_a_ticket_whose_kernel_features_are_not_all_there_is_not_even_staged") {
        return;
    }
    let mut rig = Rig::new();
    let module = wat::parse_str(MODULE).unwrap();
    let requires = |names: &'static [&'static str]| {
        move |d: &mut Deployment| d.template.required_features = names.iter().map(|n| (*n).into()).collect()
    };
    let d = rig.pod(1, &module, requires(&["seccomp", "teleport"]));
    let ticket = rig.fleet.roll_out(&rig.device, 1, &d);
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut s = rig.device.supervise();
    let refused = wait_for("the refusal", || {
        let e = s.have(ticket).unwrap_err();
        (e.refusal() != Some("not_admitted")).then_some(e)
    });
    assert_eq!(refused.refusal(), Some("kernel_unsupported"));
    assert!(refused.to_string().contains("\"teleport\""), "{refused}");
    let memory = shoal_ipc::sealed_memfd(&module).unwrap();
    assert_eq!(s.stage(ticket, item, memory.as_fd()).unwrap_err().refusal(), Some("kernel_unsupported"));
    assert_eq!(s.compile(ticket, item).unwrap_err().refusal(), Some("kernel_unsupported"));
    assert_eq!(s.start(ticket, 0, 1).unwrap_err().refusal(), Some("kernel_unsupported"));
    assert!(s.list().unwrap().is_empty() && rig.cached().is_empty());
    // The twin: what is there is no reason to refuse, and the refusal before holds nothing up.
    let d = rig.pod(2, &module, requires(&["seccomp", "namespaces", "memory-limit"]));
    let (ticket, made) = rig.prepare(2, &d, &module);
    assert_eq!(made, Ok(()));
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
}

#[test]
fn c3_what_the_owner_forbids_is_refused_before_it_is_staged() {
    if needs_runner("c3_what_the_owner_forbids_is_refused_before_it_is_staged") {
        return;
    }
    let rig = Rig::with_policy("[limits]\nmemory = \"16Mi\"\n");
    let module = wat::parse_str(MODULE).unwrap();
    let d = rig.pod(1, &module, |d| d.template.containers[0].resources.memory_limit = Some(32 << 20));
    let ticket = rig.fleet.roll_out(&rig.device, 1, &d);
    let mut s = rig.device.supervise();
    let refused = wait_for("the refusal", || {
        let e = s.have(ticket).unwrap_err();
        (e.refusal() != Some("not_admitted")).then_some(e)
    });
    assert_eq!(refused.refusal(), Some("policy_denied"));
}

#[test]
fn c4_a_module_is_tried_behind_a_containers_walls() {
    if needs_runner("c4_a_module_is_tried_behind_a_containers_walls") {
        return;
    }
    let mut rig = Rig::with_policy("[compile]\ntest_seconds = 5\n");
    // It hangs already in its start function, which runs as soon as it is put together.
    let text = r#"(module (memory (export "memory") 1) (func $hang (loop $l (br $l))) (start $hang) (func (export "_start")))"#;
    let module = wat::parse_str(text).unwrap();
    let d = rig.pod(1, &module, |_| {});
    let ticket = rig.fleet.roll_out(&rig.device, 1, &d);
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut s = rig.device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    s.stage(ticket, item, shoal_ipc::sealed_memfd(&module).unwrap().as_fd()).unwrap();
    s.compile(ticket, item).unwrap();
    let of_job = |tree: &std::path::PathBuf| {
        let all = std::fs::read_to_string(tree.join("compile-0/cgroup.procs")).unwrap_or_default();
        all.lines().filter_map(|l| l.parse::<u32>().ok()).find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"trial\0")
        })
    };
    let (pid, status) = wait_for("the trial's filter", || {
        let pid = rig.device.groups().iter().find_map(of_job)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // The third filter is the one that seals its memory, right before the module's first instruction.
        status.contains("Seccomp_filters:\t3\n").then_some((pid, status))
    });
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".to_owned(), "1".to_owned()));
    assert_eq!(field("CapBnd:"), "0000000000000000");
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"), "it sees no other job of its user");
    let memory = std::fs::metadata(format!("/proc/{pid}/mem")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0, "its memory is not its own to open");
    for stream in [1, 2] {
        let to = std::fs::read_link(format!("/proc/{pid}/fd/{stream}")).unwrap();
        assert_eq!(to, std::path::Path::new("/dev/null"), "it writes nothing into the guard's log");
    }
    loop {
        match rig.events.next(SOON).unwrap() {
            Event::CompileFailed { code, .. } => break assert_eq!(code, "time_limit"),
            Event::Compiled { .. } => panic!("it hangs"),
            _ => {}
        }
    }
}

#[test]
fn c4_what_compiles_has_no_call_for_other_processes_and_sees_its_folder_alone() {
    if needs_runner("c4_what_compiles_has_no_call_for_other_processes_and_sees_its_folder_alone") {
        return;
    }
    let mut rig = Rig::new();
    wait_for("the proof", || rig.device.layout.proof().exists().then_some(()));
    // Large enough to be seen at work.
    let body = "(local.set 1 (i32.add (i32.mul (local.get 1) (local.get 0)) (i32.const 77)))".repeat(300);
    let functions = format!("(func (param i32) (result i32) (local i32) {body} (local.get 1))").repeat(200);
    let module = wat::parse_str(format!("(module {functions} (func (export \"_start\")))")).unwrap();
    let d = rig.pod(1, &module, |_| {});
    let ticket = rig.fleet.roll_out(&rig.device, 1, &d);
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut s = rig.device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    s.stage(ticket, item, shoal_ipc::sealed_memfd(&module).unwrap().as_fd()).unwrap();
    s.compile(ticket, item).unwrap();
    let of_job = |tree: &std::path::PathBuf| {
        let all = std::fs::read_to_string(tree.join("compile-0/cgroup.procs")).unwrap_or_default();
        all.lines().filter_map(|l| l.parse::<u32>().ok()).find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"compile\0")
        })
    };
    let (pid, status) = wait_for("the filters of a compilation", || {
        let pid = rig.device.groups().iter().find_map(of_job)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains("Seccomp_filters:\t3\n").then_some((pid, status))
    });
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), ("2".to_owned(), "1".to_owned()));
    assert_eq!(field("CapBnd:"), "0000000000000000");
    assert_eq!(field("NSpid:").split_whitespace().last(), Some("1"));
    let memory = std::fs::metadata(format!("/proc/{pid}/mem")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0);
    loop {
        // An emulated device takes minutes for it.
        match rig.events.next(SOON * 5).unwrap() {
            Event::Compiled { .. } => break,
            Event::CompileFailed { code, detail, .. } => panic!("{code}: {detail}"),
            _ => {}
        }
    }
    assert_eq!(rig.run(ticket), Cause::Exited { code: 0 });
}
