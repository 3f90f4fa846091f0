//! `shoal-guard network`: makes, checks or takes back the network of one pod by the device's CNI plugins. Root, short-lived.
//!
//! Supervise writes down which pod (`request`), starts this and waits; so supervise itself reads no JSON, waits for no plugin
//! and stays in the host's network. Lists come from the device's owner, results from root's own tools: no byte here is a
//! guest's, an image's or the network's. What was made is kept beside the request until it was taken back.

pub(crate) mod conf;
pub(crate) mod netns;
mod plugin;

use conf::{List, Verb};
use plugin::Call;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;
use shoal_ipc::{Error, Field, Layout, Reader, TicketPort, Writer, decode};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The interface of a pod that is not its loopback.
const INTERFACE: &str = "eth0";
/// The longest list or result, bytes.
const FILE_MAX: u64 = 256 << 10;

/// Which pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// CNI's id of it: another one for each network that was ever made.
    pub(crate) id: String,
    /// The pod's name.
    pub(crate) name: String,
    /// The boot in which it is made.
    pub(crate) boot: String,
    /// Its ports.
    pub(crate) ports: Vec<TicketPort>,
}

impl Field for Request {
    fn put(&self, w: &mut Writer) {
        self.id.put(w);
        self.name.put(w);
        self.boot.put(w);
        self.ports.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { id: Field::take(r)?, name: Field::take(r)?, boot: Field::take(r)?, ports: Field::take(r)? })
    }
}

/// Why there is no network.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A stable code.
    pub(crate) code: &'static str,
    /// In words.
    pub(crate) detail: String,
}

impl Failure {
    fn unsupported(detail: String) -> Self {
        Self { code: "kernel_unsupported", detail }
    }
    fn denied(detail: String) -> Self {
        Self { code: "policy_denied", detail }
    }
    fn storage(detail: String) -> Self {
        Self { code: "storage_unavailable", detail }
    }
}

/// Where everything about one pod's network is.
#[derive(Debug)]
pub(crate) struct Place {
    /// What was asked, used and answered.
    pub(crate) folder: PathBuf,
    /// The namespace.
    pub(crate) netns: PathBuf,
}

impl Place {
    /// Of the pod with this ticket, in hexadecimal.
    pub(crate) fn of(layout: &Layout, pod: &str) -> Self {
        Self { folder: layout.networks().join(pod), netns: layout.run().join("netns").join(pod) }
    }

    pub(crate) fn request(&self) -> PathBuf {
        self.folder.join("request")
    }

    fn lock(&self) -> PathBuf {
        self.netns.with_extension("lock")
    }

    fn list(&self) -> PathBuf {
        self.folder.join("list")
    }

    fn result(&self) -> PathBuf {
        self.folder.join("result")
    }
}

/// What one run is to do.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) layout: Layout,
    pub(crate) verb: Verb,
    /// The ticket, in hexadecimal.
    pub(crate) pod: String,
    /// Folders of plugins.
    pub(crate) folders: Vec<PathBuf>,
    /// For all plugins together.
    pub(crate) time: Duration,
}

/// Does it.
pub(crate) fn run(task: &Task) -> Result<(), Failure> {
    for (resource, most) in [(Resource::Core, 0), (Resource::Fsize, 64 << 20)] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|e| Failure::storage(format!("set a resource limit: {e}")))?;
    }
    let start = Instant::now();
    let plain = !task.pod.is_empty() && task.pod.bytes().all(|b| b.is_ascii_hexdigit());
    let place = Place::of(&task.layout, if plain { &task.pod } else { "none" });
    // One at a time for a pod: what a supervise that is gone had begun comes to its end before the next one takes it back.
    let _alone = lock(&place.lock(), start + task.time)
        .map_err(|e| Failure::storage(format!("wait for another helper of this network: {e}")))?;
    let done = act(task, &place);
    if !place.folder.exists() || (task.verb == Verb::Add && done.is_err()) {
        // Under the lock, as it has to be.
        let _ = fs::remove_file(place.lock());
    }
    done
}

/// Waits for the lock on a file, which whoever holds it may remove.
fn lock(path: &Path, end: Instant) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    loop {
        let file = fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if fs::metadata(path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino())) => {
                return Ok(file);
            }
            Ok(()) => {}
            Err(Errno::AGAIN) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            Err(e) => return Err(e.into()),
        }
    }
}

fn act(task: &Task, place: &Place) -> Result<(), Failure> {
    let request = read(&place.request())
        .and_then(|b| decode::<Request>(&b).map_err(io::Error::other))
        .map_err(|e| Failure::storage(format!("read the request for a network: {e}")))?;
    match task.verb {
        Verb::Add => add(task, place, &request),
        Verb::Del => del(task, place, &request),
        Verb::Check => check(task, place, &request),
    }
}

/// A whole file, if it is not too long.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::other(format!("{} is longer than {FILE_MAX} bytes", path.display())));
    }
    fs::read(path)
}

/// The device's list: the first file of its owner's folder by name, or the one that comes with Shoal.
fn choose(layout: &Layout) -> Result<(Vec<u8>, bool), Failure> {
    let folder = layout.cni_conf();
    let mut files: Vec<PathBuf> = match fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Failure::storage(format!("read {}: {e}", folder.display()))),
    };
    let ends = |p: &Path| {
        p.extension().and_then(|e| e.to_str()).is_some_and(|e| ["conflist", "conf", "json"].contains(&e))
    };
    files.retain(|p| ends(p));
    files.sort();
    match files.first() {
        Some(path) => {
            plugin::trusted(path).map_err(Failure::denied)?;
            let bytes = read(path).map_err(|e| Failure::storage(format!("read {}: {e}", path.display())))?;
            Ok((bytes, false))
        }
        None => Ok((conf::own(layout.root(), &layout.run().join("cni")), true)),
    }
}

fn call<'a>(task: &'a Task, place: &'a Place, request: &'a Request, interface: &'a str) -> Call<'a> {
    Call {
        folders: &task.folders,
        id: &request.id,
        pod: &request.name,
        netns: netns::is_there(&place.netns).then_some(place.netns.as_path()),
        interface,
        end: Instant::now() + task.time,
    }
}

fn parse(bytes: &[u8]) -> Result<List, Failure> {
    List::parse(bytes)
        .map_err(|e| Failure::denied(format!("the device's CNI configuration cannot be used: {e}")))
}

fn add(task: &Task, place: &Place, request: &Request) -> Result<(), Failure> {
    let (bytes, own) = choose(&task.layout)?;
    let list = parse(&bytes)?;
    if !list.serves(&request.ports) {
        let why = "the device's CNI configuration has no plugin that maps ports (capabilities: portMappings)";
        return Err(Failure::unsupported(why.into()));
    }
    // With this list it will be taken back, whatever the owner changes meanwhile.
    fs::write(place.list(), &bytes).map_err(|e| Failure::storage(format!("keep the list: {e}")))?;
    netns::make(&place.netns).map_err(|e| Failure::unsupported(format!("make a network namespace: {e}")))?;
    match attach(task, place, request, &list, own) {
        Ok(()) => Ok(()),
        Err(first) => {
            // A failed ADD may have left half of its work (CNI spec: DEL has to follow).
            let _ = detach(task, place, request, &list);
            let _ = netns::drop_it(&place.netns);
            Err(first)
        }
    }
}

fn attach(task: &Task, place: &Place, request: &Request, list: &List, own: bool) -> Result<(), Failure> {
    let loopback = List::loopback();
    let lo = call(task, place, request, "lo");
    plugin::run(&lo, Verb::Add, "loopback", &loopback.input(&loopback.plugins[0], &[], None))?;
    let call = call(task, place, request, INTERFACE);
    let mut result: Option<Value> = None;
    for plugin in &list.plugins {
        let input = list.input(plugin, &request.ports, result.as_ref());
        let said = plugin::run(&call, Verb::Add, &plugin.kind, &input)?;
        let value: Value = serde_json::from_slice(&said)
            .map_err(|e| Failure::unsupported(format!("{}: ADD answered no result: {e}", plugin.kind)))?;
        // Kept at once: whatever fails from here on is taken back with it.
        fs::write(place.result(), &said).map_err(|e| Failure::storage(format!("keep the result: {e}")))?;
        result = Some(value);
    }
    if own {
        // Whoever is on the bridge meets the device, not the other pods.
        for interface in result.iter().flat_map(conf::outer_interfaces) {
            netns::isolate(&interface)
                .map_err(|e| Failure::unsupported(format!("isolate {interface} on its bridge: {e}")))?;
        }
    }
    Ok(())
}

/// Every plugin is asked, also after one failed; the first failure is told.
fn detach(task: &Task, place: &Place, request: &Request, list: &List) -> Result<(), Failure> {
    let call = call(task, place, request, INTERFACE);
    let result = read(&place.result()).ok().and_then(|b| serde_json::from_slice(&b).ok());
    let mut first = Ok(());
    for plugin in list.plugins.iter().rev() {
        let input = list.input(plugin, &request.ports, result.as_ref());
        let done = plugin::run(&call, Verb::Del, &plugin.kind, &input).map(drop);
        first = first.and(done);
    }
    first
}

fn del(task: &Task, place: &Place, request: &Request) -> Result<(), Failure> {
    let done = match read(&place.list()) {
        Ok(bytes) => parse(&bytes).and_then(|list| detach(task, place, request, &list)),
        // It never came as far as to a plugin.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::storage(format!("read the list: {e}"))),
    };
    // The namespace goes either way: what is in it goes with it.
    netns::drop_it(&place.netns).map_err(|e| Failure::storage(format!("let go of the namespace: {e}")))?;
    done?;
    fs::remove_dir_all(&place.folder).map_err(|e| Failure::storage(format!("forget the network: {e}")))
}

fn check(task: &Task, place: &Place, request: &Request) -> Result<(), Failure> {
    let bytes = read(&place.list()).map_err(|e| Failure::storage(format!("read the list: {e}")))?;
    let list = parse(&bytes)?;
    if !list.checks {
        return Ok(());
    }
    let call = call(task, place, request, INTERFACE);
    let result = read(&place.result()).ok().and_then(|b| serde_json::from_slice(&b).ok());
    for plugin in &list.plugins {
        let input = list.input(plugin, &request.ports, result.as_ref());
        plugin::run(&call, Verb::Check, &plugin.kind, &input)?;
    }
    Ok(())
}
