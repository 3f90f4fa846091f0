//! Limits and their causes, from the operator's file to the operator's screen; and that neighbours do not feel them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;

/// The container of the first pod of `name` once it has ended.
fn end_of(fleet: &Fleet, name: &str, cause: &str) -> serde_json::Value {
    let pod =
        fleet.wait_pod(name, &format!("an end by {cause}"), |p| !p["containers"][0]["last_end"].is_null());
    assert_eq!(pod["containers"][0]["last_end"]["cause"], cause, "{pod:#}\n{}", fleet.outputs());
    pod["containers"][0].clone()
}

fn describe(fleet: &Fleet, name: &str) -> String {
    fleet.shoal(&["describe", "pod", name])
}

#[test]
fn c6_a_total_of_cpu_time_ends_in_cpu_limit() {
    if needs_root("c6_a_total_of_cpu_time_ends_in_cpu_limit") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("spins:1", SPINS);
    let limits = "resources:\n  limits:\n    cpu: 100m\n    cpuSeconds: 1";
    fleet.apply(&manifest("spins", "spins:1", "Never", limits));
    let c = end_of(&fleet, "spins", "cpu_limit");
    let used = c["cpu_usage"].as_u64().unwrap();
    assert!((500_000..2_000_000).contains(&used), "{c:#}");
    assert!(c["cpu_throttled_periods"].as_u64().unwrap() > 0, "at a tenth of a CPU it was throttled: {c:#}");
    let text = describe(&fleet, "spins");
    assert!(text.contains("CPU time") && text.contains("periods"), "{text}");
}

#[test]
fn c6_wall_time_ends_in_time_limit_and_an_idle_guest_too() {
    if needs_root("c6_wall_time_ends_in_time_limit_and_an_idle_guest_too") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    let pod = manifest("sleeps", "sleeps:1", "Never", "")
        .replace("      restartPolicy", "      activeDeadlineSeconds: 2\n      restartPolicy");
    fleet.apply(&pod);
    let c = end_of(&fleet, "sleeps", "time_limit");
    let ran = c["finished_at"].as_u64().unwrap() - c["started_at"].as_u64().unwrap();
    assert!((1..=4).contains(&ran), "{c:#}");
}

/// Says a line of 64 bytes on standard output for ever, as fast as it can.
const FLOODS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (local $i i32)
        (memory.fill (i32.const 1024) (i32.const 97) (i32.const 65536))
        (loop $fill
            (i32.store8 (i32.add (i32.const 1087) (i32.mul (local.get $i) (i32.const 64))) (i32.const 10))
            (br_if $fill (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 64000))
        (loop $more
            (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))
            (br $more))))"#;

#[test]
fn c2_hogs_of_log_memory_and_cpu_are_held_and_neighbours_go_on() {
    if needs_root("c2_hogs_of_log_memory_and_cpu_are_held_and_neighbours_go_on") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("floods:1", FLOODS);
    fleet.import_wat("spins:1", SPINS);
    fleet.import_wat("eats:1", EATS_MEMORY);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("neighbour", "sleeps:1", "Always", ""));
    let neighbour = fleet.wait_running("neighbour", 1).remove(0);
    let cpu = "resources:\n  limits:\n    cpu: 300m\n    memory: 64Mi";
    let flood = "resources:\n  limits:\n    cpu: 500m\n    memory: 64Mi\n    wallSeconds: 10";
    fleet.apply(&manifest("floods", "floods:1", "Never", flood));
    fleet.apply(&manifest("spins", "spins:1", "Always", cpu));
    fleet.apply(&manifest("eats", "eats:1", "Never", "resources:\n  limits:\n    memory: 32Mi"));
    end_of(&fleet, "eats", "oom_killed");
    let c = end_of(&fleet, "floods", "time_limit");
    assert!(c["dropped_lines"].as_u64().unwrap() > 10_000, "a rate of log is kept, the rest counted: {c:#}");
    let logs = fleet.lab.devices[0].root.join("var/log/shoal/pods");
    assert!(bytes_below(&logs) < 64 << 20, "the log has a quota");
    let same = fleet.wait_running("neighbour", 1).remove(0);
    assert_eq!(same["containers"][0]["attempt"], neighbour["containers"][0]["attempt"], "{same:#}");
    assert_eq!(same["containers"][0]["started_at"], neighbour["containers"][0]["started_at"]);
    // The agent answers, and new work starts beside all of them.
    fleet.import_wat("exits:1", &exits_with(0));
    fleet.apply(&manifest("late", "exits:1", "Never", ""));
    end_of(&fleet, "late", "exited");
}

#[test]
fn c3_a_required_kernel_feature_that_is_not_there_is_reported_and_the_revision_before_runs_on() {
    if needs_root(
        "c3_a_required_kernel_feature_that_is_not_there_is_reported_and_the_revision_before_runs_on",
    ) {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    let with = |features: &str| {
        let lines = format!("      requiredFeatures: [{features}]\n      restartPolicy");
        manifest("app", "sleeps:1", "Always", "").replace("      restartPolicy", &lines)
    };
    fleet.apply(&with("seccomp, namespaces"));
    // Last-good: what was not proven yet gives way to whatever is newer.
    let first = fleet.wait_pod("app", "health", |p| p["phase"] == "healthy");
    let applied = fleet.try_apply(&with("seccomp, landlok"));
    assert!(applied.stderr.contains("did you mean landlock?"), "{applied:?}");
    let applied = applied.ok().unwrap();
    assert!(applied.contains("seccomp landlok"), "the difference is shown: {applied}");
    let of = |fleet: &Fleet, sequence: u64| {
        fleet.pods("app").into_iter().find(|p| p["revision"]["sequence"] == sequence)
    };
    let sequence = first["revision"]["sequence"].as_u64().unwrap();
    let refused = shoal_lab::wait_until("the refusal", LONG, || {
        Ok(of(&fleet, sequence + 1).filter(|p| p["reason"] == "kernel_unsupported"))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#?}\n{}", fleet.pods("app"), fleet.outputs()));
    assert_eq!(refused["phase"], "failed", "{refused:#}");
    assert!(refused["message"].as_str().unwrap().contains("\"landlok\""), "{refused:#}");
    let still = of(&fleet, sequence).unwrap();
    assert!(runs(&still), "{still:#}");
    assert_eq!(still["containers"][0]["started_at"], first["containers"][0]["started_at"], "{still:#}");
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => bytes_below(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
