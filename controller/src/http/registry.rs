//! The read-only half of the OCI distribution API (distribution-spec 1.1) over the imported images.

use super::caller::Puller;
use super::images::is_repository;
use crate::app::App;
use crate::problem::Problem;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use shoal_image::limits;
use shoal_protocol::ids::Digest;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

const PIECE: u64 = 64 << 10;
const DIGEST: &str = "docker-content-digest";
const API: &str = "docker-distribution-api-version";

/// `GET` and `HEAD` of everything below `/v2/`. Errors have the form that registry clients read.
pub(super) async fn get(State(app): State<Arc<App>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let answer = match Puller::from_request_parts(&mut parts, &app).await {
        Ok(_) => route(&app, parts.uri.path(), &parts.headers).await,
        Err(problem) => Err(problem),
    };
    let mut response = answer.unwrap_or_else(|p| error(&p));
    response.headers_mut().insert(API, HeaderValue::from_static("registry/2.0"));
    response
}

async fn route(app: &App, path: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    if path.is_empty() {
        return Ok(axum::Json(json!({})).into_response());
    }
    if path == "_catalog" {
        let mut repositories: Vec<String> =
            app.store.tags().await?.into_iter().map(|t| t.repository).collect();
        repositories.dedup();
        return Ok(axum::Json(json!({ "repositories": repositories })).into_response());
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        let tags = app.store.tags().await?.into_iter().filter(|t| t.repository == name);
        let tags: Vec<String> = tags.map(|t| t.tag).collect();
        if tags.is_empty() {
            return Err(Problem::not_found(format_args!("repository {name}")));
        }
        return Ok(axum::Json(json!({ "name": name, "tags": tags })).into_response());
    }
    let unknown = || Problem::not_found(format_args!("path /v2/{path}"));
    let (rest, reference) = path.rsplit_once('/').ok_or_else(unknown)?;
    match rest.rsplit_once('/') {
        Some((name, "manifests")) if is_repository(name) => manifest(app, name, reference).await,
        Some((name, "blobs")) if is_repository(name) => blob(app, reference, headers).await,
        _ => Err(unknown()),
    }
}

async fn manifest(app: &App, name: &str, reference: &str) -> Result<Response, Problem> {
    let unknown = || Problem::not_found(format_args!("manifest {name}:{reference}"));
    let digest: Digest = match reference.parse() {
        Ok(digest) => digest,
        Err(_) => app.store.resolve_tag(name.to_owned(), reference.to_owned()).await?.ok_or_else(unknown)?,
    };
    let media_type = app.store.manifest_type(digest).await?.ok_or_else(unknown)?;
    let bytes = app.images.read(&digest, limits::DOCUMENT)?;
    Ok(([(CONTENT_TYPE.as_str(), media_type), (DIGEST, digest.to_string())], bytes).into_response())
}

async fn blob(app: &App, reference: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let digest: Digest =
        reference.parse().map_err(|_| Problem::not_found(format_args!("blob {reference}")))?;
    let size = app.images.size(&digest).ok_or_else(|| Problem::not_found(format_args!("blob {digest}")))?;
    let asked = headers.get(RANGE).and_then(|v| v.to_str().ok());
    let (status, start, length) = match asked.map(|r| range(r, size)) {
        None | Some(Asked::All) => (StatusCode::OK, 0, size),
        Some(Asked::Part(start, length)) => (StatusCode::PARTIAL_CONTENT, start, length),
        Some(Asked::Nothing) => {
            let total = [(CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, total).into_response());
        }
    };
    let mut file = tokio::fs::File::from_std(app.images.open_blob(&digest)?);
    file.seek(io::SeekFrom::Start(start)).await.map_err(anyhow::Error::from)?;
    let stream = futures_util::stream::try_unfold((file, length), |(mut file, left)| async move {
        if left == 0 {
            return Ok::<_, io::Error>(None);
        }
        let mut piece = vec![0; usize::try_from(left.min(PIECE)).unwrap_or(0)];
        file.read_exact(&mut piece).await?;
        let left = left - piece.len() as u64;
        Ok(Some((Bytes::from(piece), (file, left))))
    });
    let mut response = (
        status,
        [
            (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
            (CONTENT_LENGTH.as_str(), length.to_string()),
            (ACCEPT_RANGES.as_str(), "bytes".to_owned()),
            (DIGEST, digest.to_string()),
        ],
        Body::from_stream(stream),
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::try_from(format!("bytes {start}-{}/{size}", start + length - 1))
    {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part(u64, u64),
    Nothing,
}

/// One range of bytes (RFC 9110 §14.1.2); several, or another unit, may be answered with everything.
fn range(header: &str, size: u64) -> Asked {
    let Some((from, to)) =
        header.strip_prefix("bytes=").filter(|r| !r.contains(',')).and_then(|r| r.split_once('-'))
    else {
        return Asked::All;
    };
    let (start, end) = match (from.trim().parse::<u64>(), to.trim()) {
        (Ok(start), "") => (start, size),
        (Ok(start), end) => match end.parse::<u64>() {
            Ok(end) if end >= start => (start, end.saturating_add(1).min(size)),
            _ => return Asked::All,
        },
        (Err(_), last) if from.trim().is_empty() => match last.parse::<u64>() {
            Ok(0) => return Asked::Nothing,
            Ok(n) => (size.saturating_sub(n), size),
            Err(_) => return Asked::All,
        },
        _ => return Asked::All,
    };
    if start >= size { Asked::Nothing } else { Asked::Part(start, end - start) }
}

/// The error form of distribution-spec 1.1, "Error codes".
fn error(problem: &Problem) -> Response {
    let code = match problem.status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::NOT_FOUND => "MANIFEST_UNKNOWN",
        _ => "UNSUPPORTED",
    };
    let body = json!({ "errors": [{ "code": code, "message": problem.error.message }] });
    let mut response = (problem.status, axum::Json(body)).into_response();
    if problem.status == StatusCode::UNAUTHORIZED {
        let basic = HeaderValue::from_static("Basic realm=\"shoal\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_within_the_blob() {
        for (header, want) in [
            ("bytes=0-0", Asked::Part(0, 1)),
            ("bytes=5-", Asked::Part(5, 5)),
            ("bytes=8-99", Asked::Part(8, 2)),
            ("bytes=-3", Asked::Part(7, 3)),
            ("bytes=-99", Asked::Part(0, 10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-2", Asked::All),
            ("bytes=0-1,3-4", Asked::All),
            ("lines=0-1", Asked::All),
            ("bytes=x-1", Asked::All),
            ("bytes=18446744073709551615-18446744073709551615", Asked::Nothing),
        ] {
            assert_eq!(range(header, 10), want, "{header}");
        }
        assert_eq!(range("bytes=0-", 0), Asked::Nothing);
    }
}
