//! The store: one SQLite file behind one thread that does everything in the order in which it is asked.
//!
//! What a function here returned `Ok` for is on disk (WAL, `synchronous=FULL`). It keeps bytes and decides nothing.

mod audit;
mod devices;
mod enrollments;
mod images;
mod receipts;
mod reports;
mod rollouts;
mod trust;

pub(crate) use audit::Restored;
pub(crate) use devices::{DeviceRow, Enrolment, Outcome};
pub(crate) use enrollments::{Asked, Decided, EnrollmentRow};
pub(crate) use images::TagRow;
pub(crate) use reports::{FactRow, ReportRow};
pub(crate) use trust::{DocumentRow, SnapshotRow, Swap};

use rusqlite::Connection;
use shoal_protocol::ids::Digest;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const VERSION: i64 = 4;
/// What each version after the first adds; a store of an older version gets what it lacks at its next start.
const STEPS: [&str; 3] =
    [include_str!("enrollments.sql"), include_str!("grants.sql"), include_str!("receipts.sql")];
/// An audit log begins with the first build that keeps one.
const AUDIT: &str = include_str!("audit.sql");
/// Calls that may wait for the thread.
const QUEUE: usize = 256;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite said no: disk full, read-only, damaged.
    #[error("the store could not {what}")]
    Sqlite {
        what: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    /// The file is of a later version.
    #[error("the store has version {0}, this shoald knows version {VERSION}; install a newer shoald")]
    Version(i64),
    /// The thread is gone: shoald is ending.
    #[error("the store is closed")]
    Closed,
}

type Result<T> = std::result::Result<T, StoreError>;
type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the store; cheap to copy.
#[derive(Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut connection = prepare(path)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|_| StoreError::Closed)?;
        Ok(Self { jobs })
    }

    /// Runs `work` on the thread, in one transaction that is committed when it returns `Ok`.
    async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = (|| {
                let transaction = connection.transaction()?;
                let value = work(&transaction)?;
                transaction.commit()?;
                Ok(value)
            })();
            // Whoever asked may have gone; what is written stays written.
            let _ = answer.send(result);
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        wait.await.map_err(|_| StoreError::Closed)?.map_err(|source| StoreError::Sqlite { what, source })
    }

    /// A value by key.
    pub(crate) async fn meta(&self, key: &'static str) -> Result<Option<Vec<u8>>> {
        self.call("read a setting", move |t| {
            let mut rows = t.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
            let mut rows = rows.query([key])?;
            rows.next()?.map(|r| r.get(0)).transpose()
        })
        .await
    }

    /// Forgets a value.
    pub(crate) async fn forget_meta(&self, key: &'static str) -> Result<()> {
        self.call("forget a setting", move |t| t.execute("DELETE FROM meta WHERE key = ?1", [key]).map(drop))
            .await
    }

    /// Sets a value by key.
    pub(crate) async fn set_meta(&self, key: &'static str, value: Vec<u8>) -> Result<()> {
        self.call("keep a setting", move |t| {
            t.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (key, value)).map(drop)
        })
        .await
    }
}

fn prepare(path: &Path) -> Result<Connection> {
    let sqlite = |what| move |source| StoreError::Sqlite { what, source };
    // SQLite gives the files beside it the same mode. What cannot be made here, it says better.
    let _ = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let connection = Connection::open(path).map_err(sqlite("open its file"))?;
    let setup = || -> rusqlite::Result<i64> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        connection.pragma_query_value(None, "user_version", |r| r.get(0))
    };
    let found = setup().map_err(sqlite("open its file"))?;
    if !(0..=VERSION).contains(&found) {
        return Err(StoreError::Version(found));
    }
    let all = std::iter::once(include_str!("schema.sql")).chain(STEPS);
    let lacks: String = all.skip(usize::try_from(found).unwrap_or(0)).collect();
    let script = format!("BEGIN; {lacks} {AUDIT} PRAGMA user_version = {VERSION}; COMMIT;");
    connection.execute_batch(&script).map_err(sqlite("make its tables"))?;
    Ok(connection)
}

/// SQLite integers are signed; every number kept here is below 2^63.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn digest(bytes: &[u8]) -> rusqlite::Result<Digest> {
    bytes
        .try_into()
        .map(Digest)
        .map_err(|_| rusqlite::Error::InvalidColumnType(0, "digest".into(), rusqlite::types::Type::Blob))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart_and_later_versions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shoald.db");
        let store = Store::open(&path).unwrap();
        store.set_meta("k", b"v".to_vec()).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.meta("k").await.unwrap(), Some(b"v".to_vec()));
        assert_eq!(store.meta("other").await.unwrap(), None);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Version(v)) if v == VERSION + 1));
    }

    #[tokio::test]
    async fn a_store_of_an_older_version_gets_what_it_lacks() {
        for version in 1..VERSION {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("shoald.db");
            let first = Connection::open(&path).unwrap();
            let steps = STEPS[..usize::try_from(version).unwrap() - 1].concat();
            let schema = include_str!("schema.sql");
            first.execute_batch(&format!("{schema} {steps} PRAGMA user_version = {version};")).unwrap();
            first.execute("INSERT INTO meta VALUES ('k', x'01')", ()).unwrap();
            drop(first);
            let store = Store::open(&path).unwrap();
            assert_eq!(store.meta("k").await.unwrap(), Some(vec![1]));
            assert!(store.enrollments().await.unwrap().is_empty());
            assert!(store.grants().await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_failed_call_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("shoald.db")).unwrap();
        let failed: Result<()> = store
            .call("test", |t| {
                t.execute("INSERT INTO meta VALUES ('a', x'00')", ())?;
                t.execute("INSERT INTO meta VALUES ('a', x'01')", ()).map(drop)
            })
            .await;
        assert!(failed.is_err());
        assert_eq!(store.meta("a").await.unwrap(), None);
    }
}
