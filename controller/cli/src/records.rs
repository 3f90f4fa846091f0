//! Device records that this operator has seen, beside the verified state: what a secret is sealed to, and what verifies a
//! receipt, when there is no controller to ask.
//!
//! Nothing is believed because it was kept: whoever uses a record verifies it again.

use crate::error::{CliError, OnPath as _, Result};
use crate::home::write_secret;
use crate::trust::Trust;
use shoal_controller_core::api::SignedRecord;
use std::path::PathBuf;

/// The largest file of a record with its token.
const MAX: u64 = 64 << 10;

fn dir(trust: &Trust) -> PathBuf {
    trust.dir().join("devices")
}

/// All that were kept.
pub(crate) fn kept(trust: &Trust) -> Result<Vec<SignedRecord>> {
    let dir = dir(trust);
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.on_path("read", &dir)?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.on_path("read", &dir)?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= MAX);
        let bytes = std::fs::read(&path).on_path("read", &path)?;
        let record = serde_json::from_slice(&bytes).ok().filter(|_| small);
        let damaged = || CliError::usage(format!("{} is damaged", path.display())).hint("move it away");
        all.push(record.ok_or_else(damaged)?);
    }
    all.sort_by(|a: &SignedRecord, b| a.device.as_str().cmp(b.device.as_str()));
    Ok(all)
}

/// Keeps records, each in the place of the one before of its device.
pub(crate) fn keep(trust: &Trust, all: &[SignedRecord]) -> Result<()> {
    for record in all {
        let path = dir(trust).join(format!("{}.json", record.device));
        let text = serde_json::to_vec(record)
            .map_err(|e| CliError::failure("cannot write down a device's record").because(e))?;
        if std::fs::read(&path).is_ok_and(|old| old == text) {
            continue;
        }
        write_secret(&path, &text)?;
    }
    Ok(())
}
