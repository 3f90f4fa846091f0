//! Everything that the protocol can express, tried by somebody who has all that a controller has, and what must come of each.
//!
//! What must come of it stands here by hand, from the rules on the protocol's page; no verifier is asked. Each list is a match
//! over the wire's own types without a default: a new kind, topic, verb or role does not compile until it is tried too.

mod forged;
mod genuine;
mod orders;
mod roots;
mod snapshots;

pub(crate) use forged::planted_record;

use crate::loot::Loot;
use anyhow::{Context as _, Result};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::ids::{DeviceId, FleetId, Timestamp};
use shoal_protocol::latest::{Ack, Deployment, DeviceRecord, Entry, EntryKind, Kind, Liveness, Snapshot};
use shoal_protocol::topics::Topic;
use shoal_protocol::{Code, Ed25519Signer};

/// What a device makes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comes {
    /// Admission refuses it by this code, and counts that.
    Refused(Code),
    /// It is held already, or thrown away before admission: nothing changes, nothing is counted.
    Nothing,
    /// The broker does not take it.
    Denied,
    /// A controller may say this; the word says what comes of it.
    Granted(&'static str),
}

/// One message to one device.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// What is tried, for people.
    pub(crate) what: String,
    pub(crate) topic: Topic,
    pub(crate) message: Vec<u8>,
    pub(crate) comes: Comes,
}

impl Attempt {
    fn new(what: impl Into<String>, topic: Topic, message: Vec<u8>, comes: Comes) -> Self {
        Self { what: what.into(), topic, message, comes }
    }

    fn refused(what: impl Into<String>, topic: Topic, message: Vec<u8>, code: Code) -> Self {
        Self::new(what, topic, message, Comes::Refused(code))
    }
}

/// The thief at work on one device.
pub(crate) struct Thief<'a> {
    pub(crate) loot: &'a Loot,
    pub(crate) device: &'a DeviceId,
    /// The controller's own key.
    pub(crate) online: Ed25519Signer,
    /// A key that nobody knows.
    pub(crate) fresh: Ed25519Signer,
    /// Counter of the first order.
    pub(crate) counter: u64,
    pub(crate) now: Timestamp,
    /// The device's record.
    pub(crate) record: DeviceRecord,
    /// The newest snapshot.
    pub(crate) snapshot: Snapshot,
    /// A deployment that the device runs.
    pub(crate) deployment: Deployment,
}

impl<'a> Thief<'a> {
    pub(crate) fn new(loot: &'a Loot, device: &'a DeviceId, counter: u64) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no entropy: {e}"))?;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let (_, record) = loot.newest_where::<DeviceRecord>(|r| r.device == *device)?;
        let snapshot: Snapshot = loot.newest(Kind::Snapshot)?.read()?;
        let runs = |d: &Deployment| {
            let listed = |e: &Entry| {
                e.kind == EntryKind::Deployment
                    && e.name == d.name
                    && e.newest.sequence == d.sequence
                    && e.liveness == Liveness::Live
            };
            snapshot.entries.iter().any(listed) && d.target.selects(device, &record.labels)
        };
        let (_, deployment) = loot.newest_where(runs)?;
        Ok(Self {
            loot,
            device,
            online: Ed25519Signer::from_seed(loot.online),
            fresh: Ed25519Signer::from_seed(seed),
            counter,
            now: Timestamp(since.as_secs()),
            record,
            snapshot,
            deployment,
        })
    }

    pub(crate) fn fleet(&self) -> &FleetId {
        &self.loot.fleet
    }

    /// All families of attempts by name; those of one are sent together.
    pub(crate) fn families(&self) -> Result<Vec<(String, Vec<Attempt>)>> {
        let mut all = Vec::new();
        for kind in Kind::ALL {
            let name = format!("kind-{}", kind.as_str());
            all.push((name.clone(), forged::of_kind(self, kind).with_context(|| name)?));
        }
        all.push(("roots".to_owned(), roots::all(self)?));
        all.push(("snapshots".to_owned(), snapshots::all(self)?));
        all.push(("records-and-grants".to_owned(), forged::of_recipients(self)?));
        all.push(("genuine".to_owned(), genuine::all(self)?));
        for topic in Topic::ALL {
            all.push((format!("topic-{}", topic.suffix().replace('/', "-")), on(self, topic)?));
        }
        for verb in orders::verbs(self)? {
            all.push((format!("order-{}", orders::word(&verb)), orders::beyond(self, &verb)?));
        }
        for verb in orders::verbs(self)? {
            all.push((format!("granted-{}", orders::word(&verb)), vec![orders::granted(self, verb)?]));
        }
        Ok(all)
    }
}

/// What no document is, on this topic; and each kind on it, since a topic must never say more than the signed type.
fn on(thief: &Thief<'_>, topic: Topic) -> Result<Vec<Attempt>> {
    let garbage = |n: usize| vec![0xff; n];
    let mut all = Vec::new();
    match topic {
        Topic::Hello | Topic::Heartbeat | Topic::Report | Topic::Log => {
            // What goes up is a device's to say, for its own ears at the controller; the broker holds the controller to that too.
            all.push(Attempt::new("in the device's own name", topic, garbage(8), Comes::Denied));
            return Ok(all);
        }
        Topic::Ack => {
            let lies = codec::encode(&Ack { counter: u64::MAX });
            all.push(Attempt::new("all reports are stored, those to come too", topic, lies, Comes::Nothing));
            all.push(Attempt::new("garbage", topic, garbage(8), Comes::Nothing));
        }
        Topic::Root | Topic::Snapshot | Topic::Document | Topic::Order => {
            all.push(Attempt::refused("garbage", topic, garbage(8), Code::Malformed));
            all.push(Attempt::refused("nothing", topic, Vec::new(), Code::Malformed));
            let sealed = thief.loot.newest(Kind::Deployment)?.envelope.clone();
            let later = replaced(&sealed, b".v1+cbor", b".v2+cbor")?;
            all.push(Attempt::refused("of a later version", topic, later, Code::UnsupportedVersion));
            let other = replaced(&sealed, b"vnd.shoal", b"vnd.shoel")?;
            all.push(Attempt::refused("of nobody's type", topic, other, Code::WrongType));
        }
    }
    all.push(Attempt::new("one byte too many", topic, garbage(topic.size_cap() + 1), Comes::Nothing));
    if topic != Topic::Ack {
        for kind in Kind::ALL {
            all.extend(forged::by_online_key(thief, kind, topic)?);
        }
    }
    Ok(all)
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let at = bytes.windows(old.len()).position(|w| w == old).context("the type is not where it should be")?;
    let mut bytes = bytes.to_vec();
    bytes[at..at + old.len()].copy_from_slice(new);
    Ok(bytes)
}

/// A payload of a kind that is never too large to be read back.
fn decode<T: shoal_protocol::latest::Document>(payload: &[u8]) -> Result<T> {
    Ok(codec::decode(payload, Limits::of_size(T::KIND.size_cap()))?)
}
