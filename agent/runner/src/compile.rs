//! `shoal-runner compile`: one module to native code for this CPU, in a process that has nothing to lose.

use crate::engine;
use shoal_ipc::CompileResult;
use std::time::Instant;
use wasmedge_sdk::WasmEdgeResult;
use wasmedge_sys::Compiler;

/// Left in the working directory.
const OUTPUT: &str = "out.so";
/// Longest words in an answer.
const DETAIL: usize = 1024;

/// Compiles `module` to `out.so`: judged by the same code as on the operator's machine, then stripped, so that no
/// `wasmedge` section of the image's makes native code of its own run.
pub(crate) fn compile(module: &[u8]) -> CompileResult {
    let started = Instant::now();
    let judged = shoal_image::inspect(module).and_then(|facts| {
        // No pod has a network yet; then the grant will have to come along.
        facts.check(false, None)?;
        shoal_image::strip_custom(module)
    });
    let stripped = match judged {
        Ok(stripped) => stripped,
        Err(shoal_image::Error::Refused { code, detail }) => return failed(code.as_str(), &detail),
        Err(other) => return failed("malformed", &other.to_string()),
    };
    engine::watch_log();
    match to_native(&stripped) {
        Ok(()) => CompileResult::Done {
            engine: engine::version(),
            millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            stripped_size: stripped.len() as u64,
        },
        Err(e) => failed("compile_failed", &format!("the engine cannot compile the module: {e}")),
    }
}

fn to_native(stripped: &[u8]) -> WasmEdgeResult<()> {
    let config = engine::config(None)?;
    Compiler::create(Some(&config))?.compile_from_bytes(stripped, OUTPUT)
}

fn failed(code: &str, detail: &str) -> CompileResult {
    let end = detail.floor_char_boundary(DETAIL);
    CompileResult::Failed { code: code.to_owned(), detail: detail[..end].to_owned() }
}
