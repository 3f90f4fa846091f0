//! `shoal-agent sideload`: what an operator signed, from a stick instead of the network. Same admission, same reconcile.
//!
//! The whole bundle is read and held against its digests, and its images are kept, before admission hears of the first
//! document: a stick that is pulled out half-way changes nothing. Nothing here is believed; admission verifies.

use crate::failure::{Explained, Kind};
use crate::{output, privilege};
use anyhow::{Context, Result};
use serde_json::json;
use shoal_image::bundle::Bundle;
use shoal_ipc::{AdmitClient, Layout, TrustSummary, Verdict};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, Digest};
use shoal_protocol::latest::{self as wire, Document};
use shoal_protocol::refusal::Code;
use shoal_runtime::{Guard, ImageService};
use std::collections::BTreeSet;
use std::path::Path;

/// One document, read but not verified.
struct Carried<'a> {
    title: &'a str,
    kind: wire::Kind,
    envelope: &'a [u8],
    /// For this device alone, when it is for one.
    device: Option<DeviceId>,
    /// Of a root.
    version: Option<u64>,
    /// Manifests that a deployment runs.
    images: Vec<Digest>,
}

fn payload<T: Document>(envelope: &Envelope<'_>) -> Result<T> {
    Ok(codec::decode(envelope.payload(), Limits::of_size(T::KIND.size_cap()))?)
}

/// What a document says of itself.
fn carried<'a>(title: &'a str, bytes: &'a [u8]) -> Result<Carried<'a>> {
    let envelope = Envelope::parse(bytes)?;
    let kind = envelope.kind()?;
    let mut all = Carried { title, kind, envelope: bytes, device: None, version: None, images: Vec::new() };
    match kind {
        wire::Kind::Root => all.version = Some(payload::<wire::Root>(&envelope)?.version),
        wire::Kind::Device => all.device = Some(payload::<wire::DeviceRecord>(&envelope)?.device),
        wire::Kind::Grant => all.device = Some(payload::<wire::Grant>(&envelope)?.device),
        wire::Kind::Deployment => {
            let template = payload::<wire::Deployment>(&envelope)?.template;
            let containers = template.containers.iter().chain(&template.init_containers);
            all.images = containers.map(|c| c.image.manifest).collect();
        }
        _ => {}
    }
    Ok(all)
}

/// Whether admission of this device can want it: not another device's, and no root that it has been through.
fn concerns(document: &Carried<'_>, held: &TrustSummary) -> bool {
    let own = held.device.as_ref().map(|d| d.device.as_str());
    document.device.as_ref().is_none_or(|d| own == Some(d.as_str()))
        && document.version.is_none_or(|v| v > held.root_version)
}

/// Where a document of a kind is given to admission among others: what verifies and lists goes before what is verified
/// and listed, and what refers to something goes before that.
fn rank(kind: wire::Kind) -> u8 {
    match kind {
        wire::Kind::Root => 0,
        wire::Kind::Device => 1,
        wire::Kind::Snapshot => 2,
        wire::Kind::Deployment => 3,
        _ => 4,
    }
}

/// What became of a document.
#[derive(Debug)]
enum Outcome {
    Accepted,
    Known,
    /// A deployment that selects other devices.
    NotForThis,
    Refused {
        code: String,
        detail: String,
    },
}

/// The whole command.
pub(crate) fn run(path: &Path, layout: &Layout, as_json: bool) -> Result<()> {
    // Before anything of the stick is opened: it is somebody else's.
    privilege::become_agent(layout)?;
    let mut admit = AdmitClient::connect(layout).context("cannot reach admission: does shoal-guard run?")?;
    let held = admit.trust().context("cannot ask admission what it holds")?;
    if held.root_version == 0 {
        let hint = "`shoal-agent enroll --offline JOINFILE` first, with a join file of `shoal provision`";
        return Err(Explained::new(Kind::Usage, "this device is of no fleet yet").hint(hint).into());
    }
    let images = ImageService::open(Guard::new(layout.clone()))?;
    let bundle = Bundle::open(path, images.store().root()).map_err(refused)?;
    let mut documents = Vec::new();
    for document in bundle.documents() {
        let read = carried(&document.title, &document.envelope)
            .with_context(|| format!("the document {:?} of {}", document.title, path.display()))?;
        documents.push(read);
    }
    documents.retain(|d| concerns(d, &held));
    documents.sort_by_key(|d| (rank(d.kind), d.version));

    let wanted: BTreeSet<Digest> = documents.iter().flat_map(|d| d.images.iter().copied()).collect();
    let taken = keep_images(&bundle, &images, &wanted, as_json)?;
    let mut outcomes = Vec::new();
    for document in &documents {
        let outcome = submit(&mut admit, document)?;
        let ends = matches!(outcome, Outcome::Refused { .. })
            && matches!(document.kind, wire::Kind::Root | wire::Kind::Snapshot);
        outcomes.push((document, outcome));
        if ends {
            // What follows is held against it.
            break;
        }
    }
    say(&outcomes, taken, as_json)
}

fn refused(e: shoal_image::Error) -> anyhow::Error {
    match e {
        shoal_image::Error::Refused { code, detail } => {
            Explained::new(Kind::Refused, format!("{code}: {detail}")).hint(code.hint()).into()
        }
        other => other.into(),
    }
}

/// Keeps the images that the bundle has of those wanted; how many.
fn keep_images(
    bundle: &Bundle,
    images: &ImageService,
    wanted: &BTreeSet<Digest>,
    as_json: bool,
) -> Result<usize> {
    let mut missing = 0_u64;
    for digest in wanted {
        missing = missing.saturating_add(bundle.missing(digest, images.store()).map_err(refused)?);
    }
    images.room_for(missing)?;
    let mut taken = 0;
    for digest in wanted {
        if let Some(image) = bundle.take(digest, images.store()).map_err(refused)? {
            taken += 1;
            if !as_json {
                output::line(&format!("image       {digest} ({} bytes)", image.size));
            }
        }
    }
    Ok(taken)
}

fn submit(admit: &mut AdmitClient, document: &Carried<'_>) -> Result<Outcome> {
    let verdict = admit.submit(document.envelope).context("admission did not answer")?;
    Ok(match verdict {
        Verdict::Accepted { known: true, .. } => Outcome::Known,
        Verdict::Accepted { .. } => Outcome::Accepted,
        Verdict::Refused { code, .. } if code == Code::WrongTarget.as_str() => Outcome::NotForThis,
        Verdict::Refused { code, detail } => Outcome::Refused { code, detail },
    })
}

fn say(outcomes: &[(&Carried<'_>, Outcome)], images: usize, as_json: bool) -> Result<()> {
    let count = |f: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, o)| f(o)).count();
    let accepted = count(|o| matches!(o, Outcome::Accepted));
    let known = count(|o| matches!(o, Outcome::Known));
    if as_json {
        let all: Vec<_> = outcomes
            .iter()
            .map(|(d, o)| {
                let (word, code, detail) = match o {
                    Outcome::Accepted => ("accepted", None, None),
                    Outcome::Known => ("known", None, None),
                    Outcome::NotForThis => ("not_for_this_device", None, None),
                    Outcome::Refused { code, detail } => ("refused", Some(code), Some(detail)),
                };
                json!({ "document": d.title, "kind": d.kind.as_str(), "outcome": word, "code": code, "detail": detail })
            })
            .collect();
        output::line(&json!({ "documents": all, "images": images }).to_string());
    } else {
        for (document, outcome) in outcomes {
            match outcome {
                Outcome::Accepted => output::line(&format!("accepted    {}", document.title)),
                Outcome::Refused { code, detail } => {
                    output::line(&format!("refused     {}: {code}: {detail}", document.title));
                }
                Outcome::Known | Outcome::NotForThis => {}
            }
        }
        output::line(&format!("{accepted} documents accepted, {known} known already, {images} images kept"));
    }
    let first = outcomes.iter().find_map(|(d, o)| match o {
        Outcome::Refused { code, detail } => Some((d.title, code, detail)),
        _ => None,
    });
    match first {
        None => Ok(()),
        Some((title, code, detail)) => {
            let why = format!("{title} is refused: {code}: {detail}");
            Err(Explained::new(Kind::Refused, why).into())
        }
    }
}
