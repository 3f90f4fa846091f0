//! A device that has never seen a controller: what it runs comes on a stick, signed as ever, and nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Device, Finished, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn sideload(device: &Device, path: &Path) -> Finished {
    device.cli(&["sideload", utf8(path), "--output", "json"]).unwrap()
}

/// How many of a sideload's documents came out as this.
pub(crate) fn outcomes(done: &Finished, word: &str) -> usize {
    let said: Value = serde_json::from_str(done.stdout.lines().next().unwrap_or("null")).unwrap_or_default();
    said["documents"].as_array().map_or(0, |all| all.iter().filter(|d| d["outcome"] == word).count())
}

/// The revision that runs on the device, by the device's own word.
pub(crate) fn running(device: &Device) -> Option<u64> {
    let told = device.cli(&["status", "--output", "json"]).unwrap().json().unwrap();
    let all = told["deployments"].as_array().cloned().unwrap_or_default();
    let phase = |p: &Value| matches!(p["phase"].as_str(), Some("running" | "healthy"));
    all.iter().find(|p| phase(p)).and_then(|p| p["sequence"].as_u64().or(p["revision"]["sequence"].as_u64()))
}

pub(crate) fn wait_runs(fleet: &Fleet, sequence: u64) {
    let device = &fleet.lab.devices[0];
    wait_until("the revision to run", LONG, || Ok((running(device) == Some(sequence)).then_some(())))
        .unwrap_or_else(|e| {
            let told = device.cli(&["status", "--output", "json"]).unwrap().stdout;
            panic!("{e:#}\n{told}\n{}", fleet.outputs())
        });
}

pub(crate) fn bundle(fleet: &Fleet, name: &str) -> PathBuf {
    let path = fleet.dir.path().join(name);
    fleet.shoal(&["bundle", "create", "app", "--out", utf8(&path)]);
    path
}

#[test]
fn a_device_without_any_network_deploys_updates_and_refuses_what_is_older_from_a_stick() {
    if needs_root("a_device_without_any_network_deploys_updates_and_refuses_what_is_older_from_a_stick") {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let first = bundle(&fleet, "first.shoal");
    let folder = fleet.dir.path().join("factory");
    fleet.shoal(&["provision", "--count", "1", "--labels", "site=here", "-o", utf8(&folder)]);
    fleet.apply(&manifest("app", "sleeps:1", "Always", "env: [{name: TURN, value: \"2\"}]"));
    // From here on there is nobody to ask, for the operator neither.
    fleet.lab.controller.stop();
    let second = bundle(&fleet, "second.shoal");
    let inspected = fleet.shoal(&["bundle", "inspect", utf8(&second)]);
    assert!(inspected.contains("deployment app 2") && inspected.contains("sleeps:1"), "{inspected}");

    let mut device = fleet.lab.prepare_device().unwrap();
    device.start_guard().unwrap();
    let unknown = sideload(&device, &first);
    assert_eq!(unknown.code, Some(2), "it is of no fleet yet: {}", unknown.stderr);
    device.cli(&["enroll", "--offline", utf8(&folder.join("join-0001.shoal"))]).unwrap().ok().unwrap();
    device.start_agent().unwrap();
    fleet.lab.devices.push(device);
    let device = &fleet.lab.devices[0];

    // F5: half a stick is no stick.
    let bytes = std::fs::read(&first).unwrap();
    for part in [512, bytes.len() / 2, bytes.len() - 2048] {
        let half = fleet.file("half.shoal", &bytes[..part]);
        let done = sideload(device, &half);
        assert_eq!(done.code, Some(3), "{part} bytes: {}{}", done.stdout, done.stderr);
    }
    // M2 by stick: another byte in a blob.
    let unpacked = fleet.dir.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let tar = |args: &[&str]| Finished::of(Command::new("tar").args(args)).unwrap().ok().unwrap();
    tar(&["-xf", utf8(&first), "-C", utf8(&unpacked)]);
    let module = std::fs::read_dir(unpacked.join("blobs/sha256")).unwrap().flatten().map(|e| e.path());
    let module = module.into_iter().find(|p| std::fs::read(p).unwrap().starts_with(b"\0asm")).unwrap();
    let good = std::fs::read(&module).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&module, bad).unwrap();
    let done = sideload(device, &unpacked);
    assert_eq!(done.code, Some(3), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("digest_mismatch"), "{}", done.stderr);
    assert_eq!(running(device), None, "nothing of what was refused runs");

    // The same folder put right is a bundle as good as the file.
    std::fs::write(&module, good).unwrap();
    let done = sideload(device, &unpacked);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    assert_eq!(outcomes(&done, "accepted"), 2, "{}", done.stdout);
    wait_runs(&fleet, 1);
    let again = sideload(device, &first);
    assert_eq!((again.code, outcomes(&again, "accepted")), (Some(0), 0), "{}{}", again.stdout, again.stderr);

    // An update, and a stick from before it.
    sideload(device, &second).ok().unwrap();
    wait_runs(&fleet, 2);
    let old = sideload(device, &first);
    assert_eq!(old.code, Some(3), "{}{}", old.stdout, old.stderr);
    assert!(old.stderr.contains("rollback"), "{}", old.stderr);
    assert_eq!(running(device), Some(2));
    // Off and on again, still alone.
    let device = &mut fleet.lab.devices[0];
    device.power_cut();
    device.start_guard().unwrap();
    device.start_agent().unwrap();
    wait_runs(&fleet, 2);
    fleet.lab.stop().unwrap();
}
