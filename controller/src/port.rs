//! The one port. Of each connection the TLS ClientHello is read and nothing more: whoever offers `mqtt` (ALPN) goes on to the
//! broker as it came, which ends TLS itself; everybody else is served HTTP.
//!
//! So a firewall needs one rule, and what a device says to the broker stays between the two.

use crate::broker::Place;
use crate::http;
use axum::Router;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::server::Acceptor;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_buf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Connections at a time of which nothing is known yet, and of HTTP.
const MAX_CONNECTIONS: u32 = 8192;
/// Until a connection has said who it is.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most bytes of a ClientHello.
const HELLO: usize = 32 << 10;
/// The protocol of MQTT in ALPN's registry.
const MQTT: &[u8] = b"mqtt";
/// Bytes on their way to and from the broker: many devices, small messages.
const BUFFER: usize = 2 << 10;
/// How long the broker has to answer a device that hung up.
const LINGER: Duration = Duration::from_secs(5);
/// Milliseconds that a peer may leave unacknowledged, or unread, what it is sent.
const UNREAD: u32 = 90_000;
/// How long requests may go on once shoald ends.
const GRACE: Duration = Duration::from_secs(3);

/// A bound port with what it leads to.
pub(crate) struct Port {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) router: Router,
    /// Where the broker is, while there is one that shoald itself is connected to.
    pub(crate) broker: watch::Receiver<Option<Place>>,
    /// How many connections may be with the broker at a time.
    pub(crate) devices: usize,
}

/// Serves until `ending`.
pub(crate) async fn serve(port: Port, mut ending: watch::Receiver<bool>) {
    let acceptor = TlsAcceptor::from(port.tls);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let seats = Arc::new(Semaphore::new(port.devices));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (mut stream, from) = tokio::select! {
            accepted = port.listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Out of descriptors, mostly: wait for some to be given back.
                    tracing::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
            _ = ending.changed() => break,
        };
        let (acceptor, router) = (acceptor.clone(), port.router.clone());
        let (broker, mut ending, seats) = (port.broker.clone(), ending.clone(), seats.clone());
        tokio::spawn(async move {
            let ended = match hello(&mut stream).await {
                Ok(Hello { mqtt: true, taken }) => {
                    drop(permit);
                    // A device that finds no seat comes back later; an operator always finds a descriptor.
                    match seats.try_acquire() {
                        Ok(_seat) => tokio::select! {
                            ended = pass_on(stream, &taken, broker) => ended.map_err(Into::into),
                            _ = ending.changed() => Ok(()),
                        },
                        Err(_) => Err("the limit of descriptors leaves no room for more devices".into()),
                    }
                }
                Ok(Hello { mqtt: false, taken }) => {
                    let (read, write) = stream.into_split();
                    let whole = tokio::io::join(io::Cursor::new(taken).chain(read), write);
                    let ended = http::connection(whole, acceptor, router, ending).await;
                    drop(permit);
                    ended
                }
                Err(e) => Err(e.into()),
            };
            if let Err(e) = ended {
                tracing::debug!("a connection from {from} ended: {e}");
            }
        });
    }
    drop(port.listener);
    if tokio::time::timeout(GRACE, room.acquire_many(MAX_CONNECTIONS)).await.is_err() {
        tracing::info!("requests were still open at the end");
    }
}

/// What a connection began with.
struct Hello {
    /// It offers MQTT.
    mqtt: bool,
    /// The bytes that were read of it.
    taken: Vec<u8>,
}

async fn hello(stream: &mut TcpStream) -> io::Result<Hello> {
    stream.set_nodelay(true)?;
    // Whoever is gone, or leaves unread what it is sent, does not hold two descriptors for ever.
    set_tcp_user_timeout(&*stream, UNREAD)?;
    let whole = async {
        let (mut acceptor, mut taken) = (Acceptor::default(), Vec::new());
        loop {
            let before = taken.len();
            if stream.read_buf(&mut taken).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut new = &taken[before..];
            while !new.is_empty() {
                acceptor.read_tls(&mut new)?;
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let mut offered = accepted.client_hello().alpn().into_iter().flatten();
                    return Ok(Hello { mqtt: offered.any(|p| p == MQTT), taken });
                }
                Ok(None) if taken.len() < HELLO => {}
                Ok(None) => return Err(io::Error::other("a ClientHello without end")),
                Err((e, _)) => return Err(io::Error::other(e)),
            }
        }
    };
    tokio::time::timeout(HANDSHAKE, whole).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Both ways until either side is through.
async fn pass_on(device: TcpStream, taken: &[u8], broker: watch::Receiver<Option<Place>>) -> io::Result<()> {
    let mut broker = connect(&place(broker).await?).await?;
    broker.write_all(taken).await?;
    let (from_device, mut to_device) = device.into_split();
    let (from_broker, mut to_broker) = broker.into_split();
    let up = async {
        let said = copy_buf(&mut BufReader::with_capacity(BUFFER, from_device), &mut to_broker).await;
        to_broker.shutdown().await?;
        tokio::time::sleep(LINGER).await;
        said
    };
    let down = async {
        let said = copy_buf(&mut BufReader::with_capacity(BUFFER, from_broker), &mut to_device).await;
        to_device.shutdown().await?;
        said
    };
    // What the broker has said last reaches the device before its connection ends.
    tokio::select! {
        ended = up => ended?,
        ended = down => ended?,
    };
    Ok(())
}

/// Where the broker is; it is waited for, for a while, since a device that is sent away comes back much later.
pub(crate) async fn place(mut broker: watch::Receiver<Option<Place>>) -> io::Result<Place> {
    let some = tokio::time::timeout(HANDSHAKE, broker.wait_for(Option::is_some)).await;
    let none = || io::Error::other("there is no broker at the moment");
    some.ok().and_then(Result::ok).and_then(|at| at.clone()).ok_or_else(none)
}

/// A connection to the broker, on which nothing was said yet.
pub(crate) async fn connect(place: &Place) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((place.host.as_str(), place.port));
    let stream = tokio::time::timeout(HANDSHAKE, stream)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::tcp_user_timeout;

    #[tokio::test]
    async fn a_peer_that_reads_nothing_does_not_hold_its_connection_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        drop(client);
        // It says nothing; its socket was set up before it was listened to.
        assert!(hello(&mut accepted).await.is_err());
        assert_eq!(tcp_user_timeout(&accepted).unwrap(), UNREAD);
    }
}
