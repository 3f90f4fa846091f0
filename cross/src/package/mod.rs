//! `cargo xtask package`: what a user installs, as `.deb` and `.tar.gz`, with checksums, bills of materials and a signature.
//!
//! [`plan`] and [`control`] say what is in which package (pure), [`programs`] builds, [`parts`] knows what came from others,
//! [`archive`] writes. The same commit gives the same bytes: `--check` builds all of it a second time and compares.

mod archive;
mod control;
#[cfg(test)]
mod installer_tests;
mod parts;
mod plan;
mod programs;
mod sign;
mod sizes;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::arch::Arch;
use crate::engine::{self, Engine, Folder, Source};
use crate::{fetch, layout, output, paths, process};
use archive::{Item, Tar};
use parts::Parts;
use plan::{Content, Package, Program, Tree};
use programs::Site;

/// Build the packages that users install.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The devices' architecture; this machine's own if left out
    #[arg(long, value_enum, value_name = "TARGET")]
    target: Option<Arch>,
    /// Only these packages
    #[arg(long = "package", value_enum, value_name = "NAME")]
    packages: Vec<Package>,
    /// Where they are put [default: dist/TARGET in the target folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Sign the list of checksums with this key (Ed25519, PKCS#8 in PEM)
    #[arg(long, value_name = "FILE", env = "SHOAL_RELEASE_KEY")]
    sign_key: Option<PathBuf>,
    /// Build everything a second time in another folder, without a compiler cache, and compare byte for byte
    #[arg(long)]
    check: bool,
    /// Then install, run and purge a device's packages in this root file system of Debian or Ubuntu (as root; may be repeated)
    #[arg(long = "try", value_name = "DIR")]
    trials: Vec<PathBuf>,
}

/// What looks at a machine and installs, beside the packages.
const INSTALLER: &str = "install.sh";

/// A finished package: file names and bytes.
type Files = BTreeMap<String, Vec<u8>>;

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let arch = args.target.map_or_else(Arch::host, Ok)?;
    let packages = if args.packages.is_empty() { Package::ALL.to_vec() } else { args.packages.clone() };
    let out = match &args.out {
        Some(out) => std::path::absolute(out).context("make the folder's path absolute")?,
        None => paths::target()?.join("dist").join(arch.triple()),
    };
    let engine = engine::ensure(arch)?;
    if engine.source != Source::Debian {
        bail!("packages are made from the pinned engine only; unset WASMEDGE_DIR, or see the warning above");
    }
    let epoch = epoch()?;
    let target = paths::target()?;
    let site = Site { engine: &engine, target: target.join("package"), epoch, anew: false, light: false };
    let (mut files, report) = build(&site, &packages)?;
    if args.check {
        let again =
            Site { engine: &engine, target: target.join("package-again"), epoch, anew: true, light: false };
        compare(&files, &build(&again, &packages)?.0)?;
        output::step("check", "a second build gave the same bytes");
    }
    files.insert(INSTALLER.to_owned(), read(&paths::workspace().join("deploy").join(INSTALLER))?);
    layout::create(&out)?;
    for (name, bytes) in &files {
        archive::write(&out.join(name), bytes)?;
        output::step("package", &format!("{}, {}", out.join(name).display(), fetch::mib(bytes.len() as u64)));
    }
    let sums = out.join("SHA256SUMS");
    archive::write(&sums, sums_of(&files).as_bytes())?;
    match &args.sign_key {
        Some(key) => {
            let (signature, public) = (out.join("SHA256SUMS.sig"), out.join("release-key.pem"));
            sign::sign(key, &sums, &signature)?;
            sign::public(key, &public)?;
            sign::verify(&public, &sums, &signature)?;
            output::step("signed", &signature.display().to_string());
            output::step("key", &sign::fingerprint(&public)?);
        }
        None => output::warn("not signed: no --sign-key and no SHOAL_RELEASE_KEY"),
    }
    output::result(&report);
    sizes::keep_budgets(&files)?;
    args.trials.iter().try_for_each(|root| trial::run(&out, root))
}

/// A device's packages in `out`, unsigned, for virtual devices. Light ones hold the programs as tests build them and are not
/// compressed: made in little time, for nobody else.
pub(crate) fn for_device(arch: Arch, out: &Path, light: bool) -> Result<()> {
    let engine = engine::ensure(arch)?;
    if engine.source != Source::Debian {
        bail!("packages are made from the pinned engine only; unset WASMEDGE_DIR, or see the warning above");
    }
    let target = paths::target()?.join("package");
    let site = Site { engine: &engine, target, epoch: epoch()?, anew: false, light };
    let (files, _) = build(&site, &[Package::Agent, Package::Compiler])?;
    layout::create(out)?;
    files.iter().try_for_each(|(name, bytes)| archive::write(&out.join(name), bytes))
}

/// The commit's time: `SOURCE_DATE_EPOCH`, or git's.
fn epoch() -> Result<u64> {
    if let Some(epoch) = std::env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty()) {
        return epoch.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let git =
        |args: &[&str]| process::capture(Command::new("git").current_dir(paths::workspace()).args(args));
    let time = git(&["log", "-1", "--format=%ct"])
        .context("find the commit's time; where there is no git, set SOURCE_DATE_EPOCH")?;
    if !git(&["status", "--porcelain", "--untracked-files=no"])?.trim().is_empty() {
        output::warn("the work tree has changes: what is built is not what the commit gives");
    }
    time.trim().parse().context("read the commit's time")
}

/// Builds programs and packages, and says what takes how much room.
fn build(site: &Site<'_>, packages: &[Package]) -> Result<(Files, String)> {
    let mut programs = BTreeMap::new();
    for program in packages.iter().flat_map(|package| package.programs()) {
        programs.insert(*program, site.build(*program)?);
    }
    let (mut files, mut report) = (Files::new(), String::new());
    for package in packages {
        output::step("pack", package.name());
        report.push_str(&assemble(*package, site, &programs, &mut files)?);
    }
    Ok((files, report))
}

/// Makes one package's files; gives its part of the report.
fn assemble(
    package: Package,
    site: &Site<'_>,
    programs: &BTreeMap<Program, PathBuf>,
    files: &mut Files,
) -> Result<String> {
    let (engine, version, arch) = (site.engine, env!("CARGO_PKG_VERSION"), site.engine.arch);
    let parts = Parts::of(package, engine)?;
    let bill = parts.bill(version, site.epoch)?;
    let libraries = package.engine().map_or_else(|| Ok(Vec::new()), |folder| names(engine, folder))?;
    let tree = plan::tree(package, arch, &libraries);
    let mut bytes: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (path, entry) in &tree {
        let found = match &entry.content {
            Content::Program(program) => read(&programs[program])?,
            Content::Engine(folder, name) => read(&engine.folder(*folder).join("lib").join(name))?,
            Content::Deploy(source) => read(&deployed(source))?,
            Content::Licence => read(&paths::workspace().join("LICENSE"))?,
            Content::ThirdParty => archive::gzip(parts.third_party()?.as_bytes(), 9)?,
            Content::Sbom => archive::gzip(bill.as_bytes(), 9)?,
            Content::Link(_) => Vec::new(),
        };
        bytes.insert(path, found);
    }
    let size = bytes.values().map(|bytes| bytes.len() as u64).sum();
    let data = tar(&tree, &bytes, site.epoch)?;
    let binaries: Vec<PathBuf> = package.programs().iter().map(|program| programs[program].clone()).collect();
    let glibc = programs::newest_glibc(&binaries)?;
    let facts = control::Facts { arch, version, glibc: &glibc, size };
    let control = control_tar(package, &tree, &facts, site.epoch)?;
    let name = package.name();
    if site.light {
        let members: [(&str, &[u8]); 3] =
            [("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", &data)];
        files.insert(format!("{name}_{version}_{}.deb", arch.debian()), archive::ar(site.epoch, &members)?);
        return Ok(String::new());
    }
    let control = archive::xz(&control, false)?;
    // Of LLVM's 150 MiB the time to unpack counts, on a device that is slow; else every byte on its way there.
    let (data_name, packed) = if package == Package::Compiler {
        ("data.tar.zst", archive::zstd(&data)?)
    } else {
        ("data.tar.xz", archive::xz(&data, arch == Arch::X86_64)?)
    };
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar.xz", &control), (data_name, &packed)];
    let deb = archive::ar(site.epoch, &members)?;
    let report = sizes::shares(package, &bytes, deb.len() as u64, parts.count())?;
    files.insert(format!("{name}_{version}_{}.deb", arch.debian()), deb);
    files.insert(format!("{name}-{version}-{}.tar.gz", arch.name()), archive::gzip(&data, 9)?);
    files.insert(format!("{name}-{version}-{}.cdx.json", arch.name()), bill.into_bytes());
    Ok(report)
}

/// The names in one of the engine's folders.
fn names(engine: &Engine, folder: Folder) -> Result<Vec<String>> {
    let dir = engine.folder(folder).join("lib");
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry.with_context(|| format!("read {}", dir.display()))?;
        let name = entry.file_name().into_string().ok().context("a library whose name is not UTF-8")?;
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            bail!("{name} in {} is no plain file", dir.display());
        }
        all.push(name);
    }
    all.sort();
    Ok(all)
}

/// A tree as a tar file: folders and files together, in the order of their names.
fn tar(tree: &Tree, bytes: &BTreeMap<&str, Vec<u8>>, time: u64) -> Result<Vec<u8>> {
    let mut items: BTreeMap<String, Item<'_>> = BTreeMap::new();
    for folder in plan::folders(tree.keys().map(String::as_str)) {
        items.insert(folder, Item::Folder);
    }
    for (path, entry) in tree {
        let item = match &entry.content {
            Content::Link(target) => Item::Link(target),
            _ => Item::File { mode: entry.mode, bytes: &bytes[path.as_str()] },
        };
        items.insert(path.clone(), item);
    }
    let mut tar = Tar::new(time);
    for (path, item) in &items {
        tar.add(path, item)?;
    }
    tar.finish()
}

fn control_tar(package: Package, tree: &Tree, facts: &control::Facts<'_>, time: u64) -> Result<Vec<u8>> {
    let mut members: BTreeMap<&str, (u32, Vec<u8>)> = BTreeMap::new();
    members.insert("control", (0o644, control::control(package, facts).into_bytes()));
    let conffiles = control::conffiles(tree);
    if !conffiles.is_empty() {
        members.insert("conffiles", (0o644, conffiles.into_bytes()));
    }
    for (name, source) in plan::scripts(package) {
        members.insert(name, (0o755, read(&deployed(source))?));
    }
    let mut tar = Tar::new(time);
    for (name, (mode, bytes)) in &members {
        tar.add(name, &Item::File { mode: *mode, bytes })?;
    }
    tar.finish()
}

fn deployed(source: &str) -> PathBuf {
    paths::workspace().join("deploy/package").join(source)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// As `sha256sum -c` reads it.
fn sums_of(files: &Files) -> String {
    let line =
        |(name, bytes): (&String, &Vec<u8>)| [&hex::encode(Sha256::digest(bytes)), "  ", name, "\n"].concat();
    files.iter().map(line).collect()
}

fn compare(first: &Files, second: &Files) -> Result<()> {
    let differ: Vec<&str> = first
        .iter()
        .filter(|(name, bytes)| second.get(*name) != Some(bytes))
        .map(|(n, _)| n.as_str())
        .collect();
    if !differ.is_empty() || first.len() != second.len() {
        bail!("a second build gave other bytes: {}", differ.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_its_tree_with_folders_first_and_the_same_each_time() {
        let tree = plan::tree(Package::Compiler, Arch::Aarch64, &["libx.so".to_owned()]);
        let bytes: BTreeMap<&str, Vec<u8>> =
            tree.keys().map(|path| (path.as_str(), path.clone().into_bytes())).collect();
        let made = tar(&tree, &bytes, 7).unwrap();
        assert_eq!(made, tar(&tree, &bytes, 7).unwrap());
        let mut archive = ::tar::Archive::new(made.as_slice());
        let names: Vec<String> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(
            names,
            [
                "usr/",
                "usr/lib/",
                "usr/lib/shoal/",
                "usr/lib/shoal/engine/",
                "usr/lib/shoal/engine/compile/",
                "usr/lib/shoal/engine/compile/lib/",
                "usr/lib/shoal/engine/compile/lib/libx.so",
                "usr/share/",
                "usr/share/doc/",
                "usr/share/doc/shoal-compiler/",
                "usr/share/doc/shoal-compiler/copyright",
                "usr/share/doc/shoal-compiler/sbom.cdx.json.gz",
                "usr/share/doc/shoal-compiler/third-party.txt.gz",
            ]
        );
    }

    #[test]
    fn the_control_archive_has_the_scripts_executable() {
        let tree = plan::tree(Package::Agent, Arch::X86_64, &[]);
        let facts = control::Facts { arch: Arch::X86_64, version: "1", glibc: "2.34", size: 1 };
        let made = control_tar(Package::Agent, &tree, &facts, 7).unwrap();
        let mut archive = ::tar::Archive::new(made.as_slice());
        let found: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
            })
            .collect();
        let expected = [
            ("conffiles", 0o644),
            ("control", 0o644),
            ("postinst", 0o755),
            ("postrm", 0o755),
            ("prerm", 0o755),
        ];
        assert_eq!(found, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    #[test]
    fn other_bytes_or_another_file_in_the_second_build_are_told() {
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs.iter().map(|(n, b)| ((*n).to_owned(), b.as_bytes().to_vec())).collect()
        };
        let first = files(&[("a", "1"), ("b", "2")]);
        compare(&first, &first.clone()).unwrap();
        let error = compare(&first, &files(&[("a", "1"), ("b", "3")])).unwrap_err();
        assert!(error.to_string().ends_with("other bytes: b"), "{error}");
        compare(&first, &files(&[("a", "1"), ("b", "2"), ("c", "3")])).unwrap_err();
        assert_eq!(sums_of(&files(&[("a", "")])), format!("{}  a\n", hex::encode(Sha256::digest(b""))));
    }
}
