//! Devices that ask to be approved by an operator, and what became of them.

use super::{Result, Store, audit, digest, int, uint};
use rusqlite::{OptionalExtension as _, Row};
use shoal_controller_core::api::EnrollmentState;
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};

/// Requests that may wait at a time.
pub(crate) const WAITING_MAX: u64 = 1024;
/// Seconds for which a denied request is remembered.
const DENIED_KEPT: u64 = 30 * 86_400;

/// A request as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct EnrollmentRow {
    pub(crate) device: String,
    pub(crate) token: Digest,
    pub(crate) token_envelope: Vec<u8>,
    /// Envelope of the record that the token's key signed.
    pub(crate) request: Vec<u8>,
    pub(crate) name: Option<String>,
    pub(crate) state: EnrollmentState,
    pub(crate) requested_at: Timestamp,
    pub(crate) decided_at: Option<Timestamp>,
    /// Envelope of the record that an operator signed.
    pub(crate) record: Option<Vec<u8>>,
}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It waits.
    Waits,
    /// The device is enrolled already.
    Enrolled,
    /// Too many wait.
    Full,
}

/// What a decision came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It is so now.
    Done,
    /// The token has no use left.
    Spent,
    /// It was approved before.
    Approved,
    /// There is no such request.
    Missing,
}

const COLUMNS: &str =
    "device, token, token_envelope, request, name, state, requested_at, decided_at, record FROM enrollments";

fn row(r: &Row<'_>) -> rusqlite::Result<EnrollmentRow> {
    let state: String = r.get(5)?;
    let decided: Option<i64> = r.get(7)?;
    Ok(EnrollmentRow {
        device: r.get(0)?,
        token: digest(&r.get::<_, Vec<u8>>(1)?)?,
        token_envelope: r.get(2)?,
        request: r.get(3)?,
        name: r.get(4)?,
        state: match state.as_str() {
            "approved" => EnrollmentState::Approved,
            "denied" => EnrollmentState::Denied,
            _ => EnrollmentState::Pending,
        },
        requested_at: Timestamp(uint(r.get(6)?)),
        decided_at: decided.map(|t| Timestamp(uint(t))),
        record: r.get(8)?,
    })
}

impl Store {
    /// The request with exactly this record, if it came before.
    pub(crate) async fn enrollment_of(&self, request: Digest) -> Result<Option<EnrollmentRow>> {
        self.call("read a request to enrol", move |t| {
            t.prepare_cached(&format!("SELECT {COLUMNS} WHERE request_digest = ?1"))?
                .query_row([request.0.as_slice()], row)
                .optional()
        })
        .await
    }

    /// The request of this device.
    pub(crate) async fn enrollment(&self, device: DeviceId) -> Result<Option<EnrollmentRow>> {
        self.call("read a request to enrol", move |t| {
            t.prepare_cached(&format!("SELECT {COLUMNS} WHERE device = ?1"))?
                .query_row([device.as_str()], row)
                .optional()
        })
        .await
    }

    /// All requests, those that wait first.
    pub(crate) async fn enrollments(&self) -> Result<Vec<EnrollmentRow>> {
        self.call("read the requests to enrol", |t| {
            t.prepare(&format!(
                "SELECT {COLUMNS} ORDER BY state != 'pending', requested_at DESC, device LIMIT 2048"
            ))?
            .query_map((), row)?
            .collect()
        })
        .await
    }

    /// Keeps a request in place of an earlier one of the same device that was not approved.
    pub(crate) async fn ask_enrollment(&self, e: EnrollmentRow) -> Result<Asked> {
        self.call("keep a request to enrol", move |t| {
            let count = |sql: &str| t.query_row(sql, [&e.device], |r| r.get::<_, i64>(0));
            if count("SELECT count(*) FROM devices WHERE id = ?1")? > 0 {
                return Ok(Asked::Enrolled);
            }
            let waiting = "SELECT count(*) FROM enrollments WHERE state = 'pending' AND device != ?1";
            if uint(count(waiting)?) >= WAITING_MAX {
                return Ok(Asked::Full);
            }
            let old = e.requested_at.0.saturating_sub(DENIED_KEPT);
            t.execute("DELETE FROM enrollments WHERE state = 'denied' AND decided_at < ?1", [int(old)])?;
            t.execute(
                "INSERT OR REPLACE INTO enrollments
                    (device, token, token_envelope, request, request_digest, name, requested_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                (
                    &e.device,
                    e.token.0.as_slice(),
                    &e.token_envelope,
                    &e.request,
                    Digest::of(&e.request).0.as_slice(),
                    &e.name,
                    int(e.requested_at.0),
                ),
            )?;
            Ok(Asked::Waits)
        })
        .await
    }

    /// Takes a device in with the record that an operator signed, and spends a use of its token, all or nothing.
    pub(crate) async fn approve(
        &self,
        device: DeviceId,
        record: Vec<u8>,
        uses: u64,
        event: Event,
        now: Timestamp,
    ) -> Result<Decided> {
        self.call("approve a device", move |t| {
            let id = device.as_str();
            let known: Option<(String, Vec<u8>)> = t
                .query_row("SELECT state, token FROM enrollments WHERE device = ?1", [id], |r| {
                    Ok((r.get(0)?, r.get(1)?))
                })
                .optional()?;
            let Some((state, token)) = known else { return Ok(Decided::Missing) };
            if state == "approved" {
                return Ok(Decided::Approved);
            }
            let spent = t.execute(
                "UPDATE tokens SET used = used + 1 WHERE digest = ?1 AND used < ?2",
                (&token, int(uses)),
            )?;
            if spent == 0 {
                return Ok(Decided::Spent);
            }
            t.execute(
                "INSERT INTO devices (id, record, token, enrolled_at) VALUES (?1, ?2, ?3, ?4)",
                (id, &record, &token, int(now.0)),
            )?;
            t.execute(
                "UPDATE enrollments SET state = 'approved', decided_at = ?2, record = ?3 WHERE device = ?1",
                (id, int(now.0), &record),
            )?;
            audit::append(t, vec![event], now)?;
            Ok(Decided::Done)
        })
        .await
    }

    /// Denies a request that waits; an operator may think again.
    pub(crate) async fn deny(&self, device: DeviceId, now: Timestamp) -> Result<Decided> {
        self.call("deny a device", move |t| {
            let id = device.as_str();
            let state: Option<String> = t
                .query_row("SELECT state FROM enrollments WHERE device = ?1", [id], |r| r.get(0))
                .optional()?;
            match state.as_deref() {
                None => Ok(Decided::Missing),
                Some("approved") => Ok(Decided::Approved),
                Some(_) => {
                    t.execute(
                        "UPDATE enrollments SET state = 'denied', decided_at = ?2 WHERE device = ?1",
                        (id, int(now.0)),
                    )?;
                    audit::append(t, vec![Event::new(action::DENIED, "operator", id)], now)?;
                    Ok(Decided::Done)
                }
            }
        })
        .await
    }
}
