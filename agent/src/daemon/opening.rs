//! What must be there before the loop can begin, and the waiting for it.

use super::{STORAGE_RETRY, spread};
use crate::failure::{Explained, Kind};
use crate::store::Store;
use crate::{durable, enroll};
use anyhow::{Context as _, Result};
use shoal_ipc::Layout;
use shoal_protocol::ids::{FleetId, Timestamp};
use shoal_protocol::latest::Root;
use shoal_runtime::{Guard, ImageService};
use std::time::Duration;

/// Opens a store, and waits for as long as a full or broken disk does not let it (F2): what runs goes on meanwhile.
async fn when_writable<T>(open: impl Fn() -> Result<T>) -> Result<T> {
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

/// Records, images, and what admission holds.
pub(super) async fn open(layout: &Layout, guard: &Guard) -> Result<(Store, ImageService, Option<Held>)> {
    let store = when_writable(|| Store::open(&layout.agent_db())).await?;
    let images = when_writable(|| Ok(ImageService::open(guard.clone())?)).await?;
    Ok((store, images, first_look(guard).await?))
}

/// What admission holds of the fleet.
pub(super) struct Held {
    pub(super) fleet: FleetId,
    pub(super) floor: Timestamp,
    pub(super) root: Root,
    /// It holds this device's record: what selects the device counts, whether or not a controller was ever seen.
    pub(super) is_member: bool,
}

/// What admission holds; `None` before enrolment. Waits for admission for as long as it takes.
async fn first_look(guard: &Guard) -> Result<Option<Held>> {
    let mut wait = Duration::from_millis(100);
    loop {
        let look = |admit: &mut shoal_ipc::AdmitClient| {
            let trust = admit.trust()?;
            let Ok(fleet) = trust.fleet.parse::<FleetId>() else { return Ok(None) };
            let is_member = trust.device.is_some();
            Ok(Some((fleet, Timestamp(trust.time_floor), is_member, enroll::held_root(admit))))
        };
        match guard.admit(look).await {
            Ok(None) => return Ok(None),
            Ok(Some((fleet, floor, is_member, root))) => {
                return Ok(Some(Held { fleet, floor, root: root?, is_member }));
            }
            Err(error) if error.is_disconnect() => tracing::info!(%error, "waiting for admission"),
            Err(error) => return Err(error).context("cannot ask admission what it holds"),
        }
        tokio::time::sleep(spread(wait)).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}
