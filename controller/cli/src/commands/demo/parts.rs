//! The installed programs that a demo takes, or the packages that are missing. Starts nothing.

use crate::error::{CliError, OnPath as _, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Parts {
    /// Agent, guard, runner and engine.
    pub(super) libexec: PathBuf,
    /// The controller.
    pub(super) shoald: PathBuf,
}

/// What the agent's package puts beside this program.
const DEVICE: [&str; 3] = ["shoal-agent", "shoal-guard", "shoal-runner"];

impl Parts {
    /// Looks for all of them.
    pub(super) fn find(given: Option<&Path>) -> Result<Self> {
        let libexec = if let Some(dir) = given {
            std::path::absolute(dir).on_path("use", dir)?
        } else {
            let exe = std::env::current_exe()
                .map_err(|e| CliError::failure("cannot find this program").because(e))?;
            exe.parent().map(Path::to_path_buf).unwrap_or_default()
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places = std::iter::once(libexec.clone()).chain(std::env::split_paths(&path));
        let shoald = places.chain(["/usr/bin".into()]).map(|dir| dir.join("shoald")).find(|p| p.is_file());
        let mut missing = BTreeSet::new();
        if DEVICE.iter().any(|name| !libexec.join(name).is_file()) {
            missing.insert("shoal-agent");
        }
        // Where the system's own loader serves, there is neither.
        let engine =
            std::env::var_os("SHOAL_ENGINE_DIR").map_or_else(|| libexec.join("engine"), PathBuf::from);
        if engine.join("run").is_dir() != engine.join("compile").is_dir() {
            missing.insert("shoal-compiler");
        }
        match shoald {
            Some(shoald) if missing.is_empty() => Ok(Self { libexec, shoald }),
            found => {
                if found.is_none() {
                    missing.insert("shoal-controller");
                }
                let names: Vec<&str> = missing.into_iter().collect();
                let files: Vec<String> = names.iter().map(|name| format!("./{name}_*.deb")).collect();
                Err(CliError::failure(format!(
                    "the demo needs packages that are not here: {}",
                    names.join(", ")
                ))
                .hint(format!("apt install {}", files.join(" "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_missing_are_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("engine/run")).unwrap();
        std::fs::write(dir.path().join("shoald"), "").unwrap();
        let text = Parts::find(Some(dir.path())).unwrap_err().render();
        assert!(text.contains("not here: shoal-agent, shoal-compiler"), "{text}");
        assert!(text.contains("apt install ./shoal-agent_*.deb ./shoal-compiler_*.deb"), "{text}");
        for name in DEVICE {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("engine/compile")).unwrap();
        assert_eq!(Parts::find(Some(dir.path())).unwrap().shoald, dir.path().join("shoald"));
    }
}
