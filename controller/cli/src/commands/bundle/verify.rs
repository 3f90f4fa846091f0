//! `shoal bundle verify`: what a device without a network would say to a bundle, asked here.
//!
//! By the same function as on a device. Never here: a change of the own state, or a question to anybody.

use super::{checked_images, open};
use crate::args::BundleVerify;
use crate::commands::Session;
use crate::commands::apply::own_state;
use crate::commands::recipients::{newest, verified};
use crate::commands::token::labels;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images::image_error;
use crate::output;
use crate::records;
use crate::trust::{Trust, now, refusal};
use serde::Serialize;
use shoal_image::bundle::{Bundle, SignedDocument};
use shoal_image::{Image, Store};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{Bytes, Digest};
use shoal_protocol::latest::{Container, Deployment, DeviceRecord, Kind, Root};
use shoal_protocol::signer::{Ed25519Signer, Signer as _};
use shoal_protocol::verify::{Expect, Known, Platform, Standing, TrustState, Verdict, Viewpoint, verify};
use shoal_protocol::{Code, Refusal, join};
use std::path::Path;
use std::rc::Rc;
use tempfile::TempDir;

#[derive(Serialize)]
struct Judged {
    document: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize)]
struct Verified {
    accepted: bool,
    documents: Vec<Judged>,
    images: Vec<String>,
}

pub(super) fn run(home: &Home, context: Option<&str>, args: &BundleVerify) -> Result<()> {
    let (found, scratch) = open(&args.path)?;
    let mut start = match &args.join {
        Some(path) => Start::of_join(path)?,
        None => Start::own(&own_state(&Session::open(home.clone(), context)?)?),
    };
    if let Some(record) = as_device(home, context, args, &start.state)? {
        start.state.viewpoint = Viewpoint::Device;
        start.state.record = Some(record);
        let architecture = args.architecture.clone();
        // What is not said excludes nothing.
        start.state.platform =
            architecture.map(|architecture| Platform { architecture, ..Platform::default() });
    }
    let mut images = checked_images(&found)?;
    let (documents, deployments) = judge(&found, &mut start);
    for d in &deployments {
        images.extend(contents(&found, &scratch, d)?);
    }
    let refused = documents.iter().find(|j| j.outcome == "refused");
    let error = refused.map(|j| {
        let (code, detail) = (j.code.unwrap_or_default(), j.detail.as_deref().unwrap_or_default());
        CliError::refused(code, format!("{} would be refused: {detail}", output::clean(&j.document)))
    });
    let verified = Verified { accepted: error.is_none(), documents, images };
    if args.output.format.is_data() {
        output::data(args.output.format, &verified)?;
    } else {
        for j in &verified.documents {
            let why = j.code.map(|c| format!("  {c}")).unwrap_or_default();
            output::line(&output::clean(&format!("{:<20} {}{why}", j.outcome, j.document)));
        }
        for image in &verified.images {
            output::line(&output::clean(&format!("{:<20} {image}", "image")));
        }
    }
    match error {
        Some(e) => Err(e),
        None if args.output.format.is_data() => Ok(()),
        None => {
            output::line("accepted");
            Ok(())
        }
    }
}

/// What the device that is asked for knows before it sees the bundle.
struct Start {
    state: TrustState,
    /// The roots that it has been through.
    roots: Vec<Vec<u8>>,
}

impl Start {
    /// One that holds the newest root that this operator knows, and nothing else.
    fn own(trust: &Trust) -> Self {
        let anchor = trust.state.anchor.clone();
        let fleet = anchor.as_ref().map(|a| a.fleet.clone());
        let state = TrustState { viewpoint: Viewpoint::Observer, anchor, fleet, ..TrustState::default() };
        Self { state, roots: trust.roots.clone() }
    }

    /// One that was just enrolled.
    fn of_join(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).on_path("read", path)?;
        let join = join::from_text(&text)
            .map_err(|e| CliError::usage(format!("{} is no join file", path.display())).because(e))?;
        let mut state = TrustState { viewpoint: Viewpoint::Observer, ..TrustState::default() };
        state.fleet = Some(join.fleet);
        let mut roots = Vec::new();
        for (n, root) in join.roots.iter().enumerate() {
            let expect = if n == 0 { Expect::FirstRoot } else { Expect::Only(Kind::Root) };
            let verdict =
                verify(&root.0, &state, now(), expect).map_err(|r| refusal("the join file's root", &r))?;
            state.advance(&verdict);
            roots.push(root.0.clone());
        }
        let token = verify(&join.token.0, &state, now(), Expect::Stored(Kind::Token))
            .map_err(|r| refusal("the join file's token", &r))?;
        state.advance(&token);
        state.minima = Some(join.minima);
        Ok(Self { state, roots })
    }
}

/// The device as which the bundle is looked at, if it is as one.
fn as_device(
    home: &Home,
    context: Option<&str>,
    args: &BundleVerify,
    state: &TrustState,
) -> Result<Option<Known<DeviceRecord>>> {
    if let Some(text) = &args.device {
        let trust = own_state(&Session::open(home.clone(), context)?)?;
        let all = newest(&trust, records::kept(&trust)?).records;
        let mut meant = all.iter().filter(|r| r.device.as_str().starts_with(text.as_str()));
        let (first, second) = (meant.next(), meant.next());
        let record = first.filter(|_| second.is_none()).and_then(|r| verified(&trust, r));
        let record = record.ok_or_else(|| {
            CliError::usage(format!("{text:?} is not one device whose record is known here")).hint(
                "records come with `shoal receipt import`, and with `shoal bundle create` from the controller; or say what it is with --labels",
            )
        })?;
        let digest = Digest::of(&codec::encode(&record));
        return Ok(Some(Known::new(record, digest)));
    }
    let labels = match (&args.labels, &args.join, state.tokens.first()) {
        (Some(text), ..) => labels(text)?,
        (None, Some(_), Some(token)) => token.labels.clone(),
        _ => return Ok(None),
    };
    let anchor = state.anchor.as_ref().ok_or_else(|| CliError::failure("no root is held"))?;
    // A device that nobody has: only its labels count.
    let key = Ed25519Signer::from_seed([0; 32]).key();
    let record = DeviceRecord {
        fleet: anchor.fleet.clone(),
        epoch: anchor.root.document.epoch,
        device: key.device_id(),
        sequence: 1,
        issued_at: now(),
        identity: key.clone(),
        sealing: Bytes(vec![0; 32]),
        attest: key,
        labels,
        decommissioned: false,
    };
    Ok(Some(Known::new(record, Digest([0; 32]))))
}

fn rank(kind: Option<Kind>) -> u8 {
    match kind {
        Some(Kind::Root) => 0,
        Some(Kind::Device) => 1,
        Some(Kind::Snapshot) => 2,
        Some(Kind::Deployment) => 3,
        Some(Kind::Grant) => 5,
        Some(Kind::ReceiptRequest) => 6,
        _ => 4,
    }
}

fn kind(document: &SignedDocument) -> Option<Kind> {
    Envelope::parse(&document.envelope).ok().and_then(|e| e.kind().ok())
}

fn root_version(envelope: &[u8]) -> Option<u64> {
    let envelope = Envelope::parse(envelope).ok()?;
    let root: Root = codec::decode(envelope.payload(), Limits::of_size(Kind::Root.size_cap())).ok()?;
    Some(root.version)
}

/// What would become of each document, and the deployments that would run.
fn judge(found: &Bundle, start: &mut Start) -> (Vec<Judged>, Vec<Deployment>) {
    let mut all: Vec<&SignedDocument> = found.documents().iter().collect();
    all.sort_by_key(|d| (rank(kind(d)), root_version(&d.envelope)));
    let (mut out, mut deployments) = (Vec::new(), Vec::new());
    for document in all {
        let kind = kind(document);
        let title = document.title.clone();
        let (outcome, refused) = match known_root(document, kind, start) {
            Some(true) => ("known", None),
            Some(false) => {
                let refusal = Refusal::new(Code::WrongTarget, "it is of another chain, so of another fleet");
                ("refused", Some(refusal))
            }
            None => match verify(&document.envelope, &start.state, now(), Expect::Delivered) {
                Ok(verdict) => {
                    start.state.advance(&verdict);
                    let outcome = if verdict.standing() == Standing::Held { "known" } else { "accepted" };
                    if let Verdict::Deployment(v) = verdict {
                        deployments.push(v.into_document());
                    }
                    (outcome, None)
                }
                Err(r) if r.code == Code::WrongTarget && rank(kind) > rank(Some(Kind::Snapshot)) => {
                    ("not_for_this_device", None)
                }
                Err(r) => ("refused", Some(r)),
            },
        };
        let ends = refused.is_some() && rank(kind) < rank(Some(Kind::Deployment));
        let (code, detail) = refused.map(|r| (r.code.as_str(), r.detail)).unzip();
        out.push(Judged { document: title, outcome, code, detail });
        if ends {
            // What follows is held against it.
            break;
        }
    }
    (out, deployments)
}

/// Of a root that was walked past: whether it is the same one, whoever signed it besides.
fn known_root(document: &SignedDocument, kind: Option<Kind>, start: &Start) -> Option<bool> {
    let version = root_version(&document.envelope).filter(|_| kind == Some(Kind::Root))?;
    let own = start.roots.get(usize::try_from(version).ok()?.checked_sub(1)?)?;
    let identity = |b: &[u8]| Envelope::parse(b).ok().map(|e| e.identity());
    Some(identity(own) == identity(&document.envelope))
}

/// Whether the images hold what a deployment names, byte for byte.
fn contents(found: &Bundle, scratch: &TempDir, d: &Deployment) -> Result<Vec<String>> {
    let failed = |e| image_error("the bundle", e);
    let quiet: Rc<dyn Fn(u64)> = Rc::new(|_| ());
    let mut said = Vec::new();
    for c in d.template.all_containers() {
        let (name, manifest) = (&c.image.reference, &c.image.manifest);
        let Some(descriptor) = found.images().iter().find(|i| i.digest == *manifest) else {
            said.push(format!("{name} {manifest} is not in it: the device must have it"));
            continue;
        };
        if !found.check(descriptor).map_err(failed)?.is_empty() {
            continue;
        }
        let store = Store::open(scratch.path().join("images")).map_err(failed)?;
        found.take(manifest, &store, &quiet).map_err(failed)?;
        let image = Image::load(&store, manifest).map_err(failed)?;
        check_files(c, &image)?;
    }
    Ok(said)
}

fn check_files(c: &Container, image: &Image) -> Result<()> {
    for file in c.image.files.iter().chain(c.modules()) {
        let is = image.files.get(&file.path);
        if is.is_none_or(|f| f.digest != file.digest || f.size != file.size) {
            let what = format!("{}: {} is not what was signed", c.image.reference, file.path);
            return Err(CliError::refused(Code::DigestMismatch.as_str(), what));
        }
    }
    Ok(())
}
