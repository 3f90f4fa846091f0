//! Starting one container: from its ticket to the word that lets it go.

use super::container::{Container, Key, Live, Starting, within};
use super::ends::Care;
use super::entries::{first_unfinished, is_entry};
use super::prepare::{Prepared, io_refusal};
use super::record::{Record, boot_id};
use super::{Refused, Supervise, cgroup, refuse};
use crate::clock;
use shoal_ipc::{Cause, ContainerState, Limits, Msg, ProbeKind, StatsInfo, Ticket, TicketContainer};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

impl Supervise {
    /// Begins a start; the answer goes out when the child is confined or has failed.
    pub(super) fn start(&mut self, peer: u64, key: Key, attempt: u64) -> Result<(), Refused> {
        let (id, index) = key;
        let held = self.tickets.get(&id).ok_or_else(|| refuse("not_admitted", "no such ticket"))?;
        let ticket = held.ticket.clone();
        let Some(container) = ticket.containers.get(usize::from(index)).cloned() else {
            return Err(refuse("not_admitted", format!("the ticket has no container {index}")));
        };
        if let Some(old) = self.containers.get(&key) {
            if old.live.is_some() {
                return Err(refuse("conflict", "it runs already"));
            }
            if attempt <= old.record.state.attempt {
                let last = old.record.state.attempt;
                return Err(refuse(
                    "conflict",
                    format!("attempt {attempt} is not above the last one, {last}"),
                ));
            }
        }
        let limits = self.may_start(key, &ticket, &container)?;
        let code = self.code_for(&container, ticket.sockets())?;
        if self.waits_for_network(peer, key, attempt, &ticket)? {
            return Ok(());
        }
        let prepared = match self.take_spare(key, &code) {
            Some(spare) => spare,
            None => self.prepare(key, &ticket, &container, &limits, &code)?,
        };
        self.release(peer, attempt, &ticket, &container, &limits, prepared)
    }

    /// Whether device, order and kernel let this container start now; the limits that it gets.
    pub(super) fn may_start(
        &self,
        key: Key,
        ticket: &Ticket,
        container: &TicketContainer,
    ) -> Result<Limits, Refused> {
        self.fits(ticket)?;
        if !container.init
            && let Some(name) = first_unfinished(ticket, |n| self.ended_well((key.0, n)))
        {
            return Err(refuse("conflict", format!("{name} comes first, and has not ended with success")));
        }
        let limits = within(&container.limits, &ticket.limits);
        if self.uids.is_none()
            && (cgroup::asks_for_any(&limits)
                || cgroup::asks_for_any(&ticket.limits)
                || limits.oom_score_adj.is_some())
        {
            let why = "limits need the guard to run as root; without it only containers without limits run, unconfined";
            return Err(refuse("kernel_unsupported", why));
        }
        Ok(limits)
    }

    fn ended_well(&self, key: Key) -> bool {
        let cause = self.containers.get(&key).and_then(|c| c.record.state.cause.as_ref());
        cause == Some(&Cause::Exited { code: 0 })
    }

    /// Writes down what is about to run, then lets it go.
    pub(super) fn release(
        &mut self,
        peer: u64,
        attempt: u64,
        ticket: &Ticket,
        container: &TicketContainer,
        limits: &Limits,
        prepared: Prepared,
    ) -> Result<(), Refused> {
        let key = prepared.key;
        let (pid, start_ticks) = prepared.process.as_ref().map_or((0, 0), |p| (p.pid, p.start_ticks));
        let record = Record {
            state: ContainerState {
                ticket: ticket.id,
                deployment: ticket.name.clone(),
                index: key.1,
                name: container.name.clone(),
                attempt,
                running: true,
                pid,
                started_at: clock::now(),
                finished_at: 0,
                healthy: false,
                cause: None,
                stats: StatsInfo { applied: prepared.applied.clone(), ..StatsInfo::default() },
                stderr_tail: String::new(),
                dropped_lines: 0,
                local: self.is_local(&ticket.id),
                ready: container.probes.iter().any(|p| p.kind == ProbeKind::Readiness).then_some(false),
                probe_message: String::new(),
            },
            boot: boot_id(),
            start_ticks,
            restart: container.restart,
            stream: prepared.stream,
            group: prepared.group.clone(),
            init: container.init,
        };
        // Nothing of the guest's runs that no record names. A probe's second of life is worth no write to flash; the next
        // supervise ends what it finds of it.
        if !is_entry(key)
            && let Err(e) = record.save(&self.layout.containers())
        {
            self.discard(prepared);
            return Err(io_refusal("write the container's record")(e));
        }
        crate::points::point("supervise::recorded");
        prepared.let_go();
        // Whoever it is attached to holds its output alone.
        if let Some((out, err)) = &prepared.pipes
            && !self.attached.contains(&key)
        {
            let msg = Msg::Keep { id: prepared.stream };
            self.zygotes.tell(prepared.zygote, &msg, &[out.as_fd(), err.as_fd()]);
        }
        let live = Live {
            pidfd: prepared.process.map(|p| p.pidfd),
            zygote: Some(prepared.zygote),
            area: Some(prepared.area),
            pipes: prepared.pipes,
            starting: Some(Starting { peer, gate: Some(prepared.gate) }),
            ending: None,
            stop: None,
            since: Instant::now(),
            care: Care::of(container, limits, Duration::ZERO, false),
        };
        self.containers.insert(key, Container { record, live: Some(live) });
        self.attach(key);
        // One that waited has said long ago that it is confined.
        self.gate_ready(key);
        Ok(())
    }
}
