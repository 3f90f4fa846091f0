//! What the agent is told of everything that admission holds.

use super::model::{Model, open_for, storage};
use super::ticket;
use shoal_ipc::{DeviceInfo, HeldRevision, RefusalCount, SnapshotInfo, TrustSummary};
use shoal_protocol::refusal::Refusal;

impl Model {
    pub(super) fn summary(&self) -> Result<TrustSummary, Refusal> {
        let trust = &self.trust;
        let standings = self.standings();
        let held = self
            .held
            .iter()
            .flat_map(|(name, all)| all.iter().map(move |(sequence, r)| (name, *sequence, r)))
            .filter_map(|(name, sequence, r)| {
                let s = standings.get(&r.digest)?;
                let (stageable, startable) = open_for(s);
                let (name, digest) = (name.to_string(), ticket::digest(&r.digest));
                Some(HeldRevision {
                    name,
                    sequence,
                    digest,
                    role: s.role,
                    stageable,
                    startable,
                    reason: s.reason.clone(),
                    detail: s.detail.clone(),
                })
            })
            .collect();
        let refusals = self.store.refusals().map_err(|e| storage(&e))?;
        let snapshot = trust.snapshot.as_ref().map(|s| SnapshotInfo {
            version: s.document.version,
            digest: ticket::digest(&s.digest),
            not_after: s.document.not_after.0,
        });
        let device = trust.record.as_ref().map(|r| DeviceInfo {
            device: r.document.device.to_string(),
            sequence: r.document.sequence,
            labels: r.document.labels.iter().flat_map(|(k, v)| [k.to_owned(), v.to_owned()]).collect(),
        });
        Ok(TrustSummary {
            fleet: trust.anchor.as_ref().map(|a| a.fleet.to_string()).unwrap_or_default(),
            root_version: trust.anchor.as_ref().map_or(0, |a| a.root.document.version),
            snapshot,
            device,
            order_counter: trust.order_counter,
            time_floor: trust.time_floor.0,
            held,
            refusals: refusals
                .into_iter()
                .map(|r| RefusalCount { code: r.code, count: r.count, last: r.last, last_at: r.at })
                .collect(),
            conditions: self.conditions(),
            fact_counter: self.fact_counter,
            documents: self.documents.summary().into_iter().chain(self.release_summary()).collect(),
        })
    }
}
