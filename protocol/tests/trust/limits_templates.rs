//! The edges of what a deployment's template may say: of each rule the last value that is good, and the first that is not (as in
//! `limits.rs`).

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use shoal_protocol::v1::*;
use shoal_protocol::verify::template::beyond;
use std::fmt::Debug;

type Outcome = Result<(), Code>;

/// What becomes of a good deployment with one change.
fn app(change: impl FnOnce(&mut Deployment)) -> Outcome {
    let mut fleet = Fleet::new();
    let mut d = fleet.deployment("app", 1);
    change(&mut d);
    fleet.publish(&d).map(|_| ()).map_err(|r| r.code)
}

/// `good` values are taken where `set` puts them, and `bad` ones are malformed.
#[track_caller]
fn edges<T: Clone + Debug>(what: &str, set: impl Fn(&mut Deployment, T), good: &[T], bad: &[T]) {
    for value in good {
        assert_eq!(app(|d| set(d, value.clone())), Ok(()), "{what}: {value:?}");
    }
    for value in bad {
        assert_eq!(app(|d| set(d, value.clone())), Err(Code::Malformed), "{what}: {value:?}");
    }
}

fn main_of(d: &mut Deployment) -> &mut Container {
    &mut d.template.containers[0]
}

fn volume(n: &str, source: VolumeSource) -> Volume {
    Volume { name: name(n), source }
}

fn empty_dir() -> VolumeSource {
    VolumeSource::EmptyDir { size_limit: None }
}

fn mount(n: &str, path: &str) -> Mount {
    Mount { volume: name(n), path: path.into(), read_only: true }
}

fn file(path: &str) -> File {
    File { path: path.into(), ..module() }
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|&s| s.to_owned()).collect()
}

fn numbered(n: usize) -> impl Iterator<Item = String> {
    (0..n).map(|i| format!("n{i:03}"))
}

#[test]
fn s16_a_pods_lists_and_names_have_their_edges() {
    let count = |d: &mut Deployment, (init, main): (usize, usize)| {
        d.template.init_containers = (0..init).map(|i| container(&format!("i{i}"))).collect();
        d.template.containers = (0..main).map(|i| container(&format!("c{i}"))).collect();
    };
    edges("containers", count, &[(0, 1), (0, 16), (1, 15)], &[(0, 0), (1, 0), (0, 17), (1, 16)]);
    let volumes = |d: &mut Deployment, n: usize| {
        d.template.volumes = numbered(n).map(|v| volume(&v, empty_dir())).collect();
    };
    edges("volumes", volumes, &[0, 64], &[65]);
    let twice = |d: &mut Deployment, names: [&str; 2]| {
        d.template.volumes = names.iter().map(|n| volume(n, empty_dir())).collect();
    };
    edges("names of volumes", twice, &[["a", "b"]], &[["a", "a"]]);
    edges("grace", |d, s| d.template.termination_grace = s, &[0, 86_400], &[86_401]);
    let long = ["h".repeat(63), "h".repeat(64)];
    edges(
        "host name",
        |d, n: &str| d.template.hostname = Some(n.into()),
        &["a", "A-b_c.9", &long[0]],
        &["", "-a", "a-", ".a", "a/b", "a b", &long[1]],
    );
    let long = ["f".repeat(32), "f".repeat(33)];
    edges(
        "feature",
        |d, n: &str| d.template.required_features = vec![n.into()],
        &["seccomp", "cgroup-v2", "0", &long[0]],
        &["", "-a", "a-", "A", "a_b", &long[1]],
    );
    let features = |d: &mut Deployment, all: Vec<String>| d.template.required_features = all;
    let many = |n| numbered(n).collect::<Vec<_>>();
    edges("features", features, &[many(16)], &[many(17), strings(&["a", "a"])]);
    let sized = |d: &mut Deployment, size| {
        d.template.volumes = vec![volume("v", VolumeSource::EmptyDir { size_limit: Some(size) })];
    };
    edges("size of a volume", sized, &[1], &[0]);
    let host = |d: &mut Deployment, path: &str| {
        d.template.volumes = vec![volume("v", VolumeSource::HostPath { path: path.into() })];
    };
    let long = ["/".to_owned() + &"p".repeat(1023), "/".to_owned() + &"p".repeat(1024)];
    edges(
        "path",
        host,
        &["/srv", "/srv/a.b", &long[0]],
        &["", "srv", "/srv/", "//srv", "/./srv", "/srv/..", "/s\0", &long[1]],
    );
}

#[test]
fn s16_a_rollout_its_requirements_and_its_target_have_their_edges() {
    const MONTH: u64 = 30 * 86_400;
    edges("deadline", |d, s| d.rollout.deadline = Some(s), &[1, MONTH], &[0, MONTH + 1]);
    edges("unavailable", |d, n| d.rollout.max_unavailable = Some(n), &[1], &[0]);
    let requires = |d: &mut Deployment, all: Vec<String>| {
        d.requires = all.iter().map(|n| Require { name: name(n), sequence: 1 }).collect();
    };
    let many = |n| numbered(n).collect::<Vec<_>>();
    edges("requirements", requires, &[many(16)], &[many(17), strings(&["a", "a"]), strings(&["app"])]);
    edges("version", |d, v: &str| d.target.min_agent = Some(v.into()), &["0.1.0"], &["0.1", ""]);
    edges("version", |d, v: &str| d.target.min_engine = Some(v.into()), &["0.17.1"], &["0.17", ""]);
    let expression = |d: &mut Deployment, (operator, values): (Operator, Vec<String>)| {
        let match_expressions = vec![Requirement { key: "site".into(), operator, values }];
        d.target.selector = Some(Selector { match_expressions, ..Selector::default() });
    };
    let lab = || strings(&["lab"]);
    edges(
        "selector",
        expression,
        &[(Operator::In, lab()), (Operator::Exists, vec![])],
        &[
            (Operator::In, vec![]),
            (Operator::NotIn, vec![]),
            (Operator::Exists, lab()),
            (Operator::DoesNotExist, lab()),
        ],
    );
}

#[test]
fn s16_ports_have_their_edges() {
    let ports = |d: &mut Deployment, all: Vec<(u64, u64, bool)>| {
        d.template.network = Network::Pod;
        let port = |(container_port, host_port, udp)| PortMapping { container_port, host_port, udp };
        d.template.ports = all.into_iter().map(port).collect();
    };
    let many = |n| (1..=n).map(|p| (p, p, false)).collect::<Vec<_>>();
    edges(
        "ports",
        ports,
        &[
            vec![(1, 0, false), (65_535, 65_535, true)],
            vec![(80, 0, false), (80, 0, true)],
            vec![(80, 80, false), (80, 80, true), (80, 0, false)],
            many(64),
        ],
        &[
            vec![(0, 1, false)],
            vec![(65_536, 1, false)],
            vec![(1, 65_536, false)],
            vec![(80, 0, true), (80, 0, true)],
            vec![(80, 9, true), (81, 9, true)],
            many(65),
        ],
    );
}

#[test]
fn s16_what_a_container_is_started_with_has_its_edges() {
    let argv = |d: &mut Deployment, all: Vec<String>| main_of(d).argv = all;
    edges("argv", argv, &[strings(&["a", ""])], &[vec![], strings(&["a\0"])]);
    edges(
        "folder",
        |d, p: &str| main_of(d).working_dir = p.into(),
        &["/", "/a"],
        &["", "a", "/a/", "/a/.", "/../a"],
    );
    let env = |d: &mut Deployment, all: Vec<(&str, &str)>| {
        main_of(d).env = all.into_iter().map(|(n, v)| EnvVar::plain(n, v)).collect();
    };
    edges(
        "environment",
        env,
        &[vec![("A", "b=c"), ("B", "")]],
        &[
            vec![("", "b")],
            vec![("A=", "b")],
            vec![("A\0", "b")],
            vec![("A", "\0")],
            vec![("A", ""), ("A", "")],
        ],
    );
    let mounts = |d: &mut Deployment, all: Vec<(&str, &str)>| {
        d.template.volumes = vec![volume("v", empty_dir()), volume("w", empty_dir())];
        main_of(d).mounts = all.into_iter().map(|(v, p)| mount(v, p)).collect();
    };
    edges(
        "mounts",
        mounts,
        &[vec![("v", "/a"), ("v", "/b"), ("w", "/a/w")]],
        &[vec![("none", "/a")], vec![("v", "/")], vec![("v", "a")], vec![("v", "/a"), ("w", "/a")]],
    );
    let long = ["e".repeat(128), "e".repeat(129)];
    edges(
        "self-test",
        |d, e: &str| main_of(d).self_test = Some(e.into()),
        &["check", &long[0]],
        &["", "a\0", &long[1]],
    );
}

#[test]
fn s16_an_image_has_its_edges() {
    let long = ["r".repeat(512), "r".repeat(513)];
    edges("reference", |d, r: &str| main_of(d).image.reference = r.into(), &["r", &long[0]], &["", &long[1]]);
    edges("module", |d, n| main_of(d).image.module.size = n, &[1, 256 << 20], &[0, (256 << 20) + 1]);
    edges("manifest", |d, n| main_of(d).image.manifest_size = n, &[1, 4 << 20], &[0, (4 << 20) + 1]);
    edges("mode", |d, m| main_of(d).image.module.mode = m, &[0, 0o777], &[0o1000]);
    let files = |d: &mut Deployment, all: Vec<String>| {
        main_of(d).image.files = all.iter().map(|p| file(p)).collect();
    };
    let many = |n| numbered(n).map(|f| format!("/{f}")).collect::<Vec<_>>();
    edges(
        "files",
        files,
        &[many(256), strings(&["/a/b", "/a/c", "/ab", "/app.wasm2"])],
        &[
            many(257),
            strings(&["/"]),
            strings(&["a"]),
            strings(&["/a", "/a"]),
            strings(&["/app.wasm"]),
            strings(&["/a", "/a/b"]),
            strings(&["/a", "/a/b/c"]),
        ],
    );
}

#[test]
fn s16_device_nodes_have_their_edges() {
    let devices = |d: &mut Deployment, all: Vec<(&str, &str)>| {
        d.template.volumes = vec![volume("v", empty_dir())];
        main_of(d).mounts = vec![mount("v", "/data")];
        let grant = |(host, path): (&str, &str)| DeviceGrant {
            host_path: host.into(),
            path: path.into(),
            read_only: true,
        };
        main_of(d).devices = all.into_iter().map(grant).collect();
    };
    edges(
        "devices",
        devices,
        &[vec![("/dev/a", "/dev/a"), ("/dev/a", "/dev/b")], vec![("/dev/x/y", "/database/a")]],
        &[
            vec![("/devices/a", "/dev/a")],
            vec![("dev/a", "/dev/a")],
            vec![("/dev/../a", "/dev/a")],
            vec![("/dev/a", "/a")],
            vec![("/dev/a", "dev/a")],
            vec![("/dev/a", "/dev/../a")],
            vec![("/dev/a", "/data/a")],
            vec![("/dev/a", "/app.wasm/a")],
            vec![("/dev/a", "/dev/a"), ("/dev/b", "/dev/a")],
            vec![("/dev/a", "/dev/a"), ("/dev/b", "/dev/a/b")],
        ],
    );
    let many = |d: &mut Deployment, n: usize| {
        let grant = |i: String| DeviceGrant {
            host_path: "/dev/a".into(),
            path: format!("/dev/{i}"),
            read_only: true,
        };
        main_of(d).devices = numbered(n).map(grant).collect();
    };
    edges("devices", many, &[16], &[17]);
}

#[test]
fn s16_each_resource_has_its_edges() {
    type Set = fn(&mut Resources, u64);
    const TEN_YEARS: u64 = 3660 * 86_400;
    let all: [(&str, Set, u64, u64); 11] = [
        ("memory", |r, n| r.memory_limit = Some(n), 64 << 10, 1 << 40),
        ("CPU quota", |r, n| r.cpu_quota = Some(n), 1000, 1_000_000_000),
        ("CPU period", |r, n| r.cpu_period = Some(n), 1000, 1_000_000),
        ("CPU shares", |r, n| r.cpu_shares = Some(n), 2, 262_144),
        ("processes", |r, n| r.pids_limit = Some(n), 1, 1_000_000),
        ("wasm pages", |r, n| r.wasm_pages = Some(n), 1, 65_536),
        ("CPU seconds", |r, n| r.cpu_seconds = Some(n), 1, TEN_YEARS),
        ("wall seconds", |r, n| r.wall_seconds = Some(n), 1, TEN_YEARS),
        ("bytes", |r, n| disk(r).read_bps = Some(n), 4096, 1 << 40),
        ("bytes", |r, n| disk(r).write_bps = Some(n), 4096, 1 << 40),
        ("operations", |r, n| disk(r).read_iops = Some(n), 1, 1 << 40),
    ];
    for (what, set, least, most) in all {
        edges(what, |d, n| set(&mut d.template.resources, n), &[least, most], &[least - 1, most + 1]);
        edges(what, |d, n| set(&mut main_of(d).resources, n), &[], &[least - 1, most + 1]);
    }
    let request = |d: &mut Deployment, (request, limit)| {
        d.template.resources.memory_request = Some(request);
        d.template.resources.memory_limit = limit;
    };
    let (least, most) = (64 << 10, 1 << 40);
    edges(
        "request",
        request,
        &[(0, None), (most, None), (least, Some(least))],
        &[(most + 1, None), (least + 1, Some(least))],
    );
    let score = |d: &mut Deployment, n| d.template.resources.oom_score_adj = Some(n);
    edges("OOM score", score, &[-1000, 1000], &[-1001, 1001]);
    let none = |d: &mut Deployment, limits| d.template.resources.disk = Some(limits);
    let one = DiskLimits { write_iops: Some(1), ..DiskLimits::default() };
    let wrong = DiskLimits { read_iops: Some(1), write_iops: Some(0), ..DiskLimits::default() };
    edges("disk", none, &[one], &[DiskLimits::default(), wrong]);
    let long = [["10"; 85].join(",") + ",1", ["10"; 85].join(",") + ",10"];
    let good = ["0", "4095", "0-3,7", "1-1", &long[0]];
    let bad = ["", "4096", "3-1", "a", "1-", "-1", "0,,1", "+1", "1-2-3", &long[1]];
    edges("CPUs", |d, l: &str| d.template.resources.cpuset_cpus = Some(l.into()), &good, &bad);
    edges("memory nodes", |d, l: &str| d.template.resources.cpuset_mems = Some(l.into()), &good, &bad);
}

fn disk(r: &mut Resources) -> &mut DiskLimits {
    r.disk.get_or_insert_default()
}

/// Every kind that is there but cannot be had yet, alone.
#[test]
fn s16_each_reserved_value_is_refused_by_itself() {
    let persistent = |size_limit| volume("v", VolumeSource::Persistent { size_limit });
    assert_eq!(app(|d| d.template.volumes = vec![persistent(None)]), Ok(()));
    let refused = Err(Code::UnsupportedValue);
    assert_eq!(app(|d| d.template.volumes = vec![persistent(Some(1))]), refused);
    assert_eq!(app(|d| d.template.runtime_class = RuntimeClass::Oci), refused);
    assert_eq!(app(|d| main_of(d).capabilities = strings(&["NET_ADMIN"])), refused);
}

fn probe(change: impl Fn(&mut Probe)) -> Probe {
    let module = module();
    let mut probe = full::probe(ProbeAction::Exec { module, argv: strings(&["probe"]) });
    change(&mut probe);
    probe
}

#[test]
fn s16_a_probes_times_have_their_edges() {
    const DAY: u64 = 86_400;
    type Set = fn(&mut Probe, u64);
    let all: [(&str, Set, u64, u64); 4] = [
        ("delay", |p, n| p.initial_delay = n, 0, DAY),
        ("period", |p, n| p.period = n, 1, DAY),
        ("time-out", |p, n| p.timeout = n, 1, 3600),
        ("failures", |p, n| p.failure_threshold = n, 1, 1000),
    ];
    for (what, set, least, most) in all {
        let put = |d: &mut Deployment, n| main_of(d).liveness_probe = Some(probe(|p| set(p, n)));
        edges(what, put, &[least, most], &[most + 1]);
        if let Some(less) = least.checked_sub(1) {
            edges(what, put, &[], &[less]);
        }
    }
    let successes = |n| probe(|p| p.success_threshold = Some(n));
    edges("successes", |d, n| main_of(d).readiness_probe = Some(successes(n)), &[1, 1000], &[0, 1001]);
    edges("successes", |d, n| main_of(d).liveness_probe = Some(successes(n)), &[1], &[0, 2]);
    edges("successes", |d, n| main_of(d).startup_probe = Some(successes(n)), &[1], &[0, 2]);
}

#[test]
fn s16_what_a_probe_does_has_its_edges() {
    let act = |d: &mut Deployment, action: ProbeAction| {
        d.template.network = Network::Pod;
        d.template.volumes = vec![
            volume("v", empty_dir()),
            volume("p", VolumeSource::Persistent { size_limit: None }),
            volume("h", VolumeSource::HostPath { path: "/srv".into() }),
        ];
        main_of(d).mounts = vec![mount("v", "/data"), mount("h", "/data/host"), mount("p", "/data/host/own")];
        main_of(d).liveness_probe = Some(full::probe(action));
    };
    let tcp = |port| ProbeAction::Tcp { port };
    edges("port", act, &[tcp(1), tcp(65_535)], &[tcp(0), tcp(65_536)]);
    let http = |path: &str| ProbeAction::Http { port: 80, path: path.into() };
    let long = ["/".to_owned() + &"p".repeat(1023), "/".to_owned() + &"p".repeat(1024)];
    edges(
        "path",
        act,
        &[http("/"), http("/a?b=c"), http(&long[0])],
        &[http(""), http("a"), http("/a b"), http("/ä"), http(&long[1])],
    );
    let fresh = |path: &str| ProbeAction::FileFresh { path: path.into(), max_age: 30 };
    edges(
        "file",
        act,
        &[fresh("/data/a"), fresh("/data/host/own/a")],
        &[fresh("/data"), fresh("/data/host"), fresh("/data/host/a"), fresh("/a"), fresh("/data/a/")],
    );
    let aged = |max_age| ProbeAction::FileFresh { path: "/data/a".into(), max_age };
    edges("age", act, &[aged(1), aged(30 * 86_400)], &[aged(0), aged(30 * 86_400 + 1)]);
}

#[test]
fn s16_a_second_entry_of_the_image_has_its_edges() {
    let hook = |d: &mut Deployment, (module, argv): (File, Vec<String>)| {
        main_of(d).image.files = vec![file("/second.wasm"), File { size: 0, ..file("/empty") }];
        main_of(d).post_start = Some(Hook { module, argv });
    };
    let many = |n| (0..n).map(|_| "a".to_owned()).collect::<Vec<_>>();
    let one = || strings(&["a"]);
    edges(
        "hook",
        hook,
        &[(module(), one()), (file("/second.wasm"), many(256))],
        &[
            (file("/second.wasm"), many(257)),
            (module(), vec![]),
            (module(), strings(&["a\0"])),
            (File { size: 0, ..file("/empty") }, one()),
            (file("/third.wasm"), one()),
            (File { digest: Digest::of(b"other"), ..module() }, one()),
        ],
    );
    let init = |d: &mut Deployment, set: fn(&mut Container)| {
        let mut c = container("first");
        set(&mut c);
        d.template.init_containers = vec![c];
    };
    let sets: [fn(&mut Container); 7] = [
        |c| c.liveness_probe = Some(probe(|_| {})),
        |c| c.readiness_probe = Some(probe(|_| {})),
        |c| c.startup_probe = Some(probe(|_| {})),
        |c| c.post_start = Some(Hook { module: module(), argv: strings(&["a"]) }),
        |c| c.pre_stop = Some(Hook { module: module(), argv: strings(&["a"]) }),
        |c| c.stdin = true,
        |c| c.restart_policy = Some(RestartPolicy::Never),
    ];
    assert_eq!(app(|d| init(d, |_| {})), Ok(()));
    for (n, set) in sets.into_iter().enumerate() {
        assert_eq!(app(|d| init(d, set)), Err(Code::Malformed), "{n}");
    }
}

fn settings() -> DocumentRef {
    DocumentRef { name: name("settings"), optional: false, pin: None }
}

#[test]
fn s15_references_to_documents_have_their_edges() {
    let key_file = |key: &str, path: &str| KeyFile { key: key.into(), path: path.into(), mode: None };
    let files = |d: &mut Deployment, (mode, items): (u64, Vec<KeyFile>)| {
        d.template.volumes = vec![volume("v", VolumeSource::Config { document: settings(), mode, items })];
        main_of(d).mounts = vec![mount("v", "/conf")];
    };
    let of_mode = |mode| vec![KeyFile { mode: Some(mode), ..key_file("k", "a") }];
    let many = |n| numbered(n).map(|p| key_file("k", &p)).collect::<Vec<_>>();
    edges(
        "files",
        files,
        &[
            (0, vec![]),
            (0o777, of_mode(0o777)),
            (0o644, many(256)),
            (0o644, vec![key_file("a", "x/y"), key_file("a", "x/z"), key_file("b", "xy")]),
        ],
        &[
            (0o1000, vec![]),
            (0o644, of_mode(0o1000)),
            (0o644, many(257)),
            (0o644, vec![key_file("", "x")]),
            (0o644, vec![key_file("a/b", "x")]),
            (0o644, vec![key_file("a", "")]),
            (0o644, vec![key_file("a", "..x")]),
            (0o644, vec![key_file("a", "x/../y")]),
            (0o644, vec![key_file("a", "x"), key_file("b", "x")]),
            (0o644, vec![key_file("a", "x"), key_file("b", "x/y")]),
        ],
    );
    let documents = |d: &mut Deployment, n: usize| {
        let source = |n: String| VolumeSource::Config {
            document: DocumentRef { name: name(&n), ..settings() },
            mode: 0o644,
            items: vec![],
        };
        d.template.volumes = numbered(n).map(|v| volume(&v, source(v.clone()))).collect();
    };
    edges("documents", documents, &[32], &[33]);
    let pinned = |d: &mut Deployment, sequence| {
        let document = DocumentRef { pin: Some(revision(sequence, Digest::of(b"x"))), ..settings() };
        let source = VolumeSource::Config { document, mode: 0o644, items: vec![] };
        d.template.volumes = vec![volume("v", source)];
    };
    edges("pin", pinned, &[1], &[0]);
}

#[test]
fn s15_variables_of_documents_have_their_edges() {
    let env = |d: &mut Deployment, (value, key): (&str, &str)| {
        let from = Some(EnvSource::Config { document: settings(), key: key.into() });
        main_of(d).env = vec![EnvVar { from, ..EnvVar::plain("A", value) }];
    };
    edges("variable", env, &[("", "key")], &[("b", "key"), ("", ""), ("", "a/b")]);
    let all = |d: &mut Deployment, prefixes: Vec<String>| {
        let from = |prefix| EnvFrom::Config { document: settings(), prefix };
        main_of(d).env_from = prefixes.into_iter().map(from).collect();
    };
    let many = |n| numbered(n).collect::<Vec<_>>();
    edges(
        "prefixes",
        all,
        &[strings(&["", "A_"]), vec!["p".repeat(128)], many(16)],
        &[vec!["p".repeat(129)], strings(&["A="]), strings(&["\0"]), many(17)],
    );
}

#[test]
fn s15_nothing_else_is_where_files_of_a_document_go() {
    let beside = |d: &mut Deployment, (read_only, other): (bool, &str)| {
        let source = VolumeSource::Config { document: settings(), mode: 0o644, items: vec![] };
        d.template.volumes = vec![volume("v", source), volume("w", empty_dir())];
        main_of(d).mounts = vec![Mount { read_only, ..mount("v", "/conf") }, mount("w", other)];
    };
    edges("mount", beside, &[(true, "/confer"), (true, "/data")], &[(false, "/data"), (true, "/conf/data")]);
    let node = |d: &mut Deployment, path: &str| {
        beside(d, (true, "/data"));
        main_of(d).devices =
            vec![DeviceGrant { host_path: "/dev/a".into(), path: path.into(), read_only: true }];
    };
    edges("device", node, &["/dev/a"], &["/conf/a"]);
    let image = |d: &mut Deployment, path: &str| {
        beside(d, (true, "/data"));
        main_of(d).image.files = vec![file(path)];
    };
    edges("file", image, &["/confer", "/a"], &["/conf/a", "/conf"]);
    // Of other volumes, anything may be written.
    let other = |d: &mut Deployment, read_only| {
        d.template.volumes = vec![volume("w", empty_dir())];
        main_of(d).mounts = vec![Mount { read_only, ..mount("w", "/data") }];
    };
    edges("another volume", other, &[true, false], &[]);
}

#[test]
fn s19_a_ceiling_has_its_edges() {
    let fleet = Fleet::new();
    let ceiling = |memory| Ceiling {
        network: Network::Pod,
        host_paths: strings(&["/srv/app"]),
        devices: strings(&["/dev/a"]),
        memory,
    };
    let exceeds = |memory: Option<u64>, change: &dyn Fn(&mut PodTemplate)| {
        let mut d = fleet.deployment("app", 1);
        d.template.resources = Resources::default();
        main_of(&mut d).resources.memory_limit = Some(100);
        change(&mut d.template);
        beyond(&ceiling(memory), &d.template)
    };
    let none = None::<String>;
    assert_eq!(exceeds(None, &|t| t.network = Network::Pod), none);
    assert!(exceeds(None, &|t| t.network = Network::Host).is_some());
    let host = |path: &str| volume("h", VolumeSource::HostPath { path: path.into() });
    assert_eq!(exceeds(None, &|t| t.volumes = vec![host("/srv/app"), host("/srv/app/a")]), none);
    assert!(exceeds(None, &|t| t.volumes = vec![host("/srv/app"), host("/srv/apple")]).is_some());
    let node = |path: &str| DeviceGrant { host_path: path.into(), path: "/dev/x".into(), read_only: true };
    assert_eq!(exceeds(None, &|t| t.containers[0].devices = vec![node("/dev/a")]), none);
    assert!(exceeds(None, &|t| t.containers[0].devices = vec![node("/dev/b")]).is_some());
    // Memory: the pod's own limit, or what its containers can hold at one time, whichever is less.
    let of = |n: &str, memory| {
        let mut c = container(n);
        c.resources.memory_limit = memory;
        c
    };
    assert_eq!(exceeds(Some(100), &|_| {}), none);
    assert!(exceeds(Some(99), &|_| {}).is_some());
    assert!(exceeds(Some(100), &|t| t.containers[0].resources.memory_limit = None).is_some());
    assert_eq!(exceeds(Some(150), &|t| t.containers.push(of("b", Some(50)))), none);
    assert!(exceeds(Some(149), &|t| t.containers.push(of("b", Some(50)))).is_some());
    assert_eq!(exceeds(Some(100), &|t| t.init_containers = vec![of("i", Some(100))]), none, "one at a time");
    assert!(exceeds(Some(100), &|t| t.init_containers = vec![of("i", Some(101))]).is_some());
    assert!(exceeds(Some(100), &|t| t.init_containers = vec![of("i", None)]).is_some());
    let pod = |memory| move |t: &mut PodTemplate| t.resources.memory_limit = Some(memory);
    assert_eq!(exceeds(Some(60), &pod(60)), none, "the pod's own is less");
    assert!(exceeds(Some(59), &pod(60)).is_some());
    assert_eq!(exceeds(Some(100), &pod(200)), none, "its containers' is less");
    assert_eq!(
        exceeds(Some(60), &|t| (t.containers[0].resources.memory_limit, t.resources.memory_limit) =
            (None, Some(60))),
        none
    );
}
