//! Orders: signed with the online key, counted per device, kept before they are sent.

use crate::app::{App, now};
use crate::fleet::Message;
use crate::problem::Problem;
use shoal_controller_core::api::PostOrder;
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{DeviceId, Name, Timestamp};
use shoal_protocol::latest::{Liveness, Order, Revision, Verb};
use shoal_protocol::topics::Topic;

/// How long an order may be taken, seconds; the protocol allows an hour.
pub(crate) const LIFETIME: u64 = 600;

impl App {
    /// Signs, keeps and sends an order. It waits for the device if that is not connected now.
    pub(crate) async fn order(
        &self,
        device: &DeviceId,
        verb: Verb,
        lifetime: u64,
    ) -> Result<(u64, Timestamp), Problem> {
        let (fleet, above) = {
            let fleet = self.fleet();
            let anchor = fleet.trust.anchor.as_ref().ok_or_else(Problem::not_initialized)?;
            let known = fleet
                .devices
                .get(device)
                .ok_or_else(|| Problem::not_found(format_args!("device {device}")))?;
            if known.file.revoked {
                return Err(Problem::revoked(device));
            }
            (anchor.fleet.clone(), known.order_counter)
        };
        let (issued_at, not_after) = (now(), now().plus(lifetime));
        let what = words(&verb);
        let (online, to) = (self.online.clone(), device.clone());
        let sign = move |counter| {
            let order = Order { fleet, device: to, counter, issued_at, not_after, verb };
            seal_document(&order, &[&*online]).map(|(envelope, _)| envelope)
        };
        let (counter, envelope) =
            self.store.add_order(device.clone(), above, not_after, issued_at, what, sign).await?;
        self.send(device, Message { topic: Topic::Order, payload: envelope.into() }).await;
        Ok((counter, not_after))
    }

    /// What an operator asked for, about the newest revision.
    pub(crate) fn verb(&self, order: PostOrder) -> Result<Verb, Problem> {
        Ok(match order {
            PostOrder::Stage { deployment } => {
                Verb::Stage { revision: self.newest(&deployment)?, name: deployment }
            }
            PostOrder::Activate { deployment } => {
                Verb::Activate { revision: self.newest(&deployment)?, name: deployment }
            }
            PostOrder::Return { deployment } => {
                Verb::Return { revision: self.newest(&deployment)?, name: deployment }
            }
            PostOrder::Restart { deployment } => {
                self.newest(&deployment)?;
                Verb::Restart { name: deployment }
            }
        })
    }

    pub(crate) fn newest(&self, name: &Name) -> Result<Revision, Problem> {
        let fleet = self.fleet();
        let entry = fleet.entry(name).filter(|e| e.liveness == Liveness::Live);
        entry.map(|e| e.newest).ok_or_else(|| Problem::not_found(format_args!("deployment {name}")))
    }
}

/// An order for the audit log.
fn words(verb: &Verb) -> String {
    match verb {
        Verb::Stage { name, revision } => format!("stage {name} {}", revision.sequence),
        Verb::Activate { name, revision } => format!("activate {name} {}", revision.sequence),
        Verb::Return { name, revision } => format!("return {name} {}", revision.sequence),
        Verb::Restart { name } => format!("restart {name}"),
        Verb::Logs { name, tail, follow, .. } => format!("logs {name}: {tail} lines, {follow} s more"),
    }
}
