//! `cargo xtask mutants`: breaks the verifier, the envelope and device admission in every small way that cargo-mutants knows,
//! one at a time, and asks the tests about each. What no test notices must stand in `cross/mutants.toml`, with the reason why
//! it may. Works on a copy of the tree below the target folder, and removes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::assemble::assemble;
use crate::engine::Profile;
use crate::{layout, output, paths, process, tools};

/// Where the explanations are.
const ACCEPTED: &str = "cross/mutants.toml";

/// A part of the tree, and the tests that answer for it.
struct Area {
    name: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    tests: &'static [&'static str],
    /// Slower ones, with real containers: asked only about what those did not notice.
    slow: &'static [&'static str],
}

const AREAS: [Area; 2] = [
    Area {
        name: "verifier",
        package: "shoal-protocol",
        files: &["protocol/src/verify/*.rs", "protocol/src/envelope.rs"],
        tests: &["--test=trust"],
        slow: &[],
    },
    Area {
        name: "admission",
        package: "shoal-guard",
        files: &["agent/guard/src/admit/*.rs"],
        tests: &["--bin=shoal-guard", "--test=admission", "--test=releases"],
        slow: &["--test=containers", "--test=documents", "--test=local", "--test=taken_over"],
    },
];

/// Break the trust code in every small way, and find what no test notices
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `verifier` or `admission`; both without it
    area: Option<String>,
    /// Only this part of all mutations, as K/N with K from 0
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Only what this difference (as `git diff` prints it) touches
    #[arg(long, value_name = "FILE")]
    in_diff: Option<PathBuf>,
    /// Only mutations of files that match this glob
    #[arg(long, value_name = "GLOB")]
    file: Option<String>,
    /// Only what the last run did not catch
    #[arg(long)]
    again: bool,
    /// Only list the mutations
    #[arg(long)]
    list: bool,
}

/// What is accepted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    #[serde(default)]
    survivor: Vec<Survivor>,
}

/// A mutation that no test notices, and why that is so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Survivor {
    file: String,
    /// As cargo-mutants says it, without the line.
    mutation: String,
    /// How often it stands in that function.
    #[serde(default = "once")]
    times: usize,
    why: String,
}

fn once() -> usize {
    1
}

#[derive(Debug, Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    scenario: Scenario,
    summary: String,
}

#[derive(Debug, Deserialize)]
enum Scenario {
    Baseline,
    Mutant { name: String, file: String },
}

/// File and mutation.
type Key = (String, String);

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let chosen: Vec<&Area> =
        AREAS.iter().filter(|a| args.area.as_ref().is_none_or(|n| n == a.name)).collect();
    if chosen.is_empty() {
        bail!("there is no such area; there are {}", AREAS.map(|a| a.name).join(", "));
    }
    let accepted = read_accepted()?;
    tools::ensure(&[tools::Tool::CargoMutants])?;
    let mut wrong = Vec::new();
    for area in chosen {
        let began = Instant::now();
        if args.list {
            process::run(command(area, args)?.arg("--list"))?;
            continue;
        }
        let outcomes = run(area, args)?;
        let count = |summary: &str| outcomes.iter().filter(|o| o.summary == summary).count();
        let missed = missed(&outcomes);
        let whole = args.shard.is_none() && args.in_diff.is_none() && args.file.is_none() && !args.again;
        let mine: Vec<&Survivor> = accepted.survivor.iter().filter(|s| area.owns(&s.file)).collect();
        let said = judge(&missed, &mine, whole);
        output::result(&format!(
            "{}: {} mutations caught, {} by running out of time, {} do not compile, {} explained, {} not ({:.0} s)",
            area.name,
            count("CaughtMutant"),
            count("Timeout"),
            count("Unviable"),
            count("MissedMutant").saturating_sub(said.len()),
            said.len(),
            began.elapsed().as_secs_f64()
        ));
        wrong.extend(said);
    }
    for line in &wrong {
        output::result(line);
    }
    if !wrong.is_empty() {
        bail!("{} to be killed by a test, or explained in {ACCEPTED}, or taken out of it", wrong.len());
    }
    Ok(())
}

impl Area {
    fn owns(&self, file: &str) -> bool {
        self.files.iter().any(|glob| match glob.split_once('*') {
            Some((dir, end)) => file.starts_with(dir) && file.ends_with(end),
            None => file == *glob,
        })
    }
}

fn read_accepted() -> Result<Accepted> {
    let path = paths::workspace().join(ACCEPTED);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let accepted: Accepted = toml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    for s in &accepted.survivor {
        if s.why.split_whitespace().count() < 4 {
            bail!("{ACCEPTED}: `{}` is not explained", s.mutation);
        }
    }
    Ok(accepted)
}

fn command(area: &Area, args: &Args) -> Result<Command> {
    let mut command = Command::new(tools::Tool::CargoMutants.program()?);
    command.arg("mutants").current_dir(paths::workspace());
    command.args(["--package", area.package, "--colors", "never", "--no-shuffle"]);
    // Nothing but `verify` can make one of these, so each such guess only costs a compilation.
    command.args(["--exclude-re", r"with Ok\(Verified::"]);
    if let Some(file) = &args.file {
        command.args(["--file", file]);
    } else {
        command.args(area.files.iter().flat_map(|f| ["--file", f]));
    }
    if let Some(shard) = &args.shard {
        command.args(["--shard", shard]);
    }
    if let Some(diff) = &args.in_diff {
        command.arg("--in-diff").arg(diff);
    }
    Ok(command)
}

/// All mutations with the quick tests, then what is left with the slow ones.
fn run(area: &Area, args: &Args) -> Result<Vec<Outcome>> {
    if args.again {
        return pass(area, args, Pass::Rest);
    }
    let mut outcomes = pass(area, args, Pass::All)?;
    if !area.slow.is_empty() && !missed(&outcomes).is_empty() {
        outcomes.retain(|o| ["CaughtMutant", "Unviable"].contains(&o.summary.as_str()));
        outcomes.extend(pass(area, args, Pass::Rest)?);
    }
    Ok(outcomes)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    All,
    /// What was not caught by the run before, with the slow tests too.
    Rest,
}

fn pass(area: &Area, args: &Args, pass: Pass) -> Result<Vec<Outcome>> {
    let home = paths::target()?.join("mutants").join(area.name);
    let scratch = home.join("scratch");
    let _ = fs::remove_dir_all(&scratch);
    layout::create(&scratch)?;
    let mut command = command(area, args)?;
    // The copy that is broken, with its builds, lies here and not in /tmp; nothing of it is worth keeping.
    command.env("TMPDIR", &scratch).env_remove("CARGO_TARGET_DIR").env("CARGO_INCREMENTAL", "1");
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("PROPTEST_CASES", "32");
    // A broken daemon makes each test wait in vain, as long as that takes.
    command.env("RUST_TEST_THREADS", "6");
    command.args(["--minimum-test-timeout", "30", "--output"]).arg(&home);
    // For building and running both: what no test of these needs is not built.
    command.args(area.tests.iter().map(|test| format!("--cargo-arg={test}")));
    if pass == Pass::Rest {
        command.arg("--iterate").args(area.slow.iter().map(|test| format!("--cargo-arg={test}")));
        if !area.slow.is_empty() {
            command.env("SHOAL_LIBEXEC", assemble(Profile::Dev, true)?);
        }
    }
    let status = with_reaper(&scratch, || command.status()).context("start cargo-mutants")?;
    let _ = fs::remove_dir_all(&scratch);
    // 0: all caught; 2: some missed; 3: some ran out of time. What that means is decided here.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("cargo-mutants ended with {status}: do the tests pass as they are?");
    }
    let path = home.join("mutants.out/outcomes.json");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let outcomes: Outcomes =
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    Ok(outcomes.outcomes)
}

/// Ends what broken programs leave behind while `work` goes on: whatever names the scratch folder, has lost its parent and is older
/// than any test. A daemon whose loop was broken would take a processor for itself.
fn with_reaper<T>(scratch: &Path, work: impl FnOnce() -> T) -> T {
    const AGE: Duration = Duration::from_secs(45);
    let (ended, end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut orphans: BTreeMap<u32, Instant> = BTreeMap::new();
            while end.recv_timeout(Duration::from_secs(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = orphans_of(scratch);
                orphans.retain(|pid, _| now.contains(pid));
                for pid in now {
                    if orphans.entry(pid).or_insert_with(Instant::now).elapsed() > AGE {
                        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                    }
                }
            }
        });
        let done = work();
        drop(ended);
        done
    })
}

/// Processes that were left to `init` and have this folder on their command line.
fn orphans_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            read("status").contains("\nPPid:\t1\n") && read("cmdline").contains(&*folder)
        })
        .collect()
}

/// What no test noticed, with how often.
fn missed(outcomes: &[Outcome]) -> BTreeMap<Key, usize> {
    let mut all = BTreeMap::new();
    for o in outcomes.iter().filter(|o| o.summary == "MissedMutant") {
        if let Scenario::Mutant { name, file } = &o.scenario {
            *all.entry((file.clone(), without_place(name, file))).or_default() += 1;
        }
    }
    all
}

/// `FILE:LINE:COLUMN: what` without all but what: lines move, mutations stay.
fn without_place(name: &str, file: &str) -> String {
    name.strip_prefix(file).and_then(|rest| rest.split_once(": ")).map_or(name, |(_, what)| what).to_owned()
}

/// What is wrong: a survivor that nobody explained, or an explanation of something that a test notices by now.
fn judge(missed: &BTreeMap<Key, usize>, accepted: &[&Survivor], whole: bool) -> Vec<String> {
    let mut left: BTreeMap<Key, usize> = BTreeMap::new();
    for s in accepted {
        *left.entry((s.file.clone(), s.mutation.clone())).or_default() += s.times;
    }
    let mut wrong = Vec::new();
    for (key, times) in missed {
        let explained = left.remove(key).unwrap_or_default();
        if *times > explained {
            wrong.push(format!("not noticed: {}: {} ({times}, explained {explained})", key.0, key.1));
        } else if whole && *times < explained {
            wrong.push(format!("stale: {}: {} ({times}, explained {explained})", key.0, key.1));
        }
    }
    if whole {
        wrong.extend(left.keys().map(|(file, what)| format!("stale: {file}: {what}")));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(what: &str) -> Key {
        ("a.rs".to_owned(), what.to_owned())
    }

    fn survivor(what: &str, times: usize) -> Survivor {
        Survivor { file: "a.rs".into(), mutation: what.into(), times, why: String::new() }
    }

    #[test]
    fn an_unexplained_survivor_and_a_stale_explanation_are_both_wrong() {
        let missed = BTreeMap::from([(key("x"), 2), (key("y"), 1)]);
        let (x, y, z) = (survivor("x", 1), survivor("y", 1), survivor("z", 1));
        let said = judge(&missed, &[&x, &y, &z], true);
        assert_eq!(said, ["not noticed: a.rs: x (2, explained 1)", "stale: a.rs: z"]);
        assert_eq!(judge(&missed, &[&survivor("x", 3), &y], true), ["stale: a.rs: x (2, explained 3)"]);
    }

    #[test]
    fn a_part_of_the_mutations_says_nothing_about_stale_explanations() {
        let x = survivor("x", 1);
        assert!(judge(&BTreeMap::new(), &[&x], false).is_empty());
        assert_eq!(judge(&BTreeMap::new(), &[&x], true), ["stale: a.rs: x"]);
    }

    #[test]
    fn a_mutation_is_named_without_its_line() {
        let name = "protocol/src/verify/mod.rs:286:20: replace > with >= in check_size";
        assert_eq!(without_place(name, "protocol/src/verify/mod.rs"), "replace > with >= in check_size");
    }

    #[test]
    fn every_explanation_belongs_to_an_area_and_to_a_file() {
        for s in &read_accepted().unwrap().survivor {
            assert!(AREAS.iter().any(|a| a.owns(&s.file)), "{}", s.file);
            assert!(paths::workspace().join(&s.file).is_file(), "{}", s.file);
        }
    }
}
