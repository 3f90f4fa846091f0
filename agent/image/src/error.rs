//! The one error of this crate: a refusal with its stable code, or the reason why something could not be read at all.

use shoal_protocol::refusal::Code;
use std::io;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image or module was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not acceptable, and will not become so by trying again.
    #[error("{code}: {detail}", code = .code.as_str())]
    Refused {
        /// The stable code.
        code: Code,
        /// What, where, expected and found.
        detail: String,
    },
    /// Nothing of that name or digest is there.
    #[error("{0}")]
    NotFound(String),
    /// A registry asked for credentials, or refused the ones it was given.
    #[error("{0}")]
    Unauthorized(String),
    /// A registry could not be reached or could not answer; trying again later may help.
    #[error("{0}")]
    Unavailable(String),
    /// A file could not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// A refusal.
    pub fn refused(code: Code, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: detail.into() }
    }

    /// The refusal's code; `None` when nothing was refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Io { .. } => true,
            Self::Refused { code, .. } => *code == Code::Stalled,
            Self::NotFound(_) | Self::Unauthorized(_) => false,
        }
    }
}

/// Gives an `io::Error` its sentence; one that carries an [`Error`] of ours from inside a reader is that error.
#[cfg(feature = "images")]
pub(crate) trait Context<T> {
    /// `what` was tried.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

#[cfg(feature = "images")]
impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| match source.downcast::<Error>() {
            Ok(ours) => ours,
            Err(source) => Error::Io { what: what(), source },
        })
    }
}

impl From<Error> for io::Error {
    fn from(e: Error) -> Self {
        io::Error::other(e)
    }
}
