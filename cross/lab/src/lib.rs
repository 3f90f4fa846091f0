//! A whole fleet on one machine, made of the real binaries: for the demo, the end-to-end tests and the benchmarks.
//!
//! It only starts processes, writes their configuration and reads what their command lines print. It never links
//! the product: what a lab sees is what a user sees.
#![forbid(unsafe_code)]

pub mod cgroups;
mod controller;
mod device;
mod process;

pub use controller::{Controller, Operator};
pub use device::Device;
pub use process::{Finished, Service, wait_until};

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Where the binaries of one build are: `shoal`, `shoald`, `shoal-agent`, `shoal-guard`, `shoal-runner` and `engine/`.
#[derive(Debug, Clone)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// The folder, checked to hold every binary.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        for name in ["shoal", "shoald", "shoal-agent", "shoal-guard", "shoal-runner", "engine"] {
            if !dir.join(name).exists() {
                bail!("{} is not in {}: build it with `cargo xtask build`", name, dir.display());
            }
        }
        Ok(Self(dir))
    }

    /// The folder that `SHOAL_LAB_BIN` names: `cargo xtask test` sets it for the end-to-end tests.
    pub fn from_env() -> Result<Self> {
        let dir = std::env::var_os("SHOAL_LAB_BIN")
            .context("SHOAL_LAB_BIN is not set: run the end-to-end tests through `cargo xtask test`")?;
        Self::in_dir(dir)
    }

    /// The path of one binary.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

/// A controller, its operator, and any number of devices, under one folder.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    bins: Binaries,
    /// A word that is part of every cgroup's name, so that two labs never meet.
    tag: String,
    /// The controller.
    pub controller: Controller,
    /// The operator's command line, with a home of its own.
    pub operator: Operator,
    /// The devices, in the order in which they were added.
    pub devices: Vec<Device>,
}

/// Whether this process may set limits and users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Lab {
    /// A fleet of nothing but a running, initialised controller.
    pub fn start(bins: &Binaries, dir: &Path, tag: &str) -> Result<Self> {
        let controller = Controller::start(bins, &dir.join("controller"))?;
        let operator = Operator::new(bins, &dir.join("operator"))?;
        let lab = Self {
            dir: dir.to_owned(),
            bins: bins.clone(),
            tag: tag.to_owned(),
            controller,
            operator,
            devices: Vec::new(),
        };
        lab.operator.login(&lab.controller)?;
        lab.operator.run(&["trust", "init", "--name", tag])?.ok()?;
        Ok(lab)
    }

    /// Writes a join file with these labels (`key=value,…`).
    pub fn join_file(&self, labels: &str) -> Result<PathBuf> {
        let path = self.dir.join(format!("join-{}.shoal", self.devices.len()));
        let out = path.to_str().context("the lab's folder is not UTF-8")?;
        self.operator.run(&["token", "create", "--labels", labels, "--uses", "1", "-o", out])?.ok()?;
        Ok(path)
    }

    /// A device that is set up but neither started nor enrolled.
    pub fn prepare_device(&self) -> Result<Device> {
        let n = self.devices.len();
        Device::prepare(&self.bins, &self.dir.join(format!("device-{n}")), &format!("{}-{n}", self.tag), n)
    }

    /// A device with these labels, enrolled and running; returns its place in `devices`.
    pub fn add_device(&mut self, labels: &str) -> Result<usize> {
        let join = self.join_file(labels)?;
        let mut device = self.prepare_device()?;
        device.start_guard()?;
        device.enroll(&join)?;
        device.start_agent()?;
        self.devices.push(device);
        Ok(self.devices.len() - 1)
    }

    /// Ends every process, and says what was left behind: nothing, if all went well.
    pub fn stop(&mut self) -> Result<()> {
        let mut first_error = Ok(());
        for device in &mut self.devices {
            let ended = device.stop();
            if first_error.is_ok() {
                first_error = ended;
            }
        }
        self.controller.stop();
        first_error?;
        let left = cgroups::named(&self.tag);
        if !left.is_empty() {
            bail!("cgroups left behind: {left:?}");
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test that failed half-way still leaves nothing behind; its own failure is what gets reported.
        let _ = self.stop();
    }
}
