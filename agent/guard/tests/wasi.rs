//! The harmless twin of every attempt to escape: what WASI offers a guest works behind all walls, call by call.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, Fleet, as_agent, ended, needs_runner, nothing_is_left, stage_and_compile};
use shoal_ipc::{Cause, EventStream};
use shoal_protocol::v1::Resources;
use std::fmt::Write as _;

/// Types of the functions that are used, as WASI preview 1 has them.
const FUNCTIONS: [(&str, &str); 34] = [
    ("args_get", "i32 i32"),
    ("args_sizes_get", "i32 i32"),
    ("clock_res_get", "i32 i32"),
    ("clock_time_get", "i32 i64 i32"),
    ("environ_get", "i32 i32"),
    ("environ_sizes_get", "i32 i32"),
    ("fd_advise", "i32 i64 i64 i32"),
    ("fd_allocate", "i32 i64 i64"),
    ("fd_close", "i32"),
    ("fd_datasync", "i32"),
    ("fd_fdstat_get", "i32 i32"),
    ("fd_fdstat_set_flags", "i32 i32"),
    ("fd_filestat_get", "i32 i32"),
    ("fd_filestat_set_size", "i32 i64"),
    ("fd_filestat_set_times", "i32 i64 i64 i32"),
    ("fd_pread", "i32 i32 i32 i64 i32"),
    ("fd_prestat_get", "i32 i32"),
    ("fd_pwrite", "i32 i32 i32 i64 i32"),
    ("fd_read", "i32 i32 i32 i32"),
    ("fd_readdir", "i32 i32 i32 i64 i32"),
    ("fd_seek", "i32 i64 i32 i32"),
    ("fd_sync", "i32"),
    ("fd_tell", "i32 i32"),
    ("fd_write", "i32 i32 i32 i32"),
    ("path_create_directory", "i32 i32 i32"),
    ("path_filestat_get", "i32 i32 i32 i32 i32"),
    ("path_filestat_set_times", "i32 i32 i32 i32 i64 i64 i32"),
    ("path_link", "i32 i32 i32 i32 i32 i32 i32"),
    ("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32"),
    ("path_readlink", "i32 i32 i32 i32 i32 i32"),
    ("path_rename", "i32 i32 i32 i32 i32 i32"),
    ("path_symlink", "i32 i32 i32 i32 i32"),
    ("path_unlink_file", "i32 i32 i32"),
    ("poll_oneoff", "i32 i32 i32 i32"),
];

/// Names at 0: `d`, `d/a`, `d/b`, `d/c`, `d/s`, `a`, each 8 bytes apart. An iovec at 64 names 8 bytes at 128. What calls
/// write goes from 1024 on; the opened descriptor to 512. `F` is that descriptor.
const STEPS: [&str; 44] = [
    "args_sizes_get 1024 1028",
    "args_get 1024 2048",
    "environ_sizes_get 1024 1028",
    "environ_get 1024 2048",
    "fd_prestat_get 3 1024",
    "clock_res_get 1 1024",
    "clock_time_get 1 0 1024",
    "random_get 1024 8",
    "sched_yield",
    "poll_oneoff 256 1024 1 1100",
    "path_create_directory 3 0 1",
    "path_open 3 0 8 3 1 0xfffffff 0xfffffff 0 512",
    "fd_write F 64 1 1024",
    "fd_allocate F 0 64",
    "fd_advise F 0 0 0",
    "fd_datasync F",
    "fd_sync F",
    "fd_seek F 0 0 1024",
    "fd_read F 64 1 1024",
    "fd_pwrite F 64 1 4 1024",
    "fd_pread F 64 1 4 1024",
    "fd_tell F 1024",
    "fd_filestat_get F 1024",
    "fd_filestat_set_size F 16",
    "fd_filestat_set_times F 0 0 10",
    "fd_fdstat_get F 1024",
    "fd_fdstat_set_flags F 1",
    "fd_write F 64 1 1024",
    "fd_close F",
    "path_filestat_get 3 0 8 3 1024",
    "path_filestat_set_times 3 0 8 3 0 0 10",
    "path_link 3 0 8 3 3 16 3",
    "path_rename 3 16 3 3 24 3",
    "path_symlink 40 1 3 32 3",
    "path_readlink 3 32 3 1024 64 1100",
    "path_open 3 0 0 1 2 0x4000 0x4000 0 512",
    "fd_readdir F 1024 512 0 1600",
    "fd_close F",
    "path_unlink_file 3 32 3",
    "path_unlink_file 3 24 3",
    "path_unlink_file 3 8 3",
    "path_remove_directory 3 0 1",
    "fd_fdstat_get 1 1024",
    "fd_filestat_get 1 1024",
];

/// A guest that makes every call in turn and exits with the number of the first that fails, or 0.
fn guest() -> Vec<u8> {
    let more = [("path_remove_directory", "i32 i32 i32"), ("random_get", "i32 i32"), ("sched_yield", "")];
    let all: Vec<(&str, &str)> = FUNCTIONS.into_iter().chain(more).collect();
    let mut text = String::from("(module\n");
    for (name, types) in &all {
        let params = if types.is_empty() { String::new() } else { format!("(param {types})") };
        writeln!(text, "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} {params} (result i32)))")
            .unwrap();
    }
    text.push_str(
        "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))\n(memory (export \"memory\") 1)\n",
    );
    for (at, name) in ["d", "d/a", "d/b", "d/c", "d/s", "a"].iter().enumerate() {
        writeln!(text, "(data (i32.const {}) \"{name}\")", at * 8).unwrap();
    }
    // An iovec, eight bytes for it, and a subscription: the clock 1, for a millisecond.
    text.push_str("(data (i32.const 64) \"\\80\\00\\00\\00\\08\")\n(data (i32.const 128) \"contents\")\n");
    text.push_str("(data (i32.const 272) \"\\01\") (data (i32.const 280) \"\\40\\42\\0f\")\n");
    text.push_str("(func $check (param i32 i32) (if (local.get 0) (then (call $exit (local.get 1)))))\n");
    text.push_str("(func (export \"_start\")\n");
    for (at, step) in STEPS.iter().enumerate() {
        let mut words = step.split(' ');
        let name = words.next().unwrap();
        let types = all.iter().find(|(n, _)| *n == name).unwrap().1;
        let value = |(word, kind): (&str, &str)| match word {
            "F" => "(i32.load (i32.const 512))".to_owned(),
            number => format!("({kind}.const {number})"),
        };
        let values: Vec<String> = words.zip(types.split(' ')).map(value).collect();
        writeln!(text, "(call $check (call ${name} {}) (i32.const {}))", values.join(" "), at + 1).unwrap();
    }
    text.push_str("(call $exit (i32.const 0))))");
    wat::parse_str(text).unwrap()
}

#[test]
fn c4_twin_every_call_of_wasi_works_in_a_container() {
    if needs_runner("c4_twin_every_call_of_wasi_works_in_a_container") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let module = guest();
    let d = fleet.pod("calls", 1, &module, Resources::default());
    let ticket = fleet.roll_out(&device, 1, &d);
    stage_and_compile(&device, ticket, &d, &module);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    // For `strace -f -p` on the zygote, when the list of system calls is measured anew.
    if let Some(pause) = std::env::var_os("SHOAL_PAUSE") {
        wait_for_file(&pause, device.status().zygote_pid);
    }
    device.supervise().start(ticket, 0, 1).unwrap();
    let cause = ended(&mut events).cause;
    let failed = |code: u32| STEPS.get(usize::try_from(code).unwrap().wrapping_sub(1));
    if let Some(Cause::Exited { code }) = cause {
        assert_eq!(code, 0, "{:?} failed", failed(code));
    }
    assert_eq!(cause, Some(Cause::Exited { code: 0 }));
    device.stop_all();
    nothing_is_left(&device);
}

/// Writes the zygote's number and waits until somebody has taken the file away.
fn wait_for_file(path: &std::ffi::OsStr, zygote: u32) {
    std::fs::write(path, zygote.to_string()).unwrap();
    common::wait_for("whoever measures", || (!std::path::Path::new(path).exists()).then_some(()));
}
