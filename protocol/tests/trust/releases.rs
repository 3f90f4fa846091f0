//! Attacks on releases: each must get its code, change nothing, and leave good documents working.

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::{Digest, FleetId, Timestamp};
use shoal_protocol::text_map::TextMap;
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, MAX_RELEASE_FILES, Viewpoint};

/// A fleet whose root names a key for releases called `agent…`.
fn fleet() -> Fleet {
    let mut root = root_1();
    let role = role(RoleName::Release, 1, &[seed::RELEASE]);
    root.roles.push(Role { prefix: "agent".into(), may_remove: true, ..role });
    Fleet::with_root(&root)
}

fn list(fleet: &mut Fleet, r: &Release, digest: Digest) {
    let entry = Entry { kind: EntryKind::Release, ..entry(r.name.as_str(), revision(r.sequence, digest)) };
    let snapshot = fleet.list(entry);
    fleet.accept(&snapshot).unwrap();
}

/// What is done to a good one, in words and in deed.
type Case = (&'static str, fn(&mut Release));

/// Signed and listed, and not delivered yet.
fn listed(fleet: &mut Fleet, r: &Release) -> Vec<u8> {
    let (bytes, digest) = seal(r, &[seed::RELEASE]);
    list(fleet, r, digest);
    bytes
}

#[test]
fn a_listed_release_for_this_device_is_taken_once_and_only_by_the_listing() {
    let mut fleet = fleet();
    let r = fleet.release("agent", 1, "0.2.0");
    let (bytes, digest) = seal(&r, &[seed::RELEASE]);
    assert_eq!(fleet.refused(&bytes), Code::NotInSnapshot);
    list(&mut fleet, &r, digest);
    fleet.accept(&bytes).unwrap();
    fleet.accept(&bytes).unwrap();
    let mut observer = fleet.state.clone();
    observer.viewpoint = Viewpoint::Observer;
    shoal_protocol::verify::verify_as::<Release>(&bytes, &observer, NOW).unwrap();
    fleet.still_works();
}

#[test]
fn s3_s19_only_a_release_key_signs_them_and_only_within_its_prefix() {
    let mut fleet = fleet();
    let r = fleet.release("agent", 1, "0.2.0");
    for s in [seed::DEPLOY, seed::ROOT, seed::ONLINE, seed::SNAPSHOT, seed::ENROLL] {
        assert_eq!(fleet.refused(&seal(&r, &[s]).0), Code::RoleScope, "{s}");
    }
    assert_eq!(fleet.refused(&seal(&r, &[seed::STRANGER]).0), Code::UnknownKey);
    let other = fleet.release("firmware", 1, "0.2.0");
    let bytes = listed(&mut fleet, &other);
    assert_eq!(fleet.refused(&bytes), Code::RoleScope);
    // And it signs nothing else.
    let d = fleet.deployment("agent", 1);
    assert_eq!(fleet.refused(&seal(&d, &[seed::RELEASE]).0), Code::RoleScope);
    fleet.still_works();
}

#[test]
fn s26_an_older_agent_after_a_newer_one_proved_healthy_is_refused_however_high_its_sequence() {
    let mut fleet = fleet();
    fleet.state.proved_agent = "0.10.0".into();
    let older = fleet.release("agent", 7, "0.9.9");
    let bytes = listed(&mut fleet, &older);
    assert_eq!(fleet.refused(&bytes), Code::AgentRollback);
    // Nor out of its own store.
    assert_eq!(fleet.refused_as(&bytes, Expect::Stored(Kind::Release)), Code::AgentRollback);
    for (sequence, version) in [(8, "0.10.0"), (9, "0.10.1"), (10, "1.0.0")] {
        let r = fleet.release("agent", sequence, version);
        let bytes = listed(&mut fleet, &r);
        fleet.accept(&bytes).unwrap();
    }
    // What runs elsewhere is no matter of the controller's.
    let mut observer = self::fleet();
    observer.state.viewpoint = Viewpoint::Observer;
    observer.state.proved_agent = "0.10.0".into();
    let bytes = listed(&mut observer, &older);
    observer.accept(&bytes).unwrap();
}

#[test]
fn s9_s10_lower_forked_and_leaping_sequences_are_told_apart() {
    let mut fleet = fleet();
    let r = fleet.release("agent", 2, "0.2.0");
    let bytes = listed(&mut fleet, &r);
    fleet.accept(&bytes).unwrap();
    let lower = fleet.release("agent", 1, "0.3.0");
    assert_eq!(fleet.refused(&seal(&lower, &[seed::RELEASE]).0), Code::Rollback);
    let forked = Release { version: "0.2.1".into(), ..r.clone() };
    assert_eq!(fleet.refused(&seal(&forked, &[seed::RELEASE]).0), Code::Equivocation);
    let far = fleet.release("agent", 3 + (1 << 20), "0.3.0");
    assert_eq!(fleet.refused(&seal(&far, &[seed::RELEASE]).0), Code::SequenceJump);
    let raised =
        Entry { kind: EntryKind::Release, floor: 4, ..entry("agent", revision(4, Digest::of(b"four"))) };
    let snapshot = fleet.list(raised);
    // Without somebody of the release role who may remove, nobody raises a floor.
    assert_eq!(fleet.refused(&snapshot), Code::RoleScope);
    let held: Snapshot = {
        let envelope = shoal_protocol::envelope::Envelope::parse(&snapshot).unwrap();
        let limits = shoal_protocol::codec::Limits::of_size(Kind::Snapshot.size_cap());
        shoal_protocol::codec::decode(envelope.payload(), limits).unwrap()
    };
    let by = |s: u8| seal(&held, &[seed::SNAPSHOT, s]).0;
    assert_eq!(fleet.refused(&by(seed::DEPLOY)), Code::RoleScope);
    fleet.accept(&by(seed::RELEASE)).unwrap();
    assert_eq!(fleet.refused_as(&bytes, Expect::Stored(Kind::Release)), Code::BelowFloor);
    let wrong_epoch = Release { epoch: 2, ..fleet.release("agent", 3, "0.3.0") };
    assert_eq!(fleet.refused(&seal(&wrong_epoch, &[seed::RELEASE]).0), Code::Epoch);
    fleet.still_works();
}

#[test]
fn s12_what_is_not_for_this_device_or_its_cpu_is_not_taken() {
    let mut fleet = fleet();
    let base = fleet.release("agent", 1, "0.2.0");
    let with = |change: &dyn Fn(&mut Release)| {
        let mut r = base.clone();
        change(&mut r);
        r
    };
    let foreign = FleetId::of_root(&Digest([9; 32]));
    let elsewhere: TextMap = [("site", "elsewhere")].into_iter().collect();
    let selector = Selector { match_labels: elsewhere, match_expressions: vec![] };
    let cases = [
        ("another fleet", with(&|r| r.fleet = foreign.clone()), Code::WrongTarget),
        (
            "other labels",
            with(&|r| {
                r.target = Target { selector: Some(selector.clone()), ..Target::default() };
            }),
            Code::WrongTarget,
        ),
        ("nobody", with(&|r| r.target = Target::default()), Code::WrongTarget),
        ("no build for the CPU", with(&|r| r.builds.truncate(1)), Code::WrongTarget),
        ("from a newer agent", with(&|r| r.target.min_agent = Some("9.0.0".into())), Code::WrongTarget),
        ("from a newer engine", with(&|r| r.target.min_engine = Some("9.0.0".into())), Code::EngineTooOld),
    ];
    for (n, (what, r, code)) in cases.into_iter().enumerate() {
        let r = Release { name: name(&format!("agent-{n}")), ..r };
        let bytes = listed(&mut fleet, &r);
        assert_eq!(fleet.refused(&bytes), code, "{what}");
        // What was for it once stays known as what it was.
        if r.fleet == fleet.id {
            let verdict =
                shoal_protocol::verify::verify(&bytes, &fleet.state, NOW, Expect::Stored(Kind::Release));
            assert!(verdict.is_ok(), "{what}: {verdict:?}");
        }
    }
    fleet.state.record = None;
    let bytes = listed(&mut fleet, &base);
    assert_eq!(fleet.refused(&bytes), Code::WrongTarget);
}

#[test]
fn s1_s2_a_release_that_is_unsound_by_itself_is_malformed() {
    let mut fleet = fleet();
    let cases: &[Case] = &[
        ("sequence 0", |r| r.sequence = 0),
        ("a version of two numbers", |r| r.version = "1.2".into()),
        ("a version of four", |r| r.version = "1.2.3.4".into()),
        ("a pre-release", |r| r.version = "1.2.3-rc1".into()),
        ("a sign", |r| r.version = "+1.2.3".into()),
        ("a version beyond 64 bits", |r| r.version = "1.2.99999999999999999999".into()),
        ("no deadline at all", |r| r.deadline = Some(0)),
        ("a deadline beyond a day", |r| r.deadline = Some(86_401)),
        ("no build", |r| r.builds.clear()),
        ("two builds for one architecture", |r| r.builds[0].architecture = "x86_64".into()),
        ("builds in another order", |r| r.builds.reverse()),
        ("too many builds", |r| {
            let b = r.builds[0].clone();
            r.builds = (0..9).map(|n| Build { architecture: format!("a{n}"), ..b.clone() }).collect();
        }),
        ("a build for nothing", |r| r.builds[0].architecture.clear()),
        ("an architecture without end", |r| r.builds[1].architecture = "x".repeat(33)),
        ("a reference without end", |r| r.builds[0].reference = "r".repeat(513)),
        ("no guard", |r| {
            r.builds[1].files.remove(2);
        }),
        ("a guard that is no program", |r| r.builds[1].files[2].executable = false),
        ("no files", |r| r.builds[0].files.clear()),
        ("a path upwards", |r| r.builds[0].files[0].path = "../shoal".into()),
        ("a path upwards within", |r| r.builds[0].files[0].path = "engine/../../shoal".into()),
        ("an absolute path", |r| r.builds[0].files[0].path = "/usr/bin/env".into()),
        ("an empty part", |r| r.builds[0].files[0].path = "engine//lib".into()),
        ("a hidden file", |r| r.builds[0].files[0].path = ".profile".into()),
        ("a space", |r| r.builds[0].files[0].path = "a b".into()),
        ("an empty path", |r| r.builds[0].files[0].path.clear()),
        ("a path without end", |r| r.builds[0].files[0].path = "a".repeat(201)),
        ("a file that is a folder too", |r| r.builds[0].files[0].path = "shoal-agent/x".into()),
        ("paths in another order", |r| r.builds[0].files.swap(0, 1)),
        ("one path twice", |r| r.builds[0].files[0].path = "shoal-agent".into()),
        ("more bytes than fit", |r| r.builds[0].files[0].size = 2 << 30),
        ("sizes that overflow", |r| r.builds[0].files.iter_mut().for_each(|f| f.size = u64::MAX / 2)),
        ("packed without end", |r| {
            r.builds[0].files[0].packed = Some(Blob { digest: Digest([0; 32]), size: u64::MAX });
        }),
    ];
    for (what, change) in cases {
        let mut r = fleet.release("agent", 1, "0.2.0");
        change(&mut r);
        assert_eq!(fleet.refused(&seal(&r, &[seed::RELEASE]).0), Code::Malformed, "{what}");
    }
    let mut many = fleet.release("agent", 1, "0.2.0");
    let file = many.builds[0].files[0].clone();
    let extra = |n: usize| ReleaseFile { path: format!("a{n:03}"), ..file.clone() };
    many.builds.truncate(1);
    many.builds[0].architecture = "x86_64".into();
    let programs = many.builds[0].files.split_off(1);
    let with = |n: usize| (0..n).map(extra).chain(programs.clone()).collect::<Vec<_>>();
    many.builds[0].files = with(MAX_RELEASE_FILES - 2);
    assert_eq!(fleet.refused(&seal(&many, &[seed::RELEASE]).0), Code::Malformed, "257 files");
    many.builds[0].files = with(MAX_RELEASE_FILES - 3);
    let bytes = listed(&mut fleet, &many);
    fleet.accept(&bytes).unwrap();
    fleet.still_works();
}

#[test]
fn s11_s22_releases_past_their_end_and_from_the_future_are_refused() {
    let mut fleet = fleet();
    let late =
        Release { not_after: NOW, issued_at: Timestamp(NOW.0 - DAY), ..fleet.release("agent", 1, "0.2.0") };
    let late = Release { not_after: Timestamp(NOW.0 - 1), ..late };
    let bytes = listed(&mut fleet, &late);
    assert_eq!(fleet.refused(&bytes), Code::Expired);
    let early = Release { sequence: 2, issued_at: NOW.plus(3 * YEAR), not_after: NOW.plus(4 * YEAR), ..late };
    let bytes = listed(&mut fleet, &early);
    assert_eq!(fleet.refused(&bytes), Code::TimeJump);
    fleet.still_works();
}

#[test]
fn s6_a_release_whose_key_left_the_root_counts_no_more() {
    let mut fleet = fleet();
    let r = fleet.release("agent", 1, "0.2.0");
    let bytes = listed(&mut fleet, &r);
    fleet.accept(&bytes).unwrap();
    let (root, _) = seal(&fleet.root_2(), &[seed::ROOT]);
    fleet.accept(&root).unwrap();
    assert_eq!(fleet.refused_as(&bytes, Expect::Stored(Kind::Release)), Code::RevokedKey);
}
