//! Configs and secrets in real containers: as files and as variables, what waits without them, what a change does, and who
//! gets to see what.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    Device, Fleet, SOON, accepted, as_agent, code, name, needs_runner, nothing_is_left, now,
    stage_and_compile,
};
use shoal_ipc::{Cause, Digest as Id, Enrolled, Event, EventStream, HeldRevision, Verdict};
use shoal_protocol::envelope::seal_document;
use shoal_protocol::ids::{Bytes, Digest};
use shoal_protocol::sealing::{self, SecretKey};
use shoal_protocol::text_map::ByteMap;
use shoal_protocol::v1::*;
use std::path::Path;

/// Prints its environment, a line each, and then what is in `greeting` and `token` of any folder that it was given.
const GUEST: &str = r#"(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "greeting")
  (data (i32.const 32) "token")
  (data (i32.const 48) "\0a")
  (data (i32.const 52) "written: ")
  (func $print (param $at i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $show (param $folder i32) (param $name i32) (param $length i32)
    (if (i32.eqz (call $open (local.get $folder) (i32.const 1) (local.get $name) (local.get $length)
          (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12)))
      (then
        (i32.store (i32.const 0) (i32.const 65536))
        (i32.store (i32.const 4) (i32.const 4096))
        (if (i32.eqz (call $read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
          (then
            (call $print (i32.const 65536) (i32.load (i32.const 8)))
            (call $print (i32.const 48) (i32.const 1))))
        ;; It may be read and nothing else.
        (if (i32.eqz (call $open (local.get $folder) (i32.const 1) (local.get $name) (local.get $length)
              (i32.const 8) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 12)))
          (then (call $print (i32.const 52) (i32.const 9)))))))
  (func (export "_start") (local $at i32) (local $end i32) (local $folder i32)
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (local.set $end (i32.add (i32.const 8192) (i32.load (i32.const 4))))
    (drop (call $environ (i32.const 1024) (i32.const 8192)))
    (local.set $at (i32.const 8192))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (if (i32.eqz (i32.load8_u (local.get $at))) (then (i32.store8 (local.get $at) (i32.const 10))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (call $print (i32.const 8192) (i32.sub (local.get $end) (i32.const 8192)))
    (local.set $folder (i32.const 3))
    (block $out (loop $each
      (br_if $out (i32.eq (local.get $folder) (i32.const 8)))
      (call $show (local.get $folder) (i32.const 16) (i32.const 8))
      (call $show (local.get $folder) (i32.const 32) (i32.const 5))
      (local.set $folder (i32.add (local.get $folder) (i32.const 1)))
      (br $each)))))"#;

const HUSH: &str = "a-very-secret-value";

/// What is listed: its kind, name and sequence, and its envelope and identity.
type Listed<'a> = (EntryKind, &'a str, u64, &'a (Vec<u8>, Digest));

struct Rig {
    device: Device,
    fleet: Fleet,
    keys: Enrolled,
    module: Vec<u8>,
    events: EventStream,
    version: u64,
    entries: Vec<Entry>,
}

fn follow(n: &str) -> DocumentRef {
    DocumentRef { name: name(n), optional: false, pin: None }
}

fn mounted(d: &mut Deployment, called: &str, source: VolumeSource) {
    d.template.volumes.push(Volume { name: name(called), source });
    let path = format!("/{called}");
    d.template.containers[0].mounts.push(Mount { volume: name(called), path, read_only: true });
}

fn files(document: DocumentRef) -> VolumeSource {
    VolumeSource::Config { document, mode: 0o644, items: vec![] }
}

impl Rig {
    fn new() -> Self {
        let (device, fleet) = (Device::start(), Fleet::new(10));
        let keys = fleet.enroll(&device);
        let events = as_agent(|| EventStream::supervise(&device.layout)).unwrap();
        let module = wat::parse_str(GUEST).unwrap();
        Self { device, fleet, keys, module, events, version: 0, entries: Vec::new() }
    }

    fn pod(&self, change: impl FnOnce(&mut Deployment)) -> Deployment {
        let mut d = self.fleet.pod("guest", 1, &self.module, Resources::default());
        change(&mut d);
        d
    }

    fn config(&self, n: &str, sequence: u64, data: &[(&str, &str)]) -> Config {
        Config {
            fleet: self.fleet.id.clone(),
            epoch: 1,
            name: name(n),
            sequence,
            issued_at: now(),
            not_after: now().plus(10_000),
            data: data.iter().map(|(k, v)| (*k, *v)).collect(),
        }
    }

    /// A secret for the deployment `guest` with one value, and the key that opens it.
    fn secret(&self, n: &str, sequence: u64, value: &str) -> (Secret, SecretKey) {
        let key = SecretKey::new([u8::try_from(sequence).unwrap(); 32]);
        let mut secret = Secret {
            fleet: self.fleet.id.clone(),
            epoch: 1,
            name: name(n),
            sequence,
            issued_at: now(),
            not_after: now().plus(10_000),
            deployments: vec!["guest".into()],
            keys: vec![],
            commitment: Digest([0; 32]),
            sealed: Bytes(vec![]),
        };
        let data: ByteMap = [("token", value)].into_iter().collect();
        sealing::seal(&mut secret, &key, &data).unwrap();
        (secret, key)
    }

    fn grant(&self, secret: &Secret, digest: Digest, key: &SecretKey) -> Vec<u8> {
        let (fleet, device) = (self.fleet.id.clone(), self.fleet.device());
        let (n, revision) = (secret.name.clone(), Revision { sequence: secret.sequence, digest });
        let sealed =
            sealing::wrap(key, &self.keys.sealing, (&fleet, &device), (&n, &revision), [7; 32]).unwrap();
        let grant = Grant { fleet, epoch: 1, device, name: n, revision, issued_at: now(), sealed };
        self.seal(&grant).0
    }

    fn seal<T: Document>(&self, document: &T) -> (Vec<u8>, Digest) {
        seal_document(document, &[&self.fleet.operator()]).unwrap()
    }

    /// Lists these beside what is listed already, and has the device take them.
    fn publish(&mut self, all: &[Listed<'_>]) {
        for (kind, n, sequence, (_, digest)) in all {
            let entry = Entry {
                kind: *kind,
                name: name(n),
                liveness: Liveness::Live,
                floor: 0,
                newest: Revision { sequence: *sequence, digest: *digest },
                stable: None,
                removal: None,
            };
            self.list(entry);
        }
        self.submit_snapshot();
        for (_, _, _, (envelope, _)) in all {
            accepted(&self.device.admit().submit(envelope).unwrap());
        }
    }

    fn list(&mut self, entry: Entry) {
        self.entries.retain(|e| (e.kind, &e.name) != (entry.kind, &entry.name));
        self.entries.push(entry);
        self.entries.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    }

    fn submit_snapshot(&mut self) {
        self.version += 1;
        let snapshot = self.fleet.listing(self.version, self.entries.clone());
        accepted(&self.device.admit().submit(&snapshot).unwrap());
    }

    /// Rolls out a deployment and has its module made ready.
    fn ready(&mut self, d: &Deployment) -> Id {
        let sealed = self.seal(d);
        self.publish(&[(EntryKind::Deployment, "guest", d.sequence, &sealed)]);
        let ticket = Id(sealed.1.0);
        stage_and_compile(&self.device, ticket, d, &self.module.clone());
        ticket
    }

    fn held(&self, ticket: Id) -> HeldRevision {
        let trust = self.device.admit().trust().unwrap();
        trust.held.into_iter().find(|h| h.digest == ticket).unwrap()
    }

    fn waits(&self, ticket: Id) -> (String, String) {
        let held = self.held(ticket);
        assert!(held.stageable && !held.startable, "{held:?}");
        let refused = self.device.supervise().start(ticket, 0, 1).unwrap_err();
        assert!(refused.to_string().contains("not_admitted"), "{refused}");
        (held.reason, held.detail)
    }

    /// Starts it, and reads its log at its end.
    fn run(&mut self, ticket: Id, attempt: u64) -> Vec<String> {
        self.device.supervise().start(ticket, 0, attempt).unwrap();
        loop {
            match self.events.next(SOON).unwrap() {
                Event::Ended(state) if state.ticket == ticket => {
                    assert_eq!(state.cause, Some(Cause::Exited { code: 0 }), "{}", state.stderr_tail);
                    break;
                }
                _ => {}
            }
        }
        let log = self.device.layout.log_file("guest", &ticket, "main", attempt);
        let text = as_agent(|| std::fs::read_to_string(&log)).unwrap_or_default();
        let mut lines: Vec<String> =
            text.lines().filter_map(|l| Some(l.splitn(4, ' ').nth(3)?.to_owned())).collect();
        lines.sort();
        lines
    }

    fn finish(mut self) {
        self.device.stop_all();
        nothing_is_left(&self.device);
    }
}

/// Whether these bytes stand anywhere in a file below.
fn holds(folder: &Path, what: &[u8]) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        let found = if kind.is_dir() {
            holds(&path, what)
        } else {
            let bytes = if kind.is_file() { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
            bytes.windows(what.len()).any(|w| w == what).then_some(path)
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn a_config_is_files_and_variables_and_a_change_counts_at_the_next_start() {
    if needs_runner("a_config_is_files_and_variables_and_a_change_counts_at_the_next_start") {
        return;
    }
    let mut rig = Rig::new();
    let d = rig.pod(|d| {
        mounted(d, "conf", files(follow("settings")));
        let c = &mut d.template.containers[0];
        c.readonly_rootfs = true;
        let from = EnvSource::Config { document: follow("settings"), key: "zone".into() };
        c.env = vec![EnvVar::plain("PLAIN", "yes"), EnvVar { from: Some(from), ..EnvVar::plain("ZONE", "") }];
        c.env_from = vec![EnvFrom::Config { document: follow("settings"), prefix: "ALL_".into() }];
    });
    let ticket = rig.ready(&d);
    let (reason, detail) = rig.waits(ticket);
    assert_eq!((reason.as_str(), detail.as_str()), ("waiting_config", "config settings is not here"));

    let one = rig.seal(&rig.config("settings", 1, &[("greeting", "hello"), ("zone", "north")]));
    rig.publish(&[(EntryKind::Config, "settings", 1, &one)]);
    let wanted = ["ALL_greeting=hello", "ALL_zone=north", "PLAIN=yes", "ZONE=north", "hello"];
    assert_eq!(rig.run(ticket, 1), wanted);

    // Another revision replaces the first as a whole, for whatever starts from now on.
    let two = rig.seal(&rig.config("settings", 2, &[("greeting", "good day"), ("zone", "south")]));
    rig.publish(&[(EntryKind::Config, "settings", 2, &two)]);
    let wanted = ["ALL_greeting=good day", "ALL_zone=south", "PLAIN=yes", "ZONE=south", "good day"];
    assert_eq!(rig.run(ticket, 2), wanted);
    assert_eq!(rig.device.admit().trust().unwrap().documents.len(), 1, "the first is of no use any more");

    // What it asks for is not in the third; the second is gone.
    let three = rig.seal(&rig.config("settings", 3, &[("greeting", "hm")]));
    rig.publish(&[(EntryKind::Config, "settings", 3, &three)]);
    assert_eq!(rig.waits(ticket).1, "config settings has no key zone");

    // After a restart of everything it is as it was.
    rig.device.stop_all();
    rig.device.launch();
    rig.events = as_agent(|| EventStream::supervise(&rig.device.layout)).unwrap();
    assert_eq!(rig.waits(ticket).0, "waiting_config");
    let four = rig.seal(&rig.config("settings", 4, &[("greeting", "again"), ("zone", "x")]));
    rig.publish(&[(EntryKind::Config, "settings", 4, &four)]);
    assert!(rig.run(ticket, 3).contains(&"again".to_owned()));
    rig.finish();
}

#[test]
fn a_pinned_revision_is_what_starts_whatever_is_newest() {
    if needs_runner("a_pinned_revision_is_what_starts_whatever_is_newest") {
        return;
    }
    let mut rig = Rig::new();
    let one = rig.seal(&rig.config("settings", 1, &[("greeting", "one")]));
    let two = rig.seal(&rig.config("settings", 2, &[("greeting", "two")]));
    let pin = Some(Revision { sequence: 1, digest: one.1 });
    let d = rig.pod(|d| mounted(d, "conf", files(DocumentRef { pin, ..follow("settings") })));
    // The snapshot lists the second only: the first is taken because the deployment names these very bytes.
    let sealed = rig.seal(&d);
    rig.publish(&[(EntryKind::Deployment, "guest", 1, &sealed), (EntryKind::Config, "settings", 2, &two)]);
    let ticket = Id(sealed.1.0);
    stage_and_compile(&rig.device, ticket, &d, &rig.module.clone());
    assert_eq!(rig.waits(ticket).1, "config settings revision 1 is not here");
    accepted(&rig.device.admit().submit(&one.0).unwrap());
    assert_eq!(rig.run(ticket, 1), ["one"]);
    rig.finish();
}

#[test]
fn s17_a_config_that_nothing_here_refers_to_is_not_taken_and_a_removed_one_is_forgotten() {
    if needs_runner("s17_a_config_that_nothing_here_refers_to_is_not_taken_and_a_removed_one_is_forgotten") {
        return;
    }
    let mut rig = Rig::new();
    let d = rig.pod(|d| mounted(d, "conf", files(follow("settings"))));
    let ticket = rig.ready(&d);
    let other = rig.seal(&rig.config("other", 1, &[("greeting", "hm")]));
    assert_eq!(code(&rig.device.admit().submit(&other.0).unwrap()), "wrong_target");
    let unlisted = rig.seal(&rig.config("settings", 1, &[("greeting", "hm")]));
    assert_eq!(code(&rig.device.admit().submit(&unlisted.0).unwrap()), "not_in_snapshot");
    rig.publish(&[(EntryKind::Config, "settings", 1, &unlisted)]);
    assert_eq!(rig.run(ticket, 1), ["hm"]);
    let mut entry = rig.entries.iter().find(|e| e.kind == EntryKind::Config).unwrap().clone();
    entry.liveness = Liveness::Removed;
    rig.list(entry);
    rig.version += 1;
    let removing = rig.fleet.removing(rig.version, rig.entries.clone());
    accepted(&rig.device.admit().submit(&removing).unwrap());
    assert_eq!(rig.waits(ticket).0, "waiting_config");
    assert_eq!(rig.device.admit().trust().unwrap().documents, []);
    rig.finish();
}

#[test]
fn s25_a_secret_waits_for_its_grant_and_is_then_in_the_container_and_nowhere_else() {
    if needs_runner("s25_a_secret_waits_for_its_grant_and_is_then_in_the_container_and_nowhere_else") {
        return;
    }
    let mut rig = Rig::new();
    let d = rig.pod(|d| {
        let source = VolumeSource::Secret { document: follow("password"), mode: 0o400, items: vec![] };
        mounted(d, "keys", source);
        let from = EnvSource::Secret { document: follow("password"), key: "token".into() };
        d.template.containers[0].env = vec![EnvVar { from: Some(from), ..EnvVar::plain("TOKEN", "") }];
    });
    let ticket = rig.ready(&d);
    assert_eq!(rig.waits(ticket).0, "waiting_secret");
    let (secret, key) = rig.secret("password", 1, HUSH);
    let sealed = rig.seal(&secret);
    rig.publish(&[(EntryKind::Secret, "password", 1, &sealed)]);
    assert_eq!(rig.waits(ticket).1, "this device has no grant of secret password revision 1");
    // A grant of another key opens nothing, whoever made it: it is not taken, before the right one and after it.
    let wrong = rig.grant(&secret, sealed.1, &SecretKey::new([9; 32]));
    let submit = |rig: &Rig, grant: &[u8]| rig.device.admit().submit(grant).unwrap();
    assert_eq!(code(&submit(&rig, &wrong)), "secret_context");
    assert_eq!(rig.waits(ticket).0, "waiting_secret");
    let right = rig.grant(&secret, sealed.1, &key);
    let verdict = submit(&rig, &right);
    assert!(matches!(verdict, Verdict::Accepted { known: false, .. }), "{verdict:?}");
    for another in [&wrong, &right] {
        let verdict = submit(&rig, another);
        assert!(matches!(verdict, Verdict::Accepted { known: true, .. }), "{verdict:?}");
    }
    // What the guest prints is its own affair, so its log is put aside before anything is searched.
    let printed = rig.run(ticket, 1);
    assert_eq!(printed, ["TOKEN=a-very-secret-value", HUSH]);
    std::fs::remove_file(rig.device.layout.log_file("guest", &ticket, "main", 1)).unwrap();
    assert_eq!(holds(rig.device.dir.path(), HUSH.as_bytes()), None);

    // A new value counts once it can be read; until then nothing stops that the one before is there for.
    let (next, next_key) = rig.secret("password", 2, "another-value");
    let next_sealed = rig.seal(&next);
    rig.publish(&[(EntryKind::Secret, "password", 2, &next_sealed)]);
    assert_eq!(rig.run(ticket, 2), printed);
    accepted(&rig.device.admit().submit(&rig.grant(&next, next_sealed.1, &next_key)).unwrap());
    assert_eq!(rig.run(ticket, 3), ["TOKEN=another-value", "another-value"]);
    let stale = rig.device.admit().submit(&rig.grant(&secret, sealed.1, &key)).unwrap();
    assert_eq!(code(&stale), "wrong_target", "the first is forgotten");
    rig.finish();
}
