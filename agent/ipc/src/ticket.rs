//! The ticket: admission's permission to stage or start exactly this, and nothing else.

use crate::Digest;
use crate::wire::{layout, tagged};

/// The largest ticket, bytes.
pub const TICKET_MAX: usize = 64 * 1024;

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
    }
}

layout! {
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

    /// A volume of the pod.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TicketVolume {
        /// Its name.
        pub name: String,
        /// Where it comes from.
        pub source: VolumeSource,
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
        /// At least one, at most 16.
        pub containers: Vec<TicketContainer>,
    }
}

impl Ticket {
    /// All modules and files with their sizes, each digest once; modules first.
    pub fn items(&self) -> Vec<&TicketFile> {
        let mut seen = std::collections::BTreeSet::new();
        let modules = self.containers.iter().map(|c| &c.module);
        let files = self.containers.iter().flat_map(|c| &c.files);
        modules.chain(files).filter(|f| seen.insert(f.digest)).collect()
    }

    /// Whether `digest` is the module of some container.
    pub fn is_module(&self, digest: &Digest) -> bool {
        self.containers.iter().any(|c| c.module.digest == *digest)
    }
}
