//! CRI v1 `RuntimeService` over supervise: pod sandboxes and containers of deployments that hold a ticket.
//!
//! Supervise makes a sandbox (parent group, log folder) with its first container, so `run_pod_sandbox` only says whether
//! there is a ticket; everything that supervise must not take on trust it checks itself.

mod local;
mod records;
mod ticket;
mod view;

pub use local::{CriService, OpenFile};
pub use records::{ContainerRecord, PodRecord, Records};
pub use ticket::{NETWORK, PAGES, network_name};
pub use view::{AdmittedPod, Seen};

use crate::cri::{ContainerId, ContainerStatus, PodSandboxState, PodSandboxStatus};
use crate::error::{Error, Result};
use crate::guard::Guard;
use shoal_ipc::{FeatureSet, StartedInfo, StatsInfo, SuperviseClient, Ticket};
use shoal_protocol::ids::Digest;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

/// The verbs.
#[derive(Debug, Clone)]
pub struct RuntimeService {
    guard: Guard,
}

fn ipc(digest: Digest) -> shoal_ipc::Digest {
    shoal_ipc::Digest(digest.0)
}

impl RuntimeService {
    /// Over this guard.
    pub fn new(guard: Guard) -> Self {
        Self { guard }
    }

    async fn ask<T: Send + 'static>(
        &self,
        verb: &'static str,
        ask: impl Fn(&mut SuperviseClient) -> std::result::Result<T, shoal_ipc::Error> + Send + 'static,
    ) -> Result<T> {
        self.guard.supervise(ask).await.map_err(|source| Error::Guard { verb, source })
    }

    /// The way to guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// CRI `Status`: what the runtime can enforce.
    pub async fn status(&self) -> Result<FeatureSet> {
        self.ask("say what it can enforce", SuperviseClient::features).await
    }

    /// CRI `RunPodSandbox` and `PodSandboxStatus`: `not_admitted` without a ticket.
    pub async fn run_pod_sandbox(&self, pod: Digest) -> Result<PodSandboxStatus> {
        let have = self.ask("show the pod sandbox", move |c| c.have(ipc(pod))).await?;
        let state = if have.startable { PodSandboxState::Ready } else { PodSandboxState::Notready };
        let missing = have.missing.iter().map(|d| Digest(d.0)).collect();
        Ok(PodSandboxStatus {
            id: pod,
            state,
            modules: have.modules,
            missing,
            missing_total: have.missing_total,
        })
    }

    /// CRI `CreateContainer`: has the container's module compiled; the end comes as an event.
    pub async fn create_container(&self, pod: Digest, module: Digest) -> Result<()> {
        self.ask("compile the module", move |c| c.compile(ipc(pod), ipc(module))).await
    }

    /// CRI `StartContainer`.
    pub async fn start_container(&self, id: ContainerId, attempt: u64) -> Result<StartedInfo> {
        self.ask("start the container", move |c| c.start(ipc(id.pod), id.index, attempt)).await
    }

    /// CRI `StopContainer`: asks it to end; its end comes as an event.
    pub async fn stop(&self, id: ContainerId, timeout: Duration) -> Result<()> {
        self.ask("stop the container", move |c| c.stop(ipc(id.pod), Some(id.index), timeout))
            .await
            .map(|_| ())
    }

    /// CRI `StopPodSandbox`: asks all of its containers to end, and says how many those are.
    pub async fn stop_pod_sandbox(&self, pod: Digest, timeout: Duration) -> Result<u32> {
        self.ask("stop the pod", move |c| c.stop(ipc(pod), None, timeout)).await
    }

    /// CRI `RemovePodSandbox`: nothing of it may run.
    pub async fn remove_pod_sandbox(&self, pod: Digest) -> Result<()> {
        self.ask("remove the pod", move |c| c.remove(ipc(pod))).await
    }

    /// An unsigned ticket, for uid 0: `not_admitted` unless the device's policy says `local_unsigned`.
    pub async fn local_ticket(&self, ticket: Ticket) -> Result<()> {
        self.ask("take an unsigned pod", move |c| c.local_ticket(&ticket)).await
    }

    /// Hands over one file of a ticket.
    pub async fn stage(&self, pod: Digest, item: Digest, file: OwnedFd) -> Result<()> {
        let ask = move |c: &mut SuperviseClient| c.stage(ipc(pod), ipc(item), file.as_fd());
        self.guard.staging(ask).await.map_err(|source| Error::Guard { verb: "take a file", source })
    }

    /// Gives the next attached start of one of uid 0's own containers its standard input.
    pub async fn feed(&self, id: ContainerId, input: OwnedFd) -> Result<()> {
        self.ask("give the container its input", move |c| c.feed(ipc(id.pod), id.index, input.as_fd())).await
    }

    /// CRI `StartContainer` and `Attach` in one, for uid 0: the read ends of standard output and error.
    pub async fn start_attached(&self, id: ContainerId, attempt: u64) -> Result<(StartedInfo, [OwnedFd; 2])> {
        self.ask("start the container", move |c| c.start_attached(ipc(id.pod), id.index, attempt)).await
    }

    /// CRI `RemoveContainer`, for uid 0: it may not run.
    pub async fn remove_container(&self, id: ContainerId) -> Result<()> {
        self.ask("remove the container", move |c| c.remove_container(ipc(id.pod), id.index)).await
    }

    /// CRI `ReopenContainerLog`.
    pub async fn reopen_container_log(&self, id: ContainerId) -> Result<()> {
        self.ask("open the log anew", move |c| c.reopen_log(ipc(id.pod), id.index)).await
    }

    /// CRI `ListContainers`: running and ended.
    pub async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let all = self.ask("list containers", SuperviseClient::list).await?;
        Ok(all.into_iter().map(ContainerStatus::from).collect())
    }

    /// CRI `ContainerStats`.
    pub async fn container_stats(&self, id: ContainerId) -> Result<StatsInfo> {
        self.ask("measure the container", move |c| c.stats(ipc(id.pod), id.index)).await
    }
}
