//! What shoald and its broker process say to each other: JSON lines on the child's standard input and output.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// From shoald to the broker. The first line is always [`Command::Start`]; the end of input ends the broker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    /// Everything that the broker needs; it reads no file of shoald's.
    Start(Box<Start>),
    /// This certificate counts no longer, and whoever is connected with this name is not any more.
    Revoke {
        /// Serials in lower-case hexadecimal.
        serials: Vec<String>,
        /// Common name.
        client: String,
    },
    /// Whoever is connected with this name is not any more, and may come back.
    Kick {
        /// Common name.
        client: String,
    },
}

/// What the broker needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// PEM.
    pub(crate) certificate: String,
    /// PEM.
    pub(crate) key: String,
    /// PEM of the CA whose clients are let in.
    pub(crate) ca: String,
    /// A client certificate that belongs to no device, to prove that the hooks deny.
    pub(crate) probe: Probe,
    /// Serials and devices that count no longer.
    pub(crate) revoked: Vec<String>,
}

/// See [`Start::probe`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    /// Its common name.
    pub(crate) name: String,
    /// PEM.
    pub(crate) certificate: String,
    /// PEM.
    pub(crate) key: String,
}

/// From the broker to shoald.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// It listens, and its hooks were seen to deny.
    Ready {
        /// Where shoald connects, and hands devices on to: loopback only.
        at: SocketAddr,
    },
    /// It cannot serve and ends.
    Failed {
        /// `proof_failed` or `setup`.
        code: String,
        /// In words.
        message: String,
    },
    /// A client connected.
    Connected {
        /// Its common name.
        client: String,
        /// Serial of the certificate that it showed, in lower-case hexadecimal.
        serial: Option<String>,
    },
    /// A client's connection ended.
    Disconnected {
        /// Its common name.
        client: String,
    },
}
