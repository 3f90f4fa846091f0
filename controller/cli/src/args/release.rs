//! Flags of `shoal release`.

use super::{Output, Signing};
use crate::output::Format;
use clap::{Args, Subcommand};
use shoal_protocol::ids::Name;
use std::path::PathBuf;

/// Releases: the software of the devices themselves, signed in a role of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Sign a release and publish it: the devices that it selects change to it by themselves.
    #[command(after_help = "\
A device fetches what it lacks, puts the files together beside those that run, and changes to them at once; containers go on
running. Software that does not reach the controller in time (--deadline) or does not start is taken back by the device
itself, and the release is not tried there again (condition update_failed). A device never takes a version below one that
proved itself there: to go back, sign the older files with a higher version.

The signing key needs the role `release`; see `shoal trust grant --help`.

Examples:
  shoal release publish agent --build shoal-release_0.2.0_amd64.oci.tar --build shoal-release_0.2.0_arm64.oci.tar --selector ring=canary
  shoal release publish agent --build shoal-release_0.2.0_amd64.oci.tar --selector '' --yes   # every device
  shoal release publish agent --build shoal-release_0.2.0_amd64.oci.tar --selector '' --offline   # then: bundle create --releases")]
    Publish(ReleasePublish),
    /// Pack a folder of programs and libraries into a file that `release publish` takes.
    ///
    /// What the packages `shoal-agent` and `shoal-compiler` hold below `usr/lib/shoal`: unpack their `.tar.gz` into one folder.
    #[command(
        after_help = "Examples:\n  shoal release pack unpacked/usr/lib/shoal --software-version 0.2.0 --arch x86_64 -o shoal-release_0.2.0_amd64.oci.tar"
    )]
    Pack(ReleasePack),
}

#[derive(Debug, Args)]
pub(crate) struct ReleasePublish {
    /// The release; each name is a line of its own with rising revisions.
    pub(crate) name: Name,
    /// The files for one architecture, as packed (may be repeated).
    #[arg(long = "build", value_name = "FILE", required = true)]
    pub(crate) builds: Vec<PathBuf>,
    /// Devices with these signed labels (`k=v,k2!=v,k3,!k4`); '' is every device.
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// The device with this whole id (may be repeated).
    #[arg(long, value_name = "ID")]
    pub(crate) device: Vec<String>,
    /// How long a device may take from the change until it has reported.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) deadline: String,
    /// How long devices may accept it for the first time.
    #[arg(long, value_name = "TIME", default_value = "90d")]
    pub(crate) expires: String,
    /// Ask no controller for anything: sign into the own state, for `shoal bundle create --releases`.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Only show what would be signed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ReleasePack {
    /// The folder with shoal-agent, shoal-guard, shoal-runner and engine/.
    pub(crate) folder: PathBuf,
    /// The version of this software, `major.minor.patch`.
    #[arg(long, value_name = "VERSION")]
    pub(crate) software_version: String,
    /// x86_64 or aarch64.
    #[arg(long, value_name = "ARCH")]
    pub(crate) arch: String,
    /// The file to write.
    #[arg(short, long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// How to print.
    #[arg(long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}
