//! Starts the real runner as supervise does: through the engine's own loader, with its two descriptors.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses its own part")]

use shoal_ipc::{
    CompileResult, EndRecord, Entry, Preopen, ProofRecord, Spec, answer_area, read_area, sealed_memfd,
};
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What came of one run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: Option<EndRecord>,
    pub(crate) output: Output,
}

impl Ran {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

fn runner(verb: &str, folder: &str) -> Command {
    let dir = std::env::var_os(folder).map(PathBuf::from);
    let binary = Path::new(env!("CARGO_BIN_EXE_shoal-runner"));
    let words = shoal_ipc::EngineDirs::command(dir.as_deref(), binary);
    let mut command = Command::new("/bin/sh");
    // The shell puts the descriptors in place: 3 to read, 4 to write.
    command.args(["-c", r#"exec timeout 60 "$@" 3<"$TASK" 4<>"$ANSWER""#, "sh"]).args(words).arg(verb);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

fn start(mut command: Command, task: &Path) -> (Output, Vec<u8>) {
    let area: OwnedFd = answer_area().unwrap();
    let output = command.env("TASK", task).env("ANSWER", path_of(&area)).output().unwrap();
    (output, read_area(&area))
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

/// Compiles `module` in `scratch`.
pub(crate) fn compile(module: &[u8], scratch: &Path) -> CompileResult {
    make("compile", "SHOAL_ENGINE_COMPILE", module, scratch)
}

/// Makes `module` ready for the interpreter in `scratch`, with the engine that has no compiler.
pub(crate) fn strip(module: &[u8], scratch: &Path) -> CompileResult {
    make("strip", "SHOAL_ENGINE_RUN", module, scratch)
}

fn make(verb: &str, folder: &str, module: &[u8], scratch: &Path) -> CompileResult {
    let task = scratch.join("module");
    fs::write(&task, module).unwrap();
    let mut command = runner(verb, folder);
    command.current_dir(scratch);
    let (output, area) = start(command, &task);
    // What it would say, for one: that its own choice of passes was not reached.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    CompileResult::from_area(&area).unwrap_or_else(|| panic!("no answer: {output:?}"))
}

/// Compares the corpus in `scratch`.
pub(crate) fn prove(scratch: &Path) -> ProofRecord {
    let mut command = runner("prove", "SHOAL_ENGINE_COMPILE");
    command.current_dir(scratch);
    let (output, area) = start(command, Path::new("/dev/null"));
    ProofRecord::from_area(&area).unwrap_or_else(|| panic!("no answer: {output:?}"))
}

/// A spec for code at `code` with nothing granted.
pub(crate) fn spec(code: &Path) -> Spec {
    Spec {
        version: shoal_ipc::VERSION,
        code: code.to_str().unwrap().to_owned(),
        argv: vec!["/app.wasm".into()],
        env: Vec::new(),
        preopens: Vec::new(),
        working_dir: "/".into(),
        wasm_pages: None,
        interpreter: false,
        entry: Entry::Start,
        start_function: false,
    }
}

/// A folder granted under `guest`.
pub(crate) fn folder(guest: &str, host: &Path, read_only: bool) -> Preopen {
    Preopen { guest: guest.into(), host: host.to_str().unwrap().into(), read_only }
}

/// Runs what `spec` says.
pub(crate) fn run(spec: &Spec) -> Ran {
    run_as("run", spec)
}

/// The same behind a trial's walls.
pub(crate) fn try_out(spec: &Spec) -> Ran {
    run_as("trial", spec)
}

fn run_as(verb: &str, spec: &Spec) -> Ran {
    let task = sealed_memfd(&spec.encode()).unwrap();
    let (output, area) = start(runner(verb, "SHOAL_ENGINE_RUN"), &path_of(&task));
    Ran { end: EndRecord::from_area(&area), output }
}

/// Compiles a text module and runs it, changed by `edit`.
pub(crate) fn run_text(text: &str, edit: impl FnOnce(&mut Spec)) -> Ran {
    let scratch = tempfile::tempdir().unwrap();
    let result = compile(&wat::parse_str(text).unwrap(), scratch.path());
    assert!(matches!(result, CompileResult::Done { .. }), "{result:?}");
    let mut spec = spec(&scratch.path().join("out.so"));
    edit(&mut spec);
    run(&spec)
}
