//! The verifier against everything that it has to refuse, and against its own edges.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod attacks;
mod documents;
mod limits;
mod limits_configs;
mod limits_documents;
mod limits_releases;
mod limits_templates;
mod network;
mod receipts;
mod releases;
mod workload;
