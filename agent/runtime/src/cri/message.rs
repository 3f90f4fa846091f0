//! CRI v1 answers as JSON shows them (camelCase, nanoseconds as text): what `crictl … -o json` prints. Plain data.

use super::config::Map;
use serde::Serialize;
use serde_json::Value;

macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
    )* };
}

fn text<T: ToString, S: serde::Serializer>(n: &T, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&n.to_string())
}

messages! {
    /// CRI v1 `PodSandboxMetadata`.
    PodSandboxMetadata {
        /// Name.
        name: String,
        /// In the caller's world.
        uid: String,
        /// In the caller's world.
        namespace: String,
        /// Which attempt.
        attempt: u32,
    }
    /// CRI v1 `PodSandbox`, with what is Shoal's own.
    PodSandbox {
        /// 64 hexadecimal digits.
        id: String,
        /// Who it is.
        metadata: PodSandboxMetadata,
        /// `SANDBOX_READY` or `SANDBOX_NOTREADY`.
        state: &'static str,
        /// Nanoseconds since 1970.
        #[serde(serialize_with = "text")]
        created_at: u64,
        /// Labels.
        labels: Map,
        /// Notes.
        annotations: Map,
        /// What runs it.
        runtime_handler: String,
    }
    /// CRI v1 `ContainerMetadata`.
    ContainerMetadata {
        /// Name in the pod.
        name: String,
        /// Which attempt.
        attempt: u32,
    }
    /// CRI v1 `ImageSpec`.
    ImageSpec {
        /// Reference.
        image: String,
    }
    /// CRI v1 `Container`.
    Container {
        /// 64 hexadecimal digits.
        id: String,
        /// Its pod.
        pod_sandbox_id: String,
        /// Who it is.
        metadata: ContainerMetadata,
        /// What runs.
        image: ImageSpec,
        /// The manifest.
        image_ref: String,
        /// `CONTAINER_CREATED`, `CONTAINER_RUNNING`, `CONTAINER_EXITED` or `CONTAINER_UNKNOWN`.
        state: &'static str,
        /// Nanoseconds since 1970.
        #[serde(serialize_with = "text")]
        created_at: u64,
        /// Labels.
        labels: Map,
        /// Notes.
        annotations: Map,
        /// What CRI has no field for.
        shoal: Value,
    }
    /// CRI v1 `ContainerStatus`.
    ContainerStatus {
        /// 64 hexadecimal digits.
        id: String,
        /// Who it is.
        metadata: ContainerMetadata,
        /// As in `Container`.
        state: &'static str,
        /// Nanoseconds since 1970.
        #[serde(serialize_with = "text")]
        created_at: u64,
        /// Nanoseconds since 1970; 0 before.
        #[serde(serialize_with = "text")]
        started_at: u64,
        /// Nanoseconds since 1970; 0 before.
        #[serde(serialize_with = "text")]
        finished_at: u64,
        /// The guest's own, or as a shell would have it.
        exit_code: i32,
        /// What runs.
        image: ImageSpec,
        /// The manifest.
        image_ref: String,
        /// One CamelCase word on the end.
        reason: String,
        /// In words.
        message: String,
        /// Labels.
        labels: Map,
        /// Notes.
        annotations: Map,
        /// The log file.
        log_path: String,
        /// Limits in force.
        resources: Value,
    }
    /// CRI v1 `UInt64Value`.
    UInt64Value {
        /// It.
        #[serde(serialize_with = "text")]
        value: u64,
    }
    /// CRI v1 `ContainerAttributes`.
    ContainerAttributes {
        /// The container.
        id: String,
        /// Who it is.
        metadata: ContainerMetadata,
        /// Labels.
        labels: Map,
        /// Notes.
        annotations: Map,
    }
    /// CRI v1 `CpuUsage`.
    CpuUsage {
        /// Nanoseconds since 1970.
        #[serde(serialize_with = "text")]
        timestamp: u64,
        /// CPU time, nanoseconds.
        usage_core_nano_seconds: UInt64Value,
    }
    /// CRI v1 `MemoryUsage`.
    MemoryUsage {
        /// Nanoseconds since 1970.
        #[serde(serialize_with = "text")]
        timestamp: u64,
        /// Bytes.
        working_set_bytes: UInt64Value,
        /// Bytes; the highest so far (not CRI's).
        peak_bytes: UInt64Value,
    }
    /// CRI v1 `ContainerStats`.
    ContainerStats {
        /// Of whom.
        attributes: ContainerAttributes,
        /// CPU.
        cpu: CpuUsage,
        /// Memory.
        memory: MemoryUsage,
    }
    /// CRI v1 `Image`.
    Image {
        /// The manifest's digest.
        id: String,
        /// Names with tags.
        repo_tags: Vec<String>,
        /// Names with digests.
        repo_digests: Vec<String>,
        /// Bytes.
        #[serde(serialize_with = "text")]
        size: u64,
    }
    /// CRI v1 `VersionResponse`.
    VersionResponse {
        /// Of this answer.
        version: String,
        /// Who runs containers.
        runtime_name: String,
        /// Its version.
        runtime_version: String,
        /// CRI's.
        runtime_api_version: String,
    }
}

/// CRI `Version`.
pub fn version() -> VersionResponse {
    VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "shoal".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}
