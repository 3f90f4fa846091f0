//! Log lines for an order: the last ones, and new ones for as long as was asked, within the deployment's signed consent.

use super::Daemon;
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use shoal_agent_core::Record;
use shoal_ipc::Layout;
use shoal_protocol::codec;
use shoal_protocol::ids::{Bytes, DeviceId, FleetId, Name};
use shoal_protocol::latest::{LogChunk, LogConsent};
use shoal_protocol::topics::Topic;
use shoal_runtime::logs::{Follower, Position, tail};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// The most of a chunk.
const CHUNK: usize = 32 << 10;
/// The lines that consent `tail` allows, and the most that any order gets.
const TAIL: u64 = 200;
const FULL: u64 = 100_000;
const FOLLOW_MAX: u64 = 3_600;
/// A connection that takes nothing for this long has ended for this stream.
const SEND: Duration = Duration::from_secs(30);

/// One order for logs.
#[derive(Debug)]
pub(crate) struct LogJob {
    topic: String,
    stream: u64,
    follow: Duration,
    lines: usize,
    sources: Vec<(Name, PathBuf)>,
}

fn chunk(stream: u64, container: &Name, lines: Vec<u8>, end: bool, reason: Option<&str>) -> Vec<u8> {
    let reason = reason.map(ToOwned::to_owned);
    codec::encode(&LogChunk { stream, container: container.clone(), lines: Bytes(lines), end, reason })
}

/// Says that there is nothing, and why.
pub(crate) fn refuse(
    client: &AsyncClient,
    fleet: &FleetId,
    device: &DeviceId,
    name: &Name,
    stream: u64,
    reason: &str,
) {
    let payload = chunk(stream, name, Vec::new(), true, Some(reason));
    if client.try_publish(Topic::Log.of(fleet, device), QoS::AtLeastOnce, false, payload).is_err() {
        tracing::warn!(%name, stream, reason, "a refusal of logs could not be sent");
    }
}

impl LogJob {
    /// `None` if the deployment or container is not here.
    pub(crate) fn new(
        d: &Daemon,
        name: &Name,
        container: Option<&Name>,
        lines: u64,
        follow: u64,
        stream: u64,
    ) -> Option<Self> {
        let of_name = d.world.desired.iter().filter(|w| w.deployment.name == *name);
        // What runs is what is meant; else the newest that ever did.
        let runs = |w: &&shoal_agent_core::Desired| {
            let record = d.world.observed.pods.get(&w.revision.digest).map(|p| &p.record);
            (
                record.is_some_and(Record::any_running),
                record.is_some_and(|r| r.activated_at.is_some()),
                w.revision.sequence,
            )
        };
        let found = of_name.max_by_key(runs)?;
        let most = match found.deployment.logs {
            LogConsent::None => return None,
            LogConsent::Tail => TAIL,
            LogConsent::Full => FULL,
        };
        let digest = shoal_ipc::Digest(found.revision.digest.0);
        let layout: &Layout = d.guard.layout();
        let sources: Vec<(Name, PathBuf)> = found
            .deployment
            .template
            .containers
            .iter()
            .filter(|c| container.is_none_or(|n| c.name == *n))
            .map(|c| (c.name.clone(), layout.container_logs(name.as_str(), &digest, c.name.as_str())))
            .collect();
        (!sources.is_empty()).then(|| Self {
            topic: Topic::Log.of(&d.fleet, &d.device),
            stream,
            follow: Duration::from_secs(follow.min(FOLLOW_MAX)),
            lines: usize::try_from(lines.min(most)).unwrap_or(0),
            sources,
        })
    }

    /// Sends it all. One chunk says the end, whatever happened.
    pub(crate) async fn run(self, client: AsyncClient) {
        let mut reason = None;
        let mut positions = Vec::new();
        for (name, dir) in &self.sources {
            match tail(dir, self.lines) {
                Ok((lines, position)) => {
                    positions.push((name.clone(), dir.clone(), position));
                    if !self.send_lines(&client, name, lines).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%name, %error, "a log cannot be read");
                    reason = Some("unreadable");
                }
            }
        }
        if !self.follow.is_zero() {
            let until = Instant::now() + self.follow;
            let (tell, mut told) = tokio::sync::mpsc::channel::<(Name, Vec<u8>)>(8);
            let tasks: Vec<_> = positions
                .into_iter()
                .map(|(name, dir, position)| tokio::spawn(follow(name, dir, position, tell.clone())))
                .collect();
            drop(tell);
            // Cancel-safe: a chunk is taken from the channel only when it is handled.
            while let Ok(Some((name, lines))) = tokio::time::timeout_at(until, told.recv()).await {
                if !self.send(&client, chunk(self.stream, &name, lines, false, None)).await {
                    break;
                }
            }
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
        }
        if let Some((name, _)) = self.sources.first() {
            self.send(&client, chunk(self.stream, name, Vec::new(), true, reason)).await;
        }
    }

    async fn send_lines(&self, client: &AsyncClient, name: &Name, lines: Vec<Vec<u8>>) -> bool {
        let mut bytes = Vec::new();
        for line in lines {
            let line = &line[..line.len().min(CHUNK)];
            if bytes.len() + line.len() > CHUNK
                && !self.send(client, chunk(self.stream, name, std::mem::take(&mut bytes), false, None)).await
            {
                return false;
            }
            bytes.extend_from_slice(line);
        }
        bytes.is_empty() || self.send(client, chunk(self.stream, name, bytes, false, None)).await
    }

    async fn send(&self, client: &AsyncClient, payload: Vec<u8>) -> bool {
        let publish = client.publish(self.topic.clone(), QoS::AtLeastOnce, false, payload);
        matches!(tokio::time::timeout(SEND, publish).await, Ok(Ok(())))
    }
}

async fn follow(
    name: Name,
    dir: PathBuf,
    position: Position,
    tell: tokio::sync::mpsc::Sender<(Name, Vec<u8>)>,
) {
    let mut follower = match Follower::new(&dir, position) {
        Ok(f) => f,
        Err(error) => return tracing::debug!(%name, %error, "a log cannot be followed"),
    };
    while let Ok(lines) = follower.next().await {
        if tell.send((name.clone(), lines)).await.is_err() {
            return;
        }
    }
}
