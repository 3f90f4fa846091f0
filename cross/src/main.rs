//! `cargo xtask`: everything about Shoal that `cargo build` alone cannot do. Parses the command line and hands over.
#![forbid(unsafe_code)]

mod apt;
mod arch;
mod engine;
mod fetch;
mod layout;
mod output;
mod paths;
mod pins;
mod process;
mod sources;

use std::process::ExitCode;

use clap::Parser;

/// Work on Shoal: get the engine, build guests, set up what tests need.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Engine(engine::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Engine(args) => engine::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
