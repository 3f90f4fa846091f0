//! Devices, their certificates, reports, facts, waves and orders.

use super::{Result, Store, audit, digest, int, uint};
use rusqlite::{OptionalExtension as _, Transaction};
use shoal_controller_core::audit::{Event, action};
use shoal_controller_core::receipt::{Receipt, judge};
use shoal_protocol::SignError;
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};

/// How many reports of a device are kept, the newest ones.
const REPORTS_KEPT: u64 = 64;

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

/// A verified report to keep.
#[derive(Debug, Clone)]
pub(crate) struct ReportRow {
    pub(crate) device: DeviceId,
    pub(crate) counter: u64,
    pub(crate) digest: Digest,
    pub(crate) envelope: Vec<u8>,
    pub(crate) facts: Vec<FactRow>,
    /// New alarms about the device, if they changed.
    pub(crate) alarms: Option<Vec<String>>,
}

/// A verified fact to keep.
#[derive(Debug, Clone)]
pub(crate) struct FactRow {
    pub(crate) deployment: Digest,
    pub(crate) container: String,
    pub(crate) event: &'static str,
    pub(crate) counter: u64,
    pub(crate) envelope: Vec<u8>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) receipt: Receipt,
    /// What to acknowledge.
    pub(crate) highest: u64,
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

    /// Keeps verified reports and their facts, all or none; what each came to.
    pub(crate) async fn add_reports(&self, rows: Vec<ReportRow>, now: Timestamp) -> Result<Vec<Received>> {
        self.call("keep reports", move |t| rows.iter().map(|row| add_report(t, row, now)).collect()).await
    }

    /// Which containers each device's facts call healthy: (device, deployment, container).
    pub(crate) async fn healthy(&self) -> Result<Vec<(String, Digest, String)>> {
        self.call("read the facts", |t| {
            t.prepare("SELECT device, deployment, container FROM facts WHERE event = 'healthy'")?
                .query_map((), |r| Ok((r.get(0)?, digest(&r.get::<_, Vec<u8>>(1)?)?, r.get(2)?)))?
                .collect()
        })
        .await
    }

    /// Lets devices take a revision.
    pub(crate) async fn open_wave(
        &self,
        revision: Digest,
        devices: Vec<DeviceId>,
        now: Timestamp,
    ) -> Result<()> {
        self.call("open a wave", move |t| {
            let mut insert = t.prepare_cached("INSERT OR IGNORE INTO waves VALUES (?1, ?2, ?3)")?;
            for device in devices {
                insert.execute((revision.0.as_slice(), device.as_str(), int(now.0)))?;
            }
            Ok(())
        })
        .await
    }

    /// All waves: (revision, device, opened at).
    pub(crate) async fn waves(&self) -> Result<Vec<(Digest, String, Timestamp)>> {
        self.call("read the waves", |t| {
            t.prepare("SELECT deployment, device, opened_at FROM waves")?
                .query_map((), |r| {
                    Ok((digest(&r.get::<_, Vec<u8>>(0)?)?, r.get(1)?, Timestamp(uint(r.get(2)?))))
                })?
                .collect()
        })
        .await
    }

    /// Forgets what concerns revisions that no snapshot lists any more.
    pub(crate) async fn forget_revisions(&self, listed: Vec<Digest>) -> Result<()> {
        self.call("forget old revisions", move |t| {
            t.execute_batch("CREATE TEMP TABLE listed (digest BLOB PRIMARY KEY)")?;
            let mut insert = t.prepare("INSERT OR IGNORE INTO listed VALUES (?1)")?;
            for digest in listed {
                insert.execute([digest.0.as_slice()])?;
            }
            drop(insert);
            t.execute_batch(
                "DELETE FROM waves WHERE deployment NOT IN (SELECT digest FROM listed);
                 DELETE FROM facts WHERE deployment NOT IN (SELECT digest FROM listed);
                 DROP TABLE listed",
            )
        })
        .await
    }

    /// Takes the next order counter of a device and keeps the order that `sign` makes with it, before it is sent.
    pub(crate) async fn add_order(
        &self,
        device: DeviceId,
        above: u64,
        not_after: Timestamp,
        now: Timestamp,
        what: String,
        sign: impl FnOnce(u64) -> std::result::Result<Vec<u8>, SignError> + Send + 'static,
    ) -> Result<(u64, Vec<u8>)> {
        self.call("keep an order", move |t| {
            let id = device.as_str();
            t.execute("DELETE FROM orders WHERE not_after < ?1", [int(now.0)])?;
            let counter: i64 = t.query_row(
                "UPDATE devices SET order_counter = max(order_counter, ?2) + 1 WHERE id = ?1 RETURNING order_counter",
                (id, int(above)),
                |r| r.get(0),
            )?;
            let envelope =
                sign(uint(counter)).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
            t.execute("INSERT INTO orders VALUES (?1, ?2, ?3, ?4)", (id, counter, int(not_after.0), &envelope))?;
            let event = Event {
                detail: Some(what),
                ..Event::new(action::ORDER, "controller", id).number(uint(counter))
            };
            audit::append(t, vec![event], now)?;
            Ok((uint(counter), envelope))
        })
        .await
    }

    /// Orders above a counter that still may be taken.
    pub(crate) async fn orders(&self, device: DeviceId, above: u64, now: Timestamp) -> Result<Vec<Vec<u8>>> {
        self.call("read orders", move |t| {
            t.prepare_cached(
                "SELECT envelope FROM orders WHERE device = ?1 AND counter > ?2 AND not_after > ?3 ORDER BY counter",
            )?
            .query_map((device.as_str(), int(above), int(now.0)), |r| r.get(0))?
            .collect()
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

fn add_report(t: &Transaction<'_>, row: &ReportRow, now: Timestamp) -> rusqlite::Result<Received> {
    let id = row.device.as_str();
    let highest = uint(t.query_row("SELECT report_counter FROM devices WHERE id = ?1", [id], |r| r.get(0))?);
    let known: Option<Vec<u8>> = t
        .prepare_cached("SELECT digest FROM reports WHERE device = ?1 AND counter = ?2")?
        .query_row((id, int(row.counter)), |r| r.get(0))
        .optional()?;
    let known = known.as_deref().map(digest).transpose()?;
    let receipt = judge(row.counter, &row.digest, highest, known.as_ref());
    if receipt == Receipt::Store {
        t.prepare_cached("INSERT INTO reports VALUES (?1, ?2, ?3, ?4)")?.execute((
            id,
            int(row.counter),
            row.digest.0.as_slice(),
            &row.envelope,
        ))?;
        t.prepare_cached("UPDATE devices SET report_counter = ?2, last_seen = ?3 WHERE id = ?1")?
            .execute((id, int(row.counter), int(now.0)))?;
        t.prepare_cached(
            "DELETE FROM reports WHERE device = ?1 AND counter <= (
                 SELECT counter FROM reports WHERE device = ?1 ORDER BY counter DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute((id, int(REPORTS_KEPT)))?;
        for f in &row.facts {
            t.prepare_cached(
                "INSERT INTO facts VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET counter = excluded.counter, envelope = excluded.envelope
                 WHERE excluded.counter > counter",
            )?
            .execute((
                id,
                f.deployment.0.as_slice(),
                &f.container,
                f.event,
                int(f.counter),
                &f.envelope,
            ))?;
        }
    }
    if receipt == Receipt::Replay {
        t.execute(
            "UPDATE devices SET alarms = trim(alarms || ' report_replay')
             WHERE id = ?1 AND instr(alarms, 'report_replay') = 0",
            [id],
        )?;
    } else if let Some(alarms) = &row.alarms {
        t.execute("UPDATE devices SET alarms = ?2 WHERE id = ?1", (id, alarms.join(" ")))?;
    }
    Ok(Received { receipt, highest: highest.max(row.counter) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    async fn store(uses: u64) -> (tempfile::TempDir, Store, Enrolment) {
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

    #[tokio::test]
    async fn u6_reports_stay_bounded_and_the_newest_is_kept() {
        let (_dir, store, e) = store(1).await;
        store.enroll(e.clone()).await.unwrap();
        let row = |counter: u64| ReportRow {
            device: e.device.clone(),
            counter,
            digest: Digest::of(&counter.to_be_bytes()),
            envelope: counter.to_be_bytes().to_vec(),
            facts: Vec::new(),
            alarms: None,
        };
        let got = store.add_reports((1..=200).map(row).collect(), NOW).await.unwrap();
        assert!(got.iter().all(|r| r.receipt == Receipt::Store));
        let n: i64 = store
            .call("count", |t| t.query_row("SELECT count(*) FROM reports", (), |r| r.get(0)))
            .await
            .unwrap();
        assert_eq!(uint(n), REPORTS_KEPT);
        let got = store.add_reports(vec![row(200), row(3)], NOW).await.unwrap();
        assert_eq!(got, [Received { receipt: Receipt::Duplicate, highest: 200 }; 2]);
        let replay = ReportRow { digest: Digest::of(b"other"), ..row(200) };
        assert_eq!(store.add_reports(vec![replay], NOW).await.unwrap()[0].receipt, Receipt::Replay);
        assert_eq!(store.devices().await.unwrap()[0].report, Some(200_u64.to_be_bytes().to_vec()));
    }

    #[tokio::test]
    async fn s23_order_counters_rise_above_what_the_device_has_seen() {
        let (_dir, store, e) = store(1).await;
        store.enroll(e.clone()).await.unwrap();
        let add = |above| {
            store.add_order(e.device.clone(), above, NOW.plus(60), NOW, String::new(), |c| {
                Ok(c.to_be_bytes().to_vec())
            })
        };
        assert_eq!(add(0).await.unwrap().0, 1);
        assert_eq!(add(7).await.unwrap().0, 8);
        assert_eq!(add(0).await.unwrap().0, 9);
        assert_eq!(store.orders(e.device.clone(), 1, NOW).await.unwrap().len(), 2);
        assert_eq!(store.orders(e.device.clone(), 0, NOW.plus(61)).await.unwrap().len(), 0);
    }
}
