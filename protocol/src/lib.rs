//! Signed documents, the strict codec that carries them, and the one function that verifies them.
//!
//! Never here: I/O, a clock, randomness, async. Time and keys are parameters.
#![forbid(unsafe_code)]

pub mod ids;
pub mod text_map;
pub mod v1;

/// The newest version of every wire type; everyone but the codec's tests uses this name.
pub use v1 as latest;
