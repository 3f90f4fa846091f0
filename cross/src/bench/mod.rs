//! `cargo xtask bench`: the budgets of the main job, measured on this machine in one run, beside something else where there is one.

mod compile;
mod cpu;
mod engine_job;
mod idle;
mod memory;
pub(crate) mod start;
mod trust;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use shoal_lab::{Binaries, Lab, wait_until};

use crate::assemble::assemble;
use crate::engine::Profile;
use crate::{output, paths};

/// Measure the budgets; as root, for limits and users are part of what is measured.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Names: rollout, idle, size, help; and by name only, since they take minutes: start, memory, cpu, compile, trust. Results and machine are kept in docs/benchmarks.md."
)]
pub(crate) struct Args {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Only this one
    name: Option<String>,
    /// start, memory: how many starts of each kind, or containers
    #[arg(long)]
    rounds: Option<usize>,
    /// start: only shoal, runc, crun, wasmedge, wasmtime or exec
    #[arg(long)]
    only: Option<String>,
    /// All but cpu, compile and trust: programs that are built already
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
}

/// One figure, with the budget that it is held against.
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    budget: Option<f64>,
    /// Whether the budget is the least that it must be; else it is the most.
    least: bool,
}

impl Row {
    fn new(name: impl Into<String>, value: f64, unit: &'static str, budget: Option<f64>) -> Self {
        Self { name: name.into(), value, unit, budget, least: false }
    }

    fn at_least(name: impl Into<String>, value: f64, unit: &'static str, budget: f64) -> Self {
        Self { least: true, ..Self::new(name, value, unit, Some(budget)) }
    }

    fn is_met(&self, budget: f64) -> bool {
        if self.least { self.value >= budget } else { self.value <= budget }
    }

    fn verdict(&self) -> &'static str {
        match self.budget {
            Some(budget) if self.is_met(budget) => "met",
            Some(_) => "MISSED",
            None => "",
        }
    }
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let wanted = |name: &str| args.name.as_deref().is_none_or(|n| n == name);
    if let Some(name @ ("start" | "memory")) = args.name.as_deref() {
        if !shoal_lab::is_root() {
            bail!("{name} is measured as root: users, groups and namespaces are what takes the time");
        }
        let dir = match &args.bins {
            Some(dir) => dir.clone(),
            // Rivals that are measured in a namespace of their own need none of ours.
            None if args.only.as_deref().is_some_and(|o| o != "shoal") => PathBuf::new(),
            None => assemble(Profile::Release, false)?,
        };
        let found = match name {
            "start" => start::run(&dir, args.rounds, args.only.as_deref())?,
            _ => memory::measure(&dir, args.rounds)?,
        };
        let text = if args.json { found.to_string() } else { serde_json::to_string_pretty(&found)? };
        output::result(&text);
        return Ok(());
    }
    let rows = match args.name.as_deref() {
        Some("cpu") => cpu::rows()?,
        Some("compile") => compile::rows()?,
        Some("trust") => trust::rows()?,
        None | Some("rollout" | "idle" | "size" | "help") => whole(&wanted, args.bins.as_deref())?,
        Some(name) => {
            bail!(
                "no benchmark is called {name}: there are rollout, idle, size, help, start, memory, cpu, compile and trust"
            )
        }
    };
    if args.json {
        let all: Vec<Value> = rows
            .iter()
            .map(|r| json!({"name": r.name, "value": r.value, "unit": r.unit, "budget": r.budget, "met": r.budget.map(|b| r.is_met(b))}))
            .collect();
        let mut object = json!({ "machine": machine() });
        object[args.name.as_deref().unwrap_or("results")] = all.into();
        output::result(&object.to_string());
        return Ok(());
    }
    output::result(&format!("{}\n\n| what | value | budget | |\n| --- | ---: | ---: | --- |", machine()));
    for row in rows {
        let budget = row.budget.map_or(String::new(), |b| format!("{b} {}", row.unit));
        output::result(&format!(
            "| {} | {:.2} {} | {budget} | {} |",
            row.name,
            row.value,
            row.unit,
            row.verdict()
        ));
    }
    Ok(())
}

/// What needs all programs: sizes, starts of the command line, and a fleet.
fn whole(wanted: &dyn Fn(&str) -> bool, bins: Option<&Path>) -> Result<Vec<Row>> {
    let dir = bins.map_or_else(|| assemble(Profile::Release, false), |dir| Ok(dir.to_owned()))?;
    let mut rows = Vec::new();
    if wanted("size") {
        rows.extend(size(&dir)?);
    }
    if wanted("help") {
        rows.extend(help(&dir)?);
    }
    if wanted("rollout") || wanted("idle") {
        if !shoal_lab::is_root() {
            bail!("rollout and idle are measured as root: limits and users are part of them");
        }
        if wanted("rollout") {
            rows.extend(in_a_lab(&dir, 3, rollout)?);
        }
        if wanted("idle") {
            // Alone, so that no other device shares its programs' pages.
            rows.extend(in_a_lab(&dir, 1, idle)?);
        }
    }
    Ok(rows)
}

/// Another runtime to compare with, if somebody installed it: `SHOAL_WASMTIME`, or on the PATH.
fn wasmtime() -> Option<PathBuf> {
    let set = std::env::var_os("SHOAL_WASMTIME").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    set.into_iter().chain(std::env::split_paths(&path).map(|d| d.join("wasmtime"))).find(|p| p.is_file())
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn float(n: u64) -> f64 {
    n as f64
}

/// Sizes of what is shipped, stripped.
fn size(dir: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, budget) in [
        ("shoal-agent", Some(12.0)),
        ("shoal-guard", None),
        ("shoal-runner", None),
        ("shoal", None),
        ("shoald", None),
    ] {
        let bytes = fs::metadata(dir.join(name)).with_context(|| format!("look at {name}"))?.len();
        rows.push(Row::new(format!("size of {name}"), float(bytes) / 1_048_576.0, "MiB", budget));
    }
    Ok(rows)
}

/// `shoal --help` beside the cheapest program there is, in turn.
fn help(dir: &Path) -> Result<Vec<Row>> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        ours.push(time(Command::new(dir.join("shoal")).arg("--help"))?);
        theirs.push(time(&mut Command::new("/bin/true"))?);
    }
    Ok(vec![
        Row::new("shoal --help, p50", percentile(&mut ours, 50), "ms", Some(10.0)),
        Row::new("/bin/true, p50", percentile(&mut theirs, 50), "ms", None),
    ])
}

fn time(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("start a program")?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

/// Measures on a controller and so many devices, each ready for work.
fn in_a_lab(
    bins: &Path,
    devices: usize,
    measure: impl FnOnce(&Lab, &Path) -> Result<Vec<Row>>,
) -> Result<Vec<Row>> {
    let dir = std::env::temp_dir().join(format!("shoal-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    let bins = Binaries::in_dir(bins)?.reachable_by_all(&dir.join("bin"))?;
    let mut lab = Lab::start(&bins, &dir, &format!("bench{}", std::process::id()))?;
    for _ in 0..devices {
        lab.add_device("bench=yes")?;
    }
    // A device proves its engine once, when it is set up: that is no part of any roll-out.
    for device in &lab.devices {
        let proof = shoal_ipc::Layout::new(&device.root).proof();
        wait_until("the engine's proof", Duration::from_mins(1), || Ok(proof.exists().then_some(())))?;
    }
    let rows = measure(&lab, &dir)?;
    lab.stop()?;
    fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    Ok(rows)
}

fn sensor() -> PathBuf {
    paths::workspace().join("deploy/apps/prebuilt/sensor.wasm")
}

/// How fast a deployment gets to all devices.
fn rollout(lab: &Lab, dir: &Path) -> Result<Vec<Row>> {
    import(lab, &sensor(), "sensor:1")?;
    let cold = apply(lab, dir, "first", "sensor:1")?;
    let kib = float(fs::metadata(sensor())?.len()) / 1024.0;
    let what = format!("apply → running on 3 devices, cold module of {kib:.0} KiB");
    let mut rows = vec![Row::new(what, cold, "s", Some(2.0))];
    let mut cached = Vec::new();
    for n in 0..7 {
        cached.push(apply(lab, dir, &format!("cached{n}"), "sensor:1")?);
    }
    let p50 = percentile(&mut cached, 50);
    rows.push(Row::new("apply → running on 3 devices, cached image, p50 of 7", p50, "s", Some(1.0)));
    rows.push(Row::new("the same, worst of 7", percentile(&mut cached, 100), "s", None));
    Ok(rows)
}

/// What a device costs when nothing happens: a sensor that reads once an hour, deployed, compiled and started before.
fn idle(lab: &Lab, dir: &Path) -> Result<Vec<Row>> {
    import(lab, &sensor(), "sensor:1")?;
    deploy(lab, dir, "quiet", "sensor:1", "env: [{name: SENSOR_INTERVAL_MS, value: '3600000'}]")?;
    std::thread::sleep(Duration::from_secs(20));
    idle::rows(lab)
}

fn import(lab: &Lab, module: &Path, reference: &str) -> Result<()> {
    lab.operator
        .run(&["image", "import", module.to_str().context("a path that is not UTF-8")?, reference])?
        .ok()?;
    Ok(())
}

/// Seconds from the start of `shoal apply` until the controller knows that all devices run it.
fn apply(lab: &Lab, dir: &Path, name: &str, image: &str) -> Result<f64> {
    deploy(lab, dir, name, image, "tty: false")
}

/// The same with one more line of YAML in the container.
fn deploy(lab: &Lab, dir: &Path, name: &str, image: &str, line: &str) -> Result<f64> {
    let file = dir.join("bench.yaml");
    fs::write(
        &file,
        format!(
            "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{bench: 'yes'}}}}\n  \
             template:\n    spec:\n      containers:\n        - name: main\n          image: {image}\n          {line}\n          resources: {{limits: {{memory: 64Mi, cpu: 500m}}}}\n"
        ),
    )?;
    let began = Instant::now();
    lab.operator.run(&["apply", "-f", file.to_str().context("a path that is not UTF-8")?, "--yes"])?.ok()?;
    wait_until(&format!("{name} to run on all devices"), Duration::from_mins(1), || {
        let all = lab.operator.json(&["get", "pods"])?;
        let runs = |p: &&Value| {
            p["deployment"] == name && matches!(p["phase"].as_str(), Some("running" | "healthy"))
        };
        let count = all["pods"].as_array().map_or(0, |pods| pods.iter().filter(runs).count());
        Ok((count >= lab.devices.len()).then_some(()))
    })?;
    Ok(began.elapsed().as_secs_f64())
}
