//! The ticket: admission's permission to stage or start exactly this, and nothing else.

use crate::wire::{layout, tagged};
use crate::{Digest, DiskLimits};

/// The largest ticket, bytes.
pub const TICKET_MAX: usize = 64 * 1024;
/// The most bytes that the files of one ticket's configs and secrets have together.
pub const CONTENTS_MAX: u64 = 512 * 1024;
/// The most files of configs and secrets in one ticket.
pub const CONTENTS_COUNT: usize = 256;

tagged! {
    /// When an ended container starts again.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Restart: "restart policy" {
        /// Always, with backoff.
        Always = 0,
        /// When it failed.
        OnFailure = 1,
        /// Never.
        Never = 2,
    }
}

tagged! {
    /// A pod's network, from narrow to wide.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Network: "network" {
        /// No sockets at all.
        None = 0,
        /// A network of the pod's own.
        Pod = 1,
        /// The device's.
        Host = 2,
    }
}

tagged! {
    /// Where a volume comes from.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum VolumeSource: "volume source" {
        /// Memory, gone with the pod.
        EmptyDir = 0 {
            /// Bytes at most.
            size_limit: u64,
        },
        /// A folder of the device; its policy must allow it too.
        HostPath = 1 {
            /// Absolute.
            path: String,
        },
        /// Kept for as long as the deployment is.
        Persistent = 2,
        /// Files of a config or secret, in memory and of each container's own.
        Files = 3 {
            /// Whether they may never be written to a disk.
            private: bool,
            /// The files; paths are relative to the volume. Their bytes come from admission ([`crate::Msg::Content`]).
            files: Vec<TicketFile>,
        },
    }
}

tagged! {
    /// Which of a container's probes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum ProbeKind: "probe kind" {
        /// Restarted when it fails.
        Liveness = 0,
        /// Not healthy while it fails.
        Readiness = 1,
        /// Nothing else is probed before it passes.
        Startup = 2,
    }
}

tagged! {
    /// What a probe asks.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum ProbeAction: "probe action" {
        /// A module of the image that exits 0.
        Exec = 0 {
            /// It.
            entry: TicketEntry,
        },
        /// A connection that is accepted.
        Tcp = 1 {
            /// Port.
            port: u16,
        },
        /// A GET that answers 2xx or 3xx.
        Http = 2 {
            /// Port.
            port: u16,
            /// Path.
            path: String,
        },
        /// A file that changes.
        FileFresh = 3 {
            /// Index in the ticket's volumes.
            volume: u16,
            /// Relative to the volume.
            path: String,
            /// Seconds that may pass between two changes.
            max_age: u32,
        },
    }
}

layout! {
    /// A second module of a container's image, that runs beside it for a moment.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketEntry {
        /// The module as signed.
        pub module: TicketFile,
        /// The whole argument vector.
        pub argv: Vec<String>,
    }

    /// A probe; times in seconds.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketProbe {
        /// Which.
        pub kind: ProbeKind,
        /// What is asked.
        pub action: ProbeAction,
        /// Before the first one.
        pub initial_delay: u32,
        /// Between two.
        pub period: u32,
        /// Until it counts as failed.
        pub timeout: u32,
        /// Failures in a row that are one failure.
        pub failures: u32,
        /// Successes in a row that are one success.
        pub successes: u32,
    }

    /// Limits of a pod or container; units as in CRI v1 `LinuxContainerResources`.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Limits {
        /// Memory and swap together, bytes.
        pub memory: Option<u64>,
        /// Microseconds of CPU in each period.
        pub cpu_quota: Option<u64>,
        /// Microseconds; 100,000 when absent.
        pub cpu_period: Option<u64>,
        /// Relative weight, 2 to 262,144.
        pub cpu_shares: Option<u64>,
        /// CPU list.
        pub cpuset_cpus: Option<String>,
        /// Memory node list.
        pub cpuset_mems: Option<String>,
        /// Processes and threads.
        pub pids: Option<u64>,
        /// −1000 to 1000.
        pub oom_score_adj: Option<i64>,
        /// The guest's linear memory, pages of 64 KiB.
        pub wasm_pages: Option<u32>,
        /// CPU seconds of one run.
        pub cpu_seconds: Option<u64>,
        /// Seconds that one run may last.
        pub wall_seconds: Option<u64>,
        /// Use of disks.
        pub disk: DiskLimits,
    }

    /// A regular file of the image, by content.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketFile {
        /// Absolute path in the container.
        pub path: String,
        /// Bytes.
        pub size: u64,
        /// Permission bits.
        pub mode: u32,
        /// Content.
        pub digest: Digest,
    }

    /// An environment variable.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct EnvVar {
        /// The name, without `=`.
        pub name: String,
        /// The value.
        pub value: String,
    }

    /// A variable whose value nobody may print.
    #[derive(Clone, PartialEq, Eq)]
    pub struct PrivateVar {
        /// The name, without `=`.
        pub name: String,
        /// The value.
        pub value: String,
    }

    /// A volume of the pod.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketVolume {
        /// Its name.
        pub name: String,
        /// Where it comes from.
        pub source: VolumeSource,
    }

    /// A port that containers of the pod may listen at.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct TicketPort {
        /// In the pod.
        pub container_port: u16,
        /// On the device, all of its addresses; 0 is not mapped.
        pub host_port: u16,
        /// UDP instead of TCP.
        pub udp: bool,
    }

    /// A character device in a container.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketDevice {
        /// On the device, `/dev/…`; its policy must allow it too.
        pub host_path: String,
        /// Absolute path in the container.
        pub path: String,
        /// Whether writing is refused.
        pub read_only: bool,
    }

    /// A volume in a container.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketMount {
        /// Index in the ticket's volumes.
        pub volume: u16,
        /// Absolute path in the container.
        pub path: String,
        /// Whether writing is refused.
        pub read_only: bool,
    }

    /// One container.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketContainer {
        /// Its name.
        pub name: String,
        /// The whole argument vector.
        pub argv: Vec<String>,
        /// The whole environment.
        pub env: Vec<EnvVar>,
        /// Absolute.
        pub working_dir: String,
        /// The module as signed.
        pub module: TicketFile,
        /// All other files of the image.
        pub files: Vec<TicketFile>,
        /// Its limits.
        pub limits: Limits,
        /// Folders.
        pub mounts: Vec<TicketMount>,
        /// Whether `/` refuses writing.
        pub readonly_rootfs: bool,
        /// When it starts again.
        pub restart: Restart,
        /// Whether the module is interpreted; else it is compiled.
        pub interpreter: bool,
        /// The export that must pass before the container is staged.
        pub self_test: Option<String>,
        /// Its probes, at most one of each kind.
        pub probes: Vec<TicketProbe>,
        /// Runs once it was started.
        pub post_start: Option<TicketEntry>,
        /// Runs before it is asked to end.
        pub pre_stop: Option<TicketEntry>,
        /// Whether its standard input stays open until it is asked to end.
        pub stdin: bool,
        /// Whether it must have exited 0 before those without this mark start.
        pub init: bool,
        /// Character devices.
        pub devices: Vec<TicketDevice>,
        /// Variables from configs and secrets: seen by the container alone, never by what it is forked from.
        pub private_env: Vec<PrivateVar>,
    }

    /// A permission; a newer one of the same id replaces it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Ticket {
        /// The layout's version: [`crate::VERSION`].
        pub version: u16,
        /// The deployment's identity, which is the ticket's id.
        pub id: Digest,
        /// The deployment's name.
        pub name: String,
        /// Its sequence.
        pub sequence: u64,
        /// Whether it may be fetched and compiled.
        pub stageable: bool,
        /// Whether it may be started.
        pub startable: bool,
        /// Host name inside.
        pub hostname: String,
        /// Seconds between the request to stop and the kill.
        pub grace: u32,
        /// Limits of all containers together.
        pub limits: Limits,
        /// Volumes that containers may mount.
        pub volumes: Vec<TicketVolume>,
        /// At least one, at most 16; those that come before the others stand last.
        pub containers: Vec<TicketContainer>,
        /// Features that the kernel must have, by name; a name that a device does not know is one that it lacks.
        pub required_features: Vec<String>,
        /// The network that all its containers share.
        pub network: Network,
        /// Only with a network of the pod's own.
        pub ports: Vec<TicketPort>,
    }
}

impl std::fmt::Debug for PrivateVar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

impl TicketContainer {
    /// Its module, and those of its probes and hooks.
    pub fn modules(&self) -> impl Iterator<Item = &TicketFile> {
        let probes = self.probes.iter().filter_map(|p| match &p.action {
            ProbeAction::Exec { entry } => Some(entry),
            _ => None,
        });
        let hooks = self.post_start.iter().chain(&self.pre_stop);
        std::iter::once(&self.module).chain(probes.chain(hooks).map(|e| &e.module))
    }
}

impl Ticket {
    /// Whether its containers may have sockets.
    pub fn sockets(&self) -> bool {
        self.network != Network::None
    }

    /// All modules and files with their sizes, each digest once; modules first.
    pub fn items(&self) -> Vec<&TicketFile> {
        let mut seen = std::collections::BTreeSet::new();
        let modules = self.modules();
        let files = self.containers.iter().flat_map(|c| &c.files);
        modules.chain(files).filter(|f| seen.insert(f.digest)).collect()
    }

    /// All modules that may run; one may stand several times.
    pub fn modules(&self) -> impl Iterator<Item = &TicketFile> {
        self.containers.iter().flat_map(TicketContainer::modules)
    }

    /// The files of configs and secrets in its volumes.
    pub fn contents(&self) -> impl Iterator<Item = &TicketFile> {
        self.volumes.iter().flat_map(|v| match &v.source {
            VolumeSource::Files { files, .. } => files.as_slice(),
            _ => &[],
        })
    }

    /// Whether `digest` is a module that may run.
    pub fn is_module(&self, digest: &Digest) -> bool {
        self.modules().any(|m| m.digest == *digest)
    }
}
