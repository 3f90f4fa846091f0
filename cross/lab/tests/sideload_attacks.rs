//! S1 to S18 and S22 by stick: bundles of an attacker who has everything but the right keys, or one of them too many. Each is
//! refused by its code and changes nothing but the count of that code; the good bundle that comes after all of them applies.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod keys;
mod waits;

use crate::common::*;
use crate::sideload::{bundle, running, sideload, wait_runs};
use crate::sideload_faults::{offline_device, status, trust};
use base64::Engine as _;
use shoal_image::Store;
use shoal_image::bundle::{Bundle, Contents, SignedDocument, write};
use shoal_lab::wait_until;
use shoal_protocol::codec::{Limits, decode, encode};
use shoal_protocol::envelope::{Envelope, seal_document, sign};
use shoal_protocol::ids::{FleetId, Timestamp};
use shoal_protocol::latest::{
    Deployment, Disposition, Document, Entry, EntryKind, Kind, Revision, RoleName, Root, RuntimeClass,
    Snapshot,
};
use shoal_protocol::{Ed25519Signer, Signer as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A key of the operator's.
fn key(home: &Path, role: &str) -> Ed25519Signer {
    let text = std::fs::read_to_string(home.join("keys").join(format!("{role}.key"))).unwrap();
    let body: String = text.lines().filter(|l| !l.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
    Ed25519Signer::from_seed(der[der.len() - 32..].try_into().unwrap())
}

fn payload<T: Document>(envelope: &[u8]) -> T {
    decode(Envelope::parse(envelope).unwrap().payload(), Limits::of_size(1 << 20)).unwrap()
}

/// What a good bundle holds, to be made worse.
struct Good {
    dir: PathBuf,
    store: Store,
    documents: Vec<SignedDocument>,
    images: Vec<(shoal_protocol::ids::Digest, String)>,
    root: Ed25519Signer,
    snapshot: Ed25519Signer,
    deployment: Ed25519Signer,
}

impl Good {
    fn read(fleet: &Fleet, path: &Path) -> Self {
        let dir = fleet.dir.path().to_owned();
        let store = Store::open(dir.join("attacks")).unwrap();
        let found = Bundle::open(path, store.root()).unwrap();
        let quiet: Rc<dyn Fn(u64)> = Rc::new(|_| ());
        let images = found.images().iter().map(|i| (i.digest, "sleeps:1".to_owned())).collect();
        for image in found.images() {
            found.take(&image.digest, &store, &quiet).unwrap();
        }
        let home = &fleet.lab.operator.home;
        let documents = found.documents().to_vec();
        // In a small fleet one key does all that is no root.
        let (root, snapshot, deployment) = (key(home, "root"), key(home, "operator"), key(home, "operator"));
        Self { dir, store, documents, images, root, snapshot, deployment }
    }

    fn envelope(&self, kind: Kind) -> Vec<u8> {
        let is = |d: &&SignedDocument| Envelope::parse(&d.envelope).unwrap().kind().unwrap() == kind;
        self.documents.iter().rfind(is).unwrap().envelope.clone()
    }

    fn root(&self) -> Root {
        payload(&self.envelope(Kind::Root))
    }

    fn snapshot(&self) -> Snapshot {
        payload(&self.envelope(Kind::Snapshot))
    }

    fn deployment(&self) -> Deployment {
        self.deployment_of("app")
    }

    fn deployment_of(&self, name: &str) -> Deployment {
        let is =
            |d: &&SignedDocument| Envelope::parse(&d.envelope).unwrap().kind().unwrap() == Kind::Deployment;
        let all = self.documents.iter().filter(is).map(|d| payload::<Deployment>(&d.envelope));
        all.filter(|d| d.name.as_str() == name).max_by_key(|d| d.sequence).unwrap()
    }

    /// All roots that it has, from the first.
    fn roots(&self) -> Vec<Vec<u8>> {
        let is = |d: &&SignedDocument| Envelope::parse(&d.envelope).unwrap().kind().unwrap() == Kind::Root;
        self.documents.iter().filter(is).map(|d| d.envelope.clone()).collect()
    }

    /// The next revision with something changed, and the next snapshot that lists it, both well signed.
    fn next(&self, change: impl FnOnce(&mut Deployment)) -> Vec<Vec<u8>> {
        let mut d = self.deployment();
        d.sequence += 1;
        change(&mut d);
        let (envelope, digest) = seal_document(&d, &[&self.deployment]).unwrap();
        vec![self.listing(Revision { sequence: d.sequence, digest }, |_| ()), envelope]
    }

    /// The next snapshot, in which this revision is the newest.
    fn listing(&self, newest: Revision, change: impl FnOnce(&mut Snapshot)) -> Vec<u8> {
        self.listing_by(&self.snapshot, newest, change)
    }

    /// The same, signed by this key.
    fn listing_by(
        &self,
        signer: &Ed25519Signer,
        newest: Revision,
        change: impl FnOnce(&mut Snapshot),
    ) -> Vec<u8> {
        let mut s = self.snapshot();
        s.version += 1;
        let is = |e: &&mut Entry| e.kind == EntryKind::Deployment && e.name.as_str() == "app";
        for entry in s.entries.iter_mut().filter(is) {
            (entry.stable, entry.newest) = (Some(entry.newest), newest);
        }
        change(&mut s);
        seal_document(&s, &[signer]).unwrap().0
    }

    /// The next snapshot with something changed.
    fn snapshot_with(&self, change: impl FnOnce(&mut Snapshot)) -> Vec<u8> {
        let mut s = self.snapshot();
        s.version += 1;
        change(&mut s);
        seal_document(&s, &[&self.snapshot]).unwrap().0
    }

    /// Writes a bundle of these documents, with good images beside them.
    fn bundle(&self, name: &str, envelopes: &[Vec<u8>]) -> PathBuf {
        let title = |n: usize| format!("attack {n}");
        let documents: Vec<SignedDocument> = envelopes
            .iter()
            .enumerate()
            .map(|(n, e)| SignedDocument { title: title(n), envelope: e.clone() })
            .collect();
        let mut out = Vec::new();
        let contents = Contents { documents: &documents, images: &self.images, since: None };
        write(&contents, &self.store, &mut out).unwrap();
        let path = self.dir.join("attacks").join(format!("{name}.shoal"));
        std::fs::write(&path, out).unwrap();
        path
    }

    fn next_root(&self, change: impl FnOnce(&mut Root)) -> Root {
        let mut root = self.root();
        root.version += 1;
        let first = FleetId::of_root(&Envelope::parse(&self.documents[0].envelope).unwrap().identity());
        root.fleet = Some(first);
        change(&mut root);
        root
    }
}

fn flipped(mut bytes: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    bytes
}

/// What it is, its documents, its code.
type Row = (&'static str, Vec<Vec<u8>>, &'static str);

/// All attacks but those that have to do with keys.
fn attacks(good: &Good, older: &[u8]) -> Vec<Row> {
    let stranger = Ed25519Signer::from_seed([77; 32]);
    let year_2099 = Timestamp(4_070_908_800);
    let mut next = good.deployment();
    next.sequence += 1;
    let (next_envelope, next_digest) = seal_document(&next, &[&good.deployment]).unwrap();
    let next_revision = Revision { sequence: next.sequence, digest: next_digest };
    let foreign = FleetId::of_root(&shoal_protocol::ids::Digest::of(b"another"));
    let by = |d: &Deployment, signer: &Ed25519Signer| seal_document(d, &[signer]).unwrap().0;
    let listed = good.listing(next_revision, |_| ());
    let plain = |kind: Kind, bytes: &[u8], by: &Ed25519Signer| sign(kind, bytes, &[by]).unwrap();
    let mut nested = vec![0x81; 100_000];
    nested.push(0);
    let mut trailing = encode(&next);
    trailing.push(0);
    let skip = good.next_root(|r| r.version += 1);
    let weak = good.next_root(|_| ());
    let overlap = good.next_root(|r| {
        let own = good.root.key();
        r.roles
            .iter_mut()
            .filter(|role| role.name == RoleName::Deployment)
            .for_each(|role| role.keys.push(own.clone()));
    });
    let root = |r: &Root, signer: &Ed25519Signer| seal_document(r, &[signer]).unwrap().0;
    let at_flip = |from_end| flipped(listed.clone(), from_end);
    let mut huge = listed.clone();
    huge.resize(600 << 10, 0);
    vec![
        ("s1-flipped-signature", vec![at_flip(8)], "bad_signature"),
        ("s1-flipped-payload", vec![at_flip(200)], "bad_signature"),
        ("s2-a-report-by-stick", vec![plain(Kind::Report, b"x", &good.deployment)], "wrong_type"),
        ("s3-a-stranger", vec![listed.clone(), by(&next, &stranger)], "unknown_key"),
        ("s3-a-key-of-another-role", vec![listed.clone(), by(&next, &good.root)], "role_scope"),
        (
            "s3-a-snapshot-by-a-root-key",
            vec![plain(Kind::Snapshot, &encode(&good.snapshot()), &good.root)],
            "role_scope",
        ),
        ("s7-a-root-that-skips-one", vec![root(&skip, &good.root)], "root_version"),
        ("s7-a-root-without-the-old-threshold", vec![root(&weak, &stranger)], "root_threshold"),
        ("s7-a-root-key-in-another-role", vec![root(&overlap, &good.root)], "role_overlap"),
        ("s9-an-older-snapshot", vec![older.to_vec()], "rollback"),
        (
            "s9-the-same-version-with-other-bytes",
            vec![good.snapshot_with(|s| {
                s.version -= 1;
                s.issued_at.0 += 1;
            })],
            "equivocation",
        ),
        ("s10-a-version-that-leaps", vec![good.snapshot_with(|s| s.version += 1 << 21)], "sequence_jump"),
        ("s10-another-epoch", vec![good.snapshot_with(|s| s.epoch += 1)], "epoch"),
        ("s11-past-its-end", good.next(|d| d.not_after = Timestamp(d.issued_at.0 - 10)), "expired"),
        ("s12-another-fleets-snapshot", vec![good.snapshot_with(|s| s.fleet = foreign)], "wrong_target"),
        ("s15-a-trailing-byte", vec![plain(Kind::Deployment, &trailing, &good.deployment)], "malformed"),
        ("s16-nested-without-end", vec![plain(Kind::Snapshot, &nested, &good.snapshot)], "malformed"),
        ("s16-too-large", vec![huge], "too_large"),
        (
            "s16-a-reserved-value",
            good.next(|d| d.template.runtime_class = RuntimeClass::Oci),
            "unsupported_value",
        ),
        ("s17-not-listed", vec![next_envelope.clone()], "not_in_snapshot"),
        ("s17-a-live-name-vanishes", vec![good.snapshot_with(|s| s.entries.clear())], "snapshot_rollback"),
        (
            "s17-a-sequence-falls",
            vec![good.snapshot_with(|s| {
                s.entries.iter_mut().for_each(|e| {
                    e.newest.sequence -= 1;
                    e.stable = None;
                });
            })],
            "snapshot_rollback",
        ),
        ("s18-a-root-that-is-not-here", vec![good.snapshot_with(|s| s.root_version += 5)], "root_behind"),
        (
            "s22-signed-in-2099",
            vec![good.snapshot_with(|s| {
                s.issued_at = year_2099;
                s.not_after = Timestamp(year_2099.0 + 9);
            })],
            "time_jump",
        ),
        // One good document beside a bad one is no reason to take either.
        (
            "a-good-snapshot-with-a-forged-deployment",
            vec![listed.clone(), flipped(next_envelope, 8)],
            "bad_signature",
        ),
    ]
}

/// Each is refused by its code, is counted, changes nothing, and is told to the operator beforehand.
fn refused_one_by_one(fleet: &Fleet, good: &Good, rows: &[Row]) {
    let device = &fleet.lab.devices[0];
    let count = |code: &str| {
        let s = status(device);
        let all = s["refusals"].as_array().cloned().unwrap_or_default();
        all.iter().find(|r| r["code"] == code).and_then(|r| r["count"].as_u64()).unwrap_or(0)
    };
    let before = trust(device);
    let (floor, ran) = (status(device)["time_floor"].clone(), running(device));
    for (name, documents, code) in rows {
        let counted = count(code);
        let path = good.bundle(name, documents);
        let done = sideload(device, &path);
        assert_eq!(done.code, Some(3), "{name}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(code), "{name}: wanted {code}: {}{}", done.stdout, done.stderr);
        assert_eq!(trust(device), before, "{name}: something changed");
        assert_eq!(count(code), counted + 1, "{name}: refused once, counted once");
        // The operator is told the same beforehand.
        let told = fleet.try_shoal(&["bundle", "verify", utf8(&path), "--labels", "site=here"]);
        let by_history = matches!(*code, "rollback" | "equivocation" | "sequence_jump" | "snapshot_rollback")
            || name.starts_with("s17-not");
        assert!(by_history || told.code == Some(3), "{name}: {}{}", told.stdout, told.stderr);
    }
    assert_eq!(status(device)["time_floor"], floor, "S22: no forged time moved the floor");
    assert_eq!(running(device), ran);
}

#[test]
fn s1_to_s22_every_attack_by_stick_is_refused_by_its_code_and_changes_nothing() {
    if needs_root("s1_to_s22_every_attack_by_stick_is_refused_by_its_code_and_changes_nothing") {
        return;
    }
    let mut fleet = fleet();
    fleet.import_wat("sleeps:1", SLEEPS);
    fleet.apply(&manifest("app", "sleeps:1", "Always", ""));
    let first = bundle(&fleet, "first.shoal");
    let older = Good::read(&fleet, &first).envelope(Kind::Snapshot);
    fleet.apply(&manifest("app", "sleeps:1", "Always", "env: [{name: TURN, value: \"2\"}]"));
    offline_device(&mut fleet);
    let current = bundle(&fleet, "current.shoal");
    let device = &fleet.lab.devices[0];
    sideload(device, &current).ok().unwrap();
    wait_runs(&fleet, 2);
    let good = Good::read(&fleet, &current);
    let take = |path: &Path| {
        let done = sideload(device, path);
        assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    };
    refused_one_by_one(&fleet, &good, &attacks(&good, &older));
    refused_one_by_one(&fleet, &good, &keys::rows(&good));

    // S14: the good one that comes after all of them applies. S8: through five roots that it missed; by the last of them two sign.
    let mut documents = good.roots();
    for n in 1..=5 {
        let mut root = good.next_root(|_| ());
        root.version = good.root().version + n;
        if n == 5 {
            keys::both_sign(&good, &mut root);
        }
        documents.push(seal_document(&root, &[&good.root]).unwrap().0);
    }
    let mut third = good.deployment();
    third.sequence += 1;
    third.template.containers[0].env.clear();
    let (envelope, digest) = seal_document(&third, &[&good.deployment, &keys::second()]).unwrap();
    documents.extend([good.listing(Revision { sequence: third.sequence, digest }, |_| ()), envelope]);
    let path = good.bundle("good", &documents);
    take(&path);
    wait_runs(&fleet, 3);
    // S3: under the root that it holds now, one of them alone is too few.
    let good = Good::read(&fleet, &path);
    let alone = [good.roots(), good.next(|d| d.template.termination_grace += 1)].concat();
    refused_one_by_one(&fleet, &good, &[("s3-one-of-two-as-the-held-root-says", alone, "threshold")]);

    // S6: both keys leave. What they signed runs on or is stopped, as each root says; nothing of theirs is taken any more.
    let mut chain = good.roots();
    for (disposition, runs) in [(Disposition::Keep, Some(3)), (Disposition::Stop, None)] {
        let mut root = good.next_root(|r| keys::revoke(&good, r, disposition));
        root.version = chain.len() as u64 + 1;
        chain.push(seal_document(&root, &[&good.root]).unwrap().0);
        take(&good.bundle("revoked", &chain));
        wait_until("what the revoked keys signed to be as the root says", LONG, || {
            Ok((running(device) == runs).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{:#}\n{}", status(device), fleet.outputs()));
        let mut fourth = good.deployment();
        fourth.sequence += 1;
        let (envelope, digest) = seal_document(&fourth, &[&good.deployment, &keys::second()]).unwrap();
        let newest = Revision { sequence: fourth.sequence, digest };
        let listed = good.listing_by(&keys::successor(), newest, |_| ());
        let documents = [chain.clone(), vec![listed, envelope]].concat();
        refused_one_by_one(&fleet, &good, &[("s6-by-two-revoked-keys", documents, "revoked_key")]);
    }
    let mut fourth = good.deployment();
    fourth.sequence += 1;
    let (envelope, digest) = seal_document(&fourth, &[&keys::successor()]).unwrap();
    let newest = Revision { sequence: fourth.sequence, digest };
    let listed = good.listing_by(&keys::successor(), newest, |_| ());
    take(&good.bundle("succeeded", &[chain, vec![listed, envelope]].concat()));
    wait_runs(&fleet, 4);
    fleet.lab.stop().unwrap();
}
