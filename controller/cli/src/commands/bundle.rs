//! `shoal bundle`: what the snapshot lists, as it was signed, and the images that it runs, in one file.
//!
//! Never here: a key. What goes in was signed before, and is verified once more by the own root on its way.

use crate::api::Client;
use crate::args::{BundleCommand, BundleCreate, BundleInspect};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::{image_error, store};
use crate::output;
use crate::trust::{Trust, own_snapshot};
use serde::Serialize;
use shoal_image::bundle::{self, Bundle, SignedDocument};
use shoal_protocol::ids::{Digest, Name};
use shoal_protocol::latest::{Config, Deployment, Entry, EntryKind, Liveness, Revision, Secret};
use shoal_protocol::verify::FromVerdict;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

pub(super) fn run(home: &Home, context: Option<&str>, command: &BundleCommand) -> Result<()> {
    match command {
        BundleCommand::Create(a) => create(home, context, a),
        BundleCommand::Inspect(a) => inspect(a),
    }
}

#[derive(Serialize)]
struct Contents {
    file: String,
    size: u64,
    documents: Vec<String>,
    images: Vec<String>,
}

/// Gathers documents, each from the own state or, when that lacks it, from the controller.
struct Gatherer<'a> {
    trust: Trust,
    client: &'a Client,
    documents: Vec<SignedDocument>,
    images: BTreeMap<Digest, String>,
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

    fn deployment(&mut self, entry: &Entry) -> Result<()> {
        for revision in revisions(entry) {
            let found: Deployment = self.listed(&entry.name, &revision)?;
            let containers = found.template.containers.iter().chain(&found.template.init_containers);
            self.images.extend(containers.map(|c| (c.image.manifest, c.image.reference.clone())));
        }
        Ok(())
    }
}

/// What devices run, and what they move to.
fn revisions(entry: &Entry) -> impl Iterator<Item = Revision> {
    entry.stable.into_iter().chain([entry.newest])
}

fn create(home: &Home, context: Option<&str>, args: &BundleCreate) -> Result<()> {
    let context = home.context(context)?;
    let client = Client::new(&context)?;
    let fleet = context.fleet.as_deref();
    let trust = match fleet {
        Some(fleet) => Trust::load(home, fleet)?,
        None => None,
    };
    let trust = trust.ok_or_else(|| {
        CliError::usage("this operator has no own state of the fleet")
            .hint("`shoal trust show` takes it over")
    })?;
    let live = |kind| {
        let all = trust.entries(kind).filter(|e| e.liveness == Liveness::Live);
        all.cloned().collect::<Vec<Entry>>()
    };
    let mut deployments = live(EntryKind::Deployment);
    if let Some(unknown) = args.names.iter().find(|n| !deployments.iter().any(|e| e.name == **n)) {
        let known: Vec<&str> = deployments.iter().map(|e| e.name.as_str()).collect();
        return Err(CliError::usage(format!("no deployment {unknown} is live"))
            .hint(format!("live: {}", known.join(", "))));
    }
    deployments.retain(|e| args.names.is_empty() || args.names.contains(&e.name));
    let (configs, secrets) = (live(EntryKind::Config), live(EntryKind::Secret));

    let mut documents = Vec::new();
    for (envelope, version) in trust.roots.iter().zip(1_u64..) {
        documents.push(SignedDocument { title: format!("root {version}"), envelope: envelope.clone() });
    }
    let version = trust.snapshot().map_or(0, |s| s.document.version);
    documents.push(SignedDocument { title: format!("snapshot {version}"), envelope: own_snapshot(&trust)? });
    let mut all = Gatherer { trust, client: &client, documents, images: BTreeMap::new() };
    deployments.iter().try_for_each(|e| all.deployment(e))?;
    for entry in &configs {
        revisions(entry).try_for_each(|r| all.listed::<Config>(&entry.name, &r).map(drop))?;
    }
    for entry in &secrets {
        revisions(entry).try_for_each(|r| all.listed::<Secret>(&entry.name, &r).map(drop))?;
    }
    if !secrets.is_empty() {
        output::warn("grants of secrets are not in a bundle: devices get them from the controller");
    }
    let store = store(home)?;
    if let Some((digest, name)) = all.images.iter().find(|(d, _)| store.size(d).is_none()) {
        return Err(CliError::usage(format!("the image {name} ({digest}) is not in the own layout"))
            .hint(format!("import it: `shoal image import SOURCE {name}`")));
    }
    let images: Vec<(Digest, String)> = all.images.into_iter().collect();
    write(&args.out, &all.documents, &images, &store)?;
    report(&args.out, args.format, &all.documents, images.iter().map(|(d, n)| format!("{n} {d}")))
}

/// Beside its place first: a file of that name is whole, or the one from before.
fn write(
    path: &Path,
    documents: &[SignedDocument],
    images: &[(Digest, String)],
    store: &shoal_image::Store,
) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let written = || -> Result<()> {
        let mut out = BufWriter::new(File::create(partial).on_path("create", partial)?);
        bundle::write(documents, images, store, &mut out).map_err(|e| image_error("the bundle", e))?;
        let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).on_path("write", partial)?;
        file.sync_all().on_path("write", partial)?;
        std::fs::rename(partial, path).on_path("write", path)
    };
    written().inspect_err(|_| drop(std::fs::remove_file(partial)))
}

fn inspect(args: &BundleInspect) -> Result<()> {
    let failed = |e| image_error("the bundle", e);
    let scratch = tempfile::tempdir().map_err(|e| CliError::failure("no temporary folder").because(e))?;
    let found = Bundle::open(&args.path, scratch.path()).map_err(failed)?;
    // Only copying an image shows that each of its bytes is there and right.
    let store = shoal_image::Store::open(scratch.path().join("images")).map_err(failed)?;
    let mut images = Vec::new();
    for image in found.images() {
        let taken = found.take(&image.digest, &store).map_err(failed)?;
        let name = image.annotations.get("org.opencontainers.image.ref.name").map_or("-", String::as_str);
        images.push(format!("{name} {} ({} bytes)", image.digest, taken.map_or(0, |t| t.size)));
    }
    report(&args.path, args.output.format, found.documents(), images)
}

fn report(
    path: &Path,
    format: output::Format,
    documents: &[SignedDocument],
    images: impl IntoIterator<Item = String>,
) -> Result<()> {
    let size = std::fs::metadata(path).on_path("read", path)?.len();
    let contents = Contents {
        file: path.display().to_string(),
        size,
        documents: documents.iter().map(|d| d.title.clone()).collect(),
        images: images.into_iter().collect(),
    };
    if format.is_data() {
        return output::data(format, &contents);
    }
    for title in &contents.documents {
        output::line(&format!("document  {}", output::clean(title)));
    }
    for image in &contents.images {
        output::line(&format!("image     {}", output::clean(image)));
    }
    output::line(&format!("{} ({size} bytes)", contents.file));
    output::note("on the device: shoal-agent sideload FILE");
    Ok(())
}
