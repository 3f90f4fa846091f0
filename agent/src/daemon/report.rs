//! Telling the controller: reports through the outbox, hello and heartbeats beside it.
//!
//! Built → signed → durable in the outbox → published → deleted at the controller's own acknowledgement, never earlier: a
//! broker's PUBACK means nothing (B3).

use super::Daemon;
use super::world;
use crate::{points, system};
use anyhow::{Context, Result};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use shoal_agent_core::report::Change;
use shoal_agent_core::rollup;
use shoal_protocol::codec;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Bytes, Digest, Timestamp};
use shoal_protocol::latest::{
    EntryKind, Heartbeat, Held, HeldDocument, Hello, PodStatus, RefusalCount, Report, Revision, SnapshotRef,
};
use shoal_protocol::topics::Topic;
use std::time::{Duration, Instant};

/// Reports on their way at a time.
const WINDOW: u64 = 48;
/// The first wait for an acknowledgement.
const RESEND: Duration = Duration::from_secs(5);
/// The longest.
const RESEND_MAX: Duration = Duration::from_mins(5);
/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_mins(1);
/// The most facts in a report, and the most bytes of them.
const FACTS: usize = 128;
const FACTS_BYTES: usize = 96 << 10;

/// The present connection to the controller.
#[derive(Debug)]
pub(crate) struct Uplink {
    client: AsyncClient,
    /// Reports up to this counter were published on this connection.
    sent: u64,
    resend_at: Option<Instant>,
    resend_wait: Duration,
    heartbeat_at: Instant,
}

impl Uplink {
    /// On a connection that has just come up.
    pub(crate) fn new(client: AsyncClient) -> Self {
        Self {
            client,
            sent: 0,
            resend_at: None,
            resend_wait: RESEND,
            heartbeat_at: Instant::now() + HEARTBEAT,
        }
    }

    /// The connection, for log streams.
    pub(crate) fn client(&self) -> AsyncClient {
        self.client.clone()
    }

    /// When it wants attention.
    pub(crate) fn due(&self) -> Instant {
        self.resend_at.map_or(self.heartbeat_at, |t| t.min(self.heartbeat_at))
    }
}

/// What of a status is worth telling at once: all but times and measurements.
fn essence(status: &PodStatus) -> PodStatus {
    let mut s = status.clone();
    s.since = Timestamp(0);
    s.deadline = None;
    s.message = None;
    for c in &mut s.containers {
        c.memory = None;
        c.memory_peak = None;
        c.cpu_usage = None;
        c.cpu_throttled = None;
        c.dropped_lines = None;
        c.cpu_throttled_periods = None;
        c.probe_message = None;
    }
    s
}

fn held_document(d: &shoal_ipc::HeldDocument) -> Option<HeldDocument> {
    Some(HeldDocument {
        kind: match d.kind.as_str() {
            "secret" => EntryKind::Secret,
            "release" => EntryKind::Release,
            _ => EntryKind::Config,
        },
        name: d.name.parse().ok()?,
        revision: Revision { sequence: d.sequence, digest: Digest(d.digest.0) },
        open: d.open,
    })
}

impl Daemon {
    /// Compares what is with what was last looked at, and notes how much of it is worth a report.
    pub(super) fn note_changes(&mut self) {
        let statuses = self.world.statuses();
        let now = world::now(&self.world.trust);
        let mut change = Change::None;
        for s in &statuses {
            if let Some(pod) = self.world.observed.pods.get_mut(&s.revision.digest)
                && pod.record.note_phase(s.phase, now)
            {
                let (name, sequence, reason) =
                    (&s.name, s.revision.sequence, s.reason.as_deref().unwrap_or_default());
                tracing::info!(%name, sequence, phase = ?s.phase, reason, "phase");
                if !rollup::is_progress(s.phase) {
                    self.world.dirty.insert(s.revision.digest);
                }
            }
        }
        let told: Vec<PodStatus> = statuses.iter().map(essence).collect();
        if told != self.told.pods {
            let outcome = |s: &PodStatus| !rollup::is_progress(s.phase) && !self.told.pods.contains(s);
            let fewer = told.len() < self.told.pods.len();
            change = if fewer || told.iter().any(outcome) { Change::Outcome } else { Change::Progress };
            self.told.pods = told;
        }
        let trust = &self.world.trust;
        let refusals: u64 = trust.refusals.iter().map(|r| r.count).sum();
        let held =
            (trust.root_version, trust.snapshot.as_ref().map(|s| s.version), trust.fact_counter, refusals);
        let conditions = self.conditions();
        if held != self.told.trust || conditions != self.told.conditions {
            self.told.trust = held;
            self.told.conditions = conditions;
            change = Change::Outcome;
        }
        self.coalescer.note(change, self.millis());
    }

    /// States of the device as a whole.
    fn conditions(&self) -> Vec<String> {
        let mut all = self.world.trust.conditions.clone();
        let mut add = |yes: bool, code: &str| {
            if yes && !all.iter().any(|c| c == code) {
                all.push(code.to_owned());
            }
        };
        let features = &self.world.features;
        add(features.unconfined, "unconfined");
        // Without any engine nothing runs, which its own field says.
        add(!features.engine.is_empty() && !features.compiler, "compiler_absent");
        add(features.engine_mismatch, "engine_mismatch");
        add(!self.world.local.is_empty(), "local_unsigned");
        add(self.storage_broken || self.inbox_needs_space, "storage_unavailable");
        add(!self.admit_up, "admission_unavailable");
        add(!self.supervise_up, "supervision_unavailable");
        for (yes, code) in self.renewal.conditions(world::now(&self.world.trust)) {
            add(yes, code);
        }
        for (yes, code) in self.software.conditions() {
            add(yes, code);
        }
        all.sort();
        all
    }

    fn snapshot_ref(&self) -> Option<SnapshotRef> {
        self.world
            .trust
            .snapshot
            .as_ref()
            .map(|s| SnapshotRef { version: s.version, digest: Digest(s.digest.0) })
    }

    /// Makes a report and keeps it; then sends what can be sent.
    pub(super) async fn report(&mut self) {
        match self.make_report().await {
            Ok(()) => {
                self.storage_broken = false;
                self.coalescer.sent(self.millis());
                self.send_pending();
            }
            Err(error) => {
                self.coalescer.sent(self.millis());
                self.storage_failed(&error);
            }
        }
    }

    async fn make_report(&mut self) -> Result<()> {
        self.measure_running().await;
        let (facts, facts_up_to, more) = self.collect_facts().await;
        let counter = self.store.next_counter()?;
        let trust = &self.world.trust;
        let refusals = trust.refusals.iter().map(|r| RefusalCount {
            code: r.code.clone(),
            count: r.count,
            last: Timestamp(r.last_at),
            message: r.last.clone(),
        });
        let mut report = Report {
            fleet: self.fleet.clone(),
            device: self.device.clone(),
            counter,
            issued_at: world::now(trust),
            root_version: trust.root_version,
            system: system::describe(self.guard.layout(), &self.world.features, self.name.as_deref()),
            pods: self.world.statuses(),
            snapshot: self.snapshot_ref(),
            refusals: refusals.collect(),
            facts,
            conditions: self.conditions(),
        };
        let sealed = seal_document(&report, &[&self.key]).or_else(|_| {
            // Too much text for one report: what is for people only goes first.
            for pod in &mut report.pods {
                pod.containers.iter_mut().for_each(|c| c.stderr_tail = None);
            }
            seal_document(&report, &[&self.key])
        });
        let (envelope, _) = sealed.context("cannot sign a report")?;
        if let Err(error) = self.store.push_report(counter, &envelope, facts_up_to) {
            self.send_unkept(envelope);
            return Err(error);
        }
        self.facts_told = self.facts_told.max(facts_up_to);
        if more {
            self.coalescer.note(Change::Outcome, self.millis());
        }
        tracing::debug!(counter, bytes = envelope.len(), "report");
        Ok(())
    }

    /// A report that storage does not take is told once to whoever listens: a full disk says so, instead of nothing (F2).
    /// Only behind everything that was kept, since the controller acknowledges all up to a number.
    fn send_unkept(&self, envelope: Vec<u8>) {
        let Some(sent) = self.uplink.as_ref().map(|u| u.sent) else { return };
        if self.store.pending(sent, 1).is_ok_and(|left| left.is_empty()) {
            self.publish(Topic::Report, QoS::AtLeastOnce, envelope);
        }
    }

    async fn collect_facts(&mut self) -> (Vec<Bytes>, u64, bool) {
        let after = self.facts_told;
        if !self.admit_up || self.world.trust.fact_counter <= after {
            return (Vec::new(), 0, false);
        }
        let list = match self.guard.admit(move |a| a.facts(after)).await {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(%error, "no facts from admission");
                return (Vec::new(), 0, false);
            }
        };
        let (mut facts, mut up_to, mut bytes) = (Vec::new(), 0, 0);
        let total = list.facts.len();
        for fact in list.facts {
            bytes += fact.envelope.len();
            if facts.len() == FACTS || bytes > FACTS_BYTES {
                break;
            }
            up_to = fact.counter;
            facts.push(Bytes(fact.envelope));
        }
        let more = list.more || facts.len() < total;
        (facts, up_to, more)
    }

    async fn measure_running(&mut self) {
        if !self.supervise_up {
            return;
        }
        let running: Vec<_> =
            self.world.containers.values().filter(|c| c.cause.is_none()).map(|c| c.id).collect();
        for id in running {
            match self.runtime.container_stats(id).await {
                Ok(stats) => {
                    if let Some(seen) = self.world.containers.get_mut(&id) {
                        seen.stats = stats;
                    }
                }
                Err(error) => tracing::debug!(error = %error.chain(), "not measured"),
            }
        }
    }

    fn publish(&self, topic: Topic, qos: QoS, payload: Vec<u8>) -> bool {
        let Some(uplink) = &self.uplink else { return false };
        let name = topic.of(&self.fleet, &self.device);
        uplink.client.try_publish(name, qos, false, payload).is_ok()
    }

    /// What a fresh connection begins with.
    pub(super) fn hello(&mut self) {
        let trust = &self.world.trust;
        let held = trust.held.iter().filter_map(|h| {
            Some(Held {
                name: h.name.parse().ok()?,
                revision: Revision { sequence: h.sequence, digest: Digest(h.digest.0) },
            })
        });
        let hello = Hello {
            root_version: trust.root_version,
            system: system::describe(self.guard.layout(), &self.world.features, self.name.as_deref()),
            held: held.collect(),
            order_counter: trust.order_counter,
            report_counter: self.store.counter(),
            snapshot: self.snapshot_ref(),
            documents: trust.documents.iter().filter_map(held_document).collect(),
        };
        if !self.publish(Topic::Hello, QoS::AtLeastOnce, codec::encode(&hello)) {
            tracing::warn!("the hello could not be queued");
        }
    }

    /// Publishes reports that this connection has not carried yet, a bounded number at a time.
    pub(super) fn send_pending(&mut self) {
        let Some(sent) = self.uplink.as_ref().map(|u| u.sent) else { return };
        // Reports that were sent and not acknowledged fill the window too.
        let read = self.store.outbox_len(sent).and_then(|unacknowledged| {
            let room = WINDOW.saturating_sub(unacknowledged);
            Ok((unacknowledged, self.store.pending(sent, room)?))
        });
        let (unacknowledged, pending) = match read {
            Ok(r) => r,
            Err(error) => return self.storage_failed(&error),
        };
        let mut waiting = unacknowledged > 0;
        let mut last = sent;
        for report in pending {
            waiting = true;
            if !self.publish(Topic::Report, QoS::AtLeastOnce, report.envelope) {
                break;
            }
            points::hit(points::REPORT_SENT);
            last = report.counter;
        }
        let Some(uplink) = &mut self.uplink else { return };
        uplink.sent = last;
        if waiting {
            uplink.resend_at.get_or_insert_with(|| Instant::now() + uplink.resend_wait);
        } else {
            uplink.resend_at = None;
        }
    }

    /// The controller has everything up to `counter`.
    pub(super) async fn acknowledged(&mut self, counter: u64) {
        // A controller that claims more than was ever sent is wrong, and would empty the outbox of what it never saw.
        if counter > self.store.counter() {
            tracing::warn!(counter, "an acknowledgement of reports that were never made is ignored");
            return;
        }
        self.software.acknowledged(counter);
        match self.store.acknowledged(counter) {
            Ok(0) => {}
            Ok(facts) if self.admit_up => {
                if let Err(error) = self.guard.admit(move |a| a.facts_done(facts)).await {
                    tracing::warn!(%error, "admission could not be told that its facts arrived");
                }
            }
            Ok(_) => {}
            Err(error) => return self.storage_failed(&error),
        }
        if let Some(uplink) = &mut self.uplink {
            uplink.resend_at = None;
            uplink.resend_wait = RESEND;
        }
        self.send_pending();
    }

    /// Heartbeats and reports whose acknowledgement is late.
    pub(super) fn tend_uplink(&mut self) {
        let now = Instant::now();
        let Some(uplink) = &mut self.uplink else { return };
        if uplink.resend_at.is_some_and(|t| t <= now) {
            uplink.sent = 0;
            uplink.resend_wait = (uplink.resend_wait * 2).min(RESEND_MAX);
            uplink.resend_at = None;
            tracing::info!(
                wait_s = uplink.resend_wait.as_secs(),
                "no acknowledgement in time: reports are sent again"
            );
            self.send_pending();
        }
        let Some(uplink) = &mut self.uplink else { return };
        if uplink.heartbeat_at <= now {
            uplink.heartbeat_at = now + HEARTBEAT;
            let uptime = self.begun.elapsed().as_secs();
            self.publish(Topic::Heartbeat, QoS::AtMostOnce, codec::encode(&Heartbeat { uptime }));
        }
    }
}
