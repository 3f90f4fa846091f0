//! Requests for receipts by the snapshot role, receipts by the device.

use super::device::{check_counter, check_from, record_of};
use super::signatures::{of_key, of_role};
use super::target::{Selection, selection};
use super::{Case, Standing, Verified, refuse};
use crate::refusal::{Code, Refusal};
use crate::v1::{Receipt, ReceiptRequest, RoleName};

/// A request lives no longer than this, seconds: a stick travels for days, not for years.
const LIFETIME: u64 = 31 * 86_400;

/// Who lists what the fleet runs may ask how far it has come; nobody who only carries a stick may. Own: Uptane knows no way
/// back but the network.
pub(super) fn verify_request(case: &Case<'_>) -> Result<Verified<ReceiptRequest>, Refusal> {
    let (_, signers) = of_role(&case.signed, case.anchor()?, RoleName::Snapshot)?;
    let request: ReceiptRequest = case.decode()?;
    case.check_fleet(&request.fleet)?;
    if case.on_device() {
        let Some(record) = &case.state.record else {
            return refuse(Code::WrongTarget, "this device has no record yet, so nothing selects it");
        };
        if selection(&request.target, &record.document, case.state.platform.as_ref()) != Selection::Selected {
            return refuse(Code::WrongTarget, "the request for a receipt does not select this device");
        }
    }
    case.check_epoch(request.epoch)?;
    if request.not_after > request.issued_at.plus(LIFETIME) {
        return refuse(Code::OrderForbidden, "a request for a receipt lives at most 31 days");
    }
    if case.on_device() {
        let held = case.state.snapshot.as_ref();
        if held.is_none_or(|h| h.digest != request.snapshot.digest) {
            let (asked, here) = (request.snapshot.version, held.map_or(0, |h| h.document.version));
            let what =
                format!("the request for a receipt goes with snapshot {asked}, snapshot {here} is held");
            return refuse(Code::NotInSnapshot, what);
        }
    }
    case.check_time(request.issued_at, Some(request.not_after), "request for a receipt")?;
    // A question leaves nothing behind: there is nothing to keep of it, the first time or the tenth.
    Ok(Verified::new(request, case.identity, Standing::Held, signers))
}

/// As a report; what is in it is verified by itself.
pub(super) fn verify(case: &Case<'_>) -> Result<Verified<Receipt>, Refusal> {
    let record = record_of(case)?;
    let signers = of_key(&case.signed, case.anchor()?, &record.document.identity, "the device")?;
    let receipt: Receipt = case.decode()?;
    case.check_fleet(&receipt.fleet)?;
    check_from(&record.document.device, &receipt.device)?;
    check_counter(case, case.state.receipt, receipt.counter)?;
    Ok(Verified::new(receipt, case.identity, Standing::New, signers))
}
