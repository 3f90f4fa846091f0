//! The device's own policy: what its owner allows, whatever is signed.

use super::devices::is_device_path;
use anyhow::Context as _;
use serde::Deserialize;
use shoal_ipc::{Layout, Limits, Network, Ticket, VolumeSource};
use std::path::{Component, Path};

/// The first uid of a device that its owner says nothing about. Debian gives 60000 to 64999 to packages, systemd 61184 to 65519 to
/// its dynamic users, and users' own ranges begin at 100000: here is nobody.
const UID_BASE: u32 = 70_000;

/// `policy.toml`; every field may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Policy {
    /// Whether uid 0 may start unsigned pods here.
    pub(crate) local_unsigned: bool,
    /// Shifts all default uids.
    pub(crate) uid_base: Option<u32>,
    /// The group that all groups are made in.
    pub(crate) cgroup_parent: Option<String>,
    /// Single uids.
    pub(crate) uids: UidTable,
    /// Containers that are kept ready for their next start, in all (half a megabyte each); 0 for none.
    pub(crate) spares: Option<usize>,
    /// What workloads may be granted.
    pub(crate) allow: Allow,
    /// How networks of pods' own are made.
    pub(crate) network: NetworkTools,
    /// Bounds of a compilation.
    pub(crate) compile: Compile,
    /// Quota of modules and compiled code.
    pub(crate) cache: Store,
    /// Quotas of logs.
    pub(crate) logs: Logs,
    /// The most that a pod may ask for.
    pub(crate) limits: Bounds,
    /// The process that forks containers.
    pub(crate) zygote: Zygote,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UidTable {
    agent: Option<u32>,
    admit: Option<u32>,
    log: Option<u32>,
    compile: Option<u32>,
    probe: Option<u32>,
    pods: Option<UidRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UidRange {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Allow {
    pub(crate) host_paths: Vec<String>,
    pub(crate) network: Vec<String>,
    pub(crate) devices: Vec<String>,
}

impl Default for Allow {
    fn default() -> Self {
        Self { host_paths: vec!["/srv/shoal".into()], network: vec!["none".into()], devices: Vec::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NetworkTools {
    /// Folders of CNI plugins, in the order in which they are looked through.
    pub(crate) plugins: Vec<String>,
    /// For all plugins of one pod together.
    pub(crate) seconds: u64,
}

impl Default for NetworkTools {
    fn default() -> Self {
        let plugins = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"].map(str::to_owned).to_vec();
        Self { plugins, seconds: 15 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Compile {
    pub(crate) memory: String,
    pub(crate) seconds: u64,
    pub(crate) cpu: String,
    /// Compilations at a time; each has all of the above for itself.
    pub(crate) jobs: usize,
    /// For a module's trial and self-test.
    pub(crate) test_seconds: u64,
}

impl Default for Compile {
    fn default() -> Self {
        Self { memory: "512Mi".into(), seconds: 300, cpu: "100%".into(), jobs: 1, test_seconds: 30 }
    }
}

/// Without a word in the policy.
const SPARES: usize = 4;

/// The most that `compile.jobs` may be.
pub(crate) const MAX_COMPILATIONS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    pub(crate) max_size: String,
}

impl Default for Store {
    fn default() -> Self {
        Self { max_size: "1Gi".into() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Logs {
    pub(crate) max_size: String,
    pub(crate) max_files: u32,
}

impl Default for Logs {
    fn default() -> Self {
        Self { max_size: "10Mi".into(), max_files: 3 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Zygote {
    /// It is renewed after so many, since all that it forks have one address layout.
    pub(crate) containers: u32,
}

impl Default for Zygote {
    fn default() -> Self {
        Self { containers: 4096 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bounds {
    pub(crate) memory: Option<String>,
}

/// Who runs as whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uids {
    pub(crate) agent: u32,
    pub(crate) admit: u32,
    pub(crate) log: u32,
    pub(crate) compile: u32,
    pub(crate) probe: u32,
    pub(crate) pods: UidRange,
}

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("policy file: {0}")]
    Syntax(#[from] toml::de::Error),
    #[error("policy file: {field} = {value:?} is no {expected}")]
    Value { field: &'static str, value: String, expected: &'static str },
}

fn bad(field: &'static str, value: &str, expected: &'static str) -> PolicyError {
    PolicyError::Value { field, value: value.to_owned(), expected }
}

/// Bytes with an optional binary suffix.
fn bytes(field: &'static str, text: &str) -> Result<u64, PolicyError> {
    let err = || bad(field, text, "size such as 512Mi");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale: u64 = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(err()),
    };
    digits.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(err)
}

/// What the owner's policy comes to, in one line: for whoever changed it and wants to know before the guard's next start.
pub(crate) fn summary(layout: &Layout) -> anyhow::Result<String> {
    let policy = Policy::load(layout)?;
    let uids = policy.uids();
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Ok(format!(
        "users {} to {} and {} to {}, groups below {}, networks: {}, folders: {}, devices: {}\n",
        uids.agent,
        uids.probe,
        uids.pods.first,
        uids.pods.first.saturating_add(uids.pods.count.saturating_sub(1)),
        policy.cgroup_parent(),
        list(&policy.allow.network),
        list(&policy.allow.host_paths),
        list(&policy.allow.devices),
    ))
}

impl Policy {
    /// The device's own; without a file, the defaults.
    pub(crate) fn load(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.policy();
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// See the field.
    pub(crate) fn spares(&self) -> usize {
        self.spares.unwrap_or(SPARES)
    }

    /// Parses and checks.
    pub(crate) fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Self = toml::from_str(text)?;
        bytes("compile.memory", &policy.compile.memory)?;
        bytes("logs.max_size", &policy.logs.max_size)?;
        bytes("cache.max_size", &policy.cache.max_size)?;
        policy.compile_limits()?;
        let compile = &policy.compile;
        if !(1..=MAX_COMPILATIONS).contains(&compile.jobs) {
            return Err(bad("compile.jobs", &compile.jobs.to_string(), "number from 1 to 8"));
        }
        for (field, seconds) in
            [("compile.seconds", compile.seconds), ("compile.test_seconds", compile.test_seconds)]
        {
            if !(1..=86_400).contains(&seconds) {
                return Err(bad(field, &seconds.to_string(), "number of seconds from 1 to a day"));
            }
        }
        let containers = policy.zygote.containers;
        if !(1..=1_000_000).contains(&containers) {
            return Err(bad("zygote.containers", &containers.to_string(), "number from 1 to a million"));
        }
        if let Some(m) = &policy.limits.memory {
            bytes("limits.memory", m)?;
        }
        let parent = policy.cgroup_parent();
        if !is_plain_relative(parent) {
            return Err(bad("cgroup_parent", parent, "relative path without . and .."));
        }
        for path in &policy.allow.host_paths {
            if !is_plain_absolute(path) {
                return Err(bad("allow.host_paths", path, "absolute path without . and .."));
            }
        }
        for path in &policy.allow.devices {
            if !is_device_path(path) {
                return Err(bad("allow.devices", path, "path below /dev without . and .."));
            }
        }
        for network in &policy.allow.network {
            if !["none", "pod", "host"].contains(&network.as_str()) {
                return Err(bad("allow.network", network, "network (none, pod or host)"));
            }
        }
        for path in &policy.network.plugins {
            if !is_plain_absolute(path) || path.contains(':') {
                return Err(bad("network.plugins", path, "absolute path without ., .. and colons"));
            }
        }
        // Whoever asked for a start waits for a minute, and a failed one is taken back within it.
        if !(1..=20).contains(&policy.network.seconds) {
            let seconds = policy.network.seconds.to_string();
            return Err(bad("network.seconds", &seconds, "number of seconds from 1 to 20"));
        }
        let uids = policy.uids();
        let pods = uids.pods;
        let singles = [uids.agent, uids.admit, uids.log, uids.compile, uids.probe];
        let in_pods = |u: u32| u >= pods.first && u - pods.first < pods.count;
        let distinct: std::collections::BTreeSet<_> = singles.iter().collect();
        if distinct.len() != singles.len()
            || singles.iter().any(|u| *u == 0 || in_pods(*u))
            || pods.first == 0
        {
            return Err(bad(
                "uids",
                &format!("{singles:?}"),
                "set of distinct uids above 0, outside of pods",
            ));
        }
        Ok(policy)
    }

    pub(crate) fn cgroup_parent(&self) -> &str {
        self.cgroup_parent.as_deref().unwrap_or("shoal")
    }

    pub(crate) fn uids(&self) -> Uids {
        let base = self.uid_base.unwrap_or(UID_BASE);
        let t = &self.uids;
        let or = |v: Option<u32>, add: u32| v.unwrap_or(base.saturating_add(add));
        Uids {
            agent: or(t.agent, 0),
            admit: or(t.admit, 1),
            log: or(t.log, 2),
            compile: or(t.compile, 3),
            probe: or(t.probe, 4),
            pods: t.pods.unwrap_or(UidRange { first: base.saturating_add(100), count: 1000 }),
        }
    }

    /// Limits of a compilation's group.
    pub(crate) fn compile_limits(&self) -> Result<Limits, PolicyError> {
        let text = &self.compile.cpu;
        let percent: u64 = text
            .strip_suffix('%')
            .and_then(|p| p.parse().ok())
            .filter(|p| (1..=100_000).contains(p))
            .ok_or_else(|| bad("compile.cpu", text, "share such as 100%"))?;
        Ok(Limits {
            memory: Some(bytes("compile.memory", &self.compile.memory)?),
            cpu_quota: Some(percent * 1000),
            cpu_period: Some(100_000),
            pids: Some(64),
            ..Limits::default()
        })
    }

    /// Bytes of modules, files and compiled code that are kept, beyond what tickets name.
    pub(crate) fn cache_size(&self) -> u64 {
        // Checked when the file was read.
        bytes("cache.max_size", &self.cache.max_size).unwrap_or(1 << 30)
    }

    /// Bytes of one log file.
    pub(crate) fn log_size(&self) -> u64 {
        // Checked when the file was read.
        bytes("logs.max_size", &self.logs.max_size).unwrap_or(10 << 20)
    }

    /// What of this ticket the owner forbids, in words.
    pub(crate) fn forbids(&self, ticket: &Ticket) -> Option<String> {
        // A pod without one asks for nothing, whatever the list says.
        let network = match ticket.network {
            Network::None => None,
            Network::Pod => Some("pod"),
            Network::Host => Some("host"),
        };
        if let Some(word) = network.filter(|w| !self.allow.network.iter().any(|n| n == w)) {
            return Some(format!("the network {word:?} is not in allow.network"));
        }
        for volume in &ticket.volumes {
            if let VolumeSource::HostPath { path } = &volume.source
                && !self.allows_path(path)
            {
                return Some(format!("the folder {path} is not below any of allow.host_paths"));
            }
        }
        let devices = ticket.containers.iter().flat_map(|c| &c.devices);
        for device in devices.map(|d| &d.host_path) {
            if !self.allow.devices.contains(device) {
                return Some(format!("the device {device} is not in allow.devices"));
            }
        }
        let bound = self.limits.memory.as_deref().and_then(|m| bytes("limits.memory", m).ok())?;
        let own = ticket.limits.memory;
        let sum = ticket.containers.iter().try_fold(0_u64, |a, c| Some(a.saturating_add(c.limits.memory?)));
        match own.or(sum) {
            Some(asked) if asked <= bound => None,
            Some(asked) => Some(format!("{asked} bytes of memory are above limits.memory, {bound}")),
            None => Some(format!("a memory limit of at most {bound} bytes is demanded by limits.memory")),
        }
    }

    fn allows_path(&self, path: &str) -> bool {
        is_plain_absolute(path)
            && self.allow.host_paths.iter().any(|allowed| Path::new(path).starts_with(allowed))
    }
}

/// Absolute, and every part a plain name.
pub(crate) fn is_plain_absolute(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| rest.is_empty() || is_plain_relative(rest))
}

fn is_plain_relative(path: &str) -> bool {
    !path.is_empty()
        && !path.contains("//")
        && !path.ends_with('/')
        && !path.split('/').any(|part| part == ".")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_disjoint_uids_and_the_defaults() {
        let p = Policy::parse("").unwrap();
        let u = p.uids();
        assert_eq!(
            (u.agent, u.admit, u.log, u.compile, u.pods.first),
            (70_000, 70_001, 70_002, 70_003, 70_100)
        );
        assert!(u.pods.first + u.pods.count < 100_000, "users' own ranges begin there");
        assert_eq!(p.cgroup_parent(), "shoal");
        assert_eq!(p.compile_limits().unwrap().memory, Some(512 << 20));
        assert_eq!(Policy::parse("uid_base = 80000").unwrap().uids().pods.first, 80_100);
    }

    #[test]
    fn the_packaged_policy_is_one_and_keeps_clear_of_users_that_systemd_makes() {
        let text = include_str!("../../../../deploy/package/etc/policy.toml");
        let p = Policy::parse(text).unwrap();
        assert_eq!(p.cgroup_parent(), "shoal.slice/shoal-payload.service");
        let u = p.uids();
        let last = u.pods.first + u.pods.count;
        // 61184 to 65519 are systemd's for its own dynamic users, and users' own ranges begin at 100000.
        assert!(u.agent > 65_535 && last < 100_000, "{u:?}");
        // With every example in it taken at its word, too.
        let all: String = text
            .lines()
            .map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(l).to_owned() + "\n")
            .collect();
        Policy::parse(&all).unwrap();
    }

    #[test]
    fn unknown_fields_units_and_overlapping_uids_are_refused() {
        for bad in [
            "surprise = 1",
            "[compile]\nmemory = \"512MB\"",
            "[compile]\ncpu = \"lots\"",
            "[compile]\njobs = 0",
            "[compile]\njobs = 9",
            "[compile]\nseconds = 0",
            "[zygote]\ncontainers = 0",
            "[cache]\nmax_size = \"lots\"",
            "cgroup_parent = \"../x\"",
            "[uids]\nagent = 70100",
            "[uids]\nadmit = 70000",
            "[uids]\nagent = 0",
            "[allow]\nnetwork = [\"bridge\"]",
            "[network]\nplugins = [\"cni\"]",
            "[network]\nseconds = 0",
            "[allow]\ndevices = [\"/etc/passwd\"]",
            "[allow]\ndevices = [\"/dev/../etc/passwd\"]",
            "[allow]\nhost_paths = [\"srv\"]",
        ] {
            assert!(Policy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_that_the_guard_would_not_start_with_is_told_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(summary(&layout).unwrap().starts_with("users 70000 to 70004 and 70100 to 71099, "));
        std::fs::create_dir_all(layout.policy().parent().unwrap()).unwrap();
        std::fs::write(layout.policy(), "uid_bse = 1").unwrap();
        let error = format!("{:#}", summary(&layout).unwrap_err());
        assert!(error.contains("policy.toml") && error.contains("uid_bse"), "{error}");
    }

    #[test]
    fn only_paths_below_an_allowed_one_pass() {
        let p = Policy::parse("[allow]\nhost_paths = [\"/srv/data\"]").unwrap();
        assert!(p.allows_path("/srv/data") && p.allows_path("/srv/data/a"));
        for bad in ["/srv", "/srv/database", "/srv/data/../x", "srv/data", "/srv/data//x", "/srv/data/./x"] {
            assert!(!p.allows_path(bad), "{bad}");
        }
    }
}
