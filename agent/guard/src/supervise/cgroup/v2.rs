//! cgroup v2: one tree, plain files written directly and read back.
//!
//! cgroups-rs is not used here: its v2 weights, swap, OOM events and removal are wrong.

use super::{GroupError, disks, keyed, not_applied, read, read_number, same_list, same_memory};
use shoal_ipc::{Applied, DiskLimits, Limits, StatsInfo};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the tree is mounted.
pub(super) fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        (tail.split(' ').next() == Some("cgroup2")).then_some(())?;
        head.split(' ').nth(4).map(PathBuf::from)
    })
}

/// Shares of v1 (2 to 262,144) as a weight of v2 (1 to 10,000), as OCI runtimes convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn put(path: &Path, value: &str) -> Result<(), GroupError> {
    fs::write(path, value).map_err(|e| GroupError::io("write", path, e))
}

/// Writes and reads back.
fn set(path: &Path, value: &str, same: impl Fn(&str) -> bool) -> Result<String, GroupError> {
    put(path, value)?;
    let found = read(path).trim().to_owned();
    if same(&found) { Ok(found) } else { Err(not_applied(path.to_owned(), &value, &found)) }
}

/// The controllers that these limits need.
fn needed(l: &Limits) -> Vec<&'static str> {
    let mut all = Vec::new();
    if l.memory.is_some() {
        all.push("memory");
    }
    if l.cpu_quota.is_some() || l.cpu_shares.is_some() {
        all.push("cpu");
    }
    if l.cpuset_cpus.is_some() || l.cpuset_mems.is_some() {
        all.push("cpuset");
    }
    if l.pids.is_some() {
        all.push("pids");
    }
    if l.disk != DiskLimits::default() {
        all.push("io");
    }
    all
}

pub(super) fn create(root: &Path, name: &str, limits: &Limits) -> Result<Applied, GroupError> {
    let there = read(&root.join("cgroup.controllers"));
    let has = |c: &str| there.split_whitespace().any(|w| w == c);
    if let Some(missing) = needed(limits).into_iter().find(|c| !has(c)) {
        return Err(GroupError::NoController(missing));
    }
    let mut wanted: Vec<&str> = ["cpu", "cpuset", "memory", "pids"].into_iter().filter(|c| has(c)).collect();
    if limits.disk != DiskLimits::default() {
        // Only where it is asked for: it costs at each block that is read or written.
        wanted.push("io");
    }
    let wanted: Vec<String> = wanted.iter().map(|c| format!("+{c}")).collect();
    // Each parent passes controllers on to its children; only groups without processes of their own may.
    let mut folder = root.to_owned();
    for part in Path::new(name).components() {
        if !wanted.is_empty() {
            put(&folder.join("cgroup.subtree_control"), &wanted.join(" "))?;
        }
        folder.push(part);
        fs::create_dir_all(&folder).map_err(|e| GroupError::io("make", &folder, e))?;
    }
    apply(&folder, limits)
}

fn apply(folder: &Path, limits: &Limits) -> Result<Applied, GroupError> {
    let mut applied = Applied::default();
    if let Some(memory) = limits.memory {
        let same = |found: &str| found.parse().is_ok_and(|f| same_memory(memory, f));
        let found = set(&folder.join("memory.max"), &memory.to_string(), same)?;
        applied.memory_limit = found.parse().ok();
        let swap = folder.join("memory.swap.max");
        if swap.exists() {
            // Memory and swap together are the limit, so swap alone gets nothing on top.
            set(&swap, "0", |found| found == "0")?;
            applied.memory_swap_limit = applied.memory_limit;
        }
    }
    if let Some(quota) = limits.cpu_quota {
        let period = limits.cpu_period.unwrap_or(100_000);
        let value = format!("{quota} {period}");
        set(&folder.join("cpu.max"), &value, |found| found == value)?;
        (applied.cpu_quota, applied.cpu_period) = (Some(quota), Some(period));
    }
    if let Some(shares) = limits.cpu_shares {
        let value = weight(shares).to_string();
        set(&folder.join("cpu.weight"), &value, |found| found == value)?;
        applied.cpu_shares = Some(shares);
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        applied.cpuset_cpus = Some(set(&folder.join("cpuset.cpus"), cpus, |found| same_list(cpus, found))?);
    }
    if let Some(mems) = &limits.cpuset_mems {
        applied.cpuset_mems = Some(set(&folder.join("cpuset.mems"), mems, |found| same_list(mems, found))?);
    }
    if let Some(pids) = limits.pids {
        let value = pids.to_string();
        set(&folder.join("pids.max"), &value, |found| found == value)?;
        applied.pids_limit = Some(pids);
    }
    if limits.disk != DiskLimits::default() {
        disks::limit(folder, Path::new("/sys/block"), &limits.disk)?;
        applied.disk = limits.disk;
    }
    Ok(applied)
}

pub(super) fn stats(folder: &Path) -> StatsInfo {
    let cpu = read(&folder.join("cpu.stat"));
    StatsInfo {
        memory: read_number(&folder.join("memory.current")).unwrap_or(0),
        memory_peak: read_number(&folder.join("memory.peak")).unwrap_or(0),
        cpu_usage: keyed(&cpu, "usage_usec ").unwrap_or(0),
        cpu_throttled: keyed(&cpu, "throttled_usec ").unwrap_or(0),
        applied: Applied::default(),
        cpu_throttled_periods: keyed(&cpu, "nr_throttled ").unwrap_or(0),
    }
}

pub(super) fn oom_kills(folder: &Path) -> u64 {
    keyed(&read(&folder.join("memory.events")), "oom_kill ").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like the top of a v2 tree.
    fn tree(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        dir
    }

    fn all() -> Limits {
        Limits {
            memory: Some(50_000_000),
            cpu_quota: Some(20_000),
            cpu_period: Some(10_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(8),
            ..Limits::default()
        }
    }

    #[test]
    fn every_limit_lands_in_its_file_and_parents_pass_controllers_on() {
        let dir = tree("cpuset cpu io memory pids");
        let leaf = dir.path().join("shoal/pod/main");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("memory.swap.max"), "max").unwrap();
        let applied = create(dir.path(), "shoal/pod/main", &all()).unwrap();
        let file = |name: &str| read(&leaf.join(name));
        assert_eq!(file("memory.max"), "50000000");
        assert_eq!(file("memory.swap.max"), "0");
        assert_eq!(file("cpu.max"), "20000 10000");
        assert_eq!(file("cpu.weight"), "20");
        assert_eq!(file("cpuset.cpus"), "0");
        assert_eq!(file("pids.max"), "8");
        assert_eq!(applied.memory_limit, Some(50_000_000));
        assert_eq!(applied.memory_swap_limit, Some(50_000_000));
        for parent in ["", "shoal", "shoal/pod"] {
            let passed = read(&dir.path().join(parent).join("cgroup.subtree_control"));
            assert_eq!(passed, "+cpu +cpuset +memory +pids", "{parent}");
        }
    }

    #[test]
    fn c3_a_value_that_reads_back_otherwise_is_limit_not_applied() {
        for file in ["memory.max", "cpu.max", "cpu.weight", "cpuset.cpus", "cpuset.mems", "pids.max"] {
            let dir = tree("cpuset cpu memory pids");
            let leaf = dir.path().join("x");
            fs::create_dir(&leaf).unwrap();
            // A kernel that swallows the value.
            std::os::unix::fs::symlink("/dev/null", leaf.join(file)).unwrap();
            let e = create(dir.path(), "x", &all()).unwrap_err();
            assert_eq!(e.code(), "limit_not_applied", "{file}");
            assert!(e.to_string().contains(file), "{e}");
        }
    }

    #[test]
    fn c3_a_missing_controller_is_kernel_unsupported() {
        let dir = tree("cpu memory pids");
        let e = create(dir.path(), "x", &all()).unwrap_err();
        assert!(matches!(e, GroupError::NoController("cpuset")), "{e}");
    }

    #[test]
    fn weights_span_the_range_of_shares() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn oom_kills_and_use_are_read_from_events_and_stat() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
        fs::write(dir.path().join("cpu.stat"), "usage_usec 42\nnr_throttled 3\nthrottled_usec 7\n").unwrap();
        assert_eq!(oom_kills(dir.path()), 2);
        let s = stats(dir.path());
        assert_eq!((s.cpu_usage, s.cpu_throttled, s.cpu_throttled_periods), (42, 7, 3));
    }
}
