//! The scenarios, in their order.

mod basics;
mod cuts;
mod idle;
mod installer;
mod limits;
mod offline;
mod plain_init;
mod removal;
mod restarts;
mod software;
mod sticks;
mod storage;

use anyhow::Result;

use super::site::Site;

/// One check on a virtual device.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Others build on it.
    pub(super) base: bool,
    /// Part of the short form.
    pub(super) smoke: bool,
    pub(super) run: fn(&mut Site) -> Result<()>,
}

const fn of(name: &'static str, what: &'static str, run: fn(&mut Site) -> Result<()>) -> Scenario {
    Scenario { name, what, base: false, smoke: false, run }
}

pub(super) const SCENARIOS: [Scenario; 19] = [
    Scenario {
        base: true,
        smoke: true,
        ..of("install", "packages installed, enrolled, services on: online", basics::install)
    },
    Scenario {
        base: true,
        smoke: true,
        ..of("apply", "a deployment is compiled and runs, its log reaches the operator", basics::apply)
    },
    Scenario {
        smoke: true,
        ..of("units", "systemd's view: notify, watchdog, groups, exposure", basics::units)
    },
    of("no-compiler", "without shoal-compiler a module waits, told; with it, it runs", basics::no_compiler),
    of("limits", "memory, CPU and process limits hold under systemd's tree", limits::run),
    of("guard-restart", "F6: the guard restarted, its container goes on", restarts::guard),
    of("agent-restart", "F6: the agent killed and restarted, its container goes on", restarts::agent),
    of("upgrade", "F6: a later package installed, its container goes on", restarts::upgrade),
    Scenario { smoke: true, ..of("cuts", "U7: power cuts in the middle of deployments", cuts::deployments) },
    of("reboot-offline", "U1: switched on without a network, all that ran runs", offline::reboot),
    of("clock", "S22: a clock of 1970, told and lived with", offline::clock),
    of("disk-full", "F2: no space, told, nothing lost, and on again", storage::full),
    of("read-only", "F2: a file system gone read-only, told, and on again", storage::read_only),
    of("idle", "memory, writes and wake-ups of a device with nothing to do", idle::run),
    of("release", "S26: a signed release in the packages' place, and the way back", software::run),
    of("removal", "removed: nothing runs, state stays; purged: nothing stays", removal::run),
    of(
        "installer",
        "install.sh alone, from a stick: verified, installed, enrolled, online; and removed",
        installer::run,
    ),
    of("sideload", "no network at all: deployed, updated, undone and reported by sticks", sticks::run),
    of("plain-init", "without systemd: an init script, from start to stop-all", plain_init::run),
];
