//! Brings the packages of a pin file onto this machine: cached, resumed, checked by SHA-256, unpacked without root.
//! Never changes anything outside the cache and the folder it is given.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::apt::{Apt, Unavailable};
use crate::pins::{Package, Pins};
use crate::{output, paths, process};

/// Name of the file that says what a finished folder was made from.
const STAMP: &str = ".stamp";

/// Fills `dest` from the packages of `pins` unless it already holds what `recipe` stands for.
///
/// `lay_out(unpacked, new)` moves what is wanted from the unpacked packages into a new folder, which takes the place of
/// `dest` in one rename: a run that is cut off leaves the old state.
pub(crate) fn install(
    pins: &Pins,
    recipe: &str,
    dest: &Path,
    lay_out: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<()> {
    install_all(std::slice::from_ref(pins), recipe, dest, lay_out)
}

/// The same from several pin files, into one folder.
pub(crate) fn install_all(
    pins: &[Pins],
    recipe: &str,
    dest: &Path,
    lay_out: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<()> {
    let texts: Vec<String> = pins.iter().map(Pins::render).collect();
    let ingredients: Vec<&str> = std::iter::once(recipe).chain(texts.iter().map(String::as_str)).collect();
    let stamp = stamp_of(&ingredients);
    replace(dest, &stamp, |new| {
        let debs: Vec<PathBuf> =
            pins.iter().map(packages).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let unpacked = new.join(".unpacked");
        output::step("unpack", &format!("{} packages into {}", debs.len(), dest.display()));
        fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
        for deb in &debs {
            process::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&unpacked))
                .with_context(|| format!("unpack {} (is the disk full?)", deb.display()))?;
        }
        lay_out(&unpacked, new)?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))
    })
}

/// Makes `dest` anew through `fill` unless its stamp says that it is as wanted. One at a time, whole or not at all.
pub(crate) fn replace(dest: &Path, stamp: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if is_current(dest, stamp) {
        return Ok(());
    }
    let parent = dest.parent().context("the folder to fill has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let _lock = lock(parent)?;
    if is_current(dest, stamp) {
        return Ok(());
    }
    let (new, old) = (dest.with_extension("new"), dest.with_extension("old"));
    for path in [&new, &old] {
        remove(path)?;
    }
    fs::create_dir_all(&new).with_context(|| format!("create {}", new.display()))?;
    fill(&new)?;
    fs::write(new.join(STAMP), stamp).with_context(|| format!("write the stamp in {}", new.display()))?;
    if dest.exists() {
        fs::rename(dest, &old).with_context(|| format!("move {} away", dest.display()))?;
    }
    fs::rename(&new, dest).with_context(|| format!("rename {} to {}", new.display(), dest.display()))?;
    remove(&old)
}

/// The text that a stamp holds for these ingredients.
pub(crate) fn stamp_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

fn is_current(dest: &Path, stamp: &str) -> bool {
    fs::read_to_string(dest.join(STAMP)).is_ok_and(|found| found == stamp)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Takes the folder's lock file; the kernel gives it back when the process ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(".lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        output::step("wait", &format!("another run holds {}", path.display()));
        file.lock().with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

/// All packages of a pin file as checked files in the cache.
pub(crate) fn packages(pins: &Pins) -> Result<Vec<PathBuf>> {
    let cache = paths::cache()?;
    let dir = cache.join("debs");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let _lock = lock(&dir)?;
    let missing = missing(pins, &dir)?;
    if missing.is_empty() {
        output::step("cached", &format!("{} packages, {}", pins.packages.len(), mib(pins.size())));
    } else {
        let apt = Apt::open(&cache.join("apt"), &pins.suite, &pins.arch).context(Unavailable)?;
        apt.update().context(Unavailable)?;
        let size = missing.iter().map(|package| package.size).sum();
        output::step("download", &format!("{} packages, up to {}", missing.len(), mib(size)));
        apt.download(pins, &missing, &dir)?;
        for package in missing {
            if state(package, &dir)? != Cached::Good {
                remove_file(&dir.join(&package.file))?;
                bail!(
                    "{}: SHA-256 or size differ from the pinned ones ({}); the file was removed. \
                     Nothing of it was used. Try again; if it stays, do not trust the mirror",
                    package.file,
                    package.sha256
                );
            }
        }
    }
    Ok(pins.packages.iter().map(|package| dir.join(&package.file)).collect())
}

/// What must still be fetched; a file that cannot become right is removed, a half one stays to be completed.
fn missing<'a>(pins: &'a Pins, dir: &Path) -> Result<Vec<&'a Package>> {
    let mut missing = Vec::new();
    for package in &pins.packages {
        match state(package, dir)? {
            Cached::Good => continue,
            Cached::Wrong => {
                output::warn(&format!("{} in the cache is not what is pinned: fetched again", package.file));
                remove_file(&dir.join(&package.file))?;
            }
            Cached::Absent | Cached::Half => {}
        }
        missing.push(package);
    }
    Ok(missing)
}

#[derive(Debug, PartialEq, Eq)]
enum Cached {
    Absent,
    Half,
    Wrong,
    Good,
}

fn state(package: &Package, dir: &Path) -> Result<Cached> {
    let path = dir.join(&package.file);
    let size = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cached::Absent),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
    };
    Ok(match size.cmp(&package.size) {
        std::cmp::Ordering::Less => Cached::Half,
        std::cmp::Ordering::Equal if sha256(&path)? == package.sha256 => Cached::Good,
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Cached::Wrong,
    })
}

fn remove_file(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

/// The SHA-256 of a file, in hex.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok(hex::encode(hash.finalize()));
            }
            hash.update(&buffer[..n]);
        }
    };
    read().with_context(|| format!("hash {}", path.display()))
}

/// A size for people.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(bytes: &[u8]) -> Package {
        Package {
            name: "x".into(),
            version: "1".into(),
            file: "x_1_amd64.deb".into(),
            size: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(bytes)),
        }
    }

    #[test]
    fn a_cached_file_is_good_half_wrong_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let package = package(b"hello");
        let path = dir.path().join(&package.file);
        let now = || state(&package, dir.path()).unwrap();
        assert_eq!(now(), Cached::Absent);
        for (bytes, expected) in [
            (&b"hel"[..], Cached::Half),
            (b"hellp", Cached::Wrong),
            (b"hello!", Cached::Wrong),
            (b"hello", Cached::Good),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(now(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_fill_that_fails_keeps_the_old_folder_and_a_stamp_spares_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("x86_64");
        let fill = |text: &'static str| move |new: &Path| Ok(fs::write(new.join("a"), text)?);
        let content = || fs::read_to_string(dest.join("a")).unwrap();
        replace(&dest, "one", fill("1")).unwrap();
        replace(&dest, "two", |_| bail!("cut off")).unwrap_err();
        assert_eq!(content(), "1");
        replace(&dest, "one", |_| bail!("not called")).unwrap();
        replace(&dest, "two", fill("2")).unwrap();
        assert_eq!(content(), "2");
        assert!(!dest.with_extension("new").exists() && !dest.with_extension("old").exists());
    }

    #[test]
    fn stamps_keep_their_parts_apart() {
        assert_ne!(stamp_of(&["ab", "c"]), stamp_of(&["a", "bc"]));
    }
}
