//! The controller is lost to a thief, who has its keys, its CA and the operators' credential. Another one takes its place, with a
//! new CA by a new root; the devices follow by themselves, and nothing that runs notices.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Controller, Finished, wait_until};
use std::process::Command;

#[test]
fn a_stolen_controller_is_replaced_by_a_root_and_its_devices_follow_while_all_runs_on() {
    if needs_root("a_stolen_controller_is_replaced_by_a_root_and_its_devices_follow_while_all_runs_on") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    let before = processes(&fleet.lab.devices[0]);

    // Another machine gets a copy of the store, and keys that nobody else has seen.
    let data = fleet.dir.path().join("second");
    let stolen = fleet.lab.controller.credential().unwrap();
    fleet.lab.controller.stop();
    Finished::of(Command::new("cp").arg("-r").arg(&fleet.lab.controller.data).arg(&data))
        .unwrap()
        .ok()
        .unwrap();
    fleet.lab.controller.start_again().unwrap();
    let renew = |data: &std::path::Path| {
        Finished::of(Command::new(fleet.lab.binary("shoald")).arg("renew-identity").arg("--data").arg(data))
            .unwrap()
    };
    assert_eq!(renew(&fleet.lab.controller.data).code, Some(3), "one that runs keeps its keys");
    renew(&data).ok().unwrap();
    let mut second = Controller::start(&binaries(), &data, &[]).unwrap();
    let ca = data.join("ca.pem");
    assert_ne!(std::fs::read(&ca).unwrap(), std::fs::read(fleet.lab.controller.data.join("ca.pem")).unwrap());
    let credential = second.credential().unwrap();
    let login = |token: &str| {
        fleet.try_shoal(&["login", &second.url(), "--token", token, "--ca", utf8(&ca), "--name", "second"])
    };
    assert_ne!(login(&stolen).code, Some(0), "the thief's credential opens it no more");
    login(&credential).ok().unwrap();

    // A root names the new one; the old one passes it on because an operator says so, and for no other reason.
    fleet.shoal(&["--context", "second", "trust", "rotate", "--controller", "--yes"]);
    let old = ["--context", "default", "trust", "push"];
    let unasked = fleet.try_shoal(&old);
    assert!(unasked.stderr.contains("controller_mismatch"), "{}{}", unasked.stdout, unasked.stderr);
    fleet.shoal(&[&old[..], &["--handover"]].concat());
    let mut seen = Value::Null;
    wait_until("the device at its new controller", LONG, || {
        seen = fleet.lab.operator.json(&["--context", "second", "get", "devices"])?;
        Ok((seen["devices"][0]["state"] == "online").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{seen:#}\n{}\n{}", second.output(), fleet.outputs()));
    assert_eq!(processes(&fleet.lab.devices[0]), before, "what runs has not noticed");

    // It does what the new one is told, and the old one has lost it.
    let path = fleet
        .file("app.yaml", manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    fleet.shoal(&["--context", "second", "apply", "-f", utf8(&path), "--yes"]);
    wait_until("the next revision, by the new controller", LONG, || {
        seen = fleet.lab.operator.json(&["--context", "second", "get", "pods"])?;
        let is = |p: &Value| runs(p) && p["revision"]["sequence"] == 2;
        Ok(seen["pods"].as_array().is_some_and(|all| all.iter().any(is)).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{seen:#}\n{}\n{}", second.output(), fleet.outputs()));
    let now = processes(&fleet.lab.devices[0]);
    fleet.try_shoal(&["--context", "default", "restart", "app"]);
    fleet.shoal(&["--context", "second", "restart", "app"]);
    wait_until("the restart that the new one ordered", LONG, || {
        Ok((processes(&fleet.lab.devices[0]) != now).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    let status = fleet.lab.devices[0].cli(&["status", "--output", "json"]).unwrap().json().unwrap();
    let app = status["deployments"].as_array().unwrap().iter().find(|d| d["revision"]["sequence"] == 2);
    assert!(app.is_some_and(|d| d["containers"][0]["attempt"].as_u64() <= Some(2)), "{status:#}");
    assert_eq!(status["root_version"], 2);
    fleet.lab.stop().unwrap();
    second.stop();
}
