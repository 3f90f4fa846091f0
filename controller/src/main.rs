//! The fleet controller: store, broker, API, registry endpoint.
//!
//! It keeps exact bytes that operators signed, decides when devices get them, and can sign nothing that runs.
#![forbid(unsafe_code)]

mod app;
mod args;
mod audit;
mod broker;
mod conductor;
mod fleet;
mod http;
mod ingest;
mod limits;
mod link;
mod logs;
mod orders;
mod output;
mod pki;
mod port;
mod problem;
mod receipts;
mod run;
mod setup;
mod store;
mod tls;
mod trust;

use clap::Parser as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = match cli.command {
        Some(args::Command::Broker) => return ExitCode::from(broker::child::run()),
        Some(args::Command::Mosquitto(args)) => return ended(run::mosquitto(&args)),
        Some(args::Command::RenewIdentity { data }) => return renew_identity(&data),
        Some(args::Command::Run(args)) => args,
        None => cli.run,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::failed(&anyhow::Error::from(e).context("cannot start the runtime"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run::run(args));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended(result)
}

fn renew_identity(data: &std::path::Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let renewed = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(setup::DataDir::open(data)?.renew_identity()));
    ended(renewed.map(|authority| output::renewed(&authority)))
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output::failed(&e);
            ExitCode::from(exit_code(&e))
        }
    }
}

/// Documented in `--help`.
fn exit_code(e: &anyhow::Error) -> u8 {
    if e.downcast_ref::<setup::DataError>().is_some() {
        return 3;
    }
    if e.downcast_ref::<run::PortTaken>().is_some() {
        return 4;
    }
    if e.downcast_ref::<broker::BrokerError>().is_some() { 5 } else { 1 }
}
