//! The newest receipt of each device: its counter, against replays, and its logs.

use super::{Result, Store, digest, int, uint};
use rusqlite::OptionalExtension as _;
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};
use shoal_protocol::verify::Mark;

impl Store {
    /// The counter and identity of the newest receipt of a device.
    pub(crate) async fn receipt_mark(&self, device: DeviceId) -> Result<Option<Mark>> {
        self.call("read a receipt", move |t| {
            let row = |r: &rusqlite::Row<'_>| {
                Ok(Mark { counter: uint(r.get(0)?), digest: digest(&r.get::<_, Vec<u8>>(1)?)? })
            };
            t.prepare_cached("SELECT counter, digest FROM receipts WHERE device = ?1")?
                .query_row([device.as_str()], row)
                .optional()
        })
        .await
    }

    /// The newest receipt of a device.
    pub(crate) async fn receipt(&self, device: DeviceId) -> Result<Option<Vec<u8>>> {
        self.call("read a receipt", move |t| {
            t.prepare_cached("SELECT envelope FROM receipts WHERE device = ?1")?
                .query_row([device.as_str()], |r| r.get(0))
                .optional()
        })
        .await
    }

    /// Keeps a receipt in the place of the one before, unless a newer one came meanwhile; whether it did so.
    pub(crate) async fn keep_receipt(
        &self,
        device: DeviceId,
        (counter, identity): (u64, Digest),
        envelope: Vec<u8>,
        now: Timestamp,
    ) -> Result<bool> {
        self.call("keep a receipt", move |t| {
            let kept = t.execute(
                "INSERT INTO receipts VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (device) DO UPDATE SET counter = ?2, digest = ?3, at = ?4, envelope = ?5
                 WHERE ?2 > counter",
                (device.as_str(), int(counter), identity.0.as_slice(), int(now.0), envelope),
            )?;
            Ok(kept == 1)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::{NOW, store};
    use super::*;

    #[tokio::test]
    async fn s25_the_newest_receipt_stays_and_an_older_one_does_not_take_its_place() {
        let (_dir, store, e) = store(1).await;
        let of = |n: u64| (n, Digest::of(&n.to_be_bytes()));
        assert_eq!(store.receipt_mark(e.device.clone()).await.unwrap(), None);
        assert!(store.keep_receipt(e.device.clone(), of(2), vec![2], NOW).await.unwrap());
        assert!(!store.keep_receipt(e.device.clone(), of(1), vec![1], NOW).await.unwrap());
        assert!(!store.keep_receipt(e.device.clone(), of(2), vec![9], NOW).await.unwrap());
        assert_eq!(store.receipt(e.device.clone()).await.unwrap(), Some(vec![2]));
        let mark = store.receipt_mark(e.device).await.unwrap().unwrap();
        assert_eq!((mark.counter, mark.digest), of(2));
    }
}
