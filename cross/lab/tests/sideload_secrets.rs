//! A secret for a device that never saw a controller: its record goes to the operator by hand, and the grant comes by stick.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use crate::documents::{SHOWS, with_secret};
use crate::sideload::sideload;
use serde_json::Value;
use shoal_lab::wait_until;

#[test]
fn s25_a_secret_comes_by_stick_to_the_device_whose_grant_is_in_it_and_others_wait() {
    if needs_root("s25_a_secret_comes_by_stick_to_the_device_whose_grant_is_in_it_and_others_wait") {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("shows:1", SHOWS);
    let from = format!("token={}", utf8(&fleet.file("token", "a-value-for-two")));
    fleet.shoal(&["secret", "create", "password", "--for", "app", "--from-file", &from]);
    fleet.apply(&with_secret("app"));
    let folder = fleet.dir.path().join("factory");
    fleet.shoal(&["provision", "--count", "2", "--labels", "site=here", "-o", utf8(&folder)]);
    fleet.lab.controller.stop();
    let mut requests = Vec::new();
    for n in 1..=2 {
        let mut device = fleet.lab.prepare_device().unwrap();
        device.start_guard().unwrap();
        let (join, request) =
            (folder.join(format!("join-000{n}.shoal")), fleet.dir.path().join(format!("{n}.enrollment")));
        device.cli(&["enroll", "--offline", "--request", utf8(&request), utf8(&join)]).unwrap().ok().unwrap();
        device.start_agent().unwrap();
        fleet.lab.devices.push(device);
        requests.push(request);
    }
    // Without anybody's record nothing can be sealed to anybody.
    let path = fleet.dir.path().join("app.shoal");
    let made = fleet.try_shoal(&["bundle", "create", "--out", utf8(&path)]);
    assert_eq!(made.code, Some(0), "{}{}", made.stdout, made.stderr);
    assert!(made.stderr.contains("no device is known here"), "{}", made.stderr);
    sideload(&fleet.lab.devices[0], &path).ok().unwrap();
    let mut last = Value::Null;
    let mut waits = |fleet: &Fleet, n: usize| {
        wait_until("the wait for the secret", LONG, || {
            last = fleet.lab.devices[n].cli(&["status", "--output", "json"])?.json()?;
            Ok((last["deployments"][0]["reason"] == "waiting_secret").then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()));
    };
    waits(&fleet, 0);

    // The record of the first one comes by hand; a changed one is refused.
    let good = std::fs::read(&requests[0]).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 3;
    bad[middle] ^= 1;
    let bad = fleet.file("bad.enrollment", bad);
    assert_eq!(fleet.try_shoal(&["receipt", "import", utf8(&bad)]).code, Some(3));
    fleet.shoal(&["receipt", "import", utf8(&requests[0])]);
    let made = fleet.shoal(&["bundle", "create", "--out", utf8(&path)]);
    assert_eq!(made.matches("grant password 1 for").count(), 1, "{made}");
    for n in 0..2 {
        sideload(&fleet.lab.devices[n], &path).ok().unwrap();
    }
    let mut printed = String::new();
    wait_until("the secret in the container", LONG, || {
        printed = fleet.lab.devices[0].cli(&["logs", "app"])?.stdout;
        Ok(printed.contains("TOKEN=a-value-for-two").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{printed}\n{}", fleet.outputs()));
    // The other's is not in it.
    waits(&fleet, 1);
    fleet.lab.stop().unwrap();
}
