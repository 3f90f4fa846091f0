//! The command line.

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
    /// The broker process's own numeric user and group, when shoald runs as root.
    #[arg(long, value_name = "UID", default_value_t = 62_883)]
    pub(crate) broker_uid: u32,
}
