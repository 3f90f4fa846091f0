//! What must hold of a container's probes and hooks. Pure; the rest of a container is checked in the template.

use super::template::{Form, is_below, is_path};
use crate::refusal::Refusal;
use crate::v1::{Container, File, Network, Probe, ProbeAction, ProbeKind, VolumeSource};
use std::ops::RangeInclusive;

const DAY: u64 = 24 * 3600;
const MAX_ARGUMENTS: usize = 256;

pub(super) fn check(form: &Form<'_>, c: &Container) -> Result<(), Refusal> {
    let name = &c.name;
    for (kind, probe) in c.probes() {
        let what = match kind {
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Startup => "startup",
        };
        let what = format!("container {name}: the {what} probe");
        check_times(form, &what, kind, probe)?;
        check_action(form, &what, c, &probe.action)?;
    }
    for hook in [&c.post_start, &c.pre_stop].into_iter().flatten() {
        check_entry(form, &format!("container {name}: a hook"), c, &hook.module, &hook.argv)?;
    }
    Ok(())
}

/// What comes before the others ends by itself, so nothing is asked of it while it runs.
pub(super) fn check_init(form: &Form<'_>, c: &Container) -> Result<(), Refusal> {
    let bare = c.probes().next().is_none() && c.post_start.is_none() && c.pre_stop.is_none() && !c.stdin;
    form.need(bare && c.restart_policy.is_none(), || {
        format!(
            "init container {}: it has a probe, a hook, an open standard input or a restart policy",
            c.name
        )
    })
}

fn check_times(form: &Form<'_>, what: &str, kind: ProbeKind, p: &Probe) -> Result<(), Refusal> {
    let successes = p.success_threshold.unwrap_or(1);
    let most_successes = if kind == ProbeKind::Readiness { 1_000 } else { 1 };
    let bounds: [(&str, u64, RangeInclusive<u64>); 5] = [
        ("initial delay (0 s to a day)", p.initial_delay, 0..=DAY),
        ("period (1 s to a day)", p.period, 1..=DAY),
        ("time-out (1 s to an hour)", p.timeout, 1..=3600),
        ("failure threshold (1 to 1,000)", p.failure_threshold, 1..=1_000),
        ("success threshold (1; up to 1,000 for readiness)", successes, 1..=most_successes),
    ];
    for (field, value, range) in bounds {
        form.need(range.contains(&value), || format!("{what}: its {field} is {value}"))?;
    }
    Ok(())
}

fn check_action(form: &Form<'_>, what: &str, c: &Container, action: &ProbeAction) -> Result<(), Refusal> {
    match action {
        ProbeAction::Exec { module, argv } => check_entry(form, what, c, module, argv),
        ProbeAction::Tcp { port } => check_port(form, what, *port),
        ProbeAction::Http { port, path } => {
            check_port(form, what, *port)?;
            let plain =
                path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic());
            form.need(plain, || format!("{what}: its path is not / and up to 1,023 printable characters"))
        }
        ProbeAction::FileFresh { path, max_age } => {
            form.need((1..=30 * DAY).contains(max_age), || format!("{what}: its age is 1 s to 30 days"))?;
            // The one that the container sees there: the innermost.
            let mount = c.mounts.iter().filter(|m| is_below(path, &m.path)).max_by_key(|m| m.path.len());
            let own = mount
                .filter(|m| m.path != *path)
                .and_then(|m| form.0.template.volumes.iter().find(|v| v.name == m.volume))
                .is_some_and(|v| {
                    matches!(v.source, VolumeSource::EmptyDir { .. } | VolumeSource::Persistent { .. })
                });
            form.need(is_path(path) && own, || {
                format!("{what}: {path:?} is no file in an emptyDir or persistent volume that the container mounts")
            })
        }
    }
}

/// Without a network nothing can be connected to, so such a probe would kill what is well.
fn check_port(form: &Form<'_>, what: &str, port: u64) -> Result<(), Refusal> {
    form.need((1..=65_535).contains(&port), || format!("{what}: a port is 1 to 65,535"))?;
    form.need(form.0.template.network != Network::None, || {
        format!("{what}: it connects to a port, but the pod has no network")
    })
}

/// A second entry of the same image: never bytes from elsewhere.
fn check_entry(
    form: &Form<'_>,
    what: &str,
    c: &Container,
    module: &File,
    argv: &[String],
) -> Result<(), Refusal> {
    let of_image = *module == c.image.module || c.image.files.contains(module);
    form.need(of_image && module.size > 0, || format!("{what}: {:?} is no file of the image", module.path))?;
    let sound = (1..=MAX_ARGUMENTS).contains(&argv.len()) && argv.iter().all(|a| !a.contains('\0'));
    form.need(sound, || format!("{what}: its argument vector is empty, too long or holds a NUL"))
}
