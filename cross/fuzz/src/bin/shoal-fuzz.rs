//! The coverage-guided engine (libFuzzer) around one target, which `SHOAL_FUZZ_TARGET` names. `cargo xtask fuzz` builds and runs it.
//!
//! An input that asks for more memory than its target may is a crash: the allocator refuses, and the process aborts.
#![no_main]

use cap::Cap;
use libfuzzer_sys::{Corpus, fuzz_target};
use std::alloc::System;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

fuzz_target!(
    init: {
        // A panic's report needs more memory than an input may have.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = MEMORY.set_limit(usize::MAX);
            report(panic);
        }));
        shoal_fuzz::prepare();
    },
    |data: &[u8]| -> Corpus {
        let target = shoal_fuzz::chosen();
        let _ = MEMORY.set_limit(MEMORY.allocated() + target.memory);
        (target.run)(data);
        let _ = MEMORY.set_limit(usize::MAX);
        Corpus::Keep
    }
);
