//! The operator's own copy of the audit log, and the checks that the controller's log still continues it (S26).
//!
//! A copy grows only by entries that chain onto it, and only when the newest verified snapshot's head is among them. Never
//! here: what to show of it.

use crate::api::Client;
use crate::error::{CliError, OnPath as _, Result};
use crate::home::write_secret;
use crate::trust::Trust;
use serde::{Deserialize, Serialize};
use shoal_controller_core::api::{AuditHead, AuditPage, Base64, DigestText, PostAudit};
use shoal_controller_core::audit::{Entry, PAGE, Point};
use shoal_protocol::Code;
use shoal_protocol::ids::Digest;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

/// What was verified last; the copy beside it has exactly these entries.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    sequence: u64,
    head: DigestText,
    /// How many bytes of the copy count; what a crash left behind them does not.
    bytes: u64,
    /// The head of a snapshot that was found in the log already.
    snapshot: Option<DigestText>,
}

/// The own copy.
#[derive(Debug)]
pub(crate) struct Copy {
    dir: PathBuf,
    mark: Mark,
}

#[derive(Serialize, Deserialize)]
struct Line {
    entry: Base64,
}

fn fork(why: String) -> CliError {
    CliError::refused(Code::AuditFork.as_str(), why).hint(
        "the controller's log was rewritten, or it was restored from a backup: give it back what it lost with `shoal trust push`; compare with colleagues' `shoal audit`; only then, to go on from its log as it is: `shoal audit --adopt HEAD`",
    )
}

/// Entries that were fetched and chain onto a point, each with the place after it.
#[derive(Debug, Default)]
struct Fetched(Vec<(Point, Vec<u8>)>);

/// Everything after `from`, verified as one chain.
fn fetch(client: &Client, from: Point) -> Result<Fetched> {
    let mut at = from;
    let mut all = Vec::new();
    loop {
        let path = format!("/v1/audit?after={}&limit={PAGE}", at.sequence);
        let page: AuditPage = client.get(&path, "the audit log")?;
        let newest = page.newest;
        if newest.sequence < at.sequence {
            return Err(fork(format!(
                "the controller's audit log ends at entry {}, and {} were verified before",
                newest.sequence, at.sequence
            )));
        }
        let came = page.entries.len();
        for Base64(entry) in page.entries {
            at = at.follow(&entry).map_err(|why| fork(format!("the audit log is no chain: {why}")))?.0;
            all.push((at, entry));
        }
        // Others may write meanwhile; then there is another page.
        if at.sequence >= newest.sequence || came == 0 {
            if at.sequence != newest.sequence || at.head != newest.head.0 {
                return Err(fork(format!(
                    "after entry {} the controller's audit log has head {}; from what was verified before it follows {}",
                    at.sequence, newest.head, at.head
                )));
            }
            return Ok(Fetched(all));
        }
    }
}

impl Copy {
    /// The copy of a fleet's log in its trust folder; empty without one.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("audit.json");
        let mark = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| {
                CliError::usage(format!("{} is damaged", path.display())).because(e).hint(
                    "move it away with the audit.log beside it; the next `shoal audit` fetches the log anew",
                )
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Mark { sequence: 0, head: Point::START.head.into(), bytes: 0, snapshot: None }
            }
            Err(e) => return Err(e).on_path("read", &path),
        };
        Ok(Self { dir: dir.to_owned(), mark })
    }

    /// The newest entry that was verified.
    pub(crate) fn point(&self) -> Point {
        Point { sequence: self.mark.sequence, head: self.mark.head.0 }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// Takes what the controller has more, if it continues the copy and the newest snapshot's head is in it.
    pub(crate) fn sync(&mut self, client: &Client, trust: &Trust) -> Result<Point> {
        let fetched = fetch(client, self.point())?;
        self.check_snapshot(trust, &fetched)?;
        self.append(&fetched)?;
        Ok(self.point())
    }

    fn check_snapshot(&mut self, trust: &Trust, fetched: &Fetched) -> Result<()> {
        let Some(known) = trust.snapshot() else { return Ok(()) };
        let Some(head) = known.document.audit_head.filter(|h| Some(*h) != self.mark.snapshot.map(|m| m.0))
        else {
            return Ok(());
        };
        let is_new = fetched.0.iter().any(|(p, _)| p.head == head);
        if !is_new && self.find(&head)?.is_none() {
            return Err(fork(format!(
                "snapshot {} was signed over an audit log with head {head}, which the controller's log never had",
                known.document.version
            )));
        }
        self.mark.snapshot = Some(head.into());
        Ok(())
    }

    /// The entry after which the log had this head.
    pub(crate) fn find(&self, head: &Digest) -> Result<Option<u64>> {
        let mut found = (*head == Point::START.head).then_some(0);
        self.walk(|point, _| {
            if point.head == *head {
                found = Some(point.sequence);
            }
        })?;
        Ok(found)
    }

    /// Every entry of the copy, in order, checked once more.
    pub(crate) fn walk(&self, mut each: impl FnMut(Point, Entry)) -> Result<()> {
        let path = self.log_path();
        if self.mark.sequence == 0 {
            return Ok(());
        }
        let damaged = |why: String| {
            CliError::usage(format!("the own copy of the audit log, {}, is damaged: {why}", path.display()))
                .hint("move it and audit.json away; the next `shoal audit` fetches the log anew")
        };
        let file = std::fs::File::open(&path).on_path("read", &path)?;
        let mut at = Point::START;
        for line in BufReader::new(file).lines() {
            if at.sequence == self.mark.sequence {
                break;
            }
            let line: Line = serde_json::from_str(&line.on_path("read", &path)?)
                .map_err(|e| damaged(format!("entry {}: {e}", at.sequence + 1)))?;
            let (next, entry) = at.follow(&line.entry.0).map_err(damaged)?;
            at = next;
            each(at, entry);
        }
        if at == self.point() { Ok(()) } else { Err(damaged(format!("it ends at entry {}", at.sequence))) }
    }

    fn append(&mut self, fetched: &Fetched) -> Result<()> {
        let Some((newest, _)) = fetched.0.last() else { return self.save() };
        let path = self.log_path();
        let mut text = Vec::new();
        for (_, entry) in &fetched.0 {
            serde_json::to_writer(&mut text, &Line { entry: entry.clone().into() })
                .map_err(|e| CliError::failure("cannot write the own copy of the audit log").because(e))?;
            text.push(b'\n');
        }
        if !path.exists() {
            write_secret(&path, b"")?;
        }
        let mut file = std::fs::File::options().write(true).open(&path).on_path("write", &path)?;
        let write = |file: &mut std::fs::File| {
            use std::io::{Seek as _, SeekFrom};
            file.set_len(self.mark.bytes)?;
            file.seek(SeekFrom::End(0))?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write(&mut file).on_path("write", &path)?;
        self.mark.bytes += text.len() as u64;
        self.mark.sequence = newest.sequence;
        self.mark.head = newest.head.into();
        self.save()
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string(&self.mark)
            .map_err(|e| CliError::failure("cannot write what was verified of the audit log").because(e))?;
        write_secret(&self.dir.join("audit.json"), text.as_bytes())
    }

    /// Fetches the whole log anew, and compares all of it with the copy and the newest snapshot. How long it is.
    pub(crate) fn verify(&mut self, client: &Client, trust: &Trust) -> Result<Point> {
        let whole = fetch(client, Point::START)?;
        let own = self.point();
        let there =
            usize::try_from(own.sequence).ok().and_then(|n| n.checked_sub(1)).and_then(|n| whole.0.get(n));
        let there = there.map_or(Point::START, |(p, _)| *p);
        if there != own {
            return Err(fork(format!(
                "entry {} had head {} when this operator verified it, now it has {}",
                own.sequence, own.head, there.head
            )));
        }
        self.walk(|_, _| ())?;
        self.mark.snapshot = None;
        self.sync(client, trust)
    }

    /// Goes on from the controller's log as it is, because the operator named its head. The copy so far is put aside.
    pub(crate) fn adopt(&mut self, client: &Client, trust: &Trust, named: &Digest) -> Result<Point> {
        let whole = fetch(client, Point::START)?;
        let newest = whole.0.last().map_or(Point::START, |(p, _)| *p);
        if !whole.0.iter().any(|(p, _)| p.head == *named) {
            return Err(CliError::refused(
                Code::AuditFork.as_str(),
                format!("the controller's audit log has no head {named}; its newest is {}", newest.head),
            )
            .hint("compare with a colleague, then name that one"));
        }
        let aside = self.dir.join(format!(
            "audit.log.until-{}-{}",
            self.mark.sequence,
            &self.mark.head.0.hex()[..16]
        ));
        if self.log_path().exists() && !aside.exists() {
            std::fs::rename(self.log_path(), &aside).on_path("put aside as", &aside)?;
        }
        let snapshot = trust.snapshot().and_then(|k| k.document.audit_head);
        self.mark = Mark {
            sequence: 0,
            head: Point::START.head.into(),
            bytes: 0,
            snapshot: snapshot.map(DigestText::from),
        };
        self.append(&whole)?;
        Ok(newest)
    }

    /// Gives a restored controller what it lost of the log; how many entries. Nothing where its log went another way.
    pub(crate) fn give_back(&self, client: &Client) -> Result<Option<u64>> {
        let page: AuditPage = client.get("/v1/audit?after=0&limit=1", "the audit log")?;
        let newest = page.newest;
        if newest.sequence >= self.mark.sequence {
            return Ok(Some(0));
        }
        let mut lost = Vec::new();
        let mut fits = newest.head.0 == Point::START.head;
        self.walk(|point, entry| {
            if point.sequence > newest.sequence {
                lost.push(Base64(entry.encode()));
            } else if point.sequence == newest.sequence {
                fits = point.head == newest.head.0;
            }
        })?;
        if !fits {
            return Ok(None);
        }
        let count = lost.len() as u64;
        for entries in lost.chunks(usize::try_from(PAGE).unwrap_or(1000)) {
            let body = PostAudit { entries: entries.to_vec() };
            let _: AuditHead = client.post("/v1/audit", &body, "giving the audit log back")?;
        }
        Ok(Some(count))
    }
}
