//! F1 in the middle of a change of the device's own software: guard or agent killed at every named point of it, on the way
//! there and on the way back. What runs afterwards is one of the two, whole, and the containers notice nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use crate::software::{
    has, may_release, programs, publish, replace, restart_ended, runs_version, started, wait_device,
};
use shoal_lab::wait_until;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Whose point it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Agent,
    Guard,
}
use Who::{Agent, Guard};

/// Whose point, which, and the version of the guard that runs when all is started again.
type Kill = (Who, &'static str, &'static str);

const OLD: &str = "as installed";
const NEW: &str = "9.9.0";
const BAD: &str = "9.10.0";
/// Every point, in the order in which a change passes them: first one that works, then one that does not.
const KILLS: [Kill; 8] = [
    (Agent, "software_brought", OLD),
    (Agent, "software_switch", OLD),
    (Guard, "supervise::release_placed", OLD),
    (Guard, "supervise::release_switched", NEW),
    (Agent, "software_confirm", NEW),
    (Guard, "supervise::release_proved", NEW),
    (Guard, "supervise::release_switched", BAD),
    (Guard, "supervise::release_taken_back", NEW),
];

/// A process, and when it began: a later one may get the same number.
fn began(pid: u64) -> Option<(u64, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some((pid, stat.rsplit(") ").next()?.split(' ').nth(19)?.to_owned()))
}

/// All files below a folder, links followed.
fn files(folder: &Path, below: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder.join(below)).unwrap().map(|e| below.join(e.unwrap().file_name()));
    entries.flat_map(|e| if folder.join(&e).is_dir() { files(folder, &e) } else { [e].into() }).collect()
}

/// A device whose guard and agent die at the point for which they are armed, once a token lies there.
struct Killed {
    fleet: Fleet,
    tokens: PathBuf,
    containers: Vec<Option<(u64, String)>>,
}

impl Killed {
    fn begin() -> Self {
        let mut fleet = fleet();
        let tokens = fleet.dir.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o777)).unwrap();
        let first = |who| armed(who, 0, &tokens);
        let env = [first(Agent), first(Guard)].concat();
        let add = fleet.lab.add_device_with("site=here", |d| {
            d.env = env;
            Ok(())
        });
        add.unwrap();
        fleet.lab.devices[0].env.clear();
        may_release(&fleet);
        fleet.wait_online();
        Self { fleet, tokens, containers: Vec::new() }
    }

    /// Waits for the kill, looks at what is left, and starts the process again, armed for its next one.
    fn pass(&mut self, n: usize, folders: &[(&str, &Path)]) {
        let (who, point, version) = KILLS[n];
        let tokens = self.tokens.clone();
        let died = wait_until(&format!("the kill at {point}"), LONG, || {
            let device = &mut self.fleet.lab.devices[0];
            if who == Guard && device.agent()?.ended()?.is_some() {
                // As a service manager does: the agent of a bad release ends at once.
                device.start_agent()?;
            }
            let process = if who == Agent { device.agent()? } else { device.guard()? };
            Ok((process.ended()?.is_some() && !token(who, &tokens).exists()).then_some(()))
        });
        died.unwrap_or_else(|e| panic!("{e:#}\n{}", self.fleet.outputs()));
        self.containers_ran_on(point);
        if let Some((next, ..)) = KILLS.get(n + 1) {
            // It may be the other one's, which runs already.
            std::fs::write(token(*next, &tokens), "").unwrap();
        }
        let device = &mut self.fleet.lab.devices[0];
        device.env = armed(who, n + 1, &tokens);
        let again = if who == Agent { device.start_agent() } else { device.start_guard() };
        device.env.clear();
        again.unwrap_or_else(|e| panic!("after {point}: {e:#}\n{}", self.fleet.outputs()));
        self.guard_is_whole(point, version, folders);
        self.containers_ran_on(point);
    }

    /// The guard that runs is of this version, and every file of that is beside it as it was signed.
    fn guard_is_whole(&mut self, after: &str, version: &str, folders: &[(&str, &Path)]) {
        let device = &mut self.fleet.lab.devices[0];
        let pid = device.guard().unwrap().pid();
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let own = exe.parent().unwrap();
        let is_of_release = own.starts_with(device.root.join("var/lib/shoal/releases"));
        assert_eq!(
            is_of_release,
            version != OLD,
            "after {after}: {}\n{}",
            exe.display(),
            self.fleet.outputs()
        );
        let Some((_, signed)) = folders.iter().find(|(v, _)| *v == version) else { return };
        let label = std::fs::read_to_string(own.join("RELEASE")).unwrap();
        assert_eq!(label.lines().next(), Some(version), "after {after}");
        let wanted = files(signed, Path::new(""));
        assert!(wanted.len() > 4, "{wanted:?}");
        for file in wanted {
            let same = std::fs::read(own.join(&file)).ok() == std::fs::read(signed.join(&file)).ok();
            assert!(same, "after {after}: {} is not as it was signed", file.display());
        }
    }

    fn containers_ran_on(&self, after: &str) {
        let now: Vec<_> = self.containers.iter().flatten().map(|(pid, _)| began(*pid)).collect();
        assert!(
            !now.is_empty() && now == self.containers,
            "after {after}: {now:?}\n{}",
            self.fleet.outputs()
        );
    }
}

fn token(who: Who, tokens: &Path) -> PathBuf {
    tokens.join(if who == Agent { "agent" } else { "guard" })
}

/// What arms a process for its next kill, from the `n`-th on.
fn armed(who: Who, n: usize, tokens: &Path) -> Vec<(String, String)> {
    let (at, once) = match who {
        Agent => ("SHOAL_KILL_AT", "SHOAL_KILL_ONCE"),
        Guard => ("SHOAL_GUARD_KILL_AT", "SHOAL_GUARD_KILL_ONCE"),
    };
    let Some((_, point, _)) = KILLS[n..].iter().find(|k| k.0 == who) else { return Vec::new() };
    vec![(at.into(), (*point).into()), (once.into(), utf8(&token(who, tokens)).into())]
}

#[test]
fn f1_a_change_of_software_killed_at_any_point_ends_on_the_new_one_and_a_bad_one_on_what_was_before() {
    let test =
        "f1_a_change_of_software_killed_at_any_point_ends_on_the_new_one_and_a_bad_one_on_what_was_before";
    if needs_root(test) {
        return;
    }
    let mut device = Killed::begin();
    // There is no point without its kill.
    let points = |binary: &str, prefix: &str| -> Vec<String> {
        let all = device.fleet.lab.devices[0].points(binary).unwrap();
        all.into_iter().filter(|p| p.starts_with(prefix)).collect()
    };
    let all = [points("shoal-agent", "software"), points("shoal-guard", "supervise::release")].concat();
    let here: BTreeSet<&str> = KILLS.iter().map(|(_, point, _)| *point).collect();
    assert_eq!(all.iter().map(String::as_str).collect::<BTreeSet<_>>(), here);

    device.fleet.import_wat("sleeps:1", SLEEPS);
    device.fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let before = device.fleet.wait_running("app", 1).remove(0);
    device.containers =
        processes(&device.fleet.lab.devices[0]).into_iter().map(|(_, pid)| began(pid)).collect();
    let (good, bad) = (programs(&device.fleet, "good"), programs(&device.fleet, "bad"));
    replace(&bad, "shoal-agent", "/bin/true");
    let folders: [(&str, &Path); 2] = [(NEW, &good), (BAD, &bad)];

    std::fs::write(token(KILLS[0].0, &device.tokens), "").unwrap();
    publish(&device.fleet, &good, NEW, "2m");
    for n in 0..6 {
        device.pass(n, &folders);
    }
    let proved = |d: &serde_json::Value| runs_version(NEW)(d) && !has(d, "update_on_trial");
    let now = wait_device(&mut device.fleet, "the new software to prove itself", |_| {}, proved);
    assert!(!has(&now, "update_failed") && !has(&now, "update_pending"), "{now:#}");
    // All of that was nobody's fault.
    let described = device.fleet.lab.operator.json(&["describe", "device", now["id"].as_str().unwrap()]);
    let refusals = described.unwrap()["refusals"].clone();
    assert!(refusals.as_array().is_none_or(Vec::is_empty), "{refusals:#}");

    publish(&device.fleet, &bad, BAD, "8s");
    for n in 6..KILLS.len() {
        device.pass(n, &folders);
    }
    let is_back = |d: &serde_json::Value| runs_version(NEW)(d) && has(d, "update_failed");
    wait_device(&mut device.fleet, "the way back", restart_ended, is_back);
    device.guard_is_whole("all of it", NEW, &folders);
    device.containers_ran_on("all of it");
    let after = device.fleet.wait_running("app", 1).remove(0);
    assert_eq!(started(&before), started(&after), "{}", device.fleet.outputs());

    // What proved itself is the floor, although the guard was killed before it told admission.
    publish(&device.fleet, &good, "9.8.0", "2m");
    let refused = wait_until("the older version to be refused", LONG, || {
        Ok((device.fleet.refusals(0, "agent_rollback") > 0).then_some(()))
    });
    refused.unwrap_or_else(|e| panic!("{e:#}\n{}", device.fleet.outputs()));
    device.fleet.lab.stop().unwrap();
}
