//! Why a request was not done: a status, a stable code, words and a hint, from every error there is.

use crate::store::StoreError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use shoal_controller_core::api::{ApiError, SnapshotRef};
use shoal_protocol::Code;
use shoal_protocol::ids::DeviceId;
use shoal_protocol::refusal::Refusal;

/// An error as the API gives it.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) error: Box<ApiError>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let error = ApiError { code: code.to_owned(), message: message.into(), hint: None, current: None };
        Self { status, error: Box::new(error) }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(crate) fn refused(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
    }

    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}"))
    }

    pub(crate) fn conflict(message: impl Into<String>, current: Option<SnapshotRef>) -> Self {
        let mut problem = Self::new(StatusCode::CONFLICT, "conflict", message);
        problem.error.current = current;
        problem.hint("fetch the current snapshot with GET /v1/trust, make yours on top of it, and try again")
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
            .hint("send `Authorization: Bearer TOKEN` with the token that shoald printed at its first start")
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// The device was decommissioned: its identity key counts no longer.
    pub(crate) fn revoked(device: &DeviceId) -> Self {
        let message = format!("device {device} was decommissioned");
        Self::new(StatusCode::FORBIDDEN, Code::RevokedKey.as_str(), message).hint(
            "ask the fleet's operator; a device comes back with a new identity: reset it, then enrol it",
        )
    }

    pub(crate) fn not_initialized() -> Self {
        Self::new(StatusCode::CONFLICT, "not_initialized", "this controller has no fleet yet")
            .hint("found one with `shoal trust init`")
    }

    pub(crate) fn too_large(cap: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body has more than {cap} bytes"))
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl From<Refusal> for Problem {
    fn from(r: Refusal) -> Self {
        Self::refused(r.code.as_str(), r.detail).hint(r.code.hint())
    }
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        let chain = format!("{:#}", anyhow::Error::from(e));
        tracing::error!("{chain}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", chain)
            .hint("look at the disk of the controller: full, read-only or failing")
    }
}

impl From<shoal_image::Error> for Problem {
    fn from(e: shoal_image::Error) -> Self {
        match (e.code(), &e) {
            (Some(code), _) => Self::refused(code.as_str(), e.to_string()).hint(code.hint()),
            (None, shoal_image::Error::NotFound(what)) => {
                Self::new(StatusCode::NOT_FOUND, "not_found", what.clone())
            }
            (None, _) => {
                let chain = format!("{:#}", anyhow::Error::from(e));
                tracing::error!("{chain}");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", chain)
            }
        }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(e: anyhow::Error) -> Self {
        tracing::error!("{e:#}");
        Self::internal(format!("{e:#}"))
    }
}

/// Goes along with a refusal's response, for the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // The caller's doing; what is ours (no disk, no broker) is in the log of the process.
        let refused = self
            .status
            .is_client_error()
            .then(|| Refused { code: self.error.code.clone(), message: self.error.message.clone() });
        let mut response = (self.status, axum::Json(*self.error)).into_response();
        if let Some(refused) = refused {
            response.extensions_mut().insert(refused);
        }
        response
    }
}
