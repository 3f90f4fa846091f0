//! What the program says when it cannot do what was asked: kind, chain of causes, hint; and the exit code of each kind.
//!
//! | code | kind | meaning |
//! | --- | --- | --- |
//! | 0 | | done |
//! | 1 | failure | it did not work; the chain says why |
//! | 2 | usage | the command line or a file given on it is wrong |
//! | 3 | refused | admission, a policy or the controller said no, with a stable code |
//! | 4 | unavailable | something that is needed is not there or not reachable; trying again later may help |

use std::fmt;
use std::process::ExitCode;

/// What kind of failure it is; the kind alone decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It did not work.
    Failure,
    /// It was asked for wrongly.
    Usage,
    /// Somebody with the right to say no said no.
    Refused,
    /// It is not there, or not reachable, now.
    Unavailable,
}

impl Kind {
    /// The process's exit code.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unavailable => 4,
        }
    }
}

/// A failure that knows its kind and what to do about it; sits anywhere in an `anyhow` chain.
#[derive(Debug)]
pub(crate) struct Explained {
    kind: Kind,
    text: String,
    hint: Option<String>,
    source: Option<anyhow::Error>,
    /// Another process has said it already, and ended with this.
    said: Option<u8>,
}

impl Explained {
    /// Without a cause.
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), hint: None, source: None, said: None }
    }

    /// What a process that works for this one has said already, before it ended with `code`.
    pub(crate) fn said(code: u8) -> Self {
        Self { said: Some(code), ..Self::new(Kind::Failure, format!("it ended with exit code {code}")) }
    }

    /// What to do; best a command.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Why.
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Explained {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as &(dyn std::error::Error + 'static))
    }
}

/// The kind of a failure: the outermost that is explained, or what guard said.
pub(crate) fn kind(error: &anyhow::Error) -> Kind {
    for cause in error.chain() {
        if let Some(e) = cause.downcast_ref::<Explained>() {
            return e.kind;
        }
        if let Some(e) = cause.downcast_ref::<shoal_ipc::Error>() {
            return if e.refusal().is_some() {
                Kind::Refused
            } else if e.is_disconnect() {
                Kind::Unavailable
            } else {
                Kind::Failure
            };
        }
    }
    Kind::Failure
}

fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut out = Vec::new();
    for cause in error.chain() {
        if let Some(hint) = cause.downcast_ref::<Explained>().and_then(|e| e.hint.clone()) {
            out.push(hint);
        }
        if let Some(e) = cause.downcast_ref::<shoal_ipc::Error>() {
            if let Some(code) = e.refusal().and_then(|c| c.parse::<shoal_protocol::refusal::Code>().ok()) {
                out.push(code.hint().to_owned());
            } else if e.is_disconnect() {
                out.push(
                    "is the guard running? `shoal-guard supervise` must be up, with the same --root"
                        .to_owned(),
                );
            }
        }
    }
    out
}

/// What to do about it, if anything is known.
pub(crate) fn first_hint(error: &anyhow::Error) -> Option<String> {
    hints(error).into_iter().next()
}

/// Prints the chain once, then the hints, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    if let Some(code) = error.downcast_ref::<Explained>().and_then(|e| e.said) {
        return ExitCode::from(code);
    }
    let kind = kind(error);
    let mut causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.dedup();
    let hints = hints(error);
    if json {
        let value = serde_json::json!({
            "error": causes.first(), "causes": causes.get(1..), "hints": hints, "exitCode": kind.exit_code(),
        });
        crate::output::error(&value.to_string());
    } else {
        let mut lines = vec![format!("error: {}", causes.first().map_or("", String::as_str))];
        lines.extend(causes.iter().skip(1).map(|c| format!("  because: {c}")));
        lines.extend(hints.iter().map(|h| format!("  hint: {h}")));
        crate::output::error(&lines.join("\n"));
    }
    ExitCode::from(kind.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_kind_is_found_below_context_and_guards_refusals_are_refused() {
        let e = Err::<(), _>(Explained::new(Kind::Usage, "bad file")).context("reading it").unwrap_err();
        assert_eq!(kind(&e), Kind::Usage);
        let refused = shoal_ipc::Error::Refused { code: "not_admitted".into(), detail: String::new() };
        let e = anyhow::Error::from(refused).context("enrolling");
        assert_eq!(kind(&e), Kind::Refused);
        assert!(hints(&e)[0].contains("admission"), "{:?}", hints(&e));
        assert_eq!(kind(&anyhow::anyhow!("x")), Kind::Failure);
    }
}
