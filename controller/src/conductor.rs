//! Rollouts move here: whenever something was heard, decide, keep, then send.

use crate::app::{App, after, now};
use crate::broker::Kick;
use crate::fleet::RESYNC;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Runs until shoald ends.
pub(crate) async fn run(app: Arc<App>) {
    let mut ending = app.ending.clone();
    let mut resync = tokio::time::interval(Duration::from_secs(RESYNC));
    loop {
        let next_end = app.fleet().next_end();
        tokio::select! {
            // All are cancel safe: what was marked stays marked.
            () = app.wake.notified() => {}
            () = after(next_end) => end_expired(&app).await,
            _ = resync.tick() => {
                keep_seen(&app).await;
                ask_mutes(&app).await;
                // The clock may have been set.
                end_expired(&app).await;
                let mut fleet = app.fleet();
                let all: Vec<_> = fleet.entries().map(|e| e.name.clone()).collect();
                fleet.dirty.extend(all);
            }
            _ = ending.changed() => {
                keep_seen(&app).await;
                return;
            }
        }
        advance(&app).await;
    }
}

/// Opens what may be opened now.
async fn advance(app: &App) {
    let dirty = std::mem::take(&mut app.fleet().dirty);
    let mut devices = BTreeSet::new();
    for name in dirty {
        let decided = app.fleet().decide(&name, now()).map(|(entry, _, d)| (entry.newest.digest, d.open));
        let Some((revision, open)) = decided.filter(|(_, open)| !open.is_empty()) else { continue };
        let at = now();
        if let Err(e) = app.store.open_wave(revision, open.clone(), at).await {
            tracing::error!("{name}: its wave stays closed: {:#}", anyhow::Error::from(e));
            app.fleet().dirty.insert(name);
            continue;
        }
        tracing::info!("{name}: {} devices may take {revision}", open.len());
        let mut fleet = app.fleet();
        for id in open {
            if let Some(device) = fleet.devices.get_mut(&id) {
                device.opened.insert(revision, at);
            }
            devices.insert(id);
        }
    }
    for device in devices {
        app.bring_up_to_date(&device, false).await;
    }
}

/// Ends the connections of devices whose hello was lost; they come back and say it again.
async fn ask_mutes(app: &App) {
    let mutes = app.fleet().mutes();
    for device in mutes {
        tracing::info!("device {device} is connected and said nothing; its connection is ended");
        let _ = app.kicks.send(Kick::Connection { client: device.to_string() }).await;
    }
}

/// A connection ends with the certificate that opened it: TLS looks at that at its beginning only.
async fn end_expired(app: &App) {
    let ended = app.fleet().certificates_ended(now());
    for device in ended {
        tracing::info!("the certificate of device {device} ended, and with it its connection");
        let _ = app.kicks.send(Kick::Connection { client: device.to_string() }).await;
    }
}

/// When devices were heard is kept now and then, not at each heartbeat.
async fn keep_seen(app: &App) {
    let seen: Vec<_> = app
        .fleet()
        .devices
        .iter_mut()
        .filter_map(|(id, d)| std::mem::take(&mut d.seen).then_some((id, d.file.last_seen?)))
        .map(|(id, at)| (id.clone(), at))
        .collect();
    if seen.is_empty() {
        return;
    }
    if let Err(e) = app.store.set_seen(seen).await {
        tracing::warn!("{:#}", anyhow::Error::from(e));
    }
}
