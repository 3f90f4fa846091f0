//! What to do with a device's report, by its counter.
//!
//! Counters only rise and may leave gaps (a device reserves them in blocks of 1,024). A device sends its outbox in
//! order and again until it is acknowledged, so the acknowledgement is the highest counter in the store.

use shoal_protocol::ids::Digest;

/// The verdict on one report whose signature is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// New: store it, then acknowledge.
    Store,
    /// It was stored before: acknowledge again, store nothing.
    Duplicate,
    /// Its counter was used before with other bytes (S25, `report_replay`): store nothing, remember that it happened.
    Replay,
}

/// Judges a report. `known` is the identity of the stored report with the same counter, if that one is still kept.
pub fn judge(counter: u64, identity: &Digest, highest: u64, known: Option<&Digest>) -> Receipt {
    if counter > highest {
        return Receipt::Store;
    }
    match known {
        Some(known) if known != identity => Receipt::Replay,
        _ => Receipt::Duplicate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn s25_an_old_counter_with_other_bytes_is_a_replay() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(judge(5, &a, 4, None), Receipt::Store);
        assert_eq!(judge(1029, &a, 4, None), Receipt::Store);
        assert_eq!(judge(4, &a, 4, Some(&a)), Receipt::Duplicate);
        assert_eq!(judge(4, &b, 4, Some(&a)), Receipt::Replay);
        assert_eq!(judge(3, &b, 4, None), Receipt::Duplicate);
    }

    proptest! {
        /// A device that repeats any suffix of its outbox, as after each reconnect, loses nothing and stores nothing twice.
        #[test]
        fn resending_loses_nothing_and_stores_nothing_twice(
            gaps in proptest::collection::vec(prop_oneof![Just(1_u64), Just(1024)], 1..40),
            resends in proptest::collection::vec((0..40_usize, 1..40_usize), 0..20),
        ) {
            let counters: Vec<u64> = gaps.iter().scan(0, |c, g| { *c += g; Some(*c) }).collect();
            let id = |c: u64| Digest::of(&c.to_be_bytes());
            let mut stored: BTreeMap<u64, Digest> = BTreeMap::new();
            let mut order = Vec::new();
            let mut deliver = |c: u64, stored: &mut BTreeMap<u64, Digest>| {
                let highest = stored.keys().next_back().copied().unwrap_or(0);
                match judge(c, &id(c), highest, stored.get(&c)) {
                    Receipt::Store => { stored.insert(c, id(c)); order.push(c); }
                    Receipt::Duplicate => {}
                    Receipt::Replay => panic!("the same bytes are no replay"),
                }
            };
            let mut sent = 0;
            for (back, count) in resends {
                let acked = stored.keys().next_back().copied().unwrap_or(0);
                let first = counters.iter().take_while(|c| **c <= acked).count().saturating_sub(back);
                for c in counters.iter().skip(first).take(count) { deliver(*c, &mut stored); }
                sent = sent.max((first + count).min(counters.len()));
            }
            for c in &counters[sent.saturating_sub(3)..] { deliver(*c, &mut stored); }
            prop_assert_eq!(stored.keys().copied().collect::<Vec<_>>(), counters.clone());
            prop_assert_eq!(order, counters);
        }
    }
}
