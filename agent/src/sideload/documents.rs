//! What a bundle's documents say of themselves, and which of them are worth offering to admission. Pure; nothing is believed.

use anyhow::Result;
use shoal_image::bundle::Bundle;
use shoal_ipc::TrustSummary;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, Digest};
use shoal_protocol::latest::{self as wire, Document, Target};
use shoal_protocol::text_map::TextMap;
use std::collections::BTreeSet;

/// One document, read but not verified.
#[derive(Debug)]
pub(super) struct Carried<'a> {
    pub(super) title: &'a str,
    /// Nothing for what cannot be read: admission says why.
    pub(super) kind: Option<wire::Kind>,
    pub(super) envelope: &'a [u8],
    /// For this device alone, when it is for one.
    device: Option<DeviceId>,
    /// Version or sequence.
    number: u64,
    /// Of a deployment: its name, and whom it is for.
    deployment: Option<(String, Target)>,
    /// The manifests that it needs: images that it runs, or the build of a release.
    pub(super) images: Vec<Digest>,
    /// Of a device record: its labels.
    labels: Option<TextMap>,
}

fn payload<T: Document>(envelope: &Envelope<'_>) -> Result<T> {
    Ok(codec::decode(envelope.payload(), Limits::of_size(T::KIND.size_cap()))?)
}

/// What a document says of itself.
fn carried<'a>(title: &'a str, bytes: &'a [u8]) -> Carried<'a> {
    let (device, deployment, labels) = (None, None, None);
    let images = Vec::new();
    let mut all =
        Carried { title, kind: None, envelope: bytes, device, number: 0, deployment, images, labels };
    // Half of what it says is nothing.
    if let Err(error) = read(&mut all) {
        tracing::debug!(title, %error, "a document cannot be read");
        all.images.clear();
        (all.kind, all.device, all.deployment) = (None, None, None);
    }
    all
}

fn read(all: &mut Carried<'_>) -> Result<()> {
    let envelope = Envelope::parse(all.envelope)?;
    let kind = envelope.kind()?;
    all.kind = Some(kind);
    match kind {
        wire::Kind::Root => all.number = payload::<wire::Root>(&envelope)?.version,
        wire::Kind::Device => {
            let record = payload::<wire::DeviceRecord>(&envelope)?;
            (all.device, all.number, all.labels) =
                (Some(record.device), record.sequence, Some(record.labels));
        }
        wire::Kind::Grant => all.device = Some(payload::<wire::Grant>(&envelope)?.device),
        wire::Kind::Release => {
            let release = payload::<wire::Release>(&envelope)?;
            all.number = release.sequence;
            all.images = release.build(std::env::consts::ARCH).map(|b| b.manifest).into_iter().collect();
        }
        wire::Kind::Config => all.number = payload::<wire::Config>(&envelope)?.sequence,
        wire::Kind::Secret => all.number = payload::<wire::Secret>(&envelope)?.sequence,
        wire::Kind::Deployment => {
            let d = payload::<wire::Deployment>(&envelope)?;
            let containers = d.template.containers.iter().chain(&d.template.init_containers);
            all.images = containers.map(|c| c.image.manifest).collect();
            all.number = d.sequence;
            all.deployment = Some((d.name.to_string(), d.target));
        }
        _ => {}
    }
    Ok(())
}

/// Where a document of a kind is given to admission among others: what verifies and lists goes before what is verified
/// and listed, and what refers to something goes before that.
fn rank(kind: Option<wire::Kind>) -> u8 {
    match kind {
        Some(wire::Kind::Root) => 0,
        Some(wire::Kind::Device) => 1,
        Some(wire::Kind::Snapshot) => 2,
        Some(wire::Kind::Deployment) => 3,
        Some(wire::Kind::Config | wire::Kind::Secret) => 4,
        // It names the snapshot that is held then.
        Some(wire::Kind::ReceiptRequest) => 6,
        _ => 5,
    }
}

/// The documents of a bundle that admission of this device can want, in the order in which they are offered.
pub(super) fn wanted<'a>(bundle: &'a Bundle, held: &TrustSummary) -> Vec<Carried<'a>> {
    let mut all: Vec<Carried<'a>> =
        bundle.documents().iter().map(|d| carried(&d.title, &d.envelope)).collect();
    all.sort_by_key(|d| (rank(d.kind), d.number));
    let own = held.device.as_ref().map(|d| d.device.clone());
    let is_own = |d: &DeviceId| own.as_deref() == Some(d.as_str());
    // A newer record in the bundle counts before its deployments do.
    let newer = all.iter().filter(|d| d.device.as_ref().is_some_and(is_own)).find_map(|d| d.labels.clone());
    let labels = newer.unwrap_or_else(|| {
        let flat = held.device.as_ref().map(|d| d.labels.as_slice()).unwrap_or_default();
        flat.chunks_exact(2).map(|p| (p[0].clone(), p[1].clone())).collect()
    });
    let newest: BTreeSet<(String, u64)> =
        all.iter().filter_map(|d| Some((d.deployment.as_ref()?.0.clone(), d.number))).collect();
    let wants = |d: &Carried<'_>| {
        if d.device.as_ref().is_some_and(|device| !is_own(device)) {
            return false;
        }
        match (&d.deployment, d.kind) {
            // One that it has been through.
            (_, Some(wire::Kind::Root)) => d.number > held.root_version,
            (Some((name, target)), _) => {
                let here: Vec<u64> =
                    held.held.iter().filter(|h| h.name == *name).map(|h| h.sequence).collect();
                // What deselects this device is offered where it has something to take away.
                let concerns = !here.is_empty()
                    || own.as_ref().and_then(|o| o.parse().ok()).is_some_and(|o| target.selects(&o, &labels));
                // What others still run while a newer one, which is here, opens to them.
                let passed = here.iter().any(|s| *s > d.number)
                    && newest.iter().any(|(n, s)| n == name && *s > d.number);
                concerns && !passed
            }
            _ => true,
        }
    };
    all.retain(wants);
    all
}
