//! What a next root says: changes of roles and keys as pure edits, and any root in words.
//!
//! Never here: signing, files, the network. Whether a root counts is `shoal_protocol::verify`'s alone.

use crate::error::{CliError, Result};
use crate::keys::Known;
use crate::manifest::quantity;
use shoal_protocol::ids::{FleetId, Timestamp};
use shoal_protocol::latest::{Ceiling, Disposition, Key, Network, Revocation, Role, RoleName, Root};

/// How the root calls a role.
pub(crate) fn role_word(role: RoleName) -> &'static str {
    match role {
        RoleName::Root => "root",
        RoleName::Snapshot => "snapshot",
        RoleName::Deployment => "deployment",
        RoleName::Enrollment => "enrollment",
        RoleName::Release => "release",
    }
}

/// The role of this name.
pub(crate) fn role_of(word: &str) -> Result<RoleName> {
    let all =
        [RoleName::Root, RoleName::Snapshot, RoleName::Deployment, RoleName::Enrollment, RoleName::Release];
    all.into_iter().find(|r| role_word(*r) == word).ok_or_else(|| {
        CliError::usage(format!("there is no role {word:?}"))
            .hint("root, snapshot, deployment, enrollment or release")
    })
}

/// The root after this one, so far with the same content.
pub(crate) fn next(root: &Root, fleet: &FleetId, at: Timestamp, lifetime: u64) -> Root {
    Root {
        version: root.version + 1,
        issued_at: at,
        not_after: at.plus(lifetime),
        fleet: Some(fleet.clone()),
        ..root.clone()
    }
}

fn none_has(what: impl std::fmt::Display) -> CliError {
    CliError::usage(format!("no role has {what}")).hint("see who may what with `shoal trust show`")
}

/// Puts a key into the role of this name that is for all names.
pub(crate) fn add(root: &mut Root, name: RoleName, key: &Key) -> Result<()> {
    let role = root.roles.iter_mut().find(|r| r.name == name && r.prefix.is_empty()).ok_or_else(|| {
        CliError::usage(format!("the root has no {} role for all names", role_word(name)))
            .hint("make one with `shoal trust grant`")
    })?;
    if role.keys.contains(key) {
        return Err(CliError::usage(format!("the {} role has that key already", role_word(name))));
    }
    role.keys.push(key.clone());
    Ok(())
}

/// Takes a key out of every entry of a role.
pub(crate) fn remove(root: &mut Root, name: RoleName, key: &Key, known: &Known) -> Result<()> {
    let mut found = false;
    for role in root.roles.iter_mut().filter(|r| r.name == name) {
        found |= role.keys.contains(key);
        role.keys.retain(|k| k != key);
    }
    if !found {
        return Err(none_has(format_args!("{} as {}", known.show(key), role_word(name))));
    }
    settle(root)
}

/// Puts one key in the place of another, wherever that sits.
pub(crate) fn replace(root: &mut Root, old: &Key, new: &Key, known: &Known) -> Result<()> {
    let mut found = false;
    for key in root.roles.iter_mut().flat_map(|r| &mut r.keys).filter(|k| *k == old) {
        found = true;
        key.clone_from(new);
    }
    if found { Ok(()) } else { Err(none_has(known.show(old))) }
}

/// How many keys of a role must sign.
pub(crate) fn set_threshold(root: &mut Root, name: RoleName, threshold: u64) -> Result<()> {
    let mut entries: Vec<&mut Role> = root.roles.iter_mut().filter(|r| r.name == name).collect();
    match entries.as_mut_slice() {
        [one] => one.threshold = threshold,
        [] => return Err(none_has(role_word(name))),
        _ => {
            return Err(CliError::usage(format!("the root has several {} roles", role_word(name)))
                .hint("grant anew what you want changed: `shoal trust grant KEY --role … --threshold …`"));
        }
    }
    Ok(())
}

/// A key counts no longer: out of every role, and listed with what becomes of its work.
pub(crate) fn revoke(
    root: &mut Root,
    key: &Key,
    disposition: Disposition,
    instead: Option<&Key>,
    known: &Known,
) -> Result<()> {
    let named = root.roles.iter().any(|r| r.keys.contains(key));
    if !named && instead.is_none() && !root.revoked.iter().any(|r| r.key == *key) {
        // Removed by an earlier root without a word on its work: that word may come later.
        crate::output::note(&format!("{} sits in no role now", known.show(key)));
    }
    match instead {
        Some(new) => replace(root, key, new, known)?,
        None => root.roles.iter_mut().for_each(|r| r.keys.retain(|k| k != key)),
    }
    root.revoked.retain(|r| r.key != *key);
    root.revoked.push(Revocation { key: key.clone(), disposition });
    settle(root)
}

/// Grants keys a role of their own, or joins the one that grants exactly the same.
pub(crate) fn grant(root: &mut Root, role: Role) -> Result<()> {
    let same = |r: &Role| {
        r.name == role.name
            && r.prefix == role.prefix
            && r.may_remove == role.may_remove
            && r.ceiling == role.ceiling
    };
    if let Some(key) = role.keys.iter().find(|k| root.revoked.iter().any(|r| r.key == **k)) {
        return Err(CliError::refused(
            "revoked_key",
            format!("{} was revoked", crate::keys::fingerprint(key)),
        )
        .hint("make another key with `shoal keys new NAME`"));
    }
    match root.roles.iter_mut().find(|r| same(r)) {
        Some(there) => {
            let before = there.keys.len();
            for key in role.keys {
                if !there.keys.contains(&key) {
                    there.keys.push(key);
                }
            }
            if there.keys.len() == before && there.threshold == role.threshold {
                return Err(CliError::usage("the root grants exactly that already"));
            }
            there.threshold = role.threshold;
        }
        None => root.roles.push(role),
    }
    Ok(())
}

/// Scoped roles without a key go; one that can no longer reach its threshold is an error, with what to do.
fn settle(root: &mut Root) -> Result<()> {
    let whole = |r: &Role| matches!(r.name, RoleName::Root | RoleName::Snapshot);
    root.roles.retain(|r| whole(r) || !r.keys.is_empty());
    match root.roles.iter().find(|r| (r.keys.len() as u64) < r.threshold) {
        None => Ok(()),
        Some(r) => Err(CliError::usage(format!(
            "the {} role{} would have {} key(s) left, and {} must sign",
            role_word(r.name),
            if r.prefix.is_empty() { String::new() } else { format!(" for {}*", r.prefix) },
            r.keys.len(),
            r.threshold
        ))
        .hint("put another key in its place (`--replace OLD=NEW`, `--replace-with NEW`), or lower --threshold ROLE=N")),
    }
}

/// Names that a role is for.
pub(crate) fn names(role: &Role) -> String {
    if role.prefix.is_empty() { "all".to_owned() } else { format!("{}*", role.prefix) }
}

/// What a role's keys may, beyond signing for those names.
pub(crate) fn may(role: &Role) -> String {
    let mut all = Vec::new();
    if role.may_remove {
        all.push("remove".to_owned());
    }
    match &role.ceiling {
        None => {}
        Some(c) => {
            all.push(format!("network {}", network(c.network)));
            all.extend(c.host_paths.iter().map(|p| format!("folder {p}")));
            all.extend(c.devices.iter().map(|d| format!("device {d}")));
            all.extend(c.memory.map(|m| format!("memory {}", quantity::show_bytes(m))));
        }
    }
    if role.name == RoleName::Deployment && role.ceiling.is_none() {
        all.push("grant anything".to_owned());
    }
    all.join(", ")
}

fn network(n: Network) -> &'static str {
    match n {
        Network::None => "none",
        Network::Pod => "pod",
        Network::Host => "host",
    }
}

/// The widest network that a word allows.
pub(crate) fn network_of(word: &str) -> Result<Network> {
    [Network::None, Network::Pod, Network::Host]
        .into_iter()
        .find(|n| network(*n) == word)
        .ok_or_else(|| CliError::usage(format!("--network {word}: none, pod or host")))
}

/// A bound for a granted key; nothing when no bound was named.
pub(crate) fn ceiling(
    network: Option<Network>,
    host_paths: &[String],
    devices: &[String],
    memory: Option<u64>,
) -> Option<Ceiling> {
    let bounded = network.is_some() || memory.is_some() || !host_paths.is_empty() || !devices.is_empty();
    bounded.then(|| Ceiling {
        network: network.unwrap_or(Network::None),
        host_paths: host_paths.to_vec(),
        devices: devices.to_vec(),
        memory,
    })
}

/// What becomes of a revoked key's work.
pub(crate) fn disposition_word(d: Disposition) -> &'static str {
    match d {
        Disposition::Keep => "keep",
        Disposition::Stop => "stop",
    }
}

/// A root in lines that can be compared one by one.
pub(crate) fn lines(root: &Root, known: &Known) -> Vec<String> {
    let mut out = Vec::new();
    for role in &root.roles {
        let may = may(role);
        let may = if may.is_empty() { String::new() } else { format!(" (may {may})") };
        let head = format!("{} for {}{may}", role_word(role.name), names(role));
        out.push(format!("{head}: {} of {} must sign", role.threshold, role.keys.len()));
        out.extend(role.keys.iter().map(|k| format!("{head}: key {}", known.show(k))));
    }
    out.extend(root.revoked.iter().map(|r| {
        format!("revoked: {}, {} what it signed", known.show(&r.key), disposition_word(r.disposition))
    }));
    out.push(format!("epoch {}", root.epoch));
    out.push(format!("controller: key {}", known.show(&root.controller.online)));
    out.extend(
        root.controller
            .ca
            .iter()
            .map(|c| format!("controller: CA {}", shoal_protocol::ids::Digest::of(&c.0))),
    );
    out.extend(
        root.controller.api.iter().chain(&root.controller.mqtt).map(|u| format!("controller: at {u}")),
    );
    out
}

/// What a root changes: `- ` lines that go, `+ ` lines that come.
pub(crate) fn changes(old: &Root, new: &Root, known: &Known) -> Vec<String> {
    let (before, after) = (lines(old, known), lines(new, known));
    let gone = before.iter().filter(|l| !after.contains(l)).map(|l| format!("- {l}"));
    let come = after.iter().filter(|l| !before.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::tests::{Fleet, role, signer};

    fn root() -> (Root, FleetId) {
        let (trust, _) = Fleet::new().founder();
        (trust.root().unwrap().clone(), trust.anchor().unwrap().fleet.clone())
    }

    fn key(n: u8) -> Key {
        signer(n).public()
    }

    #[test]
    fn a_revoked_key_is_in_no_role_and_its_place_is_filled() {
        let (root, fleet) = root();
        let mut new = next(&root, &fleet, Timestamp(5), 10);
        assert_eq!((new.version, new.not_after), (2, Timestamp(15)));
        revoke(&mut new, &key(2), Disposition::Stop, Some(&key(7)), &Known::default()).unwrap();
        assert!(!new.roles.iter().any(|r| r.keys.contains(&key(2))));
        assert_eq!(new.roles.iter().filter(|r| r.keys.contains(&key(7))).count(), 3);
        assert_eq!(new.revoked, [Revocation { key: key(2), disposition: Disposition::Stop }]);
        let said = changes(&root, &new, &Known::default()).join("\n");
        assert!(said.contains("+ revoked: ") && said.contains("- deployment for all"), "{said}");
    }

    #[test]
    fn a_role_that_could_no_longer_sign_is_an_error_and_a_scoped_one_goes() {
        let (root, fleet) = root();
        let mut new = next(&root, &fleet, Timestamp(5), 10);
        let e = revoke(&mut new.clone(), &key(2), Disposition::Keep, None, &Known::default()).unwrap_err();
        assert!(e.render().contains("--replace-with"), "{}", e.render());
        let web = Role { prefix: "web-".into(), ..role(RoleName::Deployment, key(8)) };
        grant(&mut new, web.clone()).unwrap();
        assert!(grant(&mut new, web).is_err(), "the same twice");
        revoke(&mut new, &key(8), Disposition::Keep, None, &Known::default()).unwrap();
        assert!(!new.roles.iter().any(|r| r.prefix == "web-"));
        let again = grant(&mut new, role(RoleName::Deployment, key(8))).unwrap_err();
        assert_eq!(again.code.as_deref(), Some("revoked_key"));
    }

    #[test]
    fn keys_come_go_and_are_exchanged_in_every_place() {
        let (mut root, _) = root();
        let known = Known::default();
        add(&mut root, RoleName::Root, &key(11)).unwrap();
        set_threshold(&mut root, RoleName::Root, 2).unwrap();
        assert!(add(&mut root, RoleName::Root, &key(11)).is_err());
        assert!(remove(&mut root.clone(), RoleName::Root, &key(11), &known).is_err(), "2 of 1");
        replace(&mut root, &key(11), &key(12), &known).unwrap();
        assert!(replace(&mut root, &key(11), &key(12), &known).is_err());
        assert_eq!(root.roles[0].keys, [key(1), key(12)]);
        assert!(remove(&mut root, RoleName::Release, &key(1), &known).is_err());
    }

    #[test]
    fn words_say_what_a_bounded_key_may() {
        let bound = ceiling(Some(Network::Pod), &["/srv".into()], &["/dev/ttyS0".into()], Some(64 << 20));
        let bounded = Role { ceiling: bound, ..role(RoleName::Deployment, key(2)) };
        assert_eq!(may(&bounded), "remove, network pod, folder /srv, device /dev/ttyS0, memory 64 MiB");
        assert_eq!(may(&role(RoleName::Deployment, key(2))), "remove, grant anything");
        assert_eq!(ceiling(None, &[], &[], None), None);
        assert!(role_of("rood").is_err() && network_of("lan").is_err());
    }
}
