//! One of every message of the table, and whose it is to say: both as a match without a default, so that a new message does
//! not compile until somebody has decided what an agent gets for it.

use shoal_ipc::{
    Applied, CompiledInfo, ContainerState, Digest as Id, FactEvent, FeatureSet, GuardStatus, Msg,
    PrepareStage, SoftwareInfo, StatsInfo,
};

const OTHER: Id = Id([9; 32]);

/// On which of its two sockets an agent may say a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agents {
    /// On supervise's.
    Supervise,
    /// On supervise's, about a ticket that admission gave.
    WithATicket,
    /// On admit's.
    Admit,
    /// On either.
    Both,
    /// On neither: it is an answer, an event, or somebody else's to say.
    Nowhere,
}

pub(crate) fn agents(msg: &Msg) -> Agents {
    match msg {
        Msg::Subscribe { .. } => Agents::Both,
        Msg::Submit { .. }
        | Msg::Rehearse { .. }
        | Msg::Trust { .. }
        | Msg::Document { .. }
        | Msg::Facts { .. }
        | Msg::FactsDone { .. } => Agents::Admit,
        Msg::List { .. } | Msg::Features { .. } | Msg::Software { .. } | Msg::Confirm { .. } => {
            Agents::Supervise
        }
        Msg::Stage { .. }
        | Msg::Have { .. }
        | Msg::Compile { .. }
        | Msg::Start { .. }
        | Msg::Stop { .. }
        | Msg::Remove { .. }
        | Msg::Stats { .. }
        | Msg::ReopenLog { .. } => Agents::WithATicket,
        // Of a release's ticket, which is never a deployment's.
        Msg::Switch { .. }
        | Msg::Hello { .. }
        | Msg::Refused { .. }
        | Msg::Done { .. }
        | Msg::Accepted { .. }
        | Msg::TrustSummary { .. }
        | Msg::DocumentIs { .. }
        | Msg::FactsAre { .. }
        | Msg::Changed { .. }
        | Msg::Enroll { .. }
        | Msg::Enrolled { .. }
        | Msg::Activate { .. }
        | Msg::Ticket { .. }
        | Msg::Withdraw { .. }
        | Msg::Release { .. }
        | Msg::Proved { .. }
        | Msg::SoftwareIs { .. }
        | Msg::Fact { .. }
        | Msg::FactAck { .. }
        | Msg::Content { .. }
        | Msg::Staged { .. }
        | Msg::HaveIs { .. }
        | Msg::Compiling { .. }
        | Msg::Compiled { .. }
        | Msg::CompileFailed { .. }
        | Msg::Started { .. }
        | Msg::Stopping { .. }
        | Msg::ContainerIs { .. }
        | Msg::ListEnd { .. }
        | Msg::StatsAre { .. }
        | Msg::Ended { .. }
        | Msg::Healthy { .. }
        | Msg::FeaturesAre { .. }
        | Msg::Status { .. }
        | Msg::StatusIs { .. }
        | Msg::Shutdown { .. }
        | Msg::LocalTicket { .. }
        | Msg::StartAttached { .. }
        | Msg::StartedAttached { .. }
        | Msg::RemoveContainer { .. }
        | Msg::Feed { .. }
        | Msg::Preparing { .. }
        | Msg::Probed { .. }
        | Msg::Attach { .. }
        | Msg::Attached { .. }
        | Msg::Dropped { .. }
        | Msg::Reattach { .. }
        | Msg::Stream { .. }
        | Msg::End { .. }
        | Msg::Launch { .. }
        | Msg::Keep { .. }
        | Msg::Forked { .. }
        | Msg::NotForked { .. }
        | Msg::Gone { .. }
        | Msg::Adopt { .. }
        | Msg::ZygoteIs { .. }
        | Msg::Child { .. }
        | Msg::Retire { .. }
        | Msg::DropPod { .. }
        | Msg::DropContainer { .. }
        | Msg::Reopen { .. } => Agents::Nowhere,
    }
}

/// All messages, about this ticket where they are about one; `running` stands for what only a guard can know.
pub(crate) fn every(ticket: Id, running: &ContainerState) -> Vec<Msg> {
    let mut all = Vec::new();
    while let Some(next) = after(all.last(), ticket, running) {
        all.push(next);
    }
    all
}

fn after(last: Option<&Msg>, ticket: Id, running: &ContainerState) -> Option<Msg> {
    Some(match last {
        None => Msg::Hello {},
        Some(Msg::Hello { .. }) => Msg::Refused { code: "x".into(), detail: "x".into() },
        Some(Msg::Refused { .. }) => Msg::Done {},
        Some(Msg::Done { .. }) => Msg::Subscribe {},
        Some(Msg::Subscribe { .. }) => Msg::Submit {},
        Some(Msg::Submit { .. }) => {
            Msg::Accepted { kind: "x".into(), name: "x".into(), sequence: 1, digest: OTHER, known: true }
        }
        Some(Msg::Accepted { .. }) => Msg::Trust {},
        Some(Msg::Trust { .. }) => Msg::TrustSummary {},
        Some(Msg::TrustSummary { .. }) => Msg::Document { kind: "x".into(), name: "x".into(), sequence: 1 },
        Some(Msg::Document { .. }) => Msg::DocumentIs {},
        Some(Msg::DocumentIs { .. }) => Msg::Facts { after: 1 },
        Some(Msg::Facts { .. }) => Msg::FactsAre {},
        Some(Msg::FactsAre { .. }) => Msg::FactsDone { up_to: 1 },
        Some(Msg::FactsDone { .. }) => Msg::Changed {},
        Some(Msg::Changed { .. }) => Msg::Enroll {},
        Some(Msg::Enroll { .. }) => Msg::Enrolled { fleet: "x".into(), attest: OTHER, sealing: OTHER },
        Some(Msg::Enrolled { .. }) => Msg::Activate { name: "x".into(), sequence: 1, digest: ticket },
        Some(Msg::Activate { .. }) => Msg::Rehearse {},
        Some(Msg::Rehearse { .. }) => Msg::Ticket {},
        Some(Msg::Ticket { .. }) => Msg::Withdraw { ticket, stop: true, grace: 1 },
        Some(Msg::Withdraw { .. }) => Msg::Fact {
            id: 1,
            ticket,
            name: "x".into(),
            container: "x".into(),
            attempt: 1,
            event: FactEvent::Healthy,
            at: 1,
        },
        Some(Msg::Fact { .. }) => Msg::FactAck { id: 1 },
        Some(Msg::FactAck { .. }) => Msg::Content { item: OTHER },
        Some(Msg::Content { .. }) => Msg::Stage { ticket, item: OTHER },
        Some(Msg::Stage { .. }) => Msg::Staged { item: OTHER },
        Some(Msg::Staged { .. }) => Msg::Have { ticket },
        Some(Msg::Have { .. }) => {
            Msg::HaveIs { startable: true, modules: Vec::new(), missing: Vec::new(), missing_total: 1 }
        }
        Some(Msg::HaveIs { .. }) => Msg::Compile { ticket, module: OTHER },
        Some(Msg::Compile { .. }) => Msg::Compiling {},
        Some(Msg::Compiling { .. }) => Msg::Compiled {
            module: OTHER,
            info: CompiledInfo {
                engine: "x".into(),
                millis: 1,
                module_size: 1,
                code_size: 1,
                cache_hit: true,
            },
        },
        Some(Msg::Compiled { .. }) => {
            Msg::CompileFailed { module: OTHER, code: "x".into(), detail: "x".into() }
        }
        Some(Msg::CompileFailed { .. }) => Msg::Start { ticket, container: 0, attempt: 1 },
        Some(Msg::Start { .. }) => Msg::Started { pid: 1, started_at: 1, applied: Applied::default() },
        Some(Msg::Started { .. }) => Msg::Stop { ticket, container: None, grace_ms: 1 },
        Some(Msg::Stop { .. }) => Msg::Stopping { containers: 1 },
        Some(Msg::Stopping { .. }) => Msg::Remove { ticket },
        Some(Msg::Remove { .. }) => Msg::List {},
        Some(Msg::List { .. }) => Msg::ContainerIs { state: running.clone() },
        Some(Msg::ContainerIs { .. }) => Msg::ListEnd {},
        Some(Msg::ListEnd { .. }) => Msg::Stats { ticket, container: 0 },
        Some(Msg::Stats { .. }) => Msg::StatsAre { stats: StatsInfo::default() },
        Some(Msg::StatsAre { .. }) => Msg::Ended { state: running.clone() },
        Some(Msg::Ended { .. }) => Msg::Healthy { ticket, container: 0, attempt: 1 },
        Some(Msg::Healthy { .. }) => Msg::Features {},
        Some(Msg::Features { .. }) => Msg::FeaturesAre { features: FeatureSet::default() },
        Some(Msg::FeaturesAre { .. }) => Msg::Status {},
        Some(Msg::Status { .. }) => Msg::StatusIs { status: GuardStatus::default() },
        Some(Msg::StatusIs { .. }) => Msg::Shutdown {},
        Some(Msg::Shutdown { .. }) => Msg::LocalTicket {},
        Some(Msg::LocalTicket { .. }) => Msg::StartAttached { ticket, container: 0, attempt: 1 },
        Some(Msg::StartAttached { .. }) => {
            Msg::StartedAttached { pid: 1, started_at: 1, applied: Applied::default() }
        }
        Some(Msg::StartedAttached { .. }) => Msg::RemoveContainer { ticket, container: 0 },
        Some(Msg::RemoveContainer { .. }) => Msg::ReopenLog { ticket, container: 0 },
        Some(Msg::ReopenLog { .. }) => Msg::Feed { ticket, container: 0 },
        Some(Msg::Feed { .. }) => Msg::Preparing { module: OTHER, stage: PrepareStage::Testing },
        Some(Msg::Preparing { .. }) => Msg::Probed { state: running.clone() },
        Some(Msg::Probed { .. }) => Msg::Attach {
            id: 1,
            pod: "x".into(),
            container: "x".into(),
            attempt: 1,
            max_size: 1,
            max_files: 1,
        },
        Some(Msg::Attach { .. }) => Msg::Attached { id: 1 },
        Some(Msg::Attached { .. }) => Msg::Dropped { id: 1, lines: 1, end: true, stderr_tail: "x".into() },
        Some(Msg::Dropped { .. }) => Msg::Reattach {},
        Some(Msg::Reattach { .. }) => Msg::Stream { id: 1 },
        Some(Msg::Stream { .. }) => Msg::End {},
        Some(Msg::End { .. }) => Msg::Launch { id: 1 },
        Some(Msg::Launch { .. }) => Msg::Keep { id: 1 },
        Some(Msg::Keep { .. }) => Msg::Forked { id: 1, pid: 1 },
        Some(Msg::Forked { .. }) => Msg::NotForked { id: 1, why: "x".into() },
        Some(Msg::NotForked { .. }) => Msg::Gone { id: 1, pid: 1, code: None, signal: None },
        Some(Msg::Gone { .. }) => Msg::Adopt {},
        Some(Msg::Adopt { .. }) => Msg::ZygoteIs { pid: 1, identity: "x".into(), retired: true },
        Some(Msg::ZygoteIs { .. }) => Msg::Child { id: 1, pid: 1 },
        Some(Msg::Child { .. }) => Msg::Retire {},
        Some(Msg::Retire { .. }) => Msg::DropPod { pod: "x".into() },
        Some(Msg::DropPod { .. }) => Msg::DropContainer { pod: "x".into(), container: "x".into() },
        Some(Msg::DropContainer { .. }) => Msg::Reopen { id: 1 },
        Some(Msg::Reopen { .. }) => Msg::Release {},
        Some(Msg::Release { .. }) => Msg::Proved { release: "9.9.9".into() },
        Some(Msg::Proved { .. }) => Msg::Software {},
        Some(Msg::Software { .. }) => Msg::SoftwareIs { info: SoftwareInfo::default() },
        Some(Msg::SoftwareIs { .. }) => Msg::Switch { ticket },
        Some(Msg::Switch { .. }) => Msg::Confirm {},
        Some(Msg::Confirm { .. }) => return None,
    })
}
