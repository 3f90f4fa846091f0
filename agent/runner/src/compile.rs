//! `shoal-runner compile` and `strip`: one module made ready for this device, in a process that has nothing to lose.

use crate::engine;
use shoal_image::ModuleFacts;
use shoal_ipc::{CompileResult, Needs};
use std::io::Write as _;
use std::time::Instant;
use wasmedge_sdk::{RunMode, WasmEdgeResult};
use wasmedge_sys::Compiler;

/// Longest words in an answer.
const DETAIL: usize = 1024;
/// Longest name of an import in an answer.
const NAME: usize = 64;

/// What is left in the working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// `out.so`: native code for this CPU.
    Native,
    /// `out.wasm`: the module for the interpreter.
    Stripped,
}

/// Makes `module` ready: judged by the same code as on the operator's machine, then stripped, so that no `wasmedge` section
/// of the image's makes native code of its own run.
///
/// What a container is granted is not known here, since containers share what is made; `needs` says what to grant.
pub(crate) fn compile(module: &[u8], output: Output) -> CompileResult {
    let started = Instant::now();
    let judged = shoal_image::inspect(module).and_then(|facts| {
        facts.check(true, None)?;
        Ok((shoal_image::strip_custom(module)?, needs(&facts)))
    });
    let (stripped, needs) = match judged {
        Ok(judged) => judged,
        Err(shoal_image::Error::Refused { code, detail }) => return failed(code.as_str(), &detail),
        Err(other) => return failed("malformed", &other.to_string()),
    };
    let made = match output {
        Output::Native => {
            engine::watch_log();
            to_native(&stripped).map_err(|e| format!("the engine cannot compile the module: {e}"))
        }
        Output::Stripped => std::fs::write("out.wasm", &stripped).map_err(|e| format!("write out.wasm: {e}")),
    };
    match made {
        Ok(()) => CompileResult::Done {
            engine: engine::version(),
            millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            stripped_size: stripped.len() as u64,
            needs,
        },
        Err(detail) => failed("compile_failed", &detail),
    }
}

fn needs(facts: &ModuleFacts) -> Needs {
    let name = facts.imports.iter().find(|i| i.capability == shoal_image::Capability::Sockets);
    Needs {
        min_pages: facts.memory.map_or(0, |m| u32::try_from(m.min_pages).unwrap_or(u32::MAX)),
        socket_import: name.map(|i| i.name.chars().take(NAME).collect()),
        start_function: facts.start_function,
    }
}

/// Compiles into the working directory.
pub(crate) fn to_native(stripped: &[u8]) -> WasmEdgeResult<()> {
    let config = engine::config(RunMode::Aot, None)?;
    Compiler::create(Some(&config))?.compile_from_bytes(stripped, "out.so")?;
    #[cfg(not(feature = "bundled"))]
    if !crate::pipeline::was_used() {
        // Not worth a failure: the code is as good, it only took longer.
        let _ =
            writeln!(std::io::stderr(), "shoal-runner: the engine keeps LLVM to itself; its own passes ran");
    }
    Ok(())
}

fn failed(code: &str, detail: &str) -> CompileResult {
    let end = detail.floor_char_boundary(DETAIL);
    CompileResult::Failed { code: code.to_owned(), detail: detail[..end].to_owned() }
}
