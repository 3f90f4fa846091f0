//! A pod's network and its ports: each rule broken once, and the sound ones accepted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod common;

use common::*;
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
