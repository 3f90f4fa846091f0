//! The audit log, page by page. What the entries say is in their bytes, since those are what is chained.

use super::text::{Base64, DigestText};
use serde::{Deserialize, Serialize};

/// The newest place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// How many entries there are.
    pub sequence: u64,
    /// The head after the newest one.
    pub head: DigestText,
}

/// `GET /v1/audit?after=N&limit=M`: entries N+1 and on, at most 1,000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The exact bytes of each entry.
    pub entries: Vec<Base64>,
    /// Where the whole log ends.
    pub newest: AuditHead,
}

/// `POST /v1/audit`: what a controller that was restored from a backup lost, as an operator kept it. Taken only where it
/// continues what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostAudit {
    /// The exact bytes of the entries that follow.
    pub entries: Vec<Base64>,
}
