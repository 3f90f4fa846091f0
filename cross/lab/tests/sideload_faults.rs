//! F5 by stick: pulled out at every boundary, with blobs that are missing or too many, its reader killed at every point; and
//! who counts as standing at the device.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use crate::sideload::{bundle, outcomes, running, sideload, wait_runs};
use serde_json::Value;
use shoal_lab::{Device, Finished, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A device that only knows its join file, with its agent running.
pub(crate) fn offline_device(fleet: &mut Fleet) {
    let folder = fleet.dir.path().join("factory");
    fleet.shoal(&["provision", "--count", "1", "--labels", "site=here", "-o", utf8(&folder)]);
    // Nobody is there to be asked, and nothing comes but by stick.
    fleet.lab.controller.stop();
    let mut device = fleet.lab.prepare_device().unwrap();
    device.start_guard().unwrap();
    device.cli(&["enroll", "--offline", utf8(&folder.join("join-0001.shoal"))]).unwrap().ok().unwrap();
    device.start_agent().unwrap();
    fleet.lab.devices.push(device);
}

pub(crate) fn status(device: &Device) -> Value {
    device.cli(&["status", "--output", "json"]).unwrap().json().unwrap()
}

/// All of what admission holds that a stick could change: root, snapshot, the newest revision.
pub(crate) fn trust(device: &Device) -> (Value, Value, Option<Value>) {
    let s = status(device);
    let all = s["deployments"].as_array().cloned().unwrap_or_default();
    let newest = all.into_iter().map(|d| d["revision"].clone()).max_by_key(|r| r["sequence"].as_u64());
    (s["root_version"].clone(), s["snapshot"].clone(), newest)
}

fn unpack(bundle: &Path, into: &Path) {
    let _ = std::fs::remove_dir_all(into);
    std::fs::create_dir(into).unwrap();
    Finished::of(Command::new("tar").args(["-xf", utf8(bundle), "-C", utf8(into)])).unwrap().ok().unwrap();
}

/// Where the members of a tar end.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut all = Vec::new();
    let mut at = 0;
    while bytes[at..].iter().take(512).any(|b| *b != 0) {
        let size = std::str::from_utf8(&bytes[at + 124..at + 135]).unwrap().trim_matches(['\0', ' ']);
        let size = usize::from_str_radix(size, 8).unwrap();
        all.push(at + 512);
        at += 512 + size.div_ceil(512) * 512;
        all.push(at);
    }
    all
}

#[test]
fn f5_a_stick_pulled_out_anywhere_or_with_blobs_missing_changes_nothing_and_with_more_is_taken_whole() {
    if needs_root(
        "f5_a_stick_pulled_out_anywhere_or_with_blobs_missing_changes_nothing_and_with_more_is_taken_whole",
    ) {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    offline_device(&mut fleet);
    let whole = bundle(&fleet, "whole.shoal");
    let device = &fleet.lab.devices[0];
    let before = trust(device);

    let bytes = std::fs::read(&whole).unwrap();
    let ends = boundaries(&bytes);
    assert!(ends.len() > 12, "{ends:?}");
    // At the last boundary all is there but the tar's end mark, which says nothing.
    for end in &ends[..ends.len() - 1] {
        let half = fleet.file("half.shoal", &bytes[..*end]);
        let done = sideload(device, &half);
        assert_eq!(done.code, Some(3), "cut at {end}: {}{}", done.stdout, done.stderr);
        assert_eq!(trust(device), before, "cut at {end}: {}{}", done.stdout, done.stderr);
    }
    let folder = fleet.dir.path().join("unpacked");
    unpack(&whole, &folder);
    let blobs: Vec<PathBuf> =
        std::fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    let mut refused = 0;
    for blob in &blobs {
        let kept = std::fs::read(blob).unwrap();
        std::fs::remove_file(blob).unwrap();
        let done = sideload(device, &folder);
        assert_eq!(done.code, Some(3), "without {}: {}{}", blob.display(), done.stdout, done.stderr);
        assert_eq!(trust(device), before, "without {}: {}{}", blob.display(), done.stdout, done.stderr);
        refused += 1;
        std::fs::write(blob, kept).unwrap();
    }
    assert!(refused > 5);
    assert_eq!(trust(device), before, "nothing of all that was applied");

    // More than it names is nobody's business.
    std::fs::write(folder.join("blobs/sha256").join("0".repeat(64)), "stray").unwrap();
    std::fs::write(folder.join("README"), "stray").unwrap();
    let done = sideload(device, &folder);
    assert_eq!((done.code, outcomes(&done, "accepted")), (Some(0), 2), "{}{}", done.stdout, done.stderr);
    wait_runs(&fleet, 1);
    fleet.lab.stop().unwrap();
}

#[test]
fn f1_f5_a_sideload_killed_at_any_point_is_gone_on_with_by_the_next_one() {
    if needs_root("f1_f5_a_sideload_killed_at_any_point_is_gone_on_with_by_the_next_one") {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    offline_device(&mut fleet);
    let points = fleet.lab.devices[0].points("shoal-agent").unwrap();
    let points: Vec<&String> = points.iter().filter(|p| p.starts_with("sideload")).collect();
    assert!(points.len() >= 5, "{points:?}");
    let mut sequence = 1;
    for point in points {
        sequence += 1;
        let env = format!("env: [{{name: TURN, value: \"{sequence}\"}}]");
        let file = fleet.file("next.yaml", manifest("app", "sleeps:1", "Always", &env));
        let path = fleet.dir.path().join("next.shoal");
        fleet.shoal(&["bundle", "create", "-f", utf8(&file), "--yes", "--out", utf8(&path)]);
        let before = trust(&fleet.lab.devices[0]);
        fleet.lab.devices[0].env = vec![("SHOAL_KILL_AT".into(), point.clone())];
        let killed = sideload(&fleet.lab.devices[0], &path);
        fleet.lab.devices[0].env.clear();
        assert_ne!(killed.code, Some(0), "{point}: {}{}", killed.stdout, killed.stderr);
        let device = &fleet.lab.devices[0];
        if point != "sideload_document" {
            assert_eq!(trust(device), before, "{point}: killed before the first document");
        }
        sideload(device, &path).ok().unwrap_or_else(|e| panic!("{point}: {e:#}"));
        wait_runs(&fleet, sequence);
    }
    fleet.lab.stop().unwrap();
}

#[test]
fn a_stick_counts_as_the_activation_order_when_uid_0_gives_it_and_not_by_itself() {
    if needs_root("a_stick_counts_as_the_activation_order_when_uid_0_gives_it_and_not_by_itself") {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    let ordered = manifest("app", "sleeps:1", "Always", "")
        .replace("  template:", "  rollout: {activation: ordered}\n  template:");
    fleet.apply(&ordered);
    offline_device(&mut fleet);
    let path = bundle(&fleet, "app.shoal");
    let device = &fleet.lab.devices[0];
    // A folder with bundles at its top, as a stick is one; join files beside them are nobody's to take.
    let stick = path.parent().unwrap().join("stick");
    std::fs::create_dir(&stick).unwrap();
    std::fs::copy(&path, stick.join("app.shoal")).unwrap();
    std::fs::write(stick.join("join.shoal"), "-----BEGIN SHOAL JOIN FILE-----\n").unwrap();
    let done = device.cli(&["sideload", "--unattended", utf8(&stick), "--output", "json"]).unwrap();
    assert_eq!((done.code, outcomes(&done, "accepted")), (Some(0), 2), "{}{}", done.stdout, done.stderr);
    let mut last = Value::Null;
    wait_until("the wait for an order", LONG, || {
        last = status(device)["deployments"][0].clone();
        Ok((last["phase"] == "staged" && last["reason"] == "awaiting_activation").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()));
    assert_eq!(running(device), None);

    // The same stick, by the hand of uid 0: everything in it is known, and it is the order.
    let done = sideload(device, &stick);
    assert_eq!((done.code, outcomes(&done, "known") >= 2), (Some(0), true), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("\"activated\":1"), "{}", done.stdout);
    wait_runs(&fleet, 1);
    fleet.lab.stop().unwrap();
}

#[test]
fn a_stick_that_is_put_in_is_taken_by_the_packages_own_script_and_never_written_to() {
    let test = "a_stick_that_is_put_in_is_taken_by_the_packages_own_script_and_never_written_to";
    if needs_root(test) {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    offline_device(&mut fleet);
    let stick = fleet.dir.path().join("stick");
    std::fs::create_dir(&stick).unwrap();
    std::fs::rename(bundle(&fleet, "app.shoal"), stick.join("app.shoal")).unwrap();
    // A file system in a file, as a stick has one; filled without mounting it.
    let device = fleet.file("stick.img", "");
    std::fs::File::options().write(true).open(&device).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-d", utf8(&stick), utf8(&device)]).output();
    if !made.is_ok_and(|m| m.status.success()) {
        return skipped(test, "needs mkfs.ext4");
    }
    let before = std::fs::read(&device).unwrap();
    let work = fleet.dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::set_permissions(&work, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/package/scripts/stick.sh");
    // Its mounts are its own, as the unit has it.
    let done = Finished::of(
        Command::new("unshare")
            .args(["-m", "sh", utf8(&script), utf8(&device)])
            .current_dir(&work)
            .env("SHOAL_AGENT", fleet.lab.binary("shoal-agent"))
            .env("SHOAL_ROOT", &fleet.lab.devices[0].root),
    )
    .unwrap();
    if done.stderr.contains("loop device") {
        return skipped(test, "needs loop devices");
    }
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("2 documents accepted"), "{}", done.stdout);
    wait_runs(&fleet, 1);
    assert!(std::fs::read(&device).unwrap() == before, "not a byte of the stick changed");
    fleet.lab.stop().unwrap();
}
