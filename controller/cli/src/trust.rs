//! The operator's own verified state of a fleet: root chain, newest snapshot and the deployments that it lists.
//!
//! What the controller serves is taken only through `shoal_protocol::verify`, and only forward. Never here: signing.

use crate::api::Client;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Context, Home, write_secret};
use shoal_controller_core::api;
use shoal_protocol::envelope::Envelope;
use shoal_protocol::ids::{Digest, Name, Timestamp};
use shoal_protocol::latest::{Deployment, Entry, EntryKind, Key, Kind, Liveness, Root, Snapshot};
use shoal_protocol::verify::{
    Anchor, Expect, FromVerdict, Known, Standing, TrustState, Verdict, Verified, Viewpoint, verify,
};
use shoal_protocol::{Code, Refusal};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What this operator knows of a fleet by own verification.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    dir: PathBuf,
    /// Everything that `verify` needs.
    pub(crate) state: TrustState,
    /// Envelopes of all roots, from root 1.
    pub(crate) roots: Vec<Vec<u8>>,
    /// What was known under each earlier root, oldest first: what counted then is still what it was.
    earlier: Vec<TrustState>,
    /// Who signed each root.
    signers: Vec<Vec<Key>>,
}

/// A refusal as this program's error, with the code's own advice.
pub(crate) fn refusal(what: &str, r: &Refusal) -> CliError {
    CliError::refused(r.code.as_str(), format!("{what}: {}", r.detail)).hint(r.code.hint())
}

/// The clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| d.as_secs()))
}

impl Trust {
    fn new(home: &Home, fleet: &str) -> Self {
        let state = TrustState { viewpoint: Viewpoint::Observer, ..TrustState::default() };
        Self { dir: home.trust(fleet), state, roots: Vec::new(), earlier: Vec::new(), signers: Vec::new() }
    }

    /// Founds the state of a fleet from its first root and snapshot; nothing is written yet.
    pub(crate) fn found(home: &Home, root: &[u8]) -> Result<Self> {
        let mut trust = Self::new(home, "");
        trust.take_root(root)?;
        trust.dir = home.trust(trust.anchor()?.fleet.as_str());
        Ok(trust)
    }

    /// What is on disk for this fleet, verified again; nothing when there is no state.
    pub(crate) fn load(home: &Home, fleet: &str) -> Result<Option<Self>> {
        let mut trust = Self::new(home, fleet);
        let damaged = |e: CliError| {
            let dir = home.trust(fleet);
            CliError::refused(
                Code::BaseUntrusted.as_str(),
                format!("the own state in {} does not verify", dir.display()),
            )
            .because(e)
            .hint("move the folder away, then adopt the published snapshot with --adopt DIGEST")
        };
        for version in 1_u64.. {
            match std::fs::read(trust.root_path(version)) {
                Ok(bytes) => trust.take_root(&bytes).map_err(damaged)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => break,
                Err(e) => return Err(e).on_path("read", &trust.root_path(version)),
            }
        }
        let path = trust.snapshot_path();
        if trust.roots.is_empty() || !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).on_path("read", &path)?;
        let verdict = trust
            .verify_then(&bytes, Kind::Snapshot)
            .map_err(|r| damaged(refusal("the stored snapshot", &r)))?;
        trust.state.advance(&verdict);
        Ok(Some(trust))
    }

    /// Takes the next root, in memory only.
    pub(crate) fn take_root(&mut self, bytes: &[u8]) -> Result<()> {
        let expect = if self.roots.is_empty() { Expect::FirstRoot } else { Expect::Only(Kind::Root) };
        let what = format!("root {}", self.roots.len() + 1);
        let verdict = verify(bytes, &self.state, now(), expect).map_err(|r| refusal(&what, &r))?;
        if verdict.standing() == Standing::Held {
            return Ok(());
        }
        if let Verdict::Root(v) = &verdict {
            self.signers.push(v.signers().to_vec());
        }
        let mut next = self.state.clone();
        next.advance(&verdict);
        self.earlier.push(std::mem::replace(&mut self.state, next));
        self.roots.push(bytes.to_vec());
        Ok(())
    }

    /// Takes a whole chain, in memory only.
    pub(crate) fn take_roots<'a>(&mut self, roots: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<()> {
        roots.into_iter().try_for_each(|r| self.take_root(r))
    }

    /// Takes a snapshot that is handed over with its chain, in memory only.
    pub(crate) fn take_snapshot(&mut self, bytes: &[u8]) -> Result<()> {
        let verdict = self
            .verify_then(bytes, Kind::Snapshot)
            .map_err(|r| refusal("the snapshot that came along", &r))?;
        self.state.advance(&verdict);
        Ok(())
    }

    /// What was verified once under an earlier root, by keys that a later one removed, is still what it was: only for the
    /// own state, and for documents that a verified snapshot lists by digest.
    fn verify_then(&self, bytes: &[u8], kind: Kind) -> std::result::Result<Verdict, Refusal> {
        let newest = match verify(bytes, &self.state, now(), Expect::Stored(kind)) {
            Err(r) if r.code == Code::RevokedKey => r,
            other => return other,
        };
        let earlier = self.earlier.iter().rev().filter(|s| s.anchor.is_some());
        earlier
            .map(|then| TrustState { snapshot: self.state.snapshot.clone(), ..then.clone() })
            .find_map(|then| verify(bytes, &then, now(), Expect::Stored(kind)).ok())
            .ok_or(newest)
    }

    /// Whether a kept deployment's signatures still count under the newest root.
    pub(crate) fn still_counts(&self, digest: &Digest) -> bool {
        let Ok(bytes) = std::fs::read(self.document_path(digest)) else { return false };
        verify(&bytes, &self.state, now(), Expect::Stored(Kind::Deployment)).is_ok()
    }

    /// Whether the newest snapshot's signatures still count under the newest root; devices that start anew take no other.
    pub(crate) fn is_snapshot_current(&self) -> bool {
        let Ok(bytes) = std::fs::read(self.snapshot_path()) else { return false };
        verify(&bytes, &self.state, now(), Expect::Stored(Kind::Snapshot)).is_ok()
    }

    /// Where the own state of the fleet is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The fleet and its newest root.
    pub(crate) fn anchor(&self) -> Result<&Anchor> {
        self.state.anchor.as_ref().ok_or_else(|| CliError::failure("no root is held"))
    }
    /// The newest root.
    pub(crate) fn root(&self) -> Result<&Root> {
        Ok(&self.anchor()?.root.document)
    }
    /// Every root from the first, with the keys of its own that signed it.
    pub(crate) fn chain(&self) -> impl Iterator<Item = (&Root, &[Key])> {
        let states = self.earlier.iter().chain([&self.state]).filter_map(|s| s.anchor.as_ref());
        states.map(|a| &*a.root.document).zip(self.signers.iter().map(Vec::as_slice))
    }
    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Option<&Known<Snapshot>> {
        self.state.snapshot.as_ref()
    }
    /// What the newest snapshot says of a deployment.
    pub(crate) fn entry(&self, name: &Name) -> Option<&Entry> {
        self.entry_of(EntryKind::Deployment, name)
    }
    /// What the newest snapshot says of a name.
    pub(crate) fn entry_of(&self, kind: EntryKind, name: &Name) -> Option<&Entry> {
        self.snapshot()?.document.entries.iter().find(|e| e.kind == kind && e.name == *name)
    }
    /// All that the newest snapshot says of a kind.
    pub(crate) fn entries(&self, kind: EntryKind) -> impl Iterator<Item = &Entry> {
        self.snapshot().into_iter().flat_map(|k| &k.document.entries).filter(move |e| e.kind == kind)
    }

    fn root_path(&self, version: u64) -> PathBuf {
        self.dir.join(format!("root-{version}.cose"))
    }
    fn snapshot_path(&self) -> PathBuf {
        self.dir.join("snapshot.cose")
    }
    pub(crate) fn document_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("documents").join(format!("{}.cose", digest.hex()))
    }

    /// Writes the root chain and a snapshot's envelope.
    pub(crate) fn save(&self, snapshot: &[u8]) -> Result<()> {
        self.save_roots()?;
        write_secret(&self.snapshot_path(), snapshot)
    }

    /// Writes the root chain.
    pub(crate) fn save_roots(&self) -> Result<()> {
        for (bytes, version) in self.roots.iter().zip(1_u64..) {
            let path = self.root_path(version);
            if !path.exists() {
                write_secret(&path, bytes)?;
            }
        }
        Ok(())
    }

    /// Keeps a document's exact bytes.
    pub(crate) fn save_document(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        write_secret(&self.document_path(digest), bytes)
    }

    /// Held while the own state is swapped for the next one without a controller.
    pub(crate) fn lock(&self) -> Result<std::fs::File> {
        let path = self.dir.join("lock");
        let file = std::fs::File::create(&path).on_path("create", &path)?;
        file.lock().on_path("lock", &path)?;
        Ok(file)
    }

    /// The last of these revisions of a deployment among the documents that were verified and kept, whatever the snapshot
    /// lists now.
    pub(crate) fn kept_deployment(&self, name: &Name, sequences: Range<u64>) -> Result<Option<Deployment>> {
        let mut last: Option<Deployment> = None;
        let dir = self.dir.join("documents");
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.on_path("read", &dir)?,
        };
        for entry in entries {
            let path = entry.on_path("read", &dir)?.path();
            let bytes = std::fs::read(&path).on_path("read", &path)?;
            // Not of the newest root's keys any more, or no deployment: none to go back to.
            if let Ok(Verdict::Deployment(v)) = self.verify_then(&bytes, Kind::Deployment)
                && v.document().name == *name
                && sequences.contains(&v.document().sequence)
                && last.as_ref().is_none_or(|l| l.sequence < v.document().sequence)
            {
                last = Some(v.into_document());
            }
        }
        Ok(last)
    }

    /// Takes what the controller serves, as far as it verifies and leads forward.
    pub(crate) fn sync(&mut self, served: &api::Trust) -> Result<()> {
        let fleet = self.anchor()?.fleet.clone();
        if served.fleet.as_ref() != Some(&fleet) {
            let other = served.fleet.as_ref().map_or_else(|| "no fleet yet".to_owned(), ToString::to_string);
            return Err(CliError::refused(
                Code::BaseUntrusted.as_str(),
                format!("this operator holds fleet {fleet}, the controller serves {other}"),
            )
            .hint("is it another controller? log in under another name: `shoal login URL … --name OTHER`"));
        }
        for root in served.roots.iter().skip(self.roots.len()) {
            self.take_root(&root.0)?;
        }
        let Some(bytes) = &served.snapshot else {
            return Err(behind("it has no snapshot at all"));
        };
        let held = self.snapshot().map(|k| k.digest);
        if held.is_some() && held == Envelope::parse(&bytes.0).ok().map(|e| e.identity()) {
            // Signed by keys that a newer root may have removed: known already, whatever they are worth now.
            return self.save_roots();
        }
        let verdict =
            verify(&bytes.0, &self.state, now(), Expect::Only(Kind::Snapshot)).map_err(|r| match r.code {
                Code::Rollback => behind(&r.detail),
                Code::Equivocation => CliError::refused(Code::FleetEquivocation.as_str(), r.detail.clone())
                    .hint(Code::FleetEquivocation.hint()),
                Code::RevokedKey => refusal("the controller's snapshot", &r)
                    .hint("a newer root removed the key that signed it: who rotated it must sign the snapshot again with `shoal trust refresh`"),
                _ => refusal("the controller's snapshot", &r),
            })?;
        self.state.advance(&verdict);
        self.save(&bytes.0)
    }

    /// A listed deployment, verified and with exactly this digest.
    pub(crate) fn deployment(
        &mut self,
        client: &Client,
        name: &Name,
        digest: &Digest,
    ) -> Result<Verified<Deployment>> {
        self.listed(client, name, digest)
    }

    /// A listed document, from own state or from the controller, verified and with exactly this digest.
    pub(crate) fn listed<T: FromVerdict>(
        &mut self,
        client: &Client,
        name: &Name,
        digest: &Digest,
    ) -> Result<Verified<T>> {
        let untrusted = |why: String| {
            CliError::refused(
                Code::BaseUntrusted.as_str(),
                format!("the revision of {name} that the snapshot lists does not verify: {why}"),
            )
            .hint("nothing was signed; the controller serves wrong bytes, or signs without being asked")
        };
        let path = self.document_path(digest);
        let own = std::fs::read(&path).ok();
        let is_own = own.is_some();
        let bytes = if let Some(bytes) = own {
            bytes
        } else {
            let cap = T::KIND.size_cap() as u64;
            client.get_bytes(&format!("/v1/documents/{digest}"), &format!("the document {digest}"), cap)?
        };
        let verdict = self.verify_then(&bytes, T::KIND).map_err(|r| untrusted(r.to_string()))?;
        if verdict.identity() != *digest {
            return Err(untrusted(format!("expected {digest}, got {}", verdict.identity())));
        }
        self.state.advance(&verdict);
        let Some(verified) = T::from_verdict(verdict) else {
            return Err(untrusted(format!("it is no {}", T::KIND.as_str())));
        };
        if !is_own {
            self.save_document(digest, &bytes)?;
        }
        Ok(verified)
    }
}

fn behind(why: &str) -> CliError {
    CliError::refused(
        Code::ControllerBehind.as_str(),
        format!("the controller knows less than this operator: {why}"),
    )
    .hint("was it restored from an old backup? give it the newest snapshot again with `shoal trust push`")
}

/// Opens the own state and brings it up to what the controller serves. Without own state the published snapshot counts
/// only when the operator names its digest.
pub(crate) fn open(client: &Client, home: &Home, context: &Context, adopt: Option<&Digest>) -> Result<Trust> {
    let served: api::Trust = client.get("/v1/trust", "the fleet's trust")?;
    if let Some(fleet) = &context.fleet
        && let Some(mut trust) = Trust::load(home, fleet)?
    {
        trust.sync(&served)?;
        return Ok(trust);
    }
    if !served.initialized {
        return Err(CliError::failure(format!("{} has no fleet yet", client.server()))
            .code("not_initialized")
            .hint("found it: `shoal trust init`"));
    }
    let trust = from_served(home, &served, adopt)?;
    let fleet = trust.anchor()?.fleet.to_string();
    home.save_context(&Context { fleet: Some(fleet), ..context.clone() }, false)?;
    Ok(trust)
}

/// Takes a whole served chain for the first time, if its snapshot is the one that the operator named.
fn from_served(home: &Home, served: &api::Trust, adopt: Option<&Digest>) -> Result<Trust> {
    let mut roots = served.roots.iter();
    let first = roots.next().ok_or_else(|| CliError::failure("the controller serves no root"))?;
    let mut trust = Trust::found(home, &first.0)?;
    trust.take_roots(roots.map(|r| &r.0))?;
    let snapshot =
        served.snapshot.as_ref().ok_or_else(|| CliError::failure("the controller serves no snapshot"))?;
    let verdict = verify(&snapshot.0, &trust.state, now(), Expect::Stored(Kind::Snapshot))
        .map_err(|r| refusal("the controller's snapshot", &r))?;
    let found = verdict.identity();
    let Verdict::Snapshot(v) = &verdict else {
        return Err(CliError::failure("the controller's snapshot is none"));
    };
    if adopt != Some(&found) {
        let live = v.document().entries.iter().filter(|e| e.liveness == Liveness::Live).count();
        let what = match adopt {
            Some(named) => format!("the published snapshot is {found}, not {named}"),
            None => "this operator has no own state of the fleet".to_owned(),
        };
        let version = v.document().version;
        return Err(CliError::refused(Code::StateLost.as_str(), what)
            .details(vec![
                format!("fleet {}, root {}", trust.anchor()?.fleet, trust.root()?.version),
                format!("the controller publishes snapshot {version} with {live} live deployments:"),
                found.to_string(),
            ])
            .hint(format!("compare this digest with a colleague's (`shoal trust show`) or a device's (`shoal-agent status`), then add --adopt {found}")));
    }
    trust.state.advance(&verdict);
    trust.save(&snapshot.0)?;
    Ok(trust)
}

/// The own snapshot's envelope, as it is on disk.
pub(crate) fn own_snapshot(trust: &Trust) -> Result<Vec<u8>> {
    let path: &Path = &trust.snapshot_path();
    std::fs::read(path).on_path("read", path)
}

#[cfg(test)]
#[path = "trust_tests.rs"]
pub(crate) mod tests;
