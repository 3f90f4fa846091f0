//! The selector of a query (`a=b,c!=d,e,!f`), as `kubectl -l` has it, without sets.

use shoal_protocol::latest::{Operator, Requirement, Selector};

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a selector: expected terms like key=value, key!=value, key or !key, joined by commas")]
pub struct SelectorError(String);

/// Reads a selector; an empty text selects everything.
///
/// # Errors
/// [`SelectorError`] with the term that is none.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    let mut selector = Selector::default();
    for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let (key, operator, values) = if let Some((k, v)) = term.split_once("!=") {
            (k, Operator::NotIn, vec![v.trim().to_owned()])
        } else if let Some((k, v)) = term.split_once('=') {
            (k, Operator::In, vec![v.trim_start_matches('=').trim().to_owned()])
        } else if let Some(k) = term.strip_prefix('!') {
            (k, Operator::DoesNotExist, Vec::new())
        } else {
            (term, Operator::Exists, Vec::new())
        };
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(SelectorError(term.to_owned()));
        }
        selector.match_expressions.push(Requirement { key: key.to_owned(), operator, values });
    }
    Ok(selector)
}

/// A selector in the same form, for people.
pub fn text(selector: &Selector) -> String {
    let labels = selector.match_labels.iter().map(|(k, v)| format!("{k}={v}"));
    let terms = selector.match_expressions.iter().map(|r| match (r.operator, r.values.as_slice()) {
        (Operator::In, [one]) => format!("{}={one}", r.key),
        (Operator::NotIn, [one]) => format!("{}!={one}", r.key),
        (Operator::In, many) => format!("{} in ({})", r.key, many.join(",")),
        (Operator::NotIn, many) => format!("{} notin ({})", r.key, many.join(",")),
        (Operator::Exists, _) => r.key.clone(),
        (Operator::DoesNotExist, _) => format!("!{}", r.key),
    });
    let all: Vec<String> = labels.chain(terms).collect();
    if all.is_empty() { "every device".to_owned() } else { all.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::text_map::TextMap;

    #[test]
    fn terms_mean_what_they_do_elsewhere() {
        let labels: TextMap = [("site", "bern"), ("tier", "edge")].into_iter().collect();
        for (term, matches) in [
            ("", true),
            ("site=bern", true),
            ("site==bern, tier", true),
            ("site!=bern", false),
            ("gpu!=yes", true),
            ("!gpu", true),
            ("!tier", false),
            ("gpu", false),
        ] {
            assert_eq!(parse(term).unwrap().matches(&labels), matches, "{term}");
        }
        assert!(parse("=x").is_err());
        assert!(parse("a b").is_err());
        assert_eq!(text(&parse("site==bern,!gpu").unwrap()), "site=bern,!gpu");
    }
}
