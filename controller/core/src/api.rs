//! The JSON of the controller's HTTP API: what each endpoint takes and gives. No logic beyond conversion.
//!
//! | endpoint | who | takes | gives |
//! | --- | --- | --- | --- |
//! | `GET /v1/version` | anyone | – | [`Version`] |
//! | `GET /v1/ca` | anyone (pin it by fingerprint) | – | [`Ca`] |
//! | `POST /v1/login` | operator | – | [`Login`] |
//! | `GET /v1/trust` | operator or device | – | [`Trust`] |
//! | `POST /v1/trust/roots` | operator | [`PostRoot`] | [`RootAccepted`] |
//! | `POST /v1/snapshots` | operator | [`PostSnapshot`] | [`SnapshotAccepted`], or 409 `conflict` with [`ApiError::current`] |
//! | `GET /v1/documents/{digest}` | operator or device | – | the envelope's bytes, `application/octet-stream` |
//! | `POST /v1/plan` | operator | [`PlanRequest`] | [`Plan`] |
//! | `POST /v1/tokens` | operator | [`PostToken`] | [`TokenAccepted`] |
//! | `GET /v1/tokens` | operator | – | [`TokenList`] |
//! | `POST /v1/enroll` | holder of a token | strict CBOR `EnrollRequest` | strict CBOR `EnrollResponse` |
//! | `POST /v1/renew` | device, by its certificate | DER certificate request | strict CBOR `EnrollResponse` |
//! | `GET /v1/devices?selector=k=v,k2!=v` | operator | – | [`DeviceList`] |
//! | `GET /v1/devices/{id}` | operator | – | [`Device`] with its pods and refusals |
//! | `POST /v1/devices/{id}/record` | operator | [`PostRecord`] | [`RecordAccepted`] |
//! | `POST /v1/devices/{id}/revoke` | operator | – | [`Revoked`] |
//! | `POST /v1/devices/{id}/orders` | operator | [`PostOrder`] | [`OrderAccepted`] |
//! | `GET /v1/deployments` | operator | – | [`DeploymentList`] |
//! | `GET /v1/deployments/{name}` | operator | – | [`Deployment`] with its devices |
//! | `GET /v1/pods?device=&deployment=` | operator | – | [`PodList`] |
//! | `GET /v1/refusals?device=` | operator | – | [`RefusalList`] |
//! | `GET /v1/logs/{device}/{deployment}?container=&tail=&follow=SECONDS` | operator | – | JSON lines of [`LogEvent`], `application/x-ndjson` |
//! | `HEAD /v1/images/blobs/{digest}` | operator | – | 200 when it is there, else 404 |
//! | `POST /v1/images/blobs/{digest}` | operator | the blob | 201 |
//! | `POST /v1/images/manifests/{repository}:{tag}` | operator | the manifest, its media type as `Content-Type` | [`ImageAccepted`] |
//! | `GET /v1/images` | operator | – | [`ImageList`] |
//! | `GET`, `HEAD /v2/…` | operator (basic, user `shoal`, password token) or device | – | OCI distribution, read only |
//!
//! Operators send `Authorization: Bearer TOKEN`. Every error is an [`ApiError`] with a status of 4xx or 5xx.
//! Times are seconds since 1970 (UTC). Unknown fields are ignored by clients and refused by the controller.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, de};
use shoal_protocol::ids::{Bytes, DeviceId, Digest, FleetId, Name, Timestamp};
use shoal_protocol::latest as wire;
use std::collections::BTreeMap;
use std::fmt;

/// Bytes that stand in JSON as padded base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        STANDARD.decode(text).map(Self).map_err(|e| de::Error::custom(format!("base64: {e}")))
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(v: Vec<u8>) -> Self {
        Self(v)
    }
}

/// A digest that stands in JSON as `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DigestText(pub Digest);

impl Serialize for DigestText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DigestText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map(Self).map_err(de::Error::custom)
    }
}

impl fmt::Debug for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<Digest> for DigestText {
    fn from(v: Digest) -> Self {
        Self(v)
    }
}

/// Every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// A stable code in `snake_case`: a refusal code of the protocol, or one of `unauthorized`, `forbidden`, `not_found`,
    /// `invalid_request`, `conflict`, `not_initialized`, `already_initialized`, `controller_mismatch`, `too_large`, `timeout`,
    /// `device_offline`, `unavailable`, `internal`.
    pub code: String,
    /// What was tried, on what, and why it did not work.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With `conflict`: the snapshot that is current now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<SnapshotRef>,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `shoald`.
    pub name: String,
    /// `major.minor.patch`.
    pub version: String,
    /// Version of this API.
    pub api: u64,
}

/// The controller's own certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// The certificate in PEM.
    pub pem: String,
    /// SHA-256 of its DER.
    pub fingerprint: DigestText,
}

/// The token is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The fleet, once it is initialised.
    pub fleet: Option<FleetId>,
    /// Whom the credential names.
    pub user: String,
    /// Version of the controller.
    pub version: String,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// `EdDSA` or `ES256`.
    pub alg: String,
    /// The raw public key.
    pub public: Base64,
}

impl From<&wire::Key> for PublicKey {
    fn from(key: &wire::Key) -> Self {
        let alg = match key.alg {
            wire::Alg::EdDsa => "EdDSA",
            wire::Alg::Es256 => "ES256",
        };
        Self { alg: alg.to_owned(), public: Base64(key.public.0.clone()) }
    }
}

/// A text that names none of the allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a known {what}: expected {allowed}")]
pub struct UnknownValue {
    what: &'static str,
    value: String,
    allowed: &'static str,
}

impl TryFrom<&PublicKey> for wire::Key {
    type Error = UnknownValue;
    fn try_from(key: &PublicKey) -> Result<Self, UnknownValue> {
        let alg = match key.alg.as_str() {
            "EdDSA" => wire::Alg::EdDsa,
            "ES256" => wire::Alg::Es256,
            other => {
                let value = other.to_owned();
                return Err(UnknownValue { what: "algorithm", value, allowed: "EdDSA or ES256" });
            }
        };
        Ok(Self { alg, public: Bytes(key.public.0.clone()) })
    }
}

/// The controller block that a root of this fleet has to carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controller {
    /// Signs orders.
    pub online: PublicKey,
    /// DER certificates.
    pub ca: Vec<Base64>,
    /// `https://host:port`.
    pub api: Vec<String>,
    /// `mqtts://host:port`.
    pub mqtt: Vec<String>,
}

impl From<&wire::Controller> for Controller {
    fn from(c: &wire::Controller) -> Self {
        Self {
            online: (&c.online).into(),
            ca: c.ca.iter().map(|b| Base64(b.0.clone())).collect(),
            api: c.api.clone(),
            mqtt: c.mqtt.clone(),
        }
    }
}

impl TryFrom<&Controller> for wire::Controller {
    type Error = UnknownValue;
    fn try_from(c: &Controller) -> Result<Self, UnknownValue> {
        Ok(Self {
            online: (&c.online).try_into()?,
            ca: c.ca.iter().map(|b| Bytes(b.0.clone())).collect(),
            api: c.api.clone(),
            mqtt: c.mqtt.clone(),
        })
    }
}

/// `GET /v1/trust`: what the controller holds; a client verifies the chain itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Whether a root 1 was accepted.
    pub initialized: bool,
    /// The fleet, once it is initialised.
    pub fleet: Option<FleetId>,
    /// Envelopes of all roots, from root 1.
    pub roots: Vec<Base64>,
    /// Envelope of the current snapshot.
    pub snapshot: Option<Base64>,
    /// What the next root's controller block must say.
    pub controller: Controller,
}

/// `POST /v1/trust/roots`: root 1 of a new fleet, or the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRoot {
    /// The envelope.
    pub root: Base64,
}

/// The root is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAccepted {
    /// The fleet.
    pub fleet: FleetId,
    /// The root's version.
    pub version: u64,
}

/// `POST /v1/snapshots`: a compare-and-swap; all documents and the snapshot are stored together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostSnapshot {
    /// The envelope of the next snapshot.
    pub snapshot: Base64,
    /// Envelopes of the documents that it lists and the controller may not have yet.
    #[serde(default)]
    pub documents: Vec<Base64>,
    /// Identity of the snapshot that was current when this one was made; null before the first.
    pub expected_previous: Option<DigestText>,
}

/// A snapshot by version and identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its version.
    pub version: u64,
    /// Its identity.
    pub digest: DigestText,
}

impl From<wire::SnapshotRef> for SnapshotRef {
    fn from(s: wire::SnapshotRef) -> Self {
        Self { version: s.version, digest: s.digest.into() }
    }
}

/// The snapshot is current now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAccepted {
    /// It.
    pub snapshot: SnapshotRef,
    /// How many devices are connected and were told at once.
    pub notified: u64,
}

/// `POST /v1/plan`: which devices would take this deployment. It need not be signed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The deployment's payload in the strict codec.
    pub deployment: Base64,
}

/// Which devices fit, and which do not and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// All devices that are selected, by id.
    pub devices: Vec<PlannedDevice>,
}

/// One selected device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDevice {
    /// The device.
    pub device: DeviceId,
    /// Its host name, once it was heard.
    pub hostname: Option<String>,
    /// Whether it can run it, as far as is known.
    pub fits: bool,
    /// A stable code when it does not: `wrong_target`, `agent_too_old`, `engine_too_old`, `disk_low`, `memory_low`.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// Whether it answers now.
    pub state: DeviceState,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostToken {
    /// The token's envelope (without its private half, which never comes here).
    pub token: Base64,
}

/// The token may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAccepted {
    /// Identity of the token.
    pub digest: DigestText,
    /// How many devices may use it.
    pub uses: u64,
    /// Until when.
    pub not_after: Timestamp,
}

/// A token that the controller knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its identity.
    pub digest: DigestText,
    /// How many devices may use it.
    pub uses: u64,
    /// How many did.
    pub used: u64,
    /// Until when.
    pub not_after: Timestamp,
    /// The labels that it gives.
    pub labels: BTreeMap<String, String>,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// All tokens, newest first.
    pub tokens: Vec<Token>,
}

/// `POST /v1/devices/{id}/record`: a newer record (labels) signed by an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRecord {
    /// The envelope.
    pub record: Base64,
}

/// The record counts now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAccepted {
    /// The device.
    pub device: DeviceId,
    /// The record's sequence.
    pub sequence: u64,
}

/// The device's certificates count no longer; its connection is ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The device.
    pub device: DeviceId,
    /// How many certificates it had.
    pub certificates: u64,
}

/// What an operator may ask of a device without signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum PostOrder {
    /// Fetch and compile the newest revision now.
    Stage {
        /// The deployment.
        deployment: Name,
    },
    /// Swap to the staged newest revision.
    Activate {
        /// The deployment.
        deployment: Name,
    },
    /// Leave the newest revision for last-good.
    Return {
        /// The deployment.
        deployment: Name,
    },
    /// Stop and start again.
    Restart {
        /// The deployment.
        deployment: Name,
    },
}

/// The order is signed, kept, and sent if the device is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAccepted {
    /// The device.
    pub device: DeviceId,
    /// Its counter.
    pub counter: u64,
    /// Until when the device may take it.
    pub not_after: Timestamp,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Heard within the heartbeat limit.
    Online,
    /// Enrolled, never heard.
    Enrolled,
    /// Silent beyond the heartbeat limit; what it last said may be old.
    Unknown,
    /// Its certificates were revoked.
    Revoked,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Online => "online",
            Self::Enrolled => "enrolled",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
        })
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct System {
    /// Agent version.
    pub agent: String,
    /// Engine version.
    pub engine: String,
    /// `x86_64`, `aarch64` …
    pub architecture: String,
    /// Kernel release.
    pub kernel: String,
    /// Host name.
    pub hostname: String,
    /// `v1`, `hybrid`, `v2` or `none`.
    pub cgroups: String,
    /// Memory, bytes.
    pub memory: u64,
    /// Free bytes where images are kept.
    pub disk_free: u64,
    /// CPUs.
    pub cpus: u64,
    /// Whether containers run without the sandbox's walls.
    pub unconfined: bool,
}

impl From<&wire::System> for System {
    fn from(s: &wire::System) -> Self {
        Self {
            agent: s.agent.clone(),
            engine: s.engine.clone(),
            architecture: s.architecture.clone(),
            kernel: s.kernel.clone(),
            hostname: s.hostname.clone(),
            cgroups: s.cgroups.clone(),
            memory: s.memory,
            disk_free: s.disk_free,
            cpus: s.cpus,
            unconfined: s.unconfined,
        }
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Whether it is there.
    pub state: DeviceState,
    /// Its signed labels.
    pub labels: BTreeMap<String, String>,
    /// Sequence of its device record.
    pub record_sequence: u64,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// End of its newest certificate.
    pub certificate_not_after: Option<Timestamp>,
    /// What it is, once it was heard.
    pub system: Option<System>,
    /// The root that it holds.
    pub root_version: Option<u64>,
    /// The snapshot that it holds.
    pub snapshot: Option<SnapshotRef>,
    /// Counter of its newest stored report.
    pub report_counter: u64,
    /// States of the device as a whole, and what the controller noticed about it (`report_replay`, `fleet_equivocation` …).
    pub conditions: Vec<String>,
    /// How many pods it reports.
    pub pods_total: u64,
    /// How many of them are healthy or ended as they should.
    pub pods_healthy: u64,
    /// Its pods; only in the answer about one device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<Pod>,
    /// What it refused; only in the answer about one device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// `GET /v1/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceList {
    /// By id.
    pub devices: Vec<Device>,
}

/// One exact document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its sequence.
    pub sequence: u64,
    /// Its identity.
    pub digest: DigestText,
}

impl From<wire::Revision> for Revision {
    fn from(r: wire::Revision) -> Self {
        Self { sequence: r.sequence, digest: r.digest.into() }
    }
}

impl From<Revision> for wire::Revision {
    fn from(r: Revision) -> Self {
        Self { sequence: r.sequence, digest: r.digest.0 }
    }
}

/// Where a pod is (the wire's `Phase`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted or waiting; `reason` says for what.
    Pending,
    /// The image is on its way.
    Pulling,
    /// The module is being compiled.
    Compiling,
    /// Ready to be activated.
    Staged,
    /// At least one container runs.
    Running,
    /// Running and healthy, or ended as it should.
    Healthy,
    /// All containers ended with success and none starts again.
    Succeeded,
    /// It cannot go on; `reason` says why.
    Failed,
    /// Waiting before the next start after repeated ends.
    CrashLoop,
    /// Being stopped.
    Stopping,
    /// Stopped by removal, deselection or an operator.
    Stopped,
}

impl Phase {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Compiling => "compiling",
            Self::Staged => "staged",
            Self::Running => "running",
            Self::Healthy => "healthy",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::CrashLoop => "crash_loop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<wire::Phase> for Phase {
    fn from(p: wire::Phase) -> Self {
        match p {
            wire::Phase::Pending => Self::Pending,
            wire::Phase::Pulling => Self::Pulling,
            wire::Phase::Compiling => Self::Compiling,
            wire::Phase::Staged => Self::Staged,
            wire::Phase::Running => Self::Running,
            wire::Phase::Healthy => Self::Healthy,
            wire::Phase::Succeeded => Self::Succeeded,
            wire::Phase::Failed => Self::Failed,
            wire::Phase::CrashLoop => Self::CrashLoop,
            wire::Phase::Stopping => Self::Stopping,
            wire::Phase::Stopped => Self::Stopped,
        }
    }
}

/// How a container ended (the wire's `Cause`); JSON `{"cause": "exited", "code": 3}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// `proc_exit`, or a return from `_start`.
    Exited {
        /// The guest's code.
        code: u64,
    },
    /// A wasm trap.
    Trap {
        /// The engine's words.
        message: String,
    },
    /// The guest's own memory limit.
    GuestMemory,
    /// The kernel's OOM killer.
    OomKilled,
    /// Total CPU time spent.
    CpuLimit,
    /// Wall time spent.
    TimeLimit,
    /// Killed for failing its probe.
    Unhealthy,
    /// Stopped on request.
    Stopped,
    /// A signal that nobody of Shoal's sent.
    Signal {
        /// Number.
        number: u64,
    },
    /// It never ran.
    Refused {
        /// A stable code.
        code: String,
    },
    /// It ended while nobody watched.
    Unknown,
}

impl From<&wire::Cause> for Cause {
    fn from(c: &wire::Cause) -> Self {
        match c {
            wire::Cause::Exited { code } => Self::Exited { code: *code },
            wire::Cause::Trap { message } => Self::Trap { message: message.clone() },
            wire::Cause::GuestMemory => Self::GuestMemory,
            wire::Cause::OomKilled => Self::OomKilled,
            wire::Cause::CpuLimit => Self::CpuLimit,
            wire::Cause::TimeLimit => Self::TimeLimit,
            wire::Cause::Unhealthy => Self::Unhealthy,
            wire::Cause::Stopped => Self::Stopped,
            wire::Cause::Signal { number } => Self::Signal { number: *number },
            wire::Cause::Refused { code } => Self::Refused { code: code.clone() },
            wire::Cause::Unknown => Self::Unknown,
        }
    }
}

/// What one compilation cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// Engine version.
    pub engine: String,
    /// Milliseconds; 0 for a cache hit.
    pub millis: u64,
    /// Bytes of the module as signed.
    pub module_size: u64,
    /// Bytes of the compiled code.
    pub code_size: u64,
    /// Whether it was there already.
    pub cache_hit: bool,
}

/// One container; units as on the wire (bytes, microseconds).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Name in the pod.
    pub name: Name,
    /// How often it was started, the present one included.
    pub attempt: u64,
    /// Whether it runs now.
    pub running: bool,
    /// When the last start was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the last end was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<Cause>,
    /// Memory in use, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Highest memory use, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// The limit as read back, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// CPU time since start, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage: Option<u64>,
    /// Time throttled, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttled: Option<u64>,
    /// Quota as read back, microseconds in each period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u64>,
    /// Period as read back, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Last lines of standard error of the last failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
    /// Log lines dropped for the quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_lines: Option<u64>,
    /// What is known of its compiled code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<Compiled>,
}

impl From<&wire::ContainerStatus> for Container {
    fn from(c: &wire::ContainerStatus) -> Self {
        Self {
            name: c.name.clone(),
            attempt: c.attempt,
            running: c.running,
            started_at: c.started_at,
            finished_at: c.finished_at,
            last_end: c.last_end.as_ref().map(Cause::from),
            memory: c.memory,
            memory_peak: c.memory_peak,
            memory_limit: c.memory_limit,
            cpu_usage: c.cpu_usage,
            cpu_throttled: c.cpu_throttled,
            cpu_quota: c.cpu_quota,
            cpu_period: c.cpu_period,
            stderr_tail: c.stderr_tail.clone(),
            dropped_lines: c.dropped_lines,
            compiled: c.compiled.as_ref().map(|c| Compiled {
                engine: c.engine.clone(),
                millis: c.millis,
                module_size: c.module_size,
                code_size: c.code_size,
                cache_hit: c.cache_hit,
            }),
        }
    }
}

/// One deployment on one device, as the device last reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The device.
    pub device: DeviceId,
    /// Its host name.
    pub hostname: String,
    /// The deployment, which is also the pod's name.
    pub deployment: Name,
    /// Which revision.
    pub revision: Revision,
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// A stable code for every phase that is not running or healthy.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// When a waiting state ends or is looked at again.
    pub deadline: Option<Timestamp>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Whether the device still answers; else all this may be old.
    pub device_state: DeviceState,
    /// When the device was last heard.
    pub last_seen: Option<Timestamp>,
}

/// `GET /v1/pods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodList {
    /// By deployment, then device.
    pub pods: Vec<Pod>,
}

/// How often a device refused something, by code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The device.
    pub device: DeviceId,
    /// The stable code.
    pub code: String,
    /// How often since the device began.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
    /// What the last one was about.
    pub message: String,
}

/// `GET /v1/refusals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalList {
    /// Newest first.
    pub refusals: Vec<Refusal>,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Devices are moving to the newest revision.
    Progressing,
    /// All devices that fit are healthy on the newest revision.
    Complete,
    /// Too many devices failed; nothing moves until a newer revision comes.
    Halted,
    /// Only devices are left that do not fit or do not answer.
    Waiting,
    /// It selects no device.
    NoDevices,
    /// The deployment was removed.
    Removed,
}

impl RolloutState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Complete => "complete",
            Self::Halted => "halted",
            Self::Waiting => "waiting",
            Self::NoDevices => "no_devices",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for RolloutState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where one device is in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceRollout {
    /// Its wave is not open; it stays on the stable revision.
    Held,
    /// It may take the newest revision and is on its way.
    Updating,
    /// It is healthy on the newest revision, by its signed facts.
    Healthy,
    /// It failed, or did not become healthy within the deadline.
    Failed,
    /// It cannot run it; `reason` says why.
    Unfit,
    /// It does not answer.
    Unknown,
}

impl DeviceRollout {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Updating => "updating",
            Self::Healthy => "healthy",
            Self::Failed => "failed",
            Self::Unfit => "unfit",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for DeviceRollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many selected devices are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RolloutCounts {
    /// All that are selected.
    pub selected: u64,
    /// See [`DeviceRollout::Held`].
    pub held: u64,
    /// See [`DeviceRollout::Updating`].
    pub updating: u64,
    /// See [`DeviceRollout::Healthy`].
    pub healthy: u64,
    /// See [`DeviceRollout::Failed`].
    pub failed: u64,
    /// See [`DeviceRollout::Unfit`].
    pub unfit: u64,
    /// See [`DeviceRollout::Unknown`].
    pub unknown: u64,
}

/// One selected device of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentDevice {
    /// The device.
    pub device: DeviceId,
    /// Its host name, once it was heard.
    pub hostname: Option<String>,
    /// Where it is in the rollout.
    pub rollout: DeviceRollout,
    /// A stable code when it is not healthy.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// Until when it has to become healthy, or when it is looked at again.
    pub deadline: Option<Timestamp>,
    /// What it reports of this deployment.
    pub pod: Option<Pod>,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its name.
    pub name: Name,
    /// The newest revision.
    pub newest: Revision,
    /// What devices run until their wave opens, when that is another one.
    pub stable: Option<Revision>,
    /// When the newest was signed.
    pub issued_at: Timestamp,
    /// Until when devices may accept it for the first time.
    pub not_after: Timestamp,
    /// Whom it is for, in words.
    pub target: String,
    /// Images by container, as the operator wrote them.
    pub images: Vec<String>,
    /// Where the rollout is.
    pub state: RolloutState,
    /// Why it is not complete, as a stable code.
    pub reason: Option<String>,
    /// The same in words.
    pub message: Option<String>,
    /// The next moment at which something is decided.
    pub deadline: Option<Timestamp>,
    /// How many devices are where.
    pub counts: RolloutCounts,
    /// The selected devices; only in the answer about one deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeploymentDevice>,
}

/// `GET /v1/deployments`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentList {
    /// By name.
    pub deployments: Vec<Deployment>,
}

/// One line of the answer to `GET /v1/logs/…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogEvent {
    /// The device was asked; lines follow.
    Opened {
        /// Until when it sends new ones.
        until: Timestamp,
    },
    /// One line of a container.
    Line {
        /// The container.
        container: Name,
        /// RFC 3339, as the device wrote it.
        time: String,
        /// `stdout` or `stderr`.
        stream: String,
        /// Whether the line ends here (CRI log tag `F`), or goes on (`P`).
        full: bool,
        /// The text, without the line's end.
        text: String,
    },
    /// Nothing comes after this.
    End {
        /// Why, as a stable code: `order_forbidden`, `not_found`, `device_offline`, `lagged`; absent is a good end.
        reason: Option<String>,
    },
}

/// The manifest is stored, and all that it names was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageAccepted {
    /// `repository:tag`.
    pub reference: String,
    /// The manifest's digest.
    pub digest: DigestText,
}

/// One tag of the controller's own registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Repository.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Manifest.
    pub digest: DigestText,
    /// Media type of the manifest.
    pub media_type: String,
    /// Bytes of manifest, configuration and layers.
    pub size: u64,
    /// When it was imported.
    pub imported_at: Timestamp,
}

/// `GET /v1/images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageList {
    /// By repository and tag.
    pub images: Vec<Image>,
}
