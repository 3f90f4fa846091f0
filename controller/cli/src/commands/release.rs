//! `shoal release`: the devices' own software, read on this machine, signed, and published like anything else.

use super::apply::{own_state, say_alone};
use super::{Session, duration};
use crate::args::{Release as Command, ReleasePack, ReleasePublish};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::{self, image_error};
use crate::manifest::deployment::selector_from_text;
use crate::manifest::quantity::show_bytes;
use crate::output;
use crate::publish::{self, Keyring};
use crate::review;
use crate::trust::{self, Trust, now};
use serde::Serialize;
use shoal_image::release::{self, Packed};
use shoal_image::{Reference, Store};
use shoal_protocol::ids::{DeviceId, Digest};
use shoal_protocol::latest::{EntryKind, Liveness, Release, Revision, Target};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, IntoInnerError};
use std::path::Path;

pub(super) fn run(home: &Home, context: Option<&str>, command: &Command) -> Result<()> {
    match command {
        Command::Publish(a) => publish_release(home, context, a),
        Command::Pack(a) => pack(a),
    }
}

fn pack(args: &ReleasePack) -> Result<()> {
    let what = || format!("cannot pack {}", args.folder.display());
    let scratch = tempfile::tempdir().map_err(|e| CliError::failure("no temporary folder").because(e))?;
    let store = Store::open(scratch.path()).map_err(|e| image_error(&what(), e))?;
    let spinner = output::spinner(&format!("packing {}", args.folder.display()));
    let packed = release::pack(&store, &args.folder, &args.software_version, &args.arch)
        .map_err(|e| image_error(&what(), e))?;
    spinner.finish_and_clear();
    let name = reference(&args.software_version, &args.arch);
    let mut out = BufWriter::new(File::create(&args.out).on_path("create", &args.out)?);
    shoal_image::export_archive(&store, &packed.manifest.digest, Some(&name), &mut out)
        .map_err(|e| image_error(&what(), e))?;
    let file = out.into_inner().map_err(IntoInnerError::into_error).on_path("write", &args.out)?;
    file.sync_all().on_path("write", &args.out)?;
    let (digest, size) = (packed.manifest.digest, packed.size);
    if args.format.is_data() {
        let data = serde_json::json!({ "file": args.out, "digest": digest.to_string(), "size": size });
        return output::data(args.format, &data);
    }
    output::line(&format!("{} ({}, {digest})", args.out.display(), show_bytes(size)));
    Ok(())
}

/// What a build is called in registries.
fn reference(version: &str, architecture: &str) -> String {
    format!("shoal/release:{version}-{architecture}")
}

/// A build whose blobs are in the own layout, every file of it seen.
fn take(store: &Store, path: &Path) -> Result<Packed> {
    let what = format!("cannot use {}", path.display());
    if !path.exists() {
        return Err(CliError::usage(format!("there is no file {}", path.display()))
            .hint("`shoal release pack` makes one"));
    }
    let spinner = output::spinner(&format!("reading {}", path.display()));
    let found = shoal_image::import(store, path).map_err(|e| image_error(&what, e))?;
    let [only] = found.as_slice() else {
        return Err(CliError::usage(format!(
            "{} holds {} images, not one release",
            path.display(),
            found.len()
        )));
    };
    let manifest = only.manifest.digest;
    let mut packed = release::read(store, &manifest, "").map_err(|e| image_error(&what, e))?;
    packed.build.reference = reference(&packed.version, &packed.build.architecture);
    spinner.finish_and_clear();
    Ok(packed)
}

fn target(args: &ReleasePublish) -> Result<Target> {
    let devices: Vec<DeviceId> = args
        .device
        .iter()
        .map(|d| d.parse().map_err(|e| CliError::usage(format!("--device {d}: {e}"))))
        .collect::<Result<_>>()?;
    let selector = args.selector.as_deref().map(selector_from_text).transpose()?;
    if devices.is_empty() && selector.is_none() {
        return Err(CliError::usage("which devices is it for?")
            .hint("--selector LABELS ('' is every device) or --device ID"));
    }
    Ok(Target { devices, selector, ..Target::default() })
}

#[derive(Serialize)]
struct Shown {
    name: String,
    version: String,
    sequence: u64,
    target: String,
    builds: Vec<ShownBuild>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<u64>,
}

#[derive(Serialize)]
struct ShownBuild {
    architecture: String,
    files: usize,
    size: u64,
    /// Files that the revision before did not have.
    changed: usize,
}

fn publish_release(home: &Home, context: Option<&str>, args: &ReleasePublish) -> Result<()> {
    let lifetime = duration("--expires", &args.expires)?;
    let deadline = duration("--deadline", &args.deadline)?;
    let target = target(args)?;
    let ring = if args.dry_run { None } else { Some(Keyring::open(home, &args.signing.keys)?) };
    let store = images::store(home)?;
    let mut packed: Vec<Packed> = args.builds.iter().map(|b| take(&store, b)).collect::<Result<_>>()?;
    packed.sort_by(|a, b| a.build.architecture.cmp(&b.build.architecture));
    let versions: BTreeSet<&str> = packed.iter().map(|p| p.version.as_str()).collect();
    if versions.len() != 1 {
        let all: Vec<&str> = versions.into_iter().collect();
        return Err(CliError::usage(format!("the builds are of several versions: {}", all.join(", "))));
    }
    let s = &Session::open(home.clone(), context)?;
    let mut trust = if args.offline {
        own_state(s)?
    } else {
        trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?
    };
    let mut asked = args.yes;
    for attempt in 1..=publish::ATTEMPTS {
        let before = trust.entry_of(EntryKind::Release, &args.name).cloned();
        let live = before.as_ref().filter(|b| b.liveness == Liveness::Live);
        let old =
            live.map(|b| trust.listed::<Release>(&s.client, &args.name, &b.newest.digest)).transpose()?;
        let old = old.map(shoal_protocol::verify::Verified::into_document);
        let release = compose(&trust, args, &packed, &target, (lifetime, deadline))?;
        let mut shown = show(&release, old.as_ref(), &packed);
        if !args.output.format.is_data() {
            print(&shown);
        }
        let Some(ring) = &ring else {
            return if args.output.format.is_data() {
                output::data(args.output.format, &shown)
            } else {
                Ok(())
            };
        };
        let sealed = publish::precheck(&trust, ring, &args.name, &release)?;
        if !asked && !output::confirm("sign and publish this?") {
            return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
        }
        asked = true;
        let newest = Revision { sequence: release.sequence, digest: sealed.digest };
        let entry = publish::plain_entry(EntryKind::Release, before.as_ref(), &args.name, newest);
        if args.offline {
            let version = publish::keep(&mut trust, ring, &[entry], std::slice::from_ref(&sealed))?;
            say_alone(version, args.output.format);
            shown.snapshot = Some(version);
            return if args.output.format.is_data() {
                output::data(args.output.format, &shown)
            } else {
                Ok(())
            };
        }
        for p in &packed {
            let name: Reference = images::reference(&p.build.reference)?;
            images::upload(&s.client, &store, &name, &p.build.manifest)?;
        }
        match publish::publish(&s.client, &mut trust, ring, &[entry], std::slice::from_ref(&sealed)) {
            Ok(accepted) => {
                shown.snapshot = Some(accepted.snapshot.version);
                if args.output.format.is_data() {
                    return output::data(args.output.format, &shown);
                }
                output::line(&format!(
                    "release {} revision {} published in snapshot {}; {} device(s) told at once",
                    args.name, release.sequence, accepted.snapshot.version, accepted.notified
                ));
                output::note("watch it with `shoal get releases` and `shoal get devices`");
                return Ok(());
            }
            Err(e) if publish::is_conflict(&e) && attempt < publish::ATTEMPTS => {
                output::note("somebody published meanwhile; verifying that and trying again");
                trust = trust::open(&s.client, &s.home, &s.context, None)?;
                if trust.entry_of(EntryKind::Release, &args.name) != before.as_ref() {
                    return Err(CliError::conflict(format!(
                        "somebody else published the release {}",
                        args.name
                    ))
                    .hint("look at `shoal get releases`, then publish it again"));
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn compose(
    trust: &Trust,
    args: &ReleasePublish,
    packed: &[Packed],
    target: &Target,
    (lifetime, deadline): (u64, u64),
) -> Result<Release> {
    let anchor = trust.anchor()?;
    let issued_at = now();
    let before = trust.entry_of(EntryKind::Release, &args.name);
    Ok(Release {
        fleet: anchor.fleet.clone(),
        epoch: anchor.root.document.epoch,
        name: args.name.clone(),
        sequence: before.map_or(0, |b| b.newest.sequence) + 1,
        issued_at,
        not_after: issued_at.plus(lifetime),
        target: target.clone(),
        version: packed.first().map(|p| p.version.clone()).unwrap_or_default(),
        builds: packed.iter().map(|p| p.build.clone()).collect(),
        deadline: Some(deadline),
    })
}

fn show(release: &Release, old: Option<&Release>, packed: &[Packed]) -> Shown {
    let build = |p: &Packed| {
        let had: BTreeSet<Digest> = old
            .and_then(|o| o.build(&p.build.architecture))
            .into_iter()
            .flat_map(|b| b.files.iter().map(|f| f.digest))
            .collect();
        ShownBuild {
            architecture: p.build.architecture.clone(),
            files: p.build.files.len(),
            size: p.size,
            changed: p.build.files.iter().filter(|f| !had.contains(&f.digest)).count(),
        }
    };
    let target = &release.target;
    let mut whom: Vec<String> = target.devices.iter().map(ToString::to_string).collect();
    whom.extend(target.selector.as_ref().map(review::selector));
    Shown {
        name: release.name.to_string(),
        version: release.version.clone(),
        sequence: release.sequence,
        target: whom.join(", "),
        builds: packed.iter().map(build).collect(),
        snapshot: None,
    }
}

fn print(shown: &Shown) {
    output::line(&format!("release {}, revision {}: version {}", shown.name, shown.sequence, shown.version));
    output::line(&format!("  for:   {}", output::clean(&shown.target)));
    for b in &shown.builds {
        output::line(&format!(
            "  {}: {} files, {} of them new, {} packed",
            output::clean(&b.architecture),
            b.files,
            b.changed,
            show_bytes(b.size)
        ));
    }
}
