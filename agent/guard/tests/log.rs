//! What containers print, on its way into files that others move, rotate and lose the writer of.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, Fleet, as_agent, needs_runner, nothing_is_left, stage_and_compile, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use shoal_ipc::Digest as Id;
use shoal_protocol::v1::Resources;
use std::fs;
use std::path::{Path, PathBuf};

/// Prints a number of eight digits that rises, and waits for so many milliseconds, for ever.
fn counts(ms: u32) -> Vec<u8> {
    let text = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $n i32) (local $v i32) (local $at i32)
          (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 9))
          (i32.store8 (i32.const 108) (i32.const 10))
          (i32.store (i32.const 272) (i32.const 1)) (i64.store (i32.const 280) (i64.const {}))
          (loop $next
            (local.set $v (local.get $n)) (local.set $at (i32.const 107))
            (loop $digit
              (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $v) (i32.const 10))))
              (local.set $v (i32.div_u (local.get $v) (i32.const 10)))
              (local.set $at (i32.sub (local.get $at) (i32.const 1)))
              (br_if $digit (i32.ge_u (local.get $at) (i32.const 100))))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (drop (call $poll (i32.const 256) (i32.const 1024) (i32.const 1) (i32.const 1100)))
            (br $next))))"#,
        u64::from(ms) * 1_000_000
    );
    wat::parse_str(text).unwrap()
}

struct Counting {
    device: Device,
    ticket: Id,
    log: PathBuf,
    pid: u32,
}

impl Counting {
    fn start(policy: &str, ms: u32) -> Self {
        let (device, fleet) = (Device::start_with(policy), Fleet::new(10));
        fleet.enroll(&device);
        let module = counts(ms);
        let d = fleet.pod("counts", 1, &module, Resources::default());
        let ticket = fleet.roll_out(&device, 1, &d);
        stage_and_compile(&device, ticket, &d, &module);
        let pid = device.supervise().start(ticket, 0, 1).unwrap().pid;
        let log = device.layout.log_file("counts", &ticket, "main", 1);
        Self { device, ticket, log, pid }
    }

    fn is_running(&self) -> bool {
        self.device.supervise().list().unwrap().iter().any(|c| c.running && c.pid == self.pid)
    }

    fn finish(mut self) {
        self.device.stop_all();
        nothing_is_left(&self.device);
    }
}

/// The numbers in a log file, as whole lines of it.
fn numbers(file: &Path) -> Vec<u64> {
    let text = as_agent(|| fs::read_to_string(file)).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    whole.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

fn wait_for_more(file: &Path, than: usize) -> usize {
    wait_for("more lines", || Some(numbers(file).len()).filter(|n| *n > than + 2))
}

#[test]
fn a_reopened_log_goes_on_in_a_new_file_and_no_line_is_lost_or_written_twice() {
    if needs_runner("a_reopened_log_goes_on_in_a_new_file_and_no_line_is_lost_or_written_twice") {
        return;
    }
    let run = Counting::start("", 10);
    wait_for_more(&run.log, 0);
    // As logrotate does it: moved away first. Until it is told, log goes on with the file that it has.
    let moved = run.log.with_extension("moved");
    fs::rename(&run.log, &moved).unwrap();
    let before = numbers(&moved).len();
    wait_for_more(&moved, before);
    assert!(!run.log.exists());
    run.device.supervise().reopen_log(run.ticket, 0).unwrap();
    wait_for_more(&run.log, 0);
    let old = numbers(&moved);
    wait_for_more(&run.log, numbers(&run.log).len());
    assert_eq!(numbers(&moved), old, "nothing more is written into the file that was moved away");
    // Again without a move: the same file is continued.
    run.device.supervise().reopen_log(run.ticket, 0).unwrap();
    wait_for_more(&run.log, numbers(&run.log).len());
    let all: Vec<u64> = old.into_iter().chain(numbers(&run.log)).collect();
    assert!(all.iter().copied().eq(0..all.len() as u64), "{all:?}");
    // What does not run has no log to open.
    let mut s = run.device.supervise();
    s.stop(run.ticket, None, std::time::Duration::ZERO).unwrap();
    wait_for("its end", || s.list().unwrap().iter().all(|c| !c.running).then_some(()));
    assert_eq!(s.reopen_log(run.ticket, 0).unwrap_err().refusal(), Some("conflict"));
    run.finish();
}

#[test]
fn c2_size_and_number_of_log_files_hold_before_and_after_one_is_reopened() {
    if needs_runner("c2_size_and_number_of_log_files_hold_before_and_after_one_is_reopened") {
        return;
    }
    let run = Counting::start("[logs]\nmax_size = \"4Ki\"\nmax_files = 3\n", 1);
    let folder = run.log.parent().unwrap().to_path_buf();
    let files = || {
        let mut all: Vec<(String, u64)> = fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .filter_map(|e| Some((e.file_name().into_string().unwrap(), e.metadata().ok()?.len())))
            .collect();
        all.sort();
        all
    };
    let rotated =
        |least: u64| wait_for("rotation", || (numbers(&run.log).first().copied()? > least).then(&files));
    let hold = |all: &[(String, u64)]| {
        let names: Vec<&str> = all.iter().map(|f| f.0.as_str()).filter(|n| !n.ends_with("moved")).collect();
        assert_eq!(names, ["1.log", "1.log.1", "1.log.2"]);
        assert!(all.iter().all(|(_, size)| *size <= 4096), "{all:?}");
    };
    // Three files of about 80 lines have come and gone.
    hold(&rotated(400));
    fs::rename(&run.log, run.log.with_extension("moved")).unwrap();
    run.device.supervise().reopen_log(run.ticket, 0).unwrap();
    wait_for("the new file", || run.log.exists().then_some(()));
    let here = wait_for("a line", || numbers(&run.log).first().copied());
    hold(&rotated(here + 400));
    assert!(run.log.with_extension("moved").exists(), "whoever moved a file away keeps it");
    run.finish();
}

#[test]
fn f6_with_log_and_admit_killed_the_container_goes_on_and_its_lines_too() {
    if needs_runner("f6_with_log_and_admit_killed_the_container_goes_on_and_its_lines_too") {
        return;
    }
    let run = Counting::start("", 10);
    wait_for_more(&run.log, 0);
    let before = run.device.status();
    for pid in [before.log_pid, before.admit_pid] {
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    }
    let after = wait_for("both again", || {
        let now = run.device.status();
        let both = now.log_running && now.admit_running;
        (both && now.log_pid != before.log_pid && now.admit_pid != before.admit_pid).then_some(now)
    });
    assert_ne!(after.log_pid, 0);
    wait_for_more(&run.log, numbers(&run.log).len());
    assert!(run.is_running(), "no pipe broke");
    let all = numbers(&run.log);
    assert!(all.is_sorted() && all.windows(2).all(|w| w[1] > w[0]), "no line comes twice: {all:?}");
    // What log had read and not written yet is gone with it: less than a pipe's read, and no more.
    let lost = all.last().unwrap() + 1 - all.len() as u64;
    assert!(lost < 16, "{lost} lines were lost");
    run.finish();
}
