//! The agent's own database: what it remembers of revisions, the reports that the controller does not have yet, counters.
//!
//! WAL with `synchronous=FULL`: what a method returned from is there after a power cut. Never here: trust (that is admit's).

use crate::points;
use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use shoal_agent_core::Record;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::ids::Digest;
use std::path::Path;
use std::time::Duration;

/// Report counters are reserved this many at a time, so that a counter costs no write of its own.
pub(crate) const COUNTER_BLOCK: u64 = 1_024;
/// The most unacknowledged reports that are kept; beyond it the oldest go (each report is a whole status).
pub(crate) const OUTBOX_MAX: u64 = 4_096;
const RECORD_MAX: usize = 64 << 10;
const SCHEMA: i64 = 1;

/// A report that waits for the controller's acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The report's counter.
    pub counter: u64,
    /// The signed report.
    pub envelope: Vec<u8>,
}

/// The database.
#[derive(Debug)]
pub(crate) struct Store {
    db: Connection,
    counter: u64,
    reserved: u64,
}

fn to_sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn from_sql(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

impl Store {
    /// Opens it, and makes it if it is not there. The caller holds the folder's lock.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut store = Self { db: Self::connect(path)?, counter: 0, reserved: 0 };
        store.reserved = store.value("report_reserved")?;
        store.counter = store.reserved;
        Ok(store)
    }

    /// What was opened while its file system was read-only stays so, whatever becomes of the file system (F2): it is opened anew.
    pub(crate) fn make_writable(&mut self, path: &Path) -> Result<()> {
        let read_only =
            self.db.is_readonly("main").context("cannot ask whether the database can be written")?;
        if read_only || self.db.path().is_none_or(str::is_empty) {
            // Closed before: connections of one process share what the first one could do with the file beside the log. Should
            // the next line fail, there is a database without tables: every question to it is an error, and it is tried again.
            self.db = Connection::open_in_memory().context("cannot let go of the database")?;
            self.db = Self::connect(path)?;
        }
        Ok(())
    }

    fn connect(path: &Path) -> Result<Connection> {
        let what = || format!("cannot open the agent's database {}", path.display());
        let db = Connection::open(path).with_context(what)?;
        db.busy_timeout(Duration::from_secs(5)).with_context(what)?;
        db.pragma_update(None, "journal_mode", "WAL").with_context(what)?;
        db.pragma_update(None, "synchronous", "FULL").with_context(what)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).with_context(what)?;
        match version {
            0 => db
                .execute_batch(&format!(
                    "BEGIN;
                     CREATE TABLE records (digest BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
                     CREATE TABLE outbox (counter INTEGER PRIMARY KEY, envelope BLOB NOT NULL, facts INTEGER NOT NULL);
                     CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                     PRAGMA user_version = {SCHEMA};
                     COMMIT;"
                ))
                .with_context(what)?,
            SCHEMA => {}
            other => anyhow::bail!(
                "the agent's database {} has schema {other}, this agent knows {SCHEMA}: install the newer agent again",
                path.display()
            ),
        }
        Ok(db)
    }

    /// The records of another process's database, without touching it.
    pub(crate) fn read_records(path: &Path) -> Result<Vec<(Digest, Record)>> {
        Self::look(path)?.map_or(Ok(Vec::new()), |s| s.records())
    }

    /// How many reports wait in another process's database.
    pub(crate) fn read_outbox_len(path: &Path) -> Result<u64> {
        Self::look(path)?.map_or(Ok(0), |s| s.outbox_len(u64::MAX))
    }

    /// The newest report that waits in another process's database.
    pub(crate) fn newest_report(path: &Path) -> Result<Option<Pending>> {
        let Some(store) = Self::look(path)? else { return Ok(None) };
        let newest = "SELECT counter, envelope FROM outbox ORDER BY counter DESC LIMIT 1";
        let row = |r: &rusqlite::Row<'_>| Ok(Pending { counter: from_sql(r.get(0)?), envelope: r.get(1)? });
        store.db.query_row(newest, (), row).optional().context("cannot read the outbox")
    }

    /// All reports that wait in another process's database, the oldest first.
    pub(crate) fn all_reports(path: &Path) -> Result<Vec<Pending>> {
        Self::look(path)?.map_or(Ok(Vec::new()), |s| s.pending(0, OUTBOX_MAX))
    }

    /// The next number of a receipt, never given before, also not before a power cut.
    pub(crate) fn next_receipt(path: &Path) -> Result<u64> {
        let store = Self::look(path)?.context("the agent has no database yet: did it ever run?")?;
        let next = "INSERT INTO counters VALUES ('receipts', 1)
                    ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value";
        let n: i64 = store.db.query_row(next, (), |r| r.get(0)).context("cannot count the receipt")?;
        Ok(from_sql(n))
    }

    fn look(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let what = || format!("cannot read the agent's database {}", path.display());
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).with_context(what)?;
        db.busy_timeout(Duration::from_secs(5)).with_context(what)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).with_context(what)?;
        Ok((version == SCHEMA).then_some(Self { db, counter: 0, reserved: 0 }))
    }

    fn value(&self, name: &str) -> Result<u64> {
        let found: Option<i64> = self
            .db
            .query_row("SELECT value FROM counters WHERE name = ?1", [name], |r| r.get(0))
            .optional()
            .with_context(|| format!("cannot read the counter {name}"))?;
        Ok(found.map_or(0, from_sql))
    }

    fn set_value(&self, name: &str, value: u64) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO counters VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            )
            .and_then(|mut s| s.execute(params![name, to_sql(value)]))
            .with_context(|| format!("cannot write the counter {name}"))?;
        Ok(())
    }

    /// All records. One that cannot be read (of another version) is left out: what it remembered starts afresh.
    pub(crate) fn records(&self) -> Result<Vec<(Digest, Record)>> {
        let mut statement =
            self.db.prepare("SELECT digest, record FROM records").context("cannot read records")?;
        let rows = statement
            .query_map([], |r| Ok((r.get::<_, Vec<u8>>(0)?, r.get::<_, Vec<u8>>(1)?)))
            .context("cannot read records")?;
        let mut out = Vec::new();
        for row in rows {
            let (digest, record) = row.context("cannot read a record")?;
            let Ok(digest) = <[u8; 32]>::try_from(digest) else { continue };
            match codec::decode(&record, Limits::of_size(RECORD_MAX)) {
                Ok(record) => out.push((Digest(digest), record)),
                Err(e) => {
                    tracing::warn!(digest = %Digest(digest), error = %e, "a record cannot be read and is dropped");
                }
            }
        }
        Ok(out)
    }

    /// Keeps what is remembered of a revision.
    pub(crate) fn save_record(&self, digest: &Digest, record: &Record) -> Result<()> {
        points::hit(points::RECORD_BEFORE);
        self.db
            .prepare_cached(
                "INSERT INTO records VALUES (?1, ?2) ON CONFLICT (digest) DO UPDATE SET record = ?2",
            )
            .and_then(|mut s| s.execute(params![digest.0.as_slice(), codec::encode(record)]))
            .with_context(|| format!("cannot write the record of {}", record.name))?;
        points::hit(points::RECORD_AFTER);
        Ok(())
    }

    /// Forgets a revision.
    pub(crate) fn delete_record(&self, digest: &Digest) -> Result<()> {
        self.db
            .execute("DELETE FROM records WHERE digest = ?1", params![digest.0.as_slice()])
            .with_context(|| format!("cannot delete the record of {digest}"))?;
        Ok(())
    }

    /// The last counter that was given out; every later one is above it.
    pub(crate) fn counter(&self) -> u64 {
        self.counter
    }

    /// A counter that was never given out before, also not before a power cut.
    pub(crate) fn next_counter(&mut self) -> Result<u64> {
        if self.counter == self.reserved {
            self.set_value("report_reserved", self.reserved + COUNTER_BLOCK)?;
            self.reserved += COUNTER_BLOCK;
            points::hit(points::COUNTER_RESERVED);
        }
        self.counter += 1;
        Ok(self.counter)
    }

    /// Keeps a report until it is acknowledged. `facts` is the highest counter of the facts in it, 0 for none.
    pub(crate) fn push_report(&mut self, counter: u64, envelope: &[u8], facts: u64) -> Result<()> {
        points::hit(points::OUTBOX_BEFORE);
        let tx = self.db.transaction().context("cannot write to the outbox")?;
        tx.execute(
            "INSERT INTO outbox VALUES (?1, ?2, ?3)",
            params![to_sql(counter), envelope, to_sql(facts)],
        )
        .context("cannot write to the outbox")?;
        tx.execute(
            "DELETE FROM outbox WHERE counter <= (SELECT counter FROM outbox ORDER BY counter DESC LIMIT 1 OFFSET ?1)",
            [to_sql(OUTBOX_MAX)],
        )
        .context("cannot trim the outbox")?;
        tx.commit().context("cannot write to the outbox")?;
        points::hit(points::OUTBOX_AFTER);
        Ok(())
    }

    /// Reports above `after`, oldest first, at most `limit`.
    pub(crate) fn pending(&self, after: u64, limit: u64) -> Result<Vec<Pending>> {
        let what = "cannot read the outbox";
        let mut statement = self
            .db
            .prepare_cached(
                "SELECT counter, envelope FROM outbox WHERE counter > ?1 ORDER BY counter LIMIT ?2",
            )
            .context(what)?;
        let rows = statement
            .query_map(params![to_sql(after), to_sql(limit)], |r| {
                Ok(Pending { counter: from_sql(r.get(0)?), envelope: r.get(1)? })
            })
            .context(what)?;
        rows.collect::<std::result::Result<_, _>>().context(what)
    }

    /// How many reports up to `counter` wait.
    pub(crate) fn outbox_len(&self, counter: u64) -> Result<u64> {
        let count = "SELECT count(*) FROM outbox WHERE counter <= ?1";
        let n: i64 =
            self.db.query_row(count, [to_sql(counter)], |r| r.get(0)).context("cannot count the outbox")?;
        Ok(from_sql(n))
    }

    /// The highest counter of the facts in reports that wait.
    pub(crate) fn facts_in_outbox(&self) -> Result<u64> {
        let n: Option<i64> = self
            .db
            .query_row("SELECT max(facts) FROM outbox", [], |r| r.get(0))
            .context("cannot read the outbox")?;
        Ok(n.map_or(0, from_sql))
    }

    /// The controller has everything up to `counter`: deletes it, and gives the highest counter of the facts in it.
    pub(crate) fn acknowledged(&mut self, counter: u64) -> Result<u64> {
        let what = "cannot delete acknowledged reports";
        let facts: Option<i64> = self
            .db
            .query_row("SELECT max(facts) FROM outbox WHERE counter <= ?1", [to_sql(counter)], |r| r.get(0))
            .context(what)?;
        let Some(facts) = facts else { return Ok(0) };
        points::hit(points::ACK_BEFORE);
        self.db.execute("DELETE FROM outbox WHERE counter <= ?1", [to_sql(counter)]).context(what)?;
        points::hit(points::ACK_AFTER);
        Ok(from_sql(facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_what_was_opened_on_a_read_only_file_system_is_writable_once_that_is() {
        let (dir, mut store) = temp();
        store.db = Connection::open_with_flags(dir.path().join("agent.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
        store.next_counter().unwrap_err();
        store.make_writable(&dir.path().join("agent.db")).unwrap();
        store.next_counter().unwrap();
    }

    fn temp() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("agent.db")).unwrap();
        (dir, store)
    }

    #[test]
    fn counters_only_rise_over_restarts_and_cost_one_write_a_block() {
        let (dir, mut store) = temp();
        let first = store.next_counter().unwrap();
        assert_eq!(first, 1);
        assert_eq!(store.next_counter().unwrap(), 2);
        let changes = store.db.total_changes();
        for _ in 0..500 {
            store.next_counter().unwrap();
        }
        assert_eq!(store.db.total_changes(), changes, "no write inside a block");
        drop(store);
        let mut store = Store::open(&dir.path().join("agent.db")).unwrap();
        assert_eq!(store.next_counter().unwrap(), COUNTER_BLOCK + 1, "a gap, never a number twice");
    }

    #[test]
    fn b3_reports_stay_until_acknowledged_and_come_in_order() {
        let (dir, mut store) = temp();
        for counter in 1..=1_000 {
            store.push_report(counter, &counter.to_be_bytes(), counter / 2).unwrap();
        }
        drop(store);
        let mut store = Store::open(&dir.path().join("agent.db")).unwrap();
        assert_eq!(store.outbox_len(u64::MAX).unwrap(), 1_000);
        assert_eq!(store.facts_in_outbox().unwrap(), 500);
        let some = store.pending(10, 3).unwrap();
        assert_eq!(some.iter().map(|p| p.counter).collect::<Vec<_>>(), [11, 12, 13]);
        assert_eq!(store.acknowledged(990).unwrap(), 495);
        assert_eq!(store.acknowledged(990).unwrap(), 0, "a repeated acknowledgement does nothing");
        assert_eq!(store.outbox_len(u64::MAX).unwrap(), 10);
    }

    #[test]
    fn the_outbox_is_bounded() {
        let (_dir, mut store) = temp();
        store.db.pragma_update(None, "synchronous", "OFF").unwrap();
        for counter in 1..=OUTBOX_MAX + 10 {
            store.push_report(counter, b"x", 0).unwrap();
        }
        assert_eq!(store.outbox_len(u64::MAX).unwrap(), OUTBOX_MAX);
        assert_eq!(store.pending(0, 1).unwrap()[0].counter, 11);
    }
}
