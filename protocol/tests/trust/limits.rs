//! The edges of the verifier's rules: the last value that is good, and the first that is not. Found by breaking the rules one at a
//! time (`cargo xtask mutants`): each test here is the one that notices.

use crate::common::*;
use shoal_protocol::codec::encode;
use shoal_protocol::envelope::{Envelope, MAX_OVERHEAD, MAX_SIGNATURES, content_type, seal_document, sign};
use shoal_protocol::ids::Timestamp;
use shoal_protocol::v1::*;
use shoal_protocol::verify::{
    Expect, Known, TrustState, Verdict, Viewpoint, check_root, good_signers, time, verify,
};
use shoal_protocol::{Code, Ed25519Signer, Signer};

fn signers(n: u8) -> Vec<Ed25519Signer> {
    (1..=n).map(key).collect()
}

fn signed_by(n: u8) -> Vec<u8> {
    let keys = signers(n);
    let all: Vec<&dyn Signer> = keys.iter().map(|k| k as &dyn Signer).collect();
    sign(Kind::Deployment, &[0xa0], &all).unwrap()
}

#[test]
fn s15_an_envelope_has_one_to_eight_signatures() {
    let eight = signed_by(8);
    let envelope = Envelope::parse(&eight).unwrap();
    assert_eq!(envelope.signatures().len(), MAX_SIGNATURES);
    assert_eq!(envelope.content_type(), content_type(Kind::Deployment));
    assert!(envelope.cosign(&key(9)).is_err(), "a ninth");
    let one = signed_by(1);
    let entry = &one[one.len() - 82..];
    // The count stands before the first entry.
    let mut nine = [eight.as_slice(), entry].concat();
    let count = eight.len() - 8 * 82 - 1;
    assert_eq!(nine[count], 0x88);
    nine[count] = 0x89;
    assert!(Envelope::parse(&nine).is_err(), "nine");
    let mut none = one[..one.len() - 82].to_vec();
    *none.last_mut().unwrap() = 0x80;
    assert!(Envelope::parse(&none).is_err(), "none");
    let keys = signers(9);
    let all: Vec<&dyn Signer> = keys.iter().map(|k| k as &dyn Signer).collect();
    assert!(sign(Kind::Deployment, &[0xa0], &all).is_err());
    assert!(sign(Kind::Deployment, &[0xa0], &[]).is_err());
}

#[test]
fn s16_an_envelope_adds_no_more_than_it_says() {
    let payload = 1;
    let added = signed_by(8).len() - payload;
    assert!(added <= MAX_OVERHEAD, "{added}");
    assert!(added + 96 > MAX_OVERHEAD, "{added}: the stated most is far from what happens");
}

#[test]
fn s2_a_version_is_a_plain_number() {
    let mut fleet = Fleet::new();
    let (order, _) = seal(&fleet.order(1, Verb::Restart { name: name("app") }), &[seed::ONLINE]);
    let retyped = |version: &str| {
        let new = format!("application/vnd.shoal.order.v{version}+cbor");
        let old = content_type(Kind::Order);
        let at = order.windows(old.len()).position(|w| w == old.as_bytes()).unwrap();
        let mut out = order[..at].to_vec();
        // Text and byte string lengths (one byte each) stand right before, with the header's map between.
        let grown = u8::try_from(new.len()).unwrap();
        out[at - 1] = grown;
        out[at - 5] = grown + 4;
        out.extend_from_slice(new.as_bytes());
        out.extend_from_slice(&order[at + old.len()..]);
        out
    };
    assert_eq!(fleet.refused(&retyped("2")), Code::UnsupportedVersion);
    assert_eq!(fleet.refused(&retyped("999999999")), Code::UnsupportedVersion);
    for bad in ["", "0", "01", "1x", "x", "1234567890"] {
        assert_eq!(fleet.refused(&retyped(bad)), Code::WrongType, "version {bad:?}");
    }
    fleet.still_works();
}

/// A deployment whose envelope has exactly so many bytes.
fn of_size(fleet: &Fleet, size: usize) -> Deployment {
    let mut d = fleet.deployment("app", 1);
    let mut filler = 1;
    for _ in 0..4 {
        d.template.annotations = [("filler", "x".repeat(filler).as_str())].into_iter().collect();
        let now = sign(Kind::Deployment, &encode(&d), &[&key(seed::DEPLOY)]).unwrap().len();
        filler = filler + size - now;
    }
    d
}

#[test]
fn s16_a_document_of_exactly_its_cap_is_taken_and_of_one_byte_more_is_not() {
    let mut fleet = Fleet::new();
    let cap = Kind::Deployment.size_cap();
    let largest = of_size(&fleet, cap);
    let (bytes, digest) = seal(&largest, &[seed::DEPLOY]);
    assert_eq!(bytes.len(), cap);
    let snapshot = fleet.list(entry("app", revision(1, digest)));
    fleet.accept(&snapshot).unwrap();
    fleet.accept(&bytes).unwrap();
    let beyond = of_size(&fleet, cap + 1);
    assert!(seal_document(&beyond, &[&key(seed::DEPLOY)]).is_err(), "nobody signs what nobody takes");
    let bytes = sign(Kind::Deployment, &encode(&beyond), &[&key(seed::DEPLOY)]).unwrap();
    assert_eq!(fleet.refused(&bytes), Code::TooLarge);
    fleet.still_works();
}

#[test]
fn s19_what_is_verified_says_which_keys_counted() {
    let mut fleet = Fleet::new();
    let (bytes, _) = seal(&fleet.snapshot(2, vec![]), &[seed::STRANGER, seed::SNAPSHOT, seed::SNAPSHOT]);
    let Verdict::Snapshot(verified) = fleet.accept(&bytes).unwrap() else { panic!("another kind") };
    assert_eq!(verified.signers(), [key(seed::SNAPSHOT).public()]);
    let (bytes, _) = seal(&fleet.root_2(), &[seed::ROOT]);
    let Verdict::Root(verified) = fleet.accept(&bytes).unwrap() else { panic!("another kind") };
    assert_eq!(verified.signers(), [key(seed::ROOT).public()]);
}

#[test]
fn s12_an_observer_takes_what_is_for_others() {
    let mut fleet = Fleet::new();
    fleet.state.viewpoint = Viewpoint::Observer;
    let mut d = fleet.deployment("app", 1);
    d.target = Target { devices: vec![key(seed::STRANGER).public().device_id()], ..Target::default() };
    fleet.publish(&d).unwrap();
    let mut order = fleet.order(1, Verb::Restart { name: name("none-of-ours") });
    order.device = key(seed::STRANGER).public().device_id();
    fleet.accept(&seal(&order, &[seed::ONLINE]).0).unwrap();
    fleet.state.viewpoint = Viewpoint::Device;
    assert_eq!(fleet.refused(&seal(&Order { counter: 2, ..order }, &[seed::ONLINE]).0), Code::WrongTarget);
}

/// The refusal of a second root that differs from a good one by `change`.
fn second_root(change: impl FnOnce(&mut Root)) -> Result<(), Code> {
    let mut fleet = Fleet::new();
    let mut root = fleet.root_2();
    change(&mut root);
    let verdict = fleet.accept(&seal(&root, &[seed::ROOT]).0).map(|_| ()).map_err(|r| r.code);
    // Who is about to sign hears the same beforehand.
    if let Err(refusal) = check_root(&root) {
        assert_eq!(verdict, Err(refusal.code));
    }
    verdict
}

fn many_keys(n: u8) -> Vec<Key> {
    (100..100 + n).map(|s| key(s).public()).collect()
}

#[test]
fn s7_a_roots_lists_have_their_edges() {
    assert_eq!(second_root(|_| {}), Ok(()));
    assert_eq!(second_root(|r| r.roles[2].keys = many_keys(32)), Ok(()));
    assert_eq!(second_root(|r| r.roles[2].keys = many_keys(33)), Err(Code::Malformed));
    assert_eq!(second_root(|r| r.roles[2].threshold = 0), Err(Code::Malformed));
    assert_eq!(second_root(|r| r.roles[2].threshold = 2), Err(Code::Malformed));
    let two = |r: &mut Root| (r.roles[2].keys, r.roles[2].threshold) = (many_keys(2), 2);
    assert_eq!(second_root(two), Ok(()));
    let with_roles = |n: usize| move |r: &mut Root| r.roles.resize(n, role(RoleName::Release, 1, &[50]));
    assert_eq!(second_root(with_roles(64)), Ok(()));
    assert_eq!(second_root(with_roles(65)), Err(Code::Malformed));
    let short = |r: &mut Root| r.roles[2].keys[0].public.0.truncate(31);
    assert_eq!(second_root(short), Err(Code::Malformed));
    let no_online = |r: &mut Root| r.controller.online.public.0.truncate(31);
    assert_eq!(second_root(no_online), Err(Code::Malformed));
}

#[test]
fn s7_who_is_about_to_sign_a_root_hears_what_is_wrong_with_it() {
    let fleet = Fleet::new();
    let mut root = fleet.root_2();
    assert!(check_root(&root).is_ok());
    root.roles[2].threshold = 0;
    assert_eq!(check_root(&root).unwrap_err().code, Code::Malformed);
}

#[test]
fn s7_there_is_one_root_role_and_one_snapshot_role_for_all_names() {
    for at in [0, 1] {
        assert_eq!(second_root(|r| r.roles[at].prefix = "a-".into()), Err(Code::Malformed), "role {at}");
    }
    let again = |r: &mut Root| r.roles.push(role(RoleName::Snapshot, 1, &[50]));
    assert_eq!(second_root(again), Err(Code::Malformed));
    let none = |r: &mut Root| r.roles.retain(|x| x.name != RoleName::Snapshot);
    assert_eq!(second_root(none), Err(Code::Malformed));
    let online = |r: &mut Root| r.controller.online = key(seed::ROOT).public();
    assert_eq!(second_root(online), Err(Code::RoleOverlap));
}

#[test]
fn s10_a_roots_epoch_may_stay_or_rise() {
    assert_eq!(second_root(|r| r.epoch = 1), Ok(()));
    assert_eq!(second_root(|r| r.epoch = 2), Ok(()));
    assert_eq!(second_root(|r| r.epoch = 0), Err(Code::Epoch));
    assert_eq!(second_root(|r| r.fleet = None), Err(Code::Malformed));
    assert_eq!(second_root(|r| r.version = 1), Err(Code::Equivocation));
    assert_eq!(second_root(|r| r.version = 0), Err(Code::Rollback));
    assert_eq!(second_root(|r| r.version = 3), Err(Code::RootVersion));
}

#[test]
fn s22_the_edges_of_time_are_exact() {
    let years = |n: u64| n * 366 * DAY;
    assert_eq!(second_root(|r| r.issued_at = NOW.plus(years(20))), Ok(()));
    assert_eq!(second_root(|r| r.issued_at = NOW.plus(years(20) + 1)), Err(Code::TimeJump));
    let snapshot = |observer: bool, ahead: u64| {
        let mut fleet = Fleet::new();
        if observer {
            fleet.state.viewpoint = Viewpoint::Observer;
        }
        let issued_at = NOW.plus(ahead);
        let next = Snapshot { issued_at, not_after: issued_at.plus(DAY), ..fleet.snapshot(2, vec![]) };
        fleet.accept(&seal(&next, &[seed::SNAPSHOT]).0).map(|_| ()).map_err(|r| r.code)
    };
    assert_eq!(snapshot(false, years(2)), Ok(()));
    assert_eq!(snapshot(false, years(2) + 1), Err(Code::TimeJump));
    assert_eq!(snapshot(true, DAY), Ok(()));
    assert_eq!(snapshot(true, DAY + 1), Err(Code::TimeJump));
    // The last second counts.
    let ends = |at: Timestamp| {
        let mut fleet = Fleet::new();
        let next = Snapshot { not_after: at, ..fleet.snapshot(2, vec![]) };
        fleet.accept(&seal(&next, &[seed::SNAPSHOT]).0).map(|_| ()).map_err(|r| r.code)
    };
    assert_eq!(ends(NOW), Ok(()));
    assert_eq!(ends(Timestamp(NOW.0 - 1)), Err(Code::Expired));
    assert!(time::is_trusted(NOW, NOW) && !time::is_trusted(Timestamp(NOW.0 - 1), NOW));
    assert_eq!(time::effective(Timestamp(5), NOW), NOW);
    assert_eq!(time::effective(NOW, Timestamp(5)), NOW);
}

#[test]
fn s7_a_first_root_is_version_one_and_names_no_fleet() {
    let first = |viewpoint, change: fn(&mut Root)| {
        let mut root = root_1();
        change(&mut root);
        let state = TrustState { viewpoint, ..TrustState::default() };
        let (bytes, _) = seal(&root, &[seed::ROOT]);
        verify(&bytes, &state, NOW, Expect::FirstRoot).map(|_| ()).map_err(|r| r.code)
    };
    assert_eq!(first(Viewpoint::Device, |_| {}), Ok(()));
    assert_eq!(first(Viewpoint::Device, |r| r.version = 2), Err(Code::RootVersion));
    let named = |r: &mut Root| r.fleet = Some(Fleet::new().id);
    assert_eq!(first(Viewpoint::Device, named), Err(Code::RootVersion));
    // A device's clock may say anything; an observer's is right.
    let tomorrow = |r: &mut Root| r.issued_at = NOW.plus(DAY + 1);
    assert_eq!(first(Viewpoint::Device, tomorrow), Ok(()));
    assert_eq!(first(Viewpoint::Observer, tomorrow), Err(Code::TimeJump));
    assert_eq!(first(Viewpoint::Observer, |r| r.issued_at = NOW.plus(DAY)), Ok(()));
}

#[test]
fn s4_a_role_that_needs_no_key_is_met_by_nobody() {
    let mut fleet = Fleet::new();
    // No root that says so is ever accepted; should one be held for all that, nobody signs by it.
    let anchor = fleet.state.anchor.as_mut().unwrap();
    let mut root = (*anchor.root.document).clone();
    root.roles.iter_mut().for_each(|r| r.threshold = 0);
    anchor.root = Known::new(root, anchor.root.digest);
    let d = fleet.deployment("app", 1);
    assert_eq!(fleet.refused(&seal(&d, &[seed::STRANGER]).0), Code::UnknownKey);
    assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Threshold);
}

#[test]
fn s3_a_refusal_names_the_role_whose_keys_are_wanted() {
    let mut root = root_1();
    root.roles.push(role(RoleName::Release, 1, &[seed::RELEASE]));
    let mut fleet = Fleet::with_root(&root);
    let documents = [
        (seal(&fleet.snapshot(2, vec![]), &[seed::STRANGER]).0, "the snapshot role"),
        (seal(&fleet.deployment("app", 1), &[seed::STRANGER]).0, "the deployment role"),
        (seal(&fleet.record(2), &[seed::STRANGER]).0, "the enrollment role or a token"),
        (seal(&fleet.release("agent", 1, "0.2.0"), &[seed::STRANGER]).0, "the release role"),
        (seal(&fleet.order(1, Verb::Restart { name: name("app") }), &[seed::STRANGER]).0, "the controller"),
    ];
    for (bytes, role) in documents {
        let refusal = fleet.accept(&bytes).unwrap_err();
        assert_eq!(refusal.code, Code::UnknownKey, "{role}");
        assert!(refusal.detail.contains(&format!("signatures of {role}:")), "{role}: {}", refusal.detail);
    }
    let token = seal(&fleet.token(), &[seed::STRANGER]).0;
    let refusal = fleet.accept_as(&token, Expect::Only(Kind::Token)).unwrap_err();
    assert!(refusal.detail.contains("signatures of the enrollment role:"), "{}", refusal.detail);
}

#[test]
fn who_collects_signatures_hears_whose_are_good() {
    let fleet = Fleet::new();
    let (bytes, _) = seal(&fleet.root_2(), &[seed::ROOT, seed::STRANGER]);
    let envelope = Envelope::parse(&bytes).unwrap();
    let keys = [key(seed::WEB).public(), key(seed::ROOT).public()];
    assert_eq!(good_signers(&envelope, &keys), [key(seed::ROOT).public()]);
}
