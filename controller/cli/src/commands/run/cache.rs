//! Compiled code between runs, in the user's own cache folder: one folder a module, closed to everybody else.
//!
//! The guard hashes what it finds before it loads it, and takes only what fits its engine and CPU; nothing here is trusted further
//! than the user's own files. A cache that cannot be used is no failure.

use shoal_ipc::Layout;
use shoal_protocol::ids::Digest;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Modules that are kept; the ones not used for longest go.
const MODULES: usize = 32;

fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|h| h.join(".cache")))?;
    Some(base.join("shoal").join("run"))
}

/// Whether nobody else can have written there.
fn is_own(dir: &Path) -> bool {
    fs::symlink_metadata(dir)
        .is_ok_and(|m| m.is_dir() && m.uid() == rustix::process::geteuid().as_raw() && m.mode() & 0o022 == 0)
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_file() && !target.exists() {
            // Under another name first: two runs at once both leave whole files.
            let temp = to.join(format!("{}.{}.tmp", entry.file_name().to_string_lossy(), std::process::id()));
            fs::copy(entry.path(), &temp)?;
            fs::rename(&temp, &target)?;
        }
    }
    Ok(())
}

/// Gives a guard that is to be started what was compiled of this module before.
pub(super) fn fill(layout: &Layout, module: &Digest) {
    let Some(dir) = folder().map(|f| f.join(module.hex())) else { return };
    if !dir.parent().is_some_and(is_own) || !is_own(&dir) {
        return;
    }
    // Without it the module is compiled again.
    let _ = fs::create_dir_all(layout.cache()).and_then(|()| copy_all(&dir, &layout.cache()));
    let _ = fs::File::open(&dir).and_then(|f| f.set_modified(std::time::SystemTime::now()));
}

/// Keeps what was compiled of this module.
pub(super) fn keep(layout: &Layout, module: &Digest) {
    let Some(all) = folder() else { return };
    let dir = all.join(module.hex());
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    if made.is_ok() && is_own(&all) && is_own(&dir) {
        // The next run compiles again what could not be kept.
        let _ = copy_all(&layout.cache(), &dir);
        prune(&all);
    }
}

fn prune(all: &Path) {
    let Ok(entries) = fs::read_dir(all) else { return };
    let mut modules: Vec<_> =
        entries.flatten().filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path()))).collect();
    modules.sort();
    let extra = modules.len().saturating_sub(MODULES);
    for (_, path) in modules.into_iter().take(extra) {
        let _ = fs::remove_dir_all(path);
    }
}
