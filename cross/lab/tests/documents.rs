//! Configs and secrets from the operator's file to what a container prints: followed, pinned, rotated, waited for; and what the
//! controller and the device's disk hold of a secret.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::wait_until;
use std::path::{Path, PathBuf};

/// Prints `greeting` and `token` of its folders and its environment, a line each, and then waits.
pub(crate) const SHOWS: &str = r#"(module
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (data (i32.const 200) "greeting") (data (i32.const 210) "token") (data (i32.const 220) "\0a")
    (func $print (param $at i32) (param $length i32)
        (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $length))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func $show (param $folder i32) (param $name i32) (param $length i32)
        (if (i32.eqz (call $open (local.get $folder) (i32.const 1) (local.get $name) (local.get $length)
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12)))
            (then
                (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 4096))
                (drop (call $read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
                (call $print (i32.const 65536) (i32.load (i32.const 8)))
                (call $print (i32.const 220) (i32.const 1)))))
    (func (export "_start") (local $at i32) (local $end i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (local.set $end (i32.add (i32.const 8192) (i32.load (i32.const 4))))
        (drop (call $environ (i32.const 1024) (i32.const 8192)))
        (local.set $at (i32.const 8192))
        (loop $next
            (if (i32.lt_u (local.get $at) (local.get $end)) (then
                (if (i32.eqz (i32.load8_u (local.get $at))) (then (i32.store8 (local.get $at) (i32.const 10))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next))))
        (call $print (i32.const 8192) (i32.sub (local.get $end) (i32.const 8192)))
        (local.set $at (i32.const 3))
        (loop $each
            (call $show (local.get $at) (i32.const 200) (i32.const 8))
            (call $show (local.get $at) (i32.const 210) (i32.const 5))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $each (i32.lt_u (local.get $at) (i32.const 8))))
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (loop $again
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (br $again))))"#;

const HUSH: &str = "a-very-secret-value";
const NEXT: &str = "another-secret-value";

fn config(greeting: &str, zone: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: app-settings}}\ndata:\n  greeting: {greeting}\n  zone: {zone}\n---\n"
    )
}

/// A pod that mounts config and secret and has a variable of each.
fn pod(name: &str, volumes: &str, env: &str, mounts: &str) -> String {
    let extra = format!("env: [{env}]\nvolumeMounts: [{mounts}]");
    manifest(name, "shows:1", "Always", &extra)
        .replace("      restartPolicy", &format!("      volumes: [{volumes}]\n      restartPolicy"))
}

fn app(pin: &str) -> String {
    pod(
        "app",
        &format!("{{name: conf, configMap: {{name: app-settings{pin}}}}}"),
        &format!("{{name: ZONE, valueFrom: {{configMapKeyRef: {{name: app-settings, key: zone{pin}}}}}}}"),
        "{name: conf, mountPath: /conf}",
    )
}

pub(crate) fn with_secret(name: &str) -> String {
    pod(
        name,
        "{name: keys, secret: {secretName: password, defaultMode: 0400}}",
        "{name: TOKEN, valueFrom: {secretKeyRef: {name: password, key: token}}}",
        "{name: keys, mountPath: /keys}",
    )
}

/// The last lines of a deployment's log, once they are these in any order.
fn wait_printed(fleet: &Fleet, deployment: &str, wanted: &[&str]) {
    let mut last = String::new();
    wait_until(&format!("{wanted:?}"), LONG, || {
        last = fleet.try_shoal(&["logs", deployment, "--tail", "20"]).stdout;
        let lines: Vec<&str> = last.lines().collect();
        let end = &lines[lines.len().saturating_sub(wanted.len())..];
        Ok((wanted.iter().all(|w| end.iter().any(|l| l.ends_with(w)))).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last}\n{}", fleet.outputs()));
}

/// The file below a folder that holds these bytes.
fn found(folder: &Path, what: &[u8]) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        let here = if kind.is_dir() {
            found(&path, what)
        } else {
            let bytes = if kind.is_file() { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
            bytes.windows(what.len()).any(|w| w == what).then_some(path)
        };
        if here.is_some() {
            return here;
        }
    }
    None
}

#[test]
fn a_config_in_the_same_file_reaches_the_container_and_changes_at_a_restart_or_by_a_revision() {
    if needs_root("a_config_in_the_same_file_reaches_the_container_and_changes_at_a_restart_or_by_a_revision")
    {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("shows:1", SHOWS);
    let said = fleet.apply(&(config("hello", "north") + &app("")));
    assert!(said.contains("config app-settings revision 1 signed"), "{said}");
    wait_printed(&fleet, "app", &["ZONE=north", "hello"]);

    // Followed: what runs keeps what it has; whatever starts next has the new revision.
    let path = fleet.file("config.yaml", config("good day", "south"));
    let diff = fleet.shoal(&["diff", "-f", utf8(&path)]);
    assert!(diff.contains("~ greeting: hello → good day"), "{diff}");
    fleet.shoal(&["apply", "-f", utf8(&path), "--yes"]);
    let listed = fleet.lab.operator.json(&["get", "configs"]).unwrap();
    assert_eq!(listed["configs"][0]["sequence"], 2, "{listed}");
    let pod = fleet.wait_pod("app", "the pod", runs);
    assert_eq!(
        (&pod["revision"]["sequence"], &pod["containers"][0]["attempt"]),
        (&1.into(), &1.into()),
        "{pod:#}"
    );
    // The order may overtake the config; then the next one finds it.
    let mut last = String::new();
    wait_until("the config at a restart", LONG, || {
        fleet.shoal(&["restart", "app"]);
        wait_until("its words", std::time::Duration::from_secs(20), || {
            last = fleet.try_shoal(&["logs", "app", "--tail", "20"]).stdout;
            Ok((last.contains("ZONE=south") && last.contains("good day")).then_some(()))
        })
        .map_or(Ok(None), |()| Ok(Some(())))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last}\n{}", fleet.outputs()));

    // Pinned: the deployment's next revision brings the config's.
    let said = fleet.apply(&(config("pinned", "east") + &app(", pin: true")));
    assert!(said.contains("revision 3 (sha256:"), "{said}");
    wait_printed(&fleet, "app", &["ZONE=east", "pinned"]);
    let pod = fleet.wait_pod("app", "revision 2", |p| p["revision"]["sequence"] == 2 && runs(p));
    assert_eq!(pod["revision"]["sequence"], 2, "{pod:#}");
    let text = fleet.shoal(&["describe", "config", "app-settings"]);
    assert!(text.contains("greeting: 6 bytes") && text.contains("  pinned"), "{text}");
}

#[test]
fn s25_a_secret_reaches_only_the_devices_that_were_granted_it_and_the_controller_cannot_read_it() {
    if needs_root(
        "s25_a_secret_reaches_only_the_devices_that_were_granted_it_and_the_controller_cannot_read_it",
    ) {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("shows:1", SHOWS);
    let said = fleet.apply(&with_secret("app"));
    assert!(
        said.contains("shoal secret create password --for app") || said.contains("revision 1 signed"),
        "{said}"
    );
    fleet.wait_pod("app", "its waiting for the secret", |p| p["reason"] == "waiting_secret");

    // Sealed and granted by one command; the value comes from a file.
    let path = fleet.file("token", HUSH);
    let from = format!("token={}", utf8(&path));
    fleet.shoal(&["secret", "create", "password", "--for", "app", "--from-file", &from]);
    wait_printed(&fleet, "app", &[&format!("TOKEN={HUSH}"), HUSH]);
    let again = fleet.try_shoal(&["secret", "create", "password", "--for", "app", "--from-file", &from]);
    assert!(again.stderr.contains("there is a secret password"), "{}", again.stderr);

    // A deployment that it was not sealed for does not get it.
    fleet.apply(&with_secret("thief"));
    fleet.wait_pod("thief", "its refusal", |p| p["reason"] == "secret_context");

    // Rotated.
    let path = fleet.file("token", NEXT);
    let from = format!("token={}", utf8(&path));
    fleet.shoal(&["secret", "set", "password", "--from-file", &from]);
    let mut last = String::new();
    wait_until("the new value at a restart", LONG, || {
        fleet.shoal(&["restart", "app"]);
        wait_until("its words", std::time::Duration::from_secs(20), || {
            last = fleet.try_shoal(&["logs", "app", "--tail", "20"]).stdout;
            Ok(last.contains(&format!("TOKEN={NEXT}")).then_some(()))
        })
        .map_or(Ok(None), |()| Ok(Some(())))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{last}\n{}", fleet.outputs()));

    // A device that comes later waits for its grant, by name, and starts with it.
    fleet.lab.add_device("site=here,n=1").unwrap();
    let waits = |p: &serde_json::Value| {
        p["reason"] == "waiting_secret"
            && p["message"].as_str().is_some_and(|m| m.contains("no grant of secret password"))
    };
    wait_until("the wait of the second device", LONG, || {
        Ok(fleet.pods("app").iter().any(waits).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#?}\n{}", fleet.pods("app"), fleet.outputs()));
    let said = fleet.shoal(&["secret", "grant"]);
    assert!(said.contains("secret password revision 2: 1 new grant(s), 2 selected device(s)"), "{said}");
    fleet.wait_running("app", 2);
    let secrets = fleet.lab.operator.json(&["get", "secrets"]).unwrap();
    assert_eq!(
        (&secrets["secrets"][0]["granted"], &secrets["secrets"][0]["keys"][0]),
        (&2.into(), &"token".into())
    );

    // What only the devices may read is nowhere else: not with the controller, not in what the operator's program prints or
    // keeps, and on the devices' disks only in the log, which is what the program itself chose to print.
    for args in [&["get", "secrets"][..], &["describe", "secret", "password"], &["get", "pods"]] {
        let text = fleet.lab.operator.json(args).unwrap().to_string();
        assert!(!text.contains(HUSH) && !text.contains(NEXT), "{text}");
    }
    for value in [HUSH, NEXT] {
        for place in ["controller", "operator"] {
            assert_eq!(found(&fleet.dir.path().join(place), value.as_bytes()), None, "{place}");
        }
        assert!(!fleet.lab.controller.output().contains(value));
        for device in &fleet.lab.devices {
            assert!(!device.agent_output().contains(value) && !device.guard_output().contains(value));
        }
    }
}
