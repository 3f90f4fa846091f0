//! Flags of `shoal apply` and `shoal diff`, and the help that teaches the deployment file.

use super::{Output, Signing};
use crate::error::EXIT_CODES;
use clap::Args;
use shoal_protocol::ids::{Digest, Name};
use std::path::PathBuf;

/// What a deployment is read from.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// A deployment file; `-` is standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE", required_unless_present = "pod")]
    pub(crate) file: Option<PathBuf>,
    /// A CRI PodSandboxConfig, JSON; its container runs once, as with crictl.
    #[arg(long, value_name = "FILE", requires = "container", conflicts_with = "file")]
    pub(crate) pod: Option<PathBuf>,
    /// A CRI ContainerConfig, JSON.
    #[arg(long, value_name = "FILE", requires = "pod")]
    pub(crate) container: Option<PathBuf>,
    /// With --pod: the deployment's name; else the sandbox's.
    #[arg(long, value_name = "NAME", requires = "pod")]
    pub(crate) name: Option<Name>,
    /// With --pod: the devices with these labels (`k=v,k2!=v,k3,!k4`).
    #[arg(long, short = 'l', value_name = "LABELS", requires = "pod")]
    pub(crate) selector: Option<String>,
    /// With --pod: the device with this whole id, which is a hash of its key (may be repeated).
    #[arg(long, value_name = "DEVICE", requires = "pod")]
    pub(crate) device: Vec<String>,
    /// Where tags are pinned that the own layout does not have.
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Option<PathBuf>,
}

const FILE_HELP: &str = "\
A deployment file:
  apiVersion: shoal/v1
  kind: Deployment
  metadata: {name: thermostat}
  spec:
    selector: {matchLabels: {site: north}}      # {} is every device; or devices: [ID, …]
    rollout: {activation: automatic, maxUnavailable: 2, maxFailed: 1, deadline: 10m}
    logs: tail                                  # none, tail, full: what may leave the device
    expires: 90d
    template:
      spec:
        restartPolicy: Always                   # OnFailure, Never
        containers:
          - name: control
            image: sensor:1.0
            args: [/sensor.wasm]
            env: [{name: SENSOR_NAME, value: boiler}]
            resources: {limits: {cpu: 500m, memory: 32Mi, pids: 8}}
            volumeMounts: [{name: scratch, mountPath: /tmp}]
        volumes: [{name: scratch, emptyDir: {sizeLimit: 4Mi}}]
The whole of it, with comments: deploy/examples/reference.yaml

Examples:
  shoal apply -f app.yaml
  shoal apply -f app.yaml --dry-run
  shoal apply -f app.yaml --yes --wait --timeout 2m
  shoal apply -f app.yaml --draft app.draft   # where two must sign: `shoal trust sign`, then `shoal trust publish`
  shoal apply --pod sandbox_config.json --container container_wasi.json --selector site=north";

#[derive(Debug, Args)]
#[command(after_long_help = format!("{FILE_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) signing: Signing,
    /// Check everything and show what would change; sign and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write a draft for others to sign (`shoal trust sign`), instead of publishing at once.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "wait"])]
    pub(crate) draft: Option<PathBuf>,
    /// Do not ask.
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// Wait until it runs everywhere, or cannot.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) timeout: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Without own state: take the published snapshot with this digest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) adopt: Option<Digest>,
    #[command(flatten)]
    pub(crate) output: Output,
}
