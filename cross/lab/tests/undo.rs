//! `shoal rollout undo`: the way back to an earlier revision is a next one, signed and published like any other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Finished, wait_until};

fn limits(mib: u64) -> String {
    format!("resources:\n  limits:\n    memory: {mib}Mi")
}

/// Waits for this revision to run with this limit of memory: its contents are those of the revision that had it first.
fn wait_revision(fleet: &Fleet, sequence: u64, mib: u64) {
    let is_it = |p: &Value| runs(p) && p["revision"]["sequence"] == sequence;
    let mut last = Vec::new();
    let found = wait_until(&format!("revision {sequence}"), LONG, || {
        last = fleet.pods("app");
        Ok(last.iter().find(|p| is_it(p)).cloned())
    });
    let pod = found.unwrap_or_else(|e| panic!("{e:#}\n{last:#?}\n{}", fleet.outputs()));
    assert_eq!(pod["containers"][0]["memory_limit"], mib << 20, "{pod:#}");
}

fn wait_complete(fleet: &Fleet) -> String {
    let said = fleet.shoal(&["rollout", "status", "app", "--wait", "--timeout", "2m"]);
    assert!(said.contains("complete: "), "{said}");
    said
}

/// `shoal rollout undo app` with these, whatever comes of it.
fn undo(fleet: &Fleet, more: &[&str]) -> Finished {
    fleet.try_shoal(&[&["rollout", "undo", "app"], more].concat())
}

#[test]
fn rollout_undo_runs_what_was_before_under_a_newer_sequence() {
    if needs_root("rollout_undo_runs_what_was_before_under_a_newer_sequence") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", &limits(64)));
    wait_revision(&fleet, 1, 64);
    wait_complete(&fleet);

    // Nothing is before it.
    let none = undo(&fleet, &["--yes"]);
    assert_eq!(none.code, Some(2), "{}{}", none.stdout, none.stderr);
    assert!(none.stderr.contains("no revision before 1"), "{}", none.stderr);
    let none = undo(&fleet, &["--yes", "--output", "json"]);
    let said: Value = serde_json::from_str(&none.stderr).unwrap_or_else(|e| panic!("{e}: {}", none.stderr));
    assert_eq!((none.code, &said["exitCode"], none.stdout.as_str()), (Some(2), &2.into(), ""), "{said:#}");
    let unknown = fleet.try_shoal(&["rollout", "undo", "other", "--yes"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("no deployment other"), "{}", unknown.stderr);

    fleet.apply(&manifest("app", "sleeps:1", "Always", &limits(32)));
    wait_revision(&fleet, 2, 32);
    // Asked on no terminal, nobody said yes.
    let asked = undo(&fleet, &[]);
    assert!(asked.code == Some(2) && asked.stderr.contains("nothing was signed"), "{}", asked.stderr);
    assert!(asked.stdout.contains("main.limits.memory: 32 MiB → 64 MiB"), "{}", asked.stdout);
    let done = undo(&fleet, &["--yes"]).ok().unwrap();
    assert!(done.contains("deployment app revision 3 signed and published"), "{done}");
    wait_revision(&fleet, 3, 64);
    let status = wait_complete(&fleet);
    assert!(status.contains("Revision:     3 ("), "{status}");
    let list = fleet.lab.operator.json(&["get", "deployments"]).unwrap()["deployments"].clone();
    assert_eq!(
        (&list[0]["newest"]["sequence"], &list[0]["stable"]["sequence"], &list[0]["state"]),
        (&3.into(), &1.into(), &"complete".into()),
        "nobody stays on what was undone: {list:#}"
    );

    // Once more is no way forward to what was undone; a program is told that nothing had to be signed.
    let nothing = |more: &[&str]| {
        let said = undo(&fleet, &[more, &["--yes", "--output", "json"]].concat()).json().unwrap();
        assert_eq!(
            (&said["deployments"], &said["snapshot"]),
            (&serde_json::json!([]), &Value::Null),
            "{said:#}"
        );
    };
    nothing(&[]);
    let said = undo(&fleet, &["--to-revision", "2", "--yes", "--output", "json"]).json().unwrap();
    assert_eq!(said["deployments"][0]["sequence"], 4, "{said:#}");
    wait_revision(&fleet, 4, 32);
    let newest = fleet.lab.operator.json(&["rollout", "status", "app"]).unwrap();
    assert_eq!(newest["newest"]["digest"], said["deployments"][0]["digest"], "{newest:#}");
    nothing(&["--to-revision", "2"]);
    for number in ["4", "9"] {
        let wrong = undo(&fleet, &["--to-revision", number, "--yes"]);
        let said = wrong.stderr.contains("the newest revision of app is 4");
        assert!(wrong.code == Some(2) && said, "{}{}", wrong.stdout, wrong.stderr);
    }
    fleet.lab.stop().unwrap();
}

#[test]
fn a_rollout_that_is_halted_and_one_that_waits_for_an_order_are_undone() {
    if needs_root("a_rollout_that_is_halted_and_one_that_waits_for_an_order_are_undone") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.import_wat("traps:1", TRAPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", &limits(64)));
    fleet.wait_pod("app", "health", |p| p["phase"] == "healthy");
    fleet.apply(&manifest("app", "traps:1", "Never", &limits(32)));
    let halted = fleet.try_shoal(&["rollout", "status", "app", "--wait", "--timeout", "2m"]);
    assert!(
        halted.code == Some(1) && halted.stderr.contains("rollout_halted"),
        "{}{}",
        halted.stdout,
        halted.stderr
    );
    undo(&fleet, &["--yes"]).ok().unwrap();
    wait_revision(&fleet, 3, 64);
    wait_complete(&fleet);

    // One that waits for an order is superseded, and the way back waits for none.
    let ordered = manifest("app", "sleeps:1", "Always", &limits(16))
        .replace("  template:", "  rollout: {activation: ordered}\n  template:");
    fleet.apply(&ordered);
    let mut last = Value::Null;
    wait_until("the wait for an order", LONG, || {
        last = Value::Array(fleet.pods("app"));
        let all = last.as_array().unwrap();
        Ok(all.iter().any(|p| p["revision"]["sequence"] == 4 && p["phase"] == "staged").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()));
    undo(&fleet, &["--yes"]).ok().unwrap();
    wait_revision(&fleet, 5, 64);
    fleet.lab.stop().unwrap();
}

#[test]
fn a_revision_that_halted_reaches_no_other_device_when_the_next_one_is_published() {
    if needs_root("a_revision_that_halted_reaches_no_other_device_when_the_next_one_is_published") {
        return;
    }
    let mut fleet = fleet_with(2);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.import_wat("traps:1", TRAPS);
    let one_by_one = |image: &str, restart: &str, mib: u64| {
        manifest("app", image, restart, &limits(mib))
            .replace("  template:", "  rollout: {maxUnavailable: 1}\n  template:")
    };
    let status = |fleet: &Fleet| fleet.lab.operator.json(&["rollout", "status", "app"]).unwrap();
    fleet.apply(&one_by_one("sleeps:1", "Always", 64));
    wait_complete(&fleet);
    fleet.apply(&one_by_one("traps:1", "Never", 32));
    let halted = fleet.try_shoal(&["rollout", "status", "app", "--wait", "--timeout", "2m"]);
    assert!(halted.stderr.contains("rollout_halted"), "{}{}", halted.stdout, halted.stderr);
    let before = status(&fleet);
    assert_eq!(
        (&before["counts"]["failed"], &before["counts"]["held"]),
        (&1.into(), &1.into()),
        "{before:#}"
    );
    // The next one is applied, not undone: nobody says which of the two before it was meant.
    fleet.apply(&one_by_one("sleeps:1", "Always", 16));
    wait_complete(&fleet);
    // One device failed; the other never had it.
    let ran = |n: usize| fleet.lab.devices[n].agent_output().contains("Trap");
    let both = [ran(0), ran(1)];
    assert_ne!(both[0], both[1], "{both:?}\n{}", fleet.outputs());
    let after = status(&fleet);
    assert_eq!(
        (&after["newest"]["sequence"], &after["stable"]["sequence"]),
        (&3.into(), &1.into()),
        "what failed is nobody's to stay on: {after:#}"
    );
    // And the one after that has the third to stay on, since it came through.
    fleet.apply(&one_by_one("sleeps:1", "Always", 24));
    assert_eq!(status(&fleet)["stable"]["sequence"], 3);
    fleet.lab.stop().unwrap();
}
