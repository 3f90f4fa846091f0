//! `shoal demo`: the whole story from programs in one folder, and nothing of it stays, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, wait_until};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder for temporary files in which nothing may stay.
fn open_tmp() -> tempfile::TempDir {
    let dir = open_dir();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    dir
}

fn demo(tmp: &Path, args: &[&str]) -> Command {
    let bins = binaries();
    let mut command = Command::new(bins.path("shoal"));
    command.arg("demo").args(args).env("TMPDIR", tmp).env("SHOAL_LIBEXEC", bins.dir());
    command
}

/// Files, mounts and processes that have this folder in their names.
fn left(tmp: &Path) -> Vec<String> {
    let mut left: Vec<String> =
        std::fs::read_dir(tmp).unwrap().flatten().map(|e| e.path().display().to_string()).collect();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        if text.contains(utf8(tmp)) {
            left.push(text);
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    left.extend(mounts.lines().filter(|m| m.contains(utf8(tmp))).map(str::to_owned));
    left
}

fn nothing_stays(tmp: &Path) {
    wait_until("nothing to be left", LONG, || Ok(left(tmp).is_empty().then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}: {:#?}", left(tmp)));
}

/// The one folder of a demo.
fn only_folder(tmp: &Path) -> Option<PathBuf> {
    std::fs::read_dir(tmp).unwrap().flatten().next().map(|e| e.path())
}

#[test]
fn the_demo_shows_the_main_job_and_two_refusals_and_leaves_nothing() {
    if needs_root("the_demo_shows_the_main_job_and_two_refusals_and_leaves_nothing") {
        return;
    }
    let tmp = open_tmp();
    let done = Finished::of(&mut demo(tmp.path(), &[])).unwrap();
    let said = done.ok().unwrap();
    for words in
        ["[6/6]", "seq=", "sensor", "refused, bad_signature", "refused, unknown_key", "nothing is left"]
    {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    assert!(left(tmp.path()).is_empty(), "{:#?}", left(tmp.path()));
}

#[test]
fn another_user_sees_it_without_limits() {
    if needs_root("another_user_sees_it_without_limits") {
        return;
    }
    let tmp = open_tmp();
    let done = Finished::of(demo(tmp.path(), &[]).uid(65_534).gid(65_534)).unwrap();
    assert!(done.stderr.contains("not root"), "{}", done.stderr);
    let said = done.ok().unwrap();
    assert!(said.contains("refused, bad_signature") && said.contains("nothing is left"), "{said}");
    nothing_stays(tmp.path());
}

#[test]
fn a_demo_that_is_killed_leaves_nothing() {
    if needs_root("a_demo_that_is_killed_leaves_nothing") {
        return;
    }
    let tmp = open_tmp();
    let mut child = demo(tmp.path(), &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the device to be there", LONG, || {
        let folder = only_folder(tmp.path());
        Ok(folder.filter(|f| f.join("device/run/shoal/supervise-root.sock").exists()).map(drop))
    })
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_stays(tmp.path());
}

#[test]
fn a_demo_that_is_kept_runs_on_until_it_is_stopped() {
    if needs_root("a_demo_that_is_kept_runs_on_until_it_is_stopped") {
        return;
    }
    let tmp = open_tmp();
    let said = Finished::of(&mut demo(tmp.path(), &["--keep"])).unwrap().ok().unwrap();
    assert!(said.contains("shoal demo --stop"), "{said}");
    let folder = only_folder(tmp.path()).unwrap();
    let mut get = Command::new(binaries().path("shoal"));
    get.args(["get", "pods"]).env("SHOAL_HOME", folder.join("operator"));
    assert!(Finished::of(&mut get).unwrap().ok().unwrap().contains("sensor"));
    Finished::of(&mut demo(tmp.path(), &["--stop", utf8(&folder)])).unwrap().ok().unwrap();
    nothing_stays(tmp.path());
}
