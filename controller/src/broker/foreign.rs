//! A broker that somebody else runs: what it needs of shoald, and the proof that it denies.
//!
//! Brokers differ in how they say no, some say nothing at all; so it is what arrives that counts. Two clients who are nobody listen
//! where they may, a third tries what nobody may, and then each says one word where it may: once that has come, nothing else may have.

use super::{BrokerError, Place, acl};
use crate::app::now;
use crate::pki::{Authority, Leaf};
use crate::tls;
use anyhow::{Context as _, Result, bail, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use shoal_protocol::ids::{DeviceId, Digest, FleetId};
use shoal_protocol::topics::{CONTROLLER, Topic};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The registered port of MQTT over TLS.
pub(crate) const PORT: u16 = 8883;
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a broker has to put somebody out, or to let in whom it must not.
const REFUSAL: Duration = Duration::from_secs(5);

/// Writes what Mosquitto needs into `out`: certificate and key by the fleet's CA, rules and settings.
pub(crate) fn write(
    authority: &Authority,
    names: &[String],
    out: &Path,
    (port, address): (u16, Option<&str>),
) -> Result<()> {
    let leaf = authority.server("broker", names, now())?;
    let chain = leaf.certificate_pem + &authority.certificate_pem;
    write_all(
        out,
        &[
            ("ca.pem", &authority.certificate_pem, 0o644),
            ("broker.pem", &chain, 0o644),
            ("broker.key", &leaf.key_pem, 0o600),
            ("acl", &acl::mosquitto(), 0o644),
            ("mosquitto.conf", &acl::configuration(out, port, address), 0o644),
        ],
    )
}

/// Rules and settings alone, for the folder that they are meant for.
pub(crate) fn write_sample(out: &Path) -> Result<()> {
    let settings = acl::configuration(Path::new(acl::FOLDER), PORT, None);
    write_all(out, &[("acl", &acl::mosquitto(), 0o644), ("mosquitto.conf", &settings, 0o644)])
}

fn write_all(out: &Path, files: &[(&str, &str, u32)]) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for (name, text, mode) in files {
        let path = out.join(name);
        let aside = path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(*mode)
            .open(&aside)
            .with_context(|| format!("cannot write {}", aside.display()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&aside, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Tries everything that nobody may; the error names what was not denied.
pub(crate) async fn prove(place: &Place, authority: &Authority) -> Result<(), BrokerError> {
    let proof = Proof::new(place, authority).map_err(|e| failed("setup", &e))?;
    Box::pin(proof.run()).await.map_err(|e| failed("proof_failed", &e))
}

fn failed(code: &str, e: &anyhow::Error) -> BrokerError {
    BrokerError { code: code.to_owned(), message: format!("{e:#}") }
}

/// Somebody with a certificate of the fleet's.
struct Nobody {
    id: DeviceId,
    tls: Arc<rustls::ClientConfig>,
}

struct Proof {
    place: Place,
    fleet: FleetId,
    controller: Arc<rustls::ClientConfig>,
    bare: Arc<rustls::ClientConfig>,
    /// Tries.
    a: Nobody,
    /// Is tried upon.
    b: Nobody,
    /// Dies, with a last will.
    c: Nobody,
}

/// A client that remembers what came.
struct Ear {
    client: AsyncClient,
    events: EventLoop,
    heard: Vec<String>,
}

impl Proof {
    fn new(place: &Place, authority: &Authority) -> Result<Self> {
        let with = |leaf: &Leaf| -> Result<Arc<rustls::ClientConfig>> {
            Ok(Arc::new(tls::client(&authority.certificate, Some((leaf.certificate()?, leaf.key()?)))?))
        };
        let nobody = || -> Result<Nobody> {
            let (id, leaf) = authority.nobody(now())?;
            Ok(Nobody { id, tls: with(&leaf)? })
        };
        Ok(Self {
            place: place.clone(),
            // A fleet that nobody has: who listens there is not disturbed.
            fleet: FleetId::of_root(&Digest::of(b"proof")),
            controller: with(&authority.client(CONTROLLER, now())?)?,
            bare: Arc::new(tls::client(&authority.certificate, None)?),
            a: nobody()?,
            b: nobody()?,
            c: nobody()?,
        })
    }

    fn options(&self, id: &str, tls: &Arc<rustls::ClientConfig>) -> MqttOptions {
        let mut options = MqttOptions::new(id, self.place.host.clone(), self.place.port);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
        options.set_clean_start(true);
        options.set_session_expiry_interval(Some(0));
        options
    }

    async fn run(&self) -> Result<()> {
        let (a, b, c) = (self.a.id.as_str(), self.b.id.as_str(), self.c.id.as_str());
        let mut controller = Ear::open(self.options(CONTROLLER, &self.controller))
            .await
            .context("the controller's own certificate is not taken")?;
        controller.listen(&Topic::filter_controller(&self.fleet)).await?;
        let mut b_ear = Ear::open(self.options(b, &self.b.tls)).await.context("a device cannot connect")?;
        b_ear.listen(&Topic::filter_device(&self.fleet, &self.b.id)).await?;

        let without = tokio::time::timeout(REFUSAL, Ear::open(self.options(a, &self.bare))).await;
        ensure!(!matches!(without, Ok(Ok(_))), "a client connected without a certificate");
        // In another's name: if that puts the other one out, it is seen below.
        for id in [b, CONTROLLER] {
            let _ = tokio::time::timeout(REFUSAL, Ear::open(self.options(id, &self.a.tls))).await;
        }
        // A last will is published when its owner is put out by itself, before the second one is let in.
        for topic in [Topic::Report.of(&self.fleet, &self.b.id), Topic::Snapshot.of(&self.fleet, &self.b.id)]
        {
            let mut options = self.options(c, &self.c.tls);
            options.set_last_will(LastWill::new(topic, "will", QoS::AtLeastOnce, false, None));
            let dying = tokio::time::timeout(REFUSAL, Ear::open(options)).await;
            Ear::open(self.options(c, &self.c.tls)).await.context("a device cannot connect once more")?;
            drop(dying);
        }
        // Words where they must not be said; a broker may end the connection over each.
        for topic in [
            Topic::Report.of(&self.fleet, &self.b.id),
            Topic::Snapshot.of(&self.fleet, &self.b.id),
            Topic::Snapshot.of(&self.fleet, &self.a.id),
        ] {
            let mut tries = Ear::open(self.options(a, &self.a.tls)).await?;
            let _ = tokio::time::timeout(REFUSAL, tries.say(&topic)).await;
        }
        let mut a_ear = Ear::open(self.options(a, &self.a.tls)).await?;
        a_ear.listen(&Topic::filter_device(&self.fleet, &self.a.id)).await?;
        for filter in [
            Topic::filter_device(&self.fleet, &self.b.id),
            Topic::filter_controller(&self.fleet),
            format!("shoal/v1/{}/+/#", self.fleet),
        ] {
            if tokio::time::timeout(REFUSAL, a_ear.listen(&filter)).await.is_ok_and(|r| r.is_err()) {
                a_ear = Ear::open(self.options(a, &self.a.tls)).await?;
                a_ear.listen(&Topic::filter_device(&self.fleet, &self.a.id)).await?;
            }
        }
        // Each says and hears one word; whatever else has come by then was not denied.
        let up = Topic::Hello.of(&self.fleet, &self.b.id);
        b_ear.say(&up).await.context("a device cannot speak on its own branch")?;
        controller.only(&up, "the controller").await?;
        for (ear, device, who) in
            [(&mut b_ear, &self.b.id, "a device"), (&mut a_ear, &self.a.id, "an eavesdropper")]
        {
            let down = Topic::Order.of(&self.fleet, device);
            controller.say(&down).await.context("the controller cannot speak to a device")?;
            ear.only(&down, who).await?;
        }
        Ok(())
    }
}

impl Ear {
    async fn open(options: MqttOptions) -> Result<Self> {
        let (client, events) = AsyncClient::new(options, 8);
        let mut ear = Self { client, events, heard: Vec::new() };
        let code = ear.wait(|p| if let Packet::ConnAck(ack) = p { Some(ack.code) } else { None }).await?;
        ensure!(code == ConnectReturnCode::Success, "the broker answered {code:?}");
        Ok(ear)
    }

    async fn listen(&mut self, filter: &str) -> Result<()> {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.context("asking for a subscription")?;
        self.wait(|p| matches!(p, Packet::SubAck(_)).then_some(())).await
    }

    async fn say(&mut self, topic: &str) -> Result<()> {
        self.client.publish(topic, QoS::AtLeastOnce, false, "word").await.context("asking to publish")?;
        self.wait(|p| matches!(p, Packet::PubAck(_)).then_some(())).await
    }

    /// Waits for the one word that may come, and sees that it is the only one.
    async fn only(&mut self, topic: &str, who: &str) -> Result<()> {
        while !self.heard.iter().any(|t| t == topic) {
            self.wait(|p| matches!(p, Packet::Publish(_)).then_some(()))
                .await
                .with_context(|| format!("{who} does not hear {topic:?}"))?;
        }
        match self.heard.iter().find(|t| *t != topic) {
            Some(other) => bail!("{who} heard {other:?}, which should have been denied"),
            None => Ok(()),
        }
    }

    async fn wait<T>(&mut self, mut wanted: impl FnMut(&Packet) -> Option<T>) -> Result<T> {
        let found = async {
            loop {
                let Event::Incoming(packet) = self.events.poll().await? else { continue };
                if let Packet::Publish(p) = &packet {
                    self.heard.push(String::from_utf8_lossy(&p.topic).into_owned());
                }
                if let Some(found) = wanted(&packet) {
                    return Ok::<T, anyhow::Error>(found);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(result) => result,
            Err(_) => bail!("the broker did not answer within {} s", PATIENCE.as_secs()),
        }
    }
}
