//! Without a network, without the time, and without ever having had a network.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::device::guest::Network;
use crate::device::site::{LONG, Site, wait};
use crate::process;

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

/// A device that nobody can reach but with a stick.
pub(super) fn sideload(site: &mut Site) -> Result<()> {
    let scratch = tempfile::tempdir().context("make a temporary folder")?;
    let stick = scratch.path().join("stick");
    fs::create_dir(&stick).context("make the stick's folder")?;
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
    // A module of a megabyte: nearly all of it data that does not compress.
    let mut data = String::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..1_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Writing to a String cannot fail.
        let _ = write!(data, "\\{:02x}", seed & 0xff);
    }
    site.import_text(
        "big:1",
        &format!("(module{WAITS} (memory (export \"memory\") 20) (data (i32.const 65536) \"{data}\"))"),
    )?;
    site.apply("big", "big:1", "Always", "")?;
    site.shoal(&["bundle", "create", "big", "--out", &text(&stick.join("big.shoal"))?])?;
    site.shoal(&[
        "provision",
        "--count",
        "1",
        "--labels",
        "site=here",
        "-o",
        &text(&stick.join("factory"))?,
    ])?;
    let disk = scratch.path().join("stick.raw");
    let mut make = Command::new("mke2fs");
    make.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    process::run(make.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&stick).arg(&disk).arg("16M"))?;

    site.off()?;
    site.boot_new(Network::Absent)?;
    site.install(&["agent", "compiler"])?;
    // The engine is being proven now: what is at work holds up no shutdown.
    site.ok("systemctl enable --now shoal-guard")?;
    let began = Instant::now();
    site.off()?;
    let took = began.elapsed().as_secs();
    ensure!(took < 80, "with a job at work it took {took} s to switch itself off");
    site.boot_stick(&disk)?;
    site.ok("systemctl start shoal-guard")?;
    site.ok("mkdir -p /mnt && mount -o ro /dev/vdb /mnt && shoal-agent enroll --offline /mnt/factory/join-0001.shoal")?;
    site.ok("systemctl enable --now shoal-agent")?;
    let began = Instant::now();
    site.guest()?.run_for("shoal-agent sideload /mnt/big.shoal", LONG.as_secs())?.ok()?;
    site.wait_here("it to run", |s| s.running("big"))?;
    site.note(format!(
        "sideload of an image of 1 MB to running: {:.1} s (budget 20 s)",
        began.elapsed().as_secs_f64()
    ));
    site.cut();
    site.boot(Network::Absent)?;
    site.wait_here("it to run again", |s| s.running("big"))?;
    site.shoal(&["delete", "deployment", "big", "--yes"]).map(drop)
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
