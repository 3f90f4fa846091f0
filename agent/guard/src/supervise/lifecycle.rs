//! What happens to containers after their start: being confined, healthy, stopped, ended, found again, removed.

use super::cause::{Evidence, combine, is_healthy_end};
use super::container::{Container, Ending, HEALTHY_AFTER, Key, Live};
use super::ends::Care;
use super::entries::{is_entry, place_of};
use super::graves::Grave;
use super::prepare::{is_pod_group, pod_group};
use super::record::{Record, start_ticks};
use super::spares::comes_again;
use super::zygotes::Found;
use super::{Refused, Supervise, refuse, volumes};
use crate::{clock, say};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_ipc::{Cause, Digest, EndRecord, ExitFact, FactEvent, Layout, Msg, StatsInfo, read_area};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long an end waits for the last lines of its log.
const LAST_LINES: Duration = Duration::from_millis(400);
/// A container's answer area, as it has it.
const AREA_FD: i32 = 3;

impl Supervise {
    /// The child has said that it is confined, or why not, or nothing: then it is gone.
    pub(super) fn gate_ready(&mut self, key: Key) {
        let Some(live) = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()) else { return };
        let Some(starting) = live.starting.as_mut() else { return };
        let Some(gate) = &starting.gate else { return };
        let mut said = [0; 1024];
        let n = match recv(gate, said.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((n, _)) => n,
            Err(Errno::AGAIN | Errno::INTR) => return,
            // Whatever it had to say went with it.
            Err(_) => 0,
        };
        starting.gate = None;
        match &said[..n] {
            // Gone before it could say anything: its end is not seen yet either way.
            [] | [1] => self.started(key),
            text => {
                let text = String::from_utf8_lossy(text).into_owned();
                let limit = text.contains("oom_score_adj") || text.contains("control group");
                let code = if limit { "limit_not_applied" } else { "kernel_unsupported" };
                self.refuse_start(key, code, text);
            }
        }
    }

    /// Its zygote has forked it.
    pub(super) fn forked(&mut self, key: Key, pid: u32, pidfd: OwnedFd) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        c.record.state.pid = pid;
        c.record.start_ticks = start_ticks(pid).unwrap_or(0);
        if !is_entry(key)
            && let Err(e) = c.record.save(&self.layout.containers())
        {
            say::error("a container's record is not written", &e);
        }
        if let Some(live) = &mut c.live {
            live.pidfd = Some(pidfd);
            if live.stop.is_some() {
                live.signal(Signal::TERM);
            }
        }
        self.started(key);
    }

    /// Answers whoever asked for the start, once the process is known and has spoken.
    fn started(&mut self, key: Key) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = &mut c.live else { return };
        if live.pidfd.is_none() || live.starting.as_ref().is_none_or(|s| s.gate.is_some()) {
            return;
        }
        let Some(starting) = live.starting.take() else { return };
        live.since = Instant::now();
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
        if !is_entry(key) {
            self.fact(key, FactEvent::Started);
            self.begin_post_start(key);
        }
    }

    /// It never ran.
    pub(super) fn refuse_start(&mut self, key: Key, code: &str, why: String) {
        let starting = self.containers.get_mut(&key).and_then(|c| c.live.as_mut()?.starting.take());
        if let Some(starting) = starting {
            self.answer(starting.peer, Msg::refused(code, why.clone()));
        }
        self.ended(key, None, Some((code.to_owned(), why)));
    }

    /// A container's process is gone. The end is complete when its last lines are there, or a moment later.
    pub(super) fn ended(
        &mut self,
        key: Key,
        status: Option<Result<i32, i32>>,
        refused: Option<(String, String)>,
    ) {
        if self.containers.get(&key).and_then(|c| c.live.as_ref()).is_some_and(|l| l.starting.is_some()) {
            self.gate_ready(key);
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
        self.inputs.remove(&key);
        let group = self.hierarchy.group(&c.record.group);
        let (ending, care) = (live.ending, live.care);
        let record = live.area.as_ref().and_then(|a| EndRecord::from_area(&read_area(a)));
        let stats = group.stats();
        let cause = combine(Evidence {
            status: ending.as_ref().and_then(|e| e.status),
            record,
            oom: group.oom_kills() > 0,
            stopping: live.stop.is_some(),
            killed: care.killed,
            spent: care.is_spent(self.uids.map(|_| stats.cpu_usage)),
            refused: ending.and_then(|e| e.refused),
        });
        let applied = std::mem::take(&mut c.record.state.stats.applied);
        c.record.state.stats = StatsInfo { applied, ..stats };
        // Nothing of it may outlive its first process: what is still in there is killed.
        let grave = Grave::of(c.record.group.clone());
        if is_entry(key) {
            c.record.forget_exit_fact(&place_of(&self.layout, key));
            self.bury(grave);
            return self.entry_ended(key, &cause);
        }
        let healthy = !c.record.state.healthy && is_healthy_end(&cause, c.record.restart);
        let state = &mut c.record.state;
        state.healthy |= healthy;
        state.ready = state.ready.map(|_| false);
        state.running = false;
        state.pid = 0;
        state.finished_at = clock::now();
        state.cause = Some(cause.clone());
        if matches!(cause, Cause::Exited { code: 0 } | Cause::Stopped) {
            state.stderr_tail.clear();
        }
        let state = state.clone();
        crate::points::point("supervise::end");
        // An end after which it is started again is worth no wait for flash: after a power cut it is started too.
        let place = self.layout.containers();
        let again = comes_again(c.record.restart, Some(&cause));
        let saved = if again { c.record.save(&place) } else { c.record.save_durably(&place) };
        if let Err(e) = saved {
            say::error("the end of a container is not written down", &e);
        }
        c.record.forget_exit_fact(&self.layout.containers());
        if healthy {
            self.fact(key, FactEvent::Healthy);
            let msg = Msg::Healthy { ticket: key.0, container: key.1, attempt: state.attempt };
            self.broadcast(&msg);
        }
        self.fact(key, FactEvent::Ended { cause });
        self.broadcast(&Msg::Ended { state });
        self.end_entries(key);
        self.network_idle(&key.0);
        self.bury(grave);
        self.spares.look.insert(key.0);
    }

    /// Keeps a fact and sends it to admit.
    pub(super) fn fact(&mut self, key: Key, event: FactEvent) {
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
        self.networks.expire(now);
        for job in &mut self.jobs {
            if job.deadline().is_some_and(|d| d <= now) {
                job.expire();
            }
        }
        self.graves_due();
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
                live.signal(Signal::KILL);
                self.hierarchy.group(&c.record.group).kill();
                self.end_entries(key);
            }
            return;
        }
        self.care_due(key, now);
        self.settle_health(key, now);
    }

    /// It counts as healthy from now on, if it ran long enough and passes its probes.
    pub(super) fn settle_health(&mut self, key: Key, now: Instant) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let Some(live) = c.live.as_ref().filter(|l| l.stop.is_none() && l.ending.is_none()) else { return };
        let well = live.care.is_well() && live.starting.is_none();
        if well && !c.record.state.healthy && live.since + Duration::from_secs(HEALTHY_AFTER) <= now {
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
        let asked = |c: &&Container| {
            let key = c.key();
            key.0 == *ticket && !is_entry(key) && index.is_none_or(|i| i == key.1)
        };
        let ends = |c: &&Container| c.live.as_ref().is_some_and(|l| l.ending.is_none());
        let keys: Vec<Key> =
            self.containers.values().filter(asked).filter(ends).map(Container::key).collect();
        for key in &keys {
            self.begin_stop(*key, grace);
        }
        self.network_stop(ticket, index);
        self.drop_spares(ticket, index);
        u32::try_from(keys.len()).unwrap_or(u32::MAX)
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
        self.drop_spares(ticket, None);
        for key in &keys {
            if let Some(c) = self.containers.get(key) {
                let folder = c.record.folder(&self.layout.containers());
                fs::remove_dir_all(&folder).map_err(|e| failed("remove a container's folder", &e))?;
            }
            self.containers.remove(key);
        }
        self.drop_network(ticket);
        self.bury(Grave::of(pod_group(self.policy.cgroup_parent(), &name, ticket)));
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

    /// Finds the containers that an earlier supervise started: through their zygotes, or by their records.
    pub(super) fn adopt_all(&mut self) -> std::io::Result<()> {
        let mut found = self.find_zygotes()?;
        let (records, pods) = Record::load_all(&self.layout.containers())?;
        for record in records {
            // What comes before the others did its work for a boot that is over: its volumes in memory are gone.
            if record.init && !record.is_of_this_boot() {
                fs::remove_dir_all(record.folder(&self.layout.containers()))?;
                continue;
            }
            let key = (record.state.ticket, record.state.index);
            let was_running = record.state.running;
            let zygotes = if was_running { found.remove(&record.stream) } else { None };
            let mut record = record;
            let live = match zygotes {
                Some(found) => Some(take_over(&mut record, found)),
                None => adopt(&record),
            };
            self.containers.insert(key, Container { record, live });
            let c = self.containers.get(&key);
            if was_running && c.is_some_and(|c| c.live.is_none()) {
                self.lost(key);
            }
        }
        for stray in found.into_values() {
            // Supervise died before it could write of it; nobody was told that it runs.
            say::line(format!("process {} is in no record and ends", stray.pid));
            let _ = pidfd_send_signal(&stray.pidfd, Signal::KILL);
        }
        self.sweep_groups(pods);
        Ok(())
    }

    /// It ended while supervise was away: its zygote wrote down how, or its group may still tell of an OOM kill.
    fn lost(&mut self, key: Key) {
        let Some(c) = self.containers.get_mut(&key) else { return };
        let group = self.hierarchy.group(&c.record.group);
        group.kill();
        let fact = c.record.exit_fact(&self.layout.containers());
        let cause = combine(Evidence {
            status: fact.as_ref().and_then(ExitFact::status),
            record: fact.as_ref().and_then(|f| EndRecord::from_area(&f.area)),
            oom: group.oom_kills() > 0,
            stopping: false,
            killed: None,
            spent: false,
            refused: None,
        });
        let applied = std::mem::take(&mut c.record.state.stats.applied);
        c.record.state.stats = StatsInfo { applied, ..group.stats() };
        let grave = Grave::of(c.record.group.clone());
        let healthy = !c.record.state.healthy && is_healthy_end(&cause, c.record.restart);
        let state = &mut c.record.state;
        state.healthy |= healthy;
        (state.running, state.pid, state.cause) = (false, 0, Some(cause.clone()));
        state.finished_at = fact.map_or_else(clock::now, |f| f.at);
        if let Err(e) = c.record.save_durably(&self.layout.containers()) {
            say::error("the end of a container is not written down", &e);
        }
        c.record.forget_exit_fact(&self.layout.containers());
        if healthy {
            self.fact(key, FactEvent::Healthy);
        }
        self.fact(key, FactEvent::Ended { cause });
        self.bury(grave);
    }

    /// What an earlier supervise had beside its containers (spares, probes, hooks) is nobody's any more.
    fn sweep_groups(&mut self, mut pods: BTreeSet<String>) {
        let named: BTreeSet<&String> = self.containers.values().map(|c| &c.record.group).collect();
        let states = self.containers.values().map(|c| &c.record.state);
        let parent = self.policy.cgroup_parent();
        // Written down unsynced: after a power cut a name may be empty, or no name.
        pods.retain(|pod| is_pod_group(parent, pod));
        pods.extend(states.map(|s| pod_group(parent, &s.deployment, &s.ticket)));
        let all = pods.iter().flat_map(|pod| self.hierarchy.group(pod).children());
        // A pod's own group goes when nothing is left in it.
        let empty = pods.iter().filter(|pod| !named.iter().any(|name| name.starts_with(&format!("{pod}/"))));
        let left: Vec<Grave> =
            all.filter(|name| !named.contains(name)).chain(empty.cloned()).map(Grave::of).collect();
        self.graves.extend(left);
    }
}

/// When a container that was found again began to count as running.
fn since(record: &Record) -> Instant {
    let adopted = &record.state;
    say::line(format!("adopted {}/{} (process {})", adopted.deployment, adopted.name, adopted.pid));
    Instant::now().checked_sub(record.ran()).unwrap_or_else(Instant::now)
}

/// A process that its zygote told of.
fn take_over(record: &mut Record, found: Found) -> Live {
    if record.state.pid != found.pid {
        record.state.pid = found.pid;
        record.start_ticks = start_ticks(found.pid).unwrap_or(0);
    }
    Live {
        pidfd: Some(found.pidfd),
        zygote: Some(found.zygote),
        area: Some(found.area),
        pipes: Some(found.pipes),
        starting: None,
        ending: None,
        stop: None,
        since: since(record),
        care: Care::default(),
    }
}

/// A process whose zygote is no more.
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
    let area = fs::File::open(format!("/proc/{pid}/fd/{AREA_FD}")).ok().map(Into::into);
    Some(Live {
        pidfd: Some(pidfd),
        zygote: None,
        area,
        pipes: None,
        starting: None,
        ending: None,
        stop: None,
        since: since(record),
        care: Care::default(),
    })
}
