//! `cargo xtask conformance`: the public test programs of WASI preview 1, each as a real container under a guard of its own.
//!
//! A program passes when its container ends with the exit code, and prints what its specification says. Those that are known
//! to fail stand in `expected.toml` with the reason, and with who it is: the engine (then it has to fail with that alone as
//! well, without guard and walls) or the container.

mod alone;
mod container;
mod suite;
mod vendor;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::assemble::assemble;
use crate::bench::start::Device;
use crate::engine::Profile;
use crate::output;
use suite::{Case, Reason, Suite};

/// Programs of the short form, beside all that are not in Rust: they go through what the engine does with files.
const SHORT: [&str; 8] = [
    "big_random_buf",
    "fd_readdir",
    "file_pread_pwrite",
    "interesting_paths",
    "path_link",
    "path_open_preopen",
    "path_rename",
    "poll_oneoff_stdio",
];

/// Some programs import functions of sockets, which is granted with a network only.
const POLICY: &str = "[allow]\nnetwork = [\"none\", \"host\"]\n";

/// Run the public test programs of WASI preview 1 as containers; needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A fifth of the programs, in seconds
    #[arg(long)]
    short: bool,
    /// Only those whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Interpreted, not compiled
    #[arg(long)]
    interpreter: bool,
    /// Programs of shoal that are built already
    #[arg(long, value_name = "DIR")]
    bins: Option<PathBuf>,
    /// Take the programs anew from a checkout of WebAssembly/wasi-testsuite (branch prod/testsuite-base), and run nothing
    #[arg(long, value_name = "CHECKOUT")]
    vendor: Option<PathBuf>,
}

/// What came of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `exited (0)`, `trap: …`.
    pub(crate) end: String,
    pub(crate) exit_code: Option<u32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// How the programs did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    /// As expected.
    pub(crate) passed: u64,
    /// Of those: known to fail, and why.
    explained: u64,
    pub(crate) failed: u64,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    if let Some(checkout) = &args.vendor {
        return vendor::take(checkout);
    }
    if !shoal_lab::is_root() {
        bail!("containers of their own user need root; run it as root");
    }
    let bins = match &args.bins {
        Some(dir) => std::path::absolute(dir)?,
        None => assemble(Profile::Dev, true)?,
    };
    let count = run(&bins, args.short, args.only.as_deref(), args.interpreter)?;
    if count.failed > 0 {
        bail!("{} programs did not do what was expected of them", count.failed);
    }
    Ok(())
}

/// Runs the programs one after the other on a device of their own, and says how each did.
pub(crate) fn run(bins: &Path, short: bool, only: Option<&str>, interpreter: bool) -> Result<Count> {
    let suite = Suite::load()?;
    let wanted = |case: &&Case| {
        let is_short = case.language != "rust" || SHORT.contains(&case.name.as_str());
        only.is_none_or(|part| case.name.contains(part)) && (!short || is_short)
    };
    let began = Instant::now();
    let device = Device::start_with(bins, POLICY)?;
    let mut count = Count::default();
    let done = suite.cases.iter().filter(wanted).enumerate().try_for_each(|(number, case)| {
        let outcome = container::run(&device, number, case, interpreter)
            .with_context(|| format!("run {} as a container", case.id()))?;
        judge(case, &outcome, bins, suite.reason(case), &mut count)
    });
    device.stop(bins)?;
    done?;
    output::result(&format!(
        "test result: {}. {} passed; {} failed; {} of the first are known to fail, see docs/wasi.md; {:.0} s",
        if count.failed == 0 { "ok" } else { "FAILED" },
        count.passed,
        count.failed,
        count.explained,
        began.elapsed().as_secs_f64()
    ));
    Ok(count)
}

/// Says how the program did, and counts it.
fn judge(
    case: &Case,
    outcome: &Outcome,
    bins: &Path,
    reason: Option<Reason<'_>>,
    count: &mut Count,
) -> Result<()> {
    let id = case.id();
    let Some(fault) = case.fault(outcome) else {
        if reason.is_some() {
            count.failed += 1;
            output::result(&format!(
                "test {id} ... FAILED: it passes now; take it out of expected.toml and docs/wasi.md"
            ));
        } else {
            count.passed += 1;
            output::result(&format!("test {id} ... ok"));
        }
        return Ok(());
    };
    let alone = alone::run(case, bins).with_context(|| format!("run {id} with the engine alone"))?;
    let fails_alone = case.fault(&alone).is_some();
    match reason {
        Some(Reason::Engine(why)) if fails_alone => {
            count.passed += 1;
            count.explained += 1;
            output::result(&format!("test {id} ... ok: fails by the engine: {why}"));
        }
        Some(Reason::Container(why)) if !fails_alone => {
            count.passed += 1;
            count.explained += 1;
            output::result(&format!("test {id} ... ok: fails in a container: {why}"));
        }
        _ => {
            count.failed += 1;
            let alone = if fails_alone { "so it does" } else { "it passes" };
            output::result(&format!("test {id} ... FAILED: {fault}; {alone} with the engine alone"));
            output::result(&String::from_utf8_lossy(&outcome.stderr));
        }
    }
    Ok(())
}
