//! The packages that a virtual device is given: built, or taken as they are; and the same in a later version.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::{fetch, output, package, paths, process};

/// The file that says what the packages in a folder were made from.
const STAMP: &str = ".made-from";
/// What packages of a device are made from.
const SOURCES: [&str; 8] = [
    "agent",
    "protocol",
    "deploy/package",
    "cross/src/package",
    "cross/src/engine",
    "cross/pins",
    "Cargo.lock",
    "Cargo.toml",
];

/// A device's packages.
#[derive(Debug, Clone)]
pub(super) struct Packages {
    agent: PathBuf,
    compiler: PathBuf,
}

impl Packages {
    /// Those in `given`, or those of this work tree, made anew when they are from another one.
    pub(super) fn ensure(arch: Arch, given: Option<&Path>, light: bool) -> Result<Self> {
        if let Some(dir) = given {
            return Self::find(dir);
        }
        let name = if light { "light" } else { "dist" };
        let dir = paths::target()?.join(name).join(arch.triple());
        let stamp = stamp()?;
        let is_current = fs::read_to_string(dir.join(STAMP)).is_ok_and(|found| found == stamp);
        if !is_current || Self::find(&dir).is_err() {
            package::for_device(arch, &dir, light)?;
            fs::write(dir.join(STAMP), stamp).context("write what the packages were made from")?;
        } else {
            output::step("packages", &format!("as they are in {}", dir.display()));
        }
        Self::find(&dir)
    }

    fn find(dir: &Path) -> Result<Self> {
        let mut found = [None, None];
        let entries = fs::read_dir(dir).with_context(|| format!("look for packages in {}", dir.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for (n, prefix) in ["shoal-agent_", "shoal-compiler_"].iter().enumerate() {
                if name.starts_with(prefix) && name.strip_suffix(".deb").is_some() {
                    found[n] = Some(path.clone());
                }
            }
        }
        match found {
            [Some(agent), Some(compiler)] => Ok(Self { agent, compiler }),
            _ => bail!("no shoal-agent_*.deb and shoal-compiler_*.deb in {}", dir.display()),
        }
    }

    /// The programs and the engine as a release is packed of them: what both packages have below `usr/lib/shoal`.
    pub(super) fn programs(&self, tree: &Path) -> Result<PathBuf> {
        for deb in [&self.agent, &self.compiler] {
            process::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(tree))?;
        }
        Ok(tree.join("usr/lib/shoal"))
    }

    /// Both packages as a release is: the files, and the SHA-256 of their list of checksums, written to `list`.
    pub(super) fn release(&self, list: &Path) -> Result<(Vec<PathBuf>, String)> {
        let mut files =
            vec![self.agent.clone(), self.compiler.clone(), paths::workspace().join("deploy/install.sh")];
        let mut sums = String::new();
        for file in &files {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // Writing to a String cannot fail.
            let _ = writeln!(sums, "{}  {name}", fetch::sha256(file)?);
        }
        fs::write(list, sums).with_context(|| format!("write {}", list.display()))?;
        files.push(list.to_owned());
        Ok((files, fetch::sha256(list)?))
    }

    /// A disk that is a tar file: `agent.deb`, `compiler.deb`, and `newer.deb`, the agent's in a later version.
    pub(super) fn disk(&self, to: &Path) -> Result<()> {
        let dir = tempfile::tempdir().context("make a temporary folder")?;
        let newer = dir.path().join("newer.deb");
        newer_version(&self.agent, &dir.path().join("tree"), &newer)?;
        let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut tar = tar::Builder::new(file);
        for (path, name) in
            [(&self.agent, "agent.deb"), (&self.compiler, "compiler.deb"), (&newer, "newer.deb")]
        {
            tar.append_path_with_name(path, name).with_context(|| format!("add {}", path.display()))?;
        }
        tar.finish().context("write the disk with the packages")
    }
}

/// The same package, but for its version.
fn newer_version(deb: &Path, tree: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("dpkg-deb").arg("-R").arg(deb).arg(tree))?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).context("read the package's control file")?;
    let raised: String = text
        .lines()
        .map(|line| match line.strip_prefix("Version: ") {
            Some(version) => format!("Version: {version}+later1\n"),
            None => format!("{line}\n"),
        })
        .collect();
    fs::write(&control, raised).context("write the package's control file")?;
    process::capture(
        Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(tree).arg(to),
    )?;
    Ok(())
}

/// Of everything that packages are made from, as it is in the work tree.
fn stamp() -> Result<String> {
    let mut list = Command::new("git");
    list.current_dir(paths::workspace()).args(["ls-files", "-z", "--"]).args(SOURCES);
    let names = process::capture(&mut list).context("list what packages are made from")?;
    let mut parts = Vec::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let path = paths::workspace().join(name);
        if path.is_file() {
            parts.push(format!("{name} {}", fetch::sha256(&path)?));
        }
    }
    Ok(fetch::stamp_of(&parts.iter().map(String::as_str).collect::<Vec<_>>()))
}
