//! How crictl shows things: columns, short ids, ages; and any message as JSON or YAML. Pure but for printing.

use crate::cli::CriOutput;
use crate::output;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// How much of an id is shown.
const SHORT: usize = 13;
/// No column is narrower.
const COLUMN: usize = 20;

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An id as lists show it.
pub(super) fn short(id: &str, whole: bool) -> String {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    if whole { id.to_owned() } else { id.chars().take(SHORT).collect() }
}

/// How long ago, in words.
pub(super) fn ago(then: u64, now: u64) -> String {
    let s = now.saturating_sub(then) / 1_000_000_000;
    let words = match s {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..=59 => format!("{s} seconds"),
        60..=119 => "About a minute".to_owned(),
        120..=3_599 => format!("{} minutes", s / 60),
        3_600..=7_199 => "About an hour".to_owned(),
        7_200..=172_799 => format!("{} hours", s / 3_600),
        _ => format!("{} days", s / 86_400),
    };
    format!("{words} ago")
}

/// `CONTAINER_RUNNING` as `Running`.
pub(super) fn state(cri: &str) -> String {
    let word = cri.rsplit('_').next().unwrap_or(cri).to_lowercase();
    let word = if word == "notready" { "notReady".to_owned() } else { word };
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Rows in columns as wide as crictl's.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) {
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count());
        cells.chain([heads[c].len()]).max().unwrap_or(0) + 3
    };
    let widths: Vec<usize> = (0..heads.len()).map(|c| width(c).max(COLUMN)).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, w) in cells.zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<w$}", w = *w);
        }
        output::line(text.trim_end());
    };
    line(&mut heads.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// A message as it was asked for; `false` for a table, which the caller prints.
pub(super) fn message<T: Serialize>(value: &T, format: CriOutput) -> bool {
    let value = serde_json::to_value(value).unwrap_or_default();
    match format {
        CriOutput::Table => return false,
        CriOutput::Json => output::json(&value),
        CriOutput::Yaml => output::line(yaml(&value).trim_end()),
    }
    true
}

/// YAML in block style; texts are quoted, since JSON's quoted texts are YAML's too.
fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn is_block(value: &Value) -> bool {
    value.as_object().is_some_and(|o| !o.is_empty()) || value.as_array().is_some_and(|a| !a.is_empty())
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, v) in map {
                // Keys of ours are plain; a label's may be anything.
                let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !key.is_empty();
                let key = if plain { key.clone() } else { Value::String(key.clone()).to_string() };
                entry(&format!("{indent}{key}:"), v, depth, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for v in list {
                entry(&format!("{indent}-"), v, depth, out);
            }
        }
        scalar => {
            let _ = writeln!(out, "{indent}{scalar}");
        }
    }
}

fn entry(head: &str, value: &Value, depth: usize, out: &mut String) {
    if is_block(value) {
        let _ = writeln!(out, "{head}");
        block(value, depth + 1, out);
    } else {
        let _ = writeln!(out, "{head} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_and_states_read_as_crictls() {
        let s = 1_000_000_000;
        assert_eq!(ago(0, 70 * s), "About a minute ago");
        assert_eq!(ago(5 * s, 5 * s), "Less than a second ago");
        assert_eq!(ago(0, 3 * 86_400 * s), "3 days ago");
        assert_eq!(state("CONTAINER_CREATED"), "Created");
        assert_eq!(state("SANDBOX_NOTREADY"), "NotReady");
        assert_eq!(short("sha256:0123456789abcdef", false), "0123456789abc");
    }

    #[test]
    fn yaml_is_block_style_and_quotes_texts() {
        let value = json!({ "a": { "b": [1, "x: y"], "c": {} }, "d e": null });
        assert_eq!(yaml(&value), "a:\n  b:\n    - 1\n    - \"x: y\"\n  c: {}\n\"d e\": null\n");
    }
}
