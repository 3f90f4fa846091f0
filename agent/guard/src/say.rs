//! The guard's own words, one line an event, on standard error (systemd's journal keeps them).

#![allow(clippy::print_stderr, reason = "the one place that prints")]

use std::fmt::Display;
use std::sync::OnceLock;

static WHO: OnceLock<&'static str> = OnceLock::new();

/// Names the process in every line that follows.
pub(crate) fn name(who: &'static str) {
    let _ = WHO.set(who);
}

/// Prints one line; texts of others are cut and lose their line breaks.
pub(crate) fn line(text: impl Display) {
    let text: String =
        text.to_string().chars().take(600).map(|c| if c.is_control() { ' ' } else { c }).collect();
    eprintln!("shoal-guard {}: {text}", WHO.get().copied().unwrap_or(""));
}

/// Prints an error with its causes.
pub(crate) fn error(what: &str, e: &(dyn std::error::Error + 'static)) {
    line(format!("{what}: {}", chain(e)));
}

/// An error and its causes in one line.
pub(crate) fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut at = e.source();
    while let Some(cause) = at {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        at = cause.source();
    }
    text
}

/// Prints an answer that was asked for, on standard output.
#[allow(clippy::print_stdout, reason = "the one place that prints")]
pub(crate) fn out(text: &str) {
    print!("{text}");
}
