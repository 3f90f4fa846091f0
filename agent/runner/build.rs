//! Lets this package alone link against an engine whose own libraries (LLVM among them) are not on the building host:
//! they are found at run time, in the folder whose loader starts the program. No rpath, on purpose: one would win over
//! that loader's `--library-path`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--allow-shlib-undefined");
    // The engine, which comes later, finds this program's function of that name first (`src/pipeline.rs`).
    println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol=LLVMRunPasses");
}
