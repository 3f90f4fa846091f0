//! Pods' networks for real: guests that serve and connect through the engine's sockets, the device's own CNI plugins, and
//! nothing left of it. Each device is in a network namespace of its own, so that the host's is never touched.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, SOON, as_agent, ended, needs_runner, nothing_is_left, prepared, skipped,
    stage_and_compile, wait_for,
};
use rustix::thread::UnshareFlags;
use shoal_confine::process::{enter_network, unshare};
use shoal_ipc::{Cause, Digest as Id, Event, EventStream};
use shoal_protocol::v1::{Deployment, Network, PortMapping, Probe, ProbeAction, Resources};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The device on the cable between it and the outside, and the outside.
const DEVICE: [u8; 4] = [192, 0, 2, 1];
const ANSWER: &str = "HTTP/1.0 200 OK\r\n\r\nhello from wasm";

/// Answers whoever connects to this port of any address; exits with the number of the step that failed.
fn server(port: u16) -> Vec<u8> {
    let length = ANSWER.len();
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_bind" (func $bind (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_listen" (func $listen (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\20\00\00\00\04\00\00\00")
  (data (i32.const 40) "\00\02\00\00\00\02\00\00")
  (data (i32.const 48) "\00\01\00\00")
  (data (i32.const 256) "HTTP/1.0 200 OK\0d\0a\0d\0ahello from wasm")
  (func $must (param $errno i32) (param $step i32)
    (if (local.get $errno) (then (call $exit (local.get $step)))))
  (func (export "_start")
    (call $must (call $open (i32.const 1) (i32.const 2) (i32.const 0)) (i32.const 11))
    (call $must (call $bind (i32.load (i32.const 0)) (i32.const 16) (i32.const {port})) (i32.const 12))
    (call $must (call $listen (i32.load (i32.const 0)) (i32.const 16)) (i32.const 13))
    (i32.store (i32.const 52) (i32.const {length}))
    (loop $next
      (call $must (call $accept (i32.load (i32.const 0)) (i32.const 4)) (i32.const 14))
      (drop (call $recv (i32.load (i32.const 4)) (i32.const 40) (i32.const 1) (i32.const 0) (i32.const 60) (i32.const 64)))
      (drop (call $send (i32.load (i32.const 4)) (i32.const 48) (i32.const 1) (i32.const 0) (i32.const 60)))
      (drop (call $close (i32.load (i32.const 4))))
      (br $next))))"#
    );
    wat::parse_str(text).unwrap()
}

/// Connects there, asks, and exits with 0 once it is answered.
fn client([a, b, c, d]: [u8; 4], port: u16) -> Vec<u8> {
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_connect" (func $connect (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\20\00\00\00\04\00\00\00")
  (data (i32.const 32) "\{a:02x}\{b:02x}\{c:02x}\{d:02x}")
  (data (i32.const 40) "\00\02\00\00\00\02\00\00")
  (data (i32.const 48) "\00\01\00\00\12\00\00\00")
  (data (i32.const 256) "GET / HTTP/1.0\0d\0a\0d\0a")
  (func $must (param $errno i32) (param $step i32)
    (if (local.get $errno) (then (call $exit (local.get $step)))))
  (func (export "_start")
    (call $must (call $open (i32.const 1) (i32.const 2) (i32.const 0)) (i32.const 11))
    (call $must (call $connect (i32.load (i32.const 0)) (i32.const 16) (i32.const {port})) (i32.const 12))
    (call $must (call $send (i32.load (i32.const 0)) (i32.const 48) (i32.const 1) (i32.const 0) (i32.const 60)) (i32.const 13))
    (call $must (call $recv (i32.load (i32.const 0)) (i32.const 40) (i32.const 1) (i32.const 0) (i32.const 60) (i32.const 64)) (i32.const 14))
    (if (i32.eqz (i32.load (i32.const 60))) (then (call $exit (i32.const 15))))))"#
    );
    wat::parse_str(text).unwrap()
}

/// Waits for one datagram at this port, and exits with 0 once it is there.
fn receiver(port: u16) -> Vec<u8> {
    let text = format!(
        r#"(module
  (import "wasi_snapshot_preview1" "sock_open" (func $open (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_bind" (func $bind (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\20\00\00\00\04\00\00\00")
  (data (i32.const 40) "\00\02\00\00\00\02\00\00")
  (func $must (param $errno i32) (param $step i32)
    (if (local.get $errno) (then (call $exit (local.get $step)))))
  (func (export "_start")
    (call $must (call $open (i32.const 1) (i32.const 1) (i32.const 0)) (i32.const 11))
    (call $must (call $bind (i32.load (i32.const 0)) (i32.const 16) (i32.const {port})) (i32.const 12))
    (call $must (call $recv (i32.load (i32.const 0)) (i32.const 40) (i32.const 1) (i32.const 0) (i32.const 60) (i32.const 64)) (i32.const 13))
    (if (i32.ne (i32.load (i32.const 512)) (i32.const 0x676e6970)) (then (call $exit (i32.const 14))))))"#
    );
    wat::parse_str(text).unwrap()
}

/// A network namespace that lives for as long as this does.
struct Net(File);

impl Net {
    fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(UnshareFlags::NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let net = Self(made.join().unwrap());
        net.ip("link set lo up");
        net
    }

    /// Does something in it, in a thread of its own; processes that it starts are there too.
    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_network(self.0.as_fd()).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }

    fn says(&self, program: &str, args: &str) -> String {
        let done = self.within(|| Command::new(program).args(args.split(' ')).output().unwrap());
        assert!(done.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn ip(&self, args: &str) -> String {
        self.says("ip", args)
    }

    /// What whoever connects from here to there is told.
    fn ask(&self, host: [u8; 4], port: u16) -> io::Result<String> {
        self.within(|| {
            let address = SocketAddr::from((host, port));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }
}

/// A device in a namespace of its own, and the outside, on one cable.
struct World {
    device: Device,
    fleet: Fleet,
    net: Net,
    outside: Net,
}

/// Where the plugins are: those of the test's own run, or the host's.
fn plugins() -> Option<PathBuf> {
    let given = std::env::var_os("CNI_PATH").map(PathBuf::from);
    [given, Some("/usr/lib/cni".into()), Some("/opt/cni/bin".into())]
        .into_iter()
        .flatten()
        .find(|p| p.join("bridge").exists())
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|p| p.join(program).exists())
}

fn needs_network(test: &str) -> bool {
    let absent = [("ip", "iproute2"), ("iptables", "iptables")].into_iter().find(|(p, _)| !has(p));
    needs_runner(test)
        || absent
            .is_some_and(|(p, package)| skipped(test, &format!("{p} is not installed (package {package})")))
        || (plugins().is_none() && skipped(test, "no CNI plugins (package containernetworking-plugins)"))
}

fn policy(allow: &str) -> String {
    let folder = plugins().unwrap_or_default();
    format!("[allow]\nnetwork = [{allow}]\n[network]\nplugins = [\"{}\"]\n", folder.display())
}

impl World {
    fn new(more: &str) -> Self {
        let (net, outside) = (Net::new(), Net::new());
        let there = format!("/proc/{}/fd/{}", std::process::id(), outside.0.as_raw_fd());
        net.ip(&format!("link add up0 type veth peer name out0 netns {there}"));
        for (at, name, address) in [(&net, "up0", "192.0.2.1/24"), (&outside, "out0", "192.0.2.2/24")] {
            at.ip(&format!("addr add {address} dev {name}"));
            at.ip(&format!("link set {name} up"));
        }
        let mut device = Device::prepare(more);
        net.within(|| device.launch());
        let fleet = Fleet::new(10);
        fleet.enroll(&device);
        Self { device, fleet, net, outside }
    }

    fn pod(&self, called: &str, module: &[u8], network: Network, ports: &[(u64, u64)]) -> Deployment {
        let mut d = self.fleet.pod(called, 1, module, Resources::default());
        d.template.network = network;
        let port = |(container_port, host_port): &(u64, u64)| PortMapping {
            container_port: *container_port,
            host_port: *host_port,
            udp: false,
        };
        d.template.ports = ports.iter().map(port).collect();
        d
    }

    fn start(&self, ticket: Id, attempt: u64) -> Result<u32, String> {
        let code = |e: shoal_ipc::Error| match e {
            shoal_ipc::Error::Refused { code, detail } => format!("{code}: {detail}"),
            other => panic!("{other}"),
        };
        self.device.supervise().start(ticket, 0, attempt).map(|s| s.pid).map_err(code)
    }

    /// What the outside is told at this port of the device, once it is told anything.
    fn answer(&self, port: u16) -> String {
        let look = || self.outside.ask(DEVICE, port).ok();
        wait_for("an answer", || {
            let found = look();
            let all = self.device.supervise().list().unwrap();
            let ended = all.iter().find(|c| !c.running && found.is_none());
            assert!(ended.is_none_or(|c| c.cause == Some(Cause::Stopped)), "{ended:?}");
            found
        })
    }

    fn netns(&self, ticket: Id) -> PathBuf {
        self.device.layout.run().join("netns").join(ticket.hex())
    }

    /// The address that a pod was given.
    fn address(&self, ticket: Id) -> [u8; 4] {
        let result =
            std::fs::read_to_string(self.device.layout.networks().join(ticket.hex()).join("result")).unwrap();
        let (_, rest) = result.split_once("10.213.").unwrap();
        let rest: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let (c, d) = rest.split_once('.').unwrap();
        [10, 213, c.parse().unwrap(), d.parse().unwrap()]
    }

    /// Waits until nothing of any pod's network is left.
    fn no_network_is_left(&self) {
        wait_for("the end of the network", || {
            let empty = |p: &Path| std::fs::read_dir(p).map_or(true, |mut d| d.next().is_none());
            let run = self.device.layout.run();
            (empty(&self.device.layout.networks()) && empty(&run.join("netns"))).then_some(())
        });
        let links = self.net.ip("-o link");
        assert!(!links.contains("veth"), "{links}");
        let rules = self.net.says("iptables-save", "-t nat");
        assert!(!rules.contains("shoal-"), "{rules}");
        let leases = self.device.layout.run().join("cni/shoal");
        let left: Vec<_> =
            std::fs::read_dir(leases).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|n| !n.to_string_lossy().starts_with("10.")), "{left:?}");
    }

    fn end(mut self) {
        self.net.within(|| self.device.stop_all());
        self.no_network_is_left();
        nothing_is_left(&self.device);
    }
}

#[test]
fn c4_a_guests_server_is_reached_through_its_port_alone_and_outlives_supervise() {
    if needs_network("c4_a_guests_server_is_reached_through_its_port_alone_and_outlives_supervise") {
        return;
    }
    let mut w = World::new(&policy("\"pod\""));
    let module = server(80);
    let d = w.pod("web", &module, Network::Pod, &[(80, 8080)]);
    let ticket = w.fleet.roll_out(&w.device, 1, &d);
    stage_and_compile(&w.device, ticket, &d, &module);
    let pid = w.start(ticket, 1).unwrap();
    assert_eq!(w.answer(8080), ANSWER);
    w.outside.ask(DEVICE, 80).unwrap_err();
    let own = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let host = w.net.within(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(own, host, "not the device's own network");
    // Supervise killed: the next one keeps the network, and what runs in it never notices.
    w.device.kill_supervise();
    w.net.within(|| w.device.launch());
    assert_eq!(w.outside.ask(DEVICE, 8080).unwrap(), ANSWER);
    let mut events = as_agent(|| EventStream::supervise(&w.device.layout)).unwrap();
    assert_eq!(w.device.supervise().stop(ticket, None, SOON).unwrap(), 1);
    assert_eq!(ended(&mut events).cause, Some(Cause::Stopped));
    w.no_network_is_left();
    // The pod is still there: its network is made anew with its next start, and goes with it.
    w.start(ticket, 2).unwrap();
    assert_eq!(w.answer(8080), ANSWER);
    // Also when supervise is not there to be asked.
    w.device.kill_supervise();
    w.end();
}

#[test]
fn c3_without_grant_or_leave_a_guest_gets_no_socket() {
    if needs_network("c3_without_grant_or_leave_a_guest_gets_no_socket") {
        return;
    }
    let w = World::new(&policy("\"pod\""));
    let module = server(80);
    // The deployment grants none: the module's import is named.
    let none = w.pod("none", &module, Network::None, &[]);
    // The owner allows no more than a network of the pod's own.
    let host = w.pod("host", &module, Network::Host, &[]);
    // The port that it listens at was not granted; the one that was is another.
    let other = w.pod("other", &module, Network::Pod, &[(81, 0)]);
    let tickets = w.fleet.roll_out_all(&w.device, 1, &[&none, &host, &other]);
    let mut events = as_agent(|| EventStream::supervise(&w.device.layout)).unwrap();
    let item = Id(none.template.containers[0].image.module.digest.0);
    let mut s = w.device.supervise();
    wait_for("the ticket", || s.have(tickets[0]).ok());
    s.stage(tickets[0], item, shoal_ipc::sealed_memfd(&module).unwrap().as_fd()).unwrap();
    s.compile(tickets[0], item).unwrap();
    // Its code is made for whoever may use it; this pod may not.
    let event = prepared(&mut events);
    assert!(matches!(event, Event::Compiled { .. } | Event::CompileFailed { .. }), "{event:?}");
    let refused = w.start(tickets[0], 1).unwrap_err();
    assert!(refused.starts_with("import_denied: ") && refused.contains("sock_open"), "{refused}");
    let refused = w.start(tickets[1], 1).unwrap_err();
    assert!(refused.starts_with("policy_denied: ") && refused.contains("allow.network"), "{refused}");
    w.start(tickets[2], 1).unwrap();
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 12 }), "its bind fails");
    w.end();
}

#[test]
fn containers_of_a_pod_share_its_loopback_and_pods_do_not_reach_each_other() {
    if needs_network("containers_of_a_pod_share_its_loopback_and_pods_do_not_reach_each_other") {
        return;
    }
    let w = World::new(&policy("\"pod\""));
    let (serves, asks) = (server(80), client([127, 0, 0, 1], 80));
    let mut d = w.pod("pair", &serves, Network::Pod, &[(80, 8080)]);
    let probe = Probe {
        action: ProbeAction::Http { port: 80, path: "/".into() },
        initial_delay: 0,
        period: 1,
        timeout: 5,
        failure_threshold: 3,
        success_threshold: None,
    };
    d.template.containers[0].readiness_probe = Some(probe);
    let asking = w.pod("x", &asks, Network::Pod, &[]).template.containers.remove(0);
    d.template.containers.push(shoal_protocol::v1::Container { name: common::name("asks"), ..asking });
    let ticket = w.fleet.roll_out(&w.device, 1, &d);
    stage_and_compile(&w.device, ticket, &d, &serves);
    compile_second(&w, ticket, &asks);
    let mut events = as_agent(|| EventStream::supervise(&w.device.layout)).unwrap();
    w.start(ticket, 1).unwrap();
    wait_for("the probe inside the pod's network", || {
        let all = w.device.supervise().list().ok()?;
        all.iter().any(|c| c.index == 0 && c.ready == Some(true)).then_some(())
    });
    w.device.supervise().start(ticket, 1, 1).unwrap();
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 0 }), "it was answered on 127.0.0.1");
    // Another pod on the same bridge does not reach it, though the device itself does.
    let address = w.address(ticket);
    assert_eq!(w.net.ask(address, 80).unwrap(), ANSWER);
    let direct = client(address, 80);
    let stranger = w.pod("stranger", &direct, Network::Pod, &[]);
    let tickets = w.fleet.roll_out_all(&w.device, 2, &[&d, &stranger]);
    stage_and_compile(&w.device, tickets[1], &stranger, &direct);
    let mut events = as_agent(|| EventStream::supervise(&w.device.layout)).unwrap();
    w.start(tickets[1], 1).unwrap();
    // No neighbour answers, so the kernel gives up after some seconds of asking who has that address.
    assert_eq!(ended(&mut events).cause, Some(Cause::Exited { code: 12 }));
    w.end();
}

fn compile_second(w: &World, ticket: Id, module: &[u8]) {
    let item = Id(shoal_protocol::ids::Digest::of(module).0);
    let mut events = as_agent(|| EventStream::supervise(&w.device.layout)).unwrap();
    let mut s = w.device.supervise();
    s.stage(ticket, item, shoal_ipc::sealed_memfd(module).unwrap().as_fd()).unwrap();
    s.compile(ticket, item).unwrap();
    let event = prepared(&mut events);
    assert!(matches!(event, Event::Compiled { .. }), "{event:?}");
}

#[test]
fn a_pod_on_the_hosts_network_is_reached_without_a_mapping() {
    if needs_network("a_pod_on_the_hosts_network_is_reached_without_a_mapping") {
        return;
    }
    let w = World::new(&policy("\"host\""));
    let module = server(8081);
    let d = w.pod("web", &module, Network::Host, &[]);
    let ticket = w.fleet.roll_out(&w.device, 1, &d);
    stage_and_compile(&w.device, ticket, &d, &module);
    let pid = w.start(ticket, 1).unwrap();
    assert_eq!(w.answer(8081), ANSWER);
    let own = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(own, w.net.within(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()));
    w.end();
}

#[test]
fn a_port_of_the_device_is_one_pods_until_nothing_of_it_runs() {
    if needs_network("a_port_of_the_device_is_one_pods_until_nothing_of_it_runs") {
        return;
    }
    let w = World::new(&policy("\"pod\""));
    let module = server(80);
    let all = ["one", "two"].map(|n| w.pod(n, &module, Network::Pod, &[(80, 8080)]));
    let tickets = w.fleet.roll_out_all(&w.device, 1, &[&all[0], &all[1]]);
    stage_and_compile(&w.device, tickets[0], &all[0], &module);
    w.start(tickets[0], 1).unwrap();
    let refused = w.start(tickets[1], 1).unwrap_err();
    assert!(refused.starts_with("conflict: ") && refused.contains("8080"), "{refused}");
    let mut events = as_agent(|| EventStream::supervise(&w.device.layout)).unwrap();
    // One container alone was asked to end: the pod keeps its network for the next start of it …
    assert_eq!(w.device.supervise().stop(tickets[0], Some(0), SOON).unwrap(), 1);
    ended(&mut events);
    assert!(w.netns(tickets[0]).exists());
    // … unless somebody else needs the port.
    w.start(tickets[1], 1).unwrap();
    assert!(!w.netns(tickets[0]).exists());
    assert_eq!(w.answer(8080), ANSWER);
    w.end();
}

#[test]
fn c3_a_network_that_cannot_be_made_leaves_nothing_and_says_what_is_wanting() {
    if needs_network("c3_a_network_that_cannot_be_made_leaves_nothing_and_says_what_is_wanting") {
        return;
    }
    let w = World::new("[allow]\nnetwork = [\"pod\"]\n[network]\nplugins = [\"/nowhere/cni\"]\n");
    let missing = w.device.status().features.missing.join("; ");
    assert!(missing.contains("containernetworking-plugins"), "{missing}");
    let module = server(80);
    let d = w.pod("web", &module, Network::Pod, &[(80, 8080)]);
    let ticket = w.fleet.roll_out(&w.device, 1, &d);
    stage_and_compile(&w.device, ticket, &d, &module);
    let refused = w.start(ticket, 1).unwrap_err();
    assert!(refused.starts_with("kernel_unsupported: "), "{refused}");
    assert!(refused.contains("containernetworking-plugins"), "{refused}");
    w.no_network_is_left();
    w.end();

    // The owner's own list wins; its second plugin fails, so the work of the first is taken back.
    let w = World::new(&policy("\"pod\""));
    let conf = w.device.layout.cni_conf();
    std::fs::create_dir_all(&conf).unwrap();
    let leases = w.device.layout.run().join("cni");
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "site", "plugins": [
            {{"type": "bridge", "bridge": "site0", "isGateway": true, "ipam": {{"type": "host-local",
              "dataDir": "{}", "subnet": "10.9.0.0/24"}}}},
            {{"type": "tuning", "sysctl": {{"net.ipv4.conf.all.no_such_thing": "1"}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        leases.display()
    );
    std::fs::write(conf.join("10-site.conflist"), list).unwrap();
    let ticket = w.fleet.roll_out(&w.device, 1, &w.pod("web", &module, Network::Pod, &[(80, 8080)]));
    stage_and_compile(&w.device, ticket, &d, &module);
    let refused = w.start(ticket, 1).unwrap_err();
    assert!(
        refused.starts_with("kernel_unsupported: ") && refused.contains("tuning: ADD failed"),
        "{refused}"
    );
    assert!(w.net.ip("-o link").contains("site0"), "the owner's list was used");
    let given: Vec<_> =
        std::fs::read_dir(leases.join("site")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(given.iter().all(|n| !n.to_string_lossy().starts_with("10.9.")), "{given:?}");
    w.no_network_is_left();
    w.end();
}

#[test]
fn f6_a_network_that_was_under_way_when_supervise_died_is_taken_back() {
    if needs_network("f6_a_network_that_was_under_way_when_supervise_died_is_taken_back") {
        return;
    }
    let own = tempfile::tempdir().unwrap();
    let real = plugins().unwrap();
    let both = format!("plugins = [\"{}\", \"{}\"]", own.path().display(), real.display());
    let mut w = World::new(&format!("[allow]\nnetwork = [\"pod\"]\n[network]\n{both}\n"));
    // After the bridge's work, and long enough for supervise to die meanwhile.
    let slow = own.path().join("slow");
    let go = own.path().join("go");
    let script = format!(
        "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\n: > {0}.began\nwhile [ ! -e {0} ]; do sleep 0.05; done\necho '{{\"cniVersion\": \"1.0.0\"}}'\n",
        go.display()
    );
    std::fs::write(&slow, script).unwrap();
    std::fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let conf = w.device.layout.cni_conf();
    std::fs::create_dir_all(&conf).unwrap();
    let list = format!(
        r#"{{"cniVersion": "1.0.0", "name": "shoal", "plugins": [{{"type": "bridge", "bridge": "site0", "isGateway": true,
            "ipam": {{"type": "host-local", "dataDir": "{}", "subnet": "10.9.0.0/24"}}}}, {{"type": "slow"}}]}}"#,
        w.device.layout.run().join("cni").display()
    );
    std::fs::write(conf.join("10-site.conflist"), list).unwrap();
    let module = server(80);
    let d = w.pod("web", &module, Network::Pod, &[(80, 0)]);
    let ticket = w.fleet.roll_out(&w.device, 1, &d);
    stage_and_compile(&w.device, ticket, &d, &module);
    let mut asks = w.device.supervise();
    let asking = std::thread::spawn(move || asks.start(ticket, 0, 1).map(|s| s.pid));
    wait_for("the slow plugin", || go.with_extension("began").exists().then_some(()));
    w.device.kill_supervise();
    asking.join().unwrap().unwrap_err();
    w.net.within(|| w.device.launch());
    assert!(w.net.ip("-o link").contains("veth"), "the helper of the old one is still at it");
    std::fs::write(&go, "").unwrap();
    w.no_network_is_left();
    // And it can be made anew.
    w.start(ticket, 1).unwrap();
    w.end();
}

#[test]
fn datagrams_come_through_a_mapped_port_too() {
    if needs_network("datagrams_come_through_a_mapped_port_too") {
        return;
    }
    let w = World::new(&policy("\"pod\""));
    let module = receiver(53);
    let mut d = w.pod("hears", &module, Network::Pod, &[(53, 5353)]);
    d.template.ports[0].udp = true;
    let ticket = w.fleet.roll_out(&w.device, 1, &d);
    stage_and_compile(&w.device, ticket, &d, &module);
    w.start(ticket, 1).unwrap();
    // One that comes before it listens is lost, as datagrams are.
    let cause = wait_for("the datagram's way to the guest", || {
        w.outside
            .within(|| {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(b"ping", SocketAddr::from((DEVICE, 5353)))
            })
            .ok()?;
        let all = w.device.supervise().list().ok()?;
        all.into_iter().find(|c| !c.running)?.cause
    });
    assert_eq!(cause, Cause::Exited { code: 0 });
    w.end();
}
