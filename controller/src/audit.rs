//! Refusals on their way into the audit log: counted, rationed, then kept. What operators do is kept by the store itself,
//! in the transaction that does it.

use crate::app::{App, now};
use crate::ingest::Refusals;
use shoal_controller_core::audit::{Event, action};
use shoal_protocol::ids::DeviceId;

impl App {
    /// The controller refused something.
    pub(crate) async fn note_refusal(&self, by: &str, subject: &str, code: &str, detail: &str, times: u64) {
        self.note(action::REFUSED, by, subject, code, detail, times).await;
    }

    /// A device refused something, by its own report.
    pub(crate) async fn note_device_refusals(&self, device: &DeviceId, refusals: Refusals) {
        for (code, message, times) in refusals {
            self.note(action::DEVICE_REFUSED, device.as_str(), device.as_str(), &code, &message, times).await;
        }
    }

    async fn note(&self, action: &str, by: &str, subject: &str, code: &str, detail: &str, times: u64) {
        let at = now();
        let Some(times) = self.ration().admit(by, code, times, at) else { return };
        let event = Event::new(action, by, subject).number(times).because(code, detail);
        if let Err(e) = self.store.audit(vec![event], at).await {
            // Nothing was done that would need an entry; the refusal itself stands.
            tracing::error!("a refusal is missing in the audit log: {:#}", anyhow::Error::from(e));
        }
    }
}
