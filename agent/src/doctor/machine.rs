//! What the machine itself has: the checks, ids and verdicts that deploy/install.sh has too, so that what the installer said
//! before is what `shoal-agent doctor` says after. Reads files of the kernel's; needs no guard, and changes nothing.

use super::{Check, State, bad, ok};
use crate::{output, system, tls};
use shoal_ipc::Layout;
use std::fs;
use std::path::Path;

/// The ids, in the order in which they are printed; install.sh names the same ones.
#[cfg(test)]
const IDS: [&str; 12] = [
    "architecture",
    "kernel",
    "namespaces",
    "seccomp",
    "landlock",
    "overlay",
    "cgroups",
    "memory-limit",
    "cpu-limit",
    "pids-limit",
    "disk",
    "clock",
];

/// Bytes that should be free for images and compiled code.
const LOW_DISK: u64 = 128 << 20;
/// 2024-01-01: a clock before this has never been set.
pub(super) const NEVER_SET: u64 = 1_704_067_200;

const NO_LANDLOCK: &str = "containers that require it are refused";

/// A kernel's version as far as it decides anything.
type Version = (u32, u32);

/// All of them.
pub(super) fn examine(layout: &Layout) -> Vec<Check> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let version = version(&release);
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let groups = Groups::read(&mounts, |point| {
        fs::read_to_string(Path::new(point).join("cgroup.controllers")).unwrap_or_default()
    });
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    vec![
        architecture(&uname.machine().to_string_lossy()),
        kernel(&release, version),
        namespaces(|kind| Path::new("/proc/self/ns").join(kind).symlink_metadata().is_ok()),
        seccomp(Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()),
        landlock(version, fs::read_to_string("/sys/kernel/security/lsm").ok().as_deref(), || {
            let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
            symbols.contains("landlock_create_ruleset")
        }),
        overlay(&fs::read_to_string("/proc/filesystems").unwrap_or_default(), has_module(&release)),
        groups.check(),
        memory_limit(&groups, &command_line),
        limit(&groups, "cpu-limit", "cpu", "containers with a limit of CPU are refused"),
        limit(&groups, "pids-limit", "pids", "containers with a limit of processes are refused"),
        disk(&layout.state()),
        clock(),
    ]
}

fn version(release: &str) -> Version {
    let mut parts = release.split(['.', '-']).map_while(|p| p.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn architecture(machine: &str) -> Check {
    match machine {
        "x86_64" | "aarch64" => ok("architecture", machine),
        other => bad("architecture", State::Failed, other, "there are packages for x86_64 and aarch64 only"),
    }
}

fn kernel(release: &str, version: Version) -> Check {
    if version >= (5, 13) {
        ok("kernel", release)
    } else if version >= (5, 11) {
        let hint = "Landlock came with Linux 5.13: containers that require it are refused";
        bad("kernel", State::Warn, release, hint)
    } else {
        bad("kernel", State::Failed, release, "Linux 5.11 or newer is needed (5.13 for all walls)")
    }
}

fn namespaces(has: impl Fn(&str) -> bool) -> Check {
    let all = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<&str> = all.into_iter().filter(|kind| !has(kind)).collect();
    if missing.is_empty() {
        return ok("namespaces", all.join(" "));
    }
    let found = format!("none of: {}", missing.join(" "));
    bad("namespaces", State::Failed, found, "no container starts without them: another kernel is needed")
}

fn seccomp(is_there: bool) -> Check {
    if is_there {
        return ok("seccomp", "filters of system calls");
    }
    let hint = "no container starts without it: the kernel needs CONFIG_SECCOMP_FILTER";
    bad("seccomp", State::Failed, "none", hint)
}

/// `lsm` is the kernel's list, where securityfs is mounted; else only whether it was built in can be seen.
fn landlock(version: Version, lsm: Option<&str>, is_built_in: impl FnOnce() -> bool) -> Check {
    let words = match version {
        v if v >= (6, 12) => "folders, truncation, TCP ports, signals",
        v if v >= (6, 7) => "folders, truncation, TCP ports; no signals before Linux 6.12",
        v if v >= (6, 2) => "folders, truncation; no TCP ports before Linux 6.7",
        _ => "folders; no truncation before Linux 6.2",
    };
    let warn =
        |found: &str, what: &str| bad("landlock", State::Warn, found, &[what, ": ", NO_LANDLOCK].concat());
    if version < (5, 13) {
        return warn("none", "it came with Linux 5.13");
    }
    match lsm {
        Some(list) if list.trim().split(',').any(|word| word == "landlock") => ok("landlock", words),
        Some(_) => warn("off", "add landlock to lsm= on the kernel command line"),
        None if is_built_in() => ok("landlock", words),
        None => warn("none", "the kernel needs CONFIG_SECURITY_LANDLOCK"),
    }
}

fn has_module(release: &str) -> bool {
    let folder = Path::new("/lib/modules").join(release).join("kernel/fs/overlayfs");
    ["overlay.ko", "overlay.ko.xz", "overlay.ko.zst", "overlay.ko.gz"].iter().any(|n| folder.join(n).exists())
}

fn overlay(filesystems: &str, as_module: bool) -> Check {
    if filesystems.split_whitespace().any(|word| word == "overlay") {
        ok("overlay", "built in, or loaded")
    } else if as_module {
        ok("overlay", "as a module")
    } else {
        let hint = "files of images are copied into the memory of each container instead";
        bad("overlay", State::Warn, "none", hint)
    }
}

/// Where controllers are mounted.
struct Groups {
    /// The options of each tree of v1.
    v1: Vec<String>,
    /// The controllers of v2, where it is mounted.
    v2: Option<String>,
}

impl Groups {
    /// From `/proc/mounts`; `controllers` reads the list of a tree of v2.
    fn read(mounts: &str, controllers: impl Fn(&str) -> String) -> Self {
        let (mut v1, mut v2) = (Vec::new(), None);
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            match (words.next(), words.next(), words.next()) {
                (_, Some("cgroup"), Some(options)) => v1.push(options.to_owned()),
                (Some(point), Some("cgroup2"), _) if v2.is_none() => v2 = Some(controllers(point)),
                _ => {}
            }
        }
        Self { v1, v2 }
    }

    fn has(&self, controller: &str) -> bool {
        self.v1.iter().any(|options| options.split(',').any(|o| o == controller))
            || self.v2.iter().any(|list| list.split_whitespace().any(|word| word == controller))
    }

    fn check(&self) -> Check {
        match (self.v1.is_empty(), &self.v2) {
            (false, Some(_)) => ok("cgroups", "v1 and v2"),
            (true, Some(_)) => ok("cgroups", "v2"),
            (false, None) => ok("cgroups", "v1"),
            (true, None) => bad(
                "cgroups",
                State::Warn,
                "none",
                "mount them (mount -t cgroup2 none /sys/fs/cgroup): containers with limits are refused",
            ),
        }
    }
}

fn limit(groups: &Groups, id: &'static str, controller: &str, hint: &str) -> Check {
    if groups.has(controller) {
        ok(id, format!("controller {controller}"))
    } else {
        bad(id, State::Warn, format!("no controller {controller}"), hint)
    }
}

fn memory_limit(groups: &Groups, command_line: &str) -> Check {
    let is_off = command_line.split_whitespace().any(|word| word == "cgroup_disable=memory");
    let what = if is_off {
        "take cgroup_disable=memory off the kernel command line"
    } else {
        "on the kernel command line: cgroup_enable=memory"
    };
    let hint = format!("containers with a limit of memory are refused; {what}");
    limit(groups, "memory-limit", "memory", &hint)
}

/// On the file system that the state is on, or will be.
fn disk(state: &Path) -> Check {
    let there = state.ancestors().find(|path| path.is_dir()).unwrap_or(state);
    let free = system::disk_free(there);
    let found = format!("{} free in {}", output::size(free), there.display());
    if free >= LOW_DISK {
        ok("disk", found)
    } else {
        bad("disk", State::Warn, found, "images cannot be pulled when space is low; make room")
    }
}

fn clock() -> Check {
    let now = tls::clock().0;
    if now >= NEVER_SET {
        return ok("clock", output::time(now));
    }
    let hint = "set the clock; until then the time that signed documents prove counts";
    bad("clock", State::Warn, output::time(now), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The installer, as it is shipped.
    const INSTALLER: &str = include_str!("../../../deploy/install.sh");

    fn listed(name: &str) -> Vec<&'static str> {
        let start = format!("{name}='");
        let line = INSTALLER.lines().find_map(|line| line.strip_prefix(start.as_str())).unwrap();
        line.trim_end_matches('\'').split(' ').collect()
    }

    #[test]
    fn the_installer_has_the_same_checks_in_the_same_order() {
        let layout = Layout::new("/");
        let ids: Vec<&str> = examine(&layout).iter().map(|check| check.id).collect();
        assert_eq!(ids, IDS);
        assert_eq!(listed("CHECKS"), IDS);
        for id in IDS {
            let function = format!("\ncheck_{}() {{", id.replace('-', "_"));
            assert!(INSTALLER.contains(&function), "no {function} in install.sh");
        }
    }

    #[test]
    fn the_page_explains_every_check_of_both_once() {
        let page = include_str!("../../../docs/install.md");
        let ids = listed("CHECKS").into_iter().chain(listed("RELEASE_CHECKS")).chain(super::super::IDS);
        for id in ids {
            let rows = page.lines().filter(|line| line.starts_with(&format!("| `{id}` |"))).count();
            assert_eq!(rows, 1, "rows for {id} in docs/install.md");
        }
    }

    #[test]
    fn the_installer_and_doctor_have_the_same_bounds() {
        assert!(INSTALLER.contains(&format!("\nNEVER_SET={NEVER_SET}\n")));
        assert!(INSTALLER.contains(&format!("\nLOW_DISK={}\n", LOW_DISK / 1024)));
    }

    #[test]
    fn kernels_are_told_apart_by_number() {
        let state = |release: &str| kernel(release, version(release)).state;
        assert_eq!(state("6.18.44-fc"), State::Ok);
        assert_eq!(state("5.13.0"), State::Ok);
        assert_eq!(state("5.11.22-generic"), State::Warn);
        assert_eq!(state("5.9.1"), State::Failed);
        assert_eq!(state("4.19.0-26-amd64"), State::Failed);
        assert_eq!(state("strange"), State::Failed);
    }

    #[test]
    fn landlock_is_on_off_or_not_there() {
        let state = |version, lsm: Option<&str>, built_in: bool| landlock(version, lsm, || built_in).state;
        assert_eq!(state((6, 12), Some("lockdown,capability,landlock,yama\n"), false), State::Ok);
        assert_eq!(state((6, 12), Some("capability"), true), State::Warn);
        assert_eq!(state((6, 12), None, true), State::Ok);
        assert_eq!(state((6, 12), None, false), State::Warn);
        assert_eq!(state((5, 10), None, true), State::Warn);
    }

    #[test]
    fn controllers_are_found_in_both_versions() {
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n\
                  cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n";
        let groups = Groups::read(v1, |_| String::new());
        assert_eq!(groups.check().found, "v1");
        assert!(groups.has("memory") && groups.has("cpu") && !groups.has("pids"));
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let groups = Groups::read(v2, |point| {
            assert_eq!(point, "/sys/fs/cgroup");
            "cpuset cpu io pids\n".to_owned()
        });
        assert_eq!(groups.check().found, "v2");
        assert!(groups.has("pids") && !groups.has("memory"));
        let off = memory_limit(&groups, "quiet cgroup_disable=memory rw");
        assert!(off.state == State::Warn && off.hint.unwrap().contains("take cgroup_disable=memory off"));
        let none = Groups::read("", |_| String::new());
        assert_eq!(none.check().state, State::Warn);
    }

    #[test]
    fn what_no_container_starts_without_fails() {
        assert_eq!(namespaces(|kind| kind != "net").state, State::Failed);
        assert_eq!(seccomp(false).state, State::Failed);
        assert_eq!(architecture("armv7l").state, State::Failed);
        assert_eq!(overlay("nodev\tproc\n\text4\n", false).state, State::Warn);
        assert_eq!(overlay("nodev\toverlay\n", false).state, State::Ok);
    }
}
