//! Which of LLVM's passes a module goes through on its way to native code.
//!
//! The engine asks LLVM for its general pipeline (`default<O1>`), made for what a language's front end writes. A module was
//! optimised when it was built: what is left to undo is the engine's own translation. So this program stands between the
//! two: the loader finds its `LLVMRunPasses` before LLVM's, and the pipeline is exchanged on the way. An engine that carries
//! LLVM inside itself is not reached, and makes code that is as good more slowly; [`was_used`] tells.

use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// A third less work than `default<O1>` for code of the same speed, measured over five programs (docs/benchmarks.md).
const PASSES: &CStr =
    c"function(sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,tailcallelim,\
    simplifycfg,reassociate,loop-simplify,lcssa,loop-mssa(loop-rotate,licm<allowspeculation>),gvn,dse,bdce,\
    instcombine<no-verify-fixpoint>,simplifycfg)";

static USED: AtomicBool = AtomicBool::new(false);

/// Whether the engine's request came through here.
pub(crate) fn was_used() -> bool {
    USED.load(Ordering::Relaxed)
}

type RunPasses = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_void, *mut c_void) -> *mut c_void;

/// LLVM's function of this name, with another pipeline.
///
/// # Safety
///
/// As LLVM's own (`llvm-c/Transforms/PassBuilder.h`): module, machine and options come from LLVM and live during the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn LLVMRunPasses(
    module: *mut c_void,
    _passes: *const c_char,
    machine: *mut c_void,
    options: *mut c_void,
) -> *mut c_void {
    // SAFETY: the name is a C string; the call only looks it up.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"LLVMRunPasses".as_ptr()) };
    if next.is_null() {
        crate::engine::exit(crate::complain("the engine asks for LLVM, which is not there", 70));
    }
    USED.store(true, Ordering::Relaxed);
    // SAFETY: LLVM's stable C interface declares the function of this name so.
    let run = unsafe { std::mem::transmute::<*mut c_void, RunPasses>(next) };
    // SAFETY: the caller keeps LLVM's contract; the text is a C string that lives for ever.
    unsafe { run(module, PASSES.as_ptr(), machine, options) }
}
