//! What every end-to-end test needs: a fleet in a temporary folder, small guests, manifests, and waiting.

use serde_json::Value;
use shoal_lab::{Binaries, Finished, Lab, Service, wait_until};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// As long as anything in these tests may take; a good run takes a fraction of it.
pub(crate) const LONG: Duration = Duration::from_mins(3);

/// Says aloud that a test could not run here; `cargo xtask test` counts it.
pub(crate) fn skipped(test: &str, why: &str) {
    // Past the test harness's capture, which would hide it.
    let _ = writeln!(std::io::stdout(), "\nSKIPPED {test}: {why}");
}

/// Whether this test has to be skipped for want of root.
pub(crate) fn needs_root(test: &str) -> bool {
    let missing = !shoal_lab::is_root();
    if missing {
        skipped(test, "needs root for users and control groups");
    }
    missing
}

/// A fleet, and the folder that goes with it.
pub(crate) struct Fleet {
    pub(crate) lab: Lab,
    pub(crate) dir: TempDir,
}

static FLEETS: AtomicU32 = AtomicU32::new(0);

/// A process beside a fleet, that ends with the test however the test ends.
pub(crate) struct Helper(pub(crate) Service);

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A temporary folder that every user can enter.
pub(crate) fn open_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("shoal").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The binaries, in a place that every user can reach; copied once for all tests of this file.
pub(crate) fn binaries() -> Binaries {
    let shared = std::env::temp_dir().join(format!("shoal-bin-{}", std::process::id()));
    Binaries::from_env().unwrap().reachable_by_all(&shared).unwrap()
}

/// An initialised controller without devices.
pub(crate) fn fleet() -> Fleet {
    controlled_by(&[])
}

/// The same, with further arguments of `shoald run`.
pub(crate) fn controlled_by(extra: &[&str]) -> Fleet {
    let dir = open_dir();
    let n = FLEETS.fetch_add(1, Ordering::Relaxed);
    let tag = format!("t{}x{n}", std::process::id());
    let lab = Lab::start_with(&binaries(), dir.path(), &tag, extra).unwrap();
    Fleet { lab, dir }
}

/// The same with `count` devices, all of them labelled `site=here`.
pub(crate) fn fleet_with(count: usize) -> Fleet {
    let mut fleet = fleet();
    for n in 0..count {
        fleet.lab.add_device(&format!("site=here,n={n}")).unwrap();
    }
    fleet
}

impl Fleet {
    /// Writes a file into the fleet's folder.
    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Assembles WebAssembly text and imports it as `reference`.
    pub(crate) fn import_wat(&self, reference: &str, wat: &str) {
        let path =
            self.file(&format!("{}.wasm", reference.replace([':', '/'], "-")), wat::parse_str(wat).unwrap());
        self.shoal(&["image", "import", utf8(&path), reference]);
    }

    /// Imports an image of several modules, each a file in its root; the first is what it runs.
    pub(crate) fn import_modules(&self, reference: &str, modules: &[(&str, &str)]) {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let (root, blobs) = (dir.path().join("root"), dir.path().join("oci/blobs/sha256"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&blobs).unwrap();
        for (name, wat) in modules {
            std::fs::write(root.join(name), wat::parse_str(wat).unwrap()).unwrap();
        }
        let output = |program: &str, args: &[&str]| {
            let out = std::process::Command::new(program).args(args).output().unwrap();
            assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
            out.stdout
        };
        let blob = |bytes: &[u8]| -> Value {
            let path = self.file("blob", bytes);
            let sum = String::from_utf8(output("sha256sum", &[utf8(&path)])).unwrap();
            let hex = sum.split(' ').next().unwrap();
            std::fs::rename(path, blobs.join(hex)).unwrap();
            serde_json::json!({"digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let with = |mut descriptor: Value, media_type: &str| {
            descriptor["mediaType"] = media_type.into();
            descriptor
        };
        let layer = blob(&output("tar", &["-C", utf8(&root), "--owner=0", "--group=0", "-c", "."]));
        let diff = layer["digest"].clone();
        let config = serde_json::json!({"architecture": "wasm", "os": "wasi",
            "config": {"Entrypoint": [format!("/{}", modules[0].0)]},
            "rootfs": {"type": "layers", "diff_ids": [diff]}});
        let config = with(blob(config.to_string().as_bytes()), "application/vnd.oci.image.config.v1+json");
        let layer = with(layer, "application/vnd.oci.image.layer.v1.tar");
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": manifest_type,
            "config": config, "layers": [layer]});
        let manifest = with(blob(manifest.to_string().as_bytes()), manifest_type);
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        let oci = dir.path().join("oci");
        std::fs::write(oci.join("index.json"), index.to_string()).unwrap();
        std::fs::write(oci.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        self.shoal(&["image", "import", utf8(&oci), reference]);
    }

    /// Runs `shoal`; it must succeed.
    pub(crate) fn shoal(&self, args: &[&str]) -> String {
        self.lab.operator.run(args).unwrap().ok().unwrap()
    }

    /// Runs `shoal` whatever comes of it.
    pub(crate) fn try_shoal(&self, args: &[&str]) -> Finished {
        self.lab.operator.run(args).unwrap()
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> String {
        let path = self.file("app.yaml", manifest);
        self.shoal(&["apply", "-f", utf8(&path), "--yes"])
    }

    /// Tries to apply a manifest.
    pub(crate) fn try_apply(&self, manifest: &str) -> Finished {
        let path = self.file("app.yaml", manifest);
        self.try_shoal(&["apply", "-f", utf8(&path), "--yes"])
    }

    /// All pods of a deployment, as the controller knows them.
    pub(crate) fn pods(&self, deployment: &str) -> Vec<Value> {
        let all = self.lab.operator.json(&["get", "pods"]).unwrap();
        let pods = all["pods"].as_array().expect("a list of pods");
        pods.iter().filter(|p| p["deployment"] == deployment).cloned().collect()
    }

    /// Waits until the first pod of a deployment satisfies `good`; shows the pod when it does not.
    pub(crate) fn wait_pod(&self, deployment: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = wait_until(what, LONG, || {
            last = self.pods(deployment).into_iter().next().unwrap_or(Value::Null);
            Ok(good(&last).then(|| last.clone()))
        });
        found.unwrap_or_else(|error| panic!("{error:#}\nlast seen: {last:#}\n{}", self.outputs()))
    }

    /// Waits until `count` pods of a deployment run (or ended well).
    pub(crate) fn wait_running(&self, deployment: &str, count: usize) -> Vec<Value> {
        let mut last = Vec::new();
        let found = wait_until(&format!("{deployment} on {count} devices"), LONG, || {
            last = self.pods(deployment);
            Ok((last.iter().filter(|p| runs(p)).count() >= count).then(|| last.clone()))
        });
        found.unwrap_or_else(|error| panic!("{error:#}\nlast seen: {last:#?}\n{}", self.outputs()))
    }

    /// Waits until the controller hears from the first device.
    pub(crate) fn wait_online(&self) {
        wait_until("the device to be online", LONG, || {
            let devices = self.lab.operator.json(&["get", "devices"])?;
            Ok((devices["devices"][0]["state"] == "online").then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", self.outputs()));
    }

    /// What controller, agents and guards printed: for the message of a failed test.
    pub(crate) fn outputs(&self) -> String {
        let mut parts = vec![format!("--- controller\n{}", tail(&self.lab.controller.output()))];
        for (n, device) in self.lab.devices.iter().enumerate() {
            parts.push(format!("--- agent {n}\n{}", tail(&device.agent_output())));
            parts.push(format!("--- guard {n}\n{}", tail(&device.guard_output())));
        }
        parts.join("\n")
    }

    /// How often device `n` refused something with `code`, by its own report.
    pub(crate) fn refusals(&self, n: usize, code: &str) -> u64 {
        let devices = self.lab.operator.json(&["get", "devices"]).unwrap();
        let id = devices["devices"][n]["id"].as_str().expect("a device").to_owned();
        let device = self.lab.operator.json(&["describe", "device", &id]).unwrap();
        let all = device["refusals"].as_array().cloned().unwrap_or_default();
        all.iter().find(|r| r["code"] == code).and_then(|r| r["count"].as_u64()).unwrap_or(0)
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Whether a pod is where it should be.
pub(crate) fn runs(pod: &Value) -> bool {
    matches!(pod["phase"].as_str(), Some("running" | "healthy" | "succeeded"))
}

/// The containers that run on a device: id and process of each, as the device itself lists them.
pub(crate) fn processes(device: &shoal_lab::Device) -> Vec<(String, u64)> {
    let ps = device.cli(&["ps", "--output", "json"]).unwrap().json().unwrap();
    let all = ps["containers"].as_array().unwrap().iter();
    all.map(|c| (c["id"].as_str().unwrap().to_owned(), pid(c).unwrap())).collect()
}

fn pid(value: &Value) -> Option<u64> {
    match value {
        Value::Object(map) => map.get("pid").and_then(Value::as_u64).or_else(|| map.values().find_map(pid)),
        Value::Array(list) => list.iter().find_map(pid),
        _ => None,
    }
}

/// A path as text.
pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A deployment of one container for all devices of `site=here`; `extra` is YAML below the container.
pub(crate) fn manifest(name: &str, image: &str, restart: &str, extra: &str) -> String {
    let extra = extra
        .lines()
        .map(|line| {
            "          ".to_owned()
                + line
                + "
"
        })
        .collect::<String>();
    format!(
        "apiVersion: shoal/v1\nkind: Deployment\nmetadata:\n  name: {name}\nspec:\n  selector:\n    matchLabels:\n      site: here\n  \
         template:\n    spec:\n      restartPolicy: {restart}\n      containers:\n        - name: main\n          image: {image}\n{extra}"
    )
}

/// A guest that ends at once with `code`.
pub(crate) fn exits_with(code: u32) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
    )
}

/// A guest that waits in `poll_oneoff`, an hour at a time, for ever.
pub(crate) const SLEEPS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (loop $again
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (br $again))))"#;

/// A guest that runs into `unreachable`.
pub(crate) const TRAPS: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

/// A guest that grows its memory a page at a time, touches each page, and traps when it gets no more.
pub(crate) const EATS_MEMORY: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (local $at i32)
        (loop $more
            (local.set $at (memory.grow (i32.const 1)))
            (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
            (i32.store (i32.mul (local.get $at) (i32.const 65536)) (i32.const 1))
            (br $more))))"#;

/// A guest that computes for ever.
pub(crate) const SPINS: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (local $n i64)
        (loop $more
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (i64.store (i32.const 0) (local.get $n))
            (br $more))))"#;
