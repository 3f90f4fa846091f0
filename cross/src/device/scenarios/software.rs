//! S26: the device's own software, changed by signed releases made of the very packages that were installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::device::guest::Network;
use crate::device::site::{Site, utf8, wait};

pub(super) fn run(site: &mut Site) -> Result<()> {
    site.shoal(&["keys", "new", "releaser", "--plain"])?;
    site.shoal(&["trust", "grant", "releaser", "--role", "release", "--may-remove", "--yes"])?;
    let pids = site.pids()?;
    let [pid] = pids[..] else { bail!("containers {pids:?}, expected one") };
    let scratch = tempfile::tempdir().context("make a temporary folder")?;
    let programs = site.programs(scratch.path())?;

    publish(site, &programs, scratch.path(), "9.1.0", "4m")?;
    let began = Instant::now();
    let proved = |d: &Value| runs(d, "9.1.0") && !has(d, "update_pending") && !has(d, "update_on_trial");
    wait_device(site, "the release to prove itself", proved)?;
    site.note(format!("a release, published to proved: {:.1} s", began.elapsed().as_secs_f64()));
    ensure!(site.pids()? == pids, "container {pid} did not go on");
    site.ok("systemctl is-active shoal-guard shoal-agent")?;
    from_release(site)?;

    // It ends at once, however often systemd starts it, until the guard has gone back.
    let agent = programs.join("shoal-agent");
    fs::write(&agent, "#!/bin/sh\nexit 0\n").context("replace the agent by what ends")?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).context("make it a program")?;
    publish(site, &programs, scratch.path(), "9.2.0", "1m")?;
    let began = Instant::now();
    wait_device(site, "the way back", |d| runs(d, "9.1.0") && has(d, "update_failed"))?;
    site.note(format!(
        "a release whose agent ends at once, published to undone by the device: {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    ensure!(site.pids()? == pids, "container {pid} did not go on");

    // What proved itself is what a cold start runs, with nobody to ask.
    site.cut();
    site.boot(Network::Absent)?;
    site.wait_here("the sensor to run", |s| s.running("sensor"))?;
    from_release(site)?;
    site.off()?;
    site.boot(Network::Up)?;
    site.shoal(&["delete", "release", "agent", "--yes"])?;
    wait_device(site, "the failure to be forgotten with its release", |d| !has(d, "update_failed"))
}

/// Packs the programs as this version and publishes them for the device, which has `deadline` to prove them.
fn publish(site: &Site, programs: &Path, scratch: &Path, version: &str, deadline: &str) -> Result<()> {
    let file = scratch.join(format!("{version}.oci.tar"));
    let (arch, file) = (site.arch.name(), utf8(&file)?);
    site.shoal(&[
        "release",
        "pack",
        utf8(programs)?,
        "--software-version",
        version,
        "--arch",
        arch,
        "-o",
        file,
    ])?;
    let publish = ["release", "publish", "agent", "--build", file, "--selector", "site=here"];
    site.shoal(&[&publish[..], &["--deadline", deadline, "--yes"]].concat()).map(drop)
}

/// Both services run the software of a release.
fn from_release(site: &mut Site) -> Result<()> {
    for unit in ["shoal-guard", "shoal-agent"] {
        let from = site.ok(&format!("readlink /proc/$(systemctl show {unit} -p MainPID --value)/exe"))?;
        ensure!(from.starts_with("/var/lib/shoal/releases/"), "{unit} runs {from}");
    }
    Ok(())
}

fn wait_device(site: &mut Site, what: &str, good: impl Fn(&Value) -> bool) -> Result<()> {
    let mut last = Value::Null;
    let seen = wait(what, || {
        last = site.described()?;
        Ok(good(&last).then_some(()))
    });
    seen.with_context(|| format!("last seen of the device: {last:#}"))
}

fn has(device: &Value, condition: &str) -> bool {
    device["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c == condition))
}

fn runs(device: &Value, version: &str) -> bool {
    device["state"] == "online" && device["system"]["agent"] == version
}
