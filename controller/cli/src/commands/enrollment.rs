//! `shoal approve | deny enrollment`: the operator's key signs the device's record, once its fingerprint was compared.

use super::{Session, short_id};
use crate::args::{Approve, Deny};
use crate::devices;
use crate::error::{CliError, Result};
use crate::output::{self, clean};
use crate::publish::Keyring;
use crate::trust::{self, now};
use shoal_controller_core::api;
use shoal_protocol::Code;
use shoal_protocol::latest::{DeviceRecord, RoleName};

/// The request that an operator means: an id, the beginning of one, or the name that a device gives itself.
fn find(s: &Session, text: &str) -> Result<api::Enrollment> {
    let list: api::EnrollmentList = s.client.get("/v1/enrollments", "the enrollments")?;
    let matches =
        |e: &&api::Enrollment| e.device.as_str().starts_with(text) || e.name.as_deref() == Some(text);
    let found: Vec<&api::Enrollment> = list.enrollments.iter().filter(matches).collect();
    let one = match found.as_slice() {
        [] => {
            return Err(CliError::usage(format!("no device that asked to enrol is called {text:?}"))
                .hint("list them with `shoal get enrollments`"));
        }
        [one] => one,
        many => {
            let ids = many.iter().map(|e| e.device.to_string()).collect();
            return Err(CliError::usage(format!("{text:?} may mean {} devices", many.len()))
                .details(ids)
                .hint("write more of the id"));
        }
    };
    s.client.get(&format!("/v1/enrollments/{}", one.device), "the enrollment")
}

pub(super) fn approve(s: &Session, args: &Approve) -> Result<()> {
    let asked = find(s, &args.name)?;
    let trust = trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?;
    let ring = Keyring::open(&s.home, &args.signing.keys)?;
    let (Some(request), Some(token)) = (&asked.request, &asked.token_envelope) else {
        return Err(CliError::failure("the controller does not show what the device asked with")
            .hint("is it a shoald of another version?"));
    };
    let (record, token) = devices::request(&trust, &asked.device, &request.0, &token.0)?;
    compare(args, &asked, &record)?;
    let root = trust.root()?;
    let record = DeviceRecord {
        epoch: root.epoch,
        sequence: 1,
        issued_at: now().max(record.issued_at),
        // As the operator's own signature says, not as the controller does.
        labels: token.labels,
        decommissioned: false,
        ..record
    };
    let (envelope, _) = ring.seal(root, RoleName::Enrollment, "", &record)?;
    let path = format!("/v1/enrollments/{}/approve", asked.device);
    let post = api::PostRecord { record: envelope.into() };
    let decided: api::EnrollmentDecided = s.client.post(&path, &post, "approving the device")?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &decided);
    }
    output::line(&format!("device {} approved", decided.device));
    output::note("it goes on by itself within a minute, if its agent runs: shoal get devices");
    Ok(())
}

/// Nothing is signed before somebody saw, or brought, what the device itself shows.
fn compare(args: &Approve, asked: &api::Enrollment, record: &DeviceRecord) -> Result<()> {
    let fingerprint = record.fingerprint();
    if let Some(shown) = args.fingerprint {
        if shown == fingerprint {
            return Ok(());
        }
        return Err(CliError::refused(
            Code::EnrollProof.as_str(),
            format!("the keys of device {} have another fingerprint than {shown}", asked.device),
        )
        .details(vec![format!("the device that asked: {fingerprint}")])
        .hint(
            "compare with what `shoal-agent status` prints on the device; if they differ, somebody else asked: shoal deny",
        ));
    }
    let labels: Vec<String> = asked.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    output::note(&format!(
        "device {} ({}) labels {}",
        short_id(&asked.device),
        clean(asked.name.as_deref().unwrap_or("-")),
        clean(&labels.join(","))
    ));
    output::note(&format!("fingerprint of its keys: {fingerprint}"));
    if output::confirm("does the device itself show the same (shoal-agent status)?") {
        return Ok(());
    }
    Err(CliError::usage("nothing was signed")
        .hint("compare the fingerprints and answer y, or add --fingerprint"))
}

pub(super) fn deny(s: &Session, args: &Deny) -> Result<()> {
    let asked = find(s, &args.name)?;
    let path = format!("/v1/enrollments/{}/deny", asked.device);
    let decided: api::EnrollmentDecided =
        s.client.post(&path, &serde_json::json!({}), "denying the device")?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &decided);
    }
    output::line(&format!("device {} denied", decided.device));
    Ok(())
}
