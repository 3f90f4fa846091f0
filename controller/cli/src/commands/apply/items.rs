//! What `apply`, `diff` and `bundle create` show and sign: each deployment and config beside the revision before it.
//!
//! Nothing that the controller says goes into what is signed, except where it verifies by the own root chain.

use super::super::{Session, config, rollout, short_id};
use crate::compose::{self, Stamp};
use crate::error::{CliError, Result};
use crate::home::Home;
use crate::images::{self, Pinned};
use crate::manifest::Draft;
use crate::manifest::config::ConfigDraft;
use crate::output::{self, Format, Tone};
use crate::publish::{self, Keyring, Sealed};
use crate::review::{self, Change, Facts};
use crate::trust::{Trust, now};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::codec;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{Container, Deployment, Entry, EntryKind, Liveness, Revision};
use std::collections::BTreeMap;

/// How long devices may accept a deployment whose file does not say.
const LIFETIME: u64 = 90 * 86_400;

/// One deployment with everything that is shown before it is signed.
pub(super) struct Item {
    pub(super) deployment: Deployment,
    pub(super) before: Option<Entry>,
    /// What devices run whose wave is not open.
    stable: Option<Revision>,
    /// Facts of the revision before, when there is one.
    old: Option<Facts>,
    new: Facts,
    pub(super) unchanged: bool,
}

/// Everything of one file.
pub(in crate::commands) struct Items {
    pub(super) configs: Vec<config::Item>,
    pub(super) deployments: Vec<Item>,
}

impl Items {
    /// Signs each and checks it, before anybody is asked anything.
    pub(super) fn precheck(&self, trust: &Trust, ring: &Keyring) -> Result<()> {
        for item in self.deployments.iter().filter(|i| !i.unchanged) {
            publish::precheck(trust, ring, &item.deployment.name, &item.deployment)?;
        }
        for item in self.configs.iter().filter(|i| !i.unchanged) {
            item.seal(trust, ring)?;
        }
        Ok(())
    }

    /// Signs all of them, with what the next snapshot is to say of each.
    pub(super) fn seal(&self, trust: &Trust, ring: &Keyring) -> Result<(Vec<Entry>, Vec<Sealed>)> {
        let mut entries = Vec::new();
        let mut documents = Vec::new();
        for item in &self.deployments {
            let d = &item.deployment;
            let sealed = publish::precheck(trust, ring, &d.name, d)?;
            let newest = Revision { sequence: d.sequence, digest: sealed.digest };
            entries.push(item.entry(newest));
            documents.push(sealed);
        }
        for item in &self.configs {
            let (entry, sealed) = item.seal(trust, ring)?;
            entries.push(entry);
            documents.push(sealed);
        }
        Ok((entries, documents))
    }

    pub(super) fn drop_unchanged(&mut self) {
        self.configs.retain(|i| !i.unchanged);
        self.deployments.retain(|i| !i.unchanged);
    }

    /// The secrets that its deployments refer to.
    pub(super) fn secrets(&self) -> Vec<Name> {
        let all = self.deployments.iter().flat_map(|i| i.deployment.template.documents());
        let mut names: Vec<Name> =
            all.filter(|(kind, _)| *kind == EntryKind::Secret).map(|(_, r)| r.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn is_empty(&self) -> bool {
        self.configs.is_empty() && self.deployments.is_empty()
    }
}

impl Item {
    /// What the next snapshot is to say of it.
    pub(super) fn entry(&self, newest: Revision) -> Entry {
        publish::entry(self.before.as_ref(), &self.deployment.name, newest, self.stable)
    }

    fn changes(&self) -> Vec<Change> {
        review::diff(self.old.as_ref().unwrap_or(&Facts::new()), &self.new)
    }
}

/// What devices run until their wave opens: the newest revision, once it came through. One that failed, or is still on its way
/// by waves of its own, is nothing that all others should move to meanwhile; they stay on what it was to take the place of.
/// Which of the two it is says the controller, where there is one to ask; both were signed and listed before.
fn stable(asked: Option<&Session>, before: Option<&Entry>) -> Result<Option<Revision>> {
    let Some(live) = before.filter(|b| b.liveness == Liveness::Live) else { return Ok(None) };
    let came_through = asked.map_or(Ok(true), |s| rollout::came_through(s, live))?;
    Ok(if came_through { Some(live.newest) } else { live.stable })
}

/// The next revisions of what a file has; `asked` is the controller, if it answers.
pub(super) fn compose_all(
    s: &Session,
    asked: Option<&Session>,
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
            stable: if unchanged { None } else { stable(asked, before.as_ref())? },
            old: old.as_ref().map(|o| review::facts(o.document(), &known)),
            new: review::facts(&deployment, &known),
            deployment,
            before,
            unchanged,
        });
    }
    Ok(Items { configs, deployments: items })
}

/// The next revision of a deployment, with the contents of an earlier one: if none is named, of the last before the newest
/// that came through. Devices whose wave is not open do not move to what is undone.
pub(super) fn compose_undo(
    s: &Session,
    trust: &mut Trust,
    name: &Name,
    sequence: Option<u64>,
) -> Result<Items> {
    let before = trust.entry(name).filter(|b| b.liveness == Liveness::Live).cloned();
    let Some(before) = before else {
        return Err(CliError::usage(format!("no deployment {name} is live"))
            .hint("list them: `shoal get deployments`"));
    };
    let newest = trust.deployment(&s.client, name, &before.newest.digest)?.into_document();
    let last = before.newest.sequence;
    if sequence.is_some_and(|n| n >= last) {
        return Err(CliError::usage(format!("the newest revision of {name} is {last}: name one before it")));
    }
    let old = match before.stable.filter(|r| sequence.is_none_or(|n| n == r.sequence)) {
        Some(r) => Some(trust.deployment(&s.client, name, &r.digest)?.into_document()),
        None => trust.kept_deployment(name, sequence.map_or(1..last, |n| n..n + 1))?,
    };
    let old = old.ok_or_else(|| match sequence {
        _ if last == 1 => CliError::usage(format!("{name} has no revision before 1 to go back to")),
        None => not_kept(&format!("a revision of {name} before {last}")),
        Some(n) => not_kept(&format!("revision {n} of {name}")),
    })?;
    let anchor = trust.anchor()?;
    let issued_at = now();
    let deployment = Deployment {
        epoch: anchor.root.document.epoch,
        sequence: before.newest.sequence + 1,
        issued_at,
        not_after: issued_at.plus(old.not_after.0.saturating_sub(old.issued_at.0)),
        not_before: None,
        ..old
    };
    let mut known = own_facts(&s.home, &newest);
    known.extend(own_facts(&s.home, &deployment));
    let item = Item {
        unchanged: compose::same_effect(&newest, &deployment),
        old: Some(review::facts(&newest, &known)),
        new: review::facts(&deployment, &known),
        deployment,
        stable: before.stable,
        before: Some(before),
    };
    Ok(Items { configs: Vec::new(), deployments: vec![item] })
}

fn not_kept(what: &str) -> CliError {
    CliError::usage(format!("{what} is not in the own state"))
        .hint("apply the file that it was made from again")
}

/// What is known of the modules of a revision signed earlier: only what the own layout still holds.
pub(in crate::commands) fn own_facts(
    home: &Home,
    d: &Deployment,
) -> BTreeMap<Digest, shoal_image::ModuleFacts> {
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
    pub(super) unchanged: bool,
    previous: Option<u64>,
    facts: &'a Facts,
    changes: Vec<Change>,
    devices: Vec<api::PlannedDevice>,
}

/// What would be signed, what changed, and, where there is a controller to ask, which devices fit.
pub(super) fn show(
    s: Option<&Session>,
    trust: &Trust,
    items: &Items,
    format: Format,
    only_show: bool,
) -> Result<()> {
    let mut reviewed = Vec::new();
    if !format.is_data() {
        items.configs.iter().for_each(config::Item::print);
    }
    for item in &items.deployments {
        let d = &item.deployment;
        let plan = s.filter(|_| !item.unchanged).map(|s| plan(s, d)).transpose()?;
        if !format.is_data() {
            print_item(item, plan.as_ref());
            config::warn_of_missing(trust, d, &items.configs);
        }
        reviewed.push(Reviewed {
            name: d.name.as_str(),
            sequence: d.sequence,
            unchanged: item.unchanged,
            previous: item.before.as_ref().map(|b| b.newest.sequence),
            facts: &item.new,
            changes: item.changes(),
            devices: plan.map(|p| p.devices).unwrap_or_default(),
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

fn print_item(item: &Item, plan: Option<&api::Plan>) {
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
    let Some(plan) = plan else { return };
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
