//! A module into the engine, and what of it is called: the program, or a trial before anything is staged.

use crate::run::NotRun;
use shoal_ipc::{Entry, Spec};
use std::sync::Arc;
use wasmedge_sdk::error::WasmEdgeError;
use wasmedge_sdk::{RunMode, ValType, WasmEdgeResult};
use wasmedge_sys::instance::function::AsFunc as _;
use wasmedge_sys::{AsInstance as _, Config, Executor, Instance, Loader, Module, Validator};

/// How the engine is to run what `spec` names.
pub(crate) fn mode(spec: &Spec) -> RunMode {
    if spec.interpreter { RunMode::Interpreter } else { RunMode::Aot }
}

/// Loads and validates. Native code comes from the one file that supervise filled; a module for the interpreter is read as
/// bytes, since the engine would take a file of native code under any name, whatever the mode.
pub(crate) fn load(spec: &Spec, config: &Config) -> Result<Arc<Module>, NotRun> {
    let unusable =
        |e: &dyn std::fmt::Display| NotRun("cache_changed", format!("{} cannot be loaded: {e}", spec.code));
    let loader = Loader::create(Some(config)).map_err(|e| unusable(&e))?;
    let module = if spec.interpreter {
        let bytes = std::fs::read(&spec.code).map_err(|e| unusable(&e))?;
        if !bytes.starts_with(b"\0asm\x01\0\0\0") {
            return Err(unusable(&"it is no module"));
        }
        loader.from_bytes(bytes).map_err(|e| unusable(&e))?
    } else {
        loader.from_file(&spec.code).map_err(|e| unusable(&e))?
    };
    Validator::create(Some(config)).and_then(|v| v.validate(&module)).map_err(|e| unusable(&e))?;
    Ok(module)
}

/// Calls what is asked for; `Ok(0)` is the good end of a trial.
pub(crate) fn call(
    executor: &mut Executor,
    instance: &mut Instance,
    entry: &Entry,
) -> Result<WasmEdgeResult<u32>, NotRun> {
    let (name, absent) = match entry {
        Entry::Start => ("_start", "the module exports no _start, so it is a library".to_owned()),
        Entry::Trial { self_test: None } => return Ok(Ok(0)),
        Entry::Trial { self_test: Some(name) } => {
            (name.as_str(), format!("the module exports no function {name} for its self-test"))
        }
    };
    let code = if *entry == Entry::Start { "not_wasm" } else { "malformed" };
    let mut function = instance.get_func_mut(name).map_err(|_| NotRun(code, absent))?;
    if *entry != Entry::Start {
        let fits =
            function.ty().is_some_and(|t| t.args().is_empty() && matches!(t.returns(), [] | [ValType::I32]));
        if !fits {
            return Err(NotRun(
                "malformed",
                format!("the self-test {name} takes something, or gives more than a number"),
            ));
        }
    }
    let values: Result<_, Box<WasmEdgeError>> = executor.call_func(&mut function, []);
    Ok(values.map(|v| v.first().map_or(0, |v| v.to_i32().cast_unsigned())))
}
