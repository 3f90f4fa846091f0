//! Releases on their way from admission to supervise: what is offered, for how long, and what is kept of the others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Device, Fleet, SOON, accepted, as_agent, code, name, needs_root, wait_for};
use shoal_ipc::{Event, EventStream, Offer};
use shoal_protocol::ids::Digest;
use shoal_protocol::v1::{Entry, EntryKind, Liveness, Resources, Revision};

/// A snapshot that lists this release of the agent and nothing else.
fn listing(fleet: &Fleet, version: u64, sequence: u64, digest: Digest) -> Vec<u8> {
    let newest = Revision { sequence, digest };
    let entry = Entry {
        kind: EntryKind::Release,
        name: name("agent"),
        liveness: Liveness::Live,
        floor: 0,
        newest,
        stable: None,
        removal: None,
    };
    fleet.listing(version, vec![entry])
}

fn offer(device: &Device) -> Option<Offer> {
    device.supervise().software().unwrap().offer
}

#[test]
fn s26_supervise_is_offered_what_the_snapshot_lists_now_and_loses_it_with_the_listing() {
    if needs_root("s26_supervise_is_offered_what_the_snapshot_lists_now_and_loses_it_with_the_listing") {
        return;
    }
    let (mut device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let mut admit = device.admit();
    let releases = [(1, "90.0.0"), (2, "91.0.0"), (3, "92.0.0")].map(|(n, v)| (n, v, fleet.release(n, v)));
    assert_eq!(offer(&device), None);
    for (n, version, (bytes, digest)) in &releases {
        accepted(&admit.submit(&listing(&fleet, *n, *n, *digest)).unwrap());
        // The one before is not listed any more, and this one is not here yet.
        assert_eq!(offer(&device), None, "{version}");
        let mut events = as_agent(|| EventStream::admit(&device.layout)).unwrap();
        accepted(&admit.submit(bytes).unwrap());
        assert!(matches!(events.next(SOON).unwrap(), Event::Changed));
        // Whoever hears that it was taken can ask supervise about it.
        let offered = offer(&device).unwrap();
        assert_eq!((offered.id.0, offered.release.as_str()), (digest.0, *version));
        assert_eq!((offered.name.as_str(), offered.missing_total), ("agent", 3));
    }
    // The two newest are kept; the sequence of the other one still counts.
    assert!(admit.release("agent", 1).is_err());
    assert_eq!(admit.release("agent", 2).unwrap(), releases[1].2.0);
    assert_eq!(admit.release("agent", 3).unwrap(), releases[2].2.0);
    assert_eq!(code(&admit.submit(&releases[0].2.0).unwrap()), "rollback");
    let before = offer(&device);
    device.stop_all();
    device.launch();
    assert_eq!(wait_for("the offer again", || offer(&device)), before.unwrap());
}

#[test]
fn what_time_alone_opens_is_told_to_supervise_and_to_who_listens() {
    if needs_root("what_time_alone_opens_is_told_to_supervise_and_to_who_listens") {
        return;
    }
    let (device, fleet) = (Device::start(), Fleet::new(10));
    fleet.enroll(&device);
    let mut d = fleet.pod("web", 1, b"module", Resources::default());
    d.not_before = Some(common::now().plus(3));
    fleet.roll_out(&device, 1, &d);
    let mut admit = device.admit();
    let held = admit.trust().unwrap().held;
    assert_eq!((held[0].startable, held[0].reason.as_str()), (false, "outside_window"));
    let mut events = as_agent(|| EventStream::admit(&device.layout)).unwrap();
    assert!(matches!(events.next(SOON).unwrap(), Event::Changed));
    assert!(admit.trust().unwrap().held[0].startable);
}
