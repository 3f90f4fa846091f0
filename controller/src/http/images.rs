//! Images come in here: blobs first, then the manifest that names them.

use super::caller::Operator;
use super::{Answer, Shared, parse, read};
use crate::app::now;
use crate::problem::Problem;
use crate::store::TagRow;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt as _;
use shoal_controller_core::api;
use shoal_image::{Document, Expect, limits};
use shoal_protocol::ids::Digest;
use std::time::Duration;

/// The next piece of an upload comes within this.
const PIECE: Duration = Duration::from_secs(30);

pub(super) async fn list(_: Operator, State(app): Shared) -> Answer<api::ImageList> {
    let images = app.store.tags().await?.into_iter().map(|t| api::Image {
        repository: t.repository,
        tag: t.tag,
        digest: t.digest.into(),
        media_type: t.media_type,
        size: t.size,
        imported_at: t.imported_at,
    });
    Ok(Json(api::ImageList { images: images.collect() }))
}

/// Also `HEAD`, which axum answers from this.
pub(super) async fn has_blob(
    _: Operator,
    State(app): Shared,
    Path(digest): Path<String>,
) -> Result<StatusCode, Problem> {
    let digest: Digest = parse(&digest)?;
    match app.images.size(&digest) {
        Some(_) => Ok(StatusCode::OK),
        None => Err(Problem::not_found(format_args!("blob {digest}"))),
    }
}

pub(super) async fn post_blob(
    _: Operator,
    State(app): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let digest: Digest = parse(&digest)?;
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if declared.is_some_and(|n| n > limits::BLOB) {
        return Err(Problem::refused("too_large", format!("{digest} has more than {} bytes", limits::BLOB)));
    }
    let expect = declared.map_or(Expect::AtMost(limits::BLOB), |size| Expect::Exactly { digest, size });
    let mut writer = app.images.writer(expect)?;
    let mut pieces = body.into_data_stream();
    loop {
        let piece = tokio::time::timeout(PIECE, pieces.next())
            .await
            .map_err(|_| Problem::timeout(format!("nothing of {digest} came for {} s", PIECE.as_secs())))?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|e| Problem::invalid(format!("the upload of {digest} broke off: {e}")))?;
        // Writing and flushing wait for the disk, not for a runtime thread.
        writer = blocking(move || writer.write(&piece).map(|()| writer)).await?;
    }
    let (found, _) = blocking(move || writer.finish()).await?;
    if found != digest {
        app.images.remove(&found)?;
        return Err(Problem::refused("digest_mismatch", format!("{digest} was announced, {found} came")));
    }
    Ok(StatusCode::CREATED)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> shoal_image::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|e| Problem::internal(format!("an upload failed: {e}")))??)
}

pub(super) async fn post_manifest(
    _: Operator,
    State(app): Shared,
    Path(reference): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<api::ImageAccepted> {
    let (repository, tag) = reference
        .rsplit_once(':')
        .filter(|(repository, tag)| is_repository(repository) && is_tag(tag))
        .ok_or_else(|| Problem::invalid(format!("{reference:?} is no repository:tag")))?;
    let cap = usize::try_from(limits::DOCUMENT).unwrap_or(usize::MAX);
    let bytes = read(body, cap).await?;
    let served = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let (media_type, named) = match Document::parse(&bytes, served)? {
        Document::Manifest(m) => {
            let named: Vec<_> = m.layers.iter().chain([&m.config]).map(|d| (d.digest, d.size)).collect();
            (m.media_type, named)
        }
        Document::Index(i) => (i.media_type, i.manifests.iter().map(|d| (d.digest, d.size)).collect()),
    };
    let media_type = media_type
        .or_else(|| served.map(str::to_owned))
        .ok_or_else(|| Problem::invalid("the manifest names no media type, nor does Content-Type"))?;
    for (digest, size) in &named {
        if app.images.size(digest) != Some(*size) {
            return Err(Problem::refused(
                "not_found",
                format!("{digest} ({size} bytes) is named, but not here"),
            )
            .hint("upload all blobs before the manifest"));
        }
    }
    let images = app.images.clone();
    let size = bytes.len() as u64 + named.iter().map(|(_, size)| size).sum::<u64>();
    let digest = blocking(move || images.put(&bytes)).await?;
    let row = TagRow {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest,
        media_type,
        size,
        imported_at: now(),
    };
    app.store.tag(row).await?;
    Ok(Json(api::ImageAccepted { reference, digest: digest.into() }))
}

/// OCI distribution-spec 1.1, "Pulling manifests": the grammar of names.
pub(super) fn is_repository(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |p: &str| {
        let bytes = p.as_bytes();
        bytes.first().is_some_and(|b| inner(*b))
            && bytes.last().is_some_and(|b| inner(*b))
            && bytes.iter().all(|b| inner(*b) || b"._-".contains(b))
    };
    name.len() <= 255 && name.split('/').all(part)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len()) && word(bytes[0]) && bytes.iter().all(|b| word(*b) || b".-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_leave_no_way_out_of_the_store() {
        for good in ["a", "library/a", "a.b/c-d_e"] {
            assert!(is_repository(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "A", "a b", "a%2e"] {
            assert!(!is_repository(bad), "{bad}");
        }
        assert!(is_tag("v1.0-rc_2") && is_tag("latest"));
        assert!(!is_tag("") && !is_tag(".a") && !is_tag("a/b") && !is_tag(&"a".repeat(129)));
    }
}
