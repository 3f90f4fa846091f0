//! One virtual device with its fleet: the controller and the operator's command line run on this machine, from this build;
//! the device reaches them over its network as any other would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use shoal_lab::{Binaries, Lab};
use tempfile::TempDir;

use super::guest::{EmulatorAborted, Guest, Network, Ran, Setup};
use super::image::{Image, Suite};
use super::packages::Packages;
use super::stick;
use crate::arch::Arch;
use crate::vm::machine::Machine;
use crate::{output, paths};

/// As long as anything may take on an emulated device.
pub(super) const LONG: Duration = Duration::from_mins(5);
/// This machine as a device sees it.
const HOST: &str = "10.0.2.2";
/// busybox by the name that makes it the first process.
pub(super) const PLAIN_INIT: &str = "/usr/lib/lab/init";

/// What scenarios work with.
pub(super) struct Site {
    pub(super) lab: Lab,
    pub(super) arch: Arch,
    /// How many power cuts.
    pub(super) cuts: u32,
    /// Its id, once it has one: the controller may know of others from before.
    pub(super) device: Option<String>,
    /// What the last scenario measured, for the table.
    pub(super) notes: Vec<String>,
    machine: Machine,
    image: Image,
    packages: Packages,
    guest: Option<Guest>,
    /// The device's disk, the disk with the packages, logs.
    dir: PathBuf,
    pub(super) temp: TempDir,
}

impl Site {
    /// A controller without devices, and a device that was never switched on.
    pub(super) fn new(
        (arch, suite): (Arch, Suite),
        bins: &Binaries,
        packages: &Packages,
        cuts: u32,
    ) -> Result<Self> {
        let machine = Machine::ensure(arch)?;
        let image = Image::ensure(arch, suite, &machine)?;
        let dir = paths::target()?.join("vm").join(format!("device-{}{}", arch.name(), suite.suffix()));
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        packages.disk(&dir.join("packages.tar"))?;
        // A socket's path has to be short.
        let temp =
            tempfile::Builder::new().prefix("shoal-vm").tempdir().context("make a temporary folder")?;
        let tag = format!("vm{}{}", arch.name(), std::process::id());
        let lab = Lab::start_with(bins, &temp.path().join("fleet"), &tag, &["--name", HOST])?;
        let (device, notes, packages) = (None, Vec::new(), packages.clone());
        Ok(Self { lab, arch, cuts, device, notes, machine, image, packages, guest: None, dir, temp })
    }

    /// Something measured, for the table.
    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        output::step("measured", &text);
        self.notes.push(text);
    }

    /// The device's disk.
    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// Switches a device with a new disk on.
    pub(super) fn boot_new(&mut self, network: Network) -> Result<()> {
        self.new_disk()?;
        self.boot_with(network, None, None)
    }

    /// Switches a device with a new disk on whose first process is busybox.
    pub(super) fn boot_plain(&mut self) -> Result<()> {
        self.off()?;
        self.new_disk()?;
        self.boot_with(Network::Up, None, Some(PLAIN_INIT))
    }

    fn new_disk(&mut self) -> Result<()> {
        self.guest = None;
        self.device = None;
        self.image.copy_to(&self.disk())
    }

    /// Switches it on again.
    pub(super) fn boot(&mut self, network: Network) -> Result<()> {
        self.boot_with(network, None, None)
    }

    /// The same with another clock or first process.
    pub(super) fn boot_with(
        &mut self,
        network: Network,
        clock: Option<&str>,
        init: Option<&str>,
    ) -> Result<()> {
        let packages = self.dir.join("packages.tar");
        self.start(&Setup { disk: &self.disk(), packages: &packages, network, clock, init })
    }

    /// Gives a device that was unplugged its network.
    pub(super) fn plug_in(&mut self) -> Result<()> {
        self.ok("sh /usr/lib/lab/net.sh").map(drop)
    }

    /// Puts a stick in, which becomes /dev/vdc.
    pub(super) fn plug(&mut self, stick: &Path) -> Result<()> {
        self.guest()?.plug(stick)
    }

    /// Takes the stick out.
    pub(super) fn unplug(&mut self) -> Result<()> {
        self.guest()?.unplug()
    }

    fn start(&mut self, setup: &Setup<'_>) -> Result<()> {
        self.guest = None;
        let boot = || Guest::boot(&self.machine, &self.image, setup, &self.dir, self.temp.path());
        let guest = boot().or_else(|error| {
            if !error.is::<EmulatorAborted>() {
                return Err(error);
            }
            // Seen once, in some sixty starts on a busy machine. To the device it is one more power cut.
            output::warn(&format!("{error:#}: started again"));
            boot()
        });
        self.guest = Some(guest?);
        Ok(())
    }

    /// The running device.
    pub(super) fn guest(&mut self) -> Result<&mut Guest> {
        self.guest.as_mut().context("the device is switched off")
    }

    /// Switches it off in good order.
    pub(super) fn off(&mut self) -> Result<()> {
        if let Some(mut guest) = self.guest.take() {
            guest.switch_off("systemctl poweroff")?;
        }
        Ok(())
    }

    /// Cuts its power.
    pub(super) fn cut(&mut self) {
        self.guest = None;
    }

    /// Runs a script on the device that must succeed.
    pub(super) fn ok(&mut self, script: &str) -> Result<String> {
        self.guest()?.ok(script)
    }

    /// Runs a script on the device, whatever comes of it.
    pub(super) fn run(&mut self, script: &str) -> Result<Ran> {
        self.guest()?.run(script)
    }

    /// Runs a script whose output is JSON.
    pub(super) fn json(&mut self, script: &str) -> Result<Value> {
        let text = self.ok(script)?;
        serde_json::from_str(&text).with_context(|| format!("{script}: its output is not JSON:\n{text}"))
    }

    /// Brings the packages `agent`, `compiler` and `newer` to the device's disk.
    pub(super) fn bring_packages(&mut self) -> Result<()> {
        self.ok("tar -xf /dev/vdb -C /root").map(drop)
    }

    /// Installs what is named of them.
    pub(super) fn install(&mut self, names: &[&str]) -> Result<String> {
        self.bring_packages()?;
        self.dpkg(names)
    }

    /// Installs what was brought already.
    pub(super) fn dpkg(&mut self, names: &[&str]) -> Result<String> {
        let files: String = names.iter().flat_map(|name| [" /root/", name, ".deb"]).collect();
        let script = format!("dpkg -i{files} 2>&1; code=$?; rm -f /root/*.deb; exit $code");
        self.guest()?.run_for(&script, 400)?.ok()
    }

    /// A stick with the packages as a release is, and the SHA-256 of their list of checksums.
    pub(super) fn release(&self) -> Result<(PathBuf, String)> {
        let (files, sum) = self.packages.release(&self.temp.path().join("SHA256SUMS"))?;
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let disk = self.temp.path().join("release.raw");
        stick::make(&disk, &files)?;
        Ok((disk, sum))
    }

    /// The device's programs, unpacked below `tree`.
    pub(super) fn programs(&self, tree: &Path) -> Result<PathBuf> {
        self.packages.programs(tree)
    }

    /// A join file with these labels for one device, put on the device.
    pub(super) fn join(&mut self, labels: &str) -> Result<()> {
        let path = self.temp.path().join(format!("join-{}.shoal", self.notes.len()));
        let _ = fs::remove_file(&path);
        self.shoal(&["token", "create", "--labels", labels, "--uses", "1", "-o", utf8(&path)?])?;
        let bytes = fs::read(&path).context("read the join file")?;
        self.guest()?.put("/root/join.shoal", &bytes)
    }

    /// Waits until the controller hears from the device.
    pub(super) fn wait_online(&mut self) -> Result<Value> {
        let id = self.id()?;
        wait("the device to be online", || {
            let devices = self.lab.operator.json(&["get", "devices"])?;
            let mut all = devices["devices"].as_array().into_iter().flatten();
            Ok(all.find(|device| device["id"] == *id && device["state"] == "online").cloned())
        })
    }

    /// The device's id, by its own word.
    pub(super) fn id(&mut self) -> Result<String> {
        if self.device.is_none() {
            self.device = self.status()?["device"].as_str().map(str::to_owned);
        }
        self.device.clone().context("the device has no identity")
    }

    /// What the device says of itself.
    pub(super) fn status(&mut self) -> Result<Value> {
        self.json("shoal-agent status --output json")
    }

    /// Whether its own doctor is content; the name by which only the controller's machine itself has it counts for nothing.
    pub(super) fn healthy(&mut self) -> Result<()> {
        let doctor = self.run("shoal-agent doctor")?;
        let bad = |line: &&str| line.starts_with("FAILED") && !line.contains("//127.0.0.1:");
        if let Some(line) = doctor.out.lines().find(bad) {
            bail!("its doctor says {line}");
        }
        Ok(())
    }

    /// The revision of a deployment that runs on the device, by the device's own word.
    pub(super) fn running(&mut self, name: &str) -> Result<Option<u64>> {
        self.newest(name, runs)
    }

    /// The revision that proved itself: what the device goes back to while a newer one is made ready.
    pub(super) fn proven(&mut self, name: &str) -> Result<Option<u64>> {
        self.newest(name, |pod| pod["phase"] == "healthy")
    }

    fn newest(&mut self, name: &str, good: impl Fn(&Value) -> bool) -> Result<Option<u64>> {
        let told = self.status()?;
        let pods = told["deployments"].as_array().into_iter().flatten();
        let sequence = |pod: &Value| pod["revision"]["sequence"].as_u64();
        Ok(pods.filter(|pod| pod["deployment"] == name && good(pod)).filter_map(sequence).max())
    }

    /// The processes of containers on the device.
    pub(super) fn pids(&mut self) -> Result<Vec<u64>> {
        let list = self.json("shoal-agent ps --output json")?;
        let all = list["containers"].as_array().into_iter().flatten();
        Ok(all.filter_map(pid).filter(|pid| *pid > 0).collect())
    }

    /// Asks the device until it is as wanted.
    pub(super) fn wait_here<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait(what, || probe(self))
    }

    /// Keeps what helps to understand a failure.
    pub(super) fn keep_logs(&mut self, scenario: &str) {
        let dir = self.dir.join(format!("failed-{scenario}"));
        let _ = fs::create_dir_all(&dir);
        let _ = fs::copy(self.dir.join("console.log"), dir.join("console.log"));
        let _ = fs::write(dir.join("controller.log"), self.lab.controller.output());
        for (name, args) in [("pods.json", ["get", "pods"]), ("devices.json", ["get", "devices"])] {
            if let Ok(told) = self.lab.operator.json(&args) {
                let _ = fs::write(dir.join(name), format!("{told:#}"));
            }
        }
        for (name, script) in [
            ("journal.log", "journalctl -b --no-pager"),
            ("status.json", "shoal-agent status --output json"),
            (
                "system.log",
                "systemctl list-units --all; ps; df; cat /proc/mounts; systemd-cgls; ls -lR /var/lib/shoal; \
                 tail -n 99 /var/log/shoal/*.log",
            ),
        ] {
            if let Ok(ran) = self.run(script) {
                let _ = fs::write(dir.join(name), format!("{}{}", ran.out, ran.err));
            }
        }
        output::step("kept", &format!("logs in {}", dir.display()));
    }

    /// Switches it off and on after a scenario failed, whatever state that left, and without what that had deployed.
    pub(super) fn recover(&mut self) -> Result<()> {
        for (list, kind) in [("deployments", "deployment"), ("releases", "release")] {
            let told = self.lab.operator.json(&["get", list])?;
            let names = told[list].as_array().into_iter().flatten().filter_map(|item| item["name"].as_str());
            for name in names.filter(|name| *name != "sensor") {
                // One that is deleted already is listed as well.
                let _ = self.shoal(&["delete", kind, name, "--yes"]);
            }
        }
        if self.off().is_err() {
            self.cut();
        }
        self.boot(Network::Up)?;
        // What comes next begins with a device that answers, if it ever did.
        if self.device.is_some() {
            let _ = self.wait_here("the device to answer", |s| s.status().map(Some));
        }
        Ok(())
    }
}

/// Asks until there is an answer; errors on the way count only when the time is up.
pub(super) fn wait<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        let seen = probe();
        if let Ok(Some(value)) = seen {
            return Ok(value);
        }
        if began.elapsed() > LONG {
            seen.with_context(|| format!("waited {LONG:?} for {what}"))?;
            bail!("waited {LONG:?} for {what}");
        }
        // Whoever asks takes time from the emulated device.
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A path as an argument.
pub(super) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Whether a pod is where it should be.
pub(super) fn runs(pod: &Value) -> bool {
    matches!(pod["phase"].as_str(), Some("running" | "healthy" | "succeeded"))
}

fn pid(value: &Value) -> Option<u64> {
    match value {
        Value::Object(map) => map.get("pid").and_then(Value::as_u64).or_else(|| map.values().find_map(pid)),
        Value::Array(list) => list.iter().find_map(pid),
        _ => None,
    }
}
