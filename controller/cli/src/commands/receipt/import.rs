//! `shoal receipt import`: each file is verified by the own root chain, kept, then handed to the controller where it answers.

use super::read::{self, View, is_receipt, known};
use crate::args::ReceiptImport;
use crate::commands::Session;
use crate::commands::apply::own_state;
use crate::devices;
use crate::error::{CliError, Kind as ErrorKind, OnPath as _, Result};
use crate::output;
use crate::records;
use crate::trust::Trust;
use serde::Serialize;
use shoal_controller_core::api::{self, SignedRecord};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::latest::{DeviceRecord, EnrollRequest, Kind};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The largest file that a device writes.
const MAX: u64 = 2 << 20;
/// Token, record and certificate request together.
const REQUEST: usize = 32 << 10;

#[derive(Serialize)]
struct Imported {
    file: String,
    device: String,
    /// Of a request to enrol: what to compare with the device's own console.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    /// Whether the controller has it too.
    handed_over: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<View>,
}

pub(super) fn run(s: &Session, args: &ReceiptImport) -> Result<()> {
    let trust = own_state(s)?;
    let mut all = Vec::new();
    for path in &args.files {
        let bytes = read(path)?;
        let file = path.display().to_string();
        let imported = if is_receipt(&bytes) {
            receipt(s, &trust, &bytes, file, args.offline)?
        } else {
            let request = codec::decode::<EnrollRequest>(&bytes, Limits::of_size(REQUEST)).map_err(|e| {
                CliError::refused("malformed", format!("{file} is nothing that a device gave back"))
                    .because(e)
            })?;
            let record = enrollment(&trust, &request)?;
            let handed_over = !args.offline && hand_over_enrollment(s, &request)?;
            let fingerprint = Some(record.fingerprint().to_string());
            Imported { file, device: record.device.to_string(), fingerprint, handed_over, receipt: None }
        };
        if !args.output.format.is_data() {
            print(&imported);
        }
        all.push(imported);
    }
    if args.output.format.is_data() {
        return output::data(args.output.format, &serde_json::json!({ "imported": all }));
    }
    Ok(())
}

fn print(i: &Imported) {
    let where_to = if i.handed_over { "kept, and handed to the controller" } else { "kept" };
    match (&i.receipt, &i.fingerprint) {
        (Some(view), _) => {
            view.lines().iter().for_each(|l| output::line(&output::clean(l)));
            output::line(&format!("  {where_to}"));
        }
        (None, Some(keys)) => output::line(&format!("{}  {where_to}; its keys: {keys}", i.device)),
        (None, None) => {}
    }
}

/// Verifies, keeps and hands over one receipt.
fn receipt(s: &Session, trust: &Trust, bytes: &[u8], file: String, offline: bool) -> Result<Imported> {
    let mut served = Vec::new();
    let mut reached = false;
    if !offline {
        match s.client.get::<api::RecordList>("/v1/records", "the device records") {
            Ok(list) => (served, reached) = (list.records, true),
            Err(e) if e.kind == ErrorKind::Unreachable => {}
            Err(e) => return Err(e),
        }
    }
    // What was imported without a controller is handed over later; whether that one has it already it knows itself.
    let known = known(trust, bytes)?;
    let identity = Envelope::parse(bytes).ok().map(|e| e.identity());
    let again = reached && known.is_some_and(|k| Some(k.digest) == identity);
    let read = read::read(trust, bytes, known.filter(|_| !again), &served)?;
    if !again {
        read::keep(trust, &read, bytes)?;
    }
    if reached {
        if let Some(request) =
            read.enrollment.as_ref().filter(|_| !served.iter().any(|r| r.device == read.receipt.device))
        {
            hand_over_enrollment(s, request)?;
        }
        let body = api::PostReceipt { receipt: bytes.to_vec().into() };
        let _: api::ReceiptAccepted = s.client.post("/v1/receipts", &body, "handing over the receipt")?;
    }
    let device = read.receipt.device.to_string();
    Ok(Imported { file, device, fingerprint: None, handed_over: reached, receipt: Some(View::of(&read)) })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).on_path("open", path)?;
    file.take(MAX + 1).read_to_end(&mut bytes).on_path("read", path)?;
    if bytes.len() as u64 > MAX {
        return Err(CliError::refused("too_large", format!("{} has more than {MAX} bytes", path.display())));
    }
    Ok(bytes)
}

/// The device's own word on who it is, as its envelope says before anything is verified.
fn claimed(envelope: &[u8]) -> Result<DeviceRecord> {
    let malformed = |e| CliError::refused("malformed", "a device's record cannot be read").because(e);
    let envelope = Envelope::parse(envelope).map_err(malformed)?;
    codec::decode(envelope.payload(), Limits::of_size(Kind::Device.size_cap())).map_err(malformed)
}

/// Verifies and keeps the record of a device that asks to enrol.
pub(super) fn enrollment(trust: &Trust, request: &EnrollRequest) -> Result<DeviceRecord> {
    let device = claimed(&request.record.0)?.device;
    let record = devices::enrolled(trust, &device, &request.record.0, Some(&request.token.0))?;
    let signed = SignedRecord {
        device,
        record: request.record.0.clone().into(),
        token: Some(request.token.0.clone().into()),
    };
    records::keep(trust, &[signed])?;
    Ok(record)
}

/// Gives the controller what the device would have sent it; whether it answers.
pub(super) fn hand_over_enrollment(s: &Session, request: &EnrollRequest) -> Result<bool> {
    let body = codec::encode(request);
    let size = body.len() as u64;
    match s.client.upload("/v1/enroll", "application/cbor", body.as_slice(), size, "the device's enrolment") {
        // The certificate that it answers with is the device's to ask for, once it has a network.
        Ok(_) => Ok(true),
        Err(e) if e.kind == ErrorKind::Unreachable => Ok(false),
        Err(e) => Err(e),
    }
}
