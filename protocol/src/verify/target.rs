//! Whom a deployment selects: by id or signed labels, architecture and least versions.
//!
//! Used by `verify`, and by admission again when a device's labels or version changed.

use super::Platform;
use crate::v1::{DeviceRecord, Target};

/// Whether a device is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// It is.
    Selected,
    /// It would be, with a newer engine.
    EngineTooOld,
    /// It is not; why.
    Not(&'static str),
}

/// Whether `target` selects the device of `record`; without a platform, architecture and versions are left aside.
/// REQ.SEC.COMPATIBLE; Uptane §5.4.4.6. Only signed labels select.
pub fn selection(target: &Target, record: &DeviceRecord, platform: Option<&Platform>) -> Selection {
    if record.decommissioned {
        return Selection::Not("the device left the fleet");
    }
    if !target.selects(&record.device, &record.labels) {
        return Selection::Not("it selects neither this device's id nor its labels");
    }
    let Some(platform) = platform else { return Selection::Selected };
    if !target.architectures.is_empty() && !target.architectures.contains(&platform.architecture) {
        return Selection::Not("it is for other architectures");
    }
    if !reaches(&platform.agent, target.min_agent.as_deref()) {
        return Selection::Not("it needs a newer agent");
    }
    if !reaches(&platform.engine, target.min_engine.as_deref()) {
        return Selection::EngineTooOld;
    }
    Selection::Selected
}

fn reaches(version: &str, least: Option<&str>) -> bool {
    least.is_none_or(|least| {
        parse_version(version).is_some_and(|v| parse_version(least).is_some_and(|l| v >= l))
    })
}

/// `major.minor.patch`; what follows a `-` or `+` does not count.
pub fn parse_version(text: &str) -> Option<[u64; 3]> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.');
    let mut out = [0; 3];
    for slot in &mut out {
        *slot = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}
