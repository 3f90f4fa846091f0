//! The command line: every command, flag and example. Parsing validates; doing comes later.

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
  shoald run --data DIR                        # prints the login line at its first start
  shoal login https://HOST:8443 --token TOKEN --ca-fingerprint sha256:…
  shoal trust init                             # makes keys, founds the fleet
  shoal token create --labels site=north -o join.shoal   # then on the device: shoal-agent enroll join.shoal
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
    /// Sign a deployment and publish it.
    Apply(Apply),
    /// Show what a file would change, without signing anything.
    Diff(Diff),
    /// List devices, deployments or pods.
    Get(Get),
    /// Show all about one device, deployment or pod.
    Describe(Describe),
    /// Print a deployment's log.
    Logs(Logs),
    /// End a deployment on all devices.
    #[command(subcommand)]
    Delete(Delete),
    /// Make and list the join files that let devices enrol.
    #[command(subcommand)]
    Token(Token),
    /// Look at, or wait for, the spread of a deployment.
    #[command(subcommand)]
    Rollout(Rollout),
    /// Stop a deployment's containers and start them again.
    Restart(Order),
    /// Let devices swap to a staged revision (`activation: ordered`).
    Activate(Order),
    /// Let devices leave the newest revision for the last one that was healthy there.
    Return(Order),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print this program's version and the controller's.
    Version(Output),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example (shoald prints this line at its first start):
  shoal login https://192.0.2.10:8443 --token 3v… --ca-fingerprint sha256:9f86…")]
pub(crate) struct Login {
    /// `https://HOST:PORT`.
    pub(crate) server: String,
    /// The credential.
    #[arg(long, env = "SHOAL_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// SHA-256 of the controller's CA certificate, from the controller's own console.
    #[arg(long, value_name = "DIGEST", required_unless_present = "ca")]
    pub(crate) ca_fingerprint: Option<Digest>,
    /// The controller's CA certificate itself, PEM.
    #[arg(long, value_name = "FILE", conflicts_with = "ca_fingerprint")]
    pub(crate) ca: Option<PathBuf>,
    /// What to call this context.
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make an Ed25519 key: NAME.key (mode 0600, PKCS#8) and NAME.pub.
    New {
        /// What to call it.
        name: Name,
    },
    /// List keys and their fingerprints.
    Ls(Output),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrustCommand {
    /// Sign root 1 and an empty snapshot: the fleet begins.
    #[command(after_help = "\
Without flags two keys are made when they are not there: `root` (signs roots only: keep it offline) and `operator`
(signs snapshots, deployments, device records and tokens).

Examples:
  shoal trust init
  shoal trust init --root-key offline --key alice --deployment-key ci")]
    Init(TrustInit),
    /// Show fleet, root, roles and snapshot as this operator has verified them.
    Show(TrustShow),
    /// Sign the snapshot again before it expires; nothing else changes.
    Refresh {
        #[command(flatten)]
        signing: Signing,
    },
    /// Give a restored controller the newest snapshot and documents that this operator holds.
    Push,
}

#[derive(Debug, Args)]
pub(crate) struct TrustShow {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Without own state: take the published snapshot with this digest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) adopt: Option<Digest>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustInit {
    /// The key that signs roots; it may sit in no other role.
    #[arg(long, value_name = "KEY")]
    pub(crate) root_key: Option<String>,
    /// The key for snapshots, deployments and enrolment, unless they have one of their own.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The key that signs snapshots.
    #[arg(long, value_name = "KEY")]
    pub(crate) snapshot_key: Option<String>,
    /// The key that signs deployments.
    #[arg(long, value_name = "KEY")]
    pub(crate) deployment_key: Option<String>,
    /// The key that signs device records and tokens.
    #[arg(long, value_name = "KEY")]
    pub(crate) enrollment_key: Option<String>,
    /// A name for people; it stands in the root.
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,
    /// How long root 1 counts.
    #[arg(long, value_name = "TIME", default_value = "1825d")]
    pub(crate) expires: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Read an image into the own layout, and give the controller a copy.
    #[command(after_help = "\
SOURCE is an OCI layout folder, an oci-archive or docker-archive (also compressed), a bare .wasm module, or a reference
in a registry.

Examples:
  shoal image import app.wasm app:1.0
  shoal image import ./layout registry.example/team/app:2
  shoal image import docker.io/hydai/wasm-wasi-example:latest")]
    Import(ImageImport),
    /// List the images of the own layout, or the controller's.
    Ls {
        /// The controller's instead.
        #[arg(long)]
        remote: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show an image's modules, what they may do, and its files.
    Inspect {
        /// Name in the own layout, or digest.
        image: String,
        #[command(flatten)]
        output: Output,
    },
    /// Write down what tags mean, so that a deployment can be signed where the image is not.
    #[command(after_help = "\
Example:
  shoal image lock app:1.0 && git add shoal.lock")]
    Lock {
        /// Names in the own layout; without any, all.
        images: Vec<String>,
        /// The lock file.
        #[arg(long, default_value = crate::images::LOCK_FILE)]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ImageImport {
    /// A folder, an archive, a module, or a reference in a registry.
    pub(crate) source: String,
    /// Its name here; needed when the source does not name it.
    pub(crate) name: Option<String>,
    /// Do not give the controller a copy.
    #[arg(long)]
    pub(crate) local: bool,
    /// Speak plain HTTP to a registry on this host.
    #[arg(long)]
    pub(crate) plain_http: bool,
}

/// What every command that signs takes.
#[derive(Debug, Args)]
pub(crate) struct Signing {
    /// Sign with this key (name or file; may be repeated). Without it: the keys of the keys folder that the root names.
    #[arg(short = 'k', long = "key", value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Without own state: take the published snapshot with this digest.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) adopt: Option<Digest>,
}

/// What a deployment is read from.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// A deployment file; `-` is standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE", required_unless_present = "pod")]
    pub(crate) file: Option<PathBuf>,
    /// A CRI PodSandboxConfig, JSON.
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
    /// What devices refused.
    #[value(alias = "refusal")]
    Refusals,
    /// Join tokens.
    #[value(alias = "token")]
    Tokens,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Delete {
    /// Sign the next snapshot with this deployment removed: devices stop what they run of it.
    Deployment {
        /// The deployment.
        name: Name,
        #[command(flatten)]
        signing: Signing,
        /// Do not ask.
        #[arg(short = 'y', long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Sign a token and write a join file: root chain, token with its private half, addresses.
    #[command(after_help = "\
Whoever holds the file can enrol that many devices with those labels: hand it over like a password.

Example:
  shoal token create --labels site=north,room=attic --uses 3 --expires 48h -o join.shoal
  # on the device, as root: shoal-agent enroll join.shoal")]
    Create(TokenCreate),
    /// List the tokens that the controller knows.
    Ls(Output),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreate {
    /// The labels that every device of this token gets (`k=v,k2=v2`).
    #[arg(long, value_name = "LABELS", default_value = "")]
    pub(crate) labels: String,
    /// How many devices may use it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) uses: u64,
    /// Until when.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) expires: String,
    /// The join file to write; `-` is standard output.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) signing: Signing,
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
