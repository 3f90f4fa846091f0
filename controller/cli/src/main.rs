//! `shoal`: the operator's command line. Parses, hands over to one command, prints one error, sets the exit code.
#![forbid(unsafe_code)]

mod api;
mod args;
mod audit;
mod ceremony;
mod commands;
mod compose;
mod devices;
mod error;
mod home;
mod images;
mod keys;
mod manifest;
mod output;
mod publish;
mod records;
mod review;
mod roots;
mod trust;

use clap::{CommandFactory as _, FromArgMatches as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = args::Cli::command().get_matches();
    let cli = args::Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            output::error(&e, args::format(&matches));
            ExitCode::from(e.kind.exit_code())
        }
    }
}
