//! What the device's compiler takes and refuses, by the real engine.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use shoal_ipc::{CompileResult, EndRecord, Needs, ProofRecord};
use std::fs;
use support::{compile, prove, run, spec, strip};

const EXIT_3: &str = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"#;

fn refused(module: &[u8]) -> (String, String) {
    let scratch = tempfile::tempdir().unwrap();
    let result = compile(module, scratch.path());
    let CompileResult::Failed { code, detail } = result else { panic!("{result:?}") };
    assert!(!scratch.path().join("out.so").exists());
    (code, detail)
}

#[test]
fn m8_a_wasmedge_section_is_stripped_and_its_code_never_runs() {
    let plain = wat::parse_str(EXIT_3).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let CompileResult::Done { stripped_size, engine, .. } = compile(&plain, scratch.path()) else { panic!() };
    assert!(engine.starts_with("0.1"), "{engine}");
    // A universal module as the engine itself writes it: its own native code in a section, here another program's.
    let native = fs::read(scratch.path().join("out.so")).unwrap();
    let mut section = b"\x08wasmedge".to_vec();
    section.extend_from_slice(&native[..4096.min(native.len())]);
    let mut universal = plain.clone();
    universal.push(0);
    let mut n = section.len();
    while n >= 0x80 {
        universal.push(0x80 | n.to_le_bytes()[0]);
        n >>= 7;
    }
    universal.push(n.to_le_bytes()[0]);
    universal.extend_from_slice(&section);

    let other = tempfile::tempdir().unwrap();
    let CompileResult::Done { stripped_size: again, .. } = compile(&universal, other.path()) else {
        panic!()
    };
    assert_eq!(again, stripped_size);
    assert_eq!(run(&spec(&other.path().join("out.so"))).end, Some(EndRecord::Exit { code: 3 }));
}

#[test]
fn m8_compiled_code_offered_as_a_module() {
    let scratch = tempfile::tempdir().unwrap();
    compile(&wat::parse_str(EXIT_3).unwrap(), scratch.path());
    let native = fs::read(scratch.path().join("out.so")).unwrap();
    assert_eq!(refused(&native).0, "aot_untrusted");
}

#[test]
fn m7_elf_component_and_rubbish() {
    assert_eq!(refused(&fs::read("/bin/true").unwrap()).0, "not_wasm");
    assert_eq!(refused(b"\0asm\x0d\0\x01\0").0, "component_unsupported");
    assert_eq!(refused(b"").0, "not_wasm");
    let mut cut = wat::parse_str(EXIT_3).unwrap();
    cut.truncate(cut.len() - 2);
    assert_eq!(refused(&cut).0, "malformed");
}

#[test]
fn m10_proposals_off_the_list_on_the_device_too() {
    for text in [
        r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#,
        r#"(module (memory 1) (memory 1) (func (export "_start")))"#,
        r#"(module (tag $e) (func (export "_start") throw $e))"#,
        r#"(module (type $s (struct)) (func (export "_start") (drop (struct.new $s))))"#,
        r#"(module (memory 1 2 shared) (func (export "_start")))"#,
    ] {
        assert_eq!(refused(&wat::parse_str(text).unwrap()).0, "unsupported_proposal", "{text}");
    }
}

#[test]
fn c3_what_the_engine_does_not_give_is_refused_by_name() {
    let text = r#"(module (import "env" "launch_rocket" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
    let (code, detail) = refused(&wat::parse_str(text).unwrap());
    assert!(code == "import_denied" && detail.contains("env.launch_rocket"), "{detail}");
}

#[test]
fn what_must_be_granted_is_told() {
    let text = r#"(module (import "wasi_snapshot_preview1" "sock_open" (func (param i32 i32 i32) (result i32)))
        (memory (export "memory") 7) (func (export "_start")))"#;
    for make in [compile, strip] {
        let scratch = tempfile::tempdir().unwrap();
        let result = make(&wat::parse_str(text).unwrap(), scratch.path());
        let CompileResult::Done { needs, .. } = result else { panic!("{result:?}") };
        assert_eq!(
            needs,
            Needs { min_pages: 7, socket_import: Some("sock_open".into()), start_function: false }
        );
    }
}

#[test]
fn m7_m8_m10_the_interpreter_is_shown_nothing_that_the_compiler_refuses() {
    let scratch = tempfile::tempdir().unwrap();
    compile(&wat::parse_str(EXIT_3).unwrap(), scratch.path());
    let native = fs::read(scratch.path().join("out.so")).unwrap();
    let memory64 = wat::parse_str(r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#);
    for (module, expected) in [
        (fs::read("/bin/true").unwrap(), "not_wasm"),
        (native, "aot_untrusted"),
        (memory64.unwrap(), "unsupported_proposal"),
    ] {
        let result = strip(&module, scratch.path());
        let CompileResult::Failed { code, .. } = result else { panic!("{result:?}") };
        assert_eq!(code, expected);
        assert!(!scratch.path().join("out.wasm").exists());
    }
}

#[test]
fn m11_this_engine_and_this_cpu_agree_on_the_whole_corpus() {
    let scratch = tempfile::tempdir().unwrap();
    let record = prove(scratch.path());
    let ProofRecord::Same { calls } = record else { panic!("{record:?}") };
    assert!(calls > 10_000, "{calls}");
}

#[test]
fn every_allowed_proposal_compiles_and_runs() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (table $t 1 externref)
        (global $g (mut i32) (i32.add (i32.const 20) (i32.const 1)))
        (func $pair (result i32 i32) (i32.const 1) (global.get $g))
        (func $twice (param i32) (result i32) (return_call $double (local.get 0)))
        (func $double (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
        (func (export "_start") (local $x i32)
            (memory.fill (i32.const 0) (i32.const 1) (i32.const 16))
            (drop (table.get $t (i32.const 0)))
            (drop (i32.trunc_sat_f32_s (f32.const 1e30)))
            (local.set $x (i32x4.extract_lane 0 (i8x16.relaxed_swizzle
                (i8x16.popcnt (v128.load (i32.const 0))) (v128.const i32x4 0 0 0 0))))
            (call $pair) (i32.add) (local.set $x)
            (call $exit (call $twice (i32.extend8_s (local.get $x))))))"#;
    let ran = support::run_text(text, |_| {});
    assert_eq!(ran.end, Some(EndRecord::Exit { code: 44 }), "{ran:?}");
}
