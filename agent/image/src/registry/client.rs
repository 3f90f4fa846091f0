//! One registry: requests with time-outs, redirects and credentials under our own rules.

use super::auth::{self, Challenge};
use super::pace::{Body, chain};
use super::tls::{self, Tls};
use crate::error::{Error, Result};
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::RegistryToken;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Redirects that are followed for one request.
const REDIRECTS: usize = 5;
/// Longest answer of a token service, and longest error text that is read.
const TOKEN_ANSWER: u64 = 64 << 10;
const ERROR_TEXT: u64 = 4 << 10;

/// How long to wait for a registry.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the beginning of an answer.
    pub answer: Duration,
    /// The stretch of time in which a body must make progress …
    pub window: Duration,
    /// … of at least so many bytes, or it is `stalled`.
    pub bytes_per_window: u64,
    /// How often one blob is taken up again where it broke off, as long as each time brings it further.
    pub attempts: u32,
    /// The pause before that.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            window: Duration::from_secs(30),
            bytes_per_window: 4 << 10,
            attempts: 3,
            pause: Duration::from_secs(1),
        }
    }
}

/// How a registry is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// As whom.
    pub auth: RegistryAuth,
    /// Over what.
    pub tls: Tls,
    /// Plain HTTP, because the operator said so of this very host.
    pub insecure: bool,
    /// Other hosts whose token services may see the credentials, because the operator said so.
    pub token_hosts: Vec<String>,
    /// For how long.
    pub patience: Patience,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            auth: RegistryAuth::Anonymous,
            tls: Tls::default(),
            insecure: false,
            token_hosts: Vec::new(),
            patience: Patience::default(),
        }
    }
}

/// A registry to pull from.
#[derive(Debug)]
pub struct Registry {
    base: Url,
    own: Client,
    /// For redirects and token services elsewhere: no client certificate, the machine's authorities.
    other: OnceCell<Client>,
    auth: RegistryAuth,
    token_hosts: Vec<String>,
    pub(super) patience: Patience,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Registry {
    /// The registry at `host` (with its port, as [`crate::Reference::host`] gives it).
    pub fn new(host: &str, access: Access) -> Result<Self> {
        let unusable = |e: &str| Error::Unavailable(format!("{host} is no registry's address: {e}"));
        let mut base = Url::parse(&format!("https://{host}/")).map_err(|e| unusable(&e.to_string()))?;
        if base.path() != "/" || base.query().is_some() || !base.username().is_empty() {
            return Err(unusable("expected host[:port]"));
        }
        if access.insecure || (matches!(access.tls, Tls::System) && auth::is_loopback(&base)) {
            base = Url::parse(&format!("http://{host}/")).map_err(|e| unusable(&e.to_string()))?;
        }
        Ok(Self {
            own: client(access.tls.config()?, &access.patience)?,
            base,
            other: OnceCell::new(),
            auth: access.auth,
            token_hosts: access.token_hosts,
            patience: access.patience,
            authorization: Mutex::new(None),
        })
    }

    /// Host and port, for messages.
    pub(super) fn name(&self) -> &str {
        self.base.as_str().split('/').nth(2).unwrap_or_default()
    }

    /// `GET /v2/{repository}/{rest}`; the answer is a success (from `offset` on, if the registry can).
    pub(super) async fn get(
        &self,
        repository: &str,
        rest: &str,
        accept: &str,
        offset: u64,
    ) -> Result<Response> {
        let what = format!("{}/{repository}/{rest}", self.name());
        let first = self
            .base
            .join(&format!("/v2/{repository}/{rest}"))
            .map_err(|e| Error::Unavailable(format!("{what}: no usable address: {e}")))?;
        let mut url = first.clone();
        let mut asked_for_credentials = false;
        for _ in 0..=REDIRECTS {
            let home = auth::same_origin(&self.base, &url);
            let mut request =
                if home { &self.own } else { self.other().await? }.get(url.clone()).header(ACCEPT, accept);
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            if home && let Some(value) = self.authorization() {
                request = request.header(AUTHORIZATION, value);
            }
            let response = self.send(request, &what).await?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if home && !asked_for_credentials => {
                    asked_for_credentials = true;
                    self.authenticate(response.headers(), repository).await?;
                    url = first.clone();
                }
                status if status.is_redirection() => url = self.redirect(&url, response.headers(), &what)?,
                _ => return Err(self.failure(response, &what).await),
            }
        }
        Err(Error::Unavailable(format!("{what}: more than {REDIRECTS} redirects")))
    }

    fn redirect(&self, from: &Url, headers: &HeaderMap, what: &str) -> Result<Url> {
        let target = headers.get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| from.join(l).ok());
        match target {
            Some(url) if auth::may_ask(&self.base, &url) => Ok(url),
            Some(url) => Err(Error::Unavailable(format!(
                "{what}: redirected to {}://{}, which is not encrypted and not followed",
                url.scheme(),
                url.host_str().unwrap_or_default()
            ))),
            None => Err(Error::Unavailable(format!("{what}: redirected to nowhere"))),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder, what: &str) -> Result<Response> {
        match timeout(self.patience.answer, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(e)) => Err(Error::Unavailable(format!("{what}: {}", chain(&e.without_url())))),
            Err(_) => {
                Err(Error::Unavailable(format!("{what}: no answer in {} s", self.patience.answer.as_secs())))
            }
        }
    }

    async fn failure(&self, response: Response, what: &str) -> Error {
        let status = response.status();
        let text =
            Body::new(response, &self.patience).whole(ERROR_TEXT, "the error").await.unwrap_or_default();
        let text: String =
            String::from_utf8_lossy(&text).chars().filter(|c| !c.is_control()).take(200).collect();
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        match status {
            StatusCode::NOT_FOUND => Error::NotFound(format!("{what} is not there{said}")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Unauthorized(format!("{what} is not allowed for {:?}{said}", self.auth))
            }
            _ => Error::Unavailable(format!("{what}: HTTP {}{said}", status.as_u16())),
        }
    }

    /// Gets what the registry's 401 asks for, for the next requests.
    async fn authenticate(&self, headers: &HeaderMap, repository: &str) -> Result<()> {
        let headers = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|h| h.to_str().ok());
        let value = match (auth::challenge(headers), &self.auth) {
            (_, RegistryAuth::Bearer(token)) => format!("Bearer {token}"),
            (Some(Challenge::Bearer { realm, service }), _) => {
                self.token(realm, service.as_deref(), repository).await?.bearer_token()
            }
            (Some(Challenge::Basic), RegistryAuth::Basic(user, password)) => basic(user, password),
            (_, RegistryAuth::Anonymous) => {
                let detail = format!("{} asks for credentials and none are configured for it", self.name());
                return Err(Error::Unauthorized(detail));
            }
            (None, RegistryAuth::Basic(..)) => {
                let detail = format!("{} refuses and names no way to log in that Shoal knows", self.name());
                return Err(Error::Unauthorized(detail));
            }
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| Error::Unauthorized(format!("{} gave a token that is none", self.name())))?;
        value.set_sensitive(true);
        if let Ok(mut slot) = self.authorization.lock() {
            *slot = Some(value);
        }
        Ok(())
    }

    /// A token to pull from `repository`; the scope is ours, whatever the challenge says.
    async fn token(&self, mut realm: Url, service: Option<&str>, repository: &str) -> Result<RegistryToken> {
        let service_host = realm.host_str().unwrap_or_default().to_owned();
        if !auth::may_ask(&self.base, &realm) {
            let detail =
                format!("{} names a token service that is not encrypted: {service_host}", self.name());
            return Err(Error::Unauthorized(detail));
        }
        {
            let mut query = realm.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &format!("repository:{repository}:pull"));
        }
        let home = auth::same_origin(&self.base, &realm);
        let mut request = if home { &self.own } else { self.other().await? }.get(realm.clone());
        if let RegistryAuth::Basic(user, password) = &self.auth {
            if !auth::may_see_credentials(&self.base, &realm, &self.token_hosts) {
                return Err(Error::Unauthorized(format!(
                    "{} sends the login to another host, {service_host}; it is not sent there unless that host is \
                     named as one that may see it",
                    self.name()
                )));
            }
            request = request.header(AUTHORIZATION, basic(user, password));
        }
        let what = format!("token service {service_host}");
        let response = self.send(request, &what).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response, &what).await);
        }
        let answer = Body::new(response, &self.patience).whole(TOKEN_ANSWER, &what).await?;
        serde_json::from_slice(&answer)
            .map_err(|e| Error::Unauthorized(format!("{what}: the answer has no token: {e}")))
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().ok().and_then(|slot| slot.clone())
    }

    async fn other(&self) -> Result<&Client> {
        self.other.get_or_try_init(|| async { client(tls::system()?, &self.patience) }).await
    }
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn client(tls: rustls::ClientConfig, patience: &Patience) -> Result<Client> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(patience.connect)
        .pool_idle_timeout(Duration::from_secs(20))
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::Unavailable(format!("HTTP cannot be set up: {}", chain(&e))))
}
