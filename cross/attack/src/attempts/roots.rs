//! Roots of the thief's own: every role for a key of theirs, another controller, another chain.

use super::{Attempt, Thief};
use anyhow::Result;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::latest::{Disposition, Kind, Revocation, Role, RoleName, Root};
use shoal_protocol::topics::Topic;
use shoal_protocol::{Code, Signer};

/// All roles; a new one does not compile until it stands here.
fn after(role: Option<RoleName>) -> Option<RoleName> {
    Some(match role {
        None => RoleName::Root,
        Some(RoleName::Root) => RoleName::Snapshot,
        Some(RoleName::Snapshot) => RoleName::Deployment,
        Some(RoleName::Deployment) => RoleName::Enrollment,
        Some(RoleName::Enrollment) => RoleName::Release,
        Some(RoleName::Release) => return None,
    })
}

pub(super) fn all(thief: &Thief<'_>) -> Result<Vec<Attempt>> {
    let held: Root = thief.loot.newest(Kind::Root)?.read()?;
    let next = Root { version: held.version + 1, ..held.clone() };
    let own = thief.fresh.public();
    let role = |name| Role {
        name,
        threshold: 1,
        keys: vec![own.clone()],
        prefix: String::new(),
        may_remove: true,
        ceiling: None,
    };
    let with = |name: RoleName| {
        let mut root = next.clone();
        root.roles.retain(|r| r.name != name);
        root.roles.push(role(name));
        root
    };
    let mut roots = Vec::new();
    let mut name = after(None);
    while let Some(role) = name {
        roots.push((format!("the {role:?} role for the thief's key"), with(role), Code::RootThreshold));
        name = after(name);
    }
    let mut elsewhere = next.clone();
    elsewhere.controller.online = own.clone();
    elsewhere.controller.ca = vec![b"a CA of the thief's".to_vec().into()];
    elsewhere.controller.mqtt = vec!["mqtts://thief.example:443".to_owned()];
    let operators = held.roles.iter().filter(|r| r.name == RoleName::Deployment).flat_map(|r| &r.keys);
    let revoked =
        operators.map(|key| Revocation { key: key.clone(), disposition: Disposition::Stop }).collect();
    let all_roles = || {
        let mut all = Vec::new();
        let mut name = after(None);
        while let Some(n) = name {
            all.push(role(n));
            name = after(name);
        }
        all
    };
    let over = |version| Root { version, roles: all_roles(), ..held.clone() };
    roots.extend([
        ("another controller and another CA".to_owned(), elsewhere, Code::RootThreshold),
        (
            "the operator's key revoked, its work stopped".to_owned(),
            Root { revoked, ..next.clone() },
            Code::RootThreshold,
        ),
        ("a higher epoch".to_owned(), Root { epoch: held.epoch + 1, ..next.clone() }, Code::RootThreshold),
        ("one that leaps".to_owned(), over(held.version + 2), Code::RootVersion),
        ("another one of the held version".to_owned(), over(held.version), Code::RootThreshold),
        ("a first root of the thief's".to_owned(), Root { fleet: None, ..over(1) }, Code::Rollback),
    ]);
    let signers: [(&str, &[&dyn Signer]); 3] =
        [("online", &[&thief.online]), ("fresh", &[&thief.fresh]), ("both", &[&thief.online, &thief.fresh])];
    let mut out = Vec::new();
    for (what, root, code) in roots {
        for (by, signers) in signers {
            let message = seal_document(&root, signers)?.0;
            out.push(Attempt::refused(format!("root: {what}, by {by}"), Topic::Root, message, code));
        }
    }
    Ok(out)
}
