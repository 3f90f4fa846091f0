//! A site with no network: what it runs comes by stick and what it says goes back by stick. It is docs/air-gapped.md, command
//! by command. And the way over for a device whose controller is lost: the new one's root comes by stick too.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use crate::sideload::{sideload, wait_runs};
use serde_json::Value;
use shoal_lab::{Controller, Device, Finished, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says something at each start, then sleeps.
const SPEAKS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 200) "the pump turns\n")
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 200)) (i32.store (i32.const 4) (i32.const 15))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (loop $again
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (br $again))))"#;

/// Takes a bundle and writes a receipt beside it; where that is.
fn with_receipt(device: &Device, bundle: &Path, stick: &Path) -> PathBuf {
    let done = device.cli(&["sideload", utf8(bundle), "--receipt", utf8(stick), "--output", "json"]).unwrap();
    let said: Value = serde_json::from_str(done.ok().unwrap().lines().next().unwrap()).unwrap();
    stick.join(said["receipt"].as_str().unwrap_or_else(|| panic!("no receipt: {said:#}")))
}

#[test]
fn a_site_with_no_network_deploys_updates_rolls_back_and_reports_by_stick_only() {
    if needs_root("a_site_with_no_network_deploys_updates_rolls_back_and_reports_by_stick_only") {
        return;
    }
    let mut fleet = fleet();
    let stick = fleet.dir.path().join("stick");
    std::fs::create_dir(&stick).unwrap();
    let on_stick = |name: &str| stick.join(name);
    fleet.import_wat("pump:1", SPEAKS);
    // From here on nobody answers the operator either.
    fleet.lab.controller.stop();
    fleet.shoal(&["provision", "--count", "1", "--labels", "site=here", "-o", utf8(&stick)]);
    let file = |fleet: &Fleet, turn: &str| {
        let env = format!("env: [{{name: TURN, value: \"{turn}\"}}]");
        let text =
            manifest("pump", "pump:1", "Always", &env).replace("  template:", "  logs: tail\n  template:");
        fleet.file("pump.yaml", text)
    };
    let create = |fleet: &Fleet, more: &[&str], name: &str| {
        let path = on_stick(name);
        fleet.shoal(&[&["bundle", "create", "--yes", "--receipt", "--out", utf8(&path)], more].concat());
        fleet.shoal(&["bundle", "verify", utf8(&path), "--labels", "site=here"]);
        path
    };
    let first = create(&fleet, &["-f", utf8(&file(&fleet, "1"))], "first.shoal");

    // At the device.
    let mut device = fleet.lab.prepare_device().unwrap();
    device.start_guard().unwrap();
    device.cli(&["enroll", "--offline", utf8(&on_stick("join-0001.shoal"))]).unwrap().ok().unwrap();
    device.start_agent().unwrap();
    fleet.lab.devices.push(device);
    let told = with_receipt(&fleet.lab.devices[0], &first, &stick);
    wait_runs(&fleet, 1);

    // Back at the operator's: who the device is, what it runs, what it said.
    let import = |fleet: &Fleet, path: &Path, more: &[&str]| {
        let args = [&["receipt", "import", utf8(path), "--output", "json"], more].concat();
        fleet.try_shoal(&args)
    };
    let view = import(&fleet, &told, &[]).json().unwrap()["imported"][0].clone();
    assert_eq!(view["handed_over"], false, "{view:#}");
    let pod = &view["receipt"]["pods"][0];
    assert_eq!((&pod["sequence"], &pod["phase"]), (&1.into(), &"healthy".into()), "{view:#}");
    let shown = fleet.shoal(&["receipt", "inspect", utf8(&told)]);
    assert!(shown.contains("the pump turns"), "{shown}");
    // S25: replayed, changed, foreign.
    let again = import(&fleet, &told, &["--offline"]);
    assert!(
        again.code == Some(3) && again.stderr.contains("report_replay"),
        "{}{}",
        again.stdout,
        again.stderr
    );
    let mut bytes = std::fs::read(&told).unwrap();
    let end = bytes.len() - 9;
    bytes[end] ^= 1;
    let changed = import(&fleet, &fleet.file("changed.receipt", bytes), &[]);
    assert!(changed.code == Some(3) && changed.stderr.contains("bad_signature"), "{}", changed.stderr);

    // An update without what the first one brought, which a power cut has not taken away, then the way back.
    fleet.lab.devices[0].power_cut();
    fleet.lab.devices[0].start_guard().unwrap();
    fleet.lab.devices[0].start_agent().unwrap();
    wait_runs(&fleet, 1);
    let second = create(&fleet, &["-f", utf8(&file(&fleet, "2")), "--since", utf8(&first)], "second.shoal");
    let size = |p: &Path| std::fs::metadata(p).unwrap().len();
    assert!(size(&second) < size(&first) + 4096, "{} and {}", size(&second), size(&first));
    with_receipt(&fleet.lab.devices[0], &second, &stick);
    wait_runs(&fleet, 2);
    let third = create(&fleet, &["--undo", "pump"], "third.shoal");
    let told = with_receipt(&fleet.lab.devices[0], &third, &stick);
    wait_runs(&fleet, 3);
    let old = sideload(&fleet.lab.devices[0], &second);
    assert!(old.code == Some(3) && old.stderr.contains("rollback"), "{}{}", old.stdout, old.stderr);

    // A device that never had the first bundle has not what the second leaves out, and takes nothing.
    let mut other = fleet.lab.prepare_device().unwrap();
    other.start_guard().unwrap();
    let more = fleet.dir.path().join("more");
    fleet.shoal(&["provision", "--count", "1", "--labels", "site=here", "-o", utf8(&more)]);
    other.cli(&["enroll", "--offline", utf8(&more.join("join-0001.shoal"))]).unwrap().ok().unwrap();
    let delta = create(&fleet, &["--since", utf8(&third)], "delta.shoal");
    let refused = sideload(&other, &delta);
    assert!(refused.code == Some(3) && refused.stderr.contains("image_unavailable"), "{}", refused.stderr);
    let status = other.cli(&["status", "--output", "json"]).unwrap().json().unwrap();
    assert_eq!(
        (&status["snapshot"], &status["deployments"]),
        (&Value::Null, &serde_json::json!([])),
        "{status:#}"
    );
    other.stop().unwrap();

    // The controller is back: it is given what was signed alone, and what the device said.
    fleet.lab.devices[0].kill_agent();
    fleet.lab.controller.start_again().unwrap();
    let behind = fleet.try_apply(&manifest("other", "pump:1", "Always", ""));
    assert!(behind.stderr.contains("controller_behind"), "{}", behind.stderr);
    fleet.shoal(&["trust", "push"]);
    let view = import(&fleet, &told, &[]).json().unwrap()["imported"][0].clone();
    assert_eq!(view["handed_over"], true, "{view:#}");
    let pod = fleet.wait_pod("pump", "what the receipt told", |p| p["revision"]["sequence"] == 3);
    assert_eq!(pod["phase"], "healthy", "{pod:#}");
    let devices = fleet.lab.operator.json(&["get", "devices"]).unwrap();
    assert!(devices["devices"][0]["report_counter"].as_u64() > Some(0), "{devices:#}");
    assert!(fleet.shoal(&["logs", "pump"]).contains("the pump turns"));
    let twice = import(&fleet, &told, &[]);
    assert!(
        twice.code == Some(3) && twice.stderr.contains("report_replay"),
        "{}{}",
        twice.stdout,
        twice.stderr
    );
    fleet.lab.stop().unwrap();
}

#[test]
fn a_lost_controller_is_replaced_by_a_root_that_comes_by_stick() {
    if needs_root("a_lost_controller_is_replaced_by_a_root_that_comes_by_stick") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    let before = processes(&fleet.lab.devices[0]);
    // A copy of its store, with a new CA and a new key; the old one is gone for good.
    let data = fleet.dir.path().join("second");
    fleet.lab.controller.stop();
    let run = |command: &mut Command| Finished::of(command).unwrap().ok().unwrap();
    run(Command::new("cp").arg("-r").arg(&fleet.lab.controller.data).arg(&data));
    run(Command::new(fleet.lab.binary("shoald")).arg("renew-identity").arg("--data").arg(&data));
    let mut second = Controller::start(&binaries(), &data, &[]).unwrap();
    let (ca, credential) = (data.join("ca.pem"), second.credential().unwrap());
    fleet.shoal(&["login", &second.url(), "--token", &credential, "--ca", utf8(&ca), "--name", "second"]);
    let at_second = ["--context", "second"];
    fleet.shoal(&[&at_second[..], &["trust", "rotate", "--controller", "--yes"]].concat());
    let path = fleet.dir.path().join("root.shoal");
    fleet.shoal(&[&at_second[..], &["bundle", "create", "--out", utf8(&path)]].concat());
    sideload(&fleet.lab.devices[0], &path).ok().unwrap();
    let mut seen = Value::Null;
    wait_until("the device at its new controller", LONG, || {
        seen = fleet.lab.operator.json(&["--context", "second", "get", "devices"])?;
        Ok((seen["devices"][0]["state"] == "online").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{seen:#}\n{}\n{}", second.output(), fleet.outputs()));
    assert_eq!(processes(&fleet.lab.devices[0]), before, "what runs has not noticed");
    fleet.lab.stop().unwrap();
    second.stop();
}
