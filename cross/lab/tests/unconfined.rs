//! Without root: what cannot be enforced is refused, the rest runs and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;

#[test]
fn without_root_limits_are_refused_and_a_container_without_them_runs_unconfined() {
    let mut fleet = fleet();
    let nobody = shoal_lab::is_root().then_some(65_534);
    fleet.lab.add_device_as("site=here", nobody).unwrap();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("limited", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    let pod = fleet.wait_pod("limited", "the refusal", |p| p["reason"] == "kernel_unsupported");
    assert!(pod["message"].as_str().is_some_and(|m| m.contains("root") || m.contains("uid 0")), "{pod:#}");
    fleet.apply(&manifest("free", "sleeps:1", "Always", ""));
    fleet.wait_running("free", 1);
    let devices = fleet.lab.operator.json(&["get", "devices"]).unwrap();
    assert!(devices.to_string().contains("unconfined"), "{devices:#}");
    let id = devices["devices"][0]["id"].as_str().unwrap();
    assert!(fleet.shoal(&["describe", "device", id]).contains("unconfined"));
}
