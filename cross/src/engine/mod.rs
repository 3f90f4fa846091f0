//! WasmEdge in a private prefix, one per architecture, and what it takes to build and start `shoal-runner` with it.
//!
//! `DIR/include/wasmedge` and `DIR/lib` (only `libwasmedge.so*`) are for building; `DIR/compile/lib` is the run-time
//! folder with its own loader and LLVM; `DIR/run/lib` is the one for containers, without it. Nothing on the host is changed.

mod build;
mod command;
mod prove;
mod shim;
mod source;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub(crate) use build::{Profile, build_linked, build_runner, build_static, build_static_tests};
pub(crate) use command::{Args, main};
pub(crate) use shim::dynamic;
pub(crate) use source::pins;

use crate::apt::Unavailable;
use crate::arch::Arch;
use crate::toolchain::Toolchain;
use crate::{fetch, layout, output, paths};

/// Raised when the layout of a prefix changes, so that older ones are made anew.
const LAYOUT: &str = "engine layout 3";

/// Where an engine came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// `WASMEDGE_DIR`: the user's own installation.
    Given(PathBuf),
    /// Debian's packages, pinned.
    Debian,
    /// The crate's `bundled` feature: upstream's static release, downloaded by cargo's build.
    Bundled,
}

/// An engine that is there, ready for building and running `shoal-runner`.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// Its architecture.
    pub arch: Arch,
    /// The private prefix.
    pub dir: PathBuf,
    /// Where it came from.
    pub source: Source,
    /// The folder with `libclang.so`; `None` where the host's own is used.
    clang: Option<PathBuf>,
    /// The compiler for it, where that is not this machine's own.
    tools: Option<Toolchain>,
}

/// Which of the two run-time folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// For containers: without LLVM, unless it is inside the engine's own library.
    Run,
    /// For `shoal-runner compile`, with LLVM.
    Compile,
}

impl Engine {
    /// A run-time folder: its `lib` holds the loader and everything that it loads.
    pub(crate) fn folder(&self, folder: Folder) -> PathBuf {
        self.dir.join(match folder {
            Folder::Run => "run",
            Folder::Compile => "compile",
        })
    }

    /// The folder's own dynamic loader.
    pub(crate) fn loader(&self, folder: Folder) -> PathBuf {
        self.folder(folder).join("lib").join(self.arch.loader())
    }

    /// How cargo starts what it built against this engine: by the engine's own loader, under an emulator where it takes one.
    fn test_runner(&self, emulator: Option<&Path>) -> (String, OsString) {
        let mut runner = OsString::new();
        if let Some(emulator) = emulator {
            runner.push(emulator);
            runner.push(" ");
        }
        runner.push(self.loader(Folder::Compile));
        runner.push(" --library-path ");
        runner.push(self.folder(Folder::Compile).join("lib"));
        (format!("CARGO_TARGET_{}_RUNNER", self.arch.triple_in_env()), runner)
    }

    /// What cargo and the build scripts need in their environment to build and test `shoal-runner`.
    pub(crate) fn build_env(&self) -> Vec<(String, OsString)> {
        let mut env = Vec::new();
        if self.source != Source::Bundled {
            env.push(("WASMEDGE_INCLUDE_DIR".to_owned(), self.dir.join("include").into_os_string()));
            env.push(("WASMEDGE_LIB_DIR".to_owned(), self.dir.join("lib").into_os_string()));
        }
        if let Some(clang) = &self.clang {
            env.push(("LIBCLANG_PATH".to_owned(), clang.clone().into_os_string()));
            env.push(("LD_LIBRARY_PATH".to_owned(), clang.clone().into_os_string()));
            // Debian's libclang looks for its own headers (stdbool.h …) only where its package would have put them.
            let mut resources = OsString::from("-resource-dir=");
            resources.push(clang.join("clang").join(source::CLANG_VERSION));
            if let Some(tools) = &self.tools {
                resources.push(" ");
                resources.push(tools.clang_args());
            }
            env.push(("BINDGEN_EXTRA_CLANG_ARGS".to_owned(), resources));
        }
        env.extend(self.tools.iter().flat_map(Toolchain::env));
        env.push(self.test_runner(None));
        env.push(("SHOAL_ENGINE_COMPILE".to_owned(), self.folder(Folder::Compile).into_os_string()));
        env.push(("SHOAL_ENGINE_RUN".to_owned(), self.folder(Folder::Run).into_os_string()));
        env
    }
}

/// Makes sure that an engine for `arch` is there: `WASMEDGE_DIR`, else Debian's pinned packages, else `bundled`.
pub(crate) fn ensure(arch: Arch) -> Result<Engine> {
    let dir = paths::engines()?.join(arch.name());
    let tools = Toolchain::ensure(arch)?;
    if let Some(given) = std::env::var_os("WASMEDGE_DIR").filter(|value| !value.is_empty()) {
        let given = std::path::absolute(&given).context("make WASMEDGE_DIR absolute")?;
        source::install_given(&given, arch, &dir).with_context(|| {
            format!("use WASMEDGE_DIR={}; unset it to get the engine otherwise", given.display())
        })?;
        return Ok(Engine { arch, dir, source: Source::Given(given), clang: libclang(), tools });
    }
    match source::install_debian(arch, &dir) {
        Ok(()) => Ok(Engine { arch, dir, source: Source::Debian, clang: libclang(), tools }),
        Err(error) if error.is::<Unavailable>() => {
            output::warn(&format!("{error:#}"));
            output::warn(
                "falling back to the release that the wasmedge-sys crate downloads while it is built",
            );
            source::prepare_bundled(&dir)?;
            Ok(Engine { arch, dir, source: Source::Bundled, clang: libclang(), tools })
        }
        Err(error) => Err(error),
    }
}

/// The folder of bindgen's libclang, or `None` (said aloud) where only the host's can serve.
fn libclang() -> Option<PathBuf> {
    match source::install_libclang() {
        Ok(dir) => Some(dir),
        Err(error) => {
            output::warn(&format!(
                "no private libclang ({error:#}); the build looks for the host's (libclang-dev)"
            ));
            None
        }
    }
}

/// Fills a run-time folder from the host's own libraries: what `ldd` finds for `program`, and the loader.
fn closure(program: &Path, search: &Path, arch: Arch, into: &Path) -> Result<()> {
    let text = crate::process::capture(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", search))?;
    let (found, lost) = layout::parse_ldd(&text);
    if !lost.is_empty() {
        bail!("{} needs libraries that are not on this host: {}", program.display(), lost.join(", "));
    }
    layout::create(into)?;
    for path in found {
        let name = path.file_name().context("a library without a name")?;
        std::fs::copy(&path, into.join(name)).with_context(|| format!("copy {}", path.display()))?;
    }
    let loader = into.join(arch.loader());
    if !loader.is_file() {
        bail!("ldd named no loader {} for {}", arch.loader(), program.display());
    }
    Ok(())
}

/// A stamp for an engine's prefix.
fn stamp(parts: &[&str]) -> String {
    fetch::stamp_of(&[&[LAYOUT], parts].concat())
}
