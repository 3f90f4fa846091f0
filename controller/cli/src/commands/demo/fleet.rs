//! The processes of a demo: a controller, a device, and this same program as the operator, all in one folder.

use super::parts::Parts;
use super::tidy;
use crate::error::{CliError, OnPath as _, Result};
use crate::output;
use rustix::process::geteuid;
use serde_json::Value;
use shoal_ipc::Layout;
use shoal_ipc::SuperviseClient;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take; a good run takes a fraction of it.
const LIMIT: Duration = Duration::from_mins(2);
/// Uids of demos: apart from those of devices and of `shoal run`; first, for each, how many.
const UIDS: (u32, u32, u32) = (1_850_000_000, 2_000, 10_000);
/// The broker's among them.
const BROKER: u32 = 1_900;

/// A demo's fleet.
pub(super) struct Fleet<'a> {
    dir: &'a Path,
    parts: &'a Parts,
    /// The name of the device's control groups.
    pub(super) group: String,
    uid_base: u32,
    children: Vec<Child>,
}

impl<'a> Fleet<'a> {
    /// Nothing of it runs yet.
    pub(super) fn new(dir: &'a Path, parts: &'a Parts) -> Self {
        let pid = std::process::id();
        let uid_base = UIDS.0 + pid % UIDS.2 * UIDS.1;
        Self { dir, parts, group: format!("shoal-demo-{pid}"), uid_base, children: Vec::new() }
    }

    /// The operator's folder.
    pub(super) fn operator(&self) -> PathBuf {
        self.dir.join("operator")
    }

    /// The device's folder.
    pub(super) fn device(&self) -> PathBuf {
        tidy::device(self.dir)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Starts something that goes on, and notes it for whoever tidies up.
    fn start(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let path = self.log(name);
        let log = fs::File::create(&path).on_path("make", &path)?;
        let errors = log.try_clone().on_path("make", &path)?;
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C is for this process alone; the keeper ends these.
            .process_group(0)
            .spawn()
            .on_path("start", Path::new(&program))?;
        let pid = child.id();
        self.children.push(child);
        tidy::note(self.dir, pid, name)
    }

    /// Starts the controller, and gives its address.
    pub(super) fn start_controller(&mut self) -> Result<String> {
        let data = self.dir.join("controller");
        let mut command = Command::new(&self.parts.shoald);
        command.args(["run", "--listen", "127.0.0.1:0", "--name", "127.0.0.1", "--data"]).arg(&data);
        command.arg("--broker-uid").arg((self.uid_base + BROKER).to_string());
        command.env_remove("RUST_LOG").env_remove("SHOALD_BROKER");
        self.start("shoald", &mut command)?;
        self.wait("the controller to be ready", |fleet| {
            let said = fs::read_to_string(fleet.log("shoald")).unwrap_or_default();
            Ok(said.lines().find_map(|l| l.strip_prefix("API and registry: ")).map(str::to_owned))
        })
    }

    /// Logs the operator in with the credential of the controller's first start.
    pub(super) fn log_in(&self, address: &str) -> Result<()> {
        let data = self.dir.join("controller");
        let path = data.join("admin-credential");
        let credential = fs::read_to_string(&path).on_path("read", &path)?;
        let ca = data.join("ca.pem");
        let mut command = self.shoal();
        command.args(["login", address, "--token", credential.trim(), "--ca"]).arg(&ca);
        output::line(&format!("  $ shoal login {address} --token … --ca {}", ca.display()));
        finish(&mut command).map(|said| indented(&said))
    }

    /// Starts the device's guard.
    pub(super) fn start_guard(&mut self) -> Result<()> {
        let root = self.device();
        let layout = Layout::new(&root);
        let policy = layout.policy();
        let folder = policy.parent().unwrap_or(&root);
        fs::create_dir_all(folder).on_path("make", folder)?;
        let text = format!("uid_base = {}\ncgroup_parent = \"{}\"\n", self.uid_base, self.group);
        fs::write(&policy, text).on_path("write", &policy)?;
        let mut command = self.program("shoal-guard");
        command.arg("supervise").arg("--root").arg(&root);
        self.start("shoal-guard", &mut command)?;
        self.wait("the device's guard to be ready", |_| {
            Ok(SuperviseClient::connect_root(&layout).ok().map(drop))
        })
    }

    /// Enrols the device and starts its agent.
    pub(super) fn join(&mut self, join: &Path) -> Result<()> {
        let root = self.device();
        let mut enroll = self.program("shoal-agent");
        enroll.arg("enroll").arg(join).arg("--name").arg("demo-device").arg("--root").arg(&root);
        finish(&mut enroll)?;
        let mut run = self.program("shoal-agent");
        run.arg("run").arg("--root").arg(&root);
        self.start("shoal-agent", &mut run)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.parts.libexec.join(name));
        command.env("SHOAL_LIBEXEC", &self.parts.libexec).env_remove("SHOAL_ROOT").env_remove("SHOAL_LOG");
        command
    }

    /// This program, as the demo's operator.
    fn shoal(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.env("SHOAL_HOME", self.operator()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs an operator's command, and shows it with what it says.
    pub(super) fn show(&self, args: &[&str]) -> Result<()> {
        output::line(&format!("  $ shoal {}", args.join(" ")));
        finish(self.shoal().args(args)).map(|said| indented(&said))
    }

    /// What an operator's command prints; none while it fails.
    pub(super) fn ask(&self, args: &[&str]) -> Option<String> {
        let out = self.shoal().args(args).stderr(Stdio::null()).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The same as data.
    pub(super) fn data(&self, args: &[&str]) -> Option<Value> {
        serde_json::from_str(&self.ask(&[args, &["--output", "json"]].concat())?).ok()
    }

    /// Waits until `probe` gives something; nothing that should go on may end meanwhile.
    pub(super) fn wait<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(value) = probe(self)? {
                return Ok(value);
            }
            let ended = self.children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > end {
                let why = if ended { "a program of it ended" } else { "it took too long" };
                let error = CliError::failure(format!("waited for {what}: {why}"));
                return Err(error.details(self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of what each program printed.
    fn last_words(&self) -> Vec<String> {
        let mut all = Vec::new();
        for name in ["shoald", "shoal-guard", "shoal-agent"] {
            let text = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(5)..];
            all.extend(last.iter().map(|line| format!("{name}: {}", output::clean(line))));
        }
        all
    }

    /// Collects what the keeper ended.
    pub(super) fn reap(&mut self) {
        for child in &mut self.children {
            // Ended already, or nothing of ours any more.
            let _ = child.try_wait();
        }
    }
}

/// Whether real users and limits can be had.
pub(super) fn is_root() -> bool {
    geteuid().is_root()
}

/// Runs to the end and takes what it says, errors with it.
fn finish(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().display().to_string();
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| CliError::failure(format!("cannot start {name}")).because(e))?;
    let said = format!("{}{}", String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
    if out.status.success() {
        return Ok(said);
    }
    let words: Vec<String> = command.get_args().map(|a| a.display().to_string()).collect();
    let lines = said.lines().map(str::to_owned).collect();
    Err(CliError::failure(format!("`{name} {}` failed: {}", words.join(" "), out.status)).details(lines))
}

fn indented(text: &str) {
    for line in text.trim_end().lines() {
        output::line(&format!("    {line}"));
    }
}
