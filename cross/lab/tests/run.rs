//! `shoal run` on an operator's machine: as root and as another user, to the end, to a limit, to Ctrl-C and to kill -9; and
//! nothing of it stays.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, wait_until};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const NOBODY: u32 = 65_534;

/// Says `out` and `err` on its streams, without an end of line, and exits with 3.
const SPEAKS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "outerr")
  (func $say (param $fd i32) (param $at i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (i32.const 3))
    (drop (call $w (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 100))))
  (func (export "_start")
    (call $say (i32.const 1) (i32.const 8)) (call $say (i32.const 2) (i32.const 11))
    (call $exit (i32.const 3))))"#;

/// One user's place: modules, home, and a folder for temporary files in which nothing may stay.
struct Place {
    dir: TempDir,
    uid: Option<u32>,
}

impl Place {
    fn new(uid: Option<u32>) -> Self {
        let dir = open_dir();
        for name in ["home", "tmp"] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, uid, uid).unwrap();
            // The guard's own users pass through.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir, uid }
    }

    fn module(&self, wat: &str) -> PathBuf {
        let path = self.dir.path().join("app.wasm");
        std::fs::write(&path, wat::parse_str(wat).unwrap()).unwrap();
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let bins = binaries();
        let mut command = match self.uid {
            None => Command::new(bins.path("shoal")),
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
                command.arg(bins.path("shoal"));
                command
            }
        };
        command.arg("run").args(args).current_dir(self.dir.path());
        command.env("HOME", self.dir.path().join("home")).env("TMPDIR", self.dir.path().join("tmp"));
        command.env_remove("XDG_CACHE_HOME").env("SHOAL_LIBEXEC", bins.dir());
        command
    }

    fn run(&self, args: &[&str]) -> Finished {
        Finished::of(&mut self.command(args)).unwrap()
    }

    /// Waits until no folder, process or group of `shoal run` is left.
    fn nothing_stays(&self) {
        let tmp = self.dir.path().join("tmp");
        let left = || -> Vec<String> {
            let mut left: Vec<String> =
                std::fs::read_dir(&tmp).unwrap().flatten().map(|e| e.path().display().to_string()).collect();
            for process in std::fs::read_dir("/proc").unwrap().flatten() {
                let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                let text = String::from_utf8_lossy(&line).replace('\0', " ");
                if text.contains(utf8(&tmp)) {
                    left.push(text);
                }
            }
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
            left.extend(mounts.lines().filter(|m| m.contains(utf8(&tmp))).map(str::to_owned));
            left
        };
        wait_until("nothing to be left", LONG, || Ok(left().is_empty().then_some(())))
            .unwrap_or_else(|e| panic!("{e:#}: {:#?}", left()));
    }
}

fn no_groups(pid: u32) {
    let name = format!("shoal-run-{pid}");
    assert!(shoal_lab::cgroups::named(&name).is_empty(), "groups of {name} stay");
}

#[test]
fn the_modules_words_and_exit_code_are_the_commands_own() {
    if needs_root("the_modules_words_and_exit_code_are_the_commands_own") {
        return;
    }
    let place = Place::new(None);
    let app = place.module(SPEAKS);
    let first = place.run(&[utf8(&app)]);
    assert_eq!((first.code, first.stdout.as_str()), (Some(3), "out"), "{}", first.stderr);
    assert!(first.stderr.contains("needs: streams, process"), "{}", first.stderr);
    assert!(first.stderr.ends_with("err"), "{}", first.stderr);
    assert!(!first.stderr.contains("unconfined"), "{}", first.stderr);
    place.nothing_stays();
    // The second time nothing is compiled: there is no compiler to do it.
    let engine = place.dir.path().join("engine");
    std::fs::create_dir(&engine).unwrap();
    std::os::unix::fs::symlink(binaries().dir().join("engine/run"), engine.join("run")).unwrap();
    let again = Finished::of(place.command(&["-q", utf8(&app)]).env("SHOAL_ENGINE_DIR", &engine)).unwrap();
    assert_eq!((again.code, again.stdout.as_str(), again.stderr.as_str()), (Some(3), "out", "err"));
    let other = place.module(TRAPS);
    let absent = Finished::of(place.command(&["-q", utf8(&other)]).env("SHOAL_ENGINE_DIR", &engine)).unwrap();
    assert_eq!(absent.code, Some(3));
    assert!(absent.stderr.contains("compiler_absent"), "{}", absent.stderr);
    place.nothing_stays();
}

#[test]
fn another_user_runs_it_too_and_is_told_what_is_missing() {
    let test = "another_user_runs_it_too_and_is_told_what_is_missing";
    if needs_root(test) {
        return;
    }
    let place = Place::new(Some(NOBODY));
    let app = place.module(SPEAKS);
    let done = place.run(&[utf8(&app)]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(3), "out"), "{}", done.stderr);
    assert!(done.stderr.contains("unconfined"), "{}", done.stderr);
    let limited = place.run(&["--memory", "64Mi", utf8(&app)]);
    assert_eq!(limited.code, Some(3));
    assert!(limited.stderr.contains("kernel_unsupported"), "{}", limited.stderr);
    place.nothing_stays();
}

#[test]
fn c2_a_module_ends_at_its_limits_and_the_end_says_which() {
    if needs_root("c2_a_module_ends_at_its_limits_and_the_end_says_which") {
        return;
    }
    let place = Place::new(None);
    let eats = place.module(EATS_MEMORY);
    let killed = place.run(&["--memory", "24Mi", utf8(&eats)]);
    assert_eq!(killed.code, Some(137), "{}", killed.stderr);
    assert!(killed.stderr.contains("oom_killed"), "{}", killed.stderr);
    let own = place.run(&["--pages", "16", utf8(&eats)]);
    assert_eq!(own.code, Some(134), "{}", own.stderr);
    assert!(own.stderr.contains("guest_memory"), "{}", own.stderr);
    let spins = place.module(SPINS);
    let late = place.run(&["--timeout", "1s", "--cpus", "200m", utf8(&spins)]);
    assert_eq!(late.code, Some(124), "{}", late.stderr);
    let traps = place.module(TRAPS);
    let trapped = place.run(&[utf8(&traps)]);
    assert_eq!(trapped.code, Some(134), "{}", trapped.stderr);
    place.nothing_stays();
}

#[test]
fn ctrl_c_and_kill_9_leave_nothing_behind() {
    if needs_root("ctrl_c_and_kill_9_leave_nothing_behind") {
        return;
    }
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let place = Place::new(None);
        let app = place.module(&SPINS.replace(
            "(func (export \"_start\") (local $n i64)",
            "(func (export \"_start\") (local $n i64) (call $hello)",
        ).replace(
            "(module (memory (export \"memory\") 1)",
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1) (data (i32.const 64) "hi\n")
            (func $hello (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 3))
              (drop (call $w (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32))))"#,
        ));
        let mut child = place
            .command(&["-q", utf8(&app)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It is under way once its first word is here, long before its end.
        let mut word = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
        assert_eq!(&word, b"hi\n");
        let pid = child.id();
        let process = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(process, signal).unwrap();
        let status = child.wait().unwrap();
        if signal == rustix::process::Signal::INT {
            assert_eq!(status.code(), Some(130));
        }
        place.nothing_stays();
        no_groups(pid);
    }
}

#[test]
fn a_granted_folder_is_there_read_only_when_asked_for() {
    if needs_root("a_granted_folder_is_there_read_only_when_asked_for") {
        return;
    }
    let place = Place::new(None);
    let app =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/apps/prebuilt/wasi_example_main.wasm");
    let data = place.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777)).unwrap();
    let grant = format!("{}:/data", utf8(&data));
    let run = |grant: &str| {
        place.run(&["-q", "--mount", grant, "--workdir", "/data", "--env", "A=b", utf8(&app), "--", "1000"])
    };
    let done = run(&grant);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("A: b") && done.stdout.contains("1000"), "{}", done.stdout);
    assert!(done.stdout.contains("File content is This is in a file"), "{}", done.stdout);
    assert_ne!(run(&format!("{grant}:ro")).code, Some(0), "it writes a file there");
    let bad = place.run(&["--mount", "data", utf8(&app)]);
    assert_eq!(bad.code, Some(2), "{}", bad.stderr);
    place.nothing_stays();
}

/// Says what it reads, to the end.
const ECHOES: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (block $end (loop $next
      (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1024))
      (br_if $end (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $end (i32.eqz (i32.load (i32.const 8))))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $next)))))"#;

#[test]
fn standard_input_is_passed_on_when_asked_for_and_ends_where_it_ends() {
    if needs_root("standard_input_is_passed_on_when_asked_for_and_ends_where_it_ends") {
        return;
    }
    let place = Place::new(None);
    let app = place.module(ECHOES);
    let words = "first line\nsecond\n".repeat(9_000);
    let input = place.dir.path().join("input");
    std::fs::write(&input, &words).unwrap();
    let run = |args: &[&str]| {
        let file = std::fs::File::open(&input).unwrap();
        let out = place.command(args).stdin(file).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, out, err) = run(&["-q", "-i", utf8(&app)]);
    assert_eq!((code, out.len()), (Some(0), words.len()), "{err}");
    assert_eq!(out, words);
    assert_eq!(run(&["-q", utf8(&app)]).1, "", "nobody asked");
    place.nothing_stays();
}

/// Serves one word at a port.
fn server(port: u16) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_bind" (func $bind (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_listen" (func $listen (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\20\00\00\00\04\00\00\00")
  (data (i32.const 48) "\40\00\00\00\05\00\00\00hello")
  (data (i32.const 64) "hello")
  (func (export "_start")
    (if (call $open (i32.const 1) (i32.const 2) (i32.const 0)) (then unreachable))
    (if (call $bind (i32.load (i32.const 0)) (i32.const 16) (i32.const {port})) (then unreachable))
    (if (call $listen (i32.load (i32.const 0)) (i32.const 4)) (then unreachable))
    (loop $next
      (if (call $accept (i32.load (i32.const 0)) (i32.const 4)) (then unreachable))
      (drop (call $send (i32.load (i32.const 4)) (i32.const 48) (i32.const 1) (i32.const 0) (i32.const 8)))
      (drop (call $close (i32.load (i32.const 4))))
      (br $next))))"#
    )
}

/// Says what it is told at a port of 127.0.0.1.
fn client(port: u16) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_connect" (func $connect (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\20\00\00\00\04\00\00\00")
  (data (i32.const 32) "\7f\00\00\01")
  (data (i32.const 48) "\80\00\00\00\05\00\00\00")
  (func (export "_start")
    (if (call $open (i32.const 1) (i32.const 2) (i32.const 0)) (then unreachable))
    (if (call $connect (i32.load (i32.const 0)) (i32.const 16) (i32.const {port})) (then unreachable))
    (if (call $recv (i32.load (i32.const 0)) (i32.const 48) (i32.const 1) (i32.const 0) (i32.const 8) (i32.const 12)) (then unreachable))
    (drop (call $w (i32.const 1) (i32.const 48) (i32.const 1) (i32.const 8)))))"#
    )
}

#[test]
fn a_server_is_reached_at_its_published_port_and_its_network_goes_with_it() {
    let test = "a_server_is_reached_at_its_published_port_and_its_network_goes_with_it";
    let folders = std::env::var_os("CNI_PATH").unwrap_or_else(|| "/usr/lib/cni".into());
    let plugins = std::env::split_paths(&folders).any(|p| p.join("bridge").exists());
    if needs_root(test) {
        return;
    }
    if !plugins {
        return skipped(test, "no CNI plugins (package containernetworking-plugins)");
    }
    let place = Place::new(None);
    let (app, asks) = (place.dir.path().join("server.wasm"), place.dir.path().join("client.wasm"));
    std::fs::write(&app, wat::parse_str(server(80)).unwrap()).unwrap();
    std::fs::write(&asks, wat::parse_str(client(8080)).unwrap()).unwrap();
    let refused = place.run(&[utf8(&app)]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("import_denied") && refused.stderr.contains("sock_open"),
        "{}",
        refused.stderr
    );
    // In a network of their own, so that this machine's is not touched.
    let own = place.command(&["-q", "-p", "8080:80", utf8(&app)]);
    let mut apart = Command::new("unshare");
    apart.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(own.get_program());
    apart.args(own.get_args()).envs(own.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let serving = apart.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = serving.id().to_string();
    let answer = wait_until("an answer at the published port", LONG, || {
        let own = place.command(&["-q", "--network", "host", utf8(&asks)]);
        let mut beside = Command::new("nsenter");
        beside.args(["--target", &pid, "--net"]).arg(own.get_program());
        beside.args(own.get_args()).envs(own.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let out = beside.output()?;
        Ok(out.status.success().then_some(out.stdout))
    });
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(serving.id().cast_signed()).unwrap(),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let said = serving.wait_with_output().unwrap();
    assert_eq!(
        answer.unwrap_or_else(|e| panic!("{e:#}: {}", String::from_utf8_lossy(&said.stderr))),
        b"hello"
    );
    assert_eq!(said.status.code(), Some(130));
    place.nothing_stays();
}
