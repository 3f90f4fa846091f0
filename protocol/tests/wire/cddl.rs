//! The CDDL of `docs/protocol.md` and the code agree: names, numbers, order, optionality and types, both ways.

use crate::common::arbitrary::{Fill, Shapes, Source};
use serde::{Serialize, de::DeserializeOwned};
use shoal_protocol::codec::{Limits, Value, decode, encode};
use shoal_protocol::v1::*;
use shoal_protocol::{Code, topics::Topic};
use std::collections::{BTreeMap, BTreeSet};

/// A rule of the page.
#[derive(Debug)]
enum Rule {
    Struct(Vec<Field>),
    /// By number: the variant's name and, for a struct variant, the rule of its fields.
    Enum(Vec<(String, Option<String>)>),
    Type(String),
}

#[derive(Debug)]
struct Field {
    optional: bool,
    r#type: String,
    name: String,
}

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md")).unwrap()
}

/// The rules of the block that begins with `; types`.
fn rules() -> BTreeMap<String, Rule> {
    let page = page();
    let block = page.split("```cddl\n").find(|b| b.starts_with("; types")).expect("a block of types");
    let block = block.split("```").next().unwrap();
    let mut out = BTreeMap::new();
    let mut lines = block.lines().filter(|l| !l.is_empty() && !l.starts_with(';'));
    while let Some(line) = lines.next() {
        let (name, rest) = line.split_once(" =").unwrap_or_else(|| panic!("no rule begins here: {line}"));
        let rule = match rest.trim() {
            "{" => Rule::Struct(lines.by_ref().take_while(|l| *l != "}").zip(0..).map(field).collect()),
            "" => {
                let mut variants = Vec::new();
                for (number, line) in lines.by_ref().enumerate() {
                    let (spec, name) = line.split_once(';').unwrap();
                    let more = spec.trim_end().ends_with('/');
                    variants.push((name.trim().to_owned(), variant(spec, number)));
                    if !more {
                        break;
                    }
                }
                Rule::Enum(variants)
            }
            spec => Rule::Type(spec.split(';').next().unwrap().trim().to_owned()),
        };
        assert!(out.insert(name.to_owned(), rule).is_none(), "{name} stands twice");
    }
    out
}

/// `? 5: type, ; name`
fn field((line, number): (&str, usize)) -> Field {
    let (spec, name) = line.split_once(';').unwrap_or_else(|| panic!("no field's name here: {line}"));
    let spec = spec.trim().trim_end_matches(',');
    let (optional, spec) = spec.strip_prefix("? ").map_or((false, spec), |s| (true, s));
    let (key, r#type) = spec.split_once(": ").unwrap();
    assert_eq!(key, number.to_string(), "numbers follow the order: {line}");
    Field { optional, r#type: r#type.to_owned(), name: name.trim().to_owned() }
}

/// `5 /` or `{ 5: rule } /`
fn variant(spec: &str, number: usize) -> Option<String> {
    let spec = spec.trim().trim_end_matches('/').trim();
    let Some(inner) = spec.strip_prefix("{ ").and_then(|s| s.strip_suffix(" }")) else {
        assert_eq!(spec, number.to_string());
        return None;
    };
    let (key, rule) = inner.split_once(": ").unwrap();
    assert_eq!(key, number.to_string());
    Some(rule.to_owned())
}

/// `DeviceRecord` and `Verb::Stage` as the page calls them.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.replace("::", "").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Holds values to the page, and remembers what it saw.
#[derive(Default)]
struct Checker {
    absent: BTreeSet<(String, usize)>,
    present: BTreeSet<(String, usize)>,
}

impl Checker {
    fn check(&mut self, rules: &BTreeMap<String, Rule>, r#type: &str, value: &Value) {
        let wrong = || -> ! { panic!("{value:?} is no {type}") };
        if let Some(inner) = r#type.strip_prefix("[* ").and_then(|t| t.strip_suffix(']')) {
            let Value::Array(items) = value else { wrong() };
            return items.iter().for_each(|i| self.check(rules, inner, i));
        }
        if let Some(inner) = r#type.strip_prefix("{ * ").and_then(|t| t.strip_suffix(" }")) {
            let (k, v) = inner.split_once(" => ").unwrap();
            let Value::Map(entries) = value else { wrong() };
            return entries.iter().for_each(|e| {
                self.check(rules, k, e.0);
                self.check(rules, v, e.1);
            });
        }
        let fits = match (r#type, value) {
            ("uint" | "int", Value::Unsigned(_))
            | ("int", Value::Negative(_))
            | ("tstr", Value::Text(_))
            | ("bstr", Value::Bytes(_))
            | ("bool", Value::Bool(_))
            | ("any", _) => true,
            ("bstr .size 32", Value::Bytes(b)) => b.0.len() == 32,
            ("uint" | "int" | "tstr" | "bstr" | "bool" | "bstr .size 32", _) => false,
            _ => return self.check_rule(rules, r#type, value),
        };
        if !fits {
            wrong()
        }
    }

    fn check_rule(&mut self, rules: &BTreeMap<String, Rule>, name: &str, value: &Value) {
        match rules.get(name).unwrap_or_else(|| panic!("the page has no rule {name}")) {
            Rule::Type(t) => self.check(rules, t, value),
            Rule::Struct(fields) => {
                let Value::Map(entries) = value else { panic!("{name}: {value:?} is no map") };
                for (number, field) in fields.iter().enumerate() {
                    let place = (name.to_owned(), number);
                    if let Some(v) = entries.get(&Value::Unsigned(number as u64)) {
                        self.present.insert(place);
                        self.check(rules, &field.r#type, v);
                    } else {
                        assert!(
                            field.optional,
                            "{name}: {} is left out, the page says it is always there",
                            field.name
                        );
                        self.absent.insert(place);
                    }
                }
                let known = (0..fields.len() as u64).map(Value::Unsigned).collect::<BTreeSet<_>>();
                assert!(
                    entries.keys().all(|k| known.contains(k)),
                    "{name}: a field that the page lacks: {value:?}"
                );
            }
            Rule::Enum(variants) => {
                let variant = |n: u64| usize::try_from(n).ok().and_then(|n| variants.get(n));
                match value {
                    Value::Unsigned(n) => {
                        assert!(variant(*n).is_some_and(|v| v.1.is_none()), "{name}: no unit variant {n}");
                    }
                    Value::Map(m) if m.len() == 1 => match m.first_key_value() {
                        Some((Value::Unsigned(n), fields)) => {
                            let rule = variant(*n).and_then(|v| v.1.as_ref());
                            let rule = rule.unwrap_or_else(|| panic!("{name}: no struct variant {n}"));
                            self.check_rule(rules, rule, fields);
                        }
                        other => panic!("{name}: {other:?} is no variant"),
                    },
                    other => panic!("{name}: {other:?} is no variant"),
                }
            }
        }
    }
}

struct Survey {
    rules: BTreeMap<String, Rule>,
    checker: Checker,
    shapes: Shapes,
}

impl Survey {
    /// Invents many values of a type and holds each to the page.
    fn take<T: Serialize + DeserializeOwned>(&mut self) {
        let full = std::any::type_name::<T>();
        let name = kebab(full.rsplit("::").next().unwrap());
        for round in 0..120_u8 {
            let fill = [Fill::Any, Fill::Full, Fill::Empty][usize::from(round % 3)];
            // Well mixed, or two optional fields a certain way apart would always come and go together.
            let mix = |n: u32| (n + 251 * u32::from(round)).wrapping_mul(2_654_435_761).rotate_left(15);
            let entropy = (0..251).map(|n| mix(n).wrapping_mul(2_246_822_519).to_le_bytes()[3]).collect();
            let mut source = Source::new(entropy, fill);
            let bytes = encode(&source.invent::<T>());
            let value = decode::<Value>(&bytes, Limits::of_size(1 << 20)).unwrap();
            self.checker.check_rule(&self.rules, &name, &value);
            self.shapes.structs.append(&mut source.shapes.structs);
            self.shapes.enums.append(&mut source.shapes.enums);
        }
    }
}

fn survey() -> Survey {
    let mut s = Survey { rules: rules(), checker: Checker::default(), shapes: Shapes::default() };
    s.take::<Root>();
    s.take::<Snapshot>();
    s.take::<Deployment>();
    s.take::<DeviceRecord>();
    s.take::<Token>();
    s.take::<Order>();
    s.take::<Report>();
    s.take::<Fact>();
    s.take::<Config>();
    s.take::<Secret>();
    s.take::<Grant>();
    s.take::<Release>();
    s.take::<ReceiptRequest>();
    s.take::<Receipt>();
    // Deep in a deployment, where few inventions reach.
    s.take::<KeyFile>();
    s.take::<VolumeSource>();
    s.take::<DocumentRef>();
    s.take::<Hello>();
    s.take::<Heartbeat>();
    s.take::<Ack>();
    s.take::<LogChunk>();
    s.take::<JoinFile>();
    s.take::<EnrollRequest>();
    s.take::<EnrollResponse>();
    s
}

#[test]
fn the_page_and_the_types_name_the_same_fields() {
    let Survey { rules, shapes, checker } = survey();
    for (name, fields) in &shapes.structs {
        let Some(Rule::Struct(documented)) = rules.get(&kebab(name)) else {
            panic!("the page lacks the struct {}", kebab(name));
        };
        let documented: Vec<&str> = documented.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(&documented, fields, "{name}");
    }
    for (name, variants) in &shapes.enums {
        let Some(Rule::Enum(documented)) = rules.get(&kebab(name)) else {
            panic!("the page lacks the enum {}", kebab(name));
        };
        let documented: Vec<&str> = documented.iter().map(|v| v.0.as_str()).collect();
        assert_eq!(&documented, variants, "{name}");
    }
    let coded: BTreeSet<String> =
        shapes.structs.keys().chain(shapes.enums.keys()).map(|n| kebab(n)).collect();
    for (name, rule) in &rules {
        match rule {
            Rule::Type(_) => {}
            Rule::Struct(fields) => {
                assert!(coded.contains(name), "no type in the code is the page's {name}");
                for (number, field) in fields.iter().enumerate() {
                    let place = (name.clone(), number);
                    assert!(checker.present.contains(&place), "{name}: {} was never seen", field.name);
                    assert_eq!(
                        field.optional,
                        checker.absent.contains(&place),
                        "{name}: is {} optional?",
                        field.name
                    );
                }
            }
            Rule::Enum(_) => assert!(coded.contains(name), "no type in the code is the page's {name}"),
        }
    }
}

#[test]
#[should_panic(expected = "a field that the page lacks")]
fn a_field_without_its_line_is_noticed() {
    let mut s = Survey { rules: rules(), checker: Checker::default(), shapes: Shapes::default() };
    let Some(Rule::Struct(fields)) = s.rules.get_mut("token") else { return };
    fields.pop();
    s.take::<Token>();
}

/// The rows of the table below a heading, cell by cell.
fn table(heading: &str) -> Vec<Vec<String>> {
    let page = page();
    let section =
        page.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap();
    section
        .lines()
        .filter(|l| l.starts_with("| `"))
        .map(|l| l.trim_matches('|').split(" | ").map(|c| c.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

#[test]
fn the_page_lists_every_code_with_its_meaning() {
    let documented: Vec<(String, String)> =
        table("Codes").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let coded: Vec<(String, String)> =
        Code::ALL.iter().map(|c| (c.to_string(), c.hint().to_owned())).collect();
    assert_eq!(documented, coded);
    for code in Code::ALL {
        assert_eq!(code.as_str().parse(), Ok(*code));
    }
    assert!("no_such_code".parse::<Code>().is_err());
}

#[test]
fn the_page_lists_every_kind_and_topic_with_its_cap() {
    let documented: Vec<(String, String)> =
        table("Kinds").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let cap = |n: usize| format!("{} KiB", n / 1024);
    let coded: Vec<(String, String)> = Kind::ALL
        .iter()
        .map(|k| (k.as_str().to_owned(), if k.is_reserved() { "reserved".into() } else { cap(k.size_cap()) }))
        .collect();
    assert_eq!(documented, coded);
    let documented: Vec<(String, String)> =
        table("Topics").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let coded: Vec<(String, String)> =
        Topic::ALL.iter().map(|t| (t.suffix().to_owned(), cap(t.size_cap()))).collect();
    assert_eq!(documented, coded);
}
