//! The broker's proof that it denies: before any device is let in, a certificate that belongs to nobody tries what no
//! device may do. A hook that is missing or was renamed by an upgrade fails open; then the broker must not serve.

use super::wire::Probe;
use crate::tls;
use anyhow::{Context as _, Result, bail, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use shoal_protocol::ids::{DeviceId, Digest, FleetId};
use shoal_protocol::topics::{CONTROLLER, Topic};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Tries everything; an error names what was not denied.
pub(crate) async fn run(broker: SocketAddr, ca: &str, probe: &Probe) -> Result<()> {
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).context("reading the CA")?;
    let certificate =
        CertificateDer::from_pem_slice(probe.certificate.as_bytes()).context("reading the probe")?;
    let key = PrivateKeyDer::from_pem_slice(probe.key.as_bytes()).context("reading the probe's key")?;
    let with = Arc::new(tls::client(&ca, Some((certificate, key)))?);
    let without = Arc::new(tls::client(&ca, None)?);
    let me: DeviceId = probe.name.parse().context("the probe's name")?;
    let fleet = FleetId::of_root(&Digest::of(b"proof"));
    let other = DeviceId::of_spki(b"proof");
    let options = |id: &str, config: &Arc<rustls::ClientConfig>| {
        let mut options = MqttOptions::new(id, broker.ip().to_string(), broker.port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config.clone())));
        options.set_clean_start(true);
        options
    };

    for id in [other.as_str(), CONTROLLER] {
        ensure!(connect(options(id, &with)).await.is_err(), "a device connected with the client id {id:?}");
    }
    ensure!(
        connect(options(me.as_str(), &without)).await.is_err(),
        "a client connected without a certificate"
    );
    let mut with_will = options(me.as_str(), &with);
    with_will.set_last_will(LastWill::new(
        Topic::Report.of(&fleet, &other),
        "will",
        QoS::AtLeastOnce,
        false,
        None,
    ));
    ensure!(connect(with_will).await.is_err(), "a device connected with a last will on another's branch");

    let (client, mut events) = connect(options(me.as_str(), &with))
        .await
        .context("a device with its own client id and certificate could not connect")?;
    for filter in [Topic::filter_device(&fleet, &other), Topic::filter_controller(&fleet), "#".to_owned()] {
        client.subscribe(&filter, QoS::AtLeastOnce).await.context("asking for a subscription")?;
        let denied = wait(&mut events, |p| match p {
            Packet::SubAck(ack) => {
                Some(!ack.return_codes.iter().any(|c| matches!(c, SubscribeReasonCode::Success(_))))
            }
            _ => None,
        });
        ensure!(denied.await?, "a device subscribed to {filter:?}");
    }
    for topic in [Topic::Report.of(&fleet, &other), Topic::Snapshot.of(&fleet, &me)] {
        client.publish(&topic, QoS::AtLeastOnce, false, "x").await.context("asking to publish")?;
        let denied = wait(&mut events, |p| match p {
            Packet::PubAck(ack) => Some(ack.reason == PubAckReason::NotAuthorized),
            _ => None,
        });
        ensure!(denied.await?, "a device published to {topic:?}");
    }
    Ok(())
}

async fn connect(options: MqttOptions) -> Result<(AsyncClient, EventLoop)> {
    let (client, mut events) = AsyncClient::new(options, 8);
    wait(&mut events, |p| matches!(p, Packet::ConnAck(_)).then_some(())).await?;
    Ok((client, events))
}

async fn wait<T>(events: &mut EventLoop, mut wanted: impl FnMut(&Packet) -> Option<T>) -> Result<T> {
    let found = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await?
                && let Some(found) = wanted(&packet)
            {
                return Ok::<T, anyhow::Error>(found);
            }
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(result) => result,
        Err(_) => bail!("the broker did not answer within {} s", PATIENCE.as_secs()),
    }
}
