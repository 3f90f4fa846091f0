//! The audit log: entries are added in the transaction of what they tell of, and never changed.

use super::{Result, Store, digest, int, uint};
use rusqlite::{OptionalExtension as _, Transaction};
use shoal_controller_core::audit::{Entry, Event, Point};
use shoal_protocol::ids::Timestamp;

/// What became of a log that an operator gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Restored {
    /// It continues what is there.
    Done(Point),
    /// It does not, for this reason.
    Refused(String),
}

fn newest(t: &Transaction<'_>) -> rusqlite::Result<Point> {
    let found = t
        .prepare_cached("SELECT sequence, head FROM audit ORDER BY sequence DESC LIMIT 1")?
        .query_row((), |r| Ok(Point { sequence: uint(r.get(0)?), head: digest(&r.get::<_, Vec<u8>>(1)?)? }))
        .optional()?;
    Ok(found.unwrap_or(Point::START))
}

fn add(t: &Transaction<'_>, point: Point, entry: &[u8]) -> rusqlite::Result<()> {
    t.prepare_cached("INSERT INTO audit VALUES (?1, ?2, ?3)")?
        .execute((int(point.sequence), entry, point.head.0.as_slice()))
        .map(drop)
}

/// Adds what happened, in order.
pub(super) fn append(t: &Transaction<'_>, events: Vec<Event>, at: Timestamp) -> rusqlite::Result<()> {
    let mut point = newest(t)?;
    for event in events {
        let entry = Entry { sequence: point.sequence + 1, at, event }.encode();
        point = point.after(&entry);
        add(t, point, &entry)?;
    }
    Ok(())
}

impl Store {
    /// Adds what happened and changed nothing else: refusals.
    pub(crate) async fn audit(&self, events: Vec<Event>, now: Timestamp) -> Result<()> {
        self.call("keep an audit entry", move |t| append(t, events, now)).await
    }

    /// Entries after a sequence, and where the log ends.
    pub(crate) async fn audit_page(&self, after: u64, limit: u64) -> Result<(Vec<Vec<u8>>, Point)> {
        self.call("read the audit log", move |t| {
            let entries = t
                .prepare_cached("SELECT entry FROM audit WHERE sequence > ?1 ORDER BY sequence LIMIT ?2")?
                .query_map((int(after), int(limit)), |r| r.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((entries, newest(t)?))
        })
        .await
    }

    /// Takes back what an operator kept and this store lost, all of it or nothing.
    pub(crate) async fn restore_audit(&self, entries: Vec<Vec<u8>>) -> Result<Restored> {
        self.call("take the audit log back", move |t| {
            let mut point = newest(t)?;
            let mut next = Vec::with_capacity(entries.len());
            for entry in &entries {
                match point.follow(entry) {
                    Ok((after, _)) => point = after,
                    Err(why) => return Ok(Restored::Refused(why)),
                }
                next.push((point, entry));
            }
            for (point, entry) in next {
                add(t, point, entry)?;
            }
            Ok(Restored::Done(point))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_controller_core::audit::action;

    #[tokio::test]
    async fn entries_chain_pages_follow_and_a_lost_end_is_taken_back_only_where_it_fits() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&dir.path().join(name)).unwrap();
        let (store, empty) = (open("a.db"), open("b.db"));
        let event = |n: u64| Event::new(action::TOKEN, "operator", "t").number(n);
        for n in 0..5 {
            store.audit(vec![event(n), event(n)], Timestamp(n)).await.unwrap();
        }
        let (all, newest) = store.audit_page(0, 1000).await.unwrap();
        let walked = all.iter().fold(Point::START, |p, e| p.follow(e).unwrap().0);
        assert_eq!((walked, newest.sequence), (newest, 10));
        let (page, end) = store.audit_page(4, 3).await.unwrap();
        assert_eq!((page, end), (all[4..7].to_vec(), newest));
        assert!(matches!(empty.restore_audit(all[1..].to_vec()).await.unwrap(), Restored::Refused(_)));
        assert_eq!(empty.audit_page(0, 9).await.unwrap().0.len(), 0, "all or nothing");
        empty.restore_audit(all[..4].to_vec()).await.unwrap();
        assert_eq!(empty.restore_audit(all[4..].to_vec()).await.unwrap(), Restored::Done(newest));
    }
}
