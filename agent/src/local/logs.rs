//! `shoal-agent logs`: the log of a container, or of a deployment's containers, whatever revision wrote it.

use super::{runtime, view};
use crate::failure::{Explained, Kind};
use crate::output;
use anyhow::{Context, Result};
use serde_json::json;
use shoal_ipc::Layout;
use shoal_runtime::logs::{Follower, LogLine, Position, tail, tail_of};
use shoal_runtime::{ContainerState, CriService, Seen};
use std::path::PathBuf;
use std::time::Duration;

/// Of a deployment, when nobody says how many lines.
const LINES: usize = 200;

/// What of which log.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// A container's id, or a deployment.
    pub what: &'a str,
    /// One container of a deployment; all otherwise.
    pub container: Option<&'a str>,
    /// Whether to go on.
    pub follow: bool,
    /// How many of the last lines.
    pub tail: Option<usize>,
    /// Whether to print time and stream.
    pub timestamps: bool,
    /// Whether to print JSON, an object a line.
    pub json: bool,
}

/// The folders of a deployment's containers: of the revision that was written to last.
fn log_folders(layout: &Layout, wanted: &Wanted<'_>) -> Result<Vec<(String, PathBuf)>> {
    let what = || format!("cannot read {}", layout.pod_logs().display());
    let missing = || {
        Explained::new(
            Kind::Failure,
            format!("there is no log of deployment {:?} on this device", wanted.what),
        )
        .hint("shoal-agent ps -a lists what ran here")
    };
    let entries = match std::fs::read_dir(layout.pod_logs()) {
        Ok(e) => e,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing().into()),
        Err(e) => return Err(e).with_context(what),
    };
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for entry in entries {
        let path = entry.with_context(what)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.rsplit_once('_').is_none_or(|(name, _)| name != wanted.what) {
            continue;
        }
        let written = last_written(&path).with_context(what)?;
        if newest.as_ref().is_none_or(|(t, _)| written > *t) {
            newest = Some((written, path));
        }
    }
    let (_, pod) = newest.ok_or_else(missing)?;
    let mut out = Vec::new();
    for entry in std::fs::read_dir(&pod).with_context(what)? {
        let path = entry.with_context(what)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && wanted.container.is_none_or(|c| c == name) {
            out.push((name, path));
        }
    }
    out.sort();
    if out.is_empty() {
        return Err(missing().into());
    }
    Ok(out)
}

fn last_written(pod: &std::path::Path) -> std::io::Result<std::time::SystemTime> {
    let mut newest = std::time::SystemTime::UNIX_EPOCH;
    for container in std::fs::read_dir(pod)? {
        let container = container?.path();
        if container.is_dir() {
            for file in std::fs::read_dir(container)? {
                newest = newest.max(file?.metadata()?.modified()?);
            }
        }
    }
    Ok(newest)
}

fn print_lines(wanted: &Wanted<'_>, container: &str, many: bool, lines: &[u8]) -> std::io::Result<()> {
    let mut out = Vec::with_capacity(lines.len());
    let mut err = Vec::new();
    // A container's standard error is printed on ours; with times, both stand in one stream in their order.
    let apart = !many && !wanted.json && !wanted.timestamps;
    for raw in lines.split_inclusive(|b| *b == b'\n') {
        let Some(line) = LogLine::parse(raw) else {
            out.extend_from_slice(raw);
            continue;
        };
        if wanted.json {
            let value = json!({
                "container": container, "time": line.timestamp, "stream": line.stream,
                "partial": line.partial, "text": String::from_utf8_lossy(line.text),
            });
            out.extend_from_slice(value.to_string().as_bytes());
            out.push(b'\n');
            continue;
        }
        if many {
            out.extend_from_slice(format!("{container}: ").as_bytes());
        }
        if wanted.timestamps {
            out.extend_from_slice(format!("{} {} ", line.timestamp, line.stream).as_bytes());
        }
        let to = if apart && line.stream == "stderr" { &mut err } else { &mut out };
        to.extend_from_slice(line.text);
        if !line.partial {
            to.push(b'\n');
        }
    }
    output::bytes(&out)?;
    output::error_bytes(&err)
}

/// `shoal-agent logs`.
pub(super) fn logs(layout: &Layout, wanted: &Wanted<'_>) -> Result<()> {
    let folders = match log_folders(layout, wanted) {
        Ok(found) => found,
        Err(none) => {
            let may_be_id = wanted.what.len() >= 4 && wanted.what.bytes().all(|b| b.is_ascii_hexdigit());
            return if may_be_id { of_container(layout, wanted) } else { Err(none) };
        }
    };
    let many = folders.len() > 1;
    let mut positions = Vec::new();
    for (name, dir) in &folders {
        let (lines, position) = tail(dir, wanted.tail.unwrap_or(LINES))
            .with_context(|| format!("cannot read {}", dir.display()))?;
        if let Err(e) = print_lines(wanted, name, many, &lines.concat()) {
            return closed(e);
        }
        positions.push((name.clone(), dir.clone(), position));
    }
    if !wanted.follow {
        return Ok(());
    }
    runtime()?.block_on(async {
        let (tell, mut told) = tokio::sync::mpsc::channel::<(String, std::io::Result<Vec<u8>>)>(16);
        for (name, dir, position) in positions {
            let mut follower =
                Follower::new(&dir, position).with_context(|| format!("cannot follow {}", dir.display()))?;
            let tell = tell.clone();
            tokio::spawn(async move {
                loop {
                    let lines = follower.next().await;
                    let last = lines.is_err();
                    if tell.send((name.clone(), lines)).await.is_err() || last {
                        return;
                    }
                }
            });
        }
        drop(tell);
        while let Some((name, lines)) = told.recv().await {
            if let Err(e) = print_lines(wanted, &name, many, &lines.context("the log ended")?) {
                return closed(e);
            }
        }
        Ok(())
    })
}

/// The log of one container, which ends when the container does.
fn of_container(layout: &Layout, wanted: &Wanted<'_>) -> Result<()> {
    let service = view::open(layout)?;
    let run = runtime()?;
    let seen = run.block_on(service.find(wanted.what)).map_err(|e| {
        let kind = if e.code() == "guard_unavailable" { Kind::Unavailable } else { Kind::Failure };
        Explained::new(kind, format!("there is no log of {:?}", wanted.what))
            .because(e)
            .hint("shoal-agent ps -a lists what ran here")
    })?;
    let name = seen.metadata.name.clone();
    let dir = seen.log_path.parent().map(PathBuf::from).unwrap_or_default();
    // A deployment's other starts stand in the same folder.
    let attempt = seen.status.as_ref().map_or(1, |s| s.metadata.attempt);
    let (lines, position) = tail_of(&dir, attempt, wanted.tail.unwrap_or(usize::MAX))
        .with_context(|| format!("cannot read {}", dir.display()))?;
    if let Err(e) = print_lines(wanted, &name, false, &lines.concat()) {
        return closed(e);
    }
    if !wanted.follow || seen.state == ContainerState::Exited {
        return Ok(());
    }
    if let Err(e) = std::fs::metadata(&dir) {
        return Err(Explained::new(Kind::Failure, format!("the container {name} has not written yet"))
            .because(e)
            .hint("start it first: shoal-agent start")
            .into());
    }
    run.block_on(follow(wanted, &service, &seen, &dir, position))
}

/// Prints what comes until the container ended and its last lines are there.
async fn follow(
    wanted: &Wanted<'_>,
    service: &CriService,
    seen: &Seen,
    dir: &std::path::Path,
    position: Position,
) -> Result<()> {
    let mut follower =
        Follower::new(dir, position).with_context(|| format!("cannot follow {}", dir.display()))?;
    let name = &seen.metadata.name;
    let end = service.wait_container(seen.key, Duration::from_hours(24 * 365));
    tokio::pin!(end);
    let mut ended = false;
    loop {
        let lines = tokio::select! {
            lines = follower.next() => lines.context("the log ended")?,
            // Supervise tells of an end once its last lines are written; what of them is not read yet is there now.
            done = &mut end, if !ended => { done?; ended = true; continue }
            () = tokio::time::sleep(Duration::from_millis(20)), if ended => return Ok(()),
        };
        if let Err(e) = print_lines(wanted, name, false, &lines) {
            return closed(e);
        }
    }
}

/// A reader that went away ends us, and that is no failure.
fn closed(e: std::io::Error) -> Result<()> {
    if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e).context("cannot print") }
}
