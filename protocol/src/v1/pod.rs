//! The pod template: containers, limits, mounts and grants, with every image pinned to its bytes.

use super::{DocumentRef, EntryKind, EnvFrom, EnvSource, KeyFile};
use crate::ids::{Digest, Name};
use crate::text_map::TextMap;
use serde::{Deserialize, Serialize};

/// What executes a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RuntimeClass {
    /// WasmEdge.
    #[default]
    Wasm,
    /// A native OCI runtime (reserved).
    Oci,
}

/// How the engine executes a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Engine {
    /// Compiled ahead of time on the device.
    #[default]
    Aot,
    /// Interpreted: no compiler, no native code of its own, and many times slower.
    Interpreter,
}

/// A pod's network, from narrow to wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Network {
    /// No sockets at all.
    #[default]
    None,
    /// A network of the pod's own, made by the device's CNI plugins.
    Pod,
    /// The device's.
    Host,
}

/// When an ended container starts again (Kubernetes `restartPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Always, with backoff.
    #[default]
    Always,
    /// When it failed.
    OnFailure,
    /// Never.
    Never,
}

/// A regular file of an image, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path in the container, normalised.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u64,
    /// Content.
    pub digest: Digest,
}

/// An image, pinned by the operator's own reading of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As the operator wrote it; where a device may look for it first.
    pub reference: String,
    /// The image manifest (never an index).
    pub manifest: Digest,
    /// The manifest's bytes.
    pub manifest_size: u64,
    /// The wasm module that starts, as signed (before stripping).
    pub module: File,
    /// All other regular files; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
}

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// The name, without `=`.
    pub name: String,
    /// The value; empty when it comes from elsewhere.
    pub value: String,
    /// A config's or secret's entry in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<EnvSource>,
}

impl EnvVar {
    /// A variable with this value.
    pub fn plain(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), from: None }
    }
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// Memory, gone with the pod.
    EmptyDir {
        /// Bytes at most; absent is 16 MiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_limit: Option<u64>,
    },
    /// A folder of the device; its policy must allow it too.
    HostPath {
        /// Absolute path.
        path: String,
    },
    /// Kept on the device for as long as the deployment is.
    Persistent {
        /// Bytes at most (reserved; not enforced without a quota of the file system).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_limit: Option<u64>,
    },
    /// Files from a config, read-only, as they are when the container starts.
    Config {
        /// Which.
        document: DocumentRef,
        /// Permission bits of the files.
        mode: u64,
        /// The entries that become files; empty is all of them, by their keys.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        items: Vec<KeyFile>,
    },
    /// Files from a secret, likewise.
    Secret {
        /// Which.
        document: DocumentRef,
        /// Permission bits of the files.
        mode: u64,
        /// The entries that become files; empty is all of them, by their keys.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        items: Vec<KeyFile>,
    },
}

impl VolumeSource {
    /// The document that its files come from, and which of its entries become files of which mode.
    pub fn files(&self) -> Option<(EntryKind, &DocumentRef, u64, &[KeyFile])> {
        match self {
            Self::Config { document, mode, items } => Some((EntryKind::Config, document, *mode, items)),
            Self::Secret { document, mode, items } => Some((EntryKind::Secret, document, *mode, items)),
            Self::EmptyDir { .. } | Self::HostPath { .. } | Self::Persistent { .. } => None,
        }
    }
}

/// A folder that containers of the pod can mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Unique in the pod.
    pub name: Name,
    /// Where it comes from.
    pub source: VolumeSource,
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Which volume.
    pub volume: Name,
    /// Absolute path in the container.
    pub path: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// Limits of a pod or a container; an absent one is no limit of its own. Units as in CRI v1 `LinuxContainerResources`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Memory and swap together, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Memory that is planned with, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_request: Option<u64>,
    /// Microseconds of CPU in each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u64>,
    /// Microseconds; 100,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Relative weight, 2 to 262,144.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// CPUs, in list format (`0-3,7`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, in list format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    /// −1000 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i64>,
    /// The guest's linear memory, in pages of 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasm_pages: Option<u64>,
    /// CPU seconds of one run in total, then it ends by `cpu_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// Seconds that one run may last, then it ends by `time_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<u64>,
    /// How fast it may read and write disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskLimits>,
}

/// How fast a pod or container may use each disk of the device; at least one is set. Words as in cgroup v2's `io.max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskLimits {
    /// Bytes read in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bps: Option<u64>,
    /// Bytes written in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bps: Option<u64>,
    /// Reads in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_iops: Option<u64>,
    /// Writes in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_iops: Option<u64>,
}

/// How a container's health is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeAction {
    /// A module of the image that exits 0.
    Exec {
        /// The module.
        module: File,
        /// Its argument vector.
        argv: Vec<String>,
    },
    /// A connection that is accepted.
    Tcp {
        /// Port.
        port: u64,
    },
    /// A GET that answers 2xx or 3xx.
    Http {
        /// Port.
        port: u64,
        /// Path.
        path: String,
    },
    /// A file in a volume of the pod that changes: for guests that have no network and no second module.
    FileFresh {
        /// Absolute path in the container, below one of its mounts.
        path: String,
        /// Seconds that may pass between two changes.
        max_age: u64,
    },
}

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Restarted when it fails.
    Liveness,
    /// Not healthy while it fails.
    Readiness,
    /// Nothing else is probed before it passes.
    Startup,
}

/// A health probe (Kubernetes `Probe`); times in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    pub action: ProbeAction,
    /// Before the first one.
    pub initial_delay: u64,
    /// Between two.
    pub period: u64,
    /// Until it counts as failed.
    pub timeout: u64,
    /// How many failures in a row are one failure.
    pub failure_threshold: u64,
    /// How many successes in a row are one success; absent is 1, and only a readiness probe may ask for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u64>,
}

/// A module of the image that runs beside a container for a moment (Kubernetes `lifecycle`, `exec` only).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The module.
    pub module: File,
    /// Its argument vector.
    pub argv: Vec<String>,
}

/// A character device granted to a container, to read and write; the device's policy must allow it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceGrant {
    /// On the device, `/dev/…`.
    pub host_path: String,
    /// In the container.
    pub path: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// One container of a pod. What the image configures is resolved by the operator's CLI before signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Unique in the pod.
    pub name: Name,
    /// What runs.
    pub image: Image,
    /// The whole argument vector, the program's own name first.
    pub argv: Vec<String>,
    /// Absolute; where relative paths begin.
    pub working_dir: String,
    /// Its limits.
    pub resources: Resources,
    /// Whether `/` refuses writing.
    pub readonly_rootfs: bool,
    /// How it executes.
    pub engine: Engine,
    /// The whole environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Folders.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Overrides the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Restarted when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Not healthy before it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Nothing else is probed before it succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// Character devices, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceGrant>,
    /// Linux capabilities by name (reserved; a wasm guest has none).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// An exported function that must pass on the device before the revision is staged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_test: Option<String>,
    /// Whether its standard input stays open, and silent, until it is asked to end; else it is empty from the start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Runs once the container was started; when it fails, the container ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<Hook>,
    /// Runs before the container is asked to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Hook>,
    /// All entries of documents as variables, where `env` names none of that name; later ones win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFrom>,
}

impl Container {
    /// Its probes, each with its kind.
    pub fn probes(&self) -> impl Iterator<Item = (ProbeKind, &Probe)> {
        [
            (ProbeKind::Liveness, &self.liveness_probe),
            (ProbeKind::Readiness, &self.readiness_probe),
            (ProbeKind::Startup, &self.startup_probe),
        ]
        .into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
    }

    /// All modules that may run of its image, its own first; one may stand twice.
    pub fn modules(&self) -> impl Iterator<Item = &File> {
        let probes = self.probes().filter_map(|(_, p)| match &p.action {
            ProbeAction::Exec { module, .. } => Some(module),
            _ => None,
        });
        let hooks = [&self.post_start, &self.pre_stop].into_iter().flatten().map(|h| &h.module);
        std::iter::once(&self.image.module).chain(probes).chain(hooks)
    }
}

/// A port that containers of the pod may listen at (CRI v1 `PortMapping`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// In the pod.
    pub container_port: u64,
    /// On all addresses of the device; 0 is not mapped.
    pub host_port: u64,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// What runs together under one parent cgroup (CRI v1 `PodSandboxConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodTemplate {
    /// What executes it.
    pub runtime_class: RuntimeClass,
    /// Its network.
    pub network: Network,
    /// When containers start again.
    pub restart_policy: RestartPolicy,
    /// Seconds between the request to stop and the kill.
    pub termination_grace: u64,
    /// At least one; at most 16 together with `init_containers`.
    pub containers: Vec<Container>,
    /// Limits of all containers together.
    pub resources: Resources,
    /// Host name inside; absent is the deployment's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Folders to mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Labels of the pod; they select nothing on devices.
    #[serde(default, skip_serializing_if = "TextMap::is_empty")]
    pub labels: TextMap,
    /// Notes.
    #[serde(default, skip_serializing_if = "TextMap::is_empty")]
    pub annotations: TextMap,
    /// Ports, at most 64; only with a network of the pod's own. TCP is listened at on these alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Features of the kernel without which a device refuses it, by name; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_features: Vec<String>,
    /// Run one after the other, each to success, before the others start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
}

impl PodTemplate {
    /// All containers in the order of their numbers: those that run together, then those that come before them.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(&self.init_containers)
    }

    /// The configs and secrets that it refers to; one may stand several times.
    pub fn documents(&self) -> impl Iterator<Item = (EntryKind, &DocumentRef)> {
        let volumes = self.volumes.iter().filter_map(|v| v.source.files()).map(|(kind, d, ..)| (kind, d));
        let variables = self.all_containers().flat_map(|c| {
            let one = c.env.iter().filter_map(|e| e.from.as_ref()).map(EnvSource::parts);
            one.chain(c.env_from.iter().map(EnvFrom::parts)).map(|(kind, d, _)| (kind, d))
        });
        volumes.chain(variables)
    }

    /// Whether this number is that of a container which comes before the others.
    pub fn is_init(&self, number: usize) -> bool {
        number >= self.containers.len()
    }
}
