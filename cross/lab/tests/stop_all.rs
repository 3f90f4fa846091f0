//! The end of everything on request: after `shoal-guard stop-all` nothing of the device is left, whether its guard runs or not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Device, Finished, cgroups, wait_until};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

/// Every process of the guard with its command line: what names the device's folder, or is in a group of the device's.
fn of_guard(device: &Device) -> BTreeMap<u32, String> {
    let root = device.root.as_os_str().as_bytes();
    let mut found = BTreeMap::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        let groups = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        let is_own = words.contains(&root) || groups.contains(&format!("/{}/", device.cgroup_parent));
        // The agent is a service of its own.
        if is_own && device.agent_pid() != Some(pid) {
            let shown: Vec<_> = words.iter().map(|w| String::from_utf8_lossy(w)).collect();
            found.insert(pid, shown.join(" "));
        }
    }
    found
}

fn mounts_below(root: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|m| m.contains(utf8(root))).map(str::to_owned).collect()
}

fn stop_all(fleet: &Fleet) {
    let root = &fleet.lab.devices[0].root;
    let guard = fleet.lab.binary("shoal-guard");
    let mut command = Command::new(&guard);
    command.args(["stop-all", "--root", utf8(root)]).env("SHOAL_LIBEXEC", guard.parent().unwrap());
    Finished::of(&mut command).unwrap().ok().unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
}

#[test]
fn stop_all_leaves_no_process_group_or_mount_of_the_device_whether_the_guard_runs_or_was_killed() {
    let test = "stop_all_leaves_no_process_group_or_mount_of_the_device_whether_the_guard_runs_or_was_killed";
    if needs_root(test) {
        return;
    }
    let mut fleet = fleet_with(1);
    fleet.import_wat("sleeps:1", SLEEPS);
    let volume = "      volumes: [{name: data, emptyDir: {sizeLimit: 1Mi}}]\n      restartPolicy";
    let mount = "volumeMounts:\n  - {name: data, mountPath: /data}";
    fleet.apply(&manifest("app", "sleeps:1", "Always", mount).replace("      restartPolicy", volume));
    for is_killed in [false, true] {
        let mut last = BTreeMap::new();
        let all = wait_until("every kind of process", LONG, || {
            last = of_guard(&fleet.lab.devices[0]);
            let has = |verb: &str| last.values().any(|line| line.contains(&format!(" {verb}")));
            Ok(["supervise", "admit", "log", "zygote"].iter().all(|verb| has(verb)).then(|| last.clone()))
        });
        let all = all.unwrap_or_else(|e| panic!("{e:#}\n{last:#?}\n{}", fleet.outputs()));
        let device = &mut fleet.lab.devices[0];
        let mut running = Vec::new();
        wait_until("the container to run", LONG, || {
            running = processes(device);
            Ok((running.len() == 1).then_some(()))
        })
        .unwrap();
        let pid = u32::try_from(running[0].1).unwrap();
        assert!(all.contains_key(&pid) || of_guard(device).contains_key(&pid), "{running:?} {all:#?}");
        assert!(!cgroups::named(&device.cgroup_parent).is_empty());
        device.kill_agent();
        if is_killed {
            device.guard().unwrap().kill();
            assert!(Path::new(&format!("/proc/{pid}")).exists(), "what runs outlives its guard");
        }
        stop_all(&fleet);
        let device = &mut fleet.lab.devices[0];
        if !is_killed {
            wait_until("the guard's end", LONG, || device.guard()?.ended()).unwrap();
        }
        let left = of_guard(device);
        assert!(left.is_empty(), "killed before: {is_killed}: {left:#?}\n{}", fleet.outputs());
        let device = &mut fleet.lab.devices[0];
        assert_eq!(cgroups::named(&device.cgroup_parent), Vec::<std::path::PathBuf>::new());
        assert_eq!(mounts_below(&device.root), Vec::<String>::new());
        // Records stay: what ran starts again.
        device.start_guard().unwrap();
        device.start_agent().unwrap();
        fleet.wait_running("app", 1);
    }
    fleet.lab.stop().unwrap();
}
