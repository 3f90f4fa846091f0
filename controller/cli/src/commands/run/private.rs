//! The guard of one `shoal run`: a folder, a policy, a process; and another process that takes all of it away afterwards.
//!
//! The keeper waits for the end of a pipe that only `shoal run` holds, so that nothing is left behind even when that is killed.

use crate::error::{CliError, OnPath as _, Result};
use shoal_ipc::{Layout, SuperviseClient};
use shoal_runtime::cri::config::ContainerConfig;
use shoal_runtime::{CriService, Guard};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the guard may take to answer.
const READY: Duration = Duration::from_secs(20);
/// Uids of private guards: far above those of devices, so many apart.
const UIDS: (u32, u32, u32) = (1_600_000_000, 2_000, 100_000);

/// One private guard, running or not.
pub(super) struct Private {
    root: PathBuf,
    layout: Layout,
    binary: PathBuf,
    libexec: PathBuf,
    guard: Option<Child>,
    keeper: Option<Child>,
}

fn libexec(given: Option<&Path>) -> Result<PathBuf> {
    let dir = if let Some(dir) = given {
        std::path::absolute(dir).on_path("use", dir)?
    } else {
        let exe =
            std::env::current_exe().map_err(|e| CliError::failure("cannot find this program").because(e))?;
        exe.parent().map(Path::to_path_buf).unwrap_or_default()
    };
    for name in ["shoal-guard", "shoal-runner"] {
        if !dir.join(name).exists() {
            return Err(CliError::failure(format!("{name} is not in {}", dir.display()))
                .hint("install Shoal's runtime, or say where it is with --libexec or SHOAL_LIBEXEC"));
        }
    }
    Ok(dir)
}

impl Private {
    /// The folder with its policy, and the keeper; no guard yet.
    pub(super) fn prepare(given: Option<&Path>, config: &ContainerConfig, network: &str) -> Result<Self> {
        let libexec = libexec(given)?;
        let dir = tempfile::Builder::new()
            .prefix("shoal-run-")
            .tempdir()
            .map_err(|e| CliError::failure("cannot make a temporary folder").because(e))?;
        // The guard's other uids have to pass through; everything below has its own mode.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).on_path("open", dir.path())?;
        let binary = libexec.join("shoal-guard");
        let root = dir.path().canonicalize().on_path("find", dir.path())?;
        let keeper = spawn_keeper(&binary, &root)?;
        // From here on the keeper removes it.
        let _ = dir.keep();
        let layout = Layout::new(&root);
        let private = Self { root, layout, binary, libexec, guard: None, keeper: Some(keeper) };
        private.write_policy(config, network)?;
        Ok(private)
    }

    fn write_policy(&self, config: &ContainerConfig, network: &str) -> Result<()> {
        let pid = std::process::id();
        let paths: Vec<String> = config.mounts.iter().map(|m| toml_text(&m.host_path)).collect();
        let devices: Vec<String> = config.devices.iter().map(|d| toml_text(&d.host_path)).collect();
        let text = format!(
            "local_unsigned = true\nuid_base = {}\ncgroup_parent = \"shoal-run-{pid}\"\n[allow]\nhost_paths = [{}]\nnetwork = [\"{network}\"]\ndevices = [{}]\n",
            UIDS.0 + pid % UIDS.2 * UIDS.1,
            paths.join(", "),
            devices.join(", ")
        );
        let text = match std::env::var_os("CNI_PATH") {
            Some(path) if network == "pod" => {
                let folders = std::env::split_paths(&path).map(|p| toml_text(&p.to_string_lossy()));
                format!("{text}[network]\nplugins = [{}]\n", folders.collect::<Vec<_>>().join(", "))
            }
            _ => text,
        };
        let path = self.layout.policy();
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).on_path("make", folder)?;
        fs::write(&path, text).on_path("write", &path)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn guard(&self) -> Guard {
        Guard::of_root(self.layout.clone())
    }

    pub(super) fn service(&self) -> Result<CriService> {
        CriService::local(&self.layout).map_err(|e| CliError::failure("cannot keep what runs").because(e))
    }

    fn log(&self) -> PathBuf {
        self.root.join("guard.log")
    }

    /// Adds what the guard said last, when something went wrong under it.
    pub(super) fn explain(&self, error: CliError) -> CliError {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).filter(|l| !l.contains(": ready")).collect();
        error.details(lines.into_iter().rev().take(5).rev().collect())
    }

    /// Starts the guard and waits until it answers.
    pub(super) async fn start(&mut self) -> Result<()> {
        let log = fs::File::create(self.log()).on_path("make", &self.log())?;
        let guard = Command::new(&self.binary)
            .args(["supervise".as_ref(), "--root".as_ref(), self.root.as_os_str()])
            .env("SHOAL_LIBEXEC", &self.libexec)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for this process alone.
            .process_group(0)
            .spawn()
            .on_path("start", &self.binary)?;
        let guard = self.guard.insert(guard);
        let end = Instant::now() + READY;
        loop {
            if SuperviseClient::connect_root(&self.layout).is_ok() {
                return Ok(());
            }
            let gone = guard.try_wait().is_ok_and(|s| s.is_some());
            if gone || Instant::now() > end {
                return Err(self.explain(CliError::failure("the private guard does not start")));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Ends all and waits until nothing is left.
    pub(super) fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            // It says itself what it could not do.
            let _ = keeper.wait();
        }
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A text in TOML's quotes, which for a path are JSON's.
fn toml_text(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

fn spawn_keeper(guard: &Path, root: &Path) -> Result<Child> {
    Command::new("/proc/self/exe")
        .args(["run-keeper".as_ref(), guard.as_os_str(), root.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| CliError::failure("cannot start the process that tidies up").because(e))
}

/// The keeper's side: waits for the other's end, then has everything stopped and removed.
pub(super) fn keeper(guard: &Path, root: &Path) -> Result<()> {
    // Whatever ends the wait, tidying up is next.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let ran = Layout::new(root).supervise_dir().exists();
    if ran {
        let status = Command::new(guard)
            .args(["stop-all".as_ref(), "--root".as_ref(), root.as_os_str()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .on_path("start", guard)?;
        if !status.success() {
            return Err(CliError::failure(format!("what ran below {} could not be stopped", root.display()))
                .hint(format!("{} stop-all --root {}", guard.display(), root.display())));
        }
    }
    fs::remove_dir_all(root).on_path("remove", root)
}
