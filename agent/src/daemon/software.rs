//! The device's own software: a release that admission offers is fetched, handed to supervise and changed to; what runs then
//! confirms itself when it reached whom it has to reach. And the agent follows its guard: both are of one release.

use super::Daemon;
use crate::{entropy, points};
use anyhow::Context as _;
use shoal_ipc::{Layout, Software, SoftwareInfo};
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::Digest;
use shoal_protocol::latest::{Build, Kind, Release};
use shoal_runtime::{PullSource, ReleaseService};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// A device that nobody is to be reached from works when its processes have, for so long.
const ALONE: Duration = Duration::from_secs(30);
/// Until a release is asked for again that could not be fetched; then twice as long each time.
const RETRY: Duration = Duration::from_secs(15);
const RETRY_MAX: Duration = Duration::from_mins(30);

/// How a fetch ended.
pub(crate) type Brought = (Digest, Result<(), String>);

/// What the daemon keeps of it.
#[derive(Debug)]
pub(super) struct State {
    /// Supervise's last word.
    pub(super) info: SoftwareInfo,
    /// That is to be asked for again.
    pub(super) stale: bool,
    /// The manifest of the build that is on its way.
    manifest: Option<Digest>,
    /// A fetch is under way.
    fetching: bool,
    retry_at: Option<Instant>,
    wait: Duration,
    /// Reports from before this process have counters up to this one.
    begun_at: u64,
    /// A report of this process was acknowledged.
    heard: bool,
    /// Supervise and admission know that this software works.
    confirmed: bool,
    /// When it was looked at last: what was due then was done, or could not be.
    tended: Instant,
}

impl State {
    /// Of a process whose first report has a counter above `counter`.
    pub(super) fn new(counter: u64) -> Self {
        Self {
            info: SoftwareInfo::default(),
            stale: true,
            manifest: None,
            fetching: false,
            retry_at: None,
            wait: RETRY,
            begun_at: counter,
            heard: false,
            confirmed: false,
            tended: Instant::now(),
        }
    }

    /// When to look again, given the moment at which a device that nobody is to be reached from has worked long enough. What
    /// was due at the last look and could not be done waits for a change, not for the time.
    fn due(&self, alone: Option<Instant>) -> Option<Instant> {
        let alone = alone.filter(|_| !self.confirmed);
        let retry = self.retry_at.filter(|_| !self.fetching);
        [alone, retry].into_iter().flatten().filter(|t| *t > self.tended).min()
    }

    /// What of the images' blobs is still needed.
    pub(super) fn needs(&self) -> Option<Digest> {
        self.manifest.filter(|_| self.info.offer.is_some())
    }

    /// The controller has everything up to `counter`.
    pub(super) fn acknowledged(&mut self, counter: u64) {
        self.heard |= counter > self.begun_at;
    }

    /// States of the device that come of it.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (bool, &'static str)> {
        let offered = self.info.offer.as_ref().map(|o| o.id);
        let failed = self.info.failed.as_ref().is_some_and(|f| offered == Some(f.id));
        [
            (failed, "update_failed"),
            (self.info.on_trial, "update_on_trial"),
            (offered.is_some() && !failed && !self.info.on_trial, "update_pending"),
        ]
        .into_iter()
    }
}

/// The folder of the programs that are to run, where it is another one than this program's.
pub(super) fn elsewhere(layout: &Layout) -> Option<PathBuf> {
    let folder = Software::new(layout).programs()?;
    let is_other = folder != Layout::libexec() && folder.join("shoal-agent").is_file();
    is_other.then_some(folder)
}

/// Becomes the agent in `folder`; returns only when that is not possible.
pub(crate) fn become_agent_of(folder: &std::path::Path) -> std::io::Error {
    let args = std::env::args_os().skip(1);
    Command::new(folder.join("shoal-agent")).args(args).env("SHOAL_LIBEXEC", folder).exec()
}

impl Daemon {
    /// When something of it is due.
    pub(super) fn software_due(&self) -> Option<Instant> {
        self.software.due((!self.is_joined).then(|| self.begun + ALONE))
    }

    /// Looks, confirms, fetches and changes, as far as each is due.
    pub(super) async fn tend_software(&mut self) {
        let now = Instant::now();
        self.software.tended = now;
        if !self.supervise_up || !self.admit_up {
            return;
        }
        if self.software.stale {
            match self.guard.supervise(shoal_ipc::SuperviseClient::software).await {
                Ok(info) => (self.software.info, self.software.stale) = (info, false),
                Err(error) => return tracing::debug!(%error, "supervise does not say which software runs"),
            }
        }
        self.confirm_software(now).await;
        if self.software.fetching || self.software.retry_at.is_some_and(|t| t > now) {
            return;
        }
        self.software.retry_at = None;
        let info = &self.software.info;
        let Some(offer) = info.offer.clone().filter(|_| !info.on_trial) else { return };
        if info.failed.as_ref().is_some_and(|f| f.id == offer.id) {
            return;
        }
        if offer.missing_total > 0 {
            self.fetch_software(Digest(offer.id.0), offer.missing.iter().map(|d| Digest(d.0)).collect())
                .await;
        } else if !self.is_joined || self.uplink.is_some() {
            // Without a connection now there would be none after the change, and it would be taken back for that.
            self.change_software(&offer).await;
        }
    }

    async fn confirm_software(&mut self, now: Instant) {
        let works = if self.is_joined { self.software.heard } else { now >= self.begun + ALONE };
        if self.software.confirmed || !works || self.relist {
            return;
        }
        points::hit(points::SOFTWARE_CONFIRM);
        match self.guard.supervise(shoal_ipc::SuperviseClient::confirm).await {
            Ok(()) => {
                self.software.confirmed = true;
                self.software.stale = true;
                if self.software.info.on_trial {
                    tracing::info!(version = %self.software.info.release, "this software proved itself");
                }
                // What was brought for it is of no use any more.
                let done = self.software.info.offer.is_none();
                if let Err(error) = if done { self.releases.clear() } else { Ok(()) } {
                    tracing::warn!(error = %error.chain(), "blobs of releases stay");
                }
            }
            Err(error) => tracing::warn!(%error, "supervise did not hear that this software works"),
        }
    }

    async fn change_software(&mut self, offer: &shoal_ipc::Offer) {
        tracing::info!(version = %offer.release, from = %self.software.info.release, "changing to a release");
        self.persist();
        points::hit(points::SOFTWARE_SWITCH);
        let id = offer.id;
        match self.guard.staging(move |s| s.switch(id)).await {
            // The guard is the new one in a moment; this process follows when it is there.
            Ok(()) => self.software.retry_later(RETRY),
            Err(error) => {
                tracing::warn!(version = %offer.release, %error, "the change was refused");
                self.software.retry_later(RETRY);
            }
        }
        self.software.stale = true;
    }

    async fn fetch_software(&mut self, id: Digest, missing: BTreeSet<Digest>) {
        let build = match self.build_of(id).await {
            Ok(build) => build,
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "the offered release cannot be read");
                return self.software.retry_later(RETRY);
            }
        };
        self.software.manifest = Some(build.manifest);
        let size: u64 = build.files.iter().filter(|f| missing.contains(&f.digest)).map(|f| f.size).sum();
        if let Err(error) = self.images.room_for(size.saturating_mul(2)) {
            tracing::warn!(error = %error.chain(), "no room for a release");
            let wait = self.software.wait;
            return self.software.retry_later(wait);
        }
        let software = Software::new(self.guard.layout());
        let state = software.state();
        let folders = [Some(Layout::libexec()), software.folder(shoal_ipc::Place::Installed, &state)];
        let job = Bring {
            releases: self.releases.clone(),
            id,
            sources: self.sources(&build.reference),
            build,
            missing,
            folders: folders.into_iter().flatten().collect(),
        };
        self.software.fetching = true;
        let (tell, permits) = (self.brought.clone(), self.fetches.clone());
        tokio::spawn(async move {
            // Closed never; held while the fetch runs, so that few run at a time.
            let _permit = permits.acquire_owned().await;
            let result = job.run().await;
            let _ = tell.send((id, result)).await;
        });
    }

    async fn build_of(&self, id: Digest) -> anyhow::Result<Build> {
        let is_offered = |d: &&shoal_ipc::HeldDocument| d.digest.0 == id.0;
        let held = self.world.trust.documents.iter().find(is_offered);
        let held = held.context("admission does not hold it any more")?;
        let (name, sequence) = (held.name.clone(), held.sequence);
        let bytes = self.guard.admit(move |a| a.release(&name, sequence)).await?;
        let envelope = Envelope::parse(&bytes)?;
        anyhow::ensure!(envelope.identity() == id, "admission gave another one");
        let release: Release = codec::decode(envelope.payload(), Limits::of_size(Kind::Release.size_cap()))?;
        let build = release.build(std::env::consts::ARCH).cloned();
        build.with_context(|| format!("it has no build for {}", std::env::consts::ARCH))
    }

    /// A fetch ended.
    pub(super) fn software_brought(&mut self, (id, result): Brought) {
        self.software.fetching = false;
        self.software.stale = true;
        match result {
            Ok(()) => (self.software.retry_at, self.software.wait) = (None, RETRY),
            Err(error) => {
                let wait = self.software.wait;
                tracing::warn!(release = %id, error, again_in_s = wait.as_secs(), "a release was not fetched");
                self.software.retry_later(wait);
                self.software.wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

impl State {
    fn retry_later(&mut self, wait: Duration) {
        let spread = wait * u32::try_from(entropy::draw() % 50).unwrap_or(0) / 100;
        self.retry_at = Some(Instant::now() + wait + spread);
    }
}

struct Bring {
    releases: ReleaseService,
    id: Digest,
    build: Build,
    missing: BTreeSet<Digest>,
    sources: Vec<PullSource>,
    folders: Vec<PathBuf>,
}

impl Bring {
    async fn run(&self) -> Result<(), String> {
        let brought =
            self.releases.bring(self.id, &self.build, &self.missing, &self.sources, &self.folders).await;
        points::hit(points::SOFTWARE_BROUGHT);
        brought.map_err(|e| e.chain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_and_could_not_be_done_is_no_reason_to_wake_again() {
        let mut state = State::new(0);
        let at = |seconds| state.tended + Duration::from_secs(seconds);
        let (now, soon, later) = (at(0), at(5), at(9));
        assert_eq!(state.due(None), None);
        assert_eq!(state.due(Some(soon)), Some(soon));
        state.retry_at = Some(later);
        assert_eq!((state.due(None), state.due(Some(soon))), (Some(later), Some(soon)));
        // A fetch that runs says itself when it ends.
        state.fetching = true;
        assert_eq!(state.due(None), None);
        state.fetching = false;
        // Nobody was there to do it at the last look; the time alone changes nothing of that.
        state.tended = later;
        assert_eq!(state.due(Some(soon)), None);
        // It fell due after that look, however long what came after the look took.
        state.tended = now;
        assert_eq!(state.due(Some(soon)), Some(soon));
        state.confirmed = true;
        assert_eq!(state.due(Some(soon)), Some(later));
    }
}
