//! Flags of what concerns devices as such: who comes in, who leaves.

use super::{Output, Signing};
use clap::{Args, ValueEnum};
use shoal_protocol::ids::Digest;
use std::path::PathBuf;

/// What can be approved or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decidable {
    /// A device that asked to enrol with a token of `shoal token create --approve`.
    #[value(alias = "enrollments")]
    Enrollment,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The device's record is signed here, with a key of the enrollment role; the controller only carries it. Compare the
fingerprint with what `shoal-agent enroll` (or `shoal-agent status`) prints on the device itself: what the controller says
proves nothing. With --fingerprint it is compared for you, else you are asked.

Examples:
  shoal get enrollments
  shoal approve enrollment pump-7 --fingerprint sha256:9f86d081…
  shoal approve enrollment 2sq3")]
pub(crate) struct Approve {
    /// What sort of thing.
    #[arg(value_name = "enrollment")]
    pub(crate) what: Decidable,
    /// The device: its id, the beginning of it, or the name that it gives itself.
    #[arg(value_name = "NAME|ID")]
    pub(crate) name: String,
    /// The fingerprint that the device itself shows.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) fingerprint: Option<Digest>,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A denied device is told so and goes on asking, seldom; it can still be approved.

Example:
  shoal deny enrollment pump-7")]
pub(crate) struct Deny {
    /// What sort of thing.
    #[arg(value_name = "enrollment")]
    pub(crate) what: Decidable,
    /// The device: its id, the beginning of it, or the name that it gives itself.
    #[arg(value_name = "NAME|ID")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Signs the device's next record, which says that it left: nothing selects it any more, so it stops what it runs as soon as it
hears that. Then its certificates are revoked: the broker ends its connection within seconds and lets it in no more, and
renewal is refused. There is no way back but a new identity: reset the device, then enrol it.

Example:
  shoal decommission 2sq3")]
pub(crate) struct Decommission {
    /// The device: its id, the beginning of it, or its host name.
    #[arg(value_name = "DEVICE")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Needs no network and no controller: all is signed here, from this operator's own state of the fleet. Each file is for one
device, once. On the device, as root: shoal-agent enroll --offline FILE makes its identity there (the key never leaves it) and
writes down what is asked; its agent asks the controller when it first reaches it. Whoever holds a file can enrol one device
with those labels: hand them over like passwords.

Example:
  shoal provision --count 100 --labels line=3 --expires 365d -o line3/
  # on each device, as root: shoal-agent enroll --offline line3-0001.shoal")]
pub(crate) struct Provision {
    /// How many devices.
    #[arg(long, value_name = "N")]
    pub(crate) count: u32,
    /// The labels that every one of them gets (`k=v,k2=v2`).
    #[arg(long, value_name = "LABELS", default_value = "")]
    pub(crate) labels: String,
    /// Until when they must have reached the controller once.
    #[arg(long, value_name = "TIME", default_value = "365d")]
    pub(crate) expires: String,
    /// An operator approves each of them when it first reaches the controller.
    #[arg(long)]
    pub(crate) approve: bool,
    /// What the files are called: PREFIX-0001.shoal …
    #[arg(long, value_name = "PREFIX", default_value = "join")]
    pub(crate) prefix: String,
    /// The folder to write them to.
    #[arg(short = 'o', long = "out", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Sign with this key (name or file; may be repeated). Without it: the keys of the keys folder that the root names.
    #[arg(short = 'k', long = "key", value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// How to print results.
    #[arg(long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: crate::output::Format,
}
