//! F1: `kill -9` at every named point of agent and guard, again and again, while deployments keep coming.
//!
//! A short form of at least 100 kills; with `SHOAL_FULL` 1,000. After each: no version that was held is forgotten.
//! Every so often the device is left in peace, and has to converge on the newest revision with one container.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::wait_until;
use std::time::Duration;

const PEACE_EVERY: u32 = 20;

struct Storm {
    fleet: Fleet,
    sequence: u64,
    snapshot: u64,
    kills: u32,
}

impl Storm {
    fn begin() -> Self {
        let fleet = fleet_with(1);
        fleet.import_wat("sleeps:1", SLEEPS);
        let mut storm = Self { fleet, sequence: 0, snapshot: 0, kills: 0 };
        storm.next_revision();
        storm.peace();
        storm
    }

    /// Signs the next revision; each differs in its environment.
    fn next_revision(&mut self) {
        self.sequence += 1;
        let env = format!("env:\n  - name: REVISION\n    value: '{}'", self.sequence);
        self.fleet.apply(&manifest("app", "sleeps:1", "Always", &env));
    }

    fn status(&self) -> Value {
        let mut last = String::new();
        let status = wait_until("the device's status", LONG, || {
            let done = self.fleet.lab.devices[0].cli(&["status", "--output", "json"])?;
            last = format!("{}{}", done.stdout, done.stderr);
            done.json().map(Some)
        });
        status.unwrap_or_else(|e| panic!("{e:#}\n{last}\n{}", self.fleet.outputs()))
    }

    /// What holds after every kill: nothing that was accepted is forgotten.
    fn nothing_fell(&mut self, after: &str) {
        let status = self.status();
        let held = status["snapshot"]["version"].as_u64().unwrap_or(0);
        assert!(
            held >= self.snapshot,
            "after {after}: snapshot {held}, it was {}\n{status:#}",
            self.snapshot
        );
        self.snapshot = held;
    }

    /// Nothing is killed any more: the newest revision runs, once, and is the last-good that a cold start would find.
    fn peace(&mut self) {
        let device = &mut self.fleet.lab.devices[0];
        device.env.clear();
        device.kill_agent();
        device.start_agent().unwrap();
        let sequence = self.sequence;
        let mut last = Value::Null;
        wait_until(&format!("revision {sequence} to run"), LONG, || {
            last = self.status();
            let all = last["deployments"].as_array().cloned().unwrap_or_default();
            let of_newest = |p: &&Value| p["revision"]["sequence"] == sequence && runs(p);
            Ok(all.iter().any(|p| of_newest(&p)).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\nafter {} kills\n{last:#}\n{}", self.kills, self.fleet.outputs()));
        // The status is the agent's; what supervise has may be a moment behind it, but never two.
        let mut ps = String::new();
        wait_until("one container to run", LONG, || {
            ps = self.fleet.lab.devices[0].cli(&["ps", "--output", "json"])?.ok()?;
            let count = ps.matches("\"pid\"").count();
            assert!(count <= 1, "one container runs:\n{ps}\n{}", self.fleet.outputs());
            Ok((count == 1).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{ps}\n{}", self.fleet.outputs()));
    }
}

fn full_or(short: u32) -> u32 {
    if std::env::var_os("SHOAL_FULL").is_some() { 1000 } else { short }
}

#[test]
fn f1_the_agent_killed_at_every_point_loses_nothing() {
    if needs_root("f1_the_agent_killed_at_every_point_loses_nothing") {
        return;
    }
    let mut storm = Storm::begin();
    let listed = storm.fleet.lab.devices[0].points("shoal-agent").unwrap();
    // Enrolments, sticks and changes of the software have tests of their own; nothing of them happens here.
    let elsewhere = ["enroll", "sideload", "software"];
    let is_here = |p: &&String| !elsewhere.iter().any(|e| p.starts_with(e));
    let points: Vec<&String> = listed.iter().filter(is_here).collect();
    assert!(points.len() >= 10, "{listed:?}");
    let mut reached = std::collections::BTreeSet::new();
    for n in 0..full_or(100) {
        let point = points[n as usize % points.len()];
        let device = &mut storm.fleet.lab.devices[0];
        device.kill_agent();
        // Early passes happen while the agent starts, later ones while it works.
        let nth = 1 + n / u32::try_from(points.len()).unwrap() % 3;
        device.env = vec![("SHOAL_KILL_AT".into(), format!("{point}@{nth}"))];
        device.start_agent().unwrap();
        // The command line has the same points; only the daemon is meant.
        device.env.clear();
        storm.next_revision();
        let agent = storm.fleet.lab.devices[0].agent().unwrap();
        let died = wait_until("the agent's end", Duration::from_millis(1500), || agent.ended());
        if died.is_ok() {
            reached.insert(point.clone());
        }
        // Not every point is passed every time; then the kill comes from outside.
        storm.fleet.lab.devices[0].kill_agent();
        storm.kills += 1;
        storm.nothing_fell(point);
        if n % PEACE_EVERY == PEACE_EVERY - 1 {
            storm.peace();
        }
    }
    storm.peace();
    let never: Vec<_> = points.iter().filter(|p| !reached.contains(**p)).collect();
    assert!(reached.len() * 2 >= points.len(), "most points were never passed: {never:?}");
}

#[test]
fn f1_guard_killed_at_every_point_loses_nothing() {
    if needs_root("f1_guard_killed_at_every_point_loses_nothing") {
        return;
    }
    let mut storm = Storm::begin();
    let listed = storm.fleet.lab.devices[0].points("shoal-guard").unwrap();
    let elsewhere = ["admit::enroll", "supervise::release"];
    let is_here = |p: &&String| !elsewhere.iter().any(|e| p.starts_with(e));
    let points: Vec<&String> = listed.iter().filter(is_here).collect();
    assert!(points.len() >= 5, "{listed:?}");
    let once = storm.fleet.dir.path().join("once");
    std::fs::create_dir(&once).unwrap();
    std::fs::set_permissions(&once, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let once = once.join("token");
    let mut reached = std::collections::BTreeSet::new();
    for n in 0..full_or(21) {
        let point = points[n as usize % points.len()];
        std::fs::write(&once, "").unwrap();
        let device = &mut storm.fleet.lab.devices[0];
        device.guard().unwrap().kill();
        device.env = vec![
            ("SHOAL_GUARD_KILL_AT".into(), format!("{point}@1")),
            ("SHOAL_GUARD_KILL_ONCE".into(), utf8(&once).into()),
        ];
        device.start_guard().unwrap();
        storm.next_revision();
        // Whoever took the token is dead.
        if wait_until("the kill", Duration::from_secs(3), || Ok((!once.exists()).then_some(()))).is_ok() {
            reached.insert(point.clone());
        }
        let device = &mut storm.fleet.lab.devices[0];
        device.guard().unwrap().kill();
        device.env.clear();
        device.start_guard().unwrap();
        storm.kills += 2;
        storm.nothing_fell(point);
        if n % 7 == 6 {
            storm.peace();
        }
    }
    storm.peace();
    let never: Vec<_> = points.iter().filter(|p| !reached.contains(**p)).collect();
    assert!(reached.len() * 2 >= points.len(), "most points were never passed: {never:?}");
}
