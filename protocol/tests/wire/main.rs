//! The bytes of the wire: strict, COSE, as the page says, and the same for ever.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod cddl;
mod codec;
mod coset_interop;
mod golden;
