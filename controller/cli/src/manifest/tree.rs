//! Reads YAML and JSON into one tree whose every value knows its line and column.
//!
//! Never here: what the values mean. Bounds: [`MAX_BYTES`], [`MAX_NODES`], [`MAX_DEPTH`]; anchors are refused.

use granit_parser::{Event, Parser, ScalarStyle};
use std::fmt;

/// The largest file that is read.
pub(crate) const MAX_BYTES: usize = 1024 * 1024;
const MAX_NODES: usize = 50_000;
const MAX_DEPTH: usize = 64;

/// Where something stands; both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// YAML's three shapes.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Text as written; `plain` when unquoted, so that it may be a number, boolean or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a map.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Node {
    /// Whether it is YAML's null (`~`, `null` or nothing).
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
    /// What it is, for messages.
    pub(crate) fn shape(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Why a file is no tree.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {message}")]
pub(crate) struct SyntaxError {
    pub(crate) place: Place,
    pub(crate) message: String,
}

fn syntax(place: Place, message: impl Into<String>) -> SyntaxError {
    SyntaxError { place, message: message.into() }
}

/// Parses JSON: strictly, by its own grammar, then again for the places.
pub(crate) fn parse_json(text: &str) -> Result<Node, SyntaxError> {
    serde_json::from_str::<serde_json::Value>(text).map_err(|e| {
        let place = Place { line: e.line().max(1), column: e.column().max(1) };
        let full = e.to_string();
        let message = full.split(" at line ").next().unwrap_or(&full).to_owned();
        syntax(place, message)
    })?;
    // Tabs are white space in JSON and not always so in YAML; inside JSON strings they are escaped.
    let mut nodes = parse_yaml(&text.replace('\t', " "))?;
    if nodes.len() == 1 {
        Ok(nodes.remove(0))
    } else {
        Err(syntax(Place { line: 1, column: 1 }, "expected one JSON value"))
    }
}

/// Parses a YAML stream into its documents; empty ones are left out.
pub(crate) fn parse_yaml(text: &str) -> Result<Vec<Node>, SyntaxError> {
    if text.len() > MAX_BYTES {
        return Err(syntax(
            Place { line: 1, column: 1 },
            format!("the file is larger than {MAX_BYTES} bytes"),
        ));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => {
                let place = Place { line: span.start.line().max(1), column: span.start.col() + 1 };
                builder.event(event, place)?;
            }
            Err(e) => {
                let place = Place { line: e.marker().line().max(1), column: e.marker().col() + 1 };
                let full = e.to_string();
                let message = full.split(" at byte ").next().unwrap_or(&full);
                let message = message.split(" at char ").next().unwrap_or(message).to_owned();
                return Err(syntax(place, message));
            }
        }
    }
    Ok(builder.documents)
}

enum Open {
    List(Place, Vec<Node>),
    Map(Place, Vec<Entry>, Option<(String, Place)>),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    stack: Vec<Open>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), SyntaxError> {
        if event.anchor_id().is_some() || event.is_alias() {
            return Err(syntax(place, "anchors and aliases are not supported: write the value out"));
        }
        if let Some(tag) = event.tag() {
            return Err(syntax(place, format!("the tag {} is not supported", tag.original())));
        }
        if event.is_node() {
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(syntax(place, format!("more than {MAX_NODES} values in one file")));
            }
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                self.value(Node { place, value: Value::Scalar { text: text.into_owned(), plain } })
            }
            Event::SequenceStart(..) => self.open(Open::List(place, Vec::new())),
            Event::MappingStart(..) => self.open(Open::Map(place, Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List(place, items)) => self.value(Node { place, value: Value::List(items) }),
                Some(Open::Map(place, entries, _)) => self.value(Node { place, value: Value::Map(entries) }),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), SyntaxError> {
        let (Open::List(place, _) | Open::Map(place, ..)) = &open;
        if self.stack.len() >= MAX_DEPTH {
            return Err(syntax(*place, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if matches!(self.stack.last(), Some(Open::Map(_, _, None))) {
            return Err(syntax(*place, "a list or map cannot be a field's name"));
        }
        self.stack.push(open);
        Ok(())
    }

    fn value(&mut self, node: Node) -> Result<(), SyntaxError> {
        match self.stack.last_mut() {
            None if node.is_null() => {}
            None => self.documents.push(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, pending)) => {
                if let Some((key, place)) = pending.take() {
                    entries.push(Entry { key, place, value: node });
                    return Ok(());
                }
                let Value::Scalar { text, .. } = node.value else {
                    return Err(syntax(node.place, "a list or map cannot be a field's name"));
                };
                if entries.iter().any(|e| e.key == text) {
                    return Err(syntax(node.place, format!("the field `{text}` stands twice")));
                }
                *pending = Some((text, node.place));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line_and_column() {
        let docs = parse_yaml("a: 1\nb:\n  - x\n  - c: 'y'\n").unwrap();
        let Value::Map(top) = &docs[0].value else { panic!("no map") };
        assert_eq!(top[1].place, Place { line: 2, column: 1 });
        let Value::List(items) = &top[1].value.value else { panic!("no list") };
        assert_eq!(items[0].place, Place { line: 3, column: 5 });
        let Value::Map(inner) = &items[1].value else { panic!("no map") };
        assert_eq!(inner[0].value.place, Place { line: 4, column: 8 });
        assert!(matches!(&inner[0].value.value, Value::Scalar { plain: false, .. }));
    }

    #[test]
    fn broken_yaml_and_json_say_where() {
        assert_eq!(parse_yaml("a: 1\n b: [\n").unwrap_err().place.line, 2);
        let e = parse_json("{\n  \"a\": 1,\n}").unwrap_err();
        assert_eq!((e.place.line, e.message.as_str()), (3, "trailing comma"));
    }

    #[test]
    fn duplicates_anchors_and_depth_are_refused() {
        assert!(parse_yaml("a: 1\na: 2\n").unwrap_err().message.contains("stands twice"));
        assert!(parse_yaml("a: &x 1\nb: *x\n").unwrap_err().message.contains("anchors"));
        assert!(
            parse_yaml(&format!("{}{}", "[".repeat(80), "]".repeat(80)))
                .unwrap_err()
                .message
                .contains("nested deeper")
        );
    }

    #[test]
    fn json_indented_with_tabs_is_read() {
        let node = parse_json("{\n\t\"a\": {\n\t\t\"b\":\t[1]\n\t}\n}").unwrap();
        assert_eq!(node.shape(), "a map");
    }
}
