//! The CLI against a real controller: login, founding, signing, conflicts, lost state, restored backups.
//!
//! Needs a built `shoald` beside the tested binary (`cargo build -p shoald`); without it the tests say so and are skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `(module (memory (export "memory") 1) (func (export "_start")))`.
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

struct Shoald {
    child: Child,
    data: PathBuf,
    port: u16,
    mqtt: u16,
}

impl Drop for Shoald {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Shoald {
    /// Nothing when there is no `shoald` to start.
    fn start(test: &str, data: &Path) -> Option<Self> {
        let binary = Path::new(env!("CARGO_BIN_EXE_shoal")).with_file_name("shoald");
        if !binary.exists() {
            // Past the test harness's capture, which would hide it.
            let _ = writeln!(std::io::stdout(), "\nSKIPPED {test}: no {}; build it first", binary.display());
            return None;
        }
        // Somebody else may take a port between finding it free and using it.
        let started = (0..5).find_map(|_| {
            let (port, mqtt) = (free_port(), free_port());
            Self::spawn(&binary, data, port, mqtt).map(|child| Self {
                child,
                data: data.to_owned(),
                port,
                mqtt,
            })
        });
        Some(started.expect("shoald does not start"))
    }
    fn spawn(binary: &Path, data: &Path, port: u16, mqtt: u16) -> Option<Child> {
        let mut child = Command::new(binary)
            .args(["run", "--data"])
            .arg(data)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--mqtt", &format!("127.0.0.1:{mqtt}")])
            .args(["--name", "127.0.0.1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        // The credential is written once all is set up; a port may answer for another test's controller.
        let credential = data.join("admin-credential");
        while !credential.exists() || TcpStream::connect(("127.0.0.1", port)).is_err() {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "shoald does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(child)
    }
    fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM, so that its broker ends with it.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
    fn start_again(&mut self) {
        let binary = Path::new(env!("CARGO_BIN_EXE_shoal")).with_file_name("shoald");
        self.child = Self::spawn(&binary, &self.data, self.port, self.mqtt).expect("shoald ended");
    }
    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
    fn credential(&self) -> String {
        std::fs::read_to_string(self.data.join("admin-credential")).unwrap().trim().to_owned()
    }
}

struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
    #[track_caller]
    fn fails(self, code: i32, start: &str) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let found = self.err.lines().any(|l| l.starts_with(start));
        assert!(found, "no line begins with {start:?} in\n{}", self.err);
        self.err
    }
}

struct Operator {
    home: PathBuf,
}

impl Operator {
    fn run(&self, args: &[&str]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        let out = command
            .args(args)
            .current_dir(&self.home)
            .env("SHOAL_HOME", &self.home)
            .env_remove("SHOAL_CONTEXT")
            .env_remove("SHOAL_TOKEN")
            .output()
            .unwrap();
        Done {
            code: out.status.code().expect("an exit code"),
            out: String::from_utf8(out.stdout).unwrap(),
            err: String::from_utf8(out.stderr).unwrap(),
        }
    }
    fn login(&self, shoald: &Shoald) {
        let ca = shoald.data.join("ca.pem");
        let args = ["login", &shoald.url(), "--token", &shoald.credential(), "--ca", ca.to_str().unwrap()];
        self.run(&args).ok();
    }
    fn import(&self) {
        let module = self.home.join("app.wasm");
        std::fs::write(&module, MODULE).unwrap();
        self.run(&["image", "import", module.to_str().unwrap(), "app:1"]).ok();
    }
    /// A file for a deployment with one argument.
    fn file(&self, name: &str, argument: &str) -> String {
        let path = self.home.join(format!("{name}.yaml"));
        let text = format!(
            "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{}}\n  template:\n    spec:\n      containers:\n        - {{name: main, image: \"app:1\", args: [{argument}]}}\n"
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn apply(&self, name: &str, argument: &str) -> Done {
        self.run(&["apply", "-f", &self.file(name, argument), "--yes"])
    }
    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(&[args, &["-o", "json"]].concat()).ok()).unwrap()
    }
}

/// Operators of one fleet, each with the same key; the second begins without own state.
fn fleet(test: &str, dir: &Path) -> Option<(Shoald, Operator, Operator)> {
    let shoald = Shoald::start(test, &dir.join("data"))?;
    let [first, second] = ["first", "second"].map(|name| Operator { home: dir.join(name) });
    for o in [&first, &second] {
        std::fs::create_dir(&o.home).unwrap();
    }
    first.login(&shoald);
    first.run(&["trust", "init"]).ok();
    std::fs::create_dir(second.home.join("keys")).unwrap();
    std::fs::copy(first.home.join("keys/operator.key"), second.home.join("keys/operator.key")).unwrap();
    second.login(&shoald);
    for o in [&first, &second] {
        o.import();
    }
    Some((shoald, first, second))
}

#[test]
fn login_pins_the_authority_and_tries_the_credential() {
    let dir = tempfile::tempdir().unwrap();
    let name = "login_pins_the_authority_and_tries_the_credential";
    let Some(mut shoald) = Shoald::start(name, &dir.path().join("data")) else { return };
    let o = Operator { home: dir.path().to_owned() };
    let (url, token) = (shoald.url(), shoald.credential());
    let wrong = format!("sha256:{}", "0".repeat(64));
    let said = o
        .run(&["login", &url, "--token", &token, "--ca-fingerprint", &wrong])
        .fails(3, "error[base_untrusted]");
    let right = said.split("fingerprint ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    o.run(&["login", &url, "--token", "shoal_wrong", "--ca-fingerprint", &right]).fails(7, "error: https://");
    o.run(&["get", "devices"]).fails(7, "error: not logged in");
    o.run(&["login", &url, "--token", &token, "--ca-fingerprint", &right]).ok();
    o.run(&["get", "devices"]).ok();
    shoald.stop();
    o.run(&["get", "devices"]).fails(4, "error: nothing listens at https://127.0.0.1:");
}

#[test]
fn s20_two_operators_never_lose_each_others_work() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_shoald, first, second)) = fleet("s20_two_operators_never_lose_each_others_work", dir.path())
    else {
        return;
    };
    first.apply("one", "a").ok();
    let said = second.apply("two", "a").fails(3, "error[state_lost]");
    let digest = said.lines().find_map(|l| l.trim().strip_prefix("sha256:")).unwrap();
    let adopt = format!("sha256:{digest}");
    second.run(&["apply", "-f", &second.file("two", "a"), "--yes", "--adopt", &adopt]).ok();
    // Many at once, on both sides: each is published, whoever was first.
    let all: Vec<Done> = std::thread::scope(|s| {
        let start = |o: &'static str, n: usize| {
            let who = if o == "first" { &first } else { &second };
            s.spawn(move || who.apply(&format!("{o}-{n}"), "a"))
        };
        let running: Vec<_> = (0..2).flat_map(|n| [start("first", n), start("second", n)]).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for done in all {
        // Four attempts suffice here unless all lose each time; then it is a conflict and nothing else.
        assert!(matches!(done.code, 0 | 5), "{}", done.err);
    }
    let names = |o: &Operator| o.json(&["get", "deployments"])["deployments"].as_array().unwrap().len();
    assert!(names(&first) >= 4, "one, two and what was published above");
    first.apply("one", "b").ok();
    let diff = second.run(&["diff", "-f", &second.file("one", "c")]).ok();
    assert!(
        diff.contains("revision 3 over 2") && diff.contains("~ main.argv: /app.wasm b → /app.wasm c"),
        "{diff}"
    );
}

#[test]
fn a_deployment_is_signed_changed_left_alone_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_shoald, o, _)) = fleet("a_deployment_is_signed_changed_left_alone_and_removed", dir.path())
    else {
        return;
    };
    let first = o.apply("app", "a").ok();
    assert!(first.contains("revision 1 (new)") && first.contains("main.may: compute only"), "{first}");
    assert!(o.apply("app", "a").ok().contains("unchanged"));
    o.run(&["apply", "-f", &o.file("app", "z"), "--dry-run"]).ok();
    assert_eq!(
        o.json(&["get", "deployments"])["deployments"][0]["newest"]["sequence"],
        1,
        "a dry run signs nothing"
    );
    o.run(&["apply", "-f", &o.file("app", "z")]).fails(2, "error: nothing was signed");
    o.apply("app", "b").ok();
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 2);
    assert!(o.run(&["rollout", "status", "app"]).ok().contains("no_devices"));
    o.run(&["logs", "app"]).fails(2, "error: no device has a pod of app");
    o.run(&["delete", "deployment", "app", "--yes"]).ok();
    o.run(&["delete", "deployment", "app", "--yes"]).fails(2, "error: no live deployment");
    assert_eq!(o.json(&["get", "deployments"])["deployments"][0]["state"], "removed");
    o.apply("app", "c").ok();
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 3, "sequences never fall");
    let join = o.home.join("join.shoal");
    o.run(&["token", "create", "--labels", "a=b", "--uses", "2", "-o", join.to_str().unwrap()]).ok();
    assert!(std::fs::read_to_string(&join).unwrap().starts_with("-----BEGIN SHOAL JOIN FILE-----"));
    assert_eq!(o.json(&["get", "tokens"])["tokens"][0]["uses"], 2);
}

#[test]
fn s26_a_restored_controller_is_noticed_and_given_what_it_lost() {
    let dir = tempfile::tempdir().unwrap();
    let name = "s26_a_restored_controller_is_noticed_and_given_what_it_lost";
    let Some((mut shoald, o, _)) = fleet(name, dir.path()) else { return };
    o.apply("gone", "a").ok();
    o.run(&["delete", "deployment", "gone", "--yes"]).ok();
    o.apply("app", "a").ok();
    shoald.stop();
    let copied =
        Command::new("cp").arg("-r").arg(&shoald.data).arg(dir.path().join("backup")).status().unwrap();
    assert!(copied.success());
    shoald.start_again();
    o.apply("app", "b").ok();
    shoald.stop();
    std::fs::remove_dir_all(&shoald.data).unwrap();
    std::fs::rename(dir.path().join("backup"), &shoald.data).unwrap();
    shoald.start_again();
    o.apply("app", "c").fails(3, "error[controller_behind]");
    o.run(&["trust", "push"]).ok();
    assert_eq!(o.json(&["describe", "deployment", "app"])["newest"]["sequence"], 2);
    o.apply("app", "c").ok();
}
