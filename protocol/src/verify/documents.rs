//! What a deployment says of the configs and secrets that it refers to must hold by itself.

use super::config::is_key;
use super::template::{Form, all_distinct, is_below, is_path};
use crate::ids::Name;
use crate::refusal::Refusal;
use crate::v1::{Container, EntryKind, EnvFrom, PodTemplate, Revision};
use std::collections::BTreeMap;

const MAX_DOCUMENTS: usize = 32;
const MAX_ITEMS: usize = 256;
const MAX_FROM: usize = 16;
const MAX_PREFIX: usize = 128;

pub(super) fn check(form: &Form<'_>, pod: &PodTemplate) -> Result<(), Refusal> {
    let mut pins: BTreeMap<(EntryKind, &str), Option<Revision>> = BTreeMap::new();
    for (_, d) in pod.documents() {
        form.need(d.pin.is_none_or(|p| p.sequence >= 1), || format!("{}: sequences begin at 1", d.name))?;
    }
    for (kind, d) in pod.documents() {
        let first = *pins.entry((kind, d.name.as_str())).or_insert(d.pin);
        form.need(first == d.pin, || format!("{} is pinned in one place and not in another", d.name))?;
    }
    form.need(pins.len() <= MAX_DOCUMENTS, || format!("it refers to more than {MAX_DOCUMENTS} documents"))?;
    for volume in &pod.volumes {
        let Some((_, _, mode, items)) = volume.source.files() else { continue };
        let name = &volume.name;
        form.need(mode <= 0o777 && items.iter().all(|i| i.mode.is_none_or(|m| m <= 0o777)), || {
            format!("volume {name}: a mode is beyond 0777")
        })?;
        let sound = |path: &str| is_path(&format!("/{path}")) && !path.is_empty() && !path.starts_with("..");
        form.need(
            items.len() <= MAX_ITEMS
                && items.iter().all(|i| is_key(&i.key) && sound(&i.path))
                && all_distinct(items.iter().map(|i| &i.path)),
            || {
                format!(
                    "volume {name}: an item has no key, no normalised relative path, or one that stands twice"
                )
            },
        )?;
        let is_folder_too = |p: &str| items.iter().any(|o| o.path != p && is_below(&o.path, p));
        form.need(!items.iter().any(|i| is_folder_too(&i.path)), || {
            format!("volume {name}: one item's path is a folder of another")
        })?;
    }
    pod.all_containers().try_for_each(|c| check_container(form, pod, c))
}

fn check_container(form: &Form<'_>, pod: &PodTemplate, c: &Container) -> Result<(), Refusal> {
    let name = &c.name;
    form.need(
        c.env.iter().all(|e| e.from.as_ref().is_none_or(|f| e.value.is_empty() && is_key(f.parts().2))),
        || format!("container {name}: a variable has both a value and a source, or its source no key"),
    )?;
    let sound = |f: &EnvFrom| {
        let prefix = f.parts().2;
        prefix.len() <= MAX_PREFIX && !prefix.contains(['=', '\0'])
    };
    form.need(c.env_from.len() <= MAX_FROM && c.env_from.iter().all(sound), || {
        format!("container {name}: more than {MAX_FROM} documents as variables, or a prefix out of form")
    })?;
    // Files are written when the container starts, over whatever is there.
    let of_files =
        |volume: &Name| pod.volumes.iter().any(|v| v.name == *volume && v.source.files().is_some());
    for m in c.mounts.iter().filter(|m| of_files(&m.volume)) {
        form.need(m.read_only, || {
            format!("container {name}: files of a config or secret are mounted read-only")
        })?;
        let others = c.mounts.iter().filter(|o| o.path != m.path).map(|o| &o.path);
        let nodes = c.devices.iter().map(|d| &d.path);
        let image = c.image.files.iter().chain([&c.image.module]).map(|f| &f.path);
        form.need(!others.chain(nodes).chain(image).any(|p| is_below(p, &m.path)), || {
            format!("container {name}: something else is below {}, where files of a document go", m.path)
        })?;
    }
    Ok(())
}
