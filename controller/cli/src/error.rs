//! The one error type of the CLI: its kind fixes the exit code, the chain prints once, the hint comes last.
//!
//! Never here: decisions about what is an error. Every command returns `Result<_, CliError>`; only `main` prints it.

use serde::Serialize;
use std::error::Error as StdError;
use std::fmt;

/// What sort of failure it is; each has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything that has no kind of its own.
    Failure,
    /// A wrong command line or a file that cannot be read or understood.
    Usage,
    /// A rule or a verification says no; `code` says which.
    Refused,
    /// The controller (or registry) cannot be reached.
    Unreachable,
    /// Somebody else was first.
    Conflict,
    /// What was waited for did not happen in time.
    TimedOut,
    /// The credential is missing, wrong or expired.
    Credential,
}

/// The table that `shoal --help` shows; the order of [`Kind`] and the numbers belong together.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for another reason
  2  wrong command line, or a file that cannot be read or understood
  3  refused by a rule or a verification (the code stands in brackets)
  4  the controller or registry cannot be reached
  5  conflict: somebody else changed it first
  6  waited too long
  7  the credential is missing, wrong or expired (also a passphrase, or a key that an ssh-agent does not hold)";

impl Kind {
    /// The process's exit code.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::Conflict => 5,
            Self::TimedOut => 6,
            Self::Credential => 7,
        }
    }
}

/// A failure, ready to be shown.
#[derive(Debug)]
pub(crate) struct CliError {
    /// Fixes the exit code.
    pub(crate) kind: Kind,
    /// A stable code of the manual, if one applies.
    pub(crate) code: Option<String>,
    /// What was tried, on what, expected and found.
    what: String,
    /// Single problems below `what`, one a line.
    details: Vec<String>,
    /// What to do; best a command.
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The same for programs, in the words that `shoal-agent` has too.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    details: &'a [String],
    causes: Vec<String>,
    hints: Vec<&'a str>,
    exit_code: u8,
}

/// What every command returns.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, code: None, what: what.into(), details: Vec::new(), hint: None, source: None }
    }
    pub(crate) fn failure(what: impl Into<String>) -> Self {
        Self::new(Kind::Failure, what)
    }
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }
    pub(crate) fn refused(code: impl Into<String>, what: impl Into<String>) -> Self {
        let mut e = Self::new(Kind::Refused, what);
        e.code = Some(code.into());
        e
    }
    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, what)
    }
    pub(crate) fn conflict(what: impl Into<String>) -> Self {
        let mut e = Self::new(Kind::Conflict, what);
        e.code = Some("conflict".to_owned());
        e
    }
    pub(crate) fn timed_out(what: impl Into<String>) -> Self {
        Self::new(Kind::TimedOut, what)
    }
    pub(crate) fn credential(what: impl Into<String>) -> Self {
        Self::new(Kind::Credential, what)
    }
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    #[must_use]
    pub(crate) fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }
    #[must_use]
    pub(crate) fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The causes, none that is said already.
    fn causes(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut cause = self.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(e) = cause {
            let text = e.to_string();
            if !out.last().unwrap_or(&self.what).ends_with(&text) {
                out.push(text);
            }
            cause = e.source();
        }
        out
    }

    /// For programs.
    pub(crate) fn told(&self) -> Told<'_> {
        Told {
            error: &self.what,
            code: self.code.as_deref(),
            details: &self.details,
            causes: self.causes(),
            hints: self.hint.iter().map(String::as_str).collect(),
            exit_code: self.kind.exit_code(),
        }
    }

    /// The whole text for standard error: heading, details, chain, hint; no cause is printed twice.
    pub(crate) fn render(&self) -> String {
        let mut out = match &self.code {
            Some(code) => format!("error[{code}]: {}\n", self.what),
            None => format!("error: {}\n", self.what),
        };
        for line in &self.details {
            out.push_str("  ");
            out.push_str(line);
            out.push('\n');
        }
        for text in self.causes() {
            out.push_str("caused by: ");
            out.push_str(&text);
            out.push('\n');
        }
        if let Some(hint) = &self.hint {
            out.push_str("hint: ");
            out.push_str(hint);
            out.push('\n');
        }
        out
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for CliError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// Adds what was tried to an I/O error on a path.
pub(crate) trait OnPath<T> {
    /// `what` is a verb phrase (`read the key`).
    fn on_path(self, what: &str, path: &std::path::Path) -> Result<T>;
}

impl<T> OnPath<T> for std::io::Result<T> {
    fn on_path(self, what: &str, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| CliError::usage(format!("cannot {what} {}", path.display())).because(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_prints_each_cause_once_and_the_hint_last() {
        let io = std::io::Error::other("disk is full");
        let e = CliError::refused("conflict", "cannot apply web").because(io).hint("try again");
        assert_eq!(
            e.render(),
            "error[conflict]: cannot apply web\ncaused by: disk is full\nhint: try again\n"
        );
    }

    #[test]
    fn a_program_is_told_the_same_as_one_object() {
        let e =
            CliError::refused("conflict", "cannot apply web").because(std::io::Error::other("disk is full"));
        let told = serde_json::to_value(e.hint("try again").told()).unwrap();
        let wanted = serde_json::json!({
            "error": "cannot apply web", "code": "conflict", "causes": ["disk is full"], "hints": ["try again"],
            "exitCode": 3,
        });
        assert_eq!(told, wanted);
    }

    #[test]
    fn the_table_in_help_names_every_exit_code() {
        for kind in [
            Kind::Failure,
            Kind::Usage,
            Kind::Refused,
            Kind::Unreachable,
            Kind::Conflict,
            Kind::TimedOut,
            Kind::Credential,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", kind.exit_code())), "{kind:?}");
        }
    }
}
