//! What `apply` and `diff` read on this machine: deployment files or CRI pairs, the devices that they name, pinned images.
//!
//! Never here: what a tag or a part of a device's id means to somebody else.

use super::Session;
use crate::args::Source;
use crate::error::{CliError, Result};
use crate::images::{self, Lock, Pinned};
use crate::manifest::deployment::{self, Parsed};
use crate::manifest::{self, Draft, cri};
use crate::output;
use shoal_image::Store;
use shoal_protocol::Code;
use shoal_protocol::ids::{DeviceId, Name};
use std::collections::BTreeMap;
use std::path::Path;

/// Reads the files and prints what in them does not do what it says.
pub(super) fn read(source: &Source) -> Result<Parsed> {
    if let Some(path) = &source.file {
        let (parsed, findings) = deployment::parse(&shown(path), &manifest::read_text(path)?)?;
        for line in findings.lines(&findings.warnings) {
            output::warn(&line);
        }
        let twice = |names: Vec<&Name>| {
            (1..names.len()).find(|i| names[..*i].contains(&names[*i])).map(|i| names[i].clone())
        };
        for (what, names) in [
            ("deployments", parsed.deployments.iter().map(|d| &d.name).collect()),
            ("configs", parsed.configs.iter().map(|d| &d.name).collect()),
        ] {
            if let Some(name) = twice(names) {
                return Err(CliError::usage(format!("{} holds two {what} called {name}", shown(path))));
            }
        }
        return Ok(parsed);
    }
    let (Some(pod), Some(container)) = (&source.pod, &source.container) else {
        return Err(CliError::usage("neither -f FILE nor --pod and --container are given"));
    };
    if source.selector.is_none() && source.device.is_empty() {
        return Err(CliError::usage("a CRI pod does not say on which devices it is to run")
            .hint("add --selector k=v or --device ID"));
    }
    let (pod_text, container_text) = (manifest::read_text(pod)?, manifest::read_text(container)?);
    let (pod_name, container_name) = (shown(pod), shown(container));
    let (mut draft, findings) = cri::parse(
        &cri::Source { file: &pod_name, text: &pod_text },
        &cri::Source { file: &container_name, text: &container_text },
        source.name.as_ref(),
    )?;
    for f in &findings {
        for line in f.lines(&f.warnings) {
            output::warn(&line);
        }
    }
    draft.target.selector = source.selector.as_deref().map(deployment::selector_from_text).transpose()?;
    Ok(Parsed { deployments: vec![draft], configs: Vec::new() })
}

/// The devices of `--device`, for a CRI pod.
pub(super) fn recipients(s: &Session, source: &Source, drafts: &mut [Draft]) -> Result<()> {
    for draft in drafts.iter_mut().filter(|_| source.pod.is_some()) {
        draft.target.devices = source.device.iter().map(|d| recipient(s, d)).collect::<Result<_>>()?;
    }
    Ok(())
}

/// A device's whole id proves itself: it is a hash of the device's key. What a part of one or a host name means, only the
/// controller knows, and that is not signed.
fn recipient(s: &Session, text: &str) -> Result<DeviceId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let device = s.device(text)?;
    Err(CliError::refused(
        Code::RecipientUnsigned.as_str(),
        format!("only the controller says that {text:?} means the device {}", device.id),
    )
    .hint(format!(
        "compare with `shoal-agent status` on the device, then write the whole id: --device {}",
        device.id
    )))
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

pub(super) fn pin(store: &Store, source: &Source, drafts: &[Draft]) -> Result<BTreeMap<String, Pinned>> {
    let lock = match &source.lock {
        Some(path) => Lock::read(path, true)?,
        None => Lock::read(Path::new(images::LOCK_FILE), false)?,
    };
    let mut pinned = BTreeMap::new();
    for image in drafts.iter().flat_map(Draft::all_containers).map(|c| &c.image) {
        if !pinned.contains_key(image) {
            pinned.insert(image.clone(), images::pin(store, &lock, image)?);
        }
    }
    Ok(pinned)
}
