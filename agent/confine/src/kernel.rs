//! What this kernel can hold a container with. Names are stable: a deployment may require them.

use super::process;
use std::path::Path;

/// Something that a kernel has or lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Landlock for folders (5.13).
    Landlock,
    /// Landlock for truncation of files (6.2).
    LandlockTruncate,
    /// Landlock for TCP ports (6.7).
    LandlockNetwork,
    /// Landlock for signals and abstract sockets (6.12).
    LandlockScopes,
    /// Filters of system calls.
    Seccomp,
    /// A process tree, network, host name, queues, mounts and group tree of its own.
    Namespaces,
    /// Limits of memory, in v1 or v2.
    MemoryLimit,
    /// Limits of memory and swap together.
    SwapLimit,
    /// Limits of CPU time.
    CpuLimit,
    /// Limits of processes.
    PidsLimit,
    /// One tree of control groups.
    CgroupV2,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Landlock,
        Self::LandlockTruncate,
        Self::LandlockNetwork,
        Self::LandlockScopes,
        Self::Seccomp,
        Self::Namespaces,
        Self::MemoryLimit,
        Self::SwapLimit,
        Self::CpuLimit,
        Self::PidsLimit,
        Self::CgroupV2,
    ];

    /// The name in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Landlock => "landlock",
            Self::LandlockTruncate => "landlock-truncate",
            Self::LandlockNetwork => "landlock-network",
            Self::LandlockScopes => "landlock-scopes",
            Self::Seccomp => "seccomp",
            Self::Namespaces => "namespaces",
            Self::MemoryLimit => "memory-limit",
            Self::SwapLimit => "swap-limit",
            Self::CpuLimit => "cpu-limit",
            Self::PidsLimit => "pids-limit",
            Self::CgroupV2 => "cgroup-v2",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Whether the walls are lower without it than this project promises; else it is only something to require.
    pub fn is_expected(self) -> bool {
        !matches!(self, Self::CgroupV2 | Self::SwapLimit)
    }

    fn is_there(self, landlock: u32, filesystems: &Groups) -> bool {
        match self {
            Self::Landlock => landlock >= 1,
            Self::LandlockTruncate => landlock >= 3,
            Self::LandlockNetwork => landlock >= 4,
            Self::LandlockScopes => landlock >= 6,
            Self::Seccomp => Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            Self::Namespaces => ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
                .iter()
                .all(|kind| Path::new("/proc/self/ns").join(kind).symlink_metadata().is_ok()),
            Self::MemoryLimit => filesystems.has("memory"),
            Self::SwapLimit => filesystems.swap(),
            Self::CpuLimit => filesystems.has("cpu"),
            Self::PidsLimit => filesystems.has("pids"),
            Self::CgroupV2 => filesystems.v1.is_empty() && filesystems.v2.is_some(),
        }
    }
}

/// What this kernel lacks.
pub fn missing() -> Vec<Feature> {
    let landlock = process::landlock_version().unwrap_or(0);
    let groups = Groups::read(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    Feature::ALL.into_iter().filter(|f| !f.is_there(landlock, &groups)).collect()
}

/// Where controllers are mounted.
struct Groups {
    /// Mount point and options of each tree of v1.
    v1: Vec<(String, String)>,
    v2: Option<String>,
}

impl Groups {
    fn read(mountinfo: &str) -> Self {
        let (mut v1, mut v2) = (Vec::new(), None);
        for line in mountinfo.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(point) = head.split(' ').nth(4).map(str::to_owned) else { continue };
            match tail.split(' ').next() {
                Some("cgroup") => v1.push((point, tail.rsplit(' ').next().unwrap_or("").to_owned())),
                Some("cgroup2") => v2 = Some(point),
                _ => {}
            }
        }
        Self { v1, v2 }
    }

    fn tree(&self, controller: &str) -> Option<&str> {
        let named = |options: &str| options.split(',').any(|o| o == controller);
        self.v1.iter().find(|(_, options)| named(options)).map(|(point, _)| point.as_str())
    }

    fn has(&self, controller: &str) -> bool {
        let in_v2 = || {
            let file = Path::new(self.v2.as_ref()?).join("cgroup.controllers");
            let text = std::fs::read_to_string(file).ok()?;
            text.split_whitespace().any(|word| word == controller).then_some(())
        };
        self.tree(controller).is_some() || in_v2().is_some()
    }

    fn swap(&self) -> bool {
        match self.tree("memory") {
            Some(point) => Path::new(point).join("memory.memsw.limit_in_bytes").exists(),
            // v2 has the file in every group but the root.
            None => self.has("memory") && Path::new("/proc/swaps").exists(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_plain() {
        let names: std::collections::BTreeSet<_> = Feature::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Feature::ALL.len());
        assert!(names.iter().all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == '2')));
    }

    #[test]
    fn trees_are_told_apart() {
        let text = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                    31 25 0:27 / /none rw - cgroup2 cgroup2 rw\n";
        let groups = Groups::read(text);
        assert_eq!(groups.tree("memory"), Some("/sys/fs/cgroup/memory"));
        assert!(groups.has("memory") && !groups.has("pids"));
        assert!(!Feature::CgroupV2.is_there(0, &groups));
        let old = Groups::read("");
        assert!(!Feature::LandlockNetwork.is_there(3, &old) && Feature::LandlockNetwork.is_there(4, &old));
    }
}
