//! What devices report, and the facts in it.

use super::{Result, Store, digest, int, uint};
use rusqlite::{OptionalExtension as _, Transaction};
use shoal_controller_core::receipt::{Receipt, judge};
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};

/// How many reports of a device are kept, the newest ones.
const REPORTS_KEPT: u64 = 64;

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
    use super::super::devices::tests::{NOW, store};
    use super::*;

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
}
