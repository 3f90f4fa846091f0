//! Documents for tests of decisions.

use super::decide::{Held, References, Revision};
use shoal_protocol::ids::{Digest, FleetId, Name, Timestamp};
use shoal_protocol::v1::*;
use std::sync::Arc;

pub(super) fn fleet() -> FleetId {
    FleetId::of_root(&Digest([1; 32]))
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn file(path: &str) -> File {
    File { path: path.into(), size: 8, mode: 0o644, digest: Digest::of(path.as_bytes()) }
}

pub(super) fn deployment(called: &str, sequence: u64) -> Deployment {
    Deployment {
        fleet: fleet(),
        epoch: 1,
        name: name(called),
        sequence,
        issued_at: Timestamp(100),
        not_after: Timestamp(10_000),
        target: Target { selector: Some(Selector::default()), ..Target::default() },
        rollout: Rollout::default(),
        logs: LogConsent::Tail,
        template: PodTemplate {
            runtime_class: RuntimeClass::Wasm,
            network: Network::None,
            restart_policy: RestartPolicy::Always,
            termination_grace: 5,
            containers: vec![Container {
                name: name("main"),
                image: Image {
                    reference: "registry/x:1".into(),
                    manifest: Digest([2; 32]),
                    manifest_size: 10,
                    module: file("/a.wasm"),
                    files: vec![],
                },
                argv: vec!["/a.wasm".into()],
                working_dir: "/".into(),
                resources: Resources::default(),
                readonly_rootfs: false,
                engine: Engine::Aot,
                env: vec![],
                mounts: vec![],
                restart_policy: None,
                liveness_probe: None,
                readiness_probe: None,
                startup_probe: None,
                devices: vec![],
                capabilities: vec![],
                self_test: None,
                stdin: false,
                post_start: None,
                pre_stop: None,
                env_from: vec![],
            }],
            resources: Resources::default(),
            hostname: None,
            volumes: vec![],
            labels: shoal_protocol::text_map::TextMap::default(),
            annotations: shoal_protocol::text_map::TextMap::default(),
            ports: vec![],
            required_features: vec![],
            init_containers: vec![],
        },
        not_before: None,
        requires: vec![],
    }
}

pub(super) fn held(all: &[(&str, u64)]) -> Held {
    let mut out = Held::new();
    for (called, sequence) in all {
        let revision = Revision {
            deployment: Arc::new(deployment(called, *sequence)),
            digest: Digest::of(format!("{called}{sequence}").as_bytes()),
            good: false,
            activated: false,
            returned: false,
            refused: None,
            selected: true,
            documents: References::NONE,
        };
        out.entry(name(called)).or_default().insert(*sequence, revision);
    }
    out
}

pub(super) fn snapshot(all: &[(&str, u64, Liveness)]) -> Snapshot {
    let entries = all
        .iter()
        .map(|(called, sequence, liveness)| Entry {
            kind: EntryKind::Deployment,
            name: name(called),
            liveness: *liveness,
            floor: 0,
            newest: shoal_protocol::v1::Revision { sequence: *sequence, digest: Digest([3; 32]) },
            stable: None,
            removal: None,
        })
        .collect();
    Snapshot {
        fleet: fleet(),
        epoch: 1,
        version: 1,
        root_version: 1,
        issued_at: Timestamp(100),
        not_after: Timestamp(10_000),
        entries,
        audit_head: None,
        previous: None,
    }
}
