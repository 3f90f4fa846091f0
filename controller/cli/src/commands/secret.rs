//! `shoal secret`: values sealed once, under a key that is kept for later grants ([`super::grants`]).
//!
//! Never here: a value or key in any output.

use super::{Session, duration, grants};
use crate::args::{Secret as SecretCommand, SecretSet};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::write_secret;
use crate::keys::random_seed;
use crate::output;
use crate::publish::{self, Keyring};
use crate::trust::{self, Trust, now, refusal};
use serde::Serialize;
use shoal_protocol::ids::{Bytes, Digest, Name};
use shoal_protocol::latest::{EntryKind, Liveness, Revision, Secret};
use shoal_protocol::sealing::{self, SecretKey};
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::verify::{MAX_DATA, is_key};
use std::io::Read as _;
use std::path::{Path, PathBuf};

pub(super) fn run(s: &Session, command: &SecretCommand) -> Result<()> {
    match command {
        SecretCommand::Create(a) => set(s, a, true),
        SecretCommand::Set(a) => set(s, a, false),
        SecretCommand::Grant(a) => grants::run(s, a),
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
    trust.dir().join("secrets").join(format!("{}.key", secret.hex()))
}

/// The key of one revision, if it was sealed here.
pub(super) fn load_key(trust: &Trust, secret: &Digest) -> Result<Option<SecretKey>> {
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
                let minted = grants::mint(s, &mut trust, &ring, std::slice::from_ref(name))?;
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
                grants::say(&minted);
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
