//! An enrolment that was begun and is not over: what is asked, of whom, and what it waits for. Written down, so that it goes
//! on by itself after a reboot.

use crate::durable;
use crate::failure::{Explained, Kind};
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shoal_ipc::Layout;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::ids::Timestamp;
use shoal_protocol::latest::EnrollRequest;
use std::path::PathBuf;

const FILE_MAX: u64 = 128 << 10;
const REQUEST_MAX: usize = 64 << 10;

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// No controller was reached yet.
    WaitingController,
    /// An operator has to approve this device.
    WaitingApproval,
    /// The controller said no; it may think again.
    EnrollmentRefused,
}

impl State {
    /// The stable word for it.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::WaitingController => "waiting_controller",
            Self::WaitingApproval => "waiting_approval",
            Self::EnrollmentRefused => "enrollment_refused",
        }
    }
}

/// It.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// What it waits for.
    pub state: State,
    /// Of all keys of this device; an operator compares it.
    pub fingerprint: String,
    /// Since when.
    pub since: u64,
    /// Why the last try came to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The join file's addresses.
    pub api: Vec<String>,
    /// The time that the join file proves.
    pub time: Timestamp,
    request: String,
}

impl Pending {
    /// One that begins.
    pub(crate) fn new(
        request: &EnrollRequest,
        fingerprint: String,
        api: Vec<String>,
        time: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            state: State::WaitingController,
            fingerprint,
            since: now.0,
            error: None,
            api,
            time,
            request: STANDARD.encode(codec::encode(request)),
        }
    }

    fn path(layout: &Layout) -> PathBuf {
        layout.identity().join("enrollment.json")
    }

    /// The one that was begun, if one was.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = Self::path(layout);
        let Some(bytes) = durable::read(&path, FILE_MAX)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    /// What is sent, always the same bytes.
    pub(crate) fn request(&self) -> Result<EnrollRequest> {
        let bytes = STANDARD.decode(&self.request).context("the kept request is no base64")?;
        codec::decode(&bytes, Limits::of_size(REQUEST_MAX)).context("the kept request cannot be read")
    }

    /// Keeps it.
    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        durable::write(&Self::path(layout), &serde_json::to_vec(self).context("cannot write it down")?)
    }

    /// It is over.
    pub(crate) fn clear(layout: &Layout) -> Result<()> {
        let path = Self::path(layout);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Explained::new(Kind::Failure, format!("cannot remove {}", path.display()))
                    .because(e)
                    .into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::ids::Bytes;

    #[test]
    fn what_was_begun_is_there_after_a_reboot_with_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.identity()).unwrap();
        assert_eq!(Pending::load(&layout).unwrap(), None);
        let request = EnrollRequest {
            token: Bytes(vec![1]),
            record: Bytes(vec![2]),
            csr: Bytes(vec![3]),
            name: Some("pump".into()),
        };
        let api = vec!["https://h:1".to_owned()];
        let mut pending = Pending::new(&request, "sha256:00".into(), api, Timestamp(5), Timestamp(9));
        pending.state = State::WaitingApproval;
        pending.save(&layout).unwrap();
        let loaded = Pending::load(&layout).unwrap().unwrap();
        assert_eq!(loaded, pending);
        assert_eq!(loaded.request().unwrap(), request);
        Pending::clear(&layout).unwrap();
        Pending::clear(&layout).unwrap();
        assert_eq!(Pending::load(&layout).unwrap(), None);
    }

    #[test]
    fn the_words_are_stable() {
        for state in [State::WaitingController, State::WaitingApproval, State::EnrollmentRefused] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.code());
        }
    }
}
