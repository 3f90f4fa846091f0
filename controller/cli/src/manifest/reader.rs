//! Walks a located tree field by field, with the field's path, and gathers all problems and warnings of a file.
//!
//! A field is known because it was asked for: what no reader asked for is an unknown field, reported with the nearest
//! names. Never here: the fields of any particular file.

use super::quantity::{self, QuantityError};
use super::tree::{Entry, Node, Place, Value};
use shoal_protocol::text_map::TextMap;

/// How many problems are reported at once.
const MAX_PROBLEMS: usize = 25;

/// A problem or a warning: where, which field, what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) message: String,
}

/// What was found in one file.
#[derive(Debug)]
pub(crate) struct Findings {
    /// The file's name, for messages.
    pub(crate) file: String,
    /// These make the file unusable.
    pub(crate) problems: Vec<Finding>,
    /// These say why a field does not do what it says.
    pub(crate) warnings: Vec<Finding>,
}

impl Findings {
    pub(crate) fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), problems: Vec::new(), warnings: Vec::new() }
    }
    pub(crate) fn problem(&mut self, place: Place, path: &str, message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Finding { place, path: path.to_owned(), message: message.into() });
        }
    }
    pub(crate) fn warn(&mut self, place: Place, path: &str, message: impl Into<String>) {
        self.warnings.push(Finding { place, path: path.to_owned(), message: message.into() });
    }
    /// `file:line:column: path: message`, by line.
    pub(crate) fn lines(&self, findings: &[Finding]) -> Vec<String> {
        let mut sorted: Vec<&Finding> = findings.iter().collect();
        sorted.sort_by_key(|f| f.place);
        sorted
            .iter()
            .map(|f| {
                let path = if f.path.is_empty() { String::new() } else { format!("{}: ", f.path) };
                format!("{}:{}: {path}{}", self.file, f.place, f.message)
            })
            .collect()
    }
}

/// A value with the path that leads to it.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    pub(crate) path: String,
    pub(crate) node: &'a Node,
}

impl<'a> Field<'a> {
    pub(crate) fn place(&self) -> Place {
        self.node.place
    }
    fn wrong(&self, f: &mut Findings, expected: &str) {
        let found = match &self.node.value {
            Value::Scalar { text, .. } if !self.node.is_null() => format!("{text:?}"),
            _ => self.node.shape().to_owned(),
        };
        f.problem(self.place(), &self.path, format!("expected {expected}, found {found}"));
    }
    /// Reports a problem with this value.
    pub(crate) fn problem(&self, f: &mut Findings, message: impl Into<String>) {
        f.problem(self.place(), &self.path, message);
    }
    /// Says why this value does not do what it says.
    pub(crate) fn warn(&self, f: &mut Findings, message: impl Into<String>) {
        f.warn(self.place(), &self.path, message);
    }
    fn scalar(&self, f: &mut Findings, expected: &str) -> Option<(&'a str, bool)> {
        match &self.node.value {
            Value::Scalar { text, plain } if !self.node.is_null() => Some((text, *plain)),
            _ => {
                self.wrong(f, expected);
                None
            }
        }
    }
    /// Text; an unquoted number or boolean is refused as Kubernetes refuses it, since `on` or `1.10` would surprise.
    pub(crate) fn text(&self, f: &mut Findings) -> Option<String> {
        let (text, plain) = self.scalar(f, "text")?;
        if plain && (matches!(text, "true" | "false") || text.parse::<f64>().is_ok()) {
            self.problem(f, format!("expected text, found {text}: put it in quotes"));
            return None;
        }
        Some(text.to_owned())
    }
    /// Text, a number or a boolean, as text: where quoting is beside the point.
    pub(crate) fn loose_text(&self, f: &mut Findings) -> Option<String> {
        self.scalar(f, "text").map(|(t, _)| t.to_owned())
    }
    pub(crate) fn bool(&self, f: &mut Findings) -> Option<bool> {
        match self.scalar(f, "true or false")? {
            ("true", true) => Some(true),
            ("false", true) => Some(false),
            _ => {
                self.wrong(f, "true or false");
                None
            }
        }
    }
    pub(crate) fn integer(&self, f: &mut Findings, min: i64, max: i64) -> Option<i64> {
        let expected = if (min, max) == (0, i64::MAX) {
            "a whole number of 0 or more".to_owned()
        } else {
            format!("a whole number from {min} to {max}")
        };
        let value = match self.scalar(f, &expected)? {
            (text, true) => text.parse::<i64>().ok().filter(|v| (min..=max).contains(v)),
            _ => None,
        };
        if value.is_none() {
            self.wrong(f, &expected);
        }
        value
    }
    pub(crate) fn count(&self, f: &mut Findings) -> Option<u64> {
        self.integer(f, 0, i64::MAX).and_then(|v| u64::try_from(v).ok())
    }
    fn quantity(&self, f: &mut Findings, parse: fn(&str) -> Result<u64, QuantityError>) -> Option<u64> {
        let (text, _) = self.scalar(f, "a quantity")?;
        match parse(text) {
            Ok(v) => Some(v),
            Err(e) => {
                self.problem(f, e.to_string());
                None
            }
        }
    }
    pub(crate) fn bytes(&self, f: &mut Findings) -> Option<u64> {
        self.quantity(f, quantity::bytes)
    }
    pub(crate) fn millicpus(&self, f: &mut Findings) -> Option<u64> {
        self.quantity(f, quantity::millicpus)
    }
    pub(crate) fn seconds(&self, f: &mut Findings) -> Option<u64> {
        self.quantity(f, quantity::seconds)
    }
    /// One of a closed set of words.
    pub(crate) fn word<T: Copy>(&self, f: &mut Findings, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|w| w.0).collect();
        let expected = format!("one of {}", names.join(", "));
        let (text, _) = self.scalar(f, &expected)?;
        let found = words.iter().find(|w| w.0 == text).map(|w| w.1);
        if found.is_none() {
            let near = nearest(text, &names).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            self.problem(f, format!("expected {expected}, found {text:?}{near}"));
        }
        found
    }
    /// A parsed identifier (`Name`, `DeviceId` …), with the identifier's own words on failure.
    pub(crate) fn parsed<T>(&self, f: &mut Findings) -> Option<T>
    where
        T: std::str::FromStr<Err = shoal_protocol::ids::IdError>,
    {
        let text = self.loose_text(f)?;
        text.parse().map_err(|e: T::Err| self.problem(f, e.to_string())).ok()
    }
    /// The values of a list, each with its own path.
    pub(crate) fn list(&self, f: &mut Findings) -> Vec<Field<'a>> {
        match &self.node.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(i, node)| Field { path: format!("{}[{i}]", self.path), node })
                .collect(),
            _ if self.node.is_null() => Vec::new(),
            _ => {
                self.wrong(f, "a list");
                Vec::new()
            }
        }
    }
    pub(crate) fn texts(&self, f: &mut Findings) -> Vec<String> {
        self.list(f).iter().filter_map(|i| i.text(f)).collect()
    }
    fn entries(&self, f: &mut Findings) -> &'a [Entry] {
        match &self.node.value {
            Value::Map(entries) => entries,
            _ if self.node.is_null() => &[],
            _ => {
                self.wrong(f, "a map");
                &[]
            }
        }
    }
    /// The fields of a map; call [`Object::finish`] when all known ones were asked for.
    pub(crate) fn object(&self, f: &mut Findings) -> Object<'a> {
        Object { path: self.path.clone(), place: self.place(), entries: self.entries(f), asked: Vec::new() }
    }
    /// All fields of a map whose names are the file's own.
    pub(crate) fn pairs(&self, f: &mut Findings) -> Vec<(&'a str, Field<'a>)> {
        let field = |e: &'a Entry| Field { path: format!("{}.{}", self.path, e.key), node: &e.value };
        self.entries(f).iter().map(|e| (e.key.as_str(), field(e))).collect()
    }
    /// A map of text to text (labels, annotations).
    pub(crate) fn text_map(&self, f: &mut Findings) -> TextMap {
        let mut map = TextMap::default();
        for entry in self.entries(f) {
            let value = Field { path: format!("{}.{}", self.path, entry.key), node: &entry.value };
            if let Some(text) = value.text(f) {
                map.insert(entry.key.clone(), text);
            }
        }
        map
    }
    /// Whether the value says nothing: null, empty text, empty list or map, `false`, or empty all the way down.
    pub(crate) fn is_neutral(&self) -> bool {
        fn neutral(node: &Node) -> bool {
            match &node.value {
                Value::Scalar { text, plain } => {
                    node.is_null() || text.is_empty() || (*plain && text == "false")
                }
                Value::List(items) => items.iter().all(neutral),
                Value::Map(entries) => entries.iter().all(|e| neutral(&e.value)),
            }
        }
        neutral(self.node)
    }
}

/// A map that is being read.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    path: String,
    place: Place,
    entries: &'a [Entry],
    asked: Vec<&'static str>,
}

impl<'a> Object<'a> {
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
    /// The field `name`, if it is there and not null.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.asked.push(name);
        let entry = self.entries.iter().find(|e| e.key == name)?;
        if entry.value.is_null() {
            return None;
        }
        Some(Field { path: self.path_of(name), node: &entry.value })
    }
    /// The field `name`, or a problem that it is missing.
    pub(crate) fn need(&mut self, name: &'static str, f: &mut Findings) -> Option<Field<'a>> {
        let found = self.get(name);
        if found.is_none() {
            f.problem(self.place, &self.path_of(name), "this field is required");
        }
        found
    }
    /// Knows `name` and says why it is not honoured, unless it says nothing anyway.
    pub(crate) fn unsupported(&mut self, name: &'static str, f: &mut Findings, why: &str) {
        if let Some(field) = self.get(name)
            && !field.is_neutral()
        {
            field.warn(f, why);
        }
    }
    /// Reports every field that nobody asked for.
    pub(crate) fn finish(self, f: &mut Findings) {
        for entry in self.entries.iter().filter(|e| !self.asked.contains(&e.key.as_str())) {
            let hint = if let Some(near) = nearest(&entry.key, &self.asked) {
                format!("; did you mean `{near}`?")
            } else {
                let mut known = self.asked.clone();
                known.sort_unstable();
                known.dedup();
                format!("; known here: {}", known.join(", "))
            };
            f.problem(entry.place, &self.path_of(&entry.key), format!("unknown field{hint}"));
        }
    }
}

/// The known name that `name` was probably meant to be.
pub(crate) fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let plain = |s: &str| s.to_ascii_lowercase().replace(['_', '-'], "");
    known
        .iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(&plain(name), &plain(k)), *k))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse_yaml;
    use super::*;

    #[test]
    fn an_unknown_field_names_the_nearest_known_one_and_its_place() {
        let docs = parse_yaml("a:\n  memroy: 1\n  zzz: 2\n").unwrap();
        let mut f = Findings::new("x.yaml");
        let root = Field { path: String::new(), node: &docs[0] };
        let mut top = root.object(&mut f);
        let mut a = top.get("a").unwrap().object(&mut f);
        assert!(a.get("memory").is_none() && a.get("cpu").is_none());
        a.finish(&mut f);
        top.finish(&mut f);
        let lines = f.lines(&f.problems);
        assert_eq!(lines[0], "x.yaml:2:3: a.memroy: unknown field; did you mean `memory`?");
        assert_eq!(lines[1], "x.yaml:3:3: a.zzz: unknown field; known here: cpu, memory");
    }

    #[test]
    fn unquoted_numbers_are_no_text_and_quoted_ones_no_numbers() {
        let docs = parse_yaml("t: 1.10\nn: '3'\nb: yes\n").unwrap();
        let mut f = Findings::new("x");
        let mut o = Field { path: String::new(), node: &docs[0] }.object(&mut f);
        assert_eq!(o.get("t").unwrap().text(&mut f), None);
        assert_eq!(o.get("n").unwrap().count(&mut f), None);
        assert_eq!(o.get("b").unwrap().bool(&mut f), None);
        assert_eq!(f.problems.len(), 3);
        assert!(f.problems[0].message.contains("put it in quotes"));
    }
}
