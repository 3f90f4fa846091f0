//! Drafts between machines: what they carry is believed by nobody, and every signature is counted once.

use super::*;
use crate::keys::{Known, Protection, create};
use crate::trust::tests::{code, role, signer};
use shoal_controller_core::api::Base64;
use shoal_protocol::Signer as _;
use shoal_protocol::ids::Timestamp;
use shoal_protocol::latest::Controller;
use std::path::{Path, PathBuf};

/// Three people with a root key each, of which two must sign; the first also has the operator's.
struct People {
    dir: tempfile::TempDir,
    homes: Vec<Home>,
    keys: Vec<OwnKey>,
    operator: OwnKey,
}

impl People {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let homes: Vec<Home> = (0..3).map(|n| Home::at(&dir.path().join(format!("h{n}")))).collect();
        let make = |h: &Home, n: &str| create(h, &n.parse().unwrap(), Protection::Plain).unwrap();
        let keys = homes.iter().map(|h| make(h, "mine")).collect();
        let operator = make(&homes[0], "operator");
        Self { dir, homes, keys, operator }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("draft")
    }
    fn root(&self) -> Root {
        let mut root_role = role(RoleName::Root, self.keys[0].public());
        root_role.keys = self.keys.iter().map(OwnKey::public).collect();
        root_role.threshold = 2;
        Root {
            version: 1,
            epoch: 1,
            issued_at: now(),
            not_after: now().plus(86_400),
            roles: vec![
                root_role,
                role(RoleName::Snapshot, self.operator.public()),
                role(RoleName::Deployment, self.operator.public()),
                role(RoleName::Enrollment, self.operator.public()),
            ],
            controller: Controller {
                online: signer(3).key(),
                ca: Vec::new(),
                api: Vec::new(),
                mqtt: Vec::new(),
            },
            fleet: None,
            revoked: Vec::new(),
            ext: std::collections::BTreeMap::new(),
        }
    }
    fn founding(&self) -> Draft {
        let root = self.root();
        Draft::new(None, vec![Item::new(&root, Content::Root(Box::new(root.clone())))]).unwrap()
    }
    /// The fleet as somebody holds it who was there when it was founded, snapshot included.
    fn founded(&self, who: usize) -> Trust {
        let mut draft = self.founding();
        draft.sign(&self.keys.iter().collect::<Vec<_>>()).unwrap();
        let trust = draft.finish(&self.homes[who]).unwrap().trust;
        let first = crate::publish::next_snapshot(&trust, &[], now()).unwrap();
        let (envelope, _) = crate::publish::seal(&first, &[&self.operator]).unwrap();
        trust.save(&envelope).unwrap();
        let fleet = trust.anchor().unwrap().fleet.clone();
        Trust::load(&self.homes[who], fleet.as_str()).unwrap().unwrap()
    }
    fn second(trust: &Trust) -> Draft {
        let fleet = &trust.anchor().unwrap().fleet;
        let next = roots::next(trust.root().unwrap(), fleet, Timestamp(now().0 + 1), 1000);
        Draft::new(Some(trust.clone()), vec![Item::new(&next, Content::Root(Box::new(next.clone())))])
            .unwrap()
    }
}

#[test]
fn two_of_three_sign_on_machines_of_their_own_and_the_last_has_it_complete() {
    let people = People::new();
    let path = people.path();
    people.founding().write(&path).unwrap();
    let mut second = Draft::read(&people.homes[1], &path).unwrap();
    assert_eq!(second.sign(&[&people.keys[1]]).unwrap(), ["mine"]);
    assert!(!second.is_complete().unwrap());
    assert_eq!(code(&second.finish(&people.homes[1]).unwrap_err()), "root_threshold");
    // The same key again adds nothing, and neither does one that is not asked for.
    assert!(second.sign(&[&people.keys[1], &people.operator]).unwrap().is_empty());
    second.write(&path).unwrap();
    let mut third = Draft::read(&people.homes[2], &path).unwrap();
    let need = third.needs(&third.items[0]).unwrap().remove(0);
    assert_eq!((need.lacks(), need.signed.clone()), (1, vec![people.keys[1].public()]));
    third.sign(&[&people.keys[2]]).unwrap();
    assert!(third.is_complete().unwrap());
    let done = third.finish(&people.homes[2]).unwrap();
    assert_eq!(done.trust.anchor().unwrap().fleet, third.fleet().unwrap());
}

#[test]
fn the_next_root_needs_old_and_new_keys_and_the_chain_travels_along() {
    let people = People::new();
    let trust = people.founded(0);
    let mut draft = People::second(&trust);
    let stranger = OwnKey::open("new".into(), signer(9));
    let mut next = draft.root().unwrap().clone();
    roots::replace(&mut next, &people.keys[2].public(), &stranger.public(), &Known::default()).unwrap();
    draft =
        Draft::new(draft.base.take(), vec![Item::new(&next, Content::Root(Box::new(next.clone())))]).unwrap();
    draft.sign(&[&people.keys[0], &stranger]).unwrap();
    let lacks: Vec<u64> = draft.needs(&draft.items[0]).unwrap().iter().map(Need::lacks).collect();
    assert_eq!(lacks, [1, 0], "one of the old ones is missing, the new threshold is met");
    let path = people.path();
    draft.write(&path).unwrap();
    // Somebody who never heard of the fleet can check and sign it.
    let mut there = Draft::read(&people.homes[1], &path).unwrap();
    assert_eq!(there.base.as_ref().unwrap().snapshot().unwrap().document.version, 1);
    there.sign(&[&people.keys[1]]).unwrap();
    assert_eq!(there.finish(&people.homes[1]).unwrap().trust.root().unwrap().version, 2);
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn s27_a_draft_that_shows_other_bytes_than_were_signed_is_refused() {
    let people = People::new();
    let path = people.path();
    let mut draft = people.founding();
    draft.sign(&[&people.keys[0]]).unwrap();
    draft.write(&path).unwrap();
    let mut other = people.root();
    other.epoch = 2;
    edit(&path, |v| {
        v["documents"][0]["payload"] = serde_json::to_value(Base64(codec::encode(&other))).unwrap();
    });
    let e = Draft::read(&people.homes[1], &path).unwrap_err().render();
    assert!(e.contains("what was signed is not what is shown"), "{e}");
}

#[test]
fn s27_a_draft_on_another_chain_than_the_own_one_is_refused() {
    let people = People::new();
    let path = people.path();
    let own = people.founded(1);
    // Another root 1 with the same keys: another fleet. Under the own fleet's id it cannot travel.
    let older = People::second(&own);
    older.write(&path).unwrap();
    Draft::read(&people.homes[1], &path).unwrap();
    // Meanwhile root 2 came: the same draft builds on what is past.
    let mut newer = People::second(&own);
    newer.sign(&[&people.keys[0], &people.keys[1]]).unwrap();
    newer.finish(&people.homes[1]).unwrap().trust.save_roots().unwrap();
    assert_eq!(code(&Draft::read(&people.homes[1], &path).unwrap_err()), "base_untrusted");
    // Somebody without own state takes its word for the chain, and is told so.
    Draft::read(&people.homes[2], &path).unwrap();
}

#[test]
fn a_draft_is_no_place_for_other_documents_or_versions() {
    let people = People::new();
    let path = people.path();
    for (field, value) in [
        ("shoal_draft", serde_json::json!(2)),
        ("documents", serde_json::json!([])),
        ("documents", serde_json::json!([{"kind": "order", "payload": "AA=="}])),
        ("documents", serde_json::json!([{"kind": "root", "payload": "AA=="}])),
        ("extra", serde_json::json!(1)),
    ] {
        people.founding().write(&path).unwrap();
        edit(&path, |v| v[field] = value.clone());
        let e = Draft::read(&people.homes[0], &path).unwrap_err();
        assert_eq!(e.kind, crate::error::Kind::Usage, "{field} {value}: {}", e.render());
    }
    let mut root = people.root();
    root.roles[0].threshold = 4;
    let items = vec![Item::new(&root, Content::Root(Box::new(root.clone())))];
    assert_eq!(code(&Draft::new(None, items).unwrap_err()), "malformed");
}
