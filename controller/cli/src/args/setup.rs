//! Flags of what one does before there are deployments: login, images, join files.

use super::{Output, Signing};
use clap::{Args, Subcommand};
use shoal_protocol::ids::Digest;
use std::path::PathBuf;

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

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Sign a token and write a join file: root chain, token with its private half, addresses.
    #[command(after_help = "\
Whoever holds the file can enrol that many devices with those labels: hand it over like a password.

Example:
  shoal token create --labels site=north,room=attic --uses 3 --expires 48h -o join.shoal
  shoal token create --approve --uses 20 -o join.shoal   # then: shoal get enrollments, shoal approve
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
    /// An operator approves each device, after comparing the fingerprint of its keys.
    #[arg(long)]
    pub(crate) approve: bool,
    /// The join file to write; `-` is standard output.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) signing: Signing,
}
