//! The one connection to the controller's broker: MQTT 5 over TLS, in a task of its own, reconnecting spread out.
//!
//! Every connection has a fresh client and a clean session: what must not be lost is in the outbox, never here. A message
//! that is too large ends the connection; since retained messages are not asked for and failures in a row wait longer and
//! longer, a poisoned one cannot make it loop (B2). Never here: what a message means.

use crate::{entropy, proxy, tls};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, RetainForwardRule};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, MqttOptions, StateError};
use rumqttc::{TlsConfiguration, Transport};
use rustls::ClientConfig;
use shoal_agent_core::backoff;
use shoal_protocol::ids::{DeviceId, FleetId};
use shoal_protocol::topics::Topic;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Seconds between pings of an idle connection.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Seconds until a connection attempt is given up.
const CONNECT_TIMEOUT: u64 = 20;
/// The largest packet that is taken, header included.
const PACKET_MAX: u32 = 1 << 20;
/// QoS 1 messages on their way at a time.
const INFLIGHT: u16 = 64;
/// Requests that may wait for the connection.
const QUEUE: usize = 128;
/// A connection that held this long forgets the failures before it.
const STEADY: Duration = Duration::from_mins(1);

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub(crate) struct LinkConfig {
    /// The fleet.
    pub fleet: FleetId,
    /// The device.
    pub device: DeviceId,
    /// `mqtts://host:port` and `wss://host:port/path`, tried in turn.
    pub addresses: Vec<String>,
    /// The fleet's CA and the device's certificate.
    pub tls: Arc<ClientConfig>,
    /// Goes up with each renewed certificate, and when the root's addresses or authorities are others: the connection is made
    /// again by what counts then.
    pub changes: u64,
}

/// What the connection tells.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// It is up and subscribed; publish through this.
    Up(AsyncClient),
    /// It is down; it comes back by itself.
    Down {
        /// The broker calls the device's certificate expired.
        expired: bool,
    },
    /// A message on this device's own branch, within its topic's size cap.
    Message {
        /// Which topic.
        topic: Topic,
        /// The bytes; worth nothing yet.
        payload: Vec<u8>,
    },
    /// The broker did not take a message.
    PublishRefused {
        /// Its reason.
        reason: String,
    },
}

/// How the broker is reached.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// MQTT in TLS, which the broker ends.
    Tls,
    /// MQTT in WebSocket in TLS, which the controller ends.
    WebSocket,
}

/// An address of the root taken apart.
fn address(url: &str) -> Option<(Way, &str, u16)> {
    let (way, place) = match url.split_once("://")? {
        ("mqtts", rest) => (Way::Tls, rest.trim_end_matches('/')),
        ("wss", rest) => (Way::WebSocket, rest.split('/').next()?),
        _ => return None,
    };
    let (host, port) = place.rsplit_once(':')?;
    (!host.is_empty()).then_some((way, host, port.parse().ok()?))
}

/// How a connection ended.
enum End {
    /// By itself, or it never began.
    Lost { reason: String, expired: bool },
    /// There is a newer certificate, or another controller.
    Changed,
}

impl End {
    fn lost(reason: impl Into<String>) -> Self {
        Self::Lost { reason: reason.into(), expired: false }
    }
}

/// Connects and reconnects until the receiver is dropped.
pub(crate) async fn run(mut config: watch::Receiver<LinkConfig>, events: mpsc::Sender<LinkEvent>) {
    let mut failures = 0_u32;
    let mut turn = 0_usize;
    loop {
        let now = config.borrow_and_update().clone();
        let begun = Instant::now();
        let url = now.addresses.get(turn % now.addresses.len().max(1)).cloned().unwrap_or_default();
        turn = turn.wrapping_add(1);
        let end = match address(&url) {
            Some((way, host, port)) => tokio::select! {
                end = connection(&now, options(&now, &url, &way, host, port), &events) => end,
                () = changed(&mut config, now.changes) => End::Changed,
            },
            None => End::lost(format!(
                "{url:?} is no usable address; expected mqtts://host:port or wss://host:port/path"
            )),
        };
        failures = if begun.elapsed() >= STEADY { 1 } else { failures.saturating_add(1) };
        let (wait, expired) = match end {
            // The address was good: the same again, at once. What was on its way is still in the outbox.
            End::Changed => {
                tracing::info!(%url, "connecting again: the certificate was renewed, or the root names another controller");
                (failures, turn) = (0, turn.wrapping_sub(1));
                (0, false)
            }
            End::Lost { reason, expired } => {
                let wait = backoff::connect_delay_ms(failures, entropy::draw());
                tracing::info!(%url, %reason, failures, wait_ms = wait, "not connected to the controller");
                (wait, expired)
            }
        };
        if events.send(LinkEvent::Down { expired }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            () = changed(&mut config, now.changes) => failures = 0,
            () = events.closed() => return,
        }
    }
}

/// Returns once there was a change after the `changes`-th. Loses nothing when it is dropped.
async fn changed(config: &mut watch::Receiver<LinkConfig>, changes: u64) {
    if config.wait_for(|c| c.changes != changes).await.is_err() {
        // Nobody changes anything any more; the daemon ends, and with it this task.
        std::future::pending::<()>().await;
    }
}

/// Whether the broker ended TLS because it calls this device's certificate expired.
fn called_expired(error: &ConnectionError) -> bool {
    match error {
        // It is no `source()` there.
        ConnectionError::MqttState(StateError::Deserialization(inside)) => tls::called_expired(inside),
        other => tls::called_expired(other),
    }
}

fn options(config: &LinkConfig, url: &str, way: &Way, host: &str, port: u16) -> MqttOptions {
    let id = config.device.as_str();
    let mut tls = ClientConfig::clone(&config.tls);
    let (mut options, transport): (_, fn(TlsConfiguration) -> Transport) = match way {
        Way::Tls => {
            // By this word the controller's one port knows what is for the broker.
            tls.alpn_protocols = vec![b"mqtt".to_vec()];
            (MqttOptions::new(id, host, port), Transport::tls_with_config)
        }
        Way::WebSocket => (MqttOptions::new(id, url, port), Transport::wss_with_config),
    };
    options
        .set_credentials(id, "")
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_connection_timeout(CONNECT_TIMEOUT)
        .set_session_expiry_interval(Some(0))
        .set_max_packet_size(Some(PACKET_MAX))
        .set_transport(transport(TlsConfiguration::Rustls(Arc::new(tls))));
    options.set_outgoing_inflight_upper_limit(INFLIGHT);
    if let Some(proxy) = proxy::mqtt(host, port) {
        options.set_proxy(proxy);
    }
    options
}

/// One connection from its beginning to its end; gives the reason of the end.
async fn connection(config: &LinkConfig, options: MqttOptions, events: &mpsc::Sender<LinkEvent>) -> End {
    let (client, mut eventloop) = AsyncClient::new(options, QUEUE);
    let mut filter = Filter::new(Topic::filter_device(&config.fleet, &config.device), QoS::AtLeastOnce);
    filter.retain_forward_rule = RetainForwardRule::Never;
    if client.try_subscribe_many([filter]).is_err() {
        return End::lost("the subscription could not be queued");
    }
    loop {
        let event = match eventloop.poll().await {
            Ok(Event::Incoming(packet)) => packet,
            Ok(Event::Outgoing(_)) => continue,
            Err(e) => return End::Lost { reason: e.to_string(), expired: called_expired(&e) },
        };
        let told = match event {
            Packet::SubAck(_) => events.send(LinkEvent::Up(client.clone())).await,
            Packet::Publish(p) => match incoming(config, &p.topic, &p.payload) {
                Some(message) => events.send(message).await,
                None => Ok(()),
            },
            Packet::PubAck(p) if !matches!(p.reason, PubAckReason::Success) => {
                let reason = format!("{:?}", p.reason);
                events.send(LinkEvent::PublishRefused { reason }).await
            }
            Packet::Disconnect(d) => return End::lost(format!("the broker ended it: {:?}", d.reason_code)),
            _ => Ok(()),
        };
        if told.is_err() {
            return End::lost("the agent is stopping");
        }
    }
}

fn incoming(config: &LinkConfig, topic: &[u8], payload: &[u8]) -> Option<LinkEvent> {
    let name = std::str::from_utf8(topic).ok()?;
    let (fleet, device, topic) = Topic::parse(name)?;
    if fleet != config.fleet || device != config.device || topic.is_up() {
        tracing::warn!(topic = name, "a message outside this device's branch is dropped");
        return None;
    }
    if payload.len() > topic.size_cap() {
        tracing::warn!(
            topic = name,
            bytes = payload.len(),
            cap = topic.size_cap(),
            "too_large: a message is dropped"
        );
        return None;
    }
    Some(LinkEvent::Message { topic, payload: payload.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(address("mqtts://hub.example:8443"), Some((Way::Tls, "hub.example", 8443)));
        assert_eq!(address("mqtts://10.0.0.1:1/"), Some((Way::Tls, "10.0.0.1", 1)));
        assert_eq!(address("wss://hub.example:443/mqtt"), Some((Way::WebSocket, "hub.example", 443)));
        for bad in ["wss://a/mqtt", "mqtt://a:1", "mqtts://a", "mqtts://:1", "mqtts://a:99999", ""] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn b1_foreign_branches_and_oversized_messages_are_dropped() {
        let tls = tls::client(&[], shoal_protocol::ids::Timestamp(0), None).unwrap();
        let fleet: FleetId = "a".repeat(32).parse().unwrap();
        let device: DeviceId = "b".repeat(32).parse().unwrap();
        let other: DeviceId = "c".repeat(32).parse().unwrap();
        let config = LinkConfig {
            fleet: fleet.clone(),
            device: device.clone(),
            addresses: vec![],
            tls: Arc::new(tls),
            changes: 0,
        };
        let take = |topic: String, n: usize| incoming(&config, topic.as_bytes(), &vec![0; n]).is_some();
        assert!(take(Topic::Order.of(&fleet, &device), 100));
        assert!(!take(Topic::Order.of(&fleet, &device), Topic::Order.size_cap() + 1));
        assert!(!take(Topic::Order.of(&fleet, &other), 100));
        assert!(!take(Topic::Report.of(&fleet, &device), 100));
        assert!(!take("shoal/v1/x".into(), 1));
    }
}
