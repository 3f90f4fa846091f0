//! The device's own containers, in crictl's words. Parsing only.

use super::{CriOutput, Output};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What narrows a list.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Filter {
    /// Only those whose id begins so.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Only those whose name holds this.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only those in this state (`created`, `running`, `exited`, `unknown`; pods: `ready`, `notready`).
    #[arg(short, long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only those with this label; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Only ids.
    #[arg(short, long)]
    pub quiet: bool,
    /// Ids whole.
    #[arg(long)]
    pub no_trunc: bool,
}

/// `-o`, and what crictl prints without it.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CriFormat {
    /// How to print.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<CriOutput>,
}

/// The verbs of the device's own command line.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List containers that run; with -a all. Signed ones and uid 0's own.
    #[command(
        after_help = "Examples:\n  shoal-agent ps\n  shoal-agent ps -a -o json\n  shoal-agent ps -a --state exited -q"
    )]
    Ps {
        /// Also those that do not run.
        #[arg(short, long)]
        all: bool,
        /// Only of the pod whose id begins so.
        #[arg(short, long, value_name = "POD")]
        pod: Option<String>,
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Print the log of a container (by id), or of a deployment's containers (by name).
    #[command(
        after_help = "Examples:\n  shoal-agent logs 1d056e4a8a168\n  shoal-agent logs sensor\n  shoal-agent logs -f --tail 20 --container main sensor"
    )]
    Logs {
        /// A container's id, the beginning of one, or a deployment's name.
        #[arg(value_name = "CONTAINER|DEPLOYMENT")]
        what: String,
        /// Of a deployment: only this container.
        #[arg(short, long)]
        container: Option<String>,
        /// Go on printing what is appended.
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines; all of a container, 200 of a deployment.
        #[arg(long, value_name = "LINES")]
        tail: Option<usize>,
        /// With the time and stream of each line.
        #[arg(short, long)]
        timestamps: bool,
        /// How to print; JSON is one object a line.
        #[command(flatten)]
        output: Output,
    },
    /// Pull an image from its registry.
    #[command(
        after_help = "A file etc/shoal/registries.json names mirrors and credentials:\n  {\"docker.io\": {\"mirror\": \"mirror.example:5000\", \"user\": \"u\", \"password\": \"p\"}}\n\n\
Examples:\n  shoal-agent pull docker.io/hydai/wasm-wasi-example\n  shoal-agent pull --creds me:secret registry.example/app:1"
    )]
    Pull {
        /// The image.
        image: String,
        /// As whom, at its registry.
        #[arg(long, value_name = "USER:PASSWORD")]
        creds: Option<String>,
    },
    /// Take images out of a file: an OCI layout or archive, a docker archive, a module.
    #[command(after_help = "Examples:\n  shoal-agent load image.tar\n  shoal-agent load app.wasm app:1")]
    Load {
        /// The file.
        file: PathBuf,
        /// What the image is called.
        name: Option<String>,
    },
    /// Make a pod of its own for unsigned containers (uid 0; the policy must say `local_unsigned = true`).
    #[command(after_help = "Examples:\n  sudo shoal-agent runp sandbox_config.json")]
    Runp {
        /// What runs it; only `wasm` is here.
        #[arg(short, long, value_name = "NAME", default_value = "")]
        runtime: String,
        /// CRI v1 `PodSandboxConfig` as JSON.
        #[arg(value_name = "SANDBOX.json")]
        config: PathBuf,
    },
    /// Make a container in a pod of `runp`: its image is unpacked and compiled.
    #[command(
        after_help = "Examples:\n  sudo shoal-agent create $POD_ID container_wasi.json sandbox_config.json\n  sudo shoal-agent create --with-pull $POD_ID c.json s.json"
    )]
    Create {
        /// Pull the image first.
        #[arg(long)]
        with_pull: bool,
        /// The pod.
        pod: String,
        /// CRI v1 `ContainerConfig` as JSON.
        #[arg(value_name = "CONTAINER.json")]
        config: PathBuf,
        /// CRI v1 `PodSandboxConfig` as JSON: the one that the pod was made of.
        #[arg(value_name = "SANDBOX.json")]
        sandbox: PathBuf,
    },
    /// Start created containers.
    #[command(after_help = "Examples:\n  sudo shoal-agent start 1d056e4a8a168")]
    Start {
        /// Which.
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Stop containers: asked to end, killed when their time is over.
    #[command(
        after_help = "Examples:\n  sudo shoal-agent stop 1d056e4a8a168\n  sudo shoal-agent stop -t 10 1d056e4a8a168"
    )]
    Stop {
        /// Seconds until the kill.
        #[arg(short, long, value_name = "SECONDS", default_value_t = 0)]
        timeout: u32,
        /// Which.
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Stop pods with all their containers.
    #[command(after_help = "Examples:\n  sudo shoal-agent stopp $POD_ID")]
    Stopp {
        /// Which.
        #[arg(required = true, value_name = "POD")]
        pods: Vec<String>,
    },
    /// Remove containers.
    #[command(after_help = "Examples:\n  sudo shoal-agent rm 1d056e4a8a168\n  sudo shoal-agent rm -f -a")]
    Rm {
        /// Stop those that run.
        #[arg(short, long)]
        force: bool,
        /// All of uid 0's own.
        #[arg(short, long)]
        all: bool,
        /// Which.
        #[arg(required_unless_present = "all", value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Remove pods with all their containers.
    #[command(after_help = "Examples:\n  sudo shoal-agent rmp $POD_ID\n  sudo shoal-agent rmp -f -a")]
    Rmp {
        /// Stop those that are ready.
        #[arg(short, long)]
        force: bool,
        /// All of uid 0's own.
        #[arg(short, long)]
        all: bool,
        /// Which.
        #[arg(required_unless_present = "all", value_name = "POD")]
        pods: Vec<String>,
    },
    /// List pods.
    #[command(after_help = "Examples:\n  shoal-agent pods\n  shoal-agent pods --name podsandbox12 -q")]
    Pods {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Show what containers use.
    #[command(after_help = "Examples:\n  shoal-agent stats\n  shoal-agent stats -a -o json")]
    Stats {
        /// Also those that do not run.
        #[arg(short, long)]
        all: bool,
        /// Only this one.
        container: Option<String>,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Show all about containers.
    #[command(
        after_help = "Examples:\n  shoal-agent inspect 1d056e4a8a168\n  shoal-agent inspect -o yaml 1d056e4a8a168"
    )]
    Inspect {
        /// Which.
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Show all about pods.
    #[command(after_help = "Examples:\n  shoal-agent inspectp $POD_ID")]
    Inspectp {
        /// Which.
        #[arg(required = true, value_name = "POD")]
        pods: Vec<String>,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// List images that were pulled by name.
    #[command(after_help = "Examples:\n  shoal-agent images\n  shoal-agent images -o json")]
    Images {
        /// Only ids.
        #[arg(short, long)]
        quiet: bool,
        /// Ids whole.
        #[arg(long)]
        no_trunc: bool,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Show all about images.
    #[command(after_help = "Examples:\n  shoal-agent inspecti docker.io/hydai/wasm-wasi-example")]
    Inspecti {
        /// Which.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Remove images.
    #[command(
        after_help = "Examples:\n  shoal-agent rmi docker.io/hydai/wasm-wasi-example\n  shoal-agent rmi -a"
    )]
    Rmi {
        /// All.
        #[arg(short, long)]
        all: bool,
        /// Which.
        #[arg(required_unless_present = "all", value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Show the space that images take.
    #[command(after_help = "Examples:\n  shoal-agent imagefsinfo\n  shoal-agent imagefsinfo -o table")]
    Imagefsinfo {
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Show what this runtime can enforce.
    #[command(after_help = "Examples:\n  shoal-agent info")]
    Info {
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Show versions.
    #[command(after_help = "Examples:\n  shoal-agent version\n  shoal-agent version -o json")]
    Version {
        /// How to print.
        #[command(flatten)]
        format: CriFormat,
    },
    /// Reads an image for `create`, as the agent's uid. Started by `create` only.
    #[command(hide = true)]
    Pin,
}

impl Verb {
    /// Whether errors are to be printed as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Logs { output, .. } => output.json(),
            Self::Ps { format, .. }
            | Self::Pods { format, .. }
            | Self::Stats { format, .. }
            | Self::Inspect { format, .. }
            | Self::Inspectp { format, .. }
            | Self::Images { format, .. }
            | Self::Inspecti { format, .. }
            | Self::Imagefsinfo { format }
            | Self::Info { format }
            | Self::Version { format } => format.output == Some(CriOutput::Json),
            _ => false,
        }
    }
}
