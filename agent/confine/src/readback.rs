//! Whether a container is as confined as it was meant to be: asked of the kernel, before its code exists.

use super::{Grant, Plan, StepError, at, privileges, process};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, dumpable_behavior, getgroups, getrlimit};
use rustix::thread::{CapabilitySet, capabilities, capability_is_in_bounding_set, no_new_privs};
use std::io;
use std::path::PathBuf;

/// The kinds that a container has of its own, as `/proc/PID/ns` calls them.
const KINDS: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// Which namespaces a process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces(Vec<(&'static str, PathBuf)>);

impl Namespaces {
    /// Those of this process, as far as the kernel has the kinds.
    pub fn own() -> Self {
        let name = |kind| Some((kind, std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?));
        Self(KINDS.into_iter().filter_map(name).collect())
    }

    /// Makes sure that this process is in none of these any more; `network` says whether that kind counts.
    pub(crate) fn differ(&self, network: bool) -> io::Result<()> {
        let own = Self::own();
        let shared = |(kind, name): &&(&str, PathBuf)| {
            (*kind != "net" || network) && own.0.iter().any(|(k, n)| k == kind && n == name)
        };
        match self.0.iter().find(shared) {
            Some((kind, _)) => Err(io::Error::other(format!("the {kind} namespace is still the host's"))),
            None => Ok(()),
        }
    }
}

const STEP: &str = "read back its confinement";

fn wrong(what: &str) -> Result<(), StepError> {
    Err(StepError(STEP, io::Error::other(what.to_owned())))
}

/// Compares who it was to be, and within which limits, with what the kernel says.
pub(crate) fn identity(plan: &Plan<'_>) -> Result<(), StepError> {
    let failed = || at::<Errno>(STEP);
    if let Some((uid, gid)) = plan.ids {
        let ids = process::all_ids().map_err(at(STEP))?;
        if ids != ([uid; 3], [gid; 3]) || !getgroups().map_err(failed())?.is_empty() {
            return wrong("uid, gid or groups are not as set");
        }
        let sets = capabilities(None).map_err(failed())?;
        let all = sets.effective | sets.permitted | sets.inheritable;
        // A number that the kernel does not know is in no set.
        let bound = privileges::every().any(|c| capability_is_in_bounding_set(c).unwrap_or(false));
        if all != CapabilitySet::empty() || bound {
            return wrong("a capability is left");
        }
    }
    if !no_new_privs().map_err(failed())? {
        return wrong("no_new_privs is not set");
    }
    for (resource, value) in &plan.limits {
        let found = getrlimit(*resource);
        let wanted = crate::rlimit(*value);
        if (found.current, found.maximum) != (wanted.current, wanted.maximum) {
            return wrong("a resource limit is not as set");
        }
    }
    Ok(())
}

/// Whether the walls stand.
pub(crate) fn walls(grants: &[Grant]) -> Result<(), StepError> {
    if dumpable_behavior().map_err(at::<Errno>(STEP))? != DumpableBehavior::NotDumpable {
        return wrong("the process can be dumped");
    }
    let everything = grants.iter().any(|g| g.path == "/");
    if process::landlock_version().is_some() && !everything && std::fs::read_dir("/").is_ok() {
        return wrong("a folder that was not granted can be read");
    }
    Ok(())
}
