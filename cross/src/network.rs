//! What tests of pods' networks start: CNI's plugins, iptables and ip, from pinned packages in a private folder. The host's
//! own, if it has any, stay as they are.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::pins::Pins;
use crate::{fetch, layout, output, paths};

/// Raised when the layout of the folder changes.
const LAYOUT: &str = "network tools layout 1";

/// A program, the binary that is it, and the word by which that knows what to be.
const PROGRAMS: [(&str, &str, &str); 6] = [
    ("iptables", "xtables-nft-multi", "iptables"),
    ("iptables-save", "xtables-nft-multi", "iptables-save"),
    ("iptables-restore", "xtables-nft-multi", "iptables-restore"),
    ("ip6tables", "xtables-nft-multi", "ip6tables"),
    ("ip6tables-save", "xtables-nft-multi", "ip6tables-save"),
    ("ip", "ip", ""),
];

/// The tools, ready.
pub(crate) struct Tools {
    dir: PathBuf,
}

impl Tools {
    /// Fetches them where they are missing; none for architectures that they are not pinned for.
    pub(crate) fn ensure() -> Result<Option<Self>> {
        let arch = Arch::host()?;
        if arch != Arch::X86_64 {
            output::warn(
                "CNI's plugins for tests are pinned for x86_64 only: install containernetworking-plugins",
            );
            return Ok(None);
        }
        let pins = Pins::parse("pins/network-amd64.toml", include_str!("../pins/network-amd64.toml"))?;
        let dir = paths::target()?.join("tools/network");
        let recipe = format!("{LAYOUT} {}", dir.display());
        fetch::install(&pins, &recipe, &dir, |unpacked, new| lay_out(unpacked, new, &dir, arch))?;
        Ok(Some(Self { dir }))
    }

    /// Where the plugins are.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.dir.join("plugins")
    }

    /// The environment in which tests find all of it.
    pub(crate) fn env(&self) -> Result<[(&'static str, OsString); 2]> {
        let before = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(self.dir.join("bin")).chain(std::env::split_paths(&before));
        let path = std::env::join_paths(all).context("the target folder's path holds a colon")?;
        Ok([("PATH", path), ("CNI_PATH", self.plugins().into())])
    }
}

fn lay_out(unpacked: &Path, new: &Path, dir: &Path, arch: Arch) -> Result<()> {
    let libraries = unpacked.join("usr/lib").join(arch.multiarch());
    layout::take(&unpacked.join("usr/lib/cni"), &new.join("plugins"))?;
    layout::take(&libraries.join("xtables"), &new.join("xtables"))?;
    layout::gather_libraries(unpacked, arch, &new.join("lib"))?;
    let folders = ["usr/sbin", "sbin", "bin", "usr/bin"];
    for (name, binary, word) in PROGRAMS {
        let real = new.join("real").join(binary);
        if !real.exists() {
            let found = folders.iter().map(|f| unpacked.join(f).join(binary)).find(|p| p.is_file());
            layout::take(&found.with_context(|| format!("no {binary} in the packages"))?, &real)?;
        }
        let home = dir.display();
        let text = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH='{home}/lib' XTABLES_LIBDIR='{home}/xtables' exec '{home}/real/{binary}' {word} \"$@\"\n"
        );
        let script = new.join("bin").join(name);
        layout::create(&new.join("bin"))?;
        fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} a program", script.display()))?;
    }
    Ok(())
}
