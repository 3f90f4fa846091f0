//! `cargo xtask`: everything about Shoal that `cargo build` alone cannot do. Parses the command line and hands over.
#![forbid(unsafe_code)]

mod apt;
mod arch;
mod assemble;
mod bench;
mod conformance;
mod demo;
mod device;
mod engine;
mod fetch;
mod fuzz;
mod guests;
mod layout;
mod mutants;
mod network;
mod output;
mod package;
mod paths;
mod pins;
mod process;
mod sources;
mod test;
#[cfg(test)]
mod tidy;
mod toolchain;
mod tools;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// Work on Shoal: get the engine, build guests, set up what tests need.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Engine(engine::Args),
    Build(assemble::Args),
    Demo(demo::Args),
    Device(device::Args),
    Test(test::Args),
    Bench(bench::Args),
    Conformance(conformance::Args),
    Fuzz(fuzz::Args),
    Guests(guests::Args),
    Mutants(mutants::Args),
    Package(package::Args),
    Setup(tools::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let done = match Task::parse() {
        Task::Engine(args) => engine::main(&args).map(success),
        Task::Build(args) => assemble::main(&args).map(success),
        Task::Demo(args) => demo::main(&args),
        Task::Device(args) => device::main(&args).map(success),
        Task::Test(args) => test::main(&args).map(success),
        Task::Bench(args) => bench::main(&args).map(success),
        Task::Conformance(args) => conformance::main(&args).map(success),
        Task::Fuzz(args) => fuzz::main(&args).map(success),
        Task::Guests(args) => guests::main(&args).map(success),
        Task::Mutants(args) => mutants::main(&args).map(success),
        Task::Package(args) => package::main(&args).map(success),
        Task::Setup(args) => tools::main(&args).map(success),
        Task::Vm(args) => vm::main(&args).map(success),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
