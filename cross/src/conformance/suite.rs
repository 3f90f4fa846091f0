//! The programs as they are kept in this repository: checked against their sums, with their specifications.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Outcome;
use crate::paths;

/// The folders of the test suite, one a language.
pub(super) const LANGUAGES: [&str; 3] = ["assemblyscript", "c", "rust"];
/// One line a file: the sum of the original, the sum of what is kept here, the path.
pub(super) const SUMS: &str = "sums.txt";

/// Whether a file is a program, by its name.
pub(super) fn is_program(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "wasm")
}

/// Where the programs are kept.
pub(super) fn folder() -> PathBuf {
    paths::workspace().join("agent/guard/tests/wasi-testsuite")
}

/// What a program is started with and what must come of it (the test suite's own format, its legacy form).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Specification {
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) root: Option<String>,
    exit_code: u32,
    stdout: Option<String>,
}

/// One program.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) language: String,
    pub(super) name: String,
    pub(super) module: Vec<u8>,
    pub(super) specification: Specification,
    /// What its folder holds at its beginning: paths from `/` on, and bytes.
    pub(super) files: Vec<(String, Vec<u8>)>,
}

impl Case {
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.language, self.name)
    }

    /// What is not as specified, in words.
    pub(super) fn fault(&self, outcome: &Outcome) -> Option<String> {
        let wanted = &self.specification;
        if outcome.exit_code != Some(wanted.exit_code) {
            return Some(format!("{}, expected exit code {}", outcome.end, wanted.exit_code));
        }
        let said = wanted.stdout.as_ref().is_none_or(|text| text.as_bytes() == outcome.stdout);
        (!said).then(|| format!("it printed {:?}", String::from_utf8_lossy(&outcome.stdout)))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Program → why the engine fails it.
    engine: BTreeMap<String, String>,
    /// Program → why it cannot pass in a container.
    container: BTreeMap<String, String>,
}

/// Who keeps a program from passing, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason<'a> {
    /// It fails with the engine alone too.
    Engine(&'a str),
    /// It passes with the engine alone.
    Container(&'a str),
}

/// All programs.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) cases: Vec<Case>,
    expected: Expected,
}

impl Suite {
    /// Reads and checks all of it.
    pub(super) fn load() -> Result<Self> {
        let folder = folder();
        let sums = read_sums(&folder)?;
        let read = |path: &str| -> Result<Vec<u8>> {
            let bytes = fs::read(folder.join(path)).with_context(|| format!("read {path}"))?;
            let (_, wanted) = sums.get(path).with_context(|| format!("{path} has no sum in {SUMS}"))?;
            let found = hex::encode(Sha256::digest(&bytes));
            if found != *wanted {
                bail!("{path} has the sum {found}, expected {wanted}");
            }
            Ok(bytes)
        };
        let mut cases = Vec::new();
        for path in sums.keys().filter(|p| is_program(Path::new(p))) {
            let (language, file) =
                path.split_once('/').context("a program outside of a language's folder")?;
            let name = file.trim_end_matches(".wasm").to_owned();
            let json = format!("{language}/{name}.json");
            let specification: Specification = if sums.contains_key(&json) {
                serde_json::from_slice(&read(&json)?).with_context(|| format!("understand {json}"))?
            } else {
                Specification::default()
            };
            let mut files = Vec::new();
            if let Some(root) = &specification.root {
                let below = format!("{language}/{root}/");
                for (path, inner) in sums.keys().filter_map(|p| Some((p, p.strip_prefix(&below)?))) {
                    files.push((format!("/{inner}"), read(path)?));
                }
            }
            let (language, module) = (language.to_owned(), read(path)?);
            cases.push(Case { language, name, module, specification, files });
        }
        let text = fs::read_to_string(folder.join("expected.toml")).context("read expected.toml")?;
        let expected: Expected = toml::from_str(&text).context("understand expected.toml")?;
        let suite = Self { cases, expected };
        if let Some(unknown) = suite.known_failures().find(|id| suite.cases.iter().all(|c| c.id() != **id)) {
            bail!("expected.toml names {unknown}, which is no program");
        }
        Ok(suite)
    }

    /// Why this program is known to fail.
    pub(super) fn reason(&self, case: &Case) -> Option<Reason<'_>> {
        let id = case.id();
        let engine = self.expected.engine.get(&id).map(|why| Reason::Engine(why));
        engine.or_else(|| self.expected.container.get(&id).map(|why| Reason::Container(why)))
    }

    fn known_failures(&self) -> impl Iterator<Item = &String> {
        self.expected.engine.keys().chain(self.expected.container.keys())
    }
}

/// Path → sums of the original and of what is kept.
fn read_sums(folder: &Path) -> Result<BTreeMap<String, (String, String)>> {
    let text = fs::read_to_string(folder.join(SUMS)).with_context(|| format!("read {SUMS}"))?;
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (original, kept, path) = (words.next()?, words.next()?, words.next()?);
        Some((path.to_owned(), (original.to_owned(), kept.to_owned())))
    };
    text.lines().map(|l| parse(l).with_context(|| format!("understand {l:?} in {SUMS}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_its_sum_and_its_specification() {
        let suite = Suite::load().unwrap();
        assert_eq!(suite.cases.len(), 72);
        let failure = suite.cases.iter().find(|c| c.name == "proc_exit-failure").unwrap();
        assert_eq!(failure.specification.exit_code, 33);
        assert!(suite.cases.iter().any(|c| c.files.iter().any(|(path, _)| path == "/pread.txt")));
    }

    #[test]
    fn every_known_failure_is_explained_to_people_too() {
        let page = fs::read_to_string(paths::workspace().join("docs/wasi.md")).unwrap();
        for id in Suite::load().unwrap().known_failures() {
            assert!(page.contains(id), "{id} is not in docs/wasi.md");
        }
    }
}
