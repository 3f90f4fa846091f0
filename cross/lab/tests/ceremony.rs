//! What real devices make of ceremonies: a lost root key, roots walked after an absence, a stolen operator key.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Finished, Operator, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

fn wait_root(fleet: &Fleet, version: u64) {
    let wanted = format!("root {version},");
    wait_until(&format!("the device to hold root {version}"), LONG, || {
        let said = fleet.lab.devices[0].cli(&["doctor", "--output", "json"])?.stdout;
        Ok(said.contains(&wanted).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
}

fn new_key(operator: &Operator, name: &str) {
    operator.run(&["keys", "new", name, "--plain"]).unwrap().ok().unwrap();
}

/// Whoever stole a copy of an operator's folder.
fn thief(fleet: &Fleet) -> Operator {
    let home = fleet.dir.path().join("thief");
    let done = Command::new("cp").arg("-r").arg(&fleet.lab.operator.home).arg(&home).status().unwrap();
    assert!(done.success());
    Operator::new(&binaries(), &home).unwrap()
}

/// The envelope that a draft has so far.
fn envelope_of(draft: &Path, out: &Path) {
    let draft: Value = serde_json::from_str(&std::fs::read_to_string(draft).unwrap()).unwrap();
    let text = out.with_extension("base64");
    std::fs::write(&text, draft["documents"][0]["envelope"].as_str().unwrap()).unwrap();
    let bytes = Command::new("base64").arg("-d").arg(&text).output().unwrap().stdout;
    assert!(bytes.len() > 100);
    std::fs::write(out, bytes).unwrap();
}

/// Sends the first device an envelope, past the controller's own checks.
fn force(fleet: &Fleet, file: &Path) {
    let devices = fleet.lab.operator.json(&["get", "devices"]).unwrap();
    let id = devices["devices"][0]["id"].as_str().unwrap().to_owned();
    let mut thief = Command::new(fleet.lab.binary("shoal-attack"));
    thief.arg("--data").arg(&fleet.lab.controller.data).args(["--device", &id, "document", "--file"]);
    Finished::of(thief.arg(file)).unwrap().ok().unwrap();
}

#[test]
fn s7_s8_losing_one_root_key_of_three_is_survived_and_the_lost_key_counts_no_more() {
    if needs_root("s7_s8_losing_one_root_key_of_three_is_survived_and_the_lost_key_counts_no_more") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    for name in ["root-b", "root-c", "root-d"] {
        new_key(&fleet.lab.operator, name);
    }
    let grow = ["--add", "root=root-b", "--add", "root=root-c", "--threshold", "root=2", "--yes"];
    fleet.shoal(&[&["trust", "rotate"], &grow[..]].concat());
    wait_root(&fleet, 2);
    // root-c is gone, and turns up at a thief's, who has root-b too.
    let thief = thief(&fleet);
    std::fs::remove_file(fleet.lab.operator.home.join("keys/root-c.key")).unwrap();
    let finder: PathBuf = thief.home.join("keys");
    for own in ["root.key", "root-d.key", "operator.key"] {
        std::fs::remove_file(finder.join(own)).unwrap();
    }
    // While the device is away the root moves on twice.
    fleet.lab.devices[0].kill_agent();
    fleet.shoal(&["trust", "rotate", "--replace", "root-c=root-d", "--yes"]);
    fleet.shoal(&["trust", "rotate", "--yes", "--key", "root", "--key", "root-b"]);
    fleet.lab.devices[0].start_agent().unwrap();
    wait_root(&fleet, 4);
    // What met root 2's threshold does not meet root 4's: here, at the controller, and on the device.
    let draft = fleet.dir.path().join("forged.draft");
    let forge = ["trust", "rotate", "--replace", "root-d=root-c", "--yes"];
    let alone = thief.run(&forge).unwrap();
    assert_eq!(alone.code, Some(3), "{}{}", alone.stdout, alone.stderr);
    thief.run(&[&forge[..], &["--draft", utf8(&draft)]].concat()).unwrap().ok().unwrap();
    let bytes = fleet.dir.path().join("forged.cose");
    envelope_of(&draft, &bytes);
    force(&fleet, &bytes);
    wait_until("the refusal", LONG, || Ok((fleet.refusals(0, "root_threshold") == 1).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    // The device is where it was, and what is good still applies.
    wait_root(&fleet, 4);
    fleet.apply(&manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    fleet.wait_pod("app", "the next revision", |p| runs(p) && p["revision"]["sequence"] == 2);
    fleet.lab.stop().unwrap();
}

#[test]
fn s6_a_stolen_operator_key_is_revoked_and_what_it_signed_is_stopped_or_kept() {
    if needs_root("s6_a_stolen_operator_key_is_revoked_and_what_it_signed_is_stopped_or_kept") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    for name in ["second", "third"] {
        new_key(&fleet.lab.operator, name);
    }
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    // Kept: it goes on, and nothing new of that key's counts.
    let thief = thief(&fleet);
    fleet.shoal(&["trust", "revoke", "operator", "--keep", "--replace-with", "second", "--yes"]);
    wait_root(&fleet, 2);
    let forged = fleet.file("thief.yaml", manifest("app", "sleeps:1", "Never", ""));
    let tried = thief.run(&["apply", "-f", utf8(&forged), "--yes", "--key", "operator"]).unwrap();
    assert_eq!(tried.code, Some(3), "{}{}", tried.stdout, tried.stderr);
    fleet.wait_running("app", 1);
    let changed = |mib: u32| format!("resources:\n  limits:\n    memory: {mib}Mi");
    fleet.apply(&manifest("app", "sleeps:1", "Always", &changed(64)));
    fleet.wait_pod("app", "the new key's revision", |p| runs(p) && p["revision"]["sequence"] == 2);
    // Stopped: what the second key signed ends on the device.
    fleet.shoal(&["trust", "revoke", "second", "--stop", "--replace-with", "third", "--yes"]);
    wait_until("the pod to be stopped", LONG, || Ok((!fleet.pods("app").iter().any(runs)).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{:#?}\n{}", fleet.pods("app"), fleet.outputs()));
    fleet.apply(&manifest("app", "sleeps:1", "Always", &changed(32)));
    fleet.wait_pod("app", "the third key's revision", |p| runs(p) && p["revision"]["sequence"] == 3);
    fleet.lab.stop().unwrap();
}
