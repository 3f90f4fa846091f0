//! `cargo xtask test`: everything that must hold before code lands, in one order, with one count at the end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::assemble::assemble;
use crate::engine::{self, Profile};
use crate::{conformance, device, network, output, paths, process, tools};
use crate::{fuzz, guests};

/// Install what tests need, then run formatting, lints, dependency rules, docs, unit, property and end-to-end tests.
///
/// As root everything runs; without it, tests that need root are named and counted as skipped.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Longer forms of the slow suites too (fault injection, soak)
    #[arg(long)]
    full: bool,
    /// Only the end-to-end tests whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Each target is fuzzed this long: all of them together, with what it costs to begin, stay under a minute.
const FUZZ_SECONDS: u64 = 2;

#[derive(Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let began = Instant::now();
    let mut count = Count::default();
    let mut broken = Vec::new();
    if args.only.is_none() {
        tools::ensure(&tools::Tool::ALL)?;
    }
    let engine = engine::ensure(Arch::host()?)?;
    if args.only.is_none() {
        for (name, step) in checks(&engine) {
            stage(name, began);
            match step() {
                Ok(()) => count.passed += 1,
                Err(error) => {
                    output::error(&error);
                    broken.push(name);
                    count.failed += 1;
                }
            }
        }
        stage("dependency rules: advisories", began);
        advisories(&mut count)?;
    }
    stage("binaries for the end-to-end tests", began);
    let bins = assemble(Profile::Dev, true)?;
    if args.only.is_none() {
        stage("unit, property and integration tests", began);
        let mut tests = cargo(&["test", "--no-fail-fast", "--workspace"]);
        tests.args(["--exclude", "shoal-lab", "--exclude", "shoal-runner"]).env("SHOAL_LIBEXEC", &bins);
        // Like the end-to-end tests, most of guard's wait for processes that they started.
        tests.env("RUST_TEST_THREADS", "4");
        tests.envs(network_env()?);
        run_tests(&mut tests, &mut count)?;
        stage("the engine's runner", began);
        let mut runner =
            cargo(&["test", "--no-fail-fast", "-p", "shoal-runner", "--target", engine.arch.triple()]);
        run_tests(runner.envs(engine.build_env()), &mut count)?;
    }
    if args.only.is_none() {
        stage("some seconds of fuzzing each target", began);
        fuzzing(if args.full { 60 } else { FUZZ_SECONDS }, &mut count)?;
    }
    stage("end-to-end tests on real parts", began);
    // Some at a time: each is a whole fleet, which waits much more than it works.
    let mut lab = cargo(&["test", "--no-fail-fast", "-p", "shoal-lab", "--"]);
    lab.args(["--test-threads", "5"]).args(&args.only).env("SHOAL_LAB_BIN", &bins);
    lab.envs(network_env()?);
    if args.full {
        lab.env("SHOAL_FULL", "1");
    }
    run_tests(&mut lab, &mut count)?;
    if args.only.is_none() {
        stage("test programs of WASI preview 1", began);
        conformance(&bins, args.full, &mut count)?;
    }

    if args.only.is_none() {
        stage("virtual devices with the packages installed", began);
        devices(&bins, args.full, &mut count)?;
    }

    for name in &count.skipped {
        output::warn(&format!("skipped: {name}"));
    }
    for name in &broken {
        output::warn(&format!("failed: {name}"));
    }
    output::step("done", &format!("in {:.0} s", began.elapsed().as_secs_f64()));
    output::result(&format!(
        "{} passed, {} failed, {} skipped",
        count.passed,
        count.failed,
        count.skipped.len()
    ));
    if count.failed > 0 {
        bail!("{} of the checks and tests failed", count.failed);
    }
    Ok(())
}

/// Each target counts as one; an input that breaks it is named.
fn fuzzing(seconds: u64, count: &mut Count) -> Result<()> {
    for outcome in fuzz::short(seconds)? {
        if outcome.found.is_empty() {
            count.passed += 1;
        } else {
            count.failed += 1;
            output::warn(&format!("{} is broken by {:?}", outcome.target, outcome.found));
        }
    }
    Ok(())
}

/// The public test programs as containers: a part of them, or all.
fn conformance(bins: &Path, full: bool, count: &mut Count) -> Result<()> {
    if !shoal_lab::is_root() {
        count.skipped.push("the test programs of WASI preview 1: need root".to_owned());
        return Ok(());
    }
    let found = conformance::run(bins, !full, None, false)?;
    count.passed += found.passed;
    count.failed += found.failed;
    Ok(())
}

/// A virtual device, a few scenarios; or both architectures and all of them.
fn devices(bins: &Path, full: bool, count: &mut Count) -> Result<()> {
    // Programs of the other architecture are built for this alone, which a short run has no time for.
    let archs: &[Arch] = if full { &[Arch::X86_64, Arch::Aarch64] } else { &[Arch::X86_64] };
    for &arch in archs {
        let outcomes = match device::check(arch, full, bins) {
            Ok(outcomes) => outcomes,
            Err(error) if error.is::<crate::apt::Unavailable>() || error.is::<device::NotHere>() => {
                count.skipped.push(format!("the virtual {} device: {error:#}", arch.name()));
                continue;
            }
            Err(error) => return Err(error),
        };
        output::result(&device::table(&outcomes));
        let failed = outcomes.iter().filter(|outcome| outcome.failed.is_some()).count() as u64;
        count.failed += failed;
        count.passed += outcomes.len() as u64 - failed;
    }
    Ok(())
}

/// Where tests of networks find what they start.
fn network_env() -> Result<Vec<(&'static str, std::ffi::OsString)>> {
    network::Tools::ensure()?.map_or(Ok(Vec::new()), |tools| Ok(tools.env()?.into()))
}

/// Advisories need a database from the network; where it cannot be had the check is skipped, and counted as that.
fn advisories(count: &mut Count) -> Result<()> {
    let mut command = Command::new(tools::Tool::CargoDeny.program()?);
    let done = process::output(command.current_dir(paths::workspace()).args(["check", "advisories"]))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() {
        count.passed += 1;
    } else if said.contains("failed to fetch advisory database") {
        count
            .skipped
            .push("dependency rules: advisories: their database cannot be fetched from here".to_owned());
    } else {
        output::warn(&said);
        count.failed += 1;
    }
    Ok(())
}

type Check<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

fn checks(engine: &engine::Engine) -> Vec<Check<'_>> {
    let deny = |what: &'static str| {
        move || {
            let mut command = Command::new(tools::Tool::CargoDeny.program()?);
            process::run(command.current_dir(paths::workspace()).args(["check", what]))
        }
    };
    vec![
        ("formatting", Box::new(|| process::run(&mut cargo(&["fmt", "--all", "--check"])))),
        (
            "lints",
            Box::new(|| process::run(&mut cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]))),
        ),
        (
            "lints of the runner",
            Box::new(|| {
                let mut clippy = cargo(&["clippy", "-p", "shoal-runner", "--all-targets"]);
                clippy.args(["--target", engine.arch.triple(), "--", "-D", "warnings"]);
                process::run(clippy.envs(engine.build_env()))
            }),
        ),
        ("shell scripts", Box::new(shell_scripts)),
        ("dependency rules: bans", Box::new(deny("bans"))),
        ("dependency rules: licenses", Box::new(deny("licenses"))),
        ("dependency rules: sources", Box::new(deny("sources"))),
        (
            "documentation",
            Box::new(|| {
                process::run(cargo(&["doc", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
            }),
        ),
        (
            "guests' own tests",
            Box::new(|| {
                process::run(&mut cargo(&["test", "--quiet", "--manifest-path", "deploy/apps/Cargo.toml"]))
            }),
        ),
        ("guests rebuild to the same bytes", Box::new(guests::check)),
    ]
}

/// What users and their package managers run by a shell.
fn shell_scripts() -> Result<()> {
    let deploy = paths::workspace().join("deploy");
    let scripts = deploy.join("package/scripts");
    let mut all = vec![
        deploy.join("install.sh"),
        deploy.join("examples/init/shoal"),
        paths::workspace().join("cross/src/package/trial.sh"),
    ];
    for entry in std::fs::read_dir(&scripts).with_context(|| format!("read {}", scripts.display()))? {
        all.push(entry.with_context(|| format!("read {}", scripts.display()))?.path());
    }
    for script in &all {
        process::capture(Command::new("sh").arg("-n").arg(script))?;
    }
    let mut check = Command::new(tools::Tool::ShellCheck.program()?);
    // A file of the device's own cannot be followed from here.
    process::run(check.args(["--shell", "sh", "--exclude", "SC1091"]).args(all))
}

fn stage(name: &str, began: Instant) {
    output::step("test", &format!("{name} ({:.0} s)", began.elapsed().as_secs_f64()));
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace()).args(args);
    command
}

/// Runs `cargo test`, shows what it prints, and counts; a build that fails is an error at once.
fn run_tests(command: &mut Command, count: &mut Count) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let out = child.stdout.take().context("cargo test's output")?;
    let (mut seen, mut failed) = (false, 0);
    for line in BufReader::new(out).lines() {
        let line = line.context("read what cargo test prints")?;
        output::result(&line);
        if let Some((passed, bad)) = parse_result(&line) {
            seen = true;
            count.passed += passed;
            failed += bad;
        }
        if let Some(skipped) = line.trim_start().strip_prefix("SKIPPED ") {
            // It returned early and is in `passed`; it must not count as such.
            count.passed = count.passed.saturating_sub(1);
            count.skipped.push(skipped.to_owned());
        }
    }
    count.failed += failed;
    let status = child.wait().context("wait for cargo test")?;
    if !status.success() && failed == 0 {
        bail!(
            "cargo test ended with {status} before its tests did{}",
            if seen { "" } else { ": it does not build" }
        );
    }
    Ok(())
}

/// Passed and failed of a line `test result: ok. 3 passed; 0 failed; …`.
pub(crate) fn parse_result(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |word: &str| rest.split("; ").find_map(|part| part.strip_suffix(word)?.trim().parse().ok());
    Some((number("passed")?, number("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_and_other_lines_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.10s";
        assert_eq!(parse_result(line), Some((12, 3)));
        assert_eq!(parse_result("test x ... ok"), None);
    }
}
