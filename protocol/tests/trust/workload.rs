//! What a pod's probes, hooks and init containers may ask for: each rule broken once, and the sound one accepted.

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::v1::*;

type Change = fn(&mut Deployment);

/// A pod with a volume in memory, one of the device's, and a second module in its image.
fn sound(fleet: &Fleet) -> Deployment {
    let mut d = fleet.deployment("app", 1);
    let volume = |n: &str, source| Volume { name: name(n), source };
    d.template.volumes = vec![
        volume("data", VolumeSource::EmptyDir { size_limit: None }),
        volume("host", VolumeSource::HostPath { path: "/srv/shoal".into() }),
    ];
    let c = &mut d.template.containers[0];
    c.image.files = vec![second()];
    let mount = |n: &str, path: &str| Mount { volume: name(n), path: path.into(), read_only: false };
    c.mounts = vec![mount("data", "/data"), mount("host", "/data/host")];
    d
}

fn second() -> File {
    File { path: "/second.wasm".into(), ..module() }
}

fn exec(module: File) -> ProbeAction {
    ProbeAction::Exec { module, argv: vec!["second".into()] }
}

fn fresh(path: &str) -> ProbeAction {
    ProbeAction::FileFresh { path: path.into(), max_age: 30 }
}

fn live(d: &mut Deployment, action: ProbeAction) {
    d.template.containers[0].liveness_probe = Some(full::probe(action));
}

#[test]
fn s16_probes_hooks_and_init_containers_that_make_no_sense_are_malformed() {
    let mut fleet = Fleet::new();
    let changes: [Change; 22] = [
        |d| live(d, exec(File { digest: shoal_protocol::ids::Digest::of(b"elsewhere"), ..second() })),
        |d| live(d, ProbeAction::Exec { module: second(), argv: vec![] }),
        |d| live(d, ProbeAction::Tcp { port: 80 }),
        |d| live(d, ProbeAction::Http { port: 80, path: "/".into() }),
        |d| live(d, fresh("/data")),
        |d| live(d, fresh("/elsewhere/beat")),
        |d| live(d, fresh("/data/host/beat")),
        |d| live(d, fresh("/data/../beat")),
        |d| live(d, ProbeAction::FileFresh { path: "/data/beat".into(), max_age: 0 }),
        |d| {
            let probe = Probe { period: 0, ..full::probe(fresh("/data/beat")) };
            d.template.containers[0].startup_probe = Some(probe);
        },
        |d| {
            let probe = Probe { timeout: 0, ..full::probe(fresh("/data/beat")) };
            d.template.containers[0].startup_probe = Some(probe);
        },
        |d| {
            let probe = Probe { success_threshold: Some(2), ..full::probe(fresh("/data/beat")) };
            d.template.containers[0].liveness_probe = Some(probe);
        },
        |d| {
            let argv = vec!["x".into()];
            d.template.containers[0].post_start = Some(Hook { module: File { size: 1, ..second() }, argv });
        },
        |d| d.template.init_containers = (0..16).map(|n| container(&format!("i{n}"))).collect(),
        |d| d.template.init_containers = vec![container("main")],
        |d| d.template.init_containers = vec![Container { stdin: true, ..container("init") }],
        |d| {
            let init = Container { restart_policy: Some(RestartPolicy::Always), ..container("init") };
            d.template.init_containers = vec![init];
        },
        |d| d.template.resources.cpu_seconds = Some(0),
        |d| d.template.containers[0].resources.wall_seconds = Some(0),
        |d| d.template.resources.disk = Some(DiskLimits::default()),
        |d| d.template.resources.disk = Some(DiskLimits { write_bps: Some(4095), ..DiskLimits::default() }),
        |d| {
            let disk = DiskLimits { read_bps: Some(1 << 20), write_iops: Some(0), ..DiskLimits::default() };
            d.template.containers[0].resources.disk = Some(disk);
        },
    ];
    for change in changes {
        let mut d = sound(&fleet);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Malformed, "{:#?}", d.template);
    }
}

/// One revision that asks for everything of the list, on its own, in its plainest sound form.
#[test]
fn sound_probes_hooks_and_limits_are_accepted() {
    let fleet = Fleet::new();
    let changes: [Change; 9] = [
        |d| live(d, exec(second())),
        |d| live(d, fresh("/data/beat")),
        |d| {
            let probe = Probe { success_threshold: Some(3), ..full::probe(exec(module())) };
            d.template.containers[0].readiness_probe = Some(probe);
        },
        |d| {
            let hook = || Some(Hook { module: second(), argv: vec!["x".into()] });
            let c = &mut d.template.containers[0];
            (c.post_start, c.pre_stop) = (hook(), hook());
        },
        |d| d.template.containers[0].stdin = true,
        |d| d.template.init_containers = vec![container("init")],
        |d| d.template.resources.wall_seconds = Some(60),
        |d| d.template.containers[0].resources.cpu_seconds = Some(60),
        |d| d.template.resources.disk = Some(DiskLimits { read_iops: Some(1), ..DiskLimits::default() }),
    ];
    for change in changes {
        let mut d = sound(&fleet);
        change(&mut d);
        Fleet::new().publish(&d).unwrap();
    }
}
