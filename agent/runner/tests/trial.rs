//! A trial puts a module together and calls its self-test, nothing else; and the interpreter does what compiled code does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use shoal_ipc::{CompileResult, EndRecord, Entry};
use support::{compile, spec, strip, try_out};

/// `_start` exits with 9, so that a trial that called it would show.
const TESTED: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "good") (result i32) (i32.const 0))
    (func (export "silent"))
    (func (export "bad") (result i32) (i32.const 4))
    (func (export "exits") (call $exit (i32.const 5)))
    (func (export "traps") unreachable)
    (func (export "takes") (param i32))
    (func (export "_start") (call $exit (i32.const 9))))"#;

fn trial(interpreter: bool, self_test: Option<&str>) -> Option<EndRecord> {
    let scratch = tempfile::tempdir().unwrap();
    let module = wat::parse_str(TESTED).unwrap();
    let (make, file): (fn(&[u8], &std::path::Path) -> CompileResult, _) =
        if interpreter { (strip, "out.wasm") } else { (compile, "out.so") };
    assert!(matches!(make(&module, scratch.path()), CompileResult::Done { .. }));
    let mut spec = spec(&scratch.path().join(file));
    spec.interpreter = interpreter;
    spec.entry = Entry::Trial { self_test: self_test.map(str::to_owned) };
    try_out(&spec).end
}

#[test]
fn a_trial_calls_the_self_test_and_never_the_program() {
    let exit = |code| Some(EndRecord::Exit { code });
    for interpreter in [false, true] {
        assert_eq!(trial(interpreter, None), exit(0));
        assert_eq!(trial(interpreter, Some("good")), exit(0));
        assert_eq!(trial(interpreter, Some("silent")), exit(0));
        assert_eq!(trial(interpreter, Some("bad")), exit(4));
        assert_eq!(trial(interpreter, Some("exits")), exit(5));
        let trapped = trial(interpreter, Some("traps"));
        assert!(matches!(trapped, Some(EndRecord::Trap { .. })), "{trapped:?}");
        for unusable in ["takes", "absent", "memory"] {
            let end = trial(interpreter, Some(unusable));
            assert!(matches!(&end, Some(EndRecord::Refused { code, .. }) if code == "malformed"), "{end:?}");
        }
    }
}

#[test]
fn the_interpreter_never_loads_native_code() {
    let scratch = tempfile::tempdir().unwrap();
    compile(&wat::parse_str(TESTED).unwrap(), scratch.path());
    let mut spec = spec(&scratch.path().join("out.so"));
    spec.interpreter = true;
    let end = try_out(&spec).end;
    assert!(matches!(&end, Some(EndRecord::Refused { code, .. }) if code == "cache_changed"), "{end:?}");
}

/// What holds a container holds the first run of a module: a trial that wants a folder finds it closed, whatever it was told.
#[test]
fn c4_a_trial_reaches_nothing_but_its_code() {
    let opens = r#"(module
        (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 8) "secret")
        (func (export "test") (result i32)
            (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 6) (i32.const 0)
                (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 100)))
        (func (export "_start")))"#;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("secret"), "secret").unwrap();
    let module = wat::parse_str(opens).unwrap();
    assert!(matches!(compile(&module, scratch.path()), CompileResult::Done { .. }));
    let mut spec = spec(&scratch.path().join("out.so"));
    spec.entry = Entry::Trial { self_test: Some("test".to_owned()) };
    // Supervise names no folder to a trial; if one were named, Landlock would still not know of it.
    spec.preopens = vec![support::folder("/", &folder, true)];
    let outside = support::run(&spec).end;
    assert_eq!(outside, Some(EndRecord::Exit { code: 0 }), "the twin without walls opens it");
    let behind = try_out(&spec).end;
    assert_ne!(behind, Some(EndRecord::Exit { code: 0 }));
}
