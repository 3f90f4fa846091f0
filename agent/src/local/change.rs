//! The verbs that change uid 0's own pods: runp, create, start, stop, stopp, rm, rmp. They speak on uid 0's own socket.

use super::{images, runtime};
use crate::failure::{Explained, Kind};
use crate::output;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use shoal_ipc::Layout;
use shoal_runtime::cri::config::{
    CONFIG_MAX, ContainerConfig, PodSandboxConfig, container_notes, sandbox_notes,
};
use shoal_runtime::{ContainerState, CriService};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// The service over uid 0's own socket; a clear word to whoever may not have it.
fn open(layout: &Layout) -> Result<CriService> {
    let socket = layout.supervise_root_socket();
    let owner = match std::fs::metadata(&socket) {
        Ok(m) => m.uid(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let root = layout.root().display();
            return Err(Explained::new(Kind::Unavailable, format!("no guard runs below {root}"))
                .hint(format!("start it first: shoal-guard supervise --root {root}"))
                .into());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot look at {}", socket.display())),
    };
    if owner != rustix::process::geteuid().as_raw() {
        return Err(Explained::new(
            Kind::Refused,
            format!("not_admitted: unsigned pods are started by uid {owner} only"),
        )
        .hint("run it with sudo")
        .into());
    }
    Ok(CriService::local(layout)?)
}

/// What supervise says when the policy is silent, with what to do about it.
fn explained(error: shoal_runtime::Error, layout: &Layout) -> anyhow::Error {
    if error.code() == "not_admitted" {
        let policy = layout.policy().display().to_string();
        return Explained::new(Kind::Refused, "not_admitted: this device starts nothing unsigned")
            .because(error)
            .hint(format!(
                "to allow it to uid 0, say `local_unsigned = true` in {policy} and restart the guard"
            ))
            .into();
    }
    let kind = match error.code().as_str() {
        "unsupported_value" => Kind::Usage,
        "not_found" | "ambiguous" | "wrong_state" | "timed_out" | "storage_unavailable" => Kind::Failure,
        "guard_unavailable" | "compiler_absent" => Kind::Unavailable,
        _ => Kind::Refused,
    };
    let code = error.code();
    Explained::new(kind, format!("{code}: it was not done")).because(error).into()
}

fn read<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let usage = |text: String| Explained::new(Kind::Usage, text);
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(CONFIG_MAX as u64 + 1).read_to_end(&mut text))
        .map_err(|e| usage(format!("cannot read {}", path.display())).because(e))?;
    if text.len() > CONFIG_MAX {
        return Err(usage(format!("{} has more than {CONFIG_MAX} bytes", path.display())).into());
    }
    serde_json::from_slice(&text)
        .map_err(|e| usage(format!("{} is no {what}", path.display())).because(e).into())
}

/// What is not obeyed, on standard error: standard output is the id alone.
fn tell(file: &Path, notes: &[String]) {
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    for note in notes {
        output::error(&format!("note: {name}: {note}"));
    }
}

pub(super) fn runp(layout: &Layout, handler: &str, file: &Path) -> Result<()> {
    if !handler.is_empty() && handler != "wasm" {
        return Err(Explained::new(Kind::Usage, format!("there is no runtime {handler:?}, only wasm")).into());
    }
    let config: PodSandboxConfig = read(file, "PodSandboxConfig")?;
    let service = open(layout)?;
    let id = runtime()?.block_on(service.run_pod_sandbox(&config)).map_err(|e| explained(e, layout))?;
    tell(file, &sandbox_notes(&config));
    output::line(&id);
    Ok(())
}

pub(super) fn create(layout: &Layout, with_pull: bool, pod: &str, file: &Path, sandbox: &Path) -> Result<()> {
    let config: ContainerConfig = read(file, "ContainerConfig")?;
    // Only the pod's own counts; the file must be one all the same.
    let _: PodSandboxConfig = read(sandbox, "PodSandboxConfig")?;
    if config.image.image.is_empty() {
        let what = format!("{}: image.image is missing", file.display());
        return Err(Explained::new(Kind::Usage, what).into());
    }
    let service = open(layout)?;
    // Before the image is read: a pod that is not there or stopped needs none.
    service.pod_sandbox_status(pod).map_err(|e| explained(e, layout))?;
    let worker = images::Worker::start(layout, with_pull, &config)?;
    let made =
        runtime()?.block_on(service.create_container(pod, &config, worker.image(), &|f| worker.open(f)));
    worker.end();
    let id = made.map_err(|e| explained(e, layout))?;
    tell(file, &container_notes(&config));
    output::line(&id);
    Ok(())
}

/// Does it to each, prints what was done, and goes on after a failure; the last one is the result.
fn each(ids: &[String], mut act: impl FnMut(&str) -> Result<String>) -> Result<()> {
    let mut failed = None;
    for id in ids {
        match act(id) {
            Ok(done) => output::line(&done),
            Err(e) => {
                if let Some(before) = failed.replace(e) {
                    output::error(&format!("error: {before:#}"));
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

pub(super) fn start(layout: &Layout, ids: &[String]) -> Result<()> {
    let service = open(layout)?;
    let run = runtime()?;
    // crictl answers with the words of the question.
    each(ids, |id| {
        run.block_on(service.start_container(id)).map_err(|e| explained(e, layout))?;
        Ok(id.to_owned())
    })
}

pub(super) fn stop(layout: &Layout, timeout: u32, ids: &[String]) -> Result<()> {
    let service = open(layout)?;
    let run = runtime()?;
    let timeout = Duration::from_secs(timeout.into());
    each(ids, |id| {
        run.block_on(service.stop_container(id, timeout)).map_err(|e| explained(e, layout))?;
        Ok(id.to_owned())
    })
}

pub(super) fn stopp(layout: &Layout, ids: &[String]) -> Result<()> {
    let service = open(layout)?;
    let run = runtime()?;
    each(ids, |id| {
        run.block_on(service.stop_pod_sandbox(id)).map_err(|e| explained(e, layout))?;
        Ok(format!("Stopped sandbox {id}"))
    })
}

pub(super) fn rm(layout: &Layout, force: bool, all: bool, ids: &[String]) -> Result<()> {
    let service = open(layout)?;
    let run = runtime()?;
    let mut ids = ids.to_vec();
    if all {
        let own = run.block_on(service.seen()).map_err(|e| explained(e, layout))?;
        ids = own.into_iter().filter(|s| s.recorded).map(|s| s.id).collect();
    }
    each(&ids, |id| {
        let seen = run.block_on(service.find(id)).map_err(|e| explained(e, layout))?;
        if seen.state == ContainerState::Running && !force {
            let what = format!("wrong_state: the container {id} runs");
            return Err(Explained::new(Kind::Failure, what).hint("stop it first, or use --force").into());
        }
        run.block_on(service.remove_container(id)).map_err(|e| explained(e, layout))?;
        Ok(id.to_owned())
    })
}

pub(super) fn rmp(layout: &Layout, force: bool, all: bool, ids: &[String]) -> Result<()> {
    let service = open(layout)?;
    let run = runtime()?;
    let mut ids = ids.to_vec();
    if all {
        let own = service.list_pod_sandbox().map_err(|e| explained(e, layout))?;
        ids = own.into_iter().map(|p| p.id).collect();
    }
    each(&ids, |id| {
        let (pod, _) = service.pod_sandbox_status(id).map_err(|e| explained(e, layout))?;
        if pod.state == "SANDBOX_READY" && !force {
            let what = format!("wrong_state: the pod {id} is ready");
            return Err(Explained::new(Kind::Failure, what)
                .hint("stop it first (stopp), or use --force")
                .into());
        }
        run.block_on(service.remove_pod_sandbox(id)).map_err(|e| explained(e, layout))?;
        Ok(format!("Removed sandbox {id}"))
    })
}
