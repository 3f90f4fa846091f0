//! `shoal decommission`: the device's next record says that it left, then the controller lets it in no more.

use super::Session;
use crate::args::Decommission;
use crate::devices;
use crate::error::{CliError, Result};
use crate::output;
use crate::publish::Keyring;
use crate::trust::{self, now};
use shoal_controller_core::api;
use shoal_protocol::latest::{DeviceRecord, RoleName};

pub(super) fn run(s: &Session, args: &Decommission) -> Result<()> {
    let device = s.device(&args.device)?;
    let id = &device.id;
    let trust = trust::open(&s.client, &s.home, &s.context, args.signing.adopt.as_ref())?;
    let ring = Keyring::open(&s.home, &args.signing.keys)?;
    let held: api::DeviceRecord = s.client.get(&format!("/v1/devices/{id}/record"), "the device's record")?;
    let token = held.token.as_ref().map(|t| t.0.as_slice());
    let record = devices::enrolled(&trust, id, &held.record.0, token)?;
    let host = device.system.as_ref().map_or("", |s| s.hostname.as_str());
    let question = format!("take device {id} {} out of the fleet for good?", output::clean(host));
    if !args.yes && !output::confirm(&question) {
        return Err(CliError::usage("nothing was signed").hint("answer y, or add --yes"));
    }
    let root = trust.root()?;
    let next = DeviceRecord {
        epoch: root.epoch,
        sequence: record.sequence + 1,
        issued_at: now().max(record.issued_at),
        decommissioned: true,
        ..record.clone()
    };
    // Done before, and not to its end: the same record again.
    let envelope = if record.decommissioned {
        held.record
    } else {
        ring.seal(root, RoleName::Enrollment, "", &next)?.0.into()
    };
    let path = format!("/v1/devices/{id}/decommission");
    let post = api::PostRecord { record: envelope };
    let revoked: api::Revoked = s.client.post(&path, &post, "decommissioning the device")?;
    if args.output.format.is_data() {
        return output::data(args.output.format, &revoked);
    }
    output::line(&format!("device {id} decommissioned, {} certificate(s) revoked", revoked.certificates));
    output::note(if revoked.told {
        "it was told, and stops what it runs"
    } else {
        "it is not connected: what it runs goes on there until somebody stops it"
    });
    Ok(())
}
