//! One turn of the loop: what woke it becomes known, then it looks, plans, acts and tells until nothing is left to do.

use super::opening::not_enrolled;
use super::report::Uplink;
use super::sources::GuardEvent;
use super::{Daemon, Ended, HOLD_BACK, RESYNC, ROUNDS, STORAGE_RETRY, Wake, software, world};
use anyhow::Result;
use shoal_agent_core::plan::plan;
use shoal_protocol::ids::Timestamp;
use std::time::{Duration, Instant};

impl Daemon {
    /// What woke the loop becomes known; what ends it is returned.
    pub(super) async fn woke(&mut self, wake: Wake) -> Result<Option<Ended>> {
        match wake {
            Wake::Stop(signal) => {
                tracing::info!(signal, "stopping; containers go on running");
                self.persist();
                return Ok(Some(Ended::Stopped));
            }
            Wake::Joined(joined) => {
                self.persist();
                return if joined? {
                    Ok(Some(Ended::Joined))
                } else {
                    Err(not_enrolled(self.guard.layout()))
                };
            }
            Wake::Resync => {
                self.refresh = true;
                self.relist = true;
            }
            Wake::Time => {}
            Wake::Guard(event) => {
                let came = matches!(event, GuardEvent::Up(_));
                self.guard_said(event);
                if let Some(folder) = software::elsewhere(self.guard.layout()).filter(|_| came) {
                    tracing::info!(folder = %folder.display(), "the guard runs from another release; following it");
                    self.persist();
                    return Ok(Some(Ended::Elsewhere(folder)));
                }
            }
            Wake::Link(event) => self.link_said(event).await,
            Wake::Fetched(fetched) => self.fetch_ended(fetched),
            Wake::Renewed(answer) => self.renewal_ended(*answer),
            Wake::Brought(brought) => self.software_brought(brought),
        }
        Ok(None)
    }

    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks, plans, acts and tells, until nothing is left to do now.
    pub(super) async fn turn(&mut self) {
        let ahead = |t: &Instant| *t > Instant::now();
        self.held_back = self.held_back.filter(ahead);
        self.look_again = self.look_again.filter(ahead);
        self.submit_inbox().await;
        for _ in 0..ROUNDS {
            self.look().await;
            let now = world::now(&self.world.trust);
            let next = plan(&self.world.desired, &self.world.observed, now);
            let wait = |at: Timestamp| Instant::now() + Duration::from_secs(at.0.saturating_sub(now.0));
            self.next_plan = next.next_wake.map(wait);
            // Nothing is done on what was not looked at.
            let ready = self.world.is_asked && self.supervise_up && !self.relist && self.held_back.is_none();
            if next.steps.is_empty() || !ready {
                break;
            }
            for step in next.steps {
                self.execute(step).await;
            }
        }
        self.tend_certificate();
        self.tend_software().await;
        self.note_changes();
        self.persist();
        if self.may_report() && self.coalescer.due() <= self.millis() {
            self.report().await;
        }
        self.tend_uplink();
    }

    /// A report of what was never looked at would say that nothing is here.
    pub(super) fn may_report(&self) -> bool {
        self.admit_up && self.supervise_up && !self.relist && !self.world.trust.fleet.is_empty()
    }

    /// Asks again what was said to have changed.
    pub(super) async fn look(&mut self) {
        if self.look_again.is_some() {
            return;
        }
        if self.refresh && self.admit_up {
            match self.world.refresh_desired(&self.guard).await {
                Ok(()) => self.refresh = false,
                Err(error) => {
                    tracing::warn!(%error, "admission does not say what it holds");
                    self.look_again = Some(Instant::now() + HOLD_BACK);
                }
            }
            self.follow_root().await;
        }
        if self.relist && self.supervise_up {
            match self.world.refresh_observed(&self.runtime).await {
                Ok(()) => self.relist = false,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "supervise does not say what runs");
                    self.look_again = Some(Instant::now() + HOLD_BACK);
                }
            }
        }
    }

    /// Plans nothing for a moment: the last step did not work, and would be the next plan's again.
    pub(super) fn hold_back(&mut self) {
        self.held_back = Some(Instant::now() + HOLD_BACK);
    }

    /// Writes the records that changed. What cannot be written now is tried again.
    pub(super) fn persist(&mut self) {
        if self.storage_retry.is_some_and(|t| t > Instant::now()) {
            return;
        }
        if self.storage_retry.is_some()
            && let Err(error) = self.store.make_writable(&self.guard.layout().agent_db())
        {
            return self.storage_failed(&error);
        }
        for digest in std::mem::take(&mut self.world.dirty) {
            let Some(pod) = self.world.observed.pods.get(&digest) else { continue };
            if let Err(error) = self.store.save_record(&digest, &pod.record) {
                self.world.dirty.insert(digest);
                self.storage_failed(&error);
                return;
            }
        }
        if self.storage_retry.take().is_some() {
            self.storage_broken = false;
        }
    }

    pub(super) fn storage_failed(&mut self, error: &anyhow::Error) {
        tracing::error!(error = %format!("{error:#}"), "storage_unavailable: it goes on in memory and is tried again");
        self.storage_broken = true;
        self.storage_retry = Some(Instant::now() + STORAGE_RETRY);
    }

    pub(super) fn next_wake(&self) -> Instant {
        let report = self.begun + Duration::from_millis(self.coalescer.due());
        let report = self.may_report().then_some(report);
        let uplink = self.uplink.as_ref().map(Uplink::due);
        let all = [
            self.next_plan,
            self.held_back,
            self.look_again,
            self.storage_retry,
            uplink,
            report,
            self.renewal.due(),
            self.software_due(),
        ];
        all.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + RESYNC)
    }
}
