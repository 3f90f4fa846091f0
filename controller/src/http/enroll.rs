//! How devices come in: tokens, enrolment, renewal.

use super::caller::{Operator, Renewing, counts};
use super::{Answer, SMALL, Shared, read, read_json};
use crate::app::{App, now};
use crate::fleet;
use crate::pki::{Issued, Request};
use crate::problem::Problem;
use crate::store::{Enrolment, Outcome};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use shoal_controller_core::audit::{Event, action};
use shoal_controller_core::{api, view};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{DeviceRecord, EnrollRequest, EnrollResponse, Kind, Token};
use shoal_protocol::verify::{Verified, verify_as};

/// Token, record and certificate request together.
const REQUEST: usize = 32 << 10;
/// Seconds between certificates for one device that shows none.
const AGAIN: u64 = 30;

pub(super) async fn post_token(_: Operator, State(app): Shared, body: Body) -> Answer<api::TokenAccepted> {
    let envelope = read_json::<api::PostToken>(body, SMALL).await?.token.0;
    let token = verify_token(&app, &envelope)?;
    app.store.add_token(token.identity(), envelope, token_event(&token), now()).await?;
    let (digest, token) = (token.identity().into(), token.document());
    Ok(Json(api::TokenAccepted { digest, uses: token.uses, not_after: token.not_after }))
}

pub(super) async fn tokens(_: Operator, State(app): Shared) -> Answer<api::TokenList> {
    let rows = app.store.tokens().await?;
    let tokens = rows.into_iter().filter_map(|row| {
        // It was verified when it was stored.
        let payload = Envelope::parse(&row.envelope).ok()?;
        let token: Token = codec::decode(payload.payload(), Limits::of_size(Kind::Token.size_cap())).ok()?;
        Some(api::Token {
            digest: row.digest.into(),
            uses: token.uses,
            used: row.used,
            not_after: token.not_after,
            labels: view::labels(&token.labels),
        })
    });
    Ok(Json(api::TokenList { tokens: tokens.collect() }))
}

fn token_event(token: &Verified<Token>) -> Event {
    let uses = token.document().uses;
    Event::new(action::TOKEN, "operator", "join token").number(uses).signed(token.identity(), token.signers())
}

fn verify_token(app: &App, envelope: &[u8]) -> Result<Verified<Token>, Problem> {
    let trust = app.fleet().trust.clone();
    if trust.anchor.is_none() {
        return Err(Problem::not_initialized());
    }
    Ok(verify_as(envelope, &trust, now())?)
}

pub(super) async fn enroll(State(app): Shared, body: Body) -> Result<Response, Problem> {
    let request: EnrollRequest = codec::decode(&read(body, REQUEST).await?, Limits::of_size(REQUEST))
        .map_err(|e| Problem::refused("malformed", e.to_string()))?;
    let token = verify_token(&app, &request.token.0)?;
    let mut trust = app.fleet().trust.clone();
    trust.tokens = vec![token.document().clone()];
    let record: Verified<DeviceRecord> = verify_as(&request.record.0, &trust, now())?;
    if !record.signers().contains(&token.document().key) {
        return Err(no_proof("the record is not signed by the token's own key"));
    }
    let csr = Request::parse(&request.csr.0).map_err(|e| no_proof(format!("{e:#}")))?;
    let device = record.document().device.clone();
    if csr.device != device || csr.key != record.document().identity {
        return Err(no_proof("the certificate request is not for the record's identity key"));
    }
    let issued = app.authority.device(&csr, now())?;
    app.store.add_token(token.identity(), request.token.0, token_event(&token), now()).await?;
    let enrolment = Enrolment {
        device: device.clone(),
        record: request.record.0.clone(),
        token: token.identity(),
        uses: token.document().uses,
        serial: issued.serial.clone(),
        not_after: issued.not_after,
        now: now(),
    };
    match app.store.enroll(enrolment).await? {
        Outcome::Enrolled | Outcome::Again => {}
        Outcome::Spent => return Err(no_proof("all uses of the token are spent")),
        Outcome::Revoked => return Err(Problem::revoked(&device)),
        Outcome::Other => return Err(no_proof("this device enrolled before, with another record")),
    }
    {
        let mut fleet = app.fleet();
        let identity = record.identity();
        let known = fleet
            .devices
            .entry(device.clone())
            .or_insert_with(|| fleet::Device::new(record.into_document(), identity, request.record.0, now()));
        known.file.certificate_not_after = Some(issued.not_after);
        fleet.touch_device(&device);
    }
    tracing::info!("device {device} enrolled");
    app.wake.notify_one();
    Ok(response(&app, device, issued, token.document().minima.root_version))
}

/// Another certificate for the same identity key. Its signature below the request proves the key, which is all that a
/// certificate would prove, so a device whose certificate ended while it was off comes back as long as its record is live.
/// Whoever repeats an old request gets a certificate for a key that they do not have.
pub(super) async fn renew(
    Renewing(caller): Renewing,
    State(app): Shared,
    body: Body,
) -> Result<Response, Problem> {
    let csr = Request::parse(&read(body, REQUEST).await?).map_err(|e| match caller {
        Some(_) => no_proof(format!("{e:#}")),
        None => Problem::unauthorized("there is neither a client certificate nor a device's own request"),
    })?;
    match &caller {
        Some(device) if *device != csr.device => {
            return Err(no_proof("the certificate request is not for the device's own identity key"));
        }
        Some(_) => {}
        None => {
            counts(&app, &csr.device)?;
            not_too_often(&app, &csr.device)?;
        }
    }
    let device = csr.device.clone();
    let issued = app.authority.device(&csr, now())?;
    if !app.store.renew(device.clone(), issued.serial.clone(), issued.not_after, now()).await? {
        return Err(Problem::revoked(&device));
    }
    let held = {
        let mut fleet = app.fleet();
        let known = fleet.devices.get_mut(&device);
        known.map_or(0, |d| {
            d.file.certificate_not_after = Some(issued.not_after);
            d.holds.as_ref().map_or(0, |h| h.root_version)
        })
    };
    Ok(response(&app, device, issued, held))
}

/// Without a certificate a repeated request costs its sender nothing: one is answered in a while, so that the store does not
/// grow. A lost answer can be asked for again soon.
fn not_too_often(app: &App, device: &DeviceId) -> Result<(), Problem> {
    let newest = app.fleet().devices.get(device).and_then(|d| d.file.certificate_not_after);
    let life = app.authority.device_life;
    let again = newest.map_or(0, |end| end.0.saturating_sub(life) + AGAIN.min(life / 10));
    if now().0 >= again {
        return Ok(());
    }
    let message = format!("device {device} was given a certificate just now");
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "invalid_request", message))
}

fn response(app: &App, device: DeviceId, issued: Issued, held_root: u64) -> Response {
    let skip = usize::try_from(held_root).unwrap_or(usize::MAX);
    let roots = app.fleet().roots.iter().skip(skip).map(|r| r.to_vec().into()).collect();
    let answer = EnrollResponse { device, certificates: vec![issued.der.into()], roots };
    ([(CONTENT_TYPE, "application/cbor")], codec::encode(&answer)).into_response()
}

fn no_proof(message: impl Into<String>) -> Problem {
    let hint = shoal_protocol::Code::EnrollProof.hint();
    Problem::refused("enroll_proof", message).hint(hint)
}
