//! The HTTP API: which path leads where, and who may go there.
//!
//! Handlers turn requests into calls of `App` and back; they decide nothing.

mod audit;
mod caller;
mod devices;
mod enroll;
mod enrollments;
mod fleet;
mod images;
mod logs;
mod mqtt;
mod registry;
mod serve;

pub(crate) use serve::connection;

use crate::app::App;
use crate::problem::Problem;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// A request that does not stream is answered within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bodies.
const SMALL: usize = 1 << 20;
/// A snapshot with many new deployments, in base64.
const LARGE: usize = 64 << 20;

type Shared = axum::extract::State<Arc<App>>;
type Answer<T> = Result<axum::Json<T>, Problem>;

/// All paths.
pub(crate) fn router(app: Arc<App>) -> Router {
    let quick = Router::new()
        .route("/v1/version", get(fleet::version))
        .route("/v1/ca", get(fleet::ca))
        .route("/v1/login", post(fleet::login))
        .route("/v1/trust", get(fleet::trust))
        .route("/v1/trust/roots", post(fleet::post_root))
        .route("/v1/snapshots", post(fleet::post_snapshot))
        .route("/v1/documents/{digest}", get(fleet::document))
        .route("/v1/grants", post(fleet::post_grants))
        .route("/v1/grants/{secret}", get(fleet::grants))
        .route("/v1/records", get(fleet::records))
        .route("/v1/receipts", post(devices::post_receipt))
        .route("/v1/plan", post(fleet::plan))
        .route("/v1/deployments", get(fleet::deployments))
        .route("/v1/deployments/{name}", get(fleet::deployment))
        .route("/v1/tokens", get(enroll::tokens).post(enroll::post_token))
        .route("/v1/enroll", post(enroll::enroll))
        .route("/v1/enrollments", get(enrollments::enrollments))
        .route("/v1/enrollments/{device}", get(enrollments::enrollment))
        .route("/v1/enrollments/{device}/approve", post(enrollments::approve))
        .route("/v1/enrollments/{device}/deny", post(enrollments::deny))
        .route("/v1/renew", post(enroll::renew))
        .route("/v1/devices", get(devices::devices))
        .route("/v1/devices/{id}", get(devices::device))
        .route("/v1/devices/{id}/record", get(devices::record).post(devices::post_record))
        .route("/v1/devices/{id}/decommission", post(devices::decommission))
        .route("/v1/devices/{id}/revoke", post(devices::revoke))
        .route("/v1/devices/{id}/orders", post(devices::post_order))
        .route("/v1/pods", get(devices::pods))
        .route("/v1/refusals", get(devices::refusals))
        .route("/v1/audit", get(audit::page).post(audit::restore))
        .route("/v1/images", get(images::list))
        .route("/v1/images/manifests/{*reference}", post(images::post_manifest))
        .route("/v1/images/blobs/{digest}", get(images::has_blob))
        .layer(from_fn_with_state(app.clone(), audit::note_refusals))
        .layer(from_fn(in_time));
    // Uploads and streams have limits of their own, per piece.
    let slow = Router::new()
        .route("/v1/images/blobs/{digest}", post(images::post_blob))
        .route("/v1/logs/{device}/{deployment}", get(logs::logs))
        .route("/mqtt", get(mqtt::mqtt))
        .route("/v2/", get(registry::get))
        .route("/v2/{*path}", get(registry::get));
    quick.merge(slow).fallback(nowhere).method_not_allowed_fallback(wrong_method).with_state(app)
}

async fn nowhere(request: Request) -> Problem {
    Problem::not_found(format_args!("path {}", request.uri().path()))
}

async fn wrong_method(request: Request) -> Problem {
    let message = format!("{} is not done on {}", request.method(), request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request", message)
}

/// What was begun runs to its end, whether its caller still waits or is gone: stopped between the store and the memory, the two
/// would differ until the next start.
async fn in_time(request: Request, next: Next) -> Response {
    use axum::response::IntoResponse as _;
    match tokio::time::timeout(PATIENCE, tokio::spawn(next.run(request))).await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => Problem::internal(format!("the request was not done: {e}")).into_response(),
        Err(_) => Problem::timeout(format!("not done within {} s", PATIENCE.as_secs())).into_response(),
    }
}

/// A whole body, up to a cap.
async fn read(body: Body, cap: usize) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, cap).await.map_err(|e| {
        let mut cause: Option<&dyn std::error::Error> = Some(&e);
        while let Some(c) = cause {
            if c.to_string().contains("length limit") {
                return Problem::too_large(cap);
            }
            cause = c.source();
        }
        Problem::invalid(format!("the body ended early: {e}"))
    })
}

/// A JSON body, up to a cap.
async fn read_json<T: DeserializeOwned>(body: Body, cap: usize) -> Result<T, Problem> {
    let bytes = read(body, cap).await?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Problem::invalid(format!("the body is not what is expected here: {e}")))
}

/// A part of a path.
fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e: T::Err| Problem::invalid(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn what_a_caller_began_is_done_although_it_went_away() {
        let [begun, go_on, done] = [(); 3].map(|()| Arc::new(Notify::new()));
        let told = (begun.clone(), go_on.clone(), done.clone());
        let work = move || async move {
            let (begun, go_on, done) = told;
            begun.notify_one();
            go_on.notified().await;
            done.notify_one();
        };
        let router: Router = Router::new().route("/", get(work)).layer(from_fn(in_time));
        let service = TowerToHyperService::new(router);
        tokio::select! {
            _ = service.call(Request::new(Body::empty())) => panic!("it waits to be let on"),
            () = begun.notified() => {}
        }
        go_on.notify_one();
        tokio::time::timeout(PATIENCE, done.notified()).await.expect("it goes on without its caller");
    }
}
