//! Probes, hooks, start order and the way to an end: from the operator's file through real devices to the report.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;

/// What the small guests below share: an open of `name` in the volume (the descriptor whose name is not `/`: the
/// engine numbers folders in no order).
const FILES: &str = r#"
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 512) "alive") (data (i32.const 520) "begun") (data (i32.const 528) "ended") (data (i32.const 536) "order")
    (func $data (result i32)
        (drop (call $prestat (i32.const 3) (i32.const 600)))
        (select (i32.const 3) (i32.const 4) (i32.gt_u (i32.load (i32.const 604)) (i32.const 1))))
    (func $make (param $name i32) (result i32)
        (call $open (call $data) (i32.const 0) (local.get $name) (i32.const 5) (i32.const 1)
            (i64.const 66) (i64.const 66) (i32.const 0) (i32.const 400)))
    (func $there (param $name i32) (result i32)
        (i32.eqz (call $open (call $data) (i32.const 0) (local.get $name) (i32.const 5) (i32.const 0)
            (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 400))))
    (func $sleep (param $ms i64)
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.mul (local.get $ms) (i64.const 1000000)))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))
    (func $exit_unless (param $good i32) (if (i32.eqz (local.get $good)) (then (call $exit (i32.const 1)))))"#;

fn guest(body: &str) -> String {
    format!("(module {FILES} (func (export \"_start\") {body}))")
}

const FOR_EVER: &str = "(loop $l (call $sleep (i64.const 3600000)) (br $l))";

fn check(name: u32) -> String {
    guest(&format!("(call $exit_unless (call $there (i32.const {name})))"))
}

fn makes(name: u32, then: &str) -> String {
    guest(&format!("(drop (call $make (i32.const {name}))) {then}"))
}

/// A pod with a volume in memory that its container sees at `/data`.
fn with_volume(name: &str, image: &str, restart: &str, extra: &str) -> String {
    let mount = "volumeMounts:\n  - {name: data, mountPath: /data}";
    manifest(name, image, restart, &format!("{mount}\n{extra}")).replace(
        "      restartPolicy",
        "      volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]\n      restartPolicy",
    )
}

fn main_of(pod: &Value) -> &Value {
    &pod["containers"][0]
}

fn healthy(pod: &Value) -> bool {
    pod["phase"] == "healthy"
}

#[test]
fn f3_a_revision_whose_probe_fails_gives_way_to_last_good_by_itself() {
    if needs_root("f3_a_revision_whose_probe_fails_gives_way_to_last_good_by_itself") {
        return;
    }
    let fleet = fleet_with(1);
    let probe = "livenessProbe: {exec: {command: [/check.wasm]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1, initialDelaySeconds: 1}";
    fleet.import_modules("good:1", &[("main.wasm", &makes(512, FOR_EVER)), ("check.wasm", &check(512))]);
    fleet.import_modules("bad:1", &[("main.wasm", &guest(FOR_EVER)), ("check.wasm", &check(512))]);
    fleet.apply(&with_volume("app", "good:1", "Always", probe));
    let first = fleet.wait_pod("app", "health by its probe", healthy);
    fleet.apply(&with_volume("app", "bad:1", "Always", probe));
    let second = first["revision"]["sequence"].as_u64().unwrap() + 1;
    let mut last = Value::Null;
    let back = shoal_lab::wait_until("the return to last-good", 2 * LONG, || {
        let pods = fleet.pods("app");
        last = Value::Array(pods.clone());
        let find = |n: u64| pods.iter().find(|p| p["revision"]["sequence"] == n).cloned();
        let failed = find(second).filter(|p| p["phase"] == "failed" && p["reason"] == "rolled_back");
        let good = find(second - 1).filter(runs);
        Ok(failed.zip(good))
    });
    let (failed, _) = back.unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()));
    assert_eq!(main_of(&failed)["last_end"]["cause"], "unhealthy", "{failed:#}");
    assert!(failed["message"].as_str().unwrap().contains("unhealthy"), "{failed:#}");
    let text = fleet.shoal(&["describe", "pod", "app"]);
    assert!(text.contains("liveness: it exited with 1"), "{text}");
}

#[test]
fn readiness_holds_health_back_and_a_file_that_stops_changing_takes_it_away() {
    if needs_root("readiness_holds_health_back_and_a_file_that_stops_changing_takes_it_away") {
        return;
    }
    let fleet = fleet_with(1);
    // It writes to the file ten times in 15 s or so, and then never again.
    let beats = guest(
        "(local $n i32) (drop (call $make (i32.const 512)))
         (i32.store (i32.const 200) (i32.const 512)) (i32.store (i32.const 204) (i32.const 5))
         (loop $l (drop (call $write (i32.load (i32.const 400)) (i32.const 200) (i32.const 1) (i32.const 300)))
            (call $sleep (i64.const 1500))
            (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10))))
         (loop $l (call $sleep (i64.const 3600000)) (br $l))",
    );
    fleet.import_wat("beats:1", &beats);
    let probe = "readinessProbe: {fileFresh: {path: /data/alive, maxAgeSeconds: 4}, periodSeconds: 1, failureThreshold: 1}";
    fleet.apply(&with_volume("beats", "beats:1", "Always", probe));
    let pod = fleet.wait_pod("beats", "health", healthy);
    assert_eq!(main_of(&pod)["ready"], true, "{pod:#}");
    let pod = fleet.wait_pod("beats", "the loss of readiness", |p| p["reason"] == "not_ready");
    assert_eq!(main_of(&pod)["ready"], false, "{pod:#}");
    assert_eq!(main_of(&pod)["attempt"], 1, "readiness restarts nothing: {pod:#}");
    assert!(main_of(&pod)["probe_message"].as_str().unwrap().contains("did not change"), "{pod:#}");
    // A file that never comes is no readiness either.
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&with_volume("silent", "sleeps:1", "Always", probe));
    let pod = fleet
        .wait_pod("silent", "not being ready", |p| main_of(p)["ready"] == false && p["phase"] == "running");
    assert_ne!(pod["phase"], "healthy");
}

#[test]
fn init_containers_run_in_order_and_the_others_wait_for_their_success() {
    if needs_root("init_containers_run_in_order_and_the_others_wait_for_their_success") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("first:1", &makes(520, ""));
    fleet.import_wat(
        "second:1",
        &guest("(call $exit_unless (call $there (i32.const 520))) (drop (call $make (i32.const 528)))"),
    );
    fleet.import_wat(
        "main:1",
        &guest(&format!("(call $exit_unless (call $there (i32.const 528))) {FOR_EVER}")),
    );
    let init = |pod: String, images: [&str; 2]| {
        let one = |n: usize, image: &str| {
            format!(
                "        - name: init-{n}\n          image: {image}\n          volumeMounts: [{{name: data, mountPath: /data}}]\n"
            )
        };
        let list: String = images.iter().enumerate().map(|(n, i)| one(n, i)).collect();
        pod.replace("      containers:\n", &format!("      initContainers:\n{list}      containers:\n"))
    };
    fleet.apply(&init(with_volume("app", "main:1", "Always", ""), ["first:1", "second:1"]));
    let pod = fleet.wait_pod("app", "health", healthy);
    let containers = pod["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["main", "init-0", "init-1"]);
    assert!(
        containers[1..].iter().all(|c| c["init"] == true && c["last_end"]["code"] == 0 && c["attempt"] == 1),
        "{pod:#}"
    );
    assert_eq!(containers[0]["attempt"], 1, "it found what the two had made: {pod:#}");
    // One that fails lets nothing start.
    fleet.import_wat("fails:1", &exits_with(3));
    fleet.apply(&init(with_volume("stuck", "main:1", "Never", ""), ["first:1", "fails:1"]));
    let pod = fleet.wait_pod("stuck", "failure", |p| p["phase"] == "failed");
    assert_eq!(main_of(&pod)["attempt"], 0, "{pod:#}");
    assert_eq!(pod["containers"][2]["last_end"]["code"], 3);
}

#[test]
fn a_stop_runs_the_hook_ends_standard_input_and_lets_the_guest_end_itself() {
    if needs_root("a_stop_runs_the_hook_ends_standard_input_and_lets_the_guest_end_itself") {
        return;
    }
    let mut fleet = fleet_with(1);
    // Reads its input until that ends, then says so in a file and exits with 7.
    let main = guest(
        "(i32.store (i32.const 200) (i32.const 1024)) (i32.store (i32.const 204) (i32.const 16))
         (drop (call $make (i32.const 512)))
         (drop (call $read (i32.const 0) (i32.const 200) (i32.const 1) (i32.const 300)))
         (call $exit_unless (call $there (i32.const 528)))
         (drop (call $make (i32.const 536))) (call $exit (i32.const 7))",
    );
    fleet.import_modules(
        "app:1",
        &[("main.wasm", &main), ("begin.wasm", &makes(520, "")), ("end.wasm", &makes(528, ""))],
    );
    let hooks = "stdin: true\nlifecycle:\n  postStart: {exec: {command: [/begin.wasm]}}\n  preStop: {exec: {command: [/end.wasm]}}";
    let pod = with_volume("app", "app:1", "Never", hooks);
    fleet.apply(&pod);
    fleet.wait_pod("app", "health, which waits for the first hook", healthy);
    // F6: what holds its input open is not supervise.
    fleet.lab.devices[0].guard().unwrap().kill();
    fleet.lab.devices[0].start_guard().unwrap();
    let same = fleet.wait_pod("app", "health after guard's restart", healthy);
    assert_eq!(main_of(&same)["attempt"], 1, "{same:#}\n{}", fleet.outputs());
    fleet.shoal(&["delete", "deployment", "app", "--yes"]);
    let pod = fleet.wait_pod("app", "its own end", |p| !main_of(p)["last_end"].is_null());
    assert_eq!(
        main_of(&pod)["last_end"]["code"],
        7,
        "it saw hook and end of input: {pod:#}\n{}",
        fleet.outputs()
    );
}

#[test]
fn what_makes_no_sense_or_has_no_network_is_refused_at_apply() {
    let fleet = fleet();
    fleet.import_modules("sleeps:1", &[("main.wasm", SLEEPS)]);
    for (extra, word) in [
        ("livenessProbe: {tcpSocket: {port: 80}}", "no network"),
        ("livenessProbe: {httpGet: {port: 80}}", "no network"),
        ("livenessProbe: {exec: {command: [/nothing.wasm]}}", "nothing.wasm"),
        ("livenessProbe: {fileFresh: {path: /data/x}}", "maxAgeSeconds"),
        ("livenessProbe: {exec: {command: [x]}, successThreshold: 2}", "more than one success"),
        ("lifecycle: {preStop: {httpGet: {port: 80}}}", "module of the image"),
    ] {
        let out = fleet.try_apply(&manifest("app", "sleeps:1", "Always", extra));
        let text = format!("{}{}", out.stdout, out.stderr);
        assert!(out.code != Some(0) && text.contains(word), "{extra}: {text}");
    }
}

#[test]
fn names_in_commands_arguments_and_variables_are_expanded_before_signing() {
    let fleet = fleet();
    fleet.import_wat("exits:1", &exits_with(0));
    let extra = "args: [\"--to=$(URL)\", $(NONE), \"$$(URL)\"]\nenv:\n  - {name: HOST, value: here}\n  - {name: URL, value: \"http://$(HOST)/\"}";
    fleet.apply(&manifest("app", "exits:1", "Never", extra));
    let text = fleet.try_shoal(&["diff", "-f", utf8(&fleet.dir.path().join("app.yaml"))]);
    assert_eq!(text.code, Some(0), "{}", text.stderr);
    let reviewed = fleet.apply(&manifest("other", "exits:1", "Never", extra));
    assert!(reviewed.contains("--to=http://here/ $(NONE) $(URL)"), "{reviewed}");
}
