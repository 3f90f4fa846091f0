//! The three places that an engine can come from, each filling the same prefix. Builds nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::{LAYOUT, closure, shim, stamp};
use crate::arch::Arch;
use crate::pins::Pins;
use crate::{fetch, layout, output, paths};

/// The oldest WasmEdge that Shoal takes: older ones let a guest read beyond its memory (CVE-2025-69261).
const MINIMUM: (u32, u32, u32) = (0, 17, 1);

/// The version of the pinned libclang, a folder name in its package.
pub(super) const CLANG_VERSION: &str = "14.0.6";

/// The pin file of the engine's packages.
pub(crate) fn pins(arch: Arch) -> Result<Pins> {
    match arch {
        Arch::X86_64 => Pins::parse("pins/engine-amd64.toml", include_str!("../../pins/engine-amd64.toml")),
        Arch::Aarch64 => Pins::parse("pins/engine-arm64.toml", include_str!("../../pins/engine-arm64.toml")),
    }
}

/// The prefix from Debian's packages.
pub(super) fn install_debian(arch: Arch, dir: &Path) -> Result<()> {
    let pins = pins(arch)?;
    fetch::install(&pins, LAYOUT, dir, |unpacked, new| {
        layout::take(&unpacked.join("usr/include/wasmedge"), &new.join("include/wasmedge"))?;
        layout::gather_libraries(unpacked, arch, &new.join("compile/lib"))?;
        layout::copy_names(&new.join("compile/lib"), "libwasmedge.so", &new.join("lib"))?;
        layout::keep_licences(unpacked, &new.join("compile/licences"))?;
        finish(new, arch)
    })
}

/// The prefix from the user's own installation: headers and library linked to, run-time folder copied from the host.
pub(super) fn install_given(given: &Path, arch: Arch, dir: &Path) -> Result<()> {
    let lib = ["lib64", "lib"]
        .map(|name| given.join(name))
        .into_iter()
        .find(|lib| lib.join("libwasmedge.so").exists())
        .with_context(|| format!("no lib/libwasmedge.so or lib64/libwasmedge.so in {}", given.display()))?;
    let library = lib.join("libwasmedge.so");
    let facts = fs::metadata(&library).with_context(|| format!("look at {}", library.display()))?;
    let identity = format!("{} {} {} {}", library.display(), facts.len(), facts.mtime(), facts.ino());
    fetch::replace(dir, &stamp(&["given", &identity]), |new| {
        output::step("engine", &format!("WasmEdge in {}", given.display()));
        layout::create(&new.join("include"))?;
        symlink(given.join("include/wasmedge"), new.join("include/wasmedge")).context("link the headers")?;
        layout::copy_names(&lib, "libwasmedge.so", &new.join("lib"))?;
        closure(&library, &lib, arch, &new.join("compile/lib"))?;
        // What every Rust program needs beside it; xtask is one.
        let own = std::env::current_exe().context("find xtask's own program")?;
        closure(&own, Path::new(""), arch, &new.join("compile/lib"))?;
        layout::copy_names(&lib, "libwasmedge.so", &new.join("compile/lib"))?;
        finish(new, arch)
    })
}

/// An empty prefix; the build fills its run-time folder once the runner is linked.
pub(super) fn prepare_bundled(dir: &Path) -> Result<()> {
    fetch::replace(dir, &stamp(&["bundled"]), |new| {
        layout::create(&new.join("compile/lib"))?;
        // Upstream's release has LLVM inside, so there is nothing to stand in for.
        symlink("compile", new.join("run")).context("link run to compile")
    })
}

/// bindgen's libclang, for this machine's architecture.
pub(super) fn install_libclang() -> Result<PathBuf> {
    let arch = Arch::host()?;
    let pins = match arch {
        Arch::X86_64 => {
            Pins::parse("pins/bindgen-amd64.toml", include_str!("../../pins/bindgen-amd64.toml"))?
        }
        Arch::Aarch64 => bail!("no libclang packages are pinned for aarch64 yet"),
    };
    let dir = paths::engines()?.join("bindgen");
    fetch::install(&pins, LAYOUT, &dir, |unpacked, new| {
        layout::gather_libraries(unpacked, arch, &new.join("lib"))?;
        symlink("libclang-14.so.1", new.join("lib/libclang.so")).context("link libclang.so")?;
        layout::take(
            &unpacked.join("usr/lib/llvm-14/lib/clang").join(CLANG_VERSION),
            &new.join("lib/clang").join(CLANG_VERSION),
        )
    })?;
    Ok(dir.join("lib"))
}

fn finish(new: &Path, arch: Arch) -> Result<()> {
    check_version(&new.join("include/wasmedge/version.h"))?;
    shim::make_run(new, arch).context("make the folder that containers run from")?;
    shim::trim_compile(new, arch).context("make the folder that compilations run from")
}

fn check_version(header: &Path) -> Result<()> {
    let text = fs::read_to_string(header).with_context(|| format!("read {}", header.display()))?;
    let found = parse_version(&text).with_context(|| format!("read the version in {}", header.display()))?;
    let show = |(major, minor, patch): (u32, u32, u32)| format!("{major}.{minor}.{patch}");
    if found < MINIMUM {
        bail!("WasmEdge {} is too old: {} or newer is needed", show(found), show(MINIMUM));
    }
    Ok(())
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let number = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "#define" && words.next()? == name).then(|| words.next()?.parse().ok())?
        })
    };
    Some((
        number("WASMEDGE_VERSION_MAJOR")?,
        number("WASMEDGE_VERSION_MINOR")?,
        number("WASMEDGE_VERSION_PATCH")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_header() {
        let text = "#define WASMEDGE_VERSION \"0.17.1\"\n#define WASMEDGE_VERSION_MAJOR 0\n\
                    #define WASMEDGE_VERSION_MINOR 17\n#define WASMEDGE_VERSION_PATCH 1\n";
        assert_eq!(parse_version(text), Some((0, 17, 1)));
        assert_eq!(parse_version("#define WASMEDGE_VERSION_MAJOR 0\n"), None);
    }

    #[test]
    fn an_engine_below_the_minimum_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |minor: u32| {
            let text = format!(
                "#define WASMEDGE_VERSION_MAJOR 0\n#define WASMEDGE_VERSION_MINOR {minor}\n#define WASMEDGE_VERSION_PATCH 1\n"
            );
            fs::write(file.path(), text).unwrap();
            check_version(file.path()).map_err(|error| format!("{error:#}"))
        };
        assert!(write(14).unwrap_err().contains("0.14.1 is too old: 0.17.1"));
        assert_eq!(write(17), Ok(()));
    }
}
