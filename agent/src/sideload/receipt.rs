//! The way back: what this device tells of itself, signed by its own key, for whoever carries the stick to hand on.
//!
//! Only for a request that admission has taken. The reports are those of the outbox, as the running agent made and signed
//! them; this adds the logs, within each deployment's signed consent, and a counter of its own.

use crate::daemon::world::{World, now};
use crate::enroll::Pending;
use crate::failure::{Explained, Kind};
use crate::identity::Files;
use crate::store::{Pending as Waiting, Store};
use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};
use shoal_ipc::{AdmitClient, HeldRevision, HeldRole, Layout};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, seal_document};
use shoal_protocol::ids::{Bytes, Digest};
use shoal_protocol::latest::Kind as DocumentKind;
use shoal_protocol::latest::{LogConsent, Phase, PodStatus, Receipt, ReceiptLog, ReceiptRequest, Report};
use shoal_protocol::refusal::Code;
use shoal_runtime::Guard;
use shoal_runtime::logs::tail;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often it is looked whether the agent has reported: there is no event between two processes' databases.
const LOOK: Duration = Duration::from_millis(300);
/// Bytes of reports in one receipt, and of logs.
const REPORTS: usize = 512 << 10;
const LOGS: usize = 384 << 10;
/// The lines that consent `tail` allows, and the most of all.
const TAIL: u64 = 200;
const FULL: u64 = 100_000;

/// A request that counts here.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    /// Of the request.
    digest: String,
    /// Of the snapshot that it goes with.
    snapshot: String,
    logs: u64,
}

impl Asked {
    /// Of the envelope that admission took.
    pub(super) fn read(envelope: &[u8]) -> Result<Self> {
        let envelope = Envelope::parse(envelope)?;
        let limits = Limits::of_size(DocumentKind::ReceiptRequest.size_cap());
        let request: ReceiptRequest = codec::decode(envelope.payload(), limits)?;
        let snapshot = request.snapshot.digest.to_string();
        Ok(Self { digest: envelope.identity().to_string(), snapshot, logs: request.logs })
    }
}

/// A receipt and what its file is called.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) name: String,
    #[serde(with = "base64_text")]
    pub(super) envelope: Vec<u8>,
}

/// As it passes from one process to the other.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// Whether nothing more is to be expected of a pod for now.
fn is_settled(pod: &PodStatus) -> bool {
    match pod.phase {
        Phase::Pulling | Phase::Compiling | Phase::Running | Phase::Stopping => false,
        // On its way, unless it waits for what no time alone brings.
        Phase::Pending | Phase::Staged => {
            let waits = |reason: &String| reason == "awaiting_activation" || reason.parse::<Code>().is_ok();
            pod.reason.as_ref().is_some_and(waits)
        }
        Phase::Healthy | Phase::Succeeded | Phase::Failed | Phase::CrashLoop | Phase::Stopped => true,
    }
}

/// Whether a report tells of what this stick brought, all that admission holds of it included, and how that came out.
fn is_about(report: &Report, snapshot: &Digest, held: &[HeldRevision]) -> bool {
    let told = |h: &HeldRevision| {
        report.pods.iter().any(|p| p.name.as_str() == h.name && p.revision.sequence >= h.sequence)
    };
    let counts = |h: &&HeldRevision| matches!(h.role, HeldRole::Candidate | HeldRole::LastGood);
    report.snapshot.as_ref().is_some_and(|s| s.digest == *snapshot)
        && held.iter().filter(counts).all(told)
        && report.pods.iter().all(is_settled)
}

fn report_of(waiting: &Waiting) -> Option<Report> {
    let envelope = Envelope::parse(&waiting.envelope).ok()?;
    codec::decode(envelope.payload(), Limits::of_size(DocumentKind::Report.size_cap())).ok()
}

/// Makes a receipt, once the agent has reported how it came out, or `wait` is over.
pub(super) fn make(asked: &Asked, layout: &Layout, wait: Duration) -> Result<Made> {
    let db = layout.agent_db();
    let (request, snapshot): (Digest, Digest) = (asked.digest.parse()?, asked.snapshot.parse()?);
    let mut admit = AdmitClient::connect(layout).context("cannot reach admission")?;
    let trust = admit.trust().context("cannot ask admission what it holds")?;
    let until = Instant::now() + wait;
    loop {
        let newest = Store::newest_report(&db)?.as_ref().and_then(report_of);
        if newest.is_some_and(|r| is_about(&r, &snapshot, &trust.held)) || Instant::now() >= until {
            break;
        }
        std::thread::sleep(LOOK);
    }
    let key = Files::new(layout).load_key()?.context("this device has no identity key")?;
    let trust = admit.trust().context("cannot ask admission what it holds")?;
    let record = admit.device_record().context("admission has no record of this device")?;
    let enrollment = Pending::load(layout)?.map(|p| p.request()).transpose()?;
    let (reports, left_out) = fitting(Store::all_reports(&db)?);
    let receipt = Receipt {
        fleet: trust.fleet.parse().context("admission names no fleet")?,
        device: key.device(),
        // Durable before the receipt exists: no number is given twice.
        counter: Store::next_receipt(&db)?,
        issued_at: now(&trust),
        request,
        record: Bytes(record),
        reports,
        left_out,
        enrollment: enrollment.map(|e| Bytes(codec::encode(&e))),
        logs: logs(layout, asked.logs)?,
    };
    let (envelope, _) = seal_document(&receipt, &[&key]).context("cannot sign the receipt")?;
    Ok(Made { name: format!("{}-{}.receipt", receipt.device, receipt.counter), envelope })
}

/// The newest of the reports that have room, the oldest of them first; and how many have none.
fn fitting(all: Vec<Waiting>) -> (Vec<Bytes>, u64) {
    let (mut kept, mut size) = (Vec::new(), 0);
    let total = all.len();
    for report in all.into_iter().rev() {
        size += report.envelope.len();
        if size > REPORTS && !kept.is_empty() {
            break;
        }
        kept.push(Bytes(report.envelope));
    }
    kept.reverse();
    let left_out = (total - kept.len()) as u64;
    (kept, left_out)
}

/// The last lines of each container of each deployment, of the revision that ran last.
fn logs(layout: &Layout, lines: u64) -> Result<Vec<ReceiptLog>> {
    if lines == 0 {
        return Ok(Vec::new());
    }
    let mut world = World::new(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let guard = Guard::new(layout.clone());
    runtime.block_on(world.refresh_desired(&guard)).context("cannot ask admission what it holds")?;
    let (mut all, mut room): (Vec<ReceiptLog>, usize) = (Vec::new(), LOGS);
    world.desired.sort_by_key(|d| std::cmp::Reverse(d.revision.sequence));
    for desired in &world.desired {
        let most = match desired.deployment.logs {
            LogConsent::None => continue,
            LogConsent::Tail => TAIL,
            LogConsent::Full => FULL,
        };
        let name = &desired.deployment.name;
        if all.iter().any(|l| l.name == *name) {
            continue;
        }
        let digest = shoal_ipc::Digest(desired.revision.digest.0);
        for container in &desired.deployment.template.containers {
            let dir = layout.container_logs(name.as_str(), &digest, container.name.as_str());
            let count = usize::try_from(lines.min(most)).unwrap_or(0);
            let (found, _) = tail(&dir, count).with_context(|| format!("cannot read the log of {name}"))?;
            let kept = last_of(&found, room);
            room -= kept.len();
            if !kept.is_empty() {
                let (revision, container) = (desired.revision, container.name.clone());
                all.push(ReceiptLog { name: name.clone(), revision, container, lines: Bytes(kept) });
            }
        }
    }
    Ok(all)
}

/// The last whole lines that have room.
fn last_of(lines: &[Vec<u8>], room: usize) -> Vec<u8> {
    let mut size = 0;
    let fits = lines.iter().rev().take_while(|l| {
        size += l.len();
        size <= room
    });
    let count = fits.count();
    lines[lines.len() - count..].concat()
}

/// Writes a receipt into a folder of the stick as a new file. `name` may come from a process that read the stick.
pub(super) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let plain = name.len() <= 128 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    if !plain || !name.ends_with(".receipt") || name.starts_with('.') {
        return Err(Explained::new(Kind::Failure, format!("{name:?} is no name of a receipt")).into());
    }
    let what = || format!("cannot write {name} into {}", dir.display());
    let folder = std::fs::File::open(dir).with_context(what)?;
    // Whatever lies on the stick is not followed and not written over.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&folder, name, flags, Mode::from_raw_mode(0o644)).with_context(what)?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(what)?;
    folder.sync_all().with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reports_are_kept_when_there_is_no_room_for_all() {
        let waiting = |n: u64| Waiting { counter: n, envelope: vec![u8::try_from(n).unwrap(); 200 << 10] };
        let (kept, left_out) = fitting((1..=5).map(waiting).collect());
        assert_eq!((kept.len(), left_out), (2, 3));
        assert_eq!((kept[0].0[0], kept[1].0[0]), (4, 5), "the oldest of them first");
        let huge = Waiting { counter: 9, envelope: vec![0; REPORTS + 1] };
        assert_eq!(fitting(vec![huge]).0.len(), 1, "the newest always");
    }

    #[test]
    fn of_a_log_the_last_whole_lines_are_kept() {
        let lines = [b"one\n".to_vec(), b"two\n".to_vec(), b"three\n".to_vec()];
        assert_eq!(last_of(&lines, 100), b"one\ntwo\nthree\n");
        assert_eq!(last_of(&lines, 10), b"two\nthree\n");
        assert_eq!(last_of(&lines, 3), b"");
    }

    #[test]
    fn a_receipt_is_a_new_file_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a-1.receipt", b"x").unwrap();
        assert!(write(dir.path(), "a-1.receipt", b"y").is_err(), "nothing is written over");
        std::os::unix::fs::symlink("/tmp/elsewhere", dir.path().join("a-2.receipt")).unwrap();
        assert!(write(dir.path(), "a-2.receipt", b"y").is_err());
        for name in ["../a.receipt", "a/b.receipt", ".receipt", "a.txt", ""] {
            assert!(write(dir.path(), name, b"y").is_err(), "{name}");
        }
    }
}
