//! A thief of the controller, a forger on the broker: what they send is refused on the device, by the right code.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, wait_until};
use std::process::Command;

fn attack(fleet: &Fleet, act: &str) {
    let devices = fleet.lab.operator.json(&["get", "devices"]).unwrap();
    let id = devices["devices"][0]["id"].as_str().unwrap().to_owned();
    let mut thief = Command::new(fleet.lab.binary("shoal-attack"));
    thief.arg("--data").arg(&fleet.lab.controller.data).args(["--device", &id, act]);
    Finished::of(&mut thief).unwrap().ok().unwrap();
}

fn is_refused(act: &str, code: &str) {
    let fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    assert_eq!(fleet.refusals(0, code), 0);
    attack(&fleet, act);
    wait_until(&format!("the refusal {code}"), LONG, || Ok((fleet.refusals(0, code) == 1).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    // Nothing but the counter changed, and a good document still applies.
    let pods = fleet.lab.operator.json(&["get", "pods"]).unwrap();
    assert_eq!(pods["pods"].as_array().unwrap().len(), 1, "{pods:#}");
    fleet.apply(&manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    fleet.wait_pod("app", "the good revision", |p| runs(p) && p["revision"]["sequence"] == 2);
}

#[test]
fn s1_a_flipped_byte_through_the_broker_is_bad_signature() {
    if needs_root("s1_a_flipped_byte_through_the_broker_is_bad_signature") {
        return;
    }
    is_refused("flip", "bad_signature");
}

#[test]
fn s3_a_deployment_signed_by_the_controllers_own_key_is_role_scope() {
    if needs_root("s3_a_deployment_signed_by_the_controllers_own_key_is_role_scope") {
        return;
    }
    is_refused("online-key", "role_scope");
}

#[test]
fn s3_a_deployment_signed_by_a_fresh_key_is_unknown_key() {
    if needs_root("s3_a_deployment_signed_by_a_fresh_key_is_unknown_key") {
        return;
    }
    is_refused("fresh-key", "unknown_key");
}
