//! A device that holds the first root, its record and an empty snapshot, and what is delivered to it.

use crate::common::{DAY, Fleet, NOW, container, key, name, revision, role, root_1, seal, seed};
use shoal_protocol::v1::{Entry, EntryKind, EnvVar, Liveness, Role, RoleName, Root};
use shoal_protocol::verify::{Expect, TrustState, verify};

/// What the deployment must come to, signed.
const SIZE: usize = 4096;

pub struct Repository {
    /// Before the snapshot that lists the deployment, and after.
    before: TrustState,
    listed: TrustState,
    snapshot: Vec<u8>,
    deployment: Vec<u8>,
    /// Those after the first, in order.
    roots: Vec<Vec<u8>>,
}

/// The root key of a version.
fn root_seed(version: u64) -> u8 {
    if version == 1 { seed::ROOT } else { 120 + u8::try_from(version).unwrap() }
}

impl Repository {
    pub fn new(rotations: u64) -> Self {
        let fleet = Fleet::new();
        let mut deployment = fleet.deployment("app", 1);
        let (mut bytes, mut digest) = seal(&deployment, &[seed::DEPLOY]);
        let mut number = 0;
        while bytes.len() < SIZE {
            number += 1;
            let mut main = container("main");
            main.env =
                (0..number).map(|n| EnvVar::plain(format!("VARIABLE_{n}"), format!("value {n}"))).collect();
            deployment.template.containers = vec![main];
            (bytes, digest) = seal(&deployment, &[seed::DEPLOY]);
        }
        let entry = Entry {
            kind: EntryKind::Deployment,
            name: name("app"),
            liveness: Liveness::Live,
            floor: 1,
            newest: revision(1, digest),
            stable: None,
            removal: None,
        };
        let (snapshot, _) = seal(&fleet.snapshot(2, vec![entry]), &[seed::SNAPSHOT]);
        let before = fleet.state.clone();
        let mut listed = before.clone();
        accept(&mut listed, &snapshot);
        let roots = (2..=rotations + 1)
            .map(|version| {
                let roles = root_1().roles.into_iter().map(|r| match r.name {
                    RoleName::Root => role(RoleName::Root, 1, &[root_seed(version)]),
                    _ => r,
                });
                let roles: Vec<Role> = roles.collect();
                let root =
                    Root { version, roles, issued_at: NOW, not_after: NOW.plus(DAY), ..fleet.root_2() };
                seal(&root, &[root_seed(version - 1), root_seed(version)]).0
            })
            .collect();
        assert_ne!(key(root_seed(2)).public(), key(root_seed(1)).public());
        Self { before, listed, snapshot, deployment: bytes, roots }
    }

    pub fn deployment_size(&self) -> usize {
        self.deployment.len()
    }

    /// One deployment, whose snapshot is there already.
    pub fn deployment(&self) {
        accept(&mut self.listed.clone(), &self.deployment);
    }

    /// A snapshot and the deployment that it lists.
    pub fn update(&self) {
        let mut state = self.before.clone();
        accept(&mut state, &self.snapshot);
        accept(&mut state, &self.deployment);
    }

    /// All roots, one by one.
    pub fn roots(&self) {
        let mut state = self.before.clone();
        self.roots.iter().for_each(|root| accept(&mut state, root));
        assert_eq!(state.anchor.unwrap().root.document.version, self.roots.len() as u64 + 1);
    }
}

fn accept(state: &mut TrustState, bytes: &[u8]) {
    let verdict = verify(bytes, state, NOW, Expect::Delivered).unwrap();
    state.advance(&verdict);
}
