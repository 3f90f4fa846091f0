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
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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

    /// These binaries where every user of the machine can start them: here, or copied to `copy` when a folder above
    /// is closed to others (a clone under /root, say).
    pub fn reachable_by_all(self, copy: &Path) -> Result<Self> {
        let real = self.0.canonicalize().with_context(|| format!("find {}", self.0.display()))?;
        let open = |dir: &Path| std::fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
        if real.ancestors().all(open) && self.engine_is_open(open) {
            return Ok(self);
        }
        copy_tree(&real, copy)?;
        Self::in_dir(copy)
    }

    fn engine_is_open(&self, open: impl Fn(&Path) -> bool) -> bool {
        ["run", "compile"].iter().all(|folder| {
            let real = self.0.join("engine").join(folder).canonicalize();
            real.is_ok_and(|dir| dir.ancestors().all(&open))
        })
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

/// Copies a folder with what its links point to.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let (source, target) = (entry.as_ref().map(std::fs::DirEntry::path), to);
        let source = source.map_err(|e| anyhow::anyhow!("read {}: {e}", from.display()))?;
        let target = target.join(source.file_name().context("an entry without a name")?);
        if std::fs::metadata(&source).with_context(|| format!("look at {}", source.display()))?.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
        }
    }
    Ok(())
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

const LEFT_RUNNING: &str = "left-running.json";

/// Whether this process may set limits and users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl Lab {
    /// A fleet of nothing but a running, initialised controller.
    pub fn start(bins: &Binaries, dir: &Path, tag: &str) -> Result<Self> {
        Self::start_with(bins, dir, tag, &[])
    }

    /// The same, with further arguments of `shoald run`.
    pub fn start_with(bins: &Binaries, dir: &Path, tag: &str, extra: &[&str]) -> Result<Self> {
        let controller = Controller::start(bins, &dir.join("controller"), extra)?;
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
        lab.operator.run(&["trust", "init", "--plain-keys", "--name", tag])?.ok()?;
        Ok(lab)
    }

    /// The path of one binary of this lab's build.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.bins.path(name)
    }

    /// Forgets all processes: they go on when this value is gone. What [`Lab::stop_left_running`] needs is written down.
    pub fn leave_running(mut self) -> Result<()> {
        let devices: Vec<_> = self.devices.iter().map(|d| (d.root.clone(), d.agent_pid())).collect();
        let left = serde_json::json!({
            "binaries": self.bins.0,
            "controller": self.controller.pid(),
            "devices": devices.iter().map(|(root, agent)| serde_json::json!({"root": root, "agent": agent})).collect::<Vec<_>>(),
        });
        let path = self.dir.join(LEFT_RUNNING);
        std::fs::write(&path, left.to_string()).with_context(|| format!("write {}", path.display()))?;
        self.controller.forget();
        self.devices.iter_mut().for_each(Device::forget);
        Ok(())
    }

    /// Ends what [`Lab::leave_running`] left under `dir`.
    pub fn stop_left_running(dir: &Path) -> Result<()> {
        let path = dir.join(LEFT_RUNNING);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read {}: is a demo running there?", path.display()))?;
        let left: serde_json::Value = serde_json::from_str(&text)?;
        let bins = left["binaries"].as_str().map(Path::new).context("no binaries named")?;
        for device in left["devices"].as_array().into_iter().flatten() {
            process::terminate_pid(&device["agent"], "shoal-agent");
            let root = device["root"].as_str().context("a device without a root")?;
            Finished::of(Command::new(bins.join("shoal-guard")).args(["stop-all", "--root", root]))?.ok()?;
        }
        process::terminate_pid(&left["controller"], "shoald");
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
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
        self.add_device_as(labels, None)
    }

    /// The same, with every process of the device under this user instead of the caller's.
    pub fn add_device_as(&mut self, labels: &str, uid: Option<u32>) -> Result<usize> {
        let join = self.join_file(labels)?;
        let mut device = self.prepare_device()?;
        if let Some(uid) = uid {
            device.give_to(uid)?;
            std::os::unix::fs::chown(&join, Some(uid), Some(uid)).context("give the join file away")?;
        }
        device.start_guard()?;
        device.enroll(&join)?;
        device.start_agent()?;
        self.devices.push(device);
        Ok(self.devices.len() - 1)
    }

    /// A device that is changed before anything of it runs.
    pub fn add_device_with(
        &mut self,
        labels: &str,
        change: impl FnOnce(&mut Device) -> Result<()>,
    ) -> Result<usize> {
        let join = self.join_file(labels)?;
        let mut device = self.prepare_device()?;
        change(&mut device)?;
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
        // With its dash: the groups of lab `…x14` are not those of lab `…x1`, which ends while the other still runs.
        let left = cgroups::named(&format!("{}-", self.tag));
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
