//! QEMU's own side of a running device: what is put in and taken out while it runs (the QEMU Machine Protocol).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// For an answer, and for a device to let go of what is taken out.
const PATIENCE: Duration = Duration::from_mins(1);
/// The stick's name in QEMU.
const STICK: &str = "stick";

/// A connection to it.
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
    /// The bus that takes a stick, where the board's first one does not.
    bus: Option<&'static str>,
}

impl Monitor {
    /// Connects to a QEMU that listens at `socket`.
    pub(super) fn connect(socket: &Path, bus: Option<&'static str>) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("reach QEMU's monitor")?;
        stream.set_read_timeout(Some(PATIENCE)).context("limit a wait")?;
        let mut monitor = Self { stream: BufReader::new(stream), bus };
        // The greeting; commands count only after this answer to it.
        monitor.read()?;
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Puts a disk in.
    pub(super) fn plug(&mut self, disk: &Path) -> Result<()> {
        let disk = disk.to_str().context("a path that is not UTF-8")?;
        let file = json!({ "driver": "file", "filename": disk });
        self.execute("blockdev-add", &json!({ "driver": "raw", "node-name": STICK, "file": file }))?;
        let mut device = json!({ "driver": "virtio-blk-pci", "id": STICK, "drive": STICK });
        if let Some(bus) = self.bus {
            device["bus"] = bus.into();
        }
        self.execute("device_add", &device).map(drop)
    }

    /// Takes it out, and waits until the device let it go.
    pub(super) fn unplug(&mut self) -> Result<()> {
        self.execute("device_del", &json!({ "id": STICK }))?;
        let gone = |told: &Value| told["event"] == "DEVICE_DELETED" && told["data"]["device"] == STICK;
        while !gone(&self.read().context("wait for the device to let the stick go")?) {}
        self.execute("blockdev-del", &json!({ "node-name": STICK })).map(drop)
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{line}").context("speak to QEMU's monitor")?;
        loop {
            let told = self.read()?;
            if let Some(answer) = told.get("return") {
                return Ok(answer.clone());
            }
            if let Some(error) = told.get("error") {
                bail!("QEMU refuses {line}: {error}");
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).context("hear from QEMU's monitor")?;
        if read == 0 {
            bail!("QEMU's monitor ended");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said {line:?}"))
    }
}
