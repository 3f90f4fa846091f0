//! `shoal demo`: the main job on this machine, from the installed programs alone; then two attacks; then nothing is left.
//!
//! It starts what is installed and reads what that prints. Nothing of a controller or a device is part of this program.

mod fleet;
mod hostile;
mod parts;
mod tidy;

use crate::args::{Demo, DemoKeeper, DemoOffer};
use crate::error::{CliError, OnPath as _, Result};
use crate::output;
use fleet::{Fleet, is_root};
use parts::Parts;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

/// Logs a simulated temperature once a second.
const GUEST: &[u8] = include_bytes!("../../../../../deploy/apps/prebuilt/sensor.wasm");
/// With limits, for which root is needed.
const LIMITED: &str = include_str!("../../../../../deploy/examples/sensor.yaml");
const UNLIMITED: &str = include_str!("../../../../../deploy/examples/sensor-unlimited.yaml");
const STEPS: u32 = 6;

/// Says where the demo is.
struct Teller {
    began: Instant,
    step: u32,
}

impl Teller {
    fn say(&mut self, words: &str) {
        self.step += 1;
        let seconds = self.began.elapsed().as_secs_f64();
        output::line(&format!("\n[{}/{STEPS}] {words}  ({seconds:.1} s)", self.step));
    }
}

pub(super) fn run(args: &Demo) -> Result<()> {
    if let Some(dir) = &args.stop {
        tidy::stop(dir)?;
        output::line(&format!("stopped; {} is gone", dir.display()));
        return Ok(());
    }
    let parts = Parts::find(args.libexec.as_deref())?;
    let made = tempfile::Builder::new()
        .prefix("shoal-demo-")
        .tempdir()
        .map_err(|e| CliError::failure("cannot make a temporary folder").because(e))?;
    // Users of the device and of the broker have to pass through; everything below has its own mode.
    fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755)).on_path("open", made.path())?;
    let dir = made.path().canonicalize().on_path("find", made.path())?;
    tidy::begin(&dir, &parts.libexec)?;
    let mut keeper = tidy::Keeper::spawn(&dir)?;
    // From here on the keeper removes it.
    let _ = made.keep();
    let mut fleet = Fleet::new(&dir, &parts);
    let mut teller = Teller { began: Instant::now(), step: 0 };
    let told = tell(&mut fleet, &dir, &mut teller);
    let group = fleet.group.clone();
    if args.keep && told.is_ok() {
        keeper.leave();
        how_to_look_around(&fleet, &parts, &dir);
        return Ok(());
    }
    output::line(&format!("\nstopping everything  ({:.1} s)", teller.began.elapsed().as_secs_f64()));
    keeper.tidy();
    fleet.reap();
    told.and(tidy::check(&dir, &group))
}

fn tell(fleet: &mut Fleet<'_>, dir: &Path, teller: &mut Teller) -> Result<()> {
    teller.say("a controller, with its own authority, broker and store");
    let address = fleet.start_controller()?;
    fleet.log_in(&address)?;
    teller.say("keys, and a fleet that trusts them");
    fleet.show(&["trust", "init", "--plain-keys", "--name", "demo"])?;
    teller.say("a device joins");
    let join = dir.join("join.shoal");
    fleet.show(&["token", "create", "--labels", "demo=yes", "-o", text(&join)?])?;
    fleet.start_guard()?;
    fleet.join(&join)?;
    fleet.wait("the device to be online", |fleet| {
        let devices = fleet.data(&["get", "devices"]);
        Ok(devices.filter(|d| d["devices"][0]["state"] == "online").map(drop))
    })?;
    fleet.show(&["get", "devices"])?;

    teller.say("a module becomes an image; a deployment is signed and rolled out");
    let (name, manifest) = if is_root() { ("sensor", LIMITED) } else { ("sensor-unlimited", UNLIMITED) };
    if !is_root() {
        output::note(
            "not root: users, limits and walls of containers cannot be had; the deployment asks for none",
        );
    }
    let (guest, file) = (dir.join("sensor.wasm"), dir.join("sensor.yaml"));
    fs::write(&guest, GUEST).on_path("write", &guest)?;
    fs::write(&file, manifest).on_path("write", &file)?;
    fleet.show(&["image", "import", text(&guest)?, "sensor:1.0"])?;
    fleet.show(&["apply", "-f", text(&file)?, "--yes"])?;

    let log = fleet.wait("the program's first words", |fleet| {
        if let Some(pod) = refused(fleet) {
            return Err(CliError::failure("the device did not start it").details(vec![pod]));
        }
        Ok(fleet.ask(&["logs", name, "--tail", "5"]).filter(|log| !log.trim().is_empty()))
    })?;
    teller.say("it runs: the program's own words");
    output::line(&format!("  $ shoal logs {name} --tail 5"));
    log.lines().for_each(|line| output::line(&format!("    {}", output::clean(line))));
    fleet.show(&["get", "pods"])?;

    teller.say(
        "two attacks: what a broken-into agent, or a thief of the controller, could offer to the device",
    );
    for act in hostile::acts(&hostile::genuine(&fleet.operator())?)? {
        let found = hostile::offer(&fleet.device(), &act)?;
        if found.as_deref() != Some(act.code) {
            let found = found.unwrap_or_else(|| "nothing".to_owned());
            return Err(CliError::failure(format!("{}: expected {}, found {found}", act.words, act.code)));
        }
        output::line(&format!("  {}: refused, {}", act.words, act.code));
    }
    Ok(())
}

/// What a device says that it cannot start, if it does.
fn refused(fleet: &Fleet<'_>) -> Option<String> {
    let pods = fleet.data(&["get", "pods"])?;
    let pod = pods["pods"].as_array()?.iter().find(|p| p["phase"] == "failed")?;
    Some(format!("{}: {}", pod["reason"].as_str().unwrap_or(""), pod["message"].as_str().unwrap_or("")))
}

fn how_to_look_around(fleet: &Fleet<'_>, parts: &Parts, dir: &Path) {
    output::line(&format!(
        "\nleft running in {}. Look around:\n  export SHOAL_HOME={}\n  shoal get pods\n  shoal logs sensor -f\n  \
         {} ps --root {}\nand stop it with: shoal demo --stop {}",
        dir.display(),
        fleet.operator().display(),
        parts.libexec.join("shoal-agent").display(),
        fleet.device().display(),
        dir.display(),
    ));
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| CliError::usage(format!("{} is not UTF-8", path.display())))
}

/// The other process, which tidies up when this one is gone, in whatever way.
pub(super) fn keep(args: &DemoKeeper) -> Result<()> {
    tidy::keeper(&args.dir)
}

/// Another process, of the device's agent's user.
pub(super) fn offer(args: &DemoOffer) -> Result<()> {
    hostile::offered(&args.root, &args.file)
}
