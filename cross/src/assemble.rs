//! `cargo xtask build`: every binary of Shoal and the engine in one folder, the way a device or an operator has them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::engine::{self, Folder, Profile};
use crate::{layout, output, paths, process};

/// Build all binaries and the engine into one folder, and print it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// With optimisation, as they are shipped
    #[arg(long)]
    release: bool,
    /// With the named crash points that the fault tests use (never shipped)
    #[arg(long)]
    failpoints: bool,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    output::result(&assemble(profile, args.failpoints)?.display().to_string());
    Ok(())
}

/// Builds everything and gives the folder that holds it.
pub(crate) fn assemble(profile: Profile, failpoints: bool) -> Result<PathBuf> {
    let arch = Arch::host()?;
    let engine = engine::ensure(arch)?;
    let features: &[&str] =
        if failpoints { &["shoal-agent/failpoints", "shoal-guard/failpoints"] } else { &[] };
    let dir = paths::target()?.join("shoal").join(profile.folder());
    layout::create(&dir)?;

    // The agent is built by itself: built together with the broker, cargo would give it the broker's TLS library too.
    let device = profile.on_device();
    for (packages, profile) in
        [(&["shoal-agent"][..], device), (&["shoal", "shoald", "shoal-attack"], profile)]
    {
        output::step("build", &format!("{} ({})", packages.join(", "), profile.name()));
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(paths::workspace()).args(["build", "--profile", profile.name()]);
        cargo.args(packages.iter().flat_map(|package| ["-p", package]));
        if failpoints && packages.contains(&"shoal-agent") {
            cargo.args(["--features", "shoal-agent/failpoints"]);
        }
        process::run(&mut cargo).context("build Shoal's programs")?;
        for name in packages {
            place(&paths::target()?.join(profile.folder()).join(name), &dir.join(name))?;
        }
    }
    let guard_features: Vec<&str> =
        features.iter().filter(|f| f.starts_with("shoal-guard")).copied().collect();
    place(&engine::build_static("shoal-guard", arch, device, &guard_features)?, &dir.join("shoal-guard"))?;
    place(&engine::build_runner(&engine, device)?, &dir.join("shoal-runner"))?;

    layout::create(&dir.join("engine"))?;
    for (folder, name) in [(Folder::Run, "run"), (Folder::Compile, "compile")] {
        let link = dir.join("engine").join(name);
        let _ = fs::remove_file(&link);
        symlink(engine.folder(folder), &link).with_context(|| format!("link {}", link.display()))?;
    }
    Ok(dir)
}

/// Puts a program under its place: a hard link, or a copy where the file system has none.
fn place(from: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    let _ = fs::remove_file(&new);
    fs::hard_link(from, &new)
        .or_else(|_| fs::copy(from, &new).map(drop))
        .with_context(|| format!("copy {} to {}", from.display(), new.display()))?;
    fs::rename(&new, to).with_context(|| format!("rename {} to {}", new.display(), to.display()))
}
