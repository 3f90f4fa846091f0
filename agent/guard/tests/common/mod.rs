//! A device below a temporary folder, with the real guard, and a fleet whose keys are all in one hand.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod script;

use shoal_ipc::{
    AdmitClient, ContainerState, Digest as Id, EngineDirs, Enrolled, Event, EventStream, Layout,
    RootAdmitClient, SuperviseClient, Verdict,
};
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Bytes, Digest, FleetId, Name, Timestamp};
use shoal_protocol::text_map::TextMap;
use shoal_protocol::v1::*;
use shoal_protocol::{Ed25519Signer, Signer};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The agent's uid on these devices; others follow it.
pub const AGENT: u32 = 77_500;

static SERIAL: AtomicU32 = AtomicU32::new(0);

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Names a test that cannot run here, so that the run counts it.
pub fn skipped(test: &str, why: &str) -> bool {
    // Not `println!`: libtest swallows what a passing test prints by it, and the skip would count as passed.
    let _ = writeln!(std::io::stdout(), "\nSKIPPED {test}: {why}");
    true
}

pub fn needs_root(test: &str) -> bool {
    !is_root() && skipped(test, "needs root")
}

pub fn needs_runner(test: &str) -> bool {
    let absent = !Layout::runner_binary().exists();
    needs_root(test) || (absent && skipped(test, "no shoal-runner in SHOAL_LIBEXEC"))
}

pub fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Waits until `what` gives something, at most 20 s.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does something as the agent: its uid, no capability, in a thread of its own (the kernel keeps these by thread).
pub fn as_agent<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (rustix::fs::Uid::from_raw(AGENT), rustix::fs::Gid::from_raw(AGENT));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

/// A device.
pub struct Device {
    pub dir: tempfile::TempDir,
    pub layout: Layout,
    pub group: String,
    /// The engine's folder, instead of the one beside the binaries.
    pub engine: Option<PathBuf>,
    /// Seen by the guard in place of `/proc/cpuinfo`.
    pub cpuinfo: Option<PathBuf>,
    /// More of the guard's environment.
    pub environment: Vec<(&'static str, std::ffi::OsString)>,
    guard: Option<Child>,
    libexec: Option<PathBuf>,
}

impl Device {
    pub fn start() -> Self {
        Self::start_as("", None)
    }

    /// With these lines in the owner's policy.
    pub fn start_with(more: &str) -> Self {
        Self::start_as(more, None)
    }

    /// One whose runner is in a folder of its own.
    pub fn start_from(libexec: &Path) -> Self {
        install_runner(libexec);
        let engine = EngineDirs::find().unwrap().run;
        symlink(engine.parent().unwrap(), libexec.join("engine")).unwrap();
        Self::start_as("", Some(libexec.to_owned()))
    }

    fn start_as(more: &str, libexec: Option<PathBuf>) -> Self {
        let mut device = Self::prepare(more);
        device.libexec = libexec;
        device.launch();
        device
    }

    /// Nothing runs yet.
    pub fn prepare(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let group =
            format!("shoal-guard-test-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.policy().parent().unwrap()).unwrap();
        let policy = format!("uid_base = {AGENT}\ncgroup_parent = \"{group}\"\n{more}\n");
        std::fs::write(layout.policy(), policy).unwrap();
        Self {
            dir,
            layout,
            group,
            engine: None,
            cpuinfo: None,
            environment: Vec::new(),
            guard: None,
            libexec: None,
        }
    }

    fn command(&self, verb: &str) -> Command {
        let guard = env!("CARGO_BIN_EXE_shoal-guard");
        let mut command = match &self.cpuinfo {
            None => Command::new(guard),
            Some(file) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /proc/cpuinfo && exec "$@""#]);
                command.arg(file).arg(guard);
                command
            }
        };
        command.arg(verb).arg("--root").arg(self.dir.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(libexec) = &self.libexec {
            command.env("SHOAL_LIBEXEC", libexec);
        }
        if let Some(engine) = &self.engine {
            command.env("SHOAL_ENGINE_DIR", engine);
        }
        command
    }

    pub fn launch(&mut self) {
        self.guard = Some(self.command("supervise").spawn().unwrap());
        wait_for("the guard", || SuperviseClient::connect_root(&self.layout).ok()?.status().ok());
    }

    pub fn guard_pid(&self) -> u32 {
        self.guard.as_ref().unwrap().id()
    }

    /// As a power cut does it, to supervise alone.
    pub fn kill_supervise(&mut self) {
        let mut guard = self.guard.take().unwrap();
        guard.kill().unwrap();
        guard.wait().unwrap();
    }

    pub fn stop_all(&mut self) {
        assert!(self.command("stop-all").status().unwrap().success());
        if let Some(mut guard) = self.guard.take() {
            assert!(guard.wait().unwrap().success());
        }
    }

    pub fn status(&self) -> shoal_ipc::GuardStatus {
        SuperviseClient::connect_root(&self.layout).unwrap().status().unwrap()
    }

    pub fn admit(&self) -> AdmitClient {
        as_agent(|| wait_for("admit", || AdmitClient::connect(&self.layout).ok()))
    }

    pub fn supervise(&self) -> SuperviseClient {
        as_agent(|| wait_for("supervise", || SuperviseClient::connect(&self.layout).ok()))
    }

    /// Folders of this device's control groups, in whatever trees there are.
    pub fn groups(&self) -> Vec<PathBuf> {
        let trees = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
        trees
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|t| t.join(&self.group))
            .filter(|p| p.exists())
            .collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            // Also when the test failed, so that nothing is left behind.
            let _ = self.command("stop-all").status();
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

/// Long enough for whatever is under way.
pub const SOON: Duration = Duration::from_mins(1);

pub fn stage_and_compile(device: &Device, ticket: Id, d: &Deployment, module: &[u8]) {
    let item = Id(d.template.containers[0].image.module.digest.0);
    let mut events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
    let mut s = device.supervise();
    wait_for("the ticket", || s.have(ticket).ok());
    s.stage(ticket, item, shoal_ipc::sealed_memfd(module).unwrap().as_fd()).unwrap();
    s.compile(ticket, item).unwrap();
    let event = prepared(&mut events);
    assert!(matches!(event, Event::Compiled { module, .. } if module == item), "{event:?}");
}

/// The event that ends the making ready of a module.
pub fn prepared(events: &mut EventStream) -> Event {
    loop {
        match events.next(SOON).unwrap() {
            Event::Preparing { .. } => {}
            other => return other,
        }
    }
}

pub fn ended(events: &mut EventStream) -> ContainerState {
    loop {
        if let Event::Ended(state) = events.next(SOON).unwrap() {
            return *state;
        }
    }
}

pub fn nothing_is_left(device: &Device) {
    assert_eq!(device.groups(), Vec::<PathBuf>::new());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(device.dir.path().to_str().unwrap()), "{mounts}");
    let root = device.dir.path().as_os_str().as_encoded_bytes();
    // A log that another supervise started ends by itself, a moment after its connection.
    wait_for("the end of all processes", || {
        let mut all = std::fs::read_dir("/proc").unwrap().flatten();
        let line = |e: std::fs::DirEntry| std::fs::read(e.path().join("cmdline")).unwrap_or_default();
        (!all.any(|e| line(e).windows(root.len()).any(|w| w == root))).then_some(())
    });
}

/// Puts a runner of its own into a folder, or another in its place, as an upgrade does.
pub fn install_runner(libexec: &Path) {
    let new = libexec.join("shoal-runner.new");
    std::fs::copy(Layout::runner_binary(), &new).unwrap();
    std::fs::rename(new, libexec.join("shoal-runner")).unwrap();
}

/// All keys of a fleet.
pub struct Fleet {
    pub id: FleetId,
    pub root: Vec<u8>,
    base: u8,
    identity: Ed25519Signer,
}

fn key(base: u8, n: u8) -> Ed25519Signer {
    Ed25519Signer::from_seed([base + n; 32])
}

fn role(base: u8, called: RoleName, n: u8) -> Role {
    Role {
        name: called,
        threshold: 1,
        keys: vec![key(base, n).public()],
        prefix: String::new(),
        may_remove: called == RoleName::Deployment,
        ceiling: None,
    }
}

/// A first root, with these keys for snapshots and enrolment.
fn root(base: u8, snapshot: u8, enrollment: u8) -> Root {
    Root {
        version: 1,
        epoch: 1,
        issued_at: Timestamp(now().0 - 100),
        not_after: now().plus(1_000_000),
        roles: vec![
            role(base, RoleName::Root, 1),
            role(base, RoleName::Snapshot, snapshot),
            role(base, RoleName::Deployment, 3),
            role(base, RoleName::Enrollment, enrollment),
            role(base, RoleName::Release, 10),
        ],
        controller: Controller { online: key(base, 5).public(), ca: vec![], api: vec![], mqtt: vec![] },
        fleet: None,
        revoked: vec![],
        ext: BTreeMap::new(),
    }
}

impl Fleet {
    /// Fleets with different bases have different keys.
    pub fn new(base: u8) -> Self {
        let root = root(base, 2, 4);
        let (envelope, digest) = seal_document(&root, &[&key(base, 1)]).unwrap();
        Self { id: FleetId::of_root(&digest), root: envelope, base, identity: key(base, 7) }
    }

    /// Root 2, by which other keys sign snapshots and enrol.
    pub fn rotated(&self) -> Vec<u8> {
        let root = Root { version: 2, fleet: Some(self.id.clone()), ..root(self.base, 8, 9) };
        seal_document(&root, &[&key(self.base, 1)]).unwrap().0
    }

    /// A snapshot under root 2.
    pub fn listing_after_rotation(&self, version: u64, entries: Vec<Entry>) -> Vec<u8> {
        seal_document(&self.unsigned(version, entries), &[&key(self.base, 8)]).unwrap().0
    }

    pub fn token(&self) -> Vec<u8> {
        let token = Token {
            fleet: self.id.clone(),
            epoch: 1,
            key: key(self.base, 6).public(),
            issued_at: Timestamp(now().0 - 50),
            not_after: now().plus(10_000),
            uses: 1,
            approval: false,
            minima: Minima { root_version: 1, snapshot_version: 1, time: Timestamp(now().0 - 50) },
            labels: TextMap::default(),
        };
        seal_document(&token, &[&key(self.base, 4)]).unwrap().0
    }

    pub fn record(&self, keys: &Enrolled) -> Vec<u8> {
        let record = DeviceRecord {
            fleet: self.id.clone(),
            epoch: 1,
            device: self.identity.key().device_id(),
            sequence: 1,
            issued_at: now(),
            identity: self.identity.key(),
            sealing: Bytes(keys.sealing.to_vec()),
            attest: Key::ed25519(keys.attest),
            labels: TextMap::default(),
            decommissioned: false,
        };
        seal_document(&record, &[&key(self.base, 6)]).unwrap().0
    }

    /// Enrols a device: root and token by uid 0, the record by the agent.
    pub fn enroll(&self, device: &Device) -> Enrolled {
        let mut root = wait_for("admit", || RootAdmitClient::connect(&device.layout).ok());
        let keys = root.enroll(vec![self.root.clone()], self.token()).unwrap();
        accepted(&device.admit().submit(&self.record(&keys)).unwrap());
        keys
    }

    pub fn deployment(&self, d: &Deployment) -> (Vec<u8>, Digest) {
        seal_document(d, &[&key(self.base, 3)]).unwrap()
    }

    /// An agent of this version for this device.
    pub fn release(&self, sequence: u64, version: &str) -> (Vec<u8>, Digest) {
        let file = |path: &str| ReleaseFile {
            path: path.into(),
            size: 1000,
            digest: Digest::of(format!("{path} {version}").as_bytes()),
            executable: true,
            packed: None,
        };
        let release = Release {
            fleet: self.id.clone(),
            epoch: 1,
            name: name("agent"),
            sequence,
            issued_at: now(),
            not_after: now().plus(10_000),
            target: Target { devices: vec![self.device()], ..Target::default() },
            version: version.into(),
            builds: vec![Build {
                architecture: std::env::consts::ARCH.into(),
                reference: "registry.example/agent:1".into(),
                manifest: Digest([3; 32]),
                files: ["shoal-agent", "shoal-guard", "shoal-runner"].map(file).to_vec(),
            }],
            deadline: None,
        };
        seal_document(&release, &[&key(self.base, 10)]).unwrap()
    }

    /// The key that signs deployments, configs and secrets.
    pub fn operator(&self) -> Ed25519Signer {
        key(self.base, 3)
    }

    pub fn device(&self) -> shoal_protocol::ids::DeviceId {
        self.identity.key().device_id()
    }

    /// A snapshot of exactly these entries.
    pub fn listing(&self, version: u64, entries: Vec<Entry>) -> Vec<u8> {
        seal_document(&self.unsigned(version, entries), &[&key(self.base, 2)]).unwrap().0
    }

    /// The same by those who may remove as well.
    pub fn removing(&self, version: u64, entries: Vec<Entry>) -> Vec<u8> {
        seal_document(&self.unsigned(version, entries), &[&key(self.base, 2), &self.operator()]).unwrap().0
    }

    /// A snapshot by this fleet's key that says it is of another one.
    pub fn of_another_fleet(&self) -> Vec<u8> {
        let snapshot = Snapshot { fleet: FleetId::of_root(&Digest([9; 32])), ..self.unsigned(1, vec![]) };
        seal_document(&snapshot, &[&key(self.base, 2)]).unwrap().0
    }

    fn unsigned(&self, version: u64, entries: Vec<Entry>) -> Snapshot {
        Snapshot {
            fleet: self.id.clone(),
            epoch: 1,
            version,
            root_version: 1,
            issued_at: now(),
            not_after: now().plus(100_000),
            entries,
            audit_head: None,
            previous: None,
        }
    }

    pub fn snapshot(&self, version: u64, all: &[(&Deployment, Digest, Liveness)]) -> Vec<u8> {
        let mut entries: Vec<Entry> = all
            .iter()
            .map(|(d, digest, liveness)| Entry {
                kind: EntryKind::Deployment,
                name: d.name.clone(),
                liveness: *liveness,
                floor: 0,
                newest: Revision { sequence: d.sequence, digest: *digest },
                stable: None,
                removal: None,
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.listing(version, entries)
    }

    /// Signs, lists and submits a deployment; its ticket's id.
    pub fn roll_out(&self, device: &Device, version: u64, d: &Deployment) -> Id {
        let (envelope, digest) = self.deployment(d);
        let mut admit = device.admit();
        accepted(&admit.submit(&self.snapshot(version, &[(d, digest, Liveness::Live)])).unwrap());
        accepted(&admit.submit(&envelope).unwrap());
        Id(digest.0)
    }

    /// The same for several at once; their tickets' ids.
    pub fn roll_out_all(&self, device: &Device, version: u64, all: &[&Deployment]) -> Vec<Id> {
        let sealed: Vec<_> = all.iter().map(|d| self.deployment(d)).collect();
        let entries: Vec<_> =
            all.iter().zip(&sealed).map(|(d, (_, digest))| (*d, *digest, Liveness::Live)).collect();
        let mut admit = device.admit();
        accepted(&admit.submit(&self.snapshot(version, &entries)).unwrap());
        for (envelope, _) in &sealed {
            accepted(&admit.submit(envelope).unwrap());
        }
        sealed.iter().map(|(_, digest)| Id(digest.0)).collect()
    }

    /// One container that starts this module.
    pub fn pod(&self, called: &str, sequence: u64, module: &[u8], resources: Resources) -> Deployment {
        let file = File {
            path: "/main.wasm".into(),
            size: module.len() as u64,
            mode: 0o644,
            digest: Digest::of(module),
        };
        Deployment {
            fleet: self.id.clone(),
            epoch: 1,
            name: name(called),
            sequence,
            issued_at: now(),
            not_after: now().plus(10_000),
            target: Target { devices: vec![self.identity.key().device_id()], ..Target::default() },
            rollout: Rollout::default(),
            logs: LogConsent::Tail,
            template: PodTemplate {
                runtime_class: RuntimeClass::Wasm,
                network: Network::None,
                restart_policy: RestartPolicy::Never,
                termination_grace: 2,
                containers: vec![Container {
                    name: name("main"),
                    image: Image {
                        reference: "registry.example/main:1".into(),
                        manifest: Digest([2; 32]),
                        manifest_size: 10,
                        module: file,
                        files: vec![],
                    },
                    argv: vec!["/main.wasm".into()],
                    working_dir: "/".into(),
                    resources,
                    readonly_rootfs: false,
                    engine: Engine::Aot,
                    env: vec![],
                    mounts: vec![],
                    restart_policy: None,
                    liveness_probe: None,
                    readiness_probe: None,
                    startup_probe: None,
                    devices: vec![],
                    capabilities: vec![],
                    self_test: None,
                    stdin: false,
                    post_start: None,
                    pre_stop: None,
                    env_from: Vec::new(),
                }],
                resources: Resources::default(),
                hostname: None,
                volumes: vec![],
                labels: TextMap::default(),
                annotations: TextMap::default(),
                ports: vec![],
                required_features: vec![],
                init_containers: vec![],
            },
            not_before: None,
            requires: vec![],
        }
    }
}

pub fn accepted(verdict: &Verdict) {
    assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
}

pub fn code(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Refused { code, .. } => code,
        Verdict::Accepted { .. } => "accepted",
    }
}
