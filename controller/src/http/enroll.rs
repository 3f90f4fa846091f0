//! How devices come in: tokens, enrolment, renewal.

use super::caller::{Operator, Renewing, counts};
use super::{Answer, SMALL, Shared, read, read_json};
use crate::app::{App, now};
use crate::fleet;
use crate::pki::{Issued, Request};
use crate::problem::Problem;
use crate::store::{Asked, EnrollmentRow, Enrolment, Outcome};
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
use shoal_protocol::ids::{DeviceId, Digest};
use shoal_protocol::latest::{DeviceRecord, EnrollRequest, EnrollResponse, Kind, Token};
use shoal_protocol::verify::{Verified, verify_as};

/// Token, record and certificate request together.
const REQUEST: usize = 32 << 10;
/// Letters of what a device calls itself.
const NAME: usize = 63;
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
        let token = stored_token(&row.envelope)?;
        Some(api::Token {
            digest: row.digest.into(),
            uses: token.uses,
            used: row.used,
            not_after: token.not_after,
            labels: view::labels(&token.labels),
            approval: token.approval,
        })
    });
    Ok(Json(api::TokenList { tokens: tokens.collect() }))
}

fn token_event(token: &Verified<Token>) -> Event {
    let uses = token.document().uses;
    Event::new(action::TOKEN, "operator", "join token").number(uses).signed(token.identity(), token.signers())
}

/// A token that was verified when it was stored.
pub(super) fn stored_token(envelope: &[u8]) -> Option<Token> {
    let envelope = Envelope::parse(envelope).ok()?;
    codec::decode(envelope.payload(), Limits::of_size(Kind::Token.size_cap())).ok()
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
    let csr = Request::parse(&request.csr.0).map_err(|e| no_proof(format!("{e:#}")))?;
    if let Some(known) = app.store.enrollment_of(Digest::of(&request.record.0)).await? {
        // Verified when it came: that its token ended while an operator thought about it does not matter.
        return after_decision(&app, known, &csr).await;
    }
    let token = verify_token(&app, &request.token.0)?;
    let approval = token.document().approval;
    let mut trust = app.fleet().trust.clone();
    // The key of a token whose devices are approved proves that this device may ask. It makes no record count.
    trust.tokens = vec![Token { approval: false, ..token.document().clone() }];
    let record: Verified<DeviceRecord> = verify_as(&request.record.0, &trust, now())?;
    if !record.signers().contains(&token.document().key) {
        return Err(no_proof("the record is not signed by the token's own key"));
    }
    let device = record.document().device.clone();
    is_of_device(&csr, record.document())?;
    app.store.add_token(token.identity(), request.token.0.clone(), token_event(&token), now()).await?;
    if approval {
        return ask(&app, request, token.identity(), device).await;
    }
    let issued = app.authority.device(&csr, now())?;
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
        Outcome::Other => return Err(enrolled_before()),
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

fn is_of_device(csr: &Request, record: &DeviceRecord) -> Result<(), Problem> {
    if csr.device == record.device && csr.key == record.identity {
        return Ok(());
    }
    Err(no_proof("the certificate request is not for the record's identity key"))
}

fn enrolled_before() -> Problem {
    no_proof("this device enrolled before, with another record")
}

/// Keeps the request of a device until an operator decides.
async fn ask(
    app: &App,
    request: EnrollRequest,
    token: Digest,
    device: DeviceId,
) -> Result<Response, Problem> {
    let row = EnrollmentRow {
        device: device.to_string(),
        token,
        token_envelope: request.token.0,
        request: request.record.0,
        // Shown to an operator, so kept short; worth nothing else.
        name: request.name.map(|n| n.chars().filter(|c| !c.is_control()).take(NAME).collect()),
        state: api::EnrollmentState::Pending,
        requested_at: now(),
        decided_at: None,
        record: None,
    };
    match app.store.ask_enrollment(row).await? {
        Asked::Waits => {}
        Asked::Enrolled => return Err(enrolled_before()),
        Asked::Full => {
            let message = "too many devices wait to be approved";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "invalid_request", message)
                .hint("an operator decides with `shoal get enrollments`, `shoal approve` and `shoal deny`"));
        }
    }
    tracing::info!("device {device} waits to be approved");
    Ok(answer(&EnrollResponse { device, certificates: Vec::new(), roots: Vec::new(), record: None }))
}

/// What a device gets that asked before.
async fn after_decision(app: &App, row: EnrollmentRow, csr: &Request) -> Result<Response, Problem> {
    let token = stored_token(&row.token_envelope);
    let device = csr.device.clone();
    if device.as_str() != row.device {
        return Err(no_proof("the certificate request is not for the record's identity key"));
    }
    let record = match (row.state, row.record) {
        (api::EnrollmentState::Approved, Some(record)) => record,
        (api::EnrollmentState::Denied, _) => {
            let message = format!("an operator denied device {device}");
            return Err(Problem::new(StatusCode::FORBIDDEN, "enrollment_denied", message)
                .hint("ask the fleet's operator; it is still possible to approve it"));
        }
        _ => {
            return Ok(answer(&EnrollResponse {
                device,
                certificates: Vec::new(),
                roots: Vec::new(),
                record: None,
            }));
        }
    };
    not_too_often(app, &device)?;
    let issued = app.authority.device(csr, now())?;
    if !app.store.renew(device.clone(), issued.serial.clone(), issued.not_after, now()).await? {
        return Err(Problem::revoked(&device));
    }
    if let Some(known) = app.fleet().devices.get_mut(&device) {
        known.file.certificate_not_after = Some(issued.not_after);
    }
    tracing::info!("device {device} enrolled");
    let held = token.map_or(0, |t| t.minima.root_version);
    Ok(answer(&EnrollResponse { record: Some(record.into()), ..granted(app, device, issued, held) }))
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
    answer(&granted(app, device, issued, held_root))
}

fn granted(app: &App, device: DeviceId, issued: Issued, held_root: u64) -> EnrollResponse {
    let skip = usize::try_from(held_root).unwrap_or(usize::MAX);
    let roots = app.fleet().roots.iter().skip(skip).map(|r| r.to_vec().into()).collect();
    EnrollResponse { device, certificates: vec![issued.der.into()], roots, record: None }
}

fn answer(answer: &EnrollResponse) -> Response {
    ([(CONTENT_TYPE, "application/cbor")], codec::encode(answer)).into_response()
}

pub(super) fn no_proof(message: impl Into<String>) -> Problem {
    let hint = shoal_protocol::Code::EnrollProof.hint();
    Problem::refused("enroll_proof", message).hint(hint)
}
