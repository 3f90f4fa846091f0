//! A device's log lines, asked for by an order and passed on as JSON lines while they come.

use super::caller::Operator;
use super::{Shared, parse};
use crate::logs::LogStream;
use crate::problem::Problem;
use crate::receipts;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use shoal_controller_core::api::LogEvent;
use shoal_controller_core::cri;
use shoal_protocol::ids::{DeviceId, Name};
use shoal_protocol::latest::{LogChunk, ReceiptLog, Verb};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::Instant;

/// Lines when none were asked for; what `tail` consent gives out.
const TAIL: u64 = 200;
const MAX_FOLLOW: u64 = 3600;
/// How long a device may be silent before its first chunk, and after the time that was asked for.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    container: Option<Name>,
    tail: Option<u64>,
    #[serde(default)]
    follow: u64,
}

pub(super) async fn logs(
    _: Operator,
    State(app): Shared,
    Path((device, name)): Path<(String, String)>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|e| Problem::invalid(e.body_text()))?;
    let (device, name): (DeviceId, Name) = (parse(&device)?, parse(&name)?);
    let connected = app.fleet().devices.get(&device).map(crate::fleet::Device::is_connected);
    match connected {
        None => return Err(Problem::not_found(format_args!("device {device}"))),
        Some(false) => {
            let kept = receipts::logs(&app, &device, &name).await?;
            if !kept.is_empty() {
                return Ok(by_hand(&kept, query.container.as_ref(), query.tail.unwrap_or(TAIL)));
            }
            let message = format!("device {device} is not connected; its log stays on it until it is");
            return Err(Problem::new(StatusCode::CONFLICT, "device_offline", message)
                .hint("`shoal get devices` shows when it was last heard"));
        }
        Some(true) => {}
    }
    let follow = query.follow.min(MAX_FOLLOW);
    let id = stream_id()?;
    let stream = app.logs.open(id, device.clone()).ok_or_else(|| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "too many logs are being read at the moment",
        )
    })?;
    let tail = query.tail.unwrap_or(TAIL);
    let verb = Verb::Logs { name, container: query.container, tail, follow, stream: id };
    app.order(&device, verb, 60).await?;
    let until = crate::app::now().plus(follow);
    let state = Relay {
        stream,
        waiting: VecDeque::from([LogEvent::Opened { until }]),
        give_up: Instant::now() + PATIENCE,
        end: Instant::now() + Duration::from_secs(follow) + PATIENCE,
        ending: app.ending.clone(),
        over: false,
    };
    let body = Body::from_stream(futures_util::stream::unfold(state, Relay::next));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The logs that came by hand, of a device that is not there to be asked.
fn by_hand(kept: &[ReceiptLog], container: Option<&Name>, tail: u64) -> Response {
    let mut events = vec![LogEvent::Opened { until: crate::app::now() }];
    for log in kept.iter().filter(|l| container.is_none_or(|c| l.container == *c)) {
        let lines = cri::lines(&log.container, &log.lines.0);
        let skip = lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
        events.extend(lines.into_iter().skip(skip));
    }
    events.push(LogEvent::End { reason: None });
    let mut body = Vec::new();
    for event in events {
        body.extend(serde_json::to_vec(&event).unwrap_or_default());
        body.push(b'\n');
    }
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn stream_id() -> Result<u64, Problem> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| Problem::internal(format!("no randomness: {e}")))?;
    // Positive where others keep it signed.
    Ok(u64::from_be_bytes(bytes) >> 1)
}

/// One answer on its way. Dropped with the connection, it closes its stream.
struct Relay {
    stream: LogStream,
    waiting: VecDeque<LogEvent>,
    /// When silence is an answer: moved once the device has spoken.
    give_up: Instant,
    end: Instant,
    ending: tokio::sync::watch::Receiver<bool>,
    over: bool,
}

impl Relay {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                let mut line = serde_json::to_vec(&event).ok()?;
                line.push(b'\n');
                return Some((Ok(line.into()), self));
            }
            if self.over {
                return None;
            }
            let chunk = tokio::select! {
                chunk = self.stream.chunks.recv() => chunk.ok_or("lagged"),
                () = tokio::time::sleep_until(self.give_up) => Err("timeout"),
                _ = self.ending.changed() => Err("controller_stopping"),
            };
            match chunk {
                Ok(chunk) => self.take(chunk),
                Err(reason) => self.finish(Some(reason.to_owned())),
            }
        }
    }

    fn take(&mut self, chunk: LogChunk) {
        self.give_up = self.end;
        self.waiting.extend(cri::lines(&chunk.container, &chunk.lines.0));
        if chunk.end {
            self.finish(chunk.reason);
        }
    }

    fn finish(&mut self, reason: Option<String>) {
        self.over = true;
        self.waiting.push_back(LogEvent::End { reason });
    }
}
