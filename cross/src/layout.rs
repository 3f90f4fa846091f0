//! Moves files out of unpacked Debian packages into the folders that Shoal's tools expect. Downloads and runs nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;

/// Takes every shared library of the unpacked packages into one flat folder: files moved, links kept, the loader a real file.
pub(crate) fn gather_libraries(unpacked: &Path, arch: Arch, into: &Path) -> Result<()> {
    create(into)?;
    for sub in ["usr/lib", "lib"] {
        let dir = unpacked.join(sub).join(arch.multiarch());
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("read {}", dir.display()))?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let is_library = text.ends_with(".so") || text.contains(".so.");
            if is_library && !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                take_library(&entry.path(), &into.join(&name))?;
            }
        }
    }
    let loader = into.join(arch.loader());
    if !fs::symlink_metadata(&loader).is_ok_and(|metadata| metadata.is_file()) {
        // Only a set that brings its own libc brings a loader; there it must be a file, for it is started by its path.
        if into.join("libc.so.6").exists() {
            bail!("{} is not a regular file in Debian's libc6", loader.display());
        }
    }
    Ok(())
}

fn take_library(from: &Path, to: &Path) -> Result<()> {
    if let Ok(target) = fs::read_link(from) {
        let file_name = target.file_name().context("a link without a target")?;
        return symlink(file_name, to).with_context(|| format!("link {}", to.display()));
    }
    fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}

/// Moves a folder or file, making the parent first.
pub(crate) fn take(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        create(parent)?;
    }
    fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}

/// Keeps each package's licence: `usr/share/doc/NAME/copyright` becomes `into/NAME`.
pub(crate) fn keep_licences(unpacked: &Path, into: &Path) -> Result<()> {
    create(into)?;
    let docs = unpacked.join("usr/share/doc");
    let Ok(entries) = fs::read_dir(&docs) else { return Ok(()) };
    for entry in entries.flatten() {
        let copyright = entry.path().join("copyright");
        if copyright.is_file() {
            fs::copy(&copyright, into.join(entry.file_name()))
                .with_context(|| format!("copy {}", copyright.display()))?;
        }
    }
    Ok(())
}

/// Copies a library under every name that it has in its folder (`libx.so`, `libx.so.0`, `libx.so.0.1`).
pub(crate) fn copy_names(dir: &Path, prefix: &str, into: &Path) -> Result<()> {
    create(into)?;
    let mut count = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            copy_as_is(&entry.path(), &into.join(entry.file_name()))?;
            count += 1;
        }
    }
    if count == 0 {
        bail!("no {prefix}* in {}", dir.display());
    }
    Ok(())
}

fn copy_as_is(from: &Path, to: &Path) -> Result<()> {
    if let Ok(target) = fs::read_link(from) {
        let file_name = target.file_name().context("a link without a target")?;
        return symlink(file_name, to).with_context(|| format!("link {}", to.display()));
    }
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Makes a folder and its parents.
pub(crate) fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))
}

/// What `ldd` says a program or library needs: the files, and the names that it did not find.
pub(crate) fn parse_ldd(text: &str) -> (Vec<PathBuf>, Vec<String>) {
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            lost.push(name.to_owned());
        } else if let Some(path) = place.split(" (0x").next().filter(|path| path.starts_with('/')) {
            found.push(PathBuf::from(path));
        }
    }
    (found, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_gives_files_the_loader_and_what_is_lost() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\tlibfmt.so.9 => /usr/lib/libfmt.so.9 (0x00007f)\n\
                    \tlibLLVM.so.21.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let (found, lost) = parse_ldd(text);
        assert_eq!(found, [Path::new("/usr/lib/libfmt.so.9"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert_eq!(lost, ["libLLVM.so.21.1"]);
    }

    #[test]
    fn libraries_come_flat_with_their_links_and_a_real_loader() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("root/usr/lib/x86_64-linux-gnu");
        create(&lib.join("gconv")).unwrap();
        for name in ["libc.so.6", "ld-linux-x86-64.so.2", "libx.so.0.1", "notes.txt"] {
            fs::write(lib.join(name), name).unwrap();
        }
        symlink("../x86_64-linux-gnu/libx.so.0.1", lib.join("libx.so.0")).unwrap();
        let into = dir.path().join("lib");
        gather_libraries(&dir.path().join("root"), Arch::X86_64, &into).unwrap();
        assert_eq!(fs::read_to_string(into.join("libx.so.0")).unwrap(), "libx.so.0.1");
        assert!(fs::symlink_metadata(into.join("ld-linux-x86-64.so.2")).unwrap().is_file());
        assert!(!into.join("notes.txt").exists() && !into.join("gconv").exists());
    }
}
