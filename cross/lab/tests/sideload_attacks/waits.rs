//! What is signed well and does not run all the same: S13, images that hold other bytes than were signed, and S18, what it
//! requires is not here.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use super::Good;
use crate::common::*;
use crate::sideload::sideload;
use crate::sideload_faults::{offline_device, status};
use serde_json::Value;
use shoal_lab::wait_until;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{Deployment, Entry, File, Image, Require, Revision, Snapshot};
use std::path::PathBuf;

/// What the device says of a revision.
fn told(fleet: &Fleet, name: &str, sequence: u64) -> Value {
    let all = status(&fleet.lab.devices[0])["deployments"].clone();
    let is = |p: &&Value| p["deployment"] == name && p["revision"]["sequence"] == sequence;
    all.as_array().and_then(|all| all.iter().find(is).cloned()).unwrap_or_default()
}

fn wait_told(fleet: &Fleet, (name, sequence): (&str, u64), what: &str, good: impl Fn(&Value) -> bool) {
    let mut last = Value::Null;
    wait_until(&format!("{name} {sequence}: {what}"), LONG, || {
        last = told(fleet, name, sequence);
        Ok(good(&last).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{:#}\n{}", status(&fleet.lab.devices[0]), fleet.outputs()));
}

fn is_healthy(p: &Value) -> bool {
    p["phase"] == "healthy"
}

/// A revision of what another one requires, and how it is listed.
fn base(good: &Good, sequence: u64, image: &Image) -> (impl FnOnce(&mut Snapshot), Vec<u8>) {
    let name: Name = "base".parse().unwrap();
    let mut d = Deployment { name: name.clone(), sequence, requires: vec![], ..good.deployment() };
    d.template.containers[0].image = image.clone();
    let (envelope, digest) = seal_document(&d, &[&good.deployment]).unwrap();
    let list = move |s: &mut Snapshot| {
        s.entries.retain(|e| e.name != name);
        let app = s.entries.iter().find(|e| e.name.as_str() == "app").unwrap().clone();
        s.entries.push(Entry { name, newest: Revision { sequence, digest }, stable: None, ..app });
        s.entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    };
    (list, envelope)
}

#[test]
fn s13_s18_by_stick_other_bytes_than_signed_never_run_and_what_it_requires_comes_first() {
    if needs_root("s13_s18_by_stick_other_bytes_than_signed_never_run_and_what_it_requires_comes_first") {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.import_wat("other:1", &exits_with(3));
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.apply(&manifest("other", "other:1", "Always", "").replace("site: here", "site: there"));
    offline_device(&mut fleet);
    let path = fleet.dir.path().join("current.shoal");
    fleet.shoal(&["bundle", "create", "--out", utf8(&path)]);
    let take = |path: &PathBuf| sideload(&fleet.lab.devices[0], path).ok().unwrap();
    take(&path);
    wait_told(&fleet, ("app", 1), "health", is_healthy);
    let mut good = Good::read(&fleet, &path);
    let image = |good: &Good, name: &str| good.deployment_of(name).template.containers[0].image.clone();
    let (own, other) = (image(&good, "app"), image(&good, "other"));

    // Signed well, and still not what the image holds.
    let module =
        Image { module: File { path: own.module.path.clone(), ..other.module.clone() }, ..own.clone() };
    // Bytes that are here already would run, whatever image they were to come in.
    let elsewhere = File { digest: Digest::of(b"elsewhere"), ..own.module.clone() };
    let whole = Image {
        manifest: other.manifest,
        manifest_size: other.manifest_size,
        module: elsewhere,
        ..own.clone()
    };
    let extra = File { path: "/data".into(), digest: Digest::of(b"x"), ..own.module.clone() };
    let file = Image { files: vec![extra], ..own.clone() };
    for (n, (name, image)) in [("module", module), ("image", whole), ("file", file)].into_iter().enumerate() {
        let path = good
            .bundle(&format!("s13-another-{name}"), &good.next(|d| d.template.containers[0].image = image));
        let beforehand = fleet.try_shoal(&["bundle", "verify", utf8(&path), "--labels", "site=here"]);
        assert_eq!(beforehand.code, Some(3), "{name}: {}{}", beforehand.stdout, beforehand.stderr);
        assert!(beforehand.stderr.contains("digest_mismatch"), "{name}: {}", beforehand.stderr);
        take(&path);
        let next = ("app", 2 + n as u64);
        wait_told(&fleet, next, "the refusal of its bytes", |p| p["reason"] == "digest_mismatch");
        let first = told(&fleet, "app", 1);
        assert!(is_healthy(&first), "{name}: what was good runs on: {first:#}");
        good = Good::read(&fleet, &path);
    }

    // It requires a revision that comes later, by the next stick.
    let mut app = good.deployment();
    app.sequence += 1;
    app.template.containers[0].image = own.clone();
    app.requires = vec![Require { name: "base".parse().unwrap(), sequence: 2 }];
    let (envelope, digest) = seal_document(&app, &[&good.deployment]).unwrap();
    let newest = Revision { sequence: app.sequence, digest };
    let (add_base, older) = base(&good, 1, &own);
    let path = good.bundle("s18-waits", &[good.listing(newest, add_base), envelope, older]);
    take(&path);
    let waiting = ("app", app.sequence);
    wait_told(&fleet, waiting, "the wait for what it requires", |p| {
        p["phase"] == "staged" && p["reason"] == "dependency_unmet"
    });
    wait_told(&fleet, ("base", 1), "the older one of what it requires", is_healthy);
    assert_eq!(told(&fleet, waiting.0, waiting.1)["reason"], "dependency_unmet");
    assert!(is_healthy(&told(&fleet, "app", 1)));
    let good = Good::read(&fleet, &path);
    let (add_base, newer) = base(&good, 2, &own);
    take(&good.bundle("s18-comes", &[good.snapshot_with(add_base), newer]));
    wait_told(&fleet, waiting, "its start", |p| matches!(p["phase"].as_str(), Some("running" | "healthy")));
    assert!(is_healthy(&told(&fleet, "base", 2)));
    fleet.lab.stop().unwrap();
}
