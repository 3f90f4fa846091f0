//! How far rollouts have come: which devices may take which revision, and the orders that they were given.

use super::{Result, Store, audit, digest, int, uint};
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::SignError;
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};

impl Store {
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

#[cfg(test)]
mod tests {
    use super::super::devices::tests::{NOW, store};

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
