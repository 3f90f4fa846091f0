//! The only part that links WasmEdge: compiles modules and runs containers

fn main() {}
