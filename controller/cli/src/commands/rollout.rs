//! `shoal rollout status` and `undo`, and the waiting that `shoal apply --wait` shares with it.

use super::{Session, apply, describe, duration};
use crate::args::Rollout;
use crate::error::{CliError, Result};
use crate::output;
use shoal_controller_core::api::{self, RolloutState};
use shoal_protocol::ids::Name;
use shoal_protocol::latest::Entry;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(150);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) fn run(s: &Session, command: &Rollout) -> Result<()> {
    let (name, wait, timeout, output) = match command {
        Rollout::Status { name, wait, timeout, output } => (name, wait, timeout, output),
        Rollout::Undo { name, to_revision, signing, yes, output } => {
            return apply::undo(s, name, *to_revision, (signing, *yes), output.format);
        }
    };
    let d = if *wait { wait_for(s, name, None, duration("--timeout", timeout)?)? } else { fetch(s, name)? };
    if output.format.is_data() {
        return output::data(output.format, &d);
    }
    describe::heading(&d);
    describe::rollout_lines(&d);
    Ok(())
}

fn fetch(s: &Session, name: &Name) -> Result<api::Deployment> {
    let found = s.client.find(&format!("/v1/deployments/{name}"), &format!("deployment {name}"))?;
    found.ok_or_else(|| {
        CliError::usage(format!("no deployment is called {name}"))
            .hint("list them with `shoal get deployments`")
    })
}

/// Whether the newest revision runs on all devices that can run it and answer, by the controller's word.
pub(super) fn came_through(s: &Session, live: &Entry) -> Result<bool> {
    let name = &live.name;
    let found: Option<api::Deployment> =
        s.client.find(&format!("/v1/deployments/{name}"), &format!("deployment {name}"))?;
    let newest = found.filter(|d| d.newest.digest == api::Revision::from(live.newest).digest);
    Ok(newest.is_some_and(|d| match d.state {
        RolloutState::Complete => true,
        // Whoever else it is for does not answer.
        RolloutState::Waiting => d.counts.failed == 0 && d.counts.healthy > 0,
        _ => false,
    }))
}

/// Waits until a deployment (at least at `sequence`) is complete; a halt and the time's end are errors that say why.
pub(super) fn wait_for(
    s: &Session,
    name: &Name,
    sequence: Option<u64>,
    seconds: u64,
) -> Result<api::Deployment> {
    let spinner = output::spinner(&format!("waiting for {name}"));
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let d = fetch(s, name)?;
        let c = d.counts;
        spinner.set_message(format!(
            "{name} revision {}: {} of {} healthy, {} updating, {} failed",
            d.newest.sequence,
            c.healthy,
            c.selected,
            c.updating + c.held,
            c.failed + c.unfit
        ));
        let current = sequence.is_none_or(|q| d.newest.sequence >= q);
        match d.state {
            RolloutState::Complete if current => {
                spinner.finish_and_clear();
                return Ok(d);
            }
            RolloutState::Halted if current => {
                spinner.finish_and_clear();
                let code = d.reason.clone().unwrap_or_else(|| "halted".to_owned());
                return Err(CliError::failure(format!(
                    "the rollout of {name} is halted: {} devices failed",
                    c.failed
                ))
                .code(code)
                .details(reasons(&d))
                .hint(format!(
                    "`shoal describe deployment {name}`, `shoal logs {name}`; then apply a better revision, or go back: `shoal rollout undo {name}`"
                )));
            }
            RolloutState::NoDevices if current => {
                spinner.finish_and_clear();
                output::note(&format!(
                    "{name} selects no enrolled device: nothing to wait for until one joins"
                ));
                return Ok(d);
            }
            RolloutState::Removed => {
                spinner.finish_and_clear();
                return Err(CliError::failure(format!("{name} was removed meanwhile")));
            }
            _ => {}
        }
        if began.elapsed() >= Duration::from_secs(seconds) {
            spinner.finish_and_clear();
            let what = format!(
                "{name} is {} after {seconds} s: {} of {} devices healthy",
                d.state, c.healthy, c.selected
            );
            let mut e = CliError::timed_out(what).details(reasons(&d));
            if let Some(reason) = &d.reason {
                e = e.code(reason);
            }
            return Err(e.hint(format!(
                "it goes on without you; look again with `shoal rollout status {name} --wait`"
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why devices are not healthy, at most ten of them.
fn reasons(d: &api::Deployment) -> Vec<String> {
    let not_well = d.devices.iter().filter(|x| x.rollout != api::DeviceRollout::Healthy);
    let mut lines: Vec<String> = not_well
        .take(10)
        .map(|x| {
            let pod = x.pod.as_ref();
            let why = x.message.clone().or_else(|| x.reason.clone());
            let why = why.or_else(|| pod.and_then(|p| p.message.clone().or_else(|| p.reason.clone())));
            let phase = pod.map_or("nothing reported yet", |p| p.phase.as_str());
            let host = x.hostname.as_deref().unwrap_or("-");
            let end = x.deadline.map(|t| format!(", {}", super::show::due(t))).unwrap_or_default();
            output::clean(&format!(
                "{} ({host}): {}, {phase}{}{end}",
                super::short_id(&x.device),
                x.rollout,
                why.map(|w| format!(": {w}")).unwrap_or_default()
            ))
        })
        .collect();
    if let Some(m) = &d.message {
        lines.push(output::clean(m));
    }
    lines
}
