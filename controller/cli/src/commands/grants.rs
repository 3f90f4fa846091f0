//! Grants: the key of a secret's revision, sealed to each device that is to read it.
//!
//! Never here: a recipient that only the controller says is one; a key in any output.

use super::Session;
use super::recipients::{Known, recipients};
use super::secret::load_key;
use crate::args::SecretGrant;
use crate::audit::Copy;
use crate::error::{CliError, Result};
use crate::keys::random_seed;
use crate::output;
use crate::publish::Keyring;
use crate::trust::{self, Trust, now, refusal};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::Code;
use shoal_protocol::ids::{DeviceId, Digest, Name};
use shoal_protocol::latest::{Deployment, DeviceRecord, EntryKind, Grant, Liveness, Revision, Secret};
use shoal_protocol::sealing::{self, SecretKey};

/// Grants that go up at a time.
const BATCH: usize = 500;

/// What came of granting one secret.
#[derive(Debug, Serialize)]
pub(super) struct Minted {
    secret: String,
    sequence: u64,
    /// New grants.
    pub(super) granted: u64,
    /// Selected devices that have one now.
    selected: u64,
    /// Devices whose record does not verify, so that nothing is sealed to them.
    unsigned: Vec<DeviceId>,
    /// Why nothing could be granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) fn say(minted: &[Minted]) {
    for m in minted {
        if let Some(reason) = &m.reason {
            output::warn(&format!("secret {} revision {}: {reason}", m.secret, m.sequence));
            continue;
        }
        output::line(&format!(
            "secret {} revision {}: {} new grant(s), {} selected device(s)",
            m.secret, m.sequence, m.granted, m.selected
        ));
        for device in &m.unsigned {
            output::warn(&format!(
                "{}: {device} has no record that verifies; {}",
                Code::RecipientUnsigned,
                Code::RecipientUnsigned.hint()
            ));
        }
    }
}

pub(super) fn run(s: &Session, args: &SecretGrant) -> Result<()> {
    let ring = Keyring::open(&s.home, &args.signing.keys)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?;
    let is_live = |trust: &Trust, n: &Name| {
        trust.entry_of(EntryKind::Secret, n).is_some_and(|e| e.liveness == Liveness::Live)
    };
    if let Some(name) = args.names.iter().find(|n| !is_live(&trust, n)) {
        return Err(
            CliError::usage(format!("no secret is called {name}")).hint("list them with `shoal get secrets`")
        );
    }
    let minted = mint(s, &mut trust, &ring, &args.names)?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &serde_json::json!({ "secrets": minted }));
    }
    say(&minted);
    if minted.is_empty() {
        output::note("no secret is published");
    }
    Ok(())
}

/// After a deployment was published or a device came: grants what is missing of these secrets, and says so only when
/// something was.
pub(super) fn grant_what_is_missing(
    s: &Session,
    trust: &mut Trust,
    ring: &Keyring,
    names: &[Name],
    quiet: bool,
) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let minted = mint(s, trust, ring, names)?;
    if !quiet {
        let worth: Vec<Minted> = minted
            .into_iter()
            .filter(|m| m.granted > 0 || m.reason.is_some() || !m.unsigned.is_empty())
            .collect();
        say(&worth);
    }
    Ok(())
}

/// The revisions of secrets that devices need, each with the deployments that mean it: those that follow mean the newest, those
/// that pin the one that they name.
fn meant<'d>(
    newest: &[(Name, Revision)],
    deployments: &'d [Deployment],
) -> Vec<(Name, Revision, Vec<&'d Deployment>)> {
    let mut all = Vec::new();
    for (name, newest) in newest {
        let mut of: Vec<(Revision, Vec<&Deployment>)> = vec![(*newest, Vec::new())];
        for d in deployments {
            // A deployment means one revision of a name, wherever it refers to it.
            let mut references = d.template.documents();
            let reference = references.find(|(k, r)| *k == EntryKind::Secret && r.name == *name);
            let Some((_, reference)) = reference else { continue };
            let revision = reference.pin.unwrap_or(*newest);
            match of.iter_mut().find(|(r, _)| *r == revision) {
                Some((_, users)) => users.push(d),
                None => of.push((revision, vec![d])),
            }
        }
        all.extend(of.into_iter().map(|(revision, users)| (name.clone(), revision, users)));
    }
    all
}

/// Grants these secrets (all when none is named) to every device that a deployment selects which refers to them, and that
/// has no grant yet. Recipients come from records that verify here and that the audit log knows no newer one of.
pub(super) fn mint(s: &Session, trust: &mut Trust, ring: &Keyring, names: &[Name]) -> Result<Vec<Minted>> {
    let entries: Vec<(Name, Revision)> = trust
        .entries(EntryKind::Secret)
        .filter(|e| e.liveness == Liveness::Live && (names.is_empty() || names.contains(&e.name)))
        .map(|e| (e.name.clone(), e.newest))
        .collect();
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let deployments = deployments(s, trust)?;
    let list: api::RecordList = s.client.get("/v1/records", "the device records")?;
    let mut log = Copy::open(trust.dir())?;
    log.sync(&s.client, trust)?;
    let (records, unsigned) = recipients(trust, &Known::of(&log)?, list);
    let mut all = Vec::new();
    for (name, revision, users) in meant(&entries, &deployments) {
        let secret = trust.listed::<Secret>(&s.client, &name, &revision.digest)?.into_document();
        let asking: Vec<&Deployment> = users.into_iter().filter(|d| secret.is_for(&d.name)).collect();
        let selected: Vec<&DeviceRecord> = records
            .iter()
            .filter(|r| asking.iter().any(|d| d.target.selects(&r.device, &r.labels)))
            .collect();
        let mut minted = Minted {
            secret: name.to_string(),
            sequence: revision.sequence,
            granted: 0,
            selected: selected.len() as u64,
            unsigned: unsigned.clone(),
            reason: None,
        };
        let path = format!("/v1/grants/{}", revision.digest);
        let have: api::GrantList = s.client.get(&path, "who has a grant")?;
        let missing: Vec<&DeviceRecord> =
            selected.into_iter().filter(|r| !have.devices.contains(&r.device)).collect();
        if missing.is_empty() {
            all.push(minted);
            continue;
        }
        match load_key(trust, &revision.digest)? {
            Some(key) => minted.granted = send(s, trust, ring, (&name, &revision), &key, &missing)?,
            None => {
                minted.reason = Some(format!(
                    "{} device(s) wait for a grant, and the key is not here: whoever sealed it can run `shoal secret grant {name}`, and whoever knows the values `shoal secret set {name}`",
                    missing.len()
                ));
            }
        }
        all.push(minted);
    }
    Ok(all)
}

fn send(
    s: &Session,
    trust: &Trust,
    ring: &Keyring,
    (name, revision): (&Name, &Revision),
    key: &SecretKey,
    missing: &[&DeviceRecord],
) -> Result<u64> {
    let mut granted = 0;
    for batch in missing.chunks(BATCH) {
        let seal = |record: &&DeviceRecord| seal(trust, ring, (name, revision), key, record).map(Into::into);
        let grants = batch.iter().map(seal).collect::<Result<Vec<_>>>()?;
        let accepted: api::GrantsAccepted =
            s.client.post("/v1/grants", &api::PostGrants { grants }, "handing over the grants")?;
        granted += accepted.devices;
    }
    Ok(granted)
}

/// One device's grant, sealed and signed.
pub(super) fn seal(
    trust: &Trust,
    ring: &Keyring,
    (name, revision): (&Name, &Revision),
    key: &SecretKey,
    record: &DeviceRecord,
) -> Result<Vec<u8>> {
    let anchor = trust.anchor()?;
    let (fleet, device) = (&anchor.fleet, &record.device);
    let sealed = sealing::wrap(key, &record.sealing.0, (fleet, device), (name, revision), random_seed()?)
        .map_err(|r| refusal("the grant", &r))?;
    let grant = Grant {
        fleet: fleet.clone(),
        epoch: anchor.root.document.epoch,
        device: device.clone(),
        name: name.clone(),
        revision: *revision,
        issued_at: now(),
        sealed,
    };
    ring.seal_grant(&anchor.root.document, &grant)
}

/// All revisions of deployments that devices may be running now, verified.
fn deployments(s: &Session, trust: &mut Trust) -> Result<Vec<Deployment>> {
    let listed: Vec<(Name, Digest)> = trust
        .entries(EntryKind::Deployment)
        .filter(|e| e.liveness == Liveness::Live)
        .flat_map(|e| std::iter::once(e.newest).chain(e.stable).map(|r| (e.name.clone(), r.digest)))
        .collect();
    let all = listed.into_iter().map(|(name, digest)| {
        trust.deployment(&s.client, &name, &digest).map(shoal_protocol::Verified::into_document)
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::tests::sample;
    use shoal_protocol::latest::{DocumentRef, EnvFrom};

    fn revision(sequence: u64) -> Revision {
        Revision { sequence, digest: Digest::of(&sequence.to_be_bytes()) }
    }

    fn referring(secret: &str, pin: Option<Revision>) -> Deployment {
        let mut d = sample();
        let document = DocumentRef { name: secret.parse().unwrap(), optional: false, pin };
        d.template.containers[0].env_from = vec![EnvFrom::Secret { document, prefix: String::new() }];
        d
    }

    #[test]
    fn s25_a_grant_is_of_the_revision_that_a_deployment_means_and_of_no_other() {
        let newest = [("password".parse().unwrap(), revision(3)), ("other".parse().unwrap(), revision(1))];
        let all = [
            referring("password", None),
            referring("password", Some(revision(2))),
            referring("elsewhere", None),
        ];
        let found: Vec<(String, u64, Vec<Option<Revision>>)> = meant(&newest, &all)
            .into_iter()
            .map(|(name, revision, users)| {
                let pin = |d: &Deployment| d.template.documents().next().and_then(|(_, r)| r.pin);
                (name.to_string(), revision.sequence, users.into_iter().map(pin).collect())
            })
            .collect();
        let password = || "password".to_owned();
        let wanted = [
            (password(), 3, vec![None]),
            (password(), 2, vec![Some(revision(2))]),
            ("other".to_owned(), 1, vec![]),
        ];
        assert_eq!(found, wanted);
    }
}
