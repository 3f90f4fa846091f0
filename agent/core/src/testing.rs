//! Builders that the tests of this crate share.

use crate::plan::{Activity, Desired, Observed, ObservedPod, Standing, Step};
use crate::record::Record;
use shoal_protocol::ids::{Digest, Timestamp};
use shoal_protocol::text_map::TextMap;
use shoal_protocol::v1::*;

pub(crate) const T0: Timestamp = Timestamp(1_000_000);

pub(crate) fn container(name: &str) -> Container {
    let file = File { path: "/app.wasm".into(), size: 1, mode: 0o644, digest: Digest::of(name.as_bytes()) };
    Container {
        name: name.parse().unwrap(),
        image: Image {
            reference: "example/app:1".into(),
            manifest: Digest::of(b"manifest"),
            manifest_size: 1,
            module: file,
            files: vec![],
        },
        argv: vec!["app".into()],
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
        env_from: Vec::new(),
    }
}

pub(crate) fn deployment(name: &str, sequence: u64, policy: RestartPolicy) -> Deployment {
    Deployment {
        fleet: "a".repeat(32).parse().unwrap(),
        epoch: 1,
        name: name.parse().unwrap(),
        sequence,
        issued_at: T0,
        not_after: T0.plus(1_000_000),
        target: Target::default(),
        rollout: Rollout::default(),
        logs: LogConsent::default(),
        template: PodTemplate {
            runtime_class: RuntimeClass::Wasm,
            network: Network::None,
            restart_policy: policy,
            termination_grace: 10,
            containers: vec![container("main")],
            resources: Resources::default(),
            hostname: None,
            volumes: vec![],
            labels: TextMap::default(),
            annotations: TextMap::default(),
            ports: vec![],
            required_features: vec![],
            init_containers: vec![],
        },
        not_before: None,
        requires: vec![],
    }
}

pub(crate) fn desired(name: &str, sequence: u64, standing: Standing) -> Desired {
    let deployment = deployment(name, sequence, RestartPolicy::Always);
    let digest = Digest::of(format!("{name}@{sequence}").as_bytes());
    Desired {
        deployment,
        revision: Revision { sequence, digest },
        standing,
        stageable: true,
        startable: true,
        waiting: None,
    }
}

pub(crate) fn observed(d: &Desired) -> ObservedPod {
    ObservedPod {
        record: Record::new(&d.deployment, T0),
        staged: false,
        activity: Activity::Idle,
        stopping: None,
        removed: false,
        preparing: None,
    }
}

/// A revision whose containers have run since `since`.
pub(crate) fn running(d: &Desired, since: Timestamp) -> ObservedPod {
    let mut pod = observed(d);
    pod.staged = true;
    for c in &d.deployment.template.containers {
        pod.record.started(&c.name, 1, since);
    }
    pod
}

/// The same, found healthy by supervise.
pub(crate) fn healthy(d: &Desired, since: Timestamp) -> ObservedPod {
    let mut pod = running(d, since);
    assert!(pod.record.containers.iter_mut().all(|c| c.found_healthy(1)));
    pod
}

pub(crate) fn all(pods: &[(&Desired, ObservedPod)]) -> Observed {
    Observed { pods: pods.iter().map(|(d, o)| (d.revision.digest, o.clone())).collect() }
}

/// Carries a step out the way the daemon does when all goes well.
pub(crate) fn apply(step: &Step, desired: &[Desired], observed: &mut Observed, now: Timestamp) {
    match step {
        Step::Condemn { pod, code, message } => {
            observed.pods.get_mut(pod).unwrap().record.condemn(code, message, now);
        }
        Step::Stop { pod, .. } => {
            let pod = observed.pods.get_mut(pod).unwrap();
            for c in pod.record.containers.iter_mut().filter(|c| c.is_running()) {
                let attempt = c.attempt;
                c.ended(attempt, Cause::Stopped, now, now, 0);
            }
            pod.stopping = None;
        }
        Step::Remove { pod } => {
            if desired.iter().any(|d| d.revision.digest == *pod) {
                observed.pods.get_mut(pod).unwrap().removed = true;
            } else {
                observed.pods.remove(pod);
            }
        }
        Step::Start { pod, container } => {
            let pod = observed.pods.get_mut(pod).unwrap();
            let name = pod.record.containers[*container].name.clone();
            let attempt = pod.record.containers[*container].begin_attempt();
            pod.record.started(&name, attempt, now);
        }
        Step::Stage { pod } => {
            let pod = observed.pods.get_mut(pod).unwrap();
            pod.staged = true;
            pod.record.fetched();
        }
    }
}
