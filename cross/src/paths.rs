//! Where things lie: the work tree, cargo's target folder and the shared download cache. Creates nothing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The root of the work tree.
pub(crate) fn workspace() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target folder: `CARGO_TARGET_DIR`, or `target` in the work tree.
pub(crate) fn target() -> Result<PathBuf> {
    let dir = match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => workspace().join("target"),
    };
    std::path::absolute(&dir).with_context(|| format!("make {} absolute", dir.display()))
}

/// Downloads that outlive a clone: `${XDG_CACHE_HOME:-~/.cache}/shoal`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => {
            let home = env::var_os("HOME").context(
                "find the download cache: neither XDG_CACHE_HOME nor HOME is set; set one of them",
            )?;
            PathBuf::from(home).join(".cache")
        }
    };
    Ok(base.join("shoal"))
}

/// The folder that holds one private prefix per architecture: `SHOAL_ENGINE_DIR`, or `engine` in the target folder.
pub(crate) fn engines() -> Result<PathBuf> {
    match env::var_os("SHOAL_ENGINE_DIR") {
        Some(dir) if !dir.is_empty() => std::path::absolute(&dir)
            .with_context(|| format!("make SHOAL_ENGINE_DIR={} absolute", Path::new(&dir).display())),
        _ => Ok(target()?.join("engine")),
    }
}
