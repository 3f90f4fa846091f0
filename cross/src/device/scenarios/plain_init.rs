//! A device without systemd: busybox as its first process, and the example init script.

use anyhow::{Context as _, Result, ensure};

use super::removal::LEFT;
use crate::device::guest::Network;
use crate::device::site::{Site, wait};
use crate::paths;

pub(super) fn run(site: &mut Site) -> Result<()> {
    site.boot_plain()?;
    ensure!(site.run("test -d /run/systemd/system")?.code != 0, "systemd runs here");
    site.join("site=here,init=plain")?;
    site.install(&["agent", "compiler"])?;
    let script = paths::workspace().join("deploy/examples/init/shoal");
    let script = std::fs::read(&script).with_context(|| format!("read {}", script.display()))?;
    site.guest()?.put("/etc/init.d/shoal", &script)?;
    site.ok("chmod 755 /etc/init.d/shoal && /etc/init.d/shoal start")?;
    site.ok("shoal-agent enroll /root/join.shoal && rm /root/join.shoal && /etc/init.d/shoal start && /etc/init.d/shoal status")?;
    site.import_sensor()?;
    site.apply("plain", "sensor:1", "Always", "resources:\n  limits:\n    memory: 32Mi\n    pids: 8")?;
    site.wait_here("it to run", |s| s.running("plain"))?;
    wait("its log to reach the operator", || {
        Ok(site.shoal(&["logs", "plain", "--tail", "5"])?.contains("temperature_c=").then_some(()))
    })?;
    // The sensor may be there, too: whoever runs goes on.
    let before = site.pids()?;
    let pid = *before.first().context("no container")?;
    site.ok("/etc/init.d/shoal restart-guard")?;
    let after =
        site.wait_here("the device to answer", |s| Ok(Some(s.pids()?).filter(|all| !all.is_empty())))?;
    ensure!(
        before.iter().all(|pid| after.contains(pid)),
        "{before:?} became {after:?} when the guard was restarted"
    );
    site.ok("/etc/init.d/shoal stop")?;
    let left = site.ok(LEFT)?;
    ensure!(left.trim().is_empty(), "after stop there is\n{left}");
    ensure!(site.run(&format!("test -d /proc/{pid}"))?.code != 0, "the container still runs after stop");
    site.ok("/etc/init.d/shoal start")?;
    site.wait_here("it to run again", |s| s.running("plain"))?;
    site.cut();
    site.boot_with(Network::Up, None, Some(super::super::site::PLAIN_INIT))?;
    site.wait_here("it to run after a power cut", |s| s.running("plain"))?;
    site.shoal(&["delete", "deployment", "plain", "--yes"])?;
    site.guest()?.switch_off("/etc/init.d/shoal stop; poweroff -f")
}
