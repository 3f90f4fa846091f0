//! Tags and manifests of the registry endpoint; the blobs themselves are files.

use super::{Result, Store, digest, int, uint};
use rusqlite::OptionalExtension as _;
use shoal_protocol::ids::{Digest, Timestamp};

/// One tag.
#[derive(Debug, Clone)]
pub(crate) struct TagRow {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) imported_at: Timestamp,
}

impl Store {
    /// Keeps a manifest and points a tag at it.
    pub(crate) async fn tag(&self, row: TagRow) -> Result<()> {
        self.call("keep a tag", move |t| {
            t.execute(
                "INSERT OR REPLACE INTO manifests VALUES (?1, ?2, ?3)",
                (row.digest.0.as_slice(), row.media_type, int(row.size)),
            )?;
            t.execute(
                "INSERT OR REPLACE INTO tags VALUES (?1, ?2, ?3, ?4)",
                (row.repository, row.tag, row.digest.0.as_slice(), int(row.imported_at.0)),
            )
            .map(drop)
        })
        .await
    }

    /// All tags by repository and tag.
    pub(crate) async fn tags(&self) -> Result<Vec<TagRow>> {
        self.call("read the tags", |t| {
            t.prepare(
                "SELECT t.repository, t.tag, t.digest, m.media_type, m.size, t.imported_at
                 FROM tags t JOIN manifests m ON m.digest = t.digest ORDER BY 1, 2",
            )?
            .query_map((), |r| {
                Ok(TagRow {
                    repository: r.get(0)?,
                    tag: r.get(1)?,
                    digest: digest(&r.get::<_, Vec<u8>>(2)?)?,
                    media_type: r.get(3)?,
                    size: uint(r.get(4)?),
                    imported_at: Timestamp(uint(r.get(5)?)),
                })
            })?
            .collect()
        })
        .await
    }

    /// The manifest that a tag points at.
    pub(crate) async fn resolve_tag(&self, repository: String, tag: String) -> Result<Option<Digest>> {
        self.call("read a tag", move |t| {
            t.query_row(
                "SELECT digest FROM tags WHERE repository = ?1 AND tag = ?2",
                (repository, tag),
                |r| digest(&r.get::<_, Vec<u8>>(0)?),
            )
            .optional()
        })
        .await
    }

    /// A manifest's media type, if it was imported as a manifest.
    pub(crate) async fn manifest_type(&self, identity: Digest) -> Result<Option<String>> {
        self.call("read a manifest's type", move |t| {
            t.query_row("SELECT media_type FROM manifests WHERE digest = ?1", [identity.0.as_slice()], |r| {
                r.get(0)
            })
            .optional()
        })
        .await
    }
}
