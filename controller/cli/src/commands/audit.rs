//! `shoal audit`: what was signed, uploaded, approved, revoked and refused, from a log that cannot be rewritten unseen.

use super::{Session, show as words};
use crate::args::Audit;
use crate::audit::Copy;
use crate::error::Result;
use crate::keys::Known;
use crate::output;
use crate::trust;
use serde::Serialize;
use shoal_controller_core::audit::{Entry, Point};
use shoal_protocol::ids::Timestamp;
use std::collections::VecDeque;

#[derive(Serialize)]
struct Row {
    sequence: u64,
    at: u64,
    action: String,
    by: String,
    subject: String,
    number: Option<u64>,
    digest: Option<String>,
    signers: Vec<String>,
    code: Option<String>,
    detail: Option<String>,
    head: String,
}

#[derive(Serialize)]
struct Verified {
    entries: u64,
    head: String,
    /// The snapshot whose signed head was found, and after which entry it was the newest.
    snapshot: Option<u64>,
    snapshot_entry: Option<u64>,
}

fn row(point: Point, entry: Entry) -> Row {
    let e = entry.event;
    Row {
        sequence: entry.sequence,
        at: entry.at.0,
        action: e.action,
        by: e.by,
        subject: e.subject,
        number: e.number,
        digest: e.digest.map(|d| d.to_string()),
        signers: e.signers,
        code: e.code,
        detail: e.detail,
        head: point.head.to_string(),
    }
}

pub(super) fn run(s: &Session, args: &Audit) -> Result<()> {
    let format = args.output.format;
    let trust = trust::open(&s.client, &s.home, &s.context, args.snapshot.as_ref())?;
    let mut copy = Copy::open(trust.dir())?;
    let point = match &args.adopt {
        Some(named) => copy.adopt(&s.client, &trust, named)?,
        None if args.verify => copy.verify(&s.client, &trust)?,
        None => copy.sync(&s.client, &trust)?,
    };
    if args.verify || args.adopt.is_some() {
        let known = trust.snapshot();
        let head = known.and_then(|k| k.document.audit_head);
        let entry = head.map(|h| copy.find(&h)).transpose()?.flatten();
        let snapshot = entry.and(known).map(|k| k.document.version);
        let verified = Verified {
            entries: point.sequence,
            head: point.head.to_string(),
            snapshot,
            snapshot_entry: entry,
        };
        if format.is_data() {
            return output::data(format, &verified);
        }
        output::line(&format!("{} entries, one unbroken chain, head {}", verified.entries, verified.head));
        if let (Some(version), Some(entry)) = (verified.snapshot, verified.snapshot_entry) {
            output::line(&format!("snapshot {version} was signed over it after entry {entry}"));
        }
        return Ok(());
    }
    let rows = wanted(&copy, args)?;
    if format.is_data() {
        let head = point.head.to_string();
        let all =
            serde_json::json!({ "entries": rows, "newest": { "sequence": point.sequence, "head": head } });
        return output::data(format, &all);
    }
    print(&rows, &Known::of(&s.home));
    output::note(&format!("{} entries, head {}", point.sequence, point.head));
    Ok(())
}

/// The newest ones, or those after a sequence.
fn wanted(copy: &Copy, args: &Audit) -> Result<Vec<Row>> {
    let mut rows = VecDeque::new();
    let fits = |e: &Entry| args.action.as_ref().is_none_or(|a| *a == e.event.action);
    copy.walk(|point, entry| {
        if !fits(&entry) || args.after.is_some_and(|n| entry.sequence <= n) {
            return;
        }
        if rows.len() < args.limit {
            rows.push_back(row(point, entry));
        } else if args.after.is_none() && args.limit > 0 {
            rows.pop_front();
            rows.push_back(row(point, entry));
        }
    })?;
    Ok(rows.into())
}

fn print(rows: &[Row], known: &Known) {
    let named = |fingerprint: &String| {
        let found = known.iter().find(|(k, _)| crate::keys::fingerprint(k) == *fingerprint);
        found.map_or_else(|| fingerprint.clone(), |(_, name)| name.to_owned())
    };
    let cells: Vec<Vec<output::Cell>> = rows
        .iter()
        .map(|r| {
            let signers: Vec<String> = r.signers.iter().map(named).collect();
            let more =
                [r.code.clone(), r.detail.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ");
            let number = r.number.map_or_else(String::new, |n| n.to_string());
            let by = if signers.is_empty() { r.by.clone() } else { signers.join("+") };
            vec![
                r.sequence.to_string().into(),
                words::time(Timestamp(r.at)).into(),
                output::clean(&r.action).into(),
                output::clean(&by).into(),
                output::clean(&r.subject).into(),
                number.into(),
                output::clean(&more).into(),
            ]
        })
        .collect();
    output::table(&["ENTRY", "TIME", "ACTION", "BY", "ON", "NUMBER", "MORE"], &cells);
}
