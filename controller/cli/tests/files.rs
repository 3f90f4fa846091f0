//! What an operator gets wrong in files and on the command line, through the binary, without any controller.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

struct Desk {
    dir: tempfile::TempDir,
}

struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn run(&self, args: &[&str]) -> Done {
        let out = Command::new(env!("CARGO_BIN_EXE_shoal"))
            .args(args)
            .current_dir(self.dir.path())
            .env("SHOAL_HOME", self.path("home"))
            .env_remove("SHOAL_CONTEXT")
            .env_remove("SHOAL_TOKEN")
            .output()
            .unwrap();
        Done {
            code: out.status.code().expect("an exit code"),
            out: String::from_utf8(out.stdout).unwrap(),
            err: String::from_utf8(out.stderr).unwrap().replace(self.dir.path().to_str().unwrap(), "DIR"),
        }
    }
    fn ready(&self) {
        assert_eq!(self.run(&["keys", "new", "operator", "--plain"]).code, 0);
        let module = self.write("app.wasm", MODULE);
        let done = self.run(&["image", "import", &module, "app:1", "--local"]);
        assert_eq!(done.code, 0, "{}", done.err);
    }
}

/// `(module (memory (export "memory") 1) (func (export "_start")))`.
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

fn manifest(container: &str) -> String {
    format!(
        "apiVersion: shoal/v1\nkind: Deployment\nmetadata:\n  name: app\nspec:\n  selector: {{}}\n  template:\n    spec:\n      containers:\n        - name: main\n{container}"
    )
}

const GOOD: &str = "          image: app:1\n";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples")
}

#[test]
fn malformed_yaml_says_file_line_and_column() {
    let desk = Desk::new();
    let file = desk.write("app.yaml", "kind: Deployment\nspec: [a\nmetadata: b\n");
    let done = desk.run(&["apply", "-f", &file]);
    assert_eq!(done.code, 2);
    assert!(
        done.err.starts_with("error: DIR/app.yaml:3:9: not valid YAML (line 3, column 9): "),
        "{}",
        done.err
    );
}

#[test]
fn all_mistakes_of_a_file_are_shown_together() {
    let desk = Desk::new();
    let file = desk.write(
        "app.yaml",
        manifest("          imgae: app:1\n          restartPolicy: Sometimes\n          resources: {limits: {memory: 64MB, cpu: 1x}}\n"),
    );
    let done = desk.run(&["apply", "-f", &file]);
    assert_eq!(done.code, 2);
    assert_eq!(done.out, "");
    let expected = "\
error: DIR/app.yaml has 5 problems
  DIR/app.yaml:10:11: spec.template.spec.containers[0].image: this field is required
  DIR/app.yaml:11:11: spec.template.spec.containers[0].imgae: unknown field; did you mean `image`?
  DIR/app.yaml:12:26: spec.template.spec.containers[0].restartPolicy: expected one of Always, OnFailure, Never, found \"Sometimes\"
  DIR/app.yaml:13:40: spec.template.spec.containers[0].resources.limits.memory: \"64MB\" is not an amount of memory: unit \"MB\" is unknown, did you mean Mi or M?; allowed: bytes as a number, with Ki, Mi, Gi, Ti, Pi, Ei (powers of 1024) or k, M, G, T, P, E (powers of 1000), as in 200Mi
  DIR/app.yaml:13:51: spec.template.spec.containers[0].resources.limits.cpu: \"1x\" is not an amount of CPU: unit \"x\" is unknown; allowed: CPUs as a number (2, 0.5) or thousandths of one (500m)
hint: the fields are described in `shoal apply --help`
";
    assert_eq!(done.err, expected);
}

#[test]
fn malformed_and_unknown_json_say_where() {
    let desk = Desk::new();
    let pod = desk.write("pod.json", "{\n  \"metadata\": {\n    \"name\": \"a\",,\n");
    let container = examples().join("cri/container_wasi.json");
    let args = ["apply", "--pod", &pod, "--container", container.to_str().unwrap(), "--selector", "a=b"];
    let done = desk.run(&args);
    assert_eq!(done.code, 2);
    assert!(
        done.err.starts_with("error: DIR/pod.json:3:17: not valid JSON (line 3, column 17): "),
        "{}",
        done.err
    );
    let pod =
        desk.write("pod.json", "{\"metadata\": {\"name\": \"a\"}, \"linux\": {\"cgroupParent\": \"x\"}}");
    let args = ["apply", "--pod", &pod, "--container", container.to_str().unwrap(), "--selector", "a=b"];
    let done = desk.run(&args);
    assert!(
        done.err.contains("linux.cgroupParent: unknown field; did you mean `cgroup_parent`?"),
        "{}",
        done.err
    );
}

#[test]
fn a_cri_pair_without_devices_is_not_guessed() {
    let desk = Desk::new();
    let (pod, container) =
        (examples().join("cri/sandbox_config.json"), examples().join("cri/container_wasi.json"));
    let done = desk.run(&[
        "apply",
        "--pod",
        pod.to_str().unwrap(),
        "--container",
        container.to_str().unwrap(),
        "--dry-run",
    ]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("hint: add --selector k=v or --device ID"), "{}", done.err);
}

#[test]
fn s27_a_tag_that_nothing_here_pins_is_refused() {
    let desk = Desk::new();
    desk.ready();
    let file = desk.write("app.yaml", manifest("          image: app:2\n"));
    let done = desk.run(&["apply", "-f", &file, "--yes"]);
    assert_eq!(done.code, 3);
    assert!(done.err.starts_with("error[digest_unpinned]: "), "{}", done.err);
    assert!(done.err.contains("imported here: app:1"), "{}", done.err);
    assert!(done.err.contains("hint: import it with `shoal image import SOURCE app:2`"), "{}", done.err);
}

#[test]
fn a_lock_file_pins_what_the_layout_does_not_have_and_must_agree_with_it() {
    let desk = Desk::new();
    desk.ready();
    assert_eq!(desk.run(&["image", "lock", "app:1"]).code, 0);
    std::fs::remove_dir_all(desk.path("home/images")).unwrap();
    let file = desk.write("app.yaml", manifest(GOOD));
    // Pinned and composed; only then the missing login shows.
    let done = desk.run(&["apply", "-f", &file, "--yes"]);
    assert_eq!(done.code, 7, "{}", done.err);
    let other = desk.write("other.wasm", [MODULE, b"\0\x02\x01x"].concat());
    assert_eq!(desk.run(&["image", "import", &other, "app:1", "--local"]).code, 0);
    let done = desk.run(&["apply", "-f", &file, "--yes"]);
    assert_eq!(done.code, 3);
    assert!(done.err.starts_with("error[digest_mismatch]: app:1 is sha256:"), "{}", done.err);
}

#[test]
fn a_missing_key_is_told_with_those_that_are_there() {
    let desk = Desk::new();
    desk.ready();
    let file = desk.write("app.yaml", manifest(GOOD));
    let done = desk.run(&["apply", "-f", &file, "--key", "opertor", "--yes"]);
    assert_eq!(done.code, 2);
    assert_eq!(
        done.err,
        "error: there is no key DIR/home/keys/opertor.key\nhint: your keys: operator; make one with `shoal keys new NAME`\n"
    );
}

#[test]
fn m7_what_is_no_module_is_refused_on_import() {
    let desk = Desk::new();
    for (name, bytes, code) in [
        ("elf.wasm", &b"\x7fELF\x02\x01\x01\0"[..], "not_wasm"),
        ("component.wasm", b"\0asm\x0d\0\x01\0", "component_unsupported"),
    ] {
        let file = desk.write(name, bytes);
        let done = desk.run(&["image", "import", &file, "x:1", "--local"]);
        assert_eq!(done.code, 3, "{}", done.err);
        assert!(done.err.starts_with(&format!("error[{code}]: ")), "{}", done.err);
        assert_eq!(desk.run(&["image", "ls", "-o", "json"]).out, "{\n  \"images\": []\n}\n");
    }
}

#[test]
fn nothing_listening_and_no_login_are_told_apart() {
    let desk = Desk::new();
    let done = desk.run(&["get", "pods"]);
    assert_eq!(done.code, 7);
    assert!(done.err.contains("hint: log in first: `shoal login"), "{}", done.err);
    let fingerprint = format!("sha256:{}", "0".repeat(64));
    let done = desk.run(&["login", "https://127.0.0.1:9", "--token", "x", "--ca-fingerprint", &fingerprint]);
    assert_eq!(done.code, 4);
    assert!(done.err.starts_with("error: nothing listens at https://127.0.0.1:9"), "{}", done.err);
    let done = desk.run(&["login", "http://127.0.0.1:9", "--token", "x", "--ca-fingerprint", &fingerprint]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("hint: write https://HOST:PORT"), "{}", done.err);
}

#[test]
fn help_teaches_by_example_and_shows_the_exit_codes() {
    let desk = Desk::new();
    for (args, words) in [
        (&["--help"][..], &["shoal trust init", "Exit codes:", "SHOAL_HOME"][..]),
        (
            &["apply", "--help"],
            &["apiVersion: shoal/v1", "--pod sandbox_config.json", "Exit codes:", "--dry-run"],
        ),
        (&["token", "create", "--help"], &["shoal-agent enroll join.shoal", "--uses"]),
        (&["image", "import", "--help"], &["OCI layout folder", "docker-archive"]),
        (&["get", "--help"], &["-l site=north", "devices", "pods"]),
    ] {
        let done = desk.run(args);
        assert_eq!(done.code, 0);
        for word in words {
            assert!(done.out.contains(word), "{args:?}: no {word:?} in\n{}", done.out);
        }
    }
    assert_eq!(desk.run(&["aply"]).code, 2);
}

#[test]
fn every_example_file_is_valid() {
    let desk = Desk::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(examples()).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "yaml") {
            let done = desk.run(&["diff", "-f", path.to_str().unwrap()]);
            // The file is understood; what is missing here is its image.
            assert_eq!(done.code, 3, "{}: {}", path.display(), done.err);
            assert!(done.err.contains("digest_unpinned"), "{}", done.err);
            seen += 1;
        }
    }
    assert!(seen >= 4);
}

#[test]
fn a_completion_script_is_made() {
    let desk = Desk::new();
    assert!(desk.run(&["completion", "bash"]).out.contains("_shoal()"));
}

/// A module with one import, and a `_start`.
fn importing(module: &str, name: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (import "{module}" "{name}" (func)) (memory (export "memory") 1) (func (export "_start")))"#
    ))
    .unwrap()
}

#[test]
fn m8_m10_c3_what_no_device_would_run_is_refused_on_import_with_the_devices_own_code() {
    let desk = Desk::new();
    let memory64 = wat::parse_str(r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#);
    let table = wat::parse_str(r#"(module (table 2000000 funcref) (func (export "_start")))"#);
    for (name, bytes, code, word) in [
        ("aot.wasm", b"\x7fELF\x02\x01\x01\0wasm.code\0wasm.size\0".to_vec(), "aot_untrusted", ""),
        ("memory64.wasm", memory64.unwrap(), "unsupported_proposal", "memory64"),
        ("table.wasm", table.unwrap(), "too_large", "2000000"),
        ("env.wasm", importing("env", "launch_rocket"), "import_denied", "env.launch_rocket"),
    ] {
        let file = desk.write(name, bytes);
        let done = desk.run(&["image", "import", &file, "x:1", "--local"]);
        assert_eq!(done.code, 3, "{name}: {}", done.err);
        assert!(done.err.starts_with(&format!("error[{code}]: ")), "{name}: {}", done.err);
        assert!(done.err.contains(word), "{name}: {}", done.err);
    }
}

#[test]
fn c3_what_must_be_granted_is_shown_by_inspect() {
    let desk = Desk::new();
    desk.ready();
    let file = desk.write("net.wasm", importing("wasi_snapshot_preview1", "sock_open"));
    assert_eq!(desk.run(&["image", "import", &file, "net:1", "--local"]).code, 0);
    let shown = desk.run(&["image", "inspect", "net:1"]);
    assert!(shown.out.contains("sockets"), "{}", shown.out);
}
