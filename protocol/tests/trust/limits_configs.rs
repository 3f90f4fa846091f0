//! The edges of what configs, secrets and grants may say: the last value that is good, and the first that is not (as in
//! `limits.rs`).

use crate::common::*;
use shoal_protocol::Code;
use shoal_protocol::ids::Bytes;
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::v1::*;
use shoal_protocol::verify::{Expect, MAX_JUMP, Standing};

type Outcome = Result<(), Code>;

/// A device that runs a deployment which refers to the config `settings` and the secret `password`.
fn referring() -> Fleet {
    let mut fleet = Fleet::new();
    let reference = |n: &str| DocumentRef { name: name(n), pin: None, optional: false };
    let mut d = fleet.deployment("app", 1);
    let config = EnvSource::Config { document: reference("settings"), key: "a".into() };
    let secret = EnvSource::Secret { document: reference("password"), key: "a".into() };
    d.template.containers[0].env = [("A", config), ("B", secret)]
        .map(|(n, from)| EnvVar { name: n.into(), value: String::new(), from: Some(from) })
        .to_vec();
    fleet.publish(&d).unwrap();
    fleet
}

/// What becomes of it, listed.
fn next<T: Document>(fleet: &mut Fleet, (kind, n, sequence): (EntryKind, &str, u64), d: &T) -> Outcome {
    let (bytes, digest) = seal(d, &[seed::DEPLOY]);
    let snapshot = fleet.list(Entry { kind, ..entry(n, revision(sequence, digest)) });
    fleet.accept(&snapshot).unwrap();
    fleet.accept(&bytes).map(|_| ()).map_err(|r| r.code)
}

fn config(data: ByteMap) -> Outcome {
    let mut fleet = referring();
    let d = Config { data, ..fleet.config("settings", 1) };
    next(&mut fleet, (EntryKind::Config, "settings", 1), &d)
}

fn secret(change: impl FnOnce(&mut Secret)) -> Outcome {
    let mut fleet = referring();
    let mut d = fleet.secret("password", 1);
    change(&mut d);
    next(&mut fleet, (EntryKind::Secret, "password", 1), &d)
}

const MALFORMED: Outcome = Err(Code::Malformed);

#[test]
fn s16_a_configs_size_has_its_edges() {
    let entries = |n: usize| (0..n).map(|i| (format!("k{i}"), "v")).collect();
    assert_eq!(config(entries(256)), Ok(()));
    assert_eq!(config(entries(257)), MALFORMED);
    // Keys and values count, each byte once.
    let bytes = |n: usize| [("key".to_owned(), "v".repeat(n - 3))].into_iter().collect();
    assert_eq!(config(bytes(56 << 10)), Ok(()));
    assert_eq!(config(bytes((56 << 10) + 1)), MALFORMED);
    let called = |n: usize| [("k".repeat(n), "v")].into_iter().collect();
    assert_eq!(config(called(253)), Ok(()));
    assert_eq!(config(called(254)), MALFORMED);
}

#[test]
fn s15_a_secrets_keys_ascend_and_are_no_more_than_256() {
    let keys = |all: &[&str]| secret(|s| s.keys = all.iter().map(|&k| k.to_owned()).collect());
    assert_eq!(keys(&["b", "c", "aa"]), Ok(()), "shorter ones come first");
    assert_eq!(keys(&["b", "a"]), MALFORMED);
    assert_eq!(keys(&["a", "a"]), MALFORMED);
    assert_eq!(keys(&["aa", "b"]), MALFORMED);
    let many = |n: usize| secret(|s| s.keys = (100..100 + n).map(|k| k.to_string()).collect());
    assert_eq!(many(256), Ok(()));
    assert_eq!(many(257), MALFORMED);
}

#[test]
fn s15_who_may_refer_to_a_secret_has_its_edges() {
    let patterns = |all: Vec<String>| secret(|s| s.deployments = all);
    assert_eq!(patterns(vec!["a".repeat(63)]), Ok(()));
    assert_eq!(patterns(vec!["a".repeat(63) + "*"]), Ok(()));
    assert_eq!(patterns(vec!["a".repeat(64)]), MALFORMED);
    assert_eq!(patterns(vec!["*".into()]), Ok(()));
    assert_eq!(patterns(vec![String::new()]), MALFORMED);
    assert_eq!(patterns(vec!["a*b".into()]), MALFORMED);
    let many = |n: usize| patterns((0..n).map(|i| format!("app-{i}")).collect());
    assert_eq!(many(64), Ok(()));
    assert_eq!(many(65), MALFORMED);
    assert_eq!(many(0), MALFORMED);
}

#[test]
fn s9_s10_a_configs_sequence_has_its_edges() {
    // Far above zero, so that what is measured is the distance.
    const HELD: u64 = MAX_JUMP - 3;
    let after = |sequence: u64| {
        let mut fleet = referring();
        let (held, d) = (fleet.config("settings", HELD), fleet.config("settings", sequence));
        next(&mut fleet, (EntryKind::Config, "settings", HELD), &held).unwrap();
        let (bytes, digest) = seal(&d, &[seed::DEPLOY]);
        let listed = Entry { kind: EntryKind::Config, ..entry("settings", revision(sequence, digest)) };
        // As if it were held: what a snapshot may say has its own tests.
        let snapshot = fleet.state.snapshot.as_mut().unwrap();
        let mut said = (*snapshot.document).clone();
        said.entries.retain(|e| e.kind != EntryKind::Config);
        said.entries.push(listed);
        *snapshot = shoal_protocol::verify::Known::new(said, snapshot.digest);
        fleet.accept(&bytes).map(|_| ()).map_err(|r| r.code)
    };
    assert_eq!(after(HELD + 1), Ok(()));
    assert_eq!(after(HELD + MAX_JUMP), Ok(()));
    assert_eq!(after(HELD + MAX_JUMP + 1), Err(Code::SequenceJump));
    assert_eq!(after(HELD - 1), Err(Code::Rollback));
    assert_eq!(after(0), MALFORMED);
}

#[test]
fn s10_a_root_of_a_higher_epoch_begins_their_sequences_anew() {
    let mut fleet = referring();
    let used_up = fleet.config("settings", MAX_JUMP);
    next(&mut fleet, (EntryKind::Config, "settings", MAX_JUMP), &used_up).unwrap();
    fleet.accept(&seal(&Root { epoch: 2, ..fleet.root_2() }, &[seed::ROOT]).0).unwrap();
    let anew = Config { epoch: 2, ..fleet.config("settings", 1) };
    let (bytes, digest) = seal(&anew, &[seed::DEPLOY]);
    let listed = Entry { kind: EntryKind::Config, ..entry("settings", revision(1, digest)) };
    let mut entries = fleet.state.snapshot.as_ref().unwrap().document.entries.clone();
    entries.retain(|e| e.kind != EntryKind::Config);
    entries.push(listed);
    let snapshot = Snapshot { epoch: 2, ..fleet.snapshot(1, entries) };
    fleet.accept(&seal(&snapshot, &[seed::SNAPSHOT]).0).unwrap();
    fleet.accept(&bytes).unwrap();
    let history = &fleet.state.documents[&(EntryKind::Config, name("settings"))];
    assert_eq!((history.epoch, history.revisions.contains_key(&1)), (2, true));
}

#[test]
fn s25_a_grant_has_its_edges_and_counts_once() {
    let mut fleet = referring();
    let d = fleet.secret("password", 1);
    next(&mut fleet, (EntryKind::Secret, "password", 1), &d).unwrap();
    let digest = seal(&d, &[seed::DEPLOY]).1;
    let grant = |n: usize, sequence: u64| {
        let revision = revision(sequence, digest);
        seal(&Grant { sealed: Bytes(vec![8; n]), ..fleet.grant("password", revision) }, &[seed::DEPLOY]).0
    };
    let (longest, longer, none) = (grant(256, 1), grant(257, 1), grant(80, 0));
    assert_eq!(fleet.refused(&longer), Code::Malformed);
    assert_eq!(fleet.refused(&none), Code::Malformed);
    let standing = |fleet: &mut Fleet, expect| fleet.accept_as(&longest, expect).unwrap().standing();
    assert_eq!(standing(&mut fleet, Expect::Delivered), Standing::New);
    assert_eq!(standing(&mut fleet, Expect::Delivered), Standing::Held);
    fleet.state.grants.clear();
    assert_eq!(standing(&mut fleet, Expect::Stored(Kind::Grant)), Standing::Held, "at a cold start");
}
