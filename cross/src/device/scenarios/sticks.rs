//! A site without any network: enrolled, deployed, updated, taken back and reported by sticks alone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::offline::WAITS;
use crate::device::guest::Network;
use crate::device::site::{LONG, Site, utf8, wait};
use crate::device::stick;

/// What stands for the bus of a stick: the device's kernel is one for clouds, and has no USB.
const USB: &str = "printf 'SUBSYSTEM==\"block\", KERNEL==\"vd[c-z]\", ENV{ID_BUS}=\"usb\"\\n' > /etc/udev/rules.d/59-usb.rules; udevadm control --reload";

/// The engine's kept verdict.
const PROVEN: &str = "test -e /var/lib/shoal/supervise/cache/engine.proof";

pub(super) fn run(site: &mut Site) -> Result<()> {
    let desk = Desk { dir: tempfile::tempdir().context("make a temporary folder")? };
    site.import_text("big:1", &big())?;
    site.apply("big", "big:1", "Always", "")?;
    let first = desk.bundle(site, "first", &["big", "--receipt"])?;
    let factory = desk.path("factory");
    site.shoal(&["provision", "--count", "1", "--labels", "site=here", "-o", utf8(&factory)?])?;

    site.off()?;
    site.boot_new(Network::Absent)?;
    site.install(&["agent", "compiler"])?;
    // The engine is being proven now: what is at work holds up no shutdown.
    site.ok("systemctl enable --now shoal-guard")?;
    let began = Instant::now();
    site.off()?;
    let took = began.elapsed().as_secs();
    ensure!(took < 80, "with a job at work it took {took} s to switch itself off");

    // By hand: the first time.
    site.boot(Network::Absent)?;
    ensure!(site.run("test -e /sys/class/net/eth0")?.code != 0, "it has a network device");
    site.ok("systemctl start shoal-guard")?;
    let join = factory.join("join-0001.shoal");
    site.plug(&desk.stick("one", &[&first, &join])?)?;
    site.ok("mkdir -p /mnt && mount /dev/vdc /mnt && shoal-agent enroll --offline /mnt/join-0001.shoal")?;
    site.ok("systemctl enable --now shoal-agent")?;
    // Once in a device's life, and before any code of its counts.
    let began = Instant::now();
    site.wait_here("the engine's proof", |s| Ok((s.run(PROVEN)?.code == 0).then_some(())))?;
    site.note(format!("the engine proved itself within {:.1} s more", began.elapsed().as_secs_f64()));
    let began = Instant::now();
    let take = "shoal-agent sideload /mnt/first.shoal --receipt /mnt --wait 240";
    site.guest()?.run_for(take, LONG.as_secs())?.ok()?;
    site.wait_here("it to run", |s| s.running("big"))?;
    site.note(format!(
        "sideload of an image of 1 MB to running: {:.1} s (budget 20 s)",
        began.elapsed().as_secs_f64()
    ));
    site.ok("umount /mnt")?;
    desk.told(site, "one", 1)?;
    site.cut();
    site.boot(Network::Absent)?;
    site.wait_here("it to run again", |s| s.running("big"))?;

    // By themselves: an update without what the first stick brought, and the way back.
    site.ok(USB)?;
    site.ok("mkdir -p /etc/shoal && touch /etc/shoal/sticks")?;
    site.apply("big", "big:1", "Always", "env: [{name: TURN, value: second}]")?;
    let second = desk.bundle(site, "second", &["big", "--receipt", "--since", utf8(&first)?])?;
    let began = Instant::now();
    site.plug(&desk.stick("two", &[&second])?)?;
    site.wait_here("the second revision to run", |s| Ok(s.running("big")?.filter(|n| *n == 2)))?;
    site.note(format!("a stick put in, its update running: {:.1} s", began.elapsed().as_secs_f64()));
    taken(site, 1)?;
    desk.told(site, "two", 2)?;
    let third = desk.bundle(site, "third", &["--undo", "big"])?;
    site.plug(&desk.stick("three", &[&third])?)?;
    site.wait_here("the third revision to run", |s| Ok(s.running("big")?.filter(|n| *n == 3)))?;
    taken(site, 2)?;
    site.unplug()?;

    // One from before changes nothing, and is told.
    site.plug(&desk.stick("four", &[&first])?)?;
    taken(site, 3)?;
    let journal = site.ok("journalctl -b --no-pager -u 'shoal-stick@*'")?;
    ensure!(journal.contains("rollback"), "no refusal of an older stick in its journal:\n{journal}");
    ensure!(site.running("big")? == Some(3), "an older stick changed what runs");
    site.unplug()?;
    // Nothing that the owner did not ask for.
    site.ok("rm /etc/shoal/sticks")?;
    site.plug(&desk.stick("five", &[&third])?)?;
    site.ok("udevadm settle; test -b /dev/vdc")?;
    taken(site, 3)?;
    site.unplug()?;
    site.shoal(&["delete", "deployment", "big", "--yes"]).map(drop)
}

/// The operator's side of the way.
struct Desk {
    dir: TempDir,
}

impl Desk {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bundle(&self, site: &Site, name: &str, more: &[&str]) -> Result<PathBuf> {
        let path = self.path(&format!("{name}.shoal"));
        site.shoal(&[&["bundle", "create", "--yes", "--out", utf8(&path)?], more].concat())?;
        Ok(path)
    }

    /// A stick with these files.
    fn stick(&self, name: &str, files: &[&Path]) -> Result<PathBuf> {
        let disk = self.path(&format!("{name}.raw"));
        stick::make(&disk, files)?;
        Ok(disk)
    }

    /// Takes the stick out and imports the receipt on it: it must say that this revision runs.
    fn told(&self, site: &mut Site, name: &str, sequence: u64) -> Result<()> {
        site.unplug()?;
        let back = self.path(&format!("{name}-back"));
        stick::read(&self.path(&format!("{name}.raw")), &back)?;
        let entries = fs::read_dir(&back).with_context(|| format!("read {}", back.display()))?;
        let mut receipts = entries.flatten().map(|entry| entry.path());
        let receipt = receipts.find(|path| path.extension().is_some_and(|end| end == "receipt"));
        let receipt = receipt.context("the stick came back without a receipt")?;
        let told = site.lab.operator.json(&["receipt", "import", utf8(&receipt)?])?;
        let pod: &Value = &told["imported"][0]["receipt"]["pods"][0];
        ensure!(
            pod["sequence"] == sequence && ["running", "healthy"].iter().any(|p| pod["phase"] == *p),
            "the receipt says {told:#}"
        );
        Ok(())
    }
}

/// Waits until this many sticks were taken since the device's start, whatever came of them.
fn taken(site: &mut Site, wanted: usize) -> Result<()> {
    let told = "journalctl -b --no-pager -o cat -u 'shoal-stick@*' _PID=1 | grep -c -e '^Finished' -e '^Failed to start' || true";
    wait("the stick to be taken", || {
        let seen = site.ok(told)?;
        Ok((seen.trim() == wanted.to_string()).then_some(()))
    })
}

/// A module of a megabyte: nearly all of it data that does not compress.
fn big() -> String {
    let mut data = String::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..1_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Writing to a String cannot fail.
        let _ = write!(data, "\\{:02x}", seed & 0xff);
    }
    format!("(module{WAITS} (memory (export \"memory\") 20) (data (i32.const 65536) \"{data}\"))")
}
