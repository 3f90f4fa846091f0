//! Flags of `shoal secret`.

use super::{Output, Signing};
use clap::{Args, Subcommand};
use shoal_protocol::ids::Name;

/// Secrets: sealed here, read on devices only.
#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Seal values into a new secret and publish it, with grants for the devices that are to read it.
    #[command(after_help = "\
The values are sealed on this machine, once; each device that a deployment named by --for selects, and that refers to
the secret, gets a small grant. The controller stores both and can read neither. Values on a command line end up in its
history: prefer files, or `-` for standard input.

Examples:
  shoal secret create database --for thermostat --from-file password=./password.txt
  printf %s \"$TOKEN\" | shoal secret create api --for 'sensor-*' --from-file token=-")]
    Create(SecretSet),
    /// Seal new values in the place of all that are there (rotation), and grant them.
    Set(SecretSet),
    /// Grant published secrets to devices that are selected and have no grant yet.
    Grant(SecretGrant),
}

#[derive(Debug, Args)]
pub(crate) struct SecretSet {
    /// The secret.
    pub(crate) name: Name,
    /// A deployment that may refer to it, or the beginning of names and `*` (may be repeated).
    #[arg(long = "for", value_name = "DEPLOYMENT")]
    pub(crate) deployments: Vec<String>,
    /// A key and its value (may be repeated).
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) from_literal: Vec<String>,
    /// A file; its name is the key if none is given. `KEY=-` is standard input (may be repeated).
    #[arg(long, value_name = "[KEY=]FILE")]
    pub(crate) from_file: Vec<String>,
    /// How long devices may accept it for the first time.
    #[arg(long, value_name = "TIME", default_value = "90d")]
    pub(crate) expires: String,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct SecretGrant {
    /// These only; else all whose key this operator holds.
    pub(crate) names: Vec<Name>,
    #[command(flatten)]
    pub(crate) signing: Signing,
    #[command(flatten)]
    pub(crate) output: Output,
}
