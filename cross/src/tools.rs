//! The tools that tests need beside Rust: Debian's registry and image programs, agents and tokens that hold keys, and cargo-deny in a pinned version (for
//! networks see `network`).
//! Installs only what is missing; without root it only says what to install.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{fetch, network, output, paths, process};

/// The version of cargo-deny that reads this project's deny.toml.
const CARGO_DENY: &str = "0.20.2";

/// A tool that tests start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// A real OCI registry.
    DockerRegistry,
    /// Copies images between forms and registries.
    Skopeo,
    /// Builds images.
    Buildah,
    /// An agent that holds keys and signs with them.
    SshAgent,
    /// A token in software: PKCS#11, for the agent.
    SoftHsm,
    /// Checks licences, bans and sources of dependencies.
    CargoDeny,
}

impl Tool {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::DockerRegistry, Self::Skopeo, Self::Buildah, Self::SshAgent, Self::SoftHsm, Self::CargoDeny];

    /// Name of the program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DockerRegistry => "docker-registry",
            Self::Skopeo => "skopeo",
            Self::Buildah => "buildah",
            Self::SshAgent => "ssh-agent",
            Self::SoftHsm => "softhsm2-util",
            Self::CargoDeny => "cargo-deny",
        }
    }

    /// Name of Debian's package that has it.
    fn package(self) -> &'static str {
        match self {
            Self::SshAgent => "openssh-client",
            Self::SoftHsm => "softhsm2",
            other => other.name(),
        }
    }

    /// The program, once [`ensure`] has been asked for it.
    pub(crate) fn program(self) -> Result<PathBuf> {
        match self {
            Self::CargoDeny => Ok(cargo_deny_home()?.join("bin/cargo-deny")),
            _ => Ok(PathBuf::from(self.name())),
        }
    }
}

/// Installs the tools that tests need and that are missing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn main(_: &Args) -> Result<()> {
    ensure(&Tool::ALL)?;
    for tool in Tool::ALL {
        output::step("tool", &tool.program()?.display().to_string());
    }
    if let Some(network) = network::Tools::ensure()? {
        output::step("tool", &network.plugins().display().to_string());
    }
    Ok(())
}

/// Makes sure that these tools can be started.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<Tool> = missing_packages(tools, process::is_installed);
    if !missing.is_empty() {
        install_packages(&missing)?;
    }
    if tools.contains(&Tool::CargoDeny) {
        install_cargo_deny()?;
    }
    Ok(())
}

fn missing_packages(tools: &[Tool], is_installed: impl Fn(&str) -> bool) -> Vec<Tool> {
    let is_package = |tool: &Tool| *tool != Tool::CargoDeny;
    tools.iter().copied().filter(is_package).filter(|tool| !is_installed(tool.name())).collect()
}

fn install_packages(missing: &[Tool]) -> Result<()> {
    let names: Vec<&str> = missing.iter().map(|tool| tool.package()).collect();
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", names.join(" "));
    if !is_root()? {
        bail!("the tests need programs that are not installed; as root, run: {by_hand}");
    }
    if !process::is_installed("apt-get") {
        bail!("the tests need {}, and this host has no apt-get to install them with", names.join(", "));
    }
    output::step("install", &format!("{} (Debian packages)", names.join(", ")));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        process::capture(&mut command).map(drop)
    };
    apt(&["update", "-q"])
        .and_then(|()| apt(&[&["install", "-y", "-q", "--no-install-recommends"], names.as_slice()].concat()))
        .with_context(|| format!("install what the tests need; by hand it is: {by_hand}"))?;
    // The package starts a registry on port 5000; tests start their own, on ports of their own.
    if missing.contains(&Tool::DockerRegistry) && Path::new("/run/systemd/system").is_dir() {
        process::capture(Command::new("systemctl").args(["disable", "--now", "docker-registry.service"]))
            .context("stop the registry that the package has just started")?;
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("look at /proc/self")?.uid() == 0)
}

fn cargo_deny_home() -> Result<PathBuf> {
    Ok(paths::cache()?.join("tools").join(format!("cargo-deny-{CARGO_DENY}-{}", std::env::consts::ARCH)))
}

fn install_cargo_deny() -> Result<()> {
    let home = cargo_deny_home()?;
    fetch::replace(&home, &fetch::stamp_of(&["cargo-deny", CARGO_DENY]), |new| {
        output::step("install", &format!("cargo-deny {CARGO_DENY} from its source (some minutes, once)"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = new.join("build");
        let mut command = Command::new(cargo);
        command
            .args(["install", "--quiet", "--locked", "cargo-deny", "--version", CARGO_DENY, "--root"])
            .arg(new);
        command.env("CARGO_TARGET_DIR", &build).env_remove("RUSTFLAGS").current_dir(new);
        process::run(&mut command).context("install cargo-deny (is the network up?)")?;
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_packages_are_asked_of_apt() {
        let missing = missing_packages(&Tool::ALL, |name| name == "skopeo");
        assert_eq!(missing, [Tool::DockerRegistry, Tool::Buildah, Tool::SshAgent, Tool::SoftHsm]);
        assert_eq!(Tool::SshAgent.package(), "openssh-client");
        assert_eq!(missing_packages(&[Tool::CargoDeny], |_| false), []);
    }
}
