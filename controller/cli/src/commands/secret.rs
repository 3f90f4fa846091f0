//! `shoal secret`: values sealed once, and grants of them to the devices that verified records name.
//!
//! Never here: a recipient that only the controller says is one; a value or key in any output.

use super::recipients::recipients;
use super::{Session, duration};
use crate::args::{Secret as SecretCommand, SecretGrant, SecretSet};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::write_secret;
use crate::keys::random_seed;
use crate::output;
use crate::publish::{self, Keyring};
use crate::trust::{self, Trust, now, refusal};
use serde::Serialize;
use shoal_controller_core::api;
use shoal_protocol::Code;
use shoal_protocol::ids::{Bytes, DeviceId, Digest, Name};
use shoal_protocol::latest::{Deployment, DeviceRecord, EntryKind, Grant, Liveness, Revision, Secret};
use shoal_protocol::sealing::{self, SecretKey};
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::verify::{MAX_DATA, is_key};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Grants that go up at a time.
const BATCH: usize = 500;

pub(super) fn run(s: &Session, command: &SecretCommand) -> Result<()> {
    match command {
        SecretCommand::Create(a) => set(s, a, true),
        SecretCommand::Set(a) => set(s, a, false),
        SecretCommand::Grant(a) => grant(s, a),
    }
}

/// The values that the command line names.
fn values(args: &SecretSet) -> Result<ByteMap> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut put = |key: &str, value: Vec<u8>| {
        if !is_key(key) {
            let what = format!("{key:?} is no key: letters, digits, `-`, `_` and `.`, at most 253");
            return Err(CliError::usage(what));
        }
        if all.iter().any(|(k, _)| k == key) {
            return Err(CliError::usage(format!("the key {key} stands twice")));
        }
        all.push((key.to_owned(), value));
        Ok(())
    };
    for literal in &args.from_literal {
        let (key, value) =
            literal.split_once('=').ok_or_else(|| CliError::usage("--from-literal wants KEY=VALUE"))?;
        put(key, value.as_bytes().to_vec())?;
    }
    for file in &args.from_file {
        let path = Path::new(file);
        let own = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let (key, path) = file.split_once('=').map_or((own, path), |(k, p)| (k, Path::new(p)));
        put(key, read(path)?)?;
    }
    if all.is_empty() {
        return Err(CliError::usage("there is nothing to seal")
            .hint("add --from-file KEY=FILE or --from-literal KEY=VALUE"));
    }
    let size: usize = all.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_DATA {
        return Err(CliError::usage(format!(
            "{size} bytes are to be sealed, at most {MAX_DATA} are possible"
        )));
    }
    Ok(all.into_iter().collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_DATA as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes).on_path("read", Path::new("standard input"))?;
    } else {
        let file = std::fs::File::open(path).on_path("open", path)?;
        file.take(limit).read_to_end(&mut bytes).on_path("read", path)?;
    }
    Ok(bytes)
}

/// Where the key of one revision is kept: it makes grants for later devices.
fn key_path(trust: &Trust, secret: &Digest) -> PathBuf {
    trust.folder().join("secrets").join(format!("{}.key", secret.hex()))
}

fn load_key(trust: &Trust, secret: &Digest) -> Result<Option<SecretKey>> {
    let path = key_path(trust, secret);
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.on_path("read", &path)?,
    };
    let bytes =
        bytes.try_into().map_err(|_| CliError::failure(format!("{} holds no key", path.display())))?;
    Ok(Some(SecretKey::new(bytes)))
}

#[derive(Serialize)]
struct Published {
    name: String,
    sequence: u64,
    digest: String,
    snapshot: u64,
    granted: u64,
}

fn set(s: &Session, args: &SecretSet, create: bool) -> Result<()> {
    let lifetime = duration("--expires", &args.expires)?;
    let data = values(args)?;
    let ring = Keyring::open(&s.home, &args.signing.keys)?;
    let mut trust = trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?;
    let name = &args.name;
    for attempt in 1..=publish::ATTEMPTS {
        let before = trust.entry_of(EntryKind::Secret, name).cloned();
        let live = before.as_ref().filter(|b| b.liveness == Liveness::Live);
        if create && live.is_some() {
            return Err(CliError::usage(format!("there is a secret {name}"))
                .hint(format!("give it new values with `shoal secret set {name}`")));
        }
        let mut deployments = args.deployments.clone();
        if let Some(entry) = live.filter(|_| deployments.is_empty()) {
            deployments =
                trust.listed::<Secret>(&s.client, name, &entry.newest.digest)?.into_document().deployments;
        }
        if deployments.is_empty() {
            return Err(CliError::usage("which deployments may refer to it?")
                .hint("name them with --for: whole names, or the beginning of names and `*`"));
        }
        let (secret, key) = seal(
            &trust,
            name,
            before.as_ref().map_or(0, |b| b.newest.sequence) + 1,
            deployments,
            lifetime,
            &data,
        )?;
        let sealed = publish::precheck(&trust, &ring, name, &secret)?;
        // Before anybody can hold the secret: without its key it can be granted to nobody.
        write_secret(&key_path(&trust, &sealed.digest), key.expose())?;
        let newest = Revision { sequence: secret.sequence, digest: sealed.digest };
        let entry = publish::plain_entry(EntryKind::Secret, before.as_ref(), name, newest);
        match publish::publish(&s.client, &mut trust, &ring, &[entry], std::slice::from_ref(&sealed)) {
            Ok(accepted) => {
                let minted = mint(s, &mut trust, &ring, std::slice::from_ref(name))?;
                let granted = minted.iter().map(|m| m.granted).sum();
                if args.output.format.is_data() {
                    return output::data(
                        args.output.format,
                        &Published {
                            name: name.to_string(),
                            sequence: secret.sequence,
                            digest: sealed.digest.to_string(),
                            snapshot: accepted.snapshot.version,
                            granted,
                        },
                    );
                }
                output::line(&format!(
                    "secret {name} revision {} sealed and published in snapshot {}",
                    secret.sequence, accepted.snapshot.version
                ));
                say(&minted);
                return Ok(());
            }
            Err(e) if publish::is_conflict(&e) && attempt < publish::ATTEMPTS => {
                output::note("somebody published meanwhile; verifying that and trying again");
                let taken = before;
                trust = trust::open(&s.client, &s.home, &s.context, None)?;
                if trust.entry_of(EntryKind::Secret, name) != taken.as_ref() {
                    return Err(CliError::conflict(format!("somebody else changed the secret {name}"))
                        .hint("look at `shoal describe secret`, then set it again"));
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn seal(
    trust: &Trust,
    name: &Name,
    sequence: u64,
    deployments: Vec<String>,
    lifetime: u64,
    data: &ByteMap,
) -> Result<(Secret, SecretKey)> {
    let anchor = trust.anchor()?;
    let issued_at = now();
    let mut secret = Secret {
        fleet: anchor.fleet.clone(),
        epoch: anchor.root.document.epoch,
        name: name.clone(),
        sequence,
        issued_at,
        not_after: issued_at.plus(lifetime),
        deployments,
        keys: Vec::new(),
        commitment: Digest([0; 32]),
        sealed: Bytes(Vec::new()),
    };
    let key = SecretKey::new(random_seed()?);
    sealing::seal(&mut secret, &key, data).map_err(|r| refusal("sealing", &r))?;
    Ok((secret, key))
}

/// What came of granting one secret.
#[derive(Debug, Serialize)]
pub(super) struct Minted {
    secret: String,
    sequence: u64,
    /// New grants.
    granted: u64,
    /// Selected devices that have one now.
    selected: u64,
    /// Devices whose record does not verify, so that nothing is sealed to them.
    unsigned: Vec<DeviceId>,
    /// Why nothing could be granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn say(minted: &[Minted]) {
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

fn grant(s: &Session, args: &SecretGrant) -> Result<()> {
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

/// Grants these secrets (all when none is named) to every device that a deployment selects which refers to them, and that
/// has no grant yet. Recipients come from records that verify here.
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
    let (records, unsigned) = recipients(trust, list);
    let mut all = Vec::new();
    for (name, revision) in entries {
        let secret = trust.listed::<Secret>(&s.client, &name, &revision.digest)?.into_document();
        let asking: Vec<&Deployment> = deployments
            .iter()
            .filter(|d| secret.is_for(&d.name))
            .filter(|d| d.template.documents().any(|(k, r)| k == EntryKind::Secret && r.name == name))
            .collect();
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
    let anchor = trust.anchor()?;
    let mut granted = 0;
    for batch in missing.chunks(BATCH) {
        let mut grants = Vec::with_capacity(batch.len());
        for record in batch {
            let (fleet, device) = (&anchor.fleet, &record.device);
            let sealed =
                sealing::wrap(key, &record.sealing.0, (fleet, device), (name, revision), random_seed()?)
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
            grants.push(ring.seal_grant(&anchor.root.document, &grant)?.into());
        }
        let accepted: api::GrantsAccepted =
            s.client.post("/v1/grants", &api::PostGrants { grants }, "handing over the grants")?;
        granted += accepted.devices;
    }
    Ok(granted)
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
