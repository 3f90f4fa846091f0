//! `shoal bundle create`: signs what was asked for, gathers, and writes one file.

use super::gather::Gatherer;
use super::{open, report};
use crate::args::BundleCreate;
use crate::commands::apply::{ToBundle, for_bundle, own_state};
use crate::commands::{Session, duration};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::{image_error, store};
use crate::publish::Keyring;
use crate::trust::{Trust, now, own_snapshot, refusal};
use shoal_image::bundle::{self, SignedDocument};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{
    Entry, EntryKind, Kind, Liveness, ReceiptRequest, RoleName, Selector, SnapshotRef, Target,
};
use shoal_protocol::verify::{Expect, verify};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

pub(super) fn run(home: &Home, context: Option<&str>, args: &BundleCreate) -> Result<()> {
    let s = Session::open(home.clone(), context)?;
    let old = args.since.as_ref().map(|path| open(path)).transpose()?;
    let source = args.source();
    let ring = match Keyring::open(home, &args.signing.keys) {
        Ok(ring) => Some(ring),
        Err(e) if source.is_some() || args.undo.is_some() => return Err(e),
        Err(_) => None,
    };
    let mut names = args.names.clone();
    let trust = if let Some(ring) = ring.as_ref().filter(|_| source.is_some() || args.undo.is_some()) {
        let what = ToBundle {
            source: source.as_ref(),
            undo: args.undo.as_ref().map(|name| (name, args.to_revision)),
            signing: &args.signing,
            offline: args.offline,
            yes: args.yes,
            format: args.format,
        };
        let (trust, signed) = for_bundle(&s, ring, &what)?;
        names.extend(signed);
        trust
    } else {
        own_state(&s)?
    };
    let deployments = chosen(&trust, &names)?;
    let documents = chain(&trust)?;
    let mut all = Gatherer {
        trust,
        client: &s.client,
        documents,
        images: BTreeMap::new(),
        deployments: Vec::new(),
        secrets: Vec::new(),
    };
    deployments.iter().try_for_each(|e| all.deployment(e))?;
    all.references()?;
    if args.releases {
        all.releases()?;
    }
    all.grants(ring.as_ref(), args.offline)?;
    if args.receipt {
        let ring =
            ring.as_ref().ok_or_else(|| CliError::usage("there is no key to ask for a receipt with"))?;
        let lifetime = duration("--receipt-expires", &args.receipt_expires)?;
        all.documents.push(request(&all.trust, ring, args.receipt_logs, lifetime)?);
    }
    let store = store(home)?;
    if let Some((digest, name)) = all.images.iter().find(|(d, _)| store.size(d).is_none()) {
        return Err(CliError::usage(format!("the image {name} ({digest}) is not in the own layout"))
            .hint(format!("import it: `shoal image import SOURCE {name}`")));
    }
    let images: Vec<(Digest, String)> = all.images.into_iter().collect();
    let since = old.as_ref().map(|(b, _)| b);
    let contents = bundle::Contents { documents: &all.documents, images: &images, since };
    write(&args.out, &contents, &store)?;
    let since = since.map(|b| b.digest().to_string());
    let images = images.iter().map(|(d, n)| format!("{n} {d}"));
    report(&args.out, args.format, since.as_deref(), &all.documents, images)
}

/// The request for a receipt of every device that this bundle comes to.
fn request(trust: &Trust, ring: &Keyring, logs: u64, lifetime: u64) -> Result<SignedDocument> {
    let anchor = trust.anchor()?;
    let held = trust.snapshot().ok_or_else(|| CliError::failure("no snapshot is held"))?;
    let issued_at = now();
    let request = ReceiptRequest {
        fleet: anchor.fleet.clone(),
        epoch: anchor.root.document.epoch,
        snapshot: SnapshotRef { version: held.document.version, digest: held.digest },
        target: Target { selector: Some(Selector::default()), ..Target::default() },
        issued_at,
        not_after: issued_at.plus(lifetime),
        logs,
    };
    let (envelope, _) = ring.seal(&anchor.root.document, RoleName::Snapshot, "", &request)?;
    verify(&envelope, &trust.state, issued_at, Expect::Only(Kind::ReceiptRequest))
        .map_err(|r| refusal("the request for a receipt", &r))?;
    Ok(SignedDocument { title: "receipt request".to_owned(), envelope })
}

/// The live deployments of these names, or all.
fn chosen(trust: &Trust, names: &[shoal_protocol::ids::Name]) -> Result<Vec<Entry>> {
    let live = |e: &&Entry| e.liveness == Liveness::Live;
    let mut all: Vec<Entry> = trust.entries(EntryKind::Deployment).filter(live).cloned().collect();
    if let Some(unknown) = names.iter().find(|n| !all.iter().any(|e| e.name == **n)) {
        let known: Vec<&str> = all.iter().map(|e| e.name.as_str()).collect();
        return Err(CliError::usage(format!("no deployment {unknown} is live"))
            .hint(format!("live: {}", known.join(", "))));
    }
    all.retain(|e| names.is_empty() || names.contains(&e.name));
    Ok(all)
}

/// The whole root chain and the snapshot.
fn chain(trust: &Trust) -> Result<Vec<SignedDocument>> {
    let roots = trust.roots.iter().zip(1_u64..);
    let mut documents: Vec<SignedDocument> = roots
        .map(|(envelope, version)| SignedDocument {
            title: format!("root {version}"),
            envelope: envelope.clone(),
        })
        .collect();
    let version = trust.snapshot().map_or(0, |s| s.document.version);
    documents.push(SignedDocument { title: format!("snapshot {version}"), envelope: own_snapshot(trust)? });
    Ok(documents)
}

/// Beside its place first: a file of that name is whole, or the one from before.
fn write(path: &Path, contents: &bundle::Contents<'_>, store: &shoal_image::Store) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let written = || -> Result<()> {
        let mut out = BufWriter::new(File::create(partial).on_path("create", partial)?);
        bundle::write(contents, store, &mut out).map_err(|e| image_error("the bundle", e))?;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).on_path("write", partial)?;
        file.sync_all().on_path("write", partial)?;
        std::fs::rename(partial, path).on_path("write", path)
    };
    written().inspect_err(|_| drop(std::fs::remove_file(partial)))
}
