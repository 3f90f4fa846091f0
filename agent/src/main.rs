//! The device daemon and its own command line: parses, dispatches, and turns a failure into words and an exit code.
#![forbid(unsafe_code)]

mod cli;
mod daemon;
mod doctor;
mod durable;
mod enroll;
mod entropy;
mod failure;
mod http;
mod identity;
mod link;
mod local;
mod lock;
mod output;
mod points;
mod privilege;
mod proxy;
mod renewal;
mod sideload;
mod store;
mod system;
mod tls;

use anyhow::Result;
use clap::Parser;
use cli::{Cli, Command, LogFormat};
use shoal_ipc::Layout;
use std::process::ExitCode;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.command.json();
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, json),
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    logging(cli);
    #[cfg(feature = "failpoints")]
    points::arm()?;
    let root = std::path::absolute(&cli.root)?;
    let layout = Layout::new(root);
    match &cli.command {
        Command::Enroll { file, name, offline, request, key_command, key_public, output } => {
            let key = key_command.as_deref().zip(key_public.as_deref());
            let name = name.as_deref();
            let (offline, request, json) = (*offline, request.as_deref(), output.json());
            let options = enroll::Options { name, offline, request, key, json };
            enroll::run(file, &layout, options)
        }
        Command::Run => daemon::run(&layout),
        Command::Sideload { path, unattended, receipt, wait, reads, tells, output } => {
            let options = sideload::Options {
                path,
                unattended: *unattended,
                reads: *reads,
                tells: tells.as_deref(),
                receipt: receipt.as_deref(),
                wait: std::time::Duration::from_secs(*wait),
                json: output.json(),
            };
            sideload::run(options, &layout)
        }
        Command::Image(cli::ImageVerb::Import { source, name }) => {
            local::import_image(&layout, source, name.as_deref())
        }
        Command::Status { output } => local::status(&layout, output.json()),
        Command::Cri(verb) => local::cri(&layout, verb),
        Command::Doctor { output } => local::doctor(&layout, output.json()),
        #[cfg(feature = "failpoints")]
        Command::Points => {
            for point in points::ALL {
                output::line(point);
            }
            Ok(())
        }
    }
}

/// Logs go to standard error; `SHOAL_LOG` filters them. The daemon tells what it does, the other commands only warn.
fn logging(cli: &Cli) {
    let level = if matches!(cli.command, Command::Run) { LevelFilter::INFO } else { LevelFilter::WARN };
    // `Targets` is enough: the agent needs no patterns in its log filter.
    let asked = std::env::var("SHOAL_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(level));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry();
    match cli.log_format {
        LogFormat::Text => registry.with(layer.with_filter(filter)).init(),
        LogFormat::Json => registry.with(layer.json().with_filter(filter)).init(),
    }
}
