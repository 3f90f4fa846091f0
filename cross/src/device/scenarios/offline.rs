//! Without a network, without the time, and without ever having had a network.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::device::guest::Network;
use crate::device::site::{Site, wait};

/// U1.
pub(super) fn reboot(site: &mut Site) -> Result<()> {
    let before = site.running("sensor")?.context("the sensor does not run")?;
    site.off()?;
    let began = Instant::now();
    site.boot(Network::Absent)?;
    ensure!(site.run("test -e /sys/class/net/eth0")?.code != 0, "it has a network device");
    let now = site.wait_here("the sensor to run", |s| s.running("sensor"))?;
    ensure!(now == before, "revision {now} runs, {before} did");
    site.note(format!(
        "cold start without a network: the container runs {:.1} s after QEMU's start",
        began.elapsed().as_secs_f64()
    ));
    site.off()?;
    site.boot(Network::Up)?;
    site.wait_online().map(drop)
}

/// S22.
pub(super) fn clock(site: &mut Site) -> Result<()> {
    site.off()?;
    site.boot_with(Network::Up, Some("1970-01-01T00:00:00"), None)?;
    // systemd begins no earlier than at its own release; a device whose init does not is worse off.
    site.ok("systemctl stop shoal-agent shoal-guard; date -s @60; systemctl start shoal-guard shoal-agent")?;
    let year = site.ok("date +%Y")?;
    ensure!(year.trim() == "1970", "the clock says {year}");
    site.wait_here("the sensor to run", |s| s.running("sensor"))?;
    wait("time_untrusted to be reported", || {
        let told = site.described()?;
        Ok(told["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c == "time_untrusted"))
            .then_some(()))
    })?;
    site.apply("clock", "sensor:1", "Always", "env: [{name: TURN, value: clock}]")?;
    site.wait_runs("clock")?;
    site.shoal(&["delete", "deployment", "clock", "--yes"])?;
    site.off()?;
    site.boot(Network::Up)?;
    wait("the right time to be told", || {
        let told = site.described()?;
        Ok((!told["conditions"].to_string().contains("time_untrusted")).then_some(()))
    })
}

/// Imports and a `_start` that waits, an hour at a time, for ever.
pub(super) const WAITS: &str = r#"
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (loop $again
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (br $again)))"#;
