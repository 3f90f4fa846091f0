//! `cargo xtask`: everything about Shoal that `cargo build` alone cannot do. Parses the command line and hands over.
#![forbid(unsafe_code)]

mod apt;
mod arch;
mod engine;
mod fetch;
mod guests;
mod layout;
mod output;
mod paths;
mod pins;
mod process;
mod sources;
mod tools;

use std::process::ExitCode;

use clap::Parser;

/// Work on Shoal: get the engine, build guests, set up what tests need.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Engine(engine::Args),
    Guests(guests::Args),
    Setup(tools::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Engine(args) => engine::main(&args),
        Task::Guests(args) => guests::main(&args),
        Task::Setup(args) => tools::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
