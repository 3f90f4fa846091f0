//! B7: behind an HTTP proxy that leads to one port and nowhere else, everything works; and what failed is named.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::Service;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// A real proxy that allows CONNECT to `allowed` alone, and writes down who asked for what.
struct Tinyproxy {
    service: Service,
    port: u16,
}

impl Tinyproxy {
    fn start(fleet: &Fleet, allowed: u16) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = fleet.file(
            "tinyproxy.conf",
            format!(
                "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth site s3cret\nConnectPort {allowed}\n\
                 Timeout 600\nLogLevel Connect\n"
            ),
        );
        let log = fleet.dir.path().join("tinyproxy.log");
        let mut command = Command::new("tinyproxy");
        let service = Service::spawn(command.arg("-d").arg("-c").arg(config), &log).unwrap();
        let proxy = Self { service, port };
        shoal_lab::wait_until("tinyproxy to listen", LONG, || {
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", proxy.service.output()));
        proxy
    }

    /// As a device's environment says it.
    fn env(&self, credential: &str) -> Vec<(String, String)> {
        vec![("HTTPS_PROXY".into(), format!("http://{credential}@127.0.0.1:{}", self.port))]
    }
}

#[test]
fn b7_behind_a_proxy_that_leads_to_one_port_everything_works() {
    let test = "b7_behind_a_proxy_that_leads_to_one_port_everything_works";
    if needs_root(test) {
        return;
    }
    let mut fleet = fleet();
    let port = fleet.lab.controller.port;
    let mut proxy = Tinyproxy::start(&fleet, port);
    let env = proxy.env("site:s3cret");
    fleet
        .lab
        .add_device_with("site=here", |device| {
            device.env = env;
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", proxy.service.output()));
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    // To join, to be told and to tell, to pull: at least three connections, all to the one port.
    let log = proxy.service.output();
    let asked = log.matches(&format!("): CONNECT 127.0.0.1:{port} ")).count();
    assert!(asked >= 3 && log.matches("): CONNECT ").count() == asked, "{log}");
    // Who looks after it goes the same way.
    let before = asked;
    let doctor = fleet.lab.devices[0].cli(&["doctor", "--output", "json"]).unwrap();
    let checks = doctor.json().unwrap();
    let reached = |c: &&serde_json::Value| (c["id"] == "broker" || c["id"] == "api") && c["state"] == "ok";
    assert!(checks.as_array().unwrap().iter().filter(reached).count() >= 2, "{checks:#}");
    assert!(proxy.service.output().matches("): CONNECT ").count() > before, "{}", proxy.service.output());
    // And no other way: it lives and dies with the proxy.
    proxy.service.kill();
    shoal_lab::wait_until("the device to miss the proxy", LONG, || {
        Ok(fleet.lab.devices[0].agent_output().contains("Proxy Connect").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", fleet.outputs()));
    fleet.lab.stop().unwrap();
}

#[test]
fn b7_a_join_that_fails_at_the_proxy_says_so_and_what_to_do() {
    let test = "b7_a_join_that_fails_at_the_proxy_says_so_and_what_to_do";
    if needs_root(test) {
        return;
    }
    let fleet = fleet();
    let join = fleet.lab.join_file("site=here").unwrap();
    let mut device = fleet.lab.prepare_device().unwrap();
    device.start_guard().unwrap();
    let refused = |device: &mut shoal_lab::Device, env, words: &[&str]| {
        device.env = env;
        let error = format!("{:#}", device.enroll(&join).unwrap_err());
        for word in words {
            assert!(error.contains(word), "{word:?} is missing: {error}");
        }
    };
    let mut elsewhere = Tinyproxy::start(&fleet, 443);
    refused(&mut device, elsewhere.env("site:s3cret"), &["proxy:", "does not lead to", "CONNECT"]);
    refused(&mut device, elsewhere.env("site:wrong"), &["proxy:", "does not lead to", "name and password"]);
    let gone = elsewhere.env("site:s3cret");
    elsewhere.service.kill();
    refused(&mut device, gone, &["proxy:", "cannot connect to the proxy", "HTTPS_PROXY"]);
    // Nothing of that spent the token or left half an identity.
    device.env.clear();
    device.enroll(&join).unwrap();
    device.stop().unwrap();
}

/// A proxy that looks into TLS' first words and lets pass what speaks HTTP alone.
fn picky_proxy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || lead(&client));
        }
    });
    port
}

fn lead(client: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let target = first.split(' ').nth(1)?.to_owned();
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let mut to_client = client.try_clone().ok()?;
    to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let mut hello = [0; 2048];
    let n = reader.read(&mut hello).ok()?;
    // The name of the protocol, with its length before it, as ALPN has it.
    if hello[..n].windows(5).any(|w| w == b"\x04mqtt") {
        return client.shutdown(std::net::Shutdown::Both).ok();
    }
    let mut server = TcpStream::connect(target).ok()?;
    server.write_all(&hello[..n]).ok()?;
    let mut from_server = server.try_clone().ok()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    std::io::copy(&mut reader, &mut server).ok()?;
    server.shutdown(std::net::Shutdown::Both).ok()
}

#[test]
fn b7_where_no_mqtt_is_let_through_a_device_speaks_it_over_websocket() {
    let test = "b7_where_no_mqtt_is_let_through_a_device_speaks_it_over_websocket";
    if needs_root(test) {
        return;
    }
    let mut fleet = fleet();
    let port = picky_proxy();
    fleet
        .lab
        .add_device_with("site=here", |device| {
            device.env = vec![("HTTPS_PROXY".into(), format!("http://127.0.0.1:{port}"))];
            Ok(())
        })
        .unwrap();
    fleet.wait_online();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    fleet.wait_running("app", 1);
    let said = fleet.lab.devices[0].agent_output();
    assert!(said.contains("mqtts://") && said.contains("not connected"), "the first way failed: {said}");
    fleet.shoal(&["delete", "deployment", "app", "--yes"]);
    fleet.lab.stop().unwrap();
}
