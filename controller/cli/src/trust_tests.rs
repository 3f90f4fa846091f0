//! What a controller serves moves the own state only where it verifies and only forward.

use super::*;
use crate::error::Kind as ErrorKind;
use crate::publish::{next_snapshot, seal};
use shoal_protocol::latest::{Controller, Key, Role, RoleName};
use shoal_protocol::{Ed25519Signer, Signer};

/// A fleet with one operator key (seed 2), a root key (1) and the controller's online key (3).
pub(crate) struct Fleet {
    dir: tempfile::TempDir,
    root: Vec<u8>,
    operator: Ed25519Signer,
}

pub(crate) fn role(name: RoleName, key: Key) -> Role {
    Role { name, threshold: 1, keys: vec![key], prefix: String::new(), may_remove: true, ceiling: None }
}

pub(crate) fn signer(n: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed([n; 32])
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let (root_key, operator, online) = (signer(1), signer(2), signer(3));
        let root = Root {
            version: 1,
            epoch: 1,
            issued_at: now(),
            not_after: now().plus(86_400),
            roles: vec![
                role(RoleName::Root, root_key.key()),
                role(RoleName::Snapshot, operator.key()),
                role(RoleName::Deployment, operator.key()),
                role(RoleName::Enrollment, operator.key()),
            ],
            controller: Controller {
                online: online.key(),
                ca: Vec::new(),
                api: Vec::new(),
                mqtt: Vec::new(),
            },
            fleet: None,
            revoked: Vec::new(),
            ext: std::collections::BTreeMap::new(),
        };
        let (root, _) = seal(&root, &[&root_key as &dyn Signer]).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), root, operator }
    }
    pub(crate) fn home(&self, who: &str) -> Home {
        Home::at(&self.dir.path().join(who))
    }
    /// A snapshot over what `trust` holds, signed by the operator.
    fn snapshot(&self, trust: &Trust, issued_at: Timestamp) -> Vec<u8> {
        let next = next_snapshot(trust, &[], issued_at).unwrap();
        seal(&next, &[&self.operator as &dyn Signer]).unwrap().0
    }
    /// An operator who holds snapshot 1.
    pub(crate) fn founder(&self) -> (Trust, Vec<u8>) {
        let mut trust = Trust::found(&self.home("founder"), &self.root).unwrap();
        let first = self.snapshot(&trust, now());
        trust.sync(&self.served(&first)).unwrap();
        (trust, first)
    }
    pub(crate) fn served(&self, snapshot: &[u8]) -> api::Trust {
        let online = (&signer(3).key()).into();
        let trust = Trust::found(&self.home("x"), &self.root).unwrap();
        api::Trust {
            initialized: true,
            fleet: Some(trust.anchor().unwrap().fleet.clone()),
            roots: vec![self.root.clone().into()],
            snapshot: Some(snapshot.to_vec().into()),
            controller: api::Controller { online, ca: Vec::new(), api: Vec::new(), mqtt: Vec::new() },
        }
    }
}

pub(crate) fn code(e: &CliError) -> &str {
    assert_eq!(e.kind, ErrorKind::Refused, "{}", e.render());
    e.code.as_deref().unwrap()
}

#[test]
fn the_own_state_survives_and_is_verified_again() {
    let fleet = Fleet::new();
    let (trust, _) = fleet.founder();
    let id = trust.anchor().unwrap().fleet.to_string();
    let again = Trust::load(&fleet.home("founder"), &id).unwrap().unwrap();
    assert_eq!(again.snapshot().unwrap().digest, trust.snapshot().unwrap().digest);
    assert!(Trust::load(&fleet.home("nobody"), &id).unwrap().is_none());
    let path = fleet.home("founder").trust(&id).join("snapshot.cose");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let e = Trust::load(&fleet.home("founder"), &id).unwrap_err();
    assert_eq!(code(&e), "base_untrusted");
}

#[test]
fn a_newer_snapshot_of_a_colleague_is_taken_and_kept() {
    let fleet = Fleet::new();
    let (mut trust, _) = fleet.founder();
    let second = fleet.snapshot(&trust, now());
    trust.sync(&fleet.served(&second)).unwrap();
    assert_eq!(trust.snapshot().unwrap().document.version, 2);
    assert_eq!(own_snapshot(&trust).unwrap(), second);
    // The same again changes nothing.
    trust.sync(&fleet.served(&second)).unwrap();
    assert_eq!(trust.snapshot().unwrap().document.version, 2);
}

#[test]
fn s26_a_controller_that_knows_less_is_behind() {
    let fleet = Fleet::new();
    let (mut trust, first) = fleet.founder();
    let second = fleet.snapshot(&trust, now());
    trust.sync(&fleet.served(&second)).unwrap();
    assert_eq!(code(&trust.sync(&fleet.served(&first)).unwrap_err()), "controller_behind");
    let empty = api::Trust { snapshot: None, ..fleet.served(&first) };
    let e = trust.sync(&empty).unwrap_err();
    assert_eq!(code(&e), "controller_behind");
    assert!(e.render().contains("shoal trust push"));
    assert_eq!(trust.snapshot().unwrap().document.version, 2);
}

#[test]
fn s20_two_snapshots_of_one_version_are_an_equivocation() {
    let fleet = Fleet::new();
    let (mut trust, _) = fleet.founder();
    let (one, other) = (fleet.snapshot(&trust, now()), fleet.snapshot(&trust, Timestamp(now().0 - 1)));
    trust.sync(&fleet.served(&one)).unwrap();
    assert_eq!(code(&trust.sync(&fleet.served(&other)).unwrap_err()), "fleet_equivocation");
}

#[test]
fn s20_without_own_state_the_snapshot_counts_only_when_named() {
    let fleet = Fleet::new();
    let (_, first) = fleet.founder();
    let served = fleet.served(&first);
    let e = from_served(&fleet.home("new"), &served, None).unwrap_err();
    assert_eq!(code(&e), "state_lost");
    assert!(e.render().contains("--adopt sha256:"), "{}", e.render());
    let wrong = Digest::of(b"another");
    assert_eq!(code(&from_served(&fleet.home("new"), &served, Some(&wrong)).unwrap_err()), "state_lost");
    let right = Envelope::parse(&first).unwrap().identity();
    let trust = from_served(&fleet.home("new"), &served, Some(&right)).unwrap();
    let id = trust.anchor().unwrap().fleet.to_string();
    assert!(Trust::load(&fleet.home("new"), &id).unwrap().is_some());
}

#[test]
fn s27_another_fleet_and_a_snapshot_by_another_key_are_not_taken() {
    let fleet = Fleet::new();
    let (mut trust, first) = fleet.founder();
    let other = api::Trust { fleet: Some("a".repeat(32).parse().unwrap()), ..fleet.served(&first) };
    assert_eq!(code(&trust.sync(&other).unwrap_err()), "base_untrusted");
    let next = next_snapshot(&trust, &[], now()).unwrap();
    let (forged, _) = seal(&next, &[&signer(9) as &dyn Signer]).unwrap();
    assert_eq!(code(&trust.sync(&fleet.served(&forged)).unwrap_err()), "unknown_key");
    let (by_controller, _) = seal(&next, &[&signer(3) as &dyn Signer]).unwrap();
    assert_eq!(code(&trust.sync(&fleet.served(&by_controller)).unwrap_err()), "role_scope");
    let good = fleet.snapshot(&trust, now());
    trust.sync(&fleet.served(&good)).unwrap();
}
