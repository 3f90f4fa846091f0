//! All pods and containers in CRI's words: what uid 0 recorded, what supervise sees, what admission answers for. Pure.

use super::records::PodRecord;
use super::ticket;
use crate::cri::config::Map;
use crate::cri::message;
use crate::cri::{ContainerId, ContainerState, ContainerStatus, PodSandboxState};
use serde_json::{Value, json};
use shoal_ipc::Layout;
use shoal_protocol::ids::Digest;
use std::collections::BTreeMap;
use std::path::PathBuf;

const SECOND: u64 = 1_000_000_000;

/// A signed pod, as its caller knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmittedPod {
    /// The deployment's identity.
    pub id: Digest,
    /// The deployment.
    pub name: String,
    /// Its sequence.
    pub sequence: u64,
    /// Whether its containers may start.
    pub ready: bool,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Labels of the template.
    pub labels: Map,
    /// Notes of the template.
    pub annotations: Map,
    /// Name, image and manifest of each container.
    pub containers: Vec<(String, String, Digest)>,
}

/// A container, from whatever side it is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its pod's.
    pub pod: String,
    /// The pod's name.
    pub pod_name: String,
    /// Its place under supervise.
    pub key: ContainerId,
    /// Name and attempt.
    pub metadata: message::ContainerMetadata,
    /// What runs; empty when nobody who may ask knows.
    pub image: String,
    /// The manifest.
    pub image_ref: String,
    /// Where it is.
    pub state: ContainerState,
    /// Nanoseconds since 1970.
    pub created_at: u64,
    /// Labels.
    pub labels: Map,
    /// Notes.
    pub annotations: Map,
    /// Whether it is unsigned.
    pub local: bool,
    /// Whether uid 0's records have it.
    pub recorded: bool,
    /// What supervise says; absent before the start.
    pub status: Option<ContainerStatus>,
    /// Its log file.
    pub log_path: PathBuf,
    /// The module; known for a start only.
    pub module: Digest,
}

impl Seen {
    /// CRI `Container`.
    pub fn container(&self) -> message::Container {
        message::Container {
            id: self.id.clone(),
            pod_sandbox_id: self.pod.clone(),
            metadata: self.metadata.clone(),
            image: message::ImageSpec { image: self.image.clone() },
            image_ref: self.image_ref.clone(),
            state: self.state.cri(),
            created_at: self.created_at,
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            shoal: self.extra(),
        }
    }

    /// What CRI has no field for.
    fn extra(&self) -> Value {
        let mut value = json!({ "pod": self.pod_name, "local": self.local });
        if let Some(s) = &self.status {
            value["pid"] = json!(s.pid);
            value["healthy"] = json!(s.healthy);
            value["memory"] = json!(s.stats.memory);
            value["memory_peak"] = json!(s.stats.memory_peak);
            value["memory_limit"] = json!(s.stats.applied.memory_limit);
            value["cpu_usage"] = json!(s.stats.cpu_usage);
            value["cpu_throttled"] = json!(s.stats.cpu_throttled);
            value["dropped_lines"] = json!(s.dropped_lines);
        }
        value
    }

    /// CRI `ContainerStatus`.
    pub fn container_status(&self) -> message::ContainerStatus {
        let s = self.status.as_ref();
        let applied = s.map(|s| &s.stats.applied);
        message::ContainerStatus {
            id: self.id.clone(),
            metadata: self.metadata.clone(),
            state: self.state.cri(),
            created_at: self.created_at,
            started_at: s.map_or(0, |s| s.started_at.saturating_mul(SECOND)),
            finished_at: s.map_or(0, |s| s.finished_at.saturating_mul(SECOND)),
            exit_code: s.map_or(0, ContainerStatus::exit_code),
            image: message::ImageSpec { image: self.image.clone() },
            image_ref: self.image_ref.clone(),
            reason: s.map_or("", ContainerStatus::reason).to_owned(),
            message: s.map(ContainerStatus::message).unwrap_or_default(),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            log_path: self.log_path.display().to_string(),
            resources: applied.map_or(Value::Null, |a| {
                json!({ "linux": {
                    "cpuPeriod": a.cpu_period, "cpuQuota": a.cpu_quota, "cpuShares": a.cpu_shares,
                    "memoryLimitInBytes": a.memory_limit, "memorySwapLimitInBytes": a.memory_swap_limit,
                    "oomScoreAdj": a.oom_score_adj, "cpusetCpus": a.cpuset_cpus, "cpusetMems": a.cpuset_mems,
                } })
            }),
        }
    }

    /// CRI `ContainerStats`, read at `now` (nanoseconds since 1970); nothing before the start.
    pub fn container_stats(&self, now: u64) -> Option<message::ContainerStats> {
        let stats = &self.status.as_ref()?.stats;
        let value = |value| message::UInt64Value { value };
        Some(message::ContainerStats {
            attributes: message::ContainerAttributes {
                id: self.id.clone(),
                metadata: self.metadata.clone(),
                labels: self.labels.clone(),
                annotations: self.annotations.clone(),
            },
            cpu: message::CpuUsage {
                timestamp: now,
                usage_core_nano_seconds: value(stats.cpu_usage.saturating_mul(1_000)),
            },
            memory: message::MemoryUsage {
                timestamp: now,
                working_set_bytes: value(stats.memory),
                peak_bytes: value(stats.memory_peak),
            },
        })
    }
}

/// The id of a container that only supervise counts: the same for as long as that start of it is known.
fn derived_id(key: ContainerId, attempt: u64) -> String {
    Digest::of(format!("{} {} {attempt}", key.pod, key.index).as_bytes()).hex()
}

/// All pods, oldest first: local ones, then signed ones.
pub(super) fn pods(records: &[PodRecord], admitted: &[AdmittedPod]) -> Vec<message::PodSandbox> {
    let state = |ready| if ready { PodSandboxState::Ready } else { PodSandboxState::Notready };
    let local = records.iter().map(|p| {
        let m = &p.config.metadata;
        message::PodSandbox {
            id: p.id.clone(),
            metadata: message::PodSandboxMetadata {
                name: m.name.clone(),
                uid: m.uid.clone(),
                namespace: m.namespace.clone(),
                attempt: m.attempt,
            },
            state: state(!p.stopped).cri(),
            created_at: p.created_at,
            labels: p.config.labels.clone(),
            annotations: p.config.annotations.clone(),
            runtime_handler: "wasm".to_owned(),
        }
    });
    let signed = admitted.iter().map(|p| message::PodSandbox {
        id: p.id.hex(),
        metadata: message::PodSandboxMetadata {
            name: p.name.clone(),
            uid: p.id.hex(),
            namespace: String::new(),
            attempt: u32::try_from(p.sequence).unwrap_or(u32::MAX),
        },
        state: state(p.ready).cri(),
        created_at: p.created_at.saturating_mul(SECOND),
        labels: p.labels.clone(),
        annotations: p.annotations.clone(),
        runtime_handler: "wasm".to_owned(),
    });
    local.chain(signed).collect()
}

/// All containers, newest first.
pub(super) fn containers(
    layout: &Layout,
    records: &[PodRecord],
    observed: Vec<ContainerStatus>,
    admitted: &[AdmittedPod],
) -> Vec<Seen> {
    let mut observed: BTreeMap<ContainerId, ContainerStatus> =
        observed.into_iter().map(|c| (c.id, c)).collect();
    let mut all = Vec::new();
    for pod in records {
        let ticket = pod.ticket_id();
        for (index, c) in pod.live() {
            let key = ContainerId { pod: Digest(ticket.0), index };
            let status = observed.remove(&key);
            let m = &c.config.metadata;
            let name = ticket::container_name(&c.config);
            all.push(Seen {
                id: c.id.clone(),
                pod: pod.id.clone(),
                pod_name: pod.config.metadata.name.clone(),
                key,
                metadata: message::ContainerMetadata { name: m.name.clone(), attempt: m.attempt },
                image: c.config.image.image.clone(),
                image_ref: c.image_ref.clone(),
                state: status.as_ref().map_or(ContainerState::Created, |s| s.state),
                created_at: c.created_at,
                labels: c.config.labels.clone(),
                annotations: c.config.annotations.clone(),
                local: true,
                recorded: true,
                log_path: layout.log_file(&pod.ticket_name, &ticket, &name, 1),
                status,
                module: Digest([0; 32]),
            });
        }
    }
    for (key, status) in observed {
        let pod = admitted.iter().find(|p| p.id == key.pod);
        let image = pod.and_then(|p| p.containers.get(usize::from(key.index)));
        let attempt = status.metadata.attempt;
        let ticket = shoal_ipc::Digest(key.pod.0);
        all.push(Seen {
            id: derived_id(key, attempt),
            pod: key.pod.hex(),
            pod_name: status.pod_name.clone(),
            key,
            metadata: message::ContainerMetadata {
                name: status.metadata.name.clone(),
                attempt: u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX),
            },
            image: image.map(|i| i.1.clone()).unwrap_or_default(),
            image_ref: image.map(|i| i.2.to_string()).unwrap_or_default(),
            state: status.state,
            created_at: status.started_at.saturating_mul(SECOND),
            labels: pod.map(|p| p.labels.clone()).unwrap_or_default(),
            annotations: pod.map(|p| p.annotations.clone()).unwrap_or_default(),
            local: status.local,
            recorded: false,
            log_path: layout.log_file(&status.pod_name, &ticket, &status.metadata.name, attempt),
            status: Some(status),
            module: Digest([0; 32]),
        });
    }
    all.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    all
}

#[cfg(test)]
mod tests {
    use super::super::records::ContainerRecord;
    use super::*;
    use shoal_ipc::Cause;

    fn status(pod: Digest, index: u16, local: bool, cause: Option<Cause>) -> ContainerStatus {
        shoal_ipc::ContainerState {
            ticket: shoal_ipc::Digest(pod.0),
            deployment: "local_a_07".into(),
            index,
            name: "main".into(),
            attempt: 1,
            running: cause.is_none(),
            pid: 4,
            started_at: 9,
            finished_at: 0,
            healthy: false,
            cause,
            stats: shoal_ipc::StatsInfo::default(),
            stderr_tail: String::new(),
            dropped_lines: 0,
            ready: None,
            probe_message: String::new(),
            local,
        }
        .into()
    }

    #[test]
    fn a_recorded_container_is_created_until_supervise_has_it_and_others_have_steady_ids() {
        let id = Digest([7; 32]);
        let record = |name: &str| {
            let mut config = crate::cri::config::ContainerConfig::default();
            config.metadata.name = name.into();
            Some(ContainerRecord { id: name.repeat(8), config, image_ref: "sha256:x".into(), created_at: 3 })
        };
        let pod = PodRecord {
            id: id.hex(),
            config: crate::cri::config::PodSandboxConfig::default(),
            ticket_name: "local_a_07".into(),
            created_at: 1,
            stopped: false,
            containers: vec![None, record("one"), record("two")],
        };
        let signed = Digest([8; 32]);
        let observed =
            vec![status(id, 2, true, Some(Cause::Exited { code: 3 })), status(signed, 0, false, None)];
        let layout = Layout::new("/x");
        let all = containers(&layout, &[pod], observed.clone(), &[]);
        let find = |name: &str| all.iter().find(|s| s.metadata.name == name).unwrap();
        assert_eq!((find("one").state, find("two").state), (ContainerState::Created, ContainerState::Exited));
        assert_eq!(find("two").container_status().exit_code, 3);
        assert!(find("two").log_path.ends_with("local_a_07_070707070707/two/1.log"));
        let other = find("main");
        assert!(!other.recorded && !other.local && other.state == ContainerState::Running);
        assert_eq!(other.id.len(), 64);
        let again = containers(&layout, &[], observed, &[]);
        assert!(again.iter().any(|s| s.id == other.id), "the same id each time");
        assert_eq!(find("one").container_stats(5), None);
        assert!(find("two").container_stats(5).is_some());
    }
}
