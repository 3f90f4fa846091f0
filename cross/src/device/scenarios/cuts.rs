//! F1, U7: the power cut at random points of a deployment.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::offline::WAITS;
use crate::device::guest::Network;
use crate::device::site::Site;

/// The latest moment of a cut after `apply`.
const LATEST: Duration = Duration::from_secs(8);

pub(super) fn deployments(site: &mut Site) -> Result<()> {
    let identity = site.status()?["device"].clone();
    ensure!(identity.is_string(), "the device has no identity");
    let mut seed = u64::from(std::process::id()) | 1 << 32;
    site.note(format!("seed {seed}"));
    let (mut floor, mut kept, mut taken) = (0, 0, 0);
    deploy(site, 0)?;
    floor = site.wait_here("the first revision", |s| s.proven("cut"))?.max(floor);
    for turn in 1..=site.cuts {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let after = Duration::from_millis(seed % u64::try_from(LATEST.as_millis())?);
        deploy(site, turn)?;
        std::thread::sleep(after);
        site.cut();
        let began = Instant::now();
        // By itself first: what runs then, it has by what it kept.
        site.boot(Network::Unplugged)?;
        let first = site.wait_here("a revision to run", |s| s.running("cut"))?;
        let at = || format!("cut {turn}, {} ms after apply", after.as_millis());
        ensure!([floor, floor + 1].contains(&first), "{}: revision {first} runs, {floor} had", at());
        let told = site.status()?;
        ensure!(told["device"] == identity, "{}: the device is {}, it was {identity}", at(), told["device"]);
        ensure!(told["refusals"] == serde_json::json!([]), "{}: refusals {}", at(), told["refusals"]);
        *if first == floor { &mut kept } else { &mut taken } += 1;
        let wanted = floor + 1;
        site.plug_in()?;
        // Well for as long as it takes to be what the device goes back to: one that just runs gives way to the one before.
        site.wait_here("the new revision to prove itself", |s| {
            Ok(s.proven("cut")?.filter(|found| *found == wanted))
        })
        .with_context(at)?;
        floor = wanted;
        crate::output::step(
            "cut",
            &format!("{}: well again {:.0} s after it", at(), began.elapsed().as_secs_f64()),
        );
    }
    site.wait_online()?;
    site.note(format!(
        "{} cuts; the revision before ran first after {kept} of them, the new one after {taken}",
        site.cuts
    ));
    site.shoal(&["delete", "deployment", "cut", "--yes"])?;
    site.wait_here("it to be gone", |s| Ok(s.running("cut")?.is_none().then_some(())))?;
    site.healthy()
}

/// A revision with a module of its own, so that all of it is done: fetched, compiled, tried, swapped.
fn deploy(site: &Site, turn: u32) -> Result<()> {
    let image = format!("cut:{turn}");
    site.import_text(
        &image,
        &format!("(module{WAITS} (memory (export \"memory\") 1) (data (i32.const 900) \"turn {turn}\"))"),
    )?;
    site.apply("cut", &image, "Always", "")
}
