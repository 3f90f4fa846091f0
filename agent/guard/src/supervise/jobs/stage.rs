//! Bytes of others into the folders of modules and files, by a helper that may hang or be killed.

use super::super::copy::{self, Outcome, Want};
use super::super::process::spawn;
use super::super::{Refused, Supervise, dirs, refuse};
use super::{End, Job, Work, failed};
use shoal_ipc::{Digest, Msg, TicketFile};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Copies at a time.
const COPIES: usize = 16;
/// The longest that copying one item may take.
pub(super) const COPY_TIME: Duration = Duration::from_mins(2);

impl Supervise {
    /// Begins to copy an item of a ticket; whether the answer has to wait.
    pub(in super::super) fn stage(
        &mut self,
        peer: u64,
        ticket: &Digest,
        item: Digest,
        from: &OwnedFd,
    ) -> Result<bool, Refused> {
        let ticket =
            &self.tickets.get(ticket).ok_or_else(|| refuse("not_admitted", "no such ticket"))?.ticket;
        self.fits(ticket)?;
        let wanted = ticket.items().into_iter().find(|f| f.digest == item).cloned();
        let Some(TicketFile { size, .. }) = wanted else {
            return Err(refuse("not_admitted", "the ticket names no such item"));
        };
        let module = ticket.is_module(&item);
        // A digest may be a module of one container and a file of another; then it is kept as both.
        let file = ticket.containers.iter().any(|c| c.files.iter().any(|f| f.digest == item));
        if (!module || self.cache.has(&item, true)) && (!file || self.cache.has(&item, false)) {
            return Ok(false);
        }
        let module = module && !self.cache.has(&item, true);
        let target = self.cache.item(&item, module);
        self.copy_in(peer, item, Want::Exact { size, digest: item }, target, from)?;
        Ok(true)
    }

    /// Begins to copy bytes of others to `target`.
    pub(in super::super) fn copy_in(
        &mut self,
        peer: u64,
        item: Digest,
        want: Want,
        target: PathBuf,
        from: &OwnedFd,
    ) -> Result<(), Refused> {
        if self.jobs.iter().filter(|j| matches!(j.work, Work::Stage { .. })).count() >= COPIES {
            return Err(refuse("stalled", "too many copies at once; try again"));
        }
        self.serial += 1;
        let temp = target.with_extension(format!("{}.new", self.serial));
        let to = fs::File::create(&temp).map_err(failed("create the staged file"))?;
        let ids = self.uids.map(|u| u.compile);
        let child = spawn(None, || copy::run(from, &to, want, ids, None)).map_err(failed("start a copy"))?;
        let work = Work::Stage { peer, item, temp, target };
        let deadline = Instant::now() + COPY_TIME;
        self.jobs.push(Job { child, deadline, expired: false, area: None, confined: None, work });
        Ok(())
    }

    /// The helper is gone: what it copied is kept, or its answer is no.
    pub(super) fn staged(&mut self, peer: u64, item: Digest, temp: &Path, target: &Path, end: &End) {
        let outcome = Outcome::of(end.status.unwrap_or(-1));
        let refusal = if end.expired {
            Some(("stalled", "the bytes could not be read in time"))
        } else {
            outcome.refusal()
        };
        let answer = match refusal {
            Some((code, detail)) => Msg::refused(code, detail),
            None => match fs::rename(temp, target).and_then(|()| dirs::sync_folder_of(target)) {
                Ok(()) => Msg::Staged { item },
                Err(e) => Msg::refused("storage_unavailable", e.to_string()),
            },
        };
        if !matches!(answer, Msg::Staged { .. }) {
            let _ = fs::remove_file(temp);
            // A full disk may have room in what no ticket names; the next try finds it.
            self.sweep();
        }
        self.answer(peer, answer);
    }
}
