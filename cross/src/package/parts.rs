//! What a package is made of: Rust's crates as cargo resolves them for its programs, and the engine's pinned packages.
//! From it follow the texts of licences and the bill of materials.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::plan::{self, Package, Program};
use crate::arch::Arch;
use crate::pins::{self, Pins};
use crate::{engine, fetch, layout, paths, process};

/// A crate that is linked into one of the programs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crate {
    name: String,
    version: String,
    /// SPDX expression, as it declares it.
    licence: String,
    /// Its folder.
    folder: PathBuf,
    /// SHA-256 of its archive; absent for this project's own.
    checksum: Option<String>,
}

/// All that is in a package.
pub(super) struct Parts {
    package: Package,
    arch: Arch,
    crates: Vec<Crate>,
    debian: Vec<pins::Package>,
    /// `copyright` of each of those.
    copyrights: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
}

#[derive(Deserialize)]
struct Described {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Parts {
    /// Asks cargo and the pin file.
    pub(super) fn of(package: Package, engine: &engine::Engine) -> Result<Self> {
        let arch = engine.arch;
        let mut linked = BTreeSet::new();
        for program in package.programs() {
            linked.extend(linked_into(*program, arch)?);
        }
        let Metadata { packages } = serde_json::from_str(&process::capture(cargo("metadata").args([
            "--format-version",
            "1",
            "--filter-platform",
            arch.triple(),
        ]))?)
        .context("read cargo's metadata")?;
        let lock = paths::workspace().join("Cargo.lock");
        let text = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
        let Lock { package: locked } = toml::from_str(&text).context("parse Cargo.lock")?;
        let sums: BTreeMap<(String, String), Option<String>> =
            locked.into_iter().map(|l| ((l.name, l.version), l.checksum)).collect();
        let describe = |d: Described| {
            let folder = d.manifest_path.parent().map(Path::to_path_buf).unwrap_or_default();
            let checksum = sums.get(&(d.name.clone(), d.version.clone())).cloned().flatten();
            let licence = d.license.unwrap_or_else(|| "NOASSERTION".to_owned());
            Crate { name: d.name, version: d.version, licence, folder, checksum }
        };
        let mut crates: Vec<Crate> = packages
            .into_iter()
            .filter(|d| linked.contains(&(d.name.clone(), d.version.clone())))
            .map(describe)
            .collect();
        crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        let debian = match package.engine() {
            Some(_) => engine::pins(arch)?.packages,
            None => Vec::new(),
        };
        let debian = debian.into_iter().filter(|pinned| plan::ships(package, &pinned.name)).collect();
        Ok(Self { package, arch, crates, debian, copyrights: engine.dir.join("compile/licences") })
    }

    /// How many crates and packages.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.crates.len(), self.debian.len())
    }

    /// The licences of everything that others made.
    pub(super) fn third_party(&self) -> Result<String> {
        let mut text = format!(
            "What {} contains beside Shoal's own code, and under which terms.\n\n",
            self.package.name()
        );
        let mut licences: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in self.crates.iter().filter(|part| part.checksum.is_some()) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {}: {}", part.name, part.version, part.licence);
            for licence in licence_texts(&part.folder)? {
                licences.entry(licence).or_default().push(format!("{} {}", part.name, part.version));
            }
        }
        for (licence, users) in &licences {
            let _ = write!(text, "\n{}\n{}\n\n{}\n", "=".repeat(78), users.join(", "), licence.trim_end());
        }
        let mut named = BTreeSet::new();
        for part in &self.debian {
            // Some packages' own files are a link to those of the package that they are built with.
            let path = self.copyrights.join(&part.name);
            let Ok(copyright) = fs::read_to_string(&path) else { continue };
            named.extend(common_licences(&copyright));
            let _ = write!(
                text,
                "\n{}\n{} {} (Debian)\n\n{}\n",
                "=".repeat(78),
                part.name,
                part.version,
                copyright.trim_end()
            );
        }
        if !named.is_empty() {
            let folder = common()?;
            for name in named {
                let path = folder.join(&name);
                if let Ok(licence) = fs::read_to_string(&path) {
                    let _ = write!(
                        text,
                        "\n{}\n/usr/share/common-licenses/{name}\n\n{}\n",
                        "=".repeat(78),
                        licence.trim_end()
                    );
                }
            }
        }
        Ok(text)
    }

    /// CycloneDX 1.5.
    pub(super) fn bill(&self, version: &str, epoch: u64) -> Result<String> {
        let second = i64::try_from(epoch).context("the commit's time")?;
        let time = jiff::Timestamp::from_second(second).context("the commit's time")?.to_string();
        let crates = self.crates.iter().map(|part| {
            let mut value = json!({
                "type": "library",
                "bom-ref": format!("cargo:{}@{}", part.name, part.version),
                "name": part.name,
                "version": part.version,
                "licenses": [{ "expression": part.licence.replace('/', " OR ") }],
            });
            if let Some(sum) = &part.checksum {
                value["purl"] = format!("pkg:cargo/{}@{}", part.name, part.version).into();
                value["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
            }
            value
        });
        let debian = self.debian.iter().map(|part| {
            json!({
                "type": "library",
                "bom-ref": format!("deb:{}@{}", part.name, part.version),
                "name": part.name,
                "version": part.version,
                "purl": format!(
                    "pkg:deb/debian/{}@{}?arch={}",
                    escape(&part.name),
                    escape(&part.version),
                    self.arch.debian()
                ),
                "hashes": [{ "alg": "SHA-256", "content": part.sha256 }],
            })
        });
        let components: Vec<Value> = crates.chain(debian).collect();
        let bill = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "timestamp": time,
                "component": {
                    "type": "application",
                    "bom-ref": self.package.name(),
                    "name": self.package.name(),
                    "version": version,
                    "licenses": [{ "expression": "Apache-2.0" }],
                },
                "properties": [{ "name": "target", "value": self.arch.triple() }],
            },
            "components": components,
        });
        Ok(format!("{}\n", serde_json::to_string_pretty(&bill).context("write the bill of materials")?))
    }
}

fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace()).args([verb, "--locked"]);
    command
}

/// Names and versions of the crates whose code is in a program.
fn linked_into(program: Program, arch: Arch) -> Result<Vec<(String, String)>> {
    let text = process::capture(
        cargo("tree").args(["--package", program.name(), "--target", arch.triple()]).args([
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]),
    )?;
    Ok(text.lines().filter_map(parse_tree).collect())
}

/// `name vVERSION …`.
fn parse_tree(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

/// The texts in a crate's folder that say under which terms it comes.
fn licence_texts(folder: &Path) -> Result<Vec<String>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.file_name().is_some_and(|n| says_terms(&n.to_string_lossy())))
        .collect();
    paths.sort();
    paths.iter().map(|p| fs::read_to_string(p).with_context(|| format!("read {}", p.display()))).collect()
}

fn says_terms(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_source = [".rs", ".toml", ".tmpl", ".html"].iter().any(|end| name.ends_with(end));
    !is_source
        && ["license", "licence", "copying", "copyright", "notice", "unlicense"]
            .iter()
            .any(|word| name.starts_with(word))
}

/// The licences that a `copyright` file refers to instead of repeating them.
fn common_licences(text: &str) -> BTreeSet<String> {
    text.split("/usr/share/common-licenses/")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.').next().unwrap_or("")
        })
        .map(|name| name.trim_end_matches('.').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Debian's folder of common licences.
fn common() -> Result<PathBuf> {
    let pins = Pins::parse("pins/licences-amd64.toml", include_str!("../../pins/licences-amd64.toml"))?;
    let dir = paths::target()?.join("tools/licences");
    fetch::install(&pins, "licences layout 1", &dir, |unpacked, new| {
        layout::take(&unpacked.join("usr/share/common-licenses"), &new.join("common"))
    })?;
    Ok(dir.join("common"))
}

/// For a package URL.
fn escape(text: &str) -> String {
    text.replace('+', "%2B").replace(':', "%3A").replace('~', "%7E")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_from_cargos_tree() {
        assert_eq!(parse_tree("serde v1.0.2 (*)"), Some(("serde".into(), "1.0.2".into())));
        assert_eq!(parse_tree("shoal-ipc v0.1.0 (/x/agent/ipc)"), Some(("shoal-ipc".into(), "0.1.0".into())));
        assert_eq!(parse_tree(""), None);
    }

    #[test]
    fn licences_that_are_only_referred_to_are_found() {
        let text = "see /usr/share/common-licenses/GPL-3.\nand `/usr/share/common-licenses/LGPL-2.1'";
        assert_eq!(common_licences(text).into_iter().collect::<Vec<_>>(), ["GPL-3", "LGPL-2.1"]);
    }

    #[test]
    fn files_about_terms_are_told_from_code() {
        for name in ["LICENSE", "LICENSE-MIT", "license.txt", "COPYING.md", "NOTICE", "UNLICENSE"] {
            assert!(says_terms(name), "{name}");
        }
        for name in ["licensing.rs", "README.md", "license.toml"] {
            assert!(!says_terms(name), "{name}");
        }
    }

    #[test]
    fn a_bill_is_the_same_for_the_same_parts_and_names_each_with_its_hash() {
        let part = Crate {
            name: "a".into(),
            version: "1.0.0".into(),
            licence: "MIT/Apache-2.0".into(),
            folder: PathBuf::new(),
            checksum: Some("ab".into()),
        };
        let debian = pins::Package {
            name: "libstdc++6".into(),
            version: "1:2".into(),
            file: "x".into(),
            size: 1,
            sha256: "cd".into(),
        };
        let (package, arch) = (Package::Agent, Arch::Aarch64);
        let parts =
            Parts { package, arch, crates: vec![part], debian: vec![debian], copyrights: PathBuf::new() };
        let text = parts.bill("0.1.0", 1_700_000_000).unwrap();
        assert_eq!(text, parts.bill("0.1.0", 1_700_000_000).unwrap());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(value["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(value["components"][1]["purl"], "pkg:deb/debian/libstdc%2B%2B6@1%3A2?arch=arm64");
        assert_eq!(value["components"][1]["hashes"][0]["content"], "cd");
    }
}
