//! A stick: an ext4 image of its own, filled and read without mounting it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{layout, process};

/// For the file system itself, and for what the device writes to it, in bytes.
const ROOM: u64 = 16 << 20;

/// A new one with these files at its top.
pub(super) fn make(disk: &Path, files: &[&Path]) -> Result<()> {
    let filled = tempfile::tempdir().context("make a temporary folder")?;
    let mut bytes = ROOM;
    for file in files {
        let name = file.file_name().context("a file without a name")?;
        bytes +=
            fs::copy(file, filled.path().join(name)).with_context(|| format!("copy {}", file.display()))?;
    }
    let size = format!("{}K", bytes.div_ceil(1024));
    process::run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(filled.path()).arg(disk).arg(size))
}

/// Everything that is on it now.
pub(super) fn read(disk: &Path, to: &Path) -> Result<()> {
    layout::create(to)?;
    // A receipt is still in the journal of its file system when the stick was pulled out.
    let mut replay = tool("e2fsck");
    // 1: errors were corrected, which is what replaying a journal counts as.
    process::output(replay.arg("-fy").arg(disk)).map(drop)?;
    process::capture(tool("debugfs").arg("-R").arg(format!("rdump / {}", to.display())).arg(disk)).map(drop)
}

/// A program of e2fsprogs.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}
