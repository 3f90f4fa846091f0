//! `cargo xtask bench start`: a cached container from the request to its first instruction and to its end, beside others that
//! do the same on this machine in the same run.

mod others;
mod shoal;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{float, machine, percentile};
use crate::process;
pub(crate) use shoal::Device;

/// Starts after 50 ms of idle, and as many back to back.
const ROUNDS: usize = 100;
/// The idle time before each.
const GAP: Duration = Duration::from_millis(50);
/// Streams of starts at once, for starts per second.
const STREAMS: u16 = 2;
/// For everything that should be there at once.
const SOON: Duration = Duration::from_secs(30);

/// Says one byte and ends.
const SPEAKS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) "x")
  (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))))"#;

/// The same in C, for everybody else.
const SPEAKS_C: &str = "#include <unistd.h>\nint main(void) { return write(1, \"x\", 1) != 1; }\n";

/// Milliseconds from the request.
#[derive(Debug, Clone, Copy)]
struct Times {
    first: f64,
    reaped: f64,
}

/// One of them.
type Of = fn(&Times) -> f64;

/// All figures of one way to start something.
#[derive(Debug, Default)]
struct Figures {
    idle: Vec<Times>,
    packed: Vec<Times>,
    per_second: f64,
}

impl Figures {
    fn json(&self) -> Value {
        let p = |all: &[Times], of: Of, percent| {
            let mut values: Vec<f64> = all.iter().map(of).collect();
            if values.is_empty() { 0.0 } else { (percentile(&mut values, percent) * 1000.0).round() / 1000.0 }
        };
        let (first, reaped): (Of, Of) = (|t| t.first, |t| t.reaped);
        json!({
            "p50_ms": p(&self.idle, first, 50), "p99_ms": p(&self.idle, first, 99),
            "reaped_p50_ms": p(&self.idle, reaped, 50), "reaped_p99_ms": p(&self.idle, reaped, 99),
            "back_to_back_p50_ms": p(&self.packed, first, 50), "back_to_back_p99_ms": p(&self.packed, first, 99),
            "back_to_back_reaped_p50_ms": p(&self.packed, reaped, 50),
            "per_s": self.per_second.round(),
        })
    }

    /// One after the other: with a gap before each, then without, then timed as a whole in several streams.
    fn take(rounds: usize, mut one: impl FnMut() -> Result<Times>) -> Result<Self> {
        let mut all = Self::default();
        one().context("a first start, that does not count")?;
        for _ in 0..rounds {
            std::thread::sleep(GAP);
            all.idle.push(one()?);
        }
        for _ in 0..rounds {
            all.packed.push(one()?);
        }
        Ok(all)
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// Starts per second, to the end of everything, in several streams.
fn per_second(rounds: usize, stream: impl Fn(u16, usize) -> Result<()> + Sync) -> Result<f64> {
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let all: Vec<_> = (0..STREAMS)
            .map(|n| {
                scope.spawn({
                    let stream = &stream;
                    move || stream(n, rounds)
                })
            })
            .collect();
        for one in all {
            one.join().map_err(|_| anyhow::anyhow!("a stream of starts panicked"))??;
        }
        Ok(())
    })?;
    Ok(float(rounds as u64 * u64::from(STREAMS)) / began.elapsed().as_secs_f64())
}

/// Runs the benchmark; what is not on this machine is left out and named.
pub(super) fn run(bins: &Path, rounds: Option<usize>, only: Option<&str>) -> Result<Value> {
    let rounds = rounds.unwrap_or(ROUNDS);
    let dir = tempfile::tempdir().context("make a folder")?;
    let guests = Guests::make(dir.path())?;
    let mut start: BTreeMap<&str, Value> = BTreeMap::new();
    let mut absent = Vec::new();
    for (name, measure) in others::ALL {
        if only.is_some_and(|o| o != name) {
            continue;
        }
        match measure(&guests, rounds, only.is_some()).with_context(|| format!("measure {name}"))? {
            Some(figures) => drop(start.insert(name, figures)),
            None => absent.push(name),
        }
    }
    if only.is_none_or(|o| o == "shoal") {
        let device = Device::start(bins)?;
        let figures = shoal::measure(&device, rounds);
        device.stop(bins)?;
        start.insert("shoal", figures?.json());
    }
    Ok(json!({ "machine": machine(), "rounds": rounds, "start": start, "absent": absent }))
}

/// What everybody starts: one byte said, and the end.
struct Guests {
    /// For files of one's own.
    dir: PathBuf,
    /// Static C.
    program: PathBuf,
    /// The same as a module.
    module: PathBuf,
}

impl Guests {
    fn make(dir: &Path) -> Result<Self> {
        let (source, program, module) = (dir.join("speaks.c"), dir.join("speaks"), dir.join("speaks.wasm"));
        fs::write(&source, SPEAKS_C)?;
        process::run(Command::new("cc").args(["-O2", "-static", "-s", "-o"]).arg(&program).arg(&source))?;
        fs::write(&module, wat::parse_str(SPEAKS).context("make the module")?)?;
        Ok(Self { dir: dir.to_owned(), program, module })
    }
}
