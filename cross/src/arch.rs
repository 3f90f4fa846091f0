//! The architectures of devices and the names that each tool has for them. Pure.

use clap::ValueEnum;

/// An architecture that Shoal is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub(crate) enum Arch {
    /// 64-bit x86.
    #[value(name = "x86_64", alias = "x86_64-unknown-linux-gnu")]
    X86_64,
    /// 64-bit Arm.
    #[value(name = "aarch64", alias = "aarch64-unknown-linux-gnu")]
    Aarch64,
}

impl Arch {
    /// The architecture of this machine, if Shoal knows it.
    pub(crate) fn host() -> anyhow::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => anyhow::bail!("this machine is {other}; Shoal is built on x86_64 and aarch64"),
        }
    }

    /// The kernel's and Rust's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's target triple.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The triple as cargo spells it in environment variables.
    pub(crate) fn triple_in_env(self) -> String {
        self.triple().to_uppercase().replace('-', "_")
    }

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Debian's multiarch folder.
    pub(crate) fn multiarch(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// The file name of the dynamic loader.
    pub(crate) fn loader(self) -> &'static str {
        match self {
            Self::X86_64 => "ld-linux-x86-64.so.2",
            Self::Aarch64 => "ld-linux-aarch64.so.1",
        }
    }
}
