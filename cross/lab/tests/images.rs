//! Images that other tools made, from Debian's own registry and from archives, through import and pull to a running pod.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use crate::common::*;
use shoal_lab::{Finished, Service, wait_until};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

const TOOLS: [&str; 3] = ["docker-registry", "buildah", "skopeo"];

/// Whether this test has to be skipped for want of root or of a tool.
fn needs_tools(test: &str) -> bool {
    let missing: Vec<&str> =
        TOOLS.into_iter().filter(|tool| Finished::of(Command::new(tool).arg("--version")).is_err()).collect();
    if !missing.is_empty() {
        skipped(test, &format!("not installed: {}", missing.join(", ")));
    }
    needs_root(test) || !missing.is_empty()
}

/// Debian's registry on a port of its own, gone with this value.
struct Registry {
    host: String,
    dir: PathBuf,
    service: Service,
}

impl Registry {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        Self { service: Self::spawn(dir, &host), host, dir: dir.to_owned() }
    }

    fn spawn(dir: &Path, host: &str) -> Service {
        let config = dir.join("registry.yml");
        std::fs::write(&config, "version: 0.1\nstorage:\n  filesystem: {}\n").unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(config)
            .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", dir.join("registry"))
            .env("REGISTRY_HTTP_ADDR", host);
        let service = Service::spawn(&mut command, &dir.join("registry.log")).unwrap();
        wait_until("the registry to listen", LONG, || Ok(TcpStream::connect(host).ok().map(drop)))
            .unwrap_or_else(|e| panic!("{e:#}\n{}", service.output()));
        service
    }

    fn stop(&mut self) {
        self.service.kill();
    }

    fn start_again(&mut self) {
        self.service = Self::spawn(&self.dir, &self.host);
    }

    /// How often it was asked for a blob.
    fn blobs_served(&self) -> usize {
        let asked = |line: &&str| line.contains("GET /v2/") && line.contains("/blobs/");
        self.service.output().lines().filter(asked).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a tool; it must succeed. The first line that it printed is often an id.
fn tool(name: &str, args: &[&str]) -> String {
    Finished::of(Command::new(name).args(args)).unwrap().ok().unwrap().trim().to_owned()
}

/// Buildah with storage below `dir`.
fn buildah(dir: &Path, args: &[&str]) -> String {
    let (root, state) = (dir.join("buildah"), dir.join("buildah-run"));
    let own = ["--storage-driver", "vfs", "--root", utf8(&root), "--runroot", utf8(&state)];
    tool("buildah", &[&own, args].concat())
}

/// `FROM scratch`, a module without its run bit, `CMD`, committed as `name`.
fn build(dir: &Path, name: &str, wat: &str) {
    let module = dir.join("app.wasm");
    std::fs::write(&module, wat::parse_str(wat).unwrap()).unwrap();
    let container = buildah(dir, &["from", "scratch"]);
    buildah(dir, &["copy", "--chmod", "644", &container, utf8(&module), "/app.wasm"]);
    buildah(dir, &["config", "--cmd", r#"["/app.wasm"]"#, &container]);
    buildah(dir, &["commit", "--format", "oci", &container, name]);
    buildah(dir, &["rm", &container]);
}

/// Builds `app:1`, pushes it to the registry and writes a lock file; then the operator's own copy is gone, so that apply has
/// nothing to give to the controller.
fn pushed_and_locked(fleet: &Fleet, registry: &Registry) -> (String, PathBuf) {
    build(fleet.dir.path(), "app:1", SLEEPS);
    let reference = format!("{}/app:1", registry.host);
    let target = format!("docker://{reference}");
    buildah(fleet.dir.path(), &["push", "--tls-verify=false", "app:1", &target]);
    let lock = fleet.dir.path().join("shoal.lock");
    fleet.shoal(&["image", "import", "--local", &reference]);
    fleet.shoal(&["image", "lock", "--file", utf8(&lock), &reference]);
    std::fs::remove_dir_all(fleet.lab.operator.home.join("images")).unwrap();
    (reference, lock)
}

/// Applies a deployment called `app` of an image that only the lock file knows.
fn apply_locked(fleet: &Fleet, reference: &str, lock: &Path) {
    let path = fleet.file("app.yaml", manifest("app", reference, "Always", ""));
    fleet.shoal(&["apply", "-f", utf8(&path), "--lock", utf8(lock), "--yes"]);
}

#[test]
fn what_buildah_pushed_and_skopeo_copied_is_imported_and_runs() {
    if needs_tools("what_buildah_pushed_and_skopeo_copied_is_imported_and_runs") {
        return;
    }
    let fleet = fleet_with(1);
    let mut registry = Registry::start(fleet.dir.path());
    build(fleet.dir.path(), "built:1", SLEEPS);
    let built = format!("docker://{}/built:1", registry.host);
    buildah(fleet.dir.path(), &["push", "--tls-verify=false", "built:1", &built]);
    let reference = format!("{}/app:1", registry.host);
    let copy = format!("docker://{reference}");
    tool("skopeo", &["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &built, &copy]);
    let said = fleet.shoal(&["image", "import", &reference]);
    assert!(said.contains("imported"), "{said}");
    // The controller has it now, so nobody needs the registry any more.
    registry.stop();
    fleet.apply(&manifest("app", &reference, "Always", ""));
    fleet.wait_running("app", 1);
}

#[test]
fn an_index_with_an_attestation_gives_the_image_for_wasm() {
    if needs_tools("an_index_with_an_attestation_gives_the_image_for_wasm") {
        return;
    }
    let fleet = fleet_with(1);
    let dir = fleet.dir.path();
    let registry = Registry::start(dir);
    buildah(dir, &["manifest", "create", "list:1"]);
    for (os, arch, wat) in [("unknown", "unknown", TRAPS), ("wasip1", "wasm", SLEEPS)] {
        build(dir, arch, wat);
        buildah(dir, &["manifest", "add", "--os", os, "--arch", arch, "list:1", arch]);
    }
    let reference = format!("{}/list:1", registry.host);
    let target = format!("docker://{reference}");
    buildah(dir, &["manifest", "push", "--all", "--tls-verify=false", "list:1", &target]);
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &target]);
    assert!(raw.contains("unknown") && raw.contains("manifests"), "no index with an attestation: {raw}");
    fleet.shoal(&["image", "import", &reference]);
    fleet.apply(&manifest("list", &reference, "Never", ""));
    // The one that traps is the attestation's.
    let pod = fleet.wait_pod("list", "the wasm image", |p| runs(p) || p["phase"] == "failed");
    assert!(runs(&pod), "{pod:#}");
}

#[test]
fn a_device_pulls_from_the_registry_that_the_reference_names() {
    if needs_tools("a_device_pulls_from_the_registry_that_the_reference_names") {
        return;
    }
    let fleet = fleet_with(1);
    let registry = Registry::start(fleet.dir.path());
    let (reference, lock) = pushed_and_locked(&fleet, &registry);
    let before = registry.blobs_served();
    apply_locked(&fleet, &reference, &lock);
    fleet.wait_running("app", 1);
    assert!(registry.blobs_served() > before, "the device took it from elsewhere");
    let remote = fleet.lab.operator.json(&["image", "ls", "--remote"]).unwrap();
    assert_eq!(remote["images"].as_array().map(Vec::len), Some(0), "{remote:#}");
}

#[test]
fn u4_a_registry_that_is_down_is_a_named_wait_and_over_when_it_is_back() {
    if needs_tools("u4_a_registry_that_is_down_is_a_named_wait_and_over_when_it_is_back") {
        return;
    }
    let fleet = fleet_with(1);
    let mut registry = Registry::start(fleet.dir.path());
    let (reference, lock) = pushed_and_locked(&fleet, &registry);
    registry.stop();
    apply_locked(&fleet, &reference, &lock);
    let waits = fleet.wait_pod("app", "a wait for the registry", |p| p["reason"] == "image_unavailable");
    assert_eq!(waits["phase"], "pulling", "{waits:#}");
    assert!(!waits["deadline"].is_null(), "no word about when it is tried again: {waits:#}");
    let why = waits["message"].as_str().unwrap_or_default();
    assert!(why.contains(&registry.host), "the message does not name the registry: {waits:#}");
    registry.start_again();
    fleet.wait_running("app", 1);
}

#[test]
fn archives_of_either_kind_are_imported_and_run() {
    if needs_tools("archives_of_either_kind_are_imported_and_run") {
        return;
    }
    let fleet = fleet_with(1);
    let dir = fleet.dir.path();
    build(dir, "saved:1", SLEEPS);
    for kind in ["oci", "docker"] {
        let archive = dir.join(format!("{kind}.tar"));
        let target = format!("{kind}-archive:{}:saved:1", archive.display());
        buildah(dir, &["push", "saved:1", &target]);
        fleet.shoal(&["image", "import", utf8(&archive), &format!("from-{kind}:1")]);
        fleet.apply(&manifest(kind, &format!("from-{kind}:1"), "Always", ""));
        fleet.wait_running(kind, 1);
    }
}
