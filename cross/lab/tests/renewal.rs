//! A device's certificate ends, and the device does not: it is renewed by itself, unseen by what runs (B6, U3).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Device, wait_until};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds that a certificate lives here; renewed after 12 to 15 of them.
const LIFE: &str = "--device-certificate-life=20";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn status(device: &Device) -> Value {
    device.cli(&["status", "--output", "json"]).unwrap().json().unwrap()
}

/// What the device says of its certificate.
fn certificate(device: &Device) -> Value {
    status(device)["certificate"].clone()
}

fn has_condition(status: &Value, code: &str) -> bool {
    status["conditions"].as_array().unwrap().iter().any(|c| c == code)
}

/// The process ids of all containers, as the device itself lists them.
fn containers(device: &Device) -> Vec<u64> {
    let ps = device.cli(&["ps", "--output", "json"]).unwrap().json().unwrap();
    let mut pids = Vec::new();
    collect(&ps, &mut pids);
    pids
}

fn collect(value: &Value, found: &mut Vec<u64>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("pid").and_then(Value::as_u64).filter(|pid| *pid > 0));
            map.values().for_each(|v| collect(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| collect(v, found)),
        _ => {}
    }
}

/// Waits until the device's certificate is another one than `before`.
fn wait_renewed(fleet: &Fleet, before: &Value) -> Value {
    let mut last = Value::Null;
    wait_until("another certificate", LONG, || {
        last = certificate(&fleet.lab.devices[0]);
        Ok((last["serial"] != before["serial"]).then(|| last.clone()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()))
}

/// Waits until the clock is past the end of a certificate.
fn wait_ended(certificate: &Value) {
    let end = certificate["not_after"].as_u64().unwrap();
    wait_until("the certificate to end", LONG, || Ok((now() > end).then_some(()))).unwrap();
}

fn short_lived() -> Fleet {
    let mut fleet = controlled_by(&[LIFE]);
    fleet.lab.add_device("site=here").unwrap();
    fleet
}

#[test]
fn b6_a_certificate_is_renewed_by_itself_and_no_container_notices() {
    if needs_root("b6_a_certificate_is_renewed_by_itself_and_no_container_notices") {
        return;
    }
    let mut fleet = short_lived();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    let before = containers(&fleet.lab.devices[0]);
    assert_eq!(before.len(), 1);
    let key =
        std::fs::read(fleet.lab.devices[0].root.join("var/lib/shoal/agent/identity/device.key")).unwrap();
    let first = certificate(&fleet.lab.devices[0]);
    let renew_at = first["renew_at"].as_u64().unwrap();
    let (from, to) = (first["not_before"].as_u64().unwrap(), first["not_after"].as_u64().unwrap());
    assert!(renew_at >= from + (to - from) * 2 / 3 && renew_at < to, "{first:#}");
    let second = wait_renewed(&fleet, &first);
    wait_renewed(&fleet, &second);
    // The link uses it: the first one ended, and a controller that starts anew lets the device in.
    wait_ended(&second);
    fleet.lab.controller.stop();
    fleet.lab.controller.start_again().unwrap();
    fleet.wait_online();
    fleet.apply(&manifest("other", "sleeps:1", "Always", ""));
    fleet.wait_running("other", 1);
    let device = &fleet.lab.devices[0];
    let after = containers(device);
    assert!(before.iter().all(|pid| after.contains(pid)), "{before:?} is not all in {after:?}");
    let attempts = fleet.pods("app")[0]["containers"][0]["attempt"].clone();
    assert_eq!(attempts, 1);
    let same = std::fs::read(device.root.join("var/lib/shoal/agent/identity/device.key")).unwrap();
    assert_eq!(key, same, "the identity key is for life");
}

#[test]
fn u3_a_device_that_was_off_past_the_end_of_its_certificate_comes_back() {
    if needs_root("u3_a_device_that_was_off_past_the_end_of_its_certificate_comes_back") {
        return;
    }
    let mut fleet = short_lived();
    fleet.wait_online();
    fleet.lab.devices[0].kill_agent();
    let before = certificate(&fleet.lab.devices[0]);
    wait_ended(&before);
    let ended = status(&fleet.lab.devices[0]);
    assert!(has_condition(&ended, "certificate_expired"), "{ended:#}");
    assert_eq!(ended["certificate"]["expired"], true);
    fleet.lab.devices[0].start_agent().unwrap();
    wait_renewed(&fleet, &before);
    fleet.wait_online();
    let good = status(&fleet.lab.devices[0]);
    assert!(!has_condition(&good, "certificate_expired"), "{good:#}");
}

#[test]
fn u3_a_device_whose_clock_says_1970_renews_when_the_controller_calls_its_certificate_expired() {
    if needs_root(
        "u3_a_device_whose_clock_says_1970_renews_when_the_controller_calls_its_certificate_expired",
    ) {
        return;
    }
    let mut fleet = controlled_by(&[LIFE]);
    let behind = ("SHOAL_CLOCK_BEHIND".to_owned(), "4000000000".to_owned());
    fleet
        .lab
        .add_device_with("site=here", |d| {
            d.env.push(behind);
            Ok(())
        })
        .unwrap();
    fleet.wait_online();
    let before = certificate(&fleet.lab.devices[0]);
    fleet.lab.controller.stop();
    wait_ended(&before);
    let told = status(&fleet.lab.devices[0]);
    assert!(!has_condition(&told, "certificate_expired"), "this device cannot know: {told:#}");
    fleet.lab.controller.start_again().unwrap();
    wait_renewed(&fleet, &before);
    fleet.wait_online();
}

#[test]
fn b6_a_renewal_that_fails_is_told_tried_again_and_forgotten_when_it_works() {
    if needs_root("b6_a_renewal_that_fails_is_told_tried_again_and_forgotten_when_it_works") {
        return;
    }
    let mut fleet = short_lived();
    fleet.wait_online();
    let before = certificate(&fleet.lab.devices[0]);
    fleet.lab.controller.stop();
    let mut told = Value::Null;
    wait_until("a failed renewal to be told", LONG, || {
        told = status(&fleet.lab.devices[0]);
        Ok(has_condition(&told, "certificate_renewal_failed").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{told:#}\n{}", fleet.outputs()));
    let failing = &told["certificate"]["failing"];
    assert!(failing["failures"].as_u64() >= Some(1) && failing["next"].as_u64() >= failing["last"].as_u64());
    let shown = fleet.lab.devices[0].cli(&["status"]).unwrap().stdout;
    assert!(shown.contains("renewal") && shown.contains("failed"), "{shown}");
    fleet.lab.controller.start_again().unwrap();
    wait_renewed(&fleet, &before);
    wait_until("nothing to be told any more", LONG, || {
        told = status(&fleet.lab.devices[0]);
        Ok((!has_condition(&told, "certificate_renewal_failed")).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{told:#}\n{}", fleet.outputs()));
}

#[test]
fn u3_a_power_cut_between_proof_and_keeping_loses_neither_certificate_nor_key() {
    if needs_root("u3_a_power_cut_between_proof_and_keeping_loses_neither_certificate_nor_key") {
        return;
    }
    let mut fleet = short_lived();
    let device = &mut fleet.lab.devices[0];
    device.kill_agent();
    let before = certificate(device);
    for point in ["renewed", "file_written", "file_renamed"] {
        let present = certificate(&fleet.lab.devices[0]);
        let due = present["renew_at"].as_u64().unwrap();
        wait_until("the renewal to be due", LONG, || Ok((now() >= due).then_some(()))).unwrap();
        let device = &mut fleet.lab.devices[0];
        device.env = vec![("SHOAL_KILL_AT".to_owned(), point.to_owned())];
        device.start_agent().unwrap();
        wait_until("the power cut", LONG, || device.agent()?.ended())
            .unwrap_or_else(|e| panic!("{point}: {e:#}\n{}", fleet.outputs()));
        let device = &fleet.lab.devices[0];
        let whole = certificate(device);
        assert!(whole["serial"].is_string(), "{point}: {whole:#}");
        assert_eq!(whole["serial"] == present["serial"], point != "file_renamed", "{point}");
    }
    let device = &mut fleet.lab.devices[0];
    device.env.clear();
    device.start_agent().unwrap();
    fleet.wait_online();
    assert_ne!(certificate(&fleet.lab.devices[0])["serial"], before["serial"]);
}
