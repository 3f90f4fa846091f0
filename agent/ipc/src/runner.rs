//! What supervise tells a runner process, and what that answers: each one value in one descriptor.
//!
//! `shoal-runner zygote` gets a [`Launch`] (a sealed memfd) with each message of that name; the container that it forks
//! writes exactly one [`EndRecord`] into its answer area, and the zygote leaves an [`ExitFact`] in the container's folder.
//! `shoal-runner run` is one container without a zygote: a [`Spec`] as fd 3, an [`EndRecord`] to fd 4.
//! `shoal-runner trial` is the same for a module's self-test.
//! `shoal-runner compile` (or `strip`, for the interpreter) gets the module as fd 3 (read only), its scratch folder as
//! working directory, where it leaves `out.so` (or `out.wasm`), and writes exactly one [`CompileResult`] to fd 4.
//! `shoal-runner prove` gets nothing and writes one [`ProofRecord`]. Descriptor 4 is an answer area: a memfd of a fixed size
//! that starts as zeros, so that it can neither block nor fill anything, and is read after the process is gone.

use crate::wire::{layout, tagged};

layout! {
    /// A folder that the guest finds open.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Preopen {
        /// The path as the guest names it.
        pub guest: String,
        /// The path as the runner's process sees it.
        pub host: String,
        /// Whether writing is refused.
        pub read_only: bool,
    }

    /// One container for `shoal-runner run`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Spec {
        /// The layout's version: [`crate::VERSION`].
        pub version: u16,
        /// The compiled code, as the runner's process sees it: a file that only supervise filled.
        pub code: String,
        /// The whole argument vector.
        pub argv: Vec<String>,
        /// `NAME=value`.
        pub env: Vec<String>,
        /// Folders; the guest's `/` is among them.
        pub preopens: Vec<Preopen>,
        /// Where relative paths begin, as the guest names it.
        pub working_dir: String,
        /// The guest's linear memory at most, pages of 64 KiB; absent is the engine's own maximum.
        pub wasm_pages: Option<u32>,
        /// Whether `code` is a module for the interpreter, not native code.
        pub interpreter: bool,
        /// What of it is called.
        pub entry: Entry,
        /// Whether putting it together runs code of the guest's ([`Needs::start_function`]), so that it has to wait for its start.
        pub start_function: bool,
    }

    /// What a module asks for, to be held against what a container is granted.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Needs {
        /// Pages of 64 KiB that its memory begins with.
        pub min_pages: u32,
        /// The first function for network connections that it imports; absent when it imports none.
        pub socket_import: Option<String>,
        /// Whether putting it together runs code of its own.
        pub start_function: bool,
    }
}

tagged! {
    /// What of a module is called.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Entry: "entry" {
        /// The program: `_start`.
        Start = 0,
        /// No program: the module is only put together, and then its self-test is called if it has one.
        Trial = 1 {
            /// An exported function without parameters; it passes when it returns nothing or 0.
            self_test: Option<String>,
        },
    }
}

tagged! {
    /// Whether compiled and interpreted code of this engine agree on this CPU.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum ProofRecord: "proof record" {
        /// In all calls.
        Same = 1 {
            /// How many.
            calls: u32,
        },
        /// In one they do not, or there was nothing to compare.
        Differs = 2 {
            /// The call, and both results, at most 1 KiB.
            detail: String,
        },
        /// There was no code to compare, which says nothing about the engine: on a full disk nothing is compiled.
        Unmade = 3 {
            /// What failed, at most 1 KiB.
            detail: String,
        },
    }
}

layout! {
    /// A thing of the host that shows up in a jail.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Bind {
        /// On the host, absolute.
        pub source: String,
        /// In the jail, absolute.
        pub target: String,
        /// Whether writing is refused.
        pub read_only: bool,
        /// Whether what is there may be executed or mapped as code.
        pub executable: bool,
        /// A device node rather than a file or folder.
        pub device: bool,
    }

    /// A file that is copied into the guest's `/`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ImageFile {
        /// On the host, absolute.
        pub source: String,
        /// As the guest names it, absolute.
        pub path: String,
        /// Permission bits.
        pub mode: u32,
    }

    /// The guest's `/`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Rootfs {
        /// Bytes at most.
        pub size: u64,
        /// What is in it.
        pub files: Vec<ImageFile>,
        /// Whether writing is refused.
        pub read_only: bool,
        /// Volumes, mounted below it.
        pub volumes: Vec<Bind>,
    }

    /// Namespaces and a root of its own.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Jail {
        /// An empty folder of supervise's, mounted over in the child's namespace only.
        pub mount_point: String,
        /// What it shows beside the guest's `/`.
        pub binds: Vec<Bind>,
        /// The guest's `/`; absent for a job that has none.
        pub rootfs: Option<Rootfs>,
        /// Its host name.
        pub hostname: String,
    }

    /// One container for the zygote: who it is, what it sees, where it is counted, and what runs in it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Launch {
        /// The layout's version: [`crate::VERSION`].
        pub version: u16,
        /// What runs.
        pub spec: Spec,
        /// Its walls; absent without root.
        pub jail: Option<Jail>,
        /// Its uid and gid; absent without root.
        pub uid: Option<u32>,
        /// `tasks` files by which it joins its groups (v1).
        pub groups: Vec<String>,
        /// The group that it is born in (v2).
        pub birth: Option<String>,
        /// −1000 to 1000.
        pub oom_score_adj: Option<i64>,
        /// Its network.
        pub network: NetworkPlace,
        /// CPU seconds that it may use; the kernel kills it after them.
        pub cpu_seconds: Option<u64>,
        /// TCP ports that it may listen at in the network that came along.
        pub bind: Vec<u16>,
        /// Whether a [`Content`] came along.
        pub content: bool,
    }

    /// A file of a config or secret.
    #[derive(Clone, PartialEq, Eq)]
    pub struct ContentFile {
        /// Relative to the folder.
        pub path: String,
        /// Permission bits.
        pub mode: u32,
        /// Its bytes.
        pub bytes: Vec<u8>,
    }

    /// A folder of such files.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ContentFolder {
        /// As the guest names it, absolute.
        pub target: String,
        /// What is in it.
        pub files: Vec<ContentFile>,
    }

    /// What a container gets to see and nobody that it is forked from: configs and secrets.
    #[derive(Clone, PartialEq, Eq, Default)]
    pub struct Content {
        /// `NAME=value`, behind those of the [`Spec`].
        pub env: Vec<String>,
        /// Folders of its own, in memory and read-only.
        pub folders: Vec<ContentFolder>,
    }

    /// What the zygote saw of an end.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ExitFact {
        /// Supervise's number of the start.
        pub id: u64,
        /// The process that was.
        pub pid: u32,
        /// Its exit code; absent when a signal ended it.
        pub code: Option<i32>,
        /// The signal.
        pub signal: Option<i32>,
        /// Seconds since 1970.
        pub at: u64,
        /// The answer area as it was, unread.
        pub area: Vec<u8>,
    }
}

impl std::fmt::Debug for ContentFile {
    /// Without its bytes, which may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ContentFile({:?}, {} bytes)", self.path, self.bytes.len())
    }
}

impl std::fmt::Debug for Content {
    /// Without values, which may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} variables, {:?})", self.env.len(), self.folders)
    }
}

tagged! {
    /// Where a container's sockets would be.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum NetworkPlace: "network place" {
        /// In an empty network namespace of its own: there is nobody.
        Nowhere = 0,
        /// In the namespace that came along (the pod's).
        Given = 1,
        /// In the host's.
        Host = 2,
    }
}

impl Bind {
    /// Something to read and execute.
    pub fn code(source: impl AsRef<std::path::Path>, target: &str) -> Self {
        Self { executable: true, ..Self::data(source, target, true) }
    }

    /// A folder or file for data.
    pub fn data(source: impl AsRef<std::path::Path>, target: &str, read_only: bool) -> Self {
        let (source, target) = (source.as_ref().to_string_lossy().into_owned(), target.to_owned());
        Self { source, target, read_only, executable: false, device: false }
    }

    /// A device node, under its own name.
    pub fn device(path: &str) -> Self {
        Self { device: true, ..Self::data(path, path, false) }
    }
}

impl ExitFact {
    /// Exit code or signal, as a parent sees it.
    pub fn status(&self) -> Option<Result<i32, i32>> {
        self.code.map(Ok).or(self.signal.map(Err))
    }
}

tagged! {
    /// How a guest ended, as the runner saw it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum EndRecord: "end record" {
        /// `proc_exit`, or a return from `_start`.
        Exit = 1 {
            /// The guest's code.
            code: u32,
        },
        /// A trap.
        Trap = 2 {
            /// The engine's words, at most 1 KiB.
            message: String,
        },
        /// `memory.grow` was refused at the guest's own limit, and the guest failed of it.
        GuestMemory = 3,
        /// The guest never ran.
        Refused = 4 {
            /// A stable code.
            code: String,
            /// In words, at most 1 KiB.
            message: String,
        },
    }
}

tagged! {
    /// How a compilation ended.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum CompileResult: "compile result" {
        /// `out.so` is there.
        Done = 1 {
            /// Engine version.
            engine: String,
            /// Milliseconds.
            millis: u64,
            /// Bytes of the module without its custom sections.
            stripped_size: u64,
            /// What it asks for.
            needs: Needs,
        },
        /// There is no code.
        Failed = 2 {
            /// A stable code (`unsupported_proposal`, `not_wasm`, `component_unsupported`, `compile_failed` …).
            code: String,
            /// In words, at most 1 KiB.
            detail: String,
        },
    }
}

/// The longest spec, bytes: a ticket's container with its paths.
pub(crate) const SPEC_MAX: usize = 128 * 1024;
/// The longest launch, bytes: a spec, with the places of up to as many files and volumes as a ticket has.
pub(crate) const LAUNCH_MAX: usize = 2 * SPEC_MAX;
/// The longest answer, bytes: one write to a pipe, never split.
pub(crate) const ANSWER_MAX: usize = 4096;

macro_rules! transfer {
    ($t:ty, $max:expr) => {
        impl $t {
            /// The most bytes that it may have.
            pub const MAX: usize = $max;

            /// The layout's bytes.
            pub fn encode(&self) -> Vec<u8> {
                crate::encode(self)
            }

            /// Reads exactly one; refuses leftovers and anything above [`Self::MAX`].
            pub fn decode(bytes: &[u8]) -> Result<Self, crate::Error> {
                if bytes.len() > $max {
                    return Err(crate::Error::TooLarge { what: stringify!($t), max: $max });
                }
                crate::decode(bytes)
            }
        }
    };
}
transfer!(Spec, SPEC_MAX);
transfer!(Launch, LAUNCH_MAX);
transfer!(Content, crate::MEMFD_MAX);
transfer!(ExitFact, 2 * crate::AREA_SIZE);
transfer!(EndRecord, ANSWER_MAX);
transfer!(CompileResult, ANSWER_MAX);
transfer!(ProofRecord, ANSWER_MAX);

macro_rules! answer {
    ($t:ty) => {
        impl $t {
            /// Reads what stands in an answer area: nothing when it was never written or holds no whole answer.
            pub fn from_area(area: &[u8]) -> Option<Self> {
                let mut r = crate::Reader::new(area);
                let answer = <Self as crate::Field>::take(&mut r).ok()?;
                let rest = r.raw(r.left()).ok()?;
                rest.iter().all(|b| *b == 0).then_some(answer)
            }
        }
    };
}
// Their tags begin at 1, so that zeros are no answer.
answer!(EndRecord);
answer!(CompileResult);
answer!(ProofRecord);
transfer!(crate::Ticket, crate::TICKET_MAX);
transfer!(crate::TrustSummary, crate::MEMFD_MAX);
transfer!(crate::FactList, crate::MEMFD_MAX);
transfer!(crate::EnrollMaterial, crate::MEMFD_MAX);
