//! The broker as shoald's child: starts it, tells it what it needs, hears who is connected, starts it again when it dies. Or one
//! that somebody else runs (`foreign`).
//!
//! The only interface to the broker's library; replacing rmqtt touches this folder alone.

mod acl;
pub(crate) mod child;
pub(crate) mod foreign;
mod proof;
mod wire;

pub(crate) use acl::FOLDER;
pub(crate) use wire::{Event, Probe, Start};

use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

/// The hidden subcommand that makes a process the broker.
pub(crate) const SUBCOMMAND: &str = "broker";
const START_PATIENCE: Duration = Duration::from_mins(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(30);

/// Why the broker did not come up, for the exit code.
#[derive(Debug, thiserror::Error)]
#[error("the broker could not start ({code}): {message}")]
pub(crate) struct BrokerError {
    /// `proof_failed`, `setup` or `ended`.
    code: String,
    /// In words.
    message: String,
}

/// Where the broker is, and the name that its certificate is checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl From<SocketAddr> for Place {
    fn from(at: SocketAddr) -> Self {
        Self { host: at.ip().to_string(), port: at.port() }
    }
}

impl std::str::FromStr for Place {
    type Err = String;
    fn from_str(url: &str) -> Result<Self, String> {
        let place = url.strip_prefix("mqtts://").map(|rest| rest.trim_end_matches('/'));
        let (host, port) =
            place.and_then(|p| p.rsplit_once(':')).ok_or("a broker's address is mqtts://HOST:PORT")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse::<u16>().map_err(|e| format!("its port: {e}"))?;
        if host.is_empty() {
            return Err("its host is missing".to_owned());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Whose connection to end.
#[derive(Debug, Clone)]
pub(crate) enum Kick {
    /// Of one that may come back: it was silent, or the certificate that opened it ended.
    Connection {
        /// Common name.
        client: String,
    },
    /// Of one that counts no longer, whatever certificate it shows.
    Revoked {
        /// Common name.
        client: String,
        /// Serials of its certificates, in lower-case hexadecimal.
        serials: Vec<String>,
    },
}

/// How the supervisor is told what a fresh broker needs: certificates and revocations may have changed since.
pub(crate) type MakeStart = Box<dyn Fn() -> Result<Start> + Send + Sync>;

/// A running broker process.
struct Running {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    at: SocketAddr,
}

/// What the supervising task needs.
pub(crate) struct Supervisor {
    uid: Option<u32>,
    make_start: MakeStart,
    private: watch::Sender<Option<Place>>,
    events: mpsc::Sender<Event>,
    running: Running,
}

impl Supervisor {
    /// Starts the broker and waits until it has proven that it denies.
    ///
    /// `private` says where it is, or that there is no broker at the moment.
    pub(crate) async fn start(
        uid: Option<u32>,
        mut make_start: MakeStart,
        private: watch::Sender<Option<Place>>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let running = spawn(uid, &mut make_start).await?;
        private.send_replace(Some(running.at.into()));
        Ok(Self { uid, make_start, private, events, running })
    }

    /// Watches the broker until `kicks` is closed, which ends it.
    pub(crate) async fn watch(mut self, mut kicks: mpsc::Receiver<Kick>) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            tokio::select! {
                // Both are cancel safe: a line that is half read stays in the reader.
                line = self.running.output.next_line() => {
                    if let Ok(Some(line)) = line {
                        backoff = FIRST_BACKOFF;
                        match serde_json::from_str(&line) {
                            Ok(event) => drop(self.events.send(event).await),
                            Err(e) => tracing::warn!("the broker said something unknown: {e}"),
                        }
                        continue;
                    }
                    self.private.send_replace(None);
                    let _ = self.running.child.start_kill();
                    let status = self.running.child.wait().await;
                    tracing::error!("the broker ended ({status:?}); starting it again in {backoff:?}");
                    if !self.again(&mut backoff, &kicks).await {
                        return;
                    }
                }
                kick = kicks.recv() => {
                    let command = match kick {
                        Some(Kick::Connection { client }) => wire::Command::Kick { client },
                        Some(Kick::Revoked { client, serials }) => wire::Command::Revoke { serials, client },
                        None => break,
                    };
                    if let Err(e) = say(&mut self.running.input, &command).await {
                        tracing::warn!("{e:#}");
                    }
                }
            }
        }
        drop(self.running.input);
        if tokio::time::timeout(Duration::from_secs(5), self.running.child.wait()).await.is_err() {
            let _ = self.running.child.start_kill();
        }
    }

    /// Starts a new broker, as often as it takes; false when shoald ends meanwhile.
    async fn again(&mut self, backoff: &mut Duration, kicks: &mpsc::Receiver<Kick>) -> bool {
        loop {
            tokio::time::sleep(*backoff).await;
            *backoff = (*backoff * 2).min(LAST_BACKOFF);
            if kicks.is_closed() {
                return false;
            }
            match spawn(self.uid, &mut self.make_start).await {
                Ok(running) => {
                    tracing::info!("the broker serves again");
                    let _ = self.events.send(Event::Ready { at: running.at }).await;
                    self.private.send_replace(Some(running.at.into()));
                    self.running = running;
                    return true;
                }
                Err(e) => tracing::error!("{e:#}"),
            }
        }
    }
}

async fn spawn(uid: Option<u32>, make_start: &mut MakeStart) -> Result<Running> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("shoald-broker").arg(SUBCOMMAND).current_dir("/").env_clear();
    if let Some(filter) = std::env::var_os("RUST_LOG") {
        command.env("RUST_LOG", filter);
    }
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut command = Command::from(command);
    let mut child = command.kill_on_drop(true).spawn().context("starting the broker process")?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the broker process has no pipes");
    };
    let mut output = BufReader::new(output).lines();
    say(&mut input, &wire::Command::Start(Box::new(make_start()?))).await?;
    let first = tokio::time::timeout(START_PATIENCE, first_word(&mut output)).await;
    let ended = |message: &str| BrokerError { code: "ended".to_owned(), message: message.to_owned() };
    match first {
        Ok(Ok(Some(Event::Ready { at }))) => Ok(Running { child, input, output, at }),
        Ok(Ok(Some(Event::Failed { code, message }))) => Err(BrokerError { code, message }.into()),
        Ok(Ok(_)) => Err(ended("it ended without a word; see its messages above").into()),
        Ok(Err(e)) => Err(e),
        Err(_) => Err(ended("it did not become ready in time").into()),
    }
}

/// Whether it is ready; who comes and goes during its proof is nobody.
async fn first_word(output: &mut Lines<BufReader<ChildStdout>>) -> Result<Option<Event>> {
    while let Some(line) = output.next_line().await.context("reading what the broker says")? {
        match serde_json::from_str(&line).context("reading what the broker says")? {
            Event::Connected { .. } | Event::Disconnected { .. } => {}
            word => return Ok(Some(word)),
        }
    }
    Ok(None)
}

async fn say(input: &mut ChildStdin, command: &wire::Command) -> Result<()> {
    let mut line = serde_json::to_vec(command).context("writing to the broker")?;
    line.push(b'\n');
    input.write_all(&line).await.context("writing to the broker")?;
    input.flush().await.context("writing to the broker")
}
