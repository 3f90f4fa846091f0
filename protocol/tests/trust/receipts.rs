//! The way back by hand: who may ask for a receipt, for how long and beside which snapshot; and which receipts count.

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::{Digest, Timestamp};
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, Mark};

fn held(fleet: &Fleet) -> SnapshotRef {
    let known = fleet.state.snapshot.as_ref().unwrap();
    SnapshotRef { version: known.document.version, digest: known.digest }
}

#[test]
fn a_request_counts_for_whom_it_selects_beside_the_snapshot_that_it_names_and_may_be_put_again() {
    let mut fleet = Fleet::new();
    let request = fleet.receipt_request(held(&fleet));
    let good = seal(&request, &[seed::SNAPSHOT]).0;
    fleet.accept(&good).unwrap();
    fleet.accept(&good).unwrap();

    let mut bad = |change: fn(&mut ReceiptRequest), by: u8, code: Code| {
        let mut changed = request.clone();
        change(&mut changed);
        assert_eq!(fleet.refused(&seal(&changed, &[by]).0), code);
    };
    bad(|_| (), seed::ONLINE, Code::RoleScope);
    bad(|_| (), seed::DEPLOY, Code::RoleScope);
    bad(|_| (), seed::STRANGER, Code::UnknownKey);
    bad(|r| r.target = Target::default(), seed::SNAPSHOT, Code::WrongTarget);
    bad(|r| r.target.architectures = vec!["riscv64".into()], seed::SNAPSHOT, Code::WrongTarget);
    bad(|r| r.epoch = 2, seed::SNAPSHOT, Code::Epoch);
    bad(|r| r.not_after = r.not_after.plus(1), seed::SNAPSHOT, Code::OrderForbidden);
    bad(|r| r.snapshot.digest = Digest::of(b"another"), seed::SNAPSHOT, Code::NotInSnapshot);
    bad(
        |r| (r.issued_at, r.not_after) = (Timestamp(NOW.0 - 9), Timestamp(NOW.0 - 1)),
        seed::SNAPSHOT,
        Code::Expired,
    );

    // What an old stick asks is asked no more once a newer snapshot came.
    fleet.accept(&seal(&fleet.snapshot(2, vec![]), &[seed::SNAPSHOT]).0).unwrap();
    assert_eq!(fleet.refused(&good), Code::NotInSnapshot);
    fleet.still_works();
}

#[test]
fn s25_a_receipt_is_the_devices_own_counts_once_and_a_fork_of_it_is_a_clone() {
    let mut fleet = Fleet::new();
    let take = Expect::Only(Kind::Receipt);
    let (first, digest) = seal(&fleet.receipt(1), &[seed::IDENTITY]);
    fleet.accept_as(&first, take).unwrap();
    assert_eq!(fleet.state.receipt, Some(Mark { counter: 1, digest }));
    let code = |fleet: &mut Fleet, bytes: &[u8]| fleet.accept_as(bytes, take).unwrap_err().code;
    assert_eq!(code(&mut fleet, &first), Code::ReportReplay);
    let fork = Receipt { left_out: 1, ..fleet.receipt(1) };
    assert_eq!(code(&mut fleet, &seal(&fork, &[seed::IDENTITY]).0), Code::DeviceCloned);
    let second = fleet.receipt(2);
    assert_eq!(code(&mut fleet, &seal(&second, &[seed::STRANGER]).0), Code::UnknownKey);
    let mut changed = seal(&fleet.receipt(2), &[seed::IDENTITY]).0;
    let end = changed.len() - 9;
    changed[end] ^= 1;
    assert_eq!(code(&mut fleet, &changed), Code::BadSignature);
    let other = Receipt { device: key(seed::STRANGER).public().device_id(), ..fleet.receipt(2) };
    assert_eq!(code(&mut fleet, &seal(&other, &[seed::IDENTITY]).0), Code::WrongTarget);
    // A device takes none: it makes them.
    assert_eq!(fleet.refused(&seal(&fleet.receipt(2), &[seed::IDENTITY]).0), Code::WrongType);
    fleet.accept_as(&seal(&fleet.receipt(5), &[seed::IDENTITY]).0, take).unwrap();
}
