//! Log lines and images. No logic beyond conversion.

use super::text::DigestText;
use serde::{Deserialize, Serialize};
use shoal_protocol::ids::{Name, Timestamp};

/// One line of the answer to `GET /v1/logs/…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogEvent {
    /// The device was asked; lines follow.
    Opened {
        /// Until when it sends new ones.
        until: Timestamp,
    },
    /// One line of a container.
    Line {
        /// The container.
        container: Name,
        /// RFC 3339, as the device wrote it.
        time: String,
        /// `stdout` or `stderr`.
        stream: String,
        /// Whether the line ends here (CRI log tag `F`), or goes on (`P`).
        full: bool,
        /// The text, without the line's end.
        text: String,
    },
    /// Nothing comes after this.
    End {
        /// Why, as a stable code: `order_forbidden`, `not_found`, `device_offline`, `lagged`; absent is a good end.
        reason: Option<String>,
    },
}

/// The manifest is stored, and all that it names was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAccepted {
    /// `repository:tag`.
    pub reference: String,
    /// The manifest's digest.
    pub digest: DigestText,
}

/// One tag of the controller's own registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Repository.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Manifest.
    pub digest: DigestText,
    /// Media type of the manifest.
    pub media_type: String,
    /// Bytes of manifest, configuration and layers.
    pub size: u64,
    /// When it was imported.
    pub imported_at: Timestamp,
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageList {
    /// By repository and tag.
    pub images: Vec<Image>,
}
