//! The binary as a user meets it without a guard or controller: usage, errors, exit codes, locks.

#![allow(clippy::unwrap_used, reason = "a test that cannot run its binary fails")]

use std::path::Path;
use std::process::{Command, Output};

fn agent(root: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shoal-agent")).arg("--root").arg(root).args(args).output().unwrap()
}

fn stderr(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[track_caller]
fn fails(o: &Output, code: i32, words: &[&str]) {
    let text = stderr(o);
    assert_eq!(o.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn help_has_examples_and_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = agent(dir.path(), &["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(text.contains("Exit codes") && text.contains("shoal-agent enroll join.txt"), "{text}");
}

#[test]
fn an_unknown_command_is_usage() {
    let dir = tempfile::tempdir().unwrap();
    fails(&agent(dir.path(), &["fly"]), 2, &["unrecognized subcommand 'fly'"]);
}

#[test]
fn a_missing_join_file_is_usage_and_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    fails(
        &agent(dir.path(), &["enroll", "none.txt"]),
        2,
        &["there is no join file none.txt", "shoal token create"],
    );
}

#[test]
fn what_is_no_join_file_is_usage_and_names_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("join.txt");
    let name = path.to_str().unwrap();
    std::fs::write(&path, "hello").unwrap();
    fails(&agent(dir.path(), &["enroll", name]), 2, &["not a join file", "BEGIN SHOAL JOIN FILE"]);
    std::fs::write(&path, "-----BEGIN SHOAL JOIN FILE-----\n!!!\n-----END SHOAL JOIN FILE-----\n").unwrap();
    fails(&agent(dir.path(), &["enroll", name]), 2, &["damaged", "base64"]);
    std::fs::write(&path, "-----BEGIN SHOAL JOIN FILE-----\nAAAA\n-----END SHOAL JOIN FILE-----\n").unwrap();
    fails(&agent(dir.path(), &["enroll", name]), 2, &["damaged", "shoal token create"]);
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    fails(&agent(dir.path(), &["enroll", name]), 2, &["is no text"]);
    std::fs::write(&path, vec![b'x'; (1 << 20) + 1]).unwrap();
    fails(&agent(dir.path(), &["enroll", name]), 2, &["more than 1048576 bytes"]);
}

#[test]
fn errors_are_json_when_json_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let o = agent(dir.path(), &["enroll", "none.txt", "--output", "json"]);
    assert_eq!(o.status.code(), Some(2));
    let value: serde_json::Value = serde_json::from_slice(&o.stderr).unwrap();
    assert_eq!(value["error"], "there is no join file none.txt");
    assert_eq!(value["exitCode"], 2);
    assert!(value["hints"][0].as_str().unwrap().contains("shoal token create"));
}

#[test]
fn without_a_guard_every_command_says_that_it_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    for command in [&["run"][..], &["status"], &["ps", "-a"]] {
        fails(&agent(dir.path(), command), 4, &["there is no device below", "shoal-guard supervise --root"]);
    }
    let o = agent(dir.path(), &["doctor"]);
    fails(&o, 1, &["checks failed"]);
    assert!(String::from_utf8_lossy(&o.stdout).contains("FAILED device"));
}

/// `FAILED`, `warn` or `ok` of each check that the installer made here.
fn installers_words() -> Vec<(String, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/install.sh");
    let out = Command::new("sh").args([script, "--check-only"]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    // Hints are indented.
    let lines = text.lines().filter(|line| !line.starts_with(' '));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let state = words.next()?.to_lowercase();
            Some((words.next()?.to_owned(), state))
        })
        .collect()
}

#[test]
fn doctor_and_the_installer_say_the_same_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let o = agent(dir.path(), &["doctor", "--output", "json"]);
    let all: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    let own: Vec<(String, String)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["id"].as_str().unwrap().to_owned(), c["state"].as_str().unwrap().to_owned()))
        .collect();
    let installers = installers_words();
    assert_eq!(installers.len(), 12, "{installers:?}");
    assert_eq!(own[..12], installers);
    let failed = all.as_array().unwrap().iter().find(|c| c["state"] == "failed").unwrap();
    assert!(failed["hint"].as_str().unwrap().contains("shoal-guard supervise"), "{failed}");
}

#[test]
fn logs_of_what_never_ran_here_say_so() {
    let dir = tempfile::tempdir().unwrap();
    fails(&agent(dir.path(), &["logs", "web"]), 1, &["no log of deployment \"web\"", "shoal-agent ps -a"]);
}

#[test]
fn logs_come_from_the_revision_that_wrote_last_without_the_format_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |pod: &str, text: &str| {
        let folder = dir.path().join("var/log/shoal/pods").join(pod).join("main");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("1.log"), format!("2026-01-01T00:00:00.000000000Z stdout F {text}\n"))
            .unwrap();
    };
    write("web_aaaaaaaaaaaa", "old");
    std::thread::sleep(std::time::Duration::from_millis(20));
    write("web_bbbbbbbbbbbb", "new");
    write("web-2_cccccccccccc", "another deployment");
    let o = agent(dir.path(), &["logs", "web"]);
    assert_eq!(String::from_utf8_lossy(&o.stdout), "new\n", "{}", stderr(&o));
    let o = agent(dir.path(), &["logs", "web", "-t", "--container", "main"]);
    assert_eq!(String::from_utf8_lossy(&o.stdout), "2026-01-01T00:00:00.000000000Z stdout new\n");
    let o = agent(dir.path(), &["logs", "web", "--output", "json"]);
    let value: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!((value["text"].as_str(), value["container"].as_str()), (Some("new"), Some("main")));
}

#[test]
fn a_second_agent_on_the_same_state_folder_names_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("var/lib/shoal/agent");
    std::fs::create_dir_all(&state).unwrap();
    let lock = std::fs::File::create(state.join("agent.lock")).unwrap();
    lock.lock().unwrap();
    fails(&agent(dir.path(), &["run"]), 4, &["already runs on", "one identity"]);
    drop(lock);
    fails(&agent(dir.path(), &["run"]), 4, &["not enrolled", "shoal-agent enroll JOINFILE"]);
}

#[test]
fn another_users_state_folder_is_usage_unless_uid_0() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("var/lib/shoal/agent");
    std::fs::create_dir_all(&state).unwrap();
    if std::os::unix::fs::chown(&state, Some(76_000), Some(76_000)).is_err() {
        // Not uid 0: the folder of uid 0 is the other user's.
        fails(&agent(Path::new("/"), &["run"]), 4, &["there is no device"]);
        return;
    }
    // As uid 0 it drops to the folder's owner, who may then lack the way into the folder above.
    std::os::unix::fs::chown(dir.path(), Some(76_000), Some(76_000)).unwrap();
    fails(&agent(dir.path(), &["run"]), 4, &["not enrolled"]);
    let lock = std::fs::metadata(state.join("agent.lock")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&lock), 76_000, "the lock was taken after the drop");
}
