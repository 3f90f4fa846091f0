//! What a guest is given: arguments, environment, folders and nothing else. With the example programs of `deploy/apps`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use shoal_ipc::{CompileResult, EndRecord, Spec};
use std::fs;
use std::path::{Path, PathBuf};
use support::{Ran, compile, folder, run, spec};

fn example(scratch: &Path, edit: impl FnOnce(&mut Spec)) -> Ran {
    let module =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/apps/prebuilt/wasi_example_main.wasm");
    let result = compile(&fs::read(module).unwrap(), scratch);
    assert!(matches!(result, CompileResult::Done { .. }), "{result:?}");
    let mut spec = spec(&scratch.join("out.so"));
    edit(&mut spec);
    run(&spec)
}

fn dirs() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (scratch, root) = (dir.path().join("scratch"), dir.path().join("root"));
    fs::create_dir(&scratch).unwrap();
    fs::create_dir(&root).unwrap();
    (dir, scratch, root)
}

#[test]
fn the_example_sees_its_arguments_and_environment_and_makes_its_file() {
    let (_dir, scratch, root) = dirs();
    let ran = example(&scratch, |s| {
        s.argv = ["/wasi_example_main.wasm", "1000", "two words"].map(String::from).to_vec();
        s.env = vec!["GREETING=hello there".into(), "EMPTY=".into()];
        s.preopens = vec![folder("/", &root, false)];
    });
    assert_eq!(ran.end, Some(EndRecord::Exit { code: 0 }), "{ran:?}");
    let out = ran.stdout();
    for line in [
        "GREETING: hello there",
        "EMPTY: ",
        "two words",
        "File content is This is in a file",
        "after 1000 rounds",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "the example deletes its file");
}

#[test]
fn a_read_only_folder_and_no_folder_at_all_refuse_the_file() {
    let (_dir, scratch, root) = dirs();
    for preopens in [vec![folder("/", &root, true)], Vec::new()] {
        let ran = example(&scratch, |s| s.preopens = preopens);
        assert_eq!(ran.end, Some(EndRecord::Exit { code: 1 }), "{ran:?}");
        assert!(ran.stderr().contains("cannot create"), "{ran:?}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }
}

#[test]
fn relative_paths_begin_in_the_working_directory() {
    let (_dir, scratch, root) = dirs();
    fs::create_dir(root.join("etc")).unwrap();
    // `/` refuses writing, so the file can only be made where the mount is.
    let work = root.parent().unwrap().join("work");
    fs::create_dir(&work).unwrap();
    let ran = example(&scratch, |s| {
        s.preopens = vec![folder("/", &root, true), folder("/srv", &work, false)];
        s.working_dir = "/srv".into();
    });
    assert_eq!(ran.end, Some(EndRecord::Exit { code: 0 }), "{ran:?}");
}

#[test]
fn c1_a_link_out_of_a_folder_is_not_followed() {
    let (_dir, scratch, root) = dirs();
    let outside = root.parent().unwrap().join("outside");
    fs::write(&outside, "untouched").unwrap();
    std::os::unix::fs::symlink(&outside, root.join("tmp.txt")).unwrap();
    let ran = example(&scratch, |s| s.preopens = vec![folder("/", &root, false)]);
    assert_eq!(ran.end, Some(EndRecord::Exit { code: 1 }), "{ran:?}");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
}

#[test]
fn the_engine_gives_every_function_that_the_allow_list_names() {
    // name: parameters, results; `i` is i32, `I` is i64 (WASI snapshot preview 1).
    let functions = "args_get:ii args_sizes_get:ii environ_get:ii environ_sizes_get:ii clock_res_get:ii clock_time_get:iIi \
        fd_advise:iIIi fd_allocate:iII fd_close:i fd_datasync:i fd_fdstat_get:ii fd_fdstat_set_flags:ii \
        fd_fdstat_set_rights:iII fd_filestat_get:ii fd_filestat_set_size:iI fd_filestat_set_times:iIIi fd_pread:iiiIi \
        fd_prestat_get:ii fd_prestat_dir_name:iii fd_pwrite:iiiIi fd_read:iiii fd_readdir:iiiIi fd_renumber:ii fd_seek:iIii \
        fd_sync:i fd_tell:ii fd_write:iiii path_create_directory:iii path_filestat_get:iiiii path_filestat_set_times:iiiiIIi \
        path_link:iiiiiii path_open:iiiiiIIii path_readlink:iiiiii path_remove_directory:iii path_rename:iiiiii \
        path_symlink:iiiii path_unlink_file:iii poll_oneoff:iiii proc_raise:i sched_yield: random_get:ii";
    let imports: Vec<String> = functions
        .split_whitespace()
        .map(|f| {
            let (name, parameters) = f.split_once(':').unwrap();
            let types: Vec<&str> = parameters.chars().map(|c| if c == 'I' { "i64" } else { "i32" }).collect();
            let parameters =
                if types.is_empty() { String::new() } else { format!("(param {})", types.join(" ")) };
            format!(r#"(import "wasi_snapshot_preview1" "{name}" (func {parameters} (result i32)))"#)
        })
        .collect();
    let text =
        format!(r#"(module {} (memory (export "memory") 1) (func (export "_start")))"#, imports.join("\n"));
    assert_eq!(support::run_text(&text, |_| {}).end, Some(EndRecord::Exit { code: 0 }));
}
