//! The engine's one configuration, for compiling and for running alike, and the few things its bindings leave out.

use std::sync::atomic::{AtomicBool, Ordering};
use wasmedge_sdk::wasi::WasiModule;
use wasmedge_sdk::{CompilerOptimizationLevel, CompilerOutputFormat, RunMode, WasmEdgeResult};
use wasmedge_sys::{Config, Executor, Loader, Store, Validator, ffi};

/// The words in which the engine says that a guest asked for more memory than it may have.
const REFUSED_GROWTH: &[u8] = b"Memory grow page failed, exceeded limited";

static MEMORY_WAS_REFUSED: AtomicBool = AtomicBool::new(false);

/// The engine's version.
pub(crate) fn version() -> String {
    wasmedge_sdk::utils::CoreVersion::version_string()
}

/// What compiled code depends on, beside module and CPU. Its first word is the engine's version.
pub(crate) fn line() -> String {
    let passes = if cfg!(feature = "bundled") { "O1" } else { "passes-1" };
    format!("{} native {passes} proposals-1", version())
}

/// Only the proposals that compiled code of this engine keeps within bounds. The same list as `shoal_image`'s; memory64
/// above all is on by default, and its compiled code does not check bounds.
pub(crate) fn config(mode: RunMode, max_pages: Option<u32>) -> WasmEdgeResult<Config> {
    let mut config = Config::create()?;
    config.set_run_mode(mode);
    for allow in [
        Config::mutable_globals,
        Config::non_trap_conversions,
        Config::sign_extension_operators,
        Config::multi_value,
        Config::bulk_memory_operations,
        Config::reference_types,
        Config::simd,
        Config::relax_simd,
        Config::tail_call,
        Config::extended_const,
    ] {
        allow(&mut config, true);
    }
    for refuse in [
        Config::component_model,
        Config::threads,
        Config::memory64,
        Config::exception_handling,
        Config::annotations,
        Config::multi_memories,
        Config::gc,
        Config::function_references,
    ] {
        refuse(&mut config, false);
    }
    config.allow_afunix(false);
    // For the choice of instructions; which passes come before, `pipeline` says. O2 takes longer and gives code that is no
    // faster (docs/benchmarks.md).
    config.set_aot_optimization_level(CompilerOptimizationLevel::O1);
    config.set_aot_compiler_output_format(CompilerOutputFormat::Native);
    config.generic_binary(false);
    config.interruptible(false);
    if let Some(pages) = max_pages {
        config.set_max_memory_pages(pages);
    }
    Ok(config)
}

/// An own module of nothing, `(module (memory 1))`, for [`warm`].
const NOTHING: [u8; 13] = *b"\0asm\x01\0\0\0\x05\x03\x01\0\x01";

/// Takes the engine through everything once that a container will need, so that it is in memory before the first fork.
pub(crate) fn warm() -> WasmEdgeResult<()> {
    let config = config(RunMode::Aot, Some(1))?;
    let module = Loader::create(Some(&config))?.from_bytes(NOTHING)?;
    Validator::create(Some(&config))?.validate(&module)?;
    let (mut executor, mut store) = (Executor::create(Some(&config), None)?, Store::create()?);
    let wasi = WasiModule::create(Some(vec!["x"]), Some(vec!["A=b"]), None)?;
    executor.register_import_module(&mut store, wasi.as_ref())?;
    executor.register_active_module(&mut store, &module).map(drop)
}

/// Keeps the engine's log off the guest's stderr, and listens in it for the one thing it tells nowhere else.
pub(crate) fn watch_log() {
    // SAFETY: the callback is a function of this program, so it lives as long as the engine can call it; `on_log` keeps
    // the callback's own contract. Called before any other use of the engine, from the only thread.
    unsafe {
        ffi::WasmEdge_LogOff();
        ffi::WasmEdge_LogSetCallback(Some(on_log));
        ffi::WasmEdge_LogSetErrorLevel();
    }
}

/// Whether the engine refused the guest memory since [`watch_log`].
pub(crate) fn memory_was_refused() -> bool {
    MEMORY_WAS_REFUSED.load(Ordering::Relaxed)
}

unsafe extern "C" fn on_log(message: *const ffi::WasmEdge_LogMessage) {
    // SAFETY: the engine passes a message of its own that lives for the length of the call, or null.
    let Some(message) = (unsafe { message.as_ref() }) else { return };
    let text = &message.Message;
    if text.Buf.is_null() {
        return;
    }
    // SAFETY: the engine's strings are `Length` initialised bytes at `Buf`, alive and unchanged during the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.Buf.cast::<u8>(), text.Length as usize) };
    if bytes.windows(REFUSED_GROWTH.len()).any(|w| w == REFUSED_GROWTH) {
        MEMORY_WAS_REFUSED.store(true, Ordering::Relaxed);
    }
}

/// Ends the process at once, without taking engine and guest apart first.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: `_exit` runs nothing of ours; what had to be written is written (answers and guest output are unbuffered
    // system calls, and `main`'s own lines end in a newline, which flushes them).
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m10_the_engine_itself_refuses_what_is_off_the_list() {
        let config = config(RunMode::Aot, Some(10)).unwrap();
        assert_eq!((config.get_run_mode(), config.get_max_memory_pages()), (RunMode::Aot, 10));
        watch_log();
        let takes = |text: &str| {
            let bytes = wasmedge_sdk::wat2wasm(text.as_bytes()).unwrap();
            let module = Loader::create(Some(&config)).unwrap().from_bytes(bytes)?;
            Validator::create(Some(&config)).unwrap().validate(&module)
        };
        takes("(module (memory 1) (func (result i32 i32) i32.const 1 i32.const 2))").unwrap();
        for text in [
            "(module (memory i64 1))",
            "(module (memory 1) (memory 1))",
            "(module (memory 1 2 shared))",
            "(module (tag $e) (func throw $e))",
            "(module (type $s (struct)) (func (drop (struct.new $s))))",
            "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))",
        ] {
            assert!(takes(text).is_err(), "{text}");
        }
    }
}
