//! Real sockets: handshake, descriptors, long paths, and what a hostile peer can send.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use shoal_ipc::{Connection, Error, Listener, MESSAGE_MAX, Msg, read_sealed, sealed_memfd};
use std::os::fd::AsFd;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn serve_one(listener: &Listener) -> Connection {
    loop {
        if let Some(c) = listener.accept().unwrap() {
            return c;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_request_with_a_document_is_answered_below_a_path_longer_than_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("admit.sock");
    let listener = Listener::bind(&path, 0o600).unwrap();
    let server = std::thread::spawn(move || {
        let mut c = serve_one(&listener);
        let r = c.recv("a request", SOON).unwrap();
        assert_eq!(r.msg, Msg::Submit {});
        assert_eq!(read_sealed(&r.fds[0], 100).unwrap(), b"document");
        assert_eq!(c.peer().unwrap().uid, rustix::process::getuid().as_raw());
        c.send(&Msg::refused("malformed", "no"), &[]).unwrap();
    });
    let mut c = Connection::connect(&path, SOON).unwrap();
    let fd = sealed_memfd(b"document").unwrap();
    let answer = c.call(&Msg::Submit {}, &[fd.as_fd()], SOON);
    assert_eq!(answer.unwrap_err().refusal(), Some("malformed"));
    server.join().unwrap();
    assert!(matches!(c.recv("more", SOON), Err(Error::Closed)));
}

#[test]
fn a_stale_socket_is_replaced_and_a_missing_one_is_a_disconnect() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(Listener::bind(&path, 0o600).unwrap());
    assert!(Connection::connect(&path, SOON).unwrap_err().is_disconnect());
    Listener::bind(&path, 0o600).unwrap();
    assert!(Connection::connect(&dir.path().join("none"), SOON).unwrap_err().is_disconnect());
}

#[test]
fn nothing_is_served_before_the_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path, 0o600).unwrap();
    let server = std::thread::spawn(move || serve_one(&listener).recv("a request", SOON).map(|r| r.msg));
    let addr = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let raw = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&raw, &addr).unwrap();
    send(&raw, &Msg::Trust {}.encode().unwrap(), SendFlags::empty()).unwrap();
    assert!(matches!(server.join().unwrap(), Err(Error::Unexpected { message: "Trust" })));
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path, 0o600).unwrap();
    let server = std::thread::spawn(move || serve_one(&listener).recv("a request", SOON).map(|r| r.msg));
    let raw = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&raw, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    send(&raw, &[9, 0, 1, 0], SendFlags::empty()).unwrap();
    let e = server.join().unwrap().unwrap_err();
    assert!(matches!(e, Error::Version { theirs: 9 }), "{e}");
}

#[test]
fn too_long_packets_and_missing_or_extra_descriptors_are_refused() {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut c = Connection::from_fd(b).unwrap();
    send(&a, &[0; MESSAGE_MAX + 1], SendFlags::empty()).unwrap();
    assert!(matches!(c.try_recv(), Err(Error::TooLarge { .. })));
    send(&a, &Msg::Submit {}.encode().unwrap(), SendFlags::empty()).unwrap();
    assert!(matches!(c.try_recv(), Err(Error::Descriptors { expected: 1, found: 0 })));
    assert!(c.try_recv().unwrap().is_none(), "a bad packet is gone, the connection is not");
    let me = Connection::from_fd(a).unwrap();
    assert!(matches!(me.send(&Msg::Submit {}, &[]), Err(Error::Descriptors { .. })));
}

#[test]
fn a_peer_that_does_not_read_costs_a_timeout_and_no_more() {
    let (a, _b) = Connection::pair().unwrap();
    let e = loop {
        if let Err(e) = a.send(&Msg::Changed {}, &[]) {
            break e;
        }
    };
    assert!(matches!(e, Error::TimedOut { what: "Changed" }));
    assert!(matches!(
        a.send_wait(&Msg::Changed {}, &[], Duration::from_millis(20)),
        Err(Error::TimedOut { .. })
    ));
}
