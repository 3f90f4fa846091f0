//! F6: what ends, is restarted or upgraded beside a container takes neither the container nor a line of its log along.

use anyhow::{Context as _, Result, bail, ensure};

use crate::device::site::Site;

pub(super) fn guard(site: &mut Site) -> Result<()> {
    through(site, &["shoal-guard"], |site| site.ok("systemctl restart shoal-guard").map(drop))
}

pub(super) fn agent(site: &mut Site) -> Result<()> {
    through(site, &["shoal-agent"], |site| {
        site.ok("systemctl kill -s KILL shoal-agent").map(drop)?;
        site.wait_here("systemd to start it again", |s| {
            let shown = s.ok("systemctl show shoal-agent -p SubState,NRestarts")?;
            Ok((shown.contains("SubState=running") && !shown.contains("NRestarts=0")).then_some(()))
        })
    })
}

pub(super) fn upgrade(site: &mut Site) -> Result<()> {
    let version = "dpkg-query -W -f '${Version}' shoal-agent";
    let before = site.ok(version)?;
    through(site, &["shoal-guard", "shoal-agent"], |site| site.install(&["newer"]).map(drop))?;
    let after = site.ok(version)?;
    ensure!(after == format!("{before}+later1"), "{after} is installed, before it was {before}");
    Ok(())
}

/// Does it, and looks at the sensor's container before and after.
fn through(site: &mut Site, renewed: &[&str], act: impl FnOnce(&mut Site) -> Result<()>) -> Result<()> {
    site.wait_online()?;
    let pids = site.pids()?;
    let [pid] = pids[..] else { bail!("containers {pids:?}, expected one") };
    let began = started(site, pid)?;
    let services = |site: &mut Site| -> Result<Vec<String>> {
        renewed.iter().map(|unit| site.ok(&format!("systemctl show {unit} -p MainPID"))).collect()
    };
    let (before, lines) = (services(site)?, numbers(site)?);
    act(site)?;
    let after = services(site)?;
    for (unit, (old, new)) in renewed.iter().zip(before.iter().zip(&after)) {
        ensure!(old != new, "{unit} is the same process as before: {old}");
        site.ok(&format!("systemctl is-active {unit}"))?;
    }
    let found =
        site.wait_here("the device to answer", |s| Ok(Some(s.pids()?).filter(|all| !all.is_empty())))?;
    ensure!(found == pids && started(site, pid)? == began, "{pids:?} became {found:?}");
    // The log goes on, without a gap.
    let last = *lines.last().context("the sensor had said nothing")?;
    let lines = site
        .wait_here("more of its log", |s| Ok(Some(numbers(s)?).filter(|n| n.last() > Some(&(last + 3)))))?;
    let (first, last) = (lines.first().copied().unwrap_or(0), lines.last().copied().unwrap_or(0));
    let expected: Vec<u64> = (first..=last).collect();
    ensure!(lines == expected, "of its log's lines {first} to {last} some are missing or twice: {lines:?}");
    site.note(format!("container {pid} went on; {} lines of its log, none missing", lines.len()));
    // The whole path still works.
    site.apply("after", "sensor:1", "Always", &format!("env: [{{name: TURN, value: \"{pid}{last}\"}}]"))?;
    site.wait_runs("after")?;
    site.shoal(&["delete", "deployment", "after", "--yes"])?;
    site.wait_here("it to be gone", |s| Ok((s.pids()? == [pid]).then_some(())))
}

fn started(site: &mut Site, pid: u64) -> Result<String> {
    site.ok(&format!("sed 's/.*) //' /proc/{pid}/stat | cut -d' ' -f20"))
}

/// The numbers of the lines in the sensor's log.
fn numbers(site: &mut Site) -> Result<Vec<u64>> {
    let text = site.ok(
        "cd /var/log/shoal/pods && cat $(ls -d */* | grep -v after)/*.log* 2> /dev/null | grep -o 'seq=[0-9]* temp' | grep -o '[0-9]*'",
    )?;
    let mut all: Vec<u64> = text.lines().filter_map(|n| n.parse().ok()).collect();
    all.sort_unstable();
    Ok(all)
}
