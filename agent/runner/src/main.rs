//! The only part that links WasmEdge: compiles modules and runs containers
#![allow(clippy::print_stdout, reason = "prints the engine's version and what was loaded, its only output")]

use std::collections::BTreeSet;

fn main() -> std::io::Result<()> {
    println!("WasmEdge {}", wasmedge_sdk::utils::CoreVersion::version_string());
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let loaded: BTreeSet<&str> = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    for path in loaded.iter().filter(|path| path.starts_with('/')) {
        println!("{path}");
    }
    Ok(())
}
