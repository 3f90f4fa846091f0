//! The only part that links WasmEdge: compiles modules and runs containers, started by supervise.
//!
//! `zygote` loads the engine once and forks every container; `compile` makes native code of one module. Never opens a
//! network, never chooses a file: code comes from the path that supervise filled.

mod child;
mod compile;
mod engine;
mod fence;
mod folders;
mod guest;
mod handover;
#[cfg(not(feature = "bundled"))]
mod pipeline;
mod prove;
mod run;
mod trial;
mod zygote;

use compile::Output;
use shoal_ipc::{CompileResult, EndRecord, ProofRecord, Spec};
use std::io::Write as _;

const USAGE: &str = "shoal-runner is started by `shoal-guard supervise`, never by hand:
  shoal-runner zygote    descriptor 3: supervise, 4: a socket for the next one; forks containers (with the device's folder as argument)
  shoal-runner run       descriptor 3: what to run, 4: how it ended
  shoal-runner compile   descriptor 3: the module, 4: the result; writes out.so into the working directory
  shoal-runner trial     as run, for a module's self-test, behind a container's walls
  shoal-runner strip     the same for the interpreter; writes out.wasm
  shoal-runner prove     descriptor 4: whether compiled and interpreted code agree; uses the working directory
  shoal-runner engine    one line that changes whenever compiled code must be made anew
  shoal-runner version";

fn main() {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // The zygote's argument is for people: it says in `ps` whose containers these are.
    let most = if arguments.first().is_some_and(|a| a == "zygote") { 2 } else { 1 };
    let verb = arguments.first().and_then(|a| a.to_str()).filter(|_| arguments.len() <= most);
    // What needs no tidying is left to the kernel: a process of its own dies faster than its engine is taken apart.
    let code = match verb {
        Some("zygote") => match zygote::run() {
            Ok(()) => 0,
            Err(e) => complain(&format!("the zygote ends: {e}"), 1),
        },
        Some("run") => run_one(|spec| run::run(spec, &mut run::Open)),
        Some("trial") => run_one(trial::run),
        Some("compile") => compile_one(Output::Native),
        Some("strip") => compile_one(Output::Stripped),
        Some("prove") => prove(),
        Some("engine") => say(&engine::line()),
        Some("version" | "--version" | "-V") => {
            say(&format!("shoal-runner {} (WasmEdge {})", env!("CARGO_PKG_VERSION"), engine::version()))
        }
        Some("help" | "--help" | "-h") => say(USAGE),
        _ => complain(USAGE, 2),
    };
    engine::exit(code)
}

/// Runs a container; the exit code is the guest's as far as 8 bits carry it, the answer is exact.
fn run_one(how: impl FnOnce(&Spec) -> EndRecord) -> i32 {
    let end = match handover::spec() {
        Ok(spec) => {
            engine::watch_log();
            how(&spec)
        }
        Err(e) => return complain(&format!("cannot read what to run: {e}"), 2),
    };
    answer(&end.encode(), exit_code(&end))
}

/// What the process ends with, beside the exact answer.
fn exit_code(end: &EndRecord) -> i32 {
    match end {
        EndRecord::Exit { code } => i32::from(code.to_le_bytes()[0]),
        EndRecord::Trap { .. } | EndRecord::GuestMemory => 134,
        EndRecord::Refused { .. } => 125,
    }
}

fn prove() -> i32 {
    let record = match fence::raise() {
        Ok(()) => prove::prove(),
        Err(detail) => ProofRecord::Unmade { detail },
    };
    let code = i32::from(!matches!(record, ProofRecord::Same { .. }));
    answer(&record.encode(), code)
}

fn compile_one(output: Output) -> i32 {
    if let Err(why) = fence::raise() {
        return complain(&format!("nothing is compiled without its walls: {why}"), 2);
    }
    let result = match handover::module() {
        Ok(module) => compile::compile(&module, output),
        Err(e) => return complain(&format!("cannot read the module: {e}"), 2),
    };
    let code = i32::from(!matches!(result, CompileResult::Done { .. }));
    answer(&result.encode(), code)
}

fn answer(bytes: &[u8], code: i32) -> i32 {
    match handover::answer(bytes) {
        Ok(()) => code,
        Err(e) => complain(&format!("cannot answer: {e}"), 2),
    }
}

fn say(text: &str) -> i32 {
    i32::from(writeln!(std::io::stdout(), "{text}").is_err())
}

fn complain(text: &str, code: i32) -> i32 {
    // With stderr gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "shoal-runner: {text}");
    code
}
