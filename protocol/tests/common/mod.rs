//! A fleet with all its keys, and good documents of every kind, for tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod arbitrary;

use shoal_protocol::codec::Value;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Bytes, Digest, FleetId, Name, Timestamp};
use shoal_protocol::text_map::{ByteMap, TextMap};
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, OwnKeys, Platform, TrustState, Verdict, verify};
use shoal_protocol::{Code, Ed25519Signer, Refusal, Signer};
use std::collections::BTreeMap;

/// Today, in these tests: 2026-06-01.
pub const NOW: Timestamp = Timestamp(1_780_272_000);
pub const DAY: u64 = 86_400;
pub const YEAR: u64 = 365 * DAY;

pub fn key(n: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed([n; 32])
}

pub fn name(s: &str) -> Name {
    s.parse().unwrap()
}

pub fn revision(sequence: u64, digest: Digest) -> Revision {
    Revision { sequence, digest }
}

/// Who holds which seed.
pub mod seed {
    pub const ROOT: u8 = 1;
    pub const SNAPSHOT: u8 = 2;
    pub const DEPLOY: u8 = 3;
    pub const ENROLL: u8 = 4;
    pub const ONLINE: u8 = 5;
    pub const TOKEN: u8 = 6;
    pub const IDENTITY: u8 = 7;
    pub const ATTEST: u8 = 8;
    pub const WEB: u8 = 9;
    pub const RELEASE: u8 = 10;
    pub const STRANGER: u8 = 99;
}

pub fn role(name: RoleName, threshold: u64, seeds: &[u8]) -> Role {
    Role {
        name,
        threshold,
        keys: seeds.iter().map(|s| key(*s).public()).collect(),
        prefix: String::new(),
        may_remove: name == RoleName::Deployment,
        ceiling: None,
    }
}

pub fn root_1() -> Root {
    Root {
        version: 1,
        epoch: 1,
        issued_at: Timestamp(NOW.0 - 30 * DAY),
        not_after: NOW.plus(YEAR),
        roles: vec![
            role(RoleName::Root, 1, &[seed::ROOT]),
            role(RoleName::Snapshot, 1, &[seed::SNAPSHOT]),
            role(RoleName::Deployment, 1, &[seed::DEPLOY]),
            role(RoleName::Enrollment, 1, &[seed::ENROLL]),
            Role {
                prefix: "web-".into(),
                may_remove: false,
                ceiling: Some(Ceiling {
                    network: Network::None,
                    host_paths: vec!["/srv/web".into()],
                    devices: vec![],
                    memory: Some(64 << 20),
                }),
                ..role(RoleName::Deployment, 1, &[seed::WEB])
            },
        ],
        controller: Controller {
            online: key(seed::ONLINE).public(),
            ca: vec![Bytes(vec![0x30, 0x03, 1, 2, 3])],
            api: vec!["https://fleet.example:8443".into()],
            mqtt: vec!["mqtts://fleet.example:8883".into()],
        },
        fleet: None,
        revoked: vec![],
        ext: BTreeMap::new(),
    }
}

pub fn module() -> File {
    File { path: "/app.wasm".into(), size: 1234, mode: 0o755, digest: Digest::of(b"module") }
}

pub fn container(n: &str) -> Container {
    Container {
        name: name(n),
        image: Image {
            reference: "registry.example/app:1".into(),
            manifest: Digest::of(b"manifest"),
            manifest_size: 512,
            module: module(),
            files: vec![],
        },
        argv: vec!["/app.wasm".into()],
        working_dir: "/".into(),
        resources: Resources { memory_limit: Some(15_728_640), ..Resources::default() },
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
    }
}

pub fn labels() -> TextMap {
    [("site", "lab"), ("role", "gateway")].into_iter().collect()
}

/// A fleet and one device of it: what the device knows, and the keys to sign with.
pub struct Fleet {
    pub id: FleetId,
    pub state: TrustState,
}

impl Fleet {
    /// A device that holds root, record and an empty snapshot of version 1.
    pub fn new() -> Self {
        Self::with_root(&root_1())
    }

    pub fn with_root(root: &Root) -> Self {
        let (bytes, digest) = seal(root, &[seed::ROOT]);
        let mut state = TrustState {
            own: Some(OwnKeys { sealing: Bytes(vec![9; 32]), attest: key(seed::ATTEST).public() }),
            platform: Some(Platform {
                architecture: "x86_64".into(),
                agent: "0.1.0".into(),
                engine: "0.17.1".into(),
            }),
            ..TrustState::default()
        };
        let verdict = verify(&bytes, &state, NOW, Expect::FirstRoot).unwrap();
        state.advance(&verdict);
        let mut fleet = Self { id: FleetId::of_root(&digest), state };
        fleet.accept(&seal(&fleet.record(1), &[seed::ENROLL]).0).unwrap();
        fleet.accept(&seal(&fleet.snapshot(1, vec![]), &[seed::SNAPSHOT]).0).unwrap();
        fleet
    }

    pub fn record(&self, sequence: u64) -> DeviceRecord {
        DeviceRecord {
            fleet: self.id.clone(),
            epoch: 1,
            device: key(seed::IDENTITY).public().device_id(),
            sequence,
            issued_at: NOW,
            identity: key(seed::IDENTITY).public(),
            sealing: Bytes(vec![9; 32]),
            attest: key(seed::ATTEST).public(),
            labels: labels(),
            decommissioned: false,
        }
    }

    pub fn deployment(&self, n: &str, sequence: u64) -> Deployment {
        Deployment {
            fleet: self.id.clone(),
            epoch: 1,
            name: name(n),
            sequence,
            issued_at: NOW,
            not_after: NOW.plus(30 * DAY),
            target: Target {
                selector: Some(Selector { match_labels: labels(), match_expressions: vec![] }),
                ..Target::default()
            },
            rollout: Rollout::default(),
            logs: LogConsent::Tail,
            template: PodTemplate {
                runtime_class: RuntimeClass::Wasm,
                network: Network::None,
                restart_policy: RestartPolicy::Always,
                termination_grace: 30,
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

    pub fn snapshot(&self, version: u64, entries: Vec<Entry>) -> Snapshot {
        Snapshot {
            fleet: self.id.clone(),
            epoch: 1,
            version,
            root_version: 1,
            issued_at: NOW,
            not_after: NOW.plus(30 * DAY),
            entries,
            audit_head: None,
            previous: None,
        }
    }

    pub fn token(&self) -> Token {
        Token {
            fleet: self.id.clone(),
            epoch: 1,
            key: key(seed::TOKEN).public(),
            issued_at: NOW,
            not_after: NOW.plus(DAY),
            uses: 1,
            approval: false,
            minima: Minima { root_version: 1, snapshot_version: 1, time: NOW },
            labels: labels(),
        }
    }

    pub fn order(&self, counter: u64, verb: Verb) -> Order {
        Order {
            fleet: self.id.clone(),
            device: key(seed::IDENTITY).public().device_id(),
            counter,
            issued_at: NOW,
            not_after: NOW.plus(600),
            verb,
        }
    }

    pub fn report(&self, counter: u64) -> Report {
        Report {
            fleet: self.id.clone(),
            device: key(seed::IDENTITY).public().device_id(),
            counter,
            issued_at: NOW,
            root_version: 1,
            system: System::default(),
            pods: vec![],
            snapshot: None,
            refusals: vec![],
            facts: vec![],
            conditions: vec![],
        }
    }

    pub fn fact(&self, counter: u64) -> Fact {
        Fact {
            fleet: self.id.clone(),
            device: key(seed::IDENTITY).public().device_id(),
            counter,
            at: NOW,
            deployment: Digest::of(b"deployment"),
            name: name("app"),
            container: name("main"),
            attempt: 1,
            event: Event::Healthy,
        }
    }

    pub fn config(&self, n: &str, sequence: u64) -> Config {
        Config {
            fleet: self.id.clone(),
            epoch: 1,
            name: name(n),
            sequence,
            issued_at: NOW,
            not_after: NOW.plus(30 * DAY),
            data: [("greeting", format!("hello {sequence}"))].into_iter().collect(),
        }
    }

    pub fn secret(&self, n: &str, sequence: u64) -> Secret {
        Secret {
            fleet: self.id.clone(),
            epoch: 1,
            name: name(n),
            sequence,
            issued_at: NOW,
            not_after: NOW.plus(30 * DAY),
            deployments: vec!["app".into(), "web-*".into()],
            keys: vec!["token".into()],
            commitment: Digest::of(b"key"),
            sealed: Bytes(vec![7; 64]),
        }
    }

    pub fn grant(&self, n: &str, revision: Revision) -> Grant {
        Grant {
            fleet: self.id.clone(),
            epoch: 1,
            device: key(seed::IDENTITY).public().device_id(),
            name: name(n),
            revision,
            issued_at: NOW,
            sealed: Bytes(vec![8; 80]),
        }
    }

    pub fn release(&self, n: &str, sequence: u64, version: &str) -> Release {
        let file = |path: &str, executable, packed| ReleaseFile {
            path: path.into(),
            size: 1000,
            digest: Digest::of(path.as_bytes()),
            executable,
            packed,
        };
        let packed = Some(Blob { digest: Digest::of(b"packed"), size: 400 });
        let build = |architecture: &str| Build {
            architecture: architecture.into(),
            reference: "registry.example/shoal:2".into(),
            manifest: Digest::of(b"release manifest"),
            files: vec![
                file("engine/run/lib/libwasmedge.so.0", false, packed),
                file("shoal-agent", true, packed),
                file("shoal-guard", true, None),
                file("shoal-runner", true, None),
            ],
        };
        Release {
            fleet: self.id.clone(),
            epoch: 1,
            name: name(n),
            sequence,
            issued_at: NOW,
            not_after: NOW.plus(30 * DAY),
            target: self.deployment("app", 1).target,
            version: version.into(),
            builds: vec![build("aarch64"), build("x86_64")],
            deadline: Some(300),
        }
    }

    /// For all devices, beside this snapshot.
    pub fn receipt_request(&self, snapshot: SnapshotRef) -> ReceiptRequest {
        ReceiptRequest {
            fleet: self.id.clone(),
            epoch: 1,
            snapshot,
            target: Target { selector: Some(Selector::default()), ..Target::default() },
            issued_at: NOW,
            not_after: Timestamp(NOW.0 + 31 * DAY),
            logs: 0,
        }
    }

    pub fn receipt(&self, counter: u64) -> Receipt {
        Receipt {
            fleet: self.id.clone(),
            device: key(seed::IDENTITY).public().device_id(),
            counter,
            issued_at: NOW,
            request: Digest::of(b"request"),
            record: Bytes(vec![1]),
            reports: vec![],
            left_out: 0,
            enrollment: None,
            logs: vec![],
        }
    }

    pub fn root_2(&self) -> Root {
        Root { version: 2, fleet: Some(self.id.clone()), issued_at: NOW, ..root_1() }
    }

    /// Verifies as a device does with what was delivered; what is good is taken over.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<Verdict, Refusal> {
        self.accept_as(bytes, Expect::Delivered)
    }

    pub fn accept_as(&mut self, bytes: &[u8], expect: Expect) -> Result<Verdict, Refusal> {
        let verdict = verify(bytes, &self.state, NOW, expect)?;
        self.state.advance(&verdict);
        Ok(verdict)
    }

    /// The code of the refusal; the state must stay as it was.
    #[track_caller]
    pub fn refused(&mut self, bytes: &[u8]) -> Code {
        self.refused_as(bytes, Expect::Delivered)
    }

    #[track_caller]
    pub fn refused_as(&mut self, bytes: &[u8], expect: Expect) -> Code {
        let before = self.state.clone();
        let refusal = self.accept_as(bytes, expect).expect_err("it was accepted");
        assert_eq!(self.state, before, "a refusal changes nothing");
        refusal.code
    }

    /// The next snapshot, with these deployments as they are listed now and `entry` set.
    pub fn list(&mut self, entry: Entry) -> Vec<u8> {
        let held = self.state.snapshot.as_ref().unwrap().document.clone();
        let mut entries: Vec<Entry> =
            held.entries.iter().filter(|e| (e.kind, &e.name) != (entry.kind, &entry.name)).cloned().collect();
        entries.push(entry);
        entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        seal(&Snapshot { epoch: held.epoch, ..self.snapshot(held.version + 1, entries) }, &[seed::SNAPSHOT]).0
    }

    /// Lists and signs a deployment and lets the device have both; returns the envelope.
    pub fn publish(&mut self, d: &Deployment) -> Result<Vec<u8>, Refusal> {
        let (bytes, digest) = seal(d, &[seed::DEPLOY]);
        let snapshot = self.list(entry(d.name.as_str(), revision(d.sequence, digest)));
        self.accept(&snapshot)?;
        self.accept(&bytes)?;
        Ok(bytes)
    }

    /// A new good deployment still applies.
    #[track_caller]
    pub fn still_works(&mut self) {
        let next = self
            .state
            .deployments
            .get(&name("proof"))
            .and_then(shoal_protocol::verify::History::highest)
            .map_or(1, |r| r.sequence + 1);
        let d = Deployment { epoch: self.epoch(), ..self.deployment("proof", next) };
        self.publish(&d).expect("a good document after a bad one applies");
    }

    fn epoch(&self) -> u64 {
        self.state.anchor.as_ref().unwrap().root.document.epoch
    }
}

pub fn entry(n: &str, newest: Revision) -> Entry {
    Entry {
        kind: EntryKind::Deployment,
        name: name(n),
        liveness: Liveness::Live,
        floor: 0,
        newest,
        stable: None,
        removal: None,
    }
}

pub fn seal<T: Document>(document: &T, seeds: &[u8]) -> (Vec<u8>, Digest) {
    let signers: Vec<Ed25519Signer> = seeds.iter().map(|s| key(*s)).collect();
    let signers: Vec<&dyn Signer> = signers.iter().map(|s| s as &dyn Signer).collect();
    seal_document(document, &signers).unwrap()
}

/// A sample of everything: every optional field set, every list filled.
pub mod full {
    use super::*;

    pub fn resources() -> Resources {
        Resources {
            memory_limit: Some(15_728_640),
            memory_request: Some(1 << 20),
            cpu_quota: Some(20_000),
            cpu_period: Some(10_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0".into()),
            cpuset_mems: Some("0-1,3".into()),
            pids_limit: Some(16),
            oom_score_adj: Some(-30),
            wasm_pages: Some(256),
            cpu_seconds: Some(60),
            wall_seconds: Some(3600),
            disk: Some(DiskLimits {
                read_bps: Some(4096),
                write_bps: Some(8192),
                read_iops: Some(1),
                write_iops: Some(2),
            }),
        }
    }

    pub fn probe(action: ProbeAction) -> Probe {
        Probe {
            action,
            initial_delay: 1,
            period: 10,
            timeout: 1,
            failure_threshold: 3,
            success_threshold: Some(1),
        }
    }

    pub fn root(fleet: &FleetId) -> Root {
        let mut root = Root { version: 2, fleet: Some(fleet.clone()), ..root_1() };
        if let Some(ceiling) = &mut root.roles[4].ceiling {
            ceiling.devices = vec!["/dev/ttyUSB0".into()];
        }
        root.revoked = vec![Revocation { key: key(seed::STRANGER).public(), disposition: Disposition::Stop }];
        root.ext = [
            (Value::Unsigned(7), Value::Negative(0)),
            (
                Value::Text("note".into()),
                Value::Array(vec![Value::Bool(true), Value::Bytes(Bytes(vec![1, 2]))]),
            ),
        ]
        .into_iter()
        .collect();
        root
    }

    pub fn snapshot(fleet: &FleetId) -> Snapshot {
        Snapshot {
            fleet: fleet.clone(),
            epoch: 1,
            version: 3,
            root_version: 1,
            issued_at: NOW,
            not_after: NOW.plus(DAY),
            entries: vec![Entry {
                kind: EntryKind::Deployment,
                name: name("app"),
                liveness: Liveness::Removed,
                floor: 2,
                newest: revision(4, Digest::of(b"4")),
                stable: Some(revision(3, Digest::of(b"3"))),
                removal: Some(Digest::of(b"removal")),
            }],
            audit_head: Some(Digest::of(b"audit")),
            previous: Some(Digest::of(b"previous")),
        }
    }

    pub fn deployment(fleet: &FleetId) -> Deployment {
        let mut c = container("main");
        c.image.files =
            vec![File { path: "/etc/app.toml".into(), size: 10, mode: 0o644, digest: Digest::of(b"file") }];
        c.resources = resources();
        c.env = vec![EnvVar::plain("HOME", "/")];
        c.mounts = vec![Mount { volume: name("data"), path: "/data".into(), read_only: true }];
        c.env.push(EnvVar {
            from: Some(EnvSource::Secret { document: reference("password"), key: "token".into() }),
            ..EnvVar::plain("TOKEN", "")
        });
        c.env_from = vec![EnvFrom::Config { document: reference("more"), prefix: "APP_".into() }];
        c.restart_policy = Some(RestartPolicy::OnFailure);
        c.liveness_probe = Some(probe(ProbeAction::Exec { module: module(), argv: vec!["check".into()] }));
        c.readiness_probe = Some(probe(ProbeAction::Tcp { port: 80 }));
        c.startup_probe = Some(probe(ProbeAction::Http { port: 80, path: "/".into() }));
        c.devices = vec![DeviceGrant {
            host_path: "/dev/ttyUSB0".into(),
            path: "/dev/ttyUSB0".into(),
            read_only: false,
        }];
        c.capabilities = vec!["NET_ADMIN".into()];
        c.self_test = Some("self_test".into());
        c.stdin = true;
        let hook = |word: &str| Some(Hook { module: module(), argv: vec![word.into()] });
        (c.post_start, c.pre_stop) = (hook("begin"), hook("end"));
        let mut init = container("init");
        init.liveness_probe = Some(probe(ProbeAction::FileFresh { path: "/data/beat".into(), max_age: 30 }));
        let window = Window { days: 127, start: 3600, length: 7200 };
        Deployment {
            fleet: fleet.clone(),
            epoch: 1,
            name: name("app"),
            sequence: 4,
            issued_at: NOW,
            not_after: NOW.plus(DAY),
            target: Target {
                devices: vec![key(seed::IDENTITY).public().device_id()],
                selector: Some(Selector {
                    match_labels: labels(),
                    match_expressions: vec![Requirement {
                        key: "site".into(),
                        operator: Operator::In,
                        values: vec!["lab".into()],
                    }],
                }),
                architectures: vec!["x86_64".into(), "aarch64".into()],
                min_agent: Some("0.1.0".into()),
                min_engine: Some("0.17.0".into()),
            },
            rollout: Rollout {
                activation: Activation::Ordered,
                max_unavailable: Some(2),
                max_failed: Some(1),
                deadline: Some(600),
                ramp: Some(Ramp { start: NOW, duration: 3600 }),
                download_windows: vec![window.clone()],
                update_windows: vec![window],
            },
            logs: LogConsent::Full,
            template: PodTemplate {
                runtime_class: RuntimeClass::Oci,
                network: Network::Host,
                restart_policy: RestartPolicy::Never,
                termination_grace: 30,
                containers: vec![c],
                resources: resources(),
                hostname: Some("app-1".into()),
                volumes: vec![
                    Volume {
                        name: name("data"),
                        source: VolumeSource::EmptyDir { size_limit: Some(1 << 20) },
                    },
                    Volume {
                        name: name("host"),
                        source: VolumeSource::HostPath { path: "/srv/shoal".into() },
                    },
                    Volume {
                        name: name("keep"),
                        source: VolumeSource::Persistent { size_limit: Some(1 << 20) },
                    },
                    Volume {
                        name: name("conf"),
                        source: VolumeSource::Config {
                            document: DocumentRef {
                                name: name("settings"),
                                optional: false,
                                pin: Some(revision(3, Digest::of(b"settings"))),
                            },
                            mode: 0o644,
                            items: vec![KeyFile {
                                key: "app.toml".into(),
                                path: "etc/app.toml".into(),
                                mode: Some(0o400),
                            }],
                        },
                    },
                    Volume {
                        name: name("keys"),
                        source: VolumeSource::Secret {
                            document: reference("password"),
                            mode: 0o400,
                            items: vec![],
                        },
                    },
                ],
                labels: labels(),
                annotations: [("owner", "ops")].into_iter().collect(),
                ports: vec![PortMapping { container_port: 80, host_port: 8080, udp: false }],
                required_features: vec!["landlock".into()],
                init_containers: vec![init],
            },
            not_before: Some(NOW),
            requires: vec![Require { name: name("base"), sequence: 2 }],
        }
    }

    pub fn orders(fleet: &Fleet) -> Vec<Order> {
        let rev = revision(4, Digest::of(b"4"));
        [
            Verb::Stage { name: name("app"), revision: rev },
            Verb::Activate { name: name("app"), revision: rev },
            Verb::Return { name: name("app"), revision: rev },
            Verb::Restart { name: name("app") },
            Verb::Logs { name: name("app"), container: Some(name("main")), tail: 200, follow: 60, stream: 1 },
        ]
        .into_iter()
        .zip(1..)
        .map(|(verb, counter)| fleet.order(counter, verb))
        .collect()
    }

    pub fn causes() -> Vec<Cause> {
        vec![
            Cause::Exited { code: 3 },
            Cause::Trap { message: "unreachable".into() },
            Cause::GuestMemory,
            Cause::OomKilled,
            Cause::CpuLimit,
            Cause::TimeLimit,
            Cause::Unhealthy,
            Cause::Stopped,
            Cause::Signal { number: 11 },
            Cause::Refused { code: "limit_not_applied".into() },
            Cause::Unknown,
        ]
    }

    pub fn report(fleet: &Fleet) -> Report {
        let status = |cause| ContainerStatus {
            name: name("main"),
            attempt: 2,
            running: true,
            started_at: Some(NOW),
            finished_at: Some(NOW),
            last_end: Some(cause),
            memory: Some(1),
            memory_peak: Some(2),
            memory_limit: Some(3),
            cpu_usage: Some(4),
            cpu_throttled: Some(5),
            cpu_quota: Some(6),
            cpu_period: Some(7),
            stderr_tail: Some("boom".into()),
            dropped_lines: Some(8),
            compiled: Some(Compiled {
                engine: "0.17.1".into(),
                millis: 900,
                module_size: 1234,
                code_size: 5678,
                cache_hit: true,
            }),
            cpu_throttled_periods: Some(9),
            ready: Some(true),
            probe_message: Some("no answer in 1 s".into()),
            init: true,
        };
        Report {
            system: System {
                agent: "0.1.0".into(),
                engine: "0.17.1".into(),
                architecture: "x86_64".into(),
                kernel: "6.1".into(),
                hostname: "edge-1".into(),
                cgroups: "v1".into(),
                memory: 1 << 30,
                disk_free: 1 << 31,
                cpus: 2,
                unconfined: true,
            },
            pods: vec![PodStatus {
                name: name("app"),
                revision: revision(4, Digest::of(b"4")),
                phase: Phase::CrashLoop,
                since: NOW,
                reason: Some("crash_loop".into()),
                message: Some("it ends at once".into()),
                deadline: Some(NOW.plus(300)),
                containers: causes().into_iter().map(status).collect(),
            }],
            snapshot: Some(SnapshotRef { version: 3, digest: Digest::of(b"snapshot") }),
            refusals: vec![RefusalCount {
                code: "bad_signature".into(),
                count: 2,
                last: NOW,
                message: "deployment app".into(),
            }],
            facts: vec![Bytes(seal(&fleet.fact(1), &[seed::ATTEST]).0)],
            conditions: vec!["time_untrusted".into()],
            ..fleet.report(17)
        }
    }

    pub fn facts(fleet: &Fleet) -> Vec<Fact> {
        let mut events = vec![Event::Started, Event::Healthy];
        events.extend(causes().into_iter().map(|cause| Event::Ended { cause }));
        events.push(Event::Probed { probe: ProbeKind::Readiness, passed: true });
        events.into_iter().zip(1..).map(|(event, counter)| Fact { event, ..fleet.fact(counter) }).collect()
    }

    pub fn join(fleet: &Fleet) -> JoinFile {
        JoinFile {
            version: 1,
            fleet: fleet.id.clone(),
            roots: vec![Bytes(seal(&root_1(), &[seed::ROOT]).0)],
            token: Bytes(seal(&fleet.token(), &[seed::ENROLL]).0),
            secret: Bytes(vec![seed::TOKEN; 32]),
            api: vec!["https://fleet.example:8443".into()],
            minima: fleet.token().minima,
        }
    }

    pub fn hello(fleet: &Fleet) -> Hello {
        Hello {
            root_version: 1,
            system: report(fleet).system,
            held: vec![Held { name: name("app"), revision: revision(4, Digest::of(b"4")) }],
            order_counter: 3,
            report_counter: 1024,
            snapshot: Some(SnapshotRef { version: 3, digest: Digest::of(b"snapshot") }),
            documents: vec![HeldDocument {
                kind: EntryKind::Secret,
                name: name("password"),
                revision: revision(2, Digest::of(b"password")),
                open: true,
            }],
        }
    }

    pub fn reference(n: &str) -> DocumentRef {
        DocumentRef { name: name(n), optional: false, pin: None }
    }

    pub fn config(fleet: &Fleet) -> Config {
        let data: ByteMap = [("zone", &b"lab"[..]), ("app.toml", b"level = 3\n")].into_iter().collect();
        Config { data, ..fleet.config("settings", 3) }
    }

    pub fn secret(fleet: &Fleet) -> Secret {
        fleet.secret("password", 2)
    }

    pub fn grant(fleet: &Fleet) -> Grant {
        fleet.grant("password", revision(2, Digest::of(b"password")))
    }

    pub fn receipt_request(fleet: &Fleet) -> ReceiptRequest {
        let held = SnapshotRef { version: 7, digest: Digest::of(b"snapshot") };
        let target = Target { devices: vec![key(seed::IDENTITY).public().device_id()], ..Target::default() };
        ReceiptRequest { target, logs: 200, ..fleet.receipt_request(held) }
    }

    pub fn receipt(fleet: &Fleet) -> Receipt {
        let log = ReceiptLog {
            name: name("web"),
            revision: revision(2, Digest::of(b"web")),
            container: name("main"),
            lines: log().lines,
        };
        Receipt {
            reports: vec![Bytes(vec![2]), Bytes(vec![3])],
            left_out: 4,
            enrollment: Some(Bytes(vec![5])),
            logs: vec![log],
            ..fleet.receipt(9)
        }
    }

    pub fn log() -> LogChunk {
        LogChunk {
            stream: 1,
            container: name("main"),
            lines: Bytes(b"2026-06-01T00:00:00.000000000Z stdout F hi\n".to_vec()),
            end: true,
            reason: Some("order_forbidden".into()),
        }
    }

    pub fn enroll(fleet: &Fleet) -> (EnrollRequest, EnrollResponse) {
        (
            EnrollRequest {
                token: Bytes(vec![1]),
                record: Bytes(vec![2]),
                csr: Bytes(vec![3]),
                name: Some("pump-7".into()),
            },
            EnrollResponse {
                device: fleet.record(1).device,
                certificates: vec![Bytes(vec![4])],
                roots: vec![Bytes(vec![5])],
                record: Some(Bytes(vec![6])),
            },
        )
    }
}
