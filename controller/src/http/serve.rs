//! Connections: TLS with an optional client certificate, HTTP/1.1, limits, and a graceful end.

use super::caller::PeerCertificate;
use crate::pki::peer;
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 8192;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(20);
/// How long requests may go on once shoald ends.
const GRACE: Duration = Duration::from_secs(3);

/// A bound port with what it serves.
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) router: Router,
}

/// Serves until `ending`.
pub(crate) async fn serve(listening: Listening, mut ending: watch::Receiver<bool>) {
    let acceptor = TlsAcceptor::from(listening.tls);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = Arc::new(GracefulShutdown::new());
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listening.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of descriptors, mostly: wait for some to be given back.
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
            _ = ending.changed() => break,
        };
        let (acceptor, router, watcher) = (acceptor.clone(), listening.router.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(e) = connection(stream, acceptor, router, watcher).await {
                tracing::debug!("a connection ended: {e}");
            }
            drop(permit);
        });
    }
    drop(listening.listener);
    if let Some(graceful) = Arc::into_inner(graceful)
        && tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err()
    {
        tracing::info!("requests were still open at the end");
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
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
        .serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await?;
    Ok(())
}
