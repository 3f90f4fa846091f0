//! Pure decisions of the controller: selection, waves, health gates, and the JSON of its API.
//!
//! Never here: I/O, a clock, randomness, async. Time is a parameter.
#![forbid(unsafe_code)]

pub mod api;
