//! What the controller sends: documents go to admission unread, orders are acted on after admission took them.

use super::Daemon;
use super::logs::{self, LogJob};
use crate::points;
use shoal_ipc::Verdict;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::latest::{Ack, Kind, Order, Verb};
use shoal_protocol::refusal::Code;
use shoal_protocol::topics::Topic;
use std::time::Instant;

/// Messages that wait for admission at a time.
const INBOX_MAX: usize = 256;
/// Log streams at a time.
const STREAMS: usize = 4;

/// In which order documents that wait together go to admission: what others depend on goes first.
fn rank(topic: Topic) -> u8 {
    match topic {
        Topic::Root => 0,
        Topic::Snapshot => 1,
        Topic::Document => 2,
        _ => 3,
    }
}

impl Daemon {
    /// A message arrived.
    pub(super) async fn message(&mut self, topic: Topic, payload: Vec<u8>) {
        match topic {
            Topic::Ack => match codec::decode::<Ack>(&payload, Limits::of_size(Topic::Ack.size_cap())) {
                Ok(ack) => self.acknowledged(ack.counter).await,
                Err(error) => tracing::warn!(%error, "malformed: an acknowledgement is dropped"),
            },
            _ if self.inbox.len() >= INBOX_MAX => {
                tracing::warn!(?topic, "too many documents wait for admission; one is dropped");
            }
            _ => self.inbox.push((topic, payload)),
        }
    }

    /// Hands everything that waits to admission.
    pub(super) async fn submit_inbox(&mut self) {
        if self.inbox.is_empty() || !self.admit_up || self.storage_retry.is_some_and(|t| t > Instant::now()) {
            return;
        }
        let mut waiting = std::mem::take(&mut self.inbox);
        waiting.sort_by_key(|(topic, _)| rank(*topic));
        let mut waiting = waiting.into_iter();
        while let Some((topic, envelope)) = waiting.next() {
            points::hit(points::SUBMIT_BEFORE);
            let bytes = envelope.clone();
            let verdict = self.guard.admit(move |a| a.submit(&bytes)).await;
            points::hit(points::SUBMIT_AFTER);
            match verdict {
                Ok(Verdict::Accepted { kind, name, sequence, digest, known }) => {
                    tracing::info!(%kind, %name, sequence, %digest, known, "accepted");
                    if kind == Kind::Order.as_str() && !known {
                        self.order(&envelope).await;
                    }
                }
                // Admission could not make it durable. Nobody sends it again by himself, so it waits for space (F2).
                Ok(Verdict::Refused { code, detail }) if code == Code::StorageUnavailable.as_str() => {
                    self.storage_failed(&anyhow::anyhow!("admission cannot keep a document: {detail}"));
                    self.inbox_needs_space = true;
                    self.inbox.push((topic, envelope));
                    self.inbox.extend(waiting);
                    return;
                }
                Ok(Verdict::Refused { code, detail }) => tracing::warn!(?topic, %code, %detail, "refused"),
                Err(error) => {
                    tracing::warn!(?topic, %error, "admission did not answer; the document waits");
                    self.inbox.push((topic, envelope));
                    self.inbox.extend(waiting);
                    return;
                }
            }
        }
        self.inbox_needs_space = false;
        self.refresh = true;
    }

    /// Acts on an order that admission took; the bytes are the ones it took.
    async fn order(&mut self, envelope: &[u8]) {
        let decoded = Envelope::parse(envelope)
            .and_then(|e| codec::decode::<Order>(e.payload(), Limits::of_size(Kind::Order.size_cap())));
        let order = match decoded {
            Ok(o) => o,
            Err(error) => return tracing::error!(%error, "an order that admission took cannot be read"),
        };
        match order.verb {
            // Admission reissues tickets for these; the plan sees it.
            Verb::Stage { .. } | Verb::Activate { .. } | Verb::Return { .. } => {}
            Verb::Restart { name } => {
                let pods: Vec<_> = self
                    .world
                    .desired
                    .iter()
                    .filter(|d| d.deployment.name == name)
                    .map(|d| (d.revision.digest, d.deployment.template.termination_grace))
                    .collect();
                for (pod, grace) in pods {
                    let Some(observed) = self.world.observed.pods.get_mut(&pod) else { continue };
                    observed.record.forget_backoff();
                    self.world.dirty.insert(pod);
                    if observed.record.any_running() {
                        self.stop(pod, grace).await;
                    }
                }
            }
            Verb::Logs { name, container, tail, follow, stream } => {
                self.streams.retain(|s| !s.is_finished());
                let job = LogJob::new(self, &name, container.as_ref(), tail, follow, stream);
                match (job, self.uplink.as_ref()) {
                    (Some(job), Some(uplink)) if self.streams.len() < STREAMS => {
                        self.streams.push(tokio::spawn(job.run(uplink.client())));
                    }
                    (_, Some(uplink)) => {
                        let reason = if self.streams.len() < STREAMS { "not_found" } else { "busy" };
                        logs::refuse(&uplink.client(), &self.fleet, &self.device, &name, stream, reason);
                    }
                    (_, None) => {}
                }
            }
        }
    }
}
