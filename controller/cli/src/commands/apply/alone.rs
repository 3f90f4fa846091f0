//! What is signed for a bundle, and the way back to an earlier revision: published where the controller answers; else signed
//! into the own state alone, which is then all that there is to swap against.

use super::items::{Items, compose_all, compose_undo, show};
use super::{nothing_new, sign, upload};
use crate::args::{Signing, Source};
use crate::commands::{Session, source};
use crate::error::{CliError, Kind, Result};
use crate::images;
use crate::output::{self, Format};
use crate::publish::{self, Keyring};
use crate::trust::{self, Trust};
use shoal_protocol::ids::Name;

/// What a bundle is made of anew.
pub(in crate::commands) struct ToBundle<'a> {
    /// A file of deployments and configs.
    pub(in crate::commands) source: Option<&'a Source>,
    /// A deployment that goes back, and to which revision.
    pub(in crate::commands) undo: Option<(&'a Name, Option<u64>)>,
    pub(in crate::commands) signing: &'a Signing,
    /// Not even to ask whether the controller answers.
    pub(in crate::commands) offline: bool,
    pub(in crate::commands) yes: bool,
    pub(in crate::commands) format: Format,
}

/// The own state as it is on this machine.
pub(in crate::commands) fn own_state(s: &Session) -> Result<Trust> {
    let fleet = s.context.fleet.as_deref();
    let trust = fleet.map(|fleet| Trust::load(&s.home, fleet)).transpose()?.flatten();
    trust.ok_or_else(|| {
        CliError::usage("this operator has no own state of the fleet")
            .hint("`shoal trust show` takes it over")
    })
}

/// The own state, brought up to what the controller serves if it answers; whether it does.
fn open(s: &Session, signing: &Signing, offline: bool) -> Result<(Trust, bool)> {
    if offline {
        return Ok((own_state(s)?, false));
    }
    match trust::open(&s.client, &s.home, &s.context, signing.adopt.as_ref()) {
        Err(e) if e.kind == Kind::Unreachable => Ok((own_state(s)?, false)),
        other => other.map(|trust| (trust, true)),
    }
}

/// Signs what is to go into a bundle; the own state after it, and the deployments that it was about.
pub(in crate::commands) fn for_bundle(
    s: &Session,
    ring: &Keyring,
    what: &ToBundle<'_>,
) -> Result<(Trust, Vec<Name>)> {
    let store = images::store(&s.home)?;
    let (mut trust, reached) = open(s, what.signing, what.offline)?;
    let mut drafts = Vec::new();
    let mut configs = Vec::new();
    let mut pinned = std::collections::BTreeMap::new();
    if let Some(source) = what.source {
        let parsed = source::read(source)?;
        (drafts, configs) = (parsed.deployments, parsed.configs);
        pinned = source::pin(&store, source, &drafts)?;
        source::recipients(s, source, &mut drafts)?;
    }
    let compose = |trust: &mut Trust| match what.undo {
        Some((name, sequence)) => compose_undo(s, trust, name, sequence),
        None => compose_all(s, Some(s).filter(|_| reached), trust, &drafts, &configs, &pinned),
    };
    let mut items = compose(&mut trust)?;
    items.precheck(&trust, ring)?;
    // A bundle's own output is all that a program reads.
    if !what.format.is_data() {
        show(Some(s).filter(|_| reached), &trust, &items, what.format, false)?;
    }
    let names = items.deployments.iter().map(|i| i.deployment.name.clone()).collect();
    items.drop_unchanged();
    if items.is_empty() {
        return Ok((trust, names));
    }
    if !what.yes && !output::confirm("sign this?") {
        return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
    }
    if reached {
        upload(s, &store, &drafts, &pinned)?;
        sign(s, trust, ring, items, &compose, Some(what.format).filter(|f| !f.is_data()))?;
        return Ok((trust::open(&s.client, &s.home, &s.context, None)?, names));
    }
    sign_alone(&mut trust, ring, &items, what.format)?;
    Ok((trust, names))
}

/// Without a controller: the next snapshot follows the own one, under a lock that any other command here would wait for.
fn sign_alone(trust: &mut Trust, ring: &Keyring, items: &Items, format: Format) -> Result<()> {
    let (entries, documents) = items.seal(trust, ring)?;
    let version = publish::keep(trust, ring, &entries, &documents)?;
    say_alone(version, format);
    Ok(())
}

/// Tells where a snapshot is that no controller has.
pub(in crate::commands) fn say_alone(version: u64, format: Format) {
    if !format.is_data() {
        output::line(&format!("signed without a controller, in snapshot {version}"));
    }
    output::warn(
        "snapshot and documents are in the own state and in bundles only: when the controller answers again, give them to it with `shoal trust push` before anybody else signs",
    );
}

/// `shoal rollout undo`: the next revision with the contents of an earlier one, published.
pub(in crate::commands) fn undo(
    s: &Session,
    name: &Name,
    sequence: Option<u64>,
    (signing, yes): (&Signing, bool),
    format: Format,
) -> Result<()> {
    let ring = Keyring::open(&s.home, &signing.keys)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, signing.adopt.as_ref())?;
    let compose = |trust: &mut Trust| compose_undo(s, trust, name, sequence);
    let mut items = compose(&mut trust)?;
    items.precheck(&trust, &ring)?;
    show(Some(s), &trust, &items, format, false)?;
    items.drop_unchanged();
    if items.is_empty() {
        return nothing_new(format);
    }
    if !yes && !output::confirm("sign and publish this?") {
        return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
    }
    sign(s, trust, &ring, items, &compose, Some(format)).map(drop)
}
