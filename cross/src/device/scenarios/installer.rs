//! `install.sh` as a user runs it, from a stick with a release on it.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::removal::nothing_left;
use crate::device::guest::Network;
use crate::device::site::Site;

pub(super) fn run(site: &mut Site) -> Result<()> {
    site.boot_new(Network::Up)?;
    site.join("site=installed")?;
    let (stick, sum) = site.release()?;
    site.plug(&stick)?;
    site.ok("mkdir -p /mnt && mount -o ro /dev/vdc /mnt")?;
    let other: String = sum.chars().rev().collect();
    let refused = site.run(&format!("sh /mnt/install.sh --sums {other} --join /root/join.shoal 2>&1"))?;
    ensure!(refused.code == 3, "with another list it ended with {}:\n{}", refused.code, refused.out);
    nothing_left(site)?;

    let began = Instant::now();
    let install = format!("sh /mnt/install.sh --sums {sum} --join /root/join.shoal 2>&1");
    site.guest()?.run_for(&install, 400)?.ok()?;
    site.wait_online()?;
    site.note(format!("install.sh --join to reporting: {:.1} s", began.elapsed().as_secs_f64()));
    site.healthy()?;

    site.guest()?.run_for("sh /mnt/install.sh --uninstall --purge 2>&1", 200)?.ok()?;
    nothing_left(site)?;
    site.ok("umount /mnt")?;
    site.unplug()
}
