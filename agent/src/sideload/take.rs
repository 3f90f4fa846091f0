//! Taking one bundle, as the agent's uid: rehearsed, then its images, then its documents.
//!
//! The whole bundle is read and held against its digests, and admission rehearses all of its documents, before the first one
//! counts: a stick that is pulled out half-way, or that holds one thing which is refused, changes nothing.

use super::documents::{Carried, wanted};
use super::progress::Progress;
use super::receipt::Asked;
use crate::failure::{Explained, Kind};
use crate::points;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use shoal_image::bundle::Bundle;
use shoal_ipc::{AdmitClient, Layout, Verdict};
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::Kind as DocumentKind;
use shoal_protocol::refusal::Code;
use shoal_runtime::{Guard, ImageService};
use std::collections::BTreeSet;
use std::path::Path;

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// New, and durable.
    Accepted,
    /// Held before.
    Known,
    /// For others.
    NotForThisDevice,
    /// Refused, or not asked for since another one was.
    Refused,
}

/// One document, in admission's words.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) document: String,
    pub(super) kind: String,
    pub(super) outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// Of a deployment that is here now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<Revision>,
}

/// A deployment's revision.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) digest: String,
}

/// What became of a bundle.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Taken {
    pub(super) documents: Vec<Told>,
    pub(super) images: usize,
    /// A receipt that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<Asked>,
}

impl Taken {
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.documents.iter().filter(|d| d.outcome == outcome).count()
    }

    /// The first refusal, in words.
    pub(super) fn refusal(&self) -> Option<String> {
        let told = self.documents.iter().find(|d| d.outcome == Outcome::Refused)?;
        let (code, detail) = (told.code.as_deref()?, told.detail.as_deref().unwrap_or_default());
        Some(format!("{} is refused: {code}: {detail}", told.document))
    }
}

fn told(document: &Carried<'_>, verdict: Verdict) -> Told {
    let kind = document.kind.map_or("", DocumentKind::as_str).to_owned();
    let of = |outcome, code, detail, revision| Told {
        document: document.title.to_owned(),
        kind: kind.clone(),
        outcome,
        code,
        detail,
        revision,
    };
    match verdict {
        Verdict::Accepted { kind, name, sequence, digest, known } => {
            let outcome = if known { Outcome::Known } else { Outcome::Accepted };
            let is_deployment = kind == DocumentKind::Deployment.as_str();
            let digest = Digest(digest.0).to_string();
            of(outcome, None, None, is_deployment.then_some(Revision { name, sequence, digest }))
        }
        Verdict::Refused { code, .. } if code == Code::WrongTarget.as_str() && is_for_some(document) => {
            of(Outcome::NotForThisDevice, None, None, None)
        }
        Verdict::Refused { code, detail } => of(Outcome::Refused, Some(code), Some(detail), None),
    }
}

/// Whether such a document may be for others: a root or snapshot is for the whole fleet, so of another one.
fn is_for_some(document: &Carried<'_>) -> bool {
    !matches!(document.kind, None | Some(DocumentKind::Root | DocumentKind::Snapshot))
}

pub(super) fn refused(e: shoal_image::Error) -> anyhow::Error {
    match e {
        shoal_image::Error::Refused { code, detail } => {
            Explained::new(Kind::Refused, format!("{code}: {detail}")).hint(code.hint()).into()
        }
        shoal_image::Error::NotFound(detail) if detail.contains("left out") => {
            Explained::new(Kind::Refused, format!("image_unavailable: {detail}"))
                .hint("this bundle was made with --since: take that one first, or make it without")
                .into()
        }
        shoal_image::Error::NotFound(detail) => {
            Explained::new(Kind::Refused, format!("{}: {detail}", Code::Malformed))
                .hint(Code::Malformed.hint())
                .into()
        }
        other => other.into(),
    }
}

/// Takes a bundle. A refusal of a document is told, not an error.
pub(super) fn take(path: &Path, layout: &Layout) -> Result<Taken> {
    let mut admit = AdmitClient::connect(layout).context("cannot reach admission: does shoal-guard run?")?;
    let held = admit.trust().context("cannot ask admission what it holds")?;
    if held.root_version == 0 {
        let hint = "`shoal-agent enroll --offline JOINFILE` first, with a join file of `shoal provision`";
        return Err(Explained::new(Kind::Usage, "this device is of no fleet yet").hint(hint).into());
    }
    let images = ImageService::open(Guard::new(layout.clone()))?;
    let bundle = Bundle::open(path, images.store().root()).map_err(refused)?;
    points::hit(points::SIDELOAD_READ);
    let mut documents = wanted(&bundle, &held);
    let mut taken = Taken::default();

    // A rehearsal first: one that is refused would leave what came before it.
    let mut rehearsal = AdmitClient::connect(layout).context("cannot reach admission")?;
    let mut offered = Vec::new();
    for document in documents.drain(..) {
        let verdict = rehearsal.rehearse(document.envelope).context("admission did not answer")?;
        let told = told(&document, verdict);
        match told.outcome {
            Outcome::Accepted | Outcome::Known => offered.push(document),
            Outcome::NotForThisDevice => taken.documents.push(told),
            Outcome::Refused => {
                taken.documents.push(told);
                return Ok(taken);
            }
        }
    }
    drop(rehearsal);
    points::hit(points::SIDELOAD_REHEARSED);
    let manifests: BTreeSet<Digest> = offered.iter().flat_map(|d| d.images.iter().copied()).collect();
    taken.images = keep_images(&bundle, &images, &manifests)?;
    points::hit(points::SIDELOAD_IMAGES);
    for document in &offered {
        let told = told(document, admit.submit(document.envelope).context("admission did not answer")?);
        points::hit(points::SIDELOAD_DOCUMENT);
        let asks = document.kind == Some(DocumentKind::ReceiptRequest);
        if asks && matches!(told.outcome, Outcome::Accepted | Outcome::Known) {
            taken.asked =
                Some(Asked::read(document.envelope).context("cannot read the request for a receipt")?);
        }
        let ends = told.outcome == Outcome::Refused && !is_for_some(document);
        taken.documents.push(told);
        if ends {
            // What follows is held against it.
            break;
        }
    }
    Ok(taken)
}

/// Keeps the images that the bundle has of those wanted; how many.
fn keep_images(bundle: &Bundle, images: &ImageService, wanted: &BTreeSet<Digest>) -> Result<usize> {
    let mut missing = 0_u64;
    for digest in wanted {
        missing = missing.saturating_add(bundle.missing(digest, images.store()).map_err(refused)?);
    }
    images.room_for(missing)?;
    let progress = Progress::new(missing);
    let mut taken = 0;
    for digest in wanted {
        if bundle.take(digest, images.store(), &progress.reader()).map_err(refused)?.is_some() {
            taken += 1;
        }
        points::hit(points::SIDELOAD_IMAGE);
    }
    progress.end();
    Ok(taken)
}
