//! The real guard as root: what a taken-over agent cannot do, and what admission keeps over restarts and kills.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{AGENT, Device, Fleet, accepted, as_agent, code, name, needs_root, wait_for};
use rustix::net::{AddressFamily, SendFlags, SocketType, send};
use shoal_ipc::{AdmitClient, Connection, Digest as Id, HeldRole, RootAdmitClient, SuperviseClient};
use shoal_protocol::ids::Digest;
use shoal_protocol::v1::{Entry, EntryKind, Liveness, Resources, Revision};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

const T: Id = Id([9; 32]);

fn memfd(bytes: &[u8]) -> std::os::fd::OwnedFd {
    shoal_ipc::sealed_memfd(bytes).unwrap()
}

#[test]
fn c5_a_taken_over_agent_gets_nothing_without_a_ticket() {
    if needs_root("c5_a_taken_over_agent_gets_nothing_without_a_ticket") {
        return;
    }
    let device = Device::start();
    let mut s = device.supervise();
    let refused =
        |r: Result<(), shoal_ipc::Error>| assert_eq!(r.unwrap_err().refusal(), Some("not_admitted"));
    refused(s.stage(T, T, memfd(b"x").as_fd()));
    refused(s.compile(T, T));
    refused(s.start(T, 0, 1).map(|_| ()));
    refused(s.stop(T, None, Duration::ZERO).map(|_| ()));
    refused(s.remove(T));
    refused(s.status().map(|_| ()));
    refused(device.supervise().shutdown());
    assert!(device.status().not_admitted >= 7);
    // Neither root-only socket is open to it, and it cannot see into another's folder.
    as_agent(|| {
        assert!(SuperviseClient::connect_root(&device.layout).is_err());
        assert!(RootAdmitClient::connect(&device.layout).is_err());
        assert!(Connection::connect(&device.layout.run().join("log.sock"), Duration::from_secs(1)).is_err());
        for folder in [device.layout.admit_dir(), device.layout.supervise_dir()] {
            assert!(std::fs::read_dir(folder).is_err());
        }
    });
    // And uid 0 is not the agent: nothing that admission takes from the agent comes from another uid.
    assert!(AdmitClient::connect(&device.layout).is_err());
}

/// It holds the keys that open secrets, and opened ones.
#[test]
fn c5_the_memory_of_admission_goes_into_no_core_and_to_no_debugger() {
    if needs_root("c5_the_memory_of_admission_goes_into_no_core_and_to_no_debugger") {
        return;
    }
    let device = Device::start();
    device.admit();
    let admit = format!("/proc/{}", device.status().admit_pid);
    let status = std::fs::read_to_string(format!("{admit}/status")).unwrap();
    assert!(!status.contains("Uid:\t0"), "it has a user of its own: {status}");
    // Of a process that may be dumped this is its user's.
    assert_eq!(std::fs::metadata(format!("{admit}/environ")).unwrap().uid(), 0);
}

/// Its folder is closed to others; so is each file, should the folder not be one day.
#[test]
fn c5_what_admission_writes_is_for_its_own_user_alone() {
    if needs_root("c5_what_admission_writes_is_for_its_own_user_alone") {
        return;
    }
    let device = Device::start();
    device.admit();
    let files: Vec<_> = std::fs::read_dir(device.layout.admit_dir()).unwrap().flatten().collect();
    assert!(!files.is_empty());
    for file in files {
        let mode = file.metadata().unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.path().display());
    }
}

#[test]
fn c5_bytes_other_than_signed_pipes_and_devices_are_refused() {
    if needs_root("c5_bytes_other_than_signed_pipes_and_devices_are_refused") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let d = fleet.pod("web", 1, b"module", Resources::default());
    let ticket = fleet.roll_out(&device, 1, &d);
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut s = device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    let code = |r: Result<(), shoal_ipc::Error>| r.unwrap_err().refusal().unwrap().to_owned();
    assert_eq!(code(s.stage(ticket, item, memfd(b"modulo").as_fd())), "digest_mismatch");
    assert_eq!(code(s.stage(ticket, item, memfd(b"modul").as_fd())), "digest_mismatch");
    assert_eq!(code(s.stage(ticket, item, memfd(&vec![0; 100_000]).as_fd())), "digest_mismatch");
    assert_eq!(code(s.stage(ticket, T, memfd(b"other").as_fd())), "not_admitted");
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    assert_eq!(code(s.stage(ticket, item, pipe.as_fd())), "not_admitted");
    let zero = std::fs::File::open("/dev/zero").unwrap();
    assert_eq!(code(s.stage(ticket, item, zero.as_fd())), "not_admitted");
    assert!(!s.have(ticket).unwrap().modules[0].staged);
    s.stage(ticket, item, memfd(b"module").as_fd()).unwrap();
    assert!(s.have(ticket).unwrap().modules[0].staged);
    // Nothing half-copied is left.
    let left: Vec<_> = std::fs::read_dir(device.layout.modules()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn c5_floods_and_malformed_messages_change_nothing() {
    if needs_root("c5_floods_and_malformed_messages_change_nothing") {
        return;
    }
    let device = Device::start();
    let before = device.status();
    as_agent(|| {
        for path in [device.layout.supervise_socket(), device.layout.admit_socket()] {
            let addr = rustix::net::SocketAddrUnix::new(&path).unwrap();
            for i in 0..300_u16 {
                let raw = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
                rustix::net::connect(&raw, &addr).unwrap();
                // Hello, then bytes that are no message, of every length.
                let _ = send(&raw, &[1, 0, 1, 0], SendFlags::NOSIGNAL);
                let _ = send(&raw, &vec![i.to_le_bytes()[0]; usize::from(i) * 20], SendFlags::NOSIGNAL);
            }
        }
    });
    let after = device.status();
    assert_eq!((after.admit_pid, after.log_pid), (before.admit_pid, before.log_pid), "nobody fell over");
    assert_eq!(after.tickets, 0);
    device.admit().trust().unwrap();
}

#[test]
fn s7_a_first_root_comes_from_uid_0_only_and_binds_the_device() {
    if needs_root("s7_a_first_root_comes_from_uid_0_only_and_binds_the_device") {
        return;
    }
    let (device, fleet, other) = (Device::start(), Fleet::new(10), Fleet::new(40));
    assert_eq!(code(&device.admit().submit(&fleet.root).unwrap()), "not_admitted");
    let keys = fleet.enroll(&device);
    let mut root = RootAdmitClient::connect(&device.layout).unwrap();
    let foreign = root.enroll(vec![other.root.clone()], other.token()).unwrap_err();
    assert_eq!(foreign.refusal(), Some("not_admitted"));
    let again = root.enroll(vec![fleet.root.clone()], fleet.token()).unwrap();
    assert_eq!(again, keys, "enrolled again, the keys are the same");
}

#[test]
fn without_root_the_guards_own_user_is_the_agent_and_the_administrator() {
    if needs_root("without_root_the_guards_own_user_is_the_agent_and_the_administrator") {
        return;
    }
    let mut device = Device::prepare("");
    let owned = Command::new("chown").arg("-R").arg(AGENT.to_string()).arg(device.dir.path()).status();
    assert!(owned.unwrap().success());
    let fleet = Fleet::new(10);
    as_agent(|| {
        device.launch();
        let mut root = RootAdmitClient::connect(&device.layout).unwrap();
        let keys = root.enroll(vec![fleet.root.clone()], fleet.token()).unwrap();
        let mut admit = AdmitClient::connect(&device.layout).unwrap();
        accepted(&admit.submit(&fleet.record(&keys)).unwrap());
        drop((root, admit));
        device.stop_all();
    });
}

/// However many connections the agent holds, uid 0 has its own.
#[test]
fn c5_the_agent_has_so_many_connections_and_none_of_uid_0s() {
    if needs_root("c5_the_agent_has_so_many_connections_and_none_of_uid_0s") {
        return;
    }
    let device = Device::start();
    device.admit();
    let mut all = Vec::new();
    let refused =
        as_agent(|| (0..100).find(|_| AdmitClient::connect(&device.layout).map(|c| all.push(c)).is_err()));
    assert!(refused.is_some(), "{} connections", all.len());
    let taken = all.len();
    RootAdmitClient::connect(&device.layout).unwrap();
    // Who goes makes room.
    all.truncate(taken - 1);
    wait_for("room", || as_agent(|| AdmitClient::connect(&device.layout)).ok());
}

#[test]
fn s17_s1_s9_documents_are_refused_by_code_and_the_good_one_outlives_kills() {
    if needs_root("s17_s1_s9_documents_are_refused_by_code_and_the_good_one_outlives_kills") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let mut admit = device.admit();
    let d = fleet.pod("web", 2, b"module", Resources::default());
    let (envelope, digest) = fleet.deployment(&d);
    assert_eq!(code(&admit.submit(&envelope).unwrap()), "not_in_snapshot");
    accepted(&admit.submit(&fleet.snapshot(5, &[(&d, digest, Liveness::Live)])).unwrap());
    let mut flipped = envelope.clone();
    let at = flipped.len() - 10;
    flipped[at] ^= 1;
    assert_eq!(code(&admit.submit(&flipped).unwrap()), "bad_signature");
    assert_eq!(code(&admit.submit(b"junk").unwrap()), "malformed");
    accepted(&admit.submit(&envelope).unwrap());
    let old = fleet.pod("web", 1, b"module", Resources::default());
    let (old, _) = fleet.deployment(&old);
    assert_eq!(code(&admit.submit(&old).unwrap()), "rollback");
    assert_eq!(admit.deployment("web", 2).unwrap(), envelope, "the exact bytes");
    let held = admit.trust().unwrap();
    assert_eq!(held.snapshot.as_ref().unwrap().version, 5);
    assert_eq!((held.held[0].role, held.held[0].startable), (HeldRole::Candidate, true));
    let codes: Vec<_> = held.refusals.iter().map(|r| (r.code.as_str(), r.count)).collect();
    assert_eq!(codes, [("bad_signature", 1), ("malformed", 1), ("not_in_snapshot", 1), ("rollback", 1)]);

    // Admission killed: it comes back, verifies again and hands out the ticket again.
    let pid = rustix::process::Pid::from_raw(device.status().admit_pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for("another admit", || {
        (device.status().admit_pid != pid.as_raw_nonzero().get().cast_unsigned()).then_some(())
    });
    assert_eq!(device.admit().trust().unwrap(), held);
    // The whole guard killed and started again, without any network. Admission does not outlive who started it.
    let admit = format!("/proc/{}", device.status().admit_pid);
    device.kill_supervise();
    wait_for("admission to end", || (!std::path::Path::new(&admit).exists()).then_some(()));
    device.launch();
    let ticket = Id(digest.0);
    wait_for("the ticket again", || device.supervise().have(ticket).ok());
    assert_eq!(device.admit().trust().unwrap(), held);
    device.stop_all();
}

/// Admission tells supervise first, and supervise hears that before what is asked for because of it.
#[test]
fn who_hears_that_a_document_was_taken_finds_its_ticket_at_once() {
    if needs_root("who_hears_that_a_document_was_taken_finds_its_ticket_at_once") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let (mut admit, mut s) = (device.admit(), device.supervise());
    for sequence in 1..=20 {
        let d = fleet.pod("web", sequence, b"module", Resources::default());
        let (envelope, digest) = fleet.deployment(&d);
        accepted(&admit.submit(&fleet.snapshot(sequence, &[(&d, digest, Liveness::Live)])).unwrap());
        assert!(s.have(Id(digest.0)).is_err());
        accepted(&admit.submit(&envelope).unwrap());
        s.have(Id(digest.0)).unwrap();
    }
}

/// What is tried beforehand counts as a refusal like what is handed in, but for what is simply another device's.
#[test]
fn s14_a_rehearsal_counts_what_is_wrong_and_not_what_is_for_others() {
    if needs_root("s14_a_rehearsal_counts_what_is_wrong_and_not_what_is_for_others") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let mut admit = device.admit();
    let mut d = fleet.pod("web", 1, b"module", Resources::default());
    d.target.devices = vec![Fleet::new(40).device()];
    let (envelope, digest) = fleet.deployment(&d);
    let snapshot = fleet.snapshot(1, &[(&d, digest, Liveness::Live)]);
    accepted(&admit.rehearse(&snapshot).unwrap());
    assert_eq!(code(&admit.rehearse(&envelope).unwrap()), "wrong_target");
    assert!(admit.trust().unwrap().refusals.is_empty());
    assert_eq!(code(&admit.rehearse(b"junk").unwrap()), "malformed");
    assert_eq!(code(&admit.rehearse(&fleet.of_another_fleet()).unwrap()), "wrong_target");
    let counted = admit.trust().unwrap();
    let codes: Vec<_> = counted.refusals.iter().map(|r| (r.code.as_str(), r.count)).collect();
    assert_eq!(codes, [("malformed", 1), ("wrong_target", 1)]);
    assert!(counted.snapshot.is_none(), "nothing of it is kept");
}

#[test]
fn s17_a_snapshot_that_drops_a_live_name_takes_nothing_away() {
    if needs_root("s17_a_snapshot_that_drops_a_live_name_takes_nothing_away") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let d = fleet.pod("web", 1, b"module", Resources::default());
    let ticket = fleet.roll_out(&device, 1, &d);
    let mut s = device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    let mut admit = device.admit();
    assert_eq!(code(&admit.submit(&fleet.snapshot(2, &[])).unwrap()), "snapshot_rollback");
    assert!(s.have(ticket).is_ok());
    let held = admit.trust().unwrap();
    assert!(held.held[0].stageable);
}

/// The keys that listed and enrolled are replaced, which says nothing against what they did; then the power goes.
#[test]
fn s6_at_a_cold_start_a_device_is_what_it_was_although_who_listed_and_enrolled_it_left_the_root() {
    if needs_root(
        "s6_at_a_cold_start_a_device_is_what_it_was_although_who_listed_and_enrolled_it_left_the_root",
    ) {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let [goes_on, gone] = ["goes-on", "gone"].map(|n| fleet.pod(n, 1, b"module", Resources::default()));
    let tickets = fleet.roll_out_all(&device, 1, &[&goes_on, &gone]);
    let entry = |n: &str, ticket: Id, liveness| Entry {
        kind: EntryKind::Deployment,
        name: name(n),
        liveness,
        floor: 0,
        newest: Revision { sequence: 1, digest: Digest(ticket.0) },
        stable: None,
        removal: None,
    };
    let entries =
        vec![entry("goes-on", tickets[0], Liveness::Live), entry("gone", tickets[1], Liveness::Removed)];
    accepted(&device.admit().submit(&fleet.removing(2, entries.clone())).unwrap());
    accepted(&device.admit().submit(&fleet.rotated()).unwrap());
    let standing = |device: &Device| {
        let trust = device.admit().trust().unwrap();
        let mut held: Vec<_> =
            trust.held.into_iter().map(|h| (h.name, h.stageable, h.startable, h.reason)).collect();
        held.sort();
        (trust.root_version, trust.snapshot.map(|s| s.version), trust.device.is_some(), held)
    };
    let before = standing(&device);
    let wanted = vec![
        ("goes-on".to_owned(), true, true, String::new()),
        ("gone".to_owned(), false, false, "removed".to_owned()),
    ];
    assert_eq!(before, (2, Some(2), true, wanted));
    device.stop_all();
    device.launch();
    assert_eq!(standing(&device), before);
    // What comes next is held to what was: by the new keys, and on top of it.
    let submit = |bytes: &[u8]| code(&device.admit().submit(bytes).unwrap()).to_owned();
    assert_eq!(submit(&fleet.listing(3, entries.clone())), "revoked_key");
    assert_eq!(submit(&fleet.listing_after_rotation(1, entries.clone())), "rollback");
    assert_eq!(submit(&fleet.listing_after_rotation(3, vec![])), "snapshot_rollback");
    assert_eq!(submit(&fleet.listing_after_rotation(3, entries)), "accepted");
}
