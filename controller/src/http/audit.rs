//! The audit log for operators; and what this API refused, on its way into the log.

use super::caller::{self, Operator, PeerCertificate};
use super::{Answer, LARGE, Shared, read_json};
use crate::app::App;
use crate::problem::{Problem, Refused};
use crate::store::Restored;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use serde::Deserialize;
use shoal_controller_core::api;
use shoal_controller_core::audit::{PAGE, Point};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    #[serde(default)]
    after: u64,
    limit: Option<u64>,
}

fn head(point: Point) -> api::AuditHead {
    api::AuditHead { sequence: point.sequence, head: point.head.into() }
}

pub(super) async fn page(
    _: Operator,
    State(app): Shared,
    query: Result<Query<PageQuery>, axum::extract::rejection::QueryRejection>,
) -> Answer<api::AuditPage> {
    let Query(query) = query.map_err(|e| Problem::invalid(e.body_text()))?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let (entries, newest) = app.store.audit_page(query.after, limit).await?;
    let entries = entries.into_iter().map(api::Base64).collect();
    Ok(Json(api::AuditPage { entries, newest: head(newest) }))
}

pub(super) async fn restore(_: Operator, State(app): Shared, body: Body) -> Answer<api::AuditHead> {
    let post: api::PostAudit = read_json(body, LARGE).await?;
    match app.store.restore_audit(post.entries.into_iter().map(|e| e.0).collect()).await? {
        Restored::Done(point) => Ok(Json(head(point))),
        Restored::Refused(why) => {
            let hint = shoal_protocol::Code::AuditFork.hint();
            Err(Problem::refused("audit_fork", format!("it does not continue the log here: {why}"))
                .hint(hint))
        }
    }
}

/// Writes down what was refused to somebody who wanted to change something.
pub(super) async fn note_refusals(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let by = if method == Method::POST { caller_of(&app, &request) } else { String::new() };
    let response = next.run(request).await;
    if method == Method::POST
        && let Some(refused) = response.extensions().get::<Refused>()
    {
        app.note_refusal(&by, &path, &refused.code, &refused.message, 1).await;
    }
    response
}

/// Who asks, as far as that is proven.
fn caller_of(app: &App, request: &Request) -> String {
    if caller::has_credential(app, request.headers()) {
        return "operator".to_owned();
    }
    let peer = request.extensions().get::<PeerCertificate>().and_then(|p| p.0.as_ref());
    peer.map_or_else(|| "unknown".to_owned(), |p| p.common_name.clone())
}
