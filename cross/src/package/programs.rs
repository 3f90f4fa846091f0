//! The shipped programs, built so that the same source gives the same bytes wherever it is built: own target folder, paths
//! remapped, dependencies locked. Each is then held to how it must be linked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::plan::{Program, engine_place};
use crate::arch::Arch;
use crate::engine::{self, Engine, Folder, Profile};
use crate::toolchain::{self, Toolchain};
use crate::{layout, output, paths, process};

/// The newest glibc whose symbols controller and command line may ask for: Ubuntu 22.04's.
const GLIBC: (u32, u32) = (2, 35);
/// What they may be linked to.
const SYSTEM: [&str; 5] =
    ["ld-linux-aarch64.so.1", "ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6"];

/// Where and for what is built.
pub(super) struct Site<'a> {
    pub(super) engine: &'a Engine,
    pub(super) target: PathBuf,
    /// Seconds: of the commit.
    pub(super) epoch: u64,
    /// From the compiler itself, not from a shared cache.
    pub(super) anew: bool,
    /// As tests build them.
    pub(super) light: bool,
}

impl Site<'_> {
    /// Builds a program and gives its place.
    pub(super) fn build(&self, program: Program) -> Result<PathBuf> {
        if self.light {
            return self.build_light(program);
        }
        let arch = self.engine.arch;
        let profile = profile(program);
        output::step("build", &format!("{} for {} ({})", program.name(), arch.triple(), profile.name()));
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(paths::workspace()).args(["rustc", "--locked", "--package", program.name()]);
        command.args(["--bin", program.name(), "--target", arch.triple(), "--profile", profile.name()]);
        command.arg("--target-dir").arg(&self.target).arg("--").args(link_args(program, arch));
        command.env("CARGO_INCREMENTAL", "0").env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        if self.anew {
            command.env("RUSTC_WRAPPER", "").env("CARGO_BUILD_RUSTC_WRAPPER", "");
        }
        if let Some(tools) = Toolchain::ensure(arch)? {
            command.envs(toolchain::ensure_std(arch)?);
            command.envs(tools.env());
        }
        if program == Program::Runner {
            command.envs(self.engine.build_env());
        }
        let remaps = self.remaps()?;
        let flags: Vec<String> =
            remaps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let flags: Vec<String> =
            remaps.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();
        command.env(format!("CFLAGS_{}", arch.triple().replace('-', "_")), flags.join(" "));
        process::run(&mut command).with_context(|| format!("build {}", program.name()))?;
        let binary = self.target.join(arch.triple()).join(profile.folder()).join(program.name());
        check(program, arch, &binary)?;
        Ok(binary)
    }

    /// In the folders of the tests' builds, so that what was built for those is not built again.
    fn build_light(&self, program: Program) -> Result<PathBuf> {
        let arch = self.engine.arch;
        let built = match program {
            Program::Guard => engine::build_static(program.name(), arch, Profile::Dev, &[])?,
            Program::Runner => engine::build_runner(self.engine, Profile::Dev)?,
            Program::Agent | Program::Controller | Program::Cli => {
                engine::build_linked(program.name(), arch, Profile::Dev, &link_args(program, arch))?
            }
        };
        check(program, arch, &built)?;
        let dir = self.target.join("light").join(arch.triple());
        layout::create(&dir)?;
        let binary = dir.join(program.name());
        let strip = Toolchain::ensure(arch)?.map_or_else(|| "strip".into(), |tools| tools.program("strip"));
        process::run(Command::new(strip).arg("-o").arg(&binary).arg(&built))
            .context("is binutils installed?")?;
        Ok(binary)
    }

    /// Folders of this machine and what stands for them in programs.
    fn remaps(&self) -> Result<Vec<(String, &'static str)>> {
        let home = match std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
            Some(home) => PathBuf::from(home),
            None => PathBuf::from(std::env::var_os("HOME").context("find cargo's folder: HOME is not set")?)
                .join(".cargo"),
        };
        let text = |path: &Path| -> Result<String> {
            let text = path.to_str().context("a path that is not UTF-8")?;
            if text.contains([' ', '=']) {
                bail!("{text}: a blank or = in this path cannot be told to every compiler; build elsewhere");
            }
            Ok(text.to_owned())
        };
        // The last one that fits counts: the target folder may be inside the work tree.
        Ok(vec![
            (text(&paths::workspace())?, "/shoal"),
            (text(&home)?, "/cargo"),
            (text(&self.target)?, "/target"),
            (text(&self.engine.dir)?, "/engine"),
        ])
    }
}

fn profile(program: Program) -> Profile {
    match program {
        Program::Agent | Program::Guard | Program::Runner => Profile::Device,
        Program::Controller | Program::Cli => Profile::Release,
    }
}

/// The agent names the packaged loader and libraries itself; guard needs none; the runner is started by a loader.
fn link_args(program: Program, arch: Arch) -> Vec<String> {
    match program {
        Program::Agent => vec![
            "-C".to_owned(),
            format!("link-arg=-Wl,--dynamic-linker=/{}/{}", engine_place(Folder::Run), arch.loader()),
            "-C".to_owned(),
            "link-arg=-Wl,-rpath,$ORIGIN/engine/run/lib".to_owned(),
        ],
        Program::Guard => vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()],
        Program::Runner | Program::Controller | Program::Cli => Vec::new(),
    }
}

/// Whether a program is linked as its package needs it.
fn check(program: Program, arch: Arch, binary: &Path) -> Result<()> {
    let headers = readelf(binary, &["-l", "-d", "-V"])?;
    let interpreter = interpreter(&headers);
    let wanted = match program {
        Program::Agent => Some(format!("/{}/{}", engine_place(Folder::Run), arch.loader())),
        Program::Guard => None,
        // Not used: it is started by a loader.
        Program::Runner => return Ok(()),
        Program::Controller | Program::Cli => {
            interpreter.clone().filter(|found| found.ends_with(arch.loader()))
        }
    };
    if interpreter != wanted {
        bail!("{} asks for the loader {interpreter:?}, expected {wanted:?}", binary.display());
    }
    let others: Vec<String> = engine::dynamic(&headers, "NEEDED")
        .into_iter()
        .filter(|name| !SYSTEM.contains(&name.as_str()))
        .collect();
    if !others.is_empty() {
        bail!("{} is linked to {}, which no system is sure to have", binary.display(), others.join(", "));
    }
    let found = glibc(&headers);
    if matches!(program, Program::Controller | Program::Cli) && found > GLIBC {
        bail!(
            "{} needs glibc {}.{}, and Ubuntu 22.04 has {}.{}: build it on Debian 12",
            binary.display(),
            found.0,
            found.1,
            GLIBC.0,
            GLIBC.1
        );
    }
    Ok(())
}

/// The newest glibc version that one of these programs asks for, for the field `Depends`.
pub(super) fn newest_glibc(binaries: &[PathBuf]) -> Result<String> {
    let mut newest = (2, 17);
    for binary in binaries {
        newest = newest.max(glibc(&readelf(binary, &["-V"])?));
    }
    Ok(format!("{}.{}", newest.0, newest.1))
}

fn readelf(binary: &Path, args: &[&str]) -> Result<String> {
    process::capture(Command::new("readelf").arg("-W").args(args).arg(binary))
        .context("is binutils installed?")
}

fn interpreter(headers: &str) -> Option<String> {
    let (_, rest) = headers.split_once("[Requesting program interpreter: ")?;
    rest.split_once(']').map(|(path, _)| path.to_owned())
}

/// The newest `GLIBC_x.y` that is asked for.
fn glibc(versions: &str) -> (u32, u32) {
    let parse = |text: &str| {
        let text = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    };
    versions.split("GLIBC_").skip(1).filter_map(parse).max().unwrap_or((0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found_by_number_not_by_letter() {
        let text = "0x0010: Name: GLIBC_2.4  Flags: none\n  Name: GLIBC_2.34 x GLIBC_2.17\n GLIBC_2.2.5 GLIBC_PRIVATE\n";
        assert_eq!(glibc(text), (2, 34));
        assert_eq!(glibc("Name: GCC_3.0"), (0, 0));
    }

    #[test]
    fn the_loader_is_read_from_the_program_headers() {
        let own = readelf(&std::env::current_exe().unwrap(), &["-l"]).unwrap();
        assert!(interpreter(&own).unwrap().contains("ld-linux"));
        assert_eq!(interpreter("There are no program headers"), None);
    }

    #[test]
    fn only_the_agent_names_the_packaged_loader() {
        let args = link_args(Program::Agent, Arch::Aarch64).join(" ");
        assert!(args.contains("/usr/lib/shoal/engine/run/lib/ld-linux-aarch64.so.1"), "{args}");
        assert!(link_args(Program::Cli, Arch::Aarch64).is_empty());
    }
}
