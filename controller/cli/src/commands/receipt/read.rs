//! A receipt as an operator reads it: verified by the own root chain and the device's own signed record.

use crate::commands::recipients::{newest, verified};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::write_secret;
use crate::records;
use crate::trust::{Trust, now, refusal};
use serde::Serialize;
use shoal_controller_core::api::{self, SignedRecord};
use shoal_protocol::Code;
use shoal_protocol::codec::{self, CodecError, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, Digest};
use shoal_protocol::latest::{EnrollRequest, Kind, Receipt, Report};
use shoal_protocol::verify::{Known, Mark, TrustState, Viewpoint, verify_as};
use std::path::PathBuf;

/// A receipt that verifies.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) receipt: Receipt,
    /// The newest of its reports.
    pub(super) report: Option<Report>,
    /// The record by which it verifies.
    pub(super) record: SignedRecord,
    pub(super) enrollment: Option<EnrollRequest>,
}

fn malformed(e: CodecError) -> CliError {
    CliError::refused(Code::Malformed.as_str(), "the receipt cannot be read").because(e)
}

/// Whether the bytes are an envelope of a receipt.
pub(super) fn is_receipt(bytes: &[u8]) -> bool {
    Envelope::parse(bytes).is_ok_and(|e| e.kind() == Ok(Kind::Receipt))
}

fn payload(bytes: &[u8]) -> Result<(Receipt, Digest)> {
    let envelope = Envelope::parse(bytes).map_err(malformed)?;
    let limits = Limits::of_size(Kind::Receipt.size_cap());
    Ok((codec::decode(envelope.payload(), limits).map_err(malformed)?, envelope.identity()))
}

/// Verifies a receipt. `known` is the one before, against replays; `served` are records that others know.
pub(super) fn read(
    trust: &Trust,
    bytes: &[u8],
    known: Option<Mark>,
    served: &[SignedRecord],
) -> Result<Read> {
    let (claimed, _) = payload(bytes)?;
    let fleet = &trust.anchor()?.fleet;
    if claimed.fleet != *fleet {
        let what = format!("the receipt is of fleet {}, this operator's is {fleet}", claimed.fleet);
        return Err(CliError::refused(Code::WrongTarget.as_str(), what).hint(Code::WrongTarget.hint()));
    }
    let decode =
        |b: &shoal_protocol::ids::Bytes| codec::decode::<EnrollRequest>(&b.0, Limits::of_size(32 << 10));
    let enrollment = claimed.enrollment.as_ref().map(decode).transpose().map_err(malformed)?;
    let is_own = |r: &SignedRecord| r.device == claimed.device;
    let mut records: Vec<SignedRecord> = records::kept(trust)?.into_iter().filter(is_own).collect();
    records.extend(served.iter().filter(|r| is_own(r)).cloned());
    // What it brings itself counts as far as it verifies.
    let tokens = enrollment.iter().map(|e| Some(e.token.0.clone().into()));
    let tokens: Vec<_> = tokens.chain(records.iter().map(|r| r.token.clone())).chain([None]).collect();
    records.extend(tokens.into_iter().map(|token| SignedRecord {
        device: claimed.device.clone(),
        record: claimed.record.0.clone().into(),
        token,
    }));
    let best = newest(trust, records).records.into_iter().next();
    let known_as = best.as_ref().and_then(|r| verified(trust, r));
    let state = TrustState {
        viewpoint: Viewpoint::Observer,
        record: known_as.map(|r| Known::new(r, Digest([0; 32]))),
        receipt: known,
        ..trust.state.clone()
    };
    let receipt = verify_as::<Receipt>(bytes, &state, now()).map_err(|r| refusal("the receipt", &r))?;
    let receipt = receipt.into_document();
    let mut report = None;
    for envelope in &receipt.reports {
        let one = verify_as::<Report>(&envelope.0, &state, now())
            .map_err(|r| refusal("a report in the receipt", &r))?;
        report = Some(one.into_document());
    }
    let record = best.ok_or_else(|| CliError::failure("a receipt verified without a record"))?;
    Ok(Read { receipt, report, record, enrollment })
}

fn path(trust: &Trust, device: &DeviceId) -> PathBuf {
    trust.dir().join("devices").join(format!("{device}.receipt"))
}

/// The newest receipt of a device that was imported here.
pub(super) fn known(trust: &Trust, bytes: &[u8]) -> Result<Option<Mark>> {
    let path = path(trust, &payload(bytes)?.0.device);
    match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => {
            let (receipt, digest) = payload(&other.on_path("read", &path)?)?;
            Ok(Some(Mark { counter: receipt.counter, digest }))
        }
    }
}

/// Keeps it in the place of the one before.
pub(super) fn keep(trust: &Trust, read: &Read, bytes: &[u8]) -> Result<()> {
    records::keep(trust, std::slice::from_ref(&read.record))?;
    write_secret(&path(trust, &read.receipt.device), bytes)
}

#[derive(Debug, Serialize)]
pub(super) struct Pod {
    deployment: String,
    sequence: u64,
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Log {
    deployment: String,
    container: String,
    lines: Vec<String>,
}

/// What it says.
#[derive(Debug, Serialize)]
pub(super) struct View {
    device: String,
    counter: u64,
    issued_at: u64,
    hostname: String,
    root_version: u64,
    snapshot: Option<u64>,
    reports: usize,
    left_out: u64,
    conditions: Vec<String>,
    pods: Vec<Pod>,
    logs: Vec<Log>,
}

impl View {
    pub(super) fn of(read: &Read) -> Self {
        let (r, report) = (&read.receipt, read.report.as_ref());
        let pod = |p: &shoal_protocol::latest::PodStatus| Pod {
            deployment: p.name.to_string(),
            sequence: p.revision.sequence,
            phase: api::Phase::from(p.phase).as_str(),
            reason: p.reason.clone(),
        };
        let log = |l: &shoal_protocol::latest::ReceiptLog| Log {
            deployment: l.name.to_string(),
            container: l.container.to_string(),
            lines: String::from_utf8_lossy(&l.lines.0).lines().map(str::to_owned).collect(),
        };
        Self {
            device: r.device.to_string(),
            counter: r.counter,
            issued_at: r.issued_at.0,
            hostname: report.map(|r| r.system.hostname.clone()).unwrap_or_default(),
            root_version: report.map_or(0, |r| r.root_version),
            snapshot: report.and_then(|r| r.snapshot).map(|s| s.version),
            reports: r.reports.len(),
            left_out: r.left_out,
            conditions: report.map(|r| r.conditions.clone()).unwrap_or_default(),
            pods: report.map(|r| r.pods.iter().map(pod).collect()).unwrap_or_default(),
            logs: r.logs.iter().map(log).collect(),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let time = crate::commands::show::time(shoal_protocol::ids::Timestamp(self.issued_at));
        let mut out = vec![format!(
            "{} ({}): receipt {} of {time}, snapshot {}, root {}, {} report(s)",
            self.device,
            self.hostname,
            self.counter,
            self.snapshot.map_or_else(|| "none".to_owned(), |s| s.to_string()),
            self.root_version,
            self.reports
        )];
        if !self.conditions.is_empty() {
            out.push(format!("  conditions: {}", self.conditions.join(", ")));
        }
        for p in &self.pods {
            let why = p.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
            out.push(format!("  {} revision {}: {}{why}", p.deployment, p.sequence, p.phase));
        }
        out
    }

    pub(super) fn log_lines(&self) -> impl Iterator<Item = String> {
        self.logs.iter().flat_map(|l| {
            l.lines.iter().map(move |line| format!("[{} {}] {line}", l.deployment, l.container))
        })
    }
}
