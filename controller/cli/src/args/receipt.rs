//! `shoal receipt`.

use super::Output;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What devices without a network give back by hand.
#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Verify what a device gave back, keep it, and hand it to the controller where that answers
    ///
    /// Takes receipts (`shoal-agent sideload --receipt DIR`) and requests to enrol (`shoal-agent enroll --offline --request
    /// FILE`). A device's record is kept: from then on bundles carry grants of secrets for it. What a receipt says is the
    /// device's status in `shoal get`, `describe` and `logs` once the controller has it.
    #[command(after_help = "\
Examples:
  shoal receipt import /media/usb/pump.enrollment
  shoal receipt import /media/usb/*.receipt
  shoal receipt import --offline /media/usb/*.receipt")]
    Import(ReceiptImport),
    /// Verify a receipt and show it, with the logs in it; nobody is asked and nothing is kept
    #[command(
        after_help = "Examples:\n  shoal receipt inspect /media/usb/pump.receipt\n  shoal receipt inspect pump.receipt -o json"
    )]
    Inspect(ReceiptInspect),
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

/// Which receipt.
#[derive(Debug, Args)]
pub(crate) struct ReceiptInspect {
    /// The receipt
    pub(crate) file: PathBuf,
    /// How to print
    #[command(flatten)]
    pub(crate) output: Output,
}
