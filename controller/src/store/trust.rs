//! Roots, snapshots, documents and tokens.

use super::{Result, Store, audit, digest, int, uint};
use rusqlite::OptionalExtension as _;
use shoal_controller_core::audit::Event;
use shoal_protocol::ids::{DeviceId, Digest, Timestamp};
use std::collections::BTreeMap;

/// A snapshot to keep.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRow {
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) digest: Digest,
    pub(crate) envelope: Vec<u8>,
}

/// A deployment, config or secret to keep.
#[derive(Debug, Clone)]
pub(crate) struct DocumentRow {
    pub(crate) digest: Digest,
    pub(crate) name: String,
    pub(crate) sequence: u64,
    pub(crate) envelope: Vec<u8>,
}

/// A token that was used or announced.
#[derive(Debug, Clone)]
pub(crate) struct TokenRow {
    pub(crate) digest: Digest,
    pub(crate) envelope: Vec<u8>,
    pub(crate) used: u64,
}

/// What a compare-and-swap came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Swap {
    /// The new one is current.
    Done,
    /// Another one is current than was expected.
    Conflict,
}

impl Store {
    /// All roots, in order.
    pub(crate) async fn roots(&self) -> Result<Vec<Vec<u8>>> {
        self.call("read the roots", |t| {
            t.prepare("SELECT envelope FROM roots ORDER BY version")?.query_map((), |r| r.get(0))?.collect()
        })
        .await
    }

    /// Keeps a root; false when there is one of this version already.
    pub(crate) async fn add_root(
        &self,
        version: u64,
        envelope: Vec<u8>,
        event: Event,
        now: Timestamp,
    ) -> Result<bool> {
        self.call("keep a root", move |t| {
            let n = t.execute("INSERT OR IGNORE INTO roots VALUES (?1, ?2)", (int(version), envelope))?;
            if n == 1 {
                audit::append(t, vec![event], now)?;
            }
            Ok(n == 1)
        })
        .await
    }

    /// The current snapshot's envelope.
    pub(crate) async fn snapshot(&self) -> Result<Option<Vec<u8>>> {
        self.call("read the snapshot", |t| {
            t.query_row("SELECT envelope FROM snapshots ORDER BY id DESC LIMIT 1", (), |r| r.get(0))
                .optional()
        })
        .await
    }

    /// The identity of the snapshot of this version, of any epoch, if it was ever current.
    pub(crate) async fn snapshot_of_version(&self, version: u64) -> Result<Vec<Digest>> {
        self.call("read old snapshots", move |t| {
            t.prepare_cached("SELECT digest FROM snapshots WHERE version = ?1")?
                .query_map([int(version)], |r| digest(&r.get::<_, Vec<u8>>(0)?))?
                .collect()
        })
        .await
    }

    /// Makes a snapshot current if `expected` is current now; its documents are kept with it or not at all.
    pub(crate) async fn swap_snapshot(
        &self,
        expected: Option<Digest>,
        next: SnapshotRow,
        documents: Vec<DocumentRow>,
        events: Vec<Event>,
        now: Timestamp,
    ) -> Result<Swap> {
        self.call("keep a snapshot", move |t| {
            let current: Option<Vec<u8>> = t
                .query_row("SELECT digest FROM snapshots ORDER BY id DESC LIMIT 1", (), |r| r.get(0))
                .optional()?;
            if current.as_deref() != expected.as_ref().map(|d| d.0.as_slice()) {
                return Ok(Swap::Conflict);
            }
            for d in documents {
                t.execute(
                    "INSERT OR IGNORE INTO documents VALUES (?1, ?2, ?3, ?4, ?5)",
                    (d.digest.0.as_slice(), d.name, int(d.sequence), d.envelope, int(now.0)),
                )?;
            }
            t.execute(
                "INSERT INTO snapshots (version, epoch, digest, envelope, stored_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                (int(next.version), int(next.epoch), next.digest.0.as_slice(), next.envelope, int(now.0)),
            )?;
            audit::append(t, events, now)?;
            Ok(Swap::Done)
        })
        .await
    }

    /// A document's exact envelope.
    pub(crate) async fn document(&self, identity: Digest) -> Result<Option<Vec<u8>>> {
        self.call("read a document", move |t| {
            t.query_row("SELECT envelope FROM documents WHERE digest = ?1", [identity.0.as_slice()], |r| {
                r.get(0)
            })
            .optional()
        })
        .await
    }

    /// Keeps grants, each in the place of the one before of the same secret and device.
    pub(crate) async fn add_grants(
        &self,
        grants: Vec<(Digest, DeviceId, Vec<u8>)>,
        events: Vec<Event>,
        now: Timestamp,
    ) -> Result<()> {
        self.call("keep grants", move |t| {
            let mut insert = t.prepare("INSERT OR REPLACE INTO grants VALUES (?1, ?2, ?3)")?;
            for (secret, device, envelope) in grants {
                insert.execute((secret.0.as_slice(), device.as_str(), envelope))?;
            }
            audit::append(t, events, now)
        })
        .await
    }

    /// All grants: secret, device, envelope.
    pub(crate) async fn grants(&self) -> Result<Vec<(Digest, String, Vec<u8>)>> {
        self.call("read the grants", |t| {
            t.prepare("SELECT secret, device, envelope FROM grants")?
                .query_map((), |r| {
                    let secret: Vec<u8> = r.get(0)?;
                    Ok((digest(&secret)?, r.get(1)?, r.get(2)?))
                })?
                .collect()
        })
        .await
    }

    /// Forgets configs, secrets and grants of secrets that nothing wants any more.
    pub(crate) async fn forget_inputs(&self, gone: Vec<Digest>) -> Result<()> {
        self.call("forget configs and secrets", move |t| {
            for digest in gone {
                t.execute("DELETE FROM grants WHERE secret = ?1", [digest.0.as_slice()])?;
                t.execute("DELETE FROM documents WHERE digest = ?1", [digest.0.as_slice()])?;
            }
            Ok(())
        })
        .await
    }

    /// By device, the envelope of the token that it enrolled by.
    pub(crate) async fn device_tokens(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        self.call("read the devices' tokens", |t| {
            t.prepare("SELECT devices.id, tokens.envelope FROM devices JOIN tokens ON tokens.digest = devices.token")?
                .query_map((), |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Keeps a token; one that is there stays as it is.
    pub(crate) async fn add_token(
        &self,
        identity: Digest,
        envelope: Vec<u8>,
        event: Event,
        now: Timestamp,
    ) -> Result<()> {
        self.call("keep a token", move |t| {
            let n = t.execute(
                "INSERT OR IGNORE INTO tokens VALUES (?1, ?2, 0, ?3)",
                (identity.0.as_slice(), envelope, int(now.0)),
            )?;
            if n == 1 { audit::append(t, vec![event], now) } else { Ok(()) }
        })
        .await
    }

    /// All tokens, newest first.
    pub(crate) async fn tokens(&self) -> Result<Vec<TokenRow>> {
        self.call("read the tokens", |t| {
            t.prepare("SELECT digest, envelope, used FROM tokens ORDER BY stored_at DESC, digest LIMIT 1000")?
                .query_map((), |r| {
                    let identity: Vec<u8> = r.get(0)?;
                    Ok(TokenRow { digest: digest(&identity)?, envelope: r.get(1)?, used: uint(r.get(2)?) })
                })?
                .collect()
        })
        .await
    }
}
