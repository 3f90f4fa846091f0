//! What this device is: kernel, memory, disk, processors. Reads; never changes anything.

use rustix::fs::statvfs;
use rustix::system::{sysinfo, uname};
use shoal_ipc::{FeatureSet, Layout};
use shoal_protocol::latest::System;

/// The device as reports carry it.
pub(crate) fn describe(layout: &Layout, features: &FeatureSet, name: Option<&str>) -> System {
    let uname = uname();
    let memory = sysinfo();
    System {
        agent: shoal_ipc::running_version(env!("CARGO_PKG_VERSION")),
        engine: features.engine.clone(),
        architecture: std::env::consts::ARCH.to_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        hostname: hostname(name),
        cgroups: features.cgroup.clone(),
        memory: memory.totalram.saturating_mul(u64::from(memory.mem_unit)),
        disk_free: disk_free(&layout.agent_dir()),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        unconfined: features.unconfined,
    }
}

/// What this device is called: the name that was chosen for it, or else its host name.
pub(crate) fn hostname(name: Option<&str>) -> String {
    name.map_or_else(|| uname().nodename().to_string_lossy().into_owned(), ToOwned::to_owned)
}

/// Bytes that this user may still write where `path` is; 0 if that cannot be asked.
pub(crate) fn disk_free(path: &std::path::Path) -> u64 {
    statvfs(path).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize))
}
