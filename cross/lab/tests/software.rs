//! The software of a device itself, changed by a signed release: containers run on, what does not work is taken back by the
//! device, and nothing older comes after what proved itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use crate::sideload::{sideload, wait_runs};
use serde_json::Value;
use shoal_lab::{Finished, wait_until};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A fleet of one device whose root names a key for releases.
fn releasing() -> Fleet {
    let mut fleet = fleet();
    fleet.lab.add_device("site=here").unwrap();
    may_release(&fleet);
    fleet.wait_online();
    fleet
}

pub(crate) fn may_release(fleet: &Fleet) {
    fleet.shoal(&["keys", "new", "releaser", "--plain"]);
    fleet.shoal(&["trust", "grant", "releaser", "--role", "release", "--yes"]);
}

/// A folder with the programs of this build, smaller, and the engine that runs.
pub(crate) fn programs(fleet: &Fleet, name: &str) -> PathBuf {
    let folder = fleet.dir.path().join(name);
    std::fs::create_dir_all(folder.join("engine")).unwrap();
    let bins = binaries().dir().to_path_buf();
    for program in ["shoal-agent", "shoal-guard", "shoal-runner"] {
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(folder.join(program)).arg(bins.join(program));
        Finished::of(&mut strip).unwrap().ok().unwrap();
    }
    symlink(bins.join("engine/run"), folder.join("engine/run")).unwrap();
    folder
}

pub(crate) fn replace(folder: &Path, program: &str, by: &str) {
    let path = folder.join(program);
    std::fs::copy(by, &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Packs a folder as this version and publishes it for all devices.
pub(crate) fn publish(fleet: &Fleet, folder: &Path, version: &str, deadline: &str) {
    publish_with(fleet, folder, version, deadline, &[]);
}

fn publish_with(fleet: &Fleet, folder: &Path, version: &str, deadline: &str, more: &[&str]) {
    let file = fleet.dir.path().join(format!("release-{version}.oci.tar"));
    let arch = std::env::consts::ARCH;
    let pack =
        ["release", "pack", utf8(folder), "--software-version", version, "--arch", arch, "-o", utf8(&file)];
    fleet.shoal(&pack);
    let build = ["release", "publish", "agent", "--build", utf8(&file), "--selector", "site=here"];
    fleet.shoal(&[&build[..], &["--deadline", deadline, "--yes"], more].concat());
}

fn device(fleet: &Fleet) -> Value {
    fleet.lab.operator.json(&["get", "devices"]).unwrap()["devices"][0].clone()
}

pub(crate) fn has(device: &Value, condition: &str) -> bool {
    device["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c == condition))
}

/// Waits for the device to report so; `tend` does what a service manager would meanwhile.
pub(crate) fn wait_device(
    fleet: &mut Fleet,
    what: &str,
    tend: impl Fn(&mut Fleet),
    good: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    let found = wait_until(what, LONG, || {
        tend(fleet);
        last = device(fleet);
        Ok(good(&last).then(|| last.clone()))
    });
    found.unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()))
}

/// Starts again what ended, as a service manager does.
pub(crate) fn restart_ended(fleet: &mut Fleet) {
    let device = &mut fleet.lab.devices[0];
    if device.guard().unwrap().ended().unwrap().is_some() {
        // One that ends before it is ready is started again the next time.
        let _ = device.start_guard();
    }
    if device.agent().unwrap().ended().unwrap().is_some() {
        device.start_agent().unwrap();
    }
}

fn guard_said(fleet: &Fleet, words: &str) -> bool {
    fleet.lab.devices[0].guard_output().contains(words)
}

pub(crate) fn runs_version(version: &'static str) -> impl Fn(&Value) -> bool {
    move |d| d["system"]["agent"] == version && d["state"] == "online"
}

pub(crate) fn started(pod: &Value) -> (Value, Value) {
    let c = &pod["containers"][0];
    (c["attempt"].clone(), c["started_at"].clone())
}

#[test]
fn s26_f6_a_release_changes_agent_and_guard_under_running_containers_and_nothing_older_follows() {
    if needs_root(
        "s26_f6_a_release_changes_agent_and_guard_under_running_containers_and_nothing_older_follows",
    ) {
        return;
    }
    let mut fleet = releasing();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let before = fleet.wait_running("app", 1).remove(0);
    let folder = programs(&fleet, "programs");
    publish(&fleet, &folder, "9.9.0", "2m");
    let proved =
        |d: &Value| runs_version("9.9.0")(d) && !has(d, "update_on_trial") && !has(d, "update_pending");
    wait_device(&mut fleet, "the new software to prove itself", |_| {}, proved);
    let root = fleet.lab.devices[0].root.clone();
    assert!(root.join("var/lib/shoal/releases/a/shoal-guard").is_file());
    let after = fleet.wait_running("app", 1).remove(0);
    assert_eq!(started(&before), started(&after), "the container ran on\n{}", fleet.outputs());
    let releases = fleet.lab.operator.json(&["get", "releases"]).unwrap();
    assert_eq!(
        (&releases["releases"][0]["changed"], &releases["releases"][0]["failed"]),
        (&1.into(), &0.into())
    );

    // New containers start with it, and the files beside those that run are used again for the next one.
    fleet.apply(&manifest("more", "sleeps:1", "Always", ""));
    fleet.wait_running("more", 1);
    publish(&fleet, &folder, "9.10.0", "2m");
    let proved = |d: &Value| runs_version("9.10.0")(d) && !has(d, "update_on_trial");
    wait_device(&mut fleet, "the next software to prove itself", |_| {}, proved);
    assert!(root.join("var/lib/shoal/releases/b/shoal-guard").is_file());

    // Older files under a higher revision are no way back.
    publish(&fleet, &folder, "9.9.5", "2m");
    wait_until("the older version to be refused", LONG, || {
        Ok((fleet.refusals(0, "agent_rollback") > 0).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    let now = device(&fleet);
    assert!(runs_version("9.10.0")(&now), "{now:#}");
    let after = fleet.wait_running("app", 1).remove(0);
    assert_eq!(started(&before), started(&after));

    // A cold start runs what proved itself: the installed guard hands over.
    fleet.lab.devices[0].power_cut();
    fleet.lab.devices[0].start_guard().unwrap();
    fleet.lab.devices[0].start_agent().unwrap();
    wait_device(&mut fleet, "the device after a power cut", |_| {}, runs_version("9.10.0"));
    fleet.wait_running("app", 1);
    fleet.lab.stop().unwrap();
}

#[test]
fn s26_a_release_that_does_not_work_is_taken_back_by_the_device_and_not_tried_again() {
    if needs_root("s26_a_release_that_does_not_work_is_taken_back_by_the_device_and_not_tried_again") {
        return;
    }
    let mut fleet = releasing();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let before = fleet.wait_running("app", 1).remove(0);
    let old = device(&fleet)["system"]["agent"].as_str().unwrap().to_owned();
    let is_back =
        |d: &Value| d["system"]["agent"] == old.as_str() && d["state"] == "online" && has(d, "update_failed");
    // One that cannot be executed is found before anything changes.
    let folder = programs(&fleet, "unspoken");
    replace(&folder, "shoal-agent", "/bin/false");
    publish(&fleet, &folder, "9.1.0", "20s");
    wait_device(&mut fleet, "the refusal to change", restart_ended, is_back);
    assert!(guard_said(&fleet, "its shoal-agent does not work here"), "{}", fleet.outputs());

    // An agent that says its version and then ends at once.
    let folder = programs(&fleet, "silent");
    replace(&folder, "shoal-agent", "/bin/true");
    publish(&fleet, &folder, "9.2.0", "8s");
    wait_until("the change to the silent agent", LONG, || {
        restart_ended(&mut fleet);
        Ok(guard_said(&fleet, "goes on as version 9.2.0").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    wait_device(&mut fleet, "the way back from it", restart_ended, is_back);
    assert!(guard_said(&fleet, "did not prove itself in time"), "{}", fleet.outputs());

    // A guard that ends at once gets three starts.
    let folder = programs(&fleet, "unguarded");
    replace(&folder, "shoal-guard", "/bin/true");
    publish(&fleet, &folder, "9.3.0", "10m");
    wait_until("the change to the guard that ends", LONG, || {
        restart_ended(&mut fleet);
        Ok(guard_said(&fleet, "goes on as version 9.3.0").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    wait_device(&mut fleet, "the way back from a guard that ends", restart_ended, is_back);

    let after = fleet.wait_running("app", 1).remove(0);
    assert_eq!(started(&before), started(&after), "the container ran on\n{}", fleet.outputs());
    // Nothing of it is tried again; one that works is.
    let folder = programs(&fleet, "good");
    publish(&fleet, &folder, "9.4.0", "2m");
    let proved =
        |d: &Value| runs_version("9.4.0")(d) && !has(d, "update_failed") && !has(d, "update_on_trial");
    wait_device(&mut fleet, "the software that works", restart_ended, proved);
    fleet.lab.stop().unwrap();
}

#[test]
fn s26_a_device_without_a_network_changes_its_software_from_a_stick() {
    if needs_root("s26_a_device_without_a_network_changes_its_software_from_a_stick") {
        return;
    }
    let mut fleet = fleet();
    may_release(&fleet);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let factory = fleet.dir.path().join("factory");
    fleet.shoal(&["provision", "--count", "1", "--labels", "site=here", "-o", utf8(&factory)]);
    fleet.lab.controller.stop();
    let folder = programs(&fleet, "programs");
    publish_with(&fleet, &folder, "9.9.0", "2m", &["--offline"]);
    let stick = fleet.dir.path().join("all.shoal");
    fleet.shoal(&["bundle", "create", "--offline", "--releases", "--out", utf8(&stick)]);

    let mut device = fleet.lab.prepare_device().unwrap();
    device.start_guard().unwrap();
    device.cli(&["enroll", "--offline", utf8(&factory.join("join-0001.shoal"))]).unwrap().ok().unwrap();
    device.start_agent().unwrap();
    fleet.lab.devices.push(device);
    sideload(&fleet.lab.devices[0], &stick).ok().unwrap();
    wait_runs(&fleet, 1);
    wait_until("the new software to prove itself", LONG, || {
        Ok(guard_said(&fleet, "version 9.9.0 proved itself").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    wait_runs(&fleet, 1);

    fleet.lab.controller.start_again().unwrap();
    fleet.shoal(&["trust", "push"]);
    let held = fleet.lab.operator.json(&["get", "releases"]).unwrap();
    assert_eq!(held["releases"][0]["version"], "9.9.0", "{held:#}");
    // The builds came with it: a device with a network changes to them.
    fleet.lab.add_device("site=here").unwrap();
    let second = fleet.lab.devices.len() - 1;
    wait_until("the second device's new software to prove itself", LONG, || {
        Ok(fleet.lab.devices[second].guard_output().contains("version 9.9.0 proved itself").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    fleet.lab.stop().unwrap();
}
