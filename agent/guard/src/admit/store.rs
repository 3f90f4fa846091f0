//! The trust store: one SQLite file that only admission opens. A change is a transaction that lasts before anything
//! acts on it.

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::path::{Path, PathBuf};

/// A store that cannot be used; the device goes on with what it holds.
#[derive(Debug, thiserror::Error)]
#[error("the trust store cannot be read or written")]
pub(super) struct StoreError(#[from] rusqlite::Error);

type Result<T> = std::result::Result<T, StoreError>;

/// Facts that are kept for a controller that does not come; the oldest go first.
const FACTS: u64 = 4096;

/// The store.
#[derive(Debug)]
pub(super) struct Store(Connection, PathBuf);

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) envelope: Vec<u8>,
}

/// What has become of a revision here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) good: bool,
    pub(super) activated: bool,
    pub(super) returned: bool,
}

/// How often a code was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: String,
    pub(super) count: u64,
    pub(super) last: String,
    pub(super) at: u64,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (
    kind TEXT NOT NULL, name TEXT NOT NULL, sequence INTEGER NOT NULL, envelope BLOB NOT NULL,
    PRIMARY KEY (kind, name, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    digest BLOB PRIMARY KEY, good INTEGER NOT NULL, activated INTEGER NOT NULL, returned INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress (
    digest BLOB NOT NULL, container TEXT NOT NULL, attempt INTEGER NOT NULL, seen INTEGER NOT NULL,
    healthy INTEGER NOT NULL, PRIMARY KEY (digest, container)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (
    code TEXT PRIMARY KEY, count INTEGER NOT NULL, last TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (counter INTEGER PRIMARY KEY, envelope BLOB NOT NULL);
";

/// SQLite's integers are signed; ours are counters that never come near the end.
fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn uint(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self(Self::connect(path)?, path.to_owned()))
    }

    fn connect(path: &Path) -> Result<Connection> {
        let db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "secure_delete", "ON")?;
        db.execute_batch(SCHEMA)?;
        Ok(db)
    }

    /// What was opened while its file system was read-only stays so, whatever becomes of the file system (F2): it is opened anew.
    fn make_writable(&mut self) -> Result<()> {
        if self.0.is_readonly("main")? || self.0.path().is_none_or(str::is_empty) {
            // Closed before: connections of one process share what the first one could do with the file beside the log. Should
            // the next line fail, there is a database without tables: every question to it is an error, and it is tried again.
            self.0 = Connection::open_in_memory()?;
            self.0 = Self::connect(&self.1)?;
        }
        Ok(())
    }

    /// Runs `change` as one transaction, which lasts when this returns.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&Change<'_>) -> Result<T>) -> Result<T> {
        self.make_writable()?;
        let change_of = Change(self.0.transaction()?);
        let value = change(&change_of)?;
        crate::points::point("admit::before_commit");
        change_of.0.commit()?;
        crate::points::point("admit::committed");
        Ok(value)
    }

    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut q = self.0.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(q.query_row([key], |r| r.get(0)).optional()?)
    }

    /// A text; empty where there is none.
    pub(super) fn text(&self, key: &str) -> Result<String> {
        Ok(self.meta(key)?.and_then(|b| String::from_utf8(b).ok()).unwrap_or_default())
    }

    pub(super) fn number(&self, key: &str) -> Result<u64> {
        let bytes = self.meta(key)?.and_then(|b| <[u8; 8]>::try_from(b).ok());
        Ok(bytes.map_or(0, u64::from_le_bytes))
    }

    /// All documents of a kind, ascending by name and sequence.
    pub(super) fn documents(&self, kind: &str) -> Result<Vec<Document>> {
        let sql = "SELECT name, sequence, envelope FROM documents WHERE kind = ?1 ORDER BY name, sequence";
        let mut q = self.0.prepare_cached(sql)?;
        let rows = q.query_map([kind], |r| {
            let (name, sequence, envelope) = (r.get(0)?, uint(r.get(1)?), r.get(2)?);
            Ok(Document { kind: kind.to_owned(), name, sequence, envelope })
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// One document's envelope; sequence 0 is the newest.
    pub(super) fn document(&self, kind: &str, name: &str, sequence: u64) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT envelope FROM documents WHERE kind = ?1 AND name = ?2 AND (?3 = 0 OR sequence = ?3)
                   ORDER BY sequence DESC LIMIT 1";
        let mut q = self.0.prepare_cached(sql)?;
        Ok(q.query_row(params![kind, name, int(sequence)], |r| r.get(0)).optional()?)
    }

    pub(super) fn marks(&self, digest: &[u8; 32]) -> Result<Marks> {
        let mut q = self.0.prepare_cached("SELECT good, activated, returned FROM marks WHERE digest = ?1")?;
        let row = q.query_row([digest], |r| {
            Ok(Marks { good: r.get(0)?, activated: r.get(1)?, returned: r.get(2)? })
        });
        Ok(row.optional()?.unwrap_or_default())
    }

    /// The latest attempt of a container that something was heard of, which events of it were heard, and whether it
    /// was ever healthy.
    pub(super) fn progress(&self, digest: &[u8; 32], container: &str) -> Result<(u64, u64, bool)> {
        let sql = "SELECT attempt, seen, healthy FROM progress WHERE digest = ?1 AND container = ?2";
        let mut q = self.0.prepare_cached(sql)?;
        let row =
            q.query_row(params![digest, container], |r| Ok((uint(r.get(0)?), uint(r.get(1)?), r.get(2)?)));
        Ok(row.optional()?.unwrap_or_default())
    }

    pub(super) fn refusals(&self) -> Result<Vec<Refused>> {
        let mut q = self.0.prepare_cached("SELECT code, count, last, at FROM refusals ORDER BY code")?;
        let rows = q.query_map([], |r| {
            Ok(Refused { code: r.get(0)?, count: uint(r.get(1)?), last: r.get(2)?, at: uint(r.get(3)?) })
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// Facts above `after`, at most `max`.
    pub(super) fn facts(&self, after: u64, max: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let sql = "SELECT counter, envelope FROM facts WHERE counter > ?1 ORDER BY counter LIMIT ?2";
        let mut q = self.0.prepare_cached(sql)?;
        let rows = q.query_map(params![int(after), int(max as u64)], |r| Ok((uint(r.get(0)?), r.get(1)?)))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Change<'a>(Transaction<'a>);

impl Change<'_> {
    pub(super) fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.0.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", params![key, value])?;
        Ok(())
    }

    pub(super) fn set_number(&self, key: &str, value: u64) -> Result<()> {
        self.set(key, &value.to_le_bytes())
    }

    pub(super) fn put(&self, d: &Document) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO documents VALUES (?1, ?2, ?3, ?4)";
        self.0.execute(sql, params![d.kind, d.name, int(d.sequence), d.envelope])?;
        Ok(())
    }

    /// Of a kind of which only one is kept.
    pub(super) fn put_only(&self, d: &Document) -> Result<()> {
        self.0.execute("DELETE FROM documents WHERE kind = ?1", [&d.kind])?;
        self.put(d)
    }

    pub(super) fn remove(&self, kind: &str, name: &str, sequence: u64) -> Result<()> {
        let sql = "DELETE FROM documents WHERE kind = ?1 AND name = ?2 AND sequence = ?3";
        self.0.execute(sql, params![kind, name, int(sequence)])?;
        Ok(())
    }

    pub(super) fn forget(&self, name: &str, sequence: u64, digest: &[u8; 32]) -> Result<()> {
        let sql = "DELETE FROM documents WHERE kind = 'deployment' AND name = ?1 AND sequence = ?2";
        self.0.execute(sql, params![name, int(sequence)])?;
        self.0.execute("DELETE FROM marks WHERE digest = ?1", [digest])?;
        self.0.execute("DELETE FROM progress WHERE digest = ?1", [digest])?;
        Ok(())
    }

    pub(super) fn mark(&self, digest: &[u8; 32], m: Marks) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO marks VALUES (?1, ?2, ?3, ?4)";
        self.0.execute(sql, params![digest, m.good, m.activated, m.returned])?;
        Ok(())
    }

    pub(super) fn set_progress(
        &self,
        digest: &[u8; 32],
        container: &str,
        (attempt, seen, healthy): (u64, u64, bool),
    ) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO progress VALUES (?1, ?2, ?3, ?4, ?5)";
        self.0.execute(sql, params![digest, container, int(attempt), int(seen), healthy])?;
        Ok(())
    }

    pub(super) fn add_fact(&self, counter: u64, envelope: &[u8]) -> Result<()> {
        self.0.execute("INSERT INTO facts VALUES (?1, ?2)", params![int(counter), envelope])?;
        self.0.execute("DELETE FROM facts WHERE counter <= ?1", [int(counter.saturating_sub(FACTS))])?;
        self.set_number("fact_counter", counter)
    }

    pub(super) fn facts_done(&self, up_to: u64) -> Result<()> {
        self.0.execute("DELETE FROM facts WHERE counter <= ?1", [int(up_to)])?;
        Ok(())
    }

    pub(super) fn count_refusal(&self, code: &str, detail: &str, at: u64) -> Result<()> {
        let sql = "INSERT INTO refusals VALUES (?1, 1, ?2, ?3)
                   ON CONFLICT (code) DO UPDATE SET count = count + 1, last = ?2, at = ?3";
        self.0.execute(sql, params![code, detail, int(at)])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_what_was_opened_on_a_read_only_file_system_is_writable_once_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admit.db");
        let mut store = Store::open(&path).unwrap();
        store.0 = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        store.change(|c| c.set("a", b"1")).unwrap();
        assert_eq!(store.meta("a").unwrap(), Some(b"1".to_vec()));
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("admit.db")).unwrap();
        (dir, store)
    }

    #[test]
    fn s14_many_refusals_of_one_code_are_one_row() {
        let (_dir, mut s) = store();
        for i in 0..100 {
            s.change(|c| c.count_refusal("bad_signature", &format!("{i}"), i)).unwrap();
        }
        let row = Refused { code: "bad_signature".into(), count: 100, last: "99".into(), at: 99 };
        assert_eq!(s.refusals().unwrap(), [row]);
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let (_dir, mut s) = store();
        let failed = s.change(|c| {
            c.set_number("order_counter", 7)?;
            c.add_fact(1, b"a")?;
            c.add_fact(1, b"b")
        });
        assert!(failed.is_err());
        assert_eq!((s.number("order_counter").unwrap(), s.facts(0, 10).unwrap().len()), (0, 0));
    }

    #[test]
    fn facts_are_bounded_and_go_when_done() {
        let (_dir, mut s) = store();
        s.change(|c| (1..=FACTS + 10).try_for_each(|n| c.add_fact(n, b"f"))).unwrap();
        assert_eq!(s.facts(0, 1).unwrap()[0].0, 11);
        s.change(|c| c.facts_done(FACTS)).unwrap();
        assert_eq!(s.facts(0, 100).unwrap().len(), 10);
        assert_eq!(s.number("fact_counter").unwrap(), FACTS + 10);
    }

    #[test]
    fn the_newest_document_has_number_zero() {
        let (_dir, mut s) = store();
        let d = |sequence, byte| Document {
            kind: "root".into(),
            name: String::new(),
            sequence,
            envelope: vec![byte],
        };
        s.change(|c| c.put(&d(1, 1)).and_then(|()| c.put(&d(2, 2)))).unwrap();
        assert_eq!(s.document("root", "", 0).unwrap(), Some(vec![2]));
        assert_eq!(s.document("root", "", 1).unwrap(), Some(vec![1]));
        assert_eq!(s.document("root", "", 3).unwrap(), None);
    }

    fn document(kind: &str, name: &str, sequence: u64) -> Document {
        let envelope = format!("{kind} {name} {sequence}").into_bytes();
        Document { kind: kind.into(), name: name.into(), sequence, envelope }
    }

    #[test]
    fn a_revision_goes_with_all_that_became_of_it_and_nothing_else_does() {
        let (_dir, mut s) = store();
        let (one, two) = ([1; 32], [2; 32]);
        let good = Marks { good: true, activated: false, returned: true };
        let all = [
            ("deployment", "web", 2),
            ("deployment", "web", 1),
            ("deployment", "app", 1),
            ("config", "web", 1),
        ];
        s.change(|c| {
            all.iter().try_for_each(|(kind, name, sequence)| c.put(&document(kind, name, *sequence)))?;
            [one, two].iter().try_for_each(|d| {
                c.mark(d, good)?;
                c.set_progress(d, "main", (7, 5, true))
            })
        })
        .unwrap();
        let names = |s: &Store, kind| {
            s.documents(kind).unwrap().into_iter().map(|d| (d.name, d.sequence)).collect::<Vec<_>>()
        };
        let said = |all: &[(&str, u64)]| all.iter().map(|(n, s)| ((*n).to_owned(), *s)).collect::<Vec<_>>();
        assert_eq!(names(&s, "deployment"), said(&[("app", 1), ("web", 1), ("web", 2)]));
        assert_eq!((s.marks(&one).unwrap(), s.progress(&one, "main").unwrap()), (good, (7, 5, true)));
        s.change(|c| c.forget("web", 1, &one)).unwrap();
        assert_eq!(names(&s, "deployment"), said(&[("app", 1), ("web", 2)]));
        assert_eq!((s.marks(&one).unwrap(), s.progress(&one, "main").unwrap()), Default::default());
        assert_eq!((s.marks(&two).unwrap(), s.progress(&two, "main").unwrap()), (good, (7, 5, true)));
        assert_eq!(s.progress(&two, "other").unwrap(), (0, 0, false));
        s.change(|c| c.remove("config", "web", 1)).unwrap();
        assert_eq!(names(&s, "config"), []);
        // Of some kinds there is one.
        s.change(|c| {
            c.put_only(&document("snapshot", "", 3)).and_then(|()| c.put_only(&document("snapshot", "", 4)))
        })
        .unwrap();
        assert_eq!(s.documents("snapshot").unwrap(), [document("snapshot", "", 4)]);
    }

    #[test]
    fn what_was_set_is_read_back_by_the_next_process() {
        let (dir, mut s) = store();
        assert_eq!((s.text("proved_agent").unwrap(), s.number("floor").unwrap()), (String::new(), 0));
        s.change(|c| {
            c.set("proved_agent", b"1.2.3")?;
            c.set("torn", b"\xff")?;
            c.set_number("floor", u64::MAX)
        })
        .unwrap();
        drop(s);
        let mut s = Store::open(&dir.path().join("admit.db")).unwrap();
        assert_eq!((s.text("proved_agent").unwrap(), s.number("floor").unwrap()), ("1.2.3".into(), u64::MAX));
        assert_eq!((s.text("torn").unwrap(), s.number("torn").unwrap()), (String::new(), 0));
        // Left without its file by a change that failed half-way, it is opened again.
        s.0 = Connection::open_in_memory().unwrap();
        s.change(|c| c.set("more", b"1")).unwrap();
        assert_eq!(s.text("proved_agent").unwrap(), "1.2.3");
        assert_eq!((int(u64::MAX), uint(-1), int(5), uint(5)), (i64::MAX, 0, 5, 5));
    }
}
