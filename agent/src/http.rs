//! Requests to the controller's API, and which of DNS, TCP, proxy, TLS, clock or credential it was when one fails (B7).

use crate::failure::{Explained, Kind};
use crate::{proxy, tls};
use anyhow::{Context, Result};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use serde::Deserialize;
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_mins(1);
const ANSWER_MAX: usize = 1 << 20;

#[derive(Deserialize)]
struct ApiError {
    code: String,
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

/// Why one address gave no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The next address may do better.
    Unreachable(anyhow::Error),
    /// The controller answered, and said no.
    Refused(anyhow::Error),
}

/// A client with the fleet's CA and nothing else.
pub(crate) fn client(tls: ClientConfig) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .timeout(REQUEST)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("shoal-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("cannot set up HTTPS")
}

/// Posts `body` to `path` at `base`.
pub(crate) async fn post(
    client: &reqwest::Client,
    base: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<Vec<u8>, NoAnswer> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    answer(base, &url, client.post(&url).header("content-type", "application/cbor").body(body)).await
}

/// Gets what is at `path` of `base`.
pub(crate) async fn get(client: &reqwest::Client, base: &str, path: &str) -> Result<Vec<u8>, NoAnswer> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    answer(base, &url, client.get(&url)).await
}

async fn answer(base: &str, url: &str, request: reqwest::RequestBuilder) -> Result<Vec<u8>, NoAnswer> {
    let mut response = match request.send().await {
        Ok(r) => r,
        Err(e) => return Err(NoAnswer::Unreachable(diagnose(base, e).await)),
    };
    let status = response.status();
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= ANSWER_MAX => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Ok(Some(_)) => {
                return Err(NoAnswer::Refused(anyhow::anyhow!(
                    "{base} answered more than {ANSWER_MAX} bytes"
                )));
            }
            Err(e) => {
                let error =
                    Explained::new(Kind::Unavailable, format!("the answer of {base} broke off")).because(e);
                return Err(NoAnswer::Unreachable(error.into()));
            }
        }
    }
    if status.is_success() {
        return Ok(bytes);
    }
    let error = match serde_json::from_slice::<ApiError>(&bytes) {
        Ok(e) => {
            let failure =
                Explained::new(Kind::Refused, format!("the controller refused: {}: {}", e.code, e.message));
            match e.hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        }
        Err(_) => {
            Explained::new(Kind::Failure, format!("{url} answered {status}, and not as a controller does"))
                .hint("is this the controller's API, or a proxy in between?")
        }
    };
    // What may be different in a moment is no refusal.
    Err(if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
        NoAnswer::Unreachable(error.into())
    } else {
        NoAnswer::Refused(error.into())
    })
}

/// Names the layer at which a request failed.
async fn diagnose(base: &str, error: reqwest::Error) -> anyhow::Error {
    if let Some(e) = tls::failure(&error) {
        return tls_failure(base, e).into();
    }
    let (text, hint) = if let Some((host, port)) = host_port(base) {
        if let Some(proxy) = proxy::place(&host, port) {
            return proxy_failure(base, &proxy, error).await.into();
        }
        match tokio::time::timeout(CONNECT, tokio::net::lookup_host((host.as_str(), port))).await {
            Ok(Ok(_)) if error.is_timeout() => (
                format!("TCP: no answer from {host}:{port} in time"),
                "is the network up, and the port open in the firewall?",
            ),
            Ok(Ok(_)) if error.is_connect() => (
                format!("TCP: cannot connect to {host}:{port}"),
                "is the controller running, and the port open in the firewall?",
            ),
            Ok(Ok(_)) => (format!("HTTP: the request to {host}:{port} failed"), "see the controller's log"),
            _ => (
                format!("DNS: the name {host:?} cannot be resolved"),
                "check the device's resolver, or give the controller's address in another form",
            ),
        }
    } else {
        (format!("{base:?} is no address of a controller"), "the root must name https://host:port")
    };
    Explained::new(Kind::Unavailable, text).hint(hint).because(error).into()
}

/// What failed where everything goes through a proxy; the controller's name is the proxy's to resolve.
async fn proxy_failure(base: &str, (host, port): &(String, u16), error: reqwest::Error) -> Explained {
    let reached = tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect((host.as_str(), *port))).await;
    let (text, hint) = match reached {
        Ok(Ok(_)) => (
            format!("proxy: {host}:{port} does not lead to {base}"),
            "does the proxy allow CONNECT to this host and port, and does it want a name and password?",
        ),
        _ => (
            format!("proxy: cannot connect to the proxy {host}:{port} on the way to {base}"),
            "check HTTPS_PROXY; NO_PROXY names what is reached without it",
        ),
    };
    Explained::new(Kind::Unavailable, text).hint(hint).because(error)
}

fn tls_failure(base: &str, error: &rustls::Error) -> Explained {
    let (what, hint) = match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::NotValidYet
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYetContext { .. },
        ) => ("clock: its certificate is not valid at this time", "check this device's clock: `date -u`"),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            "TLS name: its certificate is for another name",
            "start the controller with this name among its own, and sign a root that says so",
        ),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "TLS: its certificate is not from the fleet's CA",
            "is this the right controller, or a proxy that opens TLS?",
        ),
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => (
            "TLS: it calls this device's certificate expired",
            "a running agent renews it by itself: shoal-agent status",
        ),
        _ => ("TLS: the handshake failed", "is this the controller's port?"),
    };
    Explained::new(Kind::Unavailable, format!("{what} ({base})")).hint(hint).because(error.clone())
}

/// Host and port of a URL; 443 if it names none.
pub(crate) fn host_port(base: &str) -> Option<(String, u16)> {
    let url: reqwest::Url = base.parse().ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}
