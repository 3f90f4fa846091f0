//! What people see of devices and their pods: the API's types from a record, a report and what the controller noticed.

use crate::api;
use crate::device_state;
use shoal_protocol::ids::{DeviceId, Timestamp};
use shoal_protocol::latest as wire;
use shoal_protocol::text_map::TextMap;
use std::collections::BTreeMap;

/// What is stored of one device.
#[derive(Debug, Clone)]
pub struct DeviceFile {
    /// Its signed record.
    pub record: wire::DeviceRecord,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// End of its newest certificate.
    pub certificate_not_after: Option<Timestamp>,
    /// Whether its certificates were revoked.
    pub revoked: bool,
    /// Its newest report.
    pub report: Option<wire::Report>,
    /// What it is by its last hello, which may be newer than the report.
    pub system: Option<wire::System>,
    /// What the controller noticed about it.
    pub alarms: Vec<String>,
}

impl DeviceFile {
    /// Its id.
    pub fn id(&self) -> &DeviceId {
        &self.record.device
    }

    /// What it is, by its last hello or report.
    pub fn system(&self) -> Option<&wire::System> {
        self.system.as_ref().or_else(|| self.report.as_ref().map(|r| &r.system))
    }

    /// Whether it is there.
    pub fn state(&self, now: Timestamp) -> api::DeviceState {
        device_state(self.revoked, self.last_seen, now)
    }

    /// Its host name, once it was heard.
    pub fn hostname(&self) -> Option<String> {
        self.system().map(|s| s.hostname.clone())
    }

    /// What it reports of one revision.
    pub fn pod(&self, revision: &wire::Revision) -> Option<&wire::PodStatus> {
        self.report.as_ref()?.pods.iter().find(|p| p.revision == *revision)
    }

    /// All its pods.
    pub fn pods(&self, now: Timestamp) -> Vec<api::Pod> {
        let pods = self.report.iter().flat_map(|r| &r.pods);
        pods.map(|p| self.pod_view(p, now)).collect()
    }

    /// One pod of it.
    pub fn pod_view(&self, pod: &wire::PodStatus, now: Timestamp) -> api::Pod {
        api::Pod {
            device: self.id().clone(),
            hostname: self.hostname().unwrap_or_default(),
            deployment: pod.name.clone(),
            revision: pod.revision.into(),
            phase: pod.phase.into(),
            since: pod.since,
            reason: pod.reason.clone(),
            message: pod.message.clone(),
            deadline: pod.deadline,
            containers: pod.containers.iter().map(api::Container::from).collect(),
            device_state: self.state(now),
            last_seen: self.last_seen,
        }
    }

    /// What it refused.
    pub fn refusals(&self) -> Vec<api::Refusal> {
        let all = self.report.iter().flat_map(|r| &r.refusals);
        all.map(|r| api::Refusal {
            device: self.id().clone(),
            code: r.code.clone(),
            count: r.count,
            last: r.last,
            message: r.message.clone(),
        })
        .collect()
    }

    /// The device without pods and refusals.
    pub fn summary(&self, now: Timestamp) -> api::Device {
        let report = self.report.as_ref();
        let well = |p: &&wire::PodStatus| matches!(p.phase, wire::Phase::Healthy | wire::Phase::Succeeded);
        let reported = report.map(|r| r.conditions.clone()).unwrap_or_default();
        api::Device {
            id: self.id().clone(),
            state: self.state(now),
            labels: labels(&self.record.labels),
            record_sequence: self.record.sequence,
            enrolled_at: self.enrolled_at,
            last_seen: self.last_seen,
            certificate_not_after: self.certificate_not_after,
            system: self.system().map(api::System::from),
            root_version: report.map(|r| r.root_version),
            snapshot: report.and_then(|r| r.snapshot).map(api::SnapshotRef::from),
            report_counter: report.map_or(0, |r| r.counter),
            conditions: reported.into_iter().chain(self.alarms.iter().cloned()).collect(),
            pods_total: report.map_or(0, |r| r.pods.len() as u64),
            pods_healthy: report.map_or(0, |r| r.pods.iter().filter(well).count() as u64),
            pods: Vec::new(),
            refusals: Vec::new(),
        }
    }
}

/// Labels as JSON has them.
pub fn labels(map: &TextMap) -> BTreeMap<String, String> {
    map.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Whom a deployment is for, in words.
pub fn target(target: &wire::Target) -> String {
    let mut parts: Vec<String> = Vec::new();
    if !target.devices.is_empty() {
        parts.push(format!(
            "devices {}",
            target.devices.iter().map(DeviceId::as_str).collect::<Vec<_>>().join(",")
        ));
    }
    if let Some(selector) = &target.selector {
        parts.push(crate::selector::text(selector));
    }
    let mut text = if parts.is_empty() { "nobody".to_owned() } else { parts.join(" or ") };
    if !target.architectures.is_empty() {
        text = format!("{text}; {} only", target.architectures.join(", "));
    }
    text
}
