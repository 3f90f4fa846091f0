//! Packages in a foreign user land: a root file system (of debootstrap, say) in which they are installed, run and purged, in
//! mount and process namespaces of their own. Needs root; leaves the folder as it was but for dpkg's own books.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{layout, output, paths, process};

/// Enters the root file system as the root of a mount namespace, and runs the script there.
const ENTER: &str = r#"set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mkdir -p tmp/shoal-trial/old
pivot_root . tmp/shoal-trial/old
umount -l /tmp/shoal-trial/old
exec sh /tmp/shoal-trial/trial.sh "$2""#;

/// Installs the packages of a device from `dist` in `root` by install.sh, runs a container from them, and removes them again. With
/// the others there too: a controller, an operator who logs in, and the demo.
pub(super) fn run(dist: &Path, root: &Path) -> Result<()> {
    let root = fs::canonicalize(root).with_context(|| format!("find {}", root.display()))?;
    if !root.join("usr/bin/dpkg").is_file() {
        bail!(
            "{} is no root file system with dpkg in it (debootstrap --variant=minbase makes one)",
            root.display()
        );
    }
    let here = root.join("tmp/shoal-trial");
    if here.exists() {
        fs::remove_dir_all(&here).with_context(|| format!("remove {}", here.display()))?;
    }
    layout::create(&here)?;
    let copy = |from: &Path| -> Result<()> {
        let name = from.file_name().context("a file without a name")?;
        fs::copy(from, here.join(name)).with_context(|| format!("copy {}", from.display())).map(drop)
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dist).with_context(|| format!("read {}", dist.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_package = [".deb", ".tar.gz"].iter().any(|end| name.ends_with(end));
        if is_package || name == "SHA256SUMS" || name == super::INSTALLER {
            copy(&entry.path())?;
            found.push(name);
        }
    }
    for wanted in ["shoal-agent_", "shoal-agent-", "shoal-compiler_", "shoal-compiler-"] {
        if found.iter().filter(|name| name.starts_with(wanted)).count() != 1 {
            bail!("not exactly one {wanted}* in {}", dist.display());
        }
    }
    copy(&paths::workspace().join("deploy/apps/prebuilt/sensor.wasm"))?;
    fs::write(here.join("trial.sh"), include_str!("trial.sh")).context("write the trial's script")?;
    output::step("trial", &format!("the packages in {}", root.display()));
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
        "sh",
        "-c",
        ENTER,
        "sh",
    ]);
    unshare.arg(&root).arg(std::process::id().to_string());
    process::run(&mut unshare).with_context(|| format!("try the packages in {}", root.display()))?;
    fs::remove_dir_all(&here).with_context(|| format!("remove {}", here.display()))
}
