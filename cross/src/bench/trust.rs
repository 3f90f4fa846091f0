//! Admission of signed documents beside tough, a client of TUF in Rust: `cross/bench/trust`, a workspace of its own.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Row;
use crate::{output, paths, process};

/// What it prints: the name there, here, the unit, how many of the printed ones it has, and the budget.
const FIGURES: [(&str, &str, &str, f64, Option<f64>); 9] = [
    ("deployment_bytes", "the deployment, signed", "bytes", 1.0, None),
    ("deployment_us", "deployment: verify and accept", "µs", 1.0, Some(150.0)),
    ("deployment_peak_bytes", "deployment: memory", "KiB", 1024.0, Some(1024.0)),
    ("update_us", "snapshot and deployment: Shoal", "µs", 1.0, None),
    ("tough_update_us", "timestamp, snapshot and targets: tough", "µs", 1.0, None),
    ("update_peak_bytes", "snapshot and deployment: Shoal, memory", "KiB", 1024.0, None),
    ("tough_update_peak_bytes", "timestamp, snapshot and targets: tough, memory", "KiB", 1024.0, None),
    ("roots_us", "100 root rotations: Shoal", "ms", 1000.0, Some(50.0)),
    ("tough_roots_us", "100 root rotations and an update: tough", "ms", 1000.0, None),
];

/// Builds the program and runs it.
pub(super) fn rows() -> Result<Vec<Row>> {
    let source = paths::workspace().join("cross/bench/trust");
    let out = paths::target()?.join("bench/trust");
    output::step("build", "verifier and tough, optimised");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(source.join("Cargo.toml"));
    process::run(build.arg("--target-dir").arg(&out))?;
    output::step("measure", "each in turn");
    let printed = process::output(&mut Command::new(out.join("release/bench-trust")))?;
    let printed: Value = serde_json::from_slice(&printed.stdout).context("read what bench-trust prints")?;
    FIGURES
        .iter()
        .map(|&(key, name, unit, of, budget)| {
            let value = printed[key].as_f64().with_context(|| format!("bench-trust prints no {key}"))?;
            Ok(Row::new(name, value / of, unit, budget))
        })
        .collect()
}
