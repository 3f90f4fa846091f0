//! `shoal apply` and `shoal diff`: read → pin → compose → review → sign → publish.
//!
//! Nothing that the controller says goes into what is signed, except where it verifies by the own root chain.

use super::{Session, config, duration, grants, rollout, short_id, source};
use crate::args::{Apply, Diff};
use crate::ceremony::{self, Content};
use crate::compose::{self, Stamp};
use crate::error::{CliError, Result};
use crate::home::Home;
use crate::images::{self, Pinned};
use crate::manifest::Draft;
use crate::manifest::config::ConfigDraft;
use crate::output::{self, Format, Tone};
use crate::publish::{self, Keyring, Sealed};
use crate::review::{self, Change, Facts};
use crate::trust::{self, Trust, now};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_image::Store;
use shoal_protocol::codec;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{Container, Deployment, Entry, EntryKind, Liveness, Revision};
use std::collections::BTreeMap;
use std::path::Path;

/// How long devices may accept a deployment whose file does not say.
const LIFETIME: u64 = 90 * 86_400;

/// One deployment with everything that is shown before it is signed.
struct Item {
    deployment: Deployment,
    before: Option<Entry>,
    /// Facts of the revision before, when there is one.
    old: Option<Facts>,
    new: Facts,
    unchanged: bool,
}

/// Everything of one file.
struct Items {
    configs: Vec<config::Item>,
    deployments: Vec<Item>,
}

impl Items {
    fn drop_unchanged(&mut self) {
        self.configs.retain(|i| !i.unchanged);
        self.deployments.retain(|i| !i.unchanged);
    }

    /// The secrets that its deployments refer to.
    fn secrets(&self) -> Vec<Name> {
        let all = self.deployments.iter().flat_map(|i| i.deployment.template.documents());
        let mut names: Vec<Name> =
            all.filter(|(kind, _)| *kind == EntryKind::Secret).map(|(_, r)| r.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn is_empty(&self) -> bool {
        self.configs.is_empty() && self.deployments.is_empty()
    }
}

/// What the operator's files say.
struct Files<'a> {
    drafts: &'a [Draft],
    configs: &'a [ConfigDraft],
    pinned: &'a BTreeMap<String, Pinned>,
}

impl Item {
    fn changes(&self) -> Vec<Change> {
        review::diff(self.old.as_ref().unwrap_or(&Facts::new()), &self.new)
    }
}

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
    let mut items = compose_all(s, &mut trust, &drafts, &configs, &pinned)?;
    if let Some(ring) = ring.as_ref().filter(|_| args.draft.is_none()) {
        for item in items.deployments.iter().filter(|i| !i.unchanged) {
            publish::precheck(&trust, ring, &item.deployment.name, &item.deployment)?;
        }
        for item in items.configs.iter().filter(|i| !i.unchanged) {
            item.seal(&trust, ring)?;
        }
    }
    show(s, &trust, &items, args.output.format, args.dry_run)?;
    let Some(ring) = ring else { return Ok(()) };
    items.drop_unchanged();
    if !items.is_empty() {
        if !args.yes && !output::confirm("sign and publish this?") {
            return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
        }
        upload(s, &store, &drafts, &pinned)?;
        if let Some(path) = &args.draft {
            return hand_over(s, trust, &ring, &items, path, args.output.format);
        }
        let files = Files { drafts: &drafts, configs: &configs, pinned: &pinned };
        items = sign(s, trust, &ring, items, &files, args.output.format)?;
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
    let items = compose_all(s, &mut trust, &drafts, &configs, &pinned)?;
    show(s, &trust, &items, args.output.format, true)
}

fn compose_all(
    s: &Session,
    trust: &mut Trust,
    drafts: &[Draft],
    configs: &[ConfigDraft],
    pinned: &BTreeMap<String, Pinned>,
) -> Result<Items> {
    let configs = config::compose(s, trust, configs, LIFETIME)?;
    let modules = compose::module_facts(pinned);
    let mut items = Vec::new();
    for draft in drafts {
        let before = trust.entry(&draft.name).cloned();
        let live = before.as_ref().filter(|b| b.liveness == Liveness::Live);
        let old = live.map(|b| trust.deployment(&s.client, &draft.name, &b.newest.digest)).transpose()?;
        let anchor = trust.anchor()?;
        let stamp = Stamp {
            fleet: anchor.fleet.clone(),
            epoch: anchor.root.document.epoch,
            sequence: before.as_ref().map_or(0, |b| b.newest.sequence) + 1,
            issued_at: now(),
            lifetime: LIFETIME,
        };
        let mut deployment = compose::deployment(draft, pinned, &stamp)?;
        compose::pin(&mut deployment, &|kind, name| {
            let own = configs.iter().find(|c| kind == EntryKind::Config && c.config.name == *name);
            let listed = trust.entry_of(kind, name).filter(|e| e.liveness == Liveness::Live);
            own.map(config::Item::newest).or(listed.map(|e| e.newest))
        })?;
        // What a since removed key signed is signed anew, though nothing else changes.
        let unchanged = old.as_ref().is_some_and(|o| {
            compose::same_effect(o.document(), &deployment) && trust.still_counts(&o.identity())
        });
        let mut known = modules.clone();
        if let Some(o) = &old {
            known.extend(own_facts(&s.home, o.document()));
        }
        items.push(Item {
            old: old.as_ref().map(|o| review::facts(o.document(), &known)),
            new: review::facts(&deployment, &known),
            deployment,
            before,
            unchanged,
        });
    }
    Ok(Items { configs, deployments: items })
}

/// What is known of the modules of a revision signed earlier: only what the own layout still holds.
pub(super) fn own_facts(home: &Home, d: &Deployment) -> BTreeMap<Digest, shoal_image::ModuleFacts> {
    let Ok(store) = images::store(home) else { return BTreeMap::new() };
    d.template
        .all_containers()
        .flat_map(Container::modules)
        .filter_map(|m| {
            let bytes = store.read(&m.digest, shoal_image::limits::MODULE).ok()?;
            Some((m.digest, shoal_image::inspect(&bytes).ok()?))
        })
        .collect()
}

#[derive(Serialize)]
struct Reviewed<'a> {
    name: &'a str,
    sequence: u64,
    unchanged: bool,
    previous: Option<u64>,
    facts: &'a Facts,
    changes: Vec<Change>,
    devices: Vec<api::PlannedDevice>,
}

/// What would be signed, what changed, and which devices fit.
fn show(s: &Session, trust: &Trust, items: &Items, format: Format, only_show: bool) -> Result<()> {
    let mut reviewed = Vec::new();
    if !format.is_data() {
        items.configs.iter().for_each(config::Item::print);
    }
    for item in &items.deployments {
        let d = &item.deployment;
        let plan = if item.unchanged { api::Plan { devices: Vec::new() } } else { plan(s, d)? };
        if !format.is_data() {
            print_item(item, &plan);
            config::warn_of_missing(trust, d, &items.configs);
        }
        reviewed.push(Reviewed {
            name: d.name.as_str(),
            sequence: d.sequence,
            unchanged: item.unchanged,
            previous: item.before.as_ref().map(|b| b.newest.sequence),
            facts: &item.new,
            changes: item.changes(),
            devices: plan.devices,
        });
    }
    if format.is_data() && only_show {
        let configs: Vec<_> = items.configs.iter().map(config::Item::reviewed).collect();
        output::data(format, &serde_json::json!({ "configs": configs, "deployments": reviewed }))
    } else {
        Ok(())
    }
}

fn plan(s: &Session, d: &Deployment) -> Result<api::Plan> {
    let request = api::PlanRequest { deployment: codec::encode(d).into() };
    s.client.post("/v1/plan", &request, "the plan")
}

fn print_item(item: &Item, plan: &api::Plan) {
    let d = &item.deployment;
    if item.unchanged {
        output::line(&format!(
            "deployment {} is unchanged (revision {}): nothing to sign",
            d.name,
            d.sequence - 1
        ));
        return;
    }
    if item.old.is_some() {
        output::line(&format!("deployment {}, revision {} over {}:", d.name, d.sequence, d.sequence - 1));
        for line in review::lines(&item.changes()) {
            let tone = match line.as_bytes().first() {
                Some(b'+') => Tone::Good,
                Some(b'-') => Tone::Bad,
                _ => Tone::Waiting,
            };
            output::line(&format!("  {}", output::toned_text(&line, tone)));
        }
    } else {
        output::line(&format!("deployment {}, revision {} (new):", d.name, d.sequence));
        for (k, v) in review::in_order(&item.new) {
            output::line(&format!("  {k}: {v}"));
        }
    }
    let fit = plan.devices.iter().filter(|p| p.fits).count();
    output::line(&format!("  → {fit} of {} selected devices fit", plan.devices.len()));
    if plan.devices.is_empty() {
        output::warn(&format!("{} selects no device that is enrolled now", d.name));
    }
    for p in plan.devices.iter().filter(|p| !p.fits).take(10) {
        let why = p.message.as_deref().or(p.reason.as_deref()).unwrap_or("");
        output::line(&output::clean(&format!(
            "    {} ({}) does not: {why}",
            short_id(&p.device),
            p.hostname.as_deref().unwrap_or("-")
        )));
    }
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
        entries.push(publish::entry(item.before.as_ref(), &d.name, newest));
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

#[derive(Serialize)]
struct Published {
    snapshot: api::SnapshotRef,
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
/// changed one of ours, what was reviewed no longer holds.
fn sign(
    s: &Session,
    mut trust: Trust,
    ring: &Keyring,
    mut items: Items,
    files: &Files<'_>,
    format: Format,
) -> Result<Items> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut entries = Vec::new();
        let mut documents: Vec<Sealed> = Vec::new();
        for item in &items.deployments {
            let d = &item.deployment;
            let sealed = publish::precheck(&trust, ring, &d.name, d)?;
            let newest = Revision { sequence: d.sequence, digest: sealed.digest };
            entries.push(publish::entry(item.before.as_ref(), &d.name, newest));
            documents.push(sealed);
        }
        for item in &items.configs {
            let (entry, sealed) = item.seal(&trust, ring)?;
            entries.push(entry);
            documents.push(sealed);
        }
        match publish::publish(&s.client, &mut trust, ring, &entries, &documents) {
            Ok(accepted) => {
                report(&items, &documents, &accepted, format)?;
                grants::grant_what_is_missing(s, &mut trust, ring, &items.secrets(), format.is_data())?;
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
                items = compose_all(s, &mut trust, files.drafts, files.configs, files.pinned)?;
                items.drop_unchanged();
            }
            Err(e) => return Err(e),
        }
    }
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
