//! How devices come in and leave: an operator's approval, a factory without a network, power cuts, decommissioning.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Device, Finished, wait_until};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn status(device: &Device) -> Value {
    device.cli(&["status", "--output", "json"]).unwrap().json().unwrap()
}

fn has_condition(status: &Value, code: &str) -> bool {
    status["conditions"].as_array().unwrap().iter().any(|c| c == code)
}

fn enroll(device: &Device, join: &Path) -> Value {
    let done = device.cli(&["enroll", utf8(join), "--name", "pump-7", "--output", "json"]).unwrap();
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    done.json().unwrap()
}

/// A device whose guard runs and that did not enrol.
fn fresh(fleet: &mut Fleet) {
    let mut device = fleet.lab.prepare_device().unwrap();
    device.start_guard().unwrap();
    fleet.lab.devices.push(device);
}

fn approving(fleet: &Fleet) -> PathBuf {
    let join = fleet.dir.path().join("approving.shoal");
    fleet.shoal(&["token", "create", "--approve", "--labels", "site=here", "-o", utf8(&join)]);
    join
}

fn refused(done: &Finished, code: &str) {
    assert_eq!(done.code, Some(3), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains(code), "{}", done.stderr);
}

#[test]
fn s25_a_device_waits_for_its_operators_signature_and_goes_on_by_itself_after_a_reboot() {
    if needs_root("s25_a_device_waits_for_its_operators_signature_and_goes_on_by_itself_after_a_reboot") {
        return;
    }
    let mut fleet = fleet();
    let join = approving(&fleet);
    fresh(&mut fleet);
    let device = &mut fleet.lab.devices[0];
    let asked = enroll(device, &join);
    assert_eq!(asked["state"], "waiting_approval");
    let fingerprint = asked["fingerprint"].as_str().unwrap().to_owned();
    let id = asked["device"].as_str().unwrap().to_owned();
    device.start_agent().unwrap();
    let told = status(device);
    assert_eq!(
        (&told["enrolled"], &told["enrollment"]["state"]),
        (&Value::Bool(false), &"waiting_approval".into())
    );
    assert_eq!(told["enrollment"]["fingerprint"], fingerprint.as_str());
    assert!(has_condition(&told, "waiting_approval"), "{told:#}");
    let shown = device.cli(&["status"]).unwrap().stdout;
    assert!(shown.contains("waiting_approval") && shown.contains(&fingerprint), "{shown}");

    // Asked again: the same keys, the same request.
    device.power_cut();
    device.start_guard().unwrap();
    assert_eq!(enroll(device, &join)["fingerprint"], fingerprint.as_str());
    let listed = fleet.lab.operator.json(&["get", "enrollments"]).unwrap();
    assert_eq!(listed["enrollments"].as_array().unwrap().len(), 1, "{listed:#}");
    assert_eq!(listed["enrollments"][0]["fingerprint"], fingerprint.as_str());
    assert!(fleet.shoal(&["get", "enrollments"]).contains("pump-7"));

    // Nothing is signed without the right fingerprint, or without anybody who could compare.
    let wrong = format!("sha256:{}", "0".repeat(64));
    refused(&fleet.try_shoal(&["approve", "enrollment", "pump-7", "--fingerprint", &wrong]), "enroll_proof");
    assert_eq!(fleet.try_shoal(&["approve", "enrollment", "pump-7"]).code, Some(2));
    assert_eq!(fleet.try_shoal(&["approve", "enrollment", "nobody"]).code, Some(2));

    // Approved while the device is off. It has what its operator signed as soon as its agent runs again.
    fleet.shoal(&["approve", "enrollment", &id[..8], "--fingerprint", &fingerprint]);
    fleet.lab.devices[0].start_agent().unwrap();
    fleet.wait_online();
    let told = status(&fleet.lab.devices[0]);
    assert_eq!((&told["enrolled"], &told["enrollment"]), (&Value::Bool(true), &Value::Null), "{told:#}");
    assert_eq!(told["labels"], serde_json::json!(["site=here"]));
    let again = enroll(&fleet.lab.devices[0], &join);
    assert_eq!((&again["state"], &again["already"]), (&"enrolled".into(), &Value::Bool(true)));
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
}

#[test]
fn s25_a_denied_device_says_so_and_is_approved_after_all() {
    if needs_root("s25_a_denied_device_says_so_and_is_approved_after_all") {
        return;
    }
    let mut fleet = fleet();
    let join = approving(&fleet);
    fresh(&mut fleet);
    let asked = enroll(&fleet.lab.devices[0], &join);
    fleet.shoal(&["deny", "enrollment", "pump-7"]);
    fleet.lab.devices[0].start_agent().unwrap();
    let mut told = Value::Null;
    wait_until("the denial to be told", LONG, || {
        told = status(&fleet.lab.devices[0]);
        Ok(has_condition(&told, "enrollment_refused").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{told:#}\n{}", fleet.outputs()));
    let why = told["enrollment"]["error"].as_str().unwrap();
    assert!(why.contains("enrollment_denied"), "{why}");
    fleet.shoal(&[
        "approve",
        "enrollment",
        "pump-7",
        "--fingerprint",
        asked["fingerprint"].as_str().unwrap(),
    ]);
    // It asks seldom now; whoever is there need not wait.
    fleet.lab.devices[0].kill_agent();
    fleet.lab.devices[0].start_agent().unwrap();
    fleet.wait_online();
}

#[test]
fn u7_a_factory_provisions_without_a_network_and_the_devices_come_in_later() {
    if needs_root("u7_a_factory_provisions_without_a_network_and_the_devices_come_in_later") {
        return;
    }
    let mut fleet = fleet();
    let folder = fleet.dir.path().join("factory");
    // Nobody answers: all of it is signed from the operator's own state.
    fleet.lab.controller.stop();
    let done = fleet.shoal(&["provision", "--count", "2", "--labels", "site=here", "-o", utf8(&folder)]);
    assert!(done.contains("2 join file(s)"), "{done}");
    let again = fleet.try_shoal(&["provision", "--count", "2", "-o", utf8(&folder)]);
    assert_eq!(again.code, Some(2), "a file is never written over: {}{}", again.stdout, again.stderr);
    let mut ids = Vec::new();
    for n in 0..2 {
        fresh(&mut fleet);
        let device = &mut fleet.lab.devices[n];
        let join = folder.join(format!("join-{:04}.shoal", n + 1));
        let done = device.cli(&["enroll", "--offline", utf8(&join), "--output", "json"]).unwrap();
        assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
        let said = done.json().unwrap();
        assert_eq!(said["state"], "waiting_controller");
        ids.push(said["device"].as_str().unwrap().to_owned());
        // The join file is no longer needed, and its labels count already.
        std::fs::remove_file(&join).unwrap();
        let told = status(device);
        assert_eq!(told["labels"], serde_json::json!(["site=here"]), "{told:#}");
        assert!(has_condition(&told, "waiting_controller"), "{told:#}");
        // Off, and at its place months later: still no controller.
        device.power_cut();
        device.start_guard().unwrap();
        device.start_agent().unwrap();
    }
    assert_ne!(ids[0], ids[1], "each made an identity of its own");
    wait_until("an agent that asks in vain", LONG, || {
        Ok(fleet.lab.devices[0].agent_output().contains("waiting_controller").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    fleet.lab.controller.start_again().unwrap();
    wait_until("both devices to be online", LONG, || {
        let all = fleet.lab.operator.json(&["get", "devices"])?;
        let online = |id: &String| {
            all["devices"]
                .as_array()
                .unwrap()
                .iter()
                .any(|d| d["id"] == id.as_str() && d["state"] == "online")
        };
        Ok(ids.iter().all(online).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
}

#[test]
fn u7_a_power_cut_at_any_point_of_an_enrolment_loses_neither_identity_nor_use() {
    if needs_root("u7_a_power_cut_at_any_point_of_an_enrolment_loses_neither_identity_nor_use") {
        return;
    }
    let mut fleet = fleet();
    fresh(&mut fleet);
    let points = fleet.lab.devices[0].points("shoal-agent").unwrap();
    let mut cuts: Vec<String> = points.iter().filter(|p| p.starts_with("enroll")).cloned().collect();
    assert!(cuts.len() >= 6, "{points:?}");
    for n in 1..=4 {
        cuts.extend([format!("file_written@{n}"), format!("file_renamed@{n}")]);
    }
    // A use each: whoever lost one to a cut could not come in.
    for (n, cut) in cuts.iter().enumerate() {
        if n > 0 {
            fleet.lab.devices.clear();
            fresh_at(&mut fleet, n);
        }
        let join = fleet.dir.path().join(format!("cut-{n}.shoal"));
        fleet.shoal(&["token", "create", "--uses", "1", "-o", utf8(&join)]);
        let device = &mut fleet.lab.devices[0];
        device.env = vec![("SHOAL_KILL_AT".to_owned(), cut.clone())];
        let done = device.cli(&["enroll", utf8(&join)]).unwrap();
        assert_ne!(done.code, Some(0), "{cut} was never passed: {}", done.stdout);
        device.env.clear();
        device.power_cut();
        device.start_guard().unwrap();
        let key = device.root.join("var/lib/shoal/agent/identity/device.key");
        let before = std::fs::read(&key).ok();
        let said = enroll(device, &join);
        assert_eq!(said["state"], "enrolled", "{cut}");
        let after = std::fs::read(&key).unwrap();
        assert!(before.is_none_or(|b| b == after), "{cut}: the identity stays");
        assert_eq!(status(device)["enrolled"], true, "{cut}");
        device.stop().unwrap();
    }
}

fn fresh_at(fleet: &mut Fleet, n: usize) {
    let dir = fleet.dir.path().join(format!("cut-device-{n}"));
    let bins = binaries();
    let tag = format!("{}c{n}", std::process::id());
    let mut device = Device::prepare(&bins, &dir, &tag, 0).unwrap();
    device.start_guard().unwrap();
    fleet.lab.devices.push(device);
}

#[test]
fn b6_a_decommissioned_device_stops_is_dropped_within_seconds_and_gets_nothing_more() {
    if needs_root("b6_a_decommissioned_device_stops_is_dropped_within_seconds_and_gets_nothing_more") {
        return;
    }
    let mut fleet = controlled_by(&["--device-certificate-life=20"]);
    fleet.lab.add_device("site=here").unwrap();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    let id = status(&fleet.lab.devices[0])["device"].as_str().unwrap().to_owned();
    let unsure = fleet.try_shoal(&["decommission", &id]);
    assert_eq!(unsure.code, Some(2), "nobody said yes: {}{}", unsure.stdout, unsure.stderr);
    let done = fleet.lab.operator.json(&["decommission", &id, "--yes"]).unwrap();
    assert_eq!((&done["device"], &done["told"]), (&id.as_str().into(), &Value::Bool(true)), "{done:#}");
    wait_until("the broker to drop it", Duration::from_secs(10), || {
        Ok(fleet.lab.devices[0].agent_output().contains("not connected to the controller").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    let mut told = Value::Null;
    wait_until("its containers to end", LONG, || {
        let ps = fleet.lab.devices[0].cli(&["ps", "--output", "json"])?.ok()?;
        Ok((!ps.contains("\"pid\"")).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    wait_until("the refusal of its renewal to be told", LONG, || {
        told = status(&fleet.lab.devices[0]);
        let why = told["certificate"]["failing"]["error"].as_str().unwrap_or_default().to_owned();
        Ok(why.contains("revoked_key").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{told:#}\n{}", fleet.outputs()));
    let devices = fleet.lab.operator.json(&["get", "devices"]).unwrap();
    assert_eq!(devices["devices"][0]["state"], "revoked");
    // Once more changes nothing.
    fleet.shoal(&["decommission", &id, "--yes"]);
}
