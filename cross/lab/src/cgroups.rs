//! What a lab can see of control groups: which are there, by name. It never makes or removes one.

use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";

/// All groups, in every hierarchy, with `word` in the name of their top folder.
pub fn named(word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(Path::new(MOUNT), word, 2, &mut found);
    found
}

fn collect(dir: &Path, word: &str, depth: u32, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(word) {
            found.push(entry.path());
        } else if depth > 1 {
            collect(&entry.path(), word, depth - 1, found);
        }
    }
}
