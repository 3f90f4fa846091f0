//! The audit log: what an entry says, how each is chained to the one before, and how much noise may come in.
//!
//! Append-only: entry n's head is the SHA-256 of the head before and of the entry's exact bytes, so whoever holds one head
//! holds all that led to it. Snapshots carry one, signed. Never here: storage, a clock.

use serde::{Deserialize, Serialize};
use shoal_protocol::codec::{self, CodecError, Limits};
use shoal_protocol::ids::{Digest, Timestamp};
use shoal_protocol::latest::Key;
use std::collections::BTreeMap;

/// The most bytes of one entry.
pub const MAX_ENTRY: usize = 4096;
/// The most entries that are given at a time.
pub const PAGE: u64 = 1000;
/// The most characters of a text that somebody else wrote.
const MAX_TEXT: usize = 300;
const DOMAIN: &[u8] = b"shoal audit v1\0";

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Event {
    /// One of the words in [`action`].
    pub action: String,
    /// Who did it: `operator`, a device's id, `controller`, or `unknown`.
    pub by: String,
    /// On what: a name, a device, a path.
    pub subject: String,
    /// Version, sequence or counter of what it is about; of a refusal how often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Identity of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The keys that signed it, by the beginning of their hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signers: Vec<String>,
    /// Why not, of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// More, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The words for what happened.
pub mod action {
    /// A root was accepted.
    pub const ROOT: &str = "root";
    /// A snapshot was accepted.
    pub const SNAPSHOT: &str = "snapshot";
    /// A document came up with a snapshot.
    pub const DOCUMENT: &str = "document";
    /// A device was granted a secret.
    pub const GRANT: &str = "grant";
    /// A join token was registered.
    pub const TOKEN: &str = "token";
    /// A device enrolled.
    pub const ENROLLED: &str = "enrolled";
    /// An operator let a device in.
    pub const APPROVED: &str = "approved";
    /// An operator did not.
    pub const DENIED: &str = "denied";
    /// A device's record was signed anew.
    pub const RECORD: &str = "record";
    /// A device's certificates were revoked.
    pub const REVOKED: &str = "revoked";
    /// The controller signed an order.
    pub const ORDER: &str = "order";
    /// The controller refused something.
    pub const REFUSED: &str = "refused";
    /// A device refused something, by its own report.
    pub const DEVICE_REFUSED: &str = "device_refused";
}

impl Event {
    /// An event with nothing but who did what to what.
    pub fn new(action: &str, by: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { action: action.to_owned(), by: by.into(), subject: text(&subject.into()), ..Self::default() }
    }
    /// With a version, sequence, counter or count.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.number = Some(number);
        self
    }
    /// With the document's identity and signers.
    #[must_use]
    pub fn signed(mut self, digest: Digest, signers: &[Key]) -> Self {
        self.digest = Some(digest);
        self.signers = signers.iter().map(|k| format!("{:016x}", u64::from_be_bytes(k.kid()))).collect();
        self
    }
    /// With a refusal's code and words.
    #[must_use]
    pub fn because(mut self, code: &str, detail: &str) -> Self {
        self.code = Some(text(code));
        self.detail = Some(text(detail));
        self
    }
}

/// Bounded, and without control characters: it ends up on terminals.
fn text(of: &str) -> String {
    of.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(MAX_TEXT).collect()
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1, by one.
    pub sequence: u64,
    /// When, by the controller's clock.
    pub at: Timestamp,
    /// What.
    pub event: Event,
}

impl Entry {
    /// The exact bytes that are chained.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`CodecError`] for anything but an entry's one encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, Limits::of_size(MAX_ENTRY))
    }
}

/// A place in the log: everything up to `sequence` led to `head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The newest entry; 0 before the first.
    pub sequence: u64,
    /// The head after it.
    pub head: Digest,
}

impl Point {
    /// Before the first entry.
    pub const START: Self = Self { sequence: 0, head: Digest([0; 32]) };

    /// The place after one more entry.
    #[must_use]
    pub fn after(self, entry: &[u8]) -> Self {
        let head = Digest::of(&[DOMAIN, &self.head.0, entry].concat());
        Self { sequence: self.sequence + 1, head }
    }

    /// The same, for an entry that somebody else serves: it must say the sequence that follows.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn follow(self, entry: &[u8]) -> Result<(Self, Entry), String> {
        let next = self.after(entry);
        let read = Entry::decode(entry).map_err(|e| format!("entry {} is none: {e}", next.sequence))?;
        if read.sequence == next.sequence {
            Ok((next, read))
        } else {
            Err(format!("entry {} stands where {} should", read.sequence, next.sequence))
        }
    }
}

/// Seconds in which the same refusal makes one entry.
const QUIET: u64 = 60;
/// Refusals that may come at once, and how many seconds earn one more: at most 8,640 a day in the long run.
const BURST: u64 = 500;
const EARN: u64 = 10;
/// Different refusals that are counted at a time.
const KINDS: usize = 4096;

/// Keeps refusals, which anybody can cause, from growing the log: equal ones are counted, and all of them are rationed.
/// What operators do is never held back.
#[derive(Debug)]
pub struct Ration {
    left: u64,
    earned_at: Timestamp,
    /// (by, code) → when the last entry was made, and how often since.
    seen: BTreeMap<(String, String), (Timestamp, u64)>,
}

impl Ration {
    /// Full.
    pub fn new(now: Timestamp) -> Self {
        Self { left: BURST, earned_at: now, seen: BTreeMap::new() }
    }

    /// Whether a refusal that came `times` makes an entry now, and for how many it stands.
    pub fn admit(&mut self, by: &str, code: &str, times: u64, now: Timestamp) -> Option<u64> {
        let earned = now.0.saturating_sub(self.earned_at.0) / EARN;
        self.left = BURST.min(self.left + earned);
        self.earned_at = Timestamp(self.earned_at.0 + earned * EARN);
        if self.seen.len() >= KINDS {
            self.seen.retain(|_, (at, more)| *more > 0 || now.0.saturating_sub(at.0) < QUIET);
        }
        let key = (text(by), text(code));
        let known = self.seen.get(&key).copied();
        let waiting = known.map_or(0, |(_, more)| more).saturating_add(times);
        let quiet = known.is_some_and(|(at, _)| now.0.saturating_sub(at.0) < QUIET);
        if quiet || self.left == 0 {
            if known.is_some() || self.seen.len() < KINDS {
                let at = known.map_or(Timestamp(0), |(at, _)| at);
                self.seen.insert(key, (at, waiting));
            }
            return None;
        }
        self.left -= 1;
        if known.is_some() || self.seen.len() < KINDS {
            self.seen.insert(key, (now, 0));
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, subject: &str) -> Vec<u8> {
        let event = Event::new(action::ROOT, "operator", subject);
        Entry { sequence, at: Timestamp(9), event }.encode()
    }

    #[test]
    fn s26_any_change_moves_the_head_and_a_gap_is_noticed() {
        let (a, b) = (entry(1, "one"), entry(2, "two"));
        let (one, read) = Point::START.follow(&a).unwrap();
        assert_eq!((one.sequence, read.event.subject.as_str()), (1, "one"));
        let (two, _) = one.follow(&b).unwrap();
        let other = Point::START.after(&entry(1, "other")).after(&b);
        assert_ne!(two.head, other.head);
        assert!(Point::START.follow(&b).unwrap_err().contains("entry 2 stands where 1 should"));
        assert!(one.follow(&a).is_err());
        assert!(one.follow(b"\x00").is_err());
    }

    #[test]
    fn an_entry_has_one_encoding_and_texts_of_others_are_tamed() {
        let event =
            Event::new(action::REFUSED, "unknown", "a\x1b[31mb").because("threshold", &"x".repeat(9999));
        let e = Entry { sequence: 1, at: Timestamp(1), event };
        assert_eq!(Entry::decode(&e.encode()).unwrap(), e);
        assert!(e.encode().len() < MAX_ENTRY);
        assert!(!e.event.subject.contains('\x1b'));
        let mut bytes = e.encode();
        bytes.push(0);
        assert!(Entry::decode(&bytes).is_err());
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_rationed_and_nothing_is_forgotten() {
        let mut ration = Ration::new(Timestamp(1000));
        assert_eq!(ration.admit("x", "threshold", 1, Timestamp(1000)), Some(1));
        for _ in 0..1_000 {
            assert_eq!(ration.admit("x", "threshold", 1, Timestamp(1001)), None);
        }
        assert_eq!(ration.admit("x", "epoch", 1, Timestamp(1001)), Some(1), "another code has its own turn");
        assert_eq!(ration.admit("x", "threshold", 1, Timestamp(1060)), Some(1001));
        let mut entries = 0;
        for n in 0..100_000_u64 {
            let at = Timestamp(2000 + n / 1000);
            entries += u64::from(ration.admit(&format!("d{n}"), "rollback", 1, at).is_some());
        }
        assert!((BURST..BURST + 20).contains(&entries), "{entries}");
        assert!(ration.seen.len() <= KINDS);
    }
}
