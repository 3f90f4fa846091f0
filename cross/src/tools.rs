//! The tools that tests need beside Rust: Debian's registry, proxy, broker and image programs, agents and tokens that hold keys, a C++ compiler (for
//! the fuzzing engine), and tools of cargo's in pinned versions (for networks see `network`).
//! Installs only what is missing; without root it only says what to install.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{fetch, network, output, paths, process};

/// The version of cargo-deny that reads this project's deny.toml.
const CARGO_DENY: &str = "0.20.2";
/// The version of cargo-mutants whose words cross/mutants.toml repeats.
const CARGO_MUTANTS: &str = "27.1.0";

/// What the packages of these tools start by themselves.
const SERVICES: [(Tool, &str); 3] = [
    (Tool::DockerRegistry, "docker-registry.service"),
    (Tool::Tinyproxy, "tinyproxy.service"),
    (Tool::Mosquitto, "mosquitto.service"),
];

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
    /// A TPM in software.
    Swtpm,
    /// Commands that speak to a TPM.
    Tpm2Tools,
    /// Keys and signatures as hardware makes them.
    OpenSsl,
    /// Compiles the fuzzing engine.
    CPlusPlus,
    /// An HTTP proxy.
    Tinyproxy,
    /// An MQTT broker.
    Mosquitto,
    /// Reads shell scripts for mistakes.
    ShellCheck,
    /// Checks licences, bans and sources of dependencies.
    CargoDeny,
    /// Breaks code in small ways, to see which tests notice.
    CargoMutants,
}

impl Tool {
    /// All that tests need.
    pub(crate) const ALL: [Self; 13] = [
        Self::DockerRegistry,
        Self::Skopeo,
        Self::Buildah,
        Self::SshAgent,
        Self::SoftHsm,
        Self::Swtpm,
        Self::Tpm2Tools,
        Self::OpenSsl,
        Self::CPlusPlus,
        Self::Tinyproxy,
        Self::Mosquitto,
        Self::ShellCheck,
        Self::CargoDeny,
    ];

    /// Name of the program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DockerRegistry => "docker-registry",
            Self::Skopeo => "skopeo",
            Self::Buildah => "buildah",
            Self::SshAgent => "ssh-agent",
            Self::SoftHsm => "softhsm2-util",
            Self::Swtpm => "swtpm",
            Self::Tpm2Tools => "tpm2_sign",
            Self::OpenSsl => "openssl",
            Self::CPlusPlus => "g++",
            Self::Tinyproxy => "tinyproxy",
            Self::Mosquitto => "mosquitto",
            Self::ShellCheck => "shellcheck",
            Self::CargoDeny => "cargo-deny",
            Self::CargoMutants => "cargo-mutants",
        }
    }

    /// Name of Debian's package that has it.
    fn package(self) -> &'static str {
        match self {
            Self::SshAgent => "openssh-client",
            Self::SoftHsm => "softhsm2",
            Self::Tpm2Tools => "tpm2-tools",
            other => other.name(),
        }
    }

    /// Its version, where it is one of cargo's and built from source.
    fn pinned(self) -> Option<&'static str> {
        match self {
            Self::CargoDeny => Some(CARGO_DENY),
            Self::CargoMutants => Some(CARGO_MUTANTS),
            _ => None,
        }
    }

    fn home(self, version: &str) -> Result<PathBuf> {
        let name = format!("{}-{version}-{}", self.name(), std::env::consts::ARCH);
        Ok(paths::cache()?.join("tools").join(name))
    }

    /// The program, once [`ensure`] has been asked for it.
    pub(crate) fn program(self) -> Result<PathBuf> {
        Ok(match self.pinned() {
            Some(version) => self.home(version)?.join("bin").join(self.name()),
            None => PathBuf::from(self.name()),
        })
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
    tools.iter().try_for_each(|tool| tool.pinned().map_or(Ok(()), |version| install_pinned(*tool, version)))
}

fn missing_packages(tools: &[Tool], is_installed: impl Fn(&str) -> bool) -> Vec<Tool> {
    let is_package = |tool: &Tool| tool.pinned().is_none();
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
    // These packages start a service on a well-known port; tests start their own, on ports of their own.
    for (tool, unit) in SERVICES {
        if missing.contains(&tool) && Path::new("/run/systemd/system").is_dir() {
            process::capture(Command::new("systemctl").args(["disable", "--now", unit]))
                .with_context(|| format!("stop {unit}, which its package has just started"))?;
        }
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("look at /proc/self")?.uid() == 0)
}

fn install_pinned(tool: Tool, version: &str) -> Result<()> {
    let (home, name) = (tool.home(version)?, tool.name());
    fetch::replace(&home, &fetch::stamp_of(&[name, version]), |new| {
        output::step("install", &format!("{name} {version} from its source (some minutes, once)"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let build = new.join("build");
        let mut command = Command::new(cargo);
        command.args(["install", "--quiet", "--locked", name, "--version", version, "--root"]).arg(new);
        command.env("CARGO_TARGET_DIR", &build).env_remove("RUSTFLAGS").current_dir(new);
        process::run(&mut command).with_context(|| format!("install {name} (is the network up?)"))?;
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_packages_are_asked_of_apt() {
        let missing = missing_packages(&Tool::ALL, |name| name == "skopeo");
        let wanted = [
            Tool::DockerRegistry,
            Tool::Buildah,
            Tool::SshAgent,
            Tool::SoftHsm,
            Tool::Swtpm,
            Tool::Tpm2Tools,
            Tool::OpenSsl,
            Tool::CPlusPlus,
            Tool::Tinyproxy,
            Tool::Mosquitto,
            Tool::ShellCheck,
        ];
        assert_eq!(missing, wanted);
        assert_eq!(Tool::SshAgent.package(), "openssh-client");
        assert_eq!(missing_packages(&[Tool::CargoDeny], |_| false), []);
    }
}
