//! `cargo xtask device`: virtual devices with the real packages installed, under systemd, x86_64 and aarch64, in QEMU without
//! KVM. The controller runs here, the device reaches it over its own network. Each scenario is a check with a name; what it
//! needs of a device before it, `install` and `apply` have made.

mod guest;
mod image;
mod monitor;
mod operator;
mod packages;
mod scenarios;
mod site;
mod stick;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use shoal_lab::Binaries;

use crate::arch::Arch;
use crate::assemble::assemble;
use crate::engine::Profile;
use crate::{output, paths};
use image::Suite;
use packages::Packages;
use scenarios::{SCENARIOS, Scenario};
use site::Site;

/// Boot virtual devices with the real packages installed (QEMU, systemd) and run scenarios on them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The device's architecture; both if left out
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// The device's Debian
    #[arg(long, value_enum, default_value_t = Suite::Trixie)]
    suite: Suite,
    /// Only these scenarios, after those that make a device; all if left out
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Only the scenarios of a short run
    #[arg(long, conflicts_with = "scenarios")]
    smoke: bool,
    /// How many power cuts
    #[arg(long, value_name = "N", default_value_t = 10)]
    cuts: u32,
    /// Take shoal-agent_*.deb and shoal-compiler_*.deb from here instead of building them
    #[arg(long, value_name = "DIR", conflicts_with = "light")]
    packages: Option<PathBuf>,
    /// Build packages with the programs as tests have them: in little time; what they weigh means nothing
    #[arg(long)]
    light: bool,
    /// List the scenarios and end
    #[arg(long)]
    list: bool,
}

/// How a scenario ended.
pub(crate) struct Outcome {
    /// Architecture and scenario.
    pub(crate) name: String,
    /// What went wrong.
    pub(crate) failed: Option<String>,
    seconds: f64,
    notes: Vec<String>,
}

/// Marks that no virtual device can be had on this kind of machine.
#[derive(Debug)]
pub(crate) struct NotHere;

impl std::fmt::Display for NotHere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QEMU is pinned for x86_64 machines only")
    }
}

impl std::error::Error for NotHere {}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    if args.list {
        for scenario in &SCENARIOS {
            output::result(&format!("{:<16} {}", scenario.name, scenario.what));
        }
        return Ok(());
    }
    if let Some(unknown) = args.scenarios.iter().find(|name| SCENARIOS.iter().all(|s| s.name != **name)) {
        bail!("no scenario {unknown:?}: --list names them");
    }
    let wanted = |s: &Scenario| s.base || s.smoke || !args.smoke;
    let chosen =
        |s: &Scenario| s.base || args.scenarios.is_empty() || args.scenarios.iter().any(|n| n == s.name);
    let selected: Vec<&Scenario> = SCENARIOS.iter().filter(|s| wanted(s) && chosen(s)).collect();
    let archs = args.arch.map_or_else(|| vec![Arch::X86_64, Arch::Aarch64], |arch| vec![arch]);
    let bins = match std::env::var_os("SHOAL_LAB_BIN") {
        Some(_) => Binaries::from_env()?,
        None => Binaries::in_dir(assemble(Profile::Dev, true)?)?,
    };
    let mut outcomes = Vec::new();
    for arch in archs {
        let packages = Packages::ensure(arch, args.packages.as_deref(), args.light)?;
        outcomes.extend(run((arch, args.suite), &bins, &packages, &selected, args.cuts)?);
    }
    output::result(&table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| outcome.failed.is_some()).count();
    if failed > 0 {
        bail!(
            "{failed} of {} scenarios failed; logs are below {}",
            outcomes.len(),
            paths::target()?.join("vm").display()
        );
    }
    Ok(())
}

/// The short form for `cargo xtask test`, or all of it.
pub(crate) fn check(arch: Arch, full: bool, bins: &Path) -> Result<Vec<Outcome>> {
    if Arch::host()? != Arch::X86_64 {
        return Err(NotHere.into());
    }
    let selected: Vec<&Scenario> = SCENARIOS.iter().filter(|s| s.smoke || full).collect();
    let packages = Packages::ensure(arch, None, !full)?;
    run((arch, Suite::Trixie), &Binaries::in_dir(bins)?, &packages, &selected, if full { 50 } else { 1 })
}

fn run(
    (arch, suite): (Arch, Suite),
    bins: &Binaries,
    packages: &Packages,
    selected: &[&Scenario],
    cuts: u32,
) -> Result<Vec<Outcome>> {
    let mut site = Site::new((arch, suite), bins, packages, cuts)?;
    let mut outcomes = Vec::new();
    let kind = format!("{}{}", arch.name(), suite.suffix());
    for scenario in selected {
        output::step("scenario", &format!("{kind} {}: {}", scenario.name, scenario.what));
        let began = Instant::now();
        site.notes.clear();
        let result = (scenario.run)(&mut site);
        let seconds = began.elapsed().as_secs_f64();
        let failed = result.err().map(|error| format!("{error:#}"));
        if let Some(why) = &failed {
            output::warn(&format!("{} failed after {seconds:.0} s: {why}", scenario.name));
            site.keep_logs(scenario.name);
        }
        let broken = failed.is_some();
        let name = format!("{kind} {}", scenario.name);
        outcomes.push(Outcome { name, failed, seconds, notes: site.notes.clone() });
        if broken && scenario.base {
            // Nothing that follows has a device to work on.
            break;
        }
        if broken && let Err(error) = site.recover() {
            output::error(&error);
            break;
        }
    }
    for missing in &selected[outcomes.len()..] {
        let failed = Some("not run: the device was lost before".to_owned());
        let name = format!("{kind} {}", missing.name);
        outcomes.push(Outcome { name, failed, seconds: 0.0, notes: Vec::new() });
    }
    Ok(outcomes)
}

/// All outcomes, a line each, and what was measured below it.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let how = if outcome.failed.is_none() { "passed" } else { "FAILED" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{how}  {:<26} {:>5.0} s", outcome.name, outcome.seconds);
        for note in &outcome.notes {
            let _ = writeln!(text, "        {note}");
        }
    }
    text
}
