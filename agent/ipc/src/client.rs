//! The asking side as plain functions: one method a message, so that no caller builds or reads a raw one.
//!
//! All calls block up to their time-out; from async code call them where blocking is allowed.

use crate::software::SoftwareInfo;
use crate::types::{
    Applied, CompiledInfo, ContainerState, Digest, EnrollMaterial, FactList, FeatureSet, GuardStatus,
    ModuleState, PrepareStage, StatsInfo, TrustSummary,
};
use crate::{Connection, Error, Layout, MEMFD_MAX, Msg, Received, Ticket, read_sealed, sealed_memfd};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// For answers that need no work.
const SOON: Duration = Duration::from_secs(20);
/// For copies of large modules; supervise's own limit is shorter.
const COPY: Duration = Duration::from_secs(150);
/// A change of software, whose programs are tried before.
const SWITCH: Duration = Duration::from_mins(1);
/// A start whose pod has to be given its network first: more than supervise lets plugins take, or let them take back.
const START: Duration = Duration::from_mins(1);

fn unexpected<T>(msg: &Msg) -> Result<T, Error> {
    Err(Error::Unexpected { message: msg.name() })
}

fn memfd(received: &Received) -> Result<Vec<u8>, Error> {
    let fd = received.fds.first().ok_or(Error::Descriptors { expected: 1, found: 0 })?;
    read_sealed(fd, MEMFD_MAX)
}

fn done(received: &Received) -> Result<(), Error> {
    match &received.msg {
        Msg::Done {} => Ok(()),
        other => unexpected(other),
    }
}

/// What admission said to a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is verified and durable.
    Accepted {
        /// `root`, `snapshot`, `deployment`, `device` or `order`.
        kind: String,
        /// A deployment's name; empty for the others.
        name: String,
        /// Sequence, version or counter.
        sequence: u64,
        /// The document's identity.
        digest: Digest,
        /// Whether it was held already.
        known: bool,
    },
    /// It is not.
    Refused {
        /// The stable code.
        code: String,
        /// In words.
        detail: String,
    },
}

/// The agent's way to admit.
#[derive(Debug)]
pub struct AdmitClient(Connection);

impl AdmitClient {
    /// Connects.
    pub fn connect(layout: &Layout) -> Result<Self, Error> {
        Connection::connect(&layout.admit_socket(), SOON).map(Self)
    }

    /// Hands over a signed document. A refusal is a verdict here, not an error.
    pub fn submit(&mut self, envelope: &[u8]) -> Result<Verdict, Error> {
        self.ask(&Msg::Submit {}, envelope)
    }

    /// Asks what would be said to a document, if those were taken that were rehearsed before on this connection.
    pub fn rehearse(&mut self, envelope: &[u8]) -> Result<Verdict, Error> {
        self.ask(&Msg::Rehearse {}, envelope)
    }

    fn ask(&mut self, question: &Msg, envelope: &[u8]) -> Result<Verdict, Error> {
        let fd = sealed_memfd(envelope)?;
        match self.0.call(question, &[fd.as_fd()], SOON) {
            Ok(Received { msg: Msg::Accepted { kind, name, sequence, digest, known }, .. }) => {
                Ok(Verdict::Accepted { kind, name, sequence, digest, known })
            }
            Ok(r) => unexpected(&r.msg),
            Err(Error::Refused { code, detail }) => Ok(Verdict::Refused { code, detail }),
            Err(e) => Err(e),
        }
    }

    /// What admission holds.
    pub fn trust(&mut self) -> Result<TrustSummary, Error> {
        let r = self.0.call(&Msg::Trust {}, &[], SOON)?;
        match &r.msg {
            Msg::TrustSummary {} => TrustSummary::decode(&memfd(&r)?),
            other => unexpected(other),
        }
    }

    fn document(&mut self, kind: &str, name: &str, sequence: u64) -> Result<Vec<u8>, Error> {
        let r = self.0.call(&Msg::Document { kind: kind.into(), name: name.into(), sequence }, &[], SOON)?;
        match &r.msg {
            Msg::DocumentIs {} => memfd(&r),
            other => unexpected(other),
        }
    }

    /// The exact envelope of an accepted deployment.
    pub fn deployment(&mut self, name: &str, sequence: u64) -> Result<Vec<u8>, Error> {
        self.document("deployment", name, sequence)
    }

    /// The exact envelope of an accepted release.
    pub fn release(&mut self, name: &str, sequence: u64) -> Result<Vec<u8>, Error> {
        self.document("release", name, sequence)
    }

    /// The exact envelope of a root; version 0 is the newest.
    pub fn root(&mut self, version: u64) -> Result<Vec<u8>, Error> {
        self.document("root", "", version)
    }

    /// The exact envelope of the snapshot in force.
    pub fn snapshot(&mut self) -> Result<Vec<u8>, Error> {
        self.document("snapshot", "", 0)
    }

    /// The exact envelope of the device record in force.
    pub fn device_record(&mut self) -> Result<Vec<u8>, Error> {
        self.document("device", "", 0)
    }

    /// Signed facts with a counter above `after`, a bounded number.
    pub fn facts(&mut self, after: u64) -> Result<FactList, Error> {
        let r = self.0.call(&Msg::Facts { after }, &[], SOON)?;
        match &r.msg {
            Msg::FactsAre {} => FactList::decode(&memfd(&r)?),
            other => unexpected(other),
        }
    }

    /// Lets admit forget facts up to this counter: the controller has them.
    pub fn facts_done(&mut self, up_to: u64) -> Result<(), Error> {
        done(&self.0.call(&Msg::FactsDone { up_to }, &[], SOON)?)
    }
}

/// The public halves of admit's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The fleet.
    pub fleet: String,
    /// Ed25519, raw: signs facts.
    pub attest: [u8; 32],
    /// X25519, raw: secrets are sealed to it.
    pub sealing: [u8; 32],
}

/// Uid 0's way to admit.
#[derive(Debug)]
pub struct RootAdmitClient(Connection);

impl RootAdmitClient {
    /// Connects.
    pub fn connect(layout: &Layout) -> Result<Self, Error> {
        Connection::connect(&layout.admit_root_socket(), SOON).map(Self)
    }

    /// Hands over root chain and token of a join file.
    pub fn enroll(&mut self, roots: Vec<Vec<u8>>, token: Vec<u8>) -> Result<Enrolled, Error> {
        let fd = sealed_memfd(&EnrollMaterial { roots, token }.encode())?;
        match self.0.call(&Msg::Enroll {}, &[fd.as_fd()], SOON)?.msg {
            Msg::Enrolled { fleet, attest, sealing } => {
                Ok(Enrolled { fleet, attest: attest.0, sealing: sealing.0 })
            }
            other => unexpected(&other),
        }
    }
}

impl RootAdmitClient {
    /// Lets a revision be activated that admission took, as an order would.
    pub fn activate(&mut self, name: &str, sequence: u64, digest: Digest) -> Result<(), Error> {
        done(&self.0.call(&Msg::Activate { name: name.to_owned(), sequence, digest }, &[], SOON)?)
    }
}

/// How far a ticket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    /// Whether it may be started.
    pub startable: bool,
    /// Modules of the containers.
    pub modules: Vec<ModuleState>,
    /// Items that are not there, the first 64 of them: ask again after staging these.
    pub missing: Vec<Digest>,
    /// How many items are not there.
    pub missing_total: u32,
}

/// A container that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedInfo {
    /// The process.
    pub pid: u32,
    /// Seconds since 1970.
    pub started_at: u64,
    /// Limits as read back.
    pub applied: Applied,
}

/// The agent's (or uid 0's) way to supervise.
#[derive(Debug)]
pub struct SuperviseClient(Connection);

impl SuperviseClient {
    /// Connects as the agent.
    pub fn connect(layout: &Layout) -> Result<Self, Error> {
        Connection::connect(&layout.supervise_socket(), SOON).map(Self)
    }

    /// Connects as uid 0.
    pub fn connect_root(layout: &Layout) -> Result<Self, Error> {
        Connection::connect(&layout.supervise_root_socket(), SOON).map(Self)
    }

    /// Hands over a module's or file's bytes: a regular file or memfd, read from its beginning.
    pub fn stage(&mut self, ticket: Digest, item: Digest, file: BorrowedFd<'_>) -> Result<(), Error> {
        match self.0.call(&Msg::Stage { ticket, item }, &[file], COPY)?.msg {
            Msg::Staged { item: got } if got == item => Ok(()),
            other => unexpected(&other),
        }
    }

    /// How far is this ticket?
    pub fn have(&mut self, ticket: Digest) -> Result<Have, Error> {
        match self.0.call(&Msg::Have { ticket }, &[], SOON)?.msg {
            Msg::HaveIs { startable, modules, missing, missing_total } => {
                Ok(Have { startable, modules, missing, missing_total })
            }
            other => unexpected(&other),
        }
    }

    /// Queues a compilation; its end comes as an event (`Compiled` or `CompileFailed`), also when the code was there.
    pub fn compile(&mut self, ticket: Digest, module: Digest) -> Result<(), Error> {
        match self.0.call(&Msg::Compile { ticket, module }, &[], SOON)?.msg {
            Msg::Compiling {} => Ok(()),
            other => unexpected(&other),
        }
    }

    /// Starts a container; `attempt` must be above all earlier ones of this container.
    pub fn start(&mut self, ticket: Digest, container: u16, attempt: u64) -> Result<StartedInfo, Error> {
        match self.0.call(&Msg::Start { ticket, container, attempt }, &[], START)?.msg {
            Msg::Started { pid, started_at, applied } => Ok(StartedInfo { pid, started_at, applied }),
            other => unexpected(&other),
        }
    }

    /// Begins to stop a container or (absent) all of a pod; says how many. `Ended` follows for each.
    pub fn stop(&mut self, ticket: Digest, container: Option<u16>, grace: Duration) -> Result<u32, Error> {
        let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
        match self.0.call(&Msg::Stop { ticket, container, grace_ms }, &[], SOON)?.msg {
            Msg::Stopping { containers } => Ok(containers),
            other => unexpected(&other),
        }
    }

    /// Forgets groups, folders and records of a pod of which nothing runs.
    pub fn remove(&mut self, ticket: Digest) -> Result<(), Error> {
        done(&self.0.call(&Msg::Remove { ticket }, &[], SOON)?)
    }

    /// All containers that supervise knows, running or ended.
    pub fn list(&mut self) -> Result<Vec<ContainerState>, Error> {
        let mut received = self.0.call(&Msg::List {}, &[], SOON)?;
        let mut all = Vec::new();
        loop {
            match received.msg {
                Msg::ContainerIs { state } => all.push(state),
                Msg::ListEnd {} => return Ok(all),
                other => return unexpected(&other),
            }
            received = self.0.recv("List", SOON)?;
        }
    }

    /// What a container uses.
    pub fn stats(&mut self, ticket: Digest, container: u16) -> Result<StatsInfo, Error> {
        match self.0.call(&Msg::Stats { ticket, container }, &[], SOON)?.msg {
            Msg::StatsAre { stats } => Ok(stats),
            other => unexpected(&other),
        }
    }

    /// What can be enforced here.
    pub fn features(&mut self) -> Result<FeatureSet, Error> {
        match self.0.call(&Msg::Features {}, &[], SOON)?.msg {
            Msg::FeaturesAre { features } => Ok(features),
            other => unexpected(&other),
        }
    }

    /// How the device's own software is.
    pub fn software(&mut self) -> Result<SoftwareInfo, Error> {
        match self.0.call(&Msg::Software {}, &[], SOON)?.msg {
            Msg::SoftwareIs { info } => Ok(info),
            other => unexpected(&other),
        }
    }

    /// Changes to the release that is offered, all of whose files are there.
    pub fn switch(&mut self, release: Digest) -> Result<(), Error> {
        done(&self.0.call(&Msg::Switch { ticket: release }, &[], SWITCH)?)
    }

    /// Says that the software which runs works.
    pub fn confirm(&mut self) -> Result<(), Error> {
        done(&self.0.call(&Msg::Confirm {}, &[], SOON)?)
    }

    /// The guard's own state; uid 0 only.
    pub fn status(&mut self) -> Result<GuardStatus, Error> {
        match self.0.call(&Msg::Status {}, &[], SOON)?.msg {
            Msg::StatusIs { status } => Ok(status),
            other => unexpected(&other),
        }
    }

    /// Hands over an unsigned ticket, new or with other containers than before; uid 0 only.
    pub fn local_ticket(&mut self, ticket: &Ticket) -> Result<(), Error> {
        let fd = sealed_memfd(&ticket.encode())?;
        done(&self.0.call(&Msg::LocalTicket {}, &[fd.as_fd()], SOON)?)
    }

    /// Starts a container of an unsigned ticket and gives the read ends of its output; uid 0 only.
    pub fn start_attached(
        &mut self,
        ticket: Digest,
        container: u16,
        attempt: u64,
    ) -> Result<(StartedInfo, [OwnedFd; 2]), Error> {
        let r = self.0.call(&Msg::StartAttached { ticket, container, attempt }, &[], START)?;
        match r.msg {
            Msg::StartedAttached { pid, started_at, applied } => {
                let found = r.fds.len();
                let fds = r.fds.try_into().map_err(|_| Error::Descriptors { expected: 2, found })?;
                Ok((StartedInfo { pid, started_at, applied }, fds))
            }
            other => unexpected(&other),
        }
    }

    /// Gives the next attached start of a container its standard input; uid 0 only.
    pub fn feed(&mut self, ticket: Digest, container: u16, input: BorrowedFd<'_>) -> Result<(), Error> {
        done(&self.0.call(&Msg::Feed { ticket, container }, &[input], SOON)?)
    }

    /// Forgets a container of an unsigned ticket, which does not run; uid 0 only.
    pub fn remove_container(&mut self, ticket: Digest, container: u16) -> Result<(), Error> {
        done(&self.0.call(&Msg::RemoveContainer { ticket, container }, &[], SOON)?)
    }

    /// Has the log of a running container opened anew.
    pub fn reopen_log(&mut self, ticket: Digest, container: u16) -> Result<(), Error> {
        done(&self.0.call(&Msg::ReopenLog { ticket, container }, &[], SOON)?)
    }

    /// Stops all containers, removes groups and mounts, and ends the guard; uid 0 only. Returns when it is gone.
    pub fn shutdown(mut self) -> Result<(), Error> {
        done(&self.0.call(&Msg::Shutdown {}, &[], COPY)?)?;
        match self.0.recv("Shutdown", COPY) {
            Err(Error::Closed) => Ok(()),
            Ok(r) => unexpected(&r.msg),
            Err(e) => Err(e),
        }
    }
}

/// An event, as it comes unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// admit: documents, tickets or facts changed; ask again.
    Changed,
    /// supervise: there is code for a module.
    Compiled {
        /// The module.
        module: Digest,
        /// What it cost.
        info: CompiledInfo,
    },
    /// supervise: there is none.
    CompileFailed {
        /// The module.
        module: Digest,
        /// A stable code.
        code: String,
        /// In words.
        detail: String,
    },
    /// supervise: how far a module is on its way to one of the two above.
    Preparing {
        /// The module.
        module: Digest,
        /// How far.
        stage: PrepareStage,
    },
    /// supervise: a container's process is gone.
    Ended(Box<ContainerState>),
    /// supervise: a container counts as healthy.
    Healthy {
        /// The ticket.
        ticket: Digest,
        /// Index in the ticket.
        container: u16,
        /// Which start of it.
        attempt: u64,
    },
    /// supervise: a running container changed in what its probes say.
    Probed(Box<ContainerState>),
}

/// A connection of events. Whoever does not read them is disconnected: connect again and ask for the state.
#[derive(Debug)]
pub struct EventStream(Connection);

impl AsFd for EventStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for EventStream {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl EventStream {
    fn subscribe(path: &Path) -> Result<Self, Error> {
        let mut connection = Connection::connect(path, SOON)?;
        done(&connection.call(&Msg::Subscribe {}, &[], SOON)?)?;
        Ok(Self(connection))
    }

    /// Admit's events.
    pub fn admit(layout: &Layout) -> Result<Self, Error> {
        Self::subscribe(&layout.admit_socket())
    }

    /// Supervise's events, as the agent.
    pub fn supervise(layout: &Layout) -> Result<Self, Error> {
        Self::subscribe(&layout.supervise_socket())
    }

    /// Supervise's events, as uid 0.
    pub fn supervise_root(layout: &Layout) -> Result<Self, Error> {
        Self::subscribe(&layout.supervise_root_socket())
    }

    /// The next event if one waits (the descriptor becomes readable when one does).
    pub fn try_next(&mut self) -> Result<Option<Event>, Error> {
        self.0.try_recv()?.map(|r| event(r.msg)).transpose()
    }

    /// Waits for the next event.
    pub fn next(&mut self, timeout: Duration) -> Result<Event, Error> {
        event(self.0.recv("an event", timeout)?.msg)
    }
}

fn event(msg: Msg) -> Result<Event, Error> {
    match msg {
        Msg::Changed {} => Ok(Event::Changed),
        Msg::Compiled { module, info } => Ok(Event::Compiled { module, info }),
        Msg::CompileFailed { module, code, detail } => Ok(Event::CompileFailed { module, code, detail }),
        Msg::Preparing { module, stage } => Ok(Event::Preparing { module, stage }),
        Msg::Ended { state } => Ok(Event::Ended(Box::new(state))),
        Msg::Healthy { ticket, container, attempt } => Ok(Event::Healthy { ticket, container, attempt }),
        Msg::Probed { state } => Ok(Event::Probed(Box::new(state))),
        other => unexpected(&other),
    }
}
