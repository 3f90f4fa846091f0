//! The main line: apply, admit, pull, compile, run under limits, report, log.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;

const LIMITS: &str = "resources:\n  limits:\n    memory: 64Mi\n    cpu: 250m\n    pids: 16";

#[test]
fn an_applied_deployment_runs_on_every_selected_device_under_its_limits() {
    if needs_root("an_applied_deployment_runs_on_every_selected_device_under_its_limits") {
        return;
    }
    let mut fleet = fleet_with(2);
    fleet.lab.add_device("site=elsewhere").unwrap();
    fleet.import_wat("sleeps:1", SLEEPS);
    let shown = fleet.apply(&manifest("app", "sleeps:1", "Always", LIMITS));
    assert!(
        shown.contains("poll_oneoff") || shown.contains("clock"),
        "apply shows what the module may do:\n{shown}"
    );
    let pods = fleet.wait_running("app", 2);
    assert_eq!(pods.len(), 2, "the device elsewhere is not selected: {pods:#?}");
    for pod in &pods {
        let c = &pod["containers"][0];
        assert_eq!(c["memory_limit"], 64 << 20, "{pod:#}");
        let quota = c["cpu_quota"].as_u64().unwrap() * 1000 / c["cpu_period"].as_u64().unwrap();
        assert_eq!(quota, 250, "{pod:#}");
        assert!(c["compiled"]["engine"].as_str().unwrap().starts_with("0.17"), "{pod:#}");
        assert!(c["compiled"]["code_size"].as_u64().unwrap() > 0, "{pod:#}");
    }
    let described = fleet.shoal(&["describe", "pod", "app"]);
    for word in ["0.17", "64", "250m"] {
        assert!(described.contains(word), "describe names {word}:\n{described}");
    }
    // What a user of `ps` sees is what the kernel says.
    let ps = fleet.lab.devices[0].cli(&["ps", "--output", "json"]).unwrap().json().unwrap();
    assert!(ps.to_string().contains("app"), "{ps:#}");

    fleet.shoal(&["delete", "deployment", "app", "--yes"]);
    shoal_lab::wait_until("the pods to be gone", LONG, || {
        let gone = fleet.pods("app").iter().all(|p| p["phase"] == "stopped");
        Ok(gone.then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{:#?}\n{}", fleet.pods("app"), fleet.outputs()));
    fleet.lab.stop().unwrap();
}

#[test]
fn a_second_revision_replaces_the_first_and_the_same_module_is_not_compiled_again() {
    if needs_root("a_second_revision_replaces_the_first_and_the_same_module_is_not_compiled_again") {
        return;
    }
    let fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", LIMITS));
    let first = fleet.wait_pod("app", "the first revision", |p| runs(p) && p["revision"]["sequence"] == 1);
    assert_eq!(first["containers"][0]["compiled"]["cache_hit"], false, "{first:#}");
    fleet.apply(&manifest("app", "sleeps:1", "Always", "resources:\n  limits:\n    memory: 32Mi"));
    let second = fleet.wait_pod("app", "the second revision", |p| runs(p) && p["revision"]["sequence"] == 2);
    assert_eq!(second["containers"][0]["compiled"]["cache_hit"], true, "{second:#}");
    assert_eq!(second["containers"][0]["memory_limit"], 32 << 20, "{second:#}");
}

#[test]
fn the_cri_files_of_the_tutorial_run_as_they_are_and_no_field_is_dropped_in_silence() {
    if needs_root("the_cri_files_of_the_tutorial_run_as_they_are_and_no_field_is_dropped_in_silence") {
        return;
    }
    let fleet = fleet_with(1);
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    let module = examples.join("apps/prebuilt/wasi_example_main.wasm");
    fleet.shoal(&["image", "import", utf8(&module), "hydai/wasm-wasi-example:latest"]);
    let (pod, container) = (
        examples.join("examples/cri/sandbox_config.json"),
        examples.join("examples/cri/container_wasi.json"),
    );
    let done = fleet.try_shoal(&[
        "apply",
        "--pod",
        utf8(&pod),
        "--container",
        utf8(&container),
        "--selector",
        "site=here",
        "--yes",
    ]);
    let said = format!("{}{}", done.stdout, done.stderr);
    assert_eq!(done.code, Some(0), "{said}");
    for field in ["dns_config", "selinux_options", "seccomp", "cgroup_parent", "add_capabilities", "memory"] {
        assert!(said.contains(field), "no word about {field}:\n{said}");
    }
    let pod = fleet.wait_pod("podsandbox12", "the tutorial's pod", |p| {
        p["containers"][0]["last_end"]["cause"] == "exited" || p["phase"] == "succeeded"
    });
    assert_eq!(pod["containers"][0]["last_end"]["code"], 0, "{pod:#}\n{}", fleet.outputs());
    let log = fleet.shoal(&["logs", "podsandbox12", "--tail", "100"]);
    for words in ["Random number", "Random bytes", "The args are", "50000000", "File content is"] {
        assert!(log.to_lowercase().contains(&words.to_lowercase()), "no {words:?} in\n{log}");
    }
}

#[test]
fn logs_of_a_running_container_follow_it() {
    if needs_root("logs_of_a_running_container_follow_it") {
        return;
    }
    let fleet = fleet_with(1);
    let module =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/apps/prebuilt/sensor.wasm");
    fleet.shoal(&["image", "import", utf8(&module), "sensor:1"]);
    fleet.apply(&manifest("sensor", "sensor:1", "Always", LIMITS));
    fleet.wait_running("sensor", 1);
    let log = fleet.dir.path().join("follow.log");
    let mut follow = fleet.lab.operator.command();
    let mut follow =
        shoal_lab::Service::spawn(follow.args(["logs", "sensor", "-f", "--tail", "1"]), &log).unwrap();
    shoal_lab::wait_until("three lines that came after", LONG, || {
        Ok((follow.output().lines().count() >= 4).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", follow.output(), fleet.outputs()));
    follow.kill();
}
