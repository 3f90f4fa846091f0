//! CPU-bound work: one Rust source as WebAssembly under Shoal and as a native program, in turn on one machine. Each program
//! times its own rounds and gives the best, so that neither start nor load counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Row;
use super::engine_job::Runner;
use crate::guests::Compiler;
use crate::{output, paths, process};

/// The programs in `cross/bench/cpu`.
const PROGRAMS: [&str; 5] = ["fib", "matrix", "sha256", "json", "regex"];
/// Rounds of each run.
const ROUNDS: &str = "30";
/// Runs of each program, in turn with its rivals.
const RUNS: usize = 5;

/// One program in all its forms.
struct Program {
    native: PathBuf,
    code: PathBuf,
    /// For wasmtime, where that is on this machine.
    rival: Option<PathBuf>,
}

/// Measures all programs.
pub(super) fn rows() -> Result<Vec<Row>> {
    let runner = Runner::build()?;
    let wasmtime = super::wasmtime();
    let out = paths::target()?.join("bench/cpu");
    let mut rows = Vec::new();
    let (mut ratios, mut rivals) = (Vec::new(), Vec::new());
    for name in PROGRAMS {
        let program = build(name, &out, &runner, wasmtime.as_deref())?;
        output::step("measure", name);
        let (mut native, mut ours, mut theirs) = (f64::MAX, f64::MAX, f64::MAX);
        for _ in 0..RUNS {
            let mut plain = Command::new(&program.native);
            let (sum, time) = parse(&printed(plain.arg(ROUNDS))?)?;
            native = native.min(time);
            let (other, time) = parse(&runner.run(&program.code, ROUNDS)?)?;
            if sum != other {
                bail!("{name}: {sum} natively, {other} under Shoal");
            }
            ours = ours.min(time);
            if let (Some(wasmtime), Some(rival)) = (&wasmtime, &program.rival) {
                let mut run = Command::new(wasmtime);
                run.args(["run", "--allow-precompiled"]).arg(rival).arg(ROUNDS);
                theirs = theirs.min(parse(&printed(&mut run)?)?.1);
            }
        }
        ratios.push(native / ours);
        rows.push(Row::new(format!("{name}: native -O2"), native / 1000.0, "ms", None));
        rows.push(Row::new(format!("{name}: Shoal"), ours / 1000.0, "ms", None));
        rows.push(Row::new(format!("{name}: Shoal against native"), native / ours, "×", None));
        if program.rival.is_some() {
            rivals.push(native / theirs);
            rows.push(Row::new(format!("{name}: wasmtime"), theirs / 1000.0, "ms", None));
        }
    }
    rows.push(Row::at_least("Shoal against native, geometric mean", mean(&ratios), "×", 0.8));
    if rivals.is_empty() {
        output::step("absent", "no wasmtime on the PATH: it is not compared");
    } else {
        rows.push(Row::new("wasmtime against native, geometric mean", mean(&rivals), "×", None));
    }
    Ok(rows)
}

fn build(name: &'static str, out: &Path, runner: &Runner, wasmtime: Option<&Path>) -> Result<Program> {
    let folder = out.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let source = paths::workspace().join("cross/bench/cpu").join(format!("{name}.rs"));
    let (native, module) = (folder.join("native"), folder.join("module.wasm"));
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2021", "-C", "opt-level=2", "-C", "codegen-units=1", "-C", "lto=fat"]);
    process::run(rustc.args(["-C", "panic=abort"]).arg(&source).arg("-o").arg(&native))?;
    Compiler::ensure()?.program(&source, &module)?;
    runner.compile(&module, &folder)?;
    let rival = wasmtime.map(|_| folder.join("module.cwasm"));
    if let (Some(wasmtime), Some(rival)) = (wasmtime, &rival) {
        process::run(Command::new(wasmtime).arg("compile").arg(&module).arg("-o").arg(rival))?;
    }
    Ok(Program { native, code: folder.join("out.so"), rival })
}

fn printed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What a program prints: a sum over its results, and the best round in microseconds.
fn parse(text: &str) -> Result<(String, f64)> {
    let mut words = text.split_whitespace();
    let (sum, time) = words.next().zip(words.next()).with_context(|| format!("read {text:?}"))?;
    Ok((sum.to_owned(), time.parse::<f64>()?.max(1.0)))
}

#[allow(clippy::cast_precision_loss, reason = "a handful of figures")]
fn mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_line_is_its_sum_and_its_time() {
        assert_eq!(parse("00ff 1234\n").unwrap(), ("00ff".to_owned(), 1234.0));
        assert!(parse("").is_err() && parse("x y").is_err());
    }

    #[test]
    fn the_mean_of_a_half_and_a_double_is_one() {
        assert!((mean(&[0.5, 2.0]) - 1.0).abs() < 1e-9);
    }
}
