//! A draft as a file: JSON, with every signed byte in base64. Reads, checks and replaces it; decides nothing.

use super::{Content, Draft, Item, damaged};
use crate::error::{CliError, OnPath as _, Result};
use crate::home::{Home, write_secret};
use crate::trust::Trust;
use serde::{Deserialize, Serialize};
use shoal_controller_core::api::Base64;
use shoal_protocol::codec::{self, Limits};
use shoal_protocol::envelope::{Envelope, identity};
use shoal_protocol::latest::Kind;
use std::path::Path;

const VERSION: u64 = 1;
const MOST: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    shoal_draft: u64,
    /// Envelopes of all roots so far; none when a fleet is being founded.
    roots: Vec<Base64>,
    /// Envelope of the snapshot that is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<Base64>,
    documents: Vec<Piece>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    kind: String,
    payload: Base64,
    /// Once somebody has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envelope: Option<Base64>,
}

impl Item {
    fn read(piece: Piece) -> Result<Self> {
        let bad = |why: String| damaged(&format!("its {}: {why}", crate::output::clean(&piece.kind)));
        let kind =
            [Kind::Root, Kind::Snapshot, Kind::Deployment].into_iter().find(|k| k.as_str() == piece.kind);
        let kind = kind.ok_or_else(|| bad("drafts carry root, snapshot and deployment".to_owned()))?;
        let payload = piece.payload.0;
        let digest = identity(kind, &payload);
        if let Some(Base64(envelope)) = &piece.envelope {
            let parsed = Envelope::parse(envelope).map_err(|e| bad(e.to_string()))?;
            if parsed.payload() != payload || parsed.identity() != digest {
                return Err(bad("what was signed is not what is shown".to_owned()));
            }
        }
        let limits = Limits::of_size(kind.size_cap());
        let content = match kind {
            Kind::Root => codec::decode(&payload, limits).map(|d| Content::Root(Box::new(d))),
            Kind::Snapshot => codec::decode(&payload, limits).map(|d| Content::Snapshot(Box::new(d))),
            _ => codec::decode(&payload, limits).map(|d| Content::Deployment(Box::new(d))),
        };
        let content = content.map_err(|e| bad(e.to_string()))?;
        Ok(Self { content, digest, payload, envelope: piece.envelope.map(|e| e.0) })
    }
}

impl Draft {
    /// Reads a file and checks everything that can be checked without the missing signatures.
    pub(crate) fn read(home: &Home, path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).on_path("read the draft", path)?.len();
        if size > MOST {
            return Err(damaged(&format!("{} has {size} bytes, at most {MOST} are read", path.display())));
        }
        let text = std::fs::read_to_string(path).on_path("read the draft", path)?;
        let file: File = serde_json::from_str(&text)
            .map_err(|e| damaged(&format!("{} is no draft", path.display())).because(e))?;
        if file.shoal_draft != VERSION {
            return Err(damaged(&format!("it has version {}, this shoal knows {VERSION}", file.shoal_draft)));
        }
        let mut base = None;
        if let Some((first, rest)) = file.roots.split_first() {
            let mut trust = Trust::found(home, &first.0)?;
            trust.take_roots(rest.iter().map(|r| &r.0))?;
            base = Some(trust);
        }
        let snapshot = file.snapshot.map(|s| s.0);
        if let (Some(trust), Some(bytes)) = (&mut base, &snapshot) {
            trust.take_snapshot(bytes)?;
        }
        let items = file.documents.into_iter().map(Item::read).collect::<Result<Vec<_>>>()?;
        let draft = Self { base, snapshot, items };
        draft.check()?;
        draft.compare_with_own(home)?;
        Ok(draft)
    }

    /// Replaces the file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let roots = self.base.iter().flat_map(|t| &t.roots).map(|r| r.clone().into()).collect();
        let documents = self.items.iter().map(|i| Piece {
            kind: i.kind().as_str().to_owned(),
            payload: i.payload.clone().into(),
            envelope: i.envelope.clone().map(Base64::from),
        });
        let file = File {
            shoal_draft: VERSION,
            roots,
            snapshot: self.snapshot.clone().map(Base64::from),
            documents: documents.collect(),
        };
        let text = serde_json::to_string_pretty(&file)
            .map_err(|e| CliError::failure("cannot write the draft").because(e))?;
        write_secret(path, (text + "\n").as_bytes())
    }
}
