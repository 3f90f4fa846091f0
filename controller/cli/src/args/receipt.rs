//! `shoal receipt`.

use super::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What devices without a network give back by hand.
#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Verify what a device gave back, keep it, and hand it to the controller where that answers
    ///
    /// Takes requests to enrol (`shoal-agent enroll --offline --request FILE`). A device's record is kept: from then on bundles
    /// carry grants of secrets for it.
    #[command(after_help = "\
Examples:
  shoal receipt import /media/usb/pump.enrollment
  shoal receipt import --offline /media/usb/*.enrollment")]
    Import(ReceiptImport),
}

/// Which files.
#[derive(Debug, Args)]
pub(crate) struct ReceiptImport {
    /// What devices wrote
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Ask no controller for anything
    #[arg(long)]
    pub(crate) offline: bool,
    /// How to print
    #[command(flatten)]
    pub(crate) output: Output,
}
