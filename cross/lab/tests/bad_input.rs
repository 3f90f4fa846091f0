//! Mistakes of people and faults of machines, through the binaries: each a clear error, and nothing lost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, wait_until};

fn said(done: &Finished) -> String {
    format!("{}{}", done.stdout, done.stderr)
}

/// A command that must fail with one of our exit codes and say all of these words.
fn fails(done: &Finished, words: &[&str]) {
    let text = said(done);
    assert!(matches!(done.code, Some(1..=9)), "exit {:?}\n{text}", done.code);
    assert!(text.contains("error"), "no error line:\n{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn mistakes_in_a_manifest_are_shown_with_line_column_and_what_is_allowed() {
    let fleet = fleet();
    let good = manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 64Mi");
    let broken = [
        (good.replace("kind: Deployment", "kind: [Deployment"), vec!["line"]),
        (
            good.replace("restartPolicy: Always", "restartPolicy: Sometimes"),
            vec!["restartPolicy", "OnFailure", "Sometimes"],
        ),
        (good.replace("image: sleeps:1", "imgae: sleeps:1"), vec!["imgae", "image"]),
        (good.replace("memory: 64Mi", "memory: 64Mb"), vec!["64Mb", "memory", "Mi"]),
        (good.replace("apiVersion: shoal/v1", "apiVersion: shoal/v9"), vec!["shoal/v9", "shoal/v1"]),
        (good.replace("name: app", "name: App_1"), vec!["App_1"]),
    ];
    for (text, words) in broken {
        let done = fleet.try_apply(&text);
        fails(&done, &words);
        assert!(
            said(&done).contains("app.yaml:") || said(&done).contains("line"),
            "no place:\n{}",
            said(&done)
        );
    }
    let json = fleet.file("pod.json", r#"{"metadata": {"name": "x"}, "linux": {"#);
    let done =
        fleet.try_shoal(&["apply", "--pod", utf8(&json), "--container", utf8(&json), "--selector", "a=b"]);
    fails(&done, &["line", "pod.json"]);
}

#[test]
fn a_tag_that_nothing_pins_and_a_missing_key_are_refused_before_signing() {
    let fleet = fleet();
    fails(
        &fleet.try_apply(&manifest("app", "nowhere:1", "Always", "")),
        &["digest_unpinned", "image import"],
    );
    fleet.import_wat("sleeps:1", SLEEPS);
    let path = fleet.file("app.yaml", manifest("app", "sleeps:1", "Always", ""));
    let done = fleet.try_shoal(&["apply", "-f", utf8(&path), "--key", "/nonexistent.key", "--yes"]);
    fails(&done, &["/nonexistent.key"]);
    let none = fleet.lab.operator.json(&["get", "deployments"]).unwrap();
    assert_eq!(none["deployments"].as_array().map(Vec::len), Some(0), "{none:#}");
}

#[test]
fn what_is_no_module_is_refused_by_name() {
    let fleet = fleet();
    let elf = fleet.file("elf.wasm", std::fs::read(fleet.lab.binary("shoal")).unwrap().get(..4096).unwrap());
    fails(&fleet.try_shoal(&["image", "import", utf8(&elf), "elf:1"]), &["not_wasm"]);
    let component = fleet.file("component.wasm", b"\0asm\x0d\0\x01\0");
    fails(
        &fleet.try_shoal(&["image", "import", utf8(&component), "component:1"]),
        &["component_unsupported"],
    );
    let wide = r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#;
    let wide = fleet.file("wide.wasm", wat::parse_str(wide).unwrap());
    fails(
        &fleet.try_shoal(&["image", "import", utf8(&wide), "wide:1"]),
        &["unsupported_proposal", "memory64"],
    );
}

#[test]
fn a_wrong_credential_and_a_controller_that_is_down_are_told_apart() {
    let mut fleet = fleet();
    let ca = fleet.lab.controller.data.join("ca.pem");
    let url = fleet.lab.controller.url();
    let home = fleet.dir.path().join("stranger");
    let stranger = |args: &[&str]| {
        Finished::of(fleet.lab.operator.command().env("SHOAL_HOME", &home).args(args)).unwrap()
    };
    fails(&stranger(&["get", "devices"]), &["shoal login"]);
    fails(&stranger(&["login", &url, "--token", "wrong", "--ca", utf8(&ca)]), &["credential"]);
    fleet.lab.controller.stop();
    let done = fleet.try_shoal(&["get", "devices"]);
    fails(&done, &[&fleet.lab.controller.port.to_string()]);
    assert_ne!(done.code, Some(2), "not a usage error");
}

#[test]
fn a_taken_port_and_a_second_controller_on_the_same_data_are_named() {
    let fleet = fleet();
    let done = Finished::of(&mut fleet.lab.controller.command()).unwrap();
    fails(&done, &[utf8(&fleet.lab.controller.data)]);
    let other = fleet.dir.path().join("other");
    let command = fleet.lab.controller.command();
    let mut second = std::process::Command::new(command.get_program());
    let args: Vec<_> = command
        .get_args()
        .map(|a| if a == fleet.lab.controller.data.as_os_str() { other.clone().into() } else { a.to_owned() })
        .collect();
    let done = Finished::of(second.args(args)).unwrap();
    fails(&done, &[&fleet.lab.controller.port.to_string()]);
    // The first goes on undisturbed.
    fleet.shoal(&["get", "devices"]);
}

#[test]
fn a_second_agent_on_the_same_state_and_a_spoilt_join_file_are_refused() {
    if needs_root("a_second_agent_on_the_same_state_and_a_spoilt_join_file_are_refused") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.wait_online();
    let done = fleet.lab.devices[0].cli(&["run"]).unwrap();
    fails(&done, &["agent"]);
    let join = fleet.lab.join_file("site=here").unwrap();
    let text = std::fs::read_to_string(&join).unwrap();
    let spoilt = fleet.file("spoilt.shoal", text.replacen(|c: char| c.is_ascii_lowercase(), "A", 40));
    let done = fleet.lab.devices[0].cli(&["enroll", utf8(&spoilt)]).unwrap();
    fails(&done, &["spoilt.shoal"]);
    let done = fleet.lab.devices[0].cli(&["enroll", "/nonexistent"]).unwrap();
    fails(&done, &["/nonexistent"]);
    let again = fleet.shoal(&["get", "devices"]);
    assert!(again.contains("online"), "{again}");
}

#[test]
fn m2_bytes_that_differ_from_the_signed_digest_never_run() {
    if needs_root("m2_bytes_that_differ_from_the_signed_digest_never_run") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    // Somebody changes the controller's copies after the operator read the image.
    spoil_blobs(&fleet.lab.controller.data);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let pod = fleet.wait_pod("app", "the refusal", |p| {
        p["reason"] == "digest_mismatch" || p["reason"] == "image_unavailable"
    });
    assert!(pod["message"].is_string() && pod["deadline"].is_u64(), "{pod:#}");
}

/// Flips the last byte of everything under a folder called `blobs` or `images`.
fn spoil_blobs(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            spoil_blobs(&path);
        } else if path.components().any(|c| c.as_os_str() == "sha256") {
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn a_disk_without_space_delays_a_pull_and_loses_nothing() {
    if needs_root("a_disk_without_space_delays_a_pull_and_loses_nothing") {
        return;
    }
    let mut fleet = fleet();
    let join = fleet.lab.join_file("site=here").unwrap();
    let mut device = fleet.lab.prepare_device().unwrap();
    let state = device.root.join("var/lib/shoal");
    std::fs::create_dir_all(&state).unwrap();
    let mount = Finished::of(
        std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m,mode=755", "shoal-test"])
            .arg(&state),
    );
    mount.unwrap().ok().unwrap();
    device.start_guard().unwrap();
    device.enroll(&join).unwrap();
    let filler = state.join("filler");
    // Full when the agent starts: it waits, and is there as soon as there is space.
    let _ = std::fs::write(&filler, vec![0_u8; 16 << 20]);
    device.start_agent().unwrap();
    fleet.lab.devices.push(device);
    let told = |fleet: &Fleet| fleet.outputs().matches("storage_unavailable").count();
    let wait_told = |fleet: &Fleet, above: usize| {
        wait_until("the full disk to be told", LONG, || Ok((told(fleet) > above).then_some(())))
            .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    };
    wait_told(&fleet, 0);
    std::fs::remove_file(&filler).unwrap();
    fleet.wait_online();
    // Full when something is to be kept: it is kept once there is space.
    let before = told(&fleet);
    let _ = std::fs::write(&filler, vec![0_u8; 16 << 20]);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    wait_told(&fleet, before);
    assert!(fleet.lab.devices[0].agent().unwrap().ended().unwrap().is_none(), "{}", fleet.outputs());
    std::fs::remove_file(&filler).unwrap();
    fleet.wait_running("app", 1);
    fleet.lab.stop().unwrap();
    Finished::of(std::process::Command::new("umount").arg(&state)).unwrap().ok().unwrap();
}

#[test]
fn a_registry_that_is_down_is_named_on_import() {
    let fleet = fleet();
    let done = fleet.try_shoal(&["image", "import", "127.0.0.1:9/app:1"]);
    fails(&done, &["127.0.0.1:9"]);
}
