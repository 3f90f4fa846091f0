//! `shoal trust`: founds a fleet, changes its root with as many signers as that takes, shows what is verified, refreshes
//! the snapshot, gives it back to a restored controller.

mod change;
mod init;
mod show;
mod sign;

pub(super) use sign::hand_over;

use super::Session;
use crate::args::TrustCommand;
use crate::audit::Copy;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::Home;
use crate::images;
use crate::output;
use crate::publish::{self, Keyring};
use crate::trust::{self, Trust};
use shoal_controller_core::api;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{Deployment, Document, EntryKind, Liveness, Release};

pub(super) fn run(home: &Home, context: Option<&str>, command: &TrustCommand) -> Result<()> {
    let open = || Session::open(home.clone(), context);
    match command {
        TrustCommand::Init(a) => init::run(&open()?, a),
        TrustCommand::Sign(a) => sign::run(home, a),
        TrustCommand::Publish { draft, yes, output } => sign::publish(&open()?, draft, *yes, output.format),
        TrustCommand::Rotate(a) => change::rotate(&open()?, a),
        TrustCommand::Revoke(a) => change::revoke(&open()?, a),
        TrustCommand::Grant(a) => change::grant(&open()?, a),
        TrustCommand::Show(a) => match &a.draft {
            Some(draft) => sign::show(home, draft, a.output.format),
            None => show::run(home, context, a),
        },
        TrustCommand::Refresh { signing } => {
            let s = open()?;
            let mut trust = trust::open(&s.client, &s.home, &s.context, signing.adopt.as_ref())?;
            let ring = Keyring::open(&s.home, &signing.keys)?;
            refresh(&s, &mut trust, &ring)
        }
        TrustCommand::Push { handover } => push(&open()?, *handover),
    }
}

/// The images of a deployment, and the builds of a release, that were signed without the controller, as far as they are here.
fn give_images(s: &Session, kind: EntryKind, envelope: &[u8]) -> Result<()> {
    let images: Vec<(String, Digest)> = match kind {
        EntryKind::Deployment => read::<Deployment>(envelope)?
            .template
            .all_containers()
            .map(|c| (c.image.reference.clone(), c.image.manifest))
            .collect(),
        EntryKind::Release => {
            read::<Release>(envelope)?.builds.into_iter().map(|b| (b.reference, b.manifest)).collect()
        }
        EntryKind::Config | EntryKind::Secret => return Ok(()),
    };
    let store = images::store(&s.home)?;
    for (reference, manifest) in images {
        if store.size(&manifest).is_some() {
            images::upload(&s.client, &store, &images::reference(&reference)?, &manifest)?;
        }
    }
    Ok(())
}

/// An own document, which was verified before it was kept.
fn read<T: Document>(envelope: &[u8]) -> Result<T> {
    Envelope::parse(envelope)
        .and_then(|e| codec::decode(e.payload(), Limits::of_size(T::KIND.size_cap())))
        .map_err(|e| CliError::failure("an own document cannot be read").because(e))
}

/// Signs the snapshot again as it is.
fn refresh(s: &Session, trust: &mut Trust, ring: &Keyring) -> Result<()> {
    let accepted = publish::publish(&s.client, trust, ring, &[], &[])?;
    output::note(&format!("snapshot {} published ({})", accepted.snapshot.version, accepted.snapshot.digest));
    Ok(())
}

/// What a restored controller lacks: the snapshot that this operator holds and the documents that it lists.
fn push(s: &Session, handover: bool) -> Result<()> {
    let none = || {
        CliError::refused("state_lost", "this operator has no own state of the fleet to give")
            .hint("ask a colleague who has")
    };
    let fleet = s.context.fleet.clone().ok_or_else(none)?;
    let trust = Trust::load(&s.home, &fleet)?.ok_or_else(none)?;
    let served: api::Trust = s.client.get("/v1/trust", "the fleet's trust")?;
    // First of all, since everything else adds to the log.
    match Copy::open(trust.dir())?.give_back(&s.client)? {
        Some(0) => {}
        Some(n) => output::line(&format!("the controller has {n} entries of the audit log again")),
        None => output::warn(
            "the controller's audit log went another way since: look at it, then `shoal audit --adopt HEAD`",
        ),
    }
    for root in trust.roots.iter().skip(served.roots.len()) {
        let body = api::PostRoot { root: root.clone().into(), handover };
        let _: api::RootAccepted = s.client.post("/v1/trust/roots", &body, "giving it a root")?;
    }
    let known = trust.snapshot().ok_or_else(none)?;
    let mut documents = Vec::new();
    for entry in known.document.entries.iter().filter(|e| e.liveness == Liveness::Live) {
        for revision in entry.stable.iter().chain([&entry.newest]) {
            let path = trust.document_path(&revision.digest);
            if path.exists() {
                let bytes = std::fs::read(&path).on_path("read", &path)?;
                give_images(s, entry.kind, &bytes)?;
                documents.push(bytes.into());
            }
        }
    }
    let expected_previous = match &served.snapshot {
        Some(bytes) => Some(
            Envelope::parse(&bytes.0)
                .map_err(|e| CliError::failure("the controller's snapshot cannot be read").because(e))?
                .identity()
                .into(),
        ),
        None => None,
    };
    let body =
        api::PostSnapshot { snapshot: trust::own_snapshot(&trust)?.into(), documents, expected_previous };
    let accepted: api::SnapshotAccepted = s.client.post("/v1/snapshots", &body, "giving it the snapshot")?;
    output::line(&format!("the controller has snapshot {} again", accepted.snapshot.version));
    Ok(())
}
