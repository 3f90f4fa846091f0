//! Pin files: which Debian packages, in which version, with which SHA-256. Parses and writes them; downloads nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The most packages that one pin file may name.
const MAX_PACKAGES: usize = 256;

/// One committed pin file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    /// Debian's suite that held these versions when they were pinned.
    pub suite: String,
    /// Debian's name of the architecture (`amd64`).
    pub arch: String,
    /// The day of the pinning, for looking up a snapshot of the archive.
    pub taken: String,
    /// The packages, each exactly.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// One package, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    /// Its name in Debian.
    pub name: String,
    /// Its full version.
    pub version: String,
    /// The file's name as apt saves it.
    pub file: String,
    /// The file's size in bytes.
    pub size: u64,
    /// The file's SHA-256, in lower-case hex.
    pub sha256: String,
}

impl Pins {
    /// Parses a pin file; `name` is for the error's text.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let pins: Self = toml::from_str(text).with_context(|| format!("parse the pin file {name}"))?;
        pins.check().with_context(|| format!("check the pin file {name}"))?;
        Ok(pins)
    }

    /// The sum of all files' sizes.
    pub(crate) fn size(&self) -> u64 {
        self.packages.iter().map(|package| package.size).sum()
    }

    /// The file's text, as [`Pins::parse`] reads it.
    pub(crate) fn render(&self) -> String {
        let mut text =
            String::from("# Written by `cargo xtask engine --repin`; review the difference, then commit.\n");
        let head = [("suite", &self.suite), ("arch", &self.arch), ("taken", &self.taken)];
        for (key, value) in head {
            let _ = writeln!(text, "{key} = \"{value}\"");
        }
        for package in &self.packages {
            let Package { name, version, file, size, sha256 } = package;
            let _ = write!(
                text,
                "\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nfile = \"{file}\"\nsize = {size}\nsha256 = \"{sha256}\"\n"
            );
        }
        text
    }

    fn check(&self) -> Result<()> {
        if self.packages.is_empty() || self.packages.len() > MAX_PACKAGES {
            bail!("{} packages, expected 1 to {MAX_PACKAGES}", self.packages.len());
        }
        let mut seen = BTreeSet::new();
        for package in &self.packages {
            let name = &package.name;
            if !is_word(name, "+-.")
                || !is_word(&package.version, "+-.:~")
                || !is_word(&package.file, "+-.~_%")
            {
                bail!(
                    "package `{name}`: name, version or file holds a character that Debian does not use there"
                );
            }
            if package.sha256.len() != 64
                || !package.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            {
                bail!("package `{name}`: sha256 is not 64 lower-case hex digits");
            }
            if !seen.insert(name) {
                bail!("package `{name}` is listed twice");
            }
        }
        Ok(())
    }
}

/// Letters and digits first, then those or one of `extra`: nothing that apt or a path could read as something else.
fn is_word(text: &str, extra: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Pins {
        Pins {
            suite: "testing".into(),
            arch: "amd64".into(),
            taken: "2026-11-24".into(),
            packages: vec![Package {
                name: "libllvm21".into(),
                version: "1:21.1.8-13".into(),
                file: "libllvm21_1%3a21.1.8-13_amd64.deb".into(),
                size: 28_251_876,
                sha256: "a".repeat(64),
            }],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(Pins::parse("x", &sample().render()).unwrap(), sample());
    }

    #[test]
    fn a_pin_that_is_not_exact_is_refused() {
        let change = |edit: fn(&mut Package)| {
            let mut pins = sample();
            edit(&mut pins.packages[0]);
            Pins::parse("x", &pins.render()).map_err(|e| format!("{e:#}")).unwrap_err()
        };
        assert!(change(|p| p.sha256.truncate(63)).contains("64 lower-case hex"));
        assert!(change(|p| p.sha256 = "A".repeat(64)).contains("64 lower-case hex"));
        assert!(change(|p| p.file = "../x.deb".into()).contains("character"));
        assert!(change(|p| p.name = "-o=Dir".into()).contains("character"));
        assert!(change(|p| p.version = "1 2".into()).contains("character"));
    }

    #[test]
    fn twice_the_same_package_and_none_at_all_are_refused() {
        let mut pins = sample();
        pins.packages.push(pins.packages[0].clone());
        assert!(format!("{:#}", Pins::parse("x", &pins.render()).unwrap_err()).contains("listed twice"));
        let none = "suite = \"a\"\narch = \"b\"\ntaken = \"c\"\npackage = []\n";
        assert!(format!("{:#}", Pins::parse("x", none).unwrap_err()).contains("0 packages"));
    }

    #[test]
    fn every_committed_pin_file_parses() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pins");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            Pins::parse(&path.display().to_string(), &std::fs::read_to_string(&path).unwrap()).unwrap();
            count += 1;
        }
        assert!(count >= 3, "only {count} pin files");
    }
}
