//! The one place where xtask prints: progress goes to stderr, results to stdout. Decides nothing.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output module of a command-line program")]

/// A step of the work, as it starts or ends.
pub(crate) fn step(what: &str, text: &str) {
    eprintln!("{what:>10}  {text}");
}

/// Something that the user should know although the work goes on.
pub(crate) fn warn(text: &str) {
    eprintln!("{:>10}  {text}", "warning");
}

/// A result, for a person or a script to read.
pub(crate) fn result(text: &str) {
    println!("{text}");
}

/// The error that ends the run, with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("{:>10}  {error:#}", "error");
}
