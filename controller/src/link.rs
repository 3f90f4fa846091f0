//! shoald's own connection to its broker: an MQTT 5 client that comes back by itself, and two queues.
//!
//! Devices are led to the broker only while this connection stands: what they would say meanwhile would be lost without a word.
//! Reports are acknowledged to the broker only when `ingest` says that they are stored.

use crate::app::{App, Outgoing};
use crate::broker::Place;
use crate::broker::child::{CONTROLLER_INFLIGHT, MAX_PACKET};
use crate::ingest::Incoming;
use anyhow::Result;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet, Publish, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use shoal_protocol::ids::FleetId;
use shoal_protocol::topics::{CONTROLLER, Topic};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests that may wait for the event loop.
const REQUESTS: usize = 256;
/// Messages that may wait for `ingest`: as many as the broker may leave unacknowledged, and some unacknowledged ones.
pub(crate) const INCOMING: usize = CONTROLLER_INFLIGHT as usize * 2;
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the connection until shoald ends.
pub(crate) async fn run(
    app: Arc<App>,
    tls: Arc<rustls::ClientConfig>,
    mut broker: watch::Receiver<Option<Place>>,
    open: watch::Sender<Option<Place>>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    incoming: mpsc::Sender<Incoming>,
) {
    let mut fleet_id = app.fleet_id.subscribe();
    let mut ending = app.ending.clone();
    loop {
        let (at, fleet) = (broker.borrow_and_update().clone(), fleet_id.borrow_and_update().clone());
        let (Some(at), Some(fleet)) = (at, fleet) else {
            tokio::select! {
                _ = broker.changed() => {}
                _ = fleet_id.changed() => {}
                _ = ending.changed() => return,
            }
            continue;
        };
        let (client, events) = AsyncClient::new(options(&at, &tls), REQUESTS);
        tokio::select! {
            result = receive(&app, events, &client, &fleet, &incoming, || { open.send_replace(Some(at.clone())); }) => {
                if let Err(e) = result {
                    tracing::warn!("the connection to the broker ended: {e:#}");
                }
            }
            // Cancel safe: a message is taken from the queue only to be handed to the client at once.
            () = send(&client, &fleet, &mut outgoing) => return,
            _ = broker.changed() => {
                open.send_replace(None);
                continue;
            }
            _ = ending.changed() => return,
        }
        open.send_replace(None);
        tokio::time::sleep(RETRY).await;
    }
}

fn options(at: &Place, tls: &Arc<rustls::ClientConfig>) -> MqttOptions {
    let mut options = MqttOptions::new(CONTROLLER, at.host.clone(), at.port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    options.set_clean_start(true);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_manual_acks(true);
    options.set_max_packet_size(Some(MAX_PACKET));
    options.set_receive_maximum(Some(CONTROLLER_INFLIGHT));
    options
}

async fn receive(
    app: &App,
    mut events: EventLoop,
    client: &AsyncClient,
    fleet: &FleetId,
    incoming: &mpsc::Sender<Incoming>,
    subscribed: impl Fn(),
) -> Result<()> {
    loop {
        match events.poll().await? {
            Event::Incoming(Packet::ConnAck(ack)) => {
                anyhow::ensure!(ack.code == ConnectReturnCode::Success, "the broker refused: {:?}", ack.code);
                client.subscribe(Topic::filter_controller(fleet), QoS::AtLeastOnce).await?;
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                let granted = ack.return_codes.iter().all(|c| matches!(c, SubscribeReasonCode::Success(_)));
                anyhow::ensure!(granted, "the broker refused the subscription: {:?}", ack.return_codes);
                tracing::info!("connected to the broker");
                // What was on its way when the last connection ended may be lost.
                app.forget_what_was_sent().await;
                subscribed();
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let Some(message) = take(fleet, publish, client) else { continue };
                // The queue holds all that the broker may leave unacknowledged; what comes unacknowledged beyond that
                // (heartbeats, log lines) is dropped rather than stopping the connection.
                if let Err(mpsc::error::TrySendError::Full(message)) = incoming.try_send(message) {
                    tracing::warn!("dropped {:?} of {}: too much comes in", message.topic, message.device);
                }
            }
            _ => {}
        }
    }
}

fn take(fleet: &FleetId, publish: Publish, client: &AsyncClient) -> Option<Incoming> {
    let topic = std::str::from_utf8(&publish.topic).ok()?;
    let (of, device, topic) = Topic::parse(topic)?;
    (of == *fleet && topic.is_up()).then(|| Incoming { device, topic, publish, client: client.clone() })
}

/// Returns when the queue is closed.
async fn send(client: &AsyncClient, fleet: &FleetId, outgoing: &mut mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { device, message }) = outgoing.recv().await {
        let topic = message.topic.of(fleet, &device);
        if let Err(e) = client.publish(topic, QoS::AtLeastOnce, false, message.payload).await {
            tracing::warn!("{:?} for {device} was not sent: {e}", message.topic);
        }
    }
}
