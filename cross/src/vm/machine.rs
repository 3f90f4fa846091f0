//! What a virtual device is made of, one entry an architecture: QEMU and kernel from pinned packages in a private folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::pins::Pins;
use crate::{fetch, layout, paths};

/// Raised when the layout of the folder changes.
const LAYOUT: &str = "vm layout 2";
/// What the device needs of the kernel beyond what is built in.
const MODULES: [&str; 2] = ["drivers/block/virtio_blk.ko.xz", "fs/overlayfs/overlay.ko.xz"];

/// An architecture's entry.
struct Model {
    arch: Arch,
    pins: (&'static str, &'static str),
    /// QEMU's program.
    program: &'static str,
    /// The board and CPU, emulated: nothing here asks for KVM.
    board: &'static [&'static str],
    /// The second serial port as the kernel calls it.
    console: &'static str,
}

const MODELS: [Model; 1] = [Model {
    arch: Arch::X86_64,
    pins: ("pins/vm-amd64.toml", include_str!("../../pins/vm-amd64.toml")),
    program: "qemu-system-x86_64",
    board: &["-accel", "tcg,thread=multi", "-cpu", "max"],
    console: "ttyS1",
}];

/// A kind of machine that can be booted.
pub(crate) struct Machine {
    model: &'static Model,
    dir: PathBuf,
}

impl Machine {
    /// Fetches what it takes where that is missing.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let host = Arch::host()?;
        let Some(model) = MODELS.iter().find(|model| model.arch == arch && host == Arch::X86_64) else {
            bail!(
                "no virtual {} device can be started on {} yet, only x86_64 on x86_64",
                arch.name(),
                host.name()
            );
        };
        let pins = Pins::parse(model.pins.0, model.pins.1)?;
        let dir = paths::target()?.join("tools").join(format!("vm-{}", arch.name()));
        fetch::install(&pins, LAYOUT, &dir, |unpacked, new| lay_out(unpacked, new, model, host))?;
        Ok(Self { model, dir })
    }

    /// The static shell and tools for the inside.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// The folder of kernel modules for the inside.
    pub(crate) fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }

    /// QEMU with this initramfs and disk: its first serial port is the command's own output, the second one goes into `log`.
    pub(crate) fn command(&self, initramfs: &Path, disk: &Path, log: &Path) -> Command {
        // A comma in a path would begin QEMU's next option.
        let option = |path: &Path| path.display().to_string().replace(',', ",,");
        let lib = self.dir.join("lib");
        let mut command = Command::new(lib.join(Arch::X86_64.loader()));
        command.arg("--library-path").arg(&lib).arg(self.dir.join(self.model.program));
        command.arg("-L").arg(self.dir.join("firmware")).args(self.model.board);
        command.args(["-smp", "2", "-m", "3072", "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-serial", "stdio", "-serial"]);
        command.arg(format!("file:{}", option(log)));
        // Each run begins with an empty one: nothing on it has to outlive this QEMU.
        command.args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", option(disk))]);
        command.arg("-kernel").arg(self.dir.join("kernel")).arg("-initrd").arg(initramfs);
        // A kernel that panics reboots at once, which ends this QEMU.
        command.args(["-append", &format!("console={} panic=-1", self.model.console)]);
        command
    }
}

fn lay_out(unpacked: &Path, new: &Path, model: &Model, host: Arch) -> Result<()> {
    layout::gather_libraries(unpacked, host, &new.join("lib"))?;
    layout::take(&unpacked.join("usr/bin").join(model.program), &new.join(model.program))?;
    layout::take(&unpacked.join("usr/bin/busybox"), &new.join("busybox"))?;
    // Links between QEMU's data and the firmware packages hold in one folder only.
    let firmware = new.join("firmware");
    layout::take(&unpacked.join("usr/share/qemu"), &firmware)?;
    let entries = fs::read_dir(unpacked.join("usr/share/seabios")).context("read SeaBIOS's package")?;
    for entry in entries {
        let entry = entry.context("read SeaBIOS's package")?;
        layout::take(&entry.path(), &firmware.join(entry.file_name()))?;
    }
    let modules = fs::read_dir(unpacked.join("usr/lib/modules")).context("read the kernel's modules")?;
    let of_kernel = modules.flatten().next().context("the kernel's package has no modules")?.path();
    for module in MODULES {
        let file = Path::new(module).file_name().context("a module's name")?;
        layout::take(&of_kernel.join("kernel").join(module), &new.join("modules").join(file))?;
    }
    let mut boot = fs::read_dir(unpacked.join("boot")).context("read the kernel's package")?.flatten();
    let kernel = boot.find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz-"));
    layout::take(&kernel.context("no vmlinuz-* in the kernel's package")?.path(), &new.join("kernel"))
}
