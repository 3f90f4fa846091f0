use super::super::testing::deployment;
use super::*;
use shoal_protocol::v1::{
    Container, DocumentRef, EnvSource, EnvVar as Variable, File, Mount, PortMapping, Probe,
    ProbeAction as Action, Volume, VolumeSource as Source,
};

fn volume(called: &str, source: Source) -> Volume {
    Volume { name: called.parse().unwrap(), source }
}

fn mount(called: &str, path: &str) -> Mount {
    Mount { volume: called.parse().unwrap(), path: path.into(), read_only: false }
}

fn module(path: &str) -> File {
    File { path: path.into(), size: 8, mode: 0o100_755, digest: Identity::of(path.as_bytes()) }
}

fn probe_of(action: Action) -> Probe {
    Probe { action, initial_delay: 1, period: 2, timeout: 3, failure_threshold: 4, success_threshold: None }
}

fn made(d: &Deployment) -> Ticket {
    of(d, &Identity([5; 32]), true, None).unwrap()
}

/// The ticket's only container, when `change` was made to it.
fn contained(change: impl FnOnce(&mut Container)) -> TicketContainer {
    let mut d = deployment("web", 1);
    change(&mut d.template.containers[0]);
    made(&d).containers.remove(0)
}

#[test]
fn what_was_signed_of_a_pod_is_in_its_ticket() {
    let mut d = deployment("web", 3);
    let plain = made(&d);
    assert_eq!((plain.id, plain.name.as_str(), plain.sequence), (Digest([5; 32]), "web", 3));
    assert_eq!((plain.hostname.as_str(), plain.grace, plain.network), ("web", 5, Network::None));
    assert_eq!((plain.stageable, plain.startable), (true, true));
    assert!(!of(&d, &Identity([5; 32]), false, None).unwrap().startable);
    let t = &mut d.template;
    t.hostname = Some("host".into());
    t.required_features = vec!["seccomp".into()];
    t.ports = vec![PortMapping { container_port: 80, host_port: 8080, udp: true }];
    t.resources = Resources {
        memory_limit: Some(1),
        cpu_quota: Some(2),
        cpu_period: Some(3),
        cpu_shares: Some(4),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("1".into()),
        pids_limit: Some(5),
        oom_score_adj: Some(-6),
        wasm_pages: Some(7),
        cpu_seconds: Some(8),
        wall_seconds: Some(9),
        disk: Some(v1::DiskLimits {
            read_bps: Some(10),
            write_bps: Some(11),
            read_iops: Some(12),
            write_iops: Some(13),
        }),
        ..Resources::default()
    };
    let disk =
        DiskLimits { read_bps: Some(10), write_bps: Some(11), read_iops: Some(12), write_iops: Some(13) };
    let expected = Limits {
        memory: Some(1),
        cpu_quota: Some(2),
        cpu_period: Some(3),
        cpu_shares: Some(4),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("1".into()),
        pids: Some(5),
        oom_score_adj: Some(-6),
        wasm_pages: Some(7),
        cpu_seconds: Some(8),
        wall_seconds: Some(9),
        disk,
    };
    for (network, wanted) in [(v1::Network::Pod, Network::Pod), (v1::Network::Host, Network::Host)] {
        d.template.network = network;
        let ticket = made(&d);
        assert_eq!((ticket.network, ticket.hostname.as_str()), (wanted, "host"));
        assert_eq!((&ticket.limits, &ticket.required_features), (&expected, &vec!["seccomp".to_owned()]));
        assert_eq!(ticket.ports, [TicketPort { container_port: 80, host_port: 8080, udp: true }]);
    }
}

#[test]
fn volumes_are_what_was_signed_and_mounts_name_them_by_number() {
    let mut d = deployment("web", 1);
    d.template.volumes = vec![
        volume("a", Source::EmptyDir { size_limit: None }),
        volume("b", Source::EmptyDir { size_limit: Some(7) }),
        volume("c", Source::HostPath { path: "/srv".into() }),
        volume("d", Source::Persistent { size_limit: None }),
    ];
    d.template.containers[0].mounts = vec![Mount { read_only: true, ..mount("c", "/c") }, mount("a", "/a")];
    let ticket = made(&d);
    let sources: Vec<_> = ticket.volumes.into_iter().map(|v| v.source).collect();
    let empty = |size_limit| VolumeSource::EmptyDir { size_limit };
    let host = VolumeSource::HostPath { path: "/srv".into() };
    assert_eq!(sources, [empty(16 << 20), empty(7), host, VolumeSource::Persistent]);
    let mounts: Vec<_> =
        ticket.containers[0].mounts.iter().map(|m| (m.volume, m.path.as_str(), m.read_only)).collect();
    assert_eq!(mounts, [(2, "/c", true), (0, "/a", false)]);
    d.template.containers[0].mounts = vec![mount("none", "/c")];
    assert_eq!(of(&d, &Identity([5; 32]), true, None).unwrap_err().code, Code::Malformed);
}

#[test]
fn s25_what_refers_to_documents_starts_only_with_them_and_gets_no_bytes_without() {
    let document = DocumentRef { name: "settings".parse().unwrap(), pin: None, optional: false };
    let mut d = deployment("web", 1);
    d.template.volumes =
        vec![volume("a", Source::Config { document: document.clone(), mode: 0o644, items: vec![] })];
    let from = Some(EnvSource::Config { document, key: "k".into() });
    d.template.containers[0].env =
        vec![Variable { from, ..Variable::plain("A", "") }, Variable::plain("B", "2")];
    let without = made(&d);
    assert!(!without.startable);
    assert_eq!(without.volumes[0].source, VolumeSource::Files { private: true, files: vec![] });
    let env: Vec<_> = without.containers[0].env.iter().map(|e| (e.name.as_str(), e.value.as_str())).collect();
    assert_eq!(env, [("B", "2")], "what comes of a document is private");
    assert!(of(&d, &Identity([5; 32]), true, Some(&Resolved::default())).unwrap().startable);
}

#[test]
fn what_was_signed_of_a_container_is_in_its_ticket() {
    let second = || module("/second.wasm");
    let c = contained(|c| {
        c.image.files = vec![second()];
        c.readonly_rootfs = true;
        c.stdin = true;
        c.self_test = Some("check".into());
        c.engine = v1::Engine::Interpreter;
        c.devices =
            vec![v1::DeviceGrant { host_path: "/dev/a".into(), path: "/dev/b".into(), read_only: true }];
        c.post_start = Some(v1::Hook { module: second(), argv: vec!["1".into()] });
        c.pre_stop = Some(v1::Hook { module: second(), argv: vec!["2".into()] });
    });
    let entry = |argv: &str| TicketEntry {
        module: TicketFile { mode: 0o755, ..file(&second()) },
        argv: vec![argv.into()],
    };
    assert_eq!((c.files[0].path.as_str(), c.files[0].mode), ("/second.wasm", 0o755), "permissions only");
    assert_eq!((c.readonly_rootfs, c.stdin, c.interpreter, c.init), (true, true, true, false));
    assert_eq!((c.self_test.as_deref(), c.restart), (Some("check"), Restart::Always));
    assert_eq!(
        c.devices,
        [TicketDevice { host_path: "/dev/a".into(), path: "/dev/b".into(), read_only: true }]
    );
    assert_eq!((c.post_start, c.pre_stop), (Some(entry("1")), Some(entry("2"))));
    assert!(!contained(|_| {}).interpreter);
    assert_eq!(contained(|c| c.restart_policy = Some(RestartPolicy::Never)).restart, Restart::Never);
    assert_eq!(contained(|c| c.restart_policy = Some(RestartPolicy::OnFailure)).restart, Restart::OnFailure);
}

#[test]
fn what_comes_first_starts_again_only_when_it_failed() {
    let init = |policy| {
        let mut d = deployment("web", 1);
        d.template.restart_policy = policy;
        let first = Container { name: "first".parse().unwrap(), ..d.template.containers[0].clone() };
        d.template.init_containers = vec![first];
        made(&d).containers.into_iter().map(|c| (c.name, c.init, c.restart)).collect::<Vec<_>>()
    };
    let of = |first, main| vec![("first".to_owned(), true, first), ("main".to_owned(), false, main)];
    let sorted = |mut all: Vec<_>| {
        all.sort_by(|a: &(String, bool, Restart), b| a.0.cmp(&b.0));
        all
    };
    assert_eq!(sorted(init(RestartPolicy::Always)), of(Restart::OnFailure, Restart::Always));
    assert_eq!(sorted(init(RestartPolicy::OnFailure)), of(Restart::OnFailure, Restart::OnFailure));
    assert_eq!(sorted(init(RestartPolicy::Never)), of(Restart::Never, Restart::Never));
}

#[test]
fn probes_are_what_was_signed_and_a_file_is_found_in_the_innermost_mount() {
    let fresh = |path: &str| {
        let mut d = deployment("web", 1);
        let empty = || Source::EmptyDir { size_limit: None };
        d.template.volumes = vec![volume("a", empty()), volume("b", empty())];
        d.template.containers[0].mounts = vec![mount("a", "/data"), mount("b", "/data/in")];
        let action = Action::FileFresh { path: path.into(), max_age: 30 };
        d.template.containers[0].liveness_probe = Some(probe_of(action));
        let ticket = of(&d, &Identity([5; 32]), true, None).map_err(|e| e.code)?;
        match &ticket.containers[0].probes[0].action {
            ProbeAction::FileFresh { volume, path, max_age: 30 } => Ok((*volume, path.clone())),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fresh("/data/x/y"), Ok((0, "x/y".to_owned())));
    assert_eq!(fresh("/data/in/x"), Ok((1, "x".to_owned())));
    assert_eq!(fresh("/data/inner"), Ok((0, "inner".to_owned())));
    assert_eq!(fresh("/database"), Err(Code::Malformed));
    let c = contained(|c| {
        c.liveness_probe = Some(probe_of(Action::Tcp { port: 80 }));
        let http = Action::Http { port: 81, path: "/p".into() };
        c.readiness_probe = Some(Probe { success_threshold: Some(5), ..probe_of(http) });
        let exec = Action::Exec { module: c.image.module.clone(), argv: vec!["a".into()] };
        c.startup_probe = Some(probe_of(exec));
    });
    let probe = |kind| c.probes.iter().find(|p| p.kind == kind).unwrap();
    let live = probe(ProbeKind::Liveness);
    assert_eq!(live.action, ProbeAction::Tcp { port: 80 });
    assert_eq!(
        (live.initial_delay, live.period, live.timeout, live.failures, live.successes),
        (1, 2, 3, 4, 1)
    );
    let ready = probe(ProbeKind::Readiness);
    assert_eq!((&ready.action, ready.successes), (&ProbeAction::Http { port: 81, path: "/p".into() }, 5));
    let entry = TicketEntry { module: c.module.clone(), argv: vec!["a".into()] };
    assert_eq!(probe(ProbeKind::Startup).action, ProbeAction::Exec { entry });
}

#[test]
fn s16_a_ticket_has_its_size_and_not_a_byte_more() {
    let sized = |extra: usize| {
        let mut d = deployment("web", 1);
        d.template.containers[0].env = vec![Variable::plain("A", "x".repeat(extra))];
        of(&d, &Identity([5; 32]), true, None).map(|t| t.encode().len())
    };
    let least = sized(0).unwrap();
    assert_eq!(sized(TICKET_MAX - least).unwrap(), TICKET_MAX);
    assert_eq!(sized(TICKET_MAX - least + 1).unwrap_err().code, Code::TooLarge);
}
