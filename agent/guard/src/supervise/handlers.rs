//! What each permitted message does. Whether it is permitted was decided by the table before.

use super::container::Key;
use super::entries::is_entry;
use super::jobs::Proof;
use super::table::{From, Standing, named_ticket, permitted};
use super::{Held, Refused, Supervise, refuse};
use crate::say;
use shoal_ipc::{
    Digest, FeatureSet, GuardStatus, Layout, ModuleState, Msg, Received, TICKET_MAX, Ticket, VERSION,
    read_sealed,
};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

impl Supervise {
    fn standing(&self, ticket: &Digest) -> Standing {
        let containers = self.containers.keys().any(|k| k.0 == *ticket);
        let local = self.is_local(ticket);
        match self.tickets.get(ticket) {
            None => {
                let release = self.releases.is(ticket);
                Standing { containers, release, local, ..Standing::default() }
            }
            Some(h) => Standing {
                ticket: true,
                withdrawn: h.withdrawn,
                stageable: h.ticket.stageable,
                startable: h.ticket.startable,
                containers,
                release: false,
                local,
            },
        }
    }

    /// A message from admit or log.
    pub(super) fn service_says(&mut self, from: From, received: Received) {
        let Received { msg, mut fds } = received;
        if let Err(why) = permitted(&msg, from, Standing::default()) {
            return say::line(format!("{} from {from:?} is not taken: {why}", msg.name()));
        }
        match msg {
            Msg::Ticket {} => {
                if let Some(fd) = fds.pop() {
                    self.ticket(&fd);
                }
            }
            Msg::Content { item } => {
                if let Some(fd) = fds.pop() {
                    self.contents.take(item, &fd);
                }
            }
            Msg::Release {} => {
                if let Some(fd) = fds.pop() {
                    self.releases.take(&fd);
                }
            }
            Msg::Withdraw { ticket, stop, grace } => {
                self.releases.withdraw(&ticket);
                if let Some(held) = self.tickets.get_mut(&ticket) {
                    held.withdrawn = true;
                }
                self.drop_spares(&ticket, None);
                if stop {
                    self.stop(&ticket, None, Duration::from_secs(grace.into()));
                }
            }
            Msg::FactAck { id } => self.facts.acknowledged(id),
            Msg::Done {} => {
                self.complete = true;
                self.spares.look.extend(self.tickets.keys());
            }
            Msg::Dropped { id, lines, end, stderr_tail } => self.stream_ended(id, lines, end, stderr_tail),
            _ => {}
        }
    }

    fn ticket(&mut self, fd: &OwnedFd) {
        match read_sealed(fd, TICKET_MAX).and_then(|bytes| Ticket::decode(&bytes)) {
            Ok(ticket) if ticket.version != VERSION || ticket.containers.is_empty() => {
                say::line("a ticket of another version, or without containers, is not taken");
            }
            Ok(ticket) => {
                let id = ticket.id;
                self.tickets.insert(id, Held { ticket, withdrawn: false, local: false });
                self.contents.keep_only(self.tickets.values().flat_map(|h| h.ticket.contents()));
                self.resume_care(&id);
                self.drop_spares(&id, None);
                self.spares.look.insert(id);
            }
            Err(e) => say::error("a ticket is not taken", &e),
        }
    }

    fn stream_ended(&mut self, id: u64, lines: u64, end: bool, stderr_tail: String) {
        let Some(c) = self.containers.values_mut().find(|c| c.record.stream == id) else { return };
        c.record.state.dropped_lines = lines;
        if end {
            c.record.state.stderr_tail = stderr_tail;
            let key = c.key();
            if let Some(live) = &mut c.live {
                live.pipes = None;
                if live.ending.is_some() {
                    self.finish(key);
                }
            }
        }
    }

    /// An open stream that `log` kept while supervise was away.
    pub(super) fn stream_found(&mut self, received: Received) {
        let Msg::Stream { id } = received.msg else { return };
        let mut fds = received.fds.into_iter();
        if let (Some(out), Some(err)) = (fds.next(), fds.next())
            && let Some(live) =
                self.containers.values_mut().find(|c| c.record.stream == id).and_then(|c| c.live.as_mut())
        {
            live.pipes = Some((out, err));
        }
    }

    /// Hands a container's streams to log.
    pub(super) fn attach(&mut self, key: Key) {
        if self.attached.contains(&key) {
            return;
        }
        let Some(c) = self.containers.get(&key) else { return };
        let Some((out, err)) = c.live.as_ref().and_then(|l| l.pipes.as_ref()) else { return };
        let s = &c.record.state;
        let msg = Msg::Attach {
            id: c.record.stream,
            pod: Layout::pod_folder(&s.deployment, &s.ticket),
            container: s.name.clone(),
            attempt: s.attempt,
            max_size: self.policy.log_size(),
            max_files: self.policy.logs.max_files,
        };
        // Copies, so that sending can borrow the whole state.
        let copies = out.try_clone().and_then(|o| Ok((o, err.try_clone()?)));
        match copies {
            Ok((out, err)) => self.tell_log(&msg, &[out.as_fd(), err.as_fd()]),
            Err(e) => say::error("a container's output is not logged", &e),
        }
    }

    /// A message from a named socket.
    pub(super) fn peer_asks(&mut self, id: u64, received: Received) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Received { msg, mut fds } = received;
        let standing = named_ticket(&msg).map_or_else(Standing::default, |t| self.standing(&t));
        let allowed = permitted(&msg, peer.from, standing);
        if peer.subscribed || allowed.is_err() {
            self.denied += 1;
            let why = allowed.err().unwrap_or_else(|| "a connection of events takes no requests".into());
            return self.answer(id, Msg::refused("not_admitted", why));
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.waiting = true;
        }
        match self.act(id, msg, fds.pop()) {
            Ok(Some(answer)) => self.answer(id, answer),
            // The answer is on its way already, or takes time.
            Ok(None) => {}
            Err(Refused { code, detail }) => {
                if code == "not_admitted" {
                    self.denied += 1;
                }
                self.answer(id, Msg::refused(code, detail));
            }
        }
    }

    /// The answer, unless it takes time.
    fn act(&mut self, id: u64, msg: Msg, fd: Option<OwnedFd>) -> Result<Option<Msg>, Refused> {
        Ok(match msg {
            Msg::Subscribe {} => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.subscribed = true;
                }
                Some(Msg::Done {})
            }
            Msg::Stage { ticket, item } => {
                let fd = fd.ok_or_else(|| refuse("not_admitted", "no descriptor came along"))?;
                let waits = if self.releases.is(&ticket) {
                    self.stage_release(id, item, &fd)?
                } else {
                    self.stage(id, &ticket, item, &fd)?
                };
                if waits { None } else { Some(Msg::Staged { item }) }
            }
            Msg::Have { ticket } => Some(self.have(&ticket)?),
            Msg::Compile { ticket, module } => {
                // The answer first: the event may follow at once.
                self.compile(&ticket, module)?;
                Some(Msg::Compiling {})
            }
            Msg::Start { ticket, container, attempt } => {
                self.start(id, (ticket, container), attempt)?;
                None
            }
            Msg::StartAttached { ticket, container, attempt } => {
                self.start_attached(id, (ticket, container), attempt)?;
                None
            }
            Msg::Feed { ticket, container } => {
                let fd = fd.ok_or_else(|| refuse("not_admitted", "no descriptor came along"))?;
                self.feed((ticket, container), fd)?;
                Some(Msg::Done {})
            }
            Msg::LocalTicket {} => {
                let fd = fd.ok_or_else(|| refuse("not_admitted", "no descriptor came along"))?;
                self.local_ticket(&fd)?;
                Some(Msg::Done {})
            }
            Msg::RemoveContainer { ticket, container } => {
                self.remove_container((ticket, container))?;
                Some(Msg::Done {})
            }
            Msg::ReopenLog { ticket, container } => {
                self.reopen_log((ticket, container))?;
                Some(Msg::Done {})
            }
            Msg::Stop { ticket, container, grace_ms } => {
                let grace = Duration::from_millis(grace_ms.into());
                let own = self.tickets.get(&ticket).map(|h| Duration::from_secs(h.ticket.grace.into()));
                let containers = self.stop(&ticket, container, own.map_or(grace, |g| g.min(grace)));
                Some(Msg::Stopping { containers })
            }
            Msg::Remove { ticket } => {
                self.remove(&ticket)?;
                Some(Msg::Done {})
            }
            Msg::List {} => {
                let keys: Vec<Key> = self.containers.keys().filter(|k| !is_entry(**k)).copied().collect();
                for key in keys {
                    let state = self.container_is(key);
                    self.answer(id, state);
                }
                Some(Msg::ListEnd {})
            }
            Msg::Stats { ticket, container } => match self.container_is((ticket, container)) {
                Msg::ContainerIs { state } => Some(Msg::StatsAre { stats: state.stats }),
                other => Some(other),
            },
            Msg::Software {} => Some(self.software_is()),
            Msg::Switch { .. } => {
                self.switch()?;
                Some(Msg::Done {})
            }
            Msg::Confirm {} => {
                self.confirm()?;
                Some(Msg::Done {})
            }
            Msg::Features {} => Some(Msg::FeaturesAre { features: self.features() }),
            Msg::Status {} => Some(Msg::StatusIs { status: self.status() }),
            Msg::Shutdown {} => {
                self.shutdown = Some(id);
                self.drop_all_spares();
                let tickets: Vec<Digest> = self.containers.keys().map(|k| k.0).collect();
                for ticket in tickets {
                    self.stop(&ticket, None, Duration::from_secs(5));
                }
                for job in &mut self.jobs {
                    job.expire();
                }
                self.queue.clear();
                Some(Msg::Done {})
            }
            other => return Err(refuse("not_admitted", format!("{} is nothing to ask", other.name()))),
        })
    }

    /// A container with fresh readings while it runs.
    fn container_is(&mut self, key: Key) -> Msg {
        let Some(c) = self.containers.get(&key) else {
            return Msg::refused("not_admitted", "no such container was started");
        };
        let mut state = c.record.state.clone();
        if c.live.is_some() {
            let applied = state.stats.applied.clone();
            state.stats = shoal_ipc::StatsInfo { applied, ..self.hierarchy.group(&c.record.group).stats() };
        }
        Msg::ContainerIs { state }
    }

    fn have(&mut self, id: &Digest) -> Result<Msg, Refused> {
        self.ensure_engine();
        let ticket = &self.tickets.get(id).ok_or_else(|| refuse("not_admitted", "no such ticket"))?.ticket;
        // What would never start here takes no room and no time, and what runs in its place goes on.
        self.fits(ticket)?;
        let mut modules: Vec<ModuleState> = Vec::new();
        for digest in ticket.modules().map(|m| m.digest) {
            if modules.iter().all(|m| m.digest != digest) {
                let staged = self.cache.has(&digest, true);
                let compiled = self.ready(ticket, &digest);
                modules.push(ModuleState { digest, staged, compiled });
            }
        }
        let absent = |f: &&shoal_ipc::TicketFile| {
            let as_module = ticket.is_module(&f.digest) && !self.cache.has(&f.digest, true);
            let is_file = ticket.containers.iter().any(|c| c.files.iter().any(|x| x.digest == f.digest));
            as_module || (is_file && !self.cache.has(&f.digest, false))
        };
        let all: Vec<Digest> = ticket.items().into_iter().filter(absent).map(|f| f.digest).collect();
        let missing_total = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let missing = all.into_iter().take(48).collect();
        Ok(Msg::HaveIs { startable: ticket.startable, modules, missing, missing_total })
    }

    fn features(&mut self) -> FeatureSet {
        self.ensure_compiler();
        let mut missing = Vec::new();
        if self.uids.is_none() {
            missing.push("no walls and no limits: the guard does not run as root".to_owned());
        }
        let lacks = self.lacks.iter().filter(|f| f.is_expected());
        missing.extend(lacks.map(|f| format!("{}: this kernel does not have it", f.name())));
        missing.extend(self.network_lacks());
        if self.engine.line.is_empty() {
            missing.push("no engine: nothing can run".to_owned());
        } else if !self.engine.compiler {
            missing.push(
                "no compiler: only modules that are compiled already, or interpreted, can run".to_owned(),
            );
        }
        let mismatch = self.proof.as_ref().and_then(Proof::mismatch);
        missing.extend(mismatch.map(|m| format!("no compiled code, for the engine failed its proof: {m}")));
        let engine_mismatch = mismatch.is_some();
        FeatureSet {
            engine: self.engine.version().to_owned(),
            compiler: self.engine.compiler,
            arch: std::env::consts::ARCH.to_owned(),
            cgroup: self.hierarchy.name().to_owned(),
            unconfined: self.uids.is_none(),
            missing,
            engine_mismatch,
        }
    }

    fn status(&mut self) -> GuardStatus {
        let running = self.containers.iter().filter(|(k, c)| c.live.is_some() && !is_entry(**k)).count();
        GuardStatus {
            features: self.features(),
            admit_running: self.admit.connection.is_some(),
            log_running: self.log.connection.is_some(),
            tickets: u32::try_from(self.tickets.len()).unwrap_or(u32::MAX),
            containers: u32::try_from(running).unwrap_or(u32::MAX),
            admit_pid: self.admit.pid(),
            log_pid: self.log.pid(),
            not_admitted: self.denied,
            zygote_pid: self.zygotes.pid(),
        }
    }
}
