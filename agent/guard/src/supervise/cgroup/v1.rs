//! cgroup v1: one tree a controller. Values are set through cgroups-rs and read back from the files themselves,
//! since a failed write of a memory limit is silent there.

use super::{GroupError, keyed, not_applied, read, read_number, same_list, same_memory};
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{ControllIdentifier, Controller, MaxValue, error::Error as LibraryError};
use shoal_ipc::{Applied, DiskLimits, Limits, StatsInfo};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The controllers that containers are put in, where they are mounted.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];

/// Where each controller's tree is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mounts(BTreeMap<&'static str, PathBuf>);

impl Mounts {
    /// Reads `/proc/self/mountinfo`.
    pub(super) fn parse(text: &str) -> Self {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let mut tail = tail.split(' ');
            if tail.next() != Some("cgroup") {
                continue;
            }
            let (Some(point), Some(options)) = (head.split(' ').nth(4), tail.nth(1)) else { continue };
            for name in CONTROLLERS {
                if options.split(',').any(|o| o == name) {
                    all.entry(name).or_insert_with(|| PathBuf::from(point));
                }
            }
        }
        Self(all)
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.0.contains_key(controller)
    }

    /// The group's folder in one tree.
    fn folder(&self, controller: &'static str, name: &str) -> Result<PathBuf, GroupError> {
        let mount = self.0.get(controller).ok_or(GroupError::NoController(controller))?;
        Ok(mount.join(name))
    }

    /// The group's folders, each once although trees may be shared by controllers.
    pub(super) fn folders(&self, name: &str) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.0.values().map(|m| m.join(name)).collect();
        all.sort();
        all.dedup();
        all
    }
}

fn library(path: &Path, e: LibraryError) -> GroupError {
    GroupError::Io { what: "set", path: path.to_owned(), source: std::io::Error::other(e) }
}

pub(super) fn create(mounts: &Mounts, name: &str, limits: &Limits) -> Result<Applied, GroupError> {
    if limits.disk != DiskLimits::default() {
        // v1's blkio does not see what the kernel writes back later: a limit that is none.
        return Err(GroupError::NoController("io (cgroup v2)"));
    }
    for folder in mounts.folders(name) {
        fs::create_dir_all(&folder).map_err(|e| GroupError::io("make", &folder, e))?;
    }
    let mut applied = Applied::default();
    memory(mounts, name, limits, &mut applied)?;
    cpu(mounts, name, limits, &mut applied)?;
    cpuset(mounts, name, limits, &mut applied)?;
    if let Some(wanted) = limits.pids {
        let folder = mounts.folder("pids", name)?;
        let value = MaxValue::Value(i64::try_from(wanted).unwrap_or(i64::MAX));
        controller::<PidController>(&folder, PidController::new)
            .set_pid_max(value)
            .map_err(|e| library(&folder, e))?;
        applied.pids_limit = Some(exact(&folder.join("pids.max"), wanted)?);
    }
    Ok(applied)
}

/// A controller of cgroups-rs for one folder.
fn controller<C: Controller + ControllIdentifier>(folder: &Path, new: fn(PathBuf, PathBuf, bool) -> C) -> C {
    new(folder.to_owned(), PathBuf::new(), false)
}

fn exact(file: &Path, wanted: u64) -> Result<u64, GroupError> {
    match read_number(file) {
        Some(found) if found == wanted => Ok(found),
        _ => Err(not_applied(file.to_owned(), &wanted, &read(file).trim())),
    }
}

fn memory(mounts: &Mounts, name: &str, limits: &Limits, applied: &mut Applied) -> Result<(), GroupError> {
    let Some(wanted) = limits.memory else { return Ok(()) };
    let folder = mounts.folder("memory", name)?;
    let value = i64::try_from(wanted).unwrap_or(i64::MAX);
    let memory = controller::<MemController>(&folder, MemController::new);
    let swap_file = folder.join("memory.memsw.limit_in_bytes");
    let swap = swap_file.exists();
    // Memory and swap together may never be below memory alone: lower the smaller one first on a fresh group, and
    // once more after, for a group that is limited anew.
    let first = memory.set_limit(value);
    if swap {
        memory.set_memswap_limit(value).map_err(|e| library(&folder, e))?;
    }
    first.or_else(|_| memory.set_limit(value)).map_err(|e| library(&folder, e))?;
    let check = |file: &Path| match read_number(file) {
        Some(found) if same_memory(wanted, found) => Ok(found),
        _ => Err(not_applied(file.to_owned(), &wanted, &read(file).trim())),
    };
    applied.memory_limit = Some(check(&folder.join("memory.limit_in_bytes"))?);
    applied.memory_swap_limit = if swap { Some(check(&swap_file)?) } else { None };
    Ok(())
}

fn cpu(mounts: &Mounts, name: &str, limits: &Limits, applied: &mut Applied) -> Result<(), GroupError> {
    if limits.cpu_quota.is_none() && limits.cpu_shares.is_none() {
        return Ok(());
    }
    let folder = mounts.folder("cpu", name)?;
    let cpu = controller::<CpuController>(&folder, CpuController::new);
    if let Some(quota) = limits.cpu_quota {
        let period = limits.cpu_period.unwrap_or(100_000);
        cpu.set_cfs_period(period).map_err(|e| library(&folder, e))?;
        let value = i64::try_from(quota).unwrap_or(i64::MAX);
        cpu.set_cfs_quota(value).map_err(|e| library(&folder, e))?;
        applied.cpu_period = Some(exact(&folder.join("cpu.cfs_period_us"), period)?);
        applied.cpu_quota = Some(exact(&folder.join("cpu.cfs_quota_us"), quota)?);
    }
    if let Some(shares) = limits.cpu_shares {
        cpu.set_shares(shares).map_err(|e| library(&folder, e))?;
        applied.cpu_shares = Some(exact(&folder.join("cpu.shares"), shares)?);
    }
    Ok(())
}

/// A fresh cpuset has no members and takes no task, so members come from the limits or else from the parent.
fn cpuset(mounts: &Mounts, name: &str, limits: &Limits, applied: &mut Applied) -> Result<(), GroupError> {
    let asked = limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some();
    let Some(mount) = mounts.0.get("cpuset") else {
        return if asked { Err(GroupError::NoController("cpuset")) } else { Ok(()) };
    };
    let folder = mount.join(name);
    members(&folder, true, limits.cpuset_cpus.as_ref())?;
    members(&folder, false, limits.cpuset_mems.as_ref())?;
    if limits.cpuset_cpus.is_some() {
        applied.cpuset_cpus = Some(read(&folder.join("cpuset.cpus")).trim().to_owned());
    }
    if limits.cpuset_mems.is_some() {
        applied.cpuset_mems = Some(read(&folder.join("cpuset.mems")).trim().to_owned());
    }
    Ok(())
}

/// Sees to it that a group has CPUs, or memory nodes; those of its parent, which may have to get its own first, without a wish.
/// The top of the tree has all.
fn members(folder: &Path, cpus: bool, wish: Option<&String>) -> Result<String, GroupError> {
    let path = folder.join(if cpus { "cpuset.cpus" } else { "cpuset.mems" });
    let had = read(&path).trim().to_owned();
    let wanted = match (wish, folder.parent()) {
        (None, _) if !had.is_empty() => return Ok(had),
        (Some(w), Some(parent)) => {
            members(parent, cpus, None)?;
            w.clone()
        }
        (None, Some(parent)) => members(parent, cpus, None)?,
        (_, None) => return Err(not_applied(path, &"members", &had)),
    };
    let set = controller::<CpuSetController>(folder, CpuSetController::new);
    let done = if cpus { set.set_cpus(&wanted) } else { set.set_mems(&wanted) };
    done.map_err(|e| library(&path, e))?;
    let found = read(&path).trim().to_owned();
    if same_list(&wanted, &found) { Ok(found) } else { Err(not_applied(path, &wanted, &found)) }
}

pub(super) fn stats(mounts: &Mounts, name: &str) -> StatsInfo {
    let at = |controller, file: &str| mounts.folder(controller, name).unwrap_or_default().join(file);
    let cpu = read(&at("cpu", "cpu.stat"));
    let throttled = keyed(&cpu, "throttled_time ").unwrap_or(0);
    StatsInfo {
        memory: read_number(&at("memory", "memory.usage_in_bytes")).unwrap_or(0),
        memory_peak: read_number(&at("memory", "memory.max_usage_in_bytes")).unwrap_or(0),
        cpu_usage: read_number(&at("cpuacct", "cpuacct.usage")).unwrap_or(0) / 1000,
        cpu_throttled: throttled / 1000,
        applied: Applied::default(),
        cpu_throttled_periods: keyed(&cpu, "nr_throttled ").unwrap_or(0),
    }
}

pub(super) fn oom_kills(mounts: &Mounts, name: &str) -> u64 {
    let Ok(folder) = mounts.folder("memory", name) else { return 0 };
    keyed(&read(&folder.join("memory.oom_control")), "oom_kill ").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_alone_and_shared() {
        let m = Mounts::parse(
            "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(m.folders("a").len(), 2, "a shared tree counts once");
        assert!(matches!(m.folder("pids", "a"), Err(GroupError::NoController("pids"))));
    }

    #[test]
    fn c3_a_limit_without_its_controller_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let m = Mounts(BTreeMap::from([("memory", dir.path().to_owned())]));
        let e = create(&m, "x", &Limits { pids: Some(3), ..Limits::default() }).unwrap_err();
        assert_eq!(e.code(), "kernel_unsupported");
    }

    #[test]
    fn c3_a_disk_limit_that_v1_could_not_keep_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let m = Mounts(BTreeMap::from([("memory", dir.path().to_owned()), ("blkio", dir.path().to_owned())]));
        let disk = DiskLimits { write_bps: Some(4096), ..DiskLimits::default() };
        let e = create(&m, "x", &Limits { disk, ..Limits::default() }).unwrap_err();
        assert_eq!(e.code(), "kernel_unsupported");
        assert!(e.to_string().contains("cgroup v2"), "{e}");
    }
}
