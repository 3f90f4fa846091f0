//! Cargo calls that need more than `cargo build`: the runner against the engine, and static programs. Fetches nothing itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Engine, Folder, Source, closure};
use crate::arch::Arch;
use crate::toolchain::{self, Toolchain};
use crate::{output, paths, process};

/// Cargo's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// For tests.
    Dev,
    /// For what is shipped, and the demo.
    Release,
    /// The release of what devices carry.
    Device,
}

impl Profile {
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
            Self::Device => "device",
        }
    }

    /// The profile of what goes onto a device together with programs of this one.
    pub(crate) fn on_device(self) -> Self {
        match self {
            Self::Dev => Self::Dev,
            Self::Release | Self::Device => Self::Device,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
            Self::Device => "device",
        }
    }
}

/// Builds `shoal-runner` against the engine and gives the binary. Start it with its own loader ([`Engine::loader`]).
pub(crate) fn build_runner(engine: &Engine, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo_build("shoal-runner", engine.arch, profile)?;
    command.envs(engine.build_env());
    if engine.source == Source::Bundled {
        command.args(["--features", "bundled"]);
    }
    process::run(&mut command).with_context(|| match &engine.source {
        Source::Bundled => "build shoal-runner with the engine that its build downloads, the last of three sources; \
                            the warnings above say why Debian's packages could not be had, and WASMEDGE_DIR=DIR \
                            takes an installed WasmEdge 0.17.1 or newer"
            .to_owned(),
        _ => format!("build shoal-runner against the engine in {}", engine.dir.display()),
    })?;
    let binary = artifact("shoal-runner", engine.arch, profile)?;
    if engine.source == Source::Bundled {
        closure(&binary, Path::new(""), engine.arch, &engine.folder(Folder::Compile).join("lib"))?;
    }
    Ok(binary)
}

/// Builds a package as a static program (`+crt-static`) and makes sure that it asks for no loader.
pub(crate) fn build_static(
    package: &str,
    arch: Arch,
    profile: Profile,
    features: &[&str],
) -> Result<PathBuf> {
    let mut command = cargo_build(package, arch, profile)?;
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    link_statically(&mut command, arch);
    process::run(&mut command).with_context(|| format!("build {package} as a static program"))?;
    let binary = artifact(package, arch, profile)?;
    if has_interpreter(&std::fs::read(&binary).with_context(|| format!("read {}", binary.display()))?)? {
        bail!("{} asks for a dynamic loader although it was built with +crt-static", binary.display());
    }
    Ok(binary)
}

/// Builds a package's program with further words for the linker.
pub(crate) fn build_linked(package: &str, arch: Arch, profile: Profile, link: &[String]) -> Result<PathBuf> {
    output::step("build", &format!("{package} for {} ({})", arch.triple(), profile.name()));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace()).args(["rustc", "--package", package, "--bin", package]);
    command.args(["--profile", profile.name()]);
    // For this machine without naming it, as other builds of it are: cargo keeps those apart.
    let mut dir = paths::target()?;
    if let Some(tools) = Toolchain::ensure(arch)? {
        command.args(["--target", arch.triple()]).envs(toolchain::ensure_std(arch)?).envs(tools.env());
        dir.push(arch.triple());
    }
    process::run(command.arg("--").args(link)).with_context(|| format!("build {package}"))?;
    let path = dir.join(profile.folder()).join(package);
    if !path.is_file() {
        bail!("cargo reported success but {} is not there", path.display());
    }
    Ok(path)
}

/// Builds these integration tests of a package, and its programs, as static programs: each test's name and binary.
pub(crate) fn build_static_tests(
    package: &str,
    arch: Arch,
    tests: &[String],
) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo_build(package, arch, Profile::Dev)?;
    command.args(tests.iter().flat_map(|name| ["--test", name]));
    command.args(["--message-format", "json-render-diagnostics"]);
    link_statically(&mut command, arch);
    command.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::inherit());
    let done = command.output().context("start cargo")?;
    if !done.status.success() {
        bail!("build the tests of {package} as static programs: cargo ended with {}", done.status);
    }
    let built = parse_tests(&String::from_utf8_lossy(&done.stdout));
    tests
        .iter()
        .map(|name| {
            let found = built.iter().find(|(built, _)| built == name).cloned();
            found.with_context(|| format!("cargo reported success but named no program for the test {name}"))
        })
        .collect()
}

/// The tests among cargo's messages, with their programs.
fn parse_tests(messages: &str) -> Vec<(String, PathBuf)> {
    let test = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let target = message.get("target")?;
        let is_test = target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
        let program = message.get("executable")?.as_str()?;
        is_test.then_some((target.get("name")?.as_str()?.to_owned(), PathBuf::from(program)))
    };
    messages.lines().filter_map(test).collect()
}

fn link_statically(command: &mut Command, arch: Arch) {
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", arch.triple_in_env());
    command.env(flags, "-C target-feature=+crt-static").env_remove("RUSTFLAGS");
}

fn cargo_build(package: &str, arch: Arch, profile: Profile) -> Result<Command> {
    output::step("build", &format!("{package} for {} ({})", arch.triple(), profile.name()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(paths::workspace()).args(["build", "--package", package]);
    command.args(["--target", arch.triple(), "--profile", profile.name()]);
    if let Some(tools) = Toolchain::ensure(arch)? {
        command.envs(toolchain::ensure_std(arch)?);
        command.envs(tools.env());
    }
    Ok(command)
}

fn artifact(package: &str, arch: Arch, profile: Profile) -> Result<PathBuf> {
    let path = paths::target()?.join(arch.triple()).join(profile.folder()).join(package);
    if !path.is_file() {
        bail!("cargo reported success but {} is not there", path.display());
    }
    Ok(path)
}

/// Whether a 64-bit little-endian ELF file has a `PT_INTERP` header, that is, needs a dynamic loader.
fn has_interpreter(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, len: usize| -> Result<u64> {
        let bytes = elf.get(at..at + len).context("the ELF file ends early")?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(table + index * size)?;
        if number(at, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_programs_and_libraries() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"b"},"executable":"/t/b"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"c"},"executable":"/t/deps/c-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(parse_tests(messages), [("c".to_owned(), PathBuf::from("/t/deps/c-1"))]);
    }

    #[test]
    fn a_dynamic_program_is_told_from_one_without_a_loader() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(has_interpreter(&own).unwrap());
        let mut none = own.clone();
        none[56..58].copy_from_slice(&[0, 0]);
        assert!(!has_interpreter(&none).unwrap());
        assert!(has_interpreter(&own[..70]).is_err());
        assert!(has_interpreter(b"\0asm").is_err());
    }
}
