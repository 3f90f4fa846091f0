//! A pod's network, its ports and its devices: each rule broken once, and the sound ones accepted.

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::v1::*;

type Change = fn(&mut Deployment);

fn port(container_port: u64, host_port: u64) -> PortMapping {
    PortMapping { container_port, host_port, udp: false }
}

fn with_ports(d: &mut Deployment, ports: &[PortMapping]) {
    d.template.network = Network::Pod;
    d.template.ports = ports.to_vec();
}

#[test]
fn s16_ports_that_make_no_sense_are_malformed() {
    let mut fleet = Fleet::new();
    let changes: [Change; 8] = [
        |d| d.template.ports = vec![port(80, 8080)],
        |d| {
            with_ports(d, &[port(80, 8080)]);
            d.template.network = Network::Host;
        },
        |d| with_ports(d, &[port(0, 8080)]),
        |d| with_ports(d, &[port(65_536, 8080)]),
        |d| with_ports(d, &[port(80, 65_536)]),
        |d| with_ports(d, &[port(80, 8080), port(81, 8080)]),
        |d| with_ports(d, &[port(80, 0), port(80, 0)]),
        |d| with_ports(d, &(1..=65).map(|n| port(n, n)).collect::<Vec<_>>()),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut d = fleet.deployment("app", 1);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Malformed, "change {n}");
    }
    fleet.still_works();
}

#[test]
fn every_network_and_sound_ports_are_accepted() {
    let mut fleet = Fleet::new();
    let changes: [Change; 4] = [
        |d| d.template.network = Network::Pod,
        |d| d.template.network = Network::Host,
        |d| {
            let udp = PortMapping { udp: true, ..port(80, 8080) };
            with_ports(d, &[port(80, 8080), udp, port(80, 8081), port(90, 0)]);
        },
        |d| {
            d.template.network = Network::Pod;
            let action = ProbeAction::Tcp { port: 80 };
            d.template.containers[0].liveness_probe = Some(full::probe(action));
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let sequence = u64::try_from(n).unwrap() + 1;
        let mut d = fleet.deployment("app", sequence);
        change(&mut d);
        fleet.publish(&d).unwrap();
    }
}

fn device(host_path: &str, path: &str) -> DeviceGrant {
    DeviceGrant { host_path: host_path.into(), path: path.into(), read_only: false }
}

#[test]
fn s16_devices_that_make_no_sense_are_malformed_and_sound_ones_accepted() {
    let mut fleet = Fleet::new();
    let changes: [Change; 7] = [
        |d| d.template.containers[0].devices = vec![device("/etc/passwd", "/dev/x")],
        |d| d.template.containers[0].devices = vec![device("/dev/../etc/passwd", "/dev/x")],
        |d| d.template.containers[0].devices = vec![device("/dev/ttyS0", "/port")],
        |d| d.template.containers[0].devices = vec![device("/dev/ttyS0", "dev/x")],
        |d| {
            d.template.containers[0].devices =
                vec![device("/dev/ttyS0", "/d/x"), device("/dev/ttyS1", "/d/x")];
        },
        |d| d.template.containers[0].devices = vec![device("/dev/ttyS0", "/app.wasm/x")],
        |d| {
            let one = |n| device("/dev/ttyS0", &format!("/dev/{n}"));
            d.template.containers[0].devices = (0..17).map(one).collect();
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut d = fleet.deployment("app", 1);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Malformed, "change {n}");
    }
    let mut d = fleet.deployment("app", 1);
    d.template.containers[0].devices =
        vec![device("/dev/serial/by-id/usb-0", "/dev/port"), device("/dev/ttyS1", "/dev/other")];
    fleet.publish(&d).unwrap();
}
