//! What takes how much room in a package, and whether the budgets hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::Files;
use super::archive::gzip;
use super::plan::Package;
use crate::fetch::mib;

/// Bytes of the package of a device: 10 MB.
const AGENT: u64 = 10_000_000;
/// The same together with the compiler: 50 MB.
const WITH_COMPILER: u64 = 50_000_000;
/// What is below this is told in one line.
const SMALL: u64 = 64 << 10;

/// A table of a package's larger files: installed, and about how much of the package each is (by what gzip makes of each).
pub(super) fn shares(
    package: Package,
    bytes: &BTreeMap<&str, Vec<u8>>,
    deb: u64,
    count: (usize, usize),
) -> Result<String> {
    let installed: u64 = bytes.values().map(|b| b.len() as u64).sum();
    let mut text = format!(
        "{}: {} as a package, {} installed, {} crates and {} Debian packages in it\n",
        package.name(),
        mib(deb),
        mib(installed),
        count.0,
        count.1
    );
    let mut rows: Vec<(u64, u64, &str)> = Vec::new();
    let mut rest = (0, 0);
    for (path, bytes) in bytes {
        let (size, packed) = (bytes.len() as u64, gzip(bytes, 1)?.len() as u64);
        if size < SMALL {
            rest = (rest.0 + size, rest.1 + packed);
        } else {
            rows.push((size, packed, path));
        }
    }
    rows.sort_unstable_by(|a, b| b.cmp(a));
    rows.push((rest.0, rest.1, "everything smaller"));
    let all: u64 = rows.iter().map(|(_, packed, _)| packed).sum::<u64>().max(1);
    for (size, packed, path) in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:>10} {:>3} %  {path}", mib(size), (packed * 100 + all / 2) / all);
    }
    Ok(text)
}

/// Whether the packages that a device downloads are as small as they have to be.
pub(super) fn keep_budgets(files: &Files) -> Result<()> {
    let size = |name: &str| {
        let of = |file: &&String| file.starts_with(name) && file.strip_suffix(".deb").is_some();
        files.keys().find(of).map(|file| files[file].len() as u64)
    };
    let Some(agent) = size("shoal-agent_") else { return Ok(()) };
    if agent > AGENT {
        bail!("shoal-agent is {agent} bytes, more than {AGENT}");
    }
    match size("shoal-compiler_") {
        Some(compiler) if agent + compiler > WITH_COMPILER => {
            bail!("shoal-agent and shoal-compiler are {} bytes, more than {WITH_COMPILER}", agent + compiler)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_above_their_budget_are_refused() {
        let files = |agent: usize, compiler: usize| -> Files {
            let of = |name: &str, size| (format!("{name}_1_arm64.deb"), vec![0; size]);
            [of("shoal-agent", agent), of("shoal-compiler", compiler)].into()
        };
        keep_budgets(&files(10_000_000, 40_000_000)).unwrap();
        keep_budgets(&files(10_000_001, 0)).unwrap_err();
        keep_budgets(&files(10_000_000, 40_000_001)).unwrap_err();
        keep_budgets(&Files::new()).unwrap();
    }

    #[test]
    fn shares_name_the_large_files_and_sum_the_small_ones() {
        let large = vec![7; 1 << 20];
        let bytes = BTreeMap::from([("a/large", large), ("a/small", vec![1; 10]), ("b/small", vec![2; 10])]);
        let text = shares(Package::Agent, &bytes, 1 << 20, (3, 2)).unwrap();
        assert!(text.contains("a/large") && text.contains("everything smaller"), "{text}");
        assert!(!text.contains("a/small"), "{text}");
    }
}
