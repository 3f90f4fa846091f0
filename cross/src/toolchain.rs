//! What building for another architecture takes: a C compiler with its headers and an emulator from pinned packages in
//! private folders, and Rust's own library for that target. The host's packages stay as they are.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::pins::Pins;
use crate::{fetch, layout, output, paths, process};

/// Raised when the layout of the compiler's folder changes.
const LAYOUT: &str = "cross compiler layout 1";
/// The version in the compiler's name.
const GCC: &str = "gcc-12";

/// A C compiler with binutils, headers and libraries of another architecture.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    arch: Arch,
    dir: PathBuf,
}

impl Toolchain {
    /// Fetches it where it is missing; none where this machine's own compiler serves.
    pub(crate) fn ensure(arch: Arch) -> Result<Option<Self>> {
        let host = Arch::host()?;
        if host == arch {
            return Ok(None);
        }
        let pins = match (host, arch) {
            (Arch::X86_64, Arch::Aarch64) => {
                Pins::parse("pins/cross-arm64-amd64.toml", include_str!("../pins/cross-arm64-amd64.toml"))?
            }
            _ => bail!("no compiler is pinned for {} on {}: build there", arch.name(), host.name()),
        };
        let dir = paths::target()?.join("tools").join(format!("cross-{}", arch.name()));
        let recipe = format!("{LAYOUT} {}", dir.display());
        fetch::install(&pins, &recipe, &dir, |unpacked, new| lay_out(unpacked, new, &dir, host, arch))?;
        Ok(Some(Self { arch, dir }))
    }

    /// One of its programs: `gcc`, `ar`, `nm`, `strip` …
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(format!("{}-{name}", self.arch.multiarch()))
    }

    /// What cargo and the `cc` crate are told.
    pub(crate) fn env(&self) -> Vec<(String, OsString)> {
        let target = self.arch.triple().replace('-', "_");
        vec![
            (format!("CARGO_TARGET_{}_LINKER", self.arch.triple_in_env()), self.program("gcc").into()),
            (format!("CC_{target}"), self.program("gcc").into()),
            (format!("AR_{target}"), self.program("ar").into()),
        ]
    }

    /// Where bindgen's clang finds the headers.
    pub(crate) fn clang_args(&self) -> OsString {
        let mut args = OsString::from("--sysroot=");
        args.push(&self.dir);
        args.push(" -isystem ");
        args.push(self.dir.join("usr").join(self.arch.multiarch()).join("include"));
        args
    }
}

fn lay_out(unpacked: &Path, new: &Path, dir: &Path, host: Arch, arch: Arch) -> Result<()> {
    layout::take(&unpacked.join("usr"), &new.join("usr"))?;
    // Where the older packages of its libraries have them.
    let older = unpacked.join("lib").join(host.multiarch());
    if older.is_dir() {
        layout::take(&older, &new.join("lib").join(host.multiarch()))?;
    }
    let home = dir.display();
    let multiarch = arch.multiarch();
    let libraries = ["usr/lib", "lib"].map(|lib| format!("{home}/{lib}/{}", host.multiarch())).join(":");
    // Its linker scripts name absolute paths: the folder is given as the root that these begin at.
    let gcc = format!("{multiarch}-{GCC}' --sysroot='{home}' -B'{home}/usr/bin/{multiarch}-");
    let tools = ["ar", "nm", "objcopy", "objdump", "ranlib", "readelf", "strip"];
    let programs = tools.map(|tool| (tool, format!("{multiarch}-{tool}")));
    for (name, real) in std::iter::once(("gcc", gcc)).chain(programs) {
        let text = format!("#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec '{home}/usr/bin/{real}' \"$@\"\n");
        write_program(&new.join("bin").join(format!("{multiarch}-{name}")), &text)?;
    }
    Ok(())
}

/// Makes sure that Rust's own library is there for this target: installed, added by rustup, or else with a Rust of Debian's in a
/// private folder. Gives what cargo has to be told then.
pub(crate) fn ensure_std(arch: Arch) -> Result<Vec<(String, OsString)>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = process::capture(Command::new(rustc).args(["--print", "sysroot"]))?;
    let lib = Path::new(sysroot.trim()).join("lib/rustlib").join(arch.triple()).join("lib");
    if lib.is_dir() {
        return Ok(Vec::new());
    }
    output::step("install", &format!("Rust's library for {}", arch.triple()));
    let by_rustup = if process::is_installed("rustup") {
        process::capture(Command::new("rustup").args(["target", "add", arch.triple()])).map(drop)
    } else {
        Err(anyhow::anyhow!("there is no rustup"))
    };
    let Err(reason) = by_rustup else { return Ok(Vec::new()) };
    output::warn(&format!("not by rustup ({reason:#}); a Rust of Debian's is used for {}", arch.triple()));
    let rustc = debian_rust(arch).with_context(|| {
        format!(
            "get Rust's library for {} (by hand: `rustup target add {0}`, or RUSTC set to a Rust {} or newer that has it)",
            arch.triple(),
            env!("CARGO_PKG_RUST_VERSION")
        )
    })?;
    Ok(vec![("RUSTC".to_owned(), rustc.into())])
}

/// Debian's Rust for web browsers, which follows the newest releases, with the libraries of this machine and of another.
fn debian_rust(arch: Arch) -> Result<PathBuf> {
    let host = Arch::host()?;
    if (host, arch) != (Arch::X86_64, Arch::Aarch64) {
        bail!("no Rust is pinned for {} on {}", arch.name(), host.name());
    }
    let pins = [
        Pins::parse("pins/rust-amd64.toml", include_str!("../pins/rust-amd64.toml"))?,
        Pins::parse("pins/rust-arm64.toml", include_str!("../pins/rust-arm64.toml"))?,
        Pins::parse("pins/rust-libraries-amd64.toml", include_str!("../pins/rust-libraries-amd64.toml"))?,
    ];
    let dir = paths::target()?.join("tools").join(format!("rust-{}", arch.name()));
    let recipe = format!("Rust layout 1 {}", dir.display());
    fetch::install_all(&pins, &recipe, &dir, |unpacked, new| lay_out_rust(unpacked, new, &dir, host))?;
    Ok(dir.join("bin/rustc"))
}

fn lay_out_rust(unpacked: &Path, new: &Path, dir: &Path, host: Arch) -> Result<()> {
    layout::take(&unpacked.join("usr"), &new.join("usr"))?;
    let older = unpacked.join("lib").join(host.multiarch());
    if older.is_dir() {
        layout::take(&older, &new.join("lib").join(host.multiarch()))?;
    }
    let home = dir.display();
    let libraries = ["usr/lib", "lib"].map(|lib| format!("{home}/{lib}/{}", host.multiarch())).join(":");
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{libraries}'${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\nexport LD_LIBRARY_PATH\n\
         exec '{home}/usr/bin/rustc' --sysroot '{home}/usr' \"$@\"\n"
    );
    write_program(&new.join("bin/rustc"), &text)
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    layout::create(path.parent().context("a program without a folder")?)?;
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} a program", path.display()))
}

/// What a program of this architecture is started with on this machine: nothing, or an emulator.
pub(crate) fn emulator(arch: Arch) -> Result<Option<PathBuf>> {
    let host = Arch::host()?;
    if host == arch {
        return Ok(None);
    }
    let name = format!("qemu-{}-static", arch.name());
    if host != Arch::X86_64 {
        bail!("no emulator is pinned for {} machines", host.name());
    }
    let pins = Pins::parse("pins/emulator-amd64.toml", include_str!("../pins/emulator-amd64.toml"))?;
    let dir = paths::target()?.join("tools/emulator");
    fetch::install(&pins, "emulator layout 1", &dir, |unpacked, new| {
        for arch in [Arch::X86_64, Arch::Aarch64].into_iter().filter(|arch| *arch != host) {
            let name = format!("qemu-{}-static", arch.name());
            layout::take(&unpacked.join("usr/bin").join(&name), &new.join(&name))?;
        }
        Ok(())
    })?;
    Ok(Some(dir.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_and_cc_are_told_by_the_names_that_they_look_for() {
        let tools = Toolchain { arch: Arch::Aarch64, dir: "/x".into() };
        let names: Vec<String> = tools.env().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
                "CC_aarch64_unknown_linux_gnu",
                "AR_aarch64_unknown_linux_gnu"
            ]
        );
        assert_eq!(tools.program("gcc"), Path::new("/x/bin/aarch64-linux-gnu-gcc"));
    }
}
