//! Modules: what is inspected keeps its meaning when it is stripped, and nothing off the allow-list comes through.

use shoal_image::{inspect, strip_custom};

pub(crate) fn run(data: &[u8]) -> bool {
    let stripped = strip_custom(data);
    let Ok(facts) = inspect(data) else { return false };
    let stripped = stripped.unwrap_or_else(|e| panic!("a module that is good cannot be stripped: {e}"));
    assert!(stripped.len() <= data.len() + 64, "stripping made it longer");
    let again = inspect(&stripped).unwrap_or_else(|e| panic!("stripping broke it: {e}"));
    assert!(again.custom_sections.is_empty(), "{:?} stayed", again.custom_sections);
    assert_eq!(again.imports, facts.imports);
    assert_eq!(
        (again.memory, again.functions, again.is_command),
        (facts.memory, facts.functions, facts.is_command)
    );
    assert_eq!(facts.stripped_size, stripped.len() as u64);
    assert!(strip_custom(&stripped).is_ok_and(|s| s == stripped), "stripping twice is stripping once");
    let _ = (facts.check(false, Some(1)), facts.check(true, None));
    true
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1 4) (table 2 funcref) (global (mut i32) (i32.const 7))
            (data (i32.const 8) "hello") (elem (i32.const 0) $f)
            (func $f (result i32) (local v128) (if (result i32) (i32.const 1) (then (i32.const 2)) (else (i32.const 3))))
            (func (export "_start") (call $exit (call $f)))
            (@custom "wasmedge" (after data) "native"))"#,
        r#"(module (import "wasi_snapshot_preview1" "sock_accept" (func (param i32 i32 i32) (result i32)))
            (func $start) (start $start) (func (export "_start") (loop $l (br $l))))"#,
    ];
    texts.iter().filter_map(|t| wat::parse_str(t).ok()).collect()
}
