//! Who calls: an operator by the credential, a device by its certificate. Extractors that handlers name in their
//! arguments, so that a path without one is open to anyone on purpose.

use crate::app::{App, now};
use crate::pki::Peer;
use crate::problem::Problem;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_protocol::Code;
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};
use std::sync::Arc;

/// The connection's client certificate, if it showed one; set by `serve`.
#[derive(Debug, Clone)]
pub(super) struct PeerCertificate(pub(super) Option<Peer>);

/// Somebody with the operators' credential.
pub(super) struct Operator;

/// A device with a certificate that counts.
pub(super) struct Device {
    pub(super) id: DeviceId,
    /// When the certificate that it showed ends.
    pub(super) until: Timestamp,
}

/// A device that wants another certificate: by the one it has, or without one. An expired one is none: TLS ends at it.
pub(super) struct Renewing(pub(super) Option<DeviceId>);

/// Either.
pub(super) struct Reader;

/// Either, with HTTP basic authentication for operators, as registry clients send it.
pub(super) struct Puller;

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let header =
            header(parts).ok_or_else(|| Problem::unauthorized("there is no credential in the request"))?;
        match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                if is_credential(app, token) {
                    Ok(Self)
                } else {
                    Err(Problem::unauthorized("the token is wrong"))
                }
            }
            _ => Err(Problem::unauthorized("the credential is no bearer token")),
        }
    }
}

impl FromRequestParts<Arc<App>> for Device {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<PeerCertificate>().and_then(|p| p.0.as_ref());
        let peer =
            peer.ok_or_else(|| Problem::unauthorized("there is no client certificate on the connection"))?;
        let id: DeviceId = peer
            .common_name
            .parse()
            .map_err(|_| Problem::forbidden("the client certificate is not a device's"))?;
        counts(app, &id)?;
        // TLS looked at it when the connection was opened, which may be a while ago.
        if now() > peer.not_after {
            return Err(Problem::unauthorized("the client certificate on this connection has ended"));
        }
        Ok(Self { id, until: peer.not_after })
    }
}

/// Whether this device's record is live: enrolled and not revoked.
pub(super) fn counts(app: &App, id: &DeviceId) -> Result<(), Problem> {
    match app.fleet().devices.get(id) {
        Some(device) if !device.file.revoked => Ok(()),
        Some(_) => Err(Problem::revoked(id)),
        None => Err(Problem::new(
            StatusCode::FORBIDDEN,
            Code::UnknownKey.as_str(),
            format!("device {id} is not enrolled here"),
        )
        .hint("enrol it with a join file of this fleet: shoal token create")),
    }
}

impl FromRequestParts<Arc<App>> for Renewing {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let shown = parts.extensions.get::<PeerCertificate>().and_then(|p| p.0.as_ref());
        if shown.is_none_or(|p| now() > p.not_after) {
            return Ok(Self(None));
        }
        Device::from_request_parts(parts, app).await.map(|device| Self(Some(device.id)))
    }
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        if header(parts).is_some() {
            return Operator::from_request_parts(parts, app).await.map(|_| Self);
        }
        Device::from_request_parts(parts, app).await.map(|_| Self)
    }
}

impl FromRequestParts<Arc<App>> for Puller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let Some(header) = header(parts) else {
            return Device::from_request_parts(parts, app).await.map(|_| Self);
        };
        let password = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, text)| STANDARD.decode(text).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned()));
        match password {
            Some(password) if is_credential(app, &password) => Ok(Self),
            Some(_) => Err(Problem::unauthorized("the password is not the token")),
            None => Operator::from_request_parts(parts, app).await.map(|_| Self),
        }
    }
}

fn header(parts: &Parts) -> Option<&str> {
    parts.headers.get(AUTHORIZATION)?.to_str().ok()
}

/// Whether a request shows the operators' credential.
pub(super) fn has_credential(app: &App, headers: &HeaderMap) -> bool {
    let shown = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.split_once(' '));
    shown.is_some_and(|(_, token)| is_credential(app, token))
}

/// Compares hashes, all bytes of them, so that timing says nothing about either.
fn is_credential(app: &App, token: &str) -> bool {
    let shown = Digest::of(token.trim().as_bytes()).0;
    shown.iter().zip(app.credential.0).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}
