//! MQTT over WebSocket, for networks that let through nothing else: shoald ends TLS here and speaks to the broker in the
//! device's name, which its certificate proved.
//!
//! The broker keeps to its one rule, a client certificate whose common name is the client id: shoald, which is the CA, makes
//! one for the time of the connection. Who is revoked is refused before, and put out by name like everybody else.

use super::Shared;
use super::caller::Device;
use crate::app::{App, after, now};
use crate::broker::Place;
use crate::broker::child::MAX_PACKET;
use crate::port::{connect, place};
use crate::problem::Problem;
use crate::tls;
use anyhow::{Context as _, Result};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use rustls::pki_types::ServerName;
use shoal_protocol::ids::DeviceId;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

/// Until the broker has answered.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one message to the device.
const BUFFER: usize = 4 << 10;

/// `GET /mqtt`
pub(super) async fn mqtt(
    Device { id: device, until }: Device,
    State(app): Shared,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    let broker = place(app.broker.clone())
        .await
        .map_err(|e| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "broker_unavailable", e.to_string()))?;
    let upgrade = upgrade.protocols(["mqtt"]).max_message_size(MAX_PACKET as usize);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let mut ending = app.ending.clone();
        let ended = tokio::select! {
            ended = pass_on(&app, socket, &device, broker) => ended,
            // As the broker is told to do with those that came to it by themselves.
            () = after(Some(until)) => Err(anyhow::anyhow!("its certificate ended")),
            _ = ending.changed() => Ok(()),
        };
        if let Err(e) = ended {
            tracing::debug!("a connection of {device} over WebSocket ended: {e:#}");
        }
    }))
}

async fn pass_on(app: &Arc<App>, mut socket: WebSocket, device: &DeviceId, broker: Place) -> Result<()> {
    let leaf = app.authority.client(device.as_str(), now())?;
    let own = (leaf.certificate()?, leaf.key()?);
    let config = tls::client(&app.authority.certificate, Some(own))?;
    let open = async {
        let name = ServerName::try_from(broker.host.clone())?;
        let stream = connect(&broker).await?;
        Ok::<_, anyhow::Error>(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    };
    let mut stream = tokio::time::timeout(PATIENCE, open).await.context("the broker does not answer")??;
    let mut buffer = vec![0; BUFFER];
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                // It may have been revoked before the broker knew its name.
                Some(Ok(Message::Binary(_))) if !app.fleet().is_live(device) => return Ok(()),
                Some(Ok(Message::Binary(bytes))) => stream.write_all(&bytes).await?,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_))) => anyhow::bail!("text where MQTT is binary"),
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Err(e)) => return Err(e.into()),
            },
            // Cancel safe: what was read is sent before anything else is awaited.
            read = stream.read(&mut buffer) => match read? {
                0 => return Ok(socket.send(Message::Close(None)).await?),
                n => socket.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await?,
            },
        }
    }
}
