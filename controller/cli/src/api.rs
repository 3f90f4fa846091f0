//! The controller's API over TLS, with the CA that was pinned at login.
//!
//! Never here: trust in what comes back (`trust` verifies documents; the rest is shown, not signed).

use crate::error::{CliError, Kind, Result};
use crate::home::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_controller_core::api::{ApiError, Ca};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;
const CONNECT: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_mins(1);
/// A stream of log lines may be silent for long.
const STREAM: Duration = Duration::from_secs(3_700);
const LOGIN_AGAIN: &str =
    "log in again with a current token: `shoal login URL --token TOKEN --ca-fingerprint …`";
/// An image may be large and the line slow.
const UPLOAD: Duration = Duration::from_mins(30);

/// A controller, reached with the operator's credential.
#[derive(Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    server: String,
    token: String,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn agent(tls: ureq::tls::TlsConfig) -> ureq::Agent {
    ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT))
        .timeout_resolve(Some(CONNECT))
        .timeout_global(Some(WHOLE))
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// `https://host[:port]`, without a path.
pub(crate) fn server_url(text: &str) -> Result<String> {
    let url = text.trim_end_matches('/');
    let host = url.strip_prefix("https://").filter(|h| !h.is_empty() && !h.contains(['/', '?', '#', '@']));
    if host.is_none() {
        return Err(CliError::usage(format!("{text:?} is no address of a controller"))
            .hint("write https://HOST:PORT"));
    }
    Ok(url.to_owned())
}

/// Fetches the controller's CA over a connection that proves nothing yet, and keeps it only if it has the fingerprint that
/// the operator brought from the controller's own console.
pub(crate) fn fetch_ca(server: &str, fingerprint: &Digest) -> Result<String> {
    let tls = ureq::tls::TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider())
        .disable_verification(true)
        .build();
    let url = format!("{server}/v1/ca");
    let response = agent(tls).get(&url).call().map_err(|e| transport(server, e))?;
    let ca: Ca = answer(server, "the controller's CA", response)?;
    let der = pem_certificate(&ca.pem)
        .ok_or_else(|| CliError::failure(format!("{server} sent no certificate as its CA")))?;
    let found = Digest::of(&der);
    if found != *fingerprint {
        return Err(CliError::refused("base_untrusted", format!("the CA of {server} has the fingerprint {found}, expected {fingerprint}"))
            .hint("compare with the line that shoald printed at its first start; somebody may be between you and it"));
    }
    Ok(ca.pem)
}

fn pem_certificate(pem: &str) -> Option<Vec<u8>> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|c| c.to_vec())
}

impl Client {
    /// A client for a context; connects on the first call.
    pub(crate) fn new(context: &Context) -> Result<Self> {
        let ca = ureq::tls::Certificate::from_pem(context.ca.as_bytes()).map_err(|e| {
            CliError::usage(format!("the CA of context {} is damaged", context.name))
                .because(e)
                .hint("log in again with `shoal login`")
        })?;
        let tls = ureq::tls::TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider())
            .root_certs(ureq::tls::RootCerts::new_with_certs(&[ca]))
            .build();
        Ok(Self { agent: agent(tls), server: context.server.clone(), token: context.token.clone() })
    }

    /// Where it is.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }
    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// `GET path`, JSON. `what` names the thing in errors.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str, what: &str) -> Result<T> {
        let response = self.agent.get(self.url(path)).header("authorization", self.bearer()).call();
        answer(&self.server, what, response.map_err(|e| transport(&self.server, e))?)
    }

    /// `GET path`; nothing when it is not there.
    pub(crate) fn find<T: DeserializeOwned>(&self, path: &str, what: &str) -> Result<Option<T>> {
        let response = self.agent.get(self.url(path)).header("authorization", self.bearer()).call();
        let response = response.map_err(|e| transport(&self.server, e))?;
        if response.status().as_u16() == 404 {
            Ok(None)
        } else {
            answer(&self.server, what, response).map(Some)
        }
    }

    /// `GET path`, bytes up to `cap`.
    pub(crate) fn get_bytes(&self, path: &str, what: &str, cap: u64) -> Result<Vec<u8>> {
        let response = self.agent.get(self.url(path)).header("authorization", self.bearer()).call();
        let mut response = check(&self.server, what, response.map_err(|e| transport(&self.server, e))?)?;
        response.body_mut().with_config().limit(cap).read_to_vec().map_err(|e| transport(&self.server, e))
    }

    /// `POST path`, JSON both ways.
    pub(crate) fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        what: &str,
    ) -> Result<T> {
        let request = self.agent.post(self.url(path)).header("authorization", self.bearer());
        let response = request.send_json(body).map_err(|e| transport(&self.server, e))?;
        answer(&self.server, what, response)
    }

    /// Whether `HEAD path` answers 200.
    pub(crate) fn has(&self, path: &str, what: &str) -> Result<bool> {
        let response = self.agent.head(self.url(path)).header("authorization", self.bearer()).call();
        let response = response.map_err(|e| transport(&self.server, e))?;
        match response.status().as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => check(&self.server, what, response).map(|_| false),
        }
    }

    /// `POST path` with `size` bytes of a reader.
    pub(crate) fn upload(
        &self,
        path: &str,
        media_type: &str,
        body: impl Read,
        size: u64,
        what: &str,
    ) -> Result<Vec<u8>> {
        let mut body = body;
        let request = self
            .agent
            .post(self.url(path))
            .header("authorization", self.bearer())
            .header("content-type", media_type)
            .header("content-length", size.to_string())
            .config()
            .timeout_global(Some(UPLOAD))
            .build();
        let response =
            request.send(ureq::SendBody::from_reader(&mut body)).map_err(|e| transport(&self.server, e))?;
        let mut response = check(&self.server, what, response)?;
        response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_vec()
            .map_err(|e| transport(&self.server, e))
    }

    /// `GET path` as a stream.
    pub(crate) fn stream(&self, path: &str, what: &str) -> Result<Box<dyn Read>> {
        let request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        let response = request.config().timeout_global(Some(STREAM)).build().call();
        let response = check(&self.server, what, response.map_err(|e| transport(&self.server, e))?)?;
        Ok(Box::new(response.into_body().into_with_config().limit(u64::MAX).reader()))
    }
}

type Response = ureq::http::Response<ureq::Body>;

/// Reads a JSON answer, or the error in its place.
fn answer<T: DeserializeOwned>(server: &str, what: &str, response: Response) -> Result<T> {
    let mut response = check(server, what, response)?;
    let bytes = response
        .body_mut()
        .with_config()
        .limit(MAX_ANSWER)
        .read_to_vec()
        .map_err(|e| transport(server, e))?;
    decode(server, what, &bytes)
}

/// Decodes an answer that was read already.
pub(crate) fn decode<T: DeserializeOwned>(server: &str, what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        CliError::failure(format!("cannot understand what {server} says about {what}"))
            .because(e)
            .hint("is it a shoald of another version? compare `shoal version` with the controller's")
    })
}

fn check(server: &str, what: &str, mut response: Response) -> Result<Response> {
    let status = response.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(response);
    }
    let body = response.body_mut().with_config().limit(64 << 10).read_to_vec().unwrap_or_default();
    let Ok(e) = serde_json::from_slice::<ApiError>(&body) else {
        if matches!(status, 401 | 403) {
            return Err(
                CliError::credential(format!("{server} does not take this credential")).hint(LOGIN_AGAIN)
            );
        }
        let e = CliError::failure(format!("{server} answered {status} about {what}"));
        return Err(e.hint("is this the address of a shoald?"));
    };
    Err(from_api(server, what, &e))
}

/// The controller's error in the CLI's kinds.
fn from_api(server: &str, what: &str, e: &ApiError) -> CliError {
    let text = format!("{what}: {}", e.message);
    let mut error = match e.code.as_str() {
        "unauthorized" | "forbidden" => {
            CliError::credential(format!("{server} does not take this credential: {}", e.message))
                .hint(LOGIN_AGAIN)
        }
        "conflict" => CliError::conflict(text),
        "unavailable" | "timeout" | "device_offline" => CliError::unreachable(text).code(&e.code),
        "not_initialized" => {
            CliError::failure(text).code(&e.code).hint("found the fleet first: `shoal trust init`")
        }
        code => match code.parse::<Code>() {
            Ok(known) => CliError::refused(code, text).hint(known.hint()),
            Err(_) => CliError::failure(text).code(code),
        },
    };
    // The controller's advice about a credential is for programmers of clients.
    if let Some(hint) = e.hint.as_ref().filter(|_| error.kind != Kind::Credential) {
        error = error.hint(hint);
    }
    error
}

/// A connection that failed before there was an answer.
fn transport(server: &str, e: ureq::Error) -> CliError {
    let (what, hint) = match &e {
        ureq::Error::HostNotFound => {
            (format!("the name in {server} is not known"), "check the spelling and the network's DNS")
        }
        ureq::Error::Timeout(_) => {
            (format!("{server} did not answer in time"), "is shoald overloaded, or a firewall silent?")
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => (
            format!("{server} does not prove that it is the controller that you logged in to"),
            "if it was set up anew, log in again with its new fingerprint; else somebody is between you and it",
        ),
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused => (
            format!("nothing listens at {server}"),
            "is shoald running, and is this its address? start it, then try again",
        ),
        ureq::Error::Io(io) if io.to_string().contains("certificate") => (
            format!("{server} does not prove that it is the controller that you logged in to"),
            "if it was set up anew, log in again with its new fingerprint; else somebody is between you and it",
        ),
        _ => (format!("cannot talk to {server}"), "is shoald running, and is this its address?"),
    };
    CliError::unreachable(what).because(e).hint(hint)
}

/// Percent-encodes a query value.
pub(crate) fn query(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_without_a_path() {
        assert_eq!(server_url("https://h:1/").unwrap(), "https://h:1");
        for bad in ["http://h", "h:1", "https://", "https://h/x", "https://u@h"] {
            assert!(server_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_controllers_codes_fix_the_kind() {
        let api = |code: &str| ApiError { code: code.into(), message: "m".into(), hint: None, current: None };
        for (code, kind) in [
            ("unauthorized", Kind::Credential),
            ("conflict", Kind::Conflict),
            ("role_scope", Kind::Refused),
            ("device_offline", Kind::Unreachable),
            ("internal", Kind::Failure),
        ] {
            assert_eq!(from_api("s", "w", &api(code)).kind, kind, "{code}");
        }
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(query("a=b,c!=d é"), "a%3Db%2Cc%21%3Dd%20%C3%A9");
    }
}
