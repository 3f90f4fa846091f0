//! Signed documents, the strict codec that carries them, and the one function that verifies them.
//!
//! Never here: I/O, a clock, randomness (but the nonce of an ECDSA signature), async. Time and keys are parameters.
#![forbid(unsafe_code)]

pub mod codec;
pub mod envelope;
pub mod ids;
pub mod join;
pub mod refusal;
pub mod sealing;
pub mod signer;
pub mod text_map;
pub mod topics;
pub mod v1;
pub mod verify;

pub use refusal::{Code, Refusal};
pub use signer::{Ed25519Signer, Es256Signer, SignError, Signer};

/// The one decision about signed bytes.
pub use verify::{Expect, TrustState, Verdict, Verified, verify};

/// The newest version of every wire type; everyone but the codec's tests uses this name.
pub use v1 as latest;
