//! The one place that prints: tables for people, JSON and YAML for programs, notes and progress on standard error.
//!
//! Never here: what is shown. Colour only where standard output is a terminal and `NO_COLOR` is not set.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this module is the program's voice")]

use crate::error::{CliError, Result};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};

/// In which form results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// Table with more columns.
    Wide,
    /// One JSON document; with --watch, one line a change.
    Json,
    /// One YAML document.
    Yaml,
}

impl Format {
    /// Whether a program reads it.
    pub(crate) fn is_data(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// How a word is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Waiting,
    Bad,
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes one line to standard output; a reader that went away ends the program quietly.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Writes text as it is.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A word about what is going on, for people only.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Something that does not do what it says.
pub(crate) fn warn(text: &str) {
    eprintln!("warning: {text}");
}

/// The error, once, at the top; for a program as one object, in the form of its results.
pub(crate) fn error(e: &CliError, format: Format) {
    let data = match format {
        Format::Json => serde_json::to_string(&e.told()).ok().map(|text| text + "\n"),
        Format::Yaml => serde_saphyr::to_string(&e.told()).ok(),
        Format::Table | Format::Wide => None,
    };
    eprint!("{}", data.unwrap_or_else(|| e.render()));
}

/// A document for programs.
pub(crate) fn data<T: Serialize>(format: Format, value: &T) -> Result<()> {
    let text = match format {
        Format::Yaml => {
            serde_saphyr::to_string(value).map_err(|e| CliError::failure("cannot write YAML").because(e))?
        }
        _ => {
            serde_json::to_string_pretty(value)
                .map_err(|e| CliError::failure("cannot write JSON").because(e))?
                + "\n"
        }
    };
    raw(&text);
    Ok(())
}

/// One document on one line, for streams.
pub(crate) fn data_line<T: Serialize>(value: &T) -> Result<()> {
    line(&serde_json::to_string(value).map_err(|e| CliError::failure("cannot write JSON").because(e))?);
    Ok(())
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl<S: Into<String>> From<S> for Cell {
    fn from(text: S) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// A cell with a tone.
pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Cell {
    Cell { text: text.into(), tone }
}

/// Lays out columns, three spaces apart, as kubectl does.
pub(crate) fn table(headers: &[&str], rows: &[Vec<Cell>]) {
    for text in layout(headers, rows, colours()) {
        line(&text);
    }
}

fn layout(headers: &[&str], rows: &[Vec<Cell>], colour: bool) -> Vec<String> {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|r| r.get(i)).map(|c| c.text.chars().count());
        cells.chain([headers[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let head: Vec<Cell> = headers.iter().map(|h| Cell::from(*h)).collect();
    std::iter::once(&head)
        .chain(rows)
        .map(|row| {
            let mut text = String::new();
            for (i, cell) in row.iter().enumerate().take(widths.len()) {
                let shown = if colour { paint(&cell.text, cell.tone) } else { cell.text.clone() };
                text.push_str(&shown);
                if i + 1 < row.len() {
                    text.push_str(&" ".repeat(widths[i] + 3 - cell.text.chars().count()));
                }
            }
            text.trim_end().to_owned()
        })
        .collect()
}

fn paint(text: &str, tone: Tone) -> String {
    match tone {
        Tone::Plain => text.to_owned(),
        Tone::Good => format!("\x1b[32m{text}\x1b[0m"),
        Tone::Waiting => format!("\x1b[33m{text}\x1b[0m"),
        Tone::Bad => format!("\x1b[31m{text}\x1b[0m"),
    }
}

/// A text with a tone, for lines outside tables.
pub(crate) fn toned_text(text: &str, tone: Tone) -> String {
    if colours() { paint(text, tone) } else { text.to_owned() }
}

/// Text of others' making, safe for a terminal: control characters are shown, not obeyed.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A bar for bytes, drawn on standard error when that is a terminal.
pub(crate) fn bytes_bar(what: &str, total: u64) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(total);
    let style =
        indicatif::ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

/// A spinner with a message.
pub(crate) fn spinner(what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new_spinner();
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

/// Asks for a yes on a terminal; without one the answer is no.
pub(crate) fn confirm(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_tone() {
        let rows = vec![vec!["a".into(), toned("ok", Tone::Good)], vec!["longer".into(), "x".into()]];
        assert_eq!(layout(&["NAME", "STATE"], &rows, false), ["NAME     STATE", "a        ok", "longer   x"]);
        assert_eq!(layout(&["NAME", "STATE"], &rows, true)[1], "a        \x1b[32mok\x1b[0m");
    }

    #[test]
    fn control_characters_of_others_are_not_obeyed() {
        assert_eq!(clean("a\x1b[31mb\tc"), "a\u{fffd}[31mb\tc");
    }
}
