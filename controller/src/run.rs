//! Brings the controller up and down: folder, store, ports, broker, then the tasks, each with one owner: this function.

use crate::app::{App, Endpoints, Queues, now};
use crate::args::{MosquittoArgs, RunArgs};
use crate::broker::{Kick, Place, Probe, Start, Supervisor, foreign};
use crate::http::router;
use crate::link::INCOMING;
use crate::pki::Leaf;
use crate::port::{self, Port};
use crate::setup::{DataDir, DataError};
use crate::store::Store;
use crate::{conductor, ingest, limits, link, output, tls};
use anyhow::{Context as _, Result};
use shoal_protocol::topics::CONTROLLER;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Messages that may wait for the broker.
const OUTGOING: usize = 1024;
/// How long tasks have to end.
const GRACE: Duration = Duration::from_secs(6);

/// A port that somebody else has.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {0}: another program does; stop it, or choose another port with --listen")]
pub(crate) struct PortTaken(SocketAddr);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: RunArgs) -> Result<()> {
    let descriptors = limits::raise_descriptors();
    let data = DataDir::open(&args.data)?;
    let names = names(&args.names);
    let listener = listen(args.listen).await?;
    let api_port = listener.local_addr().context("reading the own address")?.port();
    // Over WebSocket comes last: it is the way of those who have no other.
    let endpoints = Endpoints {
        api: names.public.iter().map(|n| format!("https://{}:{api_port}", host(n))).collect(),
        mqtt: (names.public.iter().map(|n| format!("mqtts://{}:{api_port}", host(n))))
            .chain(names.public.iter().map(|n| format!("wss://{}:{api_port}/mqtt", host(n))))
            .collect(),
    };
    let (authority, _) = data.identity()?;
    let store = Store::open(&data.store()).map_err(|e| unusable(&args, e))?;
    let (mut own, new_credential) = data.own(&store, endpoints.clone()).await?;
    own.authority.device_life = args.device_certificate_life;
    let server = authority.server("shoald", &names.all, now())?;
    let controller = authority.client(CONTROLLER, now())?;
    let server_tls = Arc::new(tls::server(&authority, &server)?);
    let link_tls =
        Arc::new(tls::client(&authority.certificate, Some((controller.certificate()?, controller.key()?)))?);
    let images = shoal_image::Store::open(data.images()).context("opening the folder of images")?;

    let (ended, ending) = watch::channel(false);
    let (outgoing, outgoing_queue) = mpsc::channel(OUTGOING);
    let (kicks, kick_queue) = mpsc::channel(16);
    let (private, private_at) = watch::channel(None);
    let (open, open_at) = watch::channel(None);
    let foreign = args.broker.is_some();
    let queues = Queues { outgoing, kicks, broker: open_at.clone(), foreign, ending: ending.clone() };
    let app = Arc::new(App::load(own, store, images, queues).await?);
    let revoked: Revoked = Arc::new(RwLock::new(app.store.revoked(now()).await?.into_iter().collect()));

    let (events, mut event_queue) = mpsc::channel(1024);
    let mut tasks = JoinSet::new();
    let (relay, relay_queue) = mpsc::channel(16);
    if let Some(place) = args.broker.clone() {
        Box::pin(foreign::prove(&place, &app.authority)).await?;
        private.send_replace(Some(place));
        tasks.spawn(keep_quiet(relay_queue, (private, events), ending.clone()));
    } else {
        let make_start = start_of(app.clone(), server, revoked.clone());
        let uid = rustix::process::geteuid().is_root().then_some(args.broker_uid);
        let broker = Supervisor::start(uid, make_start, private, events).await?;
        tasks.spawn(broker.watch(relay_queue));
    }
    tasks.spawn(remember_revocations(kick_queue, relay, revoked, ending.clone()));
    let presence = app.clone();
    tasks.spawn(async move {
        while let Some(event) = event_queue.recv().await {
            presence.presence(event).await;
        }
    });
    let (incoming, incoming_queue) = mpsc::channel(INCOMING);
    tasks.spawn(ingest::run(app.clone(), incoming_queue));
    tasks.spawn(link::run(app.clone(), link_tls, private_at, open, outgoing_queue, incoming));
    tasks.spawn(conductor::run(app.clone()));
    let devices = limits::room_for_devices(descriptors);
    let port = Port { listener, tls: server_tls, router: router(app.clone()), broker: open_at, devices };
    tasks.spawn(port::serve(port, ending));

    if let Some(credential) = &new_credential {
        output::first_start(&endpoints.api[0], &app.authority, credential);
    }
    let fleet = app.fleet_id.borrow().as_ref().map(ToString::to_string);
    output::ready(&endpoints.api.join(", "), &endpoints.mqtt.join(", "), fleet.as_deref());
    drop(app);

    until_signal().await?;
    tracing::info!("ending");
    ended.send_replace(true);
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        tracing::warn!("some tasks were still busy at the end; everything acknowledged is in the store");
    }
    Ok(())
}

/// What another broker needs of this controller.
pub(crate) fn mosquitto(args: &MosquittoArgs) -> Result<()> {
    if args.sample {
        return foreign::write_sample(&args.out);
    }
    let authority = DataDir::authority(&args.data)?;
    let address = args.listen.map(|l| l.ip().to_string());
    let port = args.listen.map_or(foreign::PORT, |l| l.port());
    // The settings name the folder, and Mosquitto may be started from anywhere.
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let out = args.out.canonicalize().with_context(|| format!("cannot find {}", args.out.display()))?;
    foreign::write(&authority, &names(&args.names).all, &out, (port, address.as_deref()))
}

/// A broker that somebody else runs cannot be told whom to put out, and tells nothing: who was revoked is not heard any more.
async fn keep_quiet(
    mut kicks: mpsc::Receiver<Kick>,
    _open: (watch::Sender<Option<Place>>, mpsc::Sender<crate::broker::Event>),
    mut ending: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            kick = kicks.recv() => match kick {
                Some(Kick::Revoked { client, .. }) => tracing::warn!(
                    "{client} was revoked and is not heard any more; its connection lasts until the broker ends it"
                ),
                Some(Kick::Connection { .. }) => {}
                None => return,
            },
            _ = ending.changed() => return,
        }
    }
}

type Revoked = Arc<RwLock<HashSet<String>>>;

fn unusable(args: &RunArgs, e: crate::store::StoreError) -> anyhow::Error {
    match e {
        crate::store::StoreError::Sqlite { source, .. } => {
            DataError::Unusable(args.data.clone(), std::io::Error::other(source)).into()
        }
        other => other.into(),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(PortTaken(address).into()),
        Err(e) => Err(e).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Everything that a broker needs, made anew each time that one starts.
fn start_of(app: Arc<App>, server: Leaf, revoked: Revoked) -> crate::broker::MakeStart {
    Box::new(move || {
        let (probe, leaf) = app.authority.nobody(now())?;
        Ok(Start {
            certificate: server.certificate_pem.clone(),
            key: server.key_pem.clone(),
            ca: app.authority.certificate_pem.clone(),
            probe: Probe { name: probe.to_string(), certificate: leaf.certificate_pem, key: leaf.key_pem },
            revoked: revoked.read().map(|r| r.iter().cloned().collect()).unwrap_or_default(),
        })
    })
}

/// A broker that starts anew has to know what the last one was told. Ends, and with it the broker, when shoald does.
async fn remember_revocations(
    mut queue: mpsc::Receiver<Kick>,
    relay: mpsc::Sender<Kick>,
    revoked: Revoked,
    mut ending: watch::Receiver<bool>,
) {
    loop {
        let kick = tokio::select! {
            kick = queue.recv() => kick,
            _ = ending.changed() => return,
        };
        let Some(kick) = kick else { return };
        if let Kick::Revoked { client, serials } = &kick
            && let Ok(mut all) = revoked.write()
        {
            all.extend(serials.iter().chain([client]).cloned());
        }
        if relay.send(kick).await.is_err() {
            return;
        }
    }
}

/// By what names this machine is known.
struct Names {
    /// What devices and operators are told.
    public: Vec<String>,
    /// What the certificates say.
    all: Vec<String>,
}

fn names(given: &[String]) -> Names {
    let hostname = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let known: Vec<String> = given.iter().map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    let public = if known.is_empty() { vec![hostname.clone()] } else { known };
    let mut all = public.clone();
    for name in [hostname.as_str(), "localhost", "127.0.0.1", "::1"] {
        if !name.is_empty() && !all.iter().any(|n| n == name) {
            all.push(name.to_owned());
        }
    }
    Names { public, all }
}

/// A host as it stands in a URL.
fn host(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

async fn until_signal() -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
