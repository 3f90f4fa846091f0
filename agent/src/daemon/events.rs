//! What the daemon hears becomes what it knows: events of guard, ended fetches, the link, a newer root.

use super::sources::{GuardEvent, Half};
use super::{Daemon, Fetched, Uplink, world};
use crate::identity::Files;
use crate::link::LinkEvent;
use crate::{enroll, tls};
use shoal_agent_core::plan::Activity;
use shoal_ipc::Event;
use shoal_protocol::ids::{Digest, Timestamp};
use shoal_runtime::{ContainerId, ContainerStatus};
use std::sync::Arc;

impl Daemon {
    /// A newer root may name other addresses and authorities.
    pub(super) async fn follow_root(&mut self) {
        if self.world.trust.root_version == self.root_version {
            return;
        }
        let root = match self.guard.admit(|a| Ok(enroll::held_root(a))).await {
            Ok(Ok(root)) => root,
            Ok(Err(error)) => {
                return tracing::error!(error = %format!("{error:#}"), "the new root cannot be read");
            }
            Err(error) => return tracing::warn!(%error, "the new root cannot be fetched"),
        };
        let floor = Timestamp(self.world.trust.time_floor);
        let certificates = Files::new(self.guard.layout()).load_certificates().unwrap_or_default();
        let own = certificates.first().map_or_else(Vec::new, |c| c.to_vec());
        match tls::client(&root.controller.ca, floor, Some((&self.key, certificates))) {
            Ok(config) => self.tls = Arc::new(config),
            Err(error) => {
                return tracing::error!(error = %format!("{error:#}"), "the new root's authorities are of no use");
            }
        }
        self.root_version = root.version;
        self.api = root.controller.api;
        let others = self.renewal.follow(root.controller.ca, &own);
        self.link.send_modify(|c| {
            // Who is named no longer is left: it may be a controller that was stolen.
            c.changes += u64::from(others || c.addresses != root.controller.mqtt);
            c.addresses = root.controller.mqtt;
            c.tls = self.tls.clone();
        });
    }

    pub(super) fn guard_said(&mut self, event: GuardEvent) {
        let now = world::now(&self.world.trust);
        match event {
            GuardEvent::Up(Half::Admit) => {
                self.software.stale = true;
                self.admit_up = true;
                self.refresh = true;
                self.relist |= self.supervise_up;
            }
            GuardEvent::Up(Half::Supervise) => {
                self.software.stale = true;
                self.supervise_up = true;
                self.relist = true;
                // Whatever it was busy with is asked for again.
                for pod in self.world.observed.pods.values_mut() {
                    if pod.activity == Activity::Compiling {
                        pod.activity = Activity::Idle;
                    }
                    pod.stopping = None;
                }
            }
            GuardEvent::Down(Half::Admit) => self.admit_up = false,
            GuardEvent::Down(Half::Supervise) => self.supervise_up = false,
            GuardEvent::Said(Event::Changed) => (self.refresh, self.software.stale) = (true, true),
            GuardEvent::Said(Event::Compiled { module, info }) => {
                let module = Digest(module.0);
                tracing::info!(%module, millis = info.millis, cache_hit = info.cache_hit, "compiled");
                for pod in self.compiling(module) {
                    self.world.note_compiled(pod, module, &info);
                }
            }
            GuardEvent::Said(Event::Preparing { module, stage }) => {
                for pod in self.compiling(Digest(module.0)) {
                    if let Some(observed) = self.world.observed.pods.get_mut(&pod) {
                        observed.preparing = Some(world::preparing(stage));
                    }
                }
            }
            GuardEvent::Said(Event::CompileFailed { module, code, detail }) => {
                // What supervise can do at all has changed.
                self.relist |= code == shoal_protocol::refusal::Code::EngineMismatch.as_str();
                self.compile_failed(Digest(module.0), &code, &detail);
            }
            GuardEvent::Said(Event::Ended(state)) => {
                let status = ContainerStatus::from(*state);
                let (pod, cause) = (&status.pod_name, &status.cause);
                tracing::info!(%pod, container = %status.metadata.name, attempt = status.metadata.attempt, ?cause, "ended");
                self.world.note_container(&status, now);
            }
            GuardEvent::Said(Event::Healthy { ticket, container, attempt }) => {
                let id = ContainerId { pod: Digest(ticket.0), index: container };
                self.world.note_healthy(&id, attempt);
                // Of a pod that is nobody's here it is the first that is heard: uid 0 started it.
                self.relist |=
                    !self.world.containers.contains_key(&id) && !self.world.local.contains_key(&id);
            }
            GuardEvent::Said(Event::Probed(state)) => {
                let status = ContainerStatus::from(*state);
                let (pod, ready, message) = (&status.pod_name, &status.ready, &status.probe_message);
                tracing::info!(%pod, container = %status.metadata.name, ?ready, message, "probed");
                self.world.note_container(&status, now);
            }
        }
    }

    pub(super) fn fetch_ended(&mut self, fetched: Fetched) {
        match fetched.result {
            // The next plan has it compiled.
            Ok(()) => {
                if let Some(observed) = self.world.observed.pods.get_mut(&fetched.pod) {
                    observed.activity = Activity::Idle;
                }
            }
            Err(error) => self.stage_failed(fetched.pod, &error),
        }
    }

    pub(super) async fn link_said(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(client) => {
                tracing::info!("connected to the controller");
                self.uplink = Some(Uplink::new(client));
                self.renewal.connected();
                self.refresh = true;
                self.look().await;
                self.hello();
                self.send_pending();
            }
            LinkEvent::Down { expired } => {
                self.uplink = None;
                self.renewal.disconnected(expired);
            }
            LinkEvent::Message { topic, payload } => self.message(topic, payload).await,
            LinkEvent::PublishRefused { reason } => {
                tracing::warn!(%reason, "the broker did not take a message; it stays in the outbox");
            }
        }
    }
}
