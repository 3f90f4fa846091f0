//! `shoal receipt import`: each file is verified by the own root chain, kept, then handed to the controller where it answers.

use crate::args::ReceiptImport;
use crate::commands::Session;
use crate::commands::apply::own_state;
use crate::devices;
use crate::error::{CliError, Kind as ErrorKind, OnPath as _, Result};
use crate::output;
use crate::records;
use crate::trust::Trust;
use serde::Serialize;
use shoal_controller_core::api::SignedRecord;
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
    fingerprint: String,
    /// Whether the controller has it too.
    handed_over: bool,
}

pub(super) fn run(s: &Session, args: &ReceiptImport) -> Result<()> {
    let trust = own_state(s)?;
    let mut all = Vec::new();
    for path in &args.files {
        let bytes = read(path)?;
        let request = codec::decode::<EnrollRequest>(&bytes, Limits::of_size(REQUEST)).map_err(|e| {
            CliError::usage(format!("{} is nothing that a device gave back", path.display())).because(e)
        })?;
        let record = enrollment(&trust, &request)?;
        let handed_over = !args.offline && hand_over_enrollment(s, &request)?;
        all.push(Imported {
            file: path.display().to_string(),
            device: record.device.to_string(),
            fingerprint: record.fingerprint().to_string(),
            handed_over,
        });
    }
    if args.output.format.is_data() {
        return output::data(args.output.format, &serde_json::json!({ "imported": all }));
    }
    for i in &all {
        let where_to = if i.handed_over { "kept, and handed to the controller" } else { "kept" };
        output::line(&format!("{}  {where_to}; its keys: {}", i.device, i.fingerprint));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
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
