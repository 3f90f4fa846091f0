//! Whether the fleet's controller answers, by the way that the agent takes itself.

use super::{Check, State, bad, ok};
use crate::{http, proxy};
use anyhow::{Context as _, Result, bail};
use rustls::pki_types::ServerName;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// For each step.
const NET: Duration = Duration::from_secs(5);
/// A proxy's answer to CONNECT, bytes.
const ANSWER_MAX: usize = 8192;

/// A check for each address, as the root has it and to connect to. The agent needs one of them: beside one that answers, the
/// others are only to be looked at.
pub(super) fn any<'a>(
    what: &'static str,
    addresses: impl Iterator<Item = (&'a String, String)>,
    config: &Arc<rustls::ClientConfig>,
) -> Vec<Check> {
    let tried: Vec<_> = addresses.map(|(shown, url)| (shown, reach(&url, config.clone()))).collect();
    let state = if tried.iter().any(|(_, r)| r.is_ok()) { State::Warn } else { State::Failed };
    let check = |(shown, reached): (&String, Result<()>)| match reached {
        Ok(()) => ok(what, format!("{shown} answers and is the fleet's")),
        Err(e) => {
            let hint = if state == State::Warn {
                "another address of the fleet's answers; the agent takes that"
            } else {
                "everything that was accepted goes on running without it"
            };
            bad(what, state, format!("{shown}: {e:#}"), hint)
        }
    };
    tried.into_iter().map(check).collect()
}

/// A whole TLS handshake, naming the layer that failed.
fn reach(url: &str, config: Arc<rustls::ClientConfig>) -> Result<()> {
    let (host, port) = http::host_port(url).context("no usable address")?;
    let mut stream = match proxy::way(&host, port) {
        Some(way) => through(&way)?,
        None => dial(&host, port)?,
    };
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).context("TLS: no usable name")?;
    let mut connection = rustls::ClientConnection::new(config, name).context("TLS: cannot begin")?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).context("TLS: the handshake failed")?;
    }
    Ok(())
}

fn dial(host: &str, port: u16) -> Result<TcpStream> {
    let addresses = format!("{host}:{port}").to_socket_addrs();
    let addresses = addresses.with_context(|| format!("DNS: cannot resolve {host}"))?;
    let mut stream = Err(std::io::Error::other("no address"));
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, NET);
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream.context("TCP: cannot connect")?;
    stream.set_read_timeout(Some(NET))?;
    stream.set_write_timeout(Some(NET))?;
    Ok(stream)
}

/// The connection that a proxy makes.
fn through(way: &proxy::Way) -> Result<TcpStream> {
    let (host, port) = &way.proxy;
    let mut stream =
        dial(host, *port).with_context(|| format!("proxy: cannot connect to the proxy {host}:{port}"))?;
    stream.write_all(way.request.as_bytes()).context("proxy: it does not listen")?;
    // A byte at a time: what follows the answer belongs to TLS.
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < ANSWER_MAX && !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).context("proxy: no whole answer")?;
        answer.extend(byte);
    }
    let answer = String::from_utf8_lossy(&answer);
    let first = answer.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) != Some("200") {
        bail!("proxy: {host}:{port} does not lead there: {first}");
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// What a proxy that answers with these words is asked, and what comes of it.
    fn asked(answer: &'static str) -> (String, Result<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut said = vec![0; 1024];
            let n = client.read(&mut said).unwrap();
            client.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(said[..n].to_vec()).unwrap()
        });
        let way = proxy::Way {
            proxy: ("127.0.0.1".to_owned(), port),
            request: "CONNECT hub:1 HTTP/1.1\r\n\r\n".to_owned(),
        };
        let rest = through(&way).map(|mut stream| {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            rest
        });
        (proxy.join().unwrap(), rest)
    }

    #[test]
    fn b7_the_way_through_a_proxy_is_looked_at_as_the_agent_goes_it() {
        let (said, rest) = asked("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst of TLS");
        assert_eq!(
            (said.as_str(), rest.unwrap().as_str()),
            ("CONNECT hub:1 HTTP/1.1\r\n\r\n", "first of TLS")
        );
        let (_, rest) = asked("HTTP/1.1 403 Filtered\r\n\r\n");
        assert!(format!("{:#}", rest.unwrap_err()).contains("403 Filtered"));
        let (_, rest) = asked("HTTP/1.1 200");
        assert!(format!("{:#}", rest.unwrap_err()).contains("no whole answer"));
    }
}
