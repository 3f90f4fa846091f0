//! The one error of this crate.

use shoal_protocol::refusal::Code;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Guard said no, or could not be reached.
    #[error("guard did not {verb}")]
    Guard {
        /// What was asked for.
        verb: &'static str,
        /// Why not.
        #[source]
        source: shoal_ipc::Error,
    },
    /// An image could not be fetched or read.
    #[error("image {image}")]
    Image {
        /// Which.
        image: String,
        /// Why not.
        #[source]
        source: shoal_image::Error,
    },
    /// There is not enough room, even after everything that may go has gone.
    #[error("{needed} bytes are needed in {path} and {free} are free; make room, or remove deployments")]
    NoSpace {
        /// Where.
        path: String,
        /// Bytes, with the reserve.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// The container is in a state that does not allow the verb.
    #[error("cannot {verb} container {name}: it is {state}")]
    State {
        /// The verb.
        verb: &'static str,
        /// The container.
        name: String,
        /// Its state.
        state: &'static str,
    },
    /// A configuration that cannot be carried out.
    #[error("{text}")]
    Config {
        /// Which field, and why.
        text: String,
    },
    /// There is no such thing.
    #[error("no {kind} is called {id}")]
    NotFound {
        /// `pod`, `container` or `image`.
        kind: &'static str,
        /// As it was asked for.
        id: String,
    },
    /// More than one thing is meant.
    #[error("{count} {kind}s begin with {id}: give more of the id")]
    Ambiguous {
        /// `pod` or `container`.
        kind: &'static str,
        /// As it was asked for.
        id: String,
        /// How many.
        count: usize,
    },
    /// It is there already.
    #[error("{what} is there already, as {id}")]
    Exists {
        /// What.
        what: String,
        /// Under which id.
        id: String,
    },
    /// A pod that was stopped takes no more containers.
    #[error("cannot {verb}: the pod {id} is stopped")]
    NotReady {
        /// What was to be done in it.
        verb: &'static str,
        /// The pod.
        id: String,
    },
    /// A wait took too long.
    #[error("gave up waiting for {what}")]
    TimedOut {
        /// For what.
        what: String,
    },
    /// A module could not be compiled.
    #[error("the module was not compiled: {code}: {detail}")]
    Compile {
        /// A stable code.
        code: String,
        /// In words.
        detail: String,
    },
    /// A file of our own could not be read or written.
    #[error("{what}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// A stable code for reports: the refusal's own, or one for what is out of order.
    pub fn code(&self) -> String {
        match self {
            Self::Guard { source, .. } => source.refusal().unwrap_or("guard_unavailable").to_owned(),
            Self::Image { source, .. } => match source {
                shoal_image::Error::Refused { code, .. } => code.as_str().to_owned(),
                shoal_image::Error::Io { .. } => "storage_unavailable".to_owned(),
                _ => "image_unavailable".to_owned(),
            },
            Self::NoSpace { .. } | Self::Io { .. } => "storage_unavailable".to_owned(),
            Self::State { .. } | Self::NotReady { .. } => "wrong_state".to_owned(),
            Self::Config { .. } => Code::UnsupportedValue.as_str().to_owned(),
            Self::NotFound { .. } => "not_found".to_owned(),
            Self::Ambiguous { .. } => "ambiguous".to_owned(),
            Self::Exists { .. } => "conflict".to_owned(),
            Self::TimedOut { .. } => "timed_out".to_owned(),
            Self::Compile { code, .. } => code.clone(),
        }
    }

    /// Whether trying again cannot help: the signed bytes themselves are not acceptable. Other bytes than signed are not of
    /// that kind: a registry can be put right.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Image { source, .. } => {
                !source.is_transient() && source.code().is_some_and(|c| c != Code::DigestMismatch)
            }
            _ => false,
        }
    }

    /// The whole chain in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(s) = source {
            text.push_str(": ");
            text.push_str(&s.to_string());
            source = s.source();
        }
        text
    }
}
