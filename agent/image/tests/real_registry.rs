//! Images that buildah and skopeo make, through a real registry and through real archives.
#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use shoal_image::registry::{Access, Registry, RegistryAuth, credentials};
use shoal_image::{Error, Form, Image, Overrides, Reference, Store, export_archive, import, resolve};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{module, store};

/// `me:secret`, as htpasswd would write it.
const HTPASSWD: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// The tools, or a line that says that the test did not run.
fn tools(test: &str) -> bool {
    let missing: Vec<&str> = ["docker-registry", "skopeo", "buildah"]
        .into_iter()
        .filter(|t| {
            Command::new(t).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
        })
        .collect();
    if !missing.is_empty() {
        let _ = writeln!(std::io::stdout(), "\nSKIPPED {test}: not installed: {}", missing.join(", "));
    }
    missing.is_empty()
}

/// Debian's registry on a port of its own, gone with this value.
struct RealRegistry {
    process: Child,
    dir: tempfile::TempDir,
    host: String,
}

impl RealRegistry {
    fn start(auth: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let data = dir.path().join("data");
        fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let auth = if auth {
            format!(
                "auth:\n  htpasswd:\n    realm: shoal\n    path: {}\n",
                dir.path().join("htpasswd").display()
            )
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{auth}",
            data.display()
        );
        let path = support::write(dir.path(), "config.yml", config.as_bytes());
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, dir, host }
    }

    fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.host).parse().unwrap()
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Buildah with storage of its own.
struct Buildah(tempfile::TempDir);

impl Buildah {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, arguments: &[&str]) -> String {
        let (root, state) = (self.0.path().join("root"), self.0.path().join("state"));
        let own = [
            "--storage-driver",
            "vfs",
            "--root",
            root.to_str().unwrap(),
            "--runroot",
            state.to_str().unwrap(),
        ];
        run("buildah", &[&own, arguments].concat())
    }

    /// `FROM scratch; ADD app.wasm /; CMD ["app.wasm", "one"]`, the file without its run bit.
    fn image(&self, name: &str, format: &str) {
        let file = support::write(self.0.path(), "app.wasm", &module());
        let container = self.run(&["from", "scratch"]);
        self.run(&["copy", &container, file.to_str().unwrap(), "/app.wasm"]);
        let config =
            ["config", "--cmd", r#"["app.wasm","one"]"#, "--env", "A=1", "--workingdir", "/srv", &container];
        self.run(&config);
        self.run(&["commit", "--format", format, &container, name]);
        self.run(&["rm", &container]);
    }
}

async fn pull(
    registry: &RealRegistry,
    name: &str,
    auth: RegistryAuth,
    store: &Store,
) -> Result<Digest, Error> {
    let reference = registry.reference(name);
    let client = Registry::new(reference.host(), Access { auth, ..Access::default() })?;
    client.pull(&reference, store, &|_| {}).await.map(|i| i.manifest.digest)
}

fn assert_app(store: &Store, manifest: &Digest) {
    let image = Image::load(store, manifest).unwrap();
    let r = resolve(&image, &Overrides::default()).unwrap();
    assert_eq!((r.module.path.as_str(), r.working_dir.as_str()), ("/app.wasm", "/srv"));
    assert_eq!(r.argv, ["app.wasm", "one"]);
    assert!(r.env.contains(&("A".to_owned(), "1".to_owned())), "{:?}", r.env);
    assert_eq!(store.read(&r.module.digest, 1 << 20).unwrap(), module());
}

#[tokio::test]
async fn what_buildah_pushes_is_pulled_in_every_format_and_packing() {
    if !tools("what_buildah_pushes_is_pulled_in_every_format_and_packing") {
        return;
    }
    let (registry, buildah) = (RealRegistry::start(false), Buildah::new());
    for (format, packing) in [("docker", "gzip"), ("oci", "gzip"), ("oci", "zstd")] {
        let name = format!("{format}-{packing}:1");
        buildah.image(&name, format);
        let target = format!("docker://{}/{name}", registry.host);
        buildah.run(&[
            "push",
            "--tls-verify=false",
            "--compression-format",
            packing,
            "--format",
            format,
            &name,
            &target,
        ]);
        let (_dir, store) = store();
        let manifest = pull(&registry, &name, RegistryAuth::Anonymous, &store).await.unwrap();
        assert_app(&store, &manifest);
        // Pinned and from another store: the same image.
        let (_dir, other) = support::store();
        let pinned = format!("{format}-{packing}@{manifest}");
        assert_eq!(pull(&registry, &pinned, RegistryAuth::Anonymous, &other).await.unwrap(), manifest);
    }
}

#[test]
fn what_buildah_and_skopeo_save_is_imported() {
    if !tools("what_buildah_and_skopeo_save_is_imported") {
        return;
    }
    let buildah = Buildah::new();
    buildah.image("localhost/saved:1", "oci");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (docker, oci, layout) = (at("docker.tar"), at("oci.tar"), at("layout"));
    buildah.run(&["push", "localhost/saved:1", &format!("docker-archive:{docker}:saved:1")]);
    buildah.run(&["push", "localhost/saved:1", &format!("oci-archive:{oci}:saved")]);
    run("skopeo", &["copy", &format!("docker-archive:{docker}"), &format!("oci:{layout}:tag")]);
    let again = at("again.tar");
    run("skopeo", &["copy", &format!("oci:{layout}:tag"), &format!("docker-archive:{again}:re:2")]);
    for (path, name) in [(docker, "saved:1"), (oci, "saved"), (layout, "tag"), (again, "re:2")] {
        let (_dir, store) = store();
        let images = import(&store, Path::new(&path)).unwrap();
        let named = images.iter().find(|i| i.reference.as_deref().is_some_and(|r| r.ends_with(name)));
        assert_app(&store, &named.unwrap_or_else(|| panic!("{path}: {images:?}")).manifest.digest);
        assert!(images.iter().all(|i| i.manifest == images[0].manifest), "names of one image");
    }
}

#[tokio::test]
async fn an_index_with_another_platform_and_an_attestation_gives_the_wasm_image() {
    if !tools("an_index_with_another_platform_and_an_attestation_gives_the_wasm_image") {
        return;
    }
    let (registry, buildah) = (RealRegistry::start(false), Buildah::new());
    buildah.image("wasm:1", "oci");
    buildah.run(&["manifest", "create", "list:1"]);
    for (os, arch) in [("unknown", "unknown"), ("windows", "amd64"), ("wasip1", "wasm")] {
        let container = buildah.run(&["from", "wasm:1"]);
        buildah.run(&["config", "--label", &format!("for={os}"), &container]);
        buildah.run(&["commit", "--format", "oci", &container, os]);
        buildah.run(&["manifest", "add", "--os", os, "--arch", arch, "list:1", os]);
    }
    let target = format!("docker://{}/list:1", registry.host);
    buildah.run(&["manifest", "push", "--all", "--tls-verify=false", "list:1", &target]);
    let (_dir, store) = store();
    let manifest = pull(&registry, "list:1", RegistryAuth::Anonymous, &store).await.unwrap();
    assert_app(&store, &manifest);
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &target]);
    let index: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let chosen =
        index["manifests"].as_array().unwrap().iter().find(|m| m["digest"] == manifest.to_string()).unwrap();
    assert_eq!(chosen["platform"]["os"], "wasip1");
}

#[tokio::test]
async fn our_own_artifact_goes_through_skopeo_and_back() {
    if !tools("our_own_artifact_goes_through_skopeo_and_back") {
        return;
    }
    let registry = RealRegistry::start(false);
    let (dir, store) = store();
    let image = import(&store, &support::write(dir.path(), "sensor.wasm", &module())).unwrap().remove(0);
    let archive = dir.path().join("sensor.tar");
    export_archive(&store, &image.manifest.digest, Some("1"), &mut fs::File::create(&archive).unwrap())
        .unwrap();
    let from = format!("oci-archive:{}:1", archive.display());
    run(
        "skopeo",
        &["copy", "--dest-tls-verify=false", &from, &format!("docker://{}/sensor:1", registry.host)],
    );
    let other = Store::open(dir.path().join("other")).unwrap();
    assert_eq!(
        pull(&registry, "sensor:1", RegistryAuth::Anonymous, &other).await.unwrap(),
        image.manifest.digest
    );
    assert_eq!(Image::load(&other, &image.manifest.digest).unwrap().form, Form::Artifact);
}

#[tokio::test]
async fn credentials_are_asked_for_and_used() {
    if !tools("credentials_are_asked_for_and_used") {
        return;
    }
    let (registry, buildah) = (RealRegistry::start(true), Buildah::new());
    buildah.image("app:1", "oci");
    let target = format!("docker://{}/app:1", registry.host);
    buildah.run(&["push", "--tls-verify=false", "--creds", "me:secret", "app:1", &target]);
    let (_dir, store) = store();
    let wrong = RegistryAuth::Basic("me".into(), "wrong".into());
    for auth in [RegistryAuth::Anonymous, wrong] {
        assert!(matches!(pull(&registry, "app:1", auth, &store).await, Err(Error::Unauthorized(_))));
    }
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, registry.host);
    let auth = credentials(config.as_bytes(), &registry.host).unwrap();
    let manifest = pull(&registry, "app:1", auth, &store).await.unwrap();
    assert_app(&store, &manifest);
}

#[tokio::test]
async fn m2_a_registry_whose_disk_was_changed() {
    if !tools("m2_a_registry_whose_disk_was_changed") {
        return;
    }
    let (registry, buildah) = (RealRegistry::start(false), Buildah::new());
    buildah.image("app:1", "oci");
    buildah.run(&["push", "--tls-verify=false", "app:1", &format!("docker://{}/app:1", registry.host)]);
    let (_dir, first) = store();
    let manifest = pull(&registry, "app:1", RegistryAuth::Anonymous, &first).await.unwrap();
    let blobs = first.list().unwrap().into_iter().map(|(d, _)| d);
    for digest in blobs.filter(|d| *d != manifest && registry.blob(d).exists()) {
        let mut bytes = fs::read(registry.blob(&digest)).unwrap();
        bytes[9] ^= 1;
        fs::write(registry.blob(&digest), bytes).unwrap();
    }
    let (_dir, second) = store();
    let e = pull(&registry, &format!("app@{manifest}"), RegistryAuth::Anonymous, &second).await.unwrap_err();
    assert_eq!(e.code(), Some(Code::DigestMismatch), "{e}");
    assert_eq!(second.list().unwrap(), []);
}

#[test]
fn a_bundle_goes_whole_to_a_registry_and_back_by_skopeo_and_is_still_a_bundle() {
    use shoal_image::bundle::{Bundle, Contents, NAME, SignedDocument, write};
    if !tools("a_bundle_goes_whole_to_a_registry_and_back_by_skopeo_and_is_still_a_bundle") {
        return;
    }
    let (dir, own) = store();
    let image = shoal_image::import_module(&own, &module(), Some("app.wasm")).unwrap().manifest.digest;
    let document = |n: usize| SignedDocument { title: format!("root {n}"), envelope: vec![7; n] };
    let documents: Vec<SignedDocument> = (1..=300).map(document).collect();
    let contents = Contents { documents: &documents, images: &[(image, "app:1".to_owned())], since: None };
    let mut out = Vec::new();
    write(&contents, &own, &mut out).unwrap();
    let path = support::write(dir.path(), "site.shoal", &out);

    let registry = RealRegistry::start(false);
    let whole = format!("oci-archive:{}:{NAME}", path.display());
    let there = format!("docker://{}/site:1", registry.host);
    let back = dir.path().join("back.shoal");
    let copy = ["copy", "--all", "--preserve-digests"];
    run("skopeo", &[&copy[..], &["--dest-tls-verify=false", &whole, &there]].concat());
    let to = format!("oci-archive:{}", back.display());
    run("skopeo", &[&copy[..], &["--src-tls-verify=false", &there, &to]].concat());

    let (_other, device) = store();
    let (sent, came) =
        (Bundle::open(&path, device.root()).unwrap(), Bundle::open(&back, device.root()).unwrap());
    assert_eq!(came.documents(), documents);
    assert_eq!(came.digest(), sent.digest());
    let quiet: std::rc::Rc<dyn Fn(u64)> = std::rc::Rc::new(|_| ());
    assert_eq!(came.take(&image, &device, &quiet).unwrap().unwrap().manifest.digest, image);
    // And an image of it alone, by its own name.
    let alone = dir.path().join("app.tar");
    run(
        "skopeo",
        &[
            "copy",
            &format!("oci-archive:{}:app:1", path.display()),
            &format!("oci-archive:{}:app:1", alone.display()),
        ],
    );
    assert_eq!(import(&device, &alone).unwrap()[0].manifest.digest, image);
}
