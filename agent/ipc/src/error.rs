//! The one error of this crate: what was tried, and why it did not work.

use std::fmt;

/// Why a message, memfd or connection was not taken.
#[derive(Debug)]
pub enum Error {
    /// The bytes end before the layout does.
    Truncated,
    /// Bytes are left over behind the layout.
    Leftover(usize),
    /// More bytes, entries or descriptors than allowed.
    TooLarge {
        /// What.
        what: &'static str,
        /// How many at most.
        max: usize,
    },
    /// A value outside its set.
    Value {
        /// Of what.
        what: &'static str,
        /// What was found.
        found: u64,
    },
    /// Text that is not UTF-8 or holds a NUL.
    Text,
    /// Another number of descriptors than this message carries.
    Descriptors {
        /// As the table says.
        expected: usize,
        /// As received.
        found: usize,
    },
    /// The other side speaks another version.
    Version {
        /// Theirs.
        theirs: u16,
    },
    /// A memfd without the seals that keep it from changing, or no memfd at all.
    NotSealed,
    /// The other side closed the connection.
    Closed,
    /// No answer in time.
    TimedOut {
        /// What was waited for.
        what: &'static str,
    },
    /// A message that has no place here.
    Unexpected {
        /// Its name in the table.
        message: &'static str,
    },
    /// The other side said no.
    Refused {
        /// The stable code.
        code: String,
        /// In words.
        detail: String,
    },
    /// The system call failed.
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// An I/O error with what was being done.
    pub fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// The stable code, when the other side refused.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether the other side is gone, so that connecting again may help.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::NotFound
                    | std::io::ErrorKind::NotConnected
            ),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the message ends before its layout does"),
            Self::Leftover(n) => write!(f, "{n} bytes are left over behind the message's layout"),
            Self::TooLarge { what, max } => write!(f, "{what} is larger than the {max} that are allowed"),
            Self::Value { what, found } => write!(f, "{found} is no {what}"),
            Self::Text => f.write_str("a text is not UTF-8 or holds a NUL byte"),
            Self::Descriptors { expected, found } => {
                write!(f, "the message carries {found} descriptors, its layout has {expected}")
            }
            Self::Version { theirs } => write!(
                f,
                "the other side speaks version {theirs} of this protocol, here it is {}; install all shoal binaries from one release",
                crate::VERSION
            ),
            Self::NotSealed => f.write_str("the descriptor is no memfd sealed against change"),
            Self::Closed => f.write_str("the other side closed the connection"),
            Self::TimedOut { what } => write!(f, "no answer in time to {what}"),
            Self::Unexpected { message } => write!(f, "{message} has no place here"),
            Self::Refused { code, detail } if detail.is_empty() => write!(f, "refused: {code}"),
            Self::Refused { code, detail } => write!(f, "refused: {code}: {detail}"),
            Self::Io { what, .. } => write!(f, "cannot {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
