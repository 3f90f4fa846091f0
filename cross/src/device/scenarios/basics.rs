//! From the packages to a container whose log is read, and what systemd makes of it.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::offline::WAITS;
use crate::device::guest::Network;
use crate::device::site::{Site, wait};

/// dpkg, enrolment, services: the device is online.
pub(super) fn install(site: &mut Site) -> Result<()> {
    site.boot_new(Network::Up)?;
    let up = site.guest()?.up_after.as_secs_f64();
    site.note(format!("QEMU's start to a usable shell: {up:.1} s"));
    site.join("site=here")?;
    site.ok("systemctl is-system-running --wait || systemctl --failed")?;
    site.bring_packages()?;
    let began = Instant::now();
    let said = site.dpkg(&["agent", "compiler"])?;
    ensure!(!said.contains("warning") && !said.contains("rror"), "dpkg said:\n{said}");
    let installed = began.elapsed().as_secs_f64();
    for unit in ["shoal-guard", "shoal-agent"] {
        let state = site.run(&format!("systemctl is-enabled {unit}; systemctl is-active {unit}"))?.out;
        ensure!(state == "disabled\ninactive\n", "the installation alone made {unit} {state:?}");
    }
    site.ok("systemctl enable --now shoal-guard && systemctl is-active shoal-guard")?;
    site.ok("shoal-agent enroll /root/join.shoal && rm /root/join.shoal")?;
    site.ok("systemctl enable --now shoal-agent && systemctl is-active shoal-agent")?;
    site.wait_online()?;
    let online = began.elapsed().as_secs_f64();
    site.note(format!("package install to enrolled and reporting: {online:.1} s, of them dpkg {installed:.1} s (budget 60 s)"));
    Ok(())
}

/// A deployment, compiled on the device.
pub(super) fn apply(site: &mut Site) -> Result<()> {
    site.import_sensor()?;
    let began = Instant::now();
    site.apply("sensor", "sensor:1", "Always", LIMITS)?;
    let pod = site.wait_runs("sensor")?;
    site.note(format!("apply to running: {:.1} s", began.elapsed().as_secs_f64()));
    let code = &pod["containers"][0]["compiled"];
    site.note(format!(
        "compiled on the device in {} ms, {} bytes of code",
        code["millis"], code["code_size"]
    ));
    wait("its log to reach the operator", || {
        let text = site.shoal(&["logs", "sensor", "--tail", "5"])?;
        Ok(text.contains("temperature_c=").then_some(()))
    })?;
    site.healthy()
}

const LIMITS: &str = "resources:\n  limits:\n    cpu: 300m\n    memory: 32Mi\n    pids: 8";

/// A device that was given no compiler.
pub(super) fn no_compiler(site: &mut Site) -> Result<()> {
    let before = site.pids()?;
    site.guest()?.run_for("dpkg -r shoal-compiler 2>&1", 200)?.ok()?;
    let module =
        format!("(module{WAITS} (memory (export \"memory\") 1) (data (i32.const 900) \"compiled\"))");
    site.import_text("compiled:1", &module)?;
    site.apply("compiled", "compiled:1", "Always", "")?;
    site.wait_pod("compiled", "it to wait for a compiler", |p| p["reason"] == "compiler_absent")?;
    ensure!(site.pids()? == before, "{before:?} did not go on without a compiler");
    site.install(&["compiler"])?;
    site.wait_runs("compiled")?;
    site.shoal(&["delete", "deployment", "compiled", "--yes"])?;
    site.wait_here("it to be gone", |s| Ok((s.pids()? == before).then_some(())))
}

/// What systemd knows of the services, and where the container is.
pub(super) fn units(site: &mut Site) -> Result<()> {
    let version = site.ok("systemctl --version | head -1")?;
    site.note(version.trim().to_owned());
    for unit in ["shoal-guard", "shoal-agent"] {
        let shown = site.ok(&format!(
            "systemctl show {unit} -p Type,WatchdogUSec,ActiveState,SubState,NRestarts,StatusText,NotifyAccess,WatchdogTimestampMonotonic"
        ))?;
        for line in
            ["Type=notify", "WatchdogUSec=5min", "ActiveState=active", "SubState=running", "NRestarts=0"]
        {
            ensure!(shown.lines().any(|l| l == line), "{unit}: no {line} in\n{shown}");
        }
        ensure!(
            !shown.contains("WatchdogTimestampMonotonic=0\n"),
            "{unit}: the watchdog never heard of it\n{shown}"
        );
        let exposure = site.run(&format!("systemd-analyze security {unit} | tail -1"))?.out;
        let exposure = exposure.split(": ").nth(1).unwrap_or("?").trim().to_owned();
        site.note(format!("systemd-analyze security {unit}: {exposure}"));
    }
    let pids = site.pids()?;
    let [pid] = pids[..] else { bail!("containers {pids:?}, expected one") };
    let group = site.ok(&format!("cat /proc/{pid}/cgroup"))?;
    let payload = "0::/shoal.slice/shoal-payload.service/";
    ensure!(group.starts_with(payload), "the container is in {group}");
    let delegated = site.ok("systemctl show shoal-payload -p Delegate,ControlGroup,ActiveState")?;
    ensure!(delegated.contains("Delegate=yes") && delegated.contains("ActiveState=active"), "{delegated}");
    let failed = site.ok("systemctl --failed --no-legend")?;
    ensure!(failed.trim().is_empty(), "units that failed:\n{failed}");
    let log =
        site.ok("journalctl -b --no-pager -p warning -u shoal-guard -u shoal-agent -u shoal-payload")?;
    let bad = log.lines().find(|line| line.contains("ERROR") || line.contains("panicked"));
    if let Some(line) = bad {
        bail!("the journal has {line}");
    }
    let uid = site.ok(&format!("stat -c %u /proc/{pid}"))?;
    let uid: u32 = uid.trim().parse().context("read the container's user")?;
    ensure!((70_100..71_100).contains(&uid), "the container runs as {uid}");
    Ok(())
}
