//! What a virtual machine is made of, one entry an architecture: QEMU, kernel and tools from pinned packages in private folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::pins::Pins;
use crate::{fetch, layout, paths};

/// Raised when the layout of a folder changes.
const LAYOUT: &str = "vm layout 3";
/// What a device needs of the kernel beyond what is built in, in the order in which it is loaded.
pub(crate) const MODULES: [&str; 5] = [
    "net/core/failover.ko.xz",
    "drivers/net/net_failover.ko.xz",
    "drivers/net/virtio_net.ko.xz",
    "drivers/block/virtio_blk.ko.xz",
    "fs/overlayfs/overlay.ko.xz",
];

/// A pin file: its name and text.
type Pinned = (&'static str, &'static str);

/// An architecture's entry.
struct Model {
    arch: Arch,
    /// QEMU with its libraries, for this machine.
    emulator: Pinned,
    /// The device's kernel and static tools.
    system: Pinned,
    /// QEMU's program.
    program: &'static str,
    /// The folder of its firmware's package.
    firmware: Option<&'static str>,
    /// The board and CPU, emulated: nothing here asks for KVM.
    board: &'static [&'static str],
    /// The serial ports as the kernel calls them.
    serials: [&'static str; 2],
    /// A PCI Express port into which devices can be put while it runs, where the board's own bus takes none.
    port: Option<&'static str>,
}

const MODELS: [Model; 2] = [
    Model {
        arch: Arch::X86_64,
        emulator: ("pins/qemu-x86-amd64.toml", include_str!("../../pins/qemu-x86-amd64.toml")),
        system: ("pins/vm-amd64.toml", include_str!("../../pins/vm-amd64.toml")),
        program: "qemu-system-x86_64",
        firmware: Some("seabios"),
        board: &["-accel", "tcg,thread=multi", "-cpu", "max"],
        serials: ["ttyS0", "ttyS1"],
        port: None,
    },
    Model {
        arch: Arch::Aarch64,
        emulator: ("pins/qemu-arm-amd64.toml", include_str!("../../pins/qemu-arm-amd64.toml")),
        system: ("pins/vm-arm64.toml", include_str!("../../pins/vm-arm64.toml")),
        program: "qemu-system-aarch64",
        firmware: None,
        board: &["-M", "virt", "-accel", "tcg,thread=multi", "-cpu", "cortex-a72"],
        serials: ["ttyAMA0", "ttyAMA1"],
        port: Some("hot"),
    },
];

/// A kind of machine that can be booted.
pub(crate) struct Machine {
    model: &'static Model,
    emulator: PathBuf,
    system: PathBuf,
}

impl Machine {
    /// Fetches what it takes where that is missing.
    pub(crate) fn ensure(arch: Arch) -> Result<Self> {
        let host = Arch::host()?;
        let Some(model) = MODELS.iter().find(|model| model.arch == arch && host == Arch::X86_64) else {
            bail!(
                "no virtual {} device can be started on {}: QEMU is pinned for x86_64 machines only",
                arch.name(),
                host.name()
            );
        };
        let tools = paths::target()?.join("tools");
        let (emulator, system) =
            (tools.join(format!("qemu-{}", arch.name())), tools.join(format!("vm-{}", arch.name())));
        let pins = Pins::parse(model.emulator.0, model.emulator.1)?;
        fetch::install(&pins, LAYOUT, &emulator, |unpacked, new| {
            lay_out_emulator(unpacked, new, model, host)
        })?;
        let pins = Pins::parse(model.system.0, model.system.1)?;
        fetch::install(&pins, &format!("{LAYOUT} {MODULES:?}"), &system, lay_out_system)?;
        Ok(Self { model, emulator, system })
    }

    /// The static shell and tools for the inside.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.system.join("busybox")
    }

    /// The folder of kernel modules for the inside.
    pub(crate) fn modules(&self) -> PathBuf {
        self.system.join("modules")
    }

    /// A serial port as the kernel calls it.
    pub(crate) fn serial(&self, n: usize) -> &'static str {
        self.model.serials[n]
    }

    /// The bus for what is put in while it runs, where that is not the board's own.
    pub(crate) fn hot_bus(&self) -> Option<&'static str> {
        self.model.port
    }

    /// What QEMU is told for there to be that bus.
    pub(crate) fn hot_bus_device(&self) -> Vec<String> {
        let device = |port| ["-device".to_owned(), format!("pcie-root-port,id={port}")];
        self.model.port.into_iter().flat_map(device).collect()
    }

    /// QEMU on this board with this initramfs and words for the kernel; no device yet but what the board has.
    pub(crate) fn command(&self, initramfs: &Path, kernel: &str) -> Command {
        let lib = self.emulator.join("lib");
        let mut command = Command::new(lib.join(Arch::X86_64.loader()));
        command.arg("--library-path").arg(&lib).arg(self.emulator.join(self.model.program));
        command.arg("-L").arg(self.emulator.join("firmware")).args(self.model.board);
        command.args(["-smp", "2", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(self.system.join("kernel")).arg("-initrd").arg(initramfs);
        // A kernel that panics reboots at once, which ends this QEMU.
        command.args(["-append", &format!("{kernel} panic=-1")]);
        command
    }
}

/// A path in one of QEMU's options, where a comma would begin the next one.
pub(crate) fn option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn lay_out_emulator(unpacked: &Path, new: &Path, model: &Model, host: Arch) -> Result<()> {
    layout::gather_libraries(unpacked, host, &new.join("lib"))?;
    layout::take(&unpacked.join("usr/bin").join(model.program), &new.join(model.program))?;
    // Links between QEMU's data and the firmware packages hold in one folder only.
    let firmware = new.join("firmware");
    layout::take(&unpacked.join("usr/share/qemu"), &firmware)?;
    let Some(package) = model.firmware else { return Ok(()) };
    let read = || format!("read the package {package}");
    for entry in fs::read_dir(unpacked.join("usr/share").join(package)).with_context(read)? {
        let entry = entry.with_context(read)?;
        layout::take(&entry.path(), &firmware.join(entry.file_name()))?;
    }
    Ok(())
}

fn lay_out_system(unpacked: &Path, new: &Path) -> Result<()> {
    layout::take(&unpacked.join("usr/bin/busybox"), &new.join("busybox"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_does_not_begin_an_option() {
        assert_eq!(option(Path::new("/a,b/disk")), "/a,,b/disk");
    }

    #[test]
    fn every_machine_is_pinned() {
        for model in &MODELS {
            for (name, text) in [model.emulator, model.system] {
                Pins::parse(name, text).unwrap();
            }
        }
    }
}
