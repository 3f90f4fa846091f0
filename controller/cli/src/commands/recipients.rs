//! To whom something may be sealed: devices whose newest records verify by the own root chain (S27).

use crate::audit::Copy;
use crate::error::Result;
use crate::trust::{Trust, now};
use shoal_controller_core::api;
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{DeviceRecord, Kind};
use shoal_protocol::verify::{Expect, Verdict, verify};
use std::collections::{BTreeMap, BTreeSet};

/// What the audit log says of devices. An old record verifies for ever: by it a controller that was stolen could have sealed to
/// a device what its operators took it out of.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The newest record of each whose labels or standing an operator signed anew.
    records: BTreeMap<String, u64>,
    left: BTreeSet<String>,
}

impl Known {
    /// By the own, verified copy of the log.
    pub(super) fn of(log: &Copy) -> Result<Self> {
        let mut known = Self::default();
        log.walk(|_, entry| known.take(entry.event))?;
        Ok(known)
    }

    fn take(&mut self, event: Event) {
        match event.action.as_str() {
            action::RECORD => {
                let newest = self.records.entry(event.subject).or_default();
                *newest = event.number.unwrap_or(0).max(*newest);
            }
            action::REVOKED => drop(self.left.insert(event.subject)),
            _ => {}
        }
    }

    fn is_newest(&self, record: &DeviceRecord) -> bool {
        self.records.get(record.device.as_str()).is_none_or(|newest| record.sequence >= *newest)
    }
}

/// Those that may be sealed to, and those that may not.
pub(super) fn recipients(
    trust: &Trust,
    known: &Known,
    served: api::RecordList,
) -> (Vec<DeviceRecord>, Vec<DeviceId>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for signed in served.records {
        match verified(trust, &signed).filter(|r| known.is_newest(r)) {
            // Taken out by an operator: it gets nothing any more.
            Some(record) if record.decommissioned || known.left.contains(record.device.as_str()) => {}
            Some(record) => good.push(record),
            None => bad.push(signed.device),
        }
    }
    (good, bad)
}

/// Of each device the newest record that verifies, of all that are known of it; one that does not if there is no other.
pub(super) fn newest(trust: &Trust, all: Vec<api::SignedRecord>) -> api::RecordList {
    let mut best: BTreeMap<DeviceId, (u64, api::SignedRecord)> = BTreeMap::new();
    for signed in all {
        let sequence = verified(trust, &signed).map_or(0, |r| r.sequence);
        if best.get(&signed.device).is_none_or(|(known, _)| *known < sequence) {
            best.insert(signed.device.clone(), (sequence, signed));
        }
    }
    api::RecordList { records: best.into_values().map(|(_, signed)| signed).collect() }
}

/// A device's record, if it verifies by the own root chain.
pub(super) fn verified(trust: &Trust, signed: &api::SignedRecord) -> Option<DeviceRecord> {
    let mut state = trust.state.clone();
    // Record and token may be past their time by now: both counted when the device came.
    if let Some(token) = &signed.token
        && let Ok(Verdict::Token(v)) = verify(&token.0, &state, now(), Expect::Stored(Kind::Token))
    {
        state.tokens = vec![v.into_document()];
    }
    match verify(&signed.record.0, &state, now(), Expect::Stored(Kind::Device)) {
        Ok(Verdict::Device(v)) if v.document().device == signed.device => Some(v.into_document()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::seal;
    use crate::trust::tests::{Fleet, signer};
    use shoal_protocol::Signer;
    use shoal_protocol::ids::Bytes;
    use shoal_protocol::latest::{Minima, Token};
    use shoal_protocol::text_map::TextMap;

    fn record(trust: &Trust, sequence: u64) -> DeviceRecord {
        let identity = signer(40).key();
        DeviceRecord {
            fleet: trust.anchor().unwrap().fleet.clone(),
            epoch: 1,
            device: identity.device_id(),
            sequence,
            issued_at: now(),
            identity,
            sealing: Bytes(vec![9; 32]),
            attest: signer(41).key(),
            labels: TextMap::default(),
            decommissioned: false,
        }
    }

    fn token(trust: &Trust, by: u8) -> Vec<u8> {
        let token = Token {
            fleet: trust.anchor().unwrap().fleet.clone(),
            epoch: 1,
            key: signer(42).key(),
            issued_at: now(),
            // It ended long ago, as the token of most devices has.
            not_after: shoal_protocol::ids::Timestamp(1),
            uses: 1,
            approval: false,
            minima: Minima { root_version: 1, snapshot_version: 1, time: now() },
            labels: TextMap::default(),
        };
        seal(&token, &[&signer(by) as &dyn Signer]).unwrap().0
    }

    #[test]
    fn s27_only_a_device_whose_record_verifies_here_is_sealed_to() {
        let fleet = Fleet::new();
        let (trust, _) = fleet.founder();
        let signed = |by: u8, token: Option<Vec<u8>>| {
            let r = record(&trust, 1);
            let envelope = seal(&r, &[&signer(by) as &dyn Signer]).unwrap().0;
            api::SignedRecord { device: r.device, record: envelope.into(), token: token.map(Into::into) }
        };
        let mut renamed = signed(2, None);
        renamed.device = signer(43).key().device_id();
        let cases = [
            ("by the operator", signed(2, None), true),
            ("by its token", signed(42, Some(token(&trust, 2))), true),
            ("by the controller's own key", signed(3, None), false),
            ("by a stranger", signed(50, None), false),
            ("by a token that is not there", signed(42, None), false),
            ("by a token that the controller made", signed(42, Some(token(&trust, 3))), false),
            ("of another device", renamed, false),
        ];
        for (what, signed, wanted) in cases {
            let device = signed.device.clone();
            let (good, bad) = served(&trust, &Known::default(), signed);
            assert_eq!((good.len(), bad.len()), (usize::from(wanted), usize::from(!wanted)), "{what}");
            assert!(wanted || bad == [device], "{what}");
        }
        let gone = DeviceRecord { decommissioned: true, ..record(&trust, 2) };
        let envelope = seal(&gone, &[&signer(2) as &dyn Signer]).unwrap().0;
        let gone = api::SignedRecord { device: gone.device, record: envelope.into(), token: None };
        assert_eq!(served(&trust, &Known::default(), gone), (vec![], vec![]));
    }

    fn served(trust: &Trust, known: &Known, one: api::SignedRecord) -> (Vec<DeviceRecord>, Vec<DeviceId>) {
        recipients(trust, known, api::RecordList { records: vec![one] })
    }

    #[test]
    fn s21_s27_a_device_that_was_relabelled_or_taken_out_is_not_sealed_to_by_a_record_from_before() {
        let fleet = Fleet::new();
        let (trust, _) = fleet.founder();
        let signed = |sequence| {
            let r = record(&trust, sequence);
            let envelope = seal(&r, &[&signer(2) as &dyn Signer]).unwrap().0;
            api::SignedRecord { device: r.device, record: envelope.into(), token: None }
        };
        let device = signed(1).device;
        let mut known = Known::default();
        assert_eq!(served(&trust, &known, signed(1)).0.len(), 1);
        for number in [3, 2] {
            known.take(Event::new(action::RECORD, "operator", device.as_str()).number(number));
        }
        assert_eq!(served(&trust, &known, signed(2)), (vec![], vec![device.clone()]));
        assert_eq!(served(&trust, &known, signed(3)).0.len(), 1);
        known.take(Event::new(action::REVOKED, "operator", device.as_str()));
        assert_eq!(served(&trust, &known, signed(3)), (vec![], vec![]));
    }
}
