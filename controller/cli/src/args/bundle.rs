//! `shoal bundle`.

use super::Output;
use crate::output::Format;
use clap::{Args, Subcommand};
use shoal_protocol::ids::Name;
use std::path::PathBuf;

/// Bundles: signed documents and images in one file, for devices without a network.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Write what the fleet's snapshot lists, as it was signed, with the images, into one file
    ///
    /// Nothing is signed here: documents come from the own verified state, and from the controller when that lacks one. The
    /// file is an OCI image layout; skopeo and other tools read it. On the device: `shoal-agent sideload FILE`.
    #[command(
        after_help = "Examples:\n  shoal bundle create -o site.shoal\n  shoal bundle create web meter -o /media/usb/two.shoal"
    )]
    Create(BundleCreate),
    /// Show what a bundle holds, after checking each byte against its digest
    #[command(
        after_help = "Examples:\n  shoal bundle inspect site.shoal\n  shoal bundle inspect site.shoal --output json"
    )]
    Inspect(BundleInspect),
}

/// What goes into a bundle.
#[derive(Debug, Args)]
pub(crate) struct BundleCreate {
    /// Only these deployments; else all that are live
    pub(crate) names: Vec<Name>,
    /// The file to write
    #[arg(short, long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// How to print
    #[arg(long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// Which bundle.
#[derive(Debug, Args)]
pub(crate) struct BundleInspect {
    /// The bundle: a file or a folder
    pub(crate) path: PathBuf,
    /// How to print
    #[command(flatten)]
    pub(crate) output: Output,
}
