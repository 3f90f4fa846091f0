//! B5: the controller is in a thief's hands, with its store, its keys and its place at the broker. Everything that the protocol can
//! express is sent to a real device, and everything else that a controller serves is exchanged. What may come of it is to wait, and
//! the five verbs of an order; nothing runs, stops or is read beyond that.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use serde_json::Value;
use shoal_lab::{Device, Finished, wait_until};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// One more message that every try ends with: once it is counted, all before it was heard.
const MARK: &str = "malformed";

fn status(device: &Device) -> Value {
    device.cli(&["status", "--output", "json"]).unwrap().json().unwrap()
}

/// How often admission refused by each code, in its own count.
fn refusals(status: &Value) -> BTreeMap<String, u64> {
    let all = status["refusals"].as_array().unwrap().iter();
    all.map(|r| (r["code"].as_str().unwrap().to_owned(), r["count"].as_u64().unwrap())).collect()
}

/// All that is trusted, deployed and running here; what a refusal may change none of.
fn standing(device: &Device) -> (Value, Vec<(String, u64)>) {
    let s = status(device);
    let deployments: Vec<Value> = s["deployments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let attempts: Vec<_> =
                d["containers"].as_array().unwrap().iter().map(|c| c["attempt"].clone()).collect();
            serde_json::json!({"name": d["deployment"], "revision": d["revision"], "attempts": attempts})
        })
        .collect();
    let trusted = serde_json::json!({
        "root": s["root_version"], "snapshot": s["snapshot"], "labels": s["labels"], "enrolled": s["enrolled"],
        "tickets": s["guard"]["tickets"], "containers": s["guard"]["containers"], "deployments": deployments,
    });
    (trusted, processes(device))
}

/// The thief of this fleet's controller, and one device.
struct Thief<'a> {
    fleet: &'a Fleet,
    device: &'a Device,
    id: String,
    before: Option<PathBuf>,
    /// Of the next order; above all that the device has seen.
    counter: u64,
}

impl<'a> Thief<'a> {
    fn of(fleet: &'a Fleet, n: usize, before: Option<PathBuf>) -> Self {
        let device = &fleet.lab.devices[n];
        let id = status(device)["device"].as_str().unwrap().to_owned();
        Self { fleet, device, id, before, counter: 1000 }
    }

    fn act(&self, args: &[&str]) -> Finished {
        let mut thief = Command::new(self.fleet.lab.binary("shoal-attack"));
        thief.arg("--data").arg(&self.fleet.lab.controller.data).args(["--device", &self.id]);
        if let Some(before) = &self.before {
            thief.arg("--before").arg(before);
        }
        Finished::of(thief.args(args)).unwrap()
    }

    /// Sends a family; gives what was tried, once the device has heard all of it, and what admission refused of it.
    fn send(&mut self, family: &str) -> (Vec<Value>, BTreeMap<String, u64>) {
        self.counter += 1;
        let was = refusals(&status(self.device));
        let told = self.act(&["try", family, "--counter", &self.counter.to_string()]).json().unwrap();
        let told = told.as_array().unwrap().clone();
        let mut least = BTreeMap::from([(MARK.to_owned(), 1_u64)]);
        for t in told.iter().filter(|t| t["comes"] == "refused") {
            *least.entry(t["word"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let mut grown = BTreeMap::new();
        wait_until(&format!("the refusals of {family}"), LONG, || {
            let now = refusals(&status(self.device));
            grown = now
                .into_iter()
                .map(|(c, n)| (c.clone(), n - was.get(&c).unwrap_or(&0)))
                .filter(|(_, n)| *n > 0)
                .collect();
            Ok(least.iter().all(|(code, n)| grown.get(code) >= Some(n)).then_some(()))
        })
        .unwrap_or_else(|e| {
            panic!("{e:#}\nwanted {least:?}\ncounted {grown:?}\n{told:#?}\n{}", self.fleet.outputs())
        });
        for t in &told {
            assert_eq!(t["taken"], t["comes"] != "denied", "{family}: {t}");
        }
        // A message that the broker was about to take when the real controller came back is sent twice: more is no harm, another
        // code is.
        *grown.get_mut(MARK).unwrap() -= 1;
        grown.retain(|_, n| *n > 0);
        (told, grown)
    }

    /// A family of which nothing may come.
    fn is_refused(&mut self, family: &str) -> usize {
        let was = standing(self.device);
        let (told, grown) = self.send(family);
        for (code, n) in grown {
            let tried = told.iter().filter(|t| t["word"] == code.as_str()).count();
            assert!(
                tried > 0 || code == MARK,
                "{family}: {n} refused as {code}\n{told:#?}\n{}",
                self.fleet.outputs()
            );
        }
        assert_eq!(standing(self.device), was, "{family}");
        told.len()
    }

    /// The revision of `app` and its running attempt.
    fn app(&self) -> (u64, u64) {
        let s = status(self.device);
        let all = s["deployments"].as_array().unwrap();
        let runs = all.iter().find(|d| d["deployment"] == "app" && d["containers"][0]["running"] == true);
        runs.map_or((0, 0), |d| {
            (d["revision"]["sequence"].as_u64().unwrap(), d["containers"][0]["attempt"].as_u64().unwrap())
        })
    }

    fn wait_app(&self, what: &str, good: impl Fn((u64, u64)) -> bool) {
        wait_until(what, LONG, || Ok(good(self.app()).then_some(())))
            .unwrap_or_else(|e| panic!("{e:#}\n{:#}\n{}", status(self.device), self.fleet.outputs()));
    }
}

fn config(zone: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: app-settings}}\ndata:\n  zone: {zone}\n---\n")
}

/// A deployment with a variable of a config and one of a secret.
fn app(memory: u32) -> String {
    manifest(
        "app",
        "sleeps:1",
        "Always",
        &format!(
            "env:\n  - {{name: ZONE, valueFrom: {{configMapKeyRef: {{name: app-settings, key: zone}}}}}}\n  \
             - {{name: TOKEN, valueFrom: {{secretKeyRef: {{name: password, key: token}}}}}}\n\
             resources:\n  limits:\n    memory: {memory}Mi"
        ),
    )
}

fn wait_healthy(fleet: &Fleet, device: &Device, sequence: u64) {
    let mut last = Value::Null;
    wait_until(&format!("revision {sequence} to be healthy"), LONG, || {
        last = status(device);
        let is = |d: &Value| {
            d["deployment"] == "app" && d["revision"]["sequence"] == sequence && d["phase"] == "healthy"
        };
        Ok(last["deployments"].as_array().unwrap().iter().any(is).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last:#}\n{}", fleet.outputs()));
}

fn copied(fleet: &Fleet, name: &str) -> PathBuf {
    let copy = fleet.dir.path().join(name);
    Finished::of(Command::new("cp").arg("-r").arg(&fleet.lab.controller.data).arg(&copy))
        .unwrap()
        .ok()
        .unwrap();
    copy
}

/// A fleet with a past: a device since the beginning, names that ended and that are for others, an older root, and older
/// revisions of everything; then a second device, which is the victim. Gives the controller's store as it was in between.
fn with_a_past() -> (Fleet, PathBuf) {
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("gone", "sleeps:1", "Always", ""));
    fleet.shoal(&["delete", "deployment", "gone", "--yes"]);
    fleet.apply(&manifest("there", "sleeps:1", "Always", "").replace("site: here", "site: there"));
    let token = fleet.file("token", "first-value");
    let from = format!("token={}", utf8(&token));
    fleet.shoal(&["secret", "create", "password", "--for", "app", "--from-file", &from]);
    fleet.apply(&(config("north") + &app(64)));
    let before = copied(&fleet, "before");
    std::fs::write(&token, "second-value").unwrap();
    fleet.shoal(&["secret", "set", "password", "--from-file", &from]);
    fleet.apply(&(config("south") + &app(63)));
    fleet.shoal(&["trust", "rotate", "--yes"]);
    fleet.lab.add_device("site=here,n=1").unwrap();
    wait_until("the second device's grant", LONG, || {
        Ok(fleet.shoal(&["secret", "grant"]).contains("2 selected device(s)").then_some(()))
    })
    .unwrap();
    (fleet, before)
}

#[test]
fn b5_a_stolen_controller_sends_everything_it_can_and_no_unsigned_workload_runs() {
    if needs_root("b5_a_stolen_controller_sends_everything_it_can_and_no_unsigned_workload_runs") {
        return;
    }
    let (mut fleet, before) = with_a_past();
    let victim = &fleet.lab.devices[1];
    wait_healthy(&fleet, victim, 2);
    fleet.apply(&app(62));
    wait_healthy(&fleet, victim, 3);
    let mut thief = Thief::of(&fleet, 1, Some(before));
    let (_, was) = thief.app();
    fleet.shoal(&["restart", "app"]);
    thief.wait_app("the restart that the operator asked for", |(revision, n)| revision == 3 && n > was);
    wait_healthy(&fleet, victim, 3);

    let families = thief.act(&["families"]).json().unwrap();
    let families: Vec<String> =
        families.as_array().unwrap().iter().map(|f| f.as_str().unwrap().to_owned()).collect();
    let (granted, refused): (Vec<_>, Vec<_>) = families.iter().partition(|f| f.starts_with("granted-"));
    let tried: usize = refused.iter().map(|family| thief.is_refused(family)).sum();
    assert!(tried > 200, "only {tried} attempts");

    // What a controller may: each verb once, with nothing but its own effect.
    for family in granted {
        let was = standing(victim);
        let (_, attempt) = thief.app();
        let (told, grown) = thief.send(family);
        assert!(told.len() == 1 && told[0]["comes"] == "granted" && grown.is_empty(), "{family}: {grown:?}");
        match family.as_str() {
            "granted-stage" | "granted-activate" | "granted-logs" => {
                assert_eq!(standing(victim), was, "{family}");
            }
            "granted-restart" => {
                thief.wait_app("the same revision once more", |(revision, n)| revision == 3 && n > attempt);
            }
            "granted-return" => {
                thief.wait_app("the last good revision", |(revision, _)| revision == 2);
                let (_, grown) = thief.send(family);
                assert_eq!(grown.into_iter().collect::<Vec<_>>(), [("return_spent".to_owned(), 1)]);
                thief.wait_app("it to stay", |(revision, _)| revision == 2);
            }
            other => panic!("nobody says what may come of {other}"),
        }
    }
    // And what an operator signs applies after all that.
    drop(thief);
    fleet.apply(&app(61));
    let thief = Thief::of(&fleet, 1, None);
    thief.wait_app("the next revision", |(revision, _)| revision == 4);
    fleet.lab.stop().unwrap();
}

/// The blobs that a controller serves.
fn blobs(fleet: &Fleet) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = fleet.lab.controller.data.join("images/blobs/sha256");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.clone(), std::fs::read(p).unwrap()))
        .collect()
}

#[test]
fn b5_what_a_stolen_controller_serves_beside_documents_is_worth_nothing() {
    if needs_root("b5_what_a_stolen_controller_serves_beside_documents_is_worth_nothing") {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    wait_healthy(&fleet, &fleet.lab.devices[0], 1);
    let first = standing(&fleet.lab.devices[0]).1;

    // Images: other bytes under the signed name.
    let known = blobs(&fleet);
    fleet.import_wat("other:1", &exits_with(0));
    // Of its manifest the controller itself would notice.
    let new = |path: &PathBuf, bytes: &[u8]| !known.contains_key(path) && bytes[0] != b'{';
    for (path, mut bytes) in blobs(&fleet).into_iter().filter(|(path, bytes)| new(path, bytes)) {
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    fleet.apply(&manifest("app", "other:1", "Always", ""));
    fleet.wait_pod("app", "the refusal of its image", |p| p["reason"] == "digest_mismatch");
    assert_eq!(standing(&fleet.lab.devices[0]).1, first, "the revision before it runs on");

    // Recipients: a sealing key of the thief's in the device's record.
    fleet.lab.controller.stop();
    Thief::of(&fleet, 0, None).act(&["plant"]).ok().unwrap();
    let honest = copied(&fleet, "planted");
    fleet.lab.controller.start_again().unwrap();
    let token = fleet.file("token", "not-for-thieves");
    let from = format!("token={}", utf8(&token));
    let done = fleet.try_shoal(&["secret", "create", "password", "--for", "app", "--from-file", &from]);
    assert!(done.stderr.contains("recipient_unsigned"), "{}{}", done.stdout, done.stderr);
    let secrets = fleet.lab.operator.json(&["get", "secrets"]).unwrap();
    assert!(secrets["secrets"].as_array().unwrap().iter().all(|s| s["granted"] == 0), "{secrets:#}");

    // The way to the device: another authority, and another key for orders.
    fleet.lab.controller.stop();
    let identity = fleet.lab.controller.data.join("identity.json");
    let own = std::fs::read(honest.join("identity.json")).unwrap();
    let mut other = shoal_lab::Controller::start(&binaries(), &fleet.dir.path().join("other"), &[]).unwrap();
    other.stop();
    std::fs::copy(other.data.join("identity.json"), &identity).unwrap();
    fleet.lab.controller.start_again().unwrap();
    wait_until("the device to see through it", LONG, || {
        let said = fleet.lab.devices[0].agent_output();
        Ok((said.contains("UnknownIssuer") || said.contains("BadSignature")).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    assert_eq!(standing(&fleet.lab.devices[0]).1, first);
    fleet.lab.controller.stop();
    std::fs::write(&identity, own).unwrap();
    fleet.lab.controller.start_again().unwrap();
    fleet.wait_online();
    fleet.apply(&manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi"));
    fleet.wait_pod("app", "the next good revision", |p| runs(p) && p["revision"]["sequence"] == 3);
    fleet.lab.stop().unwrap();
}
