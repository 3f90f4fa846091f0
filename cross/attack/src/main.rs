//! What a thief of the controller would run: with its store and keys, send one device a deployment that no operator signed.
//!
//! It uses the real broker as the real controller. Nothing of it is ever installed.
#![forbid(unsafe_code)]

mod loot;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use loot::Loot;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{self, Envelope};
use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::{Deployment, Kind};
use shoal_protocol::topics::{CONTROLLER, Topic};
use shoal_protocol::{Ed25519Signer, Signer};
use std::path::PathBuf;
use std::time::Duration;

/// Send a device a deployment that no operator signed, as a thief of its controller.
#[derive(Debug, Parser)]
struct Args {
    /// The controller's data folder
    #[arg(long)]
    data: PathBuf,
    /// The device
    #[arg(long)]
    device: DeviceId,
    /// What to send
    act: Act,
    /// With `document`: the envelope's file
    #[arg(long, required_if_eq("act", "document"))]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Act {
    /// The newest real deployment with its last payload byte changed
    Flip,
    /// An own next revision, signed with the controller's online key
    OnlineKey,
    /// An own next revision, signed with a key that nobody knows
    FreshKey,
    /// Any envelope, of whatever kind
    Document,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let loot = Loot::take(&args.data)?;
    let message = match &args.file {
        Some(path) => std::fs::read(path).with_context(|| format!("read {}", path.display()))?,
        None => forge(&loot, args.act)?,
    };
    send(&loot, &args.device, message).await
}

/// The hostile document.
fn forge(loot: &Loot, act: Act) -> Result<Vec<u8>> {
    let real = Envelope::parse(&loot.deployment).context("read the newest deployment")?;
    let signer = match act {
        Act::Flip => {
            let payload = real.payload().to_vec();
            let mut bytes = loot.deployment.clone();
            let at = bytes.windows(payload.len()).position(|w| w == payload).context("find the payload")?;
            bytes[at + payload.len() - 1] ^= 1;
            return Ok(bytes);
        }
        Act::OnlineKey => Ed25519Signer::from_seed(loot.online),
        Act::Document => bail!("which document? --file FILE"),
        Act::FreshKey => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("no entropy: {e}"))?;
            Ed25519Signer::from_seed(seed)
        }
    };
    let mut deployment: Deployment =
        codec::decode(real.payload(), Limits::of_size(Kind::Deployment.size_cap()))?;
    deployment.sequence += 1;
    let (bytes, _) = envelope::seal_document(&deployment, &[&signer as &dyn Signer])?;
    Ok(bytes)
}

/// Publishes it on the device's own topic and waits for the broker to take it.
async fn send(loot: &Loot, device: &DeviceId, message: Vec<u8>) -> Result<()> {
    let mut options = MqttOptions::new(CONTROLLER, loot.broker.0.clone(), loot.broker.1);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(loot.tls()?)));
    options.set_clean_start(true);
    options.set_max_packet_size(Some(1 << 20));
    let (client, mut events) = AsyncClient::new(options, 8);
    let topic = match Envelope::parse(&message).ok().and_then(|e| e.kind().ok()) {
        Some(Kind::Root) => Topic::Root,
        Some(Kind::Snapshot) => Topic::Snapshot,
        _ => Topic::Document,
    };
    client.publish(topic.of(&loot.fleet, device), QoS::AtLeastOnce, false, message).await?;
    let taken = async {
        loop {
            match events.poll().await.context("talk to the broker")? {
                Event::Incoming(Packet::PubAck(ack)) if ack.reason == PubAckReason::Success => return Ok(()),
                Event::Incoming(Packet::PubAck(ack)) => bail!("the broker answered {:?}", ack.reason),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken)
        .await
        .context("the broker did not take it in 10 s")?
}
