//! Networks and devices from the operator's file to the device: granted, shown before signing, and refused where the owner says so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

/// Answers whoever connects to this port; exits with the number of the step that failed.
fn server(port: u16) -> String {
    format!(
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
  (data (i32.const 48) "\00\01\00\00\15\00\00\00")
  (data (i32.const 256) "HTTP/1.0 200 OK\0d\0a\0d\0ahi")
  (func $must (param $errno i32) (param $step i32)
    (if (local.get $errno) (then (call $exit (local.get $step)))))
  (func (export "_start")
    (call $must (call $open (i32.const 1) (i32.const 2) (i32.const 0)) (i32.const 11))
    (call $must (call $bind (i32.load (i32.const 0)) (i32.const 16) (i32.const {port})) (i32.const 12))
    (call $must (call $listen (i32.load (i32.const 0)) (i32.const 16)) (i32.const 13))
    (loop $next
      (call $must (call $accept (i32.load (i32.const 0)) (i32.const 4)) (i32.const 14))
      (drop (call $recv (i32.load (i32.const 4)) (i32.const 40) (i32.const 1) (i32.const 0) (i32.const 60) (i32.const 64)))
      (drop (call $send (i32.load (i32.const 4)) (i32.const 48) (i32.const 1) (i32.const 0) (i32.const 60)))
      (drop (call $close (i32.load (i32.const 4))))
      (br $next))))"#
    )
}

/// Opens `/dev/port` to read and exits with the errno.
const OPENS: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "dev/port")
  (func (export "_start")
    (call $exit (call $open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 8) (i32.const 0)
      (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 0)))))"#;

fn on_network(name: &str, image: &str, network: &str, extra: &str) -> String {
    let text = manifest(name, image, "Always", extra);
    text.replace("      restartPolicy", &format!("      network: {network}\n      restartPolicy"))
}

#[test]
fn c3_networks_and_devices_are_granted_as_signed_and_as_the_owner_allows() {
    if needs_root("c3_networks_and_devices_are_granted_as_signed_and_as_the_owner_allows") {
        return;
    }
    let mut fleet = fleet();
    let policy = "[allow]\nnetwork = [\"none\", \"host\"]\ndevices = [\"/dev/full\"]\n";
    fleet.lab.add_device_with("site=here", |device| device.add_policy(policy)).unwrap();
    // Whoever asks the kernel for a port gets one that nobody has.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fleet.import_wat("web:1", &server(port));
    fleet.import_wat("opens:1", OPENS);

    let probe = format!(
        "readinessProbe: {{httpGet: {{port: {port}, path: /}}, periodSeconds: 1, timeoutSeconds: 5}}"
    );
    fleet.apply(&on_network("web", "web:1", "host", &probe));
    let pod = fleet.wait_pod("web", "its readiness", |p| p["containers"][0]["ready"] == true);
    assert_eq!(pod["containers"][0]["running"], true, "{pod:#}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "HTTP/1.0 200 OK\r\n\r\nhi");

    // A network that the owner does not allow, and a device likewise.
    fleet.apply(&on_network("pod", "web:1", "pod", "ports:\n  - {containerPort: 80, hostPort: 8080}"));
    let pod = fleet.wait_pod("pod", "the refusal", |p| p["reason"] == "policy_denied");
    assert!(pod["message"].as_str().unwrap().contains("allow.network"), "{pod:#}");
    let device = |name: &str, path: &str| {
        let grant = format!("devices:\n  - {{hostPath: {path}, path: /dev/port, readOnly: true}}");
        manifest(name, "opens:1", "Never", &grant)
    };
    fleet.apply(&device("memory", "/dev/mem"));
    let pod = fleet.wait_pod("memory", "the refusal", |p| p["reason"] == "policy_denied");
    assert!(pod["message"].as_str().unwrap().contains("allow.devices"), "{pod:#}");

    let ended = |name: &str| {
        let pod = fleet.wait_pod(name, "its end", |p| !p["containers"][0]["last_end"].is_null());
        pod["containers"][0]["last_end"]["code"].as_u64().unwrap_or_else(|| panic!("{pod:#}"))
    };
    fleet.apply(&device("granted", "/dev/full"));
    assert_eq!(ended("granted"), 0);
    fleet.apply(&manifest("bare", "opens:1", "Never", ""));
    assert_eq!(ended("bare"), 44, "nothing is there without a grant");

    // Without a network in the file the module is refused before anything is signed.
    let refused = fleet.try_apply(&manifest("none", "web:1", "Always", ""));
    assert!(refused.stderr.contains("import_denied") && refused.stderr.contains("sock_open"), "{refused:?}");
}
