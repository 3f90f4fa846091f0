//! `cargo xtask bench memory`: what one more idle container costs, and the device's own processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::idle::{device_processes, pss_kib};
use super::start::Device;
use super::{float, machine, percentile};

/// Says one byte and waits for an hour.
const WAITS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) "x")
  (data (i32.const 272) "\01") (data (i32.const 280) "\00\a0\b8\30\46\03")
  (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
    (drop (call $p (i32.const 256) (i32.const 1024) (i32.const 1) (i32.const 1100)))))"#;

/// Memory of idle containers and of the device's processes.
pub(super) fn measure(bins: &Path, count: Option<usize>) -> Result<Value> {
    let count = u16::try_from(count.unwrap_or(1000)).context("too many containers")?;
    let device = Device::start(bins)?;
    let measure = || -> Result<Value> {
        // The engine's own processes are counted before any container shares their pages.
        let root = device.dir.path().to_str().context("a path that is not UTF-8")?;
        let idle: BTreeMap<String, f64> =
            device_processes(root)?.into_iter().map(|p| (p.name, float(pss_kib(p.pid)) / 1024.0)).collect();
        let mut s = device.root()?;
        let began = Instant::now();
        let mut pids = Vec::new();
        let mut held = Vec::new();
        for pod in 0..count.div_ceil(16) {
            let id = device.pod(u8::try_from(pod + 2).context("too many pods")?, 16, WAITS)?;
            for index in 0..16.min(count - pod * 16) {
                let (info, [out, err]) = s.start_attached(id, index, 1).context("start a container")?;
                let mut out = fs::File::from(out);
                out.read_exact(&mut [0]).context("hear a container")?;
                held.push((out, err));
                pids.push(info.pid);
            }
        }
        let took = began.elapsed().as_secs_f64();
        let mut private: Vec<f64> = pids.iter().map(|p| float(private_kib(*p))).collect();
        let mut pss: Vec<f64> = pids.iter().map(|p| float(pss_kib(*p))).collect();
        Ok(json!({
            "containers": pids.len(), "started_in_s": took,
            "private_kib_p50": percentile(&mut private, 50), "private_kib_p99": percentile(&mut private, 99),
            "pss_kib_p50": percentile(&mut pss, 50),
            "idle_pss_mib": idle, "idle_pss_mib_total": idle.values().sum::<f64>(),
        }))
    };
    let found = measure();
    device.stop(bins)?;
    Ok(json!({ "machine": machine(), "memory": found? }))
}

/// Pages that only this process has, dirty or not.
fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .filter(|l| l.starts_with("Private_"))
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}
