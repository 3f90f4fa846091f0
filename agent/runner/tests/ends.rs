//! Every way in which a guest can end is told apart (C6), by the real engine with compiled code.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use shoal_ipc::EndRecord;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use support::{run, run_text, spec};

/// Grows its memory page by page to 100, and when it is refused does what `refused` says.
fn growing(refused: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (loop $more
                    (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then {refused}))
                    (br_if $more (i32.lt_u (memory.size) (i32.const 100))))
                (call $exit (i32.const 7))))"#
    )
}

#[test]
fn c6_exit_codes_are_exact() {
    for code in [0_u32, 3, 255, 256, 4_000_000_000] {
        let text = format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
        );
        let ran = run_text(&text, |_| {});
        assert_eq!(ran.end, Some(EndRecord::Exit { code }));
        assert_eq!(ran.output.status.code(), Some(i32::from(code.to_le_bytes()[0])));
    }
    let returned = run_text(r#"(module (memory (export "memory") 1) (func (export "_start")))"#, |_| {});
    assert_eq!(returned.end, Some(EndRecord::Exit { code: 0 }));
}

#[test]
fn c6_traps_carry_the_engines_words_and_nothing_of_the_engine_in_the_guests_stderr() {
    for (body, words) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 70000)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(call_indirect (i32.const 5))", "undefined element"),
    ] {
        let text = format!(
            r#"(module (memory (export "memory") 1) (table 1 funcref) (func (export "_start") {body}))"#
        );
        let ran = run_text(&text, |_| {});
        let Some(EndRecord::Trap { message }) = &ran.end else { panic!("{body}: {ran:?}") };
        assert!(message.contains(words), "{body}: {message}");
        assert_eq!(
            (ran.stderr().as_str(), ran.stdout().as_str(), ran.output.status.code()),
            ("", "", Some(134))
        );
    }
}

#[test]
fn c6_a_trap_after_refused_memory_is_guest_memory() {
    let ran = run_text(&growing("unreachable"), |s| s.wasm_pages = Some(50));
    assert_eq!((ran.end.clone(), ran.stderr().as_str()), (Some(EndRecord::GuestMemory), ""), "{ran:?}");
}

#[test]
fn memory_within_the_limit_and_a_guest_that_copes_with_refusal_end_by_themselves() {
    let ran = run_text(&growing("unreachable"), |s| s.wasm_pages = Some(100));
    assert_eq!(ran.end, Some(EndRecord::Exit { code: 7 }));
    let ran = run_text(&growing("(call $exit (i32.const 9))"), |s| s.wasm_pages = Some(50));
    assert_eq!(ran.end, Some(EndRecord::Exit { code: 9 }));
}

#[test]
fn memory_above_the_limit_from_the_start_is_refused() {
    let ran = run_text(r#"(module (memory (export "memory") 60) (func (export "_start")))"#, |s| {
        s.wasm_pages = Some(50);
    });
    let Some(EndRecord::Refused { code, message }) = &ran.end else { panic!("{ran:?}") };
    assert!(code == "guest_memory" && message.contains("60"), "{ran:?}");
}

#[test]
fn c6_an_exhausted_stack_dies_by_signal_and_leaves_no_answer() {
    let deep = r#"(module (memory (export "memory") 1)
        (func $f (param i32) (result i32)
            (i32.store (i32.const 0) (local.get 0))
            (i32.mul (call $f (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.load (i32.const 0))))
        (func (export "_start") (i32.store (i32.const 4) (call $f (i32.const 0)))))"#;
    let ran = run_text(deep, |_| {});
    assert_eq!((ran.end, ran.output.status.signal()), (None, Some(11)));
}

#[test]
fn code_that_is_none_is_refused_as_a_changed_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (text, elf) = (dir.path().join("text.so"), dir.path().join("elf.so"));
    fs::write(&text, "hello").unwrap();
    fs::copy("/bin/true", &elf).unwrap();
    for path in [text, elf, dir.path().join("missing.so")] {
        let ran = run(&spec(&path));
        let Some(EndRecord::Refused { code, .. }) = &ran.end else { panic!("{ran:?}") };
        assert_eq!(code, "cache_changed");
        assert_eq!(ran.stderr(), "");
    }
}

#[test]
fn a_library_without_start_is_refused() {
    // The compiler refuses it already, so this one has a start that is no function of that name.
    let scratch = tempfile::tempdir().unwrap();
    let module = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "run")))"#).unwrap();
    let shoal_ipc::CompileResult::Failed { code, detail } = support::compile(&module, scratch.path()) else {
        panic!()
    };
    assert!(code == "not_wasm" && detail.contains("_start"), "{detail}");
}
