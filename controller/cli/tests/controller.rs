//! The CLI against a real controller: login, founding, signing, conflicts, lost state, restored backups.
//!
//! Needs a built `shoald` beside the tested binary (`cargo build -p shoald`); without it the tests say so and are skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;
use common::*;
use std::process::Command;

#[test]
fn login_pins_the_authority_and_tries_the_credential() {
    let dir = tempfile::tempdir().unwrap();
    let name = "login_pins_the_authority_and_tries_the_credential";
    let Some(mut shoald) = Shoald::start(name, &dir.path().join("data")) else { return };
    let o = Operator { home: dir.path().to_owned() };
    let (url, token) = (shoald.url(), shoald.credential());
    let wrong = format!("sha256:{}", "0".repeat(64));
    let said = o
        .run(&["login", &url, "--token", &token, "--ca-fingerprint", &wrong])
        .fails(3, "error[base_untrusted]");
    let right = said.split("fingerprint ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    o.run(&["login", &url, "--token", "shoal_wrong", "--ca-fingerprint", &right]).fails(7, "error: https://");
    o.run(&["get", "devices"]).fails(7, "error: not logged in");
    o.run(&["login", &url, "--token", &token, "--ca-fingerprint", &right]).ok();
    o.run(&["get", "devices"]).ok();
    shoald.stop();
    o.run(&["get", "devices"]).fails(4, "error: nothing listens at https://127.0.0.1:");
}

#[test]
fn s20_two_operators_never_lose_each_others_work() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_shoald, first, second)) = fleet("s20_two_operators_never_lose_each_others_work", dir.path())
    else {
        return;
    };
    first.apply("one", "a").ok();
    let said = second.apply("two", "a").fails(3, "error[state_lost]");
    let digest = said.lines().find_map(|l| l.trim().strip_prefix("sha256:")).unwrap();
    let adopt = format!("sha256:{digest}");
    second.run(&["apply", "-f", &second.file("two", "a"), "--yes", "--adopt", &adopt]).ok();
    // Many at once, on both sides: each is published, whoever was first.
    let all: Vec<Done> = std::thread::scope(|s| {
        let start = |o: &'static str, n: usize| {
            let who = if o == "first" { &first } else { &second };
            s.spawn(move || who.apply(&format!("{o}-{n}"), "a"))
        };
        let running: Vec<_> = (0..2).flat_map(|n| [start("first", n), start("second", n)]).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for done in all {
        // Four attempts suffice here unless all lose each time; then it is a conflict and nothing else.
        assert!(matches!(done.code, 0 | 5), "{}", done.err);
    }
    let names = |o: &Operator| o.json(&["get", "deployments"])["deployments"].as_array().unwrap().len();
    assert!(names(&first) >= 4, "one, two and what was published above");
    first.apply("one", "b").ok();
    let diff = second.run(&["diff", "-f", &second.file("one", "c")]).ok();
    assert!(
        diff.contains("revision 3 over 2") && diff.contains("~ main.argv: /app.wasm b → /app.wasm c"),
        "{diff}"
    );
}

#[test]
fn a_deployment_is_signed_changed_left_alone_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_shoald, o, _)) = fleet("a_deployment_is_signed_changed_left_alone_and_removed", dir.path())
    else {
        return;
    };
    let first = o.apply("app", "a").ok();
    assert!(first.contains("revision 1 (new)") && first.contains("main.may: compute only"), "{first}");
    assert!(o.apply("app", "a").ok().contains("unchanged"));
    o.run(&["apply", "-f", &o.file("app", "z"), "--dry-run"]).ok();
    assert_eq!(
        o.json(&["get", "deployments"])["deployments"][0]["newest"]["sequence"],
        1,
        "a dry run signs nothing"
    );
    o.run(&["apply", "-f", &o.file("app", "z")]).fails(2, "error: nothing was signed");
    o.apply("app", "b").ok();
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 2);
    assert!(o.run(&["rollout", "status", "app"]).ok().contains("no_devices"));
    o.run(&["logs", "app"]).fails(2, "error: no device has a pod of app");
    o.run(&["delete", "deployment", "app", "--yes"]).ok();
    o.run(&["delete", "deployment", "app", "--yes"]).fails(2, "error: no live deployment");
    assert_eq!(o.json(&["get", "deployments"])["deployments"][0]["state"], "removed");
    o.apply("app", "c").ok();
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 3, "sequences never fall");
    let join = o.home.join("join.shoal");
    o.run(&["token", "create", "--labels", "a=b", "--uses", "2", "-o", join.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(&join).unwrap().starts_with("-----BEGIN SHOAL JOIN FILE-----"));
    assert_eq!(o.json(&["get", "tokens"])["tokens"][0]["uses"], 2);
}

#[test]
fn s26_a_restored_controller_is_noticed_and_given_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let name = "s26_a_restored_controller_is_noticed_and_given_what_it_lost";
    let Some((mut shoald, o, _)) = fleet(name, dir.path()) else { return };
    o.apply("gone", "a").ok();
    o.run(&["delete", "deployment", "gone", "--yes"]).ok();
    o.apply("app", "a").ok();
    shoald.stop();
    let copied =
        Command::new("cp").arg("-r").arg(&shoald.data).arg(dir.path().join("backup")).status().unwrap();
    assert!(copied.success());
    shoald.start_again();
    o.apply("app", "b").ok();
    shoald.stop();
    std::fs::remove_dir_all(&shoald.data).unwrap();
    std::fs::rename(dir.path().join("backup"), &shoald.data).unwrap();
    shoald.start_again();
    o.apply("app", "c").fails(3, "error[controller_behind]");
    o.run(&["trust", "push"]).ok();
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 2);
    o.apply("app", "c").ok();
}
