//! Devices that wait for an operator: look at them, approve, deny. The controller only carries what the operator signed.

use super::caller::Operator;
use super::enroll::{no_proof, stored_token};
use super::{Answer, SMALL, Shared, parse, read_json};
use crate::app::now;
use crate::fleet;
use crate::problem::Problem;
use crate::store::{Decided, EnrollmentRow};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use shoal_controller_core::audit::{Event, action};
use shoal_controller_core::{api, view};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{DeviceRecord, Kind};
use shoal_protocol::verify::{Verified, verify_as};

/// The record that a device asked with; it was verified when it was stored.
fn requested(row: &EnrollmentRow) -> Option<DeviceRecord> {
    let envelope = Envelope::parse(&row.request).ok()?;
    codec::decode(envelope.payload(), Limits::of_size(Kind::Device.size_cap())).ok()
}

fn summary(row: &EnrollmentRow) -> Option<api::Enrollment> {
    let record = requested(row)?;
    Some(api::Enrollment {
        fingerprint: record.fingerprint().into(),
        labels: view::labels(&record.labels),
        device: record.device,
        name: row.name.clone(),
        state: row.state,
        token: row.token.into(),
        requested_at: row.requested_at,
        decided_at: row.decided_at,
        request: None,
        token_envelope: None,
    })
}

pub(super) async fn enrollments(_: Operator, State(app): Shared) -> Answer<api::EnrollmentList> {
    let rows = app.store.enrollments().await?;
    Ok(Json(api::EnrollmentList { enrollments: rows.iter().filter_map(summary).collect() }))
}

pub(super) async fn enrollment(
    _: Operator,
    State(app): Shared,
    Path(device): Path<String>,
) -> Answer<api::Enrollment> {
    let device: DeviceId = parse(&device)?;
    let row = app.store.enrollment(device.clone()).await?.ok_or_else(|| missing(&device))?;
    let view = summary(&row).ok_or_else(|| missing(&device))?;
    let (request, token) = (row.request.into(), row.token_envelope.into());
    Ok(Json(api::Enrollment { request: Some(request), token_envelope: Some(token), ..view }))
}

pub(super) async fn approve(
    _: Operator,
    State(app): Shared,
    Path(device): Path<String>,
    body: Body,
) -> Answer<api::EnrollmentDecided> {
    let device: DeviceId = parse(&device)?;
    let envelope = read_json::<api::PostRecord>(body, SMALL).await?.record.0;
    let row = app.store.enrollment(device.clone()).await?.ok_or_else(|| missing(&device))?;
    let (Some(asked), Some(token)) = (requested(&row), stored_token(&row.token_envelope)) else {
        return Err(missing(&device));
    };
    // By the enrollment role: no token of the fleet's can stand in for it.
    let trust = app.fleet().trust.clone();
    let record: Verified<DeviceRecord> = verify_as(&envelope, &trust, now())?;
    let signed = record.document();
    if signed.device != device || signed.fingerprint() != asked.fingerprint() {
        return Err(no_proof("the signed record is not for the keys of the device that asked"));
    }
    if signed.decommissioned {
        return Err(no_proof("the signed record says that the device left the fleet"));
    }
    let event = Event::new(action::APPROVED, "operator", device.as_str())
        .number(signed.sequence)
        .signed(record.identity(), record.signers());
    match app.store.approve(device.clone(), envelope.clone(), token.uses, event, now()).await? {
        Decided::Done => {}
        Decided::Missing => return Err(missing(&device)),
        Decided::Spent => return Err(no_proof("all uses of the token are spent")),
        Decided::Approved => return Err(decided(&device)),
    }
    {
        let identity = record.identity();
        let mut fleet = app.fleet();
        let new = fleet::Device::new(record.into_document(), identity, envelope, now());
        fleet.devices.insert(device.clone(), new);
        fleet.touch_device(&device);
    }
    tracing::info!("device {device} was approved");
    app.wake.notify_one();
    Ok(Json(api::EnrollmentDecided { device, state: api::EnrollmentState::Approved }))
}

pub(super) async fn deny(
    _: Operator,
    State(app): Shared,
    Path(device): Path<String>,
) -> Answer<api::EnrollmentDecided> {
    let device: DeviceId = parse(&device)?;
    match app.store.deny(device.clone(), now()).await? {
        Decided::Done | Decided::Spent => {}
        Decided::Missing => return Err(missing(&device)),
        Decided::Approved => return Err(decided(&device)),
    }
    tracing::info!("device {device} was denied");
    Ok(Json(api::EnrollmentDecided { device, state: api::EnrollmentState::Denied }))
}

fn missing(device: &DeviceId) -> Problem {
    Problem::not_found(format_args!("request of a device {device} to enrol"))
}

fn decided(device: &DeviceId) -> Problem {
    Problem::new(StatusCode::CONFLICT, "invalid_request", format!("device {device} was approved before"))
        .hint("to take it out of the fleet: shoal decommission DEVICE")
}
