//! Configs in `shoal apply` and `shoal diff`: what a ConfigMap becomes, and how it differs from the revision before.

use super::Session;
use crate::error::Result;
use crate::manifest::config::ConfigDraft;
use crate::output::{self, Tone, clean};
use crate::publish::{self, Keyring, Sealed};
use crate::review::{self, Change, Facts};
use crate::trust::{Trust, now};
use serde::Serialize;
use shoal_protocol::codec;
use shoal_protocol::envelope::identity;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{Config, Deployment, Entry, EntryKind, Kind, Liveness, Revision};
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::verify::Verified;

/// One config with everything that is shown before it is signed.
pub(super) struct Item {
    pub(super) config: Config,
    before: Option<Entry>,
    old: Option<Facts>,
    pub(super) unchanged: bool,
}

/// What an operator is shown, for programs.
#[derive(Serialize)]
pub(super) struct Reviewed<'a> {
    name: &'a str,
    sequence: u64,
    unchanged: bool,
    changes: Vec<Change>,
}

/// A value in one line: short text as it is, anything else by size and digest.
fn shown(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= 100 && !text.trim_end().contains('\n') => clean(text.trim_end()),
        _ => format!("{} bytes, {}", value.len(), review::short(&Digest::of(value))),
    }
}

pub(super) fn facts(data: &ByteMap) -> Facts {
    data.iter().map(|(k, v)| (k.to_owned(), shown(v))).collect()
}

/// The next revision of each draft over what the own snapshot lists.
pub(super) fn compose(
    s: &Session,
    trust: &mut Trust,
    drafts: &[ConfigDraft],
    lifetime: u64,
) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for draft in drafts {
        let before = trust.entry_of(EntryKind::Config, &draft.name).cloned();
        let live = before.as_ref().filter(|b| b.liveness == Liveness::Live);
        let old: Option<Verified<Config>> =
            live.map(|b| trust.listed(&s.client, &draft.name, &b.newest.digest)).transpose()?;
        let anchor = trust.anchor()?;
        let issued_at = now();
        let config = Config {
            fleet: anchor.fleet.clone(),
            epoch: anchor.root.document.epoch,
            name: draft.name.clone(),
            sequence: before.as_ref().map_or(0, |b| b.newest.sequence) + 1,
            issued_at,
            not_after: issued_at.plus(draft.expires.unwrap_or(lifetime)),
            data: draft.data.clone(),
        };
        let same =
            |o: &Verified<Config>| o.document().data == config.data && o.document().epoch == config.epoch;
        let unchanged = old.as_ref().is_some_and(same);
        let old = old.map(|o| facts(&o.document().data));
        items.push(Item { config, before, old, unchanged });
    }
    Ok(items)
}

impl Item {
    fn changes(&self) -> Vec<Change> {
        review::diff(self.old.as_ref().unwrap_or(&Facts::new()), &facts(&self.config.data))
    }

    /// The revision that is the newest once this is published.
    pub(super) fn newest(&self) -> Revision {
        match &self.before {
            Some(before) if self.unchanged => before.newest,
            _ => {
                let digest = identity(Kind::Config, &codec::encode(&self.config));
                Revision { sequence: self.config.sequence, digest }
            }
        }
    }

    /// Whether somebody else published one of this name meanwhile.
    pub(super) fn is_taken(&self, trust: &Trust) -> bool {
        trust.entry_of(EntryKind::Config, &self.config.name) != self.before.as_ref()
    }

    pub(super) fn seal(&self, trust: &Trust, ring: &Keyring) -> Result<(Entry, Sealed)> {
        let name = &self.config.name;
        let sealed = publish::precheck(trust, ring, name, &self.config)?;
        let newest = Revision { sequence: self.config.sequence, digest: sealed.digest };
        Ok((publish::plain_entry(EntryKind::Config, self.before.as_ref(), name, newest), sealed))
    }

    pub(super) fn reviewed(&self) -> Reviewed<'_> {
        let c = &self.config;
        let (unchanged, changes) = (self.unchanged, self.changes());
        Reviewed { name: c.name.as_str(), sequence: c.sequence, unchanged, changes }
    }

    pub(super) fn print(&self) {
        let (name, sequence) = (&self.config.name, self.config.sequence);
        if self.unchanged {
            output::line(&format!("config {name} is unchanged (revision {}): nothing to sign", sequence - 1));
            return;
        }
        match &self.old {
            Some(_) => output::line(&format!("config {name}, revision {sequence} over {}:", sequence - 1)),
            None => output::line(&format!("config {name}, revision {sequence} (new):")),
        }
        for line in review::lines(&self.changes()) {
            let tone = match line.as_bytes().first() {
                Some(b'+') => Tone::Good,
                Some(b'-') => Tone::Bad,
                _ => Tone::Waiting,
            };
            output::line(&format!("  {}", output::toned_text(&line, tone)));
        }
    }
}

/// Warns of what a deployment refers to and nobody has published: its pods would wait.
pub(super) fn warn_of_missing(trust: &Trust, d: &Deployment, items: &[Item]) {
    let mut told: Vec<(EntryKind, &Name)> = Vec::new();
    for (kind, r) in d.template.documents().filter(|(_, r)| !r.optional) {
        let here = kind == EntryKind::Config && items.iter().any(|i| i.config.name == r.name);
        let listed = trust.entry_of(kind, &r.name).is_some_and(|e| e.liveness == Liveness::Live);
        if here || listed || told.contains(&(kind, &r.name)) {
            continue;
        }
        told.push((kind, &r.name));
        let (word, how) = match kind {
            EntryKind::Secret => ("secret", format!("`shoal secret create {} --for {}`", r.name, d.name)),
            _ => ("config", "put its ConfigMap into a file and apply that".to_owned()),
        };
        output::warn(&format!(
            "{} refers to {word} {}, which is not published: its pods will wait for it; {how}",
            d.name, r.name
        ));
    }
}
