//! The edges of what snapshots, deployments and a device's own documents may say: the last value that is good, and the first that
//! is not (as in `limits.rs`).

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::{Bytes, Digest, Timestamp};
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, MAX_JUMP, Viewpoint};

type Outcome = Result<(), Code>;

fn rev(sequence: u64) -> Revision {
    revision(sequence, Digest::of(&sequence.to_be_bytes()))
}

fn other(sequence: u64) -> Revision {
    revision(sequence, Digest::of(b"other"))
}

fn take(fleet: &mut Fleet, bytes: &[u8]) -> Outcome {
    fleet.accept(bytes).map(|_| ()).map_err(|r| r.code)
}

/// What becomes of a snapshot of these entries on a device that holds one of those.
fn after(held: Vec<Entry>, next: Vec<Entry>) -> Outcome {
    let mut fleet = Fleet::new();
    let held = fleet.snapshot(2, held);
    take(&mut fleet, &seal(&held, &[seed::SNAPSHOT]).0)?;
    let next = fleet.snapshot(3, next);
    take(&mut fleet, &seal(&next, &[seed::SNAPSHOT]).0)
}

fn with_stable(n: &str, newest: Revision, stable: Revision) -> Entry {
    Entry { stable: Some(stable), ..entry(n, newest) }
}

#[test]
fn s17_a_snapshots_form_has_its_edges() {
    let form = |entries: Vec<Entry>| after(vec![], entries);
    let many = |n: usize| (0..n).map(|i| entry(&format!("n{i:05}"), rev(1))).collect::<Vec<_>>();
    assert_eq!(form(many(4096)), Ok(()));
    assert_eq!(form(many(4097)), Err(Code::Malformed));
    assert_eq!(form(vec![entry("a", rev(1)), entry("b", rev(1))]), Ok(()));
    assert_eq!(form(vec![entry("b", rev(1)), entry("a", rev(1))]), Err(Code::Malformed));
    assert_eq!(form(vec![entry("a", rev(1)), entry("a", rev(1))]), Err(Code::Malformed));
    assert_eq!(form(vec![entry("a", rev(0))]), Err(Code::Malformed));
    assert_eq!(form(vec![with_stable("a", rev(2), rev(1))]), Ok(()));
    assert_eq!(form(vec![with_stable("a", rev(2), rev(2))]), Err(Code::Malformed));
    assert_eq!(form(vec![with_stable("a", rev(2), other(2))]), Err(Code::Malformed), "two of one sequence");
    assert_eq!(form(vec![with_stable("a", rev(2), rev(3))]), Err(Code::Malformed));
}

#[test]
fn s17_no_step_of_a_name_is_undone() {
    let held = || vec![with_stable("a", rev(5), rev(4))];
    assert_eq!(after(held(), held()), Ok(()));
    assert_eq!(after(held(), vec![with_stable("a", rev(6), rev(5))]), Ok(()));
    assert_eq!(after(held(), vec![entry("a", rev(5))]), Ok(()), "its wave is open");
    assert_eq!(after(held(), vec![entry("a", rev(4))]), Err(Code::SnapshotRollback));
    assert_eq!(after(held(), vec![with_stable("a", rev(6), rev(3))]), Err(Code::SnapshotRollback));
    assert_eq!(after(held(), vec![with_stable("a", other(5), rev(4))]), Err(Code::Equivocation));
    assert_eq!(after(held(), vec![with_stable("a", rev(5), other(4))]), Err(Code::Equivocation));
    assert_eq!(after(held(), vec![with_stable("a", rev(6), other(5))]), Err(Code::Equivocation));
    assert_eq!(after(held(), vec![]), Err(Code::SnapshotRollback));
    let floor = |floor| vec![Entry { floor, ..entry("a", rev(5)) }];
    assert_eq!(after(floor(2), floor(2)), Ok(()));
    assert_eq!(after(floor(2), floor(1)), Err(Code::SnapshotRollback));
    assert_eq!(after(floor(2), floor(3)), Err(Code::RoleScope), "a raised floor needs who may remove");
}

#[test]
fn s10_the_longest_leaps_of_names_and_versions() {
    assert_eq!(after(vec![], vec![entry("a", rev(MAX_JUMP))]), Ok(()));
    assert_eq!(after(vec![], vec![entry("a", rev(MAX_JUMP + 1))]), Err(Code::SequenceJump));
    let held = || vec![entry("a", rev(7))];
    assert_eq!(after(held(), vec![entry("a", rev(7 + MAX_JUMP))]), Ok(()));
    assert_eq!(after(held(), vec![entry("a", rev(8 + MAX_JUMP))]), Err(Code::SequenceJump));
    let version = |v: u64| {
        let mut fleet = Fleet::new();
        let next = fleet.snapshot(v, vec![]);
        take(&mut fleet, &seal(&next, &[seed::SNAPSHOT]).0)
    };
    assert_eq!(version(1 + MAX_JUMP), Ok(()));
    assert_eq!(version(2 + MAX_JUMP), Err(Code::SequenceJump));
    assert_eq!(version(0), Err(Code::Rollback));
    let mut fleet = Fleet::new();
    let fork = Snapshot { not_after: NOW.plus(DAY), ..fleet.snapshot(1, vec![]) };
    assert_eq!(take(&mut fleet, &seal(&fork, &[seed::SNAPSHOT]).0), Err(Code::Equivocation));
    for (root_version, expected) in [(1, Ok(())), (2, Err(Code::RootBehind))] {
        let next = Snapshot { root_version, ..fleet.snapshot(2, vec![]) };
        assert_eq!(take(&mut fleet, &seal(&next, &[seed::SNAPSHOT]).0), expected);
    }
}

#[test]
fn s10_a_first_snapshot_is_measured_from_where_the_device_began() {
    const BEGIN: u64 = 5_000_000;
    let first = |version: u64| {
        let mut fleet = Fleet::new();
        fleet.state.snapshot = None;
        fleet.state.minima = Some(Minima { root_version: 1, snapshot_version: BEGIN, time: NOW });
        let next = fleet.snapshot(version, vec![]);
        take(&mut fleet, &seal(&next, &[seed::SNAPSHOT]).0)
    };
    assert_eq!(first(BEGIN - 1), Err(Code::Rollback));
    assert_eq!(first(BEGIN), Ok(()));
    assert_eq!(first(BEGIN + MAX_JUMP), Ok(()));
    assert_eq!(first(BEGIN + MAX_JUMP + 1), Err(Code::SequenceJump));
    let mut fleet = Fleet::new();
    fleet.state.snapshot = None;
    let far = fleet.snapshot(u64::MAX / 2, vec![]);
    assert_eq!(take(&mut fleet, &seal(&far, &[seed::SNAPSHOT]).0), Ok(()), "nothing to measure from");
    // The same for each name in the first snapshot of a new epoch.
    let mut fleet = Fleet::new();
    fleet.accept(&seal(&Root { epoch: 2, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
    let far = Snapshot { epoch: 2, ..fleet.snapshot(1, vec![entry("a", rev(MAX_JUMP + 1))]) };
    assert_eq!(take(&mut fleet, &seal(&far, &[seed::SNAPSHOT]).0), Ok(()));
}

/// What a join file said of an epoch says nothing of the next one, and goes on counting within it.
#[test]
fn s10_where_a_device_began_counts_until_an_epoch_begins() {
    for (epoch, outcome) in [(1, Err(Code::Rollback)), (2, Ok(()))] {
        let mut fleet = Fleet::new();
        fleet.state.snapshot = None;
        fleet.state.minima = Some(Minima { root_version: 1, snapshot_version: 9, time: NOW });
        fleet.accept(&seal(&Root { epoch, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
        let first = Snapshot { epoch, ..fleet.snapshot(1, vec![]) };
        assert_eq!(take(&mut fleet, &seal(&first, &[seed::SNAPSHOT]).0), outcome, "epoch {epoch}");
    }
}

#[test]
fn s17_who_may_end_a_name_or_raise_its_floor() {
    let mut root = root_1();
    root.roles.push(Role {
        prefix: "agent".into(),
        may_remove: true,
        ..role(RoleName::Release, 1, &[seed::RELEASE])
    });
    let next = |kind, n: &str, change: fn(&mut Entry), seeds: &[u8]| {
        let mut fleet = Fleet::with_root(&root);
        let mut entry = Entry { kind, floor: 1, ..with_stable(n, rev(5), rev(4)) };
        let held = fleet.snapshot(2, vec![entry.clone()]);
        take(&mut fleet, &seal(&held, &[seed::SNAPSHOT]).0)?;
        change(&mut entry);
        let next = fleet.snapshot(3, vec![entry]);
        take(&mut fleet, &seal(&next, seeds).0)
    };
    let (alone, both) = (&[seed::SNAPSHOT][..], &[seed::SNAPSHOT, seed::DEPLOY][..]);
    let with_release = &[seed::SNAPSHOT, seed::RELEASE][..];
    let removed = |e: &mut Entry| e.liveness = Liveness::Removed;
    let raised = |e: &mut Entry| e.floor = 2;
    let forbidden = Err(Code::RoleScope);
    for kind in [EntryKind::Deployment, EntryKind::Config, EntryKind::Secret] {
        for end in [removed as fn(&mut Entry), raised] {
            assert_eq!(next(kind, "app", end, alone), forbidden, "{kind:?}");
            assert_eq!(next(kind, "app", end, with_release), forbidden, "{kind:?}");
            assert_eq!(next(kind, "app", end, both), Ok(()), "{kind:?}");
        }
        assert_eq!(next(kind, "app", |_| {}, alone), Ok(()), "{kind:?}");
        assert_eq!(next(kind, "app", |e| e.floor = 0, both), Err(Code::SnapshotRollback), "{kind:?}");
    }
    for end in [removed as fn(&mut Entry), raised] {
        assert_eq!(next(EntryKind::Release, "agent", end, both), forbidden);
        assert_eq!(next(EntryKind::Release, "agent", end, with_release), Ok(()));
        assert_eq!(next(EntryKind::Release, "other", end, with_release), forbidden, "not its prefix");
    }
}

#[test]
fn s17_a_name_that_ended_before_hides_the_end_of_none_after_it() {
    let mut fleet = Fleet::new();
    let gone = |n: &str| Entry { liveness: Liveness::Removed, ..entry(n, rev(1)) };
    let next = |v, entries: Vec<Entry>| seal(&fleet.snapshot(v, entries), &[seed::SNAPSHOT, seed::DEPLOY]).0;
    let held =
        [next(2, vec![entry("a", rev(1)), entry("b", rev(1))]), next(3, vec![gone("a"), entry("b", rev(1))])];
    let ended = seal(&fleet.snapshot(4, vec![gone("b")]), &[seed::SNAPSHOT]).0;
    let by_right = next(4, vec![gone("b")]);
    for bytes in &held {
        assert_eq!(take(&mut fleet, bytes), Ok(()));
    }
    assert_eq!(take(&mut fleet, &ended), Err(Code::RoleScope));
    assert_eq!(take(&mut fleet, &by_right), Ok(()));
}

#[test]
fn s24_earlier_revisions_are_remembered_beside_the_newest_until_an_epoch_begins() {
    let mut fleet = Fleet::new();
    for sequence in [1, 2] {
        fleet.publish(&fleet.deployment("app", sequence)).unwrap();
    }
    let sequences =
        |fleet: &Fleet| fleet.state.deployments[&name("app")].revisions.keys().copied().collect::<Vec<_>>();
    assert_eq!(sequences(&fleet), [1, 2]);
    fleet.accept(&seal(&Root { epoch: 2, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
    let (bytes, digest) = seal(&Deployment { epoch: 2, ..fleet.deployment("app", 5) }, &[seed::DEPLOY]);
    let first = Snapshot { epoch: 2, ..fleet.snapshot(1, vec![entry("app", revision(5, digest))]) };
    fleet.accept(&seal(&first, &[seed::SNAPSHOT]).0).unwrap();
    fleet.accept(&bytes).unwrap();
    assert_eq!(sequences(&fleet), [5]);
}

#[test]
fn s9_of_two_stored_deployments_with_one_sequence_only_the_first_counts() {
    let mut fleet = Fleet::new();
    fleet.publish(&fleet.deployment("app", 1)).unwrap();
    let other = Deployment { issued_at: Timestamp(NOW.0 - 1), ..fleet.deployment("app", 1) };
    let bytes = seal(&other, &[seed::DEPLOY]).0;
    assert_eq!(fleet.refused_as(&bytes, Expect::Stored(Kind::Deployment)), Code::Equivocation);
}

/// A device that accepted sequence 7 of `app`, and is handed another one, listed.
fn next_deployment(sequence: u64, change: impl FnOnce(&mut Entry)) -> Outcome {
    let mut fleet = Fleet::new();
    fleet.publish(&fleet.deployment("app", 7)).unwrap();
    let (bytes, digest) = seal(&fleet.deployment("app", sequence), &[seed::DEPLOY]);
    let mut listed = entry("app", revision(sequence, digest));
    change(&mut listed);
    let snapshot = Snapshot { entries: vec![listed], ..fleet.snapshot(9, vec![]) };
    // As if it were held: what a snapshot may say is tested above.
    let held = fleet.state.snapshot.as_mut().unwrap();
    *held = shoal_protocol::verify::Known::new(snapshot, held.digest);
    take(&mut fleet, &bytes)
}

#[test]
fn s10_s17_s24_a_deployments_sequence_listing_and_floor_have_their_edges() {
    assert_eq!(next_deployment(8, |_| {}), Ok(()));
    assert_eq!(next_deployment(7 + MAX_JUMP, |_| {}), Ok(()));
    assert_eq!(next_deployment(8 + MAX_JUMP, |_| {}), Err(Code::SequenceJump));
    assert_eq!(next_deployment(6, |_| {}), Err(Code::Rollback));
    assert_eq!(next_deployment(8, |e| e.floor = 8), Ok(()));
    assert_eq!(next_deployment(8, |e| e.floor = 9), Err(Code::BelowFloor));
    assert_eq!(next_deployment(8, |e| e.liveness = Liveness::Removed), Err(Code::NotInSnapshot));
    assert_eq!(next_deployment(8, |e| (e.stable, e.newest) = (Some(e.newest), rev(9))), Ok(()));
    assert_eq!(next_deployment(8, |e| e.newest = rev(9)), Err(Code::NotInSnapshot));
    assert_eq!(next_deployment(8, |e| e.newest.digest = rev(9).digest), Err(Code::NotInSnapshot));
}

fn order(change: impl FnOnce(&mut Order)) -> Outcome {
    let mut fleet = Fleet::new();
    let mut d = fleet.deployment("app", 1);
    d.not_before = Some(NOW.plus(60));
    fleet.publish(&d).unwrap();
    fleet.state.order_counter = 4;
    let mut order = fleet.order(5, Verb::Restart { name: name("app") });
    change(&mut order);
    take(&mut fleet, &seal(&order, &[seed::ONLINE]).0)
}

#[test]
fn s23_an_orders_life_counter_and_consent_have_their_edges() {
    assert_eq!(order(|_| {}), Ok(()));
    assert_eq!(order(|o| o.counter = 4), Err(Code::OrderReplay));
    assert_eq!(order(|o| o.counter = 3), Err(Code::OrderReplay));
    assert_eq!(order(|o| o.not_after = o.issued_at.plus(3600)), Ok(()));
    assert_eq!(order(|o| o.not_after = o.issued_at.plus(3601)), Err(Code::OrderForbidden));
    assert_eq!(order(|o| o.not_after = NOW), Ok(()));
    assert_eq!(order(|o| o.not_after = Timestamp(NOW.0 - 1)), Err(Code::Expired));
    let logs = |tail, follow| Verb::Logs { name: name("app"), container: None, tail, follow, stream: 1 };
    assert_eq!(order(|o| o.verb = logs(200, 3600)), Ok(()));
    assert_eq!(order(|o| o.verb = logs(201, 0)), Err(Code::OrderForbidden));
    assert_eq!(order(|o| o.verb = logs(0, 3601)), Err(Code::OrderForbidden));
    assert_eq!(order(|o| o.verb = Verb::Restart { name: name("none") }), Err(Code::OrderForbidden));
    let activate = |revision| Verb::Activate { name: name("app"), revision };
    assert_eq!(order(|o| o.verb = activate(rev(1))), Err(Code::OrderForbidden), "other bytes");
}

#[test]
fn s23_activation_waits_for_the_signed_second() {
    let mut fleet = Fleet::new();
    let mut d = fleet.deployment("app", 1);
    d.not_before = Some(NOW.plus(1));
    fleet.publish(&d).unwrap();
    let revision = fleet.state.deployments[&name("app")].highest().unwrap();
    let activate = Verb::Activate { name: name("app"), revision };
    let early = seal(&fleet.order(1, activate.clone()), &[seed::ONLINE]).0;
    assert_eq!(take(&mut fleet, &early), Err(Code::OutsideWindow));
    fleet.state.time_floor = NOW.plus(1);
    assert_eq!(take(&mut fleet, &early), Ok(()));
    let stage = Verb::Stage { name: name("app"), revision };
    fleet.state.time_floor = NOW;
    let stage = seal(&fleet.order(2, stage), &[seed::ONLINE]).0;
    assert_eq!(take(&mut fleet, &stage), Ok(()));
}

fn record(change: impl FnOnce(&mut DeviceRecord)) -> Outcome {
    let mut fleet = Fleet::new();
    let mut record = fleet.record(2);
    change(&mut record);
    take(&mut fleet, &seal(&record, &[seed::ENROLL]).0)
}

fn many_labels(n: usize) -> shoal_protocol::text_map::TextMap {
    let all: Vec<String> = (0..n).map(|i| format!("l{i}")).collect();
    all.iter().map(|l| (l.as_str(), "x")).collect()
}

#[test]
fn s21_a_device_records_lists_and_sequence_have_their_edges() {
    assert_eq!(record(|_| {}), Ok(()));
    assert_eq!(record(|r| r.labels = many_labels(64)), Ok(()));
    assert_eq!(record(|r| r.labels = many_labels(65)), Err(Code::Malformed));
    assert_eq!(record(|r| r.sequence = 0), Err(Code::Malformed));
    assert_eq!(record(|r| r.sealing = Bytes(vec![9; 31])), Err(Code::Malformed));
    assert_eq!(record(|r| r.attest.public.0.truncate(31)), Err(Code::Malformed));
    assert_eq!(record(|r| r.attest = key(seed::WEB).public()), Err(Code::WrongTarget));
    assert_eq!(record(|r| r.sealing = Bytes(vec![8; 32])), Err(Code::WrongTarget));
    assert_eq!(record(|r| r.sequence = 1 + MAX_JUMP), Ok(()));
    assert_eq!(record(|r| r.sequence = 2 + MAX_JUMP), Err(Code::SequenceJump));
    assert_eq!(record(|r| (r.sequence, r.issued_at) = (1, NOW.plus(1))), Err(Code::Equivocation));
    assert_eq!(record(|r| r.issued_at = NOW.plus(50 * YEAR)), Err(Code::TimeJump));
}

#[test]
fn s25_a_tokens_key_signs_the_first_record_until_the_tokens_end_and_what_is_held_stays() {
    let mut fleet = Fleet::new();
    fleet.state.record = None;
    let token = Token { not_after: NOW, ..fleet.token() };
    fleet.accept_as(&seal(&token, &[seed::ENROLL]).0, Expect::Only(Kind::Token)).unwrap();
    let record = seal(&fleet.record(1), &[seed::TOKEN]).0;
    fleet.state.time_floor = NOW.plus(1);
    assert_eq!(take(&mut fleet, &record), Err(Code::EnrollProof));
    fleet.state.time_floor = NOW;
    assert_eq!(take(&mut fleet, &record), Ok(()), "in its last second");
    fleet.state.time_floor = NOW.plus(1);
    assert_eq!(take(&mut fleet, &record), Ok(()), "it is held");
    fleet.state.record = None;
    fleet.accept_as(&record, Expect::Stored(Kind::Device)).unwrap();
}

fn token(change: impl FnOnce(&mut Token)) -> Outcome {
    let mut fleet = Fleet::new();
    let mut token = fleet.token();
    change(&mut token);
    let bytes = seal(&token, &[seed::ENROLL]).0;
    fleet.accept_as(&bytes, Expect::Only(Kind::Token)).map(|_| ()).map_err(|r| r.code)
}

#[test]
fn s25_a_tokens_form_and_end_have_their_edges() {
    assert_eq!(token(|_| {}), Ok(()));
    assert_eq!(token(|t| t.uses = 0), Err(Code::Malformed));
    assert_eq!(token(|t| t.key.public.0.truncate(31)), Err(Code::Malformed));
    assert_eq!(token(|t| t.labels = many_labels(64)), Ok(()));
    assert_eq!(token(|t| t.labels = many_labels(65)), Err(Code::Malformed));
    assert_eq!(token(|t| t.minima.root_version = 2), Err(Code::RootBehind));
    assert_eq!(token(|t| t.not_after = NOW), Ok(()));
    assert_eq!(token(|t| t.not_after = Timestamp(NOW.0 - 1)), Err(Code::EnrollProof));
    let begins = |time| move |t: &mut Token| (t.minima.time, t.not_after) = (time, Timestamp(u64::MAX >> 1));
    let end = root_1().not_after;
    assert_eq!(token(begins(end)), Ok(()));
    assert_eq!(token(begins(end.plus(1))), Err(Code::TimeJump), "its root has ended then");
    assert_eq!(token(|t| t.minima.time = t.not_after), Ok(()));
    assert_eq!(
        token(|t| t.minima.time = t.not_after.plus(1)),
        Err(Code::TimeJump),
        "it has ended itself then"
    );
    // A device may begin with a clock that is behind; nobody else takes a token from the future.
    let ahead = |t: &mut Token| (t.issued_at, t.not_after) = (NOW.plus(50 * YEAR), NOW.plus(51 * YEAR));
    assert_eq!(token(ahead), Ok(()));
    let mut fleet = Fleet::new();
    fleet.state.viewpoint = Viewpoint::Observer;
    let mut token = fleet.token();
    ahead(&mut token);
    let bytes = seal(&token, &[seed::ENROLL]).0;
    assert_eq!(fleet.refused_as(&bytes, Expect::Only(Kind::Token)), Code::TimeJump);
}
