//! A real controller and the operators who talk to it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `(module (memory (export "memory") 1) (func (export "_start")))`.
const MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x04\x01\x02\0\x0b";

pub(crate) struct Shoald {
    child: Child,
    pub(crate) data: PathBuf,
    port: u16,
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
    pub(crate) fn start(test: &str, data: &Path) -> Option<Self> {
        let binary = Path::new(env!("CARGO_BIN_EXE_shoal")).with_file_name("shoald");
        if !binary.exists() {
            // Past the test harness's capture, which would hide it.
            let _ = writeln!(std::io::stdout(), "\nSKIPPED {test}: no {}; build it first", binary.display());
            return None;
        }
        // Somebody else may take a port between finding it free and using it.
        let started = (0..5).find_map(|_| {
            let port = free_port();
            Self::spawn(&binary, data, port).map(|child| Self { child, data: data.to_owned(), port })
        });
        Some(started.expect("shoald does not start"))
    }
    fn spawn(binary: &Path, data: &Path, port: u16) -> Option<Child> {
        let mut child = Command::new(binary)
            .args(["run", "--data"])
            .arg(data)
            .args(["--listen", &format!("127.0.0.1:{port}")])
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
    pub(crate) fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM, so that its broker ends with it.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
    pub(crate) fn start_again(&mut self) {
        let binary = Path::new(env!("CARGO_BIN_EXE_shoal")).with_file_name("shoald");
        self.child = Self::spawn(&binary, &self.data, self.port).expect("shoald ended");
    }
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
    pub(crate) fn credential(&self) -> String {
        std::fs::read_to_string(self.data.join("admin-credential")).unwrap().trim().to_owned()
    }
}

pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
    #[track_caller]
    pub(crate) fn fails(self, code: i32, start: &str) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let found = self.err.lines().any(|l| l.starts_with(start));
        assert!(found, "no line begins with {start:?} in\n{}", self.err);
        self.err
    }
}

pub(crate) struct Operator {
    pub(crate) home: PathBuf,
}

impl Operator {
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, &[])
    }
    /// The same, with more in the environment.
    pub(crate) fn run_with(&self, args: &[&str], env: &[(&str, &str)]) -> Done {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
        let out = command
            .args(args)
            .stdin(Stdio::null())
            .current_dir(&self.home)
            .env("SHOAL_HOME", &self.home)
            .env_remove("SHOAL_CONTEXT")
            .env_remove("SHOAL_TOKEN")
            .env_remove("SHOAL_PASSPHRASE")
            .env_remove("SSH_AUTH_SOCK")
            .envs(env.iter().copied())
            .output()
            .unwrap();
        Done {
            code: out.status.code().expect("an exit code"),
            out: String::from_utf8(out.stdout).unwrap(),
            err: String::from_utf8(out.stderr).unwrap(),
        }
    }
    pub(crate) fn login(&self, shoald: &Shoald) {
        let ca = shoald.data.join("ca.pem");
        let args = ["login", &shoald.url(), "--token", &shoald.credential(), "--ca", ca.to_str().unwrap()];
        self.run(&args).ok();
    }
    pub(crate) fn import(&self) {
        let module = self.home.join("app.wasm");
        std::fs::write(&module, MODULE).unwrap();
        self.run(&["image", "import", module.to_str().unwrap(), "app:1"]).ok();
    }
    /// A file for a deployment with one argument.
    pub(crate) fn file(&self, name: &str, argument: &str) -> String {
        let path = self.home.join(format!("{name}.yaml"));
        let text = format!(
            "apiVersion: shoal/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{}}\n  template:\n    spec:\n      containers:\n        - {{name: main, image: \"app:1\", args: [{argument}]}}\n"
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
    pub(crate) fn apply(&self, name: &str, argument: &str) -> Done {
        self.run(&["apply", "-f", &self.file(name, argument), "--yes"])
    }
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(&[args, &["-o", "json"]].concat()).ok()).unwrap()
    }
}

/// A folder of an operator's own.
pub(crate) fn operator(dir: &Path, name: &str) -> Operator {
    let home = dir.join(name);
    std::fs::create_dir_all(&home).unwrap();
    Operator { home }
}

/// Operators of one fleet, each with the same key; the second begins without own state.
pub(crate) fn fleet(test: &str, dir: &Path) -> Option<(Shoald, Operator, Operator)> {
    let shoald = Shoald::start(test, &dir.join("data"))?;
    let [first, second] = ["first", "second"].map(|name| Operator { home: dir.join(name) });
    for o in [&first, &second] {
        std::fs::create_dir(&o.home).unwrap();
    }
    first.login(&shoald);
    first.run(&["trust", "init", "--plain-keys"]).ok();
    std::fs::create_dir(second.home.join("keys")).unwrap();
    std::fs::copy(first.home.join("keys/operator.key"), second.home.join("keys/operator.key")).unwrap();
    second.login(&shoald);
    for o in [&first, &second] {
        o.import();
    }
    Some((shoald, first, second))
}

/// Whether a test cannot run for want of programs; says so.
pub(crate) fn lacks(test: &str, tools: &[&str]) -> bool {
    let is_there = |t: &&str| Command::new("which").arg(t).output().is_ok_and(|o| o.status.success());
    let missing: Vec<&str> = tools.iter().filter(|t| !is_there(t)).copied().collect();
    if !missing.is_empty() {
        let _ = writeln!(std::io::stdout(), "\nSKIPPED {test}: needs {}", missing.join(", "));
    }
    !missing.is_empty()
}
