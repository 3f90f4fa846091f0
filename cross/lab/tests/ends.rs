//! How a container ended: each cause told apart, from the process up to the operator's screen.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;

fn end_of(name: &str, wat: &str, extra: &str, cause: &str) -> serde_json::Value {
    let fleet = fleet_with(1);
    fleet.import_wat("guest:1", wat);
    fleet.apply(&manifest(name, "guest:1", "Never", extra));
    let pod =
        fleet.wait_pod(name, &format!("an end by {cause}"), |p| !p["containers"][0]["last_end"].is_null());
    assert_eq!(pod["containers"][0]["last_end"]["cause"], cause, "{pod:#}\n{}", fleet.outputs());
    pod
}

#[test]
fn c6_an_exit_code_is_reported_as_it_is() {
    if needs_root("c6_an_exit_code_is_reported_as_it_is") {
        return;
    }
    let pod = end_of("exits", &exits_with(3), "", "exited");
    assert_eq!(pod["containers"][0]["last_end"]["code"], 3);
    assert_eq!(pod["phase"], "failed");
}

#[test]
fn c6_a_trap_is_not_an_exit() {
    if needs_root("c6_a_trap_is_not_an_exit") {
        return;
    }
    let pod = end_of("traps", TRAPS, "", "trap");
    let message = pod["containers"][0]["last_end"]["message"].as_str().unwrap_or_default().to_lowercase();
    assert!(message.contains("unreachable"), "{pod:#}");
}

#[test]
fn c6_a_guest_at_its_own_memory_limit_is_not_killed_by_the_kernel() {
    if needs_root("c6_a_guest_at_its_own_memory_limit_is_not_killed_by_the_kernel") {
        return;
    }
    let extra = "resources:\n  limits:\n    memory: 128Mi\n    wasmMemory: 4Mi";
    end_of("grows", EATS_MEMORY, extra, "guest_memory");
}

#[test]
fn c2_memory_above_the_cgroups_limit_ends_in_oom_killed() {
    if needs_root("c2_memory_above_the_cgroups_limit_ends_in_oom_killed") {
        return;
    }
    let extra = "resources:\n  limits:\n    memory: 16Mi\n    wasmMemory: 256Mi";
    let pod = end_of("eats", EATS_MEMORY, extra, "oom_killed");
    let peak = pod["containers"][0]["memory_peak"].as_u64().unwrap();
    assert!(peak > 10 << 20 && peak <= 16 << 20, "peak {peak}");
}

#[test]
fn c2_an_endless_loop_is_throttled_at_its_quota() {
    if needs_root("c2_an_endless_loop_is_throttled_at_its_quota") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("spins:1", SPINS);
    fleet.apply(&manifest("spins", "spins:1", "Always", "resources:\n  limits:\n    cpu: 200m"));
    fleet.wait_running("spins", 1);
    let used = || {
        let ps = fleet.lab.devices[0].cli(&["ps", "--output", "json"]).unwrap().json().unwrap();
        find_number(&ps, "cpu_usage").unwrap_or_else(|| panic!("no cpu_usage in {ps:#}"))
    };
    let (start, began) = (used(), std::time::Instant::now());
    std::thread::sleep(std::time::Duration::from_secs(3));
    let spent = used() - start;
    let per_mille = u128::from(spent) * 1000 / began.elapsed().as_micros();
    assert!((100..300).contains(&per_mille), "the loop got {per_mille} ‰ of a CPU, its quota is 200");
}

/// The first number under this key, at any depth.
fn find_number(value: &serde_json::Value, key: &str) -> Option<u64> {
    match value {
        serde_json::Value::Object(map) => map
            .get(key)
            .and_then(serde_json::Value::as_u64)
            .or_else(|| map.values().find_map(|v| find_number(v, key))),
        serde_json::Value::Array(list) => list.iter().find_map(|v| find_number(v, key)),
        _ => None,
    }
}
