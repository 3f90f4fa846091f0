//! The end of a demo: its processes, groups, mounts and folder go, whoever asks for it, and however the demo itself ended.
//!
//! What runs is noted in the demo's folder. A keeper process waits for the end of a pipe that only the demo holds.

use crate::error::{CliError, OnPath as _, Result};
use crate::output;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use shoal_ipc::Layout;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// One line a process: its id, and its name as the kernel has it.
const PROCESSES: &str = "processes";
/// Where the programs are.
const LIBEXEC: &str = "libexec";
/// How long a process may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Said to the keeper: leave it all.
const LEAVE: u8 = b'k';

/// The device's folder of a demo.
pub(super) fn device(dir: &Path) -> PathBuf {
    dir.join("device")
}

/// Makes the notes of a new demo.
pub(super) fn begin(dir: &Path, libexec: &Path) -> Result<()> {
    let note = dir.join(LIBEXEC);
    fs::write(&note, libexec.as_os_str().as_encoded_bytes()).on_path("write", &note)?;
    let processes = dir.join(PROCESSES);
    fs::write(&processes, "").on_path("write", &processes)
}

/// Notes a process.
pub(super) fn note(dir: &Path, pid: u32, name: &str) -> Result<()> {
    let path = dir.join(PROCESSES);
    let mut file = fs::File::options().append(true).open(&path).on_path("open", &path)?;
    writeln!(file, "{pid} {name}").on_path("write", &path)
}

/// The process that tidies up.
pub(super) struct Keeper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// Starts it; from here on the folder is its own to remove.
    pub(super) fn spawn(dir: &Path) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["demo-keeper".as_ref(), dir.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C is for the demo alone.
            .process_group(0)
            .spawn()
            .map_err(|e| CliError::failure("cannot start the process that tidies up").because(e))?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }

    /// Has everything removed, and waits for it.
    pub(super) fn tidy(&mut self) {
        drop(self.pipe.take());
        // It says itself what it could not do.
        let _ = self.child.wait();
    }

    /// Has everything left as it is.
    pub(super) fn leave(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(&[LEAVE]);
        }
        let _ = self.child.wait();
    }
}

/// The keeper's side.
pub(super) fn keeper(dir: &Path) -> Result<()> {
    let mut said = Vec::new();
    // Whatever ends the wait, tidying up is next.
    let _ = std::io::stdin().read_to_end(&mut said);
    if said.contains(&LEAVE) { Ok(()) } else { stop(dir) }
}

/// Ends what runs in a demo's folder, and removes it.
pub(super) fn stop(dir: &Path) -> Result<()> {
    // What its notes say is done with this user's rights: nobody else may have written them.
    let folder = fs::symlink_metadata(dir).on_path("look at", dir)?;
    if !folder.is_dir() || folder.uid() != geteuid().as_raw() || folder.mode() & 0o022 != 0 {
        return Err(CliError::usage(format!(
            "{} is no folder that only this user can write to",
            dir.display()
        )));
    }
    let path = dir.join(PROCESSES);
    let text = fs::read_to_string(&path)
        .map_err(|e| CliError::usage(format!("{} is no folder of a demo", dir.display())).because(e))?;
    let libexec = fs::read_to_string(dir.join(LIBEXEC)).on_path("read", &dir.join(LIBEXEC))?;
    let noted: Vec<(i32, &str)> = text.lines().filter_map(parse).collect();
    let of = |wanted: &'static str| noted.iter().filter(move |(_, name)| *name == wanted);
    for (pid, name) in of("shoal-agent") {
        end(*pid, name);
    }
    let root = device(dir);
    let stopped = stop_device(Path::new(&libexec), &root);
    for (pid, name) in of("shoal-guard").chain(of("shoald")) {
        end(*pid, name);
    }
    stopped?;
    fs::remove_dir_all(dir).on_path("remove", dir)
}

fn stop_device(libexec: &Path, root: &Path) -> Result<()> {
    if !Layout::new(root).supervise_dir().exists() {
        return Ok(());
    }
    let guard = libexec.join("shoal-guard");
    let status = Command::new(&guard)
        .args(["stop-all".as_ref(), "--root".as_ref(), root.as_os_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .on_path("start", &guard)?;
    if status.success() {
        return Ok(());
    }
    Err(CliError::failure(format!("what runs below {} could not be stopped", root.display())).hint(format!(
        "{} stop-all --root {}",
        guard.display(),
        root.display()
    )))
}

fn parse(line: &str) -> Option<(i32, &str)> {
    let (pid, name) = line.split_once(' ')?;
    Some((pid.parse().ok()?, name))
}

/// Whether a process of this id and name is there and has not ended: its parent may not have asked for its end yet.
fn runs(pid: i32, name: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((head, tail)) = stat.rsplit_once(") ") else { return false };
    head.ends_with(&format!("({name}")) && !tail.starts_with('Z')
}

/// Asks it to end, and makes it after a while.
fn end(pid: i32, name: &str) {
    let Some(raw) = Pid::from_raw(pid) else { return };
    for signal in [Signal::TERM, Signal::KILL] {
        let deadline = Instant::now() + GRACE;
        if runs(pid, name) {
            // It may end by itself just now.
            let _ = kill_process(raw, signal);
        }
        while runs(pid, name) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What is left of a demo: folders of groups, mounts, its own folder. Nothing, if all went well.
pub(super) fn leftovers(dir: &Path, group: &str) -> Vec<String> {
    let mut left = Vec::new();
    if dir.exists() {
        left.push(dir.display().to_string());
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = dir.display().to_string();
    left.extend(mounts.lines().filter(|m| m.contains(&below)).map(str::to_owned));
    let base = Path::new("/sys/fs/cgroup");
    let trees = fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path());
    let groups = std::iter::once(base.to_owned()).chain(trees).map(|tree| tree.join(group));
    left.extend(groups.filter(|g| g.is_dir()).map(|g| g.display().to_string()));
    left
}

/// Says what is left, if anything.
pub(super) fn check(dir: &Path, group: &str) -> Result<()> {
    let left = leftovers(dir, group);
    if left.is_empty() {
        output::line("nothing is left: no process, no control group, no mount, no file");
        return Ok(());
    }
    Err(CliError::failure("something of the demo is left").details(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_a_demos_own_folder_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        let error = stop(dir.path()).unwrap_err().render();
        assert!(error.contains("is no folder of a demo"), "{error}");
        begin(dir.path(), Path::new("/usr/lib/shoal")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = stop(dir.path()).unwrap_err().render();
        assert!(error.contains("only this user can write to"), "{error}");
        assert!(dir.path().join("precious").exists());
    }

    #[test]
    fn a_process_that_ended_or_has_another_name_is_let_be() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        end(pid, "shoald");
        assert!(child.try_wait().unwrap().is_none(), "another program has this id");
        end(pid, "sleep");
        assert!(!runs(pid, "sleep"), "ended, though nobody has waited for it yet");
        child.wait().unwrap();
    }

    #[test]
    fn a_demo_that_is_told_to_stop_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("demo");
        fs::create_dir(&own).unwrap();
        begin(&own, Path::new("/usr/lib/shoal")).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        note(&own, child.id(), "shoald").unwrap();
        stop(&own).unwrap();
        assert!(!own.exists() && child.try_wait().unwrap().is_none(), "it was no shoald");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
