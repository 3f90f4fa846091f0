//! Control groups: made, limited, read back, read and removed here and nowhere else.
//!
//! A limit counts only when the kernel reads it back; a controller that is not there is named, never skipped.

mod disks;
mod v1;
mod v2;

use shoal_ipc::{Applied, DiskLimits, Limits, StatsInfo};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Why a group could not be made as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    /// The kernel took another value, or none.
    #[error("{file}: {wanted:?} was written, {found:?} is read back")]
    NotApplied { file: PathBuf, wanted: String, found: String },
    /// No such controller here.
    #[error("this kernel has no {0} controller for groups")]
    NoController(&'static str),
    /// A file or folder could not be used.
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl GroupError {
    /// The stable code of the refusal.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoController(_) => "kernel_unsupported",
            Self::NotApplied { .. } | Self::Io { .. } => "limit_not_applied",
        }
    }

    fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// How groups are organised on this machine.
#[derive(Debug, Clone)]
pub(crate) enum Hierarchy {
    /// One tree a controller (also beside an empty v2 tree: hybrid).
    V1(v1::Mounts),
    /// One tree.
    V2(PathBuf),
    /// None that this process may use.
    None,
}

/// A made group; dropping the value leaves the group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    hierarchy: Hierarchy,
    name: String,
}

impl Hierarchy {
    /// What `/proc/self/mountinfo` says.
    pub(crate) fn detect() -> Self {
        Self::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn from_mountinfo(text: &str) -> Self {
        let mounts = v1::Mounts::parse(text);
        if mounts.has("memory") {
            return Self::V1(mounts);
        }
        v2::mount_point(text).map_or(Self::None, Self::V2)
    }

    /// For reports: `v1`, `v2` or `none`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::V1(_) => "v1",
            Self::V2(_) => "v2",
            Self::None => "none",
        }
    }

    /// Makes (or finds) the group `name`, sets the limits and reads each back.
    pub(crate) fn create(&self, name: &str, limits: &Limits) -> Result<(Group, Applied), GroupError> {
        let applied = match self {
            Self::V1(mounts) => v1::create(mounts, name, limits)?,
            Self::V2(root) => v2::create(root, name, limits)?,
            Self::None if asks_for_any(limits) => return Err(GroupError::NoController("any")),
            Self::None => Applied::default(),
        };
        Ok((self.group(name), applied))
    }

    /// The group of this name, made earlier.
    pub(crate) fn group(&self, name: &str) -> Group {
        Group { hierarchy: self.clone(), name: name.to_owned() }
    }
}

/// Whether any limit needs a controller.
pub(crate) fn asks_for_any(l: &Limits) -> bool {
    l.memory.is_some()
        || l.cpu_quota.is_some()
        || l.cpu_shares.is_some()
        || l.cpuset_cpus.is_some()
        || l.cpuset_mems.is_some()
        || l.pids.is_some()
        || l.disk != DiskLimits::default()
}

impl Group {
    /// Its folders, one a tree. None for a name that is not of a group below the root: everything of a machine may be in the
    /// root's, and what is killed here has to be ours.
    fn folders(&self) -> Vec<PathBuf> {
        let mut parts = Path::new(&self.name).components().peekable();
        if parts.peek().is_none() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Vec::new();
        }
        match &self.hierarchy {
            Hierarchy::V1(mounts) => mounts.folders(&self.name),
            Hierarchy::V2(root) => vec![root.join(&self.name)],
            Hierarchy::None => Vec::new(),
        }
    }

    /// Files to which the child itself writes `0` to join. Never `cgroup.procs` on v1: that stalls for milliseconds.
    /// None where it is born in the group.
    pub(crate) fn join_files(&self) -> Vec<String> {
        match &self.hierarchy {
            Hierarchy::V1(_) => {
                self.folders().iter().map(|f| f.join("tasks").to_string_lossy().into_owned()).collect()
            }
            Hierarchy::V2(_) | Hierarchy::None => Vec::new(),
        }
    }

    /// The folder to be born in, where the kernel can do that.
    pub(crate) fn birth_folder(&self) -> Option<String> {
        match &self.hierarchy {
            Hierarchy::V2(root) => Some(root.join(&self.name).to_string_lossy().into_owned()),
            Hierarchy::V1(_) | Hierarchy::None => None,
        }
    }

    /// Memory and CPU as the kernel counts them.
    pub(crate) fn stats(&self) -> StatsInfo {
        match &self.hierarchy {
            Hierarchy::V1(mounts) => v1::stats(mounts, &self.name),
            Hierarchy::V2(root) => v2::stats(&root.join(&self.name)),
            Hierarchy::None => StatsInfo::default(),
        }
    }

    /// How often the kernel's OOM killer took a process of it.
    pub(crate) fn oom_kills(&self) -> u64 {
        match &self.hierarchy {
            Hierarchy::V1(mounts) => v1::oom_kills(mounts, &self.name),
            Hierarchy::V2(root) => v2::oom_kills(&root.join(&self.name)),
            Hierarchy::None => 0,
        }
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        for folder in self.folders() {
            if matches!(self.hierarchy, Hierarchy::V2(_))
                && fs::write(folder.join("cgroup.kill"), "1").is_ok()
            {
                continue;
            }
            for pid in read(&folder.join("cgroup.procs")).lines().filter_map(|l| l.trim().parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    // One that is gone meanwhile is what was wanted.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }

    /// Whether it is there, in all trees.
    pub(crate) fn exists(&self) -> bool {
        self.folders().iter().all(|f| f.is_dir())
    }

    /// The names of the groups in it.
    pub(crate) fn children(&self) -> Vec<String> {
        let mut all = std::collections::BTreeSet::new();
        for entry in self.folders().iter().filter_map(|f| fs::read_dir(f).ok()).flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir())
                && let Some(name) = entry.file_name().to_str()
            {
                all.insert(format!("{}/{name}", self.name));
            }
        }
        all.into_iter().collect()
    }

    /// Removes its folders, or the first of them that can be removed by now.
    pub(crate) fn try_remove(&self) -> Result<(), GroupError> {
        for folder in self.folders() {
            match fs::remove_dir(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(GroupError::io("remove", &folder, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes its folders; those that still hold processes stay and are told.
    pub(crate) fn remove(&self) -> Result<(), GroupError> {
        for folder in self.folders() {
            let mut tries = 0;
            loop {
                match fs::remove_dir(&folder) {
                    Ok(()) => break,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
                    // A process that was just reaped may be counted for a moment longer.
                    Err(_) if tries < 5 => {
                        tries += 1;
                        std::thread::sleep(std::time::Duration::from_millis(4));
                    }
                    Err(e) => return Err(GroupError::io("remove", &folder, e)),
                }
            }
        }
        Ok(())
    }
}

/// A control file's text; empty when it cannot be read.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A control file that holds one number.
fn read_number(path: &Path) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// A number behind a word, as in `memory.events`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok())
}

/// CPU or node lists are equal when they name the same members.
fn same_list(a: &str, b: &str) -> bool {
    fn members(list: &str) -> Option<std::collections::BTreeSet<u32>> {
        let mut all = std::collections::BTreeSet::new();
        for part in list.trim().split(',').filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
            if from > to || to > 8192 {
                return None;
            }
            all.extend(from..=to);
        }
        Some(all)
    }
    matches!((members(a), members(b)), (Some(a), Some(b)) if a == b && !a.is_empty())
}

/// Memory limits are kept in whole pages.
fn same_memory(wanted: u64, found: u64) -> bool {
    found <= wanted && wanted - found < 65_536
}

fn not_applied(file: PathBuf, wanted: &dyn ToString, found: &dyn ToString) -> GroupError {
    GroupError::NotApplied { file, wanted: wanted.to_string(), found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared_by_members() {
        assert!(same_list("0-1", "0,1\n"));
        assert!(!same_list("0-1", "0"));
        assert!(!same_list("", ""));
        assert!(!same_list("x", "x"));
        assert!(!same_list("0-4294967295", "0-4294967295"));
    }

    #[test]
    fn hybrid_is_v1_and_a_lone_tree_is_v2() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchy::from_mountinfo(hybrid).name(), "v1");
        let unified = "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchy::from_mountinfo(unified).name(), "v2");
        assert_eq!(Hierarchy::from_mountinfo("").name(), "none");
    }

    #[test]
    fn nothing_but_a_group_below_the_root_is_ever_killed_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::V2(dir.path().to_owned());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let procs = |folder: &Path| {
            fs::create_dir_all(folder).unwrap();
            // Here the kernel's switch cannot be used either, as in the root's group.
            fs::create_dir_all(folder.join("cgroup.kill")).unwrap();
            fs::write(folder.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
        };
        procs(dir.path());
        procs(&dir.path().join("shoal/x"));
        let above = dir.path().display().to_string();
        for name in ["", ".", "/", "..", "shoal/../..", &above] {
            hierarchy.group(name).kill();
            hierarchy.group(name).remove().unwrap();
            assert!(dir.path().is_dir() && child.try_wait().unwrap().is_none(), "{name:?}");
        }
        hierarchy.group("shoal/x").kill();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn c3_without_any_controller_limits_are_refused_by_name() {
        let limits = Limits { memory: Some(1), ..Limits::default() };
        assert_eq!(Hierarchy::None.create("x", &limits).unwrap_err().code(), "kernel_unsupported");
        assert!(Hierarchy::None.create("x", &Limits::default()).is_ok());
    }
}
