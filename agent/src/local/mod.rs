//! The commands that are no daemon: what looks (status, doctor, lists, logs) and what changes uid 0's own pods.
//!
//! Looking is done as the agent's uid; only what uid 0's pods are is read before. Never here: what may start (supervise says).

mod change;
mod images;
mod list;
mod logs;
mod show;
mod status;
mod view;

pub(crate) use images::import as import_image;
pub(crate) use status::status;

use crate::cli::cri::Verb;
use crate::daemon::world::World;
use crate::failure::{Explained, Kind};
use crate::store::Store;
use crate::{doctor, output, privilege};
use anyhow::{Context, Result};
use shoal_ipc::{GuardStatus, Layout, SuperviseClient};
use shoal_runtime::{Guard, RuntimeService};

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Everything that guard says, and what the agent remembers. As uid 0 the guard's own state too.
fn gather(layout: &Layout) -> Result<(World, Option<GuardStatus>)> {
    let mut own = None;
    if privilege::is_root() && layout.supervise_root_socket().exists() {
        let mut root = SuperviseClient::connect_root(layout).context("cannot reach the guard")?;
        own = Some(root.status().context("cannot ask the guard how it is")?);
    }
    privilege::become_agent(layout)?;
    let mut world = World::new(Store::read_records(&layout.agent_db())?);
    let guard = Guard::new(layout.clone());
    runtime()?.block_on(async {
        world.refresh_desired(&guard).await.context("cannot ask admission what it holds")?;
        world
            .refresh_observed(&RuntimeService::new(guard))
            .await
            .context("cannot ask supervise what runs")?;
        anyhow::Ok(())
    })?;
    Ok((world, own))
}

/// One verb of the device's own command line.
pub(crate) fn cri(layout: &Layout, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Ps { all, pod, filter, format } => list::ps(layout, *all, pod.as_deref(), filter, *format),
        Verb::Logs { what, container, follow, tail, timestamps, output } => {
            let wanted = logs::Wanted {
                what,
                container: container.as_deref(),
                follow: *follow,
                tail: *tail,
                timestamps: *timestamps,
                json: output.json(),
            };
            logs::logs(layout, &wanted)
        }
        Verb::Pull { image, creds } => images::pull(layout, image, creds.as_deref()),
        Verb::Load { file, name } => images::load(layout, file, name.as_deref()),
        Verb::Runp { runtime, config } => change::runp(layout, runtime, config),
        Verb::Create { with_pull, pod, config, sandbox } => {
            change::create(layout, *with_pull, pod, config, sandbox)
        }
        Verb::Start { containers } => change::start(layout, containers),
        Verb::Stop { timeout, containers } => change::stop(layout, *timeout, containers),
        Verb::Stopp { pods } => change::stopp(layout, pods),
        Verb::Rm { force, all, containers } => change::rm(layout, *force, *all, containers),
        Verb::Rmp { force, all, pods } => change::rmp(layout, *force, *all, pods),
        Verb::Pods { filter, format } => list::pods(layout, filter, *format),
        Verb::Stats { all, container, format } => list::stats(layout, *all, container.as_deref(), *format),
        Verb::Inspect { containers, format } => list::inspect(layout, containers, *format),
        Verb::Inspectp { pods, format } => list::inspectp(layout, pods, *format),
        Verb::Images { quiet, no_trunc, format } => images::images(layout, *quiet, *no_trunc, *format),
        Verb::Inspecti { images, format } => images::inspecti(layout, images, *format),
        Verb::Rmi { all, images } => images::rmi(layout, *all, images),
        Verb::Imagefsinfo { format } => images::imagefsinfo(layout, *format),
        Verb::Info { format } => list::info(layout, *format),
        Verb::Version { format } => {
            list::version(*format);
            Ok(())
        }
        Verb::Pin => images::pin(layout),
    }
}

/// `shoal-agent doctor`.
pub(crate) fn doctor(layout: &Layout, as_json: bool) -> Result<()> {
    let checks = doctor::examine(layout);
    let failed = checks.iter().filter(|c| c.state == doctor::State::Failed).count();
    if as_json {
        output::json(&serde_json::to_value(&checks).context("cannot print")?);
    } else {
        for c in &checks {
            output::line(&format!("{:<6} {:<13} {}", c.state.as_str(), c.id, c.found));
            if let Some(hint) = &c.hint {
                output::line(&format!("{:<20} {hint}", ""));
            }
        }
    }
    if failed > 0 {
        return Err(
            Explained::new(Kind::Failure, format!("{failed} of {} checks failed", checks.len())).into()
        );
    }
    Ok(())
}
