//! Takes the programs from a checkout of the test suite into this repository: without their debug information, which is
//! nineteen parts of twenty, and with the sums of both.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::suite::{LANGUAGES, SUMS, folder, is_program};
use crate::output;

/// Takes all of preview 1.
pub(super) fn take(checkout: &Path) -> Result<()> {
    let to = folder();
    let mut sums = Vec::new();
    for language in LANGUAGES {
        let from = checkout.join("tests").join(language).join("testsuite/wasm32-wasip1");
        let mut files = Vec::new();
        walk(&from, &mut files)?;
        files.sort();
        for path in files {
            let inner = path.strip_prefix(&from).context("a file outside of its folder")?;
            let original = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let kept = if is_program(inner) {
                without_custom_sections(&original).with_context(|| format!("strip {}", path.display()))?
            } else {
                original.clone()
            };
            let name = format!("{language}/{}", inner.display());
            let target = to.join(&name);
            fs::create_dir_all(target.parent().context("a file without a folder")?)?;
            fs::write(&target, &kept).with_context(|| format!("write {}", target.display()))?;
            let sum = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
            sums.push(format!("{} {} {name}\n", sum(&original), sum(&kept)));
        }
    }
    fs::copy(checkout.join("LICENSE"), to.join("LICENSE")).context("take the licence along")?;
    fs::write(to.join(SUMS), sums.concat()).context("write the sums")?;
    output::step("taken", &format!("{} files into {}", sums.len(), to.display()));
    Ok(())
}

fn walk(folder: &Path, into: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() { walk(&path, into)? } else { into.push(path) }
    }
    Ok(())
}

/// The module with its code and data as they are; names and debug information are in custom sections.
fn without_custom_sections(module: &[u8]) -> Result<Vec<u8>> {
    let (head, mut rest) = module.split_at_checked(8).context("no module")?;
    let mut kept = head.to_vec();
    while let Some((id, after)) = rest.split_first() {
        let (size, body) = leb128(after).context("a section without a size")?;
        let (body, next) = body.split_at_checked(size).context("a section beyond the end")?;
        if *id != 0 {
            kept.extend(&rest[..rest.len() - next.len()]);
        }
        debug_assert_eq!(body.len(), size);
        rest = next;
    }
    Ok(kept)
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_sections_go_and_the_rest_stays() {
        let plain = wat::parse_str("(module (memory 1) (func (export \"f\")))").unwrap();
        let mut with = plain.clone();
        with.splice(8..8, [0, 3, 1, b'x', 9]);
        assert_eq!(without_custom_sections(&with).unwrap(), plain);
        assert!(without_custom_sections(&with[..10]).is_err());
    }
}
