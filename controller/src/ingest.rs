//! What devices say: verified, kept, then acknowledged. One task, in order.

use crate::app::{App, event_name, now};
use crate::fleet::{Device, Message};
use crate::store::{FactRow, ReportRow};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::v5::Publish;
use shoal_controller_core::receipt::Receipt;
use shoal_controller_core::sync::Holds;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::ids::{DeviceId, Name, Timestamp};
use shoal_protocol::latest::{Ack, Event, Fact, Heartbeat, Hello, LogChunk, Report};
use shoal_protocol::refusal::Refusal;
use shoal_protocol::topics::Topic;
use shoal_protocol::verify::{TrustState, Verified, verify_as};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that are handled, and reports that are kept, together.
const BATCH: usize = 128;
const RETRY: Duration = Duration::from_secs(1);

/// A message from a device. By whom it is, the broker knows from its certificate.
pub(crate) struct Incoming {
    pub(crate) device: DeviceId,
    pub(crate) topic: Topic,
    pub(crate) publish: Publish,
    /// To acknowledge it on the connection that it came by.
    pub(crate) client: AsyncClient,
}

/// A report whose signature is good.
pub(crate) struct Checked {
    row: ReportRow,
    report: Report,
    healthy: Vec<(shoal_protocol::ids::Digest, Name)>,
}

/// Runs until the queue is closed.
pub(crate) async fn run(app: Arc<App>, mut incoming: mpsc::Receiver<Incoming>) {
    let mut batch = Vec::with_capacity(BATCH);
    while incoming.recv_many(&mut batch, BATCH).await > 0 {
        let mut reports = Vec::new();
        for message in &batch {
            // The own broker has put it out already; another one may know nothing of it.
            if app.fleet().devices.get(&message.device).is_some_and(|d| d.file.revoked) {
                continue;
            }
            if message.publish.payload.len() > message.topic.size_cap() {
                tracing::warn!("{:?} of {} is too large", message.topic, message.device);
                continue;
            }
            match message.topic {
                Topic::Report => match check_report(&app, &message.device, &message.publish.payload).await {
                    Ok(report) => reports.extend(report),
                    Err(e) => {
                        tracing::warn!("a report of {} was refused: {e}", message.device);
                        let by = message.device.as_str();
                        app.note_refusal(by, "report", e.code.as_str(), &e.detail, 1).await;
                    }
                },
                // What comes after a report must not be answered before it.
                Topic::Hello => {
                    keep(&app, std::mem::take(&mut reports), None).await;
                    hello(&app, message).await;
                }
                Topic::Heartbeat => heartbeat(&app, message),
                Topic::Log => log(&app, message),
                _ => {}
            }
        }
        keep(&app, reports, None).await;
        for message in batch.drain(..) {
            // Fails when that connection is gone; then the device sends again.
            let _ = message.client.try_ack(&message.publish);
        }
    }
}

fn decode<T: serde::Serialize + serde::de::DeserializeOwned>(message: &Incoming) -> Option<T> {
    codec::decode(&message.publish.payload, Limits::of_size(message.topic.size_cap()))
        .map_err(|e| tracing::warn!("{:?} of {}: {e}", message.topic, message.device))
        .ok()
}

async fn hello(app: &App, message: &Incoming) {
    let Some(hello) = decode::<Hello>(message) else { return };
    let id = &message.device;
    let at = now();
    let (acknowledged, above) = {
        let mut fleet = app.fleet();
        let Some(device) = fleet.devices.get_mut(id) else {
            tracing::warn!(
                "hello of {id}, which is not enrolled here: was this controller restored from a backup?"
            );
            return;
        };
        device.heard(at);
        if app.foreign {
            device.connections = 1;
        }
        device.holds = Some(Holds::from(&hello));
        device.said.clone_from(&device.holds);
        device.order_counter = hello.order_counter;
        device.file.system = Some(hello.system.clone());
        let acknowledged = device.file.report.as_ref().map_or(0, |r| r.counter);
        fleet.touch_device(id);
        (acknowledged, hello.order_counter)
    };
    if let Err(e) = app.store.set_system(id.clone(), codec::encode(&hello.system), at).await {
        tracing::error!("hello of {id}: {:#}", anyhow::Error::from(e));
    }
    if acknowledged > 0 {
        app.send(id, ack(acknowledged)).await;
    }
    app.bring_up_to_date(id, true).await;
    match app.store.orders(id.clone(), above, at).await {
        Ok(orders) => {
            for envelope in orders {
                app.send(id, Message { topic: Topic::Order, payload: envelope.into() }).await;
            }
        }
        Err(e) => tracing::error!("orders of {id}: {:#}", anyhow::Error::from(e)),
    }
    app.wake.notify_one();
}

fn ack(counter: u64) -> Message {
    Message { topic: Topic::Ack, payload: codec::encode(&Ack { counter }).into() }
}

fn heartbeat(app: &App, message: &Incoming) {
    if decode::<Heartbeat>(message).is_some()
        && let Some(device) = app.fleet().devices.get_mut(&message.device)
    {
        device.heard(now());
    }
}

fn log(app: &App, message: &Incoming) {
    if let Some(chunk) = decode::<LogChunk>(message) {
        app.logs.pass(&message.device, chunk);
    }
}

/// What a device refused since its report before: code, words, how often.
pub(crate) type Refusals = Vec<(String, String, u64)>;

fn new_refusals(before: Option<&Report>, now: &Report) -> Refusals {
    let known = |code: &str| {
        let all = before.into_iter().flat_map(|r| &r.refusals);
        all.filter(|r| r.code == code).map(|r| r.count).max().unwrap_or(0)
    };
    let grown = now
        .refusals
        .iter()
        .map(|r| (r.code.clone(), r.message.clone(), r.count.saturating_sub(known(&r.code))));
    grown.filter(|(_, _, times)| *times > 0).collect()
}

/// Verifies a report and its facts; nothing when it was kept before.
pub(crate) async fn check_report(
    app: &App,
    from: &DeviceId,
    envelope: &[u8],
) -> Result<Option<Checked>, Refusal> {
    let (trust, alarms) = {
        let fleet = app.fleet();
        let Some(device) = fleet.devices.get(from) else { return Ok(None) };
        (fleet.trust_of(device), device.file.alarms.clone())
    };
    let verified: Verified<Report> = verify_as(envelope, &trust, now())?;
    let digest = verified.identity();
    let report = verified.into_document();
    let mut facts = Vec::new();
    let mut healthy = Vec::new();
    for envelope in &report.facts {
        match verify_as::<Fact>(&envelope.0, &trust, now()) {
            Ok(fact) => {
                let fact = fact.into_document();
                if fact.event == Event::Healthy {
                    healthy.push((fact.deployment, fact.container.clone()));
                }
                facts.push(FactRow {
                    deployment: fact.deployment,
                    container: fact.container.to_string(),
                    event: event_name(&fact),
                    counter: fact.counter,
                    envelope: envelope.0.clone(),
                });
            }
            Err(e) => tracing::warn!("a fact in a report of {from} was refused: {e}"),
        }
    }
    let alarms = new_alarms(app, &trust, &report, alarms).await;
    let row = ReportRow {
        device: from.clone(),
        counter: report.counter,
        digest,
        envelope: envelope.to_vec(),
        facts,
        alarms,
    };
    Ok(Some(Checked { row, report, healthy }))
}

/// S20 and S26: what a report's snapshot says about this controller or about somebody else's.
async fn new_alarms(
    app: &App,
    trust: &TrustState,
    report: &Report,
    alarms: Vec<String>,
) -> Option<Vec<String>> {
    let held = report.snapshot?;
    let current = trust.snapshot.as_ref().map_or(0, |s| s.document.version);
    let known = app.store.snapshot_of_version(held.version).await.unwrap_or_default();
    let mut next = alarms.clone();
    if held.version <= current && !known.is_empty() && !known.contains(&held.digest) {
        raise(&mut next, "fleet_equivocation");
    }
    next.retain(|a| a != "controller_behind");
    if held.version > current {
        raise(&mut next, "controller_behind");
    }
    (next != alarms).then_some(next)
}

fn raise(alarms: &mut Vec<String>, alarm: &str) {
    if !alarms.iter().any(|a| a == alarm) {
        alarms.push(alarm.to_owned());
    }
}

/// Keeps reports, as often as it takes, then counts and acknowledges them; how many are new. What was carried by hand was said
/// at its own time.
pub(crate) async fn keep(app: &App, reports: Vec<Checked>, said: Option<Timestamp>) -> usize {
    if reports.is_empty() {
        return 0;
    }
    let rows: Vec<ReportRow> = reports.iter().map(|r| r.row.clone()).collect();
    let received = loop {
        match app.store.add_reports(rows.clone(), said.unwrap_or_else(now)).await {
            Ok(received) => break received,
            Err(crate::store::StoreError::Closed) => return 0,
            Err(e) => {
                tracing::error!("{} reports wait: {:#}", rows.len(), anyhow::Error::from(e));
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let stored = received.iter().filter(|r| r.receipt == Receipt::Store).count();
    let mut acks: BTreeMap<DeviceId, u64> = BTreeMap::new();
    for (checked, received) in reports.into_iter().zip(received) {
        let id = checked.row.device.clone();
        let highest = acks.entry(id.clone()).or_default();
        *highest = (*highest).max(received.highest);
        if received.receipt == Receipt::Replay {
            tracing::warn!("report_replay: {id} used counter {} twice", checked.row.counter);
        }
        let refused = {
            let fleet = app.fleet();
            let before = fleet.devices.get(&id).and_then(|d| d.file.report.as_ref());
            new_refusals(before, &checked.report)
        };
        if received.receipt == Receipt::Store {
            app.note_device_refusals(&id, refused).await;
        }
        let mut fleet = app.fleet();
        let Some(device) = fleet.devices.get_mut(&id) else { continue };
        device.heard(said.unwrap_or_else(now));
        if let Some(alarms) = &checked.row.alarms {
            device.file.alarms.clone_from(alarms);
        }
        if received.receipt == Receipt::Replay {
            raise(&mut device.file.alarms, "report_replay");
        }
        if received.receipt == Receipt::Store {
            let names = take_in(device, checked);
            fleet.dirty.extend(names);
        }
    }
    for (id, counter) in acks {
        app.send(&id, ack(counter)).await;
    }
    app.wake.notify_one();
    stored
}

/// The names whose rollout this report may move.
fn take_in(device: &mut Device, checked: Checked) -> Vec<Name> {
    for (revision, container) in checked.healthy {
        device.healthy.entry(revision).or_default().insert(container);
    }
    let names = checked.report.pods.iter().map(|p| p.name.clone()).collect();
    device.file.report = Some(checked.report);
    names
}

impl App {
    /// After a gap in the own connection: devices that stayed connected get everything once more.
    pub(crate) async fn forget_what_was_sent(&self) {
        let connected = {
            let mut fleet = self.fleet();
            let connected = fleet.connected();
            for id in &connected {
                if let Some(device) = fleet.devices.get_mut(id) {
                    device.holds.clone_from(&device.said);
                }
            }
            connected
        };
        for id in connected {
            self.bring_up_to_date(&id, false).await;
        }
    }

    /// What the broker says about who is there.
    pub(crate) async fn presence(&self, event: crate::broker::Event) {
        use crate::broker::Event as Broker;
        match event {
            Broker::Connected { client, serial } => {
                let Ok(id) = client.parse::<DeviceId>() else { return };
                let ends = match serial {
                    Some(serial) => self.store.certificate_end(serial).await,
                    None => Ok(None),
                };
                let ends = ends.unwrap_or_else(|e| {
                    tracing::warn!("device {id}: {:#}", anyhow::Error::from(e));
                    None
                });
                let mut fleet = self.fleet();
                fleet.connection_opened(&id, ends);
                fleet.touch_device(&id);
                drop(fleet);
                self.wake.notify_one();
            }
            Broker::Disconnected { client } => {
                let Ok(id) = client.parse::<DeviceId>() else { return };
                self.fleet().connection_closed(&id);
            }
            // A broker that starts anew knows nobody.
            Broker::Ready { .. } | Broker::Failed { .. } => {
                for device in self.fleet().devices.values_mut() {
                    device.connections = 0;
                }
            }
        }
    }
}
