//! `cargo xtask engine`: gets the engine, or prints what a shell needs to build against it. Decides nothing about sources.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Folder, Source, ensure, prove};
use crate::apt::Apt;
use crate::arch::Arch;
use crate::pins::Pins;
use crate::{output, paths, process, toolchain};

/// Gets WasmEdge and libclang into a private prefix.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The architecture of the devices; this machine's own if left out.
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Print shell exports for `cargo build|test|clippy -p shoal-runner`: eval "$(cargo xtask engine --print-env)".
    #[arg(long)]
    print_env: bool,
    /// Rewrite the pin files from what the Debian mirror offers today (for maintainers).
    #[arg(long, conflicts_with = "print_env")]
    repin: bool,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    if args.repin {
        return repin();
    }
    let arch = args.arch.map_or_else(Arch::host, Ok)?;
    let engine = ensure(arch)?;
    if args.print_env {
        let mut env = engine.build_env();
        if let Some(emulator) = toolchain::emulator(arch)? {
            env.push(engine.test_runner(Some(&emulator)));
        }
        for (name, value) in env {
            output::result(&export(&name, &value.to_string_lossy()));
        }
        return Ok(());
    }
    let from = match &engine.source {
        Source::Given(dir) => format!("WASMEDGE_DIR={}", dir.display()),
        Source::Debian => "Debian's packages".to_owned(),
        Source::Bundled => "the wasmedge-sys crate, when shoal-runner is built".to_owned(),
    };
    output::step("engine", &format!("{} from {from}", arch.name()));
    output::step("prefix", &engine.dir.display().to_string());
    output::step("loader", &engine.loader(Folder::Compile).display().to_string());
    if engine.source != Source::Bundled {
        for folder in [Folder::Run, Folder::Compile] {
            output::step("loads", &prove::loads(&engine, folder)?);
        }
    }
    output::step(
        "next",
        &format!(
            "eval \"$(cargo xtask engine --arch {} --print-env)\"; cargo test -p shoal-runner --target {}",
            arch.name(),
            arch.triple()
        ),
    );
    Ok(())
}

/// Replaces each pinned version by the mirror's present one; the lists of names stay as they are.
fn repin() -> Result<()> {
    let dir = paths::workspace().join("cross/pins");
    let today = process::capture(std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let entries = std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
        repin_file(&path, today.trim()).with_context(|| format!("pin {} anew", path.display()))?;
    }
    Ok(())
}

fn repin_file(path: &Path, today: &str) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let old = Pins::parse(&path.display().to_string(), &text)?;
    let apt = Apt::open(&paths::cache()?.join("apt"), &old.suite, &old.arch)?;
    apt.update()?;
    let packages =
        old.packages.iter().map(|package| apt.candidate(&package.name)).collect::<Result<Vec<_>>>()?;
    let changed = packages.iter().zip(&old.packages).filter(|(new, old)| new != old).count();
    output::step("pinned", &format!("{}: {changed} of {} changed", path.display(), packages.len()));
    if changed > 0 {
        let new = Pins { packages, taken: today.to_owned(), ..old };
        std::fs::write(path, new.render())?;
    }
    Ok(())
}

/// One line for a shell; what the library path held before stays at its end.
fn export(name: &str, value: &str) -> String {
    let before = if name == "LD_LIBRARY_PATH" { "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" } else { "" };
    format!("export {name}={}{before}", quote(value))
}

/// Quotes a value for a POSIX shell.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_path_is_added_to_not_replaced() {
        assert_eq!(
            export("LD_LIBRARY_PATH", "/a"),
            "export LD_LIBRARY_PATH='/a'${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        );
        assert_eq!(export("X", "/a"), "export X='/a'");
    }

    #[test]
    fn a_value_with_blanks_and_quotes_stays_one_word() {
        assert_eq!(quote("/a b/it's"), r"'/a b/it'\''s'");
    }
}
