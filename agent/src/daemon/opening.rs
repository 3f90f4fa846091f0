//! What must be there before the loop can begin, and the waiting for it.

use super::{STORAGE_RETRY, spread};
use crate::failure::{Explained, Kind};
use crate::{durable, enroll};
use anyhow::{Context as _, Result};
use shoal_ipc::Layout;
use shoal_protocol::ids::{FleetId, Timestamp};
use shoal_protocol::latest::Root;
use shoal_runtime::Guard;
use std::time::Duration;

/// Opens a store, and waits for as long as a full or broken disk does not let it (F2): what runs goes on meanwhile.
pub(super) async fn when_writable<T>(open: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match open() {
            Err(error) if durable::is_storage_unavailable(&error) => {
                tracing::error!(error = %format!("{error:#}"), "storage_unavailable: tried again in {} s", STORAGE_RETRY.as_secs());
                tokio::time::sleep(STORAGE_RETRY).await;
            }
            other => return other,
        }
    }
}

pub(super) fn not_enrolled(layout: &Layout) -> anyhow::Error {
    Explained::new(Kind::Unavailable, format!("the device below {} is not enrolled", layout.root().display()))
        .hint("enrol it first: shoal-agent enroll JOINFILE")
        .into()
}

/// Fleet, time floor and root that admission holds; `None` before enrolment. Waits for admission for as long as it takes.
pub(super) async fn first_look(guard: &Guard) -> Result<Option<(FleetId, Timestamp, Root)>> {
    let mut wait = Duration::from_millis(100);
    loop {
        let look = |admit: &mut shoal_ipc::AdmitClient| {
            let trust = admit.trust()?;
            let Ok(fleet) = trust.fleet.parse::<FleetId>() else { return Ok(None) };
            Ok(Some((fleet, Timestamp(trust.time_floor), enroll::held_root(admit))))
        };
        match guard.admit(look).await {
            Ok(None) => return Ok(None),
            Ok(Some((fleet, floor, root))) => return Ok(Some((fleet, floor, root?))),
            Err(error) if error.is_disconnect() => tracing::info!(%error, "waiting for admission"),
            Err(error) => return Err(error).context("cannot ask admission what it holds"),
        }
        tokio::time::sleep(spread(wait)).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}
