//! The same program with the engine alone: no guard, no container, no walls; interpreted, from a plain folder.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use shoal_ipc::{EndRecord, EngineDirs, Entry, Preopen, Spec, VERSION, answer_area, read_area, sealed_memfd};

use super::Outcome;
use super::suite::Case;

/// Runs it in a temporary folder as the caller.
pub(super) fn run(case: &Case, bins: &Path) -> Result<Outcome> {
    let dir = tempfile::tempdir().context("make a folder")?;
    let (root, code) = (dir.path().join("root"), dir.path().join("program.wasm"));
    fs::create_dir(&root)?;
    fs::write(&code, &case.module)?;
    for (path, bytes) in &case.files {
        let to = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a file without a folder")?)?;
        fs::write(to, bytes)?;
    }
    let show = |p: &Path| p.to_string_lossy().into_owned();
    let spec = Spec {
        version: VERSION,
        code: show(&code),
        argv: std::iter::once(format!("{}.wasm", case.name))
            .chain(case.specification.args.iter().cloned())
            .collect(),
        env: case.specification.env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        preopens: case
            .specification
            .root
            .iter()
            .map(|_| Preopen { guest: "/".into(), host: show(&root), read_only: false })
            .collect(),
        working_dir: "/".into(),
        wasm_pages: None,
        interpreter: true,
        entry: Entry::Start,
        start_function: false,
    };
    let (task, area) = (sealed_memfd(&spec.encode())?, answer_area()?);
    let argv = EngineDirs::command(Some(&bins.join("engine/run")), &bins.join("shoal-runner"));
    let path_of = |fd: &OwnedFd| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
    // The shell puts the two descriptors in place.
    let done = Command::new("/bin/sh")
        .args(["-c", r#"exec timeout 60 "$@" 3<"$TASK" 4<>"$ANSWER""#, "sh"])
        .args(argv)
        .arg("run")
        .env("TASK", path_of(&task))
        .env("ANSWER", path_of(&area))
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::piped())
        .output()
        .context("start the runner")?;
    let (end, exit_code) = match EndRecord::from_area(&read_area(&area)) {
        Some(EndRecord::Exit { code }) => (format!("exited ({code})"), Some(code)),
        Some(other) => (format!("{other:?}"), None),
        None => (format!("{}", done.status), None),
    };
    Ok(Outcome { end, exit_code, stdout: done.stdout, stderr: done.stderr })
}
