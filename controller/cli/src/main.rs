//! `shoal`: the operator's command line.
#![forbid(unsafe_code)]
#![allow(dead_code)]
mod error;
mod manifest;
fn main() {}
