//! The broker process: rmqtt with TLS client certificates and hooks that hold each client to its own branch.
//!
//! Every hook denies unless it finds a reason to allow. It reads no file, knows no fleet, stores nothing.

use super::proof;
use super::wire::{Command, Event, Start};
use crate::limits;
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use rmqtt::codec::v5::SubscribeAckReason;
use rmqtt::context::ServerContext;
use rmqtt::fitter::{DefaultFitter, Fitter, FitterManager};
use rmqtt::hook::{Handler, HookResult, Parameter, ReturnType, Type};
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use rmqtt::types::{
    AuthResult, ConnectInfo, Disconnect, FitterType, Id, LastWill, ListenerConfig, PublishAclResult, QoS,
    SubscribeAclResult,
};
use rustix::fd::AsRawFd as _;
use shoal_protocol::ids::DeviceId;
use shoal_protocol::topics::{CONTROLLER, Topic};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

/// The most bytes of one packet, its header included.
pub(crate) const MAX_PACKET: u32 = 1 << 20;
/// How often a connection that is to end is tried to be ended, and how long in between.
const KICKS: u32 = 20;
const KICK_AGAIN: Duration = Duration::from_millis(250);
/// How many messages may wait for the controller, and how many it may leave unacknowledged.
const CONTROLLER_QUEUE: usize = 100_000;
/// Unacknowledged messages to the controller at a time.
pub(crate) const CONTROLLER_INFLIGHT: u16 = 1024;
/// How many messages may wait for one device: raised for all, one that does not read would hold much memory.
const DEVICE_QUEUE: usize = 512;
/// Presence events that may wait for shoald to read them.
const EVENTS: usize = 4096;

/// Runs the broker until its input ends. What went wrong is said on its output.
pub(crate) fn run() -> u8 {
    // Should shoald be killed, no broker of it may stay behind; the end of input says the same a little later.
    if let Err(e) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        tracing::warn!("the broker cannot tie its life to shoald's: {e}");
    }
    limits::raise_descriptors();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("the broker cannot start its runtime: {e}");
            return 1;
        }
    };
    match runtime.block_on(serve()) {
        Ok(()) => 0,
        Err(e) => {
            tracing::error!("broker: {e:#}");
            1
        }
    }
}

async fn serve() -> Result<()> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let first = input.next_line().await.context("reading what shoald says")?.unwrap_or_default();
    let Command::Start(start) =
        serde_json::from_str(&first).context("the first line is not a start command")?
    else {
        anyhow::bail!("the first line is not a start command");
    };
    let (events, outbox) = mpsc::channel(EVENTS);
    let writer = tokio::spawn(write_events(outbox));
    let revoked = RwLock::new(start.revoked.iter().cloned().collect());
    let gate = Arc::new(Gate { revoked, events, probe: start.probe.name.clone() });
    let scx = match open(&start, &gate).await {
        Ok(scx) => scx,
        Err((code, e)) => {
            let message = format!("{e:#}");
            let _ = gate.events.send(Event::Failed { code: code.to_owned(), message }).await;
            drop(gate);
            let _ = tokio::time::timeout(Duration::from_secs(2), writer).await;
            return Err(e);
        }
    };
    while let Some(line) = input.next_line().await.context("reading what shoald says")? {
        match serde_json::from_str(&line).context("an unknown command")? {
            Command::Revoke { serials, client } => {
                if let Ok(mut revoked) = gate.revoked.write() {
                    revoked.extend(serials);
                    revoked.insert(client.clone());
                }
                kick(&scx, &client).await;
            }
            Command::Kick { client } => kick(&scx, &client).await,
            Command::Start(_) => anyhow::bail!("a second start command"),
        }
    }
    Ok(())
}

async fn open(start: &Start, gate: &Arc<Gate>) -> Result<ServerContext, (&'static str, anyhow::Error)> {
    let setup = |e| ("setup", e);
    let scx = ServerContext::new().busy_check_enable(false).build().await;
    *scx.extends.fitter_mgr_mut().await = Box::new(Fitters);
    let register = scx.extends.hook_mgr().register();
    for hook in [
        Type::ClientAuthenticate,
        Type::ClientSubscribeCheckAcl,
        Type::MessagePublishCheckAcl,
        Type::ClientConnected,
        Type::ClientDisconnected,
    ] {
        register.add_priority(hook, u32::MAX, Box::new(Hooks(gate.clone()))).await;
    }
    register.start().await;
    let pem = Pem::new(start).map_err(setup)?;
    let listener = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &pem)
        .context("listening on the loopback interface")
        .map_err(setup)?;
    let at = listener.local_addr().context("reading the own address").map_err(setup)?;
    MqttServer::new(scx.clone()).listener_by_id(listener, at.port()).build().start();
    // Nobody is led here before it is said to be ready.
    proof::run(at, &start.ca, &start.probe).await.map_err(|e| ("proof_failed", e))?;
    let _ = gate.events.send(Event::Ready { at }).await;
    Ok(scx)
}

/// rmqtt wants paths: anonymous memory of this process has some, and nothing touches a disk.
struct Pem {
    files: [OwnedFd; 3],
}

impl Pem {
    fn new(start: &Start) -> Result<Self> {
        let file = |text: &str| -> Result<OwnedFd> {
            let fd =
                rustix::fs::memfd_create("pem", rustix::fs::MemfdFlags::CLOEXEC).context("making a memfd")?;
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let n = rustix::io::write(&fd, rest).context("writing a memfd")?;
                rest = &rest[n..];
            }
            Ok(fd)
        };
        Ok(Self { files: [file(&start.certificate)?, file(&start.key)?, file(&start.ca)?] })
    }

    fn paths(&self) -> [String; 3] {
        self.files.each_ref().map(|f| format!("/proc/self/fd/{}", f.as_raw_fd()))
    }
}

fn listener(addr: SocketAddr, pem: &Pem) -> Result<Listener> {
    let [certificate, key, ca] = pem.paths();
    Builder::new()
        .name("mqtts")
        .laddr(addr)
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(false)
        .tls_cross_certificate(true)
        .tls_cert(Some(certificate))
        .tls_key(Some(key))
        .tls_client_ca_certs(Some(ca))
        .cert_cn_as_username(true)
        .collect_cert_info(true)
        .max_packet_size(MAX_PACKET)
        .max_clientid_len(64)
        .max_topic_levels(8)
        .max_subscriptions(16)
        .max_qos_allowed(QoS::AtLeastOnce)
        .max_mqueue_len(DEVICE_QUEUE)
        .max_session_expiry_interval(Duration::from_secs(1))
        .message_retry_interval(Duration::ZERO)
        .allow_zero_keepalive(false)
        .min_keepalive(5)
        .max_keepalive(600)
        .handshake_timeout(Duration::from_secs(15))
        .bind()?
        .tls()
}

async fn write_events(mut outbox: mpsc::Receiver<Event>) {
    let mut out = tokio::io::stdout();
    while let Some(event) = outbox.recv().await {
        let Ok(mut line) = serde_json::to_vec(&event) else { continue };
        line.push(b'\n');
        // Nobody reads any more: the end of input ends the process.
        if out.write_all(&line).await.is_err() || out.flush().await.is_err() {
            return;
        }
    }
}

/// Ends a client's connection; a session that is busy just then is asked again.
async fn kick(scx: &ServerContext, client: &str) {
    for attempt in 1..=KICKS {
        let shared = scx.extends.shared().await;
        let Some(id) = shared.iter().map(|e| e.id()).find(|id| &*id.client_id == client) else { return };
        let kicked = match shared.entry(id).try_lock().await {
            Ok(mut entry) => entry.kick(true, true, true).await.map(drop),
            Err(e) => Err(e),
        };
        match kicked {
            Ok(()) => return,
            Err(e) => tracing::warn!("cannot end the connection of {client}, try {attempt}: {e}"),
        }
        tokio::time::sleep(KICK_AGAIN).await;
    }
}

/// What the hooks decide by.
struct Gate {
    revoked: RwLock<HashSet<String>>,
    events: mpsc::Sender<Event>,
    /// Who tries at the start what nobody may; that it is denied is no news.
    probe: String,
}

impl Gate {
    fn denied(&self, client: &str, what: std::fmt::Arguments<'_>) {
        if client == self.probe {
            tracing::debug!("{client} {what}");
        } else {
            tracing::info!("{client} {what}");
        }
    }

    /// Why a client may not connect.
    fn refusal(&self, info: &ConnectInfo) -> Option<&'static str> {
        let ConnectInfo::V5(id, _) = info else { return Some("not MQTT 5") };
        let Some(certificate) = info.cert() else { return Some("no certificate") };
        let Some(name) = certificate.common_name.as_deref() else { return Some("no common name") };
        if name != &*id.client_id {
            return Some("the client id is not the certificate's common name");
        }
        // Which also keeps '/', '+' and '#' out.
        if name != CONTROLLER && name.parse::<DeviceId>().is_err() {
            return Some("the common name is no device's");
        }
        let serial = certificate.serial.as_deref().unwrap_or_default();
        if self.revoked.read().map_or(true, |revoked| revoked.contains(serial) || revoked.contains(name)) {
            return Some("the certificate was revoked");
        }
        // A last will is published without the publish hook: it is checked here or never.
        match info.last_will() {
            None => None,
            Some(LastWill::V5(will)) if Topic::may_publish(name, &will.topic) => None,
            Some(_) => Some("a last will outside the client's own branch"),
        }
    }
}

struct Hooks(Arc<Gate>);

#[async_trait]
impl Handler for Hooks {
    async fn hook(&self, parameter: &Parameter, _: Option<HookResult>) -> ReturnType {
        let verdict = match parameter {
            Parameter::ClientAuthenticate(info) => {
                let result = match self.0.refusal(info) {
                    None => AuthResult::Allow(false, None),
                    Some(why) => {
                        let id = info.id();
                        let name = info.cert().and_then(|c| c.common_name.as_deref()).unwrap_or("a client");
                        let at = id.remote_addr;
                        self.0
                            .denied(name, format_args!("at {at:?} was refused as {:?}: {why}", id.client_id));
                        AuthResult::NotAuthorized
                    }
                };
                HookResult::AuthResult(result)
            }
            Parameter::ClientSubscribeCheckAcl(session, subscribe) => {
                let (client, filter) = (&*session.id.client_id, &*subscribe.topic_filter);
                HookResult::SubscribeAclResult(if Topic::may_subscribe(client, filter) {
                    SubscribeAclResult::new_success(subscribe.opts.qos(), None)
                } else {
                    self.0.denied(client, format_args!("may not subscribe to {filter:?}"));
                    SubscribeAclResult::new_failure(SubscribeAckReason::NotAuthorized)
                })
            }
            Parameter::MessagePublishCheckAcl(session, publish) => {
                let (client, topic) = (&*session.id.client_id, &*publish.topic);
                HookResult::PublishAclResult(if Topic::may_publish(client, topic) {
                    PublishAclResult::allow()
                } else {
                    self.0.denied(client, format_args!("may not publish to {topic:?}"));
                    PublishAclResult::rejected(false, None)
                })
            }
            Parameter::ClientConnected(session) => {
                let info = session.connect_info().await.ok();
                let serial = info.and_then(|i| i.cert()?.serial.clone());
                let client = session.id.client_id.to_string();
                let _ = self.0.events.send(Event::Connected { client, serial }).await;
                return (true, None);
            }
            Parameter::ClientDisconnected(session, _) => {
                let _ = self
                    .0
                    .events
                    .send(Event::Disconnected { client: session.id.client_id.to_string() })
                    .await;
                return (true, None);
            }
            _ => return (true, None),
        };
        (false, Some(verdict))
    }
}

/// Larger bounds for the controller alone.
struct Fitters;

impl FitterManager for Fitters {
    fn create(&self, info: Arc<ConnectInfo>, id: Id, config: ListenerConfig) -> FitterType {
        let controller = &*id.client_id == CONTROLLER;
        let inner = DefaultFitter::new(info, id, config);
        if controller { Arc::new(ControllerFitter(inner)) } else { Arc::new(inner) }
    }
}

struct ControllerFitter(DefaultFitter);

impl Fitter for ControllerFitter {
    fn keep_alive(&self, keep_alive: &mut u16) -> rmqtt::Result<u16> {
        self.0.keep_alive(keep_alive)
    }
    fn max_mqueue_len(&self) -> usize {
        CONTROLLER_QUEUE
    }
    fn mqueue_rate_limit(&self) -> (NonZeroU32, Duration) {
        self.0.mqueue_rate_limit()
    }
    fn max_inflight(&self) -> NonZeroU16 {
        NonZeroU16::new(CONTROLLER_INFLIGHT).unwrap_or(NonZeroU16::MIN)
    }
    fn session_expiry_interval(&self, d: Option<&Disconnect>) -> Duration {
        self.0.session_expiry_interval(d)
    }
    fn message_expiry_interval(&self, publish: &rmqtt::codec::types::Publish) -> Duration {
        self.0.message_expiry_interval(publish)
    }
    fn max_client_topic_aliases(&self) -> u16 {
        self.0.max_client_topic_aliases()
    }
    fn max_server_topic_aliases(&self) -> u16 {
        self.0.max_server_topic_aliases()
    }
}
