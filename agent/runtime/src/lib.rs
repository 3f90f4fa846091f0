//! CRI's verbs and states over guard: images, pod sandboxes, containers, logs.
//!
//! The reconciler is one caller, the local command line another; a CRI v1 socket can be a third. Never here: what should
//! run (that is core's), and whether it may (that is admit's, and supervise sees to it).
#![forbid(unsafe_code)]

pub mod cri;
mod error;
mod guard;
mod images;
pub mod logs;
mod named;
mod releases;
mod service;

pub use cri::{
    ContainerId, ContainerMetadata, ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus, Verb,
};
pub use error::{Error, Result};
pub use guard::{Events, Guard};
pub use images::{FilesystemUsage, ImageService, ImageStatus, PullSource, Wanted};
pub use named::{PinnedImage, canonical, full};
pub use releases::ReleaseService;
pub use service::{
    AdmittedPod, ContainerRecord, CriService, NETWORK, OpenFile, PAGES, PodRecord, Records, RuntimeService,
    Seen, network_name,
};
pub use shoal_ipc::Cause;
