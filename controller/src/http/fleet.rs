//! The fleet as a whole: version, CA, login, trust, snapshots, deployments.

use super::caller::{Operator, Reader};
use super::{Answer, LARGE, SMALL, Shared, parse, read_json};
use crate::app::now;
use crate::problem::Problem;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use shoal_controller_core::api;
use shoal_controller_core::fit::fit;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{Deployment, Kind};

pub(super) async fn version() -> Json<api::Version> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(api::Version { name: "shoald".to_owned(), version, api: 1 })
}

pub(super) async fn ca(State(app): Shared) -> Json<api::Ca> {
    let fingerprint = app.authority.fingerprint().into();
    Json(api::Ca { pem: app.authority.certificate_pem.clone(), fingerprint })
}

pub(super) async fn login(_: Operator, State(app): Shared) -> Json<api::Login> {
    let fleet = app.fleet_id.borrow().clone();
    Json(api::Login { fleet, user: "admin".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

pub(super) async fn trust(_: Reader, State(app): Shared) -> Json<api::Trust> {
    let controller = app.controller_view();
    let fleet = app.fleet();
    Json(api::Trust {
        initialized: fleet.trust.anchor.is_some(),
        fleet: fleet.trust.anchor.as_ref().map(|a| a.fleet.clone()),
        roots: fleet.roots.iter().map(|r| api::Base64(r.to_vec())).collect(),
        snapshot: fleet.snapshot.as_ref().map(|s| api::Base64(s.to_vec())),
        controller,
    })
}

pub(super) async fn post_root(_: Operator, State(app): Shared, body: Body) -> Answer<api::RootAccepted> {
    let post: api::PostRoot = read_json(body, SMALL).await?;
    let (fleet, version) = app.accept_root(post.root.0, post.handover).await?;
    Ok(Json(api::RootAccepted { fleet, version }))
}

pub(super) async fn post_snapshot(
    _: Operator,
    State(app): Shared,
    body: Body,
) -> Answer<api::SnapshotAccepted> {
    let post: api::PostSnapshot = read_json(body, LARGE).await?;
    Ok(Json(app.accept_snapshot(post).await?))
}

/// For operators only: a device is sent what concerns it, and another one's configs are none of its business.
pub(super) async fn document(
    _: Operator,
    State(app): Shared,
    Path(digest): Path<String>,
) -> Result<Response, Problem> {
    let digest: Digest = parse(&digest)?;
    let listed = {
        let fleet = app.fleet();
        let deployment = fleet.documents.get(&digest).map(|d| d.envelope.clone());
        deployment.or_else(|| fleet.inputs.get(&digest).map(|i| i.envelope.clone()))
    };
    let envelope = match listed {
        Some(envelope) => Some(envelope),
        None => app.store.document(digest).await?.map(Bytes::from),
    };
    let envelope = envelope.ok_or_else(|| Problem::not_found(format_args!("document {digest}")))?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], envelope).into_response())
}

pub(super) async fn post_grants(_: Operator, State(app): Shared, body: Body) -> Answer<api::GrantsAccepted> {
    let post: api::PostGrants = read_json(body, LARGE).await?;
    Ok(Json(api::GrantsAccepted { devices: app.accept_grants(post.grants).await? }))
}

pub(super) async fn grants(
    _: Operator,
    State(app): Shared,
    Path(secret): Path<String>,
) -> Answer<api::GrantList> {
    let secret: Digest = parse(&secret)?;
    let devices = app.fleet().grants.get(&secret).map(|all| all.keys().cloned().collect());
    Ok(Json(api::GrantList { devices: devices.unwrap_or_default() }))
}

pub(super) async fn records(_: Operator, State(app): Shared) -> Answer<api::RecordList> {
    let tokens = app.store.device_tokens().await?;
    let fleet = app.fleet();
    let live = fleet.devices.iter().filter(|(_, d)| !d.file.revoked);
    let records = live.map(|(id, d)| api::SignedRecord {
        device: id.clone(),
        record: api::Base64(d.record.to_vec()),
        token: tokens.get(id.as_str()).cloned().map(api::Base64),
    });
    Ok(Json(api::RecordList { records: records.collect() }))
}

pub(super) async fn plan(_: Operator, State(app): Shared, body: Body) -> Answer<api::Plan> {
    let post: api::PlanRequest = read_json(body, SMALL).await?;
    let limits = Limits::of_size(Kind::Deployment.size_cap());
    let deployment: Deployment = codec::decode(&post.deployment.0, limits)
        .map_err(|e| Problem::refused("malformed", e.to_string()))?;
    let at = now();
    let fleet = app.fleet();
    let selected =
        fleet.devices.iter().filter(|(id, d)| deployment.target.selects(id, &d.file.record.labels)).map(
            |(id, device)| {
                let misfit = fit(&deployment, device.file.system()).err();
                api::PlannedDevice {
                    device: id.clone(),
                    hostname: device.file.hostname(),
                    fits: misfit.is_none(),
                    reason: misfit.as_ref().map(|m| m.code.to_owned()),
                    message: misfit.map(|m| m.message),
                    state: device.file.state(at),
                }
            },
        );
    Ok(Json(api::Plan { devices: selected.collect() }))
}

pub(super) async fn deployments(_: Operator, State(app): Shared) -> Json<api::DeploymentList> {
    let fleet = app.fleet();
    let all = fleet.entries().filter_map(|e| fleet.deployment_view(e, false, now()));
    Json(api::DeploymentList { deployments: all.collect() })
}

pub(super) async fn deployment(
    _: Operator,
    State(app): Shared,
    Path(name): Path<String>,
) -> Answer<api::Deployment> {
    let name: Name = parse(&name)?;
    let fleet = app.fleet();
    let view = fleet.entry(&name).and_then(|e| fleet.deployment_view(e, true, now()));
    view.map(Json).ok_or_else(|| Problem::not_found(format_args!("deployment {name}")))
}
