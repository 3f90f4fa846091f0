//! One call of one CNI plugin: its own program and nothing else, in a cleared environment, for a limited time, with capped
//! output.

use super::Failure;
use super::conf::{Verb, complaint};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Instant;

/// The most that a plugin may say.
const OUTPUT: u64 = 256 << 10;

/// Whom a call is about, and how.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// Folders that plugins are looked for in.
    pub(super) folders: &'a [PathBuf],
    /// CNI's name for the pod.
    pub(super) id: &'a str,
    /// The pod's name, for plugins that care.
    pub(super) pod: &'a str,
    /// The namespace; absent when it is gone already.
    pub(super) netns: Option<&'a Path>,
    /// The interface in it.
    pub(super) interface: &'a str,
    /// When the call must be over.
    pub(super) end: Instant,
}

/// A plugin's program: a plain file of root's that nobody else may write.
fn find(folders: &[PathBuf], kind: &str) -> Result<PathBuf, Failure> {
    for folder in folders {
        let path = folder.join(kind);
        // A link is followed: packages use them, and only root can have made one in a folder of root's.
        if let Ok(found) = fs::metadata(&path)
            && found.is_file()
        {
            trusted(&path).map_err(Failure::denied)?;
            return Ok(path);
        }
    }
    let shown: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    Err(Failure::unsupported(format!(
        "the CNI plugin {kind} is in none of {}: install containernetworking-plugins, or name its folder in network.plugins of the policy",
        shown.join(", ")
    )))
}

/// Whether nobody but root, or who runs this, can have written it.
pub(super) fn trusted(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let me = rustix::process::geteuid().as_raw();
    if (found.uid() != 0 && found.uid() != me) || found.permissions().mode() & 0o022 != 0 {
        return Err(format!("{} may be written by others than root", path.display()));
    }
    Ok(())
}

fn memory() -> Result<File, Failure> {
    let made = memfd_create("shoal-cni", MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|e| Failure::storage(format!("make a file in memory: {e}")))
}

/// What is in it, from its beginning.
fn content(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(OUTPUT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs a plugin; what it printed, if it succeeded.
pub(super) fn run(call: &Call<'_>, verb: Verb, kind: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let program = find(call.folders, kind)?;
    let io = |what: &'static str| move |e: io::Error| Failure::storage(format!("{what}: {e}"));
    // Files rather than pipes: nothing on either side can wait for the other.
    let (mut stdin, stdout, stderr) = (memory()?, memory()?, memory()?);
    stdin.write_all(input).and_then(|()| stdin.rewind()).map_err(io("write a plugin's input"))?;
    let copy = |f: &File| f.try_clone().map_err(io("copy a descriptor"));
    let folders = std::env::join_paths(call.folders)
        .map_err(|_| Failure::denied("a folder of network.plugins has a colon in its name".into()))?;
    let mut command = Command::new(&program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("CNI_COMMAND", verb.word())
        .env("CNI_CONTAINERID", call.id)
        .env("CNI_NETNS", call.netns.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", call.interface)
        .env("CNI_PATH", folders)
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=shoal;K8S_POD_NAME={}", call.pod))
        .stdin(stdin)
        .stdout(copy(&stdout)?)
        .stderr(copy(&stderr)?)
        .current_dir("/")
        .process_group(0);
    let mut child = command.spawn().map_err(|e| {
        Failure::unsupported(format!("the CNI plugin {} cannot be started: {e}", program.display()))
    })?;
    let word = verb.word();
    let Some(status) = wait(&mut child, call.end) else {
        return Err(Failure::unsupported(format!("{kind}: {word} took too long and was killed")));
    };
    let out = content(stdout).map_err(io("read a plugin's answer"))?;
    let err = content(stderr).unwrap_or_default();
    if !status.success() {
        return Err(Failure::unsupported(format!("{kind}: {word} failed: {}", complaint(&out, &err))));
    }
    if out.len() as u64 > OUTPUT {
        return Err(Failure::unsupported(format!("{kind}: {word} said more than {OUTPUT} bytes")));
    }
    Ok(out)
}

/// How it ended; nothing when it had to be killed, with all that it started.
fn wait(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty());
    let done = pidfd.is_ok_and(|pidfd| {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return false };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(n) => return n > 0,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    });
    if !done {
        // Gone already is as good.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let status = child.wait().ok();
    status.filter(|_| done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn plugin(dir: &Path, script: &str) {
        let path = dir.join("plug");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn ask(dir: &Path, script: &str, seconds: u64) -> Result<String, Failure> {
        plugin(dir, script);
        let folders = [dir.to_owned()];
        let call = Call {
            folders: &folders,
            id: "id1",
            pod: "web",
            netns: Some(Path::new("/run/netns/x")),
            interface: "eth0",
            end: Instant::now() + Duration::from_secs(seconds),
        };
        run(&call, Verb::Add, "plug", b"{\"in\":1}").map(|b| String::from_utf8(b).unwrap())
    }

    #[test]
    fn a_plugin_gets_cnis_words_its_input_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let said = ask(dir.path(), "cat; /usr/bin/env | /usr/bin/sort", 20).unwrap();
        let mut lines = said.lines();
        assert!(lines.next().unwrap().starts_with("{\"in\":1}"), "{said}");
        for line in ["CNI_CONTAINERID=id1", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0"] {
            assert!(said.contains(line), "{line} is not in {said}");
        }
        let known = ["CNI_", "PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD"];
        let rest = said.lines().skip(1).find(|l| !known.iter().any(|k| l.starts_with(k)));
        assert_eq!(rest, None, "{said}");
    }

    #[test]
    fn a_failure_a_flood_and_a_plugin_that_never_ends_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let failed = ask(dir.path(), "echo '{\"code\": 9, \"msg\": \"no way\"}'; exit 1", 20).unwrap_err();
        assert_eq!((failed.code, failed.detail.as_str()), ("kernel_unsupported", "plug: ADD failed: no way"));
        let flood = ask(dir.path(), "/usr/bin/head -c 300000 /dev/zero", 20).unwrap_err();
        assert!(flood.detail.contains("said more than"), "{}", flood.detail);
        let number = dir.path().join("number");
        let script = format!("/bin/sleep 1000 & echo $! > {}; wait", number.display());
        let late = ask(dir.path(), &script, 1).unwrap_err();
        assert!(late.detail.contains("took too long"), "{}", late.detail);
        let Ok(child) = fs::read_to_string(number) else { return };
        let end = Instant::now() + Duration::from_secs(20);
        let lives =
            || fs::read_to_string(format!("/proc/{}/cmdline", child.trim())).is_ok_and(|c| !c.is_empty());
        while lives() {
            assert!(Instant::now() < end, "what it started goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn c3_a_plugin_that_is_not_there_or_not_roots_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [dir.path().to_owned()];
        let absent = find(&folders, "bridge").unwrap_err();
        assert_eq!(absent.code, "kernel_unsupported");
        assert!(absent.detail.contains("containernetworking-plugins"), "{}", absent.detail);
        plugin(dir.path(), "");
        fs::set_permissions(dir.path().join("plug"), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(find(&folders, "plug").unwrap_err().code, "policy_denied");
    }
}
