//! `cargo xtask fuzz`: coverage-guided fuzzing of everything that reads foreign bytes (`cross/fuzz`), on the stable toolchain.
//!
//! What is found is kept: inputs that reach new code below `target/fuzz/corpus`, failures below `target/fuzz/found`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::arch::Arch;
use crate::{layout, output, paths, process, tools};

/// What makes the compiler count which code an input reached: LLVM's own pass, as cargo-fuzz asks for it.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// One input may take this long, seconds: the machine may be busy, and a bomb is unpacked up to its cap.
const TIMEOUT: u64 = 30;
/// The whole process, engine and all, MiB. What one input may ask for is each target's own, smaller number.
const RSS_LIMIT: u64 = 1024;
/// What is committed of one target's corpus, bytes.
const COMMITTED: usize = 6 << 10;

/// Search for inputs that break what must hold for any bytes, guided by the code that they reach
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The target; all of them, one after another, without it
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// List the targets
    #[arg(long)]
    list: bool,
    /// Afterwards keep the smallest inputs that together reach what the whole corpus reaches, and commit a few of them
    #[arg(long)]
    minimise: bool,
    /// Only try this file, as often as it takes to see what is wrong
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// The instrumented program.
struct Fuzzer {
    program: PathBuf,
    home: PathBuf,
    targets: Vec<(String, String)>,
}

/// What one run of one target came to.
pub(crate) struct Outcome {
    /// The target.
    pub target: String,
    /// Where the input lies that broke a property.
    pub found: Vec<PathBuf>,
    /// Inputs tried.
    runs: String,
    /// The engine's own figures at the end: `cov: … ft: … corp: …`.
    coverage: String,
    /// Processor time, seconds.
    busy: u64,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let fuzzer = Fuzzer::build()?;
    if args.list {
        for (name, _) in &fuzzer.targets {
            output::result(name);
        }
        return Ok(());
    }
    if let (Some(target), Some(input)) = (&args.target, &args.input) {
        return process::run(fuzzer.command(target)?.arg(format!("-timeout={TIMEOUT}")).arg(input));
    }
    let mut found = Vec::new();
    for outcome in fuzzer.run(args.target.as_deref(), args.seconds)? {
        let Outcome { target, runs, coverage, busy, .. } = &outcome;
        output::result(&format!("{target}: {runs} inputs in {busy} s of processor time, {coverage}"));
        found.extend(outcome.found);
        if args.minimise {
            fuzzer.minimise(&outcome.target)?;
        }
    }
    ensure!(
        found.is_empty(),
        "broken by: {}; `cargo xtask fuzz TARGET --input FILE` shows how",
        found.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// The short run of the test suite: some seconds of every target.
pub(crate) fn short(seconds: u64) -> Result<Vec<Outcome>> {
    Fuzzer::build()?.run(None, seconds)
}

impl Fuzzer {
    fn build() -> Result<Self> {
        tools::ensure(&[tools::Tool::CPlusPlus])?;
        let home = paths::target()?.join("fuzz");
        let triple = Arch::host()?.triple();
        output::step("build", "the fuzz targets, instrumented");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(paths::workspace());
        // With a target named, these flags do not reach build scripts.
        cargo.args(["build", "--quiet", "--package", "shoal-fuzz", "--features", "engine"]);
        cargo.args(["--profile", "fuzz", "--target", triple, "--target-dir"]).arg(&home);
        process::run(cargo.env("RUSTFLAGS", FLAGS)).context("build the fuzz targets")?;
        let program = home.join(triple).join("fuzz/shoal-fuzz");
        let list = process::capture(Command::new(&program).env("SHOAL_FUZZ_LIST", "1"))?;
        let targets: Vec<(String, String)> = list
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, len)| (name.to_owned(), len.to_owned()))
            .collect();
        ensure!(!targets.is_empty(), "the fuzz program named no target");
        Ok(Self { program, home, targets })
    }

    fn command(&self, target: &str) -> Result<Command> {
        let known = self.targets.iter().find(|(name, _)| name == target);
        let Some((_, max_len)) = known else {
            let names: Vec<&str> = self.targets.iter().map(|(name, _)| name.as_str()).collect();
            bail!("there is no target {target}; there are {}", names.join(", "));
        };
        let mut command = Command::new(&self.program);
        command.env("SHOAL_FUZZ_TARGET", target);
        command.args([format!("-max_len={max_len}"), format!("-rss_limit_mb={RSS_LIMIT}")]);
        Ok(command)
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.home.join("corpus").join(target)
    }

    fn run(&self, only: Option<&str>, seconds: u64) -> Result<Vec<Outcome>> {
        let names = self.targets.iter().map(|(name, _)| name.as_str());
        let chosen: Vec<&str> = only.map_or_else(|| names.collect(), |one| vec![one]);
        chosen.into_iter().map(|target| self.run_one(target, seconds)).collect()
    }

    fn run_one(&self, target: &str, seconds: u64) -> Result<Outcome> {
        let (corpus, found) = (self.corpus(target), self.home.join("found").join(target));
        layout::create(&corpus)?;
        layout::create(&found)?;
        let before = files(&found)?;
        let log = self.home.join(format!("{target}.log"));
        let mut command = self.command(target)?;
        command.env("SHOAL_FUZZ_CORPUS", &corpus);
        command.args([format!("-timeout={TIMEOUT}"), format!("-max_total_time={seconds}")]);
        command.args(["-print_final_stats=1", "-use_value_profile=1", "-verbosity=1"]);
        command.arg(format!("-artifact_prefix={}/", found.display())).arg(&corpus);
        output::step("fuzz", &format!("{target} for {seconds} s; log: {}", log.display()));
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let (began, busy) = (Instant::now(), of_children()?);
        let status =
            command.stderr(file).status().with_context(|| format!("start {}", self.program.display()))?;
        let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
        let new: Vec<PathBuf> = files(&found)?.into_iter().filter(|f| !before.contains(f)).collect();
        if !status.success() {
            output::warn(&process::tail(text.as_bytes(), 40));
            if new.is_empty() {
                bail!(
                    "the search of {target} ended with {status} after {:.0} s",
                    began.elapsed().as_secs_f64()
                );
            }
        }
        Ok(Outcome {
            target: target.to_owned(),
            found: new,
            runs: text
                .lines()
                .find_map(|l| l.strip_prefix("stat::number_of_executed_units:"))
                .map_or_else(|| "?".to_owned(), |n| n.trim().to_owned()),
            coverage: last_coverage(&text),
            busy: of_children()?.saturating_sub(busy),
        })
    }

    /// Makes the corpus as small as its coverage allows, and writes some of it where it is committed.
    fn minimise(&self, target: &str) -> Result<()> {
        let corpus = self.corpus(target);
        let smaller = corpus.with_extension("smaller");
        let _ = fs::remove_dir_all(&smaller);
        layout::create(&smaller)?;
        let mut merge = self.command(target)?;
        merge.args(["-merge=1", "-verbosity=0"]).args([&smaller, &corpus]);
        process::capture(&mut merge).with_context(|| format!("make the corpus of {target} smaller"))?;
        fs::remove_dir_all(&corpus).with_context(|| format!("remove {}", corpus.display()))?;
        fs::rename(&smaller, &corpus).with_context(|| format!("rename {}", smaller.display()))?;
        let kept = commit(&corpus, target)?;
        output::step("corpus", &format!("{target}: {kept} inputs are committed"));
        Ok(())
    }
}

/// The smallest inputs of `corpus`, as many as fit, as the text file that is committed.
fn commit(corpus: &Path, target: &str) -> Result<usize> {
    let mut inputs = Vec::new();
    for path in files(corpus)? {
        inputs.push(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    let chosen = smallest(inputs, COMMITTED);
    let path = paths::workspace().join(format!("cross/fuzz/corpus/{target}.hex"));
    let mut file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut text =
        format!("# Found by `cargo xtask fuzz {target} --minimise`: inputs that reach code of their own.\n");
    for input in &chosen {
        text.push_str(&hex::encode(input));
        text.push('\n');
    }
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    Ok(chosen.len())
}

fn smallest(mut inputs: Vec<Vec<u8>>, budget: usize) -> Vec<Vec<u8>> {
    inputs.retain(|i| !i.is_empty());
    inputs.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    let mut left = budget;
    inputs
        .into_iter()
        .map_while(|i| {
            left = left.checked_sub(i.len())?;
            Some(i)
        })
        .collect()
}

/// Processor time of all processes that this one has waited for, seconds (`proc_pid_stat(5)`: `cutime`, `cstime`).
fn of_children() -> Result<u64> {
    const HERTZ: u64 = 100;
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The name, in parentheses, may hold anything; the state follows it.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/self/stat has no name")?;
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>().context("read the times in /proc/self/stat")? / HERTZ)
}

/// From the engine's last line of status: covered edges, features, inputs that were kept.
fn last_coverage(log: &str) -> String {
    let line = log.lines().rev().find(|l| l.starts_with('#') && l.contains(" cov: ")).unwrap_or_default();
    let from = line.find("cov: ").unwrap_or(line.len());
    let to = line.find(" lim:").or_else(|| line.find(" exec/s")).unwrap_or(line.len());
    line.get(from..to).unwrap_or_default().trim().to_owned()
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        all.push(entry.with_context(|| format!("list {}", dir.display()))?.path());
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_status_line_gives_the_coverage() {
        let log = "#2\tINITED cov: 1 ft: 1\n#8192\tpulse  cov: 812 ft: 2301 corp: 99/4096b lim: 4096 exec/s: 5000 rss: 60Mb\nDone 9 runs\n";
        assert_eq!(last_coverage(log), "cov: 812 ft: 2301 corp: 99/4096b");
        assert_eq!(last_coverage("nothing"), "");
    }

    #[test]
    fn the_smallest_inputs_that_fit_are_committed() {
        let all = vec![vec![1; 3], vec![], vec![2; 1], vec![3; 2], vec![0; 9]];
        assert_eq!(smallest(all, 6), [vec![2; 1], vec![3; 2], vec![1; 3]]);
    }
}
