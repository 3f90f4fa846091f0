//! Whether an engine that was put together can be loaded: a program of a few lines is linked to it and started with the
//! folder's own loader, under the emulator where it is for another machine.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Engine, Folder, shim};
use crate::{process, toolchain};

const PROGRAM: &str = "#include <stdio.h>\n#include <wasmedge/wasmedge.h>\n\
                       int main(void) { puts(WasmEdge_VersionGet()); return 0; }\n";

/// Loads everything of a run-time folder, all symbols bound at once, and gives the engine's own words.
pub(super) fn loads(engine: &Engine, folder: Folder) -> Result<String> {
    let dir = tempfile::tempdir().context("make a temporary folder")?;
    let (source, program) = (dir.path().join("version.c"), dir.path().join("version"));
    fs::write(&source, PROGRAM).with_context(|| format!("write {}", source.display()))?;
    let mut cc = Command::new(shim::Tools::of(engine.arch)?.cc);
    cc.arg("-I").arg(engine.dir.join("include")).arg("-o").arg(&program).arg(&source);
    cc.arg("-L").arg(engine.dir.join("lib")).args([
        "-lwasmedge",
        "-Wl,--allow-shlib-undefined",
        "-Wl,-z,now",
    ]);
    process::run(&mut cc).context("link a program to the engine")?;
    let loader = engine.loader(folder);
    let mut command = match toolchain::emulator(engine.arch)? {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.arg(&loader);
            command
        }
        None => Command::new(&loader),
    };
    command.arg("--library-path").arg(engine.folder(folder).join("lib")).arg(&program);
    let said = process::capture(command.env("LD_BIND_NOW", "1"))
        .with_context(|| format!("load the engine from {}", engine.folder(folder).display()))?;
    let version = said.trim();
    if version.is_empty() {
        bail!("the engine in {} gave no version", engine.folder(folder).display());
    }
    Ok(format!("{version} from {}", engine.folder(folder).display()))
}
