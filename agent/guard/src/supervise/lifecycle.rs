//! What happens to containers after their start: being confined, healthy, stopped, ended, found again, removed.

use super::cause::{Evidence, combine, is_healthy_end};
use super::container::{Container, Ending, HEALTHY_AFTER, Key, Live, Stop};
use super::record::Record;
use super::start::pod_group;
use super::{Refused, Supervise, refuse, volumes};
use crate::{clock, say};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_ipc::{Cause, Digest, EndRecord, FactEvent, Layout, Msg, StatsInfo, read_area};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::time::{Duration, Instant};

/// How long an end waits for the last lines of its log.
const LAST_LINES: Duration = Duration::from_millis(400);

impl Supervise {
    /// The child has said why it failed, or nothing: then it has executed.
    pub(super) fn status_ready(&mut self, key: Key) {
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        let Some(starting) = live.starting.take() else { return };
        let mut text = String::new();
        // The pipe's other end is closed or holds one short text, so this never waits.
        let _ = fs::File::from(starting.status).take(1024).read_to_string(&mut text);
        if !text.is_empty() {
            let limit = text.contains("oom_score_adj") || text.contains("control group");
            let code = if limit { "limit_not_applied" } else { "kernel_unsupported" };
            self.answer(starting.peer, Msg::refused(code, text.clone()));
            self.ended(key, None, Some((code.to_owned(), text)));
            return;
        }
        // Started or gone before it could say anything: its end is not seen yet either way.
        live.since = Instant::now();
        let Some(c) = self.containers.get(&key) else { return };
        let state = &c.record.state;
        let applied = state.stats.applied.clone();
        let (pid, started_at) = (state.pid, state.started_at);
        match self.take_output(key) {
            Some((out, err)) => {
                let answer = Msg::StartedAttached { pid, started_at, applied };
                self.answer_with(starting.peer, answer, vec![out, err]);
            }
            None => self.answer(starting.peer, Msg::Started { pid, started_at, applied }),
        }
        self.fact(key, FactEvent::Started);
    }

    /// A container's process is gone. The end is complete when its last lines are there, or a moment later.
    pub(super) fn ended(
        &mut self,
        key: Key,
        status: Option<Result<i32, i32>>,
        refused: Option<(String, String)>,
    ) {
        if self.containers.get(&key).and_then(|c| c.live.as_ref()).is_some_and(|l| l.starting.is_some()) {
            self.status_ready(key);
        }
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        match &mut live.ending {
            Some(ending) => ending.status = ending.status.or(status),
            None => live.ending = Some(Ending { status, refused, deadline: Instant::now() + LAST_LINES }),
        }
        // Without a log, or with somebody else reading, no last lines come from there.
        if self.log.connection.is_none() || self.attached.contains(&key) {
            self.finish(key);
        }
    }

    /// The end with all that is known.
    pub(super) fn finish(&mut self, key: Key) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = c.live.take() else { return };
        self.attached.remove(&key);
        let group = self.hierarchy.group(&c.record.group);
        // Nothing of it may outlive its first process.
        group.kill();
        let ending = live.ending;
        let record = live.area.as_ref().and_then(|a| EndRecord::from_area(&read_area(a)));
        let cause = combine(Evidence {
            status: ending.as_ref().and_then(|e| e.status),
            record,
            oom: group.oom_kills() > 0,
            stopping: live.stop.is_some(),
            refused: ending.and_then(|e| e.refused),
        });
        let applied = std::mem::take(&mut c.record.state.stats.applied);
        c.record.state.stats = StatsInfo { applied, ..group.stats() };
        if let Err(e) = group.remove() {
            say::error("a container's group stays", &e);
        }
        let healthy = !c.record.state.healthy && is_healthy_end(&cause, c.record.restart);
        let state = &mut c.record.state;
        state.healthy |= healthy;
        state.running = false;
        state.pid = 0;
        state.finished_at = clock::now();
        state.cause = Some(cause.clone());
        if matches!(cause, Cause::Exited { code: 0 } | Cause::Stopped) {
            state.stderr_tail.clear();
        }
        let state = state.clone();
        crate::points::point("supervise::end");
        if let Err(e) = c.record.save_durably(&self.layout.containers()) {
            say::error("the end of a container is not written down", &e);
        }
        if healthy {
            self.fact(key, FactEvent::Healthy);
            let msg = Msg::Healthy { ticket: key.0, container: key.1, attempt: state.attempt };
            self.broadcast(&msg);
        }
        self.fact(key, FactEvent::Ended { cause });
        self.broadcast(&Msg::Ended { state });
    }

    /// Keeps a fact and sends it to admit.
    fn fact(&mut self, key: Key, event: FactEvent) {
        let Some(c) = self.containers.get(&key) else { return };
        let s = &c.record.state;
        if s.local {
            // Admission answers for what was signed; of local pods the agent's own report tells.
            return;
        }
        let (ticket, name, container, attempt) = (s.ticket, s.deployment.clone(), s.name.clone(), s.attempt);
        let make = |id| Msg::Fact { id, ticket, name, container, attempt, event, at: clock::now() };
        match self.facts.add(make) {
            Ok(msg) => {
                let msg = msg.clone();
                self.tell_admit(&msg);
            }
            Err(e) => say::error("a fact could not be kept", &e),
        }
    }

    /// Everything whose time has come.
    pub(super) fn timers(&mut self) {
        let now = Instant::now();
        let due: Vec<Key> = self
            .containers
            .values()
            .filter(|c| c.deadline().is_some_and(|d| d <= now))
            .map(Container::key)
            .collect();
        for key in due {
            self.container_due(key, now);
        }
        for job in &mut self.jobs {
            if job.deadline().is_some_and(|d| d <= now) {
                job.expire();
            }
        }
    }

    fn container_due(&mut self, key: Key, now: Instant) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = c.live.as_mut() else { return };
        if live.ending.is_some() {
            self.finish(key);
            return;
        }
        if let Some(stop) = &mut live.stop {
            if stop.kill_at.is_some_and(|t| t <= now) {
                stop.kill_at = None;
                // Gone already is what was wanted.
                let _ = pidfd_send_signal(&live.pidfd, Signal::KILL);
                self.hierarchy.group(&c.record.group).kill();
            }
            return;
        }
        if !c.record.state.healthy && live.since + Duration::from_secs(HEALTHY_AFTER) <= now {
            c.record.state.healthy = true;
            if let Err(e) = c.record.save(&self.layout.containers()) {
                say::error("a container's record is not written", &e);
            }
            let msg = Msg::Healthy { ticket: key.0, container: key.1, attempt: c.record.state.attempt };
            self.fact(key, FactEvent::Healthy);
            self.broadcast(&msg);
        }
    }

    /// Asks containers to end, and sees to it after `grace`. Says how many.
    pub(super) fn stop(&mut self, ticket: &Digest, index: Option<u16>, grace: Duration) -> u32 {
        let mut count = 0;
        for c in self.containers.values_mut() {
            if c.record.state.ticket != *ticket || index.is_some_and(|i| i != c.record.state.index) {
                continue;
            }
            let Some(live) = c.live.as_mut().filter(|l| l.ending.is_none()) else { continue };
            count += 1;
            let kill_at = Instant::now() + grace;
            // A second request may shorten the wait, never lengthen it.
            let earlier = live.stop.and_then(|s| s.kill_at).is_some_and(|t| t < kill_at);
            if live.stop.is_none() || !earlier {
                live.stop = Some(Stop { kill_at: Some(kill_at) });
            }
            let _ = pidfd_send_signal(&live.pidfd, Signal::TERM);
        }
        count
    }

    /// Forgets a pod of which nothing runs: groups, memory, records, logs; and what only it needed.
    pub(super) fn remove(&mut self, ticket: &Digest) -> Result<(), Refused> {
        let keys: Vec<Key> = self.containers.keys().filter(|k| k.0 == *ticket).copied().collect();
        if keys.iter().any(|k| self.containers.get(k).is_some_and(|c| c.live.is_some())) {
            return Err(refuse("conflict", "containers of it still run; stop them first"));
        }
        let name = self.tickets.get(ticket).map(|h| h.ticket.name.clone()).or_else(|| {
            keys.first().and_then(|k| Some(self.containers.get(k)?.record.state.deployment.clone()))
        });
        let Some(name) = name else { return Ok(()) };
        let failed =
            |what: &str, e: &dyn std::error::Error| refuse("storage_unavailable", format!("{what}: {e}"));
        for key in &keys {
            if let Some(c) = self.containers.get(key) {
                let group = self.hierarchy.group(&c.record.group);
                group.remove().map_err(|e| failed("remove a group", &e))?;
                let folder = c.record.folder(&self.layout.containers());
                fs::remove_dir_all(&folder).map_err(|e| failed("remove a container's folder", &e))?;
            }
            self.containers.remove(key);
        }
        let pod = self.hierarchy.group(&pod_group(self.policy.cgroup_parent(), &name, ticket));
        pod.remove().map_err(|e| failed("remove the pod's group", &e))?;
        volumes::drop_memory(&self.layout, ticket).map_err(|e| failed("remove volumes in memory", &e))?;
        self.tell_log(&Msg::DropPod { pod: Layout::pod_folder(&name, ticket) }, &[]);
        if self.is_local(ticket) {
            self.drop_local(ticket, &name)?;
        }
        let withdrawn = self.tickets.get(ticket).is_some_and(|h| h.withdrawn);
        if withdrawn {
            self.tickets.remove(ticket);
            let lives = self.tickets.values().any(|h| h.ticket.name == name && !h.withdrawn)
                || self.containers.values().any(|c| c.record.state.deployment == name);
            // A ticket may still be on its way after a restart; without the whole list nothing kept is deleted.
            if !lives && self.complete {
                volumes::drop_persistent(&self.layout, &name)
                    .map_err(|e| failed("remove its kept volumes", &e))?;
                self.uid_book.release(&name).map_err(|e| failed("release its uid", &e))?;
            }
        }
        self.sweep();
        Ok(())
    }

    /// Deletes modules, files and code that no ticket names, once all tickets are known.
    fn sweep(&mut self) {
        if !self.complete {
            return;
        }
        let live = || self.tickets.values().filter(|h| !h.withdrawn).flat_map(|h| &h.ticket.containers);
        let modules: BTreeSet<Digest> = live().map(|c| c.module.digest).collect();
        let files: BTreeSet<Digest> = live().flat_map(|c| c.files.iter().map(|f| f.digest)).collect();
        let keys = modules.iter().map(|m| self.engine.key(m)).collect();
        self.cache.sweep(&modules, &files, &keys);
    }

    /// Finds the containers that an earlier supervise started.
    pub(super) fn adopt_all(&mut self) -> std::io::Result<()> {
        for record in Record::load_all(&self.layout.containers())? {
            let key = (record.state.ticket, record.state.index);
            let was_running = record.state.running;
            let live = adopt(&record);
            self.containers.insert(key, Container { record, live });
            let c = self.containers.get(&key);
            if was_running && c.is_some_and(|c| c.live.is_none()) {
                self.lost(key);
            }
        }
        Ok(())
    }

    /// It ended while nobody watched; its group may still tell of an OOM kill.
    fn lost(&mut self, key: Key) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let group = self.hierarchy.group(&c.record.group);
        group.kill();
        let cause = if group.oom_kills() > 0 { Cause::OomKilled } else { Cause::Unknown };
        if let Err(e) = group.remove() {
            say::error("a container's group stays", &e);
        }
        let state = &mut c.record.state;
        (state.running, state.pid, state.finished_at, state.cause) =
            (false, 0, clock::now(), Some(cause.clone()));
        if let Err(e) = c.record.save_durably(&self.layout.containers()) {
            say::error("the end of a container is not written down", &e);
        }
        self.fact(key, FactEvent::Ended { cause });
    }
}

/// Takes hold of a process that another supervise started.
fn adopt(record: &Record) -> Option<Live> {
    if !record.is_alive() {
        return None;
    }
    let pid = record.state.pid;
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    // Looked at again: between the look and the hold the number could have changed hands.
    if !record.is_alive() {
        return None;
    }
    let area = fs::File::open(format!("/proc/{pid}/fd/4")).ok().map(Into::into);
    let ran = clock::now().saturating_sub(record.state.started_at).min(HEALTHY_AFTER);
    let since = Instant::now().checked_sub(Duration::from_secs(ran)).unwrap_or_else(Instant::now);
    say::line(format!("adopted {}/{} (process {pid})", record.state.deployment, record.state.name));
    Some(Live { pidfd, ours: false, area, pipes: None, starting: None, ending: None, stop: None, since })
}
