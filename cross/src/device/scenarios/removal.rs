//! What removing and purging the packages leaves.

use anyhow::{Result, ensure};

use crate::device::site::Site;

/// What runs of the packages, or of a release in their place, and the groups of containers and services; but for the guard's
/// own, which systemd 252 leaves behind empty.
pub(super) const LEFT: &str = "readlink /proc/[0-9]*/exe | grep shoal; \
     find /sys/fs/cgroup -mindepth 2 -path '*shoal*' -type d ! -name shoal-guard.service; true";

pub(super) fn run(site: &mut Site) -> Result<()> {
    let identity = site.status()?["device"].clone();
    let all = site.ok(LEFT)?;
    ensure!(
        ["/shoal-agent", "/shoal-guard", "engine/run/", "shoal-payload"]
            .iter()
            .all(|name| all.contains(name)),
        "of what should run there is only\n{all}"
    );
    site.guest()?.run_for("dpkg -r shoal-compiler shoal-agent 2>&1", 200)?.ok()?;
    let left = site.ok(LEFT)?;
    ensure!(left.trim().is_empty(), "after the removal there is\n{left}");
    site.ok("test -e /var/lib/shoal/admit/admit.db && ls /var/lib/shoal/agent/identity | grep -q device && test -e /etc/shoal/policy.toml")?;
    site.install(&["agent", "compiler"])?;
    site.ok("systemctl enable --now shoal-guard shoal-agent")?;
    site.wait_here("the sensor to run again", |s| s.running("sensor"))?;
    ensure!(site.status()?["device"] == identity, "the device has another identity after the removal");
    site.wait_online()?;
    site.guest()?.run_for("dpkg -P shoal-compiler shoal-agent 2>&1", 200)?.ok()?;
    nothing_left(site)
}

/// Of what was purged.
pub(super) fn nothing_left(site: &mut Site) -> Result<()> {
    let left = site.ok(&format!(
        "{LEFT}; ls -d /var/lib/shoal /var/log/shoal /etc/shoal /run/shoal /usr/lib/shoal 2> /dev/null; true"
    ))?;
    ensure!(left.trim().is_empty(), "after the purge there is\n{left}");
    let failed = site.ok("systemctl --failed --no-legend")?;
    ensure!(failed.trim().is_empty(), "units that failed:\n{failed}");
    Ok(())
}
