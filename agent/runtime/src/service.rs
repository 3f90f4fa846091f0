//! CRI v1 `RuntimeService` over supervise: pod sandboxes and containers of deployments that hold a ticket.
//!
//! Supervise makes a sandbox (parent group, log folder) with its first container, so `run_pod_sandbox` only says whether
//! there is a ticket; everything that supervise must not take on trust it checks itself.

use crate::cri::{ContainerId, ContainerStatus, PodSandboxState, PodSandboxStatus, Verb};
use crate::error::{Error, Result};
use crate::guard::Guard;
use shoal_ipc::{FeatureSet, StartedInfo, StatsInfo, SuperviseClient};
use shoal_protocol::ids::Digest;
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
    pub async fn stop_container(&self, status: &ContainerStatus, timeout: Duration) -> Result<()> {
        status.check(Verb::Stop)?;
        let id = status.id;
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
