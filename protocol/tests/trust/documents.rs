//! Attacks on configs, secrets and grants: each must get its code, change nothing, and leave good documents working.

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::{Bytes, Digest, FleetId};
use shoal_protocol::sealing::{self, SecretKey};
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, verify};

fn refer(kind: EntryKind, n: &str, pin: Option<Revision>) -> VolumeSource {
    let document = DocumentRef { name: name(n), optional: false, pin };
    match kind {
        EntryKind::Secret => VolumeSource::Secret { document, mode: 0o400, items: vec![] },
        _ => VolumeSource::Config { document, mode: 0o644, items: vec![] },
    }
}

fn deployment(fleet: &Fleet, n: &str, sources: &[VolumeSource]) -> Deployment {
    let mut d = fleet.deployment(n, 1);
    let volume =
        |(n, source): (usize, &VolumeSource)| Volume { name: name(&format!("v{n}")), source: source.clone() };
    d.template.volumes = sources.iter().enumerate().map(volume).collect();
    d
}

/// A device that runs a deployment which refers to the config `settings` and the secret `password`.
fn referring() -> Fleet {
    let mut fleet = Fleet::new();
    let sources = [refer(EntryKind::Config, "settings", None), refer(EntryKind::Secret, "password", None)];
    fleet.publish(&deployment(&fleet, "app", &sources)).unwrap();
    fleet
}

fn listing(kind: EntryKind, n: &str, sequence: u64, digest: Digest) -> Entry {
    Entry { kind, ..entry(n, revision(sequence, digest)) }
}

/// Lists and signs a config or secret and lets the device have both.
fn publish<T: Document>(
    fleet: &mut Fleet,
    kind: EntryKind,
    n: &str,
    sequence: u64,
    d: &T,
) -> (Vec<u8>, Digest) {
    let sealed = seal(d, &[seed::DEPLOY]);
    let snapshot = fleet.list(listing(kind, n, sequence, sealed.1));
    fleet.accept(&snapshot).unwrap();
    fleet.accept(&sealed.0).unwrap();
    sealed
}

/// A kind, a name, and an envelope with its identity.
type Signed = (EntryKind, &'static str, (Vec<u8>, Digest));
/// What is done to a good one, in words and in deed.
type Change<T> = (&'static str, fn(&mut T));

fn both(fleet: &Fleet, sequence: u64) -> [Signed; 2] {
    let config = seal(&fleet.config("settings", sequence), &[seed::DEPLOY]);
    let secret = seal(&fleet.secret("password", sequence), &[seed::DEPLOY]);
    [(EntryKind::Config, "settings", config), (EntryKind::Secret, "password", secret)]
}

fn list(fleet: &mut Fleet, kind: EntryKind, n: &str, sequence: u64, digest: Digest) {
    let snapshot = fleet.list(listing(kind, n, sequence, digest));
    fleet.accept(&snapshot).unwrap();
}

#[test]
fn s17_what_the_snapshot_does_not_list_is_refused_and_what_it_lists_is_taken() {
    let mut fleet = referring();
    for (kind, n, (bytes, digest)) in both(&fleet, 1) {
        assert_eq!(fleet.refused(&bytes), Code::NotInSnapshot, "{n}");
        // A name of another kind lists nothing.
        let other = if kind == EntryKind::Config { EntryKind::Secret } else { EntryKind::Config };
        list(&mut fleet, other, n, 1, digest);
        assert_eq!(fleet.refused(&bytes), Code::NotInSnapshot, "{n}");
        list(&mut fleet, kind, n, 1, digest);
        fleet.accept(&bytes).unwrap();
        fleet.accept(&bytes).unwrap();
    }
    fleet.still_works();
}

#[test]
fn s9_lower_and_forked_sequences_are_told_apart_and_a_higher_one_applies() {
    let mut fleet = referring();
    for (kind, n, (bytes, digest)) in both(&fleet, 2) {
        list(&mut fleet, kind, n, 2, digest);
        fleet.accept(&bytes).unwrap();
    }
    for (_, n, (bytes, _)) in both(&fleet, 1) {
        assert_eq!(fleet.refused(&bytes), Code::Rollback, "{n}");
    }
    let forked = Config { issued_at: NOW.plus(1), ..fleet.config("settings", 2) };
    assert_eq!(fleet.refused(&seal(&forked, &[seed::DEPLOY]).0), Code::Equivocation);
    let forked = Secret { sealed: Bytes(vec![1]), ..fleet.secret("password", 2) };
    assert_eq!(fleet.refused(&seal(&forked, &[seed::DEPLOY]).0), Code::Equivocation);
    let far = fleet.config("settings", 3 + (1 << 20));
    assert_eq!(fleet.refused(&seal(&far, &[seed::DEPLOY]).0), Code::SequenceJump);
    for (kind, n, (bytes, digest)) in both(&fleet, 3) {
        list(&mut fleet, kind, n, 3, digest);
        fleet.accept(&bytes).unwrap();
    }
    fleet.still_works();
}

#[test]
fn s12_what_no_deployment_here_refers_to_and_what_is_of_another_fleet_is_not_taken() {
    let mut fleet = referring();
    let (other, digest) = seal(&fleet.config("other", 1), &[seed::DEPLOY]);
    list(&mut fleet, EntryKind::Config, "other", 1, digest);
    assert_eq!(fleet.refused(&other), Code::WrongTarget);
    // A secret of a config's name is none of those that it refers to.
    let (secret, digest) = seal(&fleet.secret("settings", 1), &[seed::DEPLOY]);
    list(&mut fleet, EntryKind::Secret, "settings", 1, digest);
    assert_eq!(fleet.refused(&secret), Code::WrongTarget);
    let foreign = Config { fleet: FleetId::of_root(&Digest([9; 32])), ..fleet.config("settings", 1) };
    assert_eq!(fleet.refused(&seal(&foreign, &[seed::DEPLOY]).0), Code::WrongTarget);
    fleet.still_works();
}

#[test]
fn s3_s19_only_a_deployment_key_signs_them_and_only_within_its_prefix() {
    let mut fleet = referring();
    for (kind, n, (_, digest)) in both(&fleet, 1) {
        list(&mut fleet, kind, n, 1, digest);
    }
    for (seeds, code) in [
        (&[seed::STRANGER][..], Code::UnknownKey),
        (&[seed::ONLINE], Code::RoleScope),
        (&[seed::SNAPSHOT], Code::RoleScope),
        (&[seed::WEB], Code::RoleScope),
    ] {
        assert_eq!(fleet.refused(&seal(&fleet.config("settings", 1), seeds).0), code, "{seeds:?}");
        assert_eq!(fleet.refused(&seal(&fleet.secret("password", 1), seeds).0), code, "{seeds:?}");
    }
    fleet.still_works();
}

#[test]
fn s19_a_key_reads_no_further_than_it_writes() {
    let mut fleet = Fleet::new();
    for (kind, n, allowed) in [
        (EntryKind::Config, "settings", false),
        (EntryKind::Secret, "password", false),
        (EntryKind::Config, "web-settings", true),
        (EntryKind::Secret, "web-password", true),
    ] {
        let mut d = deployment(&fleet, "web-shop", &[refer(kind, n, None)]);
        // Within the ceiling of that role.
        d.template.resources.memory_limit = Some(1 << 20);
        let (bytes, digest) = seal(&d, &[seed::WEB]);
        if allowed {
            let mut other = Fleet::new();
            let snapshot = other.list(entry("web-shop", revision(1, digest)));
            other.accept(&snapshot).unwrap();
            other.accept(&bytes).unwrap_or_else(|e| panic!("{n}: {e}"));
        } else {
            assert_eq!(fleet.refused(&bytes), Code::RoleScope, "{n}");
        }
    }
    fleet.still_works();
}

#[test]
fn s13_a_pin_takes_exactly_what_it_names_listed_or_not() {
    let mut fleet = Fleet::new();
    let (one, digest) = seal(&fleet.config("settings", 1), &[seed::DEPLOY]);
    let pinned = refer(EntryKind::Config, "settings", Some(revision(1, digest)));
    fleet.publish(&deployment(&fleet, "app", &[pinned])).unwrap();
    let two = fleet.config("settings", 2);
    publish(&mut fleet, EntryKind::Config, "settings", 2, &two);
    let forged = Config { not_after: NOW.plus(1), ..fleet.config("settings", 1) };
    assert_eq!(fleet.refused(&seal(&forged, &[seed::DEPLOY]).0), Code::Rollback);
    fleet.accept(&one).unwrap();
    // Below the floor it is not even by its pin.
    let mut fleet = Fleet::new();
    fleet
        .publish(&deployment(
            &fleet,
            "app",
            &[refer(EntryKind::Config, "settings", Some(revision(1, digest)))],
        ))
        .unwrap();
    let (_, next) = seal(&fleet.config("settings", 2), &[seed::DEPLOY]);
    let raised = Entry { floor: 2, ..listing(EntryKind::Config, "settings", 2, next) };
    let snapshot = fleet.list(raised);
    fleet.accept(&snapshot).unwrap();
    assert_eq!(fleet.refused(&one), Code::BelowFloor);
    fleet.still_works();
}

#[test]
fn s10_an_old_pinned_one_and_a_newest_one_far_above_it_are_both_read_back_at_a_cold_start() {
    const FAR: u64 = 1 << 20;
    let mut fleet = Fleet::new();
    let (pinned, digest) = seal(&fleet.config("settings", 1), &[seed::DEPLOY]);
    let sources = [
        refer(EntryKind::Config, "settings", Some(revision(1, digest))),
        refer(EntryKind::Config, "settings", None),
    ];
    for (n, source) in ["app", "other"].into_iter().zip(sources) {
        fleet.publish(&deployment(&fleet, n, &[source])).unwrap();
    }
    list(&mut fleet, EntryKind::Config, "settings", FAR, digest);
    let newest = fleet.config("settings", FAR + 2);
    let (newest, _) = publish(&mut fleet, EntryKind::Config, "settings", FAR + 2, &newest);
    fleet.accept(&pinned).unwrap();
    let mut cold = fleet.state.clone();
    cold.documents.clear();
    for bytes in [&pinned, &newest] {
        let verdict = verify(bytes, &cold, NOW, Expect::Stored(Kind::Config)).unwrap();
        cold.advance(&verdict);
    }
    assert_eq!(cold.documents, fleet.state.documents);
}

#[test]
fn s10_s11_s22_epoch_and_time_hold_for_them_too() {
    let mut fleet = referring();
    for (change, code) in [
        ((|c| c.epoch = 2) as fn(&mut Config), Code::Epoch),
        (|c| c.not_after = NOW.plus(0).min(shoal_protocol::ids::Timestamp(NOW.0 - 1)), Code::Expired),
        (|c| c.issued_at = NOW.plus(50 * YEAR), Code::TimeJump),
    ] {
        let mut c = fleet.config("settings", 1);
        change(&mut c);
        let (bytes, digest) = seal(&c, &[seed::DEPLOY]);
        list(&mut fleet, EntryKind::Config, "settings", 1, digest);
        assert_eq!(fleet.refused(&bytes), code);
        fleet = referring();
    }
    fleet.still_works();
}

#[test]
fn s15_s16_documents_out_of_form_or_too_full_are_malformed() {
    let mut fleet = referring();
    let base = fleet.config("settings", 1);
    let config = |data: ByteMap| Config { data, ..base.clone() };
    let many: ByteMap = (0..257).map(|n| (format!("k{n}"), "v")).collect();
    let bad = [
        Config { sequence: 0, ..fleet.config("settings", 1) },
        config([("../etc/passwd", "x")].into_iter().collect()),
        config([("a/b", "x")].into_iter().collect()),
        config([("", "x")].into_iter().collect()),
        config(many),
    ];
    let secrets = [
        Secret { deployments: vec![], ..fleet.secret("password", 1) },
        Secret { deployments: vec!["a*b".into()], ..fleet.secret("password", 1) },
        Secret { keys: vec!["b".into(), "a".into()], ..fleet.secret("password", 1) },
        Secret { keys: vec!["../a".into()], ..fleet.secret("password", 1) },
    ];
    for c in &bad {
        assert_eq!(fleet.refused(&seal(c, &[seed::DEPLOY]).0), Code::Malformed, "{c:?}");
    }
    for s in &secrets {
        assert_eq!(fleet.refused(&seal(s, &[seed::DEPLOY]).0), Code::Malformed, "{s:?}");
    }
    let huge = config([("a", "x".repeat(57 << 10))].into_iter().collect());
    assert_eq!(fleet.refused(&seal(&huge, &[seed::DEPLOY]).0), Code::Malformed);
    fleet.still_works();
}

#[test]
fn s15_references_out_of_form_are_malformed() {
    let mut fleet = Fleet::new();
    let of = |items: Vec<KeyFile>, mode| {
        let document = DocumentRef { name: name("settings"), optional: false, pin: None };
        VolumeSource::Config { document, mode, items }
    };
    let item = |key: &str, path: &str| KeyFile { key: key.into(), path: path.into(), mode: None };
    let digest = Digest::of(b"x");
    let pinned = refer(EntryKind::Config, "settings", Some(revision(1, digest)));
    let cases: Vec<(&str, Vec<VolumeSource>)> = vec![
        ("a path upwards", vec![of(vec![item("a", "../a")], 0o644)]),
        ("an absolute path", vec![of(vec![item("a", "/a")], 0o644)]),
        ("a path twice", vec![of(vec![item("a", "x"), item("b", "x")], 0o644)]),
        ("a file that is a folder", vec![of(vec![item("a", "x"), item("b", "x/y")], 0o644)]),
        ("a mode beyond", vec![of(vec![], 0o4755)]),
        ("no key", vec![of(vec![item("", "x")], 0o644)]),
        ("pinned here and not there", vec![pinned, refer(EntryKind::Config, "settings", None)]),
        ("a pin of nothing", vec![refer(EntryKind::Config, "settings", Some(revision(0, digest)))]),
    ];
    for (what, sources) in cases {
        let d = deployment(&fleet, "app", &sources);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Malformed, "{what}");
    }
    let changes: [Change<Deployment>; 4] = [
        ("mounted to be written", |d| {
            d.template.containers[0].mounts =
                vec![Mount { volume: name("v0"), path: "/conf".into(), read_only: false }];
        }),
        ("something below it", |d| {
            let mount = |n: &str, path: &str| Mount { volume: name(n), path: path.into(), read_only: true };
            d.template
                .volumes
                .push(Volume { name: name("more"), source: VolumeSource::EmptyDir { size_limit: None } });
            d.template.containers[0].mounts = vec![mount("v0", "/conf"), mount("more", "/conf/more")];
        }),
        ("over the module", |d| {
            d.template.containers[0].image.module.path = "/conf/app.wasm".into();
            d.template.containers[0].mounts =
                vec![Mount { volume: name("v0"), path: "/conf".into(), read_only: true }];
        }),
        ("a value and a source", |d| {
            let document = DocumentRef { name: name("settings"), optional: false, pin: None };
            let from = Some(EnvSource::Config { document, key: "a".into() });
            d.template.containers[0].env = vec![EnvVar { from, ..EnvVar::plain("A", "b") }];
        }),
    ];
    for (what, change) in changes {
        let mut d = deployment(&fleet, "app", &[refer(EntryKind::Config, "settings", None)]);
        change(&mut d);
        assert_eq!(fleet.refused(&seal(&d, &[seed::DEPLOY]).0), Code::Malformed, "{what}");
    }
    fleet.still_works();
}

#[test]
fn s6_what_a_revoked_key_signed_counts_no_more() {
    let mut fleet = referring();
    let config = fleet.config("settings", 1);
    let (bytes, _) = publish(&mut fleet, EntryKind::Config, "settings", 1, &config);
    let mut root = fleet.root_2();
    root.roles[2].keys = vec![key(seed::STRANGER).public()];
    root.revoked = vec![Revocation { key: key(seed::DEPLOY).public(), disposition: Disposition::Keep }];
    fleet.accept(&seal(&root, &[seed::ROOT]).0).unwrap();
    assert_eq!(fleet.refused_as(&bytes, Expect::Stored(Kind::Config)), Code::RevokedKey);
}

#[test]
fn s25_a_grant_is_for_one_device_and_one_revision_and_by_a_key_of_the_secrets_prefix() {
    let mut fleet = referring();
    let secret = fleet.secret("password", 1);
    let early = fleet.grant("password", revision(1, Digest::of(b"not here")));
    assert_eq!(fleet.refused(&seal(&early, &[seed::DEPLOY]).0), Code::WrongTarget);
    let (_, digest) = publish(&mut fleet, EntryKind::Secret, "password", 1, &secret);
    let good = fleet.grant("password", revision(1, digest));
    for (seeds, code) in [
        (&[seed::WEB][..], Code::RoleScope),
        (&[seed::ENROLL], Code::RoleScope),
        (&[seed::ONLINE], Code::RoleScope),
        (&[seed::STRANGER], Code::UnknownKey),
    ] {
        assert_eq!(fleet.refused(&seal(&good, seeds).0), code, "{seeds:?}");
    }
    let device = key(seed::STRANGER).public().device_id();
    let cases = [
        (Grant { device, ..good.clone() }, Code::WrongTarget),
        (Grant { revision: revision(2, digest), ..good.clone() }, Code::WrongTarget),
        (Grant { epoch: 2, ..good.clone() }, Code::Epoch),
        (Grant { sealed: Bytes(vec![0; 257]), ..good.clone() }, Code::Malformed),
        (Grant { issued_at: NOW.plus(50 * YEAR), ..good.clone() }, Code::TimeJump),
    ];
    for (grant, code) in cases {
        assert_eq!(fleet.refused(&seal(&grant, &[seed::DEPLOY]).0), code, "{grant:?}");
    }
    fleet.accept(&seal(&good, &[seed::DEPLOY]).0).unwrap();
    fleet.still_works();
}

/// A secret with one value, its key, and one device's grant of it.
struct Sealed {
    secret: Secret,
    key: SecretKey,
    digest: Digest,
    grant: Grant,
    device: [u8; 32],
}

fn sealed(fleet: &Fleet) -> Sealed {
    let device = [0x42; 32];
    let public = curve25519(&device);
    let key = SecretKey::new([3; 32]);
    let mut secret = fleet.secret("password", 1);
    let data: ByteMap = [("token", "hush"), ("user", "me")].into_iter().collect();
    sealing::seal(&mut secret, &key, &data).unwrap();
    let digest = seal(&secret, &[seed::DEPLOY]).1;
    let mut grant = fleet.grant("password", revision(1, digest));
    let place = (&grant.fleet, &grant.device);
    grant.sealed = sealing::wrap(&key, &public, place, (&grant.name, &grant.revision), [5; 32]).unwrap();
    Sealed { secret, key, digest, grant, device }
}

/// The public half, as the device's record names it.
fn curve25519(private: &[u8; 32]) -> Vec<u8> {
    sealing::public_of(private).to_vec()
}

#[test]
fn s25_what_was_sealed_opens_with_its_grant_and_is_not_to_be_seen_before() {
    let Sealed { secret, grant, device, .. } = sealed(&Fleet::new());
    assert_eq!(secret.keys, ["user", "token"]);
    assert!(!secret.sealed.0.windows(4).any(|w| w == b"hush"));
    let key = sealing::unwrap(&grant, &device).unwrap();
    let data = sealing::open(&secret, &key).unwrap();
    assert_eq!(data.get("token"), Some(&b"hush"[..]));
    assert_eq!(format!("{key:?}"), "SecretKey(…)");
}

#[test]
fn s25_a_ciphertext_in_another_document_is_secret_context() {
    let Sealed { secret, key, .. } = sealed(&Fleet::new());
    let others: [Change<Secret>; 7] = [
        ("another name", |s| s.name = name("other")),
        ("another sequence", |s| s.sequence = 2),
        ("another fleet", |s| s.fleet = FleetId::of_root(&Digest([9; 32]))),
        ("other deployments", |s| s.deployments = vec!["thief".into()]),
        ("more deployments", |s| s.deployments.push("thief".into())),
        ("other keys", |s| s.keys[0] = "usex".into()),
        ("a changed byte", |s| s.sealed.0[9] ^= 1),
    ];
    for (what, change) in others {
        let mut stolen = secret.clone();
        change(&mut stolen);
        let refused = sealing::open(&stolen, &key).map(|_| ()).unwrap_err();
        assert_eq!(refused.code, Code::SecretContext, "{what}");
    }
}

#[test]
fn s25_a_grant_in_another_place_or_of_another_key_is_secret_context() {
    let Sealed { secret, key, digest, grant, device } = sealed(&Fleet::new());
    let others: [Change<Grant>; 5] = [
        ("another secret", |g| g.name = name("other")),
        ("another revision", |g| g.revision.sequence = 2),
        ("other bytes", |g| g.revision.digest = Digest([1; 32])),
        ("another device", |g| g.device = key_of_nobody()),
        ("too short", |g| g.sealed.0.truncate(31)),
    ];
    for (what, change) in others {
        let mut stolen = grant.clone();
        change(&mut stolen);
        assert_eq!(sealing::unwrap(&stolen, &device).unwrap_err().code, Code::SecretContext, "{what}");
    }
    assert_eq!(
        sealing::unwrap(&grant, &[0x43; 32]).unwrap_err().code,
        Code::SecretContext,
        "another device's key"
    );
    // Whoever grants another key gets no say in what the ciphertext means.
    let other = SecretKey::new([4; 32]);
    let place = (&grant.fleet, &grant.device);
    let name = (&grant.name, &grant.revision);
    let sealed = sealing::wrap(&other, &curve25519(&device), place, name, [6; 32]).unwrap();
    let forged = Grant { sealed, ..grant.clone() };
    let got = sealing::unwrap(&forged, &device).unwrap();
    assert_eq!(sealing::open(&secret, &got).map(|_| ()).unwrap_err().code, Code::SecretContext);
    assert_ne!(got.commitment(), key.commitment());
    assert_eq!(grant.revision.digest, digest);
}

fn key_of_nobody() -> shoal_protocol::ids::DeviceId {
    key(seed::STRANGER).public().device_id()
}

#[test]
fn s27_a_sealing_key_that_is_none_is_no_recipient() {
    let fleet = Fleet::new();
    let grant = fleet.grant("password", revision(1, Digest::of(b"x")));
    let place = (&grant.fleet, &grant.device);
    for bad in [vec![], vec![1; 31], vec![0; 32]] {
        let wrapped =
            sealing::wrap(&SecretKey::new([1; 32]), &bad, place, (&grant.name, &grant.revision), [1; 32]);
        assert_eq!(wrapped.unwrap_err().code, Code::RecipientUnsigned, "{bad:?}");
    }
}
