//! What every part of shoald shares, and how it comes up from the store.

use crate::broker::{Kick, Place};
use crate::fleet::{Device, Document, Fleet, Input, Message};
use crate::logs::LogHub;
use crate::pki::Authority;
use crate::store::{DeviceRow, Store};
use anyhow::{Context as _, Result, anyhow};
use shoal_controller_core::api;
use shoal_controller_core::audit::Ration;
use shoal_protocol::Ed25519Signer;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{DeviceId, FleetId, Timestamp};
use shoal_protocol::latest::{
    Config, Controller, Deployment, DeviceRecord, Document as Payload, EntryKind, Fact, Kind, Release,
    Report, Secret, Snapshot,
};
use shoal_protocol::verify::{Expect, Known, verify};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, watch};

/// Where the fleet's people and devices reach this controller, as its root has to say.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub(crate) api: Vec<String>,
    pub(crate) mqtt: Vec<String>,
}

/// A message on its way to one device.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) device: DeviceId,
    pub(crate) message: Message,
}

/// Everything shared.
pub(crate) struct App {
    pub(crate) authority: Authority,
    pub(crate) online: Arc<Ed25519Signer>,
    pub(crate) endpoints: Endpoints,
    pub(crate) store: Store,
    pub(crate) images: shoal_image::Store,
    /// SHA-256 of the operators' credential.
    pub(crate) credential: shoal_protocol::ids::Digest,
    pub(crate) logs: LogHub,
    /// Roots and snapshots change one at a time.
    pub(crate) trust_gate: tokio::sync::Mutex<()>,
    /// What a device lacks is worked out and queued by one task at a time: a document never overtakes its snapshot.
    push_gate: tokio::sync::Mutex<()>,
    /// Rollouts are to be looked at again.
    pub(crate) wake: Notify,
    pub(crate) fleet_id: watch::Sender<Option<FleetId>>,
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    pub(crate) kicks: mpsc::Sender<Kick>,
    /// Where the broker is, while there is one that shoald itself is connected to.
    pub(crate) broker: watch::Receiver<Option<Place>>,
    /// Somebody else's broker, which tells nothing of who comes and goes, and ends nobody's connection.
    pub(crate) foreign: bool,
    /// Ends what would otherwise wait for a client.
    pub(crate) ending: watch::Receiver<bool>,
    fleet: Mutex<Fleet>,
    /// How many refusals may still go into the audit log.
    ration: Mutex<Ration>,
}

/// The ends of the queues that other tasks read or write.
pub(crate) struct Queues {
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    pub(crate) kicks: mpsc::Sender<Kick>,
    pub(crate) broker: watch::Receiver<Option<Place>>,
    pub(crate) foreign: bool,
    pub(crate) ending: watch::Receiver<bool>,
}

/// What setting up gave.
pub(crate) struct Own {
    pub(crate) authority: Authority,
    pub(crate) online: Ed25519Signer,
    pub(crate) endpoints: Endpoints,
    pub(crate) credential: shoal_protocol::ids::Digest,
}

impl App {
    /// Reads the fleet back from the store.
    pub(crate) async fn load(
        own: Own,
        store: Store,
        images: shoal_image::Store,
        queues: Queues,
    ) -> Result<Self> {
        let fleet = load_fleet(&store).await?;
        let fleet_id = fleet.trust.anchor.as_ref().map(|a| a.fleet.clone());
        Ok(Self {
            authority: own.authority,
            online: Arc::new(own.online),
            endpoints: own.endpoints,
            store,
            images,
            credential: own.credential,
            logs: LogHub::default(),
            trust_gate: tokio::sync::Mutex::new(()),
            push_gate: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            fleet_id: watch::Sender::new(fleet_id),
            outgoing: queues.outgoing,
            kicks: queues.kicks,
            broker: queues.broker,
            foreign: queues.foreign,
            ending: queues.ending,
            fleet: Mutex::new(fleet),
            ration: Mutex::new(Ration::new(now())),
        })
    }

    /// The fleet. Never held across a wait.
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        // Whoever panicked with it changed single fields at a time; the store has the truth.
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ration of refusals. Never held across a wait.
    pub(crate) fn ration(&self) -> MutexGuard<'_, Ration> {
        self.ration.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The controller block that a root of this fleet carries.
    pub(crate) fn controller(&self) -> Controller {
        Controller {
            online: self.online.public(),
            ca: vec![self.authority.certificate.to_vec().into()],
            api: self.endpoints.api.clone(),
            mqtt: self.endpoints.mqtt.clone(),
        }
    }

    /// The same for the API.
    pub(crate) fn controller_view(&self) -> api::Controller {
        (&self.controller()).into()
    }

    /// Sends a device what it lacks, if it is connected or `answering` its hello.
    pub(crate) async fn bring_up_to_date(&self, id: &DeviceId, answering: bool) {
        let _gate = self.push_gate.lock().await;
        let messages = {
            let mut fleet = self.fleet();
            let reachable = fleet.devices.get(id).is_some_and(|d| answering || d.is_connected());
            if reachable { fleet.messages_for(id) } else { Vec::new() }
        };
        for message in messages {
            self.send(id, message).await;
        }
    }

    /// Queues one message; waits while the queue is full.
    pub(crate) async fn send(&self, id: &DeviceId, message: Message) {
        // The queue is closed when shoald ends; devices ask again at their next hello.
        let _ = self.outgoing.send(Outgoing { device: id.clone(), message }).await;
    }
}

/// The time, by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| d.as_secs()))
}

/// Returns when this moment is over; without one, never. By this process's own clock, so whoever waits long looks again.
pub(crate) async fn after(end: Option<Timestamp>) {
    match end {
        Some(end) => {
            let left = end.0.saturating_add(1).saturating_sub(now().0);
            tokio::time::sleep(std::time::Duration::from_secs(left)).await;
        }
        None => std::future::pending().await,
    }
}

async fn load_fleet(store: &Store) -> Result<Fleet> {
    let mut fleet = Fleet::new();
    for envelope in store.roots().await? {
        let expect = if fleet.roots.is_empty() { Expect::FirstRoot } else { Expect::Stored(Kind::Root) };
        let verdict =
            verify(&envelope, &fleet.trust, now(), expect).context("a root in the store does not verify")?;
        fleet.trust.advance(&verdict);
        fleet.roots.push(envelope.into());
    }
    if let Some(envelope) = store.snapshot().await? {
        let (snapshot, digest) = stored::<Snapshot>(&envelope).context("the snapshot in the store")?;
        for digest in crate::fleet::listed(&snapshot) {
            let Some(envelope) = store.document(digest).await? else { continue };
            let (deployment, digest) =
                stored::<Deployment>(&envelope).context("a deployment in the store")?;
            let document = Document { deployment: Arc::new(deployment), envelope: envelope.into() };
            fleet.documents.insert(digest, document);
        }
        fleet.trust.snapshot = Some(Known::new(snapshot, digest));
        fleet.snapshot = Some(envelope.into());
    }
    for digest in fleet.wanted_inputs() {
        let Some(envelope) = store.document(digest).await? else { continue };
        let input = stored_input(&envelope).context("a config or secret in the store")?;
        fleet.inputs.insert(digest, input);
    }
    for (secret, device, envelope) in store.grants().await? {
        if let Ok(id) = device.parse::<DeviceId>() {
            fleet.grants.entry(secret).or_default().insert(id, envelope.into());
        }
    }
    for row in store.devices().await? {
        let device = load_device(&row)?;
        fleet.devices.insert(device.file.id().clone(), device);
    }
    for (device, revision, container) in store.healthy().await? {
        if let (Ok(id), Ok(name)) = (device.parse::<DeviceId>(), container.parse())
            && let Some(device) = fleet.devices.get_mut(&id)
        {
            device.healthy.entry(revision).or_default().insert(name);
        }
    }
    for (revision, device, at) in store.waves().await? {
        if let Ok(id) = device.parse::<DeviceId>()
            && let Some(device) = fleet.devices.get_mut(&id)
        {
            device.opened.insert(revision, at);
        }
    }
    Ok(fleet)
}

fn load_device(row: &DeviceRow) -> Result<Device> {
    let what = || format!("device {} in the store", row.id);
    let (record, identity) = stored::<DeviceRecord>(&row.record).with_context(what)?;
    let mut device = Device::new(record, identity, row.record.clone(), row.enrolled_at);
    device.file.revoked = row.revoked;
    device.file.last_seen = row.last_seen;
    device.file.alarms.clone_from(&row.alarms);
    device.file.certificate_not_after = row.certificate_not_after;
    if let Some(envelope) = &row.report {
        device.file.report = Some(stored::<Report>(envelope).with_context(what)?.0);
    }
    if let Some(system) = &row.system {
        device.file.system = Some(codec::decode(system, Limits::of_size(4096)).with_context(what)?);
    }
    Ok(device)
}

/// A document that was verified before it was stored.
fn stored<T: Payload>(envelope: &[u8]) -> Result<(T, shoal_protocol::ids::Digest)> {
    let envelope = Envelope::parse(envelope).context("is no envelope")?;
    let kind = envelope.kind().map_err(|e| anyhow!("{e}"))?;
    anyhow::ensure!(kind == T::KIND, "is a {}, not a {}", kind.as_str(), T::KIND.as_str());
    let document =
        codec::decode(envelope.payload(), Limits::of_size(T::KIND.size_cap())).context("cannot be read")?;
    Ok((document, envelope.identity()))
}

/// A config, secret or release that was verified.
pub(crate) fn stored_input(envelope: &[u8]) -> Result<Input> {
    let kind = Envelope::parse(envelope).context("is no envelope")?.kind().map_err(|e| anyhow!("{e}"))?;
    let bytes = bytes::Bytes::copy_from_slice(envelope);
    let (kind, name, sequence, target) = match kind {
        Kind::Secret => {
            let (s, _) = stored::<Secret>(envelope)?;
            (EntryKind::Secret, s.name, s.sequence, None)
        }
        Kind::Release => {
            let (r, _) = stored::<Release>(envelope)?;
            (EntryKind::Release, r.name, r.sequence, Some(Arc::new(r.target)))
        }
        _ => {
            let (c, _) = stored::<Config>(envelope)?;
            (EntryKind::Config, c.name, c.sequence, None)
        }
    };
    Ok(Input { kind, name, sequence, envelope: bytes, target })
}

/// The event of a fact as the store names it.
pub(crate) fn event_name(fact: &Fact) -> &'static str {
    match fact.event {
        shoal_protocol::latest::Event::Started => "started",
        shoal_protocol::latest::Event::Ended { .. } => "ended",
        shoal_protocol::latest::Event::Healthy => "healthy",
        shoal_protocol::latest::Event::Probed { passed: true, .. } => "probe_passed",
        shoal_protocol::latest::Event::Probed { passed: false, .. } => "probe_failed",
    }
}
