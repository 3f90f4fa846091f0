//! Devices: look at them, relabel, revoke, order.

use super::caller::Operator;
use super::{Answer, SMALL, Shared, parse, read_json};
use crate::app::{App, now};
use crate::broker::Kick;
use crate::orders::LIFETIME;
use crate::problem::Problem;
use crate::receipts;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use shoal_controller_core::audit::{Event, action};
use shoal_controller_core::{api, selector};
use shoal_protocol::ids::{DeviceId, Name};
use shoal_protocol::latest::DeviceRecord;
use shoal_protocol::verify::{Standing, Verified, verify_as};

/// A receipt in base64.
const RECEIPT: usize = 2 << 20;
/// How long a device that is told that it left has until its connection ends.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

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

pub(super) async fn post_receipt(
    _: Operator,
    State(app): Shared,
    body: Body,
) -> Answer<api::ReceiptAccepted> {
    let post: api::PostReceipt = read_json(body, RECEIPT).await?;
    Ok(Json(receipts::take(&app, post.receipt.0).await?))
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

pub(super) async fn record(
    _: Operator,
    State(app): Shared,
    Path(id): Path<String>,
) -> Answer<api::DeviceRecord> {
    let id: DeviceId = parse(&id)?;
    let record = app.fleet().devices.get(&id).ok_or_else(|| unknown(&id))?.record.to_vec();
    let token = app.store.token_of(id).await?;
    Ok(Json(api::DeviceRecord { record: record.into(), token: token.map(Into::into) }))
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
    if verified.document().decommissioned {
        return Err(Problem::invalid(format!("the record says that device {id} left the fleet"))
            .hint("that is done by `shoal decommission DEVICE`"));
    }
    replace_record(&app, &id, verified, envelope).await?;
    app.bring_up_to_date(&id, false).await;
    app.wake.notify_one();
    Ok(Json(api::RecordAccepted { device: id, sequence }))
}

async fn replace_record(
    app: &App,
    id: &DeviceId,
    verified: Verified<DeviceRecord>,
    envelope: Vec<u8>,
) -> Result<(), Problem> {
    if verified.standing() == Standing::Held {
        return Ok(());
    }
    let mut event = Event::new(action::RECORD, "operator", id.as_str())
        .number(verified.document().sequence)
        .signed(verified.identity(), verified.signers());
    event.detail = verified.document().decommissioned.then(|| "decommissioned".to_owned());
    app.store.set_record(id.clone(), envelope.clone(), event, now()).await?;
    let mut fleet = app.fleet();
    // What it was selected by before, and what it is selected by now.
    fleet.touch_device(id);
    if let Some(device) = fleet.devices.get_mut(id) {
        device.record_identity = verified.identity();
        device.record = envelope.into();
        device.file.record = verified.into_document();
    }
    fleet.touch_device(id);
    Ok(())
}

/// Takes a device out of the fleet: its signed record says so. What it runs it stops when it hears that; it is told if it
/// is connected, and then it is out.
pub(super) async fn decommission(
    _: Operator,
    State(app): Shared,
    Path(id): Path<String>,
    body: Body,
) -> Answer<api::Revoked> {
    let id: DeviceId = parse(&id)?;
    let envelope = read_json::<api::PostRecord>(body, SMALL).await?.record.0;
    let trust = {
        let fleet = app.fleet();
        fleet.trust_of(fleet.devices.get(&id).ok_or_else(|| unknown(&id))?)
    };
    let verified: Verified<DeviceRecord> = verify_as(&envelope, &trust, now())?;
    if !verified.document().decommissioned {
        return Err(Problem::invalid(format!("the record does not say that device {id} left the fleet")));
    }
    replace_record(&app, &id, verified, envelope).await?;
    let told = app.fleet().devices.get(&id).is_some_and(crate::fleet::Device::is_connected);
    app.bring_up_to_date(&id, false).await;
    if told {
        // The message and the end of the connection take different ways to the broker.
        tokio::time::sleep(LAST_WORD).await;
    }
    let Json(revoked) = end(&app, id).await?;
    Ok(Json(api::Revoked { told, ..revoked }))
}

/// Ends a device's certificates without a word about it that is signed.
pub(super) async fn revoke(_: Operator, State(app): Shared, Path(id): Path<String>) -> Answer<api::Revoked> {
    let id: DeviceId = parse(&id)?;
    if !app.fleet().devices.contains_key(&id) {
        return Err(unknown(&id));
    }
    end(&app, id).await
}

async fn end(app: &App, id: DeviceId) -> Answer<api::Revoked> {
    let serials = app.store.revoke(id.clone(), now()).await?;
    if let Some(device) = app.fleet().devices.get_mut(&id) {
        device.file.revoked = true;
    }
    let certificates = serials.len() as u64;
    let kick = Kick::Revoked { client: id.to_string(), serials };
    if app.kicks.send(kick).await.is_err() {
        return Err(Problem::internal("the broker is gone; the device stays connected until it is back"));
    }
    tracing::info!("device {id} was revoked");
    Ok(Json(api::Revoked { device: id, certificates, told: false }))
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
