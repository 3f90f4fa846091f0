//! Devices: look at them, relabel, revoke, order.

use super::caller::Operator;
use super::{Answer, SMALL, Shared, parse, read_json};
use crate::app::now;
use crate::broker::Revoke;
use crate::orders::LIFETIME;
use crate::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use shoal_controller_core::audit::{Event, action};
use shoal_controller_core::{api, selector};
use shoal_protocol::ids::{DeviceId, Name};
use shoal_protocol::latest::DeviceRecord;
use shoal_protocol::verify::{Standing, Verified, verify_as};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceQuery {
    #[serde(default)]
    selector: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PodQuery {
    device: Option<DeviceId>,
    deployment: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefusalQuery {
    device: Option<DeviceId>,
}

pub(super) async fn devices(
    _: Operator,
    State(app): Shared,
    query: Result<Query<DeviceQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<api::DeviceList> {
    let Query(query) = query.map_err(|e| Problem::invalid(e.body_text()))?;
    let selector = selector::parse(&query.selector).map_err(|e| Problem::invalid(e.to_string()))?;
    let fleet = app.fleet();
    Ok(Json(api::DeviceList { devices: fleet.matching(&selector).map(|d| d.file.summary(now())).collect() }))
}

pub(super) async fn device(_: Operator, State(app): Shared, Path(id): Path<String>) -> Answer<api::Device> {
    let id: DeviceId = parse(&id)?;
    let fleet = app.fleet();
    let file = &fleet.devices.get(&id).ok_or_else(|| unknown(&id))?.file;
    let mut view = file.summary(now());
    view.pods = file.pods(now());
    view.refusals = file.refusals();
    Ok(Json(view))
}

pub(super) async fn pods(
    _: Operator,
    State(app): Shared,
    query: Result<Query<PodQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<api::PodList> {
    let Query(query) = query.map_err(|e| Problem::invalid(e.body_text()))?;
    let fleet = app.fleet();
    let mut pods: Vec<api::Pod> = fleet
        .devices
        .iter()
        .filter(|(id, _)| query.device.as_ref().is_none_or(|d| d == *id))
        .flat_map(|(_, d)| d.file.pods(now()))
        .filter(|p| query.deployment.as_ref().is_none_or(|d| *d == p.deployment))
        .collect();
    drop(fleet);
    pods.sort_by(|a, b| (&a.deployment, &a.device).cmp(&(&b.deployment, &b.device)));
    Ok(Json(api::PodList { pods }))
}

pub(super) async fn refusals(
    _: Operator,
    State(app): Shared,
    query: Result<Query<RefusalQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<api::RefusalList> {
    let Query(query) = query.map_err(|e| Problem::invalid(e.body_text()))?;
    let fleet = app.fleet();
    let all = fleet.devices.iter().filter(|(id, _)| query.device.as_ref().is_none_or(|d| d == *id));
    let mut refusals: Vec<api::Refusal> = all.flat_map(|(_, d)| d.file.refusals()).collect();
    drop(fleet);
    refusals.sort_by_key(|r| std::cmp::Reverse(r.last));
    Ok(Json(api::RefusalList { refusals }))
}

pub(super) async fn post_record(
    _: Operator,
    State(app): Shared,
    Path(id): Path<String>,
    body: Body,
) -> Answer<api::RecordAccepted> {
    let id: DeviceId = parse(&id)?;
    let envelope = read_json::<api::PostRecord>(body, SMALL).await?.record.0;
    let trust = {
        let fleet = app.fleet();
        fleet.trust_of(fleet.devices.get(&id).ok_or_else(|| unknown(&id))?)
    };
    let verified: Verified<DeviceRecord> = verify_as(&envelope, &trust, now())?;
    let sequence = verified.document().sequence;
    if verified.standing() != Standing::Held {
        let event = Event::new(action::RECORD, "operator", id.as_str())
            .number(sequence)
            .signed(verified.identity(), verified.signers());
        app.store.set_record(id.clone(), envelope.clone(), event, now()).await?;
        let mut fleet = app.fleet();
        // What it was selected by before, and what it is selected by now.
        fleet.touch_device(&id);
        if let Some(device) = fleet.devices.get_mut(&id) {
            device.record_identity = verified.identity();
            device.record = envelope.into();
            device.file.record = verified.into_document();
        }
        fleet.touch_device(&id);
    }
    app.bring_up_to_date(&id, false).await;
    app.wake.notify_one();
    Ok(Json(api::RecordAccepted { device: id, sequence }))
}

pub(super) async fn revoke(_: Operator, State(app): Shared, Path(id): Path<String>) -> Answer<api::Revoked> {
    let id: DeviceId = parse(&id)?;
    if !app.fleet().devices.contains_key(&id) {
        return Err(unknown(&id));
    }
    let serials = app.store.revoke(id.clone(), now()).await?;
    if let Some(device) = app.fleet().devices.get_mut(&id) {
        device.file.revoked = true;
    }
    let certificates = serials.len() as u64;
    let revoke = Revoke { client: id.to_string(), serials };
    if app.revocations.send(revoke).await.is_err() {
        return Err(Problem::internal("the broker is gone; the device stays connected until it is back"));
    }
    Ok(Json(api::Revoked { device: id, certificates }))
}

pub(super) async fn post_order(
    _: Operator,
    State(app): Shared,
    Path(id): Path<String>,
    body: Body,
) -> Answer<api::OrderAccepted> {
    let device: DeviceId = parse(&id)?;
    let verb = app.verb(read_json(body, SMALL).await?)?;
    let (counter, not_after) = app.order(&device, verb, LIFETIME).await?;
    Ok(Json(api::OrderAccepted { device, counter, not_after }))
}

fn unknown(id: &DeviceId) -> Problem {
    Problem::not_found(format_args!("device {id}"))
}
