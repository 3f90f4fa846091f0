//! Receipts that operators bring by hand: verified, their reports kept as if the device itself had sent them, and their logs.

use crate::app::{App, now};
use crate::ingest::{check_report, keep};
use crate::problem::Problem;
use shoal_controller_core::api;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, Name};
use shoal_protocol::latest::{Kind, Receipt, ReceiptLog};
use shoal_protocol::refusal::Refusal;
use shoal_protocol::verify::{Verified, verify_as};

/// What a receipt says before anything of it is verified.
fn payload(envelope: &[u8]) -> Result<Receipt, Refusal> {
    let envelope = Envelope::parse(envelope)?;
    Ok(codec::decode(envelope.payload(), Limits::of_size(Kind::Receipt.size_cap()))?)
}

/// Takes a receipt, all of it or nothing.
pub(crate) async fn take(app: &App, envelope: Vec<u8>) -> Result<api::ReceiptAccepted, Problem> {
    let device = payload(&envelope)?.device;
    let mark = app.store.receipt_mark(device.clone()).await?;
    let trust = {
        let fleet = app.fleet();
        let known = fleet.devices.get(&device).filter(|d| !d.file.revoked);
        let mut trust =
            fleet.trust_of(known.ok_or_else(|| Problem::not_found(format_args!("device {device}")))?);
        trust.receipt = mark;
        trust
    };
    let verified: Verified<Receipt> = verify_as(&envelope, &trust, now())?;
    let identity = verified.identity();
    let receipt = verified.into_document();
    let mut reports = Vec::new();
    for report in &receipt.reports {
        reports.extend(check_report(app, &device, &report.0).await?);
    }
    // What a device said by hand it said when it was signed, not now.
    let said = receipt.issued_at.min(now());
    let stored = keep(app, reports, Some(said)).await;
    let at = (receipt.counter, identity);
    if !app.store.keep_receipt(device.clone(), at, envelope, now()).await? {
        let message = format!("a newer receipt of {device} came meanwhile");
        return Err(Problem::refused("report_replay", message));
    }
    let counter = receipt.counter;
    tracing::info!("receipt {counter} of {device}: {stored} new reports, {} logs", receipt.logs.len());
    Ok(api::ReceiptAccepted { device, counter, reports: stored as u64 })
}

/// What the newest receipt of a device has of a deployment's logs.
pub(crate) async fn logs(app: &App, device: &DeviceId, name: &Name) -> Result<Vec<ReceiptLog>, Problem> {
    let Some(envelope) = app.store.receipt(device.clone()).await? else { return Ok(Vec::new()) };
    // It was verified when it was kept.
    let receipt = payload(&envelope)?;
    Ok(receipt.logs.into_iter().filter(|l| l.name == *name).collect())
}
