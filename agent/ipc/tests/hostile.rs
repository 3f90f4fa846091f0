//! Every layout survives the round trip, and no other bytes pass for it.

use proptest::prelude::*;
use shoal_ipc::{
    Applied, Cause, CompileResult, CompiledInfo, ContainerState, Content, ContentFile, ContentFolder, Digest,
    EndRecord, EnvVar, Error, FactEvent, HeldDocument, HeldRevision, HeldRole, Launch, Limits, MESSAGE_MAX,
    ModuleState, Msg, Network, PrepareStage, PrivateVar, ProbeAction, ProbeKind, ProofRecord, Restart, Spec,
    StatsInfo, TICKET_MAX, Ticket, TicketContainer, TicketDevice, TicketEntry, TicketFile, TicketMount,
    TicketPort, TicketProbe, TicketVolume, TrustSummary, VolumeSource, decode, encode,
};

const D: Digest = Digest([7; 32]);

fn state() -> ContainerState {
    ContainerState {
        ticket: D,
        deployment: "web".into(),
        index: 1,
        name: "main".into(),
        attempt: 3,
        running: false,
        pid: 0,
        started_at: 5,
        finished_at: 6,
        healthy: true,
        cause: Some(Cause::Trap { message: "unreachable".into() }),
        stats: StatsInfo {
            memory: 1,
            memory_peak: 2,
            cpu_usage: 3,
            cpu_throttled: 4,
            applied: Applied { memory_limit: Some(9), cpuset_cpus: Some("0".into()), ..Applied::default() },
            cpu_throttled_periods: 5,
        },
        stderr_tail: "oh\n".into(),
        dropped_lines: 8,
        local: true,
        ready: Some(false),
        probe_message: "readiness: no answer in 1 s".into(),
    }
}

fn messages() -> Vec<Msg> {
    let info =
        CompiledInfo { engine: "0.17.1".into(), millis: 7, module_size: 8, code_size: 9, cache_hit: true };
    vec![
        Msg::Hello {},
        Msg::refused("not_admitted", "no such ticket"),
        Msg::Submit {},
        Msg::Accepted { kind: "deployment".into(), name: "web".into(), sequence: 4, digest: D, known: false },
        Msg::FactsDone { up_to: u64::MAX },
        Msg::Enrolled { fleet: "f".into(), attest: D, sealing: D },
        Msg::Activate { name: "n".into(), sequence: 1, digest: D },
        Msg::Rehearse {},
        Msg::Withdraw { ticket: D, stop: true, grace: 30 },
        Msg::Fact {
            id: 1,
            ticket: D,
            name: "web".into(),
            container: "main".into(),
            attempt: 1,
            event: FactEvent::Ended { cause: Cause::Exited { code: 3 } },
            at: 2,
        },
        Msg::Content { item: D },
        Msg::Stage { ticket: D, item: D },
        Msg::HaveIs {
            startable: true,
            modules: vec![ModuleState { digest: D, staged: true, compiled: Some(info.clone()) }],
            missing: vec![D; 64],
            missing_total: 900,
        },
        Msg::Compiled { module: D, info },
        Msg::Preparing { module: D, stage: PrepareStage::Queued { ahead: 3 } },
        Msg::Start { ticket: D, container: 0, attempt: 1 },
        Msg::Stop { ticket: D, container: None, grace_ms: 1 },
        Msg::ContainerIs { state: state() },
        Msg::Ended { state: state() },
        Msg::Probed { state: state() },
        Msg::Dropped { id: 1, lines: 2, end: true, stderr_tail: String::new() },
        Msg::StartAttached { ticket: D, container: 2, attempt: 1 },
        Msg::StartedAttached { pid: 9, started_at: 8, applied: Applied::default() },
        Msg::RemoveContainer { ticket: D, container: 2 },
        Msg::Feed { ticket: D, container: 2 },
        Msg::ReopenLog { ticket: D, container: 2 },
        Msg::DropContainer { pod: "local_a_1".into(), container: "main".into() },
        Msg::Reopen { id: 3 },
    ]
}

fn entry() -> TicketEntry {
    let module = TicketFile { path: "/b.wasm".into(), size: 1, mode: 0o644, digest: Digest([8; 32]) };
    TicketEntry { module, argv: vec!["b".into()] }
}

fn probe(action: ProbeAction) -> TicketProbe {
    let kind = ProbeKind::Startup;
    TicketProbe { kind, action, initial_delay: 1, period: 2, timeout: 3, failures: 4, successes: 5 }
}

#[test]
fn a_tickets_modules_are_those_of_its_containers_probes_and_hooks() {
    let t = ticket();
    assert_eq!(t.items().iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["/a.wasm", "/b.wasm"]);
    assert!(t.is_module(&Digest([8; 32])) && !t.is_module(&Digest([9; 32])));
}

fn ticket() -> Ticket {
    let file = |path: &str| TicketFile { path: path.into(), size: 1, mode: 0o644, digest: D };
    Ticket {
        version: 1,
        id: D,
        name: "web".into(),
        sequence: 2,
        stageable: true,
        startable: false,
        hostname: "h".into(),
        grace: 30,
        limits: Limits { memory: Some(1), oom_score_adj: Some(-5), ..Limits::default() },
        volumes: vec![
            TicketVolume { name: "a".into(), source: VolumeSource::EmptyDir { size_limit: 4 } },
            TicketVolume { name: "b".into(), source: VolumeSource::HostPath { path: "/srv".into() } },
            TicketVolume {
                name: "c".into(),
                source: VolumeSource::Files { private: true, files: vec![file("app.toml")] },
            },
        ],
        containers: vec![TicketContainer {
            name: "main".into(),
            argv: vec!["/a.wasm".into(), "x".into()],
            env: vec![EnvVar { name: "A".into(), value: "b".into() }],
            working_dir: "/".into(),
            module: file("/a.wasm"),
            files: vec![file("/etc/x")],
            limits: Limits { wasm_pages: Some(4), ..Limits::default() },
            mounts: vec![TicketMount { volume: 1, path: "/data".into(), read_only: true }],
            readonly_rootfs: true,
            restart: Restart::OnFailure,
            interpreter: true,
            self_test: Some("check".into()),
            probes: vec![probe(ProbeAction::Exec { entry: entry() })],
            post_start: Some(entry()),
            pre_stop: None,
            stdin: true,
            init: false,
            devices: vec![TicketDevice {
                host_path: "/dev/ttyS0".into(),
                path: "/dev/port".into(),
                read_only: true,
            }],
            private_env: vec![PrivateVar { name: "TOKEN".into(), value: "hush".into() }],
        }],
        required_features: vec!["landlock".into()],
        network: Network::Pod,
        ports: vec![TicketPort { container_port: 80, host_port: 8080, udp: true }],
    }
}

#[test]
fn what_may_be_a_secret_is_never_printed() {
    let file = ContentFile { path: "a".into(), mode: 0o400, bytes: b"hush".to_vec() };
    let folders = vec![ContentFolder { target: "/keys".into(), files: vec![file] }];
    let content = Content { env: vec!["TOKEN=hush".into()], folders };
    assert_eq!(Content::decode(&content.encode()).unwrap(), content);
    for text in [format!("{content:?}"), format!("{:?}", ticket())] {
        assert!(!text.contains("hush") && !text.contains("104, 117"), "{text}");
    }
}

#[test]
fn every_message_comes_back_and_neither_less_nor_more_passes() {
    for msg in messages() {
        let bytes = msg.encode().unwrap();
        assert!(bytes.len() <= MESSAGE_MAX);
        assert_eq!(Msg::decode(&bytes).unwrap(), msg);
        for cut in 0..bytes.len() {
            assert!(matches!(Msg::decode(&bytes[..cut]), Err(Error::Truncated)), "{} at {cut}", msg.name());
        }
        let mut more = bytes.clone();
        more.push(0);
        assert!(matches!(Msg::decode(&more), Err(Error::Leftover(1))), "{}", msg.name());
    }
}

#[test]
fn another_version_an_unknown_tag_and_too_long_a_message_are_told_apart() {
    let mut bytes = Msg::Trust {}.encode().unwrap();
    bytes[0] = 9;
    assert!(matches!(Msg::decode(&bytes), Err(Error::Version { theirs: 9 })));
    bytes[0] = 1;
    bytes[2] = 0xff;
    assert!(matches!(Msg::decode(&bytes), Err(Error::Value { what: "message", .. })));
    assert!(matches!(Msg::decode(&[0; MESSAGE_MAX + 1]), Err(Error::TooLarge { .. })));
    let long = Msg::Refused { code: "x".repeat(MESSAGE_MAX), detail: String::new() };
    assert!(matches!(long.encode(), Err(Error::TooLarge { .. })));
}

#[test]
fn a_claimed_count_of_four_billion_costs_nothing() {
    // HaveIs: startable, then a table of modules that claims to have 2^32-1 entries.
    let mut bytes =
        Msg::HaveIs { startable: true, modules: vec![], missing: vec![], missing_total: 0 }.encode().unwrap();
    bytes[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Msg::decode(&bytes), Err(Error::Truncated)));
}

#[test]
fn texts_with_nul_or_bad_utf8_are_refused() {
    for bad in [&b"a\0b"[..], &b"\xff\xfe"[..]] {
        let mut w = shoal_ipc::Writer::default();
        w.counted(bad);
        assert!(matches!(decode::<String>(&w.into_bytes()), Err(Error::Text)));
    }
}

#[test]
fn tickets_come_back_and_above_their_size_are_refused() {
    let t = ticket();
    assert_eq!(Ticket::decode(&t.encode()).unwrap(), t);
    for cut in 0..t.encode().len() {
        assert!(Ticket::decode(&t.encode()[..cut]).is_err());
    }
    assert!(matches!(Ticket::decode(&vec![0; TICKET_MAX + 1]), Err(Error::TooLarge { .. })));
    assert_eq!(t.items().len(), 2, "one digest, one item");
    assert!(t.is_module(&D));
}

#[test]
fn trust_summaries_and_end_records_come_back() {
    let s = TrustSummary {
        fleet: "f".into(),
        held: vec![HeldRevision {
            name: "web".into(),
            sequence: 1,
            digest: D,
            role: HeldRole::LastGood,
            stageable: true,
            startable: true,
            reason: String::new(),
            detail: "config settings is not here yet".into(),
        }],
        documents: vec![HeldDocument {
            kind: "secret".into(),
            name: "token".into(),
            sequence: 2,
            digest: D,
            open: true,
        }],
        conditions: vec!["time_untrusted".into()],
        ..TrustSummary::default()
    };
    assert_eq!(TrustSummary::decode(&s.encode()).unwrap(), s);
    let e = EndRecord::Refused { code: "import_denied".into(), message: "sock_open".into() };
    assert_eq!(EndRecord::decode(&e.encode()).unwrap(), e);
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_what_decodes_encodes_the_same(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut framed = vec![1, 0];
        framed.extend(&bytes);
        if let Ok(msg) = Msg::decode(&framed) {
            prop_assert_eq!(msg.encode().unwrap(), framed);
        }
        if let Ok(t) = Ticket::decode(&bytes) {
            prop_assert_eq!(t.encode(), bytes.clone());
        }
        // What a job or container leaves is read by supervise, whoever wrote it.
        let _ = (EndRecord::from_area(&bytes), CompileResult::from_area(&bytes), ProofRecord::from_area(&bytes));
        let _ = (Launch::decode(&bytes), Spec::decode(&bytes), Content::decode(&bytes));
    }

    #[test]
    fn one_changed_byte_is_refused_or_is_another_whole_message(which in 0_usize..16, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let all = messages();
        let mut bytes = all[which % all.len()].encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(msg) = Msg::decode(&bytes) {
            prop_assert_eq!(msg.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn tickets_of_any_text_come_back(name in "[^\0]{0,80}", argv in prop::collection::vec("[^\0]{0,40}", 0..20), memory in any::<Option<u64>>()) {
        let mut t = ticket();
        t.name = name;
        t.containers[0].argv = argv;
        t.limits.memory = memory;
        prop_assert_eq!(decode::<Ticket>(&encode(&t)).unwrap(), t);
    }
}
