//! `shoal-runner prove`: whether this engine's compiled code does on this CPU what its interpreter does (M11).
//!
//! Every exported function of a few small modules is called with every combination of telling values, compiled and
//! interpreted. Results, traps and, at the end, memories must be the same. Two things are free in WebAssembly and left out:
//! which NaN an operation gives, and relaxed SIMD. Nothing of anybody else's is compiled or run here.

mod values;

use crate::compile::to_native;
use crate::engine;
use shoal_ipc::ProofRecord;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use values::{Outcome, combinations, shown};
use wasmedge_sdk::RunMode;
use wasmedge_sdk::WasmEdgeResult;
use wasmedge_sys::instance::function::AsFunc as _;
use wasmedge_sys::{AsInstance as _, Config, Executor, Instance, Loader, Module, Store, Validator};

/// Longest words in an answer.
const DETAIL: usize = 1024;
/// What a module of the corpus may grow to, pages.
const PAGES: u32 = 16;

/// The corpus: names and modules. The texts stand beside them; a test holds both together.
const CORPUS: [(&str, &[u8]); 5] = [
    ("integers", include_bytes!("../../corpus/integers.wasm")),
    ("floats", include_bytes!("../../corpus/floats.wasm")),
    ("memory", include_bytes!("../../corpus/memory.wasm")),
    ("control", include_bytes!("../../corpus/control.wasm")),
    ("vectors", include_bytes!("../../corpus/vectors.wasm")),
];

/// Compares the whole corpus; writes compiled code into the working directory.
pub(crate) fn prove() -> ProofRecord {
    engine::watch_log();
    let mut calls = 0;
    for (name, module) in CORPUS {
        match compare(name, module) {
            Ok(n) => calls += n,
            Err(Apart::Differs(detail)) => return ProofRecord::Differs { detail: bounded(&detail) },
            Err(Apart::Unmade(detail)) => return ProofRecord::Unmade { detail: bounded(&detail) },
        }
    }
    ProofRecord::Same { calls }
}

fn bounded(detail: &str) -> String {
    detail[..detail.floor_char_boundary(DETAIL)].to_owned()
}

/// Why a comparison did not come to its end.
#[derive(Debug)]
enum Apart {
    /// Two results are not the same.
    Differs(String),
    /// There was nothing to call.
    Unmade(String),
}

/// Calls everything in both ways; how many calls that were, or where they part.
fn compare(name: &str, module: &[u8]) -> Result<u32, Apart> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: Box<wasmedge_sdk::error::WasmEdgeError>| Apart::Unmade(format!("{name}: {what}: {e}"))
    };
    // On a full disk the engine's linker may leave what was there before, and say nothing: the code of another module.
    match std::fs::remove_file("out.so") {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Apart::Unmade(format!("{name}: remove the code before it: {e}")));
        }
        _ => {}
    }
    to_native(module).map_err(failed("it cannot be compiled"))?;
    let mut native =
        Side::of(RunMode::Aot, |l| l.from_file(Path::new("out.so"))).map_err(failed("compiled"))?;
    let mut interpreted =
        Side::of(RunMode::Interpreter, |l| l.from_bytes(module)).map_err(failed("interpreted"))?;
    let functions = native.instance.func_names().unwrap_or_default();
    if functions.is_empty() {
        return Err(Apart::Unmade(format!("{name}: there is nothing to call")));
    }
    let mut calls = 0;
    for function in functions {
        let types = native.parameters(&function);
        for arguments in combinations(&types) {
            let (a, b) = (native.call(&function, &arguments), interpreted.call(&function, &arguments));
            if a != b {
                return Err(Apart::Differs(format!(
                    "{name}: {function}({}): compiled {a}, interpreted {b}",
                    shown(&arguments)
                )));
            }
            calls += 1;
        }
    }
    if native.memory() != interpreted.memory() {
        return Err(Apart::Differs(format!("{name}: the memories differ at the end")));
    }
    Ok(calls)
}

/// A module in one of the two ways.
struct Side {
    executor: Executor,
    instance: Instance,
    // What the instance lives in.
    _store: Store,
    _module: Arc<Module>,
}

impl Side {
    fn of(mode: RunMode, load: impl Fn(&Loader) -> WasmEdgeResult<Arc<Module>>) -> WasmEdgeResult<Self> {
        let config: Config = engine::config(mode, Some(PAGES))?;
        let module = load(&Loader::create(Some(&config))?)?;
        Validator::create(Some(&config))?.validate(&module)?;
        let mut executor = Executor::create(Some(&config), None)?;
        let mut store = Store::create()?;
        let instance = executor.register_active_module(&mut store, &module)?;
        Ok(Self { executor, instance, _store: store, _module: module })
    }

    fn parameters(&self, function: &str) -> Vec<wasmedge_sdk::ValType> {
        let ty = self.instance.get_func(function).ok().and_then(|f| f.ty());
        ty.map(|t| t.args().to_vec()).unwrap_or_default()
    }

    fn call(&mut self, function: &str, arguments: &[wasmedge_sys::WasmValue]) -> Outcome {
        let Ok(mut f) = self.instance.get_func_mut(function) else { return Outcome::Absent };
        match self.executor.call_func(&mut f, arguments.iter().copied()) {
            Ok(values) => Outcome::of(&values),
            Err(e) => {
                let mut words = String::new();
                // Writing to a String cannot fail.
                let _ = write!(words, "{e}");
                Outcome::Trap(words)
            }
        }
    }

    fn memory(&self) -> Option<Vec<u8>> {
        let memory = self.instance.get_memory_ref("memory").ok()?;
        memory.get_data(0, memory.size().saturating_mul(65_536)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relaxed SIMD may do either: that is why it is not in the corpus, and what makes a real difference here.
    #[test]
    fn m11_a_real_difference_between_compiled_and_interpreted_code_is_found() {
        let text = r#"(module (func (export "dot") (param i64 i64) (result v128)
            (i16x8.relaxed_dot_i8x16_i7x16_s (i64x2.splat (local.get 0)) (i64x2.splat (local.get 1)))))"#;
        let scratch = tempfile::tempdir().unwrap();
        std::env::set_current_dir(scratch.path()).unwrap();
        engine::watch_log();
        let apart = compare("relaxed", &wat::parse_str(text).unwrap()).unwrap_err();
        let Apart::Differs(detail) = apart else { panic!("{apart:?}") };
        assert!(detail.starts_with("relaxed: dot(i64 1, i64 -1): compiled gives v128 "), "{detail}");
    }

    #[test]
    fn m11_the_corpus_is_what_its_text_gives() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, module) in CORPUS {
            let text = folder.join(format!("{name}.wat"));
            assert_eq!(wat::parse_file(&text).unwrap(), module, "{name}: assemble its text anew");
        }
    }
}
