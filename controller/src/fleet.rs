//! What shoald knows of the fleet, in memory: rebuilt from the store at each start, changed only after the store was.
//!
//! Plain data and look-ups; never I/O. Everything here hangs on one lock that nobody holds while waiting.

use shoal_controller_core::api::DeploymentDevice;
use shoal_controller_core::rollout::{self, Decision, Member};
use shoal_controller_core::sync::{self, Holds, Send, Wants};
use shoal_controller_core::view::{self, DeviceFile};
use shoal_controller_core::{HEARTBEAT_LIMIT, api};
use shoal_protocol::ids::{DeviceId, Digest, Name, Timestamp};
use shoal_protocol::latest::{
    Deployment, DeviceRecord, Entry, EntryKind, Liveness, Revision, Selector, Snapshot, SnapshotRef, Target,
};
use shoal_protocol::verify::{Known, TrustState, Viewpoint};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A deployment with its exact bytes.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub(crate) deployment: Arc<Deployment>,
    pub(crate) envelope: bytes::Bytes,
}

/// A config, secret or release with its exact bytes; of a secret nobody here can read more than its name and keys.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) kind: EntryKind,
    pub(crate) name: Name,
    pub(crate) sequence: u64,
    pub(crate) envelope: bytes::Bytes,
    /// Of a release: whom it is for. The others go to whom a deployment refers to them.
    pub(crate) target: Option<Arc<Target>>,
}

/// One device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) file: DeviceFile,
    /// Identity of its record.
    pub(crate) record_identity: Digest,
    /// Envelope of its record.
    pub(crate) record: bytes::Bytes,
    /// Per revision, the containers that its signed facts call healthy.
    pub(crate) healthy: HashMap<Digest, BTreeSet<Name>>,
    /// Per revision, when it was first allowed to take it.
    pub(crate) opened: HashMap<Digest, Timestamp>,
    /// Connections that the broker has of it: more than one for moments, while a new one takes over.
    pub(crate) connections: u32,
    /// When the certificate ends that opened the newest of them; not known of one that came over WebSocket, which sees to it
    /// itself.
    pub(crate) certificate_ends: Option<Timestamp>,
    /// What it holds, by its last hello and what was sent since.
    pub(crate) holds: Option<Holds>,
    /// What it said in its last hello.
    pub(crate) said: Option<Holds>,
    /// The highest order counter that it said it accepted.
    pub(crate) order_counter: u64,
    /// Whether it was connected without a word at the last look.
    pub(crate) mute: bool,
    /// Whether `last_seen` is newer than in the store.
    pub(crate) seen: bool,
}

impl Device {
    /// A device that just enrolled.
    pub(crate) fn new(record: DeviceRecord, identity: Digest, envelope: Vec<u8>, at: Timestamp) -> Self {
        let file = DeviceFile {
            record,
            enrolled_at: at,
            last_seen: None,
            certificate_not_after: None,
            revoked: false,
            report: None,
            system: None,
            alarms: Vec::new(),
        };
        Self {
            file,
            record_identity: identity,
            record: envelope.into(),
            healthy: HashMap::new(),
            opened: HashMap::new(),
            connections: 0,
            certificate_ends: None,
            holds: None,
            said: None,
            order_counter: 0,
            mute: false,
            seen: false,
        }
    }

    /// Whether a message would reach it, and what it holds is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.connections > 0 && self.holds.is_some()
    }

    /// It was heard.
    pub(crate) fn heard(&mut self, now: Timestamp) {
        self.file.last_seen = self.file.last_seen.max(Some(now));
        self.seen = true;
    }
}

/// The fleet.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// Roots and snapshot, as verified.
    pub(crate) trust: TrustState,
    /// Envelopes of all roots, from root 1.
    pub(crate) roots: Vec<bytes::Bytes>,
    /// Envelope of the current snapshot.
    pub(crate) snapshot: Option<bytes::Bytes>,
    /// Deployments that the snapshot lists.
    pub(crate) documents: HashMap<Digest, Document>,
    /// Configs and secrets that the snapshot lists, or a listed deployment insists on.
    pub(crate) inputs: HashMap<Digest, Input>,
    /// Envelopes of grants, by the secret's identity and the device.
    pub(crate) grants: HashMap<Digest, BTreeMap<DeviceId, bytes::Bytes>>,
    /// All devices.
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    /// When certificates end that connections were opened by; some of those are gone, or have another by now.
    ends: BTreeSet<(Timestamp, DeviceId)>,
    /// Deployments whose rollout is to be decided again.
    pub(crate) dirty: BTreeSet<Name>,
}

/// One message to a device.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: shoal_protocol::topics::Topic,
    pub(crate) payload: bytes::Bytes,
}

impl Fleet {
    /// Whether this device is enrolled and not revoked.
    pub(crate) fn is_live(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|d| !d.file.revoked)
    }

    /// An empty fleet that verifies as a controller does.
    pub(crate) fn new() -> Self {
        Self {
            trust: TrustState { viewpoint: Viewpoint::Observer, ..TrustState::default() },
            ..Self::default()
        }
    }

    /// The current snapshot.
    pub(crate) fn current(&self) -> Option<&Known<Snapshot>> {
        self.trust.snapshot.as_ref()
    }

    /// The current snapshot by version and identity.
    pub(crate) fn snapshot_ref(&self) -> Option<SnapshotRef> {
        self.current().map(|s| SnapshotRef { version: s.document.version, digest: s.digest })
    }

    /// What verifies something that this device sent.
    pub(crate) fn trust_of(&self, device: &Device) -> TrustState {
        let record = Known::new(device.file.record.clone(), device.record_identity);
        TrustState { record: Some(record), ..self.trust.clone() }
    }

    /// All entries of deployments.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.current()
            .into_iter()
            .flat_map(|s| &s.document.entries)
            .filter(|e| e.kind == EntryKind::Deployment)
    }

    /// The entry of one deployment.
    pub(crate) fn entry(&self, name: &Name) -> Option<&Entry> {
        self.entries().find(|e| e.name == *name)
    }

    /// Marks every live deployment that selects this device, or that it holds.
    pub(crate) fn touch_device(&mut self, id: &DeviceId) {
        let Some(device) = self.devices.get(id) else { return };
        let names: Vec<Name> = self
            .entries()
            .filter(|e| {
                self.documents
                    .get(&e.newest.digest)
                    .is_some_and(|d| d.deployment.target.selects(id, &device.file.record.labels))
            })
            .map(|e| e.name.clone())
            .collect();
        self.dirty.extend(names);
    }

    /// Decides one rollout; nothing when it is not live or its document is not here.
    pub(crate) fn decide(&self, name: &Name, now: Timestamp) -> Option<(Entry, Vec<&Device>, Decision)> {
        let entry = self.entry(name).filter(|e| e.liveness == Liveness::Live)?;
        let document = self.documents.get(&entry.newest.digest)?;
        let nobody = BTreeSet::new();
        let selected: Vec<&Device> = self
            .devices
            .iter()
            .filter(|(id, d)| document.deployment.target.selects(id, &d.file.record.labels))
            .map(|(_, d)| d)
            .collect();
        let members: Vec<Member<'_>> = selected
            .iter()
            .map(|d| Member {
                device: d.file.id(),
                system: d.file.system(),
                state: d.file.state(now),
                connected: d.is_connected(),
                opened_at: d.opened.get(&entry.newest.digest).copied(),
                pod: d.file.pod(&entry.newest),
                healthy: d.healthy.get(&entry.newest.digest).unwrap_or(&nobody),
            })
            .collect();
        let decision = rollout::decide(&document.deployment, &members, now);
        Some((entry.clone(), selected, decision))
    }

    /// The messages that bring a device up to date. What it holds is counted as if they had arrived.
    pub(crate) fn messages_for(&mut self, id: &DeviceId) -> Vec<Message> {
        use shoal_protocol::topics::Topic;
        let Some(device) = self.devices.get(id) else { return Vec::new() };
        let Some(mut holds) = device.holds.clone().filter(|_| !device.file.revoked) else {
            return Vec::new();
        };
        let labels = &device.file.record.labels;
        let document = |d: &Digest| self.documents.get(d).map(|d| d.deployment.clone());
        // A device may say that it holds thousands.
        let held: BTreeSet<&Name> = holds.documents.values().map(|(name, _)| name).collect();
        let documents: Vec<_> = self
            .entries()
            .filter_map(|e| {
                let opened = device.opened.contains_key(&e.newest.digest);
                sync::wanted(e, document, id, labels, opened, held.contains(&e.name)).map(|r| (&e.name, r))
            })
            .collect();
        let inputs = self.inputs_of(id, &documents);
        let wants = Wants {
            root_version: self.roots.len() as u64,
            record: device.file.record.sequence,
            snapshot: self.snapshot_ref(),
            documents,
            inputs,
        };
        let messages = sync::bring_up_to_date(&mut holds, &wants)
            .into_iter()
            .filter_map(|send| {
                let (topic, payload) = match send {
                    Send::Root(version) => {
                        let at = usize::try_from(version).ok()?.checked_sub(1)?;
                        (Topic::Root, self.roots.get(at)?.clone())
                    }
                    Send::Record => (Topic::Document, device.record.clone()),
                    Send::Snapshot => (Topic::Snapshot, self.snapshot.clone()?),
                    Send::Document(digest) => {
                        (Topic::Document, self.documents.get(&digest)?.envelope.clone())
                    }
                    Send::Input(digest) => (Topic::Document, self.inputs.get(&digest)?.envelope.clone()),
                    Send::Grant(digest) => (Topic::Document, self.grants.get(&digest)?.get(id)?.clone()),
                };
                Some(Message { topic, payload })
            })
            .collect();
        if let Some(device) = self.devices.get_mut(id) {
            device.holds = Some(holds);
        }
        messages
    }

    /// The configs and secrets that a device needs for these revisions, and the releases that are for it.
    fn inputs_of(&self, id: &DeviceId, documents: &[(&Name, Revision)]) -> Vec<sync::Input> {
        let deployments = documents.iter().filter_map(|(_, r)| self.documents.get(&r.digest));
        let wanted = deployments.flat_map(|d| d.deployment.template.documents());
        let digests: BTreeSet<Digest> = wanted
            .filter_map(|(kind, reference)| match reference.pin {
                Some(pin) => Some(pin.digest),
                None => self
                    .input_entry(kind, &reference.name)
                    .filter(|e| e.liveness == Liveness::Live)
                    .map(|e| e.newest.digest),
            })
            .filter(|digest| self.inputs.contains_key(digest))
            .chain(self.releases_of(id))
            .collect();
        let granted = |d: &Digest| self.grants.get(d).is_some_and(|all| all.contains_key(id));
        digests.into_iter().map(|digest| sync::Input { digest, granted: granted(&digest) }).collect()
    }

    /// The newest revision of each live release that selects a device.
    fn releases_of(&self, id: &DeviceId) -> impl Iterator<Item = Digest> {
        let labels = self.devices.get(id).map(|d| &d.file.record.labels);
        let entries = self.current().into_iter().flat_map(|s| &s.document.entries);
        let live = entries.filter(|e| e.kind == EntryKind::Release && e.liveness == Liveness::Live);
        let selects = move |digest: &Digest| {
            let target = self.inputs.get(digest).and_then(|i| i.target.as_ref());
            target.zip(labels).is_some_and(|(t, labels)| t.selects(id, labels))
        };
        live.map(|e| e.newest.digest).filter(selects)
    }

    /// What the snapshot says of a config or secret.
    pub(crate) fn input_entry(&self, kind: EntryKind, name: &Name) -> Option<&Entry> {
        self.current()?.document.entries.iter().find(|e| e.kind == kind && e.name == *name)
    }

    /// One deployment for people; with its devices when asked.
    pub(crate) fn deployment_view(
        &self,
        entry: &Entry,
        with_devices: bool,
        now: Timestamp,
    ) -> Option<api::Deployment> {
        let document = &self.documents.get(&entry.newest.digest)?.deployment;
        let mut out = api::Deployment {
            name: entry.name.clone(),
            newest: entry.newest.into(),
            stable: entry.stable.map(api::Revision::from),
            issued_at: document.issued_at,
            not_after: document.not_after,
            target: view::target(&document.target),
            images: document.template.all_containers().map(|c| c.image.reference.clone()).collect(),
            state: api::RolloutState::Removed,
            reason: None,
            message: None,
            deadline: None,
            counts: api::RolloutCounts::default(),
            devices: Vec::new(),
        };
        let Some((_, selected, decision)) = self.decide(&entry.name, now) else { return Some(out) };
        out.state = decision.state;
        out.reason = decision.reason;
        out.message = decision.message;
        out.deadline = decision.next;
        out.counts = decision.counts;
        if with_devices {
            out.devices = selected
                .into_iter()
                .zip(decision.standings)
                .map(|(device, standing)| DeploymentDevice {
                    device: device.file.id().clone(),
                    hostname: device.file.hostname(),
                    rollout: standing.rollout,
                    reason: standing.reason,
                    message: standing.message,
                    deadline: standing.deadline,
                    pod: device.pod_of(&entry.name).map(|p| device.file.pod_view(p, now)),
                })
                .collect();
        }
        Some(out)
    }

    /// Devices whose signed labels match.
    pub(crate) fn matching(&self, selector: &Selector) -> impl Iterator<Item = &Device> {
        self.devices.values().filter(|d| selector.matches(&d.file.record.labels))
    }

    /// Who is connected and has not said hello since the last look: its hello came while shoald had no ear for it.
    pub(crate) fn mutes(&mut self) -> Vec<DeviceId> {
        let mut found = Vec::new();
        for (id, device) in &mut self.devices {
            let mute = device.connections > 0 && device.holds.is_none();
            if mute && device.mute {
                found.push(id.clone());
            }
            device.mute = mute && !device.mute;
        }
        found
    }

    /// A device connected, by a certificate that ends then.
    pub(crate) fn connection_opened(&mut self, id: &DeviceId, certificate_ends: Option<Timestamp>) {
        let Some(device) = self.devices.get_mut(id) else { return };
        device.connections += 1;
        device.certificate_ends = certificate_ends;
        self.ends.extend(certificate_ends.map(|end| (end, id.clone())));
    }

    /// One connection of a device ended.
    pub(crate) fn connection_closed(&mut self, id: &DeviceId) {
        if let Some(device) = self.devices.get_mut(id) {
            device.connections = device.connections.saturating_sub(1);
        }
    }

    /// When the next certificate ends under an open connection, or seems to.
    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// Whose certificate ended under an open connection; each is told once.
    pub(crate) fn certificates_ended(&mut self, now: Timestamp) -> Vec<DeviceId> {
        let mut found = Vec::new();
        while let Some((end, id)) = self.ends.pop_first() {
            if end >= now {
                self.ends.insert((end, id));
                break;
            }
            let device = self.devices.get(&id);
            if device.is_some_and(|d| d.connections > 0 && d.certificate_ends == Some(end)) {
                found.push(id);
            }
        }
        found
    }

    /// Who is connected.
    pub(crate) fn connected(&self) -> Vec<DeviceId> {
        self.devices.iter().filter(|(_, d)| d.is_connected()).map(|(id, _)| id.clone()).collect()
    }

    /// The configs and secrets that the snapshot lists, or a listed deployment insists on.
    pub(crate) fn wanted_inputs(&self) -> BTreeSet<Digest> {
        let listed = self.current().map(|s| listed_inputs(&s.document)).unwrap_or_default();
        let pinned = self.documents.values().flat_map(|d| d.deployment.template.documents());
        listed.into_iter().chain(pinned.filter_map(|(_, r)| r.pin.map(|p| p.digest))).collect()
    }

    /// Forgets per-device state of revisions that are not listed any more.
    pub(crate) fn retain_revisions(&mut self, listed: &BTreeSet<Digest>) {
        self.documents.retain(|d, _| listed.contains(d));
        let inputs = self.wanted_inputs();
        self.inputs.retain(|d, _| inputs.contains(d));
        self.grants.retain(|d, _| inputs.contains(d));
        for device in self.devices.values_mut() {
            device.healthy.retain(|d, _| listed.contains(d));
            device.opened.retain(|d, _| listed.contains(d));
        }
    }
}

impl Device {
    /// What it reports of a deployment: the newest revision of it that it has.
    fn pod_of(&self, name: &Name) -> Option<&shoal_protocol::latest::PodStatus> {
        let pods = self.file.report.as_ref()?.pods.iter();
        pods.filter(|p| p.name == *name).max_by_key(|p| p.revision.sequence)
    }
}

/// The revisions of deployments that a snapshot lists.
pub(crate) fn listed(snapshot: &Snapshot) -> BTreeSet<Digest> {
    snapshot
        .entries
        .iter()
        .filter(|e| e.kind == EntryKind::Deployment)
        .flat_map(|e| std::iter::once(e.newest.digest).chain(e.stable.map(|s| s.digest)))
        .collect()
}

/// The revisions of configs, secrets and releases that a snapshot lists.
pub(crate) fn listed_inputs(snapshot: &Snapshot) -> BTreeSet<Digest> {
    snapshot
        .entries
        .iter()
        .filter(|e| e.kind != EntryKind::Deployment && e.liveness == Liveness::Live)
        .flat_map(|e| std::iter::once(e.newest.digest).chain(e.stable.map(|s| s.digest)))
        .collect()
}

/// Seconds between two looks at everything, which would find a lost event; also how long `last_seen` may stay in memory.
pub(crate) const RESYNC: u64 = HEARTBEAT_LIMIT / 6;
