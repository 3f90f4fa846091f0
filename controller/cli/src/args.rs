//! The command line: every command, flag and example. Parsing validates; doing comes later.

mod apply;
mod bundle;
mod demo;
mod devices;
mod receipt;
mod release;
mod run;
mod secret;
mod setup;
mod trust;

pub(crate) use apply::{Apply, Diff, Source};
pub(crate) use bundle::{BundleCommand, BundleCreate, BundleInspect, BundleVerify};
pub(crate) use demo::{Demo, DemoKeeper, DemoOffer};
pub(crate) use devices::{Approve, Decommission, Deny, Provision};
pub(crate) use receipt::{ReceiptCommand, ReceiptImport, ReceiptInspect};
pub(crate) use release::{Release, ReleasePack, ReleasePublish};
pub(crate) use run::{Keeper, Run};
pub(crate) use secret::{Secret, SecretGrant, SecretSet};
pub(crate) use setup::{ImageCommand, ImageImport, Login, Token, TokenCreate};
pub(crate) use trust::{
    Ceremony, Keys, TrustCommand, TrustGrant, TrustInit, TrustRevoke, TrustRotate, TrustShow, TrustSign,
};

use crate::error::EXIT_CODES;
use crate::output::Format;
use clap::{Args, Parser, Subcommand, ValueEnum};
use shoal_protocol::ids::{Digest, Name};
use std::path::PathBuf;

/// Runs WebAssembly containers on fleets of devices: signs deployments here, publishes them through a controller.
#[derive(Debug, Parser)]
#[command(
    name = "shoal",
    version,
    max_term_width = 110,
    after_long_help = format!("\
Start here:
  sudo shoal demo                              # a whole fleet on this machine, cleaned up after
  shoald run --data DIR                        # prints the login line at its first start
  shoal login https://HOST:8443 --token TOKEN --ca-fingerprint sha256:…
  shoal trust init                             # makes keys, founds the fleet
  shoal token create --labels site=north -o join.shoal   # then on the device: shoal-agent enroll join.shoal
  shoal run app.wasm                           # tries it here
  shoal image import app.wasm app:1.0
  shoal apply -f app.yaml --wait
  shoal get pods

Files: ~/.config/shoal or $SHOAL_HOME: config.yaml (contexts), keys/, trust/ (verified documents), images/ (an OCI layout).

{EXIT_CODES}")
)]
pub(crate) struct Cli {
    /// Use this context instead of the current one (see `shoal login --name`).
    #[arg(long, global = true, value_name = "NAME", env = "SHOAL_CONTEXT")]
    pub(crate) context: Option<String>,
    /// Read the passphrase of protected keys from this file's first line; else $SHOAL_PASSPHRASE, else a question.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// `-o, --output`.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// How to print results.
    #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// In which form the command that was given prints: its errors, too.
pub(crate) fn format(matches: &clap::ArgMatches) -> Format {
    let mut innermost = matches;
    while let Some((_, below)) = innermost.subcommand() {
        innermost = below;
    }
    innermost.try_get_one::<Format>("format").ok().flatten().copied().unwrap_or_default()
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Log in to a controller and pin its certificate authority.
    Login(Login),
    /// Make and list the keys that sign.
    #[command(subcommand)]
    Keys(Keys),
    /// Found a fleet, and look after its root and snapshot.
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Import, list, inspect and pin images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Carry deployments to devices without a network, in one file.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Take in what devices without a network give back by hand.
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Sign deployments and configs and publish them.
    Apply(Apply),
    /// Show what a file would change, without signing anything.
    Diff(Diff),
    /// Run a module on this machine, behind the walls and limits of a device.
    Run(Run),
    /// Show a whole fleet at work on this machine: controller, device, a signed deployment, its log, two attacks.
    Demo(Demo),
    /// Tidies up after `demo`; started by it only.
    #[command(hide = true)]
    DemoKeeper(DemoKeeper),
    /// Plays the thief in `demo`; started by it only.
    #[command(hide = true)]
    DemoOffer(DemoOffer),
    /// Tidies up after `run`; started by it only.
    #[command(hide = true)]
    RunKeeper(Keeper),
    /// List devices, deployments, pods, configs, secrets or releases.
    Get(Get),
    /// Show all about one device, deployment, pod, config or secret.
    Describe(Describe),
    /// Print a deployment's log.
    Logs(Logs),
    /// End a deployment, config, secret or release on all devices.
    #[command(subcommand)]
    Delete(Delete),
    /// Seal secrets, give them new values, and grant them to devices.
    #[command(subcommand)]
    Secret(Secret),
    /// Change the software of the devices themselves: agent, guard and engine.
    #[command(subcommand)]
    Release(Release),
    /// Make and list the join files that let devices enrol.
    #[command(subcommand)]
    Token(Token),
    /// Let a device in that asked with a token of `token create --approve`.
    Approve(Approve),
    /// Do not let such a device in.
    Deny(Deny),
    /// Take a device out of the fleet, for good.
    Decommission(Decommission),
    /// Write join files for a factory, without a network.
    Provision(Provision),
    /// Look at, wait for, or go back on the spread of a deployment.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Stop a deployment's containers and start them again.
    Restart(Order),
    /// Let devices swap to a staged revision (`activation: ordered`).
    Activate(Order),
    /// Let devices leave the newest revision for the last one that was healthy there.
    Return(Order),
    /// Show, or verify, the log of what was signed, uploaded, approved, revoked and refused.
    Audit(Audit),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print this program's version and the controller's.
    Version(Output),
}

/// What every command that signs takes.
#[derive(Debug, Args)]
pub(crate) struct Signing {
    /// Sign with this key (may be repeated): NAME or FILE, `ssh-agent:SHA256:…`, or `command:PUBLIC_KEY_FILE:COMMAND`,
    /// which reads the bytes to sign and writes 64 bytes. Without it: those of the keys folder that the root names.
    #[arg(short = 'k', long = "key", value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Without own state: take the published snapshot with this digest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) adopt: Option<Digest>,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resource {
    /// Enrolled devices.
    #[value(alias = "device")]
    Devices,
    /// Deployments and their rollouts.
    #[value(alias = "deployment", alias = "deploy")]
    Deployments,
    /// Each deployment on each device.
    #[value(alias = "pod")]
    Pods,
    /// Configs.
    #[value(aliases = ["config", "configmaps", "configmap", "cm"])]
    Configs,
    /// Secrets; never what is in them.
    #[value(alias = "secret")]
    Secrets,
    /// Releases of the devices' own software, and how far each has come.
    #[value(alias = "release")]
    Releases,
    /// What devices refused.
    #[value(alias = "refusal")]
    Refusals,
    /// Join tokens.
    #[value(alias = "token")]
    Tokens,
    /// Devices that asked to be approved.
    #[value(alias = "enrollment")]
    Enrollments,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal get devices -l site=north
  shoal get pods --deployment thermostat -w
  shoal get deployments -o json")]
pub(crate) struct Get {
    /// What to list.
    pub(crate) resource: Resource,
    /// Devices with these signed labels only (`k=v,k2!=v`).
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// This device's only (id, its beginning, or host name).
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// This deployment's only.
    #[arg(long, value_name = "NAME")]
    pub(crate) deployment: Option<Name>,
    /// Go on and print what changes.
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What can be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Thing {
    /// One device.
    #[value(alias = "devices")]
    Device,
    /// One deployment and where it stands on each device.
    #[value(alias = "deployments", alias = "deploy")]
    Deployment,
    /// One deployment's pods, container by container.
    #[value(alias = "pods")]
    Pod,
    /// One config, with its values.
    #[value(aliases = ["configs", "configmap", "cm"])]
    Config,
    /// One secret: its keys, for whom it is, and who has a grant; never a value.
    #[value(alias = "secrets")]
    Secret,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal describe pod thermostat
  shoal describe pod thermostat --device 2sq3
  shoal describe device 2sq3")]
pub(crate) struct Describe {
    /// What sort of thing.
    pub(crate) thing: Thing,
    /// Its name; for a device its id, the beginning of it, or its host name.
    pub(crate) name: String,
    /// With pod: on this device only.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shoal logs thermostat
  shoal logs thermostat --device 2sq3 -c control -f --tail 20")]
pub(crate) struct Logs {
    /// The deployment.
    pub(crate) deployment: Name,
    /// From this device only (id, its beginning, or host name); else from all that have it.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// From this container only.
    #[arg(short = 'c', long, value_name = "NAME")]
    pub(crate) container: Option<Name>,
    /// Go on with new lines.
    #[arg(short = 'f', long)]
    pub(crate) follow: bool,
    /// How many of the last lines.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) tail: u64,
    /// Put the device's time before each line.
    #[arg(long)]
    pub(crate) timestamps: bool,
    /// Ask at most so many devices.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(crate) limit_devices: usize,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The controller keeps the log; every entry is chained to the one before, every snapshot carries the newest head under its
signature, and every operator keeps a copy. A log that does not continue the copy, or lacks a signed head, is audit_fork.

Examples:
  shoal audit
  shoal audit --action refused --limit 200
  shoal audit --after 1200 --limit 100 -o json
  shoal audit --verify")]
pub(crate) struct Audit {
    /// Fetch the whole log anew, walk all of it, and compare it with the own copy and the newest snapshot.
    #[arg(long)]
    pub(crate) verify: bool,
    /// Show so many entries: the newest, or the first ones after --after.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
    /// Entries after this one.
    #[arg(long, value_name = "ENTRY")]
    pub(crate) after: Option<u64>,
    /// Of this action only: root, snapshot, document, token, enrolled, approved, denied, record, revoked, order, refused,
    /// device_refused.
    #[arg(long, value_name = "ACTION")]
    pub(crate) action: Option<String>,
    /// After audit_fork: go on from the controller's log, which has this head. The own copy is put aside.
    #[arg(long, value_name = "HEAD", conflicts_with = "verify")]
    pub(crate) adopt: Option<Digest>,
    /// Without own state: take the published snapshot with this digest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) snapshot: Option<Digest>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Delete {
    /// Sign the next snapshot with this deployment removed: devices stop what they run of it.
    Deployment(DeleteArgs),
    /// Sign the next snapshot with this config removed: devices forget it, and what needs it starts no more.
    #[command(visible_alias = "configmap")]
    Config(DeleteArgs),
    /// Sign the next snapshot with this secret removed: devices forget it, and what needs it starts no more.
    Secret(DeleteArgs),
    /// Sign the next snapshot with this release ended: devices that did not change to it do not any more.
    Release(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its name.
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Show where each device is.
    Status {
        /// The deployment.
        name: Name,
        /// Wait until it is done, or cannot go on.
        #[arg(long)]
        wait: bool,
        /// How long to wait.
        #[arg(long, value_name = "TIME", default_value = "10m")]
        timeout: String,
        #[command(flatten)]
        output: Output,
    },
    /// Go back: sign a next revision with the contents of an earlier one and publish it.
    ///
    /// Without --to-revision it is that of the last revision that came through before the newest one. Asked for again, there is
    /// nothing to sign: what was undone does not come back.
    ///
    /// For devices without a network: `shoal bundle create --undo NAME -o FILE`.
    #[command(after_help = "\
Examples:
  shoal rollout undo thermostat
  shoal rollout undo thermostat --to-revision 3 --yes")]
    Undo {
        /// The deployment.
        name: Name,
        /// With the contents of this revision; else of the last before the newest that came through.
        #[arg(long, value_name = "N")]
        to_revision: Option<u64>,
        #[command(flatten)]
        signing: Signing,
        /// Do not ask.
        #[arg(short = 'y', long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// A request to devices about a deployment that is signed already.
#[derive(Debug, Args)]
pub(crate) struct Order {
    /// The deployment.
    pub(crate) deployment: Name,
    /// On this device only (id, its beginning, or host name); else on all that have it.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}
