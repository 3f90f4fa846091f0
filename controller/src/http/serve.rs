//! One connection: TLS with an optional client certificate, HTTP/1.1, limits, and a graceful end.

use super::caller::PeerCertificate;
use crate::pki::peer;
use crate::port::HANDSHAKE;
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const HEADERS: Duration = Duration::from_secs(20);

/// Serves it to its end; from `ending` on only what was asked for already.
pub(crate) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    acceptor: TlsAcceptor,
    router: Router,
    mut ending: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
    let caller = PeerCertificate(certificate.map(|c| peer(c)).transpose()?);
    let inner = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        hyper::service::Service::call(&inner, request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service)
        // MQTT over WebSocket.
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = ending.changed() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
