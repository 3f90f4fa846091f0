//! Volumes from the operator's file to the device: what is granted, how much of it, and what the owner forbids.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use std::os::unix::fs::PermissionsExt as _;

/// A guest that opens the file `f` in its volume anew (the descriptor whose name is not `/`; they are in no order), writes 64 KiB at a time until that fails, at most 100
/// times, and exits with how often it succeeded; with 200 and the errno when the file cannot be made.
const FILLS: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 3)
    (data (i32.const 100) "f")
    (func $data (result i32)
        (drop (call $prestat (i32.const 3) (i32.const 300)))
        (select (i32.const 3) (i32.const 4) (i32.gt_u (i32.load (i32.const 304)) (i32.const 1))))
    (func (export "_start") (local $n i32) (local $e i32)
        (local.set $e (call $open (call $data) (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 1)
            (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 200)))
        (if (local.get $e) (then (call $exit (i32.add (i32.const 200) (local.get $e)))))
        (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
        (block $full (loop $more
            (br_if $full (call $write (i32.load (i32.const 200)) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br_if $full (i32.ne (i32.load (i32.const 8)) (i32.const 65536)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 100)))))
        (call $exit (local.get $n))))"#;

fn with_volume(name: &str, source: &str, mount: &str) -> String {
    let extra = format!("volumeMounts:\n  - {{name: data, mountPath: /data{mount}}}");
    manifest(name, "fills:1", "Never", &extra).replace(
        "      restartPolicy",
        &format!("      volumes: [{{name: data, {source}}}]\n      restartPolicy"),
    )
}

fn exit_code(fleet: &Fleet, name: &str) -> u64 {
    let pod = fleet.wait_pod(name, "its end", |p| !p["containers"][0]["last_end"].is_null());
    assert_eq!(pod["containers"][0]["last_end"]["cause"], "exited", "{pod:#}");
    pod["containers"][0]["last_end"]["code"].as_u64().unwrap_or_else(|| panic!("{pod:#}"))
}

#[test]
fn c2_a_volume_in_memory_ends_at_its_signed_size() {
    if needs_root("c2_a_volume_in_memory_ends_at_its_signed_size") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("fills:1", FILLS);
    fleet.apply(&with_volume("small", "emptyDir: {sizeLimit: 1Mi}", ""));
    fleet.apply(&with_volume("large", "emptyDir: {sizeLimit: 8Mi}", ""));
    assert_eq!(exit_code(&fleet, "small"), 16, "1 MiB is 16 times 64 KiB");
    assert_eq!(exit_code(&fleet, "large"), 100, "the twin has room");
}

#[test]
fn c1_c3_a_folder_of_the_device_is_read_only_unless_signed_otherwise_and_only_where_the_owner_allows() {
    if needs_root(
        "c1_c3_a_folder_of_the_device_is_read_only_unless_signed_otherwise_and_only_where_the_owner_allows",
    ) {
        return;
    }
    let mut fleet = fleet();
    let (shared, private) = (fleet.dir.path().join("shared"), fleet.dir.path().join("private"));
    for folder in [&shared, &private] {
        std::fs::create_dir(folder).unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::os::unix::fs::symlink(&private, shared.join("way")).unwrap();
    let policy = format!("[allow]\nhost_paths = [\"{}\"]\n", shared.display());
    fleet.lab.add_device_with("site=here", |device| device.add_policy(&policy)).unwrap();
    fleet.import_wat("fills:1", FILLS);
    let host = |path: &std::path::Path| format!("hostPath: {{path: {}}}", path.display());
    // Nothing said: it may only be read. 200 and an errno: the file cannot be made.
    fleet.apply(&with_volume("reads", &host(&shared), ""));
    assert!(exit_code(&fleet, "reads") > 200);
    assert!(!shared.join("f").exists());
    fleet.apply(&with_volume("writes", &host(&shared), ", readOnly: false"));
    assert_eq!(exit_code(&fleet, "writes"), 100);
    assert_eq!(std::fs::metadata(shared.join("f")).unwrap().len(), 100 * 65_536);
    // What the owner does not allow is refused, whatever is signed; a link out of what they allow likewise.
    for (name, path) in [("outside", private.clone()), ("above", fleet.dir.path().to_path_buf())] {
        fleet.apply(&with_volume(name, &host(&path), ", readOnly: false"));
        let pod = fleet.wait_pod(name, "the refusal", |p| p["reason"] == "policy_denied");
        assert_eq!(pod["phase"], "failed", "{pod:#}");
        assert!(pod["message"].as_str().unwrap().contains("allow.host_paths"), "{pod:#}");
    }
    fleet.apply(&with_volume("linked", &host(&shared.join("way")), ", readOnly: false"));
    let pod = fleet.wait_pod("linked", "the refusal", |p| p["reason"] == "policy_denied");
    assert!(pod["message"].as_str().unwrap().contains("a link is on the path"), "{pod:#}");
    assert_eq!(std::fs::read_dir(&private).unwrap().count(), 0);
    let text = fleet.shoal(&["describe", "pod", "reads"]);
    assert!(!text.is_empty());
}
