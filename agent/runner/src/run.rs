//! One container, from compiled code to the one record of how it ended.

use crate::{engine, folders, guest};
use shoal_confine::{Filter, no_new_code};
use shoal_ipc::{EndRecord, Spec};
use wasmedge_sdk::error::{CoreError, WasmEdgeError};
use wasmedge_sdk::wasi::WasiModule;
use wasmedge_sdk::{ExternalInstanceType, WasmEdgeResult};
use wasmedge_sys::{Executor, Module, Store};

/// Longest words in an answer.
const MESSAGE: usize = 1024;

/// What keeps a guest from running at all: a stable code, and words.
#[derive(Debug)]
pub(crate) struct NotRun(pub(crate) &'static str, pub(crate) String);

/// When the guest may have its first instruction.
pub(crate) trait Gate {
    /// Its code is mapped: from here on nothing else becomes code.
    fn seal(&mut self) -> Result<(), NotRun>;
    /// Comes back when it may run.
    fn wait(&mut self) -> Result<(), NotRun>;
}

/// Lets nothing more become code in this process.
pub(crate) fn seal(filter: &Filter) -> Result<(), NotRun> {
    no_new_code(filter).map_err(|e| NotRun("kernel_unsupported", format!("seal its memory: {e}")))
}

/// For what runs at once.
pub(crate) struct Open;

impl Gate for Open {
    fn seal(&mut self) -> Result<(), NotRun> {
        Ok(())
    }
    fn wait(&mut self) -> Result<(), NotRun> {
        Ok(())
    }
}

/// Runs the guest to its end, through this gate.
pub(crate) fn run(spec: &Spec, gate: &mut impl Gate) -> EndRecord {
    match try_run(spec, gate) {
        Ok(end) => end,
        Err(NotRun(code, message)) => {
            EndRecord::Refused { code: code.to_owned(), message: bounded(&message) }
        }
    }
}

fn try_run(spec: &Spec, gate: &mut impl Gate) -> Result<EndRecord, NotRun> {
    let internal =
        |what: &str, e: &WasmEdgeError| NotRun("kernel_unsupported", format!("{what} failed: {e}"));
    let preopens = folders::preopens(spec).map_err(|e| NotRun("policy_denied", e))?;
    if spec.argv.iter().chain(&spec.env).any(|text| text.contains('\0')) {
        return Err(NotRun("malformed", "an argument or variable has a zero byte".to_owned()));
    }
    let config = engine::config(guest::mode(spec), spec.wasm_pages)
        .map_err(|e| internal("configuring the engine", &e))?;
    let module = guest::load(spec, &config)?;
    check_memory(&module, spec.wasm_pages)?;

    let mut executor = Executor::create(Some(&config), None).map_err(|e| internal("the executor", &e))?;
    let mut store = Store::create().map_err(|e| internal("the store", &e))?;
    let wasi = WasiModule::create(
        Some(spec.argv.iter().map(String::as_str).collect()),
        Some(spec.env.iter().map(String::as_str).collect()),
        Some(preopens.iter().map(String::as_str).collect()),
    )
    .map_err(|e| internal("setting up WASI", &e))?;
    executor
        .register_import_module(&mut store, wasi.as_ref())
        .map_err(|e| internal("registering WASI", &e))?;
    gate.seal()?;
    // Putting it together fills its memory and runs its start function, if it has one.
    if spec.start_function {
        gate.wait()?;
    }
    let mut instance = match executor.register_active_module(&mut store, &module) {
        Ok(instance) => instance,
        Err(e) => return ended(Err(e), &wasi),
    };
    if !spec.start_function {
        gate.wait()?;
    }
    let end = guest::call(&mut executor, &mut instance, &spec.entry)?;
    ended(end, &wasi)
}

/// The engine shrinks an initial memory above its limit without a word; the guest must not find out that way.
fn check_memory(module: &Module, limit: Option<u32>) -> Result<(), NotRun> {
    let Some(limit) = limit else { return Ok(()) };
    for export in module.export() {
        if let Ok(ExternalInstanceType::Memory(memory)) = export.ty()
            && memory.minimum() > limit
        {
            let detail =
                format!("the guest begins with {} pages of memory, its limit is {limit}", memory.minimum());
            return Err(NotRun("guest_memory", detail));
        }
    }
    Ok(())
}

/// How the guest ended, by the engine's answer.
fn ended(answer: WasmEdgeResult<u32>, wasi: &WasiModule) -> Result<EndRecord, NotRun> {
    match answer {
        // `_start` returns nothing; a self-test may return its own verdict.
        Ok(0) => Ok(EndRecord::Exit { code: wasi.exit_code() }),
        Ok(verdict) => Ok(EndRecord::Exit { code: verdict }),
        Err(e) => match *e {
            WasmEdgeError::Core(CoreError::Execution(_) | CoreError::Common(_))
                if engine::memory_was_refused() =>
            {
                Ok(EndRecord::GuestMemory)
            }
            WasmEdgeError::Core(CoreError::Execution(trap)) => {
                Ok(EndRecord::Trap { message: bounded(&trap.to_string()) })
            }
            WasmEdgeError::Core(CoreError::Common(trap)) => {
                Ok(EndRecord::Trap { message: bounded(&trap.to_string()) })
            }
            WasmEdgeError::Core(CoreError::Instantiation(e)) => {
                Err(NotRun("import_denied", format!("the module cannot be put together: {e}")))
            }
            other => Err(NotRun("malformed", format!("the module cannot be started: {other}"))),
        },
    }
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MESSAGE)].to_owned()
}
