//! `shoal apply` and `shoal diff`: read → pin → compose → review → sign → publish.
//!
//! Nothing that the controller says goes into what is signed, except where it verifies by the own root chain.

mod alone;
mod items;

pub(super) use alone::{ToBundle, for_bundle, own_state, say_alone, undo};
pub(super) use items::own_facts;

use super::{Session, duration, grants, rollout, source};
use crate::args::{Apply, Diff};
use crate::ceremony::{self, Content};
use crate::error::{CliError, Result};
use crate::home::Home;
use crate::images::{self, Pinned};
use crate::manifest::Draft;
use crate::output::{self, Format};
use crate::publish::{self, Keyring, Sealed};
use crate::trust::{self, Trust, now};
use items::{Items, compose_all, show};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_image::Store;
use shoal_protocol::latest::Revision;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn run(home: &Home, context: Option<&str>, args: &Apply) -> Result<()> {
    let timeout = duration("--timeout", &args.timeout)?;
    let parsed = source::read(&args.source)?;
    let (mut drafts, configs) = (parsed.deployments, parsed.configs);
    // What is wrong on this machine is told before anything is asked of another one.
    let ring = if args.dry_run { None } else { Some(Keyring::open(home, &args.signing.keys)?) };
    let store = images::store(home)?;
    let pinned = source::pin(&store, &args.source, &drafts)?;
    let s = &Session::open(home.clone(), context)?;
    source::recipients(s, &args.source, &mut drafts)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?;
    let mut items = compose_all(s, Some(s), &mut trust, &drafts, &configs, &pinned)?;
    if let Some(ring) = ring.as_ref().filter(|_| args.draft.is_none()) {
        items.precheck(&trust, ring)?;
    }
    show(Some(s), &trust, &items, args.output.format, args.dry_run)?;
    let Some(ring) = ring else { return Ok(()) };
    items.drop_unchanged();
    if items.is_empty() {
        nothing_new(args.output.format)?;
    } else {
        if !args.yes && !output::confirm("sign and publish this?") {
            return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
        }
        upload(s, &store, &drafts, &pinned)?;
        if let Some(path) = &args.draft {
            return hand_over(s, trust, &ring, &items, path, args.output.format);
        }
        let again = |trust: &mut Trust| compose_all(s, Some(s), trust, &drafts, &configs, &pinned);
        items = sign(s, trust, &ring, items, &again, Some(args.output.format))?;
    }
    if args.wait {
        for draft in &drafts {
            let sequence = items
                .deployments
                .iter()
                .find(|i| i.deployment.name == draft.name)
                .map(|i| i.deployment.sequence);
            let d = rollout::wait_for(s, &draft.name, sequence, timeout)?;
            if !args.output.format.is_data() && d.counts.selected > 0 {
                output::line(&format!(
                    "{} revision {} is healthy on {} device(s)",
                    draft.name, d.newest.sequence, d.counts.healthy
                ));
            }
        }
    }
    Ok(())
}

pub(super) fn diff(home: &Home, context: Option<&str>, args: &Diff) -> Result<()> {
    let parsed = source::read(&args.source)?;
    let (mut drafts, configs) = (parsed.deployments, parsed.configs);
    let store = images::store(home)?;
    let pinned = source::pin(&store, &args.source, &drafts)?;
    let s = &Session::open(home.clone(), context)?;
    source::recipients(s, &args.source, &mut drafts)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, args.adopt.as_ref())?;
    let items = compose_all(s, None, &mut trust, &drafts, &configs, &pinned)?;
    show(Some(s), &trust, &items, args.output.format, true)
}

/// Writes deployments and next snapshot as a draft, with the signatures of the keys at hand.
fn hand_over(
    s: &Session,
    trust: Trust,
    ring: &Keyring,
    items: &Items,
    path: &Path,
    format: Format,
) -> Result<()> {
    let mut pieces = Vec::new();
    let mut entries = Vec::new();
    if let Some(item) = items.configs.first() {
        let name = &item.config.name;
        return Err(CliError::usage(format!("the config {name} cannot travel in a draft yet"))
            .hint("publish the configs in a file of their own first, then the draft"));
    }
    for item in &items.deployments {
        let d = &item.deployment;
        let piece = ceremony::Item::new(d, Content::Deployment(Box::new(d.clone())));
        let newest = Revision { sequence: d.sequence, digest: piece.digest };
        entries.push(item.entry(newest));
        pieces.push(piece);
    }
    let snapshot = publish::over_the_log(&s.client, &trust, &entries, now())?;
    pieces.push(ceremony::Item::new(&snapshot, Content::Snapshot(Box::new(snapshot.clone()))));
    let mut draft = ceremony::Draft::new(Some(trust), pieces)?;
    draft.sign(&ring.keys())?;
    super::trust::hand_over(&s.home, &draft, path, format)
}

/// The controller's own registry gets what it lacks of the images that the layout holds.
fn upload(s: &Session, store: &Store, drafts: &[Draft], pinned: &BTreeMap<String, Pinned>) -> Result<()> {
    for image in drafts.iter().flat_map(Draft::all_containers).map(|c| &c.image) {
        if let Some(p) = pinned.get(image).filter(|p| p.in_layout) {
            images::upload(&s.client, store, &images::reference(image)?, &p.image.manifest)?;
        }
    }
    Ok(())
}

#[derive(Default, Serialize)]
struct Published {
    /// Nothing where nothing had to be signed.
    snapshot: Option<api::SnapshotRef>,
    notified: u64,
    configs: Vec<PublishedDocument>,
    deployments: Vec<PublishedDocument>,
}

#[derive(Serialize)]
struct PublishedDocument {
    name: String,
    sequence: u64,
    digest: String,
}

/// Signs and publishes. When somebody else was first with other names, verifies theirs and tries again; when they
/// changed one of ours, what was reviewed no longer holds. Without a format it says nothing.
fn sign(
    s: &Session,
    mut trust: Trust,
    ring: &Keyring,
    mut items: Items,
    again: &dyn Fn(&mut Trust) -> Result<Items>,
    format: Option<Format>,
) -> Result<Items> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (entries, documents) = items.seal(&trust, ring)?;
        match publish::publish(&s.client, &mut trust, ring, &entries, &documents) {
            Ok(accepted) => {
                if let Some(format) = format {
                    report(&items, &documents, &accepted, format)?;
                }
                let quiet = format.is_none_or(Format::is_data);
                grants::grant_what_is_missing(s, &mut trust, ring, &items.secrets(), quiet)?;
                return Ok(items);
            }
            Err(e) if publish::is_conflict(&e) && attempts < publish::ATTEMPTS => {
                output::note("somebody published meanwhile; verifying that and trying again");
                trust = trust::open(&s.client, &s.home, &s.context, None)?;
                let deployments = items.deployments.iter();
                let taken = deployments
                    .filter(|i| trust.entry(&i.deployment.name) != i.before.as_ref())
                    .map(|i| &i.deployment.name)
                    .chain(items.configs.iter().filter(|i| i.is_taken(&trust)).map(|i| &i.config.name))
                    .next();
                if let Some(name) = taken {
                    return Err(CliError::conflict(format!(
                        "somebody else changed {name} since it was shown to you"
                    ))
                    .hint("look at theirs with `shoal diff -f FILE`, then apply again"));
                }
                items = again(&mut trust)?;
                items.drop_unchanged();
            }
            Err(e) => return Err(e),
        }
    }
}

/// All that was asked for is so already: people were shown that, programs are told.
fn nothing_new(format: Format) -> Result<()> {
    if format.is_data() { output::data(format, &Published::default()) } else { Ok(()) }
}

fn report(
    items: &Items,
    documents: &[Sealed],
    accepted: &api::SnapshotAccepted,
    format: Format,
) -> Result<()> {
    let deployments =
        items.deployments.iter().map(|i| (i.deployment.name.to_string(), i.deployment.sequence));
    let configs = items.configs.iter().map(|i| (i.config.name.to_string(), i.config.sequence));
    let mut deployments: Vec<PublishedDocument> = deployments
        .chain(configs)
        .zip(documents)
        .map(|((name, sequence), d)| PublishedDocument { name, sequence, digest: d.digest.to_string() })
        .collect();
    let configs = deployments.split_off(items.deployments.len());
    if format.is_data() {
        let api::SnapshotAccepted { snapshot, notified } = *accepted;
        let snapshot = Some(snapshot);
        return output::data(format, &Published { snapshot, notified, configs, deployments });
    }
    for c in &configs {
        output::line(&format!(
            "config {} revision {} signed and published in snapshot {}",
            c.name, c.sequence, accepted.snapshot.version
        ));
    }
    for d in &deployments {
        output::line(&format!(
            "deployment {} revision {} signed and published in snapshot {}; {} device(s) told at once",
            d.name, d.sequence, accepted.snapshot.version, accepted.notified
        ));
    }
    if let Some(d) = deployments.first() {
        output::note(&format!("watch it: `shoal rollout status {} --wait` or `shoal get pods -w`", d.name));
    }
    Ok(())
}
