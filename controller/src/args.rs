//! The command line.

use crate::broker::Place;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The fleet controller of Shoal: store, broker, API and registry in one binary.
///
/// It decides when devices move, never what they run: that is signed by operators, and every device checks it.
#[derive(Debug, Parser)]
#[command(
    name = "shoald",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 ended in good order, 1 failed, 2 wrong usage, 3 the data folder is taken or not writable, \
                  4 a port is taken, 5 the broker could not start. RUST_LOG sets what is logged."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What to be.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the controller (also without this word).
    Run(RunArgs),
    /// Write what Mosquitto needs as the broker of this controller: certificate and key, access rules, settings.
    ///
    /// Run it again before the certificate ends (825 days), and after an upgrade of shoald; then `systemctl reload mosquitto`.
    Mosquitto(MosquittoArgs),
    /// Make another CA, online key and credential for a controller that was stolen, on a copy of its store. It must not run.
    ///
    /// Then start it, log in to it, and have a root name it: `shoal trust rotate --controller`.
    RenewIdentity {
        /// The controller's data folder.
        #[arg(long, value_name = "DIR", default_value = "/var/lib/shoald", env = "SHOALD_DATA")]
        data: PathBuf,
    },
    /// Be the broker of a controller; started by it.
    #[command(hide = true, name = crate::broker::SUBCOMMAND)]
    Broker,
}

/// How to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Where everything is kept; made at the first start.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/shoald", env = "SHOALD_DATA")]
    pub(crate) data: PathBuf,
    /// The one port, for everything: the API, the registry, and devices by MQTT over TLS (`mqtt` in ALPN) or WebSocket.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8443")]
    pub(crate) listen: SocketAddr,
    /// Host names or addresses by which operators and devices reach this machine, the best one first.
    #[arg(long = "name", value_name = "HOST[,HOST]", value_delimiter = ',')]
    pub(crate) names: Vec<String>,
    /// How long a device's certificate lasts; a device renews it by itself at two thirds. Short lives are for tests.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = crate::pki::DEVICE_LIFE,
        value_parser = clap::value_parser!(u64).range(20..=825 * 24 * 60 * 60),
        env = "SHOALD_DEVICE_CERTIFICATE_LIFE"
    )]
    pub(crate) device_certificate_life: u64,
    /// A broker that somebody else runs, in the place of the own one (see `shoald mosquitto`). It must prove that it denies before
    /// any device is led to it. Devices still come to the one port, and are passed on from there.
    #[arg(long, value_name = "mqtts://HOST:PORT", env = "SHOALD_BROKER")]
    pub(crate) broker: Option<Place>,
    /// The broker process's own numeric user and group, when shoald runs as root.
    #[arg(long, value_name = "UID", default_value_t = 72_000)]
    pub(crate) broker_uid: u32,
}

/// What to write for Mosquitto.
#[derive(Debug, Clone, Args)]
pub(crate) struct MosquittoArgs {
    /// The controller's data folder; it may be running.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/shoald", env = "SHOALD_DATA")]
    pub(crate) data: PathBuf,
    /// All names of the controller, since devices ask for the broker by these, and the broker's own.
    #[arg(long = "name", value_name = "HOST[,HOST]", value_delimiter = ',')]
    pub(crate) names: Vec<String>,
    /// Where it listens, for a broker on one address or another port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The folder for the files; its `mosquitto.conf` is included from Mosquitto's own, or given with `-c`.
    #[arg(long, value_name = "DIR", default_value = crate::broker::FOLDER)]
    pub(crate) out: PathBuf,
    /// Only rules and settings, as they are for the default folder and port.
    #[arg(long)]
    pub(crate) sample: bool,
}
