//! Pure decisions of a device: what to do next, when to look again, what to tell.
//!
//! The daemon gathers [`Desired`] (what admission accepted) and [`Observed`] (what supervise and its own records
//! say), asks [`plan()`] for steps, carries them out, and writes what happened back through the methods of
//! [`Record`]. Never here: I/O, a clock, randomness, async. Time and entropy are parameters.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod plan;
pub mod record;
pub mod renewal;
pub mod report;
pub mod rollup;

pub use plan::{Desired, Observed, ObservedPod, Plan, Standing, Step, StopReason, Waiting, plan};
pub use record::{ContainerRecord, Failure, Record, RunState, Verdict};

#[cfg(test)]
mod testing;
