//! Groups whose last process is gone: removed as soon as the kernel lets go of them, while nobody waits.

use super::Supervise;
use crate::say;
use std::time::{Duration, Instant};

/// How often it is tried; with the pauses doubled from [`FIRST`] on, four seconds in all.
const TRIES: u32 = 12;
const FIRST: Duration = Duration::from_millis(1);

/// A group to be removed.
#[derive(Debug)]
pub(super) struct Grave {
    pub(super) name: String,
    tries: u32,
    at: Instant,
}

impl Grave {
    pub(super) fn of(name: String) -> Self {
        Self { name, tries: 0, at: Instant::now() }
    }

    /// The time of the next try.
    pub(super) fn due(&self) -> Instant {
        self.at
    }
}

impl Supervise {
    /// Has a group removed.
    pub(super) fn bury(&mut self, grave: Grave) {
        self.pods.remove(&grave.name);
        self.graves.push(grave);
    }

    /// This group is needed again.
    pub(super) fn keep_group(&mut self, name: &str) {
        self.graves.retain(|g| g.name != name);
    }

    /// Removes what can be removed by now. What is in one of them should not be there any more, and is killed.
    pub(super) fn graves_due(&mut self) {
        let now = Instant::now();
        let hierarchy = &self.hierarchy;
        self.graves.retain_mut(|grave| {
            if grave.at > now {
                return true;
            }
            let group = hierarchy.group(&grave.name);
            match group.try_remove() {
                Ok(()) => false,
                Err(e) if grave.tries >= TRIES => {
                    say::error("a group stays", &e);
                    false
                }
                Err(_) => {
                    group.kill();
                    grave.at = now + FIRST * 2_u32.pow(grave.tries);
                    grave.tries += 1;
                    true
                }
            }
        });
    }

    /// Waits until all are removed, or given up.
    pub(super) fn finish_graves(&mut self) {
        while let Some(due) = self.graves.iter().map(Grave::due).min() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.graves_due();
        }
    }
}
