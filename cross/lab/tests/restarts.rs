//! What stays and what comes back: cold boots, reconnects, restarts of agent and controller, crash loops.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Device, wait_until};

/// The process ids of all containers on a device, from its own `ps`.
fn container_pids(device: &Device) -> Vec<u64> {
    let ps = device.cli(&["ps", "--output", "json"]).unwrap().json().unwrap();
    let mut pids = Vec::new();
    collect(&ps, "pid", &mut pids);
    pids.retain(|pid| *pid > 0);
    pids
}

fn collect(value: &Value, key: &str, found: &mut Vec<u64>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_u64));
            map.values().for_each(|v| collect(v, key, found));
        }
        Value::Array(list) => list.iter().for_each(|v| collect(v, key, found)),
        _ => {}
    }
}

fn running_fleet() -> Fleet {
    let fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    fleet.wait_running("app", 1);
    fleet
}

#[test]
fn u1_a_cold_boot_without_any_network_starts_all_that_ran() {
    if needs_root("u1_a_cold_boot_without_any_network_starts_all_that_ran") {
        return;
    }
    let mut fleet = running_fleet();
    let before = container_pids(&fleet.lab.devices[0]);
    assert_eq!(before.len(), 1);
    fleet.lab.controller.kill();
    let device = &mut fleet.lab.devices[0];
    device.power_cut();
    device.start_guard().unwrap();
    device.start_agent().unwrap();
    let after = wait_until("the container to run again", LONG, || {
        let pids = container_pids(device);
        Ok((!pids.is_empty()).then_some(pids))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", device.agent_output(), device.guard_output()));
    assert_ne!(before, after);
    // When the controller is back it hears of it.
    fleet.lab.controller.start_again().unwrap();
    fleet.wait_running("app", 1);
}

#[test]
fn u2_a_controller_restart_and_the_reconnect_leave_a_healthy_container_alone() {
    if needs_root("u2_a_controller_restart_and_the_reconnect_leave_a_healthy_container_alone") {
        return;
    }
    let mut fleet = running_fleet();
    fleet.wait_pod("app", "health", |p| p["phase"] == "healthy");
    let before = container_pids(&fleet.lab.devices[0]);
    for _ in 0..2 {
        fleet.lab.controller.stop();
        fleet.lab.controller.start_again().unwrap();
        fleet.wait_online();
    }
    assert_eq!(container_pids(&fleet.lab.devices[0]), before);
    let pods = fleet.pods("app");
    assert_eq!(pods[0]["containers"][0]["attempt"], 1, "{pods:#?}");
}

#[test]
fn f6_a_killed_agent_adopts_the_running_container() {
    if needs_root("f6_a_killed_agent_adopts_the_running_container") {
        return;
    }
    let mut fleet = running_fleet();
    let before = container_pids(&fleet.lab.devices[0]);
    fleet.lab.devices[0].kill_agent();
    fleet.lab.devices[0].start_agent().unwrap();
    // A revision that comes afterwards shows that the new agent is at work.
    fleet.apply(&manifest("other", "sleeps:1", "Always", ""));
    fleet.wait_running("other", 1);
    let after = container_pids(&fleet.lab.devices[0]);
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} is not all in {after:?}");
}

#[test]
fn f6_a_killed_supervise_finds_the_running_container_again() {
    if needs_root("f6_a_killed_supervise_finds_the_running_container_again") {
        return;
    }
    let mut fleet = running_fleet();
    let before = container_pids(&fleet.lab.devices[0]);
    fleet.lab.devices[0].guard().unwrap().kill();
    fleet.lab.devices[0].start_guard().unwrap();
    let device = &fleet.lab.devices[0];
    let after = wait_until("ps to answer", LONG, || {
        let pids = container_pids(device);
        Ok((!pids.is_empty()).then_some(pids))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    assert_eq!(before, after);
}

#[test]
fn f3_a_revision_that_does_not_become_healthy_gives_way_to_last_good() {
    if needs_root("f3_a_revision_that_does_not_become_healthy_gives_way_to_last_good") {
        return;
    }
    let fleet = running_fleet();
    fleet.wait_pod("app", "health", |p| p["phase"] == "healthy");
    fleet.import_wat("broken:1", TRAPS);
    fleet.apply(&manifest("app", "broken:1", "Never", ""));
    let mut seen = Vec::new();
    wait_until("the failure to be told and last-good to run again", LONG, || {
        seen = fleet.pods("app");
        let of = |sequence: u64| seen.iter().find(|p| p["revision"]["sequence"] == sequence);
        let failed = of(2).is_some_and(|p| p["phase"] == "failed" && p["reason"].is_string());
        Ok((failed && of(1).is_some_and(runs)).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{seen:#?}\n{}", fleet.outputs()));
}

#[test]
fn f4_a_crash_loop_is_named_and_waits_longer_each_time() {
    if needs_root("f4_a_crash_loop_is_named_and_waits_longer_each_time") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("fails:1", &exits_with(1));
    fleet.apply(&manifest("loop", "fails:1", "Always", ""));
    let pod = fleet.wait_pod("loop", "a crash loop", |p| {
        p["phase"] == "crash_loop" && p["containers"][0]["attempt"].as_u64().is_some_and(|n| n >= 2)
    });
    assert_eq!(pod["reason"], "crash_loop", "{pod:#}");
    assert!(pod["deadline"].is_u64(), "the next start is announced: {pod:#}");
    let shown = fleet.shoal(&["describe", "pod", "loop"]);
    assert!(shown.contains("crash_loop"), "{shown}");
}

#[test]
fn b3_reports_made_while_the_controller_is_away_all_arrive() {
    if needs_root("b3_reports_made_while_the_controller_is_away_all_arrive") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("ends:1", &exits_with(0));
    fleet.apply(&manifest("before", "ends:1", "Never", ""));
    fleet.wait_pod("before", "the first end", |p| p["phase"] == "succeeded");
    fleet.lab.controller.kill();
    // The device goes on by itself; its reports wait.
    let restarted = fleet.lab.devices[0].cli(&["status", "--output", "json"]).unwrap();
    assert_eq!(restarted.code, Some(0), "{}{}", restarted.stdout, restarted.stderr);
    fleet.lab.devices[0].kill_agent();
    fleet.lab.devices[0].start_agent().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    fleet.lab.controller.start_again().unwrap();
    fleet.apply(&manifest("after", "ends:1", "Never", ""));
    fleet.wait_pod("after", "the second end", |p| p["phase"] == "succeeded");
    wait_until("the outbox to be empty", LONG, || {
        let status = fleet.lab.devices[0].cli(&["status", "--output", "json"])?.json()?;
        Ok((status["outbox"] == 0).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
}
