//! What supervise tells a runner process, and what that answers: each one value in one descriptor.
//!
//! `shoal-runner run` gets a [`Spec`] as fd 3 (a sealed memfd) and writes exactly one [`EndRecord`] to fd 4.
//! `shoal-runner compile` gets the module as fd 3 (read only), its scratch folder as working directory, where it leaves
//! `out.so`, and writes exactly one [`CompileResult`] to fd 4. Descriptor 4 is an answer area: a memfd of a fixed size
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
transfer!(EndRecord, ANSWER_MAX);
transfer!(CompileResult, ANSWER_MAX);

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
transfer!(crate::Ticket, crate::TICKET_MAX);
transfer!(crate::TrustSummary, crate::MEMFD_MAX);
transfer!(crate::FactList, crate::MEMFD_MAX);
transfer!(crate::EnrollMaterial, crate::MEMFD_MAX);
