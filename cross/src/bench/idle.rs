//! An idle device: which processes it has, and what each costs.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use shoal_lab::Lab;

use super::{Row, float};

/// Until nothing more changes.
const SETTLED: Duration = Duration::from_secs(75);

/// Memory and wake-ups of each process of the first device over a quiet minute.
pub(super) fn rows(lab: &Lab) -> Result<Vec<Row>> {
    let device = &lab.devices[0];
    let root = device.root.to_str().context("a path that is not UTF-8")?;
    let processes = device_processes(root)?;
    // Processes let go of code after a minute of rest.
    std::thread::sleep(SETTLED);
    let before: Vec<u64> = processes.iter().map(|p| switches(p.pid)).collect();
    let minute = Duration::from_mins(1);
    std::thread::sleep(minute);
    let mut rows = Vec::new();
    let mut total = 0.0;
    for (process, before) in processes.iter().zip(before) {
        let pss = float(pss_kib(process.pid)) / 1024.0;
        if !process.name.starts_with("container") {
            total += pss;
        }
        rows.push(Row::new(format!("idle {}: PSS", process.name), pss, "MiB", None));
        let woken = float(switches(process.pid).saturating_sub(before));
        // A minute has one keep-alive and one heartbeat of the agent: each a timer, a packet and its answer.
        let budget = if process.name.starts_with("shoal-agent") { 6.0 } else { 0.0 };
        rows.push(Row::new(format!("idle {}: wake-ups in a minute", process.name), woken, "", Some(budget)));
    }
    rows.push(Row::new("idle device, all processes but containers: PSS", total, "MiB", Some(12.0)));
    Ok(rows)
}

/// A process of a device.
pub(super) struct Process {
    pub(super) pid: u32,
    /// Binary and verb.
    pub(super) name: String,
}

/// The processes whose command line names the device's folder, and the containers below its supervisor.
pub(super) fn device_processes(root: &str) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<String> =
            line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        if !words.iter().any(|w| w == root) && parent(pid).is_none_or(|p| !names_root(p, root)) {
            continue;
        }
        // Only the runner is started through a loader of its own.
        if words.iter().any(|w| w.contains("ld-linux")) {
            let forked = parent(pid).is_some_and(|p| names_root(p, root) && is_zygote(p));
            let name = if forked { "container" } else { "shoal-runner zygote" };
            found.push(Process { pid, name: name.to_owned() });
            continue;
        }
        let binary = words
            .iter()
            .find(|w| w.contains("shoal-"))
            .map_or("shoal-guard", |w| w.rsplit('/').next().unwrap_or("?"));
        let verb =
            words.iter().find(|w| ["run", "supervise", "admit", "log", "zygote"].contains(&w.as_str()));
        let name = match (binary, verb.map(String::as_str)) {
            (binary, Some(verb)) => format!("{binary} {verb}"),
            (binary, None) => binary.to_owned(),
        };
        found.push(Process { pid, name });
    }
    if found.is_empty() {
        bail!("no process of the device under {root} was found");
    }
    Ok(found)
}

fn is_zygote(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|b| *b == 0).any(|w| w == b"zygote"))
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn names_root(pid: u32, root: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).any(|w| w == root.as_bytes()))
}

/// Context switches of all threads: each is one time that the process was woken or made to wait.
fn switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .map(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status
                .lines()
                .filter_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))
                .filter_map(|n| n.trim().parse::<u64>().ok())
                .sum::<u64>()
        })
        .sum()
}

pub(super) fn pss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
