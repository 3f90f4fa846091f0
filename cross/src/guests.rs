//! `cargo xtask guests`: builds the guest programs of `deploy/apps`, always with one pinned compiler, so that the same
//! source gives the same bytes on every machine. Never uses the Rust toolchain of the host.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::pins::Pins;
use crate::{fetch, layout, output, paths, process};

/// Raised when the layout of the compiler's folder changes.
const LAYOUT: &str = "guest compiler layout 1";

/// The guests: folder in `deploy/apps`, and the name of the program.
const GUESTS: [(&str, &str); 2] = [("sensor", "sensor"), ("wasi-example", "wasi_example_main")];

/// The same settings as `[profile.release]` in deploy/apps/Cargo.toml.
const SETTINGS: [&str; 5] = ["codegen-units=1", "lto=fat", "opt-level=2", "panic=abort", "strip=symbols"];

/// Builds the WebAssembly guest programs of deploy/apps into deploy/apps/prebuilt.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build anew and compare with the committed files, byte for byte; change nothing.
    #[arg(long)]
    check: bool,
}

/// Builds all guests anew and compares them with the committed files.
pub(crate) fn check() -> Result<()> {
    main(&Args { check: true })
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    let apps = paths::workspace().join("deploy/apps");
    let compiler = Compiler::ensure()?;
    let out = paths::target()?.join("guests");
    layout::create(&out)?;
    let mut differ = Vec::new();
    for (folder, program) in GUESTS {
        let fresh = out.join(format!("{program}.wasm"));
        compiler.build(&apps, folder, program, &fresh)?;
        let committed = apps.join("prebuilt").join(format!("{program}.wasm"));
        let bytes = fs::read(&fresh).with_context(|| format!("read {}", fresh.display()))?;
        let is_same = fs::read(&committed).is_ok_and(|old| old == bytes);
        let verdict = if is_same { "unchanged" } else { "differs" };
        output::step("guest", &format!("{program}.wasm, {} bytes, {verdict}", bytes.len()));
        if is_same {
            continue;
        }
        if args.check {
            differ.push(committed.display().to_string());
        } else {
            layout::create(&apps.join("prebuilt"))?;
            fs::write(&committed, &bytes).with_context(|| format!("write {}", committed.display()))?;
        }
    }
    if !differ.is_empty() {
        bail!(
            "not what the source gives: {}; run `cargo xtask guests` and commit the result, or find out who changed them",
            differ.join(", ")
        );
    }
    Ok(())
}

/// The pinned compiler and linker in a private folder.
pub(crate) struct Compiler {
    usr: PathBuf,
    libraries: OsString,
}

impl Compiler {
    pub(crate) fn ensure() -> Result<Self> {
        let arch = Arch::host()?;
        let pins = match arch {
            Arch::X86_64 => Pins::parse("pins/guests-amd64.toml", include_str!("../pins/guests-amd64.toml"))?,
            Arch::Aarch64 => bail!(
                "the guest compiler is pinned for x86_64 machines only; use the files in deploy/apps/prebuilt"
            ),
        };
        let dir = paths::target()?.join("tools/guest-compiler");
        fetch::install(&pins, LAYOUT, &dir, |unpacked, new| {
            layout::take(&unpacked.join("usr"), &new.join("usr"))?;
            let lib = unpacked.join("lib").join(arch.multiarch());
            if lib.is_dir() { layout::take(&lib, &new.join("lib").join(arch.multiarch())) } else { Ok(()) }
        })?;
        let folders = ["usr/lib", "lib"].map(|lib| dir.join(lib).join(arch.multiarch()));
        let libraries = std::env::join_paths(folders).context("the target folder's path holds a colon")?;
        Ok(Self { usr: dir.join("usr"), libraries })
    }

    /// A program of one file that needs no remapped paths, with vectors: for measurements.
    pub(crate) fn program(&self, source: &Path, to: &Path) -> Result<()> {
        let mut rustc = self.rustc();
        rustc.args(["-C", "target-feature=+simd128"]).arg(source).arg("-o").arg(to);
        process::run(&mut rustc).with_context(|| format!("build {}", source.display()))
    }

    fn build(&self, apps: &Path, folder: &str, program: &str, to: &Path) -> Result<()> {
        let mut remap = apps.as_os_str().to_owned();
        remap.push("=/apps");
        let mut rustc = self.rustc();
        rustc.arg("--remap-path-prefix").arg(remap).args(["--crate-name", program]);
        rustc.arg(apps.join(folder).join("src/main.rs")).arg("-o").arg(to);
        process::run(&mut rustc).with_context(|| format!("build the guest {program}"))
    }

    fn rustc(&self) -> Command {
        let mut linker = OsString::from("linker=");
        linker.push(self.usr.join("bin/wasm-ld-14"));
        let mut rustc = Command::new(self.usr.join("bin/rustc"));
        rustc.env("LD_LIBRARY_PATH", &self.libraries).env_remove("RUSTFLAGS").env_remove("RUSTC_BOOTSTRAP");
        rustc.arg("--sysroot").arg(&self.usr).args(["--edition", "2021", "--target", "wasm32-wasi"]);
        rustc.arg("-C").arg(linker);
        for setting in SETTINGS {
            rustc.args(["-C", setting]);
        }
        rustc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/apps")
    }

    #[test]
    fn the_compiler_settings_are_those_of_the_guests_workspace() {
        let text = fs::read_to_string(apps().join("Cargo.toml")).unwrap();
        let (_, release) = text.split_once("[profile.release]\n").unwrap();
        let found: Vec<String> =
            release.lines().map(|line| line.replace(" = ", "=").replace('"', "")).collect();
        assert_eq!(found, SETTINGS);
    }

    #[test]
    fn every_guest_has_a_committed_module_of_modest_size() {
        for (_, program) in GUESTS {
            let bytes = fs::read(apps().join("prebuilt").join(format!("{program}.wasm"))).unwrap();
            assert!(bytes.starts_with(b"\0asm\x01\0\0\0"), "{program}");
            assert!(bytes.len() < 128 * 1024, "{program} is {} bytes", bytes.len());
        }
    }
}
