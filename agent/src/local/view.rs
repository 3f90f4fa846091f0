//! What the lists show: signed pods from admission, uid 0's own from its records, all containers from supervise.
//!
//! Records are read as uid 0; everything after that is done as the agent's uid.

use super::runtime;
use crate::daemon::world::World;
use crate::privilege;
use anyhow::Result;
use shoal_agent_core::plan::Standing;
use shoal_ipc::Layout;
use shoal_protocol::text_map::TextMap;
use shoal_runtime::{AdmittedPod, CriService, Guard, PodRecord, Records};
use std::collections::BTreeMap;

/// Whether uid 0's own socket and records are this process's: its uid made them.
fn is_owner(layout: &Layout) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let me = rustix::process::geteuid().as_raw();
    me == 0 || std::fs::metadata(layout.supervise_root_socket()).is_ok_and(|m| m.uid() == me)
}

fn records(layout: &Layout) -> Result<Vec<PodRecord>> {
    if !is_owner(layout) || !layout.local_dir().is_dir() {
        return Ok(Vec::new());
    }
    Ok(Records::open(layout.local_dir())?.all()?)
}

fn map(text: &TextMap) -> BTreeMap<String, String> {
    text.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The signed pods of this device; none when admission does not answer.
async fn admitted(guard: &Guard) -> Vec<AdmittedPod> {
    let mut world = World::new(Vec::new());
    if let Err(error) = world.refresh_desired(guard).await {
        tracing::warn!(%error, "admission does not say what is signed; names of images are missing");
    }
    let wanted = world.desired.iter().filter(|d| !matches!(d.standing, Standing::Withdrawn { .. }));
    wanted
        .map(|d| {
            let t = &d.deployment.template;
            let image = |c: &shoal_protocol::latest::Container| {
                (c.name.to_string(), c.image.reference.clone(), c.image.manifest)
            };
            AdmittedPod {
                id: d.revision.digest,
                name: d.deployment.name.to_string(),
                sequence: d.revision.sequence,
                ready: d.startable,
                created_at: d.deployment.issued_at.0,
                labels: map(&t.labels),
                annotations: map(&t.annotations),
                containers: t.containers.iter().map(image).collect(),
            }
        })
        .collect()
}

/// A service to look with.
pub(super) fn open(layout: &Layout) -> Result<CriService> {
    let records = records(layout)?;
    privilege::become_agent(layout)?;
    let guard = Guard::new(layout.clone());
    let admitted = runtime()?.block_on(admitted(&guard));
    Ok(CriService::viewer(guard, admitted).with_snapshot(records))
}
