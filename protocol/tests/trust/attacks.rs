//! The attacks S1 to S25 as far as pure verification sees them: each is refused with its exact code, changes nothing, and
//! a good document after it still applies.

use crate::common::*;
use shoal_protocol::envelope::{Envelope, content_type, identity, sign};
use shoal_protocol::ids::{Bytes, Digest, FleetId, Timestamp};
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, MAX_JUMP, Standing, TrustState, Viewpoint, verify};
use shoal_protocol::{Code, Signer, codec};

type Change = fn(&mut Deployment);

/// A listed deployment that the device has not seen yet.
fn listed(fleet: &mut Fleet, d: &Deployment) -> Vec<u8> {
    let (bytes, digest) = seal(d, &[seed::DEPLOY]);
    let snapshot = fleet.list(entry(d.name.as_str(), revision(d.sequence, digest)));
    fleet.accept(&snapshot).unwrap();
    bytes
}

/// The envelope's bytes with the kind in its content type exchanged.
fn retyped(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "lengths stand in the bytes");
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    let mut out = bytes.to_vec();
    out[at..at + to.len()].copy_from_slice(to.as_bytes());
    out
}

#[test]
fn s1_one_flipped_byte_is_a_bad_signature() {
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let bytes = listed(&mut fleet, &d);
    let envelope = Envelope::parse(&bytes).unwrap();
    let payload_at = bytes.windows(envelope.payload().len()).position(|w| w == envelope.payload()).unwrap();
    for at in [payload_at + 3, payload_at + envelope.payload().len() - 1, bytes.len() - 1, bytes.len() - 40] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert_eq!(fleet.refused(&bad), Code::BadSignature, "byte {at}");
    }
    fleet.accept(&bytes).unwrap();
    fleet.still_works();
}

#[test]
fn s1_a_flipped_bit_anywhere_is_refused() {
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let bytes = listed(&mut fleet, &d);
    for at in (0..bytes.len()).step_by(3) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let code = fleet.refused(&bad);
        let expected = [
            Code::BadSignature,
            Code::Malformed,
            Code::WrongType,
            Code::UnsupportedVersion,
            Code::UnknownKey,
        ];
        assert!(expected.contains(&code), "byte {at}: {code}");
    }
    fleet.accept(&bytes).unwrap();
}

#[test]
fn s2_another_content_type_is_a_wrong_type() {
    let mut fleet = Fleet::new();
    let (root, _) = seal(&fleet.root_2(), &[seed::ROOT]);
    assert_eq!(fleet.refused_as(&root, Expect::Only(Kind::Deployment)), Code::WrongType);
    // A root's payload under the deployment's type, signed by the deployment key: no deployment.
    let payload = codec::encode(&fleet.root_2());
    let mixed = sign(Kind::Deployment, &payload, &[&key(seed::DEPLOY)]).unwrap();
    assert_eq!(fleet.refused(&mixed), Code::Malformed);
    // The type is under the signature.
    let (order, _) = seal(&fleet.order(1, Verb::Restart { name: name("app") }), &[seed::ONLINE]);
    let (token, _) = seal(&fleet.token(), &[seed::ENROLL]);
    assert_eq!(fleet.refused(&retyped(&token, ".token.", ".order.")), Code::BadSignature);
    assert_eq!(fleet.refused(&retyped(&order, "vnd.shoal", "vnd.shoel")), Code::WrongType);
    assert_eq!(fleet.refused(&retyped(&order, ".order.", ".ordre.")), Code::WrongType);
    assert_eq!(fleet.refused(&retyped(&order, ".v1+", ".v2+")), Code::UnsupportedVersion);
    assert_eq!(fleet.refused(&retyped(&order, ".v1+", ".v0+")), Code::WrongType);
    let reserved = sign(Kind::Removal, &[0xa0], &[&key(seed::DEPLOY)]).unwrap();
    assert_eq!(fleet.refused(&reserved), Code::UnsupportedVersion);
    fleet.still_works();
}

#[test]
fn s3_keys_that_do_not_count_have_their_own_codes() {
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let good = listed(&mut fleet, &d);
    for (seeds, code) in [
        (&[seed::STRANGER][..], Code::UnknownKey),
        (&[seed::ONLINE], Code::RoleScope),
        (&[seed::ROOT], Code::RoleScope),
        (&[seed::SNAPSHOT], Code::RoleScope),
        (&[seed::ENROLL], Code::RoleScope),
        (&[seed::STRANGER, seed::ONLINE], Code::RoleScope),
    ] {
        assert_eq!(fleet.refused(&seal(&d, seeds).0), code, "{seeds:?}");
    }
    // The right key over other bytes: its signature under another payload.
    let other = codec::encode(&fleet.deployment("app", 2));
    let borrowed = sign(Kind::Deployment, &other, &[&Borrowed { from: good.clone() }]).unwrap();
    assert_eq!(fleet.refused(&borrowed), Code::BadSignature);
    fleet.accept(&good).unwrap();
    fleet.still_works();
}

/// Signs with the deployment key's signature over something else.
struct Borrowed {
    from: Vec<u8>,
}

impl Signer for Borrowed {
    fn key(&self) -> Key {
        key(seed::DEPLOY).public()
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, shoal_protocol::SignError> {
        Ok(Envelope::parse(&self.from).unwrap().signatures()[0].bytes.to_vec())
    }
}

/// Claims a key and signs junk.
struct Junk(Key);

impl Signer for Junk {
    fn key(&self) -> Key {
        self.0.clone()
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, shoal_protocol::SignError> {
        Ok(vec![0x5a; 64])
    }
}

#[test]
fn s3_junk_beside_good_signatures_is_skipped() {
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let bytes = listed(&mut fleet, &d);
    let junk_before = sign(
        Kind::Deployment,
        &codec::encode(&d),
        &[&Junk(key(seed::DEPLOY).public()), &Junk(key(seed::STRANGER).public()), &key(seed::DEPLOY)],
    )
    .unwrap();
    let plain = Envelope::parse(&bytes).unwrap().identity();
    let verdict = fleet.accept(&junk_before).unwrap();
    assert_eq!(verdict.identity(), plain, "signatures do not change the identity");
    assert_eq!(verdict.standing(), Standing::New);
    let cosigned = Envelope::parse(&bytes).unwrap().cosign(&key(seed::STRANGER)).unwrap();
    assert_eq!(fleet.accept(&cosigned).unwrap().standing(), Standing::Held);
    fleet.still_works();
}

fn two_of_two() -> Fleet {
    let mut root = root_1();
    root.roles[2] = role(RoleName::Deployment, 2, &[seed::DEPLOY, 33]);
    Fleet::with_root(&root)
}

#[test]
fn s4_one_key_counts_once() {
    let mut fleet = two_of_two();
    let d = fleet.deployment("app", 1);
    let (good, digest) = seal(&d, &[seed::DEPLOY, 33]);
    let snapshot = fleet.list(entry("app", revision(1, digest)));
    fleet.accept(&snapshot).unwrap();
    assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Threshold, "s3: fewer than needed");
    assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY, seed::DEPLOY]).0), Code::Threshold);
    assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY, seed::STRANGER]).0), Code::Threshold);
    // The same signature again under another hint.
    let mut renamed = seal(&d, &[seed::DEPLOY, seed::DEPLOY]).0;
    let kid = key(seed::DEPLOY).public().kid();
    let last = renamed.windows(8).rposition(|w| w == kid).unwrap();
    renamed[last..last + 8].copy_from_slice(&key(33).public().kid());
    assert_eq!(fleet.refused(&renamed), Code::Threshold);
    fleet.accept(&good).unwrap();
}

#[test]
fn s4_a_role_with_one_key_twice_is_no_root() {
    let mut root = root_1();
    root.roles[2] = role(RoleName::Deployment, 2, &[seed::DEPLOY, seed::DEPLOY]);
    let refusal =
        verify(&seal(&root, &[seed::ROOT]).0, &TrustState::default(), NOW, Expect::FirstRoot).unwrap_err();
    assert_eq!(refusal.code, Code::Malformed);
}

/// A root whose deployment role holds this key instead.
fn with_deploy_key(key: Key) -> Fleet {
    let mut root = root_1();
    root.roles[2].keys = vec![key];
    Fleet::with_root(&root)
}

/// Signs everything with these bytes, under this key and algorithm.
struct Fixed(Key, [u8; 64]);

impl Signer for Fixed {
    fn key(&self) -> Key {
        self.0.clone()
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, shoal_protocol::SignError> {
        Ok(self.1.to_vec())
    }
}

#[test]
fn s5_small_order_keys_and_points_are_refused() {
    // The identity point as key and as R, s = 0: holds for every message in the lenient equation.
    let mut point = [0_u8; 32];
    point[0] = 1;
    let mut signature = [0_u8; 64];
    signature[0] = 1;
    let mut fleet = with_deploy_key(Key::ed25519(point));
    let payload = codec::encode(&fleet.deployment("app", 1));
    let forged = sign(Kind::Deployment, &payload, &[&Fixed(Key::ed25519(point), signature)]).unwrap();
    assert_eq!(fleet.refused(&forged), Code::BadSignature);
    // A small-order R under an honest key.
    let mut fleet = Fleet::new();
    let payload = codec::encode(&fleet.deployment("app", 1));
    let forged = sign(Kind::Deployment, &payload, &[&Fixed(key(seed::DEPLOY).public(), signature)]).unwrap();
    assert_eq!(fleet.refused(&forged), Code::BadSignature);
    fleet.still_works();
}

#[test]
fn s5_a_scalar_beyond_the_order_is_refused() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let bytes = listed(&mut fleet, &d);
    let mut high = bytes.clone();
    let at = high.len() - 32;
    let mut carry = 0;
    for (byte, add) in high[at..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(fleet.refused(&high), Code::BadSignature);
    fleet.accept(&bytes).unwrap();
}

#[test]
fn s5_another_algorithm_than_the_roots_is_refused() {
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let bytes = listed(&mut fleet, &d);
    let mut other = bytes.clone();
    let at = other.windows(4).rposition(|w| w == [0x43, 0xa1, 0x01, 0x27]).unwrap();
    other[at + 3] = 0x26;
    assert_eq!(fleet.refused(&other), Code::BadSignature);
    other[at + 3] = 0x25;
    assert_eq!(fleet.refused(&other), Code::Malformed, "an algorithm outside the profile");
    fleet.accept(&bytes).unwrap();
}

/// Root 2, in which the deployment key was exchanged.
fn rotated(fleet: &Fleet, listed: bool) -> Root {
    let mut root = fleet.root_2();
    root.roles[2] = role(RoleName::Deployment, 1, &[33]);
    if listed {
        root.revoked = vec![Revocation { key: key(seed::DEPLOY).public(), disposition: Disposition::Stop }];
    }
    root
}

#[test]
fn s6_a_removed_key_is_revoked_for_new_and_stored_documents() {
    for listed_as_revoked in [true, false] {
        let mut fleet = Fleet::new();
        let d = fleet.deployment("app", 1);
        let bytes = fleet.publish(&d).unwrap();
        assert_eq!(
            fleet.accept_as(&bytes, Expect::Stored(Kind::Deployment)).unwrap().standing(),
            Standing::Held
        );
        let root = rotated(&fleet, listed_as_revoked);
        fleet.accept(&seal(&root, &[seed::ROOT]).0).unwrap();
        // Between staged and activated, and at a cold start: the stored bytes no longer stand.
        assert_eq!(fleet.refused_as(&bytes, Expect::Stored(Kind::Deployment)), Code::RevokedKey);
        let next = fleet.deployment("app", 2);
        assert_eq!(fleet.refused(&seal(&next, &[seed::DEPLOY]).0), Code::RevokedKey);
        // The new key's does.
        let (bytes, digest) = seal(&next, &[33]);
        let snapshot = fleet.list(entry("app", revision(2, digest)));
        fleet.accept(&snapshot).unwrap();
        fleet.accept(&bytes).unwrap();
        let key = key(seed::DEPLOY).public();
        let expected = if listed_as_revoked { Disposition::Stop } else { Disposition::Keep };
        assert_eq!(shoal_protocol::verify::disposition(&root, &key), expected);
    }
}

#[test]
fn s7_first_roots_come_on_the_root_only_socket() {
    let (bytes, _) = seal(&root_1(), &[seed::ROOT]);
    let empty = TrustState::default();
    assert_eq!(verify(&bytes, &empty, NOW, Expect::Delivered).unwrap_err().code, Code::NotAdmitted);
    // Before a root nothing else counts either.
    let fleet = Fleet::new();
    let (snapshot, _) = seal(&fleet.snapshot(1, vec![]), &[seed::SNAPSHOT]);
    assert_eq!(verify(&snapshot, &empty, NOW, Expect::Delivered).unwrap_err().code, Code::NotAdmitted);
    // A second fleet's first root does not replace the first; the same one again is a no-op.
    let mut fleet = Fleet::new();
    let (other, _) = seal(&Root { epoch: 9, ..root_1() }, &[seed::ROOT]);
    assert_eq!(fleet.refused_as(&other, Expect::FirstRoot), Code::NotAdmitted);
    assert_eq!(fleet.accept_as(&bytes, Expect::FirstRoot).unwrap().standing(), Standing::Held);
    // Another fleet than the join file says.
    let wanted = TrustState { fleet: Some(FleetId::of_root(&Digest::of(b"other"))), ..TrustState::default() };
    assert_eq!(verify(&bytes, &wanted, NOW, Expect::FirstRoot).unwrap_err().code, Code::WrongTarget);
    let not_first = seal(&fleet.root_2(), &[seed::ROOT]).0;
    assert_eq!(verify(&not_first, &empty, NOW, Expect::FirstRoot).unwrap_err().code, Code::RootVersion);
    let unsigned = seal(&root_1(), &[seed::STRANGER]).0;
    assert_eq!(verify(&unsigned, &empty, NOW, Expect::FirstRoot).unwrap_err().code, Code::RootThreshold);
}

#[test]
fn s7_each_root_needs_both_thresholds_and_its_turn() {
    let mut fleet = Fleet::new();
    let mut next = fleet.root_2();
    next.roles[0] = role(RoleName::Root, 1, &[44]);
    assert_eq!(fleet.refused(&seal(&next, &[44]).0), Code::RootThreshold, "without the old threshold");
    assert_eq!(fleet.refused(&seal(&next, &[seed::ROOT]).0), Code::RootThreshold, "without the new one");
    let third = Root { version: 3, ..next.clone() };
    assert_eq!(fleet.refused(&seal(&third, &[seed::ROOT, 44]).0), Code::RootVersion);
    let mut overlap = fleet.root_2();
    overlap.roles[1].keys.push(key(seed::ROOT).public());
    assert_eq!(fleet.refused(&seal(&overlap, &[seed::ROOT]).0), Code::RoleOverlap);
    overlap = fleet.root_2();
    overlap.controller.online = key(seed::ROOT).public();
    assert_eq!(fleet.refused(&seal(&overlap, &[seed::ROOT]).0), Code::RoleOverlap);
    let foreign = Root { fleet: Some(FleetId::of_root(&Digest::of(b"x"))), ..fleet.root_2() };
    assert_eq!(fleet.refused(&seal(&foreign, &[seed::ROOT]).0), Code::WrongTarget);
    let mut flipped = seal(&next, &[seed::ROOT, 44]).0;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!([Code::BadSignature, Code::Malformed].contains(&fleet.refused(&flipped)));
    fleet.accept(&seal(&next, &[seed::ROOT, 44]).0).unwrap();
    assert_eq!(fleet.refused(&seal(&fleet.root_2(), &[seed::ROOT, 44]).0), Code::Equivocation);
    assert_eq!(fleet.refused(&seal(&root_1(), &[seed::ROOT]).0), Code::Rollback);
    fleet.still_works();
}

#[test]
fn s8_a_device_off_through_five_rotations_walks_the_chain() {
    let mut fleet = Fleet::new();
    let mut old = seed::ROOT;
    for version in 2..=6_u8 {
        let new = 100 + version;
        let mut root = Root { version: u64::from(version), ..fleet.root_2() };
        // Each ended long before today, and the gaps between them are years.
        root.issued_at = Timestamp(NOW.0 + u64::from(version) * 3 * YEAR);
        root.not_after = Timestamp(root.issued_at.0 + DAY);
        root.roles[0] = role(RoleName::Root, 1, &[new]);
        let bytes = seal(&root, &[old, new]).0;
        // With the clock at 1970, offline.
        let verdict = verify(&bytes, &fleet.state, Timestamp(0), Expect::Delivered).unwrap();
        fleet.state.advance(&verdict);
        old = new;
    }
    assert_eq!(fleet.state.anchor.as_ref().unwrap().root.document.version, 6);
    assert_eq!(fleet.state.time_floor, Timestamp(NOW.0 + 18 * YEAR), "the chain brought the year");
}

#[test]
fn s9_sequences_only_rise() {
    let mut fleet = Fleet::new();
    let first = fleet.publish(&fleet.deployment("app", 5)).unwrap();
    assert_eq!(fleet.accept(&first).unwrap().standing(), Standing::Held, "the same bytes are a no-op");
    fleet.publish(&fleet.deployment("app", 6)).unwrap();
    assert_eq!(fleet.refused(&first), Code::Rollback);
    let old = fleet.snapshot(1, vec![]);
    assert_eq!(fleet.refused(&seal(&old, &[seed::SNAPSHOT]).0), Code::Rollback);
    fleet.still_works();
}

#[test]
fn s9_same_sequence_other_bytes_is_equivocation() {
    let mut fleet = Fleet::new();
    let first = fleet.publish(&fleet.deployment("app", 5)).unwrap();
    let forked = Deployment { logs: LogConsent::Full, ..fleet.deployment("app", 5) };
    assert_eq!(fleet.refused(&seal(&forked, &[seed::DEPLOY]).0), Code::Equivocation);
    // Neither may a snapshot swap what stands under a sequence, nor be swapped itself.
    let (_, digest) = seal(&forked, &[seed::DEPLOY]);
    let swapped = fleet.list(entry("app", revision(5, digest)));
    assert_eq!(fleet.refused(&swapped), Code::Equivocation);
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let twin = Snapshot { not_after: NOW.plus(DAY), ..(*held).clone() };
    assert_eq!(fleet.refused(&seal(&twin, &[seed::SNAPSHOT]).0), Code::Equivocation);
    assert_eq!(fleet.accept(&first).unwrap().standing(), Standing::Held, "the first is kept");
    fleet.publish(&fleet.deployment("app", 6)).unwrap();
}

#[test]
fn s10_leaps_are_refused_and_an_epoch_recovers() {
    let mut fleet = Fleet::new();
    fleet.publish(&fleet.deployment("app", 5)).unwrap();
    let leap = fleet.deployment("app", 6 + MAX_JUMP);
    assert_eq!(fleet.refused(&seal(&leap, &[seed::DEPLOY]).0), Code::SequenceJump);
    let listed = fleet.list(entry("app", revision(6 + MAX_JUMP, Digest::of(b"leap"))));
    assert_eq!(fleet.refused(&listed), Code::SequenceJump);
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let far = fleet.snapshot(held.version + MAX_JUMP + 1, held.entries.clone());
    assert_eq!(fleet.refused(&seal(&far, &[seed::SNAPSHOT]).0), Code::SequenceJump);
    // The furthest that is allowed uses the sequence up ...
    fleet.publish(&fleet.deployment("app", 5 + MAX_JUMP)).unwrap();
    // ... and a root of a higher epoch begins anew.
    fleet.accept(&seal(&Root { epoch: 2, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
    assert_eq!(fleet.refused(&seal(&fleet.deployment("app", 6 + MAX_JUMP), &[seed::DEPLOY]).0), Code::Epoch);
    let d = Deployment { epoch: 2, ..fleet.deployment("app", 1) };
    let (bytes, digest) = seal(&d, &[seed::DEPLOY]);
    let snapshot = Snapshot { epoch: 2, ..fleet.snapshot(1, vec![entry("app", revision(1, digest))]) };
    fleet.accept(&seal(&snapshot, &[seed::SNAPSHOT]).0).unwrap();
    fleet.accept(&bytes).unwrap();
    assert_eq!(fleet.state.deployments[&name("app")].highest().unwrap().sequence, 1);
    fleet.still_works();
}

#[test]
fn s10_a_new_device_measures_from_its_minima() {
    let mut fleet = Fleet::new();
    fleet.state.snapshot = None;
    let token =
        Token { minima: Minima { root_version: 1, snapshot_version: 5_000_000, time: NOW }, ..fleet.token() };
    fleet.accept_as(&seal(&token, &[seed::ENROLL]).0, Expect::Only(Kind::Token)).unwrap();
    let version = |v| seal(&fleet.snapshot(v, vec![]), &[seed::SNAPSHOT]).0;
    let (below, far, good) = (version(4_999_999), version(5_000_001 + MAX_JUMP), version(5_000_007));
    assert_eq!(fleet.refused(&below), Code::Rollback);
    assert_eq!(fleet.refused(&far), Code::SequenceJump);
    fleet.accept(&good).unwrap();
    fleet.still_works();
}

#[test]
fn s11_time_gates_first_acceptance_only() {
    let mut fleet = Fleet::new();
    let stale = Deployment { not_after: Timestamp(NOW.0 - 1), ..fleet.deployment("app", 1) };
    let bytes = listed(&mut fleet, &stale);
    assert_eq!(fleet.refused(&bytes), Code::Expired);
    let running = fleet.publish(&fleet.deployment("app", 2)).unwrap();
    let d = fleet.deployment("next", 1);
    let waiting = listed(&mut fleet, &d);
    let (old_snapshot, _) =
        seal(&Snapshot { not_after: Timestamp(NOW.0 - 1), ..fleet.snapshot(9, vec![]) }, &[seed::SNAPSHOT]);
    assert!([Code::Expired, Code::SnapshotRollback].contains(&fleet.refused(&old_snapshot)));
    // Long after the snapshot's end: nothing new, but what was accepted stands, listed or not.
    let late = NOW.plus(60 * DAY);
    let at =
        |bytes: &[u8], state: &TrustState, expect| verify(bytes, state, late, expect).map_err(|r| r.code);
    assert_eq!(at(&waiting, &fleet.state, Expect::Delivered).unwrap_err(), Code::SnapshotExpired);
    assert_eq!(
        at(&running, &fleet.state, Expect::Stored(Kind::Deployment)).unwrap().standing(),
        Standing::Held
    );
    let unlisted = TrustState { snapshot: None, ..fleet.state.clone() };
    assert_eq!(at(&running, &unlisted, Expect::Stored(Kind::Deployment)).unwrap().standing(), Standing::Held);
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let newer =
        Snapshot { version: held.version + 1, issued_at: late, not_after: late.plus(DAY), ..(*held).clone() };
    assert!(at(&seal(&newer, &[seed::SNAPSHOT]).0, &fleet.state, Expect::Delivered).is_ok());
    let root = Root { issued_at: late, ..fleet.root_2() };
    assert!(at(&seal(&root, &[seed::ROOT]).0, &fleet.state, Expect::Delivered).is_ok());
    fleet.still_works();
}

#[test]
fn s12_what_is_for_others_is_a_wrong_target() {
    let mut fleet = Fleet::new();
    let other_fleet = FleetId::of_root(&Digest::of(b"other"));
    let foreign = Deployment { fleet: other_fleet.clone(), ..fleet.deployment("app", 1) };
    assert_eq!(fleet.refused(&seal(&foreign, &[seed::DEPLOY]).0), Code::WrongTarget);
    let empty = Snapshot { fleet: other_fleet, version: 99, ..fleet.snapshot(99, vec![]) };
    assert_eq!(fleet.refused(&seal(&empty, &[seed::SNAPSHOT]).0), Code::WrongTarget, "nothing is removed");
    let mut targets = vec![Target { devices: vec![key(50).public().device_id()], ..Target::default() }];
    let mut selector = Selector { match_labels: labels(), match_expressions: vec![] };
    selector.match_labels.insert("site", "roof");
    targets.push(Target { selector: Some(selector), ..Target::default() });
    let own = fleet.deployment("app", 1).target;
    targets.push(Target { architectures: vec!["aarch64".into()], ..own.clone() });
    targets.push(Target { min_agent: Some("9.0.0".into()), ..own });
    targets.push(Target::default());
    for target in targets {
        let d = Deployment { target, ..fleet.deployment("app", 1) };
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::WrongTarget);
    }
    // Another device's record.
    let record = DeviceRecord { attest: key(50).public(), ..fleet.record(2) };
    assert_eq!(fleet.refused(&seal(&record, &[seed::ENROLL]).0), Code::WrongTarget);
    let record =
        DeviceRecord { identity: key(50).public(), device: key(50).public().device_id(), ..fleet.record(2) };
    assert_eq!(fleet.refused(&seal(&record, &[seed::ENROLL]).0), Code::WrongTarget);
    fleet.still_works();
}

#[test]
fn s14_a_million_bad_ones_make_one_code() {
    let mut fleet = Fleet::new();
    let d = fleet.deployment("app", 1);
    let bytes = listed(&mut fleet, &d);
    let mut codes = std::collections::BTreeSet::new();
    let at = bytes.len() - 64;
    for n in 0..500_usize {
        let mut bad = bytes.clone();
        bad[at + n % 64] ^= u8::try_from(1 + n / 64).unwrap();
        codes.insert(fleet.refused(&bad));
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [Code::BadSignature]);
    fleet.accept(&bytes).unwrap();
}

#[test]
fn s15_an_unknown_field_is_malformed_but_ext_may_hold_any() {
    let mut fleet = Fleet::new();
    let mut payload = codec::encode(&fleet.deployment("app", 1));
    assert_eq!(payload[0], 0xaa, "ten fields");
    payload[0] = 0xab;
    payload.extend_from_slice(&[0x18, 99, 0x01]);
    let unknown = sign(Kind::Deployment, &payload, &[&key(seed::DEPLOY)]).unwrap();
    assert_eq!(fleet.refused(&unknown), Code::Malformed);
    fleet.accept(&seal(&full::root(&fleet.id), &[seed::ROOT]).0).unwrap();
    let root = fleet.state.anchor.as_ref().unwrap().root.document.clone();
    assert_eq!(root.ext.len(), 2, "carried along whole");
    fleet.still_works();
}

#[test]
fn m10_an_engine_below_the_deployments_floor_is_too_old() {
    let mut fleet = Fleet::new();
    let target = Target { min_engine: Some("1.0.0".into()), ..fleet.deployment("app", 1).target };
    let d = Deployment { target, ..fleet.deployment("app", 1) };
    assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::EngineTooOld);
    fleet.still_works();
}

#[test]
fn s16_size_caps_and_reserved_values() {
    let mut fleet = Fleet::new();
    assert_eq!(fleet.refused(&vec![0xd8; (512 << 10) + 1]), Code::TooLarge);
    let fat = sign(Kind::Deployment, &vec![0; 61 << 10], &[&key(seed::DEPLOY)]).unwrap();
    assert_eq!(fleet.refused(&fat), Code::TooLarge, "each kind has its own cap");
    let fat = sign(Kind::Order, &vec![0; 9 << 10], &[&key(seed::ONLINE)]).unwrap();
    assert_eq!(fleet.refused(&fat), Code::TooLarge);
    let changes: [Change; 4] = [
        |d| d.template.runtime_class = RuntimeClass::Oci,
        |d| d.template.containers[0].capabilities = vec!["NET_ADMIN".into()],
        |d| d.rollout.ramp = Some(Ramp { start: NOW, duration: 1 }),
        |d| d.rollout.update_windows = vec![Window { days: 1, start: 0, length: 1 }],
    ];
    for change in changes {
        let mut d = fleet.deployment("app", 1);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::UnsupportedValue, "{:?}", d.template);
    }
    fleet.still_works();
}

#[test]
fn s16_nonsense_templates_are_malformed() {
    let mut fleet = Fleet::new();
    let changes: [Change; 17] = [
        |d| d.template.required_features = vec!["Landlock!".into()],
        |d| d.template.required_features = vec!["seccomp".into(); 2],
        |d| d.template.required_features = (0..17).map(|n| format!("f{n}")).collect(),
        |d| d.sequence = 0,
        |d| d.template.containers.clear(),
        |d| d.template.containers = (0..17).map(|n| container(&format!("c{n}"))).collect(),
        |d| d.template.containers.push(container("main")),
        |d| d.template.containers[0].argv.clear(),
        |d| d.template.containers[0].working_dir = "tmp".into(),
        |d| d.template.containers[0].image.module.path = "/../app.wasm".into(),
        |d| d.template.containers[0].image.files = vec![module()],
        |d| d.template.containers[0].image.files = vec![File { path: "/app.wasm/x".into(), ..module() }],
        |d| {
            let file = |n| File { path: format!("/f{n}"), ..module() };
            d.template.containers[0].image.files = (0..257).map(file).collect();
        },
        |d| {
            d.template.containers[0].mounts =
                vec![Mount { volume: name("x"), path: "/x".into(), read_only: true }];
        },
        |d| d.template.containers[0].resources.cpu_shares = Some(1),
        |d| d.template.containers[0].env = vec![EnvVar::plain("A=B", "")],
        |d| {
            let source = VolumeSource::HostPath { path: "/srv/../etc".into() };
            d.template.volumes = vec![Volume { name: name("x"), source }];
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut d = fleet.deployment("app", 1);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Malformed, "change {n}");
    }
    fleet.still_works();
}

#[test]
fn s17_only_what_the_snapshot_lists_is_taken() {
    let mut fleet = Fleet::new();
    let (bytes, digest) = seal(&fleet.deployment("app", 1), &[seed::DEPLOY]);
    assert_eq!(fleet.refused(&bytes), Code::NotInSnapshot);
    let removed = Entry { liveness: Liveness::Removed, ..entry("app", revision(1, digest)) };
    let snapshot = fleet.list(removed);
    fleet.accept(&snapshot).unwrap();
    assert_eq!(fleet.refused(&bytes), Code::NotInSnapshot, "removed and replayed on a new device");
    // Listed under this sequence, but other bytes: never accepted here, so it is no equivocation.
    let snapshot = fleet.list(entry("twin", revision(1, Digest::of(b"what was listed"))));
    fleet.accept(&snapshot).unwrap();
    assert_eq!(fleet.refused(&seal(&fleet.deployment("twin", 1), &[seed::DEPLOY]).0), Code::NotInSnapshot);
    // Stable counts as listed, and an older revision between them does not.
    let sealed: Vec<_> = (1..=3).map(|s| seal(&fleet.deployment("web", s), &[seed::DEPLOY])).collect();
    let both = Entry { stable: Some(revision(1, sealed[0].1)), ..entry("web", revision(3, sealed[2].1)) };
    let snapshot = fleet.list(both);
    fleet.accept(&snapshot).unwrap();
    assert_eq!(fleet.refused(&sealed[1].0), Code::NotInSnapshot);
    fleet.accept(&sealed[0].0).unwrap();
    fleet.accept(&sealed[2].0).unwrap();
    fleet.state.snapshot = None;
    assert_eq!(fleet.refused(&seal(&fleet.deployment("new", 1), &[seed::DEPLOY]).0), Code::NotInSnapshot);
}

#[test]
fn s17_a_snapshot_never_loses_a_live_name_or_a_step() {
    let mut fleet = Fleet::new();
    fleet.publish(&fleet.deployment("app", 5)).unwrap();
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let with = |fleet: &Fleet, entries| seal(&fleet.snapshot(held.version + 1, entries), &[seed::SNAPSHOT]).0;
    let dropped = with(&fleet, vec![entry("other", revision(1, Digest::of(b"1")))]);
    assert_eq!(fleet.refused(&dropped), Code::SnapshotRollback);
    let emptied = with(&fleet, vec![]);
    assert_eq!(fleet.refused(&emptied), Code::SnapshotRollback, "the last name of the list");
    let fallen = with(&fleet, vec![entry("app", revision(4, Digest::of(b"4")))]);
    assert_eq!(fleet.refused(&fallen), Code::SnapshotRollback);
    let e = &held.entries[0];
    let disordered = with(&fleet, vec![e.clone(), e.clone()]);
    assert_eq!(fleet.refused(&disordered), Code::Malformed);
    let redundant = with(&fleet, vec![Entry { stable: Some(e.newest), ..e.clone() }]);
    assert_eq!(fleet.refused(&redundant), Code::Malformed);
    fleet.still_works();
}

#[test]
fn s18_a_snapshot_that_needs_a_newer_root_waits_for_it() {
    let mut fleet = Fleet::new();
    let ahead = Snapshot { root_version: 2, epoch: 2, ..fleet.snapshot(2, vec![]) };
    let (bytes, _) = seal(&ahead, &[seed::SNAPSHOT]);
    assert_eq!(fleet.refused(&bytes), Code::RootBehind);
    fleet.accept(&seal(&Root { epoch: 2, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
    fleet.accept(&bytes).unwrap();
    fleet.still_works();
}

#[test]
fn s19_a_key_stays_within_prefix_ceiling_and_may_remove() {
    let mut fleet = Fleet::new();
    let outside = fleet.deployment("db", 1);
    assert_eq!(fleet.refused(&seal(&outside, &[seed::WEB]).0), Code::RoleScope);
    let changes: [Change; 4] = [
        |d| d.template.containers[0].resources.memory_limit = Some(65 << 20),
        |d| d.template.containers[0].resources.memory_limit = None,
        |d| d.template.network = Network::Pod,
        |d| {
            let source = VolumeSource::HostPath { path: "/srv/website".into() };
            d.template.volumes = vec![Volume { name: name("v"), source }];
        },
    ];
    for change in changes {
        let mut d = fleet.deployment("web-1", 1);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::WEB]).0), Code::RoleScope);
    }
    let mut d = fleet.deployment("web-1", 1);
    let source = VolumeSource::HostPath { path: "/srv/web/html".into() };
    d.template.volumes = vec![Volume { name: name("v"), source }];
    let (bytes, digest) = seal(&d, &[seed::WEB]);
    let snapshot = fleet.list(entry("web-1", revision(1, digest)));
    fleet.accept(&snapshot).unwrap();
    fleet.accept(&bytes).unwrap();
    // Removing, or raising a floor: the snapshot key alone may not, neither with a key without may_remove.
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    for (liveness, floor) in [(Liveness::Removed, 0), (Liveness::Live, 1)] {
        let e = Entry { liveness, floor, ..held.entries[0].clone() };
        let next = fleet.snapshot(held.version + 1, vec![e]);
        assert_eq!(fleet.refused(&seal(&next, &[seed::SNAPSHOT]).0), Code::RoleScope);
        assert_eq!(fleet.refused(&seal(&next, &[seed::SNAPSHOT, seed::WEB]).0), Code::RoleScope);
        let good = seal(&next, &[seed::SNAPSHOT, seed::DEPLOY]).0;
        verify(&good, &fleet.state, NOW, Expect::Delivered).unwrap();
    }
    fleet.still_works();
}

#[test]
fn s21_a_newer_revision_or_relabel_deselects_and_old_records_are_refused() {
    let mut fleet = Fleet::new();
    let running = fleet.publish(&fleet.deployment("app", 1)).unwrap();
    let away = Deployment { target: Target::default(), ..fleet.deployment("app", 2) };
    let bytes = listed(&mut fleet, &away);
    assert_eq!(fleet.accept(&bytes).unwrap().standing(), Standing::Deselected);
    let relabelled = DeviceRecord { labels: [("site", "roof")].into_iter().collect(), ..fleet.record(2) };
    fleet.accept(&seal(&relabelled, &[seed::ENROLL]).0).unwrap();
    let again = fleet.accept_as(&running, Expect::Stored(Kind::Deployment)).unwrap();
    assert_eq!(again.standing(), Standing::Deselected);
    assert_eq!(fleet.refused(&seal(&fleet.record(1), &[seed::ENROLL]).0), Code::RecordRollback);
    assert_eq!(fleet.refused(&seal(&fleet.record(2), &[seed::ENROLL]).0), Code::Equivocation);
    fleet.accept(&seal(&fleet.record(3), &[seed::ENROLL]).0).unwrap();
    fleet.still_works();
}

#[test]
fn s21_a_decommissioned_device_is_selected_by_nothing() {
    let mut fleet = Fleet::new();
    let running = fleet.publish(&fleet.deployment("app", 1)).unwrap();
    let gone = DeviceRecord { decommissioned: true, ..fleet.record(2) };
    fleet.accept(&seal(&gone, &[seed::ENROLL]).0).unwrap();
    let again = fleet.accept_as(&running, Expect::Stored(Kind::Deployment)).unwrap();
    assert_eq!(again.standing(), Standing::Deselected);
    assert_eq!(fleet.refused(&seal(&fleet.record(1), &[seed::ENROLL]).0), Code::RecordRollback);
    fleet.accept(&seal(&fleet.record(3), &[seed::ENROLL]).0).unwrap();
    fleet.still_works();
}

#[test]
fn s25_the_fingerprint_of_a_device_is_of_all_its_keys() {
    let fleet = Fleet::new();
    let record = fleet.record(1);
    let same =
        DeviceRecord { sequence: 7, labels: shoal_protocol::text_map::TextMap::default(), ..fleet.record(1) };
    assert_eq!(record.fingerprint(), same.fingerprint());
    for other in [
        DeviceRecord { identity: key(50).public(), ..fleet.record(1) },
        DeviceRecord { sealing: Bytes(vec![8; 32]), ..fleet.record(1) },
        DeviceRecord { attest: key(50).public(), ..fleet.record(1) },
    ] {
        assert_ne!(record.fingerprint(), other.fingerprint());
    }
}

#[test]
fn s22_the_far_future_is_a_time_jump_and_1970_still_works() {
    let mut fleet = Fleet::new();
    let future = Timestamp(4_070_908_800);
    let floor = fleet.state.time_floor;
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let jump = Snapshot {
        issued_at: future,
        not_after: future.plus(DAY),
        ..fleet.snapshot(held.version + 1, vec![])
    };
    assert_eq!(fleet.refused(&seal(&jump, &[seed::SNAPSHOT]).0), Code::TimeJump);
    let root = Root { issued_at: future, ..fleet.root_2() };
    assert_eq!(fleet.refused(&seal(&root, &[seed::ROOT]).0), Code::TimeJump);
    let d = Deployment { issued_at: future, not_after: future.plus(DAY), ..fleet.deployment("app", 1) };
    let bytes = listed(&mut fleet, &d);
    assert_eq!(fleet.refused(&bytes), Code::TimeJump);
    assert_eq!(fleet.state.time_floor, floor.max(NOW), "the floor did not move beyond honest documents");
    // The clock at 1970, or two years back: the floor stands in, and every other check holds.
    for clock in [Timestamp(0), Timestamp(NOW.0 - 2 * YEAR)] {
        assert!(!shoal_protocol::verify::time::is_trusted(clock, fleet.state.time_floor));
        let d = fleet.deployment(&format!("at-{}", clock.0), 1);
        let good = listed(&mut fleet, &d);
        verify(&good, &fleet.state, clock, Expect::Delivered).unwrap();
        let mut bad = good.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        assert_eq!(
            verify(&bad, &fleet.state, clock, Expect::Delivered).unwrap_err().code,
            Code::BadSignature
        );
    }
    fleet.still_works();
}

#[test]
fn s23_orders_are_counted_short_lived_and_within_consent() {
    let mut fleet = Fleet::new();
    let d = Deployment { not_before: Some(NOW.plus(DAY)), ..fleet.deployment("app", 1) };
    let bytes = fleet.publish(&d).unwrap();
    let held = revision(1, Envelope::parse(&bytes).unwrap().identity());
    let restart = || Verb::Restart { name: name("app") };
    let order = |f: &Fleet, counter, verb| seal(&f.order(counter, verb), &[seed::ONLINE]).0;
    let good = order(&fleet, 1, restart());
    let mut forged = good.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(fleet.refused(&forged), Code::BadSignature);
    assert_eq!(fleet.refused(&seal(&fleet.order(1, restart()), &[seed::STRANGER]).0), Code::UnknownKey);
    assert_eq!(fleet.refused(&seal(&fleet.order(1, restart()), &[seed::DEPLOY]).0), Code::RoleScope);
    fleet.accept(&good).unwrap();
    assert_eq!(fleet.refused(&good), Code::OrderReplay);
    let logs = |tail, follow| Verb::Logs { name: name("app"), container: None, tail, follow, stream: 1 };
    let unknown = revision(1, Digest::of(b"never accepted"));
    for (verb, code) in [
        (Verb::Restart { name: name("other") }, Code::OrderForbidden),
        (Verb::Stage { name: name("app"), revision: unknown }, Code::OrderForbidden),
        (Verb::Return { name: name("app"), revision: unknown }, Code::OrderForbidden),
        (Verb::Activate { name: name("app"), revision: held }, Code::OutsideWindow),
        (logs(201, 0), Code::OrderForbidden),
        (logs(10, 3601), Code::OrderForbidden),
    ] {
        let bytes = order(&fleet, 2, verb.clone());
        assert_eq!(fleet.refused(&bytes), code, "{verb:?}");
    }
    let long = Order { not_after: NOW.plus(3601), ..fleet.order(2, restart()) };
    assert_eq!(fleet.refused(&seal(&long, &[seed::ONLINE]).0), Code::OrderForbidden);
    let late = Order {
        issued_at: Timestamp(NOW.0 - 700),
        not_after: Timestamp(NOW.0 - 1),
        ..fleet.order(2, restart())
    };
    assert_eq!(fleet.refused(&seal(&late, &[seed::ONLINE]).0), Code::Expired);
    // Counters that a thief burns are gone for good: not all of them at once.
    for counter in [u64::MAX, 1 + MAX_JUMP + 1] {
        assert_eq!(fleet.refused(&order(&fleet, counter, restart())), Code::SequenceJump, "{counter}");
    }
    let other = Order { device: key(50).public().device_id(), ..fleet.order(2, restart()) };
    assert_eq!(fleet.refused(&seal(&other, &[seed::ONLINE]).0), Code::WrongTarget);
    fleet.accept(&order(&fleet, 2, logs(200, 60))).unwrap();
    fleet.accept(&order(&fleet, 2 + MAX_JUMP, restart())).unwrap();
    fleet.still_works();
}

#[test]
fn s24_below_the_floor_even_stored_documents_do_not_count() {
    let mut fleet = Fleet::new();
    let old = fleet.publish(&fleet.deployment("app", 1)).unwrap();
    fleet.publish(&fleet.deployment("app", 2)).unwrap();
    assert!(fleet.accept_as(&old, Expect::Stored(Kind::Deployment)).is_ok());
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let raised = fleet.snapshot(held.version + 1, vec![Entry { floor: 2, ..held.entries[0].clone() }]);
    fleet.accept(&seal(&raised, &[seed::SNAPSHOT, seed::DEPLOY]).0).unwrap();
    assert_eq!(fleet.refused_as(&old, Expect::Stored(Kind::Deployment)), Code::BelowFloor);
    fleet.still_works();
}

#[test]
fn s25_counters_of_reports_and_facts_only_rise() {
    let mut fleet = Fleet::new();
    fleet.state.viewpoint = Viewpoint::Observer;
    let report = |f: &Fleet, counter| seal(&f.report(counter), &[seed::IDENTITY]).0;
    let expect = Expect::Only(Kind::Report);
    let first = report(&fleet, 10);
    fleet.accept_as(&first, expect).unwrap();
    assert_eq!(fleet.refused_as(&first, expect), Code::ReportReplay);
    let older = report(&fleet, 9);
    assert_eq!(fleet.refused_as(&older, expect), Code::ReportReplay);
    let forked = Report { root_version: 7, ..fleet.report(10) };
    assert_eq!(fleet.refused_as(&seal(&forked, &[seed::IDENTITY]).0, expect), Code::DeviceCloned);
    assert_eq!(fleet.refused_as(&seal(&fleet.report(11), &[seed::STRANGER]).0, expect), Code::UnknownKey);
    fleet.accept_as(&report(&fleet, 12), expect).unwrap();
    // Facts count only by the attest key: a broken-into agent holds the identity key alone.
    let expect = Expect::Only(Kind::Fact);
    assert_eq!(fleet.refused_as(&seal(&fleet.fact(1), &[seed::IDENTITY]).0, expect), Code::UnknownKey);
    let fact = seal(&fleet.fact(1), &[seed::ATTEST]).0;
    fleet.accept_as(&fact, expect).unwrap();
    assert_eq!(fleet.refused_as(&fact, expect), Code::ReportReplay);
}

#[test]
fn s25_a_token_is_bound_to_what_it_says() {
    let mut fleet = Fleet::new();
    fleet.state.record = None;
    let stale = Token { not_after: Timestamp(NOW.0 - 1), ..fleet.token() };
    let expect = Expect::Only(Kind::Token);
    assert_eq!(fleet.refused_as(&seal(&stale, &[seed::ENROLL]).0, expect), Code::EnrollProof);
    let record = |f: &Fleet| f.record(1);
    let by_token = seal(&record(&fleet), &[seed::TOKEN]).0;
    assert_eq!(fleet.refused(&by_token), Code::UnknownKey, "before the token is known");
    fleet.accept_as(&seal(&fleet.token(), &[seed::ENROLL]).0, expect).unwrap();
    let more = DeviceRecord { labels: [("site", "vault")].into_iter().collect(), ..record(&fleet) };
    assert_eq!(fleet.refused(&seal(&more, &[seed::TOKEN]).0), Code::RoleScope);
    assert_eq!(fleet.refused(&seal(&fleet.record(2), &[seed::TOKEN]).0), Code::RoleScope);
    let gone = DeviceRecord { decommissioned: true, ..record(&fleet) };
    assert_eq!(fleet.refused(&seal(&gone, &[seed::TOKEN]).0), Code::RoleScope);
    fleet.accept(&by_token).unwrap();
    // One that wants approval signs nothing itself.
    let mut fleet = Fleet::new();
    fleet.state.record = None;
    let approval = Token { approval: true, ..fleet.token() };
    fleet.accept_as(&seal(&approval, &[seed::ENROLL]).0, expect).unwrap();
    assert_eq!(fleet.refused(&by_token), Code::RoleScope);
    fleet.accept(&seal(&fleet.record(1), &[seed::ENROLL]).0).unwrap();
    fleet.still_works();
}

#[test]
fn s10_a_root_never_lowers_the_epoch() {
    let mut fleet = Fleet::with_root(&root_1());
    fleet.accept(&seal(&Root { epoch: 2, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
    let lower = Root { version: 3, epoch: 1, ..fleet.root_2() };
    assert_eq!(fleet.refused(&seal(&lower, &[seed::ROOT]).0), Code::Epoch);
    fleet.accept(&seal(&Root { epoch: 2, ..lower }, &[seed::ROOT]).0).unwrap();
}

#[test]
fn s12_a_record_whose_id_is_not_its_keys_is_malformed() {
    let mut fleet = Fleet::new();
    let stolen = DeviceRecord { identity: key(50).public(), ..fleet.record(2) };
    assert_eq!(fleet.refused(&seal(&stolen, &[seed::ENROLL]).0), Code::Malformed);
    fleet.accept(&seal(&fleet.record(2), &[seed::ENROLL]).0).unwrap();
}

#[test]
fn s9_a_snapshot_may_not_swap_the_newest_below_an_unchanged_stable() {
    let mut fleet = Fleet::new();
    let at = |n, text: &[u8]| revision(n, Digest::of(text));
    let listed = Entry { stable: Some(at(1, b"1")), ..entry("app", at(2, b"2")) };
    let snapshot = fleet.list(listed.clone());
    fleet.accept(&snapshot).unwrap();
    let swapped = fleet.list(Entry { newest: at(2, b"other"), ..listed.clone() });
    assert_eq!(fleet.refused(&swapped), Code::Equivocation);
    let onward = fleet.list(Entry { newest: at(3, b"3"), ..listed });
    fleet.accept(&onward).unwrap();
}

#[test]
fn s11_under_an_ended_root_only_roots_are_taken_anew() {
    let mut fleet = Fleet::new();
    let d = Deployment { not_after: NOW.plus(3 * YEAR), ..fleet.deployment("app", 1) };
    let bytes = listed(&mut fleet, &d);
    let late = NOW.plus(YEAR + DAY);
    let held = fleet.state.snapshot.as_ref().unwrap().document.clone();
    let next = Snapshot { version: held.version + 1, not_after: NOW.plus(3 * YEAR), ..(*held).clone() };
    let (snapshot, _) = seal(&next, &[seed::SNAPSHOT]);
    let refusal = verify(&snapshot, &fleet.state, late, Expect::Delivered).unwrap_err();
    assert_eq!(refusal.code, Code::Expired);
    let root = Root { not_after: NOW.plus(3 * YEAR), ..fleet.root_2() };
    for good in [seal(&root, &[seed::ROOT]).0, snapshot, bytes] {
        let verdict = verify(&good, &fleet.state, late, Expect::Delivered).unwrap();
        fleet.state.advance(&verdict);
    }
}

#[test]
fn the_identity_is_over_type_and_payload() {
    let payload = b"payload";
    let mut bytes = content_type(Kind::Root).into_bytes();
    assert_eq!(bytes, b"application/vnd.shoal.root.v1+cbor");
    bytes.push(0);
    bytes.extend_from_slice(payload);
    assert_eq!(identity(Kind::Root, payload), Digest::of(&bytes));
    assert_ne!(identity(Kind::Root, payload), identity(Kind::Token, payload));
}

#[test]
fn es256_keys_sign_and_count_like_any_other() {
    let mut fleet = Fleet::new();
    fleet.state.viewpoint = Viewpoint::Observer;
    let pkcs8 = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &ring::rand::SystemRandom::new(),
    )
    .unwrap();
    let signer = shoal_protocol::Es256Signer::from_pkcs8(pkcs8.as_ref()).unwrap();
    let device = signer.key().device_id();
    fleet.state.record = None;
    fleet.state.own = None;
    let record = DeviceRecord { identity: signer.key(), device: device.clone(), ..fleet.record(1) };
    fleet.accept_as(&seal(&record, &[seed::ENROLL]).0, Expect::Only(Kind::Device)).unwrap();
    let report = Report { device, ..fleet.report(1) };
    let (bytes, _) = shoal_protocol::envelope::seal_document(&report, &[&signer]).unwrap();
    let mut bad = bytes.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    assert_eq!(fleet.refused_as(&bad, Expect::Only(Kind::Report)), Code::BadSignature);
    fleet.accept_as(&bytes, Expect::Only(Kind::Report)).unwrap();
    assert_eq!(Key::from_spki(&signer.key().spki()), Some(signer.key()));
    assert_eq!(Bytes(signer.key().spki()[26..].to_vec()), signer.key().public);
}
