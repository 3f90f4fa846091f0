//! Devices and their certificates.

use super::{Result, Store, audit, int, uint};
use rusqlite::{OptionalExtension as _, Transaction};
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};

/// A device as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct DeviceRow {
    pub(crate) id: String,
    /// Envelope of its record.
    pub(crate) record: Vec<u8>,
    pub(crate) enrolled_at: Timestamp,
    pub(crate) revoked: bool,
    pub(crate) last_seen: Option<Timestamp>,
    /// What it said it is, in the strict codec.
    pub(crate) system: Option<Vec<u8>>,
    pub(crate) alarms: Vec<String>,
    pub(crate) certificate_not_after: Option<Timestamp>,
    /// Envelope of its newest report.
    pub(crate) report: Option<Vec<u8>>,
}

/// What an enrolment writes.
#[derive(Debug, Clone)]
pub(crate) struct Enrolment {
    pub(crate) device: DeviceId,
    pub(crate) record: Vec<u8>,
    pub(crate) token: Digest,
    pub(crate) uses: u64,
    pub(crate) serial: String,
    pub(crate) not_after: Timestamp,
    pub(crate) now: Timestamp,
}

/// What an enrolment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A new device.
    Enrolled,
    /// The same device with the same record, asking again.
    Again,
    /// The token has no use left.
    Spent,
    /// There is a device of this id with another record.
    Other,
    /// The device was revoked: it gets nothing more.
    Revoked,
}

impl Store {
    /// All devices with their newest report.
    pub(crate) async fn devices(&self) -> Result<Vec<DeviceRow>> {
        self.call("read the devices", |t| {
            t.prepare(
                "SELECT d.id, d.record, d.enrolled_at, d.revoked, d.last_seen, d.system, d.alarms,
                        (SELECT max(not_after) FROM certificates c WHERE c.device = d.id AND c.revoked = 0), r.envelope
                 FROM devices d LEFT JOIN reports r ON r.device = d.id AND r.counter = d.report_counter ORDER BY d.id",
            )?
            .query_map((), |r| {
                let time = |t: Option<i64>| t.map(|t| Timestamp(uint(t)));
                let alarms: String = r.get(6)?;
                Ok(DeviceRow {
                    id: r.get(0)?,
                    record: r.get(1)?,
                    enrolled_at: Timestamp(uint(r.get(2)?)),
                    revoked: r.get(3)?,
                    last_seen: time(r.get(4)?),
                    system: r.get(5)?,
                    alarms: alarms.split_whitespace().map(str::to_owned).collect(),
                    certificate_not_after: time(r.get(7)?),
                    report: r.get(8)?,
                })
            })?
            .collect()
        })
        .await
    }

    /// Takes a device in, spends a use of its token and remembers its certificate, all or nothing.
    pub(crate) async fn enroll(&self, e: Enrolment) -> Result<Outcome> {
        self.call("enrol a device", move |t| {
            let id = e.device.as_str();
            let known: Option<(Vec<u8>, bool)> = t
                .query_row("SELECT record, revoked FROM devices WHERE id = ?1", [id], |r| {
                    Ok((r.get(0)?, r.get(1)?))
                })
                .optional()?;
            let outcome = match known {
                Some((_, true)) => return Ok(Outcome::Revoked),
                Some((record, false)) if record == e.record => Outcome::Again,
                Some(_) => return Ok(Outcome::Other),
                None => {
                    let spent = t.execute(
                        "UPDATE tokens SET used = used + 1 WHERE digest = ?1 AND used < ?2",
                        (e.token.0.as_slice(), int(e.uses)),
                    )?;
                    if spent == 0 {
                        return Ok(Outcome::Spent);
                    }
                    t.execute(
                        "INSERT INTO devices (id, record, token, enrolled_at) VALUES (?1, ?2, ?3, ?4)",
                        (id, &e.record, e.token.0.as_slice(), int(e.now.0)),
                    )?;
                    let event = Event {
                        digest: Some(e.token),
                        detail: Some("by this token".to_owned()),
                        ..Event::new(action::ENROLLED, id, id)
                    };
                    audit::append(t, vec![event], e.now)?;
                    Outcome::Enrolled
                }
            };
            add_certificate(t, id, &e.serial, e.not_after)?;
            Ok(outcome)
        })
        .await
    }

    /// Remembers a renewed certificate, and forgets those that ended; whether the device is still live, which only this
    /// transaction can say beside [`Store::revoke`].
    pub(crate) async fn renew(
        &self,
        device: DeviceId,
        serial: String,
        not_after: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        self.call("keep a certificate", move |t| {
            let id = device.as_str();
            let live: Option<bool> = t
                .query_row("SELECT revoked = 0 FROM devices WHERE id = ?1", [id], |r| r.get(0))
                .optional()?;
            if live != Some(true) {
                return Ok(false);
            }
            t.execute("DELETE FROM certificates WHERE device = ?1 AND not_after < ?2", (id, int(now.0)))?;
            add_certificate(t, id, &serial, not_after)?;
            Ok(true)
        })
        .await
    }

    /// When the certificate of this serial ends; nothing for one that was not issued here.
    pub(crate) async fn certificate_end(&self, serial: String) -> Result<Option<Timestamp>> {
        self.call("read a certificate's end", move |t| {
            t.prepare_cached("SELECT not_after FROM certificates WHERE serial = ?1")?
                .query_row([serial], |r| Ok(Timestamp(uint(r.get(0)?))))
                .optional()
        })
        .await
    }

    /// The envelope of the token that a device came with.
    pub(crate) async fn token_of(&self, device: DeviceId) -> Result<Option<Vec<u8>>> {
        self.call("read a device's token", move |t| {
            t.query_row(
                "SELECT t.envelope FROM devices d JOIN tokens t ON t.digest = d.token WHERE d.id = ?1",
                [device.as_str()],
                |r| r.get(0),
            )
            .optional()
        })
        .await
    }

    /// Revokes a device: the serials of all its certificates.
    pub(crate) async fn revoke(&self, device: DeviceId, now: Timestamp) -> Result<Vec<String>> {
        self.call("revoke a device", move |t| {
            audit::append(t, vec![Event::new(action::REVOKED, "operator", device.as_str())], now)?;
            t.execute("UPDATE devices SET revoked = 1 WHERE id = ?1", [device.as_str()])?;
            t.execute("UPDATE certificates SET revoked = 1 WHERE device = ?1", [device.as_str()])?;
            t.prepare("SELECT serial FROM certificates WHERE device = ?1")?
                .query_map([device.as_str()], |r| r.get(0))?
                .collect()
        })
        .await
    }

    /// All serials that count no longer and have not ended by themselves, and all devices that count no longer: whatever
    /// certificate one of those shows.
    pub(crate) async fn revoked(&self, now: Timestamp) -> Result<Vec<String>> {
        self.call("read the revocations", move |t| {
            t.prepare(
                "SELECT serial FROM certificates WHERE revoked = 1 AND not_after > ?1
                 UNION ALL SELECT id FROM devices WHERE revoked = 1",
            )?
            .query_map([int(now.0)], |r| r.get(0))?
            .collect()
        })
        .await
    }

    /// Replaces a device's record.
    pub(crate) async fn set_record(
        &self,
        device: DeviceId,
        record: Vec<u8>,
        event: Event,
        now: Timestamp,
    ) -> Result<()> {
        self.call("keep a device record", move |t| {
            audit::append(t, vec![event], now)?;
            t.execute("UPDATE devices SET record = ?2 WHERE id = ?1", (device.as_str(), record)).map(drop)
        })
        .await
    }

    /// Remembers what a device said it is.
    pub(crate) async fn set_system(&self, device: DeviceId, system: Vec<u8>, now: Timestamp) -> Result<()> {
        self.call("keep a hello", move |t| {
            t.execute(
                "UPDATE devices SET system = ?2, last_seen = ?3 WHERE id = ?1",
                (device.as_str(), system, int(now.0)),
            )
            .map(drop)
        })
        .await
    }

    /// Remembers when devices were last heard.
    pub(crate) async fn set_seen(&self, seen: Vec<(DeviceId, Timestamp)>) -> Result<()> {
        self.call("keep when devices were heard", move |t| {
            let mut update = t.prepare_cached("UPDATE devices SET last_seen = ?2 WHERE id = ?1")?;
            for (device, at) in seen {
                update.execute((device.as_str(), int(at.0)))?;
            }
            Ok(())
        })
        .await
    }
}

fn add_certificate(
    t: &Transaction<'_>,
    device: &str,
    serial: &str,
    not_after: Timestamp,
) -> rusqlite::Result<()> {
    t.execute(
        "INSERT INTO certificates (serial, device, not_after) VALUES (?1, ?2, ?3)",
        (serial, device, int(not_after.0)),
    )
    .map(drop)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) const NOW: Timestamp = Timestamp(1_800_000_000);

    pub(in crate::store) async fn store(uses: u64) -> (tempfile::TempDir, Store, Enrolment) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("shoald.db")).unwrap();
        let token = Digest::of(b"token");
        store.add_token(token, b"t".to_vec(), Event::default(), NOW).await.unwrap();
        let e = Enrolment {
            device: DeviceId::of_spki(b"a"),
            record: b"r".to_vec(),
            token,
            uses,
            serial: "4a".into(),
            not_after: NOW,
            now: NOW,
        };
        (dir, store, e)
    }

    #[tokio::test]
    async fn s25_a_spent_token_enrols_nobody_but_the_same_device_may_ask_again() {
        let (_dir, store, e) = store(1).await;
        assert_eq!(store.enroll(e.clone()).await.unwrap(), Outcome::Enrolled);
        let again = Enrolment { serial: "4b".into(), ..e.clone() };
        assert_eq!(store.enroll(again).await.unwrap(), Outcome::Again);
        let changed = Enrolment { record: b"x".to_vec(), serial: "4c".into(), ..e.clone() };
        assert_eq!(store.enroll(changed).await.unwrap(), Outcome::Other);
        let second = Enrolment { device: DeviceId::of_spki(b"b"), serial: "4d".into(), ..e };
        assert_eq!(store.enroll(second).await.unwrap(), Outcome::Spent);
        assert_eq!(store.devices().await.unwrap().len(), 1);
    }
}
