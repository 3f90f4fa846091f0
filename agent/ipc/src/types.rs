//! The plain data inside messages: what runs, how it ended, what admission holds.

use crate::ticket::ProbeKind;
use crate::wire::{Reader, Writer, layout, tagged};
use crate::{Error, Field};
use std::fmt;

/// A SHA-256 digest: of a file, or a document's identity (which is also the ticket's id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Lower-case hexadecimal: a file name in content-addressed folders.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut s, b| {
            // Writing to a String cannot fail.
            let _ = write!(s, "{b:02x}");
            s
        })
    }
    /// The first 12 hexadecimal digits: enough for a person and for folder names.
    pub fn short(&self) -> String {
        let mut s = self.hex();
        s.truncate(12);
        s
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Field for Digest {
    fn put(&self, w: &mut Writer) {
        w.raw(&self.0);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        r.array().map(Self)
    }
}

tagged! {
    /// How a container ended (the causes of the wire's `Cause`, told apart by supervise).
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Cause: "cause" {
        /// `proc_exit`, or a return from `_start`.
        Exited = 0 {
            /// The guest's code.
            code: u32,
        },
        /// A wasm trap.
        Trap = 1 {
            /// The engine's words.
            message: String,
        },
        /// `memory.grow` was refused at the guest's own limit.
        GuestMemory = 2,
        /// The kernel's OOM killer, in its cgroup.
        OomKilled = 3,
        /// Total CPU time spent.
        CpuLimit = 4,
        /// Wall time spent.
        TimeLimit = 5,
        /// Killed for failing its probe.
        Unhealthy = 6,
        /// Stopped on request.
        Stopped = 7,
        /// A signal that nobody of ours sent.
        Signal = 8 {
            /// Number.
            number: u32,
        },
        /// It never ran.
        Refused = 9 {
            /// A stable code.
            code: String,
            /// In words.
            detail: String,
        },
        /// It ended while nobody watched.
        Unknown = 10,
    }
}

tagged! {
    /// What supervise saw of a container.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum FactEvent: "fact event" {
        /// Its process is there and confined.
        Started = 0,
        /// It ended.
        Ended = 1 {
            /// How.
            cause: Cause,
        },
        /// It ran ten seconds and passes its probes, or exited 0 where it need not run on.
        Healthy = 2,
        /// A probe of it changed its mind.
        Probed = 3 {
            /// Which.
            probe: ProbeKind,
            /// Whether it passes now.
            passed: bool,
        },
    }
}

tagged! {
    /// What admission makes of a revision that it holds.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum HeldRole: "held role" {
        /// Accepted and listed; not healthy here yet.
        Candidate = 0,
        /// The newest that became healthy here.
        LastGood = 1,
        /// Kept as bytes only: a newer one became healthy.
        Superseded = 2,
        /// Its ticket was withdrawn: removed, deselected, returned from or revoked; `reason` says which.
        Withdrawn = 3,
    }
}

tagged! {
    /// How far a module is on its way to being ready.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum PrepareStage: "prepare stage" {
        /// Others are before it.
        Queued = 0 {
            /// How many.
            ahead: u32,
        },
        /// It is being compiled, or stripped for the interpreter.
        Compiling = 1,
        /// It is put together once, and its self-test runs.
        Testing = 2,
    }
}

layout! {
    /// How fast each disk may be used; words as in cgroup v2's `io.max`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct DiskLimits {
        /// Bytes read in a second.
        pub read_bps: Option<u64>,
        /// Bytes written in a second.
        pub write_bps: Option<u64>,
        /// Reads in a second.
        pub read_iops: Option<u64>,
        /// Writes in a second.
        pub write_iops: Option<u64>,
    }

    /// Limits as the kernel reports them after they were set; absent where none was asked for.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Applied {
        /// Bytes.
        pub memory_limit: Option<u64>,
        /// Bytes of memory and swap together; absent without swap accounting.
        pub memory_swap_limit: Option<u64>,
        /// Microseconds in each period.
        pub cpu_quota: Option<u64>,
        /// Microseconds.
        pub cpu_period: Option<u64>,
        /// Relative weight in v1's scale.
        pub cpu_shares: Option<u64>,
        /// CPU list.
        pub cpuset_cpus: Option<String>,
        /// Memory node list.
        pub cpuset_mems: Option<String>,
        /// Processes and threads.
        pub pids_limit: Option<u64>,
        /// −1000 to 1000.
        pub oom_score_adj: Option<i64>,
        /// Of each disk that the device had at the start.
        pub disk: DiskLimits,
    }

    /// A container's use of memory and CPU.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct StatsInfo {
        /// Bytes in use.
        pub memory: u64,
        /// Highest use, bytes.
        pub memory_peak: u64,
        /// CPU time, microseconds.
        pub cpu_usage: u64,
        /// Time throttled, microseconds.
        pub cpu_throttled: u64,
        /// Limits as read back.
        pub applied: Applied,
        /// Periods in which it was throttled.
        pub cpu_throttled_periods: u64,
    }

    /// What one compilation cost.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct CompiledInfo {
        /// Engine version.
        pub engine: String,
        /// Milliseconds; of the compilation that filled the cache.
        pub millis: u64,
        /// Bytes of the module as signed.
        pub module_size: u64,
        /// Bytes of the compiled code.
        pub code_size: u64,
        /// Whether it was there already.
        pub cache_hit: bool,
    }

    /// How far one module of a ticket is.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ModuleState {
        /// The module as signed.
        pub digest: Digest,
        /// Whether its bytes are there.
        pub staged: bool,
        /// Its compiled code, when there is some that fits this engine and CPU.
        pub compiled: Option<CompiledInfo>,
    }

    /// A container that supervise knows, running or ended.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ContainerState {
        /// Its ticket: the deployment's identity.
        pub ticket: Digest,
        /// The deployment's name.
        pub deployment: String,
        /// Index in the ticket.
        pub index: u16,
        /// The container's name.
        pub name: String,
        /// Which start of it.
        pub attempt: u64,
        /// Whether its process is there.
        pub running: bool,
        /// The process; 0 once it ended.
        pub pid: u32,
        /// Seconds since 1970.
        pub started_at: u64,
        /// Seconds since 1970; 0 while it runs.
        pub finished_at: u64,
        /// Whether it counted as healthy.
        pub healthy: bool,
        /// How it ended; absent while it runs.
        pub cause: Option<Cause>,
        /// The last readings.
        pub stats: StatsInfo,
        /// Last lines of its standard error, at most 1 KiB; only of a failed end.
        pub stderr_tail: String,
        /// Log lines dropped for rate or quota.
        pub dropped_lines: u64,
        /// Whether its ticket is an unsigned one, brought by uid 0 of this device.
        pub local: bool,
        /// Whether its readiness probe passes; absent without one.
        pub ready: Option<bool>,
        /// Why a probe of it failed last; empty when none did, at most 256 bytes.
        pub probe_message: String,
    }

    /// What this guard can and does enforce.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct FeatureSet {
        /// Engine version; empty without an engine.
        pub engine: String,
        /// Whether modules can be compiled here.
        pub compiler: bool,
        /// `x86_64`, `aarch64` …
        pub arch: String,
        /// `v1`, `v2` or `none`.
        pub cgroup: String,
        /// Whether containers run without walls, since the guard is not root.
        pub unconfined: bool,
        /// What cannot be enforced, in words.
        pub missing: Vec<String>,
        /// Whether compiled and interpreted results differed here, so that nothing compiled runs.
        pub engine_mismatch: bool,
    }

    /// The guard's own state, for `doctor`.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct GuardStatus {
        /// What can be enforced.
        pub features: FeatureSet,
        /// Whether admit is up.
        pub admit_running: bool,
        /// Whether log is up.
        pub log_running: bool,
        /// Tickets held.
        pub tickets: u32,
        /// Containers running.
        pub containers: u32,
        /// Admit's process; 0 without one.
        pub admit_pid: u32,
        /// Log's process; 0 without one.
        pub log_pid: u32,
        /// Requests answered `not_admitted` since the start.
        pub not_admitted: u64,
        /// The zygote's process; 0 without one.
        pub zygote_pid: u32,
    }

    /// How often a refusal code was given.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct RefusalCount {
        /// The stable code.
        pub code: String,
        /// How often since the device began.
        pub count: u64,
        /// The latest one, in words.
        pub last: String,
        /// When the latest was, seconds since 1970.
        pub last_at: u64,
    }

    /// A deployment revision that admission holds.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct HeldRevision {
        /// Deployment.
        pub name: String,
        /// Its sequence.
        pub sequence: u64,
        /// Its identity, which is also the ticket's id.
        pub digest: Digest,
        /// What admission makes of it.
        pub role: HeldRole,
        /// Whether a ticket permits staging it.
        pub stageable: bool,
        /// Whether a ticket permits starting it.
        pub startable: bool,
        /// A stable code for what is not startable (`dependency_unmet`, `deselected`, `removed`, `returned` …).
        pub reason: String,
        /// The same in words, where the code alone does not say it all; no value of a secret.
        pub detail: String,
    }

    /// A config or secret that admission holds.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct HeldDocument {
        /// `config` or `secret`.
        pub kind: String,
        /// Its name.
        pub name: String,
        /// Its sequence.
        pub sequence: u64,
        /// Its identity.
        pub digest: Digest,
        /// Whether it can be read here: of a secret, whether there is a grant.
        pub open: bool,
    }

    /// The snapshot in force.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SnapshotInfo {
        /// Its version.
        pub version: u64,
        /// Its identity.
        pub digest: Digest,
        /// Until when it admits new documents, seconds since 1970.
        pub not_after: u64,
    }

    /// This device as its record says.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct DeviceInfo {
        /// Its id.
        pub device: String,
        /// The record's sequence.
        pub sequence: u64,
        /// Labels, `key` and `value` alternating.
        pub labels: Vec<String>,
    }

    /// All that the agent needs of admission's trust store, to plan and to report.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct TrustSummary {
        /// The fleet; empty before enrolment.
        pub fleet: String,
        /// The root in force; 0 before enrolment.
        pub root_version: u64,
        /// The snapshot in force.
        pub snapshot: Option<SnapshotInfo>,
        /// The device record in force.
        pub device: Option<DeviceInfo>,
        /// The highest order counter accepted.
        pub order_counter: u64,
        /// Never runs backwards, seconds since 1970.
        pub time_floor: u64,
        /// Deployment revisions.
        pub held: Vec<HeldRevision>,
        /// Refusals by code.
        pub refusals: Vec<RefusalCount>,
        /// States of the device (`time_untrusted`, `snapshot_expired`, `storage_unavailable` …).
        pub conditions: Vec<String>,
        /// The highest fact counter signed.
        pub fact_counter: u64,
        /// Configs and secrets.
        pub documents: Vec<HeldDocument>,
    }

    /// A fact with admit's signature.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SignedFact {
        /// Admit's own counter.
        pub counter: u64,
        /// The envelope.
        pub envelope: Vec<u8>,
    }

    /// A bounded run of facts, ascending by counter.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct FactList {
        /// The facts.
        pub facts: Vec<SignedFact>,
        /// Whether there are more behind the last one.
        pub more: bool,
    }

    /// What uid 0 hands to admission once, from the join file.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct EnrollMaterial {
        /// Envelopes of the root chain, from root 1.
        pub roots: Vec<Vec<u8>>,
        /// Envelope of the token.
        pub token: Vec<u8>,
    }
}
