//! From a draft and pinned images to the deployment that is signed. Pure: no keys, no network, no clock.

use crate::error::{CliError, Result};
use crate::images::Pinned;
use crate::manifest::config::{NEWEST, is_plain};
use crate::manifest::{ContainerDraft, Draft, ProbeActionDraft, ProbeDraft};
use shoal_image::{FileEntry, Overrides, Resolved};
use shoal_protocol::Code;
use shoal_protocol::ids::{FleetId, Name, Timestamp};
use shoal_protocol::latest::{
    Container, Deployment, DocumentRef, EntryKind, EnvFrom, EnvSource, EnvVar, File, Hook, Image, Network,
    PodTemplate, Probe, ProbeAction, Revision, VolumeSource,
};
use std::collections::BTreeMap;

/// What the fleet's state adds to a draft.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) fleet: FleetId,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) issued_at: Timestamp,
    /// Seconds that it may be accepted, when the draft does not say.
    pub(crate) lifetime: u64,
}

/// Makes the deployment of a draft. `pinned` has an entry for each image that the draft names.
pub(crate) fn deployment(
    draft: &Draft,
    pinned: &BTreeMap<String, Pinned>,
    stamp: &Stamp,
) -> Result<Deployment> {
    let read = |c: &ContainerDraft| {
        let image =
            pinned.get(&c.image).ok_or_else(|| CliError::failure(format!("{} was not read", c.image)))?;
        container(c, image, &draft.pod)
    };
    let containers = draft.containers.iter().map(read).collect::<Result<Vec<_>>>()?;
    let init_containers = draft.init_containers.iter().map(read).collect::<Result<Vec<_>>>()?;
    Ok(Deployment {
        fleet: stamp.fleet.clone(),
        epoch: stamp.epoch,
        name: draft.name.clone(),
        sequence: stamp.sequence,
        issued_at: stamp.issued_at,
        not_after: stamp.issued_at.plus(draft.expires.unwrap_or(stamp.lifetime)),
        target: draft.target.clone(),
        rollout: draft.rollout.clone(),
        logs: draft.logs,
        template: PodTemplate { containers, init_containers, ..draft.pod.clone() },
        not_before: draft.not_before,
        requires: draft.requires.clone(),
    })
}

fn file(entry: &FileEntry) -> File {
    File { path: entry.path.clone(), size: entry.size, mode: u64::from(entry.mode), digest: entry.digest }
}

fn container(c: &ContainerDraft, pinned: &Pinned, pod: &PodTemplate) -> Result<Container> {
    let what = format!("container {} ({})", c.name, c.image);
    let given = |list: &[String]| Some(list.to_vec()).filter(|l| !l.is_empty());
    let plain = c.env.iter().filter(|e| is_plain(e));
    let mut env: Vec<(String, String)> = plain.map(|e| (e.name.clone(), e.value.clone())).collect();
    // WASI has no gethostname: as other runtimes do, the name stands in the environment.
    if let Some(hostname) = &pod.hostname
        && c.env.iter().all(|e| e.name != "HOSTNAME")
    {
        env.push(("HOSTNAME".to_owned(), hostname.clone()));
    }
    let overrides = Overrides {
        command: given(&c.command),
        args: given(&c.args),
        env,
        working_dir: c.working_dir.clone(),
    };
    let Resolved { module, argv, env, working_dir } =
        shoal_image::resolve(&pinned.image, &overrides).map_err(|e| crate::images::image_error(&what, e))?;
    let facts = pinned.facts(&what, &module)?;
    facts
        .check(pod.network != Network::None, c.resources.wasm_pages)
        .map_err(|e| crate::images::image_error(&what, e))?;
    check_self_test(&what, c.self_test.as_deref(), &facts.exports)?;
    check_memory(&what, facts.memory.map(|m| m.min_pages), c.resources.memory_limit)?;
    let second = |command: &[String], called: &str| {
        let what = format!("{what}: {called}");
        let (file, argv) = entry(command, pinned, &what, &working_dir)?;
        pinned
            .facts(&what, &file)?
            .check(pod.network != Network::None, c.resources.wasm_pages)
            .map_err(|e| crate::images::image_error(&what, e))?;
        Ok((self::file(&file), argv))
    };
    let probe = |p: &Option<ProbeDraft>| p.as_ref().map(|p| probe(p, &second)).transpose();
    let hook = |command: Option<&Vec<String>>, called: &str| {
        let entry = command.map(|command| second(command, called)).transpose()?;
        Ok::<_, CliError>(entry.map(|(module, argv)| Hook { module, argv }))
    };
    Ok(Container {
        name: c.name.clone(),
        image: Image {
            reference: c.image.clone(),
            manifest: pinned.image.manifest,
            manifest_size: pinned.image.manifest_size,
            files: pinned.image.files.values().filter(|f| f.path != module.path).map(file).collect(),
            module: file(&module),
        },
        argv,
        working_dir: working_dir.clone(),
        resources: c.resources.clone(),
        readonly_rootfs: c.readonly_rootfs,
        engine: c.engine,
        env: env
            .into_iter()
            .filter(|(name, _)| !c.env.iter().any(|e| e.name == *name && !is_plain(e)))
            .map(|(name, value)| EnvVar::plain(name, value))
            .chain(c.env.iter().filter(|e| !is_plain(e)).cloned())
            .collect(),
        env_from: c.env_from.clone(),
        mounts: c.mounts.clone(),
        restart_policy: c.restart_policy,
        liveness_probe: probe(&c.liveness)?,
        readiness_probe: probe(&c.readiness)?,
        startup_probe: probe(&c.startup)?,
        devices: c.devices.clone(),
        capabilities: c.capabilities.clone(),
        self_test: c.self_test.clone(),
        stdin: c.stdin,
        post_start: hook(c.post_start.as_ref(), "postStart")?,
        pre_stop: hook(c.pre_stop.as_ref(), "preStop")?,
    })
}

/// A name that the module does not export would fail on every device.
fn check_self_test(what: &str, self_test: Option<&str>, exports: &[String]) -> Result<()> {
    match self_test {
        Some(name) if !exports.iter().any(|e| e == name) => Err(CliError::refused(
            Code::Malformed.as_str(),
            format!("{what}: selfTest is {name}, and the module exports no such function"),
        )
        .hint(format!("it exports: {}", exports.join(", ")))),
        _ => Ok(()),
    }
}

/// A guest whose memory does not even fit at its start would be killed at once, on every device.
fn check_memory(what: &str, min_pages: Option<u64>, limit: Option<u64>) -> Result<()> {
    let (Some(pages), Some(limit)) = (min_pages, limit) else { return Ok(()) };
    if pages.saturating_mul(65_536) > limit {
        return Err(CliError::refused(
            Code::OomKilled.as_str(),
            format!("{what}: the module begins with {pages} pages of memory ({} bytes), the memory limit is {limit} bytes", pages * 65_536),
        )
        .hint("raise limits.memory, or build the module with a smaller initial memory"));
    }
    Ok(())
}

type Second<'a> = &'a dyn Fn(&[String], &str) -> Result<(File, Vec<String>)>;

fn probe(p: &ProbeDraft, second: Second<'_>) -> Result<Probe> {
    let action = match &p.action {
        ProbeActionDraft::Tcp(port) => ProbeAction::Tcp { port: *port },
        ProbeActionDraft::Http(port, path) => ProbeAction::Http { port: *port, path: path.clone() },
        ProbeActionDraft::FileFresh(path, max_age) => {
            ProbeAction::FileFresh { path: path.clone(), max_age: *max_age }
        }
        ProbeActionDraft::Exec(command) => {
            let (module, argv) = second(command, "probe")?;
            ProbeAction::Exec { module, argv }
        }
    };
    Ok(Probe {
        action,
        initial_delay: p.initial_delay,
        period: p.period,
        timeout: p.timeout,
        failure_threshold: p.failure_threshold,
        success_threshold: p.success_threshold,
    })
}

/// A second module of the image, found as a command is.
fn entry(
    command: &[String],
    pinned: &Pinned,
    what: &str,
    working_dir: &str,
) -> Result<(FileEntry, Vec<String>)> {
    let overrides = Overrides {
        command: Some(command.to_vec()),
        working_dir: Some(working_dir.to_owned()),
        ..Overrides::default()
    };
    let r =
        shoal_image::resolve(&pinned.image, &overrides).map_err(|e| crate::images::image_error(what, e))?;
    Ok((r.module, r.argv))
}

/// Every reference to a config or secret, to be changed.
fn references(pod: &mut PodTemplate) -> impl Iterator<Item = (EntryKind, &mut DocumentRef)> {
    let volumes = pod.volumes.iter_mut().filter_map(|v| match &mut v.source {
        VolumeSource::Config { document, .. } => Some((EntryKind::Config, document)),
        VolumeSource::Secret { document, .. } => Some((EntryKind::Secret, document)),
        _ => None,
    });
    let variables = pod.containers.iter_mut().chain(&mut pod.init_containers).flat_map(|c| {
        let one = c.env.iter_mut().filter_map(|e| e.from.as_mut()).map(|from| match from {
            EnvSource::Config { document, .. } => (EntryKind::Config, document),
            EnvSource::Secret { document, .. } => (EntryKind::Secret, document),
        });
        one.chain(c.env_from.iter_mut().map(|from| match from {
            EnvFrom::Config { document, .. } => (EntryKind::Config, document),
            EnvFrom::Secret { document, .. } => (EntryKind::Secret, document),
        }))
    });
    volumes.chain(variables)
}

/// Puts the newest revision in place of each `pin: true`.
pub(crate) fn pin(d: &mut Deployment, newest: &dyn Fn(EntryKind, &Name) -> Option<Revision>) -> Result<()> {
    for (kind, reference) in references(&mut d.template).filter(|(_, r)| r.pin == Some(NEWEST)) {
        let revision = newest(kind, &reference.name).ok_or_else(|| {
            let word = if kind == EntryKind::Secret { "secret" } else { "config" };
            CliError::usage(format!(
                "{}: {word} {} is to be pinned, and none is published",
                d.name, reference.name
            ))
            .hint("put the ConfigMap into the same file, publish it before, or leave `pin` out")
        })?;
        reference.pin = Some(revision);
    }
    Ok(())
}

/// Whether two revisions differ in anything that devices act on.
pub(crate) fn same_effect(a: &Deployment, b: &Deployment) -> bool {
    let level = |d: &Deployment| Deployment {
        epoch: 0,
        sequence: 0,
        issued_at: Timestamp(0),
        not_after: Timestamp(0),
        ..d.clone()
    };
    level(a) == level(b)
}

/// The containers' modules and what is known of them, for showing.
pub(crate) fn module_facts(
    pinned: &BTreeMap<String, Pinned>,
) -> BTreeMap<shoal_protocol::ids::Digest, shoal_image::ModuleFacts> {
    pinned.values().flat_map(|p| p.modules.iter().map(|(d, f)| (*d, f.clone()))).collect()
}
