//! Tasks that wait for guard's events and tell the loop; each reconnects by itself. Never decides anything.

use crate::entropy;
use shoal_ipc::{Error, Event, Layout};
use shoal_runtime::Events;
use std::time::Duration;
use tokio::sync::mpsc;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Which half of guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// Admission.
    Admit,
    /// Supervision.
    Supervise,
}

/// What a half of guard tells.
#[derive(Debug)]
pub(crate) enum GuardEvent {
    /// It answers (again): whatever happened before is to be asked for.
    Up(Half),
    /// It does not answer.
    Down(Half),
    /// It says something.
    Said(Event),
}

fn connect(half: Half, layout: &Layout) -> Result<Events, Error> {
    match half {
        Half::Admit => Events::admit(layout),
        Half::Supervise => Events::supervise(layout),
    }
}

/// Listens to one half until the receiver is gone.
pub(crate) async fn watch(half: Half, layout: Layout, tell: mpsc::Sender<GuardEvent>) {
    let mut wait = FIRST_WAIT;
    loop {
        let path = layout.clone();
        let connected = tokio::task::spawn_blocking(move || connect(half, &path)).await;
        match connected {
            Ok(Ok(mut events)) => {
                wait = FIRST_WAIT;
                if tell.send(GuardEvent::Up(half)).await.is_err() {
                    return;
                }
                loop {
                    match events.next().await {
                        Ok(event) => {
                            if tell.send(GuardEvent::Said(event)).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(?half, %error, "guard's events ended");
                            break;
                        }
                    }
                }
                if tell.send(GuardEvent::Down(half)).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) => tracing::debug!(?half, %error, "guard does not answer"),
            Err(error) => tracing::error!(?half, %error, "connecting to guard broke off"),
        }
        // Spread by up to a half, so that not everything that waits for guard asks in step.
        let spread = wait + wait / 2 * u32::try_from(entropy::draw() % 100).unwrap_or(0) / 100;
        tokio::select! {
            () = tokio::time::sleep(spread) => {}
            () = tell.closed() => return,
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}
