//! `shoal bundle`.

use super::{Output, Signing, Source};
use crate::output::Format;
use clap::{Args, Subcommand};
use shoal_protocol::ids::Name;
use std::path::PathBuf;

/// Bundles: signed documents and images in one file, for devices without a network.
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Write what the fleet's snapshot lists, as it was signed, with the images, into one file
    ///
    /// Documents come from the own verified state, and from the controller when that lacks one. With -f or --undo the next
    /// revision is signed first: published where the controller answers, else signed into the own state and the bundle alone.
    /// Secrets get a grant for each device whose record is known here. The file is an OCI image layout; skopeo and other tools
    /// copy it. On the device: `shoal-agent sideload FILE`.
    #[command(after_help = "\
Examples:
  shoal bundle create -o site.shoal
  shoal bundle create web meter -o /media/usb/two.shoal
  shoal bundle create -f app.yaml -o /media/usb/app.shoal
  shoal bundle create --undo web -o /media/usb/back.shoal
  shoal bundle create --since site.shoal -o small.shoal
  shoal bundle create --receipt -o ask.shoal          # devices write a receipt: shoal-agent sideload --receipt DIR")]
    Create(BundleCreate),
    /// Show what a bundle holds, after checking each byte against its digest
    #[command(
        after_help = "Examples:\n  shoal bundle inspect site.shoal\n  shoal bundle inspect site.shoal --output json"
    )]
    Inspect(BundleInspect),
    /// Verify a bundle as a device without a network would: signatures, thresholds, snapshot, digests
    ///
    /// By the own root chain, or from the first root of a join file or of another bundle. It changes nothing here. Exit code 0
    /// means that all would be accepted, 3 that something is refused; the code says why.
    #[command(after_help = "\
Examples:
  shoal bundle verify site.shoal
  shoal bundle verify site.shoal --device 2sq3         # with the labels of that device's record
  shoal bundle verify site.shoal --labels site=north --architecture aarch64
  shoal bundle verify site.shoal --join join-0001.shoal")]
    Verify(BundleVerify),
}

/// What goes into a bundle.
#[derive(Debug, Args)]
pub(crate) struct BundleCreate {
    /// Only these deployments; else all that are live
    pub(crate) names: Vec<Name>,
    /// Sign this file's deployments and configs first; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where tags are pinned that the own layout does not have
    #[arg(long, value_name = "FILE", requires = "file")]
    pub(crate) lock: Option<PathBuf>,
    /// Sign a next revision of this deployment first, with the contents of an earlier one
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(crate) undo: Option<Name>,
    /// With --undo: of this revision; else of the last before the newest that came through
    #[arg(long, value_name = "N", requires = "undo")]
    pub(crate) to_revision: Option<u64>,
    /// Also the live releases of the devices' own software (docs/updates.md), for every CPU that they have
    #[arg(long)]
    pub(crate) releases: bool,
    /// Leave out what the images of this bundle had; a device that lacks any of it refuses the whole
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) since: Option<PathBuf>,
    /// Ask the devices for a receipt: their state, and logs as far as the deployments' consent goes
    #[arg(long)]
    pub(crate) receipt: bool,
    /// With --receipt: so many of the last lines of each container's log
    #[arg(long, value_name = "N", default_value_t = 200, requires = "receipt")]
    pub(crate) receipt_logs: u64,
    /// With --receipt: how long the devices may answer, at most 31d
    #[arg(long, value_name = "TIME", default_value = "14d", requires = "receipt")]
    pub(crate) receipt_expires: String,
    /// Ask no controller for anything
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// Do not ask before signing
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// The file to write
    #[arg(short, long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// How to print
    #[arg(long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

impl BundleCreate {
    /// The file as `apply` would be given it.
    pub(crate) fn source(&self) -> Option<Source> {
        self.file.clone().map(|file| Source {
            file: Some(file),
            pod: None,
            container: None,
            name: None,
            selector: None,
            device: Vec::new(),
            lock: self.lock.clone(),
        })
    }
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

/// Which bundle, by which root, and for whom.
#[derive(Debug, Args)]
pub(crate) struct BundleVerify {
    /// The bundle: a file or a folder
    pub(crate) path: PathBuf,
    /// Begin as a device with this join file does, instead of with the own state
    #[arg(long, value_name = "JOINFILE")]
    pub(crate) join: Option<PathBuf>,
    /// As this device, with the labels of its record: an id, or the beginning of one
    #[arg(long, value_name = "DEVICE", conflicts_with = "labels")]
    pub(crate) device: Option<String>,
    /// As a device with these labels (`k=v,k2=v2`)
    #[arg(long, value_name = "LABELS")]
    pub(crate) labels: Option<String>,
    /// With --device or --labels: what the device is
    #[arg(long, value_name = "ARCH")]
    pub(crate) architecture: Option<String>,
    /// How to print
    #[command(flatten)]
    pub(crate) output: Output,
}
