//! F2: storage that takes nothing more, and takes it again.

use anyhow::{Result, bail, ensure};

use super::offline::WAITS;
use crate::device::site::{Site, wait};

pub(super) fn full(site: &mut Site) -> Result<()> {
    let fill = "dd if=/dev/zero of=/fill bs=1M 2> /dev/null; dd if=/dev/zero of=/fill2 bs=1k 2> /dev/null; sync; df / | tail -1";
    broken(site, fill, "rm -f /fill /fill2; sync", "full")
}

pub(super) fn read_only(site: &mut Site) -> Result<()> {
    // What a worn-out card does.
    broken(
        site,
        "sync; echo u > /proc/sysrq-trigger; sleep 2; ! touch /x 2> /dev/null",
        "mount -o remount,rw /",
        "ro",
    )
}

fn broken(site: &mut Site, breaks: &str, mends: &str, name: &str) -> Result<()> {
    let pids = site.pids()?;
    let [sensor] = pids[..] else { bail!("containers {pids:?}, expected one") };
    site.import_text(
        &format!("{name}:1"),
        &format!("(module{WAITS} (memory (export \"memory\") 1) (data (i32.const 900) \"{name}\"))"),
    )?;
    site.ok(breaks)?;
    site.apply(name, &format!("{name}:1"), "Always", "")?;
    let told = wait("storage_unavailable to be told", || {
        let conditions = site.described()?["conditions"].to_string();
        let pods = site.pods(name)?;
        let reason = pods.iter().any(|pod| pod["reason"] == "storage_unavailable");
        Ok((reason || conditions.contains("storage_unavailable")).then_some((reason, conditions)))
    });
    let (reason, conditions) = told?;
    site.note(format!("told to the controller: by the pod {reason}, conditions {conditions}"));
    // Both halves restarted meanwhile: they wait, and the container goes on.
    site.ok("systemctl restart --no-block shoal-guard shoal-agent; sleep 20")?;
    ensure!(site.run(&format!("test -d /proc/{sensor}"))?.code == 0, "the container did not outlive it");
    site.ok(mends)?;
    site.wait_here("the new one to run", |s| s.running(name))?;
    ensure!(site.pids()?.contains(&sensor), "the container did not outlive the recovery");
    site.wait_online()?;
    site.shoal(&["delete", "deployment", name, "--yes"])?;
    site.wait_here("the new one to be gone", |s| Ok((s.pids()? == [sensor]).then_some(())))
}
