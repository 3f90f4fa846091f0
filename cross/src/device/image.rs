//! The disk of a virtual device: a small Debian with systemd, put together from pinned packages on an ext4 image. No root is
//! needed, nothing of it is run here, and no package's own script runs on the first boot: what those would leave behind is
//! written as they would. What Shoal's packages do on it is then a real installation.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::pins::{Package, Pins};
use crate::vm::cpio;
use crate::vm::machine::{MODULES, Machine};
use crate::{fetch, layout, output, paths, process};

/// Raised when what is made of the same packages changes.
const LAYOUT: &str = "device image 2";
/// The file system's size, MiB; the file is sparse.
const SIZE: &str = "1200M";

const INIT: &str = include_str!("files/init.sh");
const SHELL: &str = include_str!("files/shell.sh");
/// Where busybox is the first process.
const INITTAB: &str = include_str!("files/inittab");
const NET: &str = include_str!("files/net.sh");
const RC: &str = include_str!("files/rc.sh");
const UNITS: [(&str, &str); 2] = [
    ("lab-net.service", include_str!("files/lab-net.service")),
    ("lab-shell.service", include_str!("files/lab-shell.service")),
];

/// What costs time at boot and nobody here needs.
const MASKED: [&str; 19] = [
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "getty.target",
    "ldconfig.service",
    "modprobe@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service",
    "systemd-networkd.service",
    "systemd-pcrmachine.service",
    "systemd-pstore.service",
    "systemd-tpm2-setup.service",
    "systemd-udev-load-credentials.service",
    "systemd-update-done.service",
];

/// Commands that busybox stands in for.
const BUSYBOX: [&str; 28] = [
    "awk",
    "blockdev",
    "dmesg",
    "find",
    "free",
    "fuser",
    "hostname",
    "ifconfig",
    "insmod",
    "ip",
    "less",
    "losetup",
    "lsof",
    "mountpoint",
    "nc",
    "pidof",
    "poweroff",
    "ps",
    "route",
    "start-stop-daemon",
    "sysctl",
    "top",
    "usleep",
    "vi",
    "watch",
    "wget",
    "which",
    "xargs",
];

/// Papers that nobody reads on it.
const DROPPED: [&str; 7] = ["doc", "man", "locale", "info", "lintian", "bug", "bash-completion"];

/// Which Debian a device has: its kernel is the newer one's in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Suite {
    /// Debian 13, systemd 257
    Trixie,
    /// Debian 12, systemd 252
    Bookworm,
}

impl Suite {
    /// Its pin file, for devices of this architecture.
    fn pins(self, arch: Arch) -> (&'static str, &'static str) {
        macro_rules! pins {
            ($name:literal) => {
                (concat!("pins/", $name), include_str!(concat!("../../pins/", $name)))
            };
        }
        match (self, arch) {
            (Self::Trixie, Arch::X86_64) => pins!("device-amd64.toml"),
            (Self::Trixie, Arch::Aarch64) => pins!("device-arm64.toml"),
            (Self::Bookworm, Arch::X86_64) => pins!("device-bookworm-amd64.toml"),
            (Self::Bookworm, Arch::Aarch64) => pins!("device-bookworm-arm64.toml"),
        }
    }

    /// As it is in the names of folders.
    pub(super) fn suffix(self) -> &'static str {
        if self == Self::Bookworm { "-bookworm" } else { "" }
    }
}

/// A disk image and the initramfs that starts it.
pub(crate) struct Image {
    dir: PathBuf,
}

impl Image {
    /// Makes them where they are missing or not what they should be.
    pub(super) fn ensure(arch: Arch, suite: Suite, machine: &Machine) -> Result<Self> {
        let (name, text) = suite.pins(arch);
        let pins = Pins::parse(name, text)?;
        if !process::is_installed("mke2fs") {
            bail!("`mke2fs` is not installed (package e2fsprogs): the virtual device's disk is made with it");
        }
        let dir = paths::target()?.join("tools").join(format!("device-{}{}", arch.name(), suite.suffix()));
        let mut recipe = format!(
            "{LAYOUT} {SIZE} {MASKED:?} {BUSYBOX:?} {DROPPED:?} {UNITS:?}{INIT}{SHELL}{INITTAB}{RC}{NET}"
        );
        recipe.extend(MODULES);
        fetch::install(&pins, &recipe, &dir, |unpacked, new| {
            initramfs(machine, &new.join("initramfs.cpio"))?;
            fill(unpacked, arch, &pins)?;
            file_system(unpacked, &new.join("root.raw"))
        })?;
        Ok(Self { dir })
    }

    /// The initramfs.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs.cpio")
    }

    /// A disk of its own, as new.
    pub(crate) fn copy_to(&self, disk: &Path) -> Result<()> {
        copy_sparse(&self.dir.join("root.raw"), disk)
    }
}

/// Copies a disk without writing what was never written.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("cp").args(["--sparse=always", "--"]).arg(from).arg(to))
        .with_context(|| format!("copy {}", from.display()))
}

fn initramfs(machine: &Machine, to: &Path) -> Result<()> {
    let out = fs::File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut archive = cpio::Archive::new(std::io::BufWriter::new(out));
    for folder in ["/dev", "/new"] {
        archive.folder(folder)?;
    }
    archive.text("/init", 0o755, INIT)?;
    archive.file(&machine.busybox(), "/bin/busybox", 0o755)?;
    archive.tree(&machine.modules(), "/modules")?;
    let names = MODULES.iter().filter_map(|module| module.rsplit('/').next());
    archive.text("/modules/order", 0o644, &names.flat_map(|name| [name, "\n"]).collect::<String>())?;
    archive.finish().map(drop)
}

/// Turns the unpacked packages into a system that boots.
fn fill(root: &Path, arch: Arch, pins: &Pins) -> Result<()> {
    for name in DROPPED {
        let path = root.join("usr/share").join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    merge_usr(root)?;
    let write = |path: &str, text: &str| -> Result<()> {
        let path = root.join(path);
        layout::create(path.parent().unwrap_or(root))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    let link = |target: &str, path: &str| -> Result<()> {
        let path = root.join(path);
        layout::create(path.parent().unwrap_or(root))?;
        let _ = fs::remove_file(&path);
        symlink(target, &path).with_context(|| format!("link {}", path.display()))
    };
    for (master, path) in [("passwd.master", "etc/passwd"), ("group.master", "etc/group")] {
        let from = root.join("usr/share/base-passwd").join(master);
        let text = fs::read_to_string(&from).with_context(|| format!("read {}", from.display()))?;
        write(path, &text)?;
    }
    write("etc/hostname", "device\n")?;
    write("etc/hosts", "127.0.0.1 localhost device\n")?;
    write("etc/machine-id", "5f0a1c52e3b54d7c8a9d0c3b7e6f1a24\n")?;
    write("etc/fstab", "/dev/vda / ext4 rw 0 0\n")?;
    link("dash", "usr/bin/sh")?;
    for name in BUSYBOX {
        let is_there = ["usr/bin", "usr/sbin"].iter().any(|dir| root.join(dir).join(name).exists());
        if !is_there {
            link("busybox", &format!("usr/bin/{name}"))?;
        }
    }
    let units = "etc/systemd/system";
    for name in MASKED {
        link("/dev/null", &format!("{units}/{name}"))?;
    }
    link("/usr/lib/systemd/system/multi-user.target", &format!("{units}/default.target"))?;
    for (name, text) in UNITS {
        write(&format!("{units}/{name}"), text)?;
        link(&format!("../{name}"), &format!("{units}/multi-user.target.wants/{name}"))?;
    }
    write("etc/inittab", INITTAB)?;
    write("usr/lib/lab/rc.sh", RC)?;
    write("usr/lib/lab/net.sh", NET)?;
    layout::create(&root.join("etc/init.d"))?;
    write("usr/lib/lab/shell.sh", SHELL)?;
    let shell = root.join("usr/lib/lab/shell.sh");
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).context("make the shell a program")?;
    // For a device without systemd: the name makes it the first process.
    link("/usr/bin/busybox", "usr/lib/lab/init")?;
    books(root, arch, pins)
}

/// Debian 12 has `/bin` and its like as links into `/usr`, and its packages do not know of that.
fn merge_usr(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (top, merged) = (root.join(name), root.join("usr").join(name));
        if !top.is_symlink() && top.is_dir() {
            layout::create(&merged)?;
            process::run(Command::new("cp").arg("-a").arg(top.join(".")).arg(&merged))?;
            fs::remove_dir_all(&top).with_context(|| format!("remove {}", top.display()))?;
            symlink(format!("usr/{name}"), &top).with_context(|| format!("link {}", top.display()))?;
        }
    }
    Ok(())
}

/// What dpkg would know had it installed the packages itself.
fn books(root: &Path, arch: Arch, pins: &Pins) -> Result<()> {
    let dir = root.join("var/lib/dpkg");
    for sub in ["info", "updates", "triggers", "parts", "alternatives"] {
        layout::create(&dir.join(sub))?;
    }
    let write = |name: &str, text: &str| {
        fs::write(dir.join(name), text).with_context(|| format!("write dpkg's {name}"))
    };
    let mut status = String::new();
    for (package, deb) in pins.packages.iter().zip(fetch::packages(pins)?) {
        let control = process::capture(Command::new("dpkg-deb").arg("-f").arg(&deb))?;
        status.push_str(&as_installed(&control)?);
        write(&format!("info/{}.list", list_name(package, &control, arch)), "/.\n")?;
    }
    write("status", &status)?;
    write("available", "")?;
    write("arch", &format!("{}\n", arch.debian()))
}

/// A package's control fields as an entry of dpkg's status file; without what it depends on, since not all of that is there.
fn as_installed(control: &str) -> Result<String> {
    let (first, rest) = control.trim_end().split_once('\n').context("a control file of one line")?;
    if !first.starts_with("Package: ") {
        bail!("a control file that begins with {first:?}");
    }
    let kept = rest.lines().filter(|line| !line.starts_with("Depends:") && !line.starts_with("Pre-Depends:"));
    let rest: String = kept.flat_map(|line| [line, "\n"]).collect();
    Ok(format!("{first}\nStatus: install ok installed\n{rest}\n"))
}

/// Libraries that may be there for several architectures are listed with theirs.
fn list_name(package: &Package, control: &str, arch: Arch) -> String {
    if control.lines().any(|line| line == "Multi-Arch: same") {
        return format!("{}:{}", package.name, arch.debian());
    }
    package.name.clone()
}

/// An ext4 image of this folder; everything on it belongs to root, whoever made it.
fn file_system(root: &Path, to: &Path) -> Result<()> {
    output::step("disk", &to.display().to_string());
    let mut command = if shoal_lab::is_root() {
        Command::new("mke2fs")
    } else {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "mke2fs"]);
        command
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    // Nothing is left to be written later: an idle device's disk is measured.
    command.args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]);
    process::run(command.arg(root).arg(to).arg(SIZE)).context("make the virtual device's disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_entered_as_installed() {
        let entry = as_installed("Package: a\nVersion: 1\nDepends: b\nDescription: x\n y\n").unwrap();
        assert_eq!(entry, "Package: a\nStatus: install ok installed\nVersion: 1\nDescription: x\n y\n\n");
        as_installed("Version: 1\nPackage: a\n").unwrap_err();
    }

    #[test]
    fn both_architectures_have_the_same_packages() {
        for suite in [Suite::Trixie, Suite::Bookworm] {
            let names = |arch| -> Vec<String> {
                let (name, text) = suite.pins(arch);
                Pins::parse(name, text).unwrap().packages.into_iter().map(|p| p.name).collect()
            };
            assert_eq!(names(Arch::X86_64), names(Arch::Aarch64));
        }
    }
}
