//! Of every kind of document the next one, as the thief would have it, by every key that a thief can sign with.

use super::{Attempt, Comes, Thief, decode};
use anyhow::{Context as _, Result};
use shoal_protocol::codec;
use shoal_protocol::envelope::{self, Envelope};
use shoal_protocol::ids::{Bytes, Digest};
use shoal_protocol::latest::{
    Build, Config, Controller, DeviceRecord, Fact, Grant, Key, Kind, Minima, Order, Receipt, ReceiptRequest,
    Release, ReleaseFile, Report, Revision, RoleName, Root, Secret, Selector, Snapshot, SnapshotRef, Target,
    Token, Verb,
};
use shoal_protocol::sealing::{self, SecretKey};
use shoal_protocol::topics::Topic;
use shoal_protocol::verify::PROGRAMS;
use shoal_protocol::{Code, SignError, Signer};

/// Whose signatures a forged document carries.
#[derive(Debug, Clone, Copy)]
enum By {
    /// The controller's online key's.
    Online,
    /// A key's that nobody knows.
    Fresh,
    /// Those below the newest genuine document of the kind.
    Copied,
}

/// A signature of somebody else's, over something else.
struct Copied {
    key: Key,
    signature: Vec<u8>,
}

impl Signer for Copied {
    fn key(&self) -> Key {
        self.key.clone()
    }
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(self.signature.clone())
    }
}

/// The topic that a kind belongs on; up or down, a controller would send it down.
pub(super) fn topic(kind: Kind) -> Topic {
    match kind {
        Kind::Root => Topic::Root,
        Kind::Snapshot => Topic::Snapshot,
        Kind::Order => Topic::Order,
        Kind::Deployment
        | Kind::Device
        | Kind::Token
        | Kind::Report
        | Kind::Fact
        | Kind::Config
        | Kind::Secret
        | Kind::Release
        | Kind::Removal
        | Kind::Grant
        | Kind::ReceiptRequest
        | Kind::Receipt => Topic::Document,
    }
}

/// What must come of a forged document; nothing where that is a controller's own to sign.
fn code(kind: Kind, by: By) -> Option<Code> {
    Some(match (kind, by) {
        (Kind::Root, By::Online | By::Fresh) => Code::RootThreshold,
        (
            Kind::Snapshot
            | Kind::Deployment
            | Kind::Device
            | Kind::Config
            | Kind::Secret
            | Kind::Grant
            | Kind::Release
            | Kind::ReceiptRequest,
            By::Online,
        ) => Code::RoleScope,
        (
            Kind::Snapshot
            | Kind::Deployment
            | Kind::Device
            | Kind::Config
            | Kind::Secret
            | Kind::Grant
            | Kind::Release
            | Kind::Order
            | Kind::ReceiptRequest,
            By::Fresh,
        ) => Code::UnknownKey,
        (
            Kind::Root
            | Kind::Snapshot
            | Kind::Deployment
            | Kind::Device
            | Kind::Config
            | Kind::Secret
            | Kind::Grant
            | Kind::Release
            | Kind::Order
            | Kind::ReceiptRequest,
            By::Copied,
        ) => Code::BadSignature,
        (Kind::Token | Kind::Report | Kind::Fact | Kind::Receipt, _) => Code::WrongType,
        (Kind::Removal, _) => Code::UnsupportedVersion,
        // Orders are what that key is for: see `orders`.
        (Kind::Order, By::Online) => return None,
    })
}

/// The next one of a kind, with what a thief wants in it.
fn payload(thief: &Thief<'_>, kind: Kind) -> Result<Vec<u8>> {
    let loot = thief.loot;
    Ok(match kind {
        Kind::Root => {
            let mut root: Root = loot.newest(kind)?.read()?;
            root.version += 1;
            for role in root.roles.iter_mut().filter(|r| r.name != RoleName::Root) {
                role.keys.push(thief.fresh.public());
                role.ceiling = None;
            }
            root.controller =
                Controller { mqtt: vec!["mqtts://thief.example:443".into()], ..root.controller };
            codec::encode(&root)
        }
        Kind::Snapshot => {
            let mut snapshot: Snapshot = loot.newest(kind)?.read()?;
            snapshot.version += 1;
            codec::encode(&snapshot)
        }
        Kind::Deployment => {
            let mut deployment = thief.deployment.clone();
            deployment.sequence += 1;
            codec::encode(&deployment)
        }
        Kind::Device => {
            codec::encode(&DeviceRecord { sequence: thief.record.sequence + 1, ..thief.record.clone() })
        }
        Kind::Token => codec::encode(&Token {
            fleet: thief.fleet().clone(),
            epoch: thief.record.epoch,
            key: thief.fresh.public(),
            issued_at: thief.now,
            not_after: thief.now.plus(3600),
            uses: 1000,
            approval: false,
            minima: Minima { root_version: 1, snapshot_version: 0, time: thief.now },
            labels: thief.record.labels.clone(),
        }),
        Kind::Order => codec::encode(&Order {
            fleet: thief.fleet().clone(),
            device: thief.device.clone(),
            counter: thief.counter,
            issued_at: thief.now,
            not_after: thief.now.plus(600),
            verb: Verb::Restart { name: thief.deployment.name.clone() },
        }),
        Kind::Report => {
            let mut report: Report = loot.newest_where(|r: &Report| r.device == *thief.device)?.1;
            report.counter += 1;
            codec::encode(&report)
        }
        Kind::Fact => {
            let mut fact: Fact = loot.newest_where(|f: &Fact| f.device == *thief.device)?.1;
            fact.counter += 1;
            codec::encode(&fact)
        }
        Kind::Config => {
            let mut config: Config = loot.newest(kind)?.read()?;
            config.sequence += 1;
            config.data = config.data.keys().map(|k| (k.to_owned(), b"theirs".to_vec())).collect();
            codec::encode(&config)
        }
        Kind::Secret => {
            let mut secret: Secret = loot.newest(kind)?.read()?;
            secret.sequence += 1;
            let values = secret.keys.iter().map(|k| (k.clone(), b"theirs".to_vec())).collect();
            sealing::seal(&mut secret, &SecretKey::new([7; 32]), &values)?;
            codec::encode(&secret)
        }
        Kind::Grant => {
            let mut grant: Grant = loot.newest_where(|g: &Grant| g.device == *thief.device)?.1;
            let to = (thief.fleet(), thief.device);
            let of = (&grant.name, &grant.revision);
            grant.sealed = sealing::wrap(&SecretKey::new([7; 32]), &thief.record.sealing.0, to, of, [8; 32])?;
            codec::encode(&grant)
        }
        Kind::ReceiptRequest => {
            let held: Snapshot = loot.newest(Kind::Snapshot)?.read()?;
            let digest = Envelope::parse(&loot.newest(Kind::Snapshot)?.envelope)?.identity();
            codec::encode(&ReceiptRequest {
                fleet: thief.fleet().clone(),
                epoch: thief.record.epoch,
                snapshot: SnapshotRef { version: held.version, digest },
                target: Target { devices: vec![thief.device.clone()], ..Target::default() },
                issued_at: thief.now,
                not_after: thief.now.plus(600),
                logs: 200,
            })
        }
        Kind::Receipt => codec::encode(&Receipt {
            fleet: thief.fleet().clone(),
            device: thief.device.clone(),
            counter: 1,
            issued_at: thief.now,
            request: envelope::identity(Kind::ReceiptRequest, b"x"),
            record: Bytes(Vec::new()),
            reports: Vec::new(),
            left_out: 0,
            enrollment: None,
            logs: Vec::new(),
        }),
        Kind::Release => codec::encode(&release(thief)),
        // The reserved kind has no fields yet.
        Kind::Removal => vec![0xa0],
    })
}

/// Programs of the thief's for every device.
fn release(thief: &Thief<'_>) -> Release {
    let file = |path: &str| ReleaseFile {
        path: path.to_owned(),
        size: 6,
        digest: Digest::of(b"theirs"),
        executable: true,
        packed: None,
    };
    let build = Build {
        architecture: std::env::consts::ARCH.to_owned(),
        reference: "thief.example/agent:1".to_owned(),
        manifest: Digest::of(b"theirs"),
        files: PROGRAMS.iter().map(|p| file(p)).collect(),
    };
    Release {
        fleet: thief.fleet().clone(),
        epoch: thief.record.epoch,
        name: thief.deployment.name.clone(),
        sequence: 1,
        issued_at: thief.now,
        not_after: thief.now.plus(3600),
        target: Target { selector: Some(Selector::default()), ..Target::default() },
        version: "999.0.0".to_owned(),
        builds: vec![build],
        deadline: None,
    }
}

fn signed(thief: &Thief<'_>, kind: Kind, payload: &[u8], by: By) -> Result<Vec<u8>> {
    let envelope = match by {
        By::Online => envelope::sign(kind, payload, &[&thief.online])?,
        By::Fresh => envelope::sign(kind, payload, &[&thief.fresh])?,
        By::Copied => {
            let all = copied(thief, kind)?;
            let all: Vec<&dyn Signer> = all.iter().map(|s| s as &dyn Signer).collect();
            envelope::sign(kind, payload, &all)?
        }
    };
    Ok(envelope)
}

/// The signatures below the newest genuine document of a kind, with the public keys that made them.
fn copied(thief: &Thief<'_>, kind: Kind) -> Result<Vec<Copied>> {
    let root: Root = thief.loot.newest(Kind::Root)?.read()?;
    let mut keys: Vec<Key> = root.roles.into_iter().flat_map(|r| r.keys).collect();
    keys.extend(thief.loot.of(Kind::Token).filter_map(|t| Some(t.read::<Token>().ok()?.key)));
    keys.extend([root.controller.online, thief.record.identity.clone(), thief.record.attest.clone()]);
    // What has never been signed yet carries what stands below something else.
    let own = match kind {
        Kind::Device => Some(thief.loot.newest_where(|r: &DeviceRecord| r.device == *thief.device)?.0),
        Kind::Order | Kind::Report | Kind::Fact => None,
        Kind::ReceiptRequest => thief.loot.newest(Kind::Snapshot).ok(),
        _ => thief.loot.newest(kind).ok(),
    };
    let envelope = match own {
        Some(genuine) => genuine.envelope.clone(),
        None => envelope::sign(Kind::Order, b"another", &[&thief.online])?,
    };
    let below = Envelope::parse(&envelope)?;
    let all = below.signatures().iter().map(|s| {
        let key = keys.iter().find(|k| k.kid() == s.kid).cloned();
        Ok(Copied { key: key.context("a signature by nobody known")?, signature: s.bytes.to_vec() })
    });
    all.collect()
}

/// A kind by every key, on the topic that is its own.
pub(super) fn of_kind(thief: &Thief<'_>, kind: Kind) -> Result<Vec<Attempt>> {
    let payload = payload(thief, kind)?;
    let mut all = Vec::new();
    for by in [By::Online, By::Fresh, By::Copied] {
        let Some(code) = code(kind, by) else { continue };
        let what = format!("{} by {by:?}", kind.as_str());
        all.push(Attempt::refused(what, topic(kind), signed(thief, kind, &payload, by)?, code));
    }
    Ok(all)
}

/// A kind on a topic that may not be its own, by the one key that the thief has in the root.
pub(super) fn by_online_key(thief: &Thief<'_>, kind: Kind, topic: Topic) -> Result<Option<Attempt>> {
    let Some(code) = code(kind, By::Online) else { return Ok(None) };
    let message = signed(thief, kind, &payload(thief, kind)?, By::Online)?;
    let comes = if message.len() > topic.size_cap() { Comes::Nothing } else { Comes::Refused(code) };
    Ok(Some(Attempt::new(format!("{} on {}", kind.as_str(), topic.suffix()), topic, message, comes)))
}

/// What would make the thief a reader of secrets, or the device another one.
pub(super) fn of_recipients(thief: &Thief<'_>) -> Result<Vec<Attempt>> {
    let next = DeviceRecord { sequence: thief.record.sequence + 1, ..thief.record.clone() };
    let mut relabelled = next.clone();
    relabelled.labels.insert("site", "theirs");
    let own_sealing = sealing::public_of(&[6; 32]);
    let records = [
        ("another label", relabelled),
        (
            "a sealing key of the thief's",
            DeviceRecord { sealing: Bytes(own_sealing.to_vec()), ..next.clone() },
        ),
        ("an attest key of the thief's", DeviceRecord { attest: thief.fresh.public(), ..next.clone() }),
        ("it left the fleet", DeviceRecord { decommissioned: true, ..next.clone() }),
        ("as at the beginning", DeviceRecord { sequence: 1, ..next }),
    ];
    let mut all = Vec::new();
    for (what, record) in records {
        let payload = codec::encode(&record);
        for by in [By::Online, By::Fresh] {
            let code = code(Kind::Device, by).context("records are not the controller's to sign")?;
            let message = signed(thief, Kind::Device, &payload, by)?;
            all.push(Attempt::refused(format!("record: {what}, by {by:?}"), Topic::Document, message, code));
        }
    }
    // The ciphertext of one place in another, with the signatures of the first.
    let mut secret: Secret = thief.loot.newest(Kind::Secret)?.read()?;
    secret.deployments = vec!["*".to_owned()];
    let message = signed(thief, Kind::Secret, &codec::encode(&secret), By::Copied)?;
    all.push(Attempt::refused("a secret for all deployments", Topic::Document, message, Code::BadSignature));
    for genuine in thief.loot.of(Kind::Grant) {
        let grant: Grant = decode(Envelope::parse(&genuine.envelope)?.payload())?;
        let theirs = Grant {
            device: thief.device.clone(),
            revision: Revision { sequence: grant.revision.sequence + 1, ..grant.revision },
            ..grant
        };
        let message = signed(thief, Kind::Grant, &codec::encode(&theirs), By::Copied)?;
        all.push(Attempt::refused(
            "a grant of another revision",
            Topic::Document,
            message,
            Code::BadSignature,
        ));
    }
    Ok(all)
}

/// The record with a sealing key of the thief's, by the one key that the thief has in the root.
pub(crate) fn planted_record(thief: &Thief<'_>) -> Result<Vec<u8>> {
    let own = sealing::public_of(&[6; 32]);
    let record = DeviceRecord {
        sequence: thief.record.sequence + 1,
        sealing: Bytes(own.to_vec()),
        ..thief.record.clone()
    };
    signed(thief, Kind::Device, &codec::encode(&record), By::Online)
}
