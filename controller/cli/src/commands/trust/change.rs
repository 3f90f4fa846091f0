//! `shoal trust rotate`, `revoke` and `grant`: the next root, shown as a difference, signed here or on several machines.

use super::{refresh, sign};
use crate::args::{Ceremony, TrustGrant, TrustRevoke, TrustRotate};
use crate::ceremony::{Content, Draft, Item};
use crate::commands::{Session, duration};
use crate::error::{CliError, Result};
use crate::keys::{self, Known, OwnKey};
use crate::manifest::quantity;
use crate::output;
use crate::publish::Keyring;
use crate::roots;
use crate::trust::{self, Trust, now};
use shoal_controller_core::api;
use shoal_protocol::latest::{Disposition, Key, Role, RoleName, Root};

/// A key that an operator means: one that the root names (or named), by its fingerprint, or any other way to name one.
fn meant(s: &Session, trust: &Trust, text: &str) -> Result<Key> {
    let root = trust.root()?;
    let named = root.roles.iter().flat_map(|r| &r.keys).chain(root.revoked.iter().map(|r| &r.key));
    let all: Vec<&Key> = named.chain(trust.anchor()?.former.iter()).collect();
    if let Some(key) = all.iter().find(|k| keys::fingerprint(k) == text) {
        return Ok((*key).clone());
    }
    keys::public(&s.home, text)
}

fn pair<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    // A command may hold further equal signs.
    text.split_once('=').filter(|(a, b)| !a.is_empty() && !b.is_empty()).ok_or_else(|| {
        CliError::usage(format!("{flag} {text}: two words with = between them are needed"))
            .hint("see the examples of `shoal trust rotate --help`")
    })
}

/// The own state and the root after the newest one, still unchanged.
fn begin(s: &Session, ceremony: &Ceremony) -> Result<(Trust, Root)> {
    let lifetime = duration("--expires", &ceremony.expires)?;
    let trust = trust::open(&s.client, &s.home, &s.context, ceremony.signing.adopt.as_ref())?;
    let next = roots::next(trust.root()?, &trust.anchor()?.fleet, now(), lifetime);
    Ok((trust, next))
}

pub(super) fn rotate(s: &Session, args: &TrustRotate) -> Result<()> {
    let (trust, mut next) = begin(s, &args.ceremony)?;
    let known = Known::of(&s.home);
    for text in &args.threshold {
        let (role, n) = pair("--threshold", text)?;
        let n = n.parse().map_err(|e| CliError::usage(format!("--threshold {text}")).because(e))?;
        roots::set_threshold(&mut next, roots::role_of(role)?, n)?;
    }
    for text in &args.add {
        let (role, key) = pair("--add", text)?;
        roots::add(&mut next, roots::role_of(role)?, &keys::public(&s.home, key)?)?;
    }
    for text in &args.replace {
        let (old, new) = pair("--replace", text)?;
        roots::replace(&mut next, &meant(s, &trust, old)?, &keys::public(&s.home, new)?, &known)?;
    }
    for text in &args.remove {
        let (role, key) = pair("--remove", text)?;
        roots::remove(&mut next, roots::role_of(role)?, &meant(s, &trust, key)?, &known)?;
    }
    if args.new_epoch {
        next.epoch += 1;
    }
    if args.controller {
        let served: api::Trust = s.client.get("/v1/trust", "the fleet's trust")?;
        next.controller = (&served.controller).try_into().map_err(|e: api::UnknownValue| {
            CliError::failure("the controller describes itself in unknown words").because(e)
        })?;
    }
    propose(s, trust, &next, &args.ceremony)
}

pub(super) fn revoke(s: &Session, args: &TrustRevoke) -> Result<()> {
    let (trust, mut next) = begin(s, &args.ceremony)?;
    let key = meant(s, &trust, &args.key)?;
    let instead = args.replace_with.as_ref().map(|k| keys::public(&s.home, k)).transpose()?;
    let disposition = if args.stop { Disposition::Stop } else { Disposition::Keep };
    roots::revoke(&mut next, &key, disposition, instead.as_ref(), &Known::of(&s.home))?;
    propose(s, trust, &next, &args.ceremony)
}

pub(super) fn grant(s: &Session, args: &TrustGrant) -> Result<()> {
    let name = roots::role_of(&args.role)?;
    if matches!(name, RoleName::Root | RoleName::Snapshot) {
        return Err(CliError::usage(format!("the {} role is for all names, and there is one", args.role))
            .hint(format!("add a key to it: `shoal trust rotate --add {}=KEY`", args.role)));
    }
    let all = std::iter::once(&args.key).chain(&args.others);
    let granted = all.map(|k| keys::public(&s.home, k)).collect::<Result<Vec<_>>>()?;
    let network = args.network.as_deref().map(roots::network_of).transpose()?;
    let memory = args.memory.as_deref().map(quantity::bytes).transpose();
    let memory = memory.map_err(|e| CliError::usage(format!("--memory: {e}")))?;
    let (trust, mut next) = begin(s, &args.ceremony)?;
    let role = Role {
        name,
        threshold: args.threshold,
        keys: granted,
        prefix: args.prefix.clone(),
        may_remove: args.may_remove,
        ceiling: roots::ceiling(network, &args.host_path, &args.device, memory),
    };
    roots::grant(&mut next, role)?;
    propose(s, trust, &next, &args.ceremony)
}

/// Shows the next root; then signs and publishes it, or hands a draft over.
fn propose(s: &Session, trust: Trust, next: &Root, ceremony: &Ceremony) -> Result<()> {
    let known = Known::of(&s.home);
    let format = ceremony.output.format;
    let changes = roots::changes(trust.root()?, next, &known);
    let mut draft = Draft::new(Some(trust), vec![Item::new(next, Content::Root(Box::new(next.clone())))])?;
    if !format.is_data() {
        output::line(&format!("root {} over {}:", next.version, next.version - 1));
        for line in &changes {
            output::line(&output::clean(&format!("  {line}")));
        }
    }
    let ring = Keyring::open(&s.home, &ceremony.signing.keys)?;
    if !can_finish(&draft, &ring)? && ceremony.draft.is_none() {
        return Err(sign::incomplete(&s.home, &draft)?);
    }
    if !ceremony.yes && !output::confirm("sign this root?") {
        return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
    }
    draft.sign(&ring.keys())?;
    if let Some(path) = &ceremony.draft {
        return sign::hand_over(&s.home, &draft, path, format);
    }
    sign::send(s, &draft)?;
    follow_up(s, &ring)?;
    if format.is_data() {
        let view = serde_json::json!({ "root": next.version, "epoch": next.epoch, "changes": changes });
        return output::data(format, &view);
    }
    Ok(())
}

/// Whether these keys would do, before any of them is opened.
fn can_finish(draft: &Draft, ring: &Keyring) -> Result<bool> {
    let own: Vec<Key> = ring.keys().iter().map(|k: &&OwnKey| k.public()).collect();
    for item in &draft.items {
        for need in draft.needs(item)? {
            let at_hand = need.keys.iter().filter(|k| own.contains(k) || need.signed.contains(k)).count();
            if (at_hand as u64) < need.threshold {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What a new root leaves to do: a snapshot whose key was taken out is signed again, best at once.
fn follow_up(s: &Session, ring: &Keyring) -> Result<()> {
    let mut trust = trust::open(&s.client, &s.home, &s.context, None)?;
    let root = trust.root()?;
    let behind = trust.snapshot().is_some_and(|k| k.document.epoch < root.epoch);
    if trust.is_snapshot_current() && !behind {
        return Ok(());
    }
    let all = Keyring::open(&s.home, &[]).ok();
    let signed = refresh(s, &mut trust, ring).or_else(|e| match &all {
        Some(all) => refresh(s, &mut trust, all),
        None => Err(e),
    });
    if let Err(e) = signed {
        output::warn(&format!(
            "the newest snapshot was signed by a key that counts no longer ({e}): sign it again with `shoal trust refresh --key KEY`"
        ));
    }
    output::note(
        "deployments that a removed key signed count for nothing new: apply them again with a current key",
    );
    Ok(())
}
