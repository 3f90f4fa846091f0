//! What goes into a bundle: deployments, what they refer to, and the grants of their secrets.
//!
//! Each document comes from the own state or, when that lacks it, from the controller, and is verified on its way.

use crate::api::Client;
use crate::audit::Copy;
use crate::commands::recipients::{Known, newest, recipients};
use crate::commands::{grants, secret};
use crate::error::{Kind as ErrorKind, OnPath as _, Result};
use crate::output;
use crate::publish::Keyring;
use crate::records;
use crate::trust::Trust;
use shoal_controller_core::api;
use shoal_image::bundle::SignedDocument;
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{
    Config, Deployment, DeviceRecord, Entry, EntryKind, Liveness, Release, Revision, Secret,
};
use shoal_protocol::verify::FromVerdict;
use std::collections::BTreeMap;

/// Gathers documents and the names of images.
pub(super) struct Gatherer<'a> {
    pub(super) trust: Trust,
    pub(super) client: &'a Client,
    pub(super) documents: Vec<SignedDocument>,
    pub(super) images: BTreeMap<Digest, String>,
    pub(super) deployments: Vec<Deployment>,
    pub(super) secrets: Vec<(Revision, Secret)>,
}

/// What devices run, and what they move to.
fn revisions(entry: &Entry) -> impl Iterator<Item = Revision> {
    entry.stable.into_iter().chain([entry.newest])
}

impl Gatherer<'_> {
    fn listed<T: FromVerdict>(&mut self, name: &Name, revision: &Revision) -> Result<T> {
        let verified = self.trust.listed::<T>(self.client, name, &revision.digest)?;
        let path = self.trust.document_path(&revision.digest);
        let envelope = std::fs::read(&path).on_path("read", &path)?;
        let title = format!("{} {name} {}", T::KIND.as_str(), revision.sequence);
        self.documents.push(SignedDocument { title, envelope });
        Ok(verified.into_document())
    }

    /// A deployment, as devices run it and as they will.
    pub(super) fn deployment(&mut self, entry: &Entry) -> Result<()> {
        for revision in revisions(entry) {
            let found: Deployment = self.listed(&entry.name, &revision)?;
            let containers = found.template.containers.iter().chain(&found.template.init_containers);
            self.images.extend(containers.map(|c| (c.image.manifest, c.image.reference.clone())));
            self.deployments.push(found);
        }
        Ok(())
    }

    /// The revisions of configs and secrets that the deployments mean: those that they pin, else all that are listed.
    pub(super) fn references(&mut self) -> Result<()> {
        let mut wanted: BTreeMap<(EntryKind, Name, u64), Revision> = BTreeMap::new();
        for (kind, r) in self.deployments.iter().flat_map(|d| d.template.documents()) {
            let entry = self.trust.entry_of(kind, &r.name).filter(|e| e.liveness == Liveness::Live);
            let listed = entry.filter(|_| r.pin.is_none()).map(revisions).into_iter().flatten();
            for revision in r.pin.into_iter().chain(listed) {
                wanted.insert((kind, r.name.clone(), revision.sequence), revision);
            }
        }
        for ((kind, name, _), revision) in wanted {
            if kind == EntryKind::Secret {
                let secret: Secret = self.listed(&name, &revision)?;
                self.secrets.push((revision, secret));
            } else {
                self.listed::<Config>(&name, &revision)?;
            }
        }
        Ok(())
    }

    /// The newest revision of each live release, and its builds.
    pub(super) fn releases(&mut self) -> Result<()> {
        let live = self.trust.entries(EntryKind::Release).filter(|e| e.liveness == Liveness::Live);
        let all: Vec<(Name, Revision)> = live.map(|e| (e.name.clone(), e.newest)).collect();
        for (name, revision) in all {
            let release: Release = self.listed(&name, &revision)?;
            self.images.extend(release.builds.into_iter().map(|b| (b.manifest, b.reference)));
        }
        Ok(())
    }

    /// The devices whose records are known: those kept here, and those of the controller where it answers.
    fn recipients(&self, offline: bool) -> Result<Vec<DeviceRecord>> {
        let mut all = records::kept(&self.trust)?;
        let mut log = Copy::open(self.trust.dir())?;
        if !offline {
            match self.client.get::<api::RecordList>("/v1/records", "the device records") {
                Ok(list) => {
                    log.sync(self.client, &self.trust)?;
                    all.extend(list.records);
                }
                Err(e) if e.kind == ErrorKind::Unreachable => {}
                Err(e) => return Err(e),
            }
        }
        let list = newest(&self.trust, all);
        records::keep(&self.trust, &list.records)?;
        let (good, unsigned) = recipients(&self.trust, &Known::of(&log)?, list);
        for device in unsigned {
            output::warn(&format!(
                "recipient_unsigned: {device} has no record that verifies: it gets no grant"
            ));
        }
        Ok(good)
    }

    /// Grants of the secrets for all devices that the deployments select; how many.
    pub(super) fn grants(&mut self, ring: Option<&Keyring>, offline: bool) -> Result<usize> {
        if self.secrets.is_empty() {
            return Ok(0);
        }
        let Some(ring) = ring else {
            output::warn(
                "there is no key to sign grants of secrets with: what needs one waits with waiting_secret",
            );
            return Ok(0);
        };
        let records = self.recipients(offline)?;
        let mut made = Vec::new();
        for (revision, secret) in &self.secrets {
            let name = &secret.name;
            let Some(key) = secret::load_key(&self.trust, &revision.digest)? else {
                output::warn(&format!(
                    "the key of secret {name} revision {} is not here: its devices wait for a grant of whoever sealed it",
                    revision.sequence
                ));
                continue;
            };
            let means = |d: &&Deployment| {
                let mut all = d.template.documents();
                let is = all.any(|(k, r)| {
                    k == EntryKind::Secret && r.name == *name && r.pin.is_none_or(|p| p == *revision)
                });
                is && secret.is_for(&d.name)
            };
            let users: Vec<&Deployment> = self.deployments.iter().filter(means).collect();
            let selected = |r: &&DeviceRecord| users.iter().any(|d| d.target.selects(&r.device, &r.labels));
            let mut granted = 0;
            for record in records.iter().filter(selected) {
                let envelope = grants::seal(&self.trust, ring, (name, revision), &key, record)?;
                let title = format!("grant {name} {} for {}", revision.sequence, record.device);
                made.push(SignedDocument { title, envelope });
                granted += 1;
            }
            if granted == 0 {
                output::warn(&format!(
                    "no device is known here that may read secret {name}: bring its record (`shoal-agent enroll --offline --request DIR`, `shoal receipt import`)"
                ));
            }
        }
        let count = made.len();
        self.documents.extend(made);
        Ok(count)
    }
}
